// Package directory is who can be known here: users, service principals, managed
// identities, what each of them may prove itself with, and the external issuers
// that vouch for others (IM-1, IM-3).
//
// Every object is a document. A change asks the grant, and commits with its event;
// identity reads the documents at the next request. What is deleted takes
// everything along that could prove it, so that every token that descends from it
// is unknown at once. Its role assignments stay where their owners put them: they
// name an id that nobody has again, and give nothing.
package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A Store changes and shows the directory.
type Store struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
	Identity  *identity.Store
}

// disabled is the status of an account that may not sign in.
const disabled = "disabled"

// checkStatus completes and checks the status of an account.
func checkStatus(status *string) error {
	if *status == "" {
		*status = identity.EnabledStatus
	}
	if *status != identity.EnabledStatus && *status != disabled {
		return fault.New(fault.BadRequest, "the status of an account is %s or %s", identity.EnabledStatus, disabled)
	}
	return nil
}

// maxText bounds what only people read: display names, descriptions.
const maxText = 256

func checkText(what, text string) error {
	if len(text) > maxText || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return fault.New(fault.BadRequest, "the %s has at most %d bytes, and no control characters", what, maxText)
	}
	return nil
}

func absent(kind string) error { return fault.New(fault.NotFound, "there is no %s of this name", kind) }

// A kind is a type of the directory's documents, and how people call it.
type kind struct{ typ, called string }

// of refuses a document of another type, so that a name cannot lead to it.
func (k kind) of(doc resource.Resource, err error) (resource.Resource, error) {
	if fault.Of(err) == fault.NotFound || err == nil && !strings.EqualFold(doc.Type, k.typ) {
		err = absent(k.called)
	}
	return doc, err
}

// show reads one document of a kind for a caller who has the right a.
func show[T any](ctx context.Context, s *Store, g access.Grant, a access.Action, k kind, id ref.ID, as func(context.Context, resource.Resource) (T, error)) (T, error) {
	var none T
	if err := g.Allows(a, id.Scope()); err != nil {
		return none, err
	}
	doc, err := k.of(s.Documents.Get(ctx, id))
	if err != nil {
		return none, err
	}
	return as(ctx, doc)
}

// remove deletes the document of a kind for a caller who has the right a. In the
// same transaction, along takes with it what belongs to it and does not lie below
// it, and says what the event shall tell.
func remove[P any](ctx context.Context, s *Store, g access.Grant, a access.Action, k kind, id ref.ID, ifMatch string,
	along func(tx *db.Tx, doc resource.Resource, p P) (map[string]string, error)) error {
	if err := g.Allows(a, id.Scope()); err != nil {
		return err
	}
	return s.write(ctx, func(tx *db.Tx) error {
		doc, err := s.getTx(ctx, tx, k, id)
		if err != nil {
			return err
		}
		p, err := read[P](doc)
		if err != nil {
			return err
		}
		if err := s.Documents.Delete(ctx, tx, id, ifMatch); err != nil {
			return err
		}
		more, err := along(tx, doc, p)
		if err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, a, id, more)
	})
}

// forget deletes a document of ours that points to another, if it is there.
func (s *Store) forget(ctx context.Context, tx *db.Tx, pointer ref.ID) error {
	err := s.Documents.Delete(ctx, tx, pointer, resource.Any)
	if fault.Of(err) == fault.NotFound {
		return nil
	}
	return err
}

// write runs fn in a transaction in which nobody else changes documents.
func (s *Store) write(ctx context.Context, fn func(tx *db.Tx) error) error {
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

func (s *Store) get(ctx context.Context, k kind, id ref.ID) (resource.Resource, error) {
	return k.of(s.Documents.Get(ctx, id))
}

func (s *Store) getTx(ctx context.Context, tx *db.Tx, k kind, id ref.ID) (resource.Resource, error) {
	return k.of(s.Documents.GetTx(ctx, tx, id))
}

// put writes a document whose properties are p.
func (s *Store) put(ctx context.Context, tx *db.Tx, g access.Grant, doc resource.Resource, p any, ifMatch string) (resource.Resource, error) {
	var err error
	if doc.Properties, err = json.Marshal(p); err != nil {
		return doc, err
	}
	switch doc.System = g.Modified(); doc.Type {
	case identity.UserType, identity.ServicePrincipalType, identity.ManagedIdentityType:
		doc.Holder = resource.Itself
	}
	return s.Documents.Put(ctx, tx, doc, ifMatch)
}

func read[T any](doc resource.Resource) (p T, err error) {
	if err = json.Unmarshal(doc.Properties, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", doc.ID, err)
	}
	return p, nil
}

// each shows the documents of a kind below under, after the one called after, but for
// those that a denial keeps from a caller who has the right a.
func each[T any](ctx context.Context, s *Store, g access.Grant, a access.Action, k kind, under, after ref.ID, limit int, show func(context.Context, resource.Resource) (T, error)) ([]T, error) {
	q := resource.Query{Type: k.typ, Under: []ref.ID{under}, After: after, Limit: limit}
	docs, err := s.Documents.Select(ctx, q, func(doc resource.Resource) bool { return !g.Hides(a, doc.ID.Scope()) })
	if err != nil {
		return nil, err
	}
	all := make([]T, len(docs))
	for i, doc := range docs {
		if all[i], err = show(ctx, doc); err != nil {
			return nil, err
		}
	}
	return all, nil
}
