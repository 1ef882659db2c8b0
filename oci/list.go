package oci

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"breakwater/access"
	"breakwater/ref"
)

const indexType = "application/vnd.oci.image.index.v1+json"

// Page reads the place in a list of names: after which, and how many (-1 for as
// many as there may be).
func Page(r *http.Request) (last string, n int, err error) {
	q, err := params(r)
	if err != nil {
		return "", 0, err
	}
	if n, err = q.size(); err != nil {
		return "", 0, err
	}
	last, err = q.word("last")
	return last, n, err
}

// Next links to the page after last, if there are more and some were asked for; v
// are the parameters that make it a page of the same list.
func Next(w http.ResponseWriter, path string, v url.Values, last string, n int, more bool) {
	if !more || n == 0 {
		return
	}
	v.Set("last", last)
	if n > 0 {
		v.Set("n", strconv.Itoa(n))
	}
	w.Header().Set("Link", link(path, v))
}

func writeJSON(w http.ResponseWriter, mediaType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header()["Content-Type"] = []string{mediaType}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	_, err = w.Write(body)
	return err
}

func (a *API) listTags(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	last, n, err := Page(r)
	if err != nil {
		return err
	}
	tags, more, err := a.Content.Tags(r.Context(), g, q.repo, last, n)
	if err != nil {
		return err
	}
	if len(tags) == 0 {
		tags = []ref.Tag{}
	} else {
		Next(w, "/v2/"+string(q.repo)+"/tags/list", url.Values{}, string(tags[len(tags)-1]), n, more)
	}
	return writeJSON(w, "application/json", struct {
		Name ref.Repository `json:"name"`
		Tags []ref.Tag      `json:"tags"`
	}{q.repo, tags})
}

func (a *API) listRepositories(w http.ResponseWriter, r *http.Request, g access.Grant, _ *request) error {
	last, n, err := Page(r)
	if err != nil {
		return err
	}
	names, more, err := a.Content.Repositories(r.Context(), g, last, n)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		names = []ref.Repository{}
	} else {
		Next(w, "/v2/_catalog", url.Values{}, string(names[len(names)-1]), n, more)
	}
	return writeJSON(w, "application/json", struct {
		Repositories []ref.Repository `json:"repositories"`
	}{names})
}

// listReferrers answers with an index in any case: a subject that does not exist
// has no referrers, and that is what a client wants to hear.
func (a *API) listReferrers(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	subject, err := q.digest()
	if err != nil {
		return err
	}
	v, err := params(r)
	if err != nil {
		return err
	}
	artifactType, err := v.word("artifactType")
	if err != nil {
		return err
	}
	last, err := v.word("last")
	if err != nil {
		return err
	}
	found, err := a.Content.Referrers(r.Context(), g, q.repo, subject, artifactType, last)
	if err != nil {
		return err
	}
	to := url.Values{}
	if artifactType != "" {
		q.detail.ArtifactType = artifactType
		to.Set("artifactType", artifactType)
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	if found.Next != "" {
		to.Set("last", found.Next)
		w.Header().Set("Link", link("/v2/"+string(q.repo)+"/referrers/"+string(subject), to))
	}
	const head, tail = `{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":`, `}`
	w.Header()["Content-Type"] = []string{indexType}
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(head) + len(found.Manifests) + len(tail))}
	body := append(append(append(make([]byte, 0, len(head)+len(found.Manifests)+len(tail)), head...), found.Manifests...), tail...)
	_, err = w.Write(body)
	return err
}
