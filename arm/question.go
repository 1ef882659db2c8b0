package arm

import (
	"net/http"
	"strings"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
)

// A question is asked about no resource of a kind: what the server is and can do,
// and lists that go across kinds.
type question struct {
	method, pattern string // of a path, with names in braces; {scope} is any resource
	operation       access.Action
	needs           bool // the operation is a right, at the resource that the path begins with
	anyone          bool // also who is not known may ask
	ask             func(a *API, w http.ResponseWriter, r *http.Request, g access.Grant, q asked) error
}

// What was asked: the resource that the path begins with, and the names after it.
type asked struct {
	at    ref.ID
	names []string
}

// Beside Azure's, these have names of their own: they change nothing that Azure
// has a right for.
const (
	endpointsRead   access.Action = "Breakwater.Server/endpoints/read"
	locationsRead   access.Action = SubscriptionType + "/locations/read"
	resourcesRead   access.Action = SubscriptionType + "/resources/read"
	groupsRead      access.Action = SubscriptionType + "/resourceGroups/resources/read"
	providersRead   access.Action = SubscriptionType + "/providers/read"
	providerAdd     access.Action = SubscriptionType + "/providers/register/action"
	operationsRead  access.Action = "Microsoft.Resources/providers/operations/read"
	categoriesRead  access.Action = "Microsoft.Insights/eventCategories/read"
	permissionsRead access.Action = "Microsoft.Authorization/permissions/read"
)

// questions are those there are. What the server can do is no secret from whoever
// is known to it; a list across kinds needs no right, because it has what the
// caller may see.
var questions = []question{
	{http.MethodGet, "/metadata/endpoints", endpointsRead, false, true, (*API).endpoints},
	{http.MethodGet, "/subscriptions/{}/locations", locationsRead, false, false, (*API).locations},
	{http.MethodGet, "/subscriptions/{}/resources", resourcesRead, false, false, (*API).resources},
	{http.MethodGet, "/subscriptions/{}/resourceGroups/{}/resources", groupsRead, false, false, (*API).resources},
	{http.MethodGet, "/subscriptions/{}/providers", providersRead, false, false, (*API).providers},
	{http.MethodGet, "/subscriptions/{}/providers/{}", providersRead, false, false, (*API).provider},
	{http.MethodPost, "/subscriptions/{}/providers/{}/register", providerAdd, true, false, (*API).provider},
	{http.MethodGet, "/providers", providersRead, false, false, (*API).providers},
	{http.MethodGet, "/providers/{}", providersRead, false, false, (*API).provider},
	{http.MethodGet, "/providers/{}/operations", operationsRead, false, false, (*API).operations},
	{http.MethodGet, "/subscriptions/{}/providers/Microsoft.Insights/eventtypes/management/values", access.EventRead, false, false, (*API).activity},
	{http.MethodGet, "/providers/Microsoft.Insights/eventtypes/management/values", access.EventRead, false, false, (*API).activity},
	{http.MethodGet, "/providers/Microsoft.Insights/eventcategories", categoriesRead, false, false, (*API).categories},
	{http.MethodGet, "{scope}/providers/Microsoft.Authorization/permissions", permissionsRead, false, false, (*API).permissions},
}

// question is the one that the path asks; nil if it names a resource. allowed says
// whether there is one for the method.
func (a *API) question(r *http.Request) (found *question, q asked, allowed bool) {
	parts := segments(r.URL.Path)
	for i := range questions {
		of := &questions[i]
		pattern, before := segments(of.pattern), 0
		if pattern[0] == "{scope}" {
			pattern, before = pattern[1:], len(parts)-len(pattern)+1
		}
		if before < 0 {
			continue
		}
		names, ok := matches(pattern, parts[before:])
		if !ok {
			continue
		}
		if before == 0 {
			q = begins(parts, names)
		} else {
			t, err := parse(strings.Join(parts[:before], "/"))
			if err != nil || t.Last != "" {
				return nil, q, false
			}
			q = asked{t.ID, names}
		}
		found = of
		if of.method == r.Method {
			return found, q, true
		}
	}
	return found, q, false
}

// matches takes names out of a path, if it has the pattern.
func matches(pattern, parts []string) (names []string, ok bool) {
	if len(pattern) != len(parts) {
		return nil, false
	}
	for i, p := range pattern {
		if p == "{}" {
			names = append(names, parts[i])
		} else if !strings.EqualFold(p, parts[i]) {
			return nil, false
		}
	}
	return names, true
}

func segments(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// begins splits off the subscription or resource group that a path begins with.
func begins(parts, names []string) asked {
	at := within(ref.ID("/" + strings.Join(parts, "/")))
	if len(at) == 0 {
		return asked{"", names}
	}
	return asked{at[len(at)-1], names[len(at):]}
}

func (a *API) routeQuestion(r *http.Request, of *question, q asked) (gate.Call, error) {
	if q.at != "" {
		if _, err := ref.ParseID(string(q.at)); err != nil {
			return gate.Call{}, err
		}
	}
	call := gate.Call{
		Operation: string(of.operation), Category: ledger.Administrative, Plane: identity.ControlPlane, Read: true, Anyone: of.anyone,
		Handler: func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
			if kind := g.Principal().Kind; !of.anyone && !of.needs && (kind == identity.Token || kind == identity.Admin) {
				return fault.New(fault.Denied, "this account is for content only") // there is nothing here that it could see
			}
			return of.ask(a, w, r, g, q)
		},
	}
	if of.needs {
		call.Needs = []gate.Need{{Action: of.operation, Scope: scope(q.at)}}
	}
	return call, nil
}
