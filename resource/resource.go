// Package resource is what is: documents with ids and etags. Every setting is
// one of them, so a change to a document counts from the next request.
package resource

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"breakwater/db"
	"breakwater/ref"
)

// SystemData says who made a document and who changed it last. A document that
// is deleted and made again has another UID.
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
	Properties json.RawMessage   `json:"properties,omitempty"`
	System     SystemData        `json:"systemData"`
}

// What a Put or Delete expects to find; any other text is the etag.
const (
	Any    = ""  // nothing in particular
	Exists = "*" // some version
	Absent = "-" // no version: create only
)

// A Store is the resource table.
type Store struct{ db *db.DB }

var errStub = errors.New("resource: not yet")

// New returns the documents in d.
func New(d *db.DB) *Store { return &Store{db: d} }

// Get returns the document with that id in any spelling, or NotFound.
func (s *Store) Get(ctx context.Context, id ref.ID) (Resource, error) { return Resource{}, errStub }

// GetTx is Get inside a transaction.
func (s *Store) GetTx(ctx context.Context, tx *db.Tx, id ref.ID) (Resource, error) {
	return Resource{}, errStub
}

// Put writes r and returns it with its etag, UID and times. The caller sets
// LastModifiedBy; what was there before keeps its UID, CreatedAt and CreatedBy.
// It is Stale when ifMatch does not hold.
func (s *Store) Put(ctx context.Context, tx *db.Tx, r Resource, ifMatch string) (Resource, error) {
	return Resource{}, errStub
}

// Delete removes the document and everything below it in the tree of ids, so
// that nothing is waiting for the next resource of that name. It is NotFound when there is none.
func (s *Store) Delete(ctx context.Context, tx *db.Tx, id ref.ID, ifMatch string) error {
	return errStub
}

// List returns documents below under ("" or "/" is everything), of one type or
// of all (""), in order of Key, after the document after.
func (s *Store) List(ctx context.Context, under ref.ID, typ string, after ref.ID, limit int) ([]Resource, error) {
	return nil, errStub
}

// Generation grows with every committed Put and Delete, before the Write that
// did it returns. Ask it before reading what you keep under it.
func (s *Store) Generation(ctx context.Context) (int64, error) { return 0, errStub }

// A Cache keeps what was derived from documents until any document changes.
// The zero Cache is ready.
type Cache[K comparable, V any] struct{}

// Get returns the value for key as of now: the kept one, or what load makes.
// Errors are not kept.
func (c *Cache[K, V]) Get(ctx context.Context, s *Store, key K, load func(context.Context) (V, error)) (V, error) {
	return load(ctx)
}
