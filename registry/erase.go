package registry

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/resource"
)

// Contents is what registries hold, for those who destroy it. It is asked in the
// transaction that destroys the keys. The zero Contents are of registries that hold
// nothing.
type Contents struct {
	Locked func(ctx context.Context, tx *db.Tx, uid string, hold bool) error       // why something in it must stay; with hold, nothing else comes to that
	Empty  func(ctx context.Context, tx *db.Tx, uid string) (receipt.Tally, error) // takes all names out
	Purge  func(ctx context.Context)                                               // deletes the bytes that have no name
}

func (c Contents) locked(ctx context.Context, tx *db.Tx, uid string, hold bool) error {
	if c.Locked == nil {
		return nil
	}
	return c.Locked(ctx, tx, uid, hold)
}

func (c Contents) empty(ctx context.Context, tx *db.Tx, uid string) (t receipt.Tally, err error) {
	if c.Empty == nil {
		t.List(nil)
		return t, nil
	}
	return c.Empty(ctx, tx, uid)
}

func (c Contents) purge(ctx context.Context) {
	if c.Purge != nil {
		c.Purge(ctx)
	}
}

// Erase destroys all content of a registry that goes on: its data keys end, another one
// begins, and all names go, in one transaction. With a customer's key, the new data key
// is under that too, which must answer; platform says to go on without: then the old keys
// end though the customer refuses, or is gone, the new one is the platform's alone, and
// the registry's settings say so. Content that is locked is Disallowed, and a lock on the
// registry ScopeLocked. Under dual control somebody
// else must have approved it.
func (s *Store) Erase(ctx context.Context, g access.Grant, id ref.ID, platform bool) (i receipt.Issued, err error) {
	if err := g.Allows(access.RegistryErase, id.Scope()); err != nil {
		return i, err
	}
	draft, err := s.o.Receipts.Draft(ctx, g)
	if err != nil {
		return i, err
	}
	moved := func(err error) bool { return fault.Of(err) == fault.Stale || errors.Is(err, errMoved) }
	err = db.Overtaken(ctx, moved, func() (err error) {
		i, err = s.eraseOnce(ctx, g, id, platform, draft)
		return err
	})
	if err != nil {
		return receipt.Issued{}, s.o.Approvals.Ask(ctx, g, err)
	}
	s.o.Contents.purge(ctx)
	return i, nil
}

func (s *Store) eraseOnce(ctx context.Context, g access.Grant, id ref.ID, platform bool, draft *receipt.Draft) (i receipt.Issued, err error) {
	r, err := s.ByID(ctx, id)
	if err != nil {
		return i, err
	}
	var holder *keys.Holder
	if k := r.Encryption.Key; k != nil && !platform {
		if holder, err = s.holder(ctx, access.ServerGrant(r.Ref(), access.Call{}), r.ID, k); err != nil {
			return i, withoutHolder(err)
		}
	}
	erasure, err := s.o.Rings.Erase(ctx, r.UID, true, holder)
	if err != nil {
		return i, withoutHolder(err)
	}
	from := r.Encryption.identifier()
	err = s.o.DB.Write(ctx, func(tx *db.Tx) (err error) {
		i, err = s.erase(ctx, tx, g, id, from, platform, erasure, draft)
		return err
	})
	return i, err
}

// erasing is the act that destroys what a registry holds; to go on without the customer's
// key is another.
func erasing(doc resource.Resource, platform bool) approval.Act {
	a := approval.Act{Action: access.RegistryErase, Scope: doc.ID.Scope(), On: doc.ID, UID: doc.System.UID}
	if platform {
		a.Exact = "newKey: platform"
	}
	return a
}

// withoutHolder tells what can be done where a customer's key does not answer.
func withoutHolder(err error) error {
	if c := fault.Of(err); c == fault.Unavailable || c == fault.KeyRefused {
		return fault.New(c, "the customer's key cannot be had for the new data key (%s); to erase without it, ask for a new data key under the platform's key alone", fault.From(err).Message).Because(err)
	}
	return err
}

// erase is an erase of a registry, in its transaction.
func (s *Store) erase(ctx context.Context, tx *db.Tx, g access.Grant, id ref.ID, from string, platform bool, erasure *keys.Erasure, draft *receipt.Draft) (i receipt.Issued, err error) {
	if err := s.o.Documents.Lock(ctx, tx); err != nil {
		return i, err
	}
	doc, err := s.getTx(ctx, tx, id)
	if err != nil {
		return i, err
	}
	if err := s.o.Documents.DeletableTx(ctx, tx, doc.ID); err != nil {
		return i, err
	}
	if err := s.o.Contents.locked(ctx, tx, doc.System.UID, false); err != nil { // nobody is asked to approve what cannot be done
		return i, err
	}
	if err := s.o.Approvals.Use(ctx, tx, g, erasing(doc, platform)); err != nil {
		return i, err
	}
	r, err := s.parse(doc)
	if err != nil {
		return i, err
	}
	if r.Encryption.identifier() != from {
		return i, errMoved
	}
	before := string(doc.Properties)
	if erasure.Next.Holder == nil {
		r.Encryption.Status, r.Encryption.Key = "", nil
	}
	r.Encryption = r.Encryption.after(erasure.Next, time.Now())
	if doc.Properties, err = json.Marshal(r.Properties); err != nil {
		return i, err
	}
	doc.Holder, doc.System = r.Name, g.Modified()
	if doc, err = s.o.Documents.Put(ctx, tx, doc, resource.Exists); err != nil {
		return i, err
	}
	said, err := s.destroy(ctx, tx, r, erasure, receipt.Registry)
	if err != nil {
		return i, err
	}
	e := g.Event(ledger.Administrative, string(access.RegistryErase), id.Scope())
	e.Registry = r.UID
	e.Detail.More = map[string]string{"before": before, "after": string(doc.Properties)}
	return draft.Issue(ctx, tx, said, e, moveEvents(g, r, erasure.Next)...)
}

// destroy ends the keys of a registry and takes all names out of it, and tells what the
// receipt says of that.
func (s *Store) destroy(ctx context.Context, tx *db.Tx, r *Registry, erasure *keys.Erasure, kind receipt.Kind) (said receipt.Receipt, err error) {
	if err := erasure.Commit(ctx, tx); err != nil {
		return said, err
	}
	if kind == receipt.Registry { // it goes on, and so do its promises
		if err := s.o.Contents.locked(ctx, tx, r.UID, true); err != nil {
			return said, err
		}
	}
	said = receipt.Receipt{Kind: kind, Registry: receipt.Of{UID: r.UID, ID: r.ID, Name: r.Name}, Keys: erasure.Keys, CustomerKey: receipt.HeldBy(erasure.Held())}
	if next := erasure.Next; next != nil {
		version, _ := next.Version()
		said.NextKey = &receipt.NextKey{Version: version, CustomerKey: next.Holder != nil}
	}
	said.Destroyed, err = s.o.Contents.empty(ctx, tx, r.UID)
	return said, err
}
