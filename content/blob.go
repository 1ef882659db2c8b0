package content

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/object"
	"breakwater/ref"
	"breakwater/seal"
)

// A Blob is content that a manifest may name. Who gets one from Store.Blob
// reads from it and closes it; from every other method it has no reader.
type Blob struct {
	Digest ref.Digest
	Size   int64
	io.ReadSeekCloser
}

// StatBlob tells whether the repository has a blob; if not, BlobUnknown. One that was
// found damaged is not there: who asks before a push shall push it again.
func (s *Store) StatBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) (Blob, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return Blob{}, err
	}
	_, size, whole, o, err := statBlob(ctx, s.db, g.Registry(), repo, d)
	if err == nil && !whole {
		err = unknown(fault.BlobUnknown)
	}
	if err = o.forbids(noRead, err); err == nil {
		_, err = s.ring(ctx, g.Registry()) // as for a manifest
	}
	return Blob{Digest: d, Size: size}, err
}

// Blob opens a blob for reading from any place on. What it yields is what was
// stored; where that is damaged or gone, Blob or Read is Damaged, and it is on record.
func (s *Store) Blob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) (*Blob, error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return nil, err
	}
	b, o, err := blobParts(ctx, s.db, g.Registry(), repo, d)
	if err = o.forbids(noRead, err); err != nil {
		return nil, err
	}
	if err := b.refused(now()); err != nil {
		return nil, err
	}
	if _, err := s.ring(ctx, g.Registry()); err != nil { // before the answer begins, and for who asks for no byte
		return nil, err
	}
	r, err := s.read(ctx, found(g, ledger.Detail{Repository: repo}), b)
	if err != nil {
		return nil, err
	}
	return &Blob{d, b.size, r}, nil
}

// PutBlob stores a blob from one request. size is what the request said, or -1.
// Content that is not d is DigestInvalid.
func (s *Store) PutBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, size int64, r io.Reader) (Blob, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Blob{}, err
	}
	if err := s.writable(ctx, g, repo); err != nil {
		return Blob{}, err
	}
	return s.finish(ctx, g, repo, d, Chunk{At: 0, Size: size, Reader: r}, d.Algorithm().New(), ticket{}, session{})
}

// Mount gives repo a blob that another repository has, if the caller may pull
// it there; from "" looks in every repository that the caller may pull. false
// means that there is none, or none that this caller can pull: the same
// answer.
func (s *Store) Mount(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, from ref.Repository) (Blob, bool, error) {
	if err := g.Allows(access.ContentWrite, g.RepositoryScope(repo)); err != nil {
		return Blob{}, false, err
	}
	sources := []ref.Repository{from}
	if from == "" {
		var err error
		if sources, err = holders(ctx, s.db, g.Registry(), d, 1000); err != nil {
			return Blob{}, false, err
		}
	}
	i := slices.IndexFunc(sources, func(r ref.Repository) bool { return g.Can(access.ContentRead, g.RepositoryScope(r)) })
	if i < 0 {
		return Blob{}, false, nil
	}
	if _, err := s.ring(ctx, g.Registry()); err != nil {
		return Blob{}, false, err
	}
	b := Blob{Digest: d}
	err := s.db.Write(ctx, func(tx *db.Tx) error {
		at := now()
		id, size, whole, o, err := statBlob(ctx, tx, g.Registry(), sources[i], d)
		if err != nil {
			return err
		}
		if o&noRead != 0 || !whole {
			return unknown(fault.BlobUnknown)
		}
		repository, err := haveRepository(ctx, tx, g.Registry(), repo, at)
		if err != nil {
			return err
		}
		if err := linkBlob(ctx, tx, repository, id, at); err != nil {
			return err
		}
		b.Size = size
		return s.ledger.Append(ctx, tx, event(g, mountBlob,
			ledger.Detail{Repository: repo, Digest: d, Size: size, More: map[string]string{"from": string(sources[i])}}))
	})
	if fault.Of(err) == fault.BlobUnknown || db.IsForeignKey(err) { // it went in the meantime
		return Blob{}, false, nil
	}
	return b, err == nil, err
}

// DeleteBlob takes a blob from a repository. One that a manifest there names is
// Referenced.
func (s *Store) DeleteBlob(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest) error {
	if err := g.Allows(access.ContentDelete, g.RepositoryScope(repo)); err != nil {
		return err
	}
	return s.change(ctx, g, DeleteBlob, ledger.Detail{Repository: repo, Digest: d}, func(tx *db.Tx) error {
		repository, o, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err = o.forbids(locked, err); err != nil {
			return absent(err, fault.NameUnknown)
		}
		id, _, _, _, err := statBlob(ctx, tx, g.Registry(), repo, d)
		if err != nil {
			return err
		}
		err = unlinkBlob(ctx, tx, repository, id, now())
		if db.IsForeignKey(err) {
			return fault.New(fault.Referenced, "a manifest in this repository names this blob; delete the manifest first").Because(err)
		}
		return absent(err, fault.BlobUnknown)
	})
}

// A part is an object and the place of its bytes in what it is a part of.
type part struct {
	object   string
	at, size int64
	secret   []byte // of its key, as seal.Secret.Bytes; nil if it is from before there were any
}

// source is what a client sends, hashed and counted on its way.
type source struct {
	r    io.Reader
	h    hash.Hash
	n    int64
	max  int64
	keep bool  // when r fails, end as if that were all
	err  error // of r, but io.EOF
}

func (s *source) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.end()
	}
	n, err := s.r.Read(p)
	s.h.Write(p[:n])
	if s.n += int64(n); s.n > s.max {
		s.keep, err = false, fault.New(fault.TooLarge, "a blob has at most %d bytes", int64(maxBlob))
	}
	if err != nil && err != io.EOF {
		s.err = err
		return n, s.end()
	}
	return n, err
}

func (s *source) end() error {
	if s.keep {
		return io.EOF
	}
	return s.err
}

// cutOff tells what became of a body that did not come to its end.
func cutOff(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fault.New(fault.RequestTimeout, "the content came too slowly").Because(err)
	}
	return fault.New(fault.UploadInvalid, "the content did not come to its end; ask for the status of the upload and go on from there").Because(err)
}

// put seals what src yields into a new object at at, with key. Nothing makes no object.
// From here on until free is called, no sweep of this process takes the object
// for one that will never have a name.
func (s *Store) put(ctx context.Context, registry string, at int64, src *source) (p part, key keys.DataKey, free func(), err error) {
	r := bufio.NewReaderSize(src, 16)
	if _, err := r.Peek(1); err != nil {
		if src.keep || src.err == nil {
			return part{}, key, func() {}, nil
		}
		return part{}, key, func() {}, src.err
	}
	ring, err := s.ring(ctx, registry)
	if err != nil {
		return part{}, key, func() {}, err
	}
	key = ring.Current()
	secret := seal.NewSecret()
	p = part{object: object.NewKey(), at: at, secret: secret.Bytes()}
	s.writing.Store(p.object, true)
	free = func() { s.writing.Delete(p.object) }
	_, err = s.objects.Put(ctx, p.object, seal.NewReader(r, key, seal.Place{Registry: registry, Object: p.object}, secret))
	p.size = src.n
	return p, key, free, err
}

// discard removes an object that will never have a name. If it fails, a sweep
// does it.
func (s *Store) discard(ctx context.Context, p part) {
	if p.object != "" {
		s.objects.Delete(context.WithoutCancel(ctx), p.object)
	}
}

// finish stores the last chunk of a session (of none, if the ticket is zero) and
// names the blob that all of it is. h has seen what the session has.
func (s *Store) finish(ctx context.Context, g access.Grant, repo ref.Repository, d ref.Digest, c Chunk, h hash.Hash, t ticket, from session) (Blob, error) {
	src := &source{r: c.Reader, h: h, max: maxBlob - from.size}
	p, key, free, err := s.put(ctx, g.Registry(), from.size, src)
	defer free()
	switch {
	case src.err != nil:
		return Blob{}, cutOff(src.err)
	case err != nil:
		return Blob{}, err
	case c.Size >= 0 && c.Size != src.n:
		s.discard(ctx, p)
		return Blob{}, fault.New(fault.SizeInvalid, "%d bytes came, not the %d that the request said", src.n, c.Size)
	case d.Algorithm().Digest(h) != d:
		s.discard(ctx, p)
		return Blob{}, fault.New(fault.DigestInvalid, "the content is not what its digest says; send it again")
	}

	b := Blob{Digest: d, Size: from.size + src.n}
	owner := t.uuid
	if owner == "" {
		owner = p.object
	}
	ring, err := s.ring(ctx, g.Registry())
	if err != nil {
		return Blob{}, err
	}
	proof, err := prove(ring, d, b.Size, from.chain.then(p))
	if err != nil {
		return Blob{}, err
	}
	if p.object == "" {
		key = ring.Current()
	}
	var won, lost bool              // whether the parts have a name now; whether another request ended the session
	var held, whole, damaged string // who owns the bytes that the registry has already, and what they are known to be
	detail := ledger.Detail{Repository: repo, Digest: d, Size: b.Size, More: map[string]string{}}
	ctx = context.WithoutCancel(ctx) // everything has come: a client that leaves now has still pushed
	name := func(tx *db.Tx) error {
		at := now()
		won, lost = false, false
		clear(detail.More)
		if err := s.rings.Hold(ctx, tx, key); err != nil {
			return err
		}
		if t.uuid != "" {
			if err := endSession(ctx, tx, g.Registry(), t, from); err != nil {
				lost = errors.Is(err, db.ErrNoRows)
				return err
			}
		}
		repository, err := haveRepository(ctx, tx, g.Registry(), repo, at)
		if err != nil {
			return err
		}
		id, bytes, err := haveBlob(ctx, tx, g.Registry(), d, b.Size, owner, proof)
		if err != nil {
			return err
		}
		if err := linkBlob(ctx, tx, repository, id, at); err != nil {
			return err
		}
		won = bytes == owner || bytes == damaged
		switch {
		case !won && bytes != whole:
			held = bytes
			return errUnread
		case !won && from.row:
			return disown(ctx, tx, owner, at)
		case bytes == damaged:
			detail.More["replaced"] = "damaged"
			err = replaceBytes(ctx, tx, id, bytes, owner, b.Size, proof, at)
		}
		if err == nil && won && p.object != "" {
			err = insertPart(ctx, tx, g.Registry(), owner, p)
		}
		return err
	}
	put := func() error {
		err := s.change(ctx, g, PushBlob, detail, name)
		if db.IsForeignKey(err) { // the repository was deleted between two statements: make it anew
			err = s.change(ctx, g, PushBlob, detail, name)
		}
		return err
	}
	// Who sends what is there already may do so because it cannot be read.
	for err = put(); err == errUnread; err = put() {
		there, err := findStored(ctx, s.db, g.Registry(), d)
		if fault.Of(err) == fault.BlobUnknown || err == nil && there.bytes != held {
			continue // it has gone, or somebody else has replaced it
		}
		if err == nil {
			err = s.examined(ctx, found(g, ledger.Detail{Repository: repo}), there)
		}
		switch {
		case err == nil:
			whole, damaged = held, ""
		case fault.Of(err) == fault.Damaged:
			whole, damaged = "", held
		default: // it says nothing about the bytes
			s.discard(ctx, p)
			return Blob{}, err
		}
	}
	if lost {
		s.discard(ctx, p)
		return Blob{}, s.overtaken(ctx, t)
	}
	if err == nil && !won || err != nil && fault.Of(err) == fault.Disallowed {
		s.discard(ctx, p) // the registry has this blob already, or the repository was locked meanwhile
	}
	return b, err // after an error nobody knows whether the object has a name: a sweep will find out
}

// errUnread undoes a push until somebody has read the bytes that are there.
var errUnread = errors.New("content: this is there already; nobody knows how it is")

// read opens a blob whose objects are proven to be its own.
func (s *Store) read(ctx context.Context, e ledger.Event, b stored) (*reader, error) {
	if b.proof == nil {
		if err := s.examined(ctx, e, b); err != nil {
			return nil, err
		}
	}
	return s.openStored(ctx, e, b)
}

func (s *Store) openStored(ctx context.Context, e ledger.Event, b stored) (*reader, error) {
	tell := func(err error) error { return s.blobDamaged(ctx, e, b, err) }
	if b.proof != nil {
		err := s.unseal(ctx, e.Registry, func(ring *keys.Ring) error { return proves(ring, b.digest, b.size, b.parts, b.proof) })
		if err != nil {
			return nil, tell(err)
		}
	}
	return s.open(ctx, e.Registry, b.size, b.parts, tell)
}

// examine reads all of a blob, as fast as pace takes it. One that is whole is proven
// then, and no longer known as damaged.
func (s *Store) examine(ctx context.Context, e ledger.Event, b stored, pace io.Writer) error {
	r, err := s.openStored(ctx, e, b)
	if err != nil {
		return err
	}
	defer r.Close()
	h := b.digest.Algorithm().New()
	if _, err := r.WriteTo(io.MultiWriter(h, pace)); err != nil {
		return err
	}
	if b.digest.Algorithm().Digest(h) != b.digest {
		return r.tell(fmt.Errorf("%w: the bytes of the blob are not those of its digest", seal.ErrDamaged))
	}
	if b.proof != nil && b.marked == nil {
		return nil
	}
	ring, err := s.ring(ctx, e.Registry)
	if err != nil {
		return err
	}
	proof, err := prove(ring, b.digest, b.size, chained(b.parts))
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *db.Tx) error { return vouch(ctx, tx, b, proof) })
}

// open reads parts one after the other. It opens the first at once, so that what
// is missing is an error before the first byte is promised. tell makes of an error
// what a reader is told.
func (s *Store) open(ctx context.Context, registry string, size int64, parts []part, tell func(error) error) (*reader, error) {
	end := int64(0)
	for _, p := range parts {
		if p.at != end {
			return nil, tell(fmt.Errorf("%w: the parts do not fit together", seal.ErrDamaged))
		}
		end += p.size
	}
	if end != size {
		return nil, tell(fmt.Errorf("%w: the parts are not as long as the whole", seal.ErrDamaged))
	}
	r := &reader{ctx: ctx, s: s, registry: registry, size: size, parts: parts, tell: tell, current: -1}
	if len(parts) > 0 {
		if err := r.turn(0); err != nil {
			return nil, tell(err)
		}
	}
	return r, nil
}

// A reader reads the parts of a blob as if they were one. It is for one
// goroutine, as long as the request lasts whose context it has.
type reader struct {
	ctx      context.Context
	s        *Store
	registry string
	size     int64
	parts    []part
	tell     func(error) error
	pos      int64

	current int // the part that is open, or -1
	object  object.Object
	stream  *seal.Stream
}

// turn opens part i.
func (r *reader) turn(i int) error {
	if i == r.current {
		return nil
	}
	r.Close()
	p := r.parts[i]
	secret, err := seal.ParseSecret(p.secret)
	if err != nil {
		return err
	}
	o, err := r.s.objects.Open(r.ctx, p.object)
	if err != nil {
		return err
	}
	var opened *seal.Reader
	err = r.s.unseal(r.ctx, r.registry, func(ring *keys.Ring) (err error) {
		opened, err = seal.Open(o, o.Size(), ring, seal.Place{Registry: r.registry, Object: p.object}, secret)
		return err
	})
	if err == nil && opened.Size() != p.size {
		err = seal.ErrDamaged
	}
	if err != nil {
		o.Close()
		return err
	}
	r.current, r.object, r.stream = i, o, opened.NewStream()
	return nil
}

// here opens the part at the position and returns how much of it is left.
func (r *reader) here() (left int64, err error) {
	if r.pos >= r.size {
		return 0, io.EOF
	}
	i, _ := slices.BinarySearchFunc(r.parts, r.pos, func(p part, pos int64) int {
		if p.at+p.size <= pos {
			return -1
		}
		return 1
	})
	if err := r.turn(i); err != nil {
		return 0, err
	}
	p := r.parts[i]
	_, err = r.stream.Seek(r.pos-p.at, io.SeekStart)
	return p.at + p.size - r.pos, err
}

func (r *reader) Read(b []byte) (int, error) {
	if _, err := r.here(); err != nil {
		return 0, r.tell(err)
	}
	n, err := r.stream.Read(b)
	r.pos += int64(n)
	return n, r.tell(err)
}

// WriteTo implements io.WriterTo.
func (r *reader) WriteTo(w io.Writer) (int64, error) { return r.WriteN(w, r.size) }

// WriteN writes the next n bytes, or as many as there are, in large pieces and
// without the copy that io.CopyN makes (see seal.Stream.WriteN).
func (r *reader) WriteN(w io.Writer, n int64) (written int64, err error) {
	for written < n {
		left, err := r.here()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, r.tell(err)
		}
		m, err := r.stream.WriteN(w, min(left, n-written))
		r.pos += m
		written += m
		if err != nil {
			return written, r.tell(err)
		}
	}
	return written, nil
}

func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return r.pos, errors.New("content: seek to before the start")
	}
	r.pos = offset
	return offset, nil
}

// Close lets go of the part that is open.
func (r *reader) Close() error {
	if r.current < 0 {
		return nil
	}
	r.current = -1
	return errors.Join(r.stream.Close(), r.object.Close())
}
