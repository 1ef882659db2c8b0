// Package arm is the dialect of the control plane: resources at
// /subscriptions/…, as Azure's Resource Manager spells them.
//
// It is generic over kinds: a resource type is one row. Paths, merging, etags,
// paging and errors are the same for all, and are here once.
package arm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A Kind is a resource type. What it does is done by the room that owns the
// type: that asks the grant, commits and records. A verb without a right is not
// offered.
//
// The Properties of a resource are here those that callers see. Put gets them
// with the caller's changes merged in, and takes of them what may be changed.
// ifMatch is one of resource's expectations, or the etag of what was merged.
type Kind struct {
	Type                string // as it is spelled: Microsoft.ContainerRegistry/registries/tokens
	Place               place
	Read, Write, Delete access.Action

	Seen    bool           // a list needs no right: it has what the caller may see
	Made    bool           // PUT always answers 201: Azure's clients take nothing else here
	Filters []string       // that its lists know
	Shown   func(view) any // what callers see, if it is more than a view

	Get    func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error)
	List   func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error)
	Put    func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error)
	Remove func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) // what it was, if the answer shall show it

	Actions []Action
}

// A Query says which resources a list has: those at or below Under, in order of
// their ids, after After, at most Limit.
type Query struct {
	Under, After ref.ID
	Limit        int
	Filter       access.Filter
}

// An Action is something else that can be done with a resource: POST id/name.
type Action struct {
	Name  string
	Right access.Action
	Reads bool                                                                                    // it changes nothing, so it is the door that records it
	Run   func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) // nil has no body
}

// An API is the control plane.
type API struct {
	ledger *ledger.Ledger
	ids    *identity.Store
	kinds  map[string]*Kind // by type in lower case
	routes []gate.Route
}

// New makes the control plane of these kinds, and of the events in l, for callers
// whom ids prove.
func New(l *ledger.Ledger, ids *identity.Store, rooms ...[]Kind) *API {
	a := &API{ledger: l, ids: ids, kinds: map[string]*Kind{}}
	kinds := slices.Concat(rooms...)
	for i := range kinds {
		a.kinds[strings.ToLower(kinds[i].Type)] = &kinds[i]
		a.routes = append(a.routes, kinds[i].routes()...)
	}
	a.routes = append(a.routes, eventsRoute)
	slices.SortStableFunc(a.routes, func(x, y gate.Route) int { return cmp.Compare(x.Pattern, y.Pattern) })
	return a
}

// Routes lists what Route answers.
func (a *API) Routes() []gate.Route { return a.routes }

func (k *Kind) routes() (all []gate.Route) {
	one := k.pattern()
	list := one[:strings.LastIndexByte(one, '/')]
	route := func(method, pattern string, needs, name access.Action) {
		all = append(all, gate.Route{Method: method, Pattern: pattern, Operation: string(name), Action: needs})
	}
	if k.Seen {
		route(http.MethodGet, list, "", k.Read)
	} else {
		route(http.MethodGet, list, k.Read, k.Read)
	}
	if k.Get != nil {
		route(http.MethodGet, one, k.Read, k.Read)
	}
	if k.Write != "" {
		route(http.MethodPut, one, k.Write, k.Write)
		route(http.MethodPatch, one, k.Write, k.Write)
	}
	if k.Delete != "" {
		route(http.MethodDelete, one, k.Delete, k.Delete)
	}
	for _, a := range k.Actions {
		route(http.MethodPost, one+"/"+a.Name, a.Right, a.Right)
	}
	return all
}

// pattern is the path of a resource of the kind, with names in braces; {scope} is
// any id, or nothing.
func (k *Kind) pattern() string {
	namespace, rest, _ := strings.Cut(k.Type, "/")
	path := "/providers/" + namespace
	switch k.Place {
	case inGroup:
		path = "/subscriptions/{}/resourceGroups/{}" + path
	case extension:
		path = "{scope}" + path
	case above:
		path = ""
		if strings.EqualFold(k.Type, ResourceGroupType) {
			path = "/subscriptions/{}"
		}
	}
	for part := range strings.SplitSeq(rest, "/") {
		path += "/" + part + "/{}"
	}
	return path
}

// lies reports whether the target is where resources of the kind are. Those of a
// group are also listed above it.
func (k *Kind) lies(t target) bool {
	switch k.Place {
	case extension:
		return t.Place != above
	case inGroup:
		top := t.Last != "" && strings.Count(k.Type, "/") == 1
		return t.Place == inGroup || top && (t.Place == inTenant || strings.EqualFold(t.Type, SubscriptionType))
	}
	return t.Place == k.Place
}

// at is where rights on the target are needed: an extension is a matter of what
// it lies on.
func (k *Kind) at(t target) ref.Scope {
	if k.Place == extension {
		return scope(t.On)
	}
	return scope(t.ID)
}

// kind is the kind of a type, if it is offered at the target.
func (a *API) kind(typ string, t target) *Kind {
	if k := a.kinds[strings.ToLower(typ)]; k != nil && k.lies(t) {
		return k
	}
	return nil
}

// Route finds the kind and the verb. It says nothing about what exists.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	t, err := parse(r.URL.Path)
	if err != nil {
		return gate.Call{}, err
	}
	if t.ID == "" && strings.EqualFold(t.List, eventsType) {
		return a.routeEvents(r)
	}
	call := gate.Call{Category: ledger.Administrative, Plane: identity.ControlPlane}
	kind := a.kind(t.Type, t)
	if t.Last == "" {
		if kind == nil || kind.Get == nil {
			return gate.Call{}, unknown()
		}
		return one(call, r.Method, kind, t)
	}
	if of := a.kind(t.List, t); of != nil {
		if r.Method != http.MethodGet {
			return gate.Call{}, notOffered(r.Method)
		}
		call.Operation, call.Read, call.Handler = string(of.Read), true, list(of, t.ID)
		if !of.Seen {
			call.Needs = []gate.Need{{Action: of.Read, Scope: of.at(t)}}
		}
		return call, nil
	}
	if kind != nil {
		for _, action := range kind.Actions {
			if !strings.EqualFold(action.Name, t.Last) {
				continue
			}
			if r.Method != http.MethodPost {
				return gate.Call{}, notOffered(r.Method)
			}
			call.Operation, call.Read, call.Handler = string(action.Right), action.Reads, act(action, t.ID)
			call.Needs = []gate.Need{{Action: action.Right, Scope: kind.at(t)}}
			return call, nil
		}
	}
	return gate.Call{}, unknown()
}

func one(call gate.Call, method string, k *Kind, t target) (gate.Call, error) {
	var right access.Action
	switch method {
	case http.MethodGet:
		right, call.Read, call.Handler = k.Read, true, get(k, t.ID)
	case http.MethodPut:
		right, call.Handler = k.Write, put(k, t.ID, false)
	case http.MethodPatch:
		right, call.Handler = k.Write, put(k, t.ID, true)
	case http.MethodDelete:
		right, call.Handler = k.Delete, remove(k, t.ID)
	}
	if right == "" {
		return gate.Call{}, notOffered(method)
	}
	call.Operation, call.Needs = string(right), []gate.Need{{Action: right, Scope: k.at(t)}}
	return call, nil
}

func notOffered(method string) error {
	return fault.New(fault.MethodNotAllowed, "%s is not offered here", method)
}

// Error is a refusal as Resource Manager words it.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	row := f.Code.Row()
	if row.Status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = []string{
			fmt.Sprintf(`Bearer authorization_uri="https://%s/%s", error="invalid_token", error_description="show an access token for this API"`, r.Host, a.ids.Tenant()),
			`Basic realm="Breakwater", charset="UTF-8"`,
		}
	}
	_ = answer(w, row.Status, map[string]any{"error": map[string]string{ // fails only with the connection
		"code": row.ARM, "message": f.Message,
	}})
}

func answer(w http.ResponseWriter, status int, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err = w.Write(text)
	return err
}
