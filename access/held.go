package access

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"breakwater/identity"
	"breakwater/ref"
)

// Everybody is who a denial or rule may be for: every caller, also one that shows
// nothing. A denial that ends where the credential is put away would be none.
const Everybody = "*"

// An Assignment lets a principal do what a role (or the listed actions) names,
// at a scope and below it. Deny takes it away instead, whoever else gives it.
type Assignment struct {
	Name          string       // of its document, to say which it was
	Principal     string       // id of a principal or group; "" is the anonymous caller
	PrincipalType string       //
	Role          string       // GUID of a role; "" if Actions or Permissions says it
	Actions       []Action     // instead of a role: exactly these, in any mode
	Permissions   []Permission // instead of a role
	Scope         ref.Scope    //
	Prefix        string       // only for repositories at or below Scope whose name starts so: "samples/"
	Here          bool         // not below Scope
	Deny          bool         //
	Exclude       []string     // principals and groups to whom a denial does not apply
	Until         time.Time    // zero for no end
	Condition     *Condition   // nil for none
}

// Held is what one caller is assigned and which rules there are for it:
// everything that a decision needs beside the question. It is indexed by scope, so
// that a decision looks only at what lies on the way from the place in question to
// the top, however much is assigned elsewhere. nil is nothing.
type Held struct {
	allow, deny map[ref.Scope][]*Assignment
	rules       map[ref.Scope][]*rule
	locations   []location
	above       ancestry
}

// NewHeld indexes assignments; their roles are built-in ones.
func NewHeld(as ...Assignment) *Held {
	h := &Held{}
	for _, a := range as {
		if r, ok := role(a.Role); ok {
			a.Permissions = r.Permissions
		}
		h.add(a)
	}
	return h
}

func (h *Held) add(a Assignment) {
	to := &h.allow
	if a.Deny {
		to = &h.deny
	}
	if *to == nil {
		*to = map[ref.Scope][]*Assignment{}
	}
	(*to)[a.Scope] = append((*to)[a.Scope], &a)
}

// A rule is a conditional-access rule that is for the caller.
type rule struct {
	name     string
	actions  []string
	require  *Condition
	reports  bool // … and does not refuse
	excluded bool // it is for everybody around the caller
}

// A location is a named place that requests come from.
type location struct {
	name      string
	networks  []netip.Prefix
	listeners []string
}

func (l *location) has(c Circumstances) bool {
	return slices.Contains(l.listeners, c.Listener) ||
		slices.ContainsFunc(l.networks, func(n netip.Prefix) bool { return n.Contains(c.Address) })
}

// An ancestry is the management groups over each subscription and management group,
// the nearest first.
type ancestry map[ref.Scope][]ref.Scope

// scopes goes through the scopes that cover s, from the widest, until see says
// no. They are the prefixes of s that end before a "/", because scopes are ids;
// beside a subscription and a management group stand the groups that they are in.
func (above ancestry) scopes(s ref.Scope, see func(ref.Scope) bool) {
	if !see(ref.Everything) || s == ref.Everything {
		return
	}
	tree := len(s)
	if name, ok := s.Repository(); ok {
		tree -= len("repositories/") + len(name) // a repository's name is not a tree of rights
	}
	for i := 1; i <= len(s); i++ {
		if i < len(s) && (s[i] != '/' || i >= tree) {
			continue
		}
		for _, group := range above[s[:i]] {
			if !see(group) {
				return
			}
		}
		if !see(s[:i]) {
			return
		}
	}
}

func (h *Held) decide(q *question) Decision {
	p, n := q.caller, q.need
	if h == nil || p.Kind == "" || n.Action == "" || n.Scope == "" {
		return Decision{Reason: Unassigned}
	}
	if p.Ceiling != nil && !under(p.Ceiling, n) {
		return Decision{Reason: Ceiled}
	}
	q.locations = h.locations
	d := Decision{Reason: Unassigned}
	h.above.scopes(n.Scope, func(s ref.Scope) bool {
		for _, a := range h.deny[s] {
			if a.denies(q) {
				d = Decision{Reason: Denied, Rule: a.Name}
				return false
			}
		}
		if !d.Allowed && slices.ContainsFunc(h.allow[s], func(a *Assignment) bool { return a.allows(q) }) {
			d.Allowed, d.Reason = true, Assigned
		}
		return true
	})
	if !d.Allowed || h.rules == nil {
		return d
	}
	h.above.scopes(n.Scope, func(s ref.Scope) bool {
		for _, r := range h.rules[s] {
			switch {
			case !slices.ContainsFunc(r.actions, n.named) || q.met(r.require):
			case r.excluded && !r.reports:
				d.BrokeGlass = append(d.BrokeGlass, r.name)
			case r.excluded:
			case r.reports:
				d.Reported = append(d.Reported, r.name)
			case d.Allowed:
				d.Allowed, d.Reason, d.Rule = false, Ruled, r.name
			}
		}
		return true
	})
	return d
}

// named reports whether the pattern names what is needed. In a registry with
// legacy permissions an action on content has the name of the control-plane action
// too: a condition or rule that names either is about both.
func (n *Need) named(pattern string) bool {
	if match(pattern, n.Action) {
		return true
	}
	c, either, _ := control(n.Action)
	return (either || n.Mode != ABAC) && match(pattern, c)
}

func (a *Assignment) allows(q *question) bool {
	n := q.need
	if !a.isFor(q.caller) || !a.holds(q) {
		return false
	}
	if a.Actions != nil {
		return slices.Contains(a.Actions, n.Action) && q.met(a.Condition)
	}
	return slices.ContainsFunc(a.Permissions, func(p Permission) bool { return p.allows(n.Action, n.Mode) }) && q.met(a.Condition)
}

func (a *Assignment) denies(q *question) bool {
	n := q.need
	if a.Principal != Everybody && !a.isFor(q.caller) || has(a.Exclude, q.caller) || !a.holds(q) {
		return false
	}
	if a.Actions != nil {
		return slices.Contains(a.Actions, n.Action) && !q.escaped(a.Condition)
	}
	return slices.ContainsFunc(a.Permissions, func(p Permission) bool { return p.denies(n.Action, n.Mode) }) && !q.escaped(a.Condition)
}

// isFor reports whether the caller, or a group that it is in, is assigned to.
func (a *Assignment) isFor(p *identity.Principal) bool {
	return a.Principal == p.ID || slices.Contains(p.Groups, a.Principal)
}

// has reports whether the caller or one of its groups is listed.
func has(ids []string, p *identity.Principal) bool {
	return slices.ContainsFunc(ids, func(id string) bool { return id == p.ID && id != "" || slices.Contains(p.Groups, id) })
}

// holds is what the place, the name and the time say about an assignment that
// lies on the way.
func (a *Assignment) holds(q *question) bool {
	if !a.Until.IsZero() && !q.now.Before(a.Until) || a.Here && a.Scope != q.need.Scope {
		return false
	}
	if a.Prefix == "" {
		return true
	}
	repo, ok := q.need.Scope.Repository()
	return ok && strings.HasPrefix(string(repo), a.Prefix)
}

// some reports whether what is assigned at a scope that covers s, or lies below
// it, is ever as is asked.
func (h *Held) some(s ref.Scope, is func(*Assignment) bool) bool {
	if h == nil {
		return false
	}
	found := false
	h.above.scopes(s, func(at ref.Scope) bool {
		found = slices.ContainsFunc(h.allow[at], is)
		return !found
	})
	for at, as := range h.allow {
		if found {
			break
		}
		found = s.Covers(at) && slices.ContainsFunc(as, is)
	}
	return found
}
