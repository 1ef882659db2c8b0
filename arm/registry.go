package arm

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// Registries is the kinds of registries and of what lies in them.
func Registries(regs *registry.Store, s *access.Store) []Kind {
	return []Kind{registries(regs, s), scopeMaps(s), tokens(s)}
}

func registries(regs *registry.Store, s *access.Store) Kind {
	return row[*registry.Registry, registryView]{
		Kind: Kind{
			Type: registry.Type, Seen: true, Read: access.RegistryRead, Write: access.RegistryWrite,
			Actions: []Action{listCredentials(regs), generateCredentials(s), regenerateCredential(regs)},
		},
		shown: registryShown,
		get:   regs.Get,
		list: func(ctx context.Context, g access.Grant, q Query) ([]*registry.Registry, error) {
			all, err := regs.List(ctx, g)
			all = slices.DeleteFunc(all, func(r *registry.Registry) bool {
				return !scope(q.Under).Covers(r.ID.Scope()) || r.ID.Key() <= q.After.Key()
			})
			slices.SortFunc(all, func(a, b *registry.Registry) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
			return all[:min(q.Limit, len(all))], err
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v registryView, ifMatch string) (*registry.Registry, error) {
			if ifMatch == resource.Absent {
				return regs.Create(ctx, g, next.ID, next.Location, next.Tags, v.Properties)
			}
			return regs.Update(ctx, g, next.ID, ifMatch, func(r *registry.Registry) error {
				r.Tags, r.Properties = next.Tags, v.Properties
				return nil
			})
		},
	}.kind()
}

// A registryView is what the API shows of a registry; what is beside its
// Properties is not the caller's to set, and is ignored when it is sent back.
type registryView struct {
	registry.Properties
	LoginServer       string    `json:"loginServer"`
	CreationDate      time.Time `json:"creationDate"`
	ProvisioningState string    `json:"provisioningState"`
}

// registryShown has every property, with the value that holds where none is
// stored: policies and clients look at all of them.
func registryShown(r *registry.Registry) (resource.Resource, registryView) {
	p := r.Properties
	fill(&p.PublicNetworkAccess, network.Enabled)
	fill(&p.RuleSet.DefaultAction, network.Allow)
	fill(&p.RoleAssignmentMode, access.Legacy)
	fill(&p.Policies.SparseManifests.Status, "disabled")
	fill(&p.Policies.AuthenticationAsARM.Status, "enabled")
	return resource.Resource{ID: r.ID, Location: r.Location, Tags: r.Tags, Etag: r.Etag, System: r.System},
		registryView{p, r.LoginServer, r.System.CreatedAt, succeeded}
}

func fill[T ~string](s *T, usual T) {
	if *s == "" {
		*s = usual
	}
}

// succeeded is the state of everything: changes are done when they are answered.
const succeeded = "Succeeded"

type scopeMapView struct {
	access.ScopeMapProperties
	CreationDate      time.Time `json:"creationDate"`
	ProvisioningState string    `json:"provisioningState"`
}

func scopeMaps(s *access.Store) Kind {
	return row[access.ScopeMap, scopeMapView]{
		Kind:       Kind{Type: access.ScopeMapType, Read: access.ScopeMapRead, Write: access.ScopeMapWrite, Delete: access.ScopeMapDelete},
		ofRegistry: true,
		shown: func(m access.ScopeMap) (resource.Resource, scopeMapView) {
			m.Actions = filled(m.Actions)
			return resource.Resource{ID: m.ID, Etag: m.Etag, System: m.System}, scopeMapView{m.ScopeMapProperties, m.System.CreatedAt, succeeded}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (access.ScopeMap, error) {
			return s.ScopeMap(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]access.ScopeMap, error) {
			return s.ScopeMaps(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v scopeMapView, ifMatch string) (access.ScopeMap, error) {
			return s.PutScopeMap(ctx, g, next.ID.Name(), v.Description, v.Actions, ifMatch)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteScopeMap(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

// credential is a password as the API shows it. Its value is shown once, when it
// is made.
type credential struct {
	Name         string    `json:"name"`
	CreationTime time.Time `json:"creationTime,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	LastUsed     time.Time `json:"lastUsedTime,omitzero"`
	Value        string    `json:"value,omitempty"`
}

func shownPasswords(infos []identity.PasswordInfo) []credential {
	all := make([]credential, len(infos))
	for i, p := range infos {
		all[i] = credential{Name: p.Name, CreationTime: p.Created, Expiry: p.Expiry, LastUsed: p.Used}
	}
	return all
}

type credentials struct {
	Certificates []struct{}   `json:"certificates"`
	Passwords    []credential `json:"passwords"`
}

// made answers a request for passwords.
type made struct {
	Username  string       `json:"username"`
	Passwords []credential `json:"passwords"`
}

type tokenView struct {
	identity.TokenProperties
	CreationDate      time.Time   `json:"creationDate"`
	ProvisioningState string      `json:"provisioningState"`
	Credentials       credentials `json:"credentials"`
}

func tokens(s *access.Store) Kind {
	return row[access.Token, tokenView]{
		Kind:       Kind{Type: identity.TokenType, Read: access.TokenRead, Write: access.TokenWrite, Delete: access.TokenDelete},
		ofRegistry: true,
		shown: func(t access.Token) (resource.Resource, tokenView) {
			return resource.Resource{ID: t.ID, Etag: t.Etag, System: t.System},
				tokenView{t.TokenProperties, t.System.CreatedAt, succeeded, credentials{[]struct{}{}, shownPasswords(t.Passwords)}}
		},
		get: func(ctx context.Context, g access.Grant, id ref.ID) (access.Token, error) {
			return s.Token(ctx, g, id.Name())
		},
		list: func(ctx context.Context, g access.Grant, q Query) ([]access.Token, error) {
			return s.Tokens(ctx, g, q.After.Name(), q.Limit)
		},
		put: func(ctx context.Context, g access.Grant, next resource.Resource, v tokenView, ifMatch string) (access.Token, error) {
			t, err := s.PutToken(ctx, g, next.ID.Name(), v.ScopeMapID, v.Status, ifMatch)
			if err != nil {
				return t, err
			}
			keep := make([]string, len(v.Credentials.Passwords))
			for i, p := range v.Credentials.Passwords {
				keep[i] = p.Name
			}
			if !slices.ContainsFunc(t.Passwords, func(p identity.PasswordInfo) bool { return !slices.Contains(keep, p.Name) }) {
				return t, nil
			}
			if err := s.KeepPasswords(ctx, g, t.Name, keep...); err != nil {
				return t, err
			}
			return s.Token(ctx, g, t.Name)
		},
		remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			return s.DeleteToken(ctx, g, id.Name(), ifMatch)
		},
	}.kind()
}

// generateCredentials is the action on a registry that makes passwords of one of
// its tokens.
func generateCredentials(s *access.Store) Action {
	return Action{Name: "generateCredentials", Right: access.GenerateCredentials,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var wanted struct {
				TokenID ref.ID
				Expiry  time.Time
				Name    string
			}
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			if id.Key() != g.RegistryID().Key() {
				return nil, absent(registry.Type)
			}
			if !strings.EqualFold(string(identity.TokenID(id, wanted.TokenID.Name())), string(wanted.TokenID)) {
				return nil, fault.New(fault.BadRequest, "tokenId is the id of a token of this registry")
			}
			var names []string
			if wanted.Name != "" {
				names = []string{wanted.Name}
			}
			passwords, err := s.GenerateCredentials(ctx, g, wanted.TokenID.Name(), wanted.Expiry, names...)
			if err != nil {
				return nil, err
			}
			m := made{Username: wanted.TokenID.Name()}
			for _, p := range passwords {
				m.Passwords = append(m.Passwords, credential{Name: p.Name, CreationTime: p.Created, Expiry: p.Expiry, Value: string(p.Value)})
			}
			return m, nil
		},
	}
}

// listCredentials is the action on a registry that tells how old the passwords of
// its admin user are, and when they were last used; what they are nobody can read.
func listCredentials(regs *registry.Store) Action {
	return Action{Name: "listCredentials", Right: access.ListCredentials, Reads: true,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, _ json.RawMessage) (any, error) {
			infos, err := regs.ListCredentials(ctx, g, id)
			if err != nil {
				return nil, err
			}
			return made{id.Name(), shownPasswords(infos)}, nil
		},
	}
}

// regenerateCredential is the action on a registry that makes a password of its
// admin user.
func regenerateCredential(regs *registry.Store) Action {
	return Action{Name: "regenerateCredential", Right: access.RegenerateCredential,
		Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
			var wanted struct{ Name string }
			if err := understand(body, &wanted); err != nil {
				return nil, err
			}
			p, err := regs.RegenerateCredential(ctx, g, id, wanted.Name)
			if err != nil {
				return nil, err
			}
			return made{id.Name(), []credential{{Name: wanted.Name, Value: string(p.Value)}}}, nil
		},
	}
}
