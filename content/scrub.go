package content

import (
	"context"
	"time"

	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
)

// The two places of a scrub, in the order of the ids of rows.
const (
	scrubBlobs     = "scrub-blobs"
	scrubManifests = "scrub-manifests"
)

// Scrubbed counts what a scrub read whole, and what of it was damaged.
type Scrubbed struct{ Blobs, Manifests, Damaged int }

// Scrub reads every manifest and every blob once, at most rate bytes a second of the
// blobs, so that damage is known before somebody needs what is damaged: it is told as if
// a reader had met it. After a crash it goes on near where it was. Content whose keys
// cannot be opened at the moment is passed over.
func (s *Store) Scrub(ctx context.Context, rate int64) (n Scrubbed, err error) {
	err = s.scrub(ctx, scrubManifests, func(after int64) (last int64, err error) {
		some, err := manifestsAfter(ctx, s.db, after, 16)
		for _, m := range some {
			last = m.id
			err := s.unseal(ctx, m.registry, func(ring *keys.Ring) error {
				_, err := openManifest(ring, m.Manifest)
				return err
			})
			if err == nil || damaged(err) {
				n.Manifests++
			}
			if damaged(err) {
				n.Damaged++
				_ = s.manifestDamaged(ctx, onItsOwn(m.registry, m.repository), m.Manifest, err)
			}
		}
		return last, err
	})
	if err != nil {
		return n, err
	}
	err = s.scrub(ctx, scrubBlobs, func(after int64) (last int64, err error) {
		some, err := blobsAfter(ctx, s.db, after, 16)
		for _, b := range some {
			last = b.id
			there, err := findStored(ctx, s.db, b.registry, b.digest)
			if err != nil {
				continue // it has gone
			}
			err = s.examine(ctx, onItsOwn(b.registry, ""), there, &slow{ctx, rate})
			if ctx.Err() != nil {
				return last, ctx.Err()
			}
			if err == nil || damaged(err) {
				n.Blobs++
			}
			if damaged(err) {
				n.Damaged++
			}
		}
		return last, err
	})
	return n, err
}

// scrub goes on from where the last one was, to the end. some does the next few, and
// returns the id of the last of them; 0 if there were none.
func (s *Store) scrub(ctx context.Context, name string, some func(after int64) (last int64, err error)) error {
	for {
		after, err := s.ledger.Place(ctx, name)
		if err != nil {
			return err
		}
		last, err := some(after)
		if err != nil {
			return err
		}
		if err := s.ledger.Move(ctx, name, after, last); err != nil || last == 0 {
			return err
		}
	}
}

// onItsOwn is the beginning of an event that nobody asked for.
func onItsOwn(registry string, repo ref.Repository) ledger.Event {
	return ledger.Event{Registry: registry, Who: identity.ThisServer().Who(), Detail: ledger.Detail{Repository: repo}}
}

// slow takes rate bytes a second.
type slow struct {
	ctx  context.Context
	rate int64
}

func (s *slow) Write(p []byte) (int, error) {
	t := time.NewTimer(time.Duration(int64(len(p)) * int64(time.Second) / max(s.rate, 1)))
	defer t.Stop()
	select {
	case <-t.C:
		return len(p), nil
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
}
