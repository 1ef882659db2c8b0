package access

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// laws are the documents that are not about one principal: custom roles, denials,
// conditional-access rules, named locations and management groups. They are few,
// and read together.
type laws struct {
	roles     map[string]Role // custom ones, by GUID
	denials   []Assignment    // one for each principal that a denial names
	rules     []law
	locations []location
	above     ancestry
}

// A law is a conditional-access rule with whom it is for.
type law struct {
	rule
	scope            ref.Scope
	include, exclude []string
}

func (s *Store) loadLaws(ctx context.Context) (*laws, error) {
	l := &laws{roles: map[string]Role{}, above: ancestry{}}
	parents := map[string]ref.ID{}
	for _, read := range []struct {
		typ string
		doc func(resource.Resource) error
	}{
		{DefinitionType, func(doc resource.Resource) error {
			r, err := definition(doc)
			l.roles[r.ID] = r
			return err
		}},
		{DenyAssignmentType, func(doc resource.Resource) error {
			as, err := denial(doc)
			l.denials = append(l.denials, as...)
			return err
		}},
		{LocationType, func(doc resource.Resource) error {
			at, err := locationOf(doc)
			l.locations = append(l.locations, at)
			return err
		}},
		{PolicyType, func(doc resource.Resource) error {
			r, err := lawOf(doc)
			if err == nil && r.require != nil {
				l.rules = append(l.rules, r)
			}
			return err
		}},
		{GroupType, func(doc resource.Resource) error {
			p, err := parse[GroupProperties](doc)
			parents[doc.ID.Key()] = p.Parent
			return err
		}},
		{MemberType, func(doc resource.Resource) error {
			parents[ref.Subscription(doc.ID.Name()).Key()] = doc.ID.Parent()
			return nil
		}},
	} {
		docs, err := s.Documents.List(ctx, "", read.typ, "", 0)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if err := read.doc(doc); err != nil {
				return nil, err
			}
		}
	}
	for child := range parents {
		var chain []ref.Scope
		for up := parents[child]; up != "" && len(chain) < maxGroupDepth; up = parents[up.Key()] {
			chain = append(chain, up.Scope())
		}
		l.above[ref.ID(child).Scope()] = chain
	}
	return l, nil
}

// of is what the laws say of p.
func (l *laws) of(p *identity.Principal) *Held {
	h := &Held{locations: l.locations, above: l.above}
	for _, a := range l.denials {
		if (a.Principal == Everybody || a.isFor(p)) && !has(a.Exclude, p) {
			h.add(a)
		}
	}
	for _, r := range l.rules {
		if !has(r.include, p) && !slices.Contains(r.include, Everybody) {
			continue
		}
		if h.rules == nil {
			h.rules = map[ref.Scope][]*rule{}
		}
		mine := r.rule
		mine.excluded = has(r.exclude, p)
		h.rules[r.scope] = append(h.rules[r.scope], &mine)
	}
	return h
}

// assigned is the role assignments of p and of its groups at scopes that cover r
// or lie in it; at all scopes, if r is none. An assignment whose role is
// gone, or may no longer be assigned there, gives nothing.
func (s *Store) assigned(ctx context.Context, r Registry, p identity.Principal, l *laws) ([]Assignment, error) {
	q := resource.Query{Type: AssignmentType, Holders: append([]string{p.ID}, p.Groups...)}
	if r.ID != "" {
		l.above.scopes(r.ID.Scope(), func(at ref.Scope) bool {
			q.Under = append(q.Under, assignmentsAt(at))
			return true
		})
		q.Under = append(q.Under, r.ID)
	}
	docs, err := s.Documents.Find(ctx, q)
	if err != nil {
		return nil, err
	}
	as := make([]Assignment, 0, len(docs))
	for _, doc := range docs {
		a, err := assignment(doc)
		if err != nil {
			return nil, err
		}
		if role, ok := l.role(a.Role); ok && l.assignable(role, a.Scope) {
			a.Permissions = role.Permissions
			as = append(as, a)
		}
	}
	return as, nil
}

// role finds a role by its GUID, built-in or custom.
func (l *laws) role(guid string) (Role, bool) {
	if r, ok := role(guid); ok {
		return r, true
	}
	r, ok := l.roles[guid]
	return r, ok
}

// assignable reports whether the role may be assigned at the scope.
func (l *laws) assignable(r Role, at ref.Scope) bool {
	ok := r.Scopes == nil
	l.above.scopes(at, func(s ref.Scope) bool {
		for _, a := range r.Scopes {
			ok = ok || a == s
		}
		return !ok
	})
	return ok
}

// parse reads the properties of a document.
func parse[P any](doc resource.Resource) (p P, err error) {
	if err = json.Unmarshal(doc.Properties, &p); err != nil {
		err = fmt.Errorf("read %s: %w", doc.ID, err)
	}
	return p, err
}

// condition is what a document says must be true. One that cannot be read (it was
// written by another version) is unknown: an assignment gives nothing then, and a
// denial or rule refuses.
func condition(text string) *Condition {
	if text == "" {
		return nil
	}
	c, err := ParseCondition(text)
	if err != nil {
		c = &Condition{text, constant(unknown)}
	}
	return c
}

func assignment(doc resource.Resource) (Assignment, error) {
	p, err := parse[AssignmentProperties](doc)
	return Assignment{Name: doc.ID.Name(), Principal: strings.ToLower(p.PrincipalID), PrincipalType: p.PrincipalType, Role: roleGUID(p.RoleDefinitionID),
		Scope: scopeOf(doc.ID), Until: p.Until, Condition: condition(p.Condition)}, err
}

// roleGUID is the last segment of a role definition id: whatever stands before it,
// the role is the same.
func roleGUID(id string) string { return strings.ToLower(id[strings.LastIndexByte(id, '/')+1:]) }

func definition(doc resource.Resource) (Role, error) {
	p, err := parse[DefinitionProperties](doc)
	r := Role{ID: strings.ToLower(doc.ID.Name()), Name: p.RoleName, Description: p.Description, Permissions: p.Permissions, Scopes: []ref.Scope{}}
	for _, id := range p.AssignableScopes {
		r.Scopes = append(r.Scopes, id.Scope())
	}
	return r, err
}

func denial(doc resource.Resource) ([]Assignment, error) {
	p, err := parse[DenyProperties](doc)
	as := make([]Assignment, len(p.Principals))
	for i, to := range p.Principals {
		as[i] = Assignment{Name: doc.ID.Name(), Principal: to.principal(), Permissions: p.Permissions, Scope: scopeOf(doc.ID),
			Here: p.DoNotApplyToChildScopes, Deny: true, Condition: condition(p.Condition)}
		for _, not := range p.ExcludePrincipals {
			as[i].Exclude = append(as[i].Exclude, not.principal())
		}
	}
	return as, err
}

// principal is the id that is meant; Azure has a GUID of zeros for everybody.
func (n Named) principal() string {
	if n.ID == ref.NoGUID {
		return Everybody
	}
	return strings.ToLower(n.ID)
}

func locationOf(doc resource.Resource) (location, error) {
	p, err := parse[LocationProperties](doc)
	at := location{name: doc.ID.Name(), listeners: p.Listeners}
	for _, text := range p.Networks {
		n, bad := network.ParseNetwork(text)
		if bad != nil {
			n.Prefix = netip.Prefix{} // contains nothing
		}
		at.networks = append(at.networks, n.Prefix)
	}
	return at, err
}

// lawOf has no condition if the rule is disabled.
func lawOf(doc resource.Resource) (law, error) {
	p, err := parse[PolicyProperties](doc)
	r := law{scope: p.Scope.Scope(), include: lowerAll(p.Principals.Include), exclude: lowerAll(p.Principals.Exclude)}
	r.name, r.actions, r.reports = doc.ID.Name(), p.Actions, p.State == RuleReports
	if p.State != RuleDisabled {
		r.require = condition(p.Require)
	}
	return r, err
}

func lowerAll(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = strings.ToLower(s)
	}
	return out
}

// assignmentsAt is what the role assignments at exactly this scope lie below.
func assignmentsAt(at ref.Scope) ref.ID {
	return ref.ID(strings.TrimSuffix(string(at), "/") + "/providers/" + AssignmentType)
}

// scopeOf is the scope at which an assignment with that id holds.
func scopeOf(id ref.ID) ref.Scope {
	at := strings.LastIndex(id.Key(), "/providers/")
	if at <= 0 {
		return ref.Everything
	}
	return id[:at].Scope()
}

func extensionID(scope ref.Scope, typ, name string) ref.ID {
	return ref.ID(strings.TrimSuffix(string(scope), "/") + "/providers/" + typ + "/" + name)
}
