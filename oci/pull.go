package oci

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/ref"
)

// reference reads the end of a manifest's path. No tag of a wrong spelling can
// have been pushed, so to a reader it is an unknown one.
func (q *request) reference() (ref.Reference, error) {
	r, err := ref.ParseReference(q.last)
	if fault.Of(err) == fault.TagInvalid && q.row.method != http.MethodPut {
		err = fault.New(fault.ManifestUnknown, "there can be no manifest with this tag")
	}
	q.detail.Tag, q.detail.Digest = r.Tag, r.Digest
	return r, err
}

func (q *request) digest() (ref.Digest, error) {
	d, err := ref.ParseDigest(q.last)
	q.detail.Digest = d
	return d, err
}

func (a *API) getManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	reference, err := q.reference()
	if err != nil {
		return err
	}
	m, err := a.Content.Manifest(r.Context(), g, q.repo, reference)
	if err != nil {
		return err
	}
	q.describe(w.Header(), m)
	serve(w, r, bytes.NewReader(m.Body))
	return nil
}

func (a *API) headManifest(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	reference, err := q.reference()
	if err != nil {
		return err
	}
	m, err := a.Content.HeadManifest(r.Context(), g, q.repo, reference)
	if err != nil {
		return err
	}
	q.describe(w.Header(), m)
	serve(w, r, &nothing{size: m.Size})
	return nil
}

func (q *request) describe(h http.Header, m content.Manifest) {
	q.detail.Digest, q.detail.MediaType, q.detail.Size = m.Digest, m.MediaType, m.Size
	h["Content-Type"] = []string{m.MediaType}
	identify(h, m.Digest)
}

// identify names the content of an answer. What a digest names never changes, so
// the digest is the strongest of entity tags.
func identify(h http.Header, d ref.Digest) {
	h["Docker-Content-Digest"] = []string{string(d)}
	h["Etag"] = []string{`"` + string(d) + `"`}
}

func (a *API) getBlob(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	d, err := q.digest()
	if err != nil {
		return err
	}
	b, err := a.Content.Blob(r.Context(), g, q.repo, d)
	if err != nil {
		return err
	}
	defer b.Close()
	q.detail.Size = b.Size
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	identify(w.Header(), d)
	serve(w, r, b.ReadSeekCloser)
	return nil
}

func (a *API) headBlob(w http.ResponseWriter, r *http.Request, g access.Grant, q *request) error {
	d, err := q.digest()
	if err != nil {
		return err
	}
	b, err := a.Content.StatBlob(r.Context(), g, q.repo, d)
	if err != nil {
		return err
	}
	q.detail.Size = b.Size
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	identify(w.Header(), d)
	serve(w, r, &nothing{size: b.Size})
	return nil
}

// serve answers with the content or one range of it. Many ranges are ignored, as
// RFC 9110 allows: http.ServeContent reads them in a goroutine that outlives the
// request when the client leaves, and then holds a buffer that is another's. They
// would also cost a sealed segment for each byte that is asked for.
func serve(w http.ResponseWriter, r *http.Request, c io.ReadSeeker) {
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
	http.ServeContent(w, r, "", time.Time{}, c)
}

// nothing has a size and no bytes: the content of an answer to HEAD.
type nothing struct{ size int64 }

func (*nothing) Read([]byte) (int, error) { return 0, io.EOF }

func (n *nothing) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekEnd {
		offset += n.size
	}
	return offset, nil
}
