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
	Read, Write, Delete access.Action

	Get    func(ctx context.Context, g access.Grant, id ref.ID) (resource.Resource, error)
	List   func(ctx context.Context, g access.Grant, under, after ref.ID, limit int) ([]resource.Resource, error)
	Put    func(ctx context.Context, g access.Grant, next resource.Resource, ifMatch string) (resource.Resource, error)
	Remove func(ctx context.Context, g access.Grant, id ref.ID, ifMatch string) error

	Actions []Action
}

// An Action is something else that can be done with a resource: POST id/name.
type Action struct {
	Name  string
	Right access.Action
	Run   func(ctx context.Context, g access.Grant, id ref.ID, body json.RawMessage) (any, error)
}

// An API is the control plane.
type API struct {
	ledger *ledger.Ledger
	kinds  map[string]*Kind // by type in lower case
	routes []gate.Route
}

// New makes the control plane of these kinds, and of the events in l.
func New(l *ledger.Ledger, kinds ...Kind) *API {
	a := &API{ledger: l, kinds: map[string]*Kind{}}
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
	one := pattern(k.Type)
	list := one[:strings.LastIndexByte(one, '/')]
	for _, r := range []gate.Route{
		{Method: http.MethodGet, Pattern: list, Action: k.Read},
		{Method: http.MethodGet, Pattern: one, Action: k.Read},
		{Method: http.MethodPut, Pattern: one, Action: k.Write},
		{Method: http.MethodPatch, Pattern: one, Action: k.Write},
		{Method: http.MethodDelete, Pattern: one, Action: k.Delete},
	} {
		if r.Action != "" {
			r.Operation = string(r.Action)
			all = append(all, r)
		}
	}
	for _, a := range k.Actions {
		all = append(all, gate.Route{Method: http.MethodPost, Pattern: one + "/" + a.Name, Operation: string(a.Right), Action: a.Right})
	}
	return all
}

// pattern is the path of a resource of a type, with names in braces.
func pattern(typ string) string {
	namespace, rest, _ := strings.Cut(typ, "/")
	path := "/subscriptions/{}"
	switch {
	case strings.EqualFold(typ, SubscriptionType):
		return path
	case strings.EqualFold(typ, ResourceGroupType):
		return path + "/resourceGroups/{}"
	}
	path += "/resourceGroups/{}/providers/" + namespace
	for part := range strings.SplitSeq(rest, "/") {
		path += "/" + part + "/{}"
	}
	return path
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
	kind := a.kinds[strings.ToLower(t.Type)]
	if t.Last == "" {
		if kind == nil {
			return gate.Call{}, unknown()
		}
		return one(r, kind, t)
	}
	if of := a.kinds[strings.ToLower(t.List)]; of != nil {
		if r.Method != http.MethodGet {
			return gate.Call{}, notOffered(r.Method)
		}
		return gate.Call{
			Operation: string(of.Read), Category: ledger.Administrative, Read: true, Plane: identity.ControlPlane,
			Needs:   []gate.Need{{Action: of.Read, Scope: scope(t.ID)}},
			Handler: list(of, t.ID),
		}, nil
	}
	if kind != nil {
		for _, action := range kind.Actions {
			if !strings.EqualFold(action.Name, t.Last) {
				continue
			}
			if r.Method != http.MethodPost {
				return gate.Call{}, notOffered(r.Method)
			}
			return gate.Call{
				Operation: string(action.Right), Category: ledger.Administrative, Plane: identity.ControlPlane,
				Needs:   []gate.Need{{Action: action.Right, Scope: scope(t.ID)}},
				Handler: act(action, t.ID),
			}, nil
		}
	}
	return gate.Call{}, unknown()
}

func one(r *http.Request, k *Kind, t target) (gate.Call, error) {
	call := gate.Call{Category: ledger.Administrative, Plane: identity.ControlPlane}
	var right access.Action
	switch r.Method {
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
		return gate.Call{}, notOffered(r.Method)
	}
	call.Operation, call.Needs = string(right), []gate.Need{{Action: right, Scope: scope(t.ID)}}
	return call, nil
}

func notOffered(method string) error {
	return fault.New(fault.MethodNotAllowed, "%s is not offered here", method)
}

// Error is a refusal as Resource Manager words it.
func (a *API) Error(w http.ResponseWriter, _ *http.Request, f *fault.Error) {
	row := f.Code.Row()
	if row.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="Breakwater", charset="UTF-8"`)
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
