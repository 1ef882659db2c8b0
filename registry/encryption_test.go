package registry_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/keys/device"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// A hsm is a device of a customer, whose versions and ends the test says. It hides
// nothing, so that what leaves for it can be seen.
type hsm struct {
	mu      sync.Mutex
	version string
	expires time.Time
	refuses bool
	ended   string // the version that is disabled
}

func (d *hsm) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

func (d *hsm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var q device.Ask
	if json.NewDecoder(r.Body).Decode(&q) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a := device.Answer{Version: q.Version}
	if a.Version == "" {
		a.Version = d.version
	}
	if d.refuses || d.ended != "" && q.Version == d.ended {
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(device.Answer{State: string(keys.Disabled)})
		return
	}
	switch r.URL.Path {
	case device.Describe:
		a.Algorithm, a.Bits, a.State, a.Expires = keys.AES, 256, string(keys.Enabled), d.expires
	case device.Wrap:
		a.Data = append([]byte(a.Version+"|"), q.Data...)
	case device.Unwrap:
		data, ok := strings.CutPrefix(string(q.Data), a.Version+"|")
		if !ok {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		a.Data = []byte(data)
	}
	_ = json.NewEncoder(w).Encode(a)
}

// customer gives the house a device, behind the provider hsm.
func customer(t *testing.T, h *house) *hsm {
	t.Helper()
	dir, err := os.MkdirTemp("", "hsm") // the path of a socket is short
	h.ok(err)
	l, err := net.Listen("unix", filepath.Join(dir, "hsm.sock"))
	h.ok(err)
	d := &hsm{version: "1"}
	s := &http.Server{Handler: d}
	go s.Serve(l)
	t.Cleanup(func() {
		s.Close()
		os.RemoveAll(dir)
	})
	h.rings.Entrust(&keys.Custody{Documents: h.docs, Ledger: h.ledger, Reach: keys.Reach{Directory: dir}, Who: identity.ThisServer().Who(),
		Times: keys.Times{Believed: 10 * time.Millisecond, Pause: 10 * time.Millisecond}})
	t.Cleanup(h.rings.Close)
	text, err := json.Marshal(keys.Settings{Kind: keys.KindPKCS11, Socket: "hsm.sock"})
	h.ok(err)
	h.ok(h.db.Write(t.Context(), func(tx *db.Tx) error {
		_, err := h.docs.Put(t.Context(), tx, resource.Resource{ID: keys.ProviderID("hsm"), Type: keys.ProviderType, Properties: text}, resource.Absent)
		return err
	}))
	return d
}

func (h *house) encrypt(g access.Grant, e registry.Encryption) (*registry.Registry, error) {
	return h.registries.Update(h.t.Context(), g, shopID, resource.Any, func(r *registry.Registry) error {
		r.Encryption = e
		return nil
	})
}

func enabled(identifier string) registry.Encryption {
	return registry.Encryption{Status: "enabled", Key: &registry.CustomerKey{Identifier: identifier}}
}

// count is how many events there are of an operation in the ledger of the shop.
func (h *house) count(operation string) (n int) {
	h.t.Helper()
	for e, err := range h.ledger.Events(h.t.Context(), ledger.Query{Registry: h.at("shop1.example.com").UID}) {
		h.ok(err)
		if strings.HasSuffix(e.Operation, operation) {
			n++
		}
	}
	return n
}

func TestKeysAreTended(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		device := customer(t, h)
		ctx := t.Context()
		tend := func() registry.Encryption {
			t.Helper()
			h.ok(h.registries.TendKeys(ctx))
			return h.at("shop1.example.com").Encryption
		}
		r, err := h.encrypt(h.server, enabled("https://hsm/keys/root"))
		h.ok(err)
		if k := r.Encryption.Key; k.Versioned != "https://hsm/keys/root/1" || !k.Rotates || k.Rotated.IsZero() {
			t.Errorf("encryption %+v", k)
		}
		tend()
		device.set(func() { device.version = "2" })
		if k := tend().Key; k.Versioned != "https://hsm/keys/root/2" || h.count("providers/rotate") != 1 {
			t.Errorf("a new version was not taken: %+v", k)
		}
		r, err = h.encrypt(h.server, enabled("https://hsm/keys/root/2"))
		h.ok(err)
		device.set(func() { device.version = "3" })
		if k := tend().Key; k.Versioned != "https://hsm/keys/root/2" || k.Rotates {
			t.Errorf("a version that was said did not stay: %+v", k)
		}

		device.set(func() { device.expires = time.Now().Add(20 * 24 * time.Hour) })
		tend()
		tend()
		if n := h.count("providers/expires"); n != 1 {
			t.Errorf("told %d times that the key ends in 20 days", n)
		}
		device.set(func() { device.expires = time.Now().Add(3 * 24 * time.Hour) })
		tend()
		if n := h.count("providers/expires"); n != 2 {
			t.Errorf("told %d times when it ends in 3 days", n)
		}
		device.set(func() { device.expires = time.Time{} })

		e := r.Encryption
		e.DataKeys.RotationDays = 30
		_, err = h.encrypt(h.server, e)
		h.ok(err)
		if v := tend().DataKeys.Version; v > 1 {
			t.Errorf("a data key was made too early: %d", v)
		}
		h.ok(d.Write(ctx, func(tx *db.Tx) error { // a month later
			doc, err := h.docs.GetTx(ctx, tx, shopID)
			if err != nil {
				return err
			}
			var p map[string]any
			if err := json.Unmarshal(doc.Properties, &p); err != nil {
				return err
			}
			p["encryption"].(map[string]any)["dataKeys"].(map[string]any)["created"] = time.Now().Add(-31 * 24 * time.Hour)
			doc.Properties, _ = json.Marshal(p)
			doc.Holder = "shop1"
			_, err = h.docs.Put(ctx, tx, doc, resource.Any)
			return err
		}))
		if v := tend().DataKeys; v.Version != 2 || time.Since(v.Created) > time.Hour || v.RotationDays != 30 {
			t.Errorf("no data key was made: %+v", v)
		}
		if v := tend().DataKeys.Version; v != 2 {
			t.Errorf("one more was made: %d", v)
		}
		device.set(func() { device.refuses = true })
		tend() // and is not an error of the server's
	})
}

func TestOwnerChangesARegistryWhoseKeyIsRefused(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	device := customer(t, h)
	r, err := h.encrypt(h.server, enabled("https://hsm/keys/root"))
	h.ok(err)
	device.set(func() { device.version, device.ended = "2", "1" })
	for end := time.Now().Add(time.Minute); fault.Of(h.registries.Usable(t.Context(), r.UID)) != fault.KeyRefused; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never refused")
		}
	}
	r, err = h.registries.Update(t.Context(), h.server, shopID, resource.Any, func(r *registry.Registry) error { r.AdminUserEnabled = true; return nil })
	h.ok(err)
	if !r.AdminUserEnabled || r.Encryption.Key.Versioned != "https://hsm/keys/root/1" {
		t.Errorf("%+v, %+v", r.Properties, r.Encryption.Key)
	}
	device.set(func() { device.ended = "" })
	for end := time.Now().Add(time.Minute); h.registries.Usable(t.Context(), r.UID) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never open again")
		}
	}
	r, err = h.registries.Update(t.Context(), h.server, shopID, resource.Any, func(*registry.Registry) error { return nil })
	h.ok(err)
	if r.Encryption.Key.Versioned != "https://hsm/keys/root/2" {
		t.Errorf("the new version was not taken: %+v", r.Encryption.Key)
	}
}

func TestWhoMayChooseWhoseKey(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	device := customer(t, h)
	owner := func(scopes ...ref.Scope) access.Grant {
		var held []access.Assignment
		for _, s := range scopes {
			held = append(held, access.Assignment{Principal: "p", Role: access.OwnerRole, Scope: s})
		}
		return access.NewGrant(h.at("shop1.example.com").Ref(), identity.Principal{ID: "p", Kind: identity.User}, access.NewHeld(held...), access.Call{})
	}
	_, err := h.encrypt(owner(shopID.Scope()), enabled("https://hsm/keys/root"))
	if fault.Of(err) != fault.Denied {
		t.Errorf("another's key: %v", err)
	}
	both := owner(shopID.Scope(), keys.ProviderID("hsm").Scope())
	for _, c := range []struct {
		e    registry.Encryption
		want fault.Code
	}{
		{registry.Encryption{Status: "enabled"}, fault.BadRequest},
		{registry.Encryption{Key: &registry.CustomerKey{Identifier: "https://hsm/keys/root"}}, fault.BadRequest},
		{enabled("http://hsm/keys/root"), fault.BadRequest},
		{enabled("https://hsm/keys/root?x"), fault.BadRequest},
		{enabled("https://hsm/keys/.."), fault.BadRequest},
		{enabled("https://hsm/secrets/root"), fault.BadRequest},
		{enabled("https://nobody/keys/root"), fault.BadRequest},
		{registry.Encryption{Status: "enabled", Key: &registry.CustomerKey{Identifier: "https://hsm/keys/root", Identity: "system"}}, fault.BadRequest},
		{registry.Encryption{DataKeys: registry.DataKeys{RotationDays: -1}}, fault.BadRequest},
	} {
		if _, err := h.encrypt(both, c.e); fault.Of(err) != c.want {
			t.Errorf("%+v: %v", c.e, err)
		}
	}
	device.set(func() { device.refuses = true })
	if _, err := h.encrypt(both, enabled("https://hsm/keys/root")); fault.Of(err) != fault.KeyRefused {
		t.Errorf("a key that is refused: %v", err)
	}
	device.set(func() { device.refuses = false })
	h.ok(func() error { _, err := h.encrypt(both, enabled("https://hsm/keys/root")); return err }())
	// Once chosen, who only has the registry may go on changing it, and give the key up.
	only := owner(shopID.Scope())
	if _, err := h.registries.Update(t.Context(), only, shopID, resource.Any, func(r *registry.Registry) error { r.AdminUserEnabled = true; return nil }); err != nil {
		t.Error(err)
	}
	other := enabled("https://hsm/keys/root")
	other.Key.Identity = "system"
	if _, err := h.encrypt(only, other); fault.Of(err) != fault.BadRequest {
		t.Errorf("an identity that the registry does not have: %v", err)
	}
	if _, err := h.encrypt(only, registry.Encryption{}); err != nil {
		t.Error(err)
	}
	if err := h.registries.Usable(t.Context(), h.at("shop1.example.com").UID); err != nil {
		t.Error(err)
	}
}

// A transaction that meets another one runs again, whichever of its questions that was,
// and makes what it would have made.
func TestACreationThatRunsAgainMakesTheSameRegistry(t *testing.T) {
	h := build(t, dbtest.Postgres(t))
	customer(t, h)
	do := func(statement string) {
		t.Helper()
		h.ok(h.db.Write(t.Context(), func(tx *db.Tx) error { _, err := tx.Exec(t.Context(), statement); return err }))
	}
	do(`CREATE SEQUENCE asked`) // counts what is undone, too
	do(`CREATE SEQUENCE meets START 1000000`)
	do(`CREATE FUNCTION meet() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
		IF current_setting('transaction_read_only') = 'on' THEN RETURN true; END IF;
		IF nextval('asked') = (SELECT last_value FROM meets) THEN RAISE EXCEPTION 'another' USING ERRCODE = '40001'; END IF; RETURN true; END $$`)
	do(`ALTER TABLE resource RENAME TO kept`)
	do(`CREATE VIEW resource AS SELECT * FROM kept WHERE (SELECT meet())`)
	again := 0
	for at := range 16 {
		name := fmt.Sprintf("again%d", at)
		do(fmt.Sprintf(`SELECT setval('meets', (SELECT last_value FROM asked) + %d)`, at+1))
		id := group.Extension(registry.Type, name)
		made, err := h.registries.Create(t.Context(), h.server, id, "local", map[string]string{"team": "a"}, registry.Properties{Encryption: enabled("https://hsm/keys/root")})
		var met bool
		h.ok(h.db.QueryRow(t.Context(), `SELECT (SELECT last_value FROM asked) >= (SELECT last_value FROM meets)`).Scan(&met))
		do(`SELECT setval('meets', 1000000)`)
		h.ok(err)
		if met {
			again++
		}
		is := h.at(name + ".example.com")
		if made.ID != id || is.ID != id || is.UID != made.UID || is.Tags["team"] != "a" || is.Location != "local" || is.Encryption.Key == nil {
			t.Errorf("%d: %+v", at, is)
		}
		h.ok(h.registries.Usable(t.Context(), is.UID)) // what a customer's key wraps is bound to the UID
	}
	if again < 4 {
		t.Errorf("%d creations ran again", again)
	}
}
