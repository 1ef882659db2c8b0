package resource

import (
	"encoding/json"
	"strings"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/ref"
)

func TestALockHoldsWhatItLiesOnAndAllBelow(t *testing.T) {
	const g = ref.ID("/subscriptions/s/resourceGroups/g")
	const token = shop + "/tokens/ci"
	const other = ref.ID("/subscriptions/s/resourceGroups/gg/providers/Microsoft.ContainerRegistry/registries/other")
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		for id, typ := range map[ref.ID]string{g: "g", shop: typeRegistry, token: typeToken, other: typeRegistry} {
			must(t, s, id, typ, `{}`)
		}
		lock := func(on ref.ID, level string) ref.ID {
			id := on.Extension(LockType, "l")
			must(t, s, id, LockType, `{"level":"`+level+`"}`)
			return id
		}
		for _, test := range []struct {
			on                ref.ID
			level             string
			changes, deletion map[ref.ID]bool // whether they are held
		}{
			{shop, CanNotDelete, map[ref.ID]bool{}, map[ref.ID]bool{shop: true, token: true, g: true}},
			{shop, ReadOnly, map[ref.ID]bool{shop: true, token: true, shop + "/tokens/new": true}, map[ref.ID]bool{shop: true, token: true, g: true}},
			{token, ReadOnly, map[ref.ID]bool{token: true}, map[ref.ID]bool{shop: true, token: true, g: true}},
			{g, ReadOnly, map[ref.ID]bool{g: true, shop: true, token: true, g + "/providers/X/y/z": true, shop + "/tokens/new": true}, map[ref.ID]bool{shop: true, token: true, g: true}},
			{g, "Unheard", map[ref.ID]bool{g: true, shop: true, token: true, g + "/providers/X/y/z": true, shop + "/tokens/new": true}, map[ref.ID]bool{shop: true, token: true, g: true}},
		} {
			lock(ref.ID(test.on.Key()), test.level)
			for _, at := range []ref.ID{g, shop, token, other, shop + "/tokens/new", g + "/providers/X/y/z"} {
				_, err := change(t, s, Resource{ID: at, Type: "x"}, Any)
				if held := fault.Of(err) == fault.ScopeLocked; held != test.changes[at] || !held && err != nil {
					t.Errorf("%s on %s: change of %s: %v", test.level, test.on, at, err)
				}
			}
			for _, at := range []ref.ID{token, shop, g} {
				err := s.Deletable(t.Context(), at)
				if now := deleted(t, s, at, Any); fault.Of(now) != fault.ScopeLocked || fault.Of(err) != fault.ScopeLocked || !test.deletion[at] {
					t.Errorf("%s on %s: deletion of %s: %v, %v", test.level, test.on, at, now, err)
				}
			}
			if err := s.Deletable(t.Context(), other); err != nil {
				t.Error(err)
			}
			// A lock holds no lock: it can be changed, another made, and both taken away.
			locks := map[ref.ID]bool{lock(test.on, test.level): true, lock(shop, CanNotDelete): true}
			for id := range locks {
				if err := deleted(t, s, id, Any); err != nil {
					t.Error(err)
				}
			}
		}
		if err := deleted(t, s, g, Any); err != nil {
			t.Error(err)
		}
	})
}

func TestALockSaysWhatItMeans(t *testing.T) {
	for text, want := range map[string]string{
		`{"level":"cannotdelete"}`: CanNotDelete, `{"level":"ReadOnly","notes":"why"}`: ReadOnly,
		`{}`: "", `{"level":"NotSpecified"}`: "", `{"level":"ReadOnly","notes":"` + strings.Repeat("x", 513) + `"}`: "",
	} {
		var l Lock
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatal(err)
		}
		if err := l.Check(); (err == nil) != (want != "") || err == nil && l.Level != want {
			t.Errorf("%.40s is %+v, %v", text, l, err)
		}
	}
}
