package directory_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/identity/identitytest"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const group = ref.ID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/trade")

var (
	webID = group.Extension(identity.ManagedIdentityType, "web")
	here  = network.Origin{Addr: netip.MustParseAddr("203.0.113.9")}
	shop  = identity.Realm{UID: "registry-1", Name: "shop", Service: "localhost:8443", ID: group.Extension("Microsoft.ContainerRegistry/registries", "shop")}
)

// A house is this room on a real database, with the resource group "trade".
type house struct {
	t testing.TB
	*directory.Store
	server access.Grant
}

func build(t testing.TB, d *db.DB) *house {
	t.Helper()
	l, err := ledger.Open(t.Context(), d, ledger.Options{Spool: t.TempDir(), Key: bytes.Repeat([]byte{1}, 32)})
	ok(t, err)
	t.Cleanup(func() { ok(t, l.Close()) })
	platform, err := keys.OpenPlatform(filepath.Join(t.TempDir(), "platform.key"))
	ok(t, err)
	docs := resource.New(d)
	ids, err := identity.New(identity.Options{DB: d, Documents: docs, Ledger: l, Vault: platform, Check: platform.Derive("token-check"),
		Egress: network.NewEgress(network.EgressOptions{})})
	ok(t, err)
	ok(t, d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := docs.Put(t.Context(), tx, resource.Resource{ID: group, Type: "Microsoft.Resources/resourceGroups"}, resource.Any)
		return err
	}))
	return &house{t, &directory.Store{DB: d, Documents: docs, Ledger: l, Identity: ids}, access.ServerGrant(access.Registry{}, access.Call{})}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// proves is who shows a name and password at the registry; nobody if it is refused.
func (h *house) proves(name string, secret identity.Secret) identity.Principal {
	h.t.Helper()
	return h.shows(identity.ContentPlane, identity.Credentials{Method: identity.Basic, Name: name, Secret: secret})
}

func (h *house) shows(at identity.Plane, c identity.Credentials) identity.Principal {
	h.t.Helper()
	p, err := h.Identity.Authenticate(h.t.Context(), shop, at, c, here)
	if err != nil && fault.Of(err) != fault.Unauthenticated {
		h.t.Fatal(err)
	}
	return p
}

// events are the operations that the ledger has, from its beginning.
func (h *house) events() (all []string) {
	h.t.Helper()
	for e, err := range h.Ledger.Events(h.t.Context(), ledger.Query{}) {
		ok(h.t, err)
		if e.Operation == "Breakwater.Identity/signingKeys/write" {
			continue
		}
		all = append(all, e.Operation[strings.LastIndexByte(e.Operation[:strings.LastIndexByte(e.Operation, '/')], '/')+1:])
	}
	return all
}

func certificate(t testing.TB) []byte {
	t.Helper()
	k := identitytest.EC("client")
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	return must(x509.CreateCertificate(rand.Reader, template, template, k.Private.Public(), k.Private))
}

func TestUsersComeAndGo(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, ctx := build(t, d), t.Context()
		u, err := h.PutUser(ctx, h.server, "alice", identity.UserProperties{}, resource.Absent)
		if err != nil || u.Status != identity.EnabledStatus || !ref.IsGUID(u.PrincipalID) || len(u.Passwords) != 0 {
			t.Fatalf("%+v, %v", u, err)
		}
		first := must(h.ResetUser(ctx, h.server, "alice"))
		if p := h.proves("alice", first.Value); p.ID != u.PrincipalID {
			t.Errorf("she is %+v", p)
		}
		second := must(h.ResetUser(ctx, h.server, "alice"))
		if h.proves("alice", first.Value).Kind != "" || h.proves("alice", second.Value).ID != u.PrincipalID {
			t.Error("a reset leaves the old password, or makes no new one")
		}
		if u := must(h.User(ctx, h.server, "ALICE")); u.Name != "alice" || len(u.Passwords) != 1 || time.Since(u.Passwords[0].Used) > time.Minute {
			t.Errorf("she has %+v", u)
		}
		status := func(status string) {
			must(h.PutUser(ctx, h.server, "alice", identity.UserProperties{Status: status}, resource.Any))
		}
		status("disabled")
		if p := h.proves("alice", second.Value); p.Kind != "" {
			t.Errorf("she is disabled, and %+v", p)
		}
		status("enabled")
		if h.proves("alice", second.Value).ID != u.PrincipalID {
			t.Error("who is enabled again has its password still")
		}
		must(h.PutUser(ctx, h.server, "bob", identity.UserProperties{}, resource.Absent))
		if all := must(h.Users(ctx, h.server, "", 10)); len(all) != 2 || all[0].Name != "alice" || all[1].Name != "bob" {
			t.Errorf("there are %+v", all)
		}
		if all := must(h.Users(ctx, h.server, "alice", 10)); len(all) != 1 {
			t.Errorf("after her there are %+v", all)
		}
		ok(t, h.DeleteUser(ctx, h.server, "alice", resource.Any))
		again := must(h.PutUser(ctx, h.server, "alice", identity.UserProperties{}, resource.Absent))
		if again.PrincipalID == u.PrincipalID || h.proves("alice", second.Value).Kind != "" {
			t.Error("who was deleted has come back")
		}
		for name, err := range map[string]error{
			"twice":         last(h.PutUser(ctx, h.server, "alice", identity.UserProperties{}, resource.Absent)),
			"an odd name":   last(h.PutUser(ctx, h.server, "a/b", identity.UserProperties{}, resource.Any)),
			"an odd status": last(h.PutUser(ctx, h.server, "alice", identity.UserProperties{Status: "asleep"}, resource.Any)),
			"nobody":        h.DeleteUser(ctx, h.server, "nobody", resource.Any),
			"reset nobody":  last(h.ResetUser(ctx, h.server, "nobody")),
			"stale":         last(h.PutUser(ctx, h.server, "alice", identity.UserProperties{}, "etag")),
		} {
			want := map[string]fault.Code{"twice": fault.Conflict, "nobody": fault.NotFound, "reset nobody": fault.NotFound, "stale": fault.Stale}[name]
			if want == 0 {
				want = fault.BadRequest
			}
			if fault.Of(err) != want {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, want := fmt.Sprint(h.events()), "[users/write resetPassword/action resetPassword/action users/write users/write users/write users/delete users/write]"; got != want {
			t.Errorf("the ledger says %s", got)
		}
	})
}

func last[T any](_ T, err error) error { return err }

func TestNobodyLocksItselfOut(t *testing.T) {
	h, ctx := build(t, dbtest.SQLite(t)), t.Context()
	password := must(h.ResetUser(ctx, h.server, must(h.PutUser(ctx, h.server, "owner", identity.UserProperties{}, resource.Absent)).Name))
	p := h.proves("OWNER", password.Value)
	g := access.NewGrant(access.Registry{}, p, access.NewHeld(access.Assignment{Principal: p.ID, Role: access.OwnerRole, Scope: ref.Everything}), access.Call{})
	if err := h.DeleteUser(ctx, g, "Owner", resource.Any); fault.Of(err) != fault.Conflict {
		t.Errorf("it deleted itself: %v", err)
	}
	if _, err := h.PutUser(ctx, g, "Owner", identity.UserProperties{Status: "disabled"}, resource.Any); fault.Of(err) != fault.Conflict {
		t.Errorf("it disabled itself: %v", err)
	}
	if _, err := h.PutUser(ctx, g, "other", identity.UserProperties{Status: "disabled"}, resource.Any); err != nil {
		t.Error(err)
	}
}

func TestServicePrincipalsAndWhatProvesThem(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, ctx := build(t, d), t.Context()
		set := directory.ServicePrincipalSettings{DisplayName: "CI of the shop", RedirectURIs: []string{"https://app.example/cb", "http://localhost:7777/cb", "http://[::1]/"}}
		sp, err := h.PutServicePrincipal(ctx, h.server, "ci", set, resource.Absent)
		if err != nil || !ref.IsGUID(sp.AppID) || !ref.IsGUID(sp.PrincipalID) || sp.AppID == sp.PrincipalID || sp.Status != identity.EnabledStatus || len(sp.Secrets)+len(sp.Keys) != 0 {
			t.Fatalf("%+v, %v", sp, err)
		}
		secret := must(h.AddPassword(ctx, h.server, "ci", "first", time.Time{}, time.Time{}))
		other := must(h.AddPassword(ctx, h.server, "ci", "second", time.Time{}, time.Now().Add(time.Hour)))
		if p := h.proves(sp.AppID, secret.Text); p.ID != sp.PrincipalID || p.Client != sp.AppID {
			t.Errorf("it is %+v", p)
		}
		der := certificate(t)
		k, err := h.AddKey(ctx, h.server, "ci", "cert", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		ok(t, err)
		if _, err := h.AddKey(ctx, h.server, "ci", "cert", der); fault.Of(err) != fault.Conflict {
			t.Errorf("one certificate is there twice: %v", err)
		}
		set.DisplayName, set.RedirectURIs = "another", nil
		after := must(h.PutServicePrincipal(ctx, h.server, "ci", set, resource.Any))
		if after.AppID != sp.AppID || after.PrincipalID != sp.PrincipalID || len(after.Secrets) != 2 || len(after.Keys) != 1 || after.DisplayName != "another" || after.RedirectURIs != nil {
			t.Errorf("after a change it is %+v", after)
		}
		if s := after.Secrets; s[0].KeyID != secret.KeyID || s[0].Used.IsZero() || !s[1].Used.IsZero() || s[1].DisplayName != "second" {
			t.Errorf("its secrets are %+v", s)
		}

		all := must(h.Credentials(ctx, h.server, "", 10))
		var sorts []string
		for _, c := range all {
			sorts = append(sorts, c.Sort)
			if one := must(h.Credential(ctx, h.server, c.ID)); one != c || c.Account != sp.ID {
				t.Errorf("%+v is %+v", c, one)
			}
		}
		if slices.Sort(sorts); fmt.Sprint(sorts) != "[certificate secret secret]" || all[0].Created.After(all[2].Created) {
			t.Errorf("the credentials are %+v", all)
		}
		if rest := must(h.Credentials(ctx, h.server, all[0].ID, 1)); len(rest) != 1 || rest[0] != all[1] {
			t.Errorf("behind the first there is %+v", rest)
		}

		ok(t, h.RemovePassword(ctx, h.server, "ci", strings.ToUpper(secret.KeyID)))
		ok(t, h.RemoveKey(ctx, h.server, "ci", k.KeyID))
		if h.proves(sp.AppID, secret.Text).Kind != "" || h.proves(sp.AppID, other.Text).ID != sp.PrincipalID {
			t.Error("not the one secret was removed")
		}
		for what, err := range map[string]error{"secret": h.RemovePassword(ctx, h.server, "ci", secret.KeyID), "certificate": h.RemoveKey(ctx, h.server, "ci", k.KeyID),
			"principal": h.DeleteServicePrincipal(ctx, h.server, "nobody", resource.Any), "principal of a secret": last(h.AddPassword(ctx, h.server, "nobody", "", time.Time{}, time.Time{})),
			"principal of a certificate": last(h.AddKey(ctx, h.server, "nobody", "", der))} {
			if fault.Of(err) != fault.NotFound {
				t.Errorf("there is no such %s: %v", what, err)
			}
		}
		bearer, _, err := h.Identity.IssueAccess(ctx, shop, h.proves(sp.AppID, other.Text), nil)
		ok(t, err)
		shown := identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(bearer)}
		if h.shows(identity.ContentPlane, shown).ID != sp.PrincipalID {
			t.Error("the token proves somebody else")
		}
		ok(t, h.DeleteServicePrincipal(ctx, h.server, "ci", resource.Any))
		again := must(h.PutServicePrincipal(ctx, h.server, "ci", set, resource.Absent))
		if again.AppID == sp.AppID || again.PrincipalID == sp.PrincipalID || len(again.Secrets) != 0 || h.shows(identity.ContentPlane, shown).Kind != "" || h.proves(sp.AppID, other.Text).Kind != "" {
			t.Errorf("what was deleted has come back: %+v", again)
		}
		if left, err := h.Documents.List(ctx, identity.ClientID(sp.AppID), "", "", 0); err != nil || len(left) != 0 {
			t.Errorf("left is %+v, %v", left, err)
		}
		if got, want := fmt.Sprint(h.events()), "[servicePrincipals/write addPassword/action addPassword/action addKey/action servicePrincipals/write removePassword/action removeKey/action servicePrincipals/delete servicePrincipals/write]"; got != want {
			t.Errorf("the ledger says %s", got)
		}
		for e, err := range h.Ledger.Events(ctx, ledger.Query{}) {
			if ok(t, err); strings.Contains(fmt.Sprintf("%+v", e), string(secret.Text)) || strings.Contains(fmt.Sprintf("%+v", e), string(other.Text)) {
				t.Errorf("the ledger knows a secret: %+v", e)
			}
		}
	})
}

func TestSecretsThatAreMadeAtOnceAreAllThere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, ctx := build(t, d), t.Context()
		must(h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{}, resource.Absent))
		var wg sync.WaitGroup
		for range 24 {
			wg.Go(func() {
				if _, err := h.AddPassword(ctx, h.server, "ci", "", time.Time{}, time.Time{}); err != nil && fault.Of(err) != fault.Conflict {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if sp := must(h.ServicePrincipal(ctx, h.server, "ci")); len(sp.Secrets) != 20 {
			t.Errorf("there are %d secrets", len(sp.Secrets))
		}
	})
}

func TestRedirectsLeadOnlyWhereNobodyListensIn(t *testing.T) {
	h, ctx := build(t, dbtest.SQLite(t)), t.Context()
	for _, bad := range []string{"", "app.example/cb", "http://app.example/cb", "https://", "https:///cb", "https://app.example/cb#x", "https://*.example/cb", "https://user@app.example/",
		"javascript:alert(1)", "data:text/html,x", "https://app.example/\ncb", "https://app.example/ü", "http://127.0.0.1.example/", "http://localhost.example/", "urn:ietf:wg:oauth:2.0:oob",
		"https://app.example\\@evil.example/", "https://app.example/" + strings.Repeat("x", 2000)} {
		_, err := h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{RedirectURIs: []string{bad}}, resource.Any)
		if fault.Of(err) != fault.BadRequest {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	if _, err := h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{RedirectURIs: make([]string, 65)}, resource.Any); fault.Of(err) != fault.BadRequest {
		t.Errorf("many: %v", err)
	}
	if _, err := h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{DisplayName: "a\nb"}, resource.Any); fault.Of(err) != fault.BadRequest {
		t.Errorf("a name of two lines: %v", err)
	}
}

func TestManagedIdentitiesAndTheirFederatedCredentials(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, ctx := build(t, d), t.Context()
		m, err := h.PutManagedIdentity(ctx, h.server, webID, "local", map[string]string{"team": "web"}, resource.Absent)
		if err != nil || !ref.IsGUID(m.ClientID) || !ref.IsGUID(m.PrincipalID) || m.Location != "local" {
			t.Fatalf("%+v, %v", m, err)
		}
		if again := must(h.PutManagedIdentity(ctx, h.server, webID, "elsewhere", nil, resource.Any)); again.ClientID != m.ClientID || again.Location != "local" || again.Tags != nil {
			t.Errorf("after a change it is %+v", again)
		}
		for _, id := range []ref.ID{"/", group, group.Extension(identity.ManagedIdentityType, "a"), group.Extension(identity.ManagedIdentityType, "_web"), group + "x" + webID[len(group):],
			webID.Child("more", "x"), identity.ServicePrincipalID("web"), "/subscriptions/x/resourceGroups/y/providers/Microsoft.ManagedIdentity/other/web", "/subscriptions/x/resourceGroups/../providers/Microsoft.ManagedIdentity/userAssignedIdentities/web"} {
			if _, err := h.PutManagedIdentity(ctx, h.server, id, "", nil, resource.Any); fault.Of(err) != fault.BadRequest && fault.Of(err) != fault.NotFound {
				t.Errorf("%s: %v", id, err)
			}
		}
		sp := must(h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{}, resource.Absent))
		cluster := identitytest.Kubernetes(t)
		_, err = h.PutIssuer(ctx, h.server, "cluster", identity.IssuerProperties{Issuer: cluster.URL, CACertificates: cluster.CA, Audiences: []string{"x"}, PrincipalType: identity.PrincipalApplication}, resource.Any)
		ok(t, err)
		for client, of := range map[string]ref.ID{m.ClientID: webID, sp.AppID: sp.ID} {
			pod := identity.FederatedCredentialProperties{Issuer: cluster.URL, Subject: "system:serviceaccount:shop:web"}
			id := identity.FederatedCredentialID(of, "pod")
			f, err := h.PutFederatedCredential(ctx, h.server, id, pod, resource.Absent)
			if err != nil || fmt.Sprint(f.Audiences) != "["+directory.Audience+"]" {
				t.Fatalf("%+v, %v", f, err)
			}
			token := identity.Credentials{Method: identity.ClientAssertion, Name: client, Secret: identity.Secret(cluster.Workload("shop", "web", directory.Audience))}
			if p := h.shows(identity.AuthorityPlane, token); p.Client != client {
				t.Errorf("it is %+v", p)
			}
			_, err = h.PutFederatedCredential(ctx, h.server, identity.FederatedCredentialID(of, "twin"), pod, resource.Absent)
			if fault.Of(err) != fault.Conflict {
				t.Errorf("two say the same: %v", err)
			}
			for what, p := range map[string]identity.FederatedCredentialProperties{
				"no issuer":       {Subject: "x"},
				"http":            {Issuer: "http://issuer.example", Subject: "x"},
				"a query":         {Issuer: "https://issuer.example/?a=b", Subject: "x"},
				"no subject":      {Issuer: "https://issuer.example"},
				"a long subject":  {Issuer: "https://issuer.example", Subject: strings.Repeat("x", 601)},
				"two lines":       {Issuer: "https://issuer.example", Subject: "a\nb"},
				"many audiences":  {Issuer: "https://issuer.example", Subject: "x", Audiences: make([]string, 11)},
				"an empty one":    {Issuer: "https://issuer.example", Subject: "x", Audiences: []string{""}},
				"a long tale":     {Issuer: "https://issuer.example", Subject: "x", Description: strings.Repeat("x", 257)},
				"nobody's issuer": {Issuer: "https://", Subject: "x"},
			} {
				if _, err := h.PutFederatedCredential(ctx, h.server, identity.FederatedCredentialID(of, "bad"), p, resource.Any); fault.Of(err) != fault.BadRequest {
					t.Errorf("%s: %v", what, err)
				}
			}
			for i := range 19 {
				_, err := h.PutFederatedCredential(ctx, h.server, identity.FederatedCredentialID(of, fmt.Sprintf("f%d", i)),
					identity.FederatedCredentialProperties{Issuer: cluster.URL, Subject: fmt.Sprint(i)}, resource.Absent)
				ok(t, err)
			}
			_, err = h.PutFederatedCredential(ctx, h.server, identity.FederatedCredentialID(of, "more"), identity.FederatedCredentialProperties{Issuer: cluster.URL, Subject: "more"}, resource.Absent)
			if fault.Of(err) != fault.Conflict {
				t.Errorf("there are twenty: %v", err)
			}
			pod.Subject = "system:serviceaccount:shop:other"
			if _, err := h.PutFederatedCredential(ctx, h.server, id, pod, f.Etag); err != nil {
				t.Errorf("the twentieth can be changed: %v", err)
			}
			if p := h.shows(identity.AuthorityPlane, token); p.Kind != "" {
				t.Errorf("the credential names another: %+v", p)
			}
			if all := must(h.FederatedCredentials(ctx, h.server, of, "", 100)); len(all) != 20 || all[0].Name != "f0" {
				t.Errorf("there are %d: %+v", len(all), all)
			}
			if one := must(h.FederatedCredential(ctx, h.server, id)); one.Subject != pod.Subject {
				t.Errorf("it is %+v", one)
			}
			ok(t, h.DeleteFederatedCredential(ctx, h.server, id, resource.Any))
			if err := h.DeleteFederatedCredential(ctx, h.server, id, resource.Any); fault.Of(err) != fault.NotFound {
				t.Errorf("it is gone: %v", err)
			}
		}
		for _, of := range []ref.ID{identity.ServicePrincipalID("nobody"), group.Extension(identity.ManagedIdentityType, "nobody"), identity.UserID("ci"), ""} {
			p := identity.FederatedCredentialProperties{Issuer: cluster.URL, Subject: "x"}
			if _, err := h.PutFederatedCredential(ctx, h.server, identity.FederatedCredentialID(of, "x"), p, resource.Any); fault.Of(err) != fault.NotFound {
				t.Errorf("a credential of %q: %v", of, err)
			}
		}
		if all := must(h.ManagedIdentities(ctx, h.server, group, "", 10)); len(all) != 1 || all[0].ClientID != m.ClientID {
			t.Errorf("there are %+v", all)
		}
		ok(t, h.DeleteManagedIdentity(ctx, h.server, webID, resource.Any))
		if left, err := h.Documents.List(ctx, webID, "", "", 0); err != nil || len(left) != 0 {
			t.Errorf("left is %+v, %v", left, err)
		}
		if _, err := h.Identity.Client(ctx, m.ClientID); fault.Of(err) != fault.NotFound {
			t.Errorf("its client id leads somewhere: %v", err)
		}
	})
}

// Every change and every look asks the grant, and without one nothing happens.
func TestEveryOperationAsksItsGrant(t *testing.T) {
	h, ctx := build(t, dbtest.SQLite(t)), t.Context()
	must(h.PutUser(ctx, h.server, "ci", identity.UserProperties{}, resource.Absent))
	must(h.PutServicePrincipal(ctx, h.server, "ci", directory.ServicePrincipalSettings{}, resource.Absent))
	must(h.PutManagedIdentity(ctx, h.server, webID, "", nil, resource.Absent))
	reader := access.NewGrant(access.Registry{}, identity.Principal{ID: "r", Kind: identity.User}, access.NewHeld(access.Assignment{Principal: "r", Role: access.ReaderRole, Scope: ref.Everything}), access.Call{})
	before := must(h.Documents.Generation(ctx))
	asked := 0
	for i := range reflect.TypeOf(h.Store).NumMethod() {
		name, m := reflect.TypeOf(h.Store).Method(i).Name, reflect.ValueOf(h.Store).Method(i)
		if m.Type().NumIn() < 2 || m.Type().In(1) != reflect.TypeFor[access.Grant]() {
			continue
		}
		grants := []access.Grant{{}, access.NewGrant(access.Registry{}, identity.Principal{Kind: identity.Anonymous}, nil, access.Call{})}
		if slices.ContainsFunc([]string{"Put", "Add", "Remove", "Delete", "Create", "Reset"}, func(verb string) bool { return strings.HasPrefix(name, verb) }) {
			grants = append(grants, reader)
		}
		for _, g := range grants {
			args := []reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(g)}
			for j := 2; j < m.Type().NumIn(); j++ {
				v := reflect.Zero(m.Type().In(j))
				switch m.Type().In(j) {
				case reflect.TypeFor[string]():
					v = reflect.ValueOf("ci")
				case reflect.TypeFor[ref.ID]():
					v = reflect.ValueOf(webID)
					if strings.HasSuffix(name, "FederatedCredential") {
						v = reflect.ValueOf(identity.FederatedCredentialID(webID, "x"))
					}
				case reflect.TypeFor[[]byte]():
					v = reflect.ValueOf(certificate(t))
				case reflect.TypeFor[identity.IssuerProperties]():
					v = reflect.ValueOf(identity.IssuerProperties{Issuer: "https://issuer.example", Audiences: []string{"x"}, PrincipalType: identity.PrincipalUser})
				}
				args = append(args, v)
			}
			out := m.Call(args)
			if err, _ := out[len(out)-1].Interface().(error); err == nil || fault.Of(err) != fault.Denied {
				t.Errorf("%s: %v", name, err)
			}
			asked++
		}
	}
	if after := must(h.Documents.Generation(ctx)); after != before || asked < 40 {
		t.Errorf("%d operations were refused, and something has changed", asked)
	}
}

// A contributor may change everything except who may do what; to become somebody
// else would be that.
func TestAContributorBecomesNobodyElse(t *testing.T) {
	h, ctx := build(t, dbtest.SQLite(t)), t.Context()
	must(h.PutServicePrincipal(ctx, h.server, "boss", directory.ServicePrincipalSettings{}, resource.Absent))
	must(h.PutUser(ctx, h.server, "boss", identity.UserProperties{}, resource.Absent))
	g := access.NewGrant(access.Registry{}, identity.Principal{ID: "c", Kind: identity.User}, access.NewHeld(access.Assignment{Principal: "c", Role: access.ContributorRole, Scope: ref.Everything}), access.Call{})
	for what, err := range map[string]error{
		"by a secret":      last(h.AddPassword(ctx, g, "boss", "", time.Time{}, time.Time{})),
		"by a certificate": last(h.AddKey(ctx, g, "boss", "", certificate(t))),
		"by an issuer":     last(h.PutFederatedCredential(ctx, g, identity.FederatedCredentialID(identity.ServicePrincipalID("boss"), "x"), identity.FederatedCredentialProperties{Issuer: "https://issuer.example", Subject: "x"}, resource.Any)),
		"by a password":    last(h.ResetUser(context.Background(), g, "boss")),
	} {
		if fault.Of(err) != fault.Denied {
			t.Errorf("a contributor becomes somebody else %s: %v", what, err)
		}
	}
}
