package content

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
)

// An erase is a deletion after which nobody can open what was deleted, whatever keys and
// copies of the object store he has: in one transaction the names go, and with them the
// secret of every object that nothing else in the registry needs. The bytes follow at
// once; after a crash a sweep deletes them.

// purgeTime is how long an erase deletes bytes before it leaves the rest to a sweep.
const purgeTime = 30 * time.Second

// EraseRepository erases a repository, with its trash and the uploads that are under way
// there, and what no repository has any more. What other repositories have too stays; the
// receipt says so. If anything in it is locked it is Disallowed, and nothing is erased.
// Under dual control somebody else must have approved it.
func (s *Store) EraseRepository(ctx context.Context, g access.Grant, repo ref.Repository, receipts *receipt.Store, approvals *approval.Store) (i receipt.Issued, err error) {
	if err := g.Allows(access.RepositoryErase, g.RepositoryScope(repo)); err != nil {
		return i, err
	}
	draft, err := receipts.Draft(ctx, g)
	if err != nil {
		return i, err
	}
	holder, err := s.rings.Holder(ctx, g.Registry())
	if err != nil {
		return i, err
	}
	r := receipt.Receipt{Kind: receipt.Repository, Repository: repo, CustomerKey: receipt.HeldBy(holder),
		Registry: receipt.Of{UID: g.Registry(), ID: g.RegistryID(), Name: g.RegistryID().Name()}}
	// A blob that comes between two statements is erased with another try.
	err = db.Overtaken(ctx, nil, func() error {
		return s.db.Write(ctx, func(tx *db.Tx) (err error) {
			i, err = s.eraseRepository(ctx, tx, g, r, draft, receipts, approvals)
			return err
		})
	})
	if err != nil {
		return receipt.Issued{}, approvals.Ask(ctx, g, err)
	}
	s.purge(ctx)
	return i, nil
}

// eraseRepository is an erase of the repository of r, in its transaction.
func (s *Store) eraseRepository(ctx context.Context, tx *db.Tx, g access.Grant, r receipt.Receipt, draft *receipt.Draft, receipts *receipt.Store, approvals *approval.Store) (i receipt.Issued, err error) {
	if err := receipts.Documents.Lock(ctx, tx); err != nil {
		return i, err
	}
	if err := receipts.Documents.DeletableTx(ctx, tx, ref.ID(g.RepositoryScope(r.Repository))); err != nil {
		return i, err
	}
	act, err := erasing(ctx, tx, g, r.Repository)
	if err != nil {
		return i, err
	}
	if id, o, err := findRepository(ctx, tx, g.Registry(), r.Repository); err == nil { // nobody is asked to approve what cannot be done
		if err := unlocked(ctx, tx, id, o); err != nil {
			return i, err
		}
	} else if !errors.Is(err, db.ErrNoRows) {
		return i, err
	}
	if err := approvals.Use(ctx, tx, g, act); err != nil {
		return i, err
	}
	at := now()
	gone, err := eraseUploads(ctx, tx, g.Registry(), r.Repository)
	if err != nil {
		return i, err
	}
	t := &r.Destroyed
	t.Uploads = gone.owners
	id, o, err := lockAnyRepository(ctx, tx, g.Registry(), r.Repository, at)
	switch err = absent(err, fault.NameUnknown); {
	case fault.Of(err) == fault.NameUnknown && t.Uploads > 0:
		o, err = 0, nil // nothing has a name yet
	case err == nil:
		err = s.wipe(ctx, tx, g, id, o, &r, &gone, at)
	}
	if err != nil {
		return i, err
	}
	t.Objects, t.Bytes = gone.objects, gone.bytes
	t.List(gone.digests)
	r.Remains.Old(gone.old, gone.oldBytes)
	e := g.Event(ledger.Administrative, string(access.RepositoryErase), g.RepositoryScope(r.Repository))
	e.Detail.Repository = r.Repository
	return draft.Issue(ctx, tx, r, e)
}

// erasing is the act that destroys a repository: the one that is there now, and not the
// next of its name.
func erasing(ctx context.Context, tx *db.Tx, g access.Grant, repo ref.Repository) (approval.Act, error) {
	born, err := bornAt(ctx, tx, g.Registry(), repo)
	return approval.Act{Action: access.RepositoryErase, Scope: g.RepositoryScope(repo), On: g.RegistryID(), UID: g.Registry(), Exact: born}, err
}

// unlocked is Disallowed if a repository, or anything in it, is locked.
func unlocked(ctx context.Context, tx *db.Tx, id int64, o off) error {
	some, err := anyLocked(ctx, tx, id)
	if err = o.forbids(locked, err); err == nil && some {
		err = fault.New(fault.Disallowed, "the operation is disallowed: a manifest or tag in this repository is locked; set its deleteEnabled and writeEnabled first")
	}
	return err
}

// wipe erases what the repository has names for. The repository is locked.
func (s *Store) wipe(ctx context.Context, tx *db.Tx, g access.Grant, id int64, o off, r *receipt.Receipt, gone *gone, at int64) error {
	if err := unlocked(ctx, tx, id, o); err != nil {
		return err
	}
	t := &r.Destroyed
	manifests, err := allManifests(ctx, tx, id)
	if err != nil {
		return err
	}
	if t.Tags, err = countTags(ctx, tx, id); err != nil {
		return err
	}
	had, err := linkedBlobs(ctx, tx, id)
	if err != nil {
		return err
	}
	with, err := sharers(ctx, tx, id)
	if err != nil {
		return err
	}
	if err := wipeRepository(ctx, tx, id, at); err != nil {
		return err
	}
	t.Repositories, t.Manifests = 1, len(manifests)
	gone.digests = append(gone.digests, manifests...)
	before := len(gone.digests)
	if err := eraseUnlinked(ctx, tx, g.Registry(), gone, at); err != nil {
		return err
	}
	went := make(map[ref.Digest]bool, len(gone.digests)-before)
	for _, d := range gone.digests[before:] {
		went[d] = true
	}
	t.Blobs = len(went)
	var stay []ref.Digest
	var bytes int64
	for _, b := range had {
		if !went[b.digest] {
			stay, bytes = append(stay, b.digest), bytes+b.size
		}
	}
	r.Remains.Share(stay, bytes, with, g.Lists)
	return nil
}

// Contents is what registries hold, for the room that destroys them: there the grant is
// asked.
func (s *Store) Contents() registry.Contents {
	return registry.Contents{Locked: s.anyLocked, Empty: s.empty, Purge: s.purge}
}

// anyLocked is Disallowed if anything in the registry is locked. With hold, nobody else
// locks something there until the commit.
func (s *Store) anyLocked(ctx context.Context, tx *db.Tx, registry string, hold bool) error {
	if hold {
		if err := holdRepositories(ctx, tx, registry, now()); err != nil {
			return err
		}
	}
	names, err := lockedRepositories(ctx, tx, registry, 1)
	if err == nil && len(names) > 0 {
		err = fault.New(fault.Disallowed, "the operation is disallowed: the repository %s, or something in it, is locked; set deleteEnabled and writeEnabled first", names[0])
	}
	return err
}

// empty takes all names out of a registry, and the secrets of all its objects, in the
// transaction that destroys its keys. It comes after that: what was pushed with them has
// its names by then, or gets none.
func (s *Store) empty(ctx context.Context, tx *db.Tx, registry string) (receipt.Tally, error) {
	return emptyRegistry(ctx, tx, registry, now())
}

// purge makes the database forget what it has overwritten, and deletes the bytes that have
// no owner any more, as long as a request may take for that. It is no error where that
// fails: the names are gone, and a sweep does the rest.
func (s *Store) purge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), purgeTime)
	defer cancel()
	// The secrets come first: they must go also where the bytes take too long, or stay.
	if err := s.db.Settle(ctx); err != nil {
		slog.WarnContext(ctx, "what was erased has no names and no keys; the database's log has them still, until it is written over", "err", err)
	}
	var n Swept
	var err error
	for more := true; more && err == nil; {
		more, err = s.sweepParts(ctx, &n)
	}
	if err != nil {
		slog.WarnContext(ctx, "what was erased has no names and no keys; its bytes are deleted by the next sweep", "err", err)
	}
}
