package resource

import (
	"context"
	"strings"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/ref"
)

func TestAPinnedMomentIsLookedUpOnce(t *testing.T) {
	d, err := db.Open(t.Context(), db.Options{Source: dbtest.PostgresURL(t)})
	if err != nil {
		t.Fatal(err)
	}
	s := New(d)
	must(t, s, shop, typeRegistry, `{}`)
	request := s.Pin(t.Context())
	first, err := s.Generation(request)
	if err != nil {
		t.Fatal(err)
	}
	must(t, s, shop, typeRegistry, `{}`) // by another request
	if next, err := s.Generation(t.Context()); err != nil || next <= first {
		t.Errorf("another request is at %d after %d (%v)", next, first, err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if again, err := s.Generation(request); err != nil || again != first {
		t.Errorf("the request that began before is at %d, not at %d (%v)", again, first, err)
	}
	if _, err := s.Generation(s.Pin(t.Context())); err == nil {
		t.Error("a new request was told a moment that nobody looked up")
	}
}

func TestWhoChangesSomethingSeesIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		var c Cache[string, string]
		ctx := s.Pin(t.Context())
		for _, want := range []string{`1`, `2`, `3`} {
			err := d.Write(ctx, func(tx *db.Tx) error {
				_, err := s.Put(ctx, tx, Resource{ID: shop, Type: typeRegistry, Properties: []byte(want)}, Any)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.Get(ctx, s, "shop", func(ctx context.Context) (string, error) {
				r, err := s.Get(ctx, shop)
				return string(r.Properties), err
			})
			if err != nil || got != want {
				t.Errorf("after the change to %s the same request reads %s (%v)", want, got, err)
			}
		}
	})
}

func TestDocumentsAreFoundByTheirHolder(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		for id, holder := range map[ref.ID]string{shop + "/a/1": "Ann", shop + "/a/2": "bob", shop + "/b/3": "ann", "/x/4": "ann", "/x/5": ""} {
			if _, err := change(t, s, Resource{ID: id, Type: typeToken, Holder: holder}, Any); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			q    Query
			want string
		}{
			{Query{Holders: []string{"ann"}}, "1 3 4"},
			{Query{Holders: []string{"ANN", "bob"}, Under: []ref.ID{shop}}, "1 2 3"},
			{Query{Holders: []string{"ann", "bob"}, Under: []ref.ID{shop + "/a", "/x"}}, "1 2 4"},
			{Query{Holders: []string{"ann"}, After: shop + "/a/1", Limit: 1}, "3"},
			{Query{Holders: []string{"ann"}, Type: typeRegistry}, ""},
			{Query{Holders: []string{""}}, ""},
			{Query{Holders: []string{}}, ""},
			{Query{Under: []ref.ID{}}, ""},
			{Query{}, "1 2 3 4 5"},
		} {
			docs, err := s.Find(t.Context(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, doc := range docs {
				names = append(names, doc.ID.Name())
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("%+v: %q, not %q", c.q, got, c.want)
			}
		}
	})
}
