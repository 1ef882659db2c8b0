package content

import (
	"context"
	"errors"
	"math"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
)

// A Deleted is a manifest in the trash.
type Deleted struct {
	Digest    ref.Digest
	Tags      []ref.Tag // in the trash, too, that pointed to it
	At, Until time.Time // when it was deleted, and when it can no longer be restored
}

// A DeletedTag is a tag in the trash.
type DeletedTag struct {
	Name      ref.Tag
	Digest    ref.Digest
	At, Until time.Time
}

// due is until when something that is deleted now can be restored; nil if not at
// all.
func (r Rules) due(at int64) *int64 {
	if r.SoftDelete <= 0 {
		return nil
	}
	due := at + r.SoftDelete.Microseconds()
	return &due
}

// restorable is what the event of a deletion says of it.
func restorable(due *int64) map[string]string {
	if due == nil {
		return nil
	}
	return map[string]string{"restorableUntil": instant(*due).Format(time.RFC3339)}
}

// removeManifest deletes a manifest with its tags: for good, or into the trash until
// due. What an index in the trash needs stays there for as long as that, whatever
// the rules say now: or it could not be restored. The repository is locked.
func removeManifest(ctx context.Context, tx *db.Tx, repository, id, at int64, rules Rules) (due *int64, err error) {
	live, until, err := namedBy(ctx, tx, id)
	if err != nil {
		return nil, err
	}
	if live {
		return nil, fault.New(fault.Referenced, "an index in this repository names this manifest; delete the index first")
	}
	if due = rules.due(at); until > 0 && (due == nil || *due < until) {
		due = &until
	}
	if due == nil {
		return nil, dropManifest(ctx, tx, repository, id, at)
	}
	return due, trashManifest(ctx, tx, id, at, *due)
}

// DeleteRepository deletes a repository with all that is in it, and tells what that
// was. If anything in it is locked it is Disallowed, and nothing is deleted.
func (s *Store) DeleteRepository(ctx context.Context, g access.Grant, repo ref.Repository, rules Rules) (manifests []ref.Digest, tags []ref.Tag, err error) {
	if err := g.Allows(access.ContentDelete, g.RepositoryScope(repo)); err != nil {
		return nil, nil, err
	}
	remove := func(tx *db.Tx) error {
		id, o, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err != nil {
			return absent(err, fault.NameUnknown)
		}
		if err := unlocked(ctx, tx, id, o); err != nil {
			return err
		}
		if manifests, tags, err = contents(ctx, tx, id); err != nil {
			return err
		}
		at := now()
		due := rules.due(at)
		if err := emptyRepository(ctx, tx, id, at, due); err != nil {
			return err
		}
		d := ledger.Detail{Repository: repo, More: restorable(due)}
		return s.ledger.Append(ctx, tx, event(g, DeleteRepository, d))
	}
	// A blob that comes between two statements is deleted with another try.
	if err := db.Overtaken(ctx, nil, func() error { return s.db.Write(ctx, remove) }); err != nil {
		return nil, nil, err
	}
	return manifests, tags, nil
}

// DeletedRepositories lists the repositories that have something in the trash, and
// where the caller may look at it, in the order of their names.
func (s *Store) DeletedRepositories(ctx context.Context, g access.Grant, p Page) (names []ref.Repository, more bool, err error) {
	if !g.Admits(access.DeletedRead, g.Scope()).Allowed {
		return nil, false, access.Refusal(access.DeletedRead, g.Scope())
	}
	for after := p.After; ; {
		some, err := trashedRepositories(ctx, s.db, g.Registry(), after, maxPage)
		if err != nil {
			return nil, false, err
		}
		for _, r := range some {
			if !g.ListsDeleted(r) {
				continue
			}
			if len(names) == page(p.N) {
				return names, true, nil
			}
			names = append(names, r)
		}
		if len(some) < maxPage {
			return names, false, nil
		}
		after = string(some[len(some)-1])
	}
}

// DeletedManifests lists the manifests of a repository that are in the trash, in the
// order of their digests.
func (s *Store) DeletedManifests(ctx context.Context, g access.Grant, repo ref.Repository, p Page) (manifests []Deleted, more bool, err error) {
	if err := g.Allows(access.DeletedRead, g.RepositoryScope(repo)); err != nil {
		return nil, false, err
	}
	id, err := anyRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return nil, false, absent(err, fault.NameUnknown)
	}
	manifests, err = trashedManifests(ctx, s.db, id, p.After, page(p.N)+1)
	return first(manifests, page(p.N)), len(manifests) > page(p.N), err
}

// DeletedTags lists the tags of a repository that are in the trash, in the order of
// their names; those of one name in the order of their deletion.
func (s *Store) DeletedTags(ctx context.Context, g access.Grant, repo ref.Repository, p Page) (tags []DeletedTag, more bool, err error) {
	if err := g.Allows(access.DeletedRead, g.RepositoryScope(repo)); err != nil {
		return nil, false, err
	}
	name, at, err := p.from()
	if err != nil {
		return nil, false, err
	}
	if at < 0 {
		at = math.MaxInt64
	}
	id, err := anyRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return nil, false, absent(err, fault.NameUnknown)
	}
	tags, err = trashedTags(ctx, s.db, id, name, at, page(p.N)+1)
	return first(tags, page(p.N)), len(tags) > page(p.N), err
}

// Restore brings a manifest back from the trash, and a tag that pointed to it; t ""
// is none. A tag of this name that points elsewhere moves only with force
// (Conflict). What the manifest names is not brought back with it: an index whose
// manifests are in the trash is a Conflict that says which.
func (s *Store) Restore(ctx context.Context, g access.Grant, repo ref.Repository, digest ref.Digest, t ref.Tag, force bool, _ Rules) error {
	if err := g.Allows(access.DeletedRestore, g.RepositoryScope(repo)); err != nil {
		return err
	}
	d := ledger.Detail{Repository: repo, Digest: digest, Tag: t}
	return s.change(ctx, g, RestoreManifest, d, func(tx *db.Tx) error {
		at := now()
		repository, o, err := reviveRepository(ctx, tx, g.Registry(), repo, at)
		if err = o.forbids(noWrite, err); err != nil {
			return absent(err, fault.NameUnknown)
		}
		row, err := findManifestRow(ctx, tx, repository, digest)
		if err != nil {
			return absent(err, fault.ManifestUnknown)
		}
		if !row.deleted && t == "" {
			return fault.New(fault.ManifestUnknown, "this manifest is not in the trash")
		}
		if row.deleted {
			gone, err := trashedChildren(ctx, tx, row.id)
			if err != nil {
				return err
			}
			if len(gone) > 0 {
				return fault.New(fault.Conflict, "the index names manifests that are in the trash themselves; restore those first").
					With(map[string]any{"digests": gone})
			}
			if err := untrashManifest(ctx, tx, row.id, at); err != nil {
				return err
			}
		}
		if t == "" {
			return nil
		}
		return restoreTag(ctx, tx, repository, t, digest, row, at, force)
	})
}

func restoreTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag, digest ref.Digest, row manifestRow, at int64, force bool) error {
	n, err := untrashTag(ctx, tx, repository, t, digest)
	if err == nil && n == 0 {
		err = fault.New(fault.TagUnknown, "there is no such tag of this manifest in the trash")
	}
	if err != nil {
		return err
	}
	if _, err := tagOff(ctx, tx, repository, t); err == nil && !force {
		return fault.New(fault.Conflict, "there is a tag of this name; restore with force to move it")
	} else if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	if err := moveTag(ctx, tx, repository, t, digest, row.id, at, row.off&quarantined); err != nil {
		return err
	}
	return tagManifest(ctx, tx, row.id)
}
