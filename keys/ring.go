package keys

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"breakwater/db"
	"breakwater/fault"
)

// A Ring is the data keys of one registry, by version, opened. It never changes.
type Ring struct {
	silent
	registry string
	keys     map[uint32]DataKey
	current  uint32
}

// NewRing makes a ring of secrets in the order of their versions, which start
// at 1; the last is current.
func NewRing(registry string, secrets ...[]byte) (*Ring, error) {
	r := &Ring{registry: registry, keys: map[uint32]DataKey{}}
	for i, s := range secrets {
		if err := r.add(uint32(i+1), s); err != nil {
			return nil, err
		}
		r.current = uint32(i + 1)
	}
	return r, nil
}

func (r *Ring) add(version uint32, secret []byte) error {
	if len(secret) != Size {
		return fmt.Errorf("key %d of registry %s has %d bytes, not %d", version, r.registry, len(secret), Size)
	}
	r.keys[version] = DataKey{registry: r.registry, version: version, secret: hide(secret)}
	return nil
}

// Registry is the uid of the registry whose keys these are.
func (r *Ring) Registry() string { return r.registry }

// Current is the key that new objects are sealed with.
func (r *Ring) Current() DataKey { return r.keys[r.current] }

// Version is the key that opens what was sealed with version n. A version that
// the ring does not have is fault.Unavailable.
func (r *Ring) Version(n uint32) (DataKey, error) {
	k, ok := r.keys[n]
	if !ok {
		return DataKey{}, fault.New(fault.Unavailable, "the key of this content is not available").
			Because(fmt.Errorf("registry %s has no key version %d", r.registry, n))
	}
	return k, nil
}

// Rings keeps the rings of all registries: wrapped in the database, opened in
// memory from the first use on.
type Rings struct {
	db    *db.DB
	vault Vault
	open  sync.Map // registry uid → *Ring
}

// NewRings keeps its keys in d, wrapped by v.
func NewRings(d *db.DB, v Vault) *Rings { return &Rings{db: d, vault: v} }

// Create gives a new registry its first key, in the transaction that creates
// the registry. A registry that has one is fault.Conflict.
func (s *Rings) Create(ctx context.Context, tx *db.Tx, registryUID string) error {
	secret := make([]byte, Size)
	rand.Read(secret)
	w, err := s.vault.Wrap(ctx, keyID(registryUID, 1), secret)
	if err != nil {
		return fmt.Errorf("wrap the first key of registry %s: %w", registryUID, err)
	}
	return insert(ctx, tx, registryUID, 1, w.Data)
}

// Destroy takes a registry's keys away for good, in the transaction that deletes
// the registry: what they sealed can be opened by nobody, wherever a copy of it
// lies. Copies of the database have them still, for who has the vault.
func (s *Rings) Destroy(ctx context.Context, tx *db.Tx, registryUID string) error {
	tx.Then(func() { s.Forget(registryUID) })
	return destroy(ctx, tx, registryUID)
}

// Ring is the ring of a registry. Every error is a refusal: without its keys a
// registry neither takes nor gives content.
func (s *Rings) Ring(ctx context.Context, registryUID string) (*Ring, error) {
	if r, ok := s.open.Load(registryUID); ok {
		return r.(*Ring), nil
	}
	rows, err := load(ctx, s.db, registryUID)
	if err != nil {
		return nil, fmt.Errorf("keys of registry %s: %w", registryUID, err)
	}
	r := &Ring{registry: registryUID, keys: map[uint32]DataKey{}}
	for _, row := range rows {
		secret, err := s.vault.Unwrap(ctx, Wrapped{keyID(registryUID, row.version), row.wrapped})
		if err == nil {
			err = r.add(row.version, secret)
		}
		clear(secret)
		if err != nil {
			return nil, fault.New(fault.Unavailable, "the keys of this registry cannot be opened at the moment").
				Because(fmt.Errorf("key %d of registry %s: %w", row.version, registryUID, err))
		}
		if row.state == current {
			r.current = row.version
		}
	}
	if r.current == 0 {
		return nil, fault.New(fault.Unavailable, "this registry has no key").
			Because(fmt.Errorf("registry %s has no current key", registryUID))
	}
	s.open.Store(registryUID, r)
	return r, nil
}

// Forget closes the ring of a registry; the next use opens it again from what
// the database has then.
func (s *Rings) Forget(registryUID string) { s.open.Delete(registryUID) }

func keyID(registryUID string, version uint32) KeyID {
	return KeyID(fmt.Sprintf("registry/%s/%d", registryUID, version))
}
