package oci

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"breakwater/access"
	"breakwater/content"
	"breakwater/fault"
	"breakwater/identity"
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
	to, err := a.elsewhere(r, g, identity.Parcel{Repository: q.repo, Digest: d})
	if err != nil {
		return err
	}
	if to != "" {
		if _, err := a.Content.StatBlob(r.Context(), g, q.repo, d); err != nil {
			return err
		}
		send(w, to, d)
		return nil
	}
	return q.pull(a.Content, w, r, g, d)
}

// pull answers with the blob itself.
func (q *request) pull(c *content.Store, w http.ResponseWriter, r *http.Request, g access.Grant, d ref.Digest) error {
	b, err := c.Blob(r.Context(), g, q.repo, d)
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
	return q.head(a.Content, w, r, g, d)
}

func (q *request) head(c *content.Store, w http.ResponseWriter, r *http.Request, g access.Grant, d ref.Digest) error {
	b, err := c.StatBlob(r.Context(), g, q.repo, d)
	if err != nil {
		return err
	}
	q.detail.Size = b.Size
	w.Header()["Content-Type"] = []string{"application/octet-stream"}
	identify(w.Header(), d)
	serve(w, r, &nothing{size: b.Size})
	return nil
}

// maxRanges is how many ranges one request may ask for. More are ignored, as RFC
// 9110 allows: each may cost a sealed segment for a single byte.
const maxRanges = 16

// serve answers with the content or with ranges of it, which only GET knows (RFC
// 9110 §14.2; Azure's SDKs want 200 for HEAD). Several ranges are read in
// a goroutine that http.ServeContent does not wait for when the client leaves.
func serve(w http.ResponseWriter, r *http.Request, c io.ReadSeeker) {
	switch commas := strings.Count(r.Header.Get("Range"), ","); {
	case r.Method != http.MethodGet, commas >= maxRanges:
		r.Header.Del("Range")
	case commas > 0:
		l := &lease{c: c}
		defer l.end()
		c = l
	}
	http.ServeContent(w, r, "", time.Time{}, c)
}

// A lease lets go of its content when it ends, whoever still reads: a buffer of
// this request may be another's a moment later.
type lease struct {
	mu sync.Mutex
	c  io.ReadSeeker // nil when the lease has ended
}

func (l *lease) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c == nil {
		return 0, io.ErrClosedPipe
	}
	return l.c.Read(p)
}

func (l *lease) Seek(offset int64, whence int) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c == nil {
		return 0, io.ErrClosedPipe
	}
	return l.c.Seek(offset, whence)
}

func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.c = nil
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
