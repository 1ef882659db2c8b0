package network

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/ref"
	"breakwater/resource"
)

// The rules are those of the documents when they are asked for; they stay the same as
// long as the documents do, whatever else changes, and broken ones are an error.
func TestTheBorderReadsWhatIsThere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		var b Border
		if _, err := b.Rules(t.Context()); err == nil {
			t.Fatal("a border that is not open has rules")
		}
		docs := resource.New(d)
		b.Open(docs, nil)
		put := func(typ, name string, properties any) {
			t.Helper()
			text, err := json.Marshal(properties)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				_, err := docs.Put(t.Context(), tx, resource.Resource{ID: ref.ID("").Extension(typ, name), Type: typ, Properties: text}, resource.Any)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		read := func() *Rules {
			t.Helper()
			r, err := b.Rules(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		none := read()
		put("Some.Other/thing", "x", map[string]string{})
		if read() != none {
			t.Error("another document makes other rules")
		}
		put(SecurityRuleType, "no", SecurityRule{Priority: 100, Direction: Inbound, Access: Deny})
		one := read()
		if r, _ := one.Decide(Flow{Direction: Inbound}); r.Rule != called("no") {
			t.Errorf("%+v", r)
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if r, err := b.Rules(t.Context()); err != nil || r != one {
					t.Errorf("%v, %v", r, err)
				}
			})
		}
		wg.Wait()
		put(SecurityRuleType, "lost", SecurityRule{Priority: 101, Direction: Inbound, Access: Deny, SourceAddressPrefix: "nowhere"})
		if _, err := b.Rules(t.Context()); err == nil {
			t.Error("rules that cannot be read are rules")
		}
	})
}

// Whoever asks waits as long as they want, also who asks first; and a look-up that
// breaks is an error like another, after which the next one may be well.
func TestALookAtTheRulesKeepsNobody(t *testing.T) {
	var b Border
	b.Open(resource.New(dbtest.SQLite(t)), nil)
	b.looking.Lock() // somebody else's look-up does not end
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := b.Rules(ctx); err != errNotRead {
			t.Errorf("%v", err)
		}
		cancel()
	}
	b.looking.Unlock()
	if _, err := b.Rules(t.Context()); err != nil {
		t.Error(err)
	}
	docs := b.documents
	b.Open(&resource.Store{}, nil) // which has no database
	if r, err := b.Rules(t.Context()); err == nil {
		t.Errorf("a look-up that panics says %+v", r)
	}
	b.Open(docs, nil)
	if _, err := b.Rules(t.Context()); err != nil {
		t.Error(err)
	}
}
