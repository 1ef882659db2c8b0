// Package authority is the built-in token issuer, for places that have no other
// (IM-1, IM-3): OAuth 2.0 and OpenID Connect as Entra ID and AD FS spell them,
// sign-in pages, and the endpoint where the workloads of this machine get tokens
// of managed identities.
//
// It proves nobody: Route puts what was shown into identity.Credentials, the door
// proves it, and the handlers issue.
package authority

import (
	"net"
	"net/http"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/registry"
)

// Options say what an API stands on.
type Options struct {
	Identity   *identity.Store
	Registries *registry.Store
	// Named reports whether the server shows a certificate for the host. It answers to
	// no other name: what was signed for another server's token endpoint could be
	// shown here under that name otherwise.
	Named func(host string) bool
	Key   []byte // Platform.Derive("sign-in"): 32 bytes that seal what a browser carries between two pages
}

// An API answers for one server. It implements gate.Surface.
type API struct {
	o Options
}

// New makes the authority of this server.
func New(o Options) *API { return &API{o} }

// A row is something that the authority answers. A segment in braces stands for any
// one; {tenant} for this server's tenant, in each way to say it.
type row struct {
	method, pattern, operation string
	call                       func(a *API, r *http.Request, at place, call gate.Call) (gate.Call, error)
}

// Operations of the authority, as the ledger has them. Documents that anybody may
// read are not on record.
const (
	opToken   = "IssueToken"
	opDevice  = "StartDeviceSignIn"
	opPage    = "ShowSignIn"
	opSignIn  = "SignIn"
	opOutward = "SignInElsewhere"
	opPublic  = "ReadAuthority"
)

var rows = []row{
	{"GET", "/adfs/.well-known/openid-configuration", opPublic, public((*API).configuration)},
	{"GET", "/adfs/discovery/keys", opPublic, public((*API).keys)},
	{"POST", "/adfs/oauth2/token", opToken, (*API).routeToken},
	{"POST", "/adfs/oauth2/devicecode", opDevice, (*API).routeDevice},
	{"GET", "/adfs/oauth2/authorize", opPage, (*API).routeAuthorize},

	{"GET", "/{tenant}/v2.0/.well-known/openid-configuration", opPublic, public((*API).configuration)},
	{"GET", "/{tenant}/.well-known/openid-configuration", opPublic, public((*API).configuration)},
	{"GET", "/{tenant}/discovery/v2.0/keys", opPublic, public((*API).keys)},
	{"GET", "/{tenant}/discovery/keys", opPublic, public((*API).keys)},
	{"GET", "/{tenant}/receipts/keys", opPublic, public((*API).receiptKeys)},
	{"POST", "/{tenant}/oauth2/v2.0/token", opToken, (*API).routeToken},
	{"POST", "/{tenant}/oauth2/token", opToken, (*API).routeToken},
	{"POST", "/{tenant}/oauth2/v2.0/devicecode", opDevice, (*API).routeDevice},
	{"GET", "/{tenant}/oauth2/v2.0/authorize", opPage, (*API).routeAuthorize},

	{"GET", "/common/discovery/instance", opPublic, public((*API).instance)},
	{"GET", "/common/userrealm/{}", opPublic, public((*API).realm)},

	{"GET", "/devicelogin", opPage, (*API).routeDevicePage},
	{"POST", "/devicelogin", opPage, (*API).routeDeviceCode},
	{"POST", "/signin", opSignIn, (*API).routeSignIn},
	{"GET", "/signin/to/{}", opOutward, (*API).routeOutward},
	{"GET", "/signin/from/{}", opSignIn, (*API).routeReturn},
}

// Routes lists what there is.
func (*API) Routes() []gate.Route {
	all := make([]gate.Route, len(rows))
	for i, row := range rows {
		all[i] = gate.Route{Method: row.method, Pattern: row.pattern, Operation: row.operation}
	}
	return all
}

// Serves reports whether the path is one of the authority's.
func (a *API) Serves(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch strings.ToLower(first) {
	case "adfs", "common", "organizations", "devicelogin", "signin":
		return true
	}
	return ref.IsGUID(first) // of a tenant
}

// A place is where a request came in: the authority has two forms, and clients
// compare what they get with where they asked.
type place struct {
	server string // https://host[:port]
	adfs   bool
	v1     bool   // the older of the tenant's two forms
	tenant string // GUID
	rest   string // what the last braces of the pattern stand for
}

// issuer is the authority's own name.
func (p place) issuer() string {
	if p.adfs {
		return p.server + "/adfs"
	}
	return p.server + "/" + p.tenant + "/v2.0"
}

// at is the URL of an endpoint of the form.
func (p place) at(endpoint string) string {
	switch {
	case p.adfs && endpoint == "keys":
		return p.server + "/adfs/discovery/keys"
	case p.adfs:
		return p.server + "/adfs/oauth2/" + endpoint
	case endpoint == "keys":
		return p.server + "/" + p.tenant + "/discovery/v2.0/keys"
	}
	return p.server + "/" + p.tenant + "/oauth2/v2.0/" + endpoint
}

// Route finds the row and has it read the request.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	if !validHost(r.Host) || !a.o.Named(bare(r.Host)) {
		return gate.Call{}, fault.New(fault.BadRequest, "this server has no certificate for the name that it was called by; its operator can give it one (tls.names)")
	}
	at := place{server: "https://" + strings.ToLower(r.Host), tenant: a.o.Identity.Tenant()}
	segments := strings.Split(r.URL.Path, "/")
	at.adfs = len(segments) > 1 && strings.EqualFold(segments[1], "adfs")
	var methods []string
	for _, row := range rows {
		rest, ok := match(row.pattern, segments, at.tenant)
		if !ok {
			continue
		}
		if row.method != r.Method {
			methods = append(methods, row.method)
			continue
		}
		at.rest, at.v1 = rest, strings.HasPrefix(row.pattern, "/{tenant}/") && !strings.Contains(row.pattern, "v2.0")
		return row.call(a, r, at, gate.Call{
			Operation: row.operation, Category: ledger.Login, Plane: identity.AuthorityPlane,
			Anyone: true, Read: true, Credentials: new(identity.Credentials),
		})
	}
	if methods != nil {
		return gate.Call{}, fault.New(fault.MethodNotAllowed, "this path answers %s", strings.Join(methods, ", ")).With(methods)
	}
	return gate.Call{}, fault.New(fault.NotFound, "there is no such tenant or endpoint; the tenant of this server is %s", at.tenant)
}

// match compares without regard to case, as clients differ in it.
func match(pattern string, segments []string, tenant string) (rest string, ok bool) {
	i := 0
	for want := range strings.SplitSeq(pattern, "/") {
		if i == len(segments) {
			return "", false
		}
		got := segments[i]
		switch i++; want {
		case "{tenant}":
			ok = slices.ContainsFunc([]string{tenant, "organizations", "common"}, func(s string) bool { return strings.EqualFold(s, got) })
		case "{}":
			rest, ok = got, got != ""
		default:
			ok = strings.EqualFold(want, got)
		}
		if !ok {
			return "", false
		}
	}
	return rest, i == len(segments)
}

// validHost reports whether a Host header can stand in a URL as it is.
func validHost(host string) bool {
	return host != "" && len(host) <= 255 && strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789.-_:[]") == ""
}

// bare is a host without its port.
func bare(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

// isPage reports whether a person reads the answer.
func isPage(r *http.Request) bool {
	path := strings.ToLower(r.URL.Path)
	return strings.HasPrefix(path, "/devicelogin") || strings.HasPrefix(path, "/signin") || strings.HasSuffix(path, "/authorize")
}

// Error refuses with a page where a person reads it, and as OAuth does elsewhere.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	if methods, ok := f.Detail.([]string); ok {
		w.Header().Set("Allow", strings.Join(methods, ", "))
	}
	if isPage(r) {
		a.errorPage(w, r, f)
		return
	}
	refuse(w, r, f)
}
