package network

import (
	"encoding/json"
	"sync"
	"testing"

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
