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
	"breakwater/registry"
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
	Same    bool           // PUT always answers 200, for the same reason
	Silent  bool           // DELETE always answers 204, for the same reason
	Whole   []string       // properties that are replaced, and not merged, when they are sent
	Filters []string       // that its lists know
	Where   []string       // … or the fields of resourceFields that theirs asks about, as lists across kinds do
	Beside  []string       // of sku and identity: what it has beside its properties. Get and Put have them among the properties; a PUT replaces each whole
	Shown   func(view) any // what callers see, if it is more than a view

	Get    func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error)
	List   func(ctx context.Context, g access.Grant, q Query) ([]resource.Resource, error)
	Put    func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error)
	Remove func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) (resource.Resource, error) // what it was, or the receipt of that, if the answer shall show it
	Stays  func(id ref.ID) error                                                                           // why it cannot be deleted, whoever asks; nil for none
	Ready  func(ctx context.Context, g access.Grant, id ref.ID) error                                      // why it cannot be deleted yet; nil for none

	Actions []Action
	Asks    []Action // of its provider, in a subscription: POST /subscriptions/S/providers/NAMESPACE/name; without one if the kind is above all
}

// A Query says which resources a list has: those at or below Under, in order of
// their ids, after After, at most Limit.
type Query struct {
	Under, After ref.ID
	Limit        int
	Filter       access.Filter
	Where        *where
}

// An Action is something else that can be done with a resource: POST id/name.
type Action struct {
	Name  string
	Get   bool // GET id/name it is, as Azure has it where a list is none of resources
	Right access.Action
	Reads bool                                                                                    // it changes nothing, so it is the door that records it
	Run   func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error) // nil has no body
}

// Options say what an API stands on.
type Options struct {
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Identity  *identity.Store // proves the callers
	Domain    string          // <name>.DOMAIN is the registry <name>; "" for none
}

func (a Action) method() string {
	if a.Get {
		return http.MethodGet
	}
	return http.MethodPost
}

// An API is the control plane.
type API struct {
	o      Options
	kinds  map[string]*Kind  // by type in lower case
	asks   map[string]Action // by the type of where it is asked, namespace and name, in lower case
	routes []gate.Route
}

// New makes the control plane of these kinds, and of what is asked about no kind.
func New(o Options, rooms ...[]Kind) *API {
	a := &API{o: o, kinds: map[string]*Kind{}, asks: map[string]Action{}}
	kinds := slices.Concat(rooms...)
	for i := range kinds {
		a.kinds[strings.ToLower(kinds[i].Type)] = &kinds[i]
		a.routes = append(a.routes, kinds[i].routes()...)
		for _, ask := range kinds[i].Asks {
			place, path := SubscriptionType, kinds[i].namespace()+"/"+ask.Name
			pattern := "/subscriptions/{}/providers/" + path
			if kinds[i].Place == inTenant {
				place, pattern = "", "/providers/"+path
			}
			a.asks[strings.ToLower(place+" "+path)] = ask
			a.routes = append(a.routes, gate.Route{Method: ask.method(), Pattern: pattern, Operation: string(ask.Right), Action: ask.Right})
		}
	}
	if k := a.kinds[strings.ToLower(ResourceGroupType)]; k != nil {
		k.Remove = a.empties(k.Remove)
	}
	a.routes = append(a.routes, eventsRoute)
	for _, q := range questions {
		route := gate.Route{Method: q.method, Pattern: q.pattern, Operation: string(q.operation)}
		if q.needs {
			route.Action = q.operation
		}
		a.routes = append(a.routes, route)
	}
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
		route(http.MethodHead, one, k.Read, k.Read)
	}
	if k.Write != "" {
		route(http.MethodPut, one, k.Write, k.Write)
		route(http.MethodPatch, one, k.Write, k.Write)
	}
	if k.Delete != "" {
		route(http.MethodDelete, one, k.Delete, k.Delete)
	}
	for _, a := range k.Actions {
		route(a.method(), one+"/"+a.Name, a.Right, a.Right)
	}
	return all
}

func (k *Kind) namespace() string {
	namespace, _, _ := strings.Cut(k.Type, "/")
	return namespace
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

// Route finds the kind and the verb. It says nothing about what exists. What lies
// in a registry is about that registry, at whichever host it is asked for.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	call, err := a.find(r)
	if h := call.Handler; h != nil {
		call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
			stamp(w, r)
			return h(w, r, g)
		}
	}
	return call, err
}

// stamp gives an answer the ids that Azure's clients log: the server's of the
// request, and their own.
func stamp(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h["X-Ms-Request-Id"] = h["X-Ms-Correlation-Request-Id"]
	if own := r.Header.Get("X-Ms-Client-Request-Id"); ref.IsGUID(own) {
		h["X-Ms-Client-Request-Id"] = []string{own}
	}
}

func (a *API) find(r *http.Request) (gate.Call, error) {
	if of, q, ok := a.question(r); of != nil {
		if !ok {
			return gate.Call{}, notOffered(r.Method)
		}
		return a.routeQuestion(r, of, q)
	}
	t, err := parse(r.URL.Path)
	if err != nil {
		return gate.Call{}, err
	}
	call, err := a.route(r, t)
	if call.Registry = registry.Of(t.ID); call.Registry != "" && err == nil && (t.ID != call.Registry || t.Last != "") {
		call.Handler = inside(call.Handler)
	}
	return call, err
}

// inside is for what lies in a registry: where there is none, there is nothing.
func inside(h gate.Handler) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		if g.RegistryID() == "" {
			return absent(registry.Type)
		}
		return h(w, r, g)
	}
}

func (a *API) route(r *http.Request, t target) (gate.Call, error) {
	if t.ID == "" && strings.EqualFold(t.List, eventsType) {
		return a.routeEvents(r)
	}
	call := gate.Call{Category: ledger.Administrative, Plane: identity.ControlPlane}
	kind := a.kind(t.Type, t)
	if t.Last == "" {
		if kind == nil || kind.Get == nil {
			return gate.Call{}, unknown()
		}
		return a.one(call, r.Method, kind, t)
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
	if ask, ok := a.asks[strings.ToLower(t.Type+" "+t.List)]; ok {
		return ask.call(call, r.Method, t.ID, scope(t.ID))
	}
	if kind != nil {
		for _, action := range kind.Actions {
			if strings.EqualFold(action.Name, t.Last) {
				return action.call(call, r.Method, t.ID, kind.at(t))
			}
		}
	}
	return gate.Call{}, unknown()
}

func (a Action) call(call gate.Call, method string, id ref.ID, at ref.Scope) (gate.Call, error) {
	if method != a.method() {
		return gate.Call{}, notOffered(method)
	}
	call.Operation, call.Read, call.Handler = string(a.Right), a.Reads, act(a, id)
	call.Needs = []gate.Need{{Action: a.Right, Scope: at}}
	return call, nil
}

func (a *API) one(call gate.Call, method string, k *Kind, t target) (gate.Call, error) {
	var right access.Action
	switch method {
	case http.MethodGet:
		right, call.Read, call.Handler = k.Read, true, get(k, t.ID)
	case http.MethodHead:
		right, call.Read, call.Handler = k.Read, true, head(k, t.ID)
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
	call.Handler = a.inPlace(call.Handler, t.ID, method)
	return call, nil
}

// inPlace says of a resource that is not there whether its subscription or its
// group is missing: clients tell them apart. Nothing is made where these are not, and
// nothing is deleted with a denial on it by who may not delete that: else it could be
// made again without.
func (a *API) inPlace(h gate.Handler, id ref.ID, method string) gate.Handler {
	return func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		switch method {
		case http.MethodPut:
			if err := a.missing(r.Context(), id, false); err != nil {
				return err
			}
		case http.MethodDelete:
			denials, err := a.o.Documents.List(r.Context(), id, access.DenyAssignmentType, "", 0)
			if err != nil {
				return err
			}
			for _, doc := range denials {
				t, err := parse(string(doc.ID))
				if err := cmp.Or(err, g.Allows(access.DenyAssignmentDelete, scope(t.On))); err != nil {
					return err
				}
			}
		}
		err := h(w, r, g)
		if fault.Of(err) == fault.NotFound {
			err = cmp.Or(a.missing(r.Context(), id, true), err)
		}
		return err
	}
}

// missing is which of what the id lies in, or the id itself, is not there, if that
// is a subscription or a resource group.
func (a *API) missing(ctx context.Context, id ref.ID, itself bool) error {
	at := within(id)
	for i, code := range []fault.Code{fault.SubscriptionNotFound, fault.GroupNotFound} {
		if i >= len(at) || at[i] == id && !itself {
			continue
		}
		if _, err := a.o.Documents.Get(ctx, at[i]); fault.Of(err) == fault.NotFound {
			return fault.New(code, "there is no %s", at[i])
		} else if err != nil {
			return err
		}
	}
	return nil
}

func notOffered(method string) error {
	return fault.New(fault.MethodNotAllowed, "%s is not offered here", method)
}

// Error is a refusal as Resource Manager words it.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	stamp(w, r)
	row := f.Code.Row()
	if row.Status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = []string{
			fmt.Sprintf(`Bearer authorization_uri="https://%s/%s", error="invalid_token", error_description="show an access token for this API"`, r.Host, a.o.Identity.Tenant()),
			`Basic realm="Breakwater", charset="UTF-8"`,
		}
	}
	_ = gate.WriteJSON(w, row.Status, map[string]any{"error": map[string]string{ // fails only with the connection
		"code": row.ARM, "message": f.Message,
	}})
}
