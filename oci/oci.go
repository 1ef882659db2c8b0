// Package oci speaks the OCI Distribution API: /v2/…
//
// It reads names once, at the edge, says which right each route needs, and
// writes answers and refusals as the specification spells them. It decides
// nothing: the gate lets callers in and content asks their grant.
package oci

import (
	"net/http"
	"strings"
	"sync/atomic"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/registry"
)

// An API answers for one server. It implements gate.Surface.
type API struct {
	Content    *content.Store
	Registries *registry.Store // what the one that is called says: policies for pushes, a data endpoint for pulls
	Identity   *identity.Store // makes the tickets for that

	large atomic.Int32 // manifests under way that are longer than smallManifest
}

// A kind is a shape of path.
type kind int

const (
	base      kind = iota // /v2/
	catalog               // /v2/_catalog
	manifests             // /v2/<name>/manifests/<reference>
	blobs                 // /v2/<name>/blobs/<digest>
	uploads               // /v2/<name>/blobs/uploads/
	session               // /v2/<name>/blobs/uploads/<session>
	tags                  // /v2/<name>/tags/list
	referrers             // /v2/<name>/referrers/<digest>
)

var patterns = [...]string{
	base:      "/v2/",
	catalog:   "/v2/_catalog",
	manifests: "/v2/{name}/manifests/{reference}",
	blobs:     "/v2/{name}/blobs/{digest}",
	uploads:   "/v2/{name}/blobs/uploads/",
	session:   "/v2/{name}/blobs/uploads/{session}",
	tags:      "/v2/{name}/tags/list",
	referrers: "/v2/{name}/referrers/{digest}",
}

// A row is one route: method and shape of path, what it is called in the ledger,
// the right it needs, and who answers. What is not here does not exist.
type row struct {
	method    string
	kind      kind
	operation string
	action    access.Action
	change    bool // the domain records it
	handler   func(*API, http.ResponseWriter, *http.Request, access.Grant, *request) error
}

var rows = [...]row{
	{"GET", base, "Ping", "", false, (*API).ping},
	{"HEAD", base, "Ping", "", false, (*API).ping},
	{"GET", catalog, "ListRepositories", access.CatalogRead, false, (*API).listRepositories},
	{"GET", manifests, "PullManifest", access.ContentRead, false, (*API).getManifest},
	{"HEAD", manifests, "HeadManifest", access.ContentRead, false, (*API).headManifest},
	{"PUT", manifests, content.PushManifest, access.ContentWrite, true, (*API).putManifest},
	{"DELETE", manifests, content.DeleteManifest, access.ContentDelete, true, (*API).deleteManifest},
	{"GET", blobs, "PullBlob", access.ContentRead, false, (*API).getBlob},
	{"HEAD", blobs, "HeadBlob", access.ContentRead, false, (*API).headBlob},
	{"DELETE", blobs, content.DeleteBlob, access.ContentDelete, true, (*API).deleteBlob},
	{"POST", uploads, content.PushBlob, access.ContentWrite, true, (*API).startUpload},
	{"GET", session, "UploadStatus", access.ContentWrite, false, (*API).uploadStatus},
	{"PATCH", session, content.PushBlob, access.ContentWrite, true, (*API).appendUpload},
	{"PUT", session, content.PushBlob, access.ContentWrite, true, (*API).finishUpload},
	{"DELETE", session, content.CancelUpload, access.ContentWrite, true, (*API).cancelUpload},
	{"GET", tags, "ListTags", access.ContentRead, false, (*API).listTags},
	{"GET", referrers, "ListReferrers", access.ContentRead, false, (*API).listReferrers},
}

// Routes lists what there is.
func (*API) Routes() []gate.Route {
	all := make([]gate.Route, len(rows))
	for i, r := range rows {
		all[i] = gate.Route{Method: r.method, Pattern: patterns[r.kind], Operation: r.operation, Action: r.action}
	}
	return all
}

// A request is a path, read once. Router, authoriser and handler see this value
// and nothing else of the path.
type request struct {
	row    *row
	repo   ref.Repository
	last   string // reference, digest or session; not yet checked
	detail ledger.Detail
}

// Route finds the row. A path that is not spelled in the one canonical way is
// nobody's: it is not repaired, so no two readers can understand it differently.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	q, err := parse(r)
	if err != nil {
		return gate.Call{}, err
	}
	call := gate.Call{
		Operation: q.row.operation, Category: ledger.Repository, Read: !q.row.change, Detail: &q.detail,
		Handler: func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
			w.Header()["Docker-Distribution-Api-Version"] = version
			return q.row.handler(a, w, r, g, q)
		},
	}
	if q.row.action != "" {
		call.Needs = []gate.Need{{Action: q.row.action, Repository: q.repo}}
	}
	return call, nil
}

var version = []string{"registry/2.0"}

func parse(r *http.Request) (*request, error) {
	k, name, last, ok := split(r.URL.EscapedPath())
	if !ok {
		return nil, fault.New(fault.NotFound, "there is nothing at this path")
	}
	q := &request{last: last}
	if name != "" {
		repo, err := ref.ParseRepository(name)
		if err != nil {
			return nil, fault.New(fault.NameUnknown, "there can be no repository of this name").Because(err)
		}
		q.repo, q.detail.Repository = repo, repo
	}
	for i := range rows {
		if rows[i].kind == k && rows[i].method == r.Method {
			q.row = &rows[i]
			return q, nil
		}
	}
	return nil, fault.New(fault.MethodNotAllowed, "this path answers %s", allowed(k))
}

// Unescape reads what Azure's SDKs escape in a segment: the "/" of a repository and
// the ":" of a digest. Any other escaped character has no place in a name, a tag, a
// digest or a session.
func Unescape(segment string) (string, bool) {
	if strings.IndexByte(segment, '%') < 0 {
		return segment, true
	}
	s := escaped.Replace(segment)
	return s, strings.IndexByte(s, '%') < 0
}

var escaped = strings.NewReplacer("%2F", "/", "%2f", "/", "%3A", ":", "%3a", ":")

// split reads a path from its end, because a repository may be called
// "a/manifests/b".
func split(path string) (k kind, name, last string, ok bool) {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return 0, "", "", false
	}
	if k, name, last, ok = shape(rest); !ok {
		return 0, "", "", false
	}
	if name, ok = Unescape(name); ok {
		last, ok = Unescape(last)
	}
	return k, name, last, ok
}

func shape(rest string) (k kind, name, last string, ok bool) {
	switch rest {
	case "":
		return base, "", "", true
	case "_catalog":
		return catalog, "", "", true
	}
	if rest, last, ok = cutLast(rest); !ok {
		return 0, "", "", false
	}
	rest, noun, ok := cutLast(rest)
	if !ok {
		return 0, "", "", false
	}
	switch noun {
	case "manifests":
		k = manifests
	case "blobs":
		k = blobs
	case "referrers":
		k = referrers
	case "tags":
		return tags, rest, last, last == "list"
	case "uploads":
		name, noun, ok = cutLast(rest)
		if last == "" {
			return uploads, name, "", ok && noun == "blobs"
		}
		return session, name, last, ok && noun == "blobs"
	default:
		return 0, "", "", false
	}
	return k, rest, last, last != ""
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '/')
	if i <= 0 {
		return "", s, false
	}
	return s[:i], s[i+1:], true
}

func allowed(k kind) string {
	var methods []string
	for _, r := range rows {
		if r.kind == k {
			methods = append(methods, r.method)
		}
	}
	return strings.Join(methods, ", ")
}

// ping says that this is a registry, and that the caller's credential is good.
func (*API) ping(w http.ResponseWriter, _ *http.Request, _ access.Grant, _ *request) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write([]byte("{}"))
	return err
}
