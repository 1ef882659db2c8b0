package content

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"breakwater/access"
	"breakwater/ref"
)

var errStub = errors.New("content: not yet")

// Manifest reads a manifest; an absent one is ManifestUnknown.
func (s *Store) Manifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	return Manifest{}, errStub
}

// HeadManifest is Manifest without its Body.
func (s *Store) HeadManifest(ctx context.Context, g access.Grant, repo ref.Repository, r ref.Reference) (Manifest, error) {
	return Manifest{}, errStub
}

// A Push is a manifest as a client sends it.
type Push struct {
	Reference ref.Reference // as in the path
	Tags      []ref.Tag     // of a push by digest: the tags in the query
	MediaType string        // Content-Type; parameters are ignored; "" takes the document's own
	Body      []byte        // at most MaxManifest
}

// Pushed is what became of a Push.
type Pushed struct {
	Manifest            // without Body
	Subject  ref.Digest // for OCI-Subject; "" if it has none
	Tags     []ref.Tag  // that now point to it, in the order asked
}

// PutManifest stores a manifest, and moves its tags to it, in one transaction.
func (s *Store) PutManifest(ctx context.Context, g access.Grant, repo ref.Repository, p Push, rules Rules) (Pushed, error) {
	return Pushed{}, errStub
}

// DeleteManifest removes a manifest and every tag that points to it. One that
// an index in the repository needs is Referenced.
func (s *Store) DeleteManifest(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) error {
	return errStub
}

// DeleteTag removes a tag and leaves its manifest.
func (s *Store) DeleteTag(ctx context.Context, g access.Grant, repo ref.Repository, t ref.Tag) error {
	return errStub
}

// Tags lists the tags after "after" in the order of their bytes: at most n (and
// at most MaxTags; n < 0 asks for that many). more tells whether there are others.
// A repository that nobody has pushed to is NameUnknown.
func (s *Store) Tags(ctx context.Context, g access.Grant, repo ref.Repository, after string, n int) (tags []ref.Tag, more bool, err error) {
	return nil, false, errStub
}

// Repositories lists repositories of the registry as Tags does tags.
func (s *Store) Repositories(ctx context.Context, g access.Grant, after string, n int) (names []ref.Repository, more bool, err error) {
	return nil, false, errStub
}

// Referrers is a page of the manifests whose subject is a digest.
type Referrers struct {
	Manifests json.RawMessage // JSON array of descriptors
	Next      string          // for the next page; "" on the last
}

// Referrers lists the manifests in the repository whose subject is d, of one
// artifact type unless that is "", after a page whose Next was after ("" is the
// first). There may be none, and d need not exist.
func (s *Store) Referrers(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, artifactType, after string) (Referrers, error) {
	return Referrers{}, errStub
}

// A Blob is content that a manifest may name. Who gets one from Store.Blob
// reads from it and closes it; from every other method it has no reader.
type Blob struct {
	Digest ref.Digest
	Size   int64
	io.ReadSeekCloser
}

// StatBlob tells whether the repository has a blob; if not, BlobUnknown.
func (s *Store) StatBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) (Blob, error) {
	return Blob{}, errStub
}

// Blob opens a blob for reading from any place on. What it yields is what was
// stored; where that is damaged, Read fails.
func (s *Store) Blob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) (*Blob, error) {
	return nil, errStub
}

// PutBlob stores a blob from one request. size is what the request said, or -1.
// Content that is not d is DigestInvalid.
func (s *Store) PutBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, size int64, r io.Reader) (Blob, error) {
	return Blob{}, errStub
}

// An Upload is a session that receives a blob in pieces.
type Upload struct {
	ID     string // one path segment
	Offset int64  // bytes received so far
}

// UUID is the part of the ID that never changes.
func (u Upload) UUID() string { return u.ID }

// A Chunk is one piece of an upload.
type Chunk struct {
	At   int64 // where it starts (Content-Range), or -1 for wherever the upload is; not there is UploadOutOfOrder
	Size int64 // what the request said, or -1
	io.Reader
}

// StartUpload begins a session; it costs nothing until bytes arrive. alg is
// what the client says it will name the blob with; "" is SHA-256.
func (s *Store) StartUpload(ctx context.Context, g access.Grant, repo ref.Repository, alg ref.Algorithm) (Upload, error) {
	return Upload{}, errStub
}

// UploadStatus tells how far a session is; one that is not there, or ended, or
// is another caller's, is UploadUnknown.
func (s *Store) UploadStatus(ctx context.Context, g access.Grant, repo ref.Repository, id string) (Upload, error) {
	return Upload{}, errStub
}

// AppendUpload adds a chunk. When the reader fails half-way, what arrived stays
// and the error is returned with the session's new offset.
func (s *Store) AppendUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string, c Chunk) (Upload, error) {
	return Upload{}, errStub
}

// FinishUpload adds the last chunk (which may be empty) and makes a blob of the
// session. Of several at once one succeeds; content that is not d is
// DigestInvalid and leaves the session as it was.
func (s *Store) FinishUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string, c Chunk, d ref.Digest) (Blob, error) {
	return Blob{}, errStub
}

// CancelUpload ends a session and gives its bytes up.
func (s *Store) CancelUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string) error {
	return errStub
}

// Mount gives repo a blob that another repository has, if the caller may pull
// it there; from "" looks in every repository that the caller may pull. false
// means that there is none, or none for this caller: the same answer.
func (s *Store) Mount(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, from ref.Repository) (Blob, bool, error) {
	return Blob{}, false, errStub
}

// DeleteBlob takes a blob from a repository. One that a manifest there needs is
// Referenced.
func (s *Store) DeleteBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) error {
	return errStub
}

// Sweep says how long things stay that nobody names.
type Sweep struct {
	Grace  time.Duration // bytes without a name, and blobs that no repository has
	Unused time.Duration // blobs in a repository that no manifest there needs; 0 keeps them
}

// Swept counts what a sweep removed.
type Swept struct {
	Uploads, Links, Blobs, Objects int
}

// Sweep removes what nobody names, once.
func (s *Store) Sweep(ctx context.Context, o Sweep) (Swept, error) {
	return Swept{}, errStub
}
