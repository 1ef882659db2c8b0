package content

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/seal"
)

// What lies on a disk or in a row is believed only as far as it is sealed. The bytes
// of an object are bound to its key; the proof in a blob's row binds its digest to the
// keys of its objects, in their order. So who can write to the disk and to the rows,
// but has no key, cannot have one blob given out for another, also of the same size.

// A chain is a hash of objects in their order.
type chain [sha256.Size]byte

// then is the chain that goes on with a part.
func (c chain) then(p part) chain {
	if p.object == "" {
		return c
	}
	b := append(make([]byte, 0, 128), c[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(p.at))
	b = binary.BigEndian.AppendUint64(b, uint64(p.size))
	return sha256.Sum256(append(b, p.object...))
}

func chained(parts []part) (c chain) {
	for _, p := range parts {
		c = c.then(p)
	}
	return c
}

func blobPlace(registry string, d ref.Digest) seal.Place {
	return seal.Place{Registry: registry, Object: "blob/" + string(d)}
}

// prove seals that a blob is made of these objects.
func prove(ring *keys.Ring, d ref.Digest, size int64, c chain) ([]byte, error) {
	return seal.Small(ring.Current(), blobPlace(ring.Registry(), d), binary.BigEndian.AppendUint64(c[:], uint64(size)))
}

// proves reports whether the proof says so of a blob: seal.ErrDamaged if it does not.
func proves(ring *keys.Ring, d ref.Digest, size int64, parts []part, proof []byte) error {
	said, err := seal.OpenSmall(ring, blobPlace(ring.Registry(), d), proof)
	c := chained(parts)
	if err == nil && string(said) != string(binary.BigEndian.AppendUint64(c[:], uint64(size))) {
		err = fmt.Errorf("%w: the objects of the blob are not those that were stored", seal.ErrDamaged)
	}
	return err
}

// damaged reports whether err says that what is stored is not what was stored.
func damaged(err error) bool {
	return errors.Is(err, seal.ErrDamaged) || errors.Is(err, fs.ErrNotExist)
}

// found is an event about what the server found, perhaps while it answered a request.
func found(g access.Grant, d ledger.Detail) ledger.Event {
	e := event(g, "", d)
	e.Who, e.From, e.Duration = identity.ThisServer().Who(), ledger.From{}, 0 // whoever asked has not done it
	return e
}

// ring opens the keys of a registry. Rows of keys that are not what was written are
// told, like other damage; a customer who exchanged a key (keys.ErrWrapped) did none.
func (s *Store) ring(ctx context.Context, registry string) (*keys.Ring, error) {
	ring, err := s.rings.Ring(ctx, registry)
	if errors.Is(err, keys.ErrDamaged) {
		e := ledger.Event{Registry: registry, Who: identity.ThisServer().Who()}
		s.ledger.Alarm(ctx, ledger.Damage(e, "key", "registry/"+registry), err, nil)
	}
	return ring, err
}

// unseal opens something with the keys of a registry. A version that the ring lacks is
// damage only if there are keys to be had and they lack it, too: the ring itself looks
// for what was made since, but cannot say that it could not look.
func (s *Store) unseal(ctx context.Context, registry string, open func(*keys.Ring) error) error {
	ring, err := s.ring(ctx, registry)
	if err != nil {
		return err
	}
	if err = open(ring); !errors.Is(err, seal.ErrDamaged) || fault.Of(err) != fault.Unavailable {
		return err
	}
	later, failed := s.ring(ctx, registry)
	switch {
	case failed != nil:
		return failed
	case later != ring:
		return open(later)
	}
	return err
}

// blobDamaged tells that a blob is not what was stored, and marks it: from then on it
// is not there for who asks whether to push it. It returns what a reader is told.
// Other errors it returns as they are.
func (s *Store) blobDamaged(ctx context.Context, e ledger.Event, b stored, err error) error {
	if !damaged(err) {
		return err
	}
	e.Detail.Digest, e.Detail.Size = b.digest, b.size
	s.ledger.Alarm(ctx, ledger.Damage(e, "blob", string(b.digest)), err, func(tx *db.Tx) (bool, error) { return markBlob(ctx, tx, b, now()) })
	if there, gone := findStored(context.WithoutCancel(ctx), s.db, e.Registry, b.digest); fault.Of(gone) == fault.BlobUnknown || gone == nil && there.bytes != b.bytes {
		return unknown(fault.BlobUnknown) // it was erased while it was looked for
	}
	return fault.New(fault.Damaged, "what is stored of this blob is damaged, so it is not given out; push it again, which replaces it, or ask the operator to restore it").Because(err)
}

// retry is for how long a blob that was found damaged is refused without a look at it:
// what the operator restored is given out after that, and who asks again and again
// does not get its beginning each time.
const retry = int64(60e6)

// refused is what a reader is told of a blob that was found damaged a moment ago.
func (b stored) refused(at int64) error {
	if b.marked == nil || at-*b.marked >= retry {
		return nil
	}
	return fault.New(fault.Damaged, "what is stored of this blob was found damaged, so it is not given out; push it again, which replaces it, or ask the operator to restore it")
}

// manifestDamaged is blobDamaged for a manifest.
func (s *Store) manifestDamaged(ctx context.Context, e ledger.Event, m Manifest, err error) error {
	if !damaged(err) {
		return err
	}
	there, _, _, gone := findManifest(context.WithoutCancel(ctx), s.db, e.Registry, e.Detail.Repository, ref.Reference{Digest: m.Digest}, true)
	if fault.Of(gone) == fault.ManifestUnknown || gone == nil && !bytes.Equal(there.Body, m.Body) {
		return unknown(fault.ManifestUnknown) // it was erased while it was looked for
	}
	e.Detail.Digest, e.Detail.MediaType = m.Digest, m.MediaType
	s.ledger.Alarm(ctx, ledger.Damage(e, "manifest", string(m.Digest)), err, func(tx *db.Tx) (bool, error) {
		return markManifestDamaged(ctx, tx, e.Registry, e.Detail.Repository, m.Digest)
	})
	return fault.New(fault.Damaged, "what is stored of this manifest is damaged, so it is not given out; push it again, which replaces it, or ask the operator to restore it").Because(err)
}

// tagDamaged tells of a tag whose row names one manifest and points to another.
func (s *Store) tagDamaged(ctx context.Context, g access.Grant, repo ref.Repository, t ref.Tag, said, is ref.Digest) error {
	err := fmt.Errorf("tag %s says %s and points to %s", t, said, is)
	e := found(g, ledger.Detail{Repository: repo, Tag: t, Digest: said})
	s.ledger.Alarm(ctx, ledger.Damage(e, "tag", string(repo)+":"+string(t)), err, nil)
	return fault.New(fault.Damaged, "what is stored of this tag is damaged; push it again, or pull by digest").Because(err)
}

// uploadDamaged tells of a session whose row or parts are not what was stored.
func (s *Store) uploadDamaged(ctx context.Context, g access.Grant, repo ref.Repository, t ticket, err error) error {
	if !damaged(err) {
		return err
	}
	if there, gone := sessionRow(context.WithoutCancel(ctx), s.db, t); errors.Is(gone, db.ErrNoRows) || gone == nil && there.done {
		return unknown(fault.UploadUnknown) // it was erased while it was looked for
	}
	s.ledger.Alarm(ctx, ledger.Damage(found(g, ledger.Detail{Repository: repo}), "upload", t.uuid), err, nil)
	return fault.New(fault.Damaged, "what is stored of this upload is damaged; begin it again").Because(err)
}
