// Package object keeps bytes under random keys: on disk, later in S3 or Azure
// Blob. What it is given is already sealed (DP-4); what it keeps has no name
// but its key.
package object

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"time"
)

// A Store keeps objects. An object is written once and never changes; nothing
// is ever renamed. Its methods may be called at the same time.
type Store interface {
	// Put stores all of r under a key that NewKey made. It returns only when
	// the object would survive a power cut, because the row that names it is
	// committed next. When r fails, Put returns r's error; after any error
	// nothing is left under the key, or, where the process died in between,
	// something that List shows and nobody names. A key in use is
	// fs.ErrExist and its object stays as it was; a full disk is
	// fault.StorageFull; a store that cannot be written is fault.Unavailable.
	//
	// A disk writes the pieces that r's WriteTo writes, if it has one.
	Put(ctx context.Context, key string, r io.Reader) (size int64, err error)

	// Open opens an object for reading. An absent one is fs.ErrNotExist. An
	// open object stays readable after a Delete.
	Open(ctx context.Context, key string) (Object, error)

	// Delete removes objects; an absent one is no error. After a power cut a
	// removed object may be back, so deletes are repeated by sweeps.
	Delete(ctx context.Context, keys ...string) error

	// List yields the objects whose keys start with prefix, in the order of
	// their keys, objects that are still being put among them. It stops
	// after the first error.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// An Object is open for reading until it is closed.
type Object interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// Info is what a List tells about an object.
type Info struct {
	Key  string
	Size int64
	At   time.Time // when it was put
}

// NewKey makes a key: 128 random bits, so that no two objects share one and
// nobody guesses one. It looks like "3f/0a94…".
func NewKey() string {
	var b [16]byte
	rand.Read(b[:])
	s := hex.EncodeToString(b[:])
	return s[:2] + "/" + s[2:]
}

// Check refuses what is not a key; a Store never makes a path of anything else.
func Check(key string) error {
	if len(key) != 33 || key[2] != '/' {
		return fmt.Errorf("object key %q: not a key", key)
	}
	for i := range len(key) {
		if c := key[i]; i != 2 && (c < '0' || '9' < c) && (c < 'a' || 'f' < c) {
			return fmt.Errorf("object key %q: not a key", key)
		}
	}
	return nil
}
