// Package resource is what is: documents with ids and etags. Every setting is
// one of them, so a change to a document counts from the next request.
package resource

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

// SystemData says who made a document and who changed it last. A document that
// is deleted and made again has another UID, which is a random GUID.
type SystemData struct {
	UID                string    `json:"uid"`
	CreatedBy          string    `json:"createdBy,omitempty"`
	CreatedByType      string    `json:"createdByType,omitempty"`
	CreatedAt          time.Time `json:"createdAt"`
	LastModifiedBy     string    `json:"lastModifiedBy,omitempty"`
	LastModifiedByType string    `json:"lastModifiedByType,omitempty"`
	LastModifiedAt     time.Time `json:"lastModifiedAt"`
}

// A Resource is one document.
type Resource struct {
	ID         ref.ID            `json:"id"`
	Type       string            `json:"type"` // Microsoft.ContainerRegistry/registries …
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Etag       string            `json:"-"` // changes with every Put
	Holder     string            `json:"-"` // whom it is about, to be found by: a principal's id, or Itself; Put stores it and nothing returns it
	Properties json.RawMessage   `json:"properties,omitempty"`
	System     SystemData        `json:"systemData"`
}

// Itself is the Holder of a document whose UID is the id of a principal.
const Itself = "itself"

// What a Put or Delete expects to find; any other text is the etag.
const (
	Any    = ""  // nothing in particular
	Exists = "*" // some version
	Absent = "-" // no version: create only
)

// A Store is the resource table.
type Store struct {
	db     *db.DB
	change atomic.Int64 // SQLite: how many were committed
}

// New returns the documents in d. A process makes one Store for a database: on
// SQLite it is what counts the changes.
func New(d *db.DB) *Store { return &Store{db: d} }

// Get returns the document with that id, in any spelling, or NotFound.
func (s *Store) Get(ctx context.Context, id ref.ID) (Resource, error) {
	return get(ctx, s.db, id)
}

// GetTx is Get inside a transaction.
func (s *Store) GetTx(ctx context.Context, tx *db.Tx, id ref.ID) (Resource, error) {
	return get(ctx, tx, id)
}

// Put writes r and returns it with its etag, UID and times. The caller sets
// LastModifiedBy, and may set the UID of what is new; what was there before keeps its
// spelling, UID and creation. It
// is Stale when ifMatch does not hold, and ScopeLocked when a lock does.
func (s *Store) Put(ctx context.Context, tx *db.Tx, r Resource, ifMatch string) (Resource, error) {
	if err := s.changing(ctx, tx); err != nil {
		return Resource{}, err
	}
	if err := still(ctx, tx, r.ID); err != nil {
		return Resource{}, err
	}
	was, err := s.GetTx(ctx, tx, r.ID)
	found := err == nil
	if err != nil && fault.Of(err) != fault.NotFound {
		return Resource{}, err
	}
	if !holds(ifMatch, was.Etag, found) {
		return Resource{}, stale(r.ID, ifMatch)
	}
	if !strings.EqualFold(r.Type, LockType) {
		if err := unlocked(ctx, tx, r.ID, false); err != nil {
			return Resource{}, err
		}
	}
	now := time.Now().UTC().Truncate(time.Microsecond)
	system := &r.System
	system.LastModifiedAt = now
	if found {
		r.ID = was.ID
		system.UID, system.CreatedAt = was.System.UID, was.System.CreatedAt
		system.CreatedBy, system.CreatedByType = was.System.CreatedBy, was.System.CreatedByType
	} else {
		system.UID, system.CreatedAt = cmp.Or(system.UID, ref.NewGUID()), now
		system.CreatedBy, system.CreatedByType = system.LastModifiedBy, system.LastModifiedByType
	}
	if r.Holder == Itself {
		r.Holder = system.UID
	}
	r.Etag = strings.ToLower(rand.Text()[:16])
	return r, put(ctx, tx, r)
}

// Delete removes the document and everything below it in the tree of ids, so
// that nothing waits there for the next resource of that name. It is NotFound
// when there is no document, Stale when ifMatch does not hold, ScopeLocked when a
// lock holds it or anything below it.
func (s *Store) Delete(ctx context.Context, tx *db.Tx, id ref.ID, ifMatch string) error {
	if err := s.changing(ctx, tx); err != nil {
		return err
	}
	if err := still(ctx, tx, id); err != nil {
		return err
	}
	was, err := s.GetTx(ctx, tx, id)
	if err != nil {
		return err
	}
	if !holds(ifMatch, was.Etag, true) {
		return stale(id, ifMatch)
	}
	if !strings.EqualFold(was.Type, LockType) {
		if err := unlocked(ctx, tx, id, true); err != nil {
			return err
		}
	}
	return remove(ctx, tx, id)
}

func holds(ifMatch, etag string, found bool) bool {
	switch ifMatch {
	case Any:
		return true
	case Exists:
		return found
	case Absent:
		return !found
	}
	return found && ifMatch == etag
}

func stale(id ref.ID, ifMatch string) error {
	switch ifMatch {
	case Exists:
		return fault.New(fault.Stale, "%s does not exist", id.Name())
	case Absent:
		return fault.New(fault.Stale, "%s exists already", id.Name())
	}
	return fault.New(fault.Stale, "%s was changed by somebody else; read it again and repeat the change", id.Name())
}

// Taken is err in the words of a creation, if it is that a document of the name is
// there already: a Conflict, because of what was Stale.
func Taken(err error, ifMatch, called, name string) error {
	if ifMatch == Absent && fault.Of(err) == fault.Stale {
		return fault.New(fault.Conflict, "there is a %s called %s already", called, name).Because(err)
	}
	return err
}

// List returns documents below under ("" or "/" is everything), of one type or
// of all (""), in order of Key, after the document after ("" is from the first); limit 0 is all.
func (s *Store) List(ctx context.Context, under ref.ID, typ string, after ref.ID, limit int) ([]Resource, error) {
	return s.Find(ctx, Query{Type: typ, Under: []ref.ID{under}, After: after, Limit: limit})
}

// A Query says which documents are meant: all conditions hold. The zero Query is
// every document.
type Query struct {
	Type    string   // "" is any
	Holders []string // any of them; nil is anybody
	Under   []ref.ID // below any of them; nil is anywhere
	After   ref.ID   // later in the order of Key
	Limit   int      // 0 is none
}

// Find returns the documents that q means, in order of Key.
func (s *Store) Find(ctx context.Context, q Query) ([]Resource, error) { return find(ctx, s.db, q) }

// Select returns the first documents that q means and that keep holds for, at most
// q.Limit, in order of Key: what a caller may not see takes nothing from a page.
func (s *Store) Select(ctx context.Context, q Query, keep func(Resource) bool) (all []Resource, err error) {
	for limit := q.Limit; ; q.Limit = max(limit, batch) {
		docs, err := s.Find(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if !keep(doc) {
				continue
			}
			if all = append(all, doc); len(all) == limit {
				return all, nil
			}
		}
		if q.Limit == 0 || len(docs) < q.Limit {
			return all, nil
		}
		q.After = docs[len(docs)-1].ID
	}
}

// batch is how many documents Select looks at once, where those it looked at first
// were not enough.
const batch = 1000

// Count is how many documents q means.
func (s *Store) Count(ctx context.Context, q Query) (int64, error) { return count(ctx, s.db, q) }

// FindTx is Find inside a transaction.
func (s *Store) FindTx(ctx context.Context, tx *db.Tx, q Query) ([]Resource, error) {
	return find(ctx, tx, q)
}

// ListTx is List inside a transaction.
func (s *Store) ListTx(ctx context.Context, tx *db.Tx, under ref.ID, typ string, after ref.ID, limit int) ([]Resource, error) {
	return s.FindTx(ctx, tx, Query{Type: typ, Under: []ref.ID{under}, After: after, Limit: limit})
}

// below is the range of keys, both ends excluded, that lie below id in the tree.
func below(id ref.ID) (from, to string) {
	key := strings.TrimSuffix(id.Key(), "/")
	return key + "/", key + "0" // '0' comes after '/'
}

// Generation grows with every committed Put and Delete, before the Write that
// did it returns. Whoever keeps what it read from documents asks for the
// generation first and reads then: as long as it is the same, no change was
// answered in between.
func (s *Store) Generation(ctx context.Context) (int64, error) {
	if s.db.Engine() == db.SQLite {
		return s.change.Load(), nil
	}
	if p, ok := ctx.Value(pinned{}).(*pin); ok && p.of == s {
		return p.generation(ctx)
	}
	return generation(ctx, s.db)
}

// Pin makes one moment of all questions that are asked under the context: the
// generation is looked up at the first of them, so that a request that reads
// through several caches pays for one look-up. It lasts until a Put or Delete
// under the same context is committed: who changes something sees it.
func (s *Store) Pin(ctx context.Context) context.Context {
	return context.WithValue(ctx, pinned{}, &pin{of: s})
}

type pinned struct{}

type pin struct {
	of    *Store
	mu    sync.Mutex
	known bool
	at    int64
}

func (p *pin) generation(ctx context.Context) (at int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known {
		if p.at, err = generation(ctx, p.of.db); err != nil {
			return 0, err
		}
		p.known = true
	}
	return p.at, nil
}

func (p *pin) pull() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known = false
}

// During makes changes under the context count only as long as the document with
// that id has that UID: a Put or Delete at it or below it is NotFound once it is
// gone, or another one is there under its name. A caller was let in for one registry,
// and may take its time to say what it wants.
func During(ctx context.Context, id ref.ID, uid string) context.Context {
	return context.WithValue(ctx, during{}, span{id, uid})
}

type during struct{}

type span struct {
	id  ref.ID
	uid string
}

func still(ctx context.Context, tx *db.Tx, changed ref.ID) error {
	of, ok := ctx.Value(during{}).(span)
	if !ok || !of.id.Scope().Covers(changed.Scope()) {
		return nil
	}
	doc, err := get(ctx, tx, of.id)
	if err == nil && doc.System.UID != of.uid {
		err = fault.New(fault.NotFound, "%s was deleted in the meantime", of.id.Name())
	}
	return err
}

// Lock lets no other transaction change documents until tx ends, so that what is
// read after it is still so when tx is committed.
func (s *Store) Lock(ctx context.Context, tx *db.Tx) error { return s.changing(ctx, tx) }

// changing makes the commit of tx count. One process owns a SQLite file, so it
// counts in memory; the nodes that share a PostgreSQL count in a row, which also
// puts their changes in order.
func (s *Store) changing(ctx context.Context, tx *db.Tx) error {
	if !tx.First(s) {
		return nil
	}
	if s.db.Engine() == db.SQLite {
		tx.Then(func() { s.change.Add(1) })
		return nil
	}
	if p, ok := ctx.Value(pinned{}).(*pin); ok && p.of == s {
		tx.Then(p.pull)
	}
	return advance(ctx, tx)
}
