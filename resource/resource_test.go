package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/ref"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	typeRegistry = "Microsoft.ContainerRegistry/registries"
	typeToken    = typeRegistry + "/tokens"
	group        = ref.ID("/subscriptions/s/resourceGroups/g/providers/Microsoft.ContainerRegistry/registries")
	shop         = group + "/Shop"
)

func change(t *testing.T, s *Store, r Resource, ifMatch string) (Resource, error) {
	t.Helper()
	var got Resource
	err := s.db.Write(t.Context(), func(tx *db.Tx) (err error) {
		got, err = s.Put(t.Context(), tx, r, ifMatch)
		return err
	})
	return got, err
}

func must(t *testing.T, s *Store, id ref.ID, typ, properties string) Resource {
	t.Helper()
	r, err := change(t, s, Resource{ID: id, Type: typ, Properties: json.RawMessage(properties)}, Any)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func deleted(t *testing.T, s *Store, id ref.ID, ifMatch string) error {
	t.Helper()
	return s.db.Write(t.Context(), func(tx *db.Tx) error { return s.Delete(t.Context(), tx, id, ifMatch) })
}

func TestADocumentKeepsWhoItIsAndChangesItsEtag(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		if _, err := s.Get(t.Context(), shop); fault.Of(err) != fault.NotFound {
			t.Fatalf("an absent document: %v", err)
		}
		first, err := change(t, s, Resource{ID: shop, Type: typeRegistry, Location: "local", Tags: map[string]string{"team": "a"},
			Properties: json.RawMessage(`{"adminUserEnabled":false}`), System: SystemData{LastModifiedBy: "ann", LastModifiedByType: "User"}}, Absent)
		if err != nil {
			t.Fatal(err)
		}
		second, err := change(t, s, Resource{ID: ref.ID(strings.ToUpper(string(shop))), Type: typeRegistry,
			Properties: json.RawMessage(`{}`), System: SystemData{UID: "forged", CreatedBy: "forged", LastModifiedBy: "bob"}}, first.Etag)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), ref.ID(shop.Key()))
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != shop || got.Etag != second.Etag || got.Etag == first.Etag || string(got.Properties) != `{}` || got.Location != "" {
			t.Errorf("%+v", got)
		}
		if y := got.System; y.UID != first.System.UID || y.CreatedBy != "ann" || y.CreatedByType != "User" || y.LastModifiedBy != "bob" ||
			!y.CreatedAt.Equal(first.System.CreatedAt) || y.LastModifiedAt.Before(y.CreatedAt) {
			t.Errorf("%+v", y)
		}
		if err := deleted(t, s, shop, Any); err != nil {
			t.Fatal(err)
		}
		if again := must(t, s, shop, typeRegistry, `{}`); again.System.UID == first.System.UID || len(again.System.UID) < 26 {
			t.Error("a document that was made again has the same UID")
		}
	})
}

func TestAChangeHappensOnlyToWhatItExpects(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		ok, stale := fault.Code(-1), fault.Stale
		check := func(what string, err error, want fault.Code) {
			t.Helper()
			if want == ok && err != nil || want != ok && fault.Of(err) != want {
				t.Errorf("%s: %v", what, err)
			}
		}
		r := Resource{ID: shop, Type: typeRegistry}
		for _, c := range []struct {
			ifMatch string
			want    fault.Code
		}{{Exists, stale}, {"etag", stale}, {Absent, ok}, {Absent, stale}, {"etag", stale}, {Exists, ok}, {Any, ok}} {
			_, err := change(t, s, r, c.ifMatch)
			check("put "+c.ifMatch, err, c.want)
		}
		now, err := s.Get(t.Context(), shop)
		check("get", err, ok)
		check("delete another version", deleted(t, s, shop, "etag"), stale)
		check("delete this version", deleted(t, s, shop, now.Etag), ok)
		check("delete nothing", deleted(t, s, shop, Any), fault.NotFound)
		check("delete some version of nothing", deleted(t, s, shop, Exists), fault.NotFound)
	})
}

func TestOfManyChangesOfOneVersionOneWins(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		was := must(t, s, shop, typeRegistry, `{}`)
		var won atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := change(t, s, Resource{ID: shop, Type: typeRegistry}, was.Etag)
				switch {
				case err == nil:
					won.Add(1)
				case fault.Of(err) != fault.Stale:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d changes of one version", won.Load())
		}
	})
}

func TestListAndDeleteFollowTheTreeOfIDs(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		for _, name := range []string{"Shop", "shop2", "shop-3", "a"} {
			must(t, s, group+ref.ID("/"+name), typeRegistry, `{}`)
		}
		for i := range 5 {
			must(t, s, shop.Child("tokens", fmt.Sprintf("T%d", i)), typeToken, `{}`)
		}
		must(t, s, shop.Child("scopeMaps", "m"), typeRegistry+"/scopeMaps", `{}`)
		must(t, s, (group+"/shop2").Child("tokens", "other"), typeToken, `{}`)
		list := func(under ref.ID, typ string, after ref.ID, limit int) string {
			t.Helper()
			all, err := s.List(t.Context(), under, typ, after, limit)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, r := range all {
				if r.Etag == "" {
					t.Errorf("%s has no etag", r.ID)
				}
				names = append(names, r.ID.Name())
			}
			return strings.Join(names, " ")
		}
		for _, c := range []struct {
			under, after ref.ID
			typ          string
			limit        int
			want         string
		}{
			{shop, "", typeToken, 0, "T0 T1 T2 T3 T4"},
			{ref.ID(strings.ToUpper(string(shop))), "", strings.ToUpper(typeToken), 2, "T0 T1"},
			{shop, shop.Child("Tokens", "t1"), typeToken, 2, "T2 T3"},
			{shop, shop.Child("Tokens", "t4"), typeToken, 2, ""},
			{shop, "", "", 0, "m T0 T1 T2 T3 T4"},
			{"/", "", typeRegistry, 0, "a Shop shop-3 shop2"},
			{"", "", typeToken, 0, "T0 T1 T2 T3 T4 other"},
			{group, "", typeRegistry, 0, "a Shop shop-3 shop2"},
			{group + "/shop-3", "", "", 0, ""},
		} {
			if got := list(c.under, c.typ, c.after, c.limit); got != c.want {
				t.Errorf("under %s of %s after %s: %q, not %q", c.under, c.typ, c.after, got, c.want)
			}
		}
		if err := deleted(t, s, shop, Any); err != nil {
			t.Fatal(err)
		}
		if got := list("", "", "", 0); got != "a shop-3 shop2 other" {
			t.Errorf("after the delete of Shop: %q", got)
		}
	})
}

func TestTheGenerationGrowsWithCommitsOnly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		grown := func(what string, want bool, do func()) {
			t.Helper()
			before, err := s.Generation(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			do()
			if after, err := s.Generation(t.Context()); err != nil || after > before != want || after < before {
				t.Errorf("%s: from %d to %d (%v)", what, before, after, err)
			}
		}
		grown("a put", true, func() { must(t, s, shop, typeRegistry, `{}`) })
		grown("a put that is refused", false, func() { change(t, s, Resource{ID: shop}, Absent) })
		grown("a put that is undone", false, func() {
			d.Write(t.Context(), func(tx *db.Tx) error {
				if _, err := s.Put(t.Context(), tx, Resource{ID: shop, Type: typeRegistry}, Any); err != nil {
					t.Error(err)
				}
				return errors.New("undone")
			})
		})
		grown("a delete", true, func() {
			if err := deleted(t, s, shop, Any); err != nil {
				t.Error(err)
			}
		})
	})
}

// TestAChangeCountsFromTheNextRequest reads through a cache on two nodes while
// a third party changes the document: nobody reads an older version than the
// one whose change was answered before the question.
func TestAChangeCountsFromTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		nodes := []*Store{New(d), New(d)}
		if d.Engine() == db.SQLite {
			nodes = nodes[:1] // one process
		}
		must(t, nodes[0], shop, typeRegistry, `0`)
		var answered, loads atomic.Int64
		done := make(chan struct{})
		var wg sync.WaitGroup
		for _, s := range nodes {
			var c Cache[ref.ID, string]
			for range 3 {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						atLeast := answered.Load()
						v, err := c.Get(t.Context(), s, shop, func(ctx context.Context) (string, error) {
							loads.Add(1)
							r, err := s.Get(ctx, shop)
							return string(r.Properties), err
						})
						var n int64
						if _, scan := fmt.Sscan(v, &n); err != nil || scan != nil || n < atLeast {
							t.Errorf("%q after %d was answered (%v)", v, atLeast, err)
							return
						}
					}
				})
			}
		}
		for i := range int64(150) {
			must(t, nodes[0], shop, typeRegistry, fmt.Sprint(i+1))
			answered.Store(i + 1)
		}
		close(done)
		wg.Wait()
		if loads.Load() == 0 {
			t.Error("nothing was loaded")
		}
	})
}

func TestACacheLoadsOncePerGenerationAndKeepsNoError(t *testing.T) {
	d := dbtest.SQLite(t)
	s := New(d)
	var c Cache[string, int]
	loads := 0
	get := func(key string, fail error) (int, error) {
		return c.Get(t.Context(), s, key, func(context.Context) (int, error) { loads++; return loads, fail })
	}
	broken := errors.New("broken")
	if _, err := get("a", broken); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for _, want := range []int{2, 2, 2} {
		if n, err := get("a", nil); n != want || err != nil {
			t.Fatal(n, err)
		}
	}
	must(t, s, shop, typeRegistry, `{}`)
	if n, _ := get("a", nil); n != 3 {
		t.Fatal("a change did not empty the cache")
	}
	for i := range 2 * cacheMax {
		get(fmt.Sprint(i), nil)
	}
	if len(c.kept) > cacheMax {
		t.Fatalf("%d values are kept", len(c.kept))
	}
}

func BenchmarkCachedGet(b *testing.B) {
	s := New(dbtest.SQLite(b))
	var c Cache[ref.ID, int]
	for b.Loop() {
		c.Get(b.Context(), s, shop, func(context.Context) (int, error) { return 1, nil })
	}
}

// What no database can keep is not there: it is no failure of the one that says so.
func TestNoDocumentIsCalledWhatCannotBeKept(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		must(t, s, shop, typeRegistry, `{}`)
		for _, odd := range []string{"\x00", "\xff", "\xed\xa0\x80"} {
			if _, err := s.Get(t.Context(), shop+ref.ID(odd)); fault.Of(err) != fault.NotFound {
				t.Errorf("Get with %q: %v", odd, err)
			}
			for _, q := range []Query{{After: ref.ID(odd)}, {Holders: []string{odd}}, {Under: []ref.ID{ref.ID(odd)}}} {
				if found, err := s.Find(t.Context(), q); err != nil || len(found) > 0 {
					t.Errorf("%+v: %d documents, %v", q, len(found), err)
				}
				if n, err := s.Count(t.Context(), q); err != nil || n > 0 {
					t.Errorf("%+v: %d documents, %v", q, n, err)
				}
			}
			if found, err := s.Find(t.Context(), Query{Under: []ref.ID{ref.ID(odd), group}}); err != nil || len(found) != 1 {
				t.Errorf("%q beside another: %d documents, %v", odd, len(found), err)
			}
		}
	})
}

func TestWhatIsNotKeptTakesNothingFromAPage(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		s := New(d)
		for i := range 7 {
			must(t, s, group+ref.ID(fmt.Sprintf("/r%d", i)), typeRegistry, fmt.Sprintf(`{"odd":%d}`, i%2))
		}
		odd := func(doc Resource) bool { return string(doc.Properties) == `{"odd":1}` }
		for _, test := range []struct {
			q    Query
			want string
		}{
			{Query{}, "r1 r3 r5"},
			{Query{Limit: 1}, "r1"},
			{Query{Limit: 2}, "r1 r3"},
			{Query{Limit: 2, After: group + "/r3"}, "r5"},
			{Query{Limit: 3}, "r1 r3 r5"},
			{Query{Limit: 100}, "r1 r3 r5"},
			{Query{Limit: 2, After: group + "/r5"}, ""},
		} {
			found, err := s.Select(t.Context(), test.q, odd)
			names := []string{}
			for _, doc := range found {
				names = append(names, doc.ID.Name())
			}
			if got := strings.Join(names, " "); err != nil || got != test.want {
				t.Errorf("%+v: %s, want %s, %v", test.q, got, test.want, err)
			}
		}
	})
}
