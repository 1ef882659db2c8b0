package access

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
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
	return s.write(ctx, g, k, scope, resource.Resource{ID: id, Type: AssignmentType, Properties: text}, resource.Any, id)
}

// Unassign takes the assignment away.
func (s *Store) Unassign(ctx context.Context, g Grant, scope ref.Scope, name string) error {
	return second(s.Delete(ctx, g, extensionID(scope, AssignmentType, name), resource.Any))
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
		of, err := s.account(ctx, tx, was.Principal)
		if err != nil {
			return err
		}
		was.PrincipalType = of.typ
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
	to := strings.ToLower(p.PrincipalID)
	of, err := s.account(ctx, tx, to)
	if err != nil {
		return err
	}
	// What the caller says of its type proves nothing.
	next := Assignment{Principal: to, PrincipalType: of.typ, Role: r.ID, Scope: c.scope}
	if err := g.allowsAssignment(RoleAssignmentWrite, &next); err != nil {
		return err
	}
	switch {
	case !known:
		return noRole(p.RoleDefinitionID)
	case !c.laws.assignable(r, c.scope):
		return bad("the role %s may not be assigned at this scope; its assignableScopes say where", r.Name)
	case !validPrincipal(p.PrincipalID) || p.PrincipalID == Everybody:
		return bad("principalId is the GUID of a principal or group, not its name")
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
			return cmp.Or(err, error(fault.New(fault.AssignmentExists, "the role assignment already exists: %s", doc.ID.Name())))
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

// validPrincipal wants an id, and not that somebody has it: who is assigned to need
// not have been here yet. A name would be nobody's id.
func validPrincipal(id string) bool { return id == Everybody || ref.IsGUID(id) }
