package arm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
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

// Types of what stands above the providers.
const (
	SubscriptionType  = "Microsoft.Resources/subscriptions"
	ResourceGroupType = "Microsoft.Resources/resourceGroups"
)

// Plain is a kind whose documents are shown as they are and that no caller
// changes.
func Plain(docs *resource.Store, typ string) Kind {
	right := access.Action(typ + "/read")
	if strings.EqualFold(typ, ResourceGroupType) {
		right = SubscriptionType + "/resourceGroups/read" // as Azure calls it
	}
	return Kind{
		Type: typ, Read: right,
		Get: func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
			if err := g.Allows(right, scope(id)); err != nil {
				return resource.Resource{}, err
			}
			doc, err := docs.Get(ctx, id)
			if err == nil && !strings.EqualFold(doc.Type, typ) {
				err = absent(typ)
			}
			return doc, err
		},
		List: func(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]resource.Resource, error) {
			if err := g.Allows(right, scope(under)); err != nil {
				return nil, err
			}
			return docs.List(ctx, under, typ, after, limit)
		},
	}
}

func absent(typ string) error { return fault.New(fault.NotFound, "there is no %s of this name", typ) }

// Registries is the kind of registries.
func Registries(regs *registry.Store, s *access.Store) Kind {
	const typ = registry.Type
	return Kind{
		Type: typ, Read: access.RegistryRead, Write: access.RegistryWrite,
		Get: func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
			r, err := regs.Get(ctx, g, id)
			if err != nil {
				return resource.Resource{}, err
			}
			return registryShown(r)
		},
		List: func(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]resource.Resource, error) {
			all, err := regs.List(ctx, g)
			if err != nil {
				return nil, err
			}
			var docs []resource.Resource
			for _, r := range all {
				if !scope(under).Covers(r.ID.Scope()) || r.ID.Key() <= after.Key() {
					continue
				}
				doc, err := registryShown(r)
				if err != nil {
					return nil, err
				}
				docs = append(docs, doc)
			}
			slices.SortFunc(docs, func(a, b resource.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
			return docs[:min(limit, len(docs))], nil
		},
		Put: func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
			var v registryView
			if err := understand(next.Properties, &v); err != nil {
				return next, err
			}
			p := v.Properties
			var r *registry.Registry
			var err error
			if ifMatch == resource.Absent {
				r, err = regs.Create(ctx, g, next.ID, next.Location, next.Tags, p)
			} else {
				r, err = regs.Update(ctx, g, next.ID, ifMatch, func(r *registry.Registry) error {
					r.Tags, r.Properties = next.Tags, p
					return nil
				})
			}
			if err != nil {
				return next, err
			}
			return registryShown(r)
		},
		Actions: []Action{generateCredentials(s), {Name: "regenerateCredential", Right: access.RegenerateCredential,
			Run: func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) {
				var wanted struct{ Name string }
				if err := understand(body, &wanted); err != nil {
					return nil, err
				}
				name := wanted.Name
				if name == "password" { // Azure calls the admin user's first one so
					name = identity.PasswordNames[0]
				}
				p, err := regs.RegenerateCredential(ctx, g, id, name)
				if err != nil {
					return nil, err
				}
				return made{id.Name(), []credential{{Name: wanted.Name, Value: string(p.Value)}}}, nil
			},
		}},
	}
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
func registryShown(r *registry.Registry) (resource.Resource, error) {
	p := r.Properties
	fill(&p.PublicNetworkAccess, network.Enabled)
	fill(&p.RuleSet.DefaultAction, network.Allow)
	fill(&p.RoleAssignmentMode, access.Legacy)
	fill(&p.Policies.SparseManifests.Status, "disabled")
	text, err := json.Marshal(registryView{p, r.LoginServer, r.System.CreatedAt, succeeded})
	return resource.Resource{
		ID: r.ID, Type: registry.Type, Location: r.Location, Tags: r.Tags, Etag: r.Etag, System: r.System, Properties: text,
	}, err
}

func fill[T ~string](s *T, usual T) {
	if *s == "" {
		*s = usual
	}
}

// succeeded is the state of everything: changes are done when they are answered.
const succeeded = "Succeeded"

// ScopeMaps is the kind of scope maps.
func ScopeMaps(s *access.Store) Kind {
	type scopeMapView struct {
		access.ScopeMapProperties
		CreationDate      time.Time `json:"creationDate"`
		ProvisioningState string    `json:"provisioningState"`
	}
	shown := func(m access.ScopeMap, err error) (resource.Resource, error) {
		if err != nil {
			return resource.Resource{}, err
		}
		if m.Actions == nil {
			m.Actions = []string{}
		}
		text, err := json.Marshal(scopeMapView{m.ScopeMapProperties, m.System.CreatedAt, succeeded})
		return resource.Resource{ID: m.ID, Etag: m.Etag, System: m.System, Properties: text}, err
	}
	return Kind{
		Type: access.ScopeMapType, Read: access.ScopeMapRead, Write: access.ScopeMapWrite, Delete: access.ScopeMapDelete,
		Get: func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
			if err := ours(g, id); err != nil {
				return resource.Resource{}, err
			}
			return shown(s.ScopeMap(ctx, g, id.Name()))
		},
		List: func(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]resource.Resource, error) {
			if under.Key() != g.RegistryID().Key() {
				return nil, absent(registry.Type)
			}
			all, err := s.ScopeMaps(ctx, g, after.Name(), limit)
			return each(all, err, shown)
		},
		Put: func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
			var v scopeMapView
			if err := ours(g, next.ID); err != nil {
				return next, err
			}
			if err := understand(next.Properties, &v); err != nil {
				return next, err
			}
			return shown(s.PutScopeMap(ctx, g, next.ID.Name(), v.Description, v.Actions, ifMatch))
		},
		Remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			if err := ours(g, id); err != nil {
				return err
			}
			return s.DeleteScopeMap(ctx, g, id.Name(), ifMatch)
		},
	}
}

// credential is a password as the API shows it. Its value is shown once, when it
// is made.
type credential struct {
	Name         string    `json:"name"`
	CreationTime time.Time `json:"creationTime,omitzero"`
	Expiry       time.Time `json:"expiry,omitzero"`
	Value        string    `json:"value,omitempty"`
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

// Tokens is the kind of repository tokens.
func Tokens(s *access.Store) Kind {
	type tokenView struct {
		identity.TokenProperties
		CreationDate      time.Time   `json:"creationDate"`
		ProvisioningState string      `json:"provisioningState"`
		Credentials       credentials `json:"credentials"`
	}
	shown := func(t access.Token, err error) (resource.Resource, error) {
		if err != nil {
			return resource.Resource{}, err
		}
		v := tokenView{t.TokenProperties, t.System.CreatedAt, succeeded, credentials{[]struct{}{}, []credential{}}}
		for _, p := range t.Passwords {
			v.Credentials.Passwords = append(v.Credentials.Passwords, credential{Name: p.Name, CreationTime: p.Created, Expiry: p.Expiry})
		}
		text, err := json.Marshal(v)
		return resource.Resource{ID: t.ID, Etag: t.Etag, System: t.System, Properties: text}, err
	}
	return Kind{
		Type: identity.TokenType, Read: access.TokenRead, Write: access.TokenWrite, Delete: access.TokenDelete,
		Get: func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error) {
			if err := ours(g, id); err != nil {
				return resource.Resource{}, err
			}
			return shown(s.Token(ctx, g, id.Name()))
		},
		List: func(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]resource.Resource, error) {
			if under.Key() != g.RegistryID().Key() {
				return nil, absent(registry.Type)
			}
			all, err := s.Tokens(ctx, g, after.Name(), limit)
			return each(all, err, shown)
		},
		Put: func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
			var v tokenView
			if err := ours(g, next.ID); err != nil {
				return next, err
			}
			if err := understand(next.Properties, &v); err != nil {
				return next, err
			}
			t, err := s.PutToken(ctx, g, next.ID.Name(), v.ScopeMapID, v.Status, ifMatch)
			if err != nil {
				return next, err
			}
			keep := make([]string, len(v.Credentials.Passwords))
			for i, p := range v.Credentials.Passwords {
				keep[i] = p.Name
			}
			if slices.ContainsFunc(t.Passwords, func(p identity.PasswordInfo) bool { return !slices.Contains(keep, p.Name) }) {
				if err := s.KeepPasswords(ctx, g, t.Name, keep...); err != nil {
					return next, err
				}
				t, err = s.Token(ctx, g, t.Name)
			}
			return shown(t, err)
		},
		Remove: func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error {
			if err := ours(g, id); err != nil {
				return err
			}
			return s.DeleteToken(ctx, g, id.Name(), ifMatch)
		},
	}
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
			if err := ours(g, wanted.TokenID); err != nil || !strings.EqualFold(string(identity.TokenID(id, wanted.TokenID.Name())), string(wanted.TokenID)) {
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
				m.Passwords = append(m.Passwords, credential{p.Name, p.Created, p.Expiry, string(p.Value)})
			}
			return m, nil
		},
	}
}

// ours refuses what is not a child of the grant's registry: a grant reaches no
// other one.
func ours(g access.Grant, id ref.ID) error {
	if parent := id.Parent(); parent == "" || parent.Key() != g.RegistryID().Key() {
		return absent(registry.Type)
	}
	return nil
}

// understand takes what a caller sent. A name that nothing here has is refused: a
// setting that silently does nothing, such as a misspelt one, is worse than none.
func understand(sent json.RawMessage, into any) error {
	d := json.NewDecoder(bytes.NewReader(sent))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return fault.New(fault.NotImplemented, "this server has no property %s; leave it out, because nothing would come of it", name)
	}
	return malformed(err)
}

func malformed(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f // said by the type of a property, such as a network
	}
	return fault.New(fault.BadRequest, "a value has another type than it should").Because(err)
}

func each[T any](all []T, err error, shown func(T, error) (resource.Resource, error)) ([]resource.Resource, error) {
	if err != nil {
		return nil, err
	}
	docs := make([]resource.Resource, len(all))
	for i, item := range all {
		if docs[i], err = shown(item, nil); err != nil {
			return nil, err
		}
	}
	return docs, nil
}
