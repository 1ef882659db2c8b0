package keys

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/resource"
)

// No standing serves content with a key that the provider refused, or without having
// asked within the bounds of the documents.
func TestStandingOfARegistry(t *testing.T) {
	now, times := time.Now(), Times{}.usual()
	ring := &Ring{}
	refused, outage := refusal(Key{Name: "k"}, Barred, nil), down("x", context.DeadlineExceeded)
	for _, c := range []struct {
		name               string
		e                  *entry
		serves, asks, wait bool
	}{
		{"never asked", &entry{}, false, true, true},
		{"just asked", &entry{ring: ring, good: now.Add(-time.Second)}, true, false, false},
		{"some time ago", &entry{ring: ring, good: now.Add(-11 * time.Second)}, true, true, false},
		{"long ago", &entry{ring: ring, good: now.Add(-40 * time.Second)}, false, true, true},
		{"refused a moment ago", &entry{bad: refused, again: now.Add(time.Second)}, false, false, false},
		{"refused a while ago", &entry{bad: refused, again: now}, false, true, true},
		{"refused, and the ledger takes its time", &entry{asked: make(chan struct{}), bad: refused, again: now.Add(time.Second)}, false, false, false},
		{"refused a while ago, and asked again", &entry{asked: make(chan struct{}), bad: refused, again: now}, false, true, true},
		{"refused, though open", &entry{ring: ring, good: now, bad: refused, again: now.Add(time.Second), bridge: time.Hour}, false, false, false},
		{"outage", &entry{ring: ring, good: now.Add(-time.Minute), bad: outage, again: now.Add(time.Second), bridge: time.Hour}, true, false, false},
		{"outage, time to ask", &entry{ring: ring, good: now.Add(-time.Minute), bad: outage, again: now, bridge: time.Hour}, true, true, false},
		{"outage for too long", &entry{ring: ring, good: now.Add(-time.Hour), bad: outage, again: now.Add(time.Second), bridge: time.Hour}, false, false, false},
		{"outage that is not bridged", &entry{ring: ring, good: now, bad: outage, again: now.Add(time.Second)}, false, false, false},
		{"outage, not open", &entry{bad: outage, again: now.Add(time.Second), bridge: time.Hour}, false, false, false},
		{"asked already", &entry{asked: make(chan struct{}), again: now.Add(time.Second)}, false, true, true},
	} {
		is := c.e.standing(now, times)
		if (is.ring != nil) != c.serves || is.ask != c.asks || is.wait != c.wait {
			t.Errorf("%s: serves %v, asks %v, waits %v", c.name, is.ring != nil, is.ask, is.wait)
		}
	}
	if times.Late+times.Check > time.Minute {
		t.Error("a key that was taken away opens for more than a minute")
	}
}

// A double is a provider that answers with a secret of its own.
type double struct{ secret []byte }

func (d double) Describe(context.Context, Key) (Description, error) {
	return Description{Algorithm: AES, Bits: 256, State: Enabled, Version: "1"}, nil
}
func (d double) Wrap(_ context.Context, _ Key, _ KeyID, secret []byte) ([]byte, string, error) {
	return []byte("wrapped"), "1", nil
}
func (d double) Unwrap(context.Context, Key, KeyID, []byte) ([]byte, error) {
	return append([]byte(nil), d.secret...), nil
}

func TestProviderCannotAnswerWithASecretOfItsOwn(t *testing.T) {
	p := double{make([]byte, Size)}
	id := keyID("shop", 1)
	secret := fresh()
	for _, c := range []struct {
		name string
		sum  []byte
		ok   bool
	}{{"its own", fingerprint(id, p.secret), true}, {"another's", fingerprint(id, secret), false}, {"of another place", fingerprint(keyID("shop", 2), p.secret), false}} {
		got, err := unfold(t.Context(), p, id, Key{Name: "k", Version: "1"}, append(c.sum, "wrapped"...))
		if (err == nil) != c.ok || !c.ok && got != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if fault.Of(ErrWrapped) != fault.Internal {
		t.Error("a senseless answer is somebody's fault")
	}
}

// Keys that one process ends, and follows with others, are not in the memory of another
// after a look.
func TestALookLetsGoOfKeysThatWereErased(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		ctx := t.Context()
		platform, err := OpenPlatform(filepath.Join(t.TempDir(), "platform.key"))
		if err != nil {
			t.Fatal(err)
		}
		docs := resource.New(d)
		node := func() *Rings {
			s := NewRings(d, platform)
			s.Entrust(&Custody{Documents: docs})
			t.Cleanup(s.Close)
			return s
		}
		one, two := node(), node()
		if err := d.Write(ctx, func(tx *db.Tx) error { return one.Create(ctx, tx, "shop") }); err != nil {
			t.Fatal(err)
		}
		if _, err := two.Ring(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
		ended, err := one.Erase(ctx, "shop", true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Write(ctx, func(tx *db.Tx) error {
			if err := ended.Commit(ctx, tx); err != nil {
				return err
			}
			_, err := docs.Put(ctx, tx, resource.Resource{ID: "/providers/A.B/c/d", Type: "A.B/c"}, resource.Any)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := two.Look(ctx); err != nil {
			t.Fatal(err)
		}
		if r := two.entry("shop").ring; r == nil || len(r.keys) != 1 || r.current != 2 {
			t.Errorf("after a look there is %+v", r)
		}
	})
}
