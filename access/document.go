package access

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

// Types of the documents about who may do what. Get, List, Put and Delete serve
// each of them.
const (
	DefinitionType     = "Microsoft.Authorization/roleDefinitions"
	AssignmentType     = "Microsoft.Authorization/roleAssignments"
	DenyAssignmentType = "Microsoft.Authorization/denyAssignments"
	PolicyType         = "Breakwater.Access/conditionalAccessPolicies"
	LocationType       = "Breakwater.Access/namedLocations"
	GroupType          = "Microsoft.Management/managementGroups"
	MemberType         = GroupType + "/subscriptions"
)

// A kind is one type of document of this room.
type kind struct {
	typ                 string
	read, write, delete Action
	at                  place
	most                int // how many there may be; 0 is no limit
	// check asks the grant what is particular to the type, refuses what is not
	// certain and leaves in c.next what is to be stored.
	check func(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error
}

// A place is where documents of a kind lie.
type place int

const (
	top    place = iota // below /providers/ only
	inner               // below a document of the type that the kind's is a child of
	scoped              // at every scope
)

// A change is a document before and after: one of the two is nil when it is made
// or deleted.
type change struct {
	id        ref.ID
	scope     ref.Scope
	was, next *resource.Resource
	laws      *laws
	more      map[string]string // for the event
}

var kinds = []kind{
	{DefinitionType, RoleDefinitionRead, RoleDefinitionWrite, RoleDefinitionDelete, scoped, 5000, checkDefinition},
	{AssignmentType, RoleAssignmentRead, RoleAssignmentWrite, RoleAssignmentDelete, scoped, 0, checkAssignment},
	{DenyAssignmentType, DenyAssignmentRead, DenyAssignmentWrite, DenyAssignmentDelete, scoped, 1000, checkDenial},
	{PolicyType, PolicyRead, PolicyWrite, PolicyDelete, top, 200, checkPolicy},
	{LocationType, LocationRead, LocationWrite, LocationDelete, top, 200, checkLocation},
	{GroupType, GroupRead, GroupWrite, GroupDelete, top, 5000, checkGroup},
	{MemberType, MemberRead, MemberWrite, MemberDelete, inner, 0, checkMember},
}

func kindOf(typ string) (*kind, error) {
	for i := range kinds {
		if strings.EqualFold(kinds[i].typ, typ) {
			return &kinds[i], nil
		}
	}
	return nil, fault.New(fault.NotFound, "there is no such resource")
}

// split reads an id: its kind, the scope where it is, and its document. The same
// role definition is seen at every scope.
func split(id ref.ID) (k *kind, scope ref.Scope, doc ref.ID, err error) {
	none := fault.New(fault.NotFound, "there is no such resource")
	if _, err := ref.ParseID(string(id)); err != nil {
		return nil, "", "", err
	}
	at := strings.LastIndex(id.Key(), "/providers/")
	if at < 0 {
		return nil, "", "", none
	}
	typ := ""
	for i, part := range strings.Split(string(id[at+len("/providers/"):]), "/") {
		if i == 0 || i%2 == 1 {
			typ += "/" + part
		}
	}
	if k, err = kindOf(strings.TrimPrefix(typ, "/")); err != nil {
		return nil, "", "", err
	}
	if strings.Count(string(id[at:]), "/") != 2+2*strings.Count(k.typ, "/") || k.at != scoped && at > 0 {
		return nil, "", "", none
	}
	scope, doc = scopeOf(id), id
	switch {
	case k.typ == DefinitionType:
		doc = extensionID(ref.Everything, DefinitionType, strings.ToLower(id.Name()))
	case k.at != scoped:
		scope = id.Scope()
	}
	return k, scope, doc, nil
}

// find is split for a caller who may at least look: others learn nothing from an
// id, not even that it is none.
func find(g Grant, id ref.ID) (k *kind, scope ref.Scope, doc ref.ID, err error) {
	if k, scope, doc, err = split(id); err != nil {
		err = cmp.Or(g.Allows(RoleAssignmentRead, ref.Everything), err)
	}
	return k, scope, doc, err
}

// Get reads one document of a type of this room. A role definition is found at
// every scope.
func (s *Store) Get(ctx context.Context, g Grant, id ref.ID) (resource.Resource, error) {
	k, scope, at, err := find(g, id)
	if err != nil {
		return resource.Resource{}, err
	}
	if err := g.Allows(k.read, scope); err != nil {
		return resource.Resource{}, err
	}
	if r, ok := role(strings.ToLower(id.Name())); ok && k.typ == DefinitionType {
		return r.shown(id)
	}
	doc, err := s.get(ctx, at, k.typ)
	if k.typ == DefinitionType {
		doc.ID = id
	}
	return doc, err
}

// A Filter narrows a list, as $filter of Azure does. The zero Filter is none.
type Filter struct {
	Exactly   bool   // assignments at the scope itself, not those below it
	Above     bool   // and those at the scopes above it
	Principal string // principalId eq '…'
	RoleName  string // roleName eq '…'
}

// List reads the documents of one type at the scope under and below, after the
// document after, in the order of their ids. limit 0 is all.
func (s *Store) List(ctx context.Context, g Grant, typ string, under, after ref.ID, limit int, f Filter) ([]resource.Resource, error) {
	k, err := kindOf(typ)
	if err != nil {
		return nil, err
	}
	scope := cmp.Or(under.Scope(), ref.Everything)
	if err := g.Allows(k.read, scope); err != nil && typ != GroupType {
		return nil, err
	}
	if k.typ == DefinitionType {
		return s.definitions(ctx, under, after, limit, f)
	}
	q := resource.Query{Type: k.typ, Under: []ref.ID{ref.ID(strings.TrimSuffix(string(under), "/"))}, After: after, Limit: limit}
	if k.at == scoped {
		l, err := s.laws.Get(ctx, s.Documents, struct{}{}, s.loadLaws)
		if err != nil {
			return nil, err
		}
		at := func(s ref.Scope) ref.ID { return ref.ID(strings.TrimSuffix(string(s), "/") + "/providers/" + k.typ) }
		if f.Exactly {
			q.Under = []ref.ID{at(scope)}
		}
		if f.Above {
			l.above.scopes(scope, func(s ref.Scope) bool {
				q.Under = append(q.Under, at(s))
				return true
			})
		}
	}
	if f.Principal != "" {
		q.Holders = []string{f.Principal}
	}
	return s.Documents.Select(ctx, q, func(doc resource.Resource) bool {
		_, scope, _, err := split(doc.ID)
		return err == nil && !g.Hides(k.read, scope) && (k.typ != GroupType || g.Can(k.read, scope))
	})
}

// Put creates or replaces a document, if ifMatch holds.
func (s *Store) Put(ctx context.Context, g Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
	k, scope, at, err := find(g, next.ID)
	if err != nil {
		return next, err
	}
	if k.at == scoped && !ref.IsGUID(next.ID.Name()) {
		return next, fault.New(fault.BadRequest, "the name of a %s is a GUID", k.typ)
	}
	return s.write(ctx, g, k, scope, resource.Resource{ID: at, Type: k.typ, Properties: next.Properties}, ifMatch, next.ID)
}

func (s *Store) write(ctx context.Context, g Grant, k *kind, scope ref.Scope, doc resource.Resource, ifMatch string, shown ref.ID) (resource.Resource, error) {
	made := doc
	l, err := s.laws.Get(ctx, s.Documents, struct{}{}, s.loadLaws)
	if err != nil {
		return made, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		next := doc
		c := &change{id: doc.ID, scope: scope, next: &next, laws: l, more: map[string]string{}}
		if was, err := s.Documents.GetTx(ctx, tx, doc.ID); err == nil {
			c.was = &was
		} else if gone(err) != nil {
			return err
		}
		if err := k.check(ctx, s, tx, g, c); err != nil {
			return err
		}
		if c.was == nil && k.most > 0 {
			if all, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: k.typ, Limit: k.most}); err != nil || len(all) == k.most {
				return cmp.Or(err, error(fault.New(fault.Conflict, "there are %d documents of this type already, and no more may be", k.most)))
			}
		}
		next.System = g.Modified()
		var err error
		if made, err = s.Documents.Put(ctx, tx, next, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, k.typ, doc.ID.Name())
		}
		if err := s.undoable(ctx, tx, c); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, k.write, doc.ID, c.more)
	})
	if k.typ == DefinitionType {
		made.ID = shown
	}
	return made, err
}

// Delete removes a document, if ifMatch holds, and returns what it was.
func (s *Store) Delete(ctx context.Context, g Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
	k, scope, at, err := find(g, id)
	if err != nil {
		return resource.Resource{}, err
	}
	var was resource.Resource
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		err := s.Documents.Lock(ctx, tx)
		if err != nil {
			return err
		}
		if was, err = s.Documents.GetTx(ctx, tx, at); err != nil && gone(err) == nil {
			// Who may not delete does not learn what there is.
			return cmp.Or(g.Admits(k.delete, scope).err(k.delete, scope), err)
		}
		if err = typed(was, k.typ, err); err != nil {
			return err
		}
		c := &change{id: at, scope: scope, was: &was, more: map[string]string{}}
		if err := k.check(ctx, s, tx, g, c); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, at, ifMatch); err != nil {
			return err
		}
		if err := s.undoable(ctx, tx, c); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, k.delete, at, c.more)
	})
	if k.typ == DefinitionType {
		was.ID = id
	}
	return was, err
}

func second[T any](_ T, err error) error { return err }

// understand reads properties, and refuses what nothing here has.
func understand(raw json.RawMessage, into any) error {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil && second(d.Token()) != io.EOF {
		err = errors.New("more follows")
	}
	if err != nil {
		return fault.New(fault.BadRequest, "the properties cannot be read: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// store leaves properties in the document.
func (c *change) store(p any) (err error) {
	c.next.Properties, err = json.Marshal(p)
	return err
}

func bad(format string, args ...any) error { return fault.New(fault.BadRequest, format, args...) }

// validPermissions refuses patterns that would match nothing, and too many.
func validPermissions(all []Permission) error {
	n := 0
	for _, p := range all {
		for _, patterns := range [][]string{p.Actions, p.NotActions, p.DataActions, p.NotDataActions} {
			if n += len(patterns); !validPatterns(patterns) {
				return bad("an action is such as Microsoft.ContainerRegistry/registries/read, and may hold '*'")
			}
		}
	}
	if n == 0 || n > 2000 || len(all) > 16 {
		return bad("permissions name 1 to 2000 actions, in at most 16 sets")
	}
	return nil
}

func validPatterns(all []string) bool {
	return !slices.ContainsFunc(all, func(s string) bool {
		odd := strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\'' })
		return len(s) > 256 || odd || s != "*" && !strings.Contains(s, "/")
	})
}

func checkCondition(text string, version *string) error {
	if text == "" {
		if *version != "" {
			return bad("conditionVersion stands beside a condition")
		}
		return nil
	}
	if *version = cmp.Or(*version, ConditionVersion); *version != ConditionVersion {
		return bad("conditionVersion is %s", ConditionVersion)
	}
	return second(ParseCondition(text))
}
