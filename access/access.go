// Package access decides what a caller may do (PA-7), and under which circumstances
// it may come in (IM-7).
//
// A permission is an assignment: principal, actions, scope, condition, until. The
// actions of repository tokens, of the admin user and of anonymous callers are
// assignments too. Denials override them, and conditional-access rules refuse what
// is done in another way than they require. Decide is the one place that says yes;
// it has no memory and reads nothing. A Grant carries who was let in, and the domain
// asks it on the first line of every operation.
package access

import (
	"context"
	"slices"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

// A Need is one thing that somebody wants to do somewhere, and how.
type Need struct {
	Action Action
	Scope  ref.Scope
	Mode   Mode // how the registry at Scope reads roles; "" is Legacy
	From   Circumstances
}

// A Decision is the answer and what led to it.
type Decision struct {
	Allowed    bool
	Reason     Reason
	Rule       string   // name of the deny assignment or conditional-access rule that refused
	Reported   []string // names of rules that would have refused if they were enforced
	BrokeGlass []string // names of rules that would have refused but exclude the caller
}

// A Reason is why a Decision is as it is.
type Reason string

const (
	Assigned   Reason = "assigned"
	Unassigned Reason = "no assignment allows it"
	Denied     Reason = "an assignment denies it"
	Ruled      Reason = "a conditional-access rule refuses it"
	Ceiled     Reason = "the token was not issued for it"
)

// Decide answers whether p may do n at the time now. A denial overrides; without
// a match the answer is no; a token's ceiling narrows what its principal may; and
// what is allowed may still be refused by a rule. An assignment counts if its
// condition is true, a denial unless its condition is false, and a rule lets
// through only what it requires.
func Decide(p identity.Principal, have *Held, n Need, now time.Time) Decision {
	return have.decide(&question{caller: &p, need: &n, now: now})
}

// under reports whether the ceiling leaves room for n: an entry names the
// repository (or what of the registry is listed) and the action. What is not about
// content is never under a ceiling.
func under(c *identity.Ceiling, n *Need) bool {
	for _, row := range content {
		if row.Action != n.Action {
			continue
		}
		typ, name, actions := "registry", row.Registry, []string{"*"}
		if repo, ok := n.Scope.Repository(); ok {
			typ, name, actions = "repository", string(repo), row.Scopes
		}
		for i := range c.Access {
			e := &c.Access[i]
			if e.Type == typ && name != "" && (e.Name == name || e.Name == AnyRepository && typ == "repository") &&
				slices.ContainsFunc(actions, func(a string) bool { return slices.Contains(e.Actions, a) }) {
				return true
			}
		}
	}
	return false
}

// AnyRepository is the name, in a ceiling, of every repository: what a client asks
// for that lets the registry find a blob to mount. It opens nothing by itself.
const AnyRepository = "*"

// A Registry is the registry that a grant is for, as far as decisions need it.
type Registry struct {
	UID           string
	ID            ref.ID
	Mode          Mode
	AnonymousPull bool
}

// A Call is the circumstances of a request, for the events it causes.
type Call struct {
	Correlation string
	Operation   string // what the surface calls it: PullManifest
	From        ledger.From
	Start       time.Time // of the request; zero if unknown
}

// A Grant is what a caller may do in one registry. It is made by the door and
// asked by the domain. The zero Grant opens nothing.
type Grant struct{ in *granted }

type granted struct {
	registry  Registry
	scope     ref.Scope // of the registry
	principal identity.Principal
	held      *Held
	call      Call
}

// NewGrant holds what a caller may do until the request ends.
func NewGrant(r Registry, p identity.Principal, have *Held, c Call) Grant {
	return Grant{&granted{r, r.ID.Scope(), p, have, c}}
}

// ServerGrant is for what the process does without being asked, such as its
// first start: it may do everything, and its events say who it was.
func ServerGrant(r Registry, c Call) Grant {
	p := identity.ThisServer()
	return NewGrant(r, p, NewHeld(Assignment{Principal: p.ID, Role: OwnerRole, Scope: ref.Everything}), c)
}

// Allows is nil if the caller may do a at the scope, now; otherwise the Refusal.
func (g Grant) Allows(a Action, scope ref.Scope) error { return g.Decide(a, scope).err(a, scope) }

func (d Decision) err(a Action, scope ref.Scope) error {
	if d.Allowed {
		return nil
	}
	return Refusal(a, scope)
}

// Refusal is the fault that says no, in the same words whatever the reason.
func Refusal(a Action, scope ref.Scope) error {
	return fault.New(fault.Denied, "the caller has no right to do this; ask the registry's owner for an assignment").
		With(map[string]string{"action": string(a), "scope": string(scope)})
}

// Can is Allows as a yes or no.
func (g Grant) Can(a Action, scope ref.Scope) bool { return g.Decide(a, scope).Allowed }

// Decide is Can with its reason.
func (g Grant) Decide(a Action, scope ref.Scope) Decision {
	return g.decide(func(q *question) { q.need.Action, q.need.Scope = a, scope })
}

// Admits is what the door asks: Decide, but what only the domain knows (which role
// is assigned to whom, which repository of a catalog is meant, whether it is the
// quarantine alone that shall change) may still be anything. The domain asks again,
// for each.
func (g Grant) Admits(a Action, scope ref.Scope) Decision {
	_, repository := scope.Repository()
	d := g.decide(func(q *question) {
		q.need.Action, q.need.Scope = a, scope
		q.open = a == RoleAssignmentWrite || a == RoleAssignmentDelete || a == CatalogRead || a == DeletedRead && !repository
	})
	if a == MetadataWrite && d.Reason == Unassigned {
		return g.Admits(QuarantineWrite, scope)
	}
	return d
}

// allowsAssignment is Allows for one role assignment, which conditions may judge.
func (g Grant) allowsAssignment(a Action, of *Assignment) error {
	return g.decide(func(q *question) { q.need.Action, q.need.Scope, q.need.From.Assignment = a, of.Scope, of }).err(a, of.Scope)
}

// Lists reports whether the catalog shows the repository to the caller: it may
// list there, and nothing keeps it from the content. The door has asked whether
// the caller's token is for the catalog.
func (g Grant) Lists(r ref.Repository) bool {
	if !g.unceiled(CatalogRead, g.RepositoryScope(r)).Allowed {
		return false
	}
	why := g.unceiled(ContentRead, g.RepositoryScope(r)).Reason
	return why != Denied && why != Ruled
}

// ListsDeleted is Lists for the catalog of what was deleted.
func (g Grant) ListsDeleted(r ref.Repository) bool {
	return g.unceiled(DeletedRead, g.RepositoryScope(r)).Allowed
}

// Hides reports whether a denial or a rule keeps the caller from a at the scope. A
// list that shows what lies below a scope leaves out what is hidden there.
func (g Grant) Hides(a Action, scope ref.Scope) bool {
	why := g.Decide(a, scope).Reason
	return why == Denied || why == Ruled
}

// unceiled decides as if the caller's token had been asked for everything.
func (g Grant) unceiled(a Action, scope ref.Scope) Decision {
	return g.decide(func(q *question) {
		p := *q.caller
		p.Ceiling = nil
		q.caller, q.need.Action, q.need.Scope = &p, a, scope
	})
}

func (g Grant) decide(set func(*question)) Decision {
	if g.in == nil {
		return Decision{Reason: Unassigned}
	}
	q := question{caller: &g.in.principal, now: time.Now(), need: &Need{Mode: g.in.registry.Mode,
		From: Circumstances{Address: g.in.call.From.Seen(), Listener: g.in.call.From.Listener, Operation: g.in.call.Operation}}}
	set(&q)
	return g.in.held.decide(&q)
}

// Unasked reports whether only the ceiling of the caller's token is in the way: with
// a token that was asked for this, it could. It depends on the caller's rights
// alone, so that to say so tells nothing about what exists.
func (g Grant) Unasked(a Action, scope ref.Scope) bool {
	return g.Decide(a, scope).Reason == Ceiled && g.unceiled(a, scope).Allowed
}

// UnaskedAnywhere reports whether the ceiling of the caller's token leaves out the
// repositories that it does not name, although the caller has the right somewhere.
func (g Grant) UnaskedAnywhere(a Action) bool {
	return g.in != nil && g.in.principal.Ceiling != nil && g.anywhere(a) &&
		!under(g.in.principal.Ceiling, &Need{Action: a, Scope: g.RepositoryScope(AnyRepository)})
}

// Registry is the UID of the registry; "" for the zero Grant.
func (g Grant) Registry() string {
	if g.in == nil {
		return ""
	}
	return g.in.registry.UID
}

// RegistryID is the resource id of the registry.
func (g Grant) RegistryID() ref.ID {
	if g.in == nil {
		return ""
	}
	return g.in.registry.ID
}

// Scope is the scope of the whole registry.
func (g Grant) Scope() ref.Scope {
	if g.in == nil {
		return ""
	}
	return g.in.scope
}

// RepositoryScope is the scope of one repository of the registry.
func (g Grant) RepositoryScope(r ref.Repository) ref.Scope {
	return g.Scope() + "/repositories/" + ref.Scope(r)
}

// Principal is the caller.
func (g Grant) Principal() identity.Principal {
	if g.in == nil {
		return identity.Principal{}
	}
	return g.in.principal
}

// Origin is where the caller is.
func (g Grant) Origin() network.Origin {
	if g.in == nil {
		return network.Origin{}
	}
	f := g.in.call.From
	return network.Origin{Addr: f.Address, Listener: f.Listener, Endpoint: f.Endpoint, Told: f.Told}
}

// Event starts an event about what the caller did: who, from where, in which
// registry and in which request.
func (g Grant) Event(category, operation string, scope ref.Scope) ledger.Event {
	now := time.Now()
	e := ledger.Event{Time: now, Category: category, Operation: operation, Scope: scope, Outcome: ledger.Success}
	if g.in == nil {
		return e
	}
	e.Registry, e.Who, e.From, e.Correlation = g.in.registry.UID, g.in.principal.Who(), g.in.call.From, g.in.call.Correlation
	if !g.in.call.Start.IsZero() {
		e.Duration = now.Sub(g.in.call.Start)
	}
	return e
}

// Record appends the event of a change of what is at the id to the ledger, at the end
// of its transaction.
func (g Grant) Record(ctx context.Context, tx *db.Tx, l *ledger.Ledger, a Action, id ref.ID, more map[string]string) error {
	e := g.Event(ledger.Administrative, string(a), id.Scope())
	e.Detail.More = more
	return l.Append(ctx, tx, e)
}

// Modified says who changes a document now.
func (g Grant) Modified() resource.SystemData {
	p := g.Principal()
	return resource.SystemData{LastModifiedBy: p.ID, LastModifiedByType: string(p.Kind)}
}

// Sees reports whether the caller has been given anything at the scope, above or
// below: then it may know that there is such a place, as the way to its own.
func (g Grant) Sees(scope ref.Scope) bool {
	return g.in != nil && g.in.held.some(scope, func(a *Assignment) bool {
		return a.isFor(&g.in.principal) && (a.Until.IsZero() || time.Now().Before(a.Until))
	})
}

// Permissions is what the caller is assigned at the scope, for its own eyes: who
// may is still decided when something is done. What a denial may take away is left
// out, and what depends on circumstances is there.
func (g Grant) Permissions(scope ref.Scope) []Permission {
	all, none := []Permission{}, Permission{}
	if g.in == nil || g.in.held == nil {
		return all
	}
	q := &question{caller: &g.in.principal, now: time.Now(), open: true, need: &Need{Scope: scope}}
	g.in.held.above.scopes(scope, func(at ref.Scope) bool {
		for _, a := range g.in.held.deny[at] {
			if (a.Principal == Everybody || a.isFor(q.caller)) && !has(a.Exclude, q.caller) && a.holds(q) {
				for _, p := range a.Permissions {
					none.NotActions = append(none.NotActions, p.Actions...)
					none.NotDataActions = append(none.NotDataActions, p.DataActions...)
				}
			}
		}
		for _, a := range g.in.held.allow[at] {
			if a.isFor(q.caller) && a.holds(q) {
				all = append(all, a.Permissions...)
			}
		}
		return true
	})
	for i := range all {
		all[i].NotActions = slices.Concat(all[i].NotActions, none.NotActions)
		all[i].NotDataActions = slices.Concat(all[i].NotDataActions, none.NotDataActions)
	}
	return all
}

// anywhere reports whether some assignment gives the caller a at some repository
// of the registry. A denial elsewhere does not matter: it is heard where the right
// is used.
func (g Grant) anywhere(a Action) bool {
	if g.in == nil || g.in.held == nil {
		return false
	}
	q := &question{caller: &g.in.principal, now: time.Now(), locations: g.in.held.locations, open: true,
		need: &Need{Action: a, Scope: g.Scope(), Mode: g.in.registry.Mode}}
	return g.in.held.some(g.Scope(), func(a *Assignment) bool {
		somewhere := *a
		somewhere.Prefix = ""
		return somewhere.allows(q)
	})
}

// Ask is the part of the asked scopes that the caller has a right to, for the
// access claim of a token. Asking for too much is no error: what is missing is
// refused where it is used. So what depends on how it is used is not missing here.
func (g Grant) Ask(asked []identity.Access) []identity.Access {
	given := []identity.Access{}
	for _, of := range asked {
		var actions []string
		for _, row := range content {
			scopes := row.Scopes
			if of.Type == "registry" {
				scopes = []string{"*"}
			}
			for _, scope := range scopes {
				if (slices.Contains(of.Actions, scope) || slices.Contains(of.Actions, "*")) && !slices.Contains(actions, scope) && g.may(row.Action, row.Registry, of) {
					actions = append(actions, scope)
				}
			}
		}
		if actions != nil {
			given = append(given, identity.Access{Type: of.Type, Name: of.Name, Actions: actions})
		}
	}
	return given
}

// may reports whether the caller may do a at what a scope of the token endpoint
// names; registry is what such a scope calls it there.
func (g Grant) may(a Action, registry string, of identity.Access) bool {
	switch {
	case of.Type == "registry":
		return registry != "" && of.Name == registry && g.mayUse(a, g.Scope())
	case of.Type != "repository":
		return false
	case of.Name == AnyRepository:
		return g.anywhere(a)
	}
	repo, err := ref.ParseRepository(of.Name)
	return err == nil && g.mayUse(a, g.RepositoryScope(repo))
}

func (g Grant) mayUse(a Action, scope ref.Scope) bool {
	return g.decide(func(q *question) {
		q.need.Action, q.need.Scope, q.need.From.Operation, q.open = a, scope, "", true
	}).Allowed
}

// Settings is the section of a registry's properties that this control owns. The
// zero value is the safe one.
type Settings struct {
	AnonymousPullEnabled bool `json:"anonymousPullEnabled"`
	RoleAssignmentMode   Mode `json:"roleAssignmentMode,omitempty"` // Legacy (default) or ABAC
}

// Check refuses settings whose meaning is not certain.
func (s Settings) Check() error {
	if s.RoleAssignmentMode != "" && s.RoleAssignmentMode != Legacy && s.RoleAssignmentMode != ABAC {
		return fault.New(fault.BadRequest, "roleAssignmentMode is %s or %s", Legacy, ABAC)
	}
	return nil
}
