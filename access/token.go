package access

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// maxMapped is how many actions a scope map has at most, as in Azure.
const maxMapped = 500

// ScopeMapProperties are the stored properties of a scope map.
type ScopeMapProperties struct {
	Description string   `json:"description"`
	Type        string   `json:"type"` // UserDefined or SystemDefined
	Actions     []string `json:"actions"`
}

// A ScopeMap is a named set of rights on repositories.
type ScopeMap struct {
	ID     ref.ID
	Name   string
	Etag   string
	System resource.SystemData
	ScopeMapProperties
}

// A Token is a repository token: a name with two passwords and a scope map.
type Token struct {
	ID        ref.ID
	Name      string
	Etag      string
	System    resource.SystemData
	Passwords []identity.PasswordInfo
	identity.TokenProperties
}

// ScopeMapID is the id of a scope map of the registry.
func ScopeMapID(registry ref.ID, name string) ref.ID { return registry.Child("scopeMaps", name) }

// systemMaps are the scope maps that every registry has from its creation.
var systemMaps = []struct {
	name, description string
	actions           []string
}{
	{"_repositories_pull", "Can pull any repository of the registry", []string{"content/read"}},
	{"_repositories_pull_metadata_read", "Can pull any repository of the registry and read its metadata", []string{"content/read", "metadata/read"}},
	{"_repositories_push", "Can push to any repository of the registry", []string{"content/read", "content/write"}},
	{"_repositories_push_metadata_write", "Can push to any repository of the registry and change its metadata",
		[]string{"content/read", "content/write", "metadata/read", "metadata/write"}},
	{"_repositories_admin", "Can perform all read, write and delete operations on the registry",
		[]string{"content/read", "content/write", "content/delete", "metadata/read", "metadata/write"}},
}

// PutSystemScopeMaps writes the scope maps that a new registry starts with, in
// the transaction that creates it.
func (s *Store) PutSystemScopeMaps(ctx context.Context, tx *db.Tx, g Grant, registry ref.ID) error {
	for _, m := range systemMaps {
		p := ScopeMapProperties{Description: m.description, Type: "SystemDefined"}
		for _, a := range m.actions {
			p.Actions = append(p.Actions, "repositories/*/"+a)
		}
		if _, err := s.put(ctx, tx, g, resource.Resource{ID: ScopeMapID(registry, m.name), Type: ScopeMapType}, p, resource.Any); err != nil {
			return err
		}
	}
	return nil
}

// PutScopeMap creates or replaces a scope map of the grant's registry, if ifMatch
// holds. A token that uses it has the new rights from the next request on.
func (s *Store) PutScopeMap(ctx context.Context, g Grant, name, description string, actions []string, ifMatch string) (ScopeMap, error) {
	id := ScopeMapID(g.RegistryID(), name)
	if err := g.Allows(ScopeMapWrite, id.Scope()); err != nil {
		return ScopeMap{}, err
	}
	if err := identity.CheckName("scope map", name); err != nil {
		return ScopeMap{}, err
	}
	if len(actions) > maxMapped || len(description) > 256 {
		return ScopeMap{}, fault.New(fault.BadRequest, "a scope map has at most %d actions and 256 characters of description", maxMapped)
	}
	for _, text := range actions {
		if _, err := ParseMapped(g.RegistryID(), text); err != nil {
			return ScopeMap{}, err
		}
	}
	p := ScopeMapProperties{description, "UserDefined", slices.Compact(slices.Sorted(slices.Values(actions)))}
	doc := resource.Resource{ID: id, Type: ScopeMapType}
	err := s.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, "scope map", name)
		}
		return g.Record(ctx, tx, s.Ledger, ScopeMapWrite, id, map[string]string{"actions": strings.Join(p.Actions, " ")})
	})
	if err != nil {
		return ScopeMap{}, err
	}
	return scopeMap(doc)
}

// ScopeMap reads one scope map of the grant's registry.
func (s *Store) ScopeMap(ctx context.Context, g Grant, name string) (ScopeMap, error) {
	id := ScopeMapID(g.RegistryID(), name)
	if err := g.Allows(ScopeMapRead, id.Scope()); err != nil {
		return ScopeMap{}, err
	}
	doc, err := s.get(ctx, id, ScopeMapType)
	if err != nil {
		return ScopeMap{}, err
	}
	return scopeMap(doc)
}

// ScopeMaps lists the scope maps after the one called after, in order of name.
func (s *Store) ScopeMaps(ctx context.Context, g Grant, after string, limit int) ([]ScopeMap, error) {
	if err := g.Allows(ScopeMapRead, g.Scope()); err != nil {
		return nil, err
	}
	return list(ctx, s, g, ScopeMapRead, "scopeMaps", ScopeMapType, after, limit, scopeMap)
}

// DeleteScopeMap deletes a scope map that no token uses.
func (s *Store) DeleteScopeMap(ctx context.Context, g Grant, name, ifMatch string) error {
	id := ScopeMapID(g.RegistryID(), name)
	if err := g.Allows(ScopeMapDelete, id.Scope()); err != nil {
		return err
	}
	if strings.HasPrefix(name, "_") {
		return fault.New(fault.Conflict, "the scope map %s is defined by the system", name)
	}
	// A token that begins to use the map now ends up with no right, not with more.
	q := resource.Query{Type: identity.TokenType, Under: []ref.ID{g.RegistryID()}, Limit: 1}
	users, err := s.Documents.Select(ctx, q, func(doc resource.Resource) bool {
		t, err := token(doc)
		return err != nil || t.ScopeMapID.Key() == id.Key()
	})
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.New(fault.Conflict, "the token %s uses the scope map; delete the token or change its scope map first", users[0].ID.Name())
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.found(ctx, tx, id, ScopeMapType); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, id, ifMatch); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, ScopeMapDelete, id, nil)
	})
}

// PutToken creates or changes a repository token of the grant's registry. Its
// passwords stay; a new token has none (GenerateCredentials). status "" is
// enabled.
func (s *Store) PutToken(ctx context.Context, g Grant, name string, scopeMap ref.ID, status, ifMatch string) (Token, error) {
	id := identity.TokenID(g.RegistryID(), name)
	if err := g.Allows(TokenWrite, id.Scope()); err != nil {
		return Token{}, err
	}
	if err := identity.CheckName("token", name); err != nil {
		return Token{}, err
	}
	p := identity.TokenProperties{ScopeMapID: scopeMap, Status: status}
	if p.Status == "" {
		p.Status = identity.EnabledStatus
	}
	if p.Status != identity.EnabledStatus && p.Status != "disabled" {
		return Token{}, fault.New(fault.BadRequest, "the status of a token is enabled or disabled")
	}
	if ScopeMapID(g.RegistryID(), scopeMap.Name()).Key() != scopeMap.Key() {
		return Token{}, fault.New(fault.BadRequest, "scopeMapId is the id of a scope map of the same registry")
	}
	doc := resource.Resource{ID: id, Type: identity.TokenType}
	err := s.DB.Write(ctx, func(tx *db.Tx) (err error) {
		if err := s.found(ctx, tx, scopeMap, ScopeMapType); err != nil {
			if gone(err) == nil {
				return fault.New(fault.BadRequest, "there is no scope map %s", scopeMap.Name())
			}
			return err
		}
		if doc, err = s.put(ctx, tx, g, doc, p, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, "token", name)
		}
		return g.Record(ctx, tx, s.Ledger, TokenWrite, id, map[string]string{"scopeMap": scopeMap.Name(), "status": p.Status})
	})
	if err != nil {
		return Token{}, err
	}
	return s.withPasswords(ctx, g, doc)
}

// Token reads one token of the grant's registry.
func (s *Store) Token(ctx context.Context, g Grant, name string) (Token, error) {
	id := identity.TokenID(g.RegistryID(), name)
	if err := g.Allows(TokenRead, id.Scope()); err != nil {
		return Token{}, err
	}
	doc, err := s.get(ctx, id, identity.TokenType)
	if err != nil {
		return Token{}, err
	}
	return s.withPasswords(ctx, g, doc)
}

// Tokens lists the tokens after the one called after, in order of name.
func (s *Store) Tokens(ctx context.Context, g Grant, after string, limit int) ([]Token, error) {
	if err := g.Allows(TokenRead, g.Scope()); err != nil {
		return nil, err
	}
	return list(ctx, s, g, TokenRead, "tokens", identity.TokenType, after, limit, func(doc resource.Resource) (Token, error) {
		return s.withPasswords(ctx, g, doc)
	})
}

// DeleteToken revokes a token and its passwords: whoever uses one of them, or a
// bearer token that descends from it, is unknown from the next request on.
func (s *Store) DeleteToken(ctx context.Context, g Grant, name, ifMatch string) error {
	id := identity.TokenID(g.RegistryID(), name)
	if err := g.Allows(TokenDelete, id.Scope()); err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.found(ctx, tx, id, identity.TokenType); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, id, ifMatch); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, TokenDelete, id, nil)
	})
}

// GenerateCredentials makes the named passwords of a token anew (none named means
// both) and returns them; nobody can read them again. Zero expiry means never.
func (s *Store) GenerateCredentials(ctx context.Context, g Grant, name string, expiry time.Time, names ...string) ([]identity.Password, error) {
	id, h := identity.TokenID(g.RegistryID(), name), identity.TokenHolder(g.RegistryID(), name)
	if err := g.Allows(GenerateCredentials, g.Scope()); err != nil {
		return nil, err
	}
	if _, err := s.get(ctx, id, identity.TokenType); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = identity.PasswordNames[:]
	}
	passwords := make([]identity.Password, len(names))
	for i, n := range names {
		var err error
		if passwords[i], err = s.Identity.NewPassword(ctx, h, n, expiry); err != nil {
			return nil, err
		}
	}
	err := s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil { // or a token that is made again could get these
			return err
		}
		if err := s.found(ctx, tx, id, identity.TokenType); err != nil {
			return err
		}
		if err := s.Identity.PutPasswords(ctx, tx, h, g.Modified(), passwords...); err != nil {
			return err
		}
		more := map[string]string{"passwords": strings.Join(names, " ")}
		if !expiry.IsZero() {
			more["expiry"] = expiry.UTC().Format(time.RFC3339)
		}
		return g.Record(ctx, tx, s.Ledger, GenerateCredentials, id, more)
	})
	if err != nil {
		return nil, err
	}
	return passwords, nil
}

// KeepPasswords revokes the passwords of a token that are not named.
func (s *Store) KeepPasswords(ctx context.Context, g Grant, name string, keep ...string) error {
	id := identity.TokenID(g.RegistryID(), name)
	if err := g.Allows(TokenWrite, id.Scope()); err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.found(ctx, tx, id, identity.TokenType); err != nil {
			return err
		}
		if err := s.Identity.KeepPasswords(ctx, tx, identity.TokenHolder(g.RegistryID(), name), g.Modified(), keep...); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, TokenWrite, id, map[string]string{"passwords kept": strings.Join(keep, " ")})
	})
}

func list[T any](ctx context.Context, s *Store, g Grant, a Action, kind, typ, after string, limit int, read func(resource.Resource) (T, error)) ([]T, error) {
	from := ref.ID("")
	if after != "" {
		from = g.RegistryID().Child(kind, after)
	}
	q := resource.Query{Type: typ, Under: []ref.ID{g.RegistryID()}, After: from, Limit: limit}
	docs, err := s.Documents.Select(ctx, q, func(doc resource.Resource) bool { return !g.Hides(a, doc.ID.Scope()) })
	if err != nil {
		return nil, err
	}
	all := make([]T, len(docs))
	for i, doc := range docs {
		if all[i], err = read(doc); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func scopeMap(doc resource.Resource) (ScopeMap, error) {
	m := ScopeMap{ID: doc.ID, Name: doc.ID.Name(), Etag: doc.Etag, System: doc.System}
	if err := json.Unmarshal(doc.Properties, &m.ScopeMapProperties); err != nil {
		return ScopeMap{}, fmt.Errorf("read scope map %s: %w", doc.ID, err)
	}
	return m, nil
}

func token(doc resource.Resource) (Token, error) {
	t := Token{ID: doc.ID, Name: doc.ID.Name(), Etag: doc.Etag, System: doc.System}
	if err := json.Unmarshal(doc.Properties, &t.TokenProperties); err != nil {
		return Token{}, fmt.Errorf("read token %s: %w", doc.ID, err)
	}
	return t, nil
}

func (s *Store) withPasswords(ctx context.Context, g Grant, doc resource.Resource) (Token, error) {
	t, err := token(doc)
	if err == nil {
		t.Passwords, err = s.Identity.Passwords(ctx, identity.TokenHolder(g.RegistryID(), t.Name))
	}
	return t, err
}
