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
	"breakwater/db"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/object"
	"breakwater/ref"
)

// Limits of content.
const (
	MaxManifest = 4 << 20   // bytes of a manifest: what the specification wants to be possible
	MaxBlob     = 200 << 30 // bytes of a blob, as ACR
)

// Category of the events about content, as Azure names its log table.
const Category = "ContainerRegistryRepositoryEvents"

// A Store is the content of all registries. It is safe for concurrent use, in
// any number of processes on one database and object store.
type Store struct {
	db       *db.DB
	objects  object.Store
	rings    *keys.Rings
	ledger   *ledger.Ledger
	sessions []byte
}

// New makes the store. sessions is the key that upload sessions are
// authenticated with (Platform.Derive("upload-session")).
func New(d *db.DB, o object.Store, rings *keys.Rings, l *ledger.Ledger, sessions []byte) *Store {
	return &Store{db: d, objects: o, rings: rings, ledger: l, sessions: sessions}
}

// A Manifest is a document that names blobs and other manifests. Body is nil
// where only the rest was asked for.
type Manifest struct {
	Digest    ref.Digest
	MediaType string
	Size      int64
	Body      []byte
}

// Rules are what the registry's settings say about content. The zero Rules are
// the strictest.
type Rules struct {
	Sparse bool // a manifest may name manifests and blobs that are not there
}
