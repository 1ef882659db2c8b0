// Package graph is the dialect of the directory: as much of Microsoft Graph as
// Azure's clients ask to turn the name of a principal into its id, and back.
//
// It only shows. Who is to be known, and what proves it, is changed at the control
// plane, under the same rights.
package graph

import (
	"fmt"
	"net/http"
	"strings"

	"breakwater/access"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
)

// Root is where every path of this API begins.
const Root = "/v1.0/"

// An API is Microsoft Graph over the directory. It implements gate.Surface.
type API struct {
	Directory *directory.Store
	Identity  *identity.Store
}

// A row is something that is answered; {} stands for any one segment. A list has
// what the caller may see, and the right stands for what it needs to see any of it.
type row struct {
	method, pattern, operation string
	right                      access.Action
	handle                     func(a *API, w http.ResponseWriter, r *http.Request, g access.Grant, of string) error
}

var rows = []row{
	{"GET", "me", "ShowCaller", "", (*API).me},
	{"GET", "servicePrincipals", string(access.ServicePrincipalRead), access.ServicePrincipalRead, clients.list},
	{"GET", "servicePrincipals/{}", string(access.ServicePrincipalRead), access.ServicePrincipalRead, clients.get},
	{"GET", "users", string(access.UserRead), access.UserRead, people.list},
	{"GET", "users/{}", string(access.UserRead), access.UserRead, people.get},
	{"POST", "directoryObjects/getByIds", "ResolvePrincipals", "", (*API).byIDs},
}

// Routes lists what Route answers.
func (*API) Routes() []gate.Route {
	all := make([]gate.Route, len(rows))
	for i, row := range rows {
		all[i] = gate.Route{Method: row.method, Pattern: Root + row.pattern, Operation: row.operation, Action: row.right}
	}
	return all
}

// Route finds the row. The rights are asked by the directory, for each object that
// is meant: which of them is, only it knows.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	path := strings.Split(strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, Root), "/"), "/")
	var methods []string
	for _, row := range rows {
		of, ok := match(row.pattern, path)
		if !ok {
			continue
		}
		if row.method != r.Method {
			methods = append(methods, row.method)
			continue
		}
		return gate.Call{
			Operation: row.operation, Category: ledger.Administrative, Plane: identity.ControlPlane, Read: true,
			Handler: func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
				switch g.Principal().Kind {
				case identity.User, identity.ServicePrincipal, identity.ManagedIdentity, identity.Federated:
					return row.handle(a, w, r, g, of)
				}
				return fault.New(fault.Denied, "this account is for content only")
			},
		}, nil
	}
	if methods != nil {
		return gate.Call{}, fault.New(fault.MethodNotAllowed, "this path answers %s; the directory is changed at /providers/Breakwater.Identity", strings.Join(methods, ", "))
	}
	return gate.Call{}, fault.New(fault.NotFound, "this server shows users and servicePrincipals here, and nothing else of Microsoft Graph; both are made at /providers/Breakwater.Identity")
}

// match compares without regard to case; a name keeps its own.
func match(pattern string, path []string) (of string, ok bool) {
	want := strings.Split(pattern, "/")
	if len(want) != len(path) {
		return "", false
	}
	for i, segment := range want {
		if segment == "{}" {
			of = path[i]
		}
		if path[i] == "" || segment != "{}" && !strings.EqualFold(segment, path[i]) {
			return "", false
		}
	}
	return of, true
}

// codes are how Graph calls what went wrong, by status.
var codes = map[int]string{
	http.StatusBadRequest:   "Request_BadRequest",
	http.StatusUnauthorized: "InvalidAuthenticationToken",
	http.StatusForbidden:    "Authorization_RequestDenied",
	http.StatusNotFound:     "Request_ResourceNotFound",
}

// Error is a refusal as Graph words it.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	row := f.Code.Row()
	if row.Status == http.StatusUnauthorized {
		w.Header()["Www-Authenticate"] = []string{
			fmt.Sprintf(`Bearer authorization_uri="https://%s/%s", error="invalid_token", error_description="show an access token for this API"`, r.Host, a.Identity.Tenant()),
		}
	}
	code, ok := codes[row.Status]
	if !ok {
		code = row.ARM
	}
	_ = gate.WriteJSON(w, row.Status, map[string]any{"error": map[string]string{"code": code, "message": f.Message}}) // fails only with the connection
}
