// Package acr speaks the part of Azure Container Registry's data plane that is
// not OCI Distribution (azure-contract §2): /oauth2/exchange takes a token of Entra
// ID, of another issuer or of our own authority for a refresh token of the registry,
// /oauth2/token takes that or a password for an access token, and /acr/v1 shows and
// changes what OCI has no words for: attributes of repositories, tags and manifests,
// whole repositories, and what was deleted and can be restored.
//
// Like oci it reads names once, says which right each route needs, and decides
// nothing.
package acr

import (
	"net/http"
	"strings"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/oci"
	"breakwater/ref"
	"breakwater/registry"
)

// An API answers for one server. It implements gate.Surface.
type API struct {
	Identity   *identity.Store
	Registries *registry.Store
	Content    *content.Store
}

// Serves reports whether a path is of this dialect.
func Serves(path string) bool {
	return strings.HasPrefix(path, "/oauth2/") || strings.HasPrefix(path, base)
}

const base = "/acr/v1/"

// A kind is a shape of path.
type kind int

const (
	catalog kind = iota
	repository
	tags
	tag
	manifests
	manifest
	deletedCatalog
	deletedTags
	deletedManifests
	deletedManifest
)

var patterns = [...]string{
	catalog:          base + "_catalog",
	repository:       base + "{name}",
	tags:             base + "{name}/_tags",
	tag:              base + "{name}/_tags/{reference}",
	manifests:        base + "{name}/_manifests",
	manifest:         base + "{name}/_manifests/{digest}",
	deletedCatalog:   base + "_deleted/_catalog",
	deletedTags:      base + "_deleted/{name}/_tags",
	deletedManifests: base + "_deleted/{name}/_manifests",
	deletedManifest:  base + "_deleted/{name}/_manifests/{digest}",
}

// A row is one route: method and shape of path, what it is called in the ledger,
// the right it needs, the scope that a token for it is asked with, and who answers.
type row struct {
	method    string
	kind      kind
	operation string
	action    access.Action
	scope     string // of the repository; "" for a list of repositories
	change    bool   // the domain records it
	handler   func(*API, http.ResponseWriter, *http.Request, access.Grant, *request) error
}

var rows = [...]row{
	{"GET", catalog, "ListRepositories", access.CatalogRead, "", false, (*API).listRepositories},
	{"GET", repository, "GetRepositoryProperties", access.MetadataRead, "metadata_read", false, (*API).getRepository},
	{"PATCH", repository, content.PatchRepository, access.MetadataWrite, "metadata_write", true, (*API).patchRepository},
	{"DELETE", repository, content.DeleteRepository, access.ContentDelete, "delete", true, (*API).deleteRepository},
	{"GET", tags, "ListTags", access.MetadataRead, "metadata_read", false, (*API).listTags},
	{"GET", tag, "GetTagProperties", access.MetadataRead, "metadata_read", false, (*API).getTag},
	{"PATCH", tag, content.PatchTag, access.MetadataWrite, "metadata_write", true, (*API).patchTag},
	{"DELETE", tag, content.DeleteTag, access.ContentDelete, "delete", true, (*API).deleteTag},
	{"GET", manifests, "ListManifests", access.MetadataRead, "metadata_read", false, (*API).listManifests},
	{"GET", manifest, "GetManifestProperties", access.MetadataRead, "metadata_read", false, (*API).getManifest},
	{"PATCH", manifest, content.PatchManifest, access.MetadataWrite, "metadata_write", true, (*API).patchManifest},
	{"GET", deletedCatalog, "ListDeletedRepositories", access.DeletedRead, "", false, (*API).listDeletedRepositories},
	{"GET", deletedTags, "ListDeletedTags", access.DeletedRead, "deleted_read", false, (*API).listDeletedTags},
	{"GET", deletedManifests, "ListDeletedManifests", access.DeletedRead, "deleted_read", false, (*API).listDeletedManifests},
	{"POST", deletedManifest, content.RestoreManifest, access.DeletedRestore, "deleted_read,deleted_restore", true, (*API).restoreManifest},
}

// Routes lists what there is.
func (*API) Routes() []gate.Route {
	all := []gate.Route{
		{Method: "GET", Pattern: tokens, Operation: "Login"},
		{Method: "POST", Pattern: tokens, Operation: "Login"},
		{Method: "POST", Pattern: exchange, Operation: "Exchange"},
	}
	for _, r := range rows {
		all = append(all, gate.Route{Method: r.method, Pattern: patterns[r.kind], Operation: r.operation, Action: r.action})
	}
	return all
}

// Route finds who answers.
func (a *API) Route(r *http.Request) (gate.Call, error) {
	switch path := r.URL.EscapedPath(); {
	case path == exchange && r.Method == http.MethodPost:
		return a.routeExchange(r)
	case path == tokens:
		return a.routeToken(r)
	}
	q, err := parse(r)
	if err != nil {
		return gate.Call{}, err
	}
	return gate.Call{
		Operation: q.row.operation, Category: ledger.Repository, Read: !q.row.change, Detail: &q.detail,
		Needs: []gate.Need{{Action: q.row.action, Repository: q.repo}},
		Handler: func(w http.ResponseWriter, r *http.Request, g access.Grant) error {
			return q.row.handler(a, w, r, g, q)
		},
	}, nil
}

// A request is a path, read once, as in oci.
type request struct {
	row    *row
	repo   ref.Repository
	tag    ref.Tag
	digest ref.Digest
	detail ledger.Detail
}

func parse(r *http.Request) (*request, error) {
	k, name, last, ok := split(r.URL.EscapedPath())
	if !ok {
		return nil, fault.New(fault.NotFound, "there is nothing at this path")
	}
	q := &request{}
	var err error
	if k != catalog && k != deletedCatalog {
		if q.repo, err = ref.ParseRepository(name); err != nil {
			return nil, fault.New(fault.NameUnknown, "there can be no repository of this name").Because(err)
		}
	}
	switch k {
	case tag:
		if q.tag, err = ref.ParseTag(last); err != nil {
			return nil, fault.New(fault.TagUnknown, "there can be no tag of this name").Because(err)
		}
	case manifest, deletedManifest:
		if q.digest, err = ref.ParseDigest(last); err != nil {
			return nil, err
		}
	}
	q.detail = ledger.Detail{Repository: q.repo, Tag: q.tag, Digest: q.digest}
	for i := range rows {
		if rows[i].kind == k && rows[i].method == r.Method {
			q.row = &rows[i]
			return q, nil
		}
	}
	return nil, fault.New(fault.MethodNotAllowed, "this path answers %s", allowed(k))
}

// split reads a path. No part of a repository's name begins with "_", so the words
// of the API are not mistaken for one.
func split(path string) (k kind, name, last string, ok bool) {
	rest, ok := strings.CutPrefix(path, base)
	if !ok {
		return 0, "", "", false
	}
	if rest, ok = oci.Unescape(rest); !ok {
		return 0, "", "", false
	}
	list, one, only := tags, tag, map[string]kind{"_catalog": catalog}
	rest, deleted := strings.CutPrefix(rest, "_deleted/")
	if deleted {
		only = map[string]kind{"_catalog": deletedCatalog}
	}
	if k, ok := only[rest]; ok {
		return k, "", "", true
	}
	name, word, _ := strings.Cut(rest, "/_")
	word, last, item := strings.Cut(word, "/")
	switch {
	case word == "" && !deleted && name == rest:
		return repository, name, "", true
	case word == "manifests" && deleted:
		list, one = deletedManifests, deletedManifest
	case word == "manifests":
		list, one = manifests, manifest
	case word == "tags" && deleted:
		list, one = deletedTags, -1
	case word != "tags":
		return 0, "", "", false
	}
	if !item {
		return list, name, "", true
	}
	return one, name, last, one >= 0
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

// Error refuses in the form that OCI clients know. At /oauth2 there is no better
// token to ask for.
func (a *API) Error(w http.ResponseWriter, r *http.Request, f *fault.Error) {
	code := f.Code.Row()
	k, _, _, data := split(r.URL.EscapedPath())
	switch {
	case data && (f.Code == fault.Unauthenticated || f.Code == fault.Denied):
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		oci.Challenge(w, r, f, scopes(r))
		return
	case f.Code == fault.Unauthenticated:
		w.Header().Set("WWW-Authenticate", `Basic realm="`+r.Host+`"`)
	case f.Code == fault.MethodNotAllowed && data:
		w.Header().Set("Allow", allowed(k))
	case f.Code == fault.MethodNotAllowed:
		w.Header().Set("Allow", "GET, POST")
	case f.Code == fault.TagUnknown:
		code.OCI = "TAG_UNKNOWN"
	}
	oci.Refuse(w, code.Status, code.OCI, f.Message, f.Detail)
}

// scopes is what a token must be asked for, so that this request passes.
func scopes(r *http.Request) []string {
	q, err := parse(r)
	switch {
	case err != nil:
		return nil
	case q.row.kind == catalog:
		return []string{"registry:catalog:*"}
	case q.row.kind == deletedCatalog:
		return []string{"registry:deleted_catalog:*"}
	}
	return []string{"repository:" + string(q.repo) + ":" + q.row.scope}
}
