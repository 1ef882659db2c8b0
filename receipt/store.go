package receipt

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// Type is the ARM type of a receipt.
const Type = "Breakwater.Keys/receipts"

// A Store issues receipts and keeps them: as documents of the server, which lie in no
// registry, so that they outlive it, and which nobody can change or delete.
type Store struct {
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Identity  *identity.Store
}

// An Issued receipt is one that was signed.
type Issued struct {
	ID         ref.ID         `json:"-"`
	Kind       Kind           `json:"kind"`
	Time       time.Time      `json:"time"`
	Registry   Of             `json:"registry"`
	Repository ref.Repository `json:"repository,omitempty"`
	SHA256     string         `json:"sha256"`  // of Receipt, as the event has it
	Receipt    string         `json:"receipt"` // compact JWS
}

func id(name string) ref.ID { return ref.ID("/providers/" + Type + "/" + name) }

// A Draft is a receipt that can be issued in a transaction.
type Draft struct {
	s   *Store
	g   access.Grant
	pen jose.Signer
}

// Draft opens the key that signs.
func (s *Store) Draft(ctx context.Context, g access.Grant) (*Draft, error) {
	pen, err := s.Identity.ReceiptPen(ctx)
	if err != nil {
		return nil, fmt.Errorf("sign a receipt: %w", err)
	}
	return &Draft{s, g, pen}, nil
}

// HeldBy is who holds keys beside the platform; nil if nobody does.
func HeldBy(h *keys.Holder) *CustomerKey {
	if h == nil {
		return nil
	}
	return &CustomerKey{h.Provider, h.Key, h.Version}
}

// Issue signs and keeps the receipt and appends e, which has its digest, and the other
// events after it: what is destroyed, its receipt and its record commit together. It is
// the last thing of its transaction, whose first was to lock the documents.
func (d *Draft) Issue(ctx context.Context, tx *db.Tx, r Receipt, e ledger.Event, others ...ledger.Event) (Issued, error) {
	seq, err := d.s.Ledger.Next(ctx, tx, e.Registry)
	if err != nil {
		return Issued{}, err
	}
	r.Format, r.ID, r.Time = Format, ref.NewGUID(), e.Time.UTC().Truncate(time.Microsecond)
	r.By, r.Request = e.Who, e.Correlation
	r.Event = Event{e.Registry, seq, e.Operation}
	r.NotReached = r.notReached()
	payload, err := json.Marshal(r)
	if err != nil {
		return Issued{}, err
	}
	signature, err := d.pen.Sign(payload)
	if err != nil {
		return Issued{}, fmt.Errorf("sign a receipt: %w", err)
	}
	i := Issued{ID: id(r.ID), Kind: r.Kind, Time: r.Time, Registry: r.Registry, Repository: r.Repository}
	if i.Receipt, err = signature.CompactSerialize(); err != nil {
		return Issued{}, err
	}
	sum := sha256.Sum256([]byte(i.Receipt))
	i.SHA256 = hex.EncodeToString(sum[:])
	doc := resource.Resource{ID: i.ID, Type: Type, Holder: r.Registry.ID.Key(), System: d.g.Modified()}
	if doc.Properties, err = json.Marshal(i); err != nil {
		return Issued{}, err
	}
	if _, err := d.s.Documents.Put(ctx, tx, doc, resource.Absent); err != nil {
		return Issued{}, err
	}
	more := map[string]string{"receipt": r.ID, "receiptSHA256": i.SHA256}
	for name, value := range e.Detail.More {
		more[name] = value
	}
	e.Detail.More = more
	return i, d.s.Ledger.Append(ctx, tx, append([]ledger.Event{e}, others...)...)
}

// Get is a receipt about a registry at or below on, where the caller must be allowed to
// look.
func (s *Store) Get(ctx context.Context, g access.Grant, on ref.ID, name string) (Issued, error) {
	if err := g.Allows(access.ReceiptRead, scope(on)); err != nil {
		return Issued{}, err
	}
	doc, err := s.Documents.Get(ctx, id(name))
	if err == nil && doc.Type == Type {
		i, err := read(doc)
		if err != nil || scope(on).Covers(i.Registry.ID.Scope()) {
			return i, err
		}
	} else if err != nil && fault.Of(err) != fault.NotFound {
		return Issued{}, err
	}
	return Issued{}, fault.New(fault.NotFound, "there is no receipt %s here", name)
}

// List is the receipts about registries at or below on, after the one called after, at
// most limit.
func (s *Store) List(ctx context.Context, g access.Grant, on ref.ID, after string, limit int) (all []Issued, err error) {
	if err := g.Allows(access.ReceiptRead, scope(on)); err != nil {
		return nil, err
	}
	q := resource.Query{Type: Type, Limit: limit}
	if after != "" {
		q.After = id(after)
	}
	var wrong error
	_, err = s.Documents.Select(ctx, q, func(doc resource.Resource) bool {
		i, err := read(doc)
		wrong = errors.Join(wrong, err)
		if err != nil || !scope(on).Covers(i.Registry.ID.Scope()) {
			return false
		}
		all = append(all, i)
		return true
	})
	return all, errors.Join(err, wrong)
}

func read(doc resource.Resource) (i Issued, err error) {
	if err := json.Unmarshal(doc.Properties, &i); err != nil {
		return i, fmt.Errorf("read receipt %s: %w", doc.ID, err)
	}
	i.ID = doc.ID
	return i, nil
}

func scope(on ref.ID) ref.Scope {
	if on == "" {
		return ref.Everything
	}
	return on.Scope()
}
