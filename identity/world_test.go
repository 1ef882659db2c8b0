package identity

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is this package on a real database.
type world struct {
	t testing.TB
	*Store
	d    *db.DB
	docs *resource.Store
}

var (
	shop = Realm{UID: "registry-1", Name: "shop", Service: "localhost:8443", AdminUserEnabled: true,
		ID: "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/trade/providers/Microsoft.ContainerRegistry/registries/shop"}
	here = network.Origin{Addr: netip.MustParseAddr("203.0.113.9")}
	by   = resource.SystemData{LastModifiedBy: "tester", LastModifiedByType: "user"}
)

func open(t testing.TB, d *db.DB) *world {
	t.Helper()
	l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	platform, err := keys.OpenPlatform(filepath.Join(t.TempDir(), "platform.key"))
	if err != nil {
		t.Fatal(err)
	}
	docs := resource.New(d)
	s, err := New(Options{DB: d, Documents: docs, Ledger: l, Vault: platform, Check: platform.Derive("token-check"),
		Egress: network.NewEgress(network.EgressOptions{})})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t, s, d, docs}
}

func (w *world) write(fn func(tx *db.Tx) error) {
	w.t.Helper()
	if err := w.d.Write(w.t.Context(), fn); err != nil {
		w.t.Fatal(err)
	}
}

// put writes an account's document.
func (w *world) put(id ref.ID, typ, status string) {
	w.t.Helper()
	properties, _ := json.Marshal(TokenProperties{ScopeMapID: shop.ID.Child("scopeMaps", "m"), Status: status})
	w.write(func(tx *db.Tx) error {
		_, err := w.docs.Put(w.t.Context(), tx, resource.Resource{ID: id, Type: typ, Properties: properties, System: by}, resource.Any)
		return err
	})
}

func (w *world) delete(id ref.ID) {
	w.t.Helper()
	w.write(func(tx *db.Tx) error { return w.docs.Delete(w.t.Context(), tx, id, resource.Any) })
}

// account makes an account and its first password.
func (w *world) make(h Holder) Credentials {
	w.t.Helper()
	switch h.kind {
	case Token:
		w.put(h.id, TokenType, EnabledStatus)
	case User:
		w.put(h.id, UserType, EnabledStatus)
	}
	return w.password(h, PasswordNames[0], time.Time{})
}

func (w *world) password(h Holder, name string, expiry time.Time) Credentials {
	w.t.Helper()
	p, err := w.NewPassword(w.t.Context(), h, name, expiry)
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(func(tx *db.Tx) error { return w.PutPasswords(w.t.Context(), tx, h, by, p) })
	return Credentials{Method: Basic, Name: h.id.Name(), Secret: p.Value}
}

func (w *world) known(r Realm, c Credentials) Principal {
	w.t.Helper()
	p, err := w.Authenticate(w.t.Context(), r, ContentPlane, c, here)
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
	return p
}

func (w *world) unknown(r Realm, c Credentials, why string) {
	w.t.Helper()
	p, err := w.Authenticate(w.t.Context(), r, ContentPlane, c, here)
	if fault.Of(err) != fault.Unauthenticated || p.Kind != "" {
		w.t.Errorf("%s, and the answer was %+v, %v", why, p, err)
	}
}

func (w *world) access(r Realm, p Principal, access ...Access) Credentials {
	w.t.Helper()
	text, _, err := w.IssueAccess(w.t.Context(), r, p, access)
	if err != nil {
		w.t.Fatal(err)
	}
	return Credentials{Method: Bearer, Secret: Secret(text)}
}

func (w *world) refresh(r Realm, p Principal) Credentials {
	w.t.Helper()
	text, _, err := w.IssueRefresh(w.t.Context(), r, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return Credentials{Method: Basic, Name: RefreshUser, Secret: Secret(text)}
}
