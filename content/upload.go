package content

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/seal"
)

// How long an upload lives.
const (
	beginWithin = time.Hour      // from its start to its first bytes
	goOnWithin  = 24 * time.Hour // from one chunk to the next
	maxParts    = 1 << 16        // chunks; 200 GiB in pieces of 4 MiB are fewer
)

// An Upload is a session that receives a blob in pieces.
type Upload struct {
	ID     string // one path segment
	Offset int64  // bytes received so far
}

// UUID is what is unique in the ID.
func (u Upload) UUID() string {
	uuid, _, _ := strings.Cut(u.ID, ".")
	return uuid
}

// A Chunk is one piece of an upload.
type Chunk struct {
	At   int64 // where it starts (Content-Range), or -1 for wherever the upload is; not there is UploadOutOfOrder
	Size int64 // what the request said, or -1
	io.Reader
}

// A ticket is the ID of an upload, opened. It is authenticated, so a session
// needs no row before its first bytes, and belongs to one repository and one
// caller for as long as it lives.
type ticket struct {
	uuid      string
	algorithm ref.Algorithm
	expires   int64 // when it is too late to begin, in microseconds
}

var algorithms = [...]ref.Algorithm{ref.SHA256, ref.SHA512}

const (
	macSize   = 16
	claimSize = 5 // until in seconds, and the algorithm
)

// mac binds the parts of an ID to the registry, repository and caller.
func (s *Store) mac(g access.Grant, repo ref.Repository, uuid string, claim []byte) []byte {
	h := hmac.New(sha256.New, s.sessions)
	p := g.Principal()
	var b []byte
	for _, field := range []string{g.Registry(), string(repo), string(p.Kind), p.ID, uuid, string(claim)} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(field)))
		b = append(b, field...)
	}
	h.Write(b)
	return h.Sum(nil)[:macSize]
}

func (s *Store) openTicket(g access.Grant, repo ref.Repository, id string) (ticket, error) {
	uuid, rest, _ := strings.Cut(id, ".")
	b, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil || len(b) != claimSize+macSize || !hmac.Equal(b[claimSize:], s.mac(g, repo, uuid, b[:claimSize])) {
		return ticket{}, unknown(fault.UploadUnknown)
	}
	return ticket{uuid, algorithms[b[4]], int64(binary.BigEndian.Uint32(b)) * 1e6}, nil
}

// StartUpload begins a session; it costs nothing until bytes arrive. alg is
// what the client says it will name the blob with; "" is SHA-256.
func (s *Store) StartUpload(ctx context.Context, g access.Grant, repo ref.Repository, alg ref.Algorithm) (Upload, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Upload{}, err
	}
	if err := s.writable(ctx, g, repo); err != nil {
		return Upload{}, err
	}
	claim := binary.BigEndian.AppendUint32(nil, uint32(time.Now().Add(beginWithin).Unix()))
	claim = append(claim, 0)
	if alg == ref.SHA512 {
		claim[4] = 1
	}
	uuid := ref.NewGUID()
	return Upload{ID: uuid + "." + base64.RawURLEncoding.EncodeToString(append(claim, s.mac(g, repo, uuid, claim)...))}, nil
}

// A session is how far an upload is.
type session struct {
	row    bool // false: nothing has arrived
	size   int64
	parts  int
	sealed []byte // what follows: a state of a hash holds bytes of the content
	chain  chain  // of the parts
	hash   []byte // state of the ticket's algorithm after size bytes
	done   bool
	until  int64
}

func uploadPlace(registry string, t ticket) seal.Place {
	return seal.Place{Registry: registry, Object: "upload/" + t.uuid}
}

// progress seals how far a session is.
func progress(ring *keys.Ring, t ticket, c chain, size int64, hash []byte) ([]byte, error) {
	return seal.Small(ring.Current(), uploadPlace(ring.Registry(), t), append(binary.BigEndian.AppendUint64(c[:], uint64(size)), hash...))
}

// open opens what progress sealed.
func (from *session) open(ring *keys.Ring, t ticket) error {
	b, err := seal.OpenSmall(ring, uploadPlace(ring.Registry(), t), from.sealed)
	if err != nil {
		return err
	}
	const head = len(chain{}) + 8
	if len(b) < head || int64(binary.BigEndian.Uint64(b[head-8:])) != from.size {
		return fmt.Errorf("%w: the upload is not as long as its row says", seal.ErrDamaged)
	}
	from.chain, from.hash = chain(b[:head-8]), b[head:]
	return nil
}

// session opens an ID and finds the session; one that is not there, or ended, or
// is another caller's or another repository's is UploadUnknown.
func (s *Store) session(ctx context.Context, g access.Grant, repo ref.Repository, id string) (ticket, session, error) {
	t, err := s.openTicket(g, repo, id)
	if err != nil {
		return t, session{}, err
	}
	from, err := sessionRow(ctx, s.db, t)
	if errors.Is(err, db.ErrNoRows) {
		from = session{until: t.expires}
	} else if err != nil {
		return t, session{}, err
	} else {
		from.row = true
	}
	if from.done || now() >= from.until {
		return t, session{}, unknown(fault.UploadUnknown)
	}
	if !from.row {
		return t, from, nil
	}
	err = s.unseal(ctx, g.Registry(), func(ring *keys.Ring) error { return from.open(ring, t) })
	return t, from, s.uploadDamaged(ctx, g, repo, t, err)
}

// accepts refuses a chunk that does not begin where the session is.
func (from session) accepts(c Chunk) error {
	if c.At >= 0 && c.At != from.size {
		return outOfOrder()
	}
	return nil
}

func outOfOrder() error {
	return fault.New(fault.UploadOutOfOrder, "the upload is somewhere else; ask for its status and go on from there")
}

// overtaken is the answer to who was second. It looks in a transaction, behind
// that of who was first: a reader might not see that one yet.
func (s *Store) overtaken(ctx context.Context, t ticket) error {
	var u session
	err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
		u, err = sessionRow(ctx, tx, t)
		return err
	})
	switch {
	case err != nil:
		return absent(err, fault.UploadUnknown)
	case u.done:
		return unknown(fault.UploadUnknown)
	}
	return outOfOrder()
}

// resume is the running hash of the session.
func (from session) resume(a ref.Algorithm) (hash.Hash, error) {
	h := a.New()
	if !from.row {
		return h, nil
	}
	return h, h.(encoding.BinaryUnmarshaler).UnmarshalBinary(from.hash)
}

// UploadStatus tells how far a session is.
func (s *Store) UploadStatus(ctx context.Context, g access.Grant, repo ref.Repository, id string) (Upload, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Upload{}, err
	}
	_, from, err := s.session(ctx, g, repo, id)
	return Upload{ID: id, Offset: from.size}, err
}

// AppendUpload adds a chunk. When the reader fails half-way, what arrived stays
// and the error comes with the session's new offset.
func (s *Store) AppendUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string, c Chunk) (Upload, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Upload{}, err
	}
	t, from, err := s.session(ctx, g, repo, id)
	if err != nil {
		return Upload{}, err
	}
	u := Upload{id, from.size}
	if err := from.accepts(c); err != nil {
		return u, err
	}
	if from.parts >= maxParts {
		return u, fault.New(fault.TooLarge, "an upload has at most %d chunks; send larger ones", maxParts)
	}
	h, err := from.resume(t.algorithm)
	if err != nil {
		return u, err
	}
	ctx = context.WithoutCancel(ctx) // what arrived is kept, also from a client that has gone
	src := &source{r: c.Reader, h: h, max: maxBlob - from.size, keep: true}
	p, key, free, err := s.put(ctx, g.Registry(), from.size, src)
	defer free()
	if err != nil {
		return u, err
	}
	if p.object != "" {
		if err := s.advance(ctx, g, repo, t, from, p, key, h); err != nil {
			return u, err
		}
		u.Offset += p.size
	}
	switch {
	case src.err != nil:
		return u, cutOff(src.err)
	case c.Size >= 0 && c.Size != src.n:
		return u, fault.New(fault.SizeInvalid, "%d bytes came, not the %d that the request said", src.n, c.Size)
	}
	return u, nil
}

// advance names a part and moves the session behind it; of two that began at one
// place the second loses.
func (s *Store) advance(ctx context.Context, g access.Grant, repo ref.Repository, t ticket, from session, p part, key keys.DataKey, h hash.Hash) error {
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		return err
	}
	ring, err := s.ring(ctx, g.Registry())
	if err != nil {
		return err
	}
	sealed, err := progress(ring, t, from.chain.then(p), from.size+p.size, state)
	if err != nil {
		return err
	}
	until := time.Now().Add(goOnWithin).UnixMicro()
	lost := false
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		if err := s.rings.Hold(ctx, tx, key); err != nil {
			return err
		}
		err := moveSession(ctx, tx, g.Registry(), repo, t, from, from.size+p.size, sealed, until)
		if lost = errors.Is(err, db.ErrNoRows); err != nil {
			return err
		}
		return insertPart(ctx, tx, g.Registry(), t.uuid, p)
	})
	if lost {
		s.discard(ctx, p)
		return s.overtaken(ctx, t)
	}
	return err
}

// FinishUpload adds the last chunk (which may be empty) and makes a blob of the
// session. Of several at once one succeeds; content that is not d is
// DigestInvalid and leaves the session as it was.
func (s *Store) FinishUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string, c Chunk, d ref.Digest) (Blob, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Blob{}, err
	}
	t, from, err := s.session(ctx, g, repo, id)
	if err != nil {
		return Blob{}, err
	}
	if err := from.accepts(c); err != nil {
		return Blob{}, err
	}
	h, err := s.hashFor(ctx, g, repo, d.Algorithm(), t, from)
	if err != nil {
		return Blob{}, err
	}
	return s.finish(ctx, g, repo, d, c, h, t, from)
}

// hashFor is the running hash of the session in the algorithm of the digest. A
// client that named another one, or none, at the start has what it sent read
// again.
func (s *Store) hashFor(ctx context.Context, g access.Grant, repo ref.Repository, a ref.Algorithm, t ticket, from session) (hash.Hash, error) {
	if a == t.algorithm || !from.row {
		return from.resume(a)
	}
	parts, err := ownedParts(ctx, s.db, t.uuid)
	if err != nil {
		return nil, err
	}
	if len(parts) > from.parts {
		parts = parts[:from.parts] // it went on since; the end of this request will find out
	}
	tell := func(err error) error { return s.uploadDamaged(ctx, g, repo, t, err) }
	if chained(parts) != from.chain {
		return nil, tell(fmt.Errorf("%w: the parts of the upload are not those that were stored", seal.ErrDamaged))
	}
	r, err := s.open(ctx, g.Registry(), from.size, parts, tell)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h := a.New()
	_, err = r.WriteTo(h)
	return h, err
}

// CancelUpload ends a session and gives its bytes up.
func (s *Store) CancelUpload(ctx context.Context, g access.Grant, repo ref.Repository, id string) error {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return err
	}
	t, from, err := s.session(ctx, g, repo, id)
	if err != nil {
		return err
	}
	lost := false
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		err := endSession(ctx, tx, g.Registry(), t, from)
		if lost = errors.Is(err, db.ErrNoRows); err != nil {
			return err
		}
		if err := disown(ctx, tx, t.uuid, now()); err != nil {
			return err
		}
		return s.ledger.Append(ctx, tx, event(g, CancelUpload, ledger.Detail{
			Repository: repo, Size: from.size, More: map[string]string{"upload": t.uuid},
		}))
	})
	if lost {
		return s.overtaken(ctx, t)
	}
	return err
}
