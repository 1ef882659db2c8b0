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
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

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
	if err := identity.CheckName("rule", c.id.Name()); err != nil {
		return err
	}
	p.Scope = cmp.Or(p.Scope, "/")
	valid := func(ids []string) bool { // Azure's GUID for everybody would be nobody's here
		return len(ids) <= 500 && !slices.ContainsFunc(ids, func(s string) bool { return !validPrincipal(s) || s == identity.RefreshUser })
	}
	switch {
	case len(p.DisplayName) > 256 || len(p.Description) > 1024:
		return bad("a rule has a displayName of at most 256 characters and a description of at most 1024")
	case p.State != RuleEnabled && p.State != RuleReports && p.State != RuleDisabled:
		return bad("the state of a rule is %s, %s or %s", RuleEnabled, RuleReports, RuleDisabled)
	case p.Scope != "/" && second(ref.ParseID(string(p.Scope))) != nil:
		return bad("the scope of a rule is an id, or / for everywhere")
	case len(p.Principals.Include) == 0 || !valid(p.Principals.Include) || !valid(p.Principals.Exclude) || slices.Contains(p.Principals.Exclude, Everybody):
		return bad("a rule includes the GUIDs of 1 to 500 principals or groups, or %q, and excludes at most 500", Everybody)
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
	if err := identity.CheckName("location", c.id.Name()); err != nil {
		return err
	}
	named := !slices.ContainsFunc(p.Listeners, func(s string) bool { return s == "" || len(s) > 64 })
	if len(p.DisplayName) > 256 || len(p.Networks) > 1000 || len(p.Listeners) > 100 || len(p.Networks)+len(p.Listeners) == 0 || !named {
		return bad("a location has 1 to 1000 networks or 1 to 100 names of listeners, and a displayName of at most 256 characters")
	}
	for i, text := range p.Networks {
		n, err := network.ParseNetwork(text)
		if err != nil {
			return err
		}
		p.Networks[i] = n.String()
	}
	p.Networks, p.Listeners = append([]string{}, p.Networks...), append([]string{}, p.Listeners...) // never null
	c.more["networks"], c.more["listeners"] = strings.Join(p.Networks, " "), strings.Join(p.Listeners, " ")
	return c.store(p)
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
		a, err := assignment(doc)
		if err != nil || !a.owns() || !l.spare(&identity.Principal{ID: a.Principal}) {
			continue
		}
		if ok, err := s.lives(ctx, tx, a.Principal); ok || err != nil {
			return err
		}
	}
	return fault.New(fault.Conflict, "nobody could take this back: exclude somebody who is Owner of everything, without condition or end, from the rules and denials that are for everybody")
}

// lives reports whether somebody can come in as that principal.
func (s *Store) lives(ctx context.Context, tx *db.Tx, principal string) (bool, error) {
	_, ok, err := s.Account(ctx, tx, principal)
	return ok, err
}

// Account is where the account of a principal is, and whether somebody can come in as
// that: a random id that no enabled account has is nobody's, and never will be. Whom an
// issuer vouches for has a derived id, of which nothing more is known here, and "".
func (s *Store) Account(ctx context.Context, tx *db.Tx, principal string) (at ref.ID, lives bool, err error) {
	if !ref.IsGUID(principal) || principal[14] != '4' {
		return "", true, nil
	}
	of, err := s.account(ctx, tx, principal)
	return of.id, of.enabled, err
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
				was.ExcludePrincipals = append(was.ExcludePrincipals, Named{ID: principal})
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
			if _, err := s.write(ctx, g, k, scope, resource.Resource{ID: at, Type: k.typ, Properties: text}, doc.Etag, at); err != nil {
				return err
			}
		}
	}
	return nil
}
