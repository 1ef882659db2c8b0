package keys

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"sync"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

// A Ring is the data keys of one registry, by version, opened. It never changes.
type Ring struct {
	silent
	registry string
	keys     map[uint32]DataKey
	current  uint32
	later    func() *Ring // that was opened since, or nil
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
	if !ok && n > r.current && r.later != nil {
		if later := r.later(); later != nil { // made while this request was under way
			k, ok = later.keys[n]
		}
	}
	if !ok {
		return DataKey{}, fault.New(fault.Unavailable, "the key of this content is not available").
			Because(fmt.Errorf("registry %s has no key version %d", r.registry, n))
	}
	return k, nil
}

// fingerprint tells a secret from every other, and nothing else about it. It lies
// under the platform's key beside what a customer's provider wrapped, so that no
// provider can answer with a key of its own choice.
func fingerprint(id KeyID, secret []byte) []byte {
	sum, err := hkdf.Key(sha256.New, secret, nil, "breakwater data key 1/fingerprint/"+string(id), Size)
	if err != nil {
		panic(err) // only for lengths that HKDF cannot yield
	}
	return sum
}

// Rings keeps the rings of all registries: wrapped in the database, opened in
// memory from the first use on.
type Rings struct {
	db    *db.DB
	vault Vault
	c     *Custody

	open    sync.Map // registry uid → *entry
	waiting chan struct{}
	asking  sync.WaitGroup
	over    context.Context // of what nobody waits for
	end     context.CancelFunc
}

// NewRings keeps its keys in d, wrapped by v.
func NewRings(d *db.DB, v Vault) *Rings {
	s := &Rings{db: d, vault: v, waiting: make(chan struct{}, maxWaiting)}
	s.over, s.end = context.WithCancel(context.Background())
	return s
}

// Fit reports with an error that the platform's key is not the one that the rings in the
// database were wrapped by: then nothing must be written with it. It asks no customer,
// and one damaged key is no proof.
func (s *Rings) Fit(ctx context.Context) error {
	some, err := sample(ctx, s.db, 64)
	if err != nil || len(some) == 0 {
		return err
	}
	for _, w := range some {
		var secret []byte
		if secret, err = s.vault.Unwrap(ctx, w); err == nil {
			clear(secret)
			return nil
		}
	}
	return fmt.Errorf("the platform key does not open the registries' keys; it belongs to another database: %w", err)
}

// Entrust lets customers hold keys, too. It is called before the first use.
func (s *Rings) Entrust(c *Custody) { s.c = c }

// Custody is how customers' keys are found; nil if they hold none.
func (s *Rings) Custody() *Custody { return s.c }

// Close ends what is asked of providers.
func (s *Rings) Close() {
	s.end()
	s.asking.Wait()
}

// Create gives a new registry its first key, in the transaction that creates
// the registry. A registry that has one is fault.Conflict.
func (s *Rings) Create(ctx context.Context, tx *db.Tx, registryUID string) error {
	secret := fresh()
	defer clear(secret)
	wrapped, err := s.seal(ctx, registryUID, 1, secret)
	if err != nil {
		return fmt.Errorf("wrap the first key of registry %s: %w", registryUID, err)
	}
	return insert(ctx, tx, registryUID, row{version: 1, wrapped: wrapped, state: current, created: time.Now()})
}

// seal wraps a secret with the platform's key alone.
func (s *Rings) seal(ctx context.Context, registryUID string, version uint32, secret []byte) ([]byte, error) {
	w, err := s.vault.Wrap(ctx, keyID(registryUID, version), secret)
	return w.Data, err
}

func fresh() []byte {
	secret := make([]byte, Size)
	rand.Read(secret)
	return secret
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
//
// A customer's key that opened it must still be ours: the provider is asked again
// and again, as standing decides, so that a key that was taken away closes the
// registry within a minute.
func (s *Rings) Ring(ctx context.Context, registryUID string) (*Ring, error) {
	e := s.entry(registryUID)
	if err := s.renew(ctx, e); err != nil {
		return nil, err
	}
	e.mu.Lock()
	if e.ring != nil && e.holder == nil {
		defer e.mu.Unlock()
		return e.ring, nil
	}
	if len(e.rows) == 0 {
		defer e.mu.Unlock()
		return nil, fault.New(fault.Unavailable, "this registry has no key").Because(fmt.Errorf("registry %s has no current key", registryUID))
	}
	e.mu.Unlock()
	if s.c == nil {
		return nil, fault.New(fault.Unavailable, "this server reaches no key providers")
	}
	return s.held(ctx, e)
}

// renew reads the rows of a registry again if they may have changed, and opens
// those that are the platform's.
func (s *Rings) renew(ctx context.Context, e *entry) error {
	now, err := s.generation(ctx)
	if err != nil {
		return err
	}
	e.mu.Lock()
	known := e.known && e.at >= now
	e.mu.Unlock()
	if known {
		return nil
	}
	rows, err := load(ctx, s.db, e.uid)
	if err != nil {
		return fmt.Errorf("keys of registry %s: %w", e.uid, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.known && e.at > now {
		return nil // others have gone on already
	}
	if e.known && same(e.rows, rows) && (e.ring != nil || e.holder != nil) {
		e.at = now
		return nil
	}
	e.take(now, rows)
	if len(rows) == 0 || e.holder != nil {
		return nil
	}
	ring, err := s.unlock(ctx, e, rows)
	if err != nil {
		e.known = false
		return fault.New(fault.Unavailable, "the keys of this registry cannot be opened at the moment").Because(err)
	}
	e.ring = ring
	return nil
}

// later is the ring as the database has it now: a request that began before a key
// was made may meet what was sealed with it.
func (s *Rings) later(e *entry) *Ring {
	ctx, cancel := context.WithTimeout(s.over, patience)
	defer cancel()
	e.mu.Lock()
	e.known = false
	e.mu.Unlock()
	r, err := s.Ring(ctx, e.uid)
	if err != nil {
		return nil
	}
	return r
}

// generation counts the changes of documents: whoever changes keys changes one.
func (s *Rings) generation(ctx context.Context) (int64, error) {
	if s.c == nil {
		return 0, nil
	}
	return s.c.Documents.Generation(ctx)
}

// Forget closes the ring of a registry; the next use opens it again from what
// the database has then.
func (s *Rings) Forget(registryUID string) { s.open.Delete(registryUID) }

func (s *Rings) entry(registryUID string) *entry {
	if e, ok := s.open.Load(registryUID); ok {
		return e.(*entry)
	}
	e, _ := s.open.LoadOrStore(registryUID, &entry{uid: registryUID})
	return e.(*entry)
}

func keyID(registryUID string, version uint32) KeyID {
	return KeyID(fmt.Sprintf("registry/%s/%d", registryUID, version))
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
