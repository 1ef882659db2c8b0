package content

import (
	"context"
	"errors"
	"slices"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
)

// Sweep says how long things stay that nobody names.
type Sweep struct {
	// Grace is how long the bytes of a blob stay after the last repository gave
	// it up, for those who are still reading it; and how old an object must be
	// to count as one that will never have a name. Less than the longest push
	// is safe, but may refuse a push that another process is doing.
	Grace time.Duration

	// Unused is how long a blob stays in a repository where no manifest needs
	// it, for pushes that are not at their end. 0 keeps it.
	Unused time.Duration

	// Objects also looks through the whole object store for bytes that a dead
	// process left: for a start, and now and then.
	Objects bool

	// Registries are the registries that there are, by UID, with their rules: for
	// what their settings say that goes with time, and to find what is left of one
	// that was deleted. It is asked after the sweep has looked what there is, so a
	// registry that is new is never taken for one that is gone. nil does neither.
	Registries func(context.Context) (map[string]Rules, error)
}

// Swept counts what a sweep removed.
type Swept struct {
	Uploads, Manifests, Repositories, Links, Blobs, Objects int
}

// batch is how much a sweep does before it looks whether it should stop.
const batch = 256

// forgotten is how long the key of an object that was swept nameless stays
// taken: nothing that would name it can still be under way.
const forgotten = 7 * 24 * time.Hour

// Sweep removes what nobody names: names first, then bytes. It asks again in the
// transaction whether that is still so. Sweeps and everything else may run at
// the same time, in any number of processes.
func (s *Store) Sweep(ctx context.Context, o Sweep) (n Swept, err error) {
	var behind idleLink
	steps := []func() (more bool, err error){
		func() (bool, error) { return s.sweepUploads(ctx, &n) },
		func() (bool, error) { return false, s.sweepRegistries(ctx, o, &n) },
		func() (bool, error) { return s.sweepTrash(ctx, &n) },
		func() (bool, error) { return s.sweepLinks(ctx, o, &behind, &n) },
		func() (bool, error) { return s.sweepBlobs(ctx, o, &n) },
		func() (bool, error) { return false, s.sweepNameless(ctx, o, &n) },
		func() (bool, error) { return s.sweepParts(ctx, &n) },
	}
	for _, step := range steps {
		for more := true; more; {
			if more, err = step(); err != nil {
				return n, err
			}
		}
	}
	return n, ctx.Err()
}

func (s *Store) sweepUploads(ctx context.Context, n *Swept) (more bool, err error) {
	at := now()
	sessions, err := overdueSessions(ctx, s.db, at, batch)
	if err != nil || len(sessions) == 0 {
		return false, err
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		for _, t := range sessions {
			if err := dropSession(ctx, tx, t, at); err != nil && !errors.Is(err, db.ErrNoRows) {
				return err
			}
		}
		return nil
	})
	if err == nil {
		n.Uploads += len(sessions)
	}
	return len(sessions) == batch, err
}

func (s *Store) sweepLinks(ctx context.Context, o Sweep, behind *idleLink, n *Swept) (more bool, err error) {
	if o.Unused <= 0 {
		return false, nil
	}
	at := now()
	links, err := idleLinks(ctx, s.db, at-o.Unused.Microseconds(), *behind, batch)
	if err != nil {
		return false, err
	}
	for _, l := range links {
		*behind = l
		gone := false
		err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
			if gone, err = dropLink(ctx, tx, l, at); err != nil || !gone {
				return err
			}
			return s.ledger.Append(ctx, tx, swept(l.registry, purgeBlob, ledger.Detail{Repository: l.name, Digest: l.digest, Size: l.size}))
		})
		if err != nil {
			return false, err
		}
		if gone {
			n.Links++
		}
	}
	return len(links) == batch, nil
}

func (s *Store) sweepBlobs(ctx context.Context, o Sweep, n *Swept) (more bool, err error) {
	at := now()
	blobs, err := idleBlobs(ctx, s.db, at-o.Grace.Microseconds(), batch)
	if err != nil {
		return false, err
	}
	for _, b := range blobs {
		gone := false
		err := s.db.Write(ctx, func(tx *db.Tx) (err error) {
			gone, err = dropBlob(ctx, tx, b, at)
			return err
		})
		if db.IsForeignKey(err) { // a push was faster: see next time
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if gone {
			n.Blobs++
		}
	}
	return len(blobs) == batch, nil
}

// sweepParts removes the bytes of what has no owner any more.
func (s *Store) sweepParts(ctx context.Context, n *Swept) (more bool, err error) {
	at := now()
	objects, err := dueParts(ctx, s.db, at, batch)
	if err != nil || len(objects) == 0 {
		return false, err
	}
	if err := s.objects.Delete(ctx, objects...); err != nil {
		return false, err
	}
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		for _, object := range objects {
			if err := dropPart(ctx, tx, object, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		n.Objects += len(objects)
	}
	return len(objects) == batch, err
}

// sweepNameless looks for objects that no row names and that nobody is about to
// name. It takes their keys first: of this sweep and a late push only one can
// have the row.
func (s *Store) sweepNameless(ctx context.Context, o Sweep, n *Swept) error {
	if !o.Objects {
		return nil
	}
	old := time.Now().Add(-o.Grace)
	var seen []string
	for info, err := range s.objects.List(ctx, "") {
		if err != nil {
			return err
		}
		if _, writing := s.writing.Load(info.Key); writing || info.At.After(old) {
			continue
		}
		if seen = append(seen, info.Key); len(seen) == batch {
			if err := s.removeNameless(ctx, seen, n); err != nil {
				return err
			}
			seen = seen[:0]
		}
	}
	return s.removeNameless(ctx, seen, n)
}

// removeNameless removes those of the keys, which are in order, that have no row.
func (s *Store) removeNameless(ctx context.Context, seen []string, n *Swept) error {
	if len(seen) == 0 {
		return nil
	}
	named, err := namedObjects(ctx, s.db, seen[0], seen[len(seen)-1])
	if err != nil {
		return err
	}
	nameless := slices.DeleteFunc(slices.Clone(seen), func(key string) bool {
		_, ok := slices.BinarySearch(named, key)
		return ok
	})
	if len(nameless) == 0 {
		return nil
	}
	var taken []string
	err = s.db.Write(ctx, func(tx *db.Tx) error {
		taken = taken[:0]
		for _, key := range nameless {
			ok, err := takeNameless(ctx, tx, key, now()+forgotten.Microseconds())
			if err != nil {
				return err
			}
			if ok {
				taken = append(taken, key)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.Objects += len(taken)
	return s.objects.Delete(ctx, taken...)
}

// sweepRegistries does what the rules of each registry say that goes with time, and
// empties those that are no more.
func (s *Store) sweepRegistries(ctx context.Context, o Sweep, n *Swept) error {
	if o.Registries == nil {
		return nil
	}
	used, err := usedRegistries(ctx, s.db)
	if err != nil || len(used) == 0 {
		return err
	}
	there, err := o.Registries(ctx)
	if err != nil || len(there) == 0 { // there always is one
		return err
	}
	for _, uid := range used {
		rules, ok := there[uid]
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			switch {
			case !ok:
				more, err = s.sweepRegistry(ctx, uid, n)
			case rules.Retention.On:
				more, err = s.sweepUntagged(ctx, uid, rules, n)
			default:
				more = false
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// sweepRegistry removes what is left of a registry that was deleted.
func (s *Store) sweepRegistry(ctx context.Context, uid string, n *Swept) (more bool, err error) {
	repositories, err := someRepositories(ctx, s.db, uid, batch)
	if err != nil {
		return false, err
	}
	for _, r := range repositories {
		err := s.db.Write(ctx, func(tx *db.Tx) error {
			if err := wipeRepository(ctx, tx, r.id, now()); err != nil {
				return err
			}
			return s.ledger.Append(ctx, tx, swept("", purgeRegistry, ledger.Detail{Repository: r.name, More: map[string]string{"uid": uid}}))
		})
		if err != nil {
			return false, err
		}
		n.Repositories++
	}
	return len(repositories) == batch, nil
}

// sweepUntagged deletes the manifests that have been without a tag for longer than
// the retention policy keeps them. It leaves what is locked, what an index names and
// what is about another manifest: those never have tags.
func (s *Store) sweepUntagged(ctx context.Context, uid string, rules Rules, n *Swept) (more bool, err error) {
	since, before := rules.Retention.Since.UnixMicro(), time.Now().Add(-rules.Retention.After).UnixMicro()
	all, err := untaggedManifests(ctx, s.db, uid, since, before, batch)
	if err != nil {
		return false, err
	}
	did := 0
	for _, m := range all {
		gone := false
		err := s.db.Write(ctx, func(tx *db.Tx) error {
			if gone, err = stillUntagged(ctx, tx, m, before); err != nil || !gone {
				return err
			}
			due, err := removeManifest(ctx, tx, m.repository, m.id, now(), rules)
			if err != nil {
				return err
			}
			return s.ledger.Append(ctx, tx, swept(uid, purgeManifest, ledger.Detail{Repository: m.name, Digest: m.digest, More: restorable(due)}))
		})
		if err != nil && fault.Of(err) != fault.Referenced {
			return false, err
		}
		if err == nil && gone {
			did++
		}
	}
	n.Manifests += did
	return len(all) == batch && did > 0, nil
}

// sweepTrash takes what can no longer be restored.
func (s *Store) sweepTrash(ctx context.Context, n *Swept) (more bool, err error) {
	at := now()
	all, err := dueManifests(ctx, s.db, at, batch)
	if err != nil {
		return false, err
	}
	for _, m := range all {
		gone := false
		err := s.db.Write(ctx, func(tx *db.Tx) error {
			if gone, err = stillDue(ctx, tx, m, at); err != nil || !gone {
				return err
			}
			if err := dropManifest(ctx, tx, m.repository, m.id, at); err != nil {
				return err
			}
			if err := dropEmptyRepository(ctx, tx, m.repository, at); err != nil {
				return err
			}
			return s.ledger.Append(ctx, tx, swept(m.registry, purgeManifest, ledger.Detail{Repository: m.name, Digest: m.digest}))
		})
		if db.IsForeignKey(err) { // somebody pushes a blob to the repository
			continue
		}
		if err != nil {
			return false, err
		}
		if gone {
			n.Manifests++
		}
	}
	if len(all) < batch {
		return false, s.db.Write(ctx, func(tx *db.Tx) error { return forgetTags(ctx, tx, at) })
	}
	return true, nil
}

// swept is the event of something that nobody asked for.
func swept(registry, operation string, d ledger.Detail) ledger.Event {
	return ledger.Event{
		Registry: registry, Category: ledger.Repository, Operation: operation, Outcome: ledger.Success,
		Who: identity.ThisServer().Who(), Detail: d,
	}
}
