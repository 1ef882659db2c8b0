// Package setting keeps documents that hold a setting and nothing else: what is
// done about one is done by the room that reads it, at the moment of decision.
//
// A type of them is a row, a Kind. What all have in common is here once: the grant
// is asked, what a setting lies on must exist, and a change commits with its event.
package setting

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"breakwater/access"
	"breakwater/db"
	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

// A Store is where settings lie.
type Store struct {
	DB        *db.DB
	Documents *resource.Store
	Ledger    *ledger.Ledger
}

// A Kind is a type of setting whose properties are a P. A zero limit or function
// is none.
type Kind[P any] struct {
	Type   string // as it is spelled: Microsoft.ContainerRegistry/registries/webhooks
	Called string // by people: webhook
	Right  string // what stands before /read, /write and /delete; "" is the Type
	Place  Place
	Most   int // how many there may be on one resource

	Name func(name string) error
	// Holder is whom a setting is about, to be found by.
	Holder func(P) string
	// Check refuses what is not certain and completes c.Next, inside the transaction.
	// It is asked about a deletion, too: then c.Next is nil.
	Check func(ctx context.Context, tx *db.Tx, g access.Grant, c *Change[P]) error
}

// A Place is where settings of a kind lie.
type Place int

const (
	Inside   Place = iota // in a resource of the type that the kind's is a child of, or else in a resource group
	Anywhere              // on any resource, group or subscription: S/providers/TYPE/NAME
	Above                 // before any provider, in a subscription
	Server                // on nothing: it is the whole server's
)

// A Setting is a document and its properties. Resource.Properties is not used.
type Setting[P any] struct {
	resource.Resource
	P P
}

// A Change is a setting before and after: one of the two is nil when it is made or
// deleted.
type Change[P any] struct {
	ID        ref.ID
	On        resource.Resource // what it lies on
	Was, Next *Setting[P]
	More      map[string]string // for the event; properties may be secrets, and are never there
}

// A Query says which settings are meant: those on Under and on all below it, in the
// order of their ids.
type Query struct {
	Under, After ref.ID
	Limit        int  // 0 is none
	Exactly      bool // those on Under only
	Above        bool // and those on what it lies in
}

func (k *Kind[P]) Reading() access.Action  { return k.right("read") }
func (k *Kind[P]) Writing() access.Action  { return k.right("write") }
func (k *Kind[P]) Deleting() access.Action { return k.right("delete") }

func (k *Kind[P]) right(verb string) access.Action {
	return access.Action(cmp.Or(k.Right, k.Type) + "/" + verb)
}

// At is what a resource of that id lies on, and its type; "" and "" if it is no id
// of a resource. "" and a type lies on nothing: it is the whole server's.
func At(id ref.ID) (on ref.ID, typ string) {
	parts := strings.Split(strings.TrimPrefix(string(id), "/"), "/")
	at, before := ref.ID(""), ref.ID("") // the resource that was read last, and with its /providers/NAMESPACE
	for len(parts) > 0 {
		if len(parts) > 2 && before == at && strings.EqualFold(parts[0], "providers") {
			before += ref.ID("/" + parts[0] + "/" + parts[1])
			on, typ = at, parts[1]
			parts = parts[2:]
			continue
		}
		if len(parts) == 1 {
			return "", ""
		}
		if before == at {
			on = at
		}
		if before == at && (at == "" || strings.EqualFold(typ, subscriptions)) {
			typ = "Microsoft.Resources"
		}
		typ += "/" + parts[0]
		before += ref.ID("/" + parts[0] + "/" + parts[1])
		at, parts = before, parts[2:]
	}
	return on, typ
}

const subscriptions = "Microsoft.Resources/subscriptions"

// on is what the setting id lies on, if it is one of the kind.
func (k *Kind[P]) on(id ref.ID) (ref.ID, error) {
	if _, err := ref.ParseID(string(id)); err != nil {
		return "", err
	}
	on, typ := At(id)
	if !strings.EqualFold(typ, k.Type) || (on == "") != (k.Place == Server) {
		return "", k.absent()
	}
	return on, nil
}

// scope is where rights on the setting are needed: one that may lie anywhere is a
// matter of what it lies on.
func (k *Kind[P]) scope(id, on ref.ID) ref.Scope {
	if k.Place == Anywhere {
		return on.Scope()
	}
	return id.Scope()
}

func (k *Kind[P]) holder(p P) string {
	if k.Holder == nil {
		return ""
	}
	return k.Holder(p)
}

func (k *Kind[P]) absent() error {
	return fault.New(fault.NotFound, "there is no %s of this name", k.Called)
}

// read is a document as a setting; one of another type is none.
func (k *Kind[P]) read(doc resource.Resource, err error) (Setting[P], error) {
	if fault.Of(err) == fault.NotFound || err == nil && !strings.EqualFold(doc.Type, k.Type) {
		err = k.absent()
	}
	s := Setting[P]{Resource: doc}
	if err == nil && len(doc.Properties) > 0 {
		if err = json.Unmarshal(doc.Properties, &s.P); err != nil {
			err = fmt.Errorf("read %s: %w", doc.ID, err)
		}
	}
	s.Properties = nil
	return s, err
}

// Get is one setting.
func (k *Kind[P]) Get(ctx context.Context, s *Store, g access.Grant, id ref.ID) (Setting[P], error) {
	on, err := k.on(id)
	if err := g.Allows(k.Reading(), k.scope(id, cmp.Or(on, id))); err != nil {
		return Setting[P]{}, err
	}
	if err != nil {
		return Setting[P]{}, err
	}
	return k.read(s.Documents.Get(ctx, id))
}

// List is the settings that q means, but for those that a denial keeps from the
// caller.
func (k *Kind[P]) List(ctx context.Context, s *Store, g access.Grant, q Query) ([]Setting[P], error) {
	if err := g.Allows(k.Reading(), cmp.Or(q.Under.Scope(), ref.Everything)); err != nil {
		return nil, err
	}
	find := resource.Query{Type: k.Type, Under: []ref.ID{q.Under}, After: q.After, Limit: q.Limit}
	on := func(id ref.ID) ref.ID { return id + ref.ID("/providers/"+k.Type) }
	if q.Exactly {
		find.Under = []ref.ID{on(q.Under)}
	}
	for above := q.Under; q.Above && above != ""; {
		above, _ = At(above)
		find.Under = append(find.Under, on(above))
	}
	docs, err := s.Documents.Select(ctx, find, func(doc resource.Resource) bool {
		on, _ := At(doc.ID)
		return !g.Hides(k.Reading(), k.scope(doc.ID, cmp.Or(on, doc.ID)))
	})
	if err != nil {
		return nil, err
	}
	all := make([]Setting[P], len(docs))
	for i, doc := range docs {
		if all[i], err = k.read(doc, nil); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Put creates or replaces a setting, if ifMatch holds.
func (k *Kind[P]) Put(ctx context.Context, s *Store, g access.Grant, next Setting[P], ifMatch string) (made Setting[P], err error) {
	on, err := k.on(next.ID)
	if err := g.Allows(k.Writing(), k.scope(next.ID, cmp.Or(on, next.ID))); err != nil {
		return made, err
	}
	if err != nil {
		return made, err
	}
	if k.Name != nil {
		if err := k.Name(next.ID.Name()); err != nil {
			return made, err
		}
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		// Nobody deletes what it lies on, or makes one more, in between.
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		next := next
		c := &Change[P]{ID: next.ID, Next: &next, More: map[string]string{}}
		if on == "" { // there is always a server
		} else if c.On, err = s.Documents.GetTx(ctx, tx, on); fault.Of(err) == fault.NotFound {
			return fault.New(fault.ParentNotFound, "there is no %s for it to be in", on)
		} else if err != nil {
			return err
		}
		was, err := k.read(s.Documents.GetTx(ctx, tx, next.ID))
		switch {
		case err == nil:
			c.Was = &was
		case fault.Of(err) != fault.NotFound:
			return err
		}
		if k.Check != nil {
			if err := k.Check(ctx, tx, g, c); err != nil {
				return err
			}
		}
		if err := k.room(ctx, tx, s, c); err != nil {
			return err
		}
		doc := next.Resource
		doc.Type, doc.System, doc.Holder = k.Type, g.Modified(), k.holder(next.P)
		if doc.Properties, err = json.Marshal(next.P); err != nil {
			return err
		}
		if doc, err = s.Documents.Put(ctx, tx, doc, ifMatch); err != nil {
			return resource.Taken(err, ifMatch, k.Called, doc.ID.Name())
		}
		if made, err = k.read(doc, nil); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, k.Writing(), doc.ID, changed(c))
	})
	return made, err
}

// room refuses one setting too many.
func (k *Kind[P]) room(ctx context.Context, tx *db.Tx, s *Store, c *Change[P]) error {
	if c.Was != nil || k.Most == 0 {
		return nil
	}
	under := c.On.ID
	if k.Place == Anywhere {
		under += ref.ID("/providers/" + k.Type)
	}
	all, err := s.Documents.FindTx(ctx, tx, resource.Query{Type: k.Type, Under: []ref.ID{under}, Limit: k.Most})
	if err == nil && len(all) == k.Most {
		err = fault.New(fault.Conflict, "%s has as many of its kind (%s) as it may: %d", c.On.ID.Name(), k.Called, k.Most)
	}
	return err
}

// Delete removes a setting, if ifMatch holds, and returns what it was.
func (k *Kind[P]) Delete(ctx context.Context, s *Store, g access.Grant, id ref.ID, ifMatch string) (was Setting[P], err error) {
	on, err := k.on(id)
	if err := g.Allows(k.Deleting(), k.scope(id, cmp.Or(on, id))); err != nil {
		return was, err
	}
	if err != nil {
		return was, err
	}
	err = s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		if was, err = k.read(s.Documents.GetTx(ctx, tx, id)); err != nil {
			return err
		}
		c := &Change[P]{ID: was.ID, Was: &was, More: map[string]string{}}
		if c.On, err = s.Documents.GetTx(ctx, tx, on); err != nil && fault.Of(err) != fault.NotFound {
			return err
		}
		if k.Check != nil {
			if err := k.Check(ctx, tx, g, c); err != nil {
				return err
			}
		}
		if err := s.Documents.Delete(ctx, tx, id, ifMatch); err != nil {
			return err
		}
		return g.Record(ctx, tx, s.Ledger, k.Deleting(), was.ID, c.More)
	})
	return was, err
}

// Do is something else that is done with a setting, by who has the right to it:
// do does it in c.Next, if it is more than to have been done.
func (k *Kind[P]) Do(ctx context.Context, s *Store, g access.Grant, id ref.ID, verb string, do func(*P) error) error {
	on, err := k.on(id)
	if err := g.Allows(k.right(verb), k.scope(id, cmp.Or(on, id))); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *db.Tx) error {
		if err := s.Documents.Lock(ctx, tx); err != nil {
			return err
		}
		is, err := k.read(s.Documents.GetTx(ctx, tx, id))
		if err != nil {
			return err
		}
		if do != nil {
			if err := do(&is.P); err != nil {
				return err
			}
			doc := is.Resource
			doc.System, doc.Holder = g.Modified(), k.holder(is.P)
			if doc.Properties, err = json.Marshal(is.P); err != nil {
				return err
			}
			if _, err := s.Documents.Put(ctx, tx, doc, is.Etag); err != nil {
				return err
			}
		}
		return g.Record(ctx, tx, s.Ledger, k.right(verb), is.ID, nil)
	})
}

// changed adds the names of what a change changes. What it was and is may be a
// secret, and is not said.
func changed[P any](c *Change[P]) map[string]string {
	if c.Was == nil {
		return c.More
	}
	is, was := members(c.Next), members(c.Was)
	var names []string
	for name, value := range is {
		if string(was[name]) != string(value) {
			names = append(names, name)
		}
	}
	for name := range was {
		if _, ok := is[name]; !ok {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		slices.Sort(names)
		c.More["changed"] = strings.Join(names, " ")
	}
	return c.More
}

// members are what can be changed of a setting.
func members[P any](s *Setting[P]) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	for _, part := range []any{s.P, map[string]any{"tags": s.Tags}} {
		if text, err := json.Marshal(part); err == nil {
			_ = json.Unmarshal(text, &all) // a P that is no object has no members
		}
	}
	return all
}
