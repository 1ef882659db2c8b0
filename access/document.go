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
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/network"
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

// AssignmentProperties are the properties of a role assignment. Until is ours: an
// assignment that has ended gives nothing.
type AssignmentProperties struct {
	RoleDefinitionID string    `json:"roleDefinitionId"`
	PrincipalID      string    `json:"principalId"`
	PrincipalType    string    `json:"principalType,omitempty"`
	Scope            ref.Scope `json:"scope"`
	Description      string    `json:"description,omitempty"`
	Condition        string    `json:"condition,omitempty"`
	ConditionVersion string    `json:"conditionVersion,omitempty"`
	Until            time.Time `json:"until,omitzero"`
}

// DefinitionProperties are the properties of a role definition.
type DefinitionProperties struct {
	RoleName         string       `json:"roleName"`
	Type             string       `json:"type"` // BuiltInRole or CustomRole
	Description      string       `json:"description"`
	AssignableScopes []ref.ID     `json:"assignableScopes"`
	Permissions      []Permission `json:"permissions"`
}

// DenyProperties are the properties of a deny assignment.
type DenyProperties struct {
	Name                    string       `json:"denyAssignmentName"`
	Description             string       `json:"description"`
	Permissions             []Permission `json:"permissions"`
	Scope                   ref.Scope    `json:"scope"`
	DoNotApplyToChildScopes bool         `json:"doNotApplyToChildScopes"`
	Principals              []Holder     `json:"principals"`
	ExcludePrincipals       []Holder     `json:"excludePrincipals"`
	IsSystemProtected       bool         `json:"isSystemProtected"`
	Condition               string       `json:"condition,omitempty"`
	ConditionVersion        string       `json:"conditionVersion,omitempty"`
}

// A Holder is somebody that a deny assignment names: a principal or group, or
// everybody (the GUID of zeros, or "*").
type Holder struct {
	ID   string `json:"id"`
	Type string `json:"type,omitempty"` // User, Group, ServicePrincipal, SystemDefined
}

// PolicyProperties are the properties of a conditional-access rule: what who does
// where is let through only while the required condition is true. "false" lets nothing
// through.
type PolicyProperties struct {
	DisplayName string   `json:"displayName"`
	Description string   `json:"description,omitempty"`
	State       string   `json:"state"` // enabled, enabledForReportingButNotEnforced or disabled
	Scope       ref.ID   `json:"scope"` // "/" is everywhere
	Principals  Included `json:"principals"`
	Actions     []string `json:"actions"` // patterns
	Require     string   `json:"require"` // a condition
}

// Included says for whom a rule is: ids of principals and groups, "*" for
// everybody. Who is excluded breaks the glass, and that is recorded.
type Included struct {
	Include []string `json:"include"`
	Exclude []string `json:"exclude,omitempty"`
}

// States of a conditional-access rule.
const (
	RuleEnabled  = "enabled"
	RuleReports  = "enabledForReportingButNotEnforced"
	RuleDisabled = "disabled"
)

// LocationProperties are the properties of a named location: where a request is
// from if its address is in one of the networks or its listener is listed.
type LocationProperties struct {
	DisplayName string   `json:"displayName"`
	Networks    []string `json:"networks"` // CIDRs and addresses
	Listeners   []string `json:"listeners"`
}

// GroupProperties are the properties of a management group. Its parent is
// another management group, or "" for the top.
type GroupProperties struct {
	DisplayName string `json:"displayName"`
	Parent      ref.ID `json:"parent,omitempty"`
}

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
	accounts  map[string]account
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
			(&Held{above: l.above}).scopes(scope, func(s ref.Scope) bool {
				q.Under = append(q.Under, at(s))
				return true
			})
		}
	}
	if f.Principal != "" {
		q.Holders = []string{f.Principal}
	}
	docs, err := s.Documents.Find(ctx, q)
	if k.typ == GroupType {
		docs = slices.DeleteFunc(docs, func(d resource.Resource) bool { return !g.Can(GroupRead, d.ID.Scope()) })
	}
	return docs, err
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

// Put creates or replaces a document, if ifMatch holds.
func (s *Store) Put(ctx context.Context, g Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
	k, scope, at, err := find(g, next.ID)
	if err != nil {
		return next, err
	}
	if k.at == scoped && !ref.IsGUID(next.ID.Name()) {
		return next, fault.New(fault.BadRequest, "the name of a %s is a GUID", k.typ)
	}
	return s.put1(ctx, g, k, scope, resource.Resource{ID: at, Type: k.typ, Properties: next.Properties}, ifMatch, next.ID)
}

func (s *Store) put1(ctx context.Context, g Grant, k *kind, scope ref.Scope, doc resource.Resource, ifMatch string, shown ref.ID) (resource.Resource, error) {
	made := doc
	l, err := s.laws.Get(ctx, s.Documents, struct{}{}, s.loadLaws)
	if err != nil {
		return made, err
	}
	accounts, err := s.accountsFor(ctx, k)
	if err != nil {
		return made, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		next := doc
		c := &change{id: doc.ID, scope: scope, next: &next, laws: l, accounts: accounts, more: map[string]string{}}
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
			return exists(ifMatch, err, k.typ, doc.ID.Name())
		}
		if err := s.undoable(ctx, tx, c); err != nil {
			return err
		}
		return s.record(ctx, tx, g, k.write, doc.ID, c.more)
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
	accounts, err := s.accountsFor(ctx, k)
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
		c := &change{id: at, scope: scope, was: &was, accounts: accounts, more: map[string]string{}}
		if err := k.check(ctx, s, tx, g, c); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, at, ifMatch); err != nil {
			return err
		}
		if err := s.undoable(ctx, tx, c); err != nil {
			return err
		}
		return s.record(ctx, tx, g, k.delete, at, c.more)
	})
	if k.typ == DefinitionType {
		was.ID = id
	}
	return was, err
}

// Assign gives a principal a role at a scope and below.
func (s *Store) Assign(ctx context.Context, g Grant, scope ref.Scope, name string, a AssignmentProperties) (resource.Resource, error) {
	id := extensionID(scope, AssignmentType, name)
	if err := cmp.Or(g.Admits(RoleAssignmentWrite, scope).err(RoleAssignmentWrite, scope), second(ref.ParseID(string(id)))); err != nil {
		return resource.Resource{}, err
	}
	text, err := json.Marshal(a)
	if err != nil {
		return resource.Resource{}, err
	}
	k, _ := kindOf(AssignmentType)
	return s.put1(ctx, g, k, scope, resource.Resource{ID: id, Type: AssignmentType, Properties: text}, resource.Any, id)
}

// Unassign takes the assignment away.
func (s *Store) Unassign(ctx context.Context, g Grant, scope ref.Scope, name string) error {
	return second(s.Delete(ctx, g, extensionID(scope, AssignmentType, name), resource.Any))
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

var principalTypes = []string{"", "User", "Group", "ServicePrincipal", "ForeignGroup", "Device"}

func checkAssignment(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	var was Assignment
	var err error
	if c.was != nil {
		if was, err = assignment(*c.was); err != nil {
			return err
		}
	}
	if c.next == nil {
		c.more["principal"], c.more["role"] = was.Principal, was.Role
		was.PrincipalType = c.accounts[was.Principal].typ
		return g.allowsAssignment(RoleAssignmentDelete, &was)
	}
	var p AssignmentProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	r, known := c.laws.role(roleGUID(p.RoleDefinitionID))
	if named, err := RoleByName(p.RoleDefinitionID); !known && err == nil {
		r, known = named, true
	}
	next := Assignment{Principal: strings.ToLower(p.PrincipalID), Role: r.ID, Scope: c.scope}
	next.PrincipalType = c.accounts[next.Principal].typ // what the caller says of it proves nothing
	if err := g.allowsAssignment(RoleAssignmentWrite, &next); err != nil {
		return err
	}
	switch {
	case !known:
		return fault.New(fault.NotFound, "there is no role with this name or id")
	case !c.laws.assignable(r, c.scope):
		return bad("the role %s may not be assigned at this scope; its assignableScopes say where", r.Name)
	case !validPrincipal(p.PrincipalID) || p.PrincipalID == Everybody:
		return bad("principalId is the id of a principal")
	case !slices.Contains(principalTypes, p.PrincipalType):
		return bad("principalType is User, Group or ServicePrincipal")
	case p.PrincipalType != "" && next.PrincipalType != "" && p.PrincipalType != next.PrincipalType:
		return bad("the principal is a %s", next.PrincipalType)
	case p.Scope != "" && ref.ID(p.Scope).Scope() != c.scope:
		return bad("the scope of an assignment is where its id says")
	case len(p.Description) > 1024:
		return bad("a description has at most 1024 characters")
	case !p.Until.IsZero() && !p.Until.After(time.Now()):
		return bad("until is a time to come")
	case p.Condition != "" && (r.ID == QuarantineReaderRole || r.ID == QuarantineWriterRole):
		return bad("the role %s takes no condition", r.Name)
	}
	if err := checkCondition(p.Condition, &p.ConditionVersion); err != nil {
		return err
	}
	if c.was != nil && (was.Role != next.Role || was.Principal != next.Principal) {
		return fault.New(fault.AssignmentUpdate, "an assignment keeps its role and principal; take it away and make another")
	}
	others, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: AssignmentType, Holders: []string{next.Principal}, Under: []ref.ID{assignmentsAt(c.scope)}})
	if err != nil {
		return err
	}
	for _, doc := range others {
		if other, err := assignment(doc); err != nil || other.Role == r.ID && doc.ID.Key() != c.id.Key() {
			return cmp.Or(err, error(fault.New(fault.AssignmentExists, "the role assignment already exists")))
		}
	}
	p.PrincipalType = cmp.Or(p.PrincipalType, next.PrincipalType)
	p.RoleDefinitionID, p.PrincipalID, p.Scope = "/providers/"+DefinitionType+"/"+r.ID, next.Principal, c.scope
	c.next.Holder = next.Principal
	c.more["principal"], c.more["role"] = next.Principal, r.Name
	if p.Condition != "" {
		c.more["condition"] = p.Condition
	}
	if !p.Until.IsZero() {
		c.more["until"] = p.Until.UTC().Format(time.RFC3339)
	}
	return c.store(p)
}

// validPrincipal is lenient: who is assigned to need not have been here yet.
func validPrincipal(id string) bool {
	return id != "" && len(id) <= 128 && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '/' })
}

func validHolders(all []Holder) bool {
	return len(all) <= 200 && !slices.ContainsFunc(all, func(h Holder) bool { return !validPrincipal(h.ID) || len(h.Type) > 64 })
}

func checkDenial(_ context.Context, _ *Store, _ *db.Tx, g Grant, c *change) error {
	if c.next == nil {
		return g.Allows(DenyAssignmentDelete, c.scope)
	}
	if err := g.Allows(DenyAssignmentWrite, c.scope); err != nil {
		return err
	}
	var p DenyProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	switch {
	case p.Name == "" || len(p.Name) > 256 || len(p.Description) > 1024:
		return bad("a deny assignment has a denyAssignmentName of at most 256 characters and a description of at most 1024")
	case p.IsSystemProtected:
		return bad("only the system protects a deny assignment")
	case p.Scope != "" && ref.ID(p.Scope).Scope() != c.scope:
		return bad("the scope of an assignment is where its id says")
	case len(p.Principals) == 0 || !validHolders(p.Principals) || !validHolders(p.ExcludePrincipals):
		return bad("a deny assignment names 1 to 200 principals, and excludes at most 200")
	}
	if err := cmp.Or(validPermissions(p.Permissions), checkCondition(p.Condition, &p.ConditionVersion)); err != nil {
		return err
	}
	p.Scope = c.scope
	c.more["name"] = p.Name
	return c.store(p)
}

func checkPolicy(_ context.Context, _ *Store, _ *db.Tx, g Grant, c *change) error {
	if c.next == nil {
		return g.Allows(PolicyDelete, c.scope)
	}
	if err := g.Allows(PolicyWrite, c.scope); err != nil {
		return err
	}
	var p PolicyProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	p.Scope = cmp.Or(p.Scope, "/")
	valid := func(ids []string) bool {
		return len(ids) <= 500 && !slices.ContainsFunc(ids, func(s string) bool { return !validPrincipal(s) })
	}
	switch {
	case !identity.ValidName(c.id.Name()):
		return badName("rule")
	case len(p.DisplayName) > 256 || len(p.Description) > 1024:
		return bad("a rule has a displayName of at most 256 characters and a description of at most 1024")
	case p.State != RuleEnabled && p.State != RuleReports && p.State != RuleDisabled:
		return bad("the state of a rule is %s, %s or %s", RuleEnabled, RuleReports, RuleDisabled)
	case p.Scope != "/" && second(ref.ParseID(string(p.Scope))) != nil:
		return bad("the scope of a rule is an id, or / for everywhere")
	case len(p.Principals.Include) == 0 || !valid(p.Principals.Include) || !valid(p.Principals.Exclude) || slices.Contains(p.Principals.Exclude, Everybody):
		return bad("a rule includes 1 to 500 principals or groups, or %q, and excludes at most 500", Everybody)
	case len(p.Actions) == 0 || len(p.Actions) > 200 || !validPatterns(p.Actions):
		return bad("a rule names 1 to 200 actions, such as Microsoft.ContainerRegistry/*")
	case p.Require == "":
		return bad("a rule requires a condition")
	}
	if err := second(ParseCondition(p.Require)); err != nil {
		return err
	}
	c.more["state"], c.more["require"] = p.State, p.Require
	c.more["include"], c.more["exclude"] = strings.Join(p.Principals.Include, " "), strings.Join(p.Principals.Exclude, " ")
	return c.store(p)
}

func checkLocation(_ context.Context, _ *Store, _ *db.Tx, g Grant, c *change) error {
	if c.next == nil {
		return g.Allows(LocationDelete, c.scope)
	}
	if err := g.Allows(LocationWrite, c.scope); err != nil {
		return err
	}
	var p LocationProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	named := !slices.ContainsFunc(p.Listeners, func(s string) bool { return s == "" || len(s) > 64 })
	switch {
	case !identity.ValidName(c.id.Name()):
		return badName("location")
	case len(p.DisplayName) > 256 || len(p.Networks) > 1000 || len(p.Listeners) > 100 || len(p.Networks)+len(p.Listeners) == 0 || !named:
		return bad("a location has 1 to 1000 networks or 1 to 100 names of listeners, and a displayName of at most 256 characters")
	}
	for i, text := range p.Networks {
		n, err := network.ParseNetwork(text)
		if err != nil {
			return err
		}
		p.Networks[i] = n.String()
	}
	c.more["networks"], c.more["listeners"] = strings.Join(p.Networks, " "), strings.Join(p.Listeners, " ")
	return c.store(p)
}

// maxGroupDepth is how deep management groups lie in each other, as in Azure.
const maxGroupDepth = 6

func checkGroup(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	action := GroupWrite
	if c.next == nil {
		action = GroupDelete
	}
	if err := g.Allows(action, c.scope); err != nil {
		return err
	}
	groups, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: GroupType})
	if err != nil {
		return err
	}
	parents := map[string]ref.ID{}
	for _, doc := range groups {
		p, err := parse[GroupProperties](doc)
		if err != nil {
			return err
		}
		parents[doc.ID.Key()] = p.Parent
		if c.next == nil && p.Parent.Key() == c.id.Key() {
			return fault.New(fault.Conflict, "the group %s lies in this one; move it first", doc.ID.Name())
		}
	}
	if c.next == nil {
		members, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: MemberType, Under: []ref.ID{c.id}, Limit: 1})
		if err == nil && len(members) > 0 {
			err = fault.New(fault.Conflict, "a subscription lies in the group; move it first")
		}
		return err
	}
	var p GroupProperties
	if err := understand(c.next.Properties, &p); err != nil {
		return err
	}
	if !identity.ValidName(c.id.Name()) || len(p.DisplayName) > 256 {
		return badName("management group")
	}
	// Who puts a group into another lets those in who are assigned to the other.
	if before := parents[c.id.Key()]; before.Key() != p.Parent.Key() {
		for _, at := range []ref.ID{before, p.Parent} {
			if at == "" {
				continue
			}
			if err := cmp.Or(g.Allows(GroupWrite, at.Scope()), g.Allows(RoleAssignmentWrite, c.scope)); err != nil {
				return err
			}
		}
	}
	parents[c.id.Key()] = p.Parent
	for child := range parents {
		depth := 0
		for up := parents[child]; up != ""; up = parents[up.Key()] {
			if _, ok := parents[up.Key()]; !ok {
				return bad("there is no management group %s", up.Name())
			}
			if depth++; depth >= maxGroupDepth {
				return bad("management groups lie in each other at most %d deep, and not in themselves", maxGroupDepth)
			}
		}
	}
	return c.store(p)
}

func checkMember(ctx context.Context, s *Store, tx *db.Tx, g Grant, c *change) error {
	// Who puts a subscription into a group lets those in who are assigned to the group,
	// and who takes it out lifts what is denied there.
	subscription := ref.Subscription(c.id.Name())
	if c.next == nil {
		return cmp.Or(g.Allows(MemberDelete, c.scope), g.Allows(RoleAssignmentWrite, subscription.Scope()))
	}
	if err := cmp.Or(g.Allows(MemberWrite, c.scope), g.Allows(RoleAssignmentWrite, subscription.Scope())); err != nil {
		return err
	}
	if err := understand(c.next.Properties, &struct{}{}); err != nil {
		return err
	}
	if err := s.found(ctx, tx, c.id.Parent(), GroupType); err != nil {
		return err
	}
	if _, err := s.Documents.GetTx(ctx, tx, subscription); err != nil {
		return err
	}
	members, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: MemberType})
	if err != nil {
		return err
	}
	for _, doc := range members {
		if doc.ID.Key() == c.id.Key() || !strings.EqualFold(doc.ID.Name(), c.id.Name()) {
			continue
		}
		if err := g.Allows(MemberDelete, doc.ID.Scope()); err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, doc.ID, resource.Any); err != nil {
			return err
		}
		c.more["from"] = doc.ID.Parent().Name()
	}
	c.next.Properties = json.RawMessage("{}")
	return nil
}

// undoable refuses a change after which nobody could take it back. Somebody must
// remain who is Owner of everything, without condition or end, and to whom no
// enforced rule and no denial applies that would keep it from removing denials and
// rules. This is who breaks the glass; the door records when it does.
func (s *Store) undoable(ctx context.Context, tx *db.Tx, c *change) error {
	matters := c.next != nil && (c.next.Type == PolicyType || c.next.Type == DenyAssignmentType)
	if c.was != nil && c.was.Type == AssignmentType {
		a, err := assignment(*c.was)
		matters = err == nil && a.owns()
	}
	if !matters {
		return nil
	}
	find := func(typ string, under ...ref.ID) ([]resource.Resource, error) {
		return s.Documents.FindTx(ctx, tx, resource.Query{Type: typ, Under: under})
	}
	owners, err1 := find(AssignmentType, assignmentsAt(ref.Everything))
	denials, err2 := find(DenyAssignmentType)
	policies, err3 := find(PolicyType)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	l := &laws{}
	for _, doc := range denials {
		as, err := denial(doc)
		if err != nil {
			return err
		}
		l.denials = append(l.denials, as...)
	}
	for _, doc := range policies {
		r, err := lawOf(doc)
		if err != nil {
			return err
		}
		if r.require != nil && !r.reports {
			l.rules = append(l.rules, r)
		}
	}
	for _, doc := range owners {
		if a, err := assignment(doc); err == nil && a.owns() && c.lives(a.Principal) && l.spare(&identity.Principal{ID: a.Principal}) {
			return nil
		}
	}
	return fault.New(fault.Conflict, "nobody could take this back: exclude somebody who is Owner of everything, without condition or end, from the rules and denials that are for everybody")
}

// lives reports whether somebody can come in as that principal: a random id that no
// enabled account has is nobody's, and never will be. Whom an issuer vouches for
// has a derived id, of which nothing more is known here.
func (c *change) lives(principal string) bool {
	random := ref.IsGUID(principal) && principal[14] == '4'
	return !random || c.accounts[principal].enabled
}

// owns reports whether a is everything, for everything and for ever.
func (a *Assignment) owns() bool {
	return a.Scope == ref.Everything && a.Role == OwnerRole && a.Until.IsZero() && a.Condition == nil
}

// spare reports whether denials and rules leave p what it takes to remove them.
func (l *laws) spare(p *identity.Principal) bool {
	h := l.of(p)
	for _, as := range h.deny {
		for _, a := range as {
			if slices.ContainsFunc(a.Permissions, func(p Permission) bool { return p.denies(DenyAssignmentDelete, "") || p.denies(PolicyDelete, "") }) {
				return false
			}
		}
	}
	at := ref.ID("/providers/" + PolicyType).Scope()
	for scope, rules := range h.rules {
		for _, r := range rules {
			if (scope.Covers(at) || at.Covers(scope)) && !r.excluded && slices.ContainsFunc(r.actions, (&Need{Action: PolicyDelete}).named) {
				return false
			}
		}
	}
	return true
}

// Spare excludes a principal from every enforced rule and denial that would keep
// it from removing them, each on record. It is for the owner whom a start makes
// anew: whoever has the machine has the server, and can always take a rule back.
func (s *Store) Spare(ctx context.Context, g Grant, principal string) error {
	if err := cmp.Or(g.Allows(PolicyWrite, ref.Everything), g.Allows(DenyAssignmentWrite, ref.Everything)); err != nil {
		return err
	}
	p := &identity.Principal{ID: principal}
	for _, typ := range []string{PolicyType, DenyAssignmentType} {
		docs, err := s.Documents.Find(ctx, resource.Query{Type: typ})
		if err != nil {
			return err
		}
		for _, doc := range docs {
			var l laws
			var next any
			if typ == PolicyType {
				r, err1 := lawOf(doc)
				was, err2 := parse[PolicyProperties](doc)
				err = errors.Join(err1, err2)
				was.Principals.Exclude = append(was.Principals.Exclude, principal)
				if next = was; r.require != nil && !r.reports {
					l.rules = []law{r}
				}
			} else {
				was, err1 := parse[DenyProperties](doc)
				as, err2 := denial(doc)
				err = errors.Join(err1, err2)
				was.ExcludePrincipals = append(was.ExcludePrincipals, Holder{ID: principal})
				l.denials, next = as, was
			}
			if err != nil {
				return err
			}
			if l.spare(p) {
				continue
			}
			k, scope, at, err := split(doc.ID)
			if err != nil {
				return err
			}
			text, err := json.Marshal(next)
			if err != nil {
				return err
			}
			if _, err := s.put1(ctx, g, k, scope, resource.Resource{ID: at, Type: k.typ, Properties: text}, doc.Etag, at); err != nil {
				return err
			}
		}
	}
	return nil
}
