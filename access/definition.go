package access

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

// DefinitionProperties are the properties of a role definition.
type DefinitionProperties struct {
	RoleName         string       `json:"roleName"`
	Type             string       `json:"type"` // BuiltInRole or CustomRole
	Description      string       `json:"description"`
	AssignableScopes []ref.ID     `json:"assignableScopes"`
	Permissions      []Permission `json:"permissions"`
}

// definitions are the role definitions that may be assigned at the scope or
// somewhere below it.
func (s *Store) definitions(ctx context.Context, under, after ref.ID, limit int, f Filter) ([]resource.Resource, error) {
	l, err := s.laws.Get(ctx, s.Documents, struct{}{}, s.loadLaws)
	if err != nil {
		return nil, err
	}
	scope := cmp.Or(under.Scope(), ref.Everything)
	var all []resource.Resource
	see := func(r Role, shown func(ref.ID) (resource.Resource, error)) error {
		id := extensionID(scope, DefinitionType, r.ID)
		below := func(s ref.Scope) bool { return scope.Covers(s) }
		if id.Key() <= after.Key() || f.RoleName != "" && !strings.EqualFold(f.RoleName, r.Name) ||
			!l.assignable(r, scope) && !slices.ContainsFunc(r.Scopes, below) {
			return nil
		}
		doc, err := shown(id)
		all = append(all, doc)
		return err
	}
	for _, r := range roles {
		err = errors.Join(err, see(r, r.shown))
	}
	for _, r := range l.roles {
		err = errors.Join(err, see(r, func(id ref.ID) (resource.Resource, error) {
			doc, err := s.get(ctx, extensionID(ref.Everything, DefinitionType, r.ID), DefinitionType)
			doc.ID = id
			return doc, gone(err)
		}))
	}
	slices.SortFunc(all, func(a, b resource.Resource) int { return strings.Compare(a.ID.Key(), b.ID.Key()) })
	if limit > 0 {
		all = all[:min(limit, len(all))]
	}
	return all, err
}

// shown is a built-in role as its definition.
func (r Role) shown(id ref.ID) (resource.Resource, error) {
	text, err := json.Marshal(DefinitionProperties{RoleName: r.Name, Type: "BuiltInRole", Description: r.Description,
		AssignableScopes: []ref.ID{"/"}, Permissions: r.Permissions})
	return resource.Resource{ID: id, Type: DefinitionType, Properties: text}, err
}

func checkDefinition(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	var p DefinitionProperties
	action, scopes := RoleDefinitionDelete, []ref.ID{}
	if c.next != nil {
		action = RoleDefinitionWrite
		if err := understand(c.next.Properties, &p); err != nil {
			return err
		}
		scopes = p.AssignableScopes
	}
	if c.was != nil {
		was, err := parse[DefinitionProperties](*c.was)
		if err != nil {
			return err
		}
		c.more["role"] = was.RoleName
		scopes = slices.Concat(scopes, was.AssignableScopes)
	}
	// Whoever says what a role is says it wherever the role is assigned.
	for _, at := range scopes {
		if err := g.Allows(action, at.Scope()); err != nil {
			return err
		}
	}
	if c.next == nil {
		return s.unused(ctx, tx, c.id.Name())
	}
	if _, ok := role(strings.ToLower(c.id.Name())); ok {
		return fault.New(fault.Conflict, "a built-in role cannot be changed")
	}
	if p.RoleName == "" || len(p.RoleName) > 512 || len(p.Description) > 2048 || len(p.AssignableScopes) == 0 || len(p.AssignableScopes) > 200 {
		return bad("a role has a roleName of at most 512 characters, a description of at most 2048, and 1 to 200 assignableScopes")
	}
	for _, at := range p.AssignableScopes {
		if _, err := ref.ParseID(string(at)); err != nil && at != "/" {
			return err
		}
	}
	if err := validPermissions(p.Permissions); err != nil {
		return err
	}
	all, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: DefinitionType})
	if err != nil {
		return err
	}
	same := slices.ContainsFunc(roles, func(r Role) bool { return strings.EqualFold(r.Name, p.RoleName) })
	for _, doc := range all {
		other, err := parse[DefinitionProperties](doc)
		if err != nil {
			return err
		}
		same = same || doc.ID.Key() != c.id.Key() && strings.EqualFold(other.RoleName, p.RoleName)
	}
	if same {
		return fault.New(fault.Conflict, "there is a role called %s already", p.RoleName)
	}
	c.more["role"], p.Type = p.RoleName, "CustomRole"
	return c.store(p)
}

// unused refuses to take a role away that somebody is assigned.
func (s *Store) unused(ctx context.Context, tx *db.Tx, guid string) error {
	for after := ref.ID(""); ; {
		docs, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: AssignmentType, After: after, Limit: 1000})
		if err != nil || len(docs) == 0 {
			return err
		}
		for _, doc := range docs {
			after = doc.ID
			if a, err := assignment(doc); err != nil || strings.EqualFold(a.Role, guid) {
				return cmp.Or(err, error(fault.New(fault.Conflict, "the role is assigned at %s; take the assignment away first", a.Scope)))
			}
		}
	}
}
