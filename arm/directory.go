package arm

import (
	"context"
	"encoding/json"
	"time"

	"breakwater/access"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// Directory is the kinds of who can be known.
func Directory(s *directory.Store, ids *identity.Store) []Kind {
	return []Kind{
		users(s), servicePrincipals(s), managedIdentities(s, ids), issuers(s), credentialList(s),
		federatedCredentials(s, Kind{
			Type: identity.FederatedCredentialType(identity.ServicePrincipalType), Place: inTenant,
			Read: access.ServicePrincipalFederatedRead, Write: access.ServicePrincipalFederatedWrite, Delete: access.ServicePrincipalFederatedDelete,
		}),
		federatedCredentials(s, Kind{
			Type: identity.FederatedCredentialType(identity.ManagedIdentityType),
			Read: access.ManagedIdentityFederatedRead, Write: access.ManagedIdentityFederatedWrite, Delete: access.ManagedIdentityFederatedDelete,
		}),
	}
}

// What stands in a view beside the properties that may be set is ignored when it
// is sent back.
type userView struct {
	identity.UserProperties
	PrincipalID string       `json:"principalId"`
	Passwords   []credential `json:"passwords"`
}

func users(s *directory.Store) Kind {
	return row[directory.User, userView]{
		Kind: Kind{
			Type: identity.UserType, Place: inTenant, Read: access.UserRead, Write: access.UserWrite, Delete: access.UserDelete,
			Actions: []Action{{Name: "resetPassword", Right: access.UserReset,
				Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
					if err := understand(body, &struct{}{}); err != nil {
						return nil, err
					}
					p, err := s.ResetUser(ctx, g, id.Name())
					if err != nil {
						return nil, err
					}
					return made{id.Name(), []credential{{Name: p.Name, CreationTime: p.Created, Value: string(p.Value)}}}, nil
				},
			}},
		},
		shown: func(u directory.User) (resource.Resource, userView) {
			return resource.Resource{ID: u.ID, Etag: u.Etag, System: u.System}, userView{u.UserProperties, u.PrincipalID, shownPasswords(u.Passwords)}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (directory.User, error) {
			return s.User(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]directory.User, error) {
			return s.Users(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v userView, ifMatch string) (directory.User, error) {
			return s.PutUser(ctx, g, next.ID.Name(), v.UserProperties, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteUser(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

type servicePrincipalView struct {
	DisplayName  string                `json:"displayName"`
	Status       string                `json:"status"`
	RedirectURIs []string              `json:"redirectUris"`
	AppID        string                `json:"appId"`
	PrincipalID  string                `json:"principalId"`
	Passwords    []identity.SecretInfo `json:"passwordCredentials"`
	Keys         []identity.Key        `json:"keyCredentials"`
}

func servicePrincipals(s *directory.Store) Kind {
	return row[directory.ServicePrincipal, servicePrincipalView]{
		Kind: Kind{
			Type: identity.ServicePrincipalType, Place: inTenant,
			Read: access.ServicePrincipalRead, Write: access.ServicePrincipalWrite, Delete: access.ServicePrincipalDelete,
			Actions: credentialActions(s),
		},
		shown: func(p directory.ServicePrincipal) (resource.Resource, servicePrincipalView) {
			return resource.Resource{ID: p.ID, Etag: p.Etag, System: p.System}, servicePrincipalView{
				p.DisplayName, p.Status, filled(p.RedirectURIs), p.AppID, p.PrincipalID, filled(p.Secrets), filled(p.Keys),
			}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (directory.ServicePrincipal, error) {
			return s.ServicePrincipal(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]directory.ServicePrincipal, error) {
			return s.ServicePrincipals(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v servicePrincipalView, ifMatch string) (directory.ServicePrincipal, error) {
			return s.PutServicePrincipal(ctx, g, next.ID.Name(), directory.ServicePrincipalSettings{
				DisplayName: v.DisplayName, Status: v.Status, RedirectURIs: v.RedirectURIs,
			}, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteServicePrincipal(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

// credentialList is the kind of everything that proves somebody, which is made and
// taken away elsewhere.
func credentialList(s *directory.Store) Kind {
	return row[identity.CredentialInfo, identity.CredentialInfo]{
		Kind: Kind{Type: directory.CredentialType, Place: inTenant, Read: access.CredentialRead},
		shown: func(c identity.CredentialInfo) (resource.Resource, identity.CredentialInfo) {
			return resource.Resource{ID: ref.ID("/providers/" + directory.CredentialType + "/" + c.ID)}, c
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (identity.CredentialInfo, error) {
			return s.Credential(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]identity.CredentialInfo, error) {
			return s.Credentials(ctx, g, q.After.Name(), q.Limit)
		},
	}.kind()
}

// credentialActions change what proves a service principal: in the words of
// Microsoft Graph, but it is the caller's right that counts, and no proof of the
// credential that it had before.
func credentialActions(s *directory.Store) []Action {
	type keyID struct{ KeyID string }
	removing := func(name string, right access.Action, remove func(ctx context.Context, g access.Grant, name, keyID string) error) Action {
		return Action{Name: name, Right: right, Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var of keyID
			if err := understand(body, &of); err != nil {
				return nil, err
			}
			return nil, remove(ctx, g, id.Name(), of.KeyID)
		}}
	}
	return []Action{
		{Name: "addPassword", Right: access.ServicePrincipalAddPassword,
			Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
				var wanted struct {
					PasswordCredential struct {
						DisplayName                string
						StartDateTime, EndDateTime time.Time
					}
				}
				if err := understand(body, &wanted); err != nil {
					return nil, err
				}
				w := wanted.PasswordCredential
				secret, err := s.AddPassword(ctx, g, id.Name(), w.DisplayName, w.StartDateTime, w.EndDateTime)
				if err != nil {
					return nil, err
				}
				return struct {
					identity.SecretInfo
					SecretText string `json:"secretText"` // shown this once
				}{secret.SecretInfo, string(secret.Text)}, nil
			}},
		removing("removePassword", access.ServicePrincipalRemovePassword, s.RemovePassword),
		{Name: "addKey", Right: access.ServicePrincipalAddKey,
			Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
				var wanted struct {
					KeyCredential struct {
						Type, Usage, DisplayName string
						Key                      []byte
					}
				}
				if err := understand(body, &wanted); err != nil {
					return nil, err
				}
				w := wanted.KeyCredential
				if w.Type != "" && w.Type != "AsymmetricX509Cert" || w.Usage != "" && w.Usage != "Verify" {
					return nil, fault.New(fault.BadRequest, "a key is an AsymmetricX509Cert, and its usage is Verify")
				}
				return s.AddKey(ctx, g, id.Name(), w.DisplayName, w.Key)
			}},
		removing("removeKey", access.ServicePrincipalRemoveKey, s.RemoveKey),
	}
}

type managedIdentityView struct {
	TenantID    string `json:"tenantId"`
	PrincipalID string `json:"principalId"`
	ClientID    string `json:"clientId"`
}

func managedIdentities(s *directory.Store, ids *identity.Store) Kind {
	return row[directory.ManagedIdentity, managedIdentityView]{
		Kind: Kind{
			Type: identity.ManagedIdentityType,
			Read: access.ManagedIdentityRead, Write: access.ManagedIdentityWrite, Delete: access.ManagedIdentityDelete,
		},
		shown: func(m directory.ManagedIdentity) (resource.Resource, managedIdentityView) {
			return resource.Resource{ID: m.ID, Location: m.Location, Tags: m.Tags, Etag: m.Etag, System: m.System},
				managedIdentityView{ids.Tenant(), m.PrincipalID, m.ClientID}
		},
		get: s.ManagedIdentity,
		list: func(ctx context.Context, g access.Grant, q Query) ([]directory.ManagedIdentity, error) {
			return s.ManagedIdentities(ctx, g, q.Under, q.After, q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, _ managedIdentityView, ifMatch string) (directory.ManagedIdentity, error) {
			return s.PutManagedIdentity(ctx, g, next.ID, next.Location, next.Tags, ifMatch)
		},
		remove: s.DeleteManagedIdentity,
	}.kind()
}

// federatedCredentials completes the kind of what service principals, or managed
// identities, have instead of a secret.
func federatedCredentials(s *directory.Store, k Kind) Kind {
	return row[directory.FederatedCredential, identity.FederatedCredentialProperties]{
		Kind: k,
		shown: func(f directory.FederatedCredential) (resource.Resource, identity.FederatedCredentialProperties) {
			return resource.Resource{ID: f.ID, Etag: f.Etag, System: f.System}, f.FederatedCredentialProperties
		},
		get: s.FederatedCredential,
		list: func(ctx context.Context, g access.Grant, q Query) ([]directory.FederatedCredential, error) {
			return s.FederatedCredentials(ctx, g, q.Under, q.After, q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, p identity.FederatedCredentialProperties, ifMatch string) (directory.FederatedCredential, error) {
			return s.PutFederatedCredential(ctx, g, next.ID, p, ifMatch)
		},
		remove: s.DeleteFederatedCredential,
	}.kind()
}

// filled is all, and never null: clients look into it.
func filled[T any](all []T) []T {
	if all == nil {
		all = []T{}
	}
	return all
}
