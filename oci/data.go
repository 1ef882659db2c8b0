package oci

import (
	"net/http"
	"net/url"
	"strings"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
)

// elsewhere is the URL where the caller gets the blob, if its registry has a data
// endpoint (NS-2); "" is here.
func (a *API) elsewhere(r *http.Request, g access.Grant, what identity.Parcel) (string, error) {
	reg, err := a.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return "", err
	}
	host := a.Registries.DataHost(r.Context(), reg, r.Host)
	if host == "" {
		return "", nil
	}
	ticket := a.Identity.IssueTicket(reg.Realm(), g.Principal(), what, g.Origin())
	if ticket == "" {
		return "", nil
	}
	to := url.URL{Scheme: "https", Host: host, Path: "/v2/" + string(what.Repository) + "/blobs/" + string(what.Digest), RawQuery: ticketQuery + string(ticket)}
	return to.String(), nil
}

const ticketQuery = "ticket="

// send says where the blob is. Nobody in between may keep the answer, which has a
// ticket in it.
func send(w http.ResponseWriter, to string, d ref.Digest) {
	h := w.Header()
	h["Location"] = []string{to}
	h["Docker-Content-Digest"] = []string{string(d)}
	h["Cache-Control"] = noStore
	h["Content-Length"] = []string{"0"}
	w.WriteHeader(http.StatusTemporaryRedirect)
}

var noStore = []string{"no-store"}

// Data is what dedicated data endpoints answer (NS-2): a blob, to who was sent there
// for it. It implements gate.Surface.
type Data struct{ Content *content.Store }

// dataPattern is what the one path is called, for people.
const dataPattern = "https://{registry}.{location}.data.{domain}/v2/{name}/blobs/{digest}"

// Routes lists what there is.
func (*Data) Routes() (all []gate.Route) {
	for _, r := range rows {
		if r.kind == blobs && r.action == access.ContentRead {
			all = append(all, gate.Route{Method: r.method, Pattern: dataPattern, Operation: r.operation, Action: r.action})
		}
	}
	return all
}

// Route finds the blob. The ticket is all that counts as a credential: an Authorization
// header that a client brings along, to a name below the one it logged in at, is not read.
func (a *Data) Route(r *http.Request) (gate.Call, error) {
	q, err := parse(r)
	if err != nil || q.row.kind != blobs || q.row.action != access.ContentRead {
		return gate.Call{}, fault.New(fault.NotFound, "this host has blobs, for whom their login server sends here, and nothing else")
	}
	if r.ContentLength != 0 {
		return gate.Call{}, fault.New(fault.BadRequest, "who asks for a blob sends no body")
	}
	d, err := q.digest()
	if err != nil {
		return gate.Call{}, err
	}
	ticket, ok := strings.CutPrefix(r.URL.RawQuery, ticketQuery)
	if !ok {
		ticket = ""
	}
	return gate.Call{
		Operation: q.row.operation, Category: ledger.Repository, Plane: identity.DataPlane, Read: true, Detail: &q.detail,
		Needs:       []gate.Need{{Action: q.row.action, Repository: q.repo}},
		Credentials: &identity.Credentials{Method: identity.Ticket, Secret: identity.Secret(ticket), Parcel: identity.Parcel{Repository: q.repo, Digest: d}},
		Handler: func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
			w.Header()["Docker-Distribution-Api-Version"] = version
			w.Header()["Cache-Control"] = noStore
			if q.row.method == http.MethodHead {
				return q.head(a.Content, w, r, g, d)
			}
			return q.pull(a.Content, w, r, g, d)
		},
	}, nil
}

// Error writes a refusal in the specification's form. There is no challenge: whoever
// has no ticket that is good cannot get one here.
func (a *Data) Error(w http.ResponseWriter, _ *http.Request, f *fault.Error) {
	w.Header()["Docker-Distribution-Api-Version"] = version
	if f.Code == fault.Unauthenticated {
		f = fault.New(fault.Denied, "%s", f.Message)
	}
	code := f.Code.Row()
	Refuse(w, code.Status, code.OCI, f.Message, f.Detail)
}
