// Package gatetest opens a whole server without its dialects, on real disks and
// a real database, for the tests of whatever stands at the door.
package gatetest

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/directory"
	"breakwater/gate"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/object"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// A House is every room below the dialects, with one registry and its owner.
type House struct {
	DB         *db.DB
	Platform   *keys.Platform
	Documents  *resource.Store
	Ledger     *ledger.Ledger
	Identity   *identity.Store
	Access     *access.Store
	Directory  *directory.Store
	Approvals  *approval.Store
	Registries *registry.Store
	Rings      *keys.Rings
	Objects    object.Store
	Registry   *registry.Registry
	Gate       *gate.Gate

	// Owner may do everything.
	OwnerName, OwnerPassword string
}

// Open makes a house on d. change may alter the door's options.
func Open(t testing.TB, d *db.DB, change func(*gate.Options)) *House {
	t.Helper()
	ctx, dir := context.Background(), t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h := &House{DB: d, Documents: resource.New(d), OwnerName: "owner"}
	var err error
	h.Platform, err = keys.OpenPlatform(filepath.Join(dir, "platform.key"))
	must(err)
	h.Objects, err = object.NewDisk(filepath.Join(dir, "objects"), nil)
	must(err)
	h.Ledger, err = ledger.Open(ctx, d, ledger.Options{Spool: dir, Key: h.Platform.Derive("ledger-spool"), Segment: 8 << 20})
	must(err)
	t.Cleanup(func() { _ = h.Ledger.Close() }) // a test may have closed it
	h.Rings = keys.NewRings(d, h.Platform)
	h.Identity, err = identity.New(identity.Options{
		DB: d, Documents: h.Documents, Ledger: h.Ledger, Vault: h.Platform, Check: h.Platform.Derive("token-check"),
		Egress:  network.NewEgress(network.EgressOptions{}),
		Tickets: h.Platform.Derive("data-tickets"),
	})
	must(err)
	h.Access = &access.Store{DB: d, Documents: h.Documents, Ledger: h.Ledger, Identity: h.Identity}
	h.Directory = &directory.Store{DB: d, Documents: h.Documents, Ledger: h.Ledger, Identity: h.Identity}
	h.Approvals = &approval.Store{DB: d, Documents: h.Documents, Ledger: h.Ledger, Access: h.Access}
	h.Registries = registry.New(registry.Options{
		DB: d, Documents: h.Documents, Ledger: h.Ledger, Rings: h.Rings, Identity: h.Identity, Access: h.Access,
		Receipts:  &receipt.Store{Documents: h.Documents, Ledger: h.Ledger, Identity: h.Identity},
		Approvals: h.Approvals, Default: "breakwater", Host: "localhost", Domain: "registries.test",
	})

	id := ref.Subscription("00000000-0000-0000-0000-000000000000") + "/resourceGroups/local"
	must(d.Write(ctx, func(tx *db.Tx) error {
		_, err := h.Documents.Put(ctx, tx, resource.Resource{ID: id.Parent(), Type: "Microsoft.Resources/subscriptions"}, resource.Absent)
		if err == nil {
			_, err = h.Documents.Put(ctx, tx, resource.Resource{ID: id, Type: "Microsoft.Resources/resourceGroups", Location: "local"}, resource.Absent)
		}
		return err
	}))
	h.Registry, err = h.Registries.Create(ctx, access.ServerGrant(access.Registry{}, access.Call{}),
		id.Extension(registry.Type, "breakwater"), "local", nil, registry.Properties{})
	must(err)
	password, user, err := h.Directory.CreateUser(ctx, h.Server(), h.OwnerName)
	must(err)
	h.OwnerPassword = string(password.Value)
	_, err = h.Access.Assign(ctx, h.Server(), ref.Everything, "00000000-0000-0000-0000-000000000001", access.AssignmentProperties{
		RoleDefinitionID: access.OwnerRole, PrincipalID: user.System.UID, PrincipalType: "User",
	})
	must(err)
	o := gate.Options{
		Documents: h.Documents, Registries: h.Registries, Identity: h.Identity, Access: h.Access, Ledger: h.Ledger,
		Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if change != nil {
		change(&o)
	}
	h.Gate = gate.New(o)
	return h
}

// testLog shows what the door logs beside the test that caused it.
type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Helper()
	l.t.Logf("%s", p)
	return len(p), nil
}

// Server is a grant for what a test does behind the door.
func (h *House) Server() access.Grant {
	r := access.Registry{}
	if h.Registry != nil {
		r = h.Registry.Ref()
	}
	return access.ServerGrant(r, access.Call{})
}

// Update changes the settings of the registry.
func (h *House) Update(t testing.TB, change func(*registry.Registry)) {
	t.Helper()
	_, err := h.Registries.Update(context.Background(), h.Server(), h.Registry.ID, resource.Any, func(r *registry.Registry) error {
		change(r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Token makes a repository token with these actions of a scope map.
func (h *House) Token(t testing.TB, name string, actions ...string) (username, password string) {
	t.Helper()
	ctx := context.Background()
	m, err := h.Access.PutScopeMap(ctx, h.Server(), name, "", actions, resource.Any)
	if err == nil {
		_, err = h.Access.PutToken(ctx, h.Server(), name, m.ID, "", resource.Any)
	}
	if err != nil {
		t.Fatal(err)
	}
	passwords, err := h.Access.GenerateCredentials(ctx, h.Server(), name, time.Now().Add(time.Hour), identity.PasswordNames[0])
	if err != nil {
		t.Fatal(err)
	}
	return name, string(passwords[0].Value)
}

// Events is what the ledger has.
func (h *House) Events(t testing.TB) []ledger.Event {
	t.Helper()
	var all []ledger.Event
	for e, err := range h.Ledger.Events(context.Background(), ledger.Query{Registry: h.Registry.UID}) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// Serve listens with TLS, HTTP/1.1 or HTTP/2 as the client likes.
func Serve(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ReadHeaderTimeout = 10 * time.Second
	s.Config.MaxHeaderBytes = 64 << 10
	s.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(io.Discard, nil), slog.LevelDebug)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}
