package setting_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/setting"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	group = ref.ID("/subscriptions/s/resourceGroups/g")
	shop  = group + "/providers/Microsoft.ContainerRegistry/registries/shop"
	hook  = "Microsoft.ContainerRegistry/registries/webhooks"
)

type colour struct {
	Colour string `json:"colour"`
	Secret string `json:"secret,omitempty"`
}

var hooks = &setting.Kind[colour]{
	Type: hook, Called: "webhook", Most: 2,
	Name: func(name string) error {
		if len(name) > 5 {
			return fault.New(fault.BadRequest, "too long")
		}
		return nil
	},
	Check: func(_ context.Context, _ *db.Tx, _ access.Grant, c *setting.Change[colour]) error {
		if c.Next != nil && c.Next.P.Colour == "" {
			return fault.New(fault.BadRequest, "a colour is needed")
		}
		if c.Next == nil && c.Was.P.Colour == "eternal" {
			return fault.New(fault.Conflict, "it stays")
		}
		return nil
	},
}

var locks = &setting.Kind[colour]{Type: "Microsoft.Authorization/locks", Called: "lock", Place: setting.Anywhere}

type house struct {
	*setting.Store
	t     *testing.T
	owner access.Grant
}

func build(t *testing.T, d *db.DB) *house {
	l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &house{&setting.Store{DB: d, Documents: resource.New(d), Ledger: l}, t, access.ServerGrant(access.Registry{}, access.Call{})}
	err = d.Write(t.Context(), func(tx *db.Tx) error {
		for id, typ := range map[ref.ID]string{"/subscriptions/s": "Microsoft.Resources/subscriptions", group: "Microsoft.Resources/resourceGroups", shop: "Microsoft.ContainerRegistry/registries"} {
			if _, err := h.Documents.Put(t.Context(), tx, resource.Resource{ID: id, Type: typ}, resource.Absent); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) put(k *setting.Kind[colour], g access.Grant, id ref.ID, p colour, ifMatch string) (setting.Setting[colour], error) {
	return k.Put(h.t.Context(), h.Store, g, setting.Setting[colour]{Resource: resource.Resource{ID: id}, P: p}, ifMatch)
}

func (h *house) fails(err error, code fault.Code) {
	h.t.Helper()
	if err == nil || fault.Of(err) != code {
		h.t.Errorf("%v, want %s", err, code)
	}
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) events() (all []ledger.Event) {
	for e, err := range h.Ledger.Events(h.t.Context(), ledger.Query{}) {
		h.ok(err)
		all = append(all, e)
	}
	return all
}

func TestASettingIsStoredWithItsEventAndGoesWithWhatItLiesOn(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx, id := t.Context(), shop.Child("webhooks", "Hook")
		made, err := h.put(hooks, h.owner, id, colour{"red", "hunter2"}, resource.Absent)
		h.ok(err)
		_, err = h.put(hooks, h.owner, id, colour{"red", ""}, resource.Absent)
		h.fails(err, fault.Conflict)
		_, err = h.put(hooks, h.owner, id, colour{"red", ""}, "stale")
		h.fails(err, fault.Stale)
		again, err := h.put(hooks, h.owner, ref.ID(strings.ToUpper(string(id))), colour{"blue", "hunter3"}, made.Etag)
		h.ok(err)
		if again.ID != id || again.System.UID != made.System.UID || again.P.Colour != "blue" || again.Etag == made.Etag {
			t.Errorf("%+v", again)
		}
		got, err := hooks.Get(ctx, h.Store, h.owner, id)
		h.ok(err)
		if got.P != (colour{"blue", "hunter3"}) {
			t.Errorf("%+v", got)
		}
		events := h.events()
		if len(events) != 2 || events[0].Operation != hook+"/write" || events[1].Scope != id.Scope() || events[1].Detail.More["changed"] != "colour secret" {
			t.Errorf("%+v", events)
		}
		for _, e := range events {
			for name, value := range e.Detail.More {
				if strings.Contains(value, "hunter") {
					t.Errorf("%s: %s", name, value)
				}
			}
		}
		h.ok(d.Write(ctx, func(tx *db.Tx) error { return h.Documents.Delete(ctx, tx, shop, resource.Any) }))
		_, err = hooks.Get(ctx, h.Store, h.owner, id)
		h.fails(err, fault.NotFound)
		_, err = h.put(hooks, h.owner, id, colour{"red", ""}, resource.Any)
		h.fails(err, fault.ParentNotFound)
	})
}

func TestWhoMayNotLearnsNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx, id := t.Context(), shop.Child("webhooks", "hook")
		_, err := h.put(hooks, h.owner, id, colour{"red", ""}, resource.Absent)
		h.ok(err)
		// A reader of one registry, for the rest a stranger.
		p := identity.Principal{ID: ref.NewGUID(), Kind: identity.User}
		reader := access.NewGrant(access.Registry{}, p, access.NewHeld(access.Assignment{Principal: p.ID, Role: access.ReaderRole, Scope: shop.Scope()}), access.Call{})
		for _, g := range []access.Grant{{}, reader} {
			for _, id := range []ref.ID{id, shop.Child("webhooks", "other"), group + "/providers/Microsoft.ContainerRegistry/registries/none/webhooks/x", "/nothing", "bad id", id + "/providers/Microsoft.Authorization/locks/x"} {
				_, err = h.put(hooks, g, id, colour{"red", ""}, resource.Any)
				h.fails(err, fault.Denied)
				_, err = hooks.Delete(ctx, h.Store, g, id, resource.Any)
				h.fails(err, fault.Denied)
			}
		}
		_, err = hooks.Get(ctx, h.Store, access.Grant{}, id)
		h.fails(err, fault.Denied)
		_, err = hooks.List(ctx, h.Store, access.Grant{}, setting.Query{Under: shop})
		h.fails(err, fault.Denied)
		_, err = hooks.Get(ctx, h.Store, reader, id)
		h.ok(err)
		_, err = hooks.List(ctx, h.Store, reader, setting.Query{Under: group})
		h.fails(err, fault.Denied)
		if n := len(h.events()); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}

func TestWhatIsNotCertainIsRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		_, err := h.put(hooks, h.owner, shop.Child("webhooks", "h"), colour{}, resource.Any)
		h.fails(err, fault.BadRequest)
		_, err = h.put(hooks, h.owner, shop.Child("webhooks", "toolong"), colour{"red", ""}, resource.Any)
		h.fails(err, fault.BadRequest)
		for _, id := range []ref.ID{shop.Child("tokens", "h"), group.Child("webhooks", "h"), shop, shop.Extension(hook, "h"), "/providers/Microsoft.Authorization/locks/l", shop.Child("webhooks", "a").Child("b", "c")} {
			_, err = h.put(hooks, h.owner, id, colour{"red", ""}, resource.Any)
			h.fails(err, fault.NotFound)
		}
		for _, name := range []string{"a", "b"} {
			_, err = h.put(hooks, h.owner, shop.Child("webhooks", name), colour{"eternal", ""}, resource.Any)
			h.ok(err)
		}
		_, err = h.put(hooks, h.owner, shop.Child("webhooks", "c"), colour{"red", ""}, resource.Any)
		h.fails(err, fault.Conflict)
		_, err = h.put(hooks, h.owner, shop.Child("webhooks", "b"), colour{"eternal", "x"}, resource.Any)
		h.ok(err)
		_, err = hooks.Delete(ctx, h.Store, h.owner, shop.Child("webhooks", "b"), resource.Any)
		h.fails(err, fault.Conflict)
		_, err = hooks.Delete(ctx, h.Store, h.owner, shop.Child("webhooks", "c"), resource.Any)
		h.fails(err, fault.NotFound)
	})
}

func TestListsReachUpAndDown(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		on := map[ref.ID]string{"/subscriptions/s": "sub", group: "group", shop: "shop"}
		for at, name := range on {
			_, err := h.put(locks, h.owner, at.Extension(locks.Type, name), colour{"red", ""}, resource.Any)
			h.ok(err)
		}
		for _, test := range []struct {
			q    setting.Query
			want string
		}{
			{setting.Query{Under: group}, "group shop"},
			{setting.Query{Under: group, Exactly: true}, "group"},
			{setting.Query{Under: group, Above: true}, "sub group shop"},
			{setting.Query{Under: group, Above: true, Exactly: true}, "sub group"},
			{setting.Query{Under: shop, Above: true}, "sub group shop"},
			{setting.Query{Under: shop}, "shop"},
			{setting.Query{}, "sub group shop"},
			{setting.Query{Under: group, Limit: 1}, "group"},
			{setting.Query{Under: group, After: group.Extension(locks.Type, "group")}, "shop"},
		} {
			all, err := locks.List(t.Context(), h.Store, h.owner, test.q)
			h.ok(err)
			var names []string
			for _, l := range all {
				names = append(names, l.ID.Name())
			}
			if got := strings.Join(names, " "); got != test.want {
				t.Errorf("%+v: %s, want %s", test.q, got, test.want)
			}
		}
	})
}

func TestAnIDSaysWhatItLiesOn(t *testing.T) {
	for id, want := range map[ref.ID][2]string{
		shop:                               {string(group), "Microsoft.ContainerRegistry/registries"},
		shop.Child("webhooks", "w"):        {string(shop), hook},
		shop.Extension("A/b", "c"):         {string(shop), "A/b"},
		group:                              {"/subscriptions/s", "Microsoft.Resources/resourceGroups"},
		"/subscriptions/s":                 {"", "Microsoft.Resources/subscriptions"},
		"/providers/A/b/c":                 {"", "A/b"},
		"/providers/A/b/c/d/e":             {"/providers/A/b/c", "A/b/d"},
		"/providers/A/b/c/providers/D/e/f": {"/providers/A/b/c", "D/e"},
		"/subscriptions/s/resourceGroups/providers/providers/A/b/providers/c/providers": {"/subscriptions/s/resourceGroups/providers/providers/A/b/providers", "A/b/c"},
		"/Providers/A/b/c/PROVIDERS/D/e/f":                                              {"/Providers/A/b/c", "D/e"}, // as it was spelled
		"/a":                                                                            {"", ""},
		"/providers/A/b":                                                                {"", ""},
		"/providers/A":                                                                  {"", "Microsoft.Resources/providers"},
		group + "/x":                                                                    {"", ""},
	} {
		if on, typ := setting.At(id); string(on) != want[0] || typ != want[1] {
			t.Errorf("%s lies on %q and is a %q", id, on, typ)
		}
	}
}

func FuzzAt(f *testing.F) {
	f.Add(string(shop.Child("webhooks", "w")))
	f.Add("/providers/A/b/c/providers/D/e/f")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ref.ParseID(s)
		if err != nil {
			return
		}
		if on, typ := setting.At(id); !strings.HasPrefix(s, string(on)) || on == id || on != "" && typ == "" {
			t.Errorf("%q lies on %q and is a %q", s, on, typ)
		}
	})
}

// However many come at once, there are not more than there may be.
func TestALimitHoldsAgainstManyAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		var wg sync.WaitGroup
		for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
			wg.Go(func() {
				if _, err := h.put(hooks, h.owner, shop.Child("webhooks", name), colour{"red", ""}, resource.Absent); err != nil && fault.Of(err) != fault.Conflict {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all, err := hooks.List(t.Context(), h.Store, h.owner, setting.Query{Under: shop})
		h.ok(err)
		if len(all) != hooks.Most {
			t.Errorf("%d of %d", len(all), hooks.Most)
		}
	})
}

// What else is done with a setting needs its own right, and is on record.
func TestWhatElseIsDoneIsOnRecord(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx, id := t.Context(), shop.Child("webhooks", "a")
		h.fails(hooks.Do(ctx, h.Store, h.owner, id, "paint/action", nil), fault.NotFound)
		made, err := h.put(hooks, h.owner, id, colour{"red", "s"}, resource.Absent)
		h.ok(err)
		h.fails(hooks.Do(ctx, h.Store, access.Grant{}, id, "paint/action", nil), fault.Denied)
		h.ok(hooks.Do(ctx, h.Store, h.owner, id, "look/action", nil))
		h.ok(hooks.Do(ctx, h.Store, h.owner, id, "paint/action", func(c *colour) error { c.Colour = "blue"; return nil }))
		got, err := hooks.Get(ctx, h.Store, h.owner, id)
		h.ok(err)
		if got.P != (colour{"blue", "s"}) || got.System.UID != made.System.UID {
			t.Errorf("%+v", got)
		}
		events := h.events()
		if len(events) != 3 || events[2].Operation != hook+"/paint/action" {
			t.Errorf("%+v", events)
		}
	})
}
