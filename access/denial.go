package access

import (
	"cmp"
	"context"
	"slices"

	"breakwater/db"
	"breakwater/ref"
)

// DenyProperties are the properties of a deny assignment.
type DenyProperties struct {
	Name                    string       `json:"denyAssignmentName"`
	Description             string       `json:"description"`
	Permissions             []Permission `json:"permissions"`
	Scope                   ref.Scope    `json:"scope"`
	DoNotApplyToChildScopes bool         `json:"doNotApplyToChildScopes"`
	Principals              []Named      `json:"principals"`
	ExcludePrincipals       []Named      `json:"excludePrincipals"`
	IsSystemProtected       bool         `json:"isSystemProtected"`
	Condition               string       `json:"condition,omitempty"`
	ConditionVersion        string       `json:"conditionVersion,omitempty"`
}

// A Named is somebody that a deny assignment names: a principal or group, or
// everybody (the GUID of zeros, or "*").
type Named struct {
	ID   string `json:"id"`
	Type string `json:"type,omitempty"` // User, Group, ServicePrincipal, SystemDefined
}

func validNamed(all []Named) bool {
	return len(all) <= 200 && !slices.ContainsFunc(all, func(n Named) bool { return !validPrincipal(n.ID) || len(n.Type) > 64 })
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
	case len(p.Principals) == 0 || !validNamed(p.Principals) || !validNamed(p.ExcludePrincipals):
		return bad("a deny assignment names the GUIDs of 1 to 200 principals, and excludes at most 200")
	}
	if err := cmp.Or(validPermissions(p.Permissions), checkCondition(p.Condition, &p.ConditionVersion)); err != nil {
		return err
	}
	p.Scope = c.scope
	c.more["name"] = p.Name
	return c.store(p)
}
