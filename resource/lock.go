package resource

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

// LockType is the type of a Lock, which lies on what it holds.
const LockType = "Microsoft.Authorization/locks"

// A Lock holds a resource and everything below it, whoever asks: it keeps people
// from mistakes, and is no right. Put and Delete ask for it. A lock holds no lock, so
// that every one can be taken away.
type Lock struct {
	Level string `json:"level"`
	Notes string `json:"notes,omitempty"`
}

// Levels of a Lock.
const (
	CanNotDelete = "CanNotDelete"
	ReadOnly     = "ReadOnly" // it cannot be changed either
)

// Check refuses a lock whose meaning is not certain, and gives its level the one
// spelling.
func (l *Lock) Check() error {
	for _, level := range []string{CanNotDelete, ReadOnly} {
		if strings.EqualFold(l.Level, level) {
			l.Level = level
			if len(l.Notes) > 512 {
				return fault.New(fault.BadRequest, "the notes of a lock have at most 512 bytes")
			}
			return nil
		}
	}
	return fault.New(fault.BadRequest, "the level of a lock is %s or %s", CanNotDelete, ReadOnly)
}

// Deletable is nil if no lock holds the document, or anything below it that would
// go with it.
func (s *Store) Deletable(ctx context.Context, id ref.ID) error {
	return unlocked(ctx, s.db, id, true)
}

// DeletableTx is Deletable inside a transaction.
func (s *Store) DeletableTx(ctx context.Context, tx *db.Tx, id ref.ID) error {
	return unlocked(ctx, tx, id, true)
}

// unlocked is nil if no lock forbids to change the document, or to delete it.
func unlocked(ctx context.Context, d reader, id ref.ID, deleting bool) error {
	q := Query{Type: LockType}
	on := func(at string) { q.Under = append(q.Under, ref.ID(at+"/providers/"+LockType)) }
	for i := 1; i < len(id); i++ {
		if id[i] == '/' {
			on(string(id[:i]))
		}
	}
	on(string(id))
	verb := "changed"
	if deleting {
		q.Under, verb = append(q.Under, id), "deleted"
	}
	locks, err := find(ctx, d, q)
	if err != nil {
		return err
	}
	for _, doc := range locks {
		var l Lock
		if err := json.Unmarshal(doc.Properties, &l); err != nil {
			return fmt.Errorf("read %s: %w", doc.ID, err)
		}
		if deleting || l.Level != CanNotDelete {
			return fault.New(fault.ScopeLocked, "%s cannot be %s, because a lock (%s) holds it: take %s away first", id, verb, l.Level, doc.ID)
		}
	}
	return nil
}
