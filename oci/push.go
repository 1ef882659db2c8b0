package oci

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/ref"
)

func (a *API) putManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	reference, err := q.reference()
	if err != nil {
		return err
	}
	more, err := queryTags(r, reference)
	if err != nil {
		return err
	}
	types := r.Header["Content-Type"]
	if len(types) > 1 {
		return fault.New(fault.ManifestInvalid, "the Content-Type header may stand in the request once")
	}
	body, done, err := a.readManifest(r)
	defer done()
	if err != nil {
		return err
	}
	rules, err := a.rules(r)
	if err != nil {
		return err
	}
	pushed, err := a.Content.PutManifest(r.Context(), g, q.repo, content.Push{
		Reference: reference, Tags: more, MediaType: r.Header.Get("Content-Type"), Body: body,
	}, rules)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+string(q.repo)+"/manifests/"+reference.String())
	identify(h, pushed.Digest)
	if pushed.Subject != "" {
		h.Set("OCI-Subject", string(pushed.Subject))
	}
	if reference.Digest != "" {
		for _, t := range pushed.Tags {
			h.Add("OCI-Tag", string(t))
		}
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// rules are what the registry that is called says about content.
func (a *API) rules(r *http.Request) (content.Rules, error) {
	reg, err := a.Registries.ByHost(r.Context(), r.Host)
	if err != nil {
		return content.Rules{}, err
	}
	return content.RulesOf(reg), nil
}

// queryTags reads the tags that a push by digest sets besides.
func queryTags(r *http.Request, reference ref.Reference) ([]ref.Tag, error) {
	q, err := params(r)
	if err != nil || len(q.Values["tag"]) == 0 {
		return nil, err
	}
	if reference.Digest == "" {
		return nil, fault.New(fault.TagInvalid, "tags in the query go with a push by digest")
	}
	var tags []ref.Tag
	for _, s := range q.Values["tag"] {
		t, err := ref.ParseTag(s)
		if err != nil {
			return nil, err
		}
		tags = append(tags, t)
	}
	return tags, nil
}

// A manifest lies in memory as a whole, and what is made of it to understand it
// takes many times its room. Almost all are small; of the others some are taken at
// a time, so that slow or greedy clients cannot use up the memory.
const (
	smallManifest  = 64 << 10
	largeManifests = 16
)

// readManifest takes room as the bytes come: what a header says costs nothing. The
// caller calls done when it has no more use for the body.
func (a *API) readManifest(r *http.Request) (body []byte, done func(), err error) {
	done = func() {}
	if r.ContentLength > content.MaxManifest {
		return nil, done, manifestTooLarge()
	}
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), smallManifest)) + bytes.MinRead)
	if _, err = b.ReadFrom(io.LimitReader(r.Body, smallManifest+1)); err == nil && b.Len() > smallManifest {
		done = func() { a.large.Add(-1) }
		if a.large.Add(1) > largeManifests {
			return nil, done, fault.New(fault.TooManyRequests, "many large manifests are on their way; try again").After(time.Second)
		}
		_, err = b.ReadFrom(io.LimitReader(r.Body, content.MaxManifest+1-int64(b.Len())))
	}
	if err == nil && b.Len() > content.MaxManifest {
		err = manifestTooLarge()
	}
	return b.Bytes(), done, err
}

func manifestTooLarge() error {
	return fault.New(fault.ManifestTooLarge, "a manifest has at most %d bytes", content.MaxManifest)
}

func (a *API) deleteManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	reference, err := q.reference()
	if err != nil {
		return err
	}
	rules, err := a.rules(r)
	if err != nil {
		return err
	}
	if reference.Tag != "" {
		err = a.Content.DeleteTag(r.Context(), g, q.repo, reference.Tag, rules)
	} else {
		err = a.Content.DeleteManifest(r.Context(), g, q.repo, reference.Digest, rules)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (a *API) deleteBlob(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	d, err := q.digest()
	if err != nil {
		return err
	}
	if err := a.Content.DeleteBlob(r.Context(), g, q.repo, d); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// startUpload is three requests in one path: a mount, a whole blob, or a session.
func (a *API) startUpload(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	v, err := params(r)
	if err != nil {
		return err
	}
	whole, err := v.digest("digest")
	if err != nil {
		return err
	}
	mount, err := v.digest("mount")
	if err != nil {
		return err
	}
	algorithm := ref.SHA256
	if s, err := v.one("digest-algorithm"); err != nil {
		return err
	} else if s != "" {
		if algorithm, err = ref.ParseAlgorithm(s); err != nil {
			return err
		}
	}
	switch {
	case mount != "" && whole != "":
		return fault.New(fault.DigestInvalid, "a request mounts a blob or brings one, not both")
	case whole != "":
		q.detail.Digest = whole
		b, err := a.Content.PutBlob(r.Context(), g, q.repo, whole, r.ContentLength, r.Body)
		if err != nil {
			return err
		}
		return created(w, q.repo, b)
	case mount != "":
		q.detail.Digest = mount
		b, ok, err := a.mount(r, g, q.repo, mount, v)
		if err != nil {
			return err
		}
		if ok {
			return created(w, q.repo, b)
		}
		algorithm = mount.Algorithm()
	}
	u, err := a.Content.StartUpload(r.Context(), g, q.repo, algorithm)
	if err != nil {
		return err
	}
	return progress(w, q.repo, u, http.StatusAccepted)
}

// mount gives a blob of another repository to this one. Where the caller could
// pull but its token was not asked for that, it is challenged for another token;
// that depends on the caller's own rights alone, never on what exists.
func (a *API) mount(r *http.Request, g access.Grant, repo ref.Repository, d ref.Digest, v query) (content.Blob, bool, error) {
	name, err := v.one("from")
	if err != nil {
		return content.Blob{}, false, err
	}
	var from ref.Repository
	if v.Has("from") {
		if from, err = ref.ParseRepository(name); err != nil {
			return content.Blob{}, false, nil // nothing can be there
		}
	}
	if from == "" && g.UnaskedAnywhere(access.ContentRead) || from != "" && g.Unasked(access.ContentRead, g.RepositoryScope(from)) {
		return content.Blob{}, false, fault.New(fault.Denied, "a mount needs a token for the repository that the blob comes from")
	}
	return a.Content.Mount(r.Context(), g, repo, d, from)
}

func created(w http.ResponseWriter, repo ref.Repository, b content.Blob) error {
	w.Header().Set("Location", "/v2/"+string(repo)+"/blobs/"+string(b.Digest))
	w.Header()["Docker-Content-Digest"] = []string{string(b.Digest)}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// progress tells where an upload goes on, and how far it is. "0-0" is also said
// of an upload that has nothing: the range has no way to say that.
func progress(w http.ResponseWriter, repo ref.Repository, u content.Upload, status int) error {
	h := w.Header()
	h.Set("Location", "/v2/"+string(repo)+"/blobs/uploads/"+u.ID)
	h.Set("Range", "0-"+strconv.FormatInt(max(u.Offset-1, 0), 10))
	h.Set("Docker-Upload-UUID", u.UUID())
	w.WriteHeader(status)
	return nil
}

func (a *API) uploadStatus(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	u, err := a.Content.UploadStatus(r.Context(), g, q.repo, q.last)
	if err != nil {
		return err
	}
	return progress(w, q.repo, u, http.StatusNoContent)
}

func (a *API) appendUpload(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	c, err := chunk(r)
	if err != nil {
		return err
	}
	u, err := a.Content.AppendUpload(r.Context(), g, q.repo, q.last, c)
	if err != nil {
		return err
	}
	return progress(w, q.repo, u, http.StatusAccepted)
}

func (a *API) finishUpload(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	v, err := params(r)
	if err != nil {
		return err
	}
	d, err := v.digest("digest")
	if err != nil {
		return err
	}
	if d == "" {
		return fault.New(fault.DigestInvalid, "the request that ends an upload names the blob: ?digest=<digest>")
	}
	q.detail.Digest = d
	c, err := chunk(r)
	if err != nil {
		return err
	}
	b, err := a.Content.FinishUpload(r.Context(), g, q.repo, q.last, c, d)
	if err != nil {
		return err
	}
	return created(w, q.repo, b)
}

func (a *API) cancelUpload(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	if err := a.Content.CancelUpload(r.Context(), g, q.repo, q.last); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// chunk reads what the header says about a piece of an upload. Content-Range and
// Content-Length must tell the same story.
func chunk(r *http.Request) (content.Chunk, error) {
	c := content.Chunk{At: -1, Size: r.ContentLength, Reader: r.Body}
	ranges := r.Header["Content-Range"]
	if len(ranges) == 0 {
		return c, nil
	}
	from, to, ok := strings.Cut(ranges[0], "-")
	if len(ranges) > 1 || !ok || !digits(from) || !digits(to) {
		return c, fault.New(fault.UploadInvalid, "the Content-Range of a chunk is <first byte>-<last byte>")
	}
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	if errors.Join(err1, err2) != nil || last == 1<<63-1 {
		return c, fault.New(fault.UploadOutOfOrder, "the upload is not there yet; ask for its status")
	}
	length := last - first + 1
	if length <= 0 || (c.Size >= 0 && c.Size != length) {
		return c, fault.New(fault.SizeInvalid, "Content-Range and Content-Length do not agree")
	}
	c.At, c.Size = first, length
	return c, nil
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
