package keys

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"breakwater/db"
	"breakwater/fault"
)

// A Rewrap is the keys of a registry as they will be: wrapped and opened again, and
// not yet in the database. It becomes true in one transaction, or never.
type Rewrap struct {
	silent
	s         *Rings
	uid       string
	at        int64 // generation before it was prepared
	was, next []row // those of was come first in next
	ring      *Ring
	bridge    time.Duration
	began     time.Time // when the holder had not yet been asked

	Holder *Holder // who holds the keys afterwards; nil is the platform alone
	Was    *Holder // … and before
}

// MaxVersions is how many data keys a registry has at most: one a day for almost three
// years. A slow device, of 20 answers a second in all, opens them in 52 s, and wraps
// and opens them in 103 s: both within allTime.
const MaxVersions = 1024

// allTime bounds what wraps or opens all keys of a registry.
const allTime = 2 * time.Minute

// Version is the data key that new content is sealed with afterwards, and since when
// there is that key.
func (r *Rewrap) Version() (uint32, time.Time) {
	for _, row := range r.next {
		if row.state == current {
			return row.version, row.created
		}
	}
	return 0, time.Time{}
}

// Keys is how many keys are wrapped.
func (r *Rewrap) Keys() int { return len(r.next) }

// First prepares the first key of a registry that has none yet.
func (s *Rings) First(ctx context.Context, uid string, to *Holder) (*Rewrap, error) {
	r := &Rewrap{s: s, uid: uid, Holder: to, began: time.Now()}
	return r, r.add(ctx, 1)
}

// Rewrap prepares that all keys of a registry are wrapped for another holder: nil is
// the platform alone. They must be open, which needs the consent of who holds them.
func (s *Rings) Rewrap(ctx context.Context, uid string, to *Holder) (*Rewrap, error) {
	r, err := s.prepare(ctx, uid)
	if err != nil {
		return nil, err
	}
	r.Holder, r.next = to, make([]row, len(r.was))
	bounded, cancel := context.WithTimeout(ctx, allTime)
	defer cancel()
	work, wrapping := errgroup.WithContext(bounded)
	work.SetLimit(maxAtOnce)
	for i, was := range r.was {
		work.Go(func() error {
			key, err := r.ring.Version(was.version)
			if err != nil {
				return err
			}
			r.next[i] = was
			r.next[i].held = to
			if r.next[i].wrapped, err = s.wrap(wrapping, uid, was.version, key.secret()[:], to); err != nil {
				err = fmt.Errorf("wrap key %d of registry %s: %w", was.version, uid, err)
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	return r, r.reach(ctx)
}

// Renew prepares a new data key, that new content is sealed with. Those before it go
// on opening what they sealed.
func (s *Rings) Renew(ctx context.Context, uid string) (*Rewrap, error) {
	r, err := s.prepare(ctx, uid)
	if err != nil {
		return nil, err
	}
	if len(r.was) >= MaxVersions {
		return nil, fault.New(fault.Conflict, "the registry has as many data keys as it may: %d", MaxVersions)
	}
	r.Holder = r.Was
	last := uint32(0)
	for _, was := range r.was {
		last = max(last, was.version)
		was.state = retired
		r.next = append(r.next, was)
	}
	return r, r.add(ctx, last+1)
}

// add makes a new secret, which is current.
func (r *Rewrap) add(ctx context.Context, version uint32) error {
	secret := fresh()
	defer clear(secret)
	wrapped, err := r.s.wrap(ctx, r.uid, version, secret, r.Holder)
	if err != nil {
		return fmt.Errorf("wrap key %d of registry %s: %w", version, r.uid, err)
	}
	r.next = append(r.next, row{version, wrapped, current, time.Now().UTC().Truncate(time.Microsecond), r.Holder})
	ring := &Ring{registry: r.uid, keys: map[uint32]DataKey{}, current: version}
	if r.ring != nil {
		for _, k := range r.ring.keys {
			ring.keys[k.version] = k
		}
	}
	if r.ring = ring; ring.add(version, secret) != nil {
		return fmt.Errorf("key %d has another size", version)
	}
	return r.reach(ctx)
}

// reach is how long an outage of the holder is bridged.
func (r *Rewrap) reach(ctx context.Context) error {
	if r.Holder == nil {
		return nil
	}
	_, settings, err := r.s.c.provider(ctx, r.Holder.Provider)
	r.bridge = settings.Bridge()
	return err
}

// prepare opens the keys of a registry, and remembers which they were.
func (s *Rings) prepare(ctx context.Context, uid string) (*Rewrap, error) {
	at, err := s.generation(ctx)
	if err != nil {
		return nil, err
	}
	ring, err := s.Ring(ctx, uid)
	if err != nil {
		return nil, err
	}
	rows, err := load(ctx, s.db, uid)
	if err != nil {
		return nil, err
	}
	return &Rewrap{s: s, uid: uid, at: at, was: rows, ring: ring, began: time.Now(), Was: holderOf(rows)}, nil
}

// Commit makes it so, in the transaction that changes the registry's document. It is
// Stale if the keys are no longer those that it was prepared from, and a Conflict if
// the provider that holds them afterwards is gone.
func (r *Rewrap) Commit(ctx context.Context, tx *db.Tx) error {
	if r.Holder != nil {
		if _, err := r.s.c.Documents.GetTx(ctx, tx, r.Holder.Provider); fault.Of(err) == fault.NotFound {
			return fault.New(fault.Conflict, "the key provider %s was deleted at the same time", r.Holder.Provider.Name())
		} else if err != nil {
			return err
		}
	}
	if now, err := load(ctx, tx, r.uid); err != nil {
		return err
	} else if !same(now, r.was) {
		return moved()
	}
	for i, next := range r.next {
		var err error
		if i < len(r.was) {
			err = replace(ctx, tx, r.uid, r.was[i], next)
		} else {
			err = insert(ctx, tx, r.uid, next)
		}
		if err != nil {
			return err
		}
	}
	tx.Then(r.install)
	return nil
}

// install opens in this process what was opened a moment ago, so that no request
// waits. Others read the rows.
func (r *Rewrap) install() {
	e := r.s.entry(r.uid)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !same(e.rows, r.was) {
		e.known = false
		return
	}
	ring := *r.ring
	ring.later = func() *Ring { return r.s.later(e) }
	e.take(r.at, r.next)
	e.ring, e.good, e.bridge, e.wrote = &ring, r.began, r.bridge, r.began
}
