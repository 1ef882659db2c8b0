// Package content is what a registry is about: repositories, manifests, tags,
// blobs, uploads and referrers, and the sweep that removes what nobody names.
//
// Bytes come first, then names: bytes are sealed, hashed on the way and durable
// in the object store under a random key before one transaction gives them a
// name and records it. Deletes go the other way. Every method asks the grant
// before anything else, and every row belongs to one registry; there is no way
// to reach content by its digest alone.
package content

import (
	"context"
	"errors"
	"sync"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/object"
	"breakwater/ref"
	"breakwater/registry"
)

// Limits of content.
const (
	MaxManifest = 4 << 20   // bytes of a manifest: what the specification wants to be possible
	maxBlob     = 200 << 30 // bytes of a blob, as ACR
	maxPage     = 1000      // names on one page of a list
	maxTags     = 100       // that one push moves
)

// Operations of the events about content. Those that a route of its own asks for
// are also what a refusal of it is called.
const (
	PushManifest   = "PushManifest" // one for each tag that it moved, or one
	DeleteManifest = "DeleteManifest"
	PushBlob       = "PushBlob" // when the whole blob has come, however many requests brought it
	DeleteBlob     = "DeleteBlob"
	CancelUpload   = "CancelUpload"

	DeleteTag        = "DeleteTag"
	DeleteRepository = "DeleteRepository"
	PatchRepository  = "PatchRepository"
	PatchTag         = "PatchTag"
	PatchManifest    = "PatchManifest"
	RestoreManifest  = "RestoreManifest"

	mountBlob     = "MountBlob"
	purgeBlob     = "PurgeBlob"     // a sweep took a blob from a repository
	purgeManifest = "PurgeManifest" // … a manifest, for good or into the trash
	purgeRegistry = "PurgeRegistry" // … a repository of a registry that was deleted
)

// A Store is the content of all registries. It is safe for concurrent use, in
// any number of processes on one database and object store.
type Store struct {
	db       *db.DB
	objects  object.Store
	rings    *keys.Rings
	ledger   *ledger.Ledger
	sessions []byte
	writing  sync.Map // keys of the objects that this process is about to name

	looking sync.Mutex
	looks   map[looked]*look // the examinations that are under way
}

// New makes the store. sessions is the key that upload sessions are
// authenticated with (Platform.Derive("upload-session")).
func New(d *db.DB, o object.Store, rings *keys.Rings, l *ledger.Ledger, sessions []byte) *Store {
	return &Store{db: d, objects: o, rings: rings, ledger: l, sessions: sessions}
}

// Rules are what the registry's settings say about content. The zero Rules are
// the strictest.
type Rules struct {
	Sparse     bool          // a manifest may name manifests and blobs that are not there
	Quarantine bool          // what is pushed is pulled only when somebody has let it
	SoftDelete time.Duration // how long what is deleted can be restored; 0 is not at all
	Retention  Retention     // of manifests without a tag
}

// Retention says how long a manifest stays that has lost its last tag, or never had
// one. The zero Retention is for ever.
type Retention struct {
	On    bool
	After time.Duration
	Since time.Time // what was without a tag before stays
}

// RulesOf are the rules that the policies of a registry make.
func RulesOf(r *registry.Registry) Rules {
	p := r.Rules()
	rules := Rules{Sparse: p.Sparse, Quarantine: p.Quarantine, SoftDelete: p.SoftDelete}
	if p.Retention >= 0 {
		rules.Retention = Retention{On: true, After: p.Retention, Since: r.Policies.Retention.LastUpdatedTime}
	}
	return rules
}

// change runs fn in a transaction and appends the event that records it, in the
// repository that it is about.
func (s *Store) change(ctx context.Context, g access.Grant, operation string, d ledger.Detail, fn func(*db.Tx) error) error {
	return s.db.Write(ctx, func(tx *db.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return s.ledger.Append(ctx, tx, event(g, operation, d))
	})
}

func event(g access.Grant, operation string, d ledger.Detail) ledger.Event {
	e := g.Event(ledger.Repository, operation, g.RepositoryScope(d.Repository))
	e.Detail = d
	return e
}

// absent makes the fault c of a row that is not there.
func absent(err error, c fault.Code) error {
	if !errors.Is(err, db.ErrNoRows) {
		return err
	}
	return unknown(c)
}

// unknown is the answer for what is not there, whatever the reason.
func unknown(c fault.Code) error {
	what := map[fault.Code]string{
		fault.NameUnknown:     "this repository",
		fault.TagUnknown:      "a manifest with this tag",
		fault.ManifestUnknown: "a manifest with this digest",
		fault.BlobUnknown:     "a blob with this digest",
		fault.UploadUnknown:   "this upload",
	}[c]
	return fault.New(c, "there is no such thing here as %s", what)
}

func now() int64 { return time.Now().UnixMicro() }

// Tags lists the tags after "after" in the order of their bytes: at most n, and
// at most maxPage; n < 0 asks for that many. more tells whether others follow. A
// repository that nobody has pushed to is NameUnknown.
func (s *Store) Tags(ctx context.Context, g access.Grant, repo ref.Repository, after string, n int) (tags []ref.Tag, more bool, err error) {
	if err := g.Allows(access.ContentRead, g.RepositoryScope(repo)); err != nil {
		return nil, false, err
	}
	id, _, err := findRepository(ctx, s.db, g.Registry(), repo)
	if err != nil {
		return nil, false, absent(err, fault.NameUnknown)
	}
	tags, err = listTags(ctx, s.db, id, after, page(n)+1, hidden(g, repo))
	return first(tags, page(n)), len(tags) > page(n), err
}

// Repositories lists the repositories of the registry as Tags does tags: those
// that the caller may see.
func (s *Store) Repositories(ctx context.Context, g access.Grant, after string, n int) (names []ref.Repository, more bool, err error) {
	if !g.Admits(access.CatalogRead, g.Scope()).Allowed {
		return nil, false, access.Refusal(access.CatalogRead, g.Scope())
	}
	for {
		some, err := listRepositories(ctx, s.db, g.Registry(), after, maxPage)
		if err != nil {
			return nil, false, err
		}
		for _, r := range some {
			if !g.Lists(r) {
				continue
			}
			if len(names) == page(n) {
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

func page(n int) int {
	if n < 0 || n > maxPage {
		return maxPage
	}
	return n
}

func first[T any](all []T, n int) []T { return all[:min(n, len(all))] }

// DeleteTag removes a tag and leaves its manifest. A locked one is Disallowed.
func (s *Store) DeleteTag(ctx context.Context, g access.Grant, repo ref.Repository, t ref.Tag, rules Rules) error {
	if err := g.Allows(access.ContentDelete, g.RepositoryScope(repo)); err != nil {
		return err
	}
	d := ledger.Detail{Repository: repo, Tag: t}
	return s.db.Write(ctx, func(tx *db.Tx) error {
		id, o, err := lockRepository(ctx, tx, g.Registry(), repo)
		if err = o.forbids(locked, err); err != nil {
			return absent(err, fault.NameUnknown)
		}
		o, err = tagOff(ctx, tx, id, t)
		if err = o.forbids(locked, err); err != nil {
			return absent(err, fault.TagUnknown)
		}
		at := now()
		due := rules.due(at)
		if d.Digest, err = endTag(ctx, tx, id, t, at, due); err != nil {
			return err
		}
		d.More = restorable(due)
		return s.ledger.Append(ctx, tx, event(g, DeleteTag, d))
	})
}
