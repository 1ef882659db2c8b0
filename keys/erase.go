package keys

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

// Hold keeps the key that something was sealed with until tx ends: what tx gives a name
// can be opened, or there is no name. A key that was destroyed while the bytes came is
// fault.Unavailable, and whoever sent them sends them again. It is the first statement
// of its transaction, as destroying keys is.
func (s *Rings) Hold(ctx context.Context, tx *db.Tx, k DataKey) error {
	text := heldKey
	if s.db.Engine() == db.Postgres {
		text += ` FOR KEY SHARE`
	}
	var version int64
	err := tx.QueryRow(ctx, text, k.registry, int64(k.version)).Scan(&version)
	if errors.Is(err, db.ErrNoRows) {
		return fault.New(fault.Unavailable, "the content of this registry was erased while this request was under way; send it again").
			Because(fmt.Errorf("registry %s has no key version %d any more", k.registry, k.version)).After(time.Second)
	}
	return err
}

const heldKey = `SELECT version FROM keyring WHERE registry = $1 AND version = $2`

// Holder is who holds the keys of a registry beside the platform; nil if nobody does.
func (s *Rings) Holder(ctx context.Context, uid string) (*Holder, error) {
	rows, err := load(ctx, s.db, uid)
	return holderOf(rows), err
}

// An Erasure is the end of all data keys of a registry, prepared: nobody is asked for
// them, so that they end also when who holds them refuses.
type Erasure struct {
	silent
	s   *Rings
	uid string
	was []row

	Keys []Ended // by version
	Next *Rewrap // the key that comes after them; nil for none
}

// An Ended is a data key that was destroyed.
type Ended struct {
	Version     uint32    `json:"version"`
	Created     time.Time `json:"created"`
	Fingerprint string    `json:"fingerprint,omitempty"` // "" if its row was damaged, so that nobody can say which key it was
}

// Held is who held the keys beside the platform; nil if nobody did.
func (e *Erasure) Held() *Holder { return holderOf(e.was) }

// Erase prepares that all keys of a registry are destroyed. With renew a new one follows,
// wrapped for to as well if that is not nil: it must answer.
func (s *Rings) Erase(ctx context.Context, uid string, renew bool, to *Holder) (*Erasure, error) {
	rows, err := load(ctx, s.db, uid)
	if err != nil {
		return nil, err
	}
	e, last := &Erasure{s: s, uid: uid, was: rows}, uint32(0)
	for _, r := range rows {
		last = r.version // they come in this order
		ended := Ended{Version: r.version, Created: r.created}
		if ended.Fingerprint, err = s.fingerprint(ctx, uid, r); err != nil && !errors.Is(err, ErrDamaged) {
			return nil, err
		}
		e.Keys = append(e.Keys, ended)
	}
	if renew {
		e.Next = &Rewrap{s: s, uid: uid, Holder: to, began: time.Now()}
		if err := e.Next.add(ctx, last+1); err != nil { // never a version that there was: what was sealed with it is not this key's
			return nil, err
		}
	}
	return e, nil
}

// fingerprint is that of the key in a row. A customer's lies beside it under the
// platform's key, so the customer is not asked.
func (s *Rings) fingerprint(ctx context.Context, uid string, r row) (string, error) {
	id, at := keyID(uid, r.version), keyID(uid, r.version)
	if r.held != nil {
		at = heldID(uid, r.version)
	}
	b, err := s.vault.Unwrap(ctx, Wrapped{ID: at, Data: r.wrapped})
	if err != nil {
		return "", err
	}
	defer clear(b)
	if r.held == nil {
		return hex.EncodeToString(fingerprint(id, b)), nil
	}
	if len(b) < Size {
		return "", ErrDamaged
	}
	return hex.EncodeToString(b[:Size]), nil
}

// Commit destroys the keys, as the first thing of its transaction, and waits for those
// that Hold one. It is Stale if they are no longer those that it was prepared from.
func (e *Erasure) Commit(ctx context.Context, tx *db.Tx) error {
	if now, err := load(ctx, tx, e.uid); err != nil {
		return err
	} else if !same(now, e.was) {
		return moved()
	}
	if err := e.s.Destroy(ctx, tx, e.uid); err != nil || e.Next == nil {
		return err
	}
	return e.Next.Commit(ctx, tx)
}
