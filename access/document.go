package access

import (
	"context"

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

// DefinitionProperties are the properties of a role definition.
type DefinitionProperties struct {
	RoleName         string       `json:"roleName"`
	Type             string       `json:"type"` // BuiltInRole or CustomRole
	Description      string       `json:"description"`
	AssignableScopes []ref.ID     `json:"assignableScopes"`
	Permissions      []Permission `json:"permissions"`
}

// A Permission is a set of actions, as patterns that may hold "*".
type Permission struct {
	Actions        []string `json:"actions"`
	NotActions     []string `json:"notActions"`
	DataActions    []string `json:"dataActions"`
	NotDataActions []string `json:"notDataActions"`
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
// where is let through only while the required condition is true.
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

// Get reads one document of a type of this room. Built-in role definitions are at
// every scope.
func (s *Store) Get(ctx context.Context, g Grant, id ref.ID) (resource.Resource, error) {
	return resource.Resource{}, fault.New(fault.Unavailable, "not yet")
}

// A Filter narrows a list of role assignments, as $filter of Azure does.
type Filter struct {
	Exactly   bool   // only at under itself (without: also below it)
	Above     bool   // and at the scopes above it: atScope() is both
	Principal string // principalId eq '…'
	RoleName  string // roleName eq '…', of definitions
}

// List reads the documents of one type at the scope under, after the document
// after, in the order of their ids. limit 0 is all.
func (s *Store) List(ctx context.Context, g Grant, typ string, under, after ref.ID, limit int, f Filter) ([]resource.Resource, error) {
	return nil, fault.New(fault.Unavailable, "not yet")
}

// Put creates or replaces a document, if ifMatch holds.
func (s *Store) Put(ctx context.Context, g Grant, next resource.Resource, ifMatch string) (resource.Resource, error) {
	return resource.Resource{}, fault.New(fault.Unavailable, "not yet")
}

// Delete removes a document, if ifMatch holds, and returns what it was.
func (s *Store) Delete(ctx context.Context, g Grant, id ref.ID, ifMatch string) (resource.Resource, error) {
	return resource.Resource{}, fault.New(fault.Unavailable, "not yet")
}
