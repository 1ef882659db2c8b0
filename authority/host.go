package authority

import (
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/registry"
)

// A Host is the endpoint where the workloads of this machine get tokens of managed
// identities, in the shapes that Azure's SDKs know. It is for a listener of its own,
// which only this machine can reach. It implements gate.Surface.
type Host struct {
	Identity   *identity.Store
	Registries *registry.Store
	Server     string // https://host[:port] of the authority
}

// Paths of the endpoint: that of virtual machines, and that of App Service.
const (
	imdsPath = "/metadata/identity/oauth2/token"
	appPath  = "/msi/token"
)

// Routes lists what there is.
func (*Host) Routes() []gate.Route {
	return []gate.Route{
		{Method: "GET", Pattern: imdsPath, Operation: opHost},
		{Method: "GET", Pattern: appPath, Operation: opHost},
		{Method: "POST", Pattern: appPath, Operation: opHost},
	}
}

const opHost = "IssueHostToken"

// Route reads which identity is asked for, and how. A browser cannot send the
// header that each shape wants, and what a proxy forwards comes from elsewhere.
func (h *Host) Route(r *http.Request) (gate.Call, error) {
	call := gate.Call{Operation: opHost, Category: ledger.Login, Plane: identity.AuthorityPlane, Read: true}
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path != imdsPath && path != appPath {
		return gate.Call{}, fault.New(fault.NotFound, "there is nothing at this path")
	}
	if slices.ContainsFunc(elsewhere, func(name string) bool { return r.Header[name] != nil }) || !isAddress(r.Host) {
		return call, invalidRequest.Fault("this endpoint is for the workloads of this machine, without a proxy between")
	}
	q, err := gate.ParseForm(r.URL.RawQuery)
	if err != nil {
		return call, err
	}
	shown := identity.Credentials{Method: identity.HostIdentity}
	secrets := append(r.Header["X-Identity-Header"], r.Header["Secret"]...)
	switch {
	case r.Method == http.MethodPost && path == appPath:
		if err := readForm(r); err != nil {
			return call, err
		}
		q = r.PostForm
	case r.Method != http.MethodGet:
		return call, fault.New(fault.MethodNotAllowed, "this path answers GET, POST")
	}
	switch {
	case path == appPath && r.Method == http.MethodGet || len(secrets) > 0:
		if len(secrets) != 1 || secrets[0] == "" {
			return call, fault.New(fault.Unauthenticated, "the header X-IDENTITY-HEADER (or secret) is missing")
		}
		shown.Secret = identity.Secret(secrets[0])
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		return call, invalidRequest.Fault("the header Metadata: true is missing")
	}
	for _, name := range []string{"client_id", "clientid", "object_id", "principal_id", "msi_res_id", "mi_res_id"} {
		if q.Get(name) != "" {
			if shown.Name != "" {
				return call, invalidRequest.Fault("an identity is named in one way")
			}
			shown.Name = q.Get(name)
		}
	}
	shown.Resource = q.Get("resource")
	call.Credentials = &shown
	call.Detail = &ledger.Detail{More: map[string]string{"audience": shortened(shown.Resource)}}
	call.Handler = func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
		return h.issue(w, r, g, shown.Resource)
	}
	return call, nil
}

// elsewhere are headers of a request that a proxy or a page in a browser has sent.
var elsewhere = []string{"X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "X-Real-Ip", "Via", "Origin"}

// isAddress reports whether the host is a number or localhost: another name was made
// to mean this address, for a page in a browser of this machine.
func isAddress(host string) bool {
	host = bare(host)
	_, err := netip.ParseAddr(host)
	return err == nil || strings.EqualFold(host, "localhost")
}

func (h *Host) issue(w http.ResponseWriter, r *http.Request, g access.Grant, resource string) error {
	reg, err := h.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return err
	}
	if !identity.KnownAudience(reg.Realm(), resource) {
		return unknownAudience(resource)
	}
	p := g.Principal()
	tokens, err := h.Identity.IssueTokens(r.Context(), reg.Realm(), p, identity.Want{
		Issuer: h.Server + "/" + h.Identity.Tenant() + "/v2.0", Audience: resource,
	})
	if err != nil {
		return err
	}
	left := strconv.Itoa(int(time.Until(tokens.Expires) / time.Second))
	return writeJSON(w, http.StatusOK, map[string]string{
		"access_token": string(tokens.Access), "token_type": "Bearer", "resource": resource, "client_id": p.Client,
		"expires_in": left, "ext_expires_in": left, "expires_on": strconv.FormatInt(tokens.Expires.Unix(), 10),
		"not_before": strconv.FormatInt(time.Now().Unix(), 10),
	})
}

// Error refuses as RFC 6749 says.
func (h *Host) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) { refuse(w, r, f) }
