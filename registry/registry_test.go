package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/keys"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/receipt"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const group = ref.ID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/trade")

var (
	mainID = group.Extension(registry.Type, "breakwater")
	shopID = group.Extension(registry.Type, "Shop1")
	here   = network.Origin{Addr: netip.MustParseAddr("203.0.113.9")}
)

// A house is the rooms that decide who may come in, on a real database.
type house struct {
	t          testing.TB
	db         *db.DB
	docs       *resource.Store
	ledger     *ledger.Ledger
	rings      *keys.Rings
	identity   *identity.Store
	access     *access.Store
	users      *directory.Store
	approvals  *approval.Store
	registries *registry.Store
	server     access.Grant
}

func build(t testing.TB, d *db.DB) *house {
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
	h := &house{t: t, db: d, docs: resource.New(d), ledger: l, rings: keys.NewRings(d, platform), server: access.ServerGrant(access.Registry{}, access.Call{})}
	h.identity, err = identity.New(identity.Options{DB: d, Documents: h.docs, Ledger: l, Vault: platform, Check: platform.Derive("token-check")})
	if err != nil {
		t.Fatal(err)
	}
	h.access = &access.Store{DB: d, Documents: h.docs, Ledger: l, Identity: h.identity}
	h.users = &directory.Store{DB: d, Documents: h.docs, Ledger: l, Identity: h.identity}
	h.approvals = &approval.Store{DB: d, Documents: h.docs, Ledger: l, Access: h.access}
	h.registries = registry.New(registry.Options{DB: d, Documents: h.docs, Ledger: l, Rings: h.rings, Identity: h.identity, Access: h.access,
		Receipts:  &receipt.Store{Documents: h.docs, Ledger: l, Identity: h.identity},
		Approvals: h.approvals, Default: "breakwater", Host: "localhost:8443", Domain: "example.com:8443"})
	h.ok(d.Write(t.Context(), func(tx *db.Tx) error {
		for _, id := range []ref.ID{group, ref.ID(strings.Replace(string(group), "trade", "other", 1))} {
			if _, err := h.docs.Put(t.Context(), tx, resource.Resource{ID: id, Type: "Microsoft.Resources/resourceGroups", Location: "local"}, resource.Absent); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, id := range []ref.ID{mainID, shopID} {
		if _, err := h.registries.Create(t.Context(), h.server, id, "local", nil, registry.Properties{}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) at(host string) *registry.Registry {
	h.t.Helper()
	r, err := h.registries.ByHost(h.t.Context(), host)
	h.ok(err)
	return r
}

// enter is what the door does: network, identity, access.
func (h *house) enter(host string, c identity.Credentials) (access.Grant, error) {
	ctx := context.Background()
	r, err := h.registries.ByHost(ctx, host)
	if err != nil {
		return access.Grant{}, err
	}
	if !r.Reach(here).Allowed {
		return access.Grant{}, network.Refused(here)
	}
	p, err := h.identity.Authenticate(ctx, r.Realm(), identity.ContentPlane, c, here)
	if err != nil {
		return access.Grant{}, err
	}
	as, err := h.access.LoadAssignments(ctx, r.Ref(), p)
	if err != nil {
		return access.Grant{}, err
	}
	return access.NewGrant(r.Ref(), p, as, access.Call{Correlation: "c1", From: ledger.From{Address: here.Addr}}), nil
}

func (h *house) grant(host string, c identity.Credentials) access.Grant {
	h.t.Helper()
	g, err := h.enter(host, c)
	h.ok(err)
	return g
}

// owner makes a user with the role at the scope, and enters as it.
func (h *house) user(name, role string, scope ref.Scope) identity.Credentials {
	h.t.Helper()
	password, doc, err := h.users.CreateUser(h.t.Context(), h.server, name)
	h.ok(err)
	if role != "" {
		_, err = h.access.Assign(h.t.Context(), h.server, scope, "assignment-of-"+name, access.AssignmentProperties{RoleDefinitionID: role, PrincipalID: doc.System.UID})
		h.ok(err)
	}
	return identity.Credentials{Method: identity.Basic, Name: name, Secret: password.Value}
}

// token makes a repository token with its scope map, and returns its login.
func (h *house) token(g access.Grant, name string, actions ...string) identity.Credentials {
	h.t.Helper()
	ctx := h.t.Context()
	m, err := h.access.PutScopeMap(ctx, g, name, "", actions, resource.Any)
	h.ok(err)
	_, err = h.access.PutToken(ctx, g, name, m.ID, "", resource.Any)
	h.ok(err)
	passwords, err := h.access.GenerateCredentials(ctx, g, name, time.Time{}, "password1")
	h.ok(err)
	return identity.Credentials{Method: identity.Basic, Name: name, Secret: passwords[0].Value}
}

// may tells what g may do with a repository: pull, push, delete, look, label.
func may(g access.Grant, repo ref.Repository) (can string) {
	for _, a := range []struct {
		word   string
		action access.Action
	}{{"pull", access.ContentRead}, {"push", access.ContentWrite}, {"delete", access.ContentDelete}, {"look", access.MetadataRead}, {"label", access.MetadataWrite}} {
		if g.Can(a.action, g.RepositoryScope(repo)) {
			can += " " + a.word
		}
	}
	return strings.TrimSpace(can)
}

func TestHostNamesMeanRegistries(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	for host, want := range map[string]string{
		"localhost:8443": "breakwater", "127.0.0.1:8443": "breakwater", "[::1]:8443": "breakwater", "": "breakwater", "elsewhere": "breakwater",
		"example.com:8443": "breakwater", "shop1.example.com:8443": "Shop1", "SHOP1.Example.COM.:8443": "Shop1", "shop1.example.com": "Shop1",
		"breakwater.example.com": "breakwater", "shop1.example.com.evil.test": "breakwater", "shop1xexample.com": "breakwater",
	} {
		if r := h.at(host); r.Name != want {
			t.Errorf("%q means %s", host, r.Name)
		}
	}
	for _, host := range []string{"none.example.com", "a.shop1.example.com", ".example.com"} {
		if r, err := h.registries.ByHost(t.Context(), host); fault.Of(err) != fault.NotFound {
			t.Errorf("%q means %v, %v", host, r, err)
		}
	}
	if a, b := h.at("").LoginServer, h.at("shop1.example.com").LoginServer; a != "localhost:8443" || b != "shop1.example.com:8443" {
		t.Errorf("login servers %s, %s", a, b)
	}
}

func TestNewRegistryHasItsKeyAndRefusesStrangers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		r := h.at("")
		if _, err := h.rings.Ring(t.Context(), r.UID); err != nil {
			t.Error(err)
		}
		if r.AdminUserEnabled || r.AnonymousPullEnabled || r.Policies.SparseManifests.Enabled() {
			t.Errorf("something is on: %+v", r.Properties)
		}
		if can := may(h.grant("", identity.Credentials{}), "team/api"); can != "" {
			t.Errorf("a stranger may %s", can)
		}
		for _, row := range []struct {
			id   ref.ID
			want fault.Code
		}{
			{mainID, fault.Conflict},
			{group.Extension(registry.Type, "BREAKWATER"), fault.Conflict},
			{ref.ID(strings.Replace(string(mainID), "trade", "other", 1)), fault.Conflict},
			{ref.ID(strings.Replace(string(mainID), "trade", "nowhere", 1)) + "2", fault.NotFound},
			{ref.ID("/providers/" + registry.Type + "/third"), fault.BadRequest},
			{group.Extension(registry.Type, "tiny"), fault.NameInvalid},
			{group.Extension(registry.Type, "has-dash"), fault.NameInvalid},
			{group.Extension(registry.Type, strings.Repeat("a", 51)), fault.NameInvalid},
		} {
			if _, err := h.registries.Create(t.Context(), h.server, row.id, "local", nil, registry.Properties{}); fault.Of(err) != row.want {
				t.Errorf("%s: %v", row.id, err)
			}
		}
		if _, err := h.registries.Create(t.Context(), h.grant("", identity.Credentials{}), group.Extension(registry.Type, "third"), "local", nil, registry.Properties{}); fault.Of(err) != fault.Denied {
			t.Errorf("a stranger made a registry: %v", err)
		}
		owner := h.grant("", h.user("owner", access.OwnerRole, ref.Everything))
		maps, err := h.access.ScopeMaps(t.Context(), owner, "", 100)
		if err != nil || len(maps) != 5 || maps[0].Name != "_repositories_admin" || maps[0].Type != "SystemDefined" {
			t.Errorf("%v, %v", maps, err)
		}
		if err := h.access.DeleteScopeMap(t.Context(), owner, "_repositories_admin", resource.Any); fault.Of(err) != fault.Conflict {
			t.Errorf("a map of the system was deleted: %v", err)
		}
	})
}

func TestSettingsCountFromTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		set := func(change func(*registry.Registry)) *registry.Registry {
			t.Helper()
			r, err := h.registries.Update(ctx, h.server, mainID, resource.Exists, func(r *registry.Registry) error { change(r); return nil })
			h.ok(err)
			return r
		}
		nobody := identity.Credentials{}
		set(func(r *registry.Registry) { r.AnonymousPullEnabled = true })
		g := h.grant("", nobody)
		if can := may(g, "team/api"); can != "pull look" || g.Can(access.CatalogRead, g.Scope()) {
			t.Errorf("anybody may %s", can)
		}
		if can := may(h.grant("shop1.example.com", nobody), "team/api"); can != "" {
			t.Errorf("at another registry anybody may %s", can)
		}
		reader := h.token(h.server0(), "ci", "repositories/ci/content/write")
		if can := may(h.grant("", reader), "team/api"); can != "pull look" {
			t.Errorf("what anybody may, a token may not: %s", can)
		}
		set(func(r *registry.Registry) { r.AnonymousPullEnabled = false })
		if can := may(h.grant("", nobody), "team/api"); can != "" {
			t.Errorf("a stranger may %s", can)
		}

		password, err := h.registries.RegenerateCredential(ctx, h.server, mainID, "password2")
		h.ok(err)
		admin := identity.Credentials{Method: identity.Basic, Name: "breakwater", Secret: password.Value}
		if _, err := h.enter("", admin); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the admin user is off: %v", err)
		}
		if _, err := h.registries.ListCredentials(ctx, h.server, mainID); fault.Of(err) != fault.BadRequest {
			t.Errorf("the admin user is off: %v", err)
		}
		set(func(r *registry.Registry) { r.AdminUserEnabled = true })
		g = h.grant("", admin)
		if can := may(g, "team/api"); can != "pull push delete look label" || !g.Can(access.CatalogRead, g.Scope()) || g.Can(access.RegistryRead, g.Scope()) || g.Can(access.TokenWrite, g.Scope()) {
			t.Errorf("the admin user may %s", can)
		}
		again, err := h.registries.RegenerateCredential(ctx, h.server, mainID, "password2")
		h.ok(err)
		if _, err := h.enter("", admin); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the password was made anew: %v", err)
		}
		h.grant("", identity.Credentials{Method: identity.Basic, Name: "Breakwater", Secret: again.Value})
		_, err = h.registries.RegenerateCredential(ctx, h.server, mainID, "password")
		h.ok(err)
		listed, err := h.registries.ListCredentials(ctx, h.server, mainID)
		if err != nil || len(listed) != 2 || listed[0].Name != "password" || listed[1].Name != "password2" || listed[1].Used.IsZero() || !listed[0].Used.IsZero() {
			t.Errorf("the passwords are %+v, %v", listed, err)
		}

		set(func(r *registry.Registry) { r.RoleAssignmentMode = access.ABAC })
		owner := h.user("owner", access.OwnerRole, ref.Everything)
		if can := may(h.grant("", owner), "team/api"); can != "" {
			t.Errorf("with repository permissions an owner may %s", can)
		}
		set(func(r *registry.Registry) { r.RoleAssignmentMode = "" })
		if can := may(h.grant("", owner), "team/api"); can != "pull push delete look label" {
			t.Errorf("an owner may %s", can)
		}
		set(func(r *registry.Registry) { r.PublicNetworkAccess = network.Disabled })
		if _, err := h.enter("", owner); fault.Of(err) != fault.NetworkDenied {
			t.Errorf("public access is off: %v", err)
		}
	})
}

// server0 is the server's own grant in the default registry.
func (h *house) server0() access.Grant { return access.ServerGrant(h.at("").Ref(), access.Call{}) }

func TestUpdatesCheckWhatTheyAreGiven(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	ctx := t.Context()
	was := h.at("")
	next, err := h.registries.Update(ctx, h.server, mainID, was.Etag, func(r *registry.Registry) error { r.Tags = map[string]string{"a": "b"}; return nil })
	if err != nil || next.Etag == was.Etag || next.Tags["a"] != "b" || next.UID != was.UID {
		t.Fatalf("%+v, %v", next, err)
	}
	nothing := func(*registry.Registry) error { return nil }
	odd := errors.New("odd")
	for _, row := range []struct {
		id      ref.ID
		ifMatch string
		change  func(*registry.Registry) error
		want    fault.Code
	}{
		{mainID, was.Etag, nothing, fault.Stale},
		{group.Extension(registry.Type, "none1"), resource.Any, nothing, fault.NotFound},
		{mainID.Child("scopeMaps", "_repositories_admin"), resource.Any, nothing, fault.NotFound},
		{mainID, resource.Any, func(r *registry.Registry) error { r.PublicNetworkAccess = "Perhaps"; return nil }, fault.BadRequest},
		{mainID, resource.Any, func(r *registry.Registry) error { r.RuleSet.DefaultAction = "Perhaps"; return nil }, fault.BadRequest},
		{mainID, resource.Any, func(r *registry.Registry) error { r.RoleAssignmentMode = "Perhaps"; return nil }, fault.BadRequest},
		{mainID, resource.Any, func(r *registry.Registry) error { r.Policies.SparseManifests.Status = "perhaps"; return nil }, fault.BadRequest},
		{mainID, resource.Any, func(r *registry.Registry) error { return odd }, fault.Internal},
	} {
		if _, err := h.registries.Update(ctx, h.server, row.id, row.ifMatch, row.change); fault.Of(err) != row.want {
			t.Errorf("%s: %v", row.id, err)
		}
	}
	if r := h.at(""); r.Etag != next.Etag {
		t.Error("a refused update changed the registry")
	}
	reader := h.grant("", h.user("reader", access.ReaderRole, mainID.Scope()))
	if _, err := h.registries.Update(ctx, reader, mainID, resource.Any, nothing); fault.Of(err) != fault.Denied {
		t.Errorf("a reader changed the registry: %v", err)
	}
	if _, err := h.registries.RegenerateCredential(ctx, reader, mainID, "password1"); fault.Of(err) != fault.Denied {
		t.Errorf("a reader made a password: %v", err)
	}
	if list, err := h.registries.List(ctx, reader, "", "", 10); err != nil || len(list) != 1 || list[0].Name != "breakwater" {
		t.Errorf("a reader of one registry lists %v, %v", list, err)
	}
	if _, err := h.registries.Get(ctx, reader, shopID); fault.Of(err) != fault.Denied {
		t.Errorf("and reads another: %v", err)
	}
	if r, err := h.registries.Get(ctx, reader, ref.ID(strings.ToUpper(string(mainID)))); err != nil || r.Name != "breakwater" {
		t.Errorf("in any spelling: %v", err)
	}
}

func TestPropertiesAreSpelledAsARMDoes(t *testing.T) {
	text, err := json.Marshal(registry.Properties{})
	if err != nil || string(text) != `{"adminUserEnabled":false,"anonymousPullEnabled":false,"dataEndpointEnabled":false}` {
		t.Errorf("%s, %v", text, err)
	}
	var p registry.Properties
	const full = `{"adminUserEnabled":true,"anonymousPullEnabled":true,"roleAssignmentMode":"AbacRepositoryPermissions","publicNetworkAccess":"Enabled","networkRuleSet":{"defaultAction":"Deny","ipRules":[{"action":"Allow","value":"203.0.113.0/24"}]},"policies":{"sparseManifests":{"status":"enabled"}},"dataEndpointEnabled":false}`
	if err := json.Unmarshal([]byte(full), &p); err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(p); err != nil || string(text) != full {
		t.Errorf("%s, %v", text, err)
	}
}

func TestTokensHaveTheRightsOfTheirScopeMap(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		owner := h.grant("", h.user("owner", access.OwnerRole, ref.Everything))
		c := h.token(owner, "ci", "repositories/team/*/content/read", "repositories/team/api/content/write")
		for repo, want := range map[ref.Repository]string{"team/api": "pull push", "team/web": "pull", "team": "", "team2/api": "", "other": ""} {
			if can := may(h.grant("", c), repo); can != want {
				t.Errorf("%s: %s", repo, can)
			}
		}
		if _, err := h.enter("shop1.example.com", c); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the token is known at another registry: %v", err)
		}
		g := h.grant("", c)
		if g.Can(access.CatalogRead, g.Scope()) || g.Can(access.TokenWrite, g.Scope()) || g.Can(access.RegistryRead, g.Scope()) {
			t.Error("a token may do more than its map says")
		}
		if _, err := h.access.PutScopeMap(ctx, g, "ci", "", []string{"repositories/*/content/write"}, resource.Any); fault.Of(err) != fault.Denied {
			t.Errorf("a token changed its own map: %v", err)
		}

		// A changed map counts from the next request, for bearers as well.
		text, _, err := h.identity.IssueAccess(ctx, h.at("").Realm(), g.Principal(), g.Ask(identity.ParseScopes([]string{"repository:team/api:pull,push"})))
		h.ok(err)
		bearer := identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(text)}
		if can := may(h.grant("", bearer), "team/api"); can != "pull push" {
			t.Errorf("the bearer may %s", can)
		}
		if can := may(h.grant("", bearer), "team/web"); can != "" {
			t.Errorf("the bearer may %s what it did not ask for", can)
		}
		_, err = h.access.PutScopeMap(ctx, owner, "ci", "", []string{"repositories/team/api/content/read"}, resource.Exists)
		h.ok(err)
		for _, shown := range []identity.Credentials{c, bearer} {
			if can := may(h.grant("", shown), "team/api"); can != "pull" {
				t.Errorf("after the map has changed, the token may %s", can)
			}
		}
		if err := h.access.DeleteScopeMap(ctx, owner, "ci", resource.Any); fault.Of(err) != fault.Conflict {
			t.Errorf("a map that is in use was deleted: %v", err)
		}

		made, err := h.access.Token(ctx, owner, "CI")
		if err != nil || made.Name != "ci" || made.Status != "enabled" || len(made.Passwords) != 1 || made.Passwords[0].Name != "password1" {
			t.Errorf("%+v, %v", made, err)
		}
		_, err = h.access.GenerateCredentials(ctx, owner, "ci", time.Now().Add(time.Hour))
		h.ok(err)
		if _, err := h.enter("", c); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the password was made anew: %v", err)
		}
		h.ok(h.access.KeepPasswords(ctx, owner, "ci"))
		if made, _ = h.access.Token(ctx, owner, "ci"); len(made.Passwords) != 0 {
			t.Errorf("no password is kept: %v", made.Passwords)
		}
		h.ok(h.access.DeleteToken(ctx, owner, "ci", made.Etag))
		if _, err := h.enter("", bearer); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the token is revoked: %v", err)
		}
		h.ok(h.access.DeleteScopeMap(ctx, owner, "ci", resource.Any))
		for _, err := range []error{h.access.DeleteToken(ctx, owner, "ci", resource.Any), h.access.DeleteScopeMap(ctx, owner, "ci", resource.Any), second(h.access.Token(ctx, owner, "ci"))} {
			if fault.Of(err) != fault.NotFound {
				t.Errorf("it is gone: %v", err)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestTokenServicesCheckWhatTheyAreGiven(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	ctx := t.Context()
	g := h.server0()
	m := access.ScopeMapID(mainID, "_repositories_pull")
	for what, err := range map[string]error{
		"a bad name":               second(h.access.PutToken(ctx, g, "a/b", m, "", resource.Any)),
		"a name of the system":     second(h.access.PutScopeMap(ctx, g, "_x", "", nil, resource.Any)),
		"a status":                 second(h.access.PutToken(ctx, g, "ci", m, "perhaps", resource.Any)),
		"no scope map":             second(h.access.PutToken(ctx, g, "ci", "", "", resource.Any)),
		"a map that is not":        second(h.access.PutToken(ctx, g, "ci", access.ScopeMapID(mainID, "none"), "", resource.Any)),
		"a map of another":         second(h.access.PutToken(ctx, g, "ci", access.ScopeMapID(shopID, "_repositories_pull"), "", resource.Any)),
		"an action":                second(h.access.PutScopeMap(ctx, g, "ci", "", []string{"repositories/a*/content/read"}, resource.Any)),
		"too many actions":         second(h.access.PutScopeMap(ctx, g, "ci", "", slices.Repeat([]string{"repositories/a/content/read"}, 501), resource.Any)),
		"a role":                   second(h.access.Assign(ctx, g, mainID.Scope(), "1", access.AssignmentProperties{RoleDefinitionID: "none", PrincipalID: "p"})),
		"no principal":             second(h.access.Assign(ctx, g, mainID.Scope(), "1", access.AssignmentProperties{RoleDefinitionID: access.PullRole})),
		"a principal that is path": second(h.access.Assign(ctx, g, mainID.Scope(), "1", access.AssignmentProperties{RoleDefinitionID: access.PullRole, PrincipalID: "p/../q"})),
		"a scope that is none":     second(h.access.Assign(ctx, g, "/subscriptions//x", "1", access.AssignmentProperties{RoleDefinitionID: access.PullRole, PrincipalID: "p"})),
	} {
		if code := fault.Of(err); code.Row().Status != 400 && code != fault.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, _, err := h.users.CreateUser(ctx, g, "a/b"); fault.Of(err) != fault.BadRequest {
		t.Errorf("a bad name: %v", err)
	}
	c := h.token(g, "ci", "repositories/a/content/read")
	if _, err := h.access.PutToken(ctx, g, "CI", m, "", resource.Absent); fault.Of(err) != fault.Conflict {
		t.Errorf("a name that is taken: %v", err)
	}
	if _, err := h.access.GenerateCredentials(ctx, g, "ci", time.Now().Add(-time.Hour)); fault.Of(err) != fault.BadRequest {
		t.Errorf("an expiry in the past: %v", err)
	}
	if _, err := h.access.GenerateCredentials(ctx, g, "ci", time.Time{}, "password3"); fault.Of(err) != fault.BadRequest {
		t.Errorf("a third password: %v", err)
	}
	for _, name := range []string{"none", "ci/tokenPasswords/all"} {
		if _, err := h.access.GenerateCredentials(ctx, g, name, time.Time{}); fault.Of(err) != fault.NotFound {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.access.Token(ctx, g, "ci/tokenPasswords/all"); fault.Of(err) != fault.NotFound {
		t.Errorf("the verifiers were read as a token: %v", err)
	}
	h.grant("", c)
}

// Every service asks its grant: with the zero grant, and with one that has no
// right, each of them refuses and nothing has changed.
func TestEveryServiceAsksItsGrant(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	ctx := t.Context()
	h.token(h.server0(), "ci", "repositories/a/content/read")
	stranger := h.grant("", identity.Credentials{})
	for _, g := range []access.Grant{{}, stranger, h.grant("", h.user("nobody", "", ""))} {
		before, err := h.docs.Generation(ctx)
		h.ok(err)
		for _, s := range []any{h.access, h.registries} {
			v := reflect.ValueOf(s)
			for i := range v.NumMethod() {
				name, m := v.Type().Method(i).Name, v.Method(i)
				at := slices.Index(in(m.Type()), reflect.TypeFor[access.Grant]())
				if at < 0 || slices.Contains(in(m.Type()), reflect.TypeFor[*db.Tx]()) || name == "List" {
					continue // it decides nothing, is a part of a change, or shows what may be seen
				}
				args := make([]reflect.Value, m.Type().NumIn())
				for j, typ := range in(m.Type()) {
					args[j] = reflect.Zero(typ)
					switch {
					case j == at:
						args[j] = reflect.ValueOf(g)
					case typ == reflect.TypeFor[context.Context]():
						args[j] = reflect.ValueOf(ctx)
					case typ == reflect.TypeFor[string]():
						args[j] = reflect.ValueOf("ci")
					case typ == reflect.TypeFor[ref.ID]():
						args[j] = reflect.ValueOf(mainID)
					case typ == reflect.TypeFor[ref.Scope]():
						args[j] = reflect.ValueOf(mainID.Scope())
					}
				}
				if m.Type().IsVariadic() {
					args = args[:len(args)-1]
				}
				out := m.Call(args)
				if err, _ := out[len(out)-1].Interface().(error); fault.Of(err) != fault.Denied || err == nil {
					t.Errorf("%T.%s: %v", s, name, err)
				}
			}
		}
		if after, err := h.docs.Generation(ctx); err != nil || after != before {
			t.Errorf("documents have changed: %v", err)
		}
	}
}

func in(f reflect.Type) (types []reflect.Type) {
	for i := range f.NumIn() {
		types = append(types, f.In(i))
	}
	return types
}

func TestAssignmentsHoldWhereAndWhileTheyDo(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		for i, row := range []struct {
			scope     ref.Scope
			breakw, s string
		}{
			{ref.Everything, "pull push look", "pull push look"},
			{group.Scope(), "pull push look", "pull push look"},
			{mainID.Scope(), "pull push look", ""},
			{shopID.Scope(), "", "pull push look"},
			{ref.RepositoryScope(mainID, "team/api"), "pull push look", ""},
			{ref.RepositoryScope(mainID, "team"), "", ""},
			{group.Scope() + "2", "", ""},
		} {
			c := h.user(fmt.Sprintf("user%d", i), access.PushRole, row.scope)
			if can := may(h.grant("", c), "team/api"); can != row.breakw {
				t.Errorf("assigned at %s, at breakwater: %s", row.scope, can)
			}
			if can := may(h.grant("shop1.example.com", c), "team/api"); can != row.s {
				t.Errorf("assigned at %s, at shop: %s", row.scope, can)
			}
		}
		c := h.user("guest", "", "")
		id := h.grant("", c).Principal().ID
		until := time.Now().Add(3 * time.Second)
		_, err := h.access.Assign(ctx, h.server, mainID.Scope(), "visit", access.AssignmentProperties{RoleDefinitionID: "AcrPull", PrincipalID: id, Until: until})
		h.ok(err)
		g := h.grant("", c)
		if can := may(g, "team/api"); can != "pull look" {
			t.Errorf("a guest may %s", can)
		}
		time.Sleep(time.Until(until))
		if may(g, "team/api") != "" || may(h.grant("", c), "team/api") != "" {
			t.Error("the visit is over")
		}
		_, err = h.access.Assign(ctx, h.server, mainID.Scope(), "second", access.AssignmentProperties{RoleDefinitionID: access.DeleteRole, PrincipalID: id})
		h.ok(err)
		if can := may(h.grant("", c), "team/api"); can != "delete" {
			t.Errorf("a guest may %s", can)
		}
		if _, err := h.access.Assign(ctx, h.server, mainID.Scope(), "second", access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: id}); fault.Of(err) != fault.AssignmentUpdate {
			t.Errorf("an assignment was changed: %v", err)
		}
		h.ok(h.access.Unassign(ctx, h.server, mainID.Scope(), "second"))
		if can := may(h.grant("", c), "team/api"); can != "" {
			t.Errorf("nothing is assigned, and the guest may %s", can)
		}
		contributor := h.grant("", h.user("helper", access.ContributorRole, ref.Everything))
		if _, err := h.access.Assign(ctx, contributor, mainID.Scope(), "mine", access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: contributor.Principal().ID}); fault.Of(err) != fault.Denied {
			t.Errorf("a contributor made itself an owner: %v", err)
		}
		if _, err := h.users.ResetUser(ctx, contributor, "guest"); fault.Of(err) != fault.Denied {
			t.Errorf("a contributor made itself somebody else: %v", err)
		}
		fresh, err := h.users.ResetUser(ctx, h.server, "guest")
		h.ok(err)
		if _, err := h.enter("", c); fault.Of(err) != fault.Unauthenticated {
			t.Errorf("the password was made anew: %v", err)
		}
		h.grant("", identity.Credentials{Method: identity.Basic, Name: "guest", Secret: fresh.Value})
	})
}

func TestEveryChangeIsRecordedOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		ctx := t.Context()
		owner := h.grant("", h.user("owner", access.OwnerRole, ref.Everything))
		c := h.token(owner, "ci", "repositories/a/content/read")
		_, err := h.registries.Update(ctx, owner, mainID, resource.Any, func(r *registry.Registry) error { r.AdminUserEnabled = true; return nil })
		h.ok(err)
		password, err := h.registries.RegenerateCredential(ctx, owner, mainID, "password1")
		h.ok(err)
		h.ok(h.access.DeleteToken(ctx, owner, "ci", resource.Any))
		h.ok(h.access.DeleteScopeMap(ctx, owner, "ci", resource.Any))
		_ = h.access.DeleteToken(ctx, owner, "ci", resource.Any) // refused, and recorded by the door
		var operations []string
		for e, err := range h.ledger.Events(ctx, ledger.Query{Registry: h.at("").UID}) {
			h.ok(err)
			operations = append(operations, strings.TrimPrefix(e.Operation, "Microsoft.ContainerRegistry/registries/"))
			if e.Seq > 1 && (e.Who.Name != "owner" || e.Who.Kind != "user" || e.Correlation != "c1" || e.From.Address != here.Addr || e.Outcome != ledger.Success || e.Category != ledger.Administrative || !mainID.Scope().Covers(e.Scope)) {
				t.Errorf("%+v", e)
			}
			if text := fmt.Sprintf("%+v", e); strings.Contains(text, string(c.Secret)) || strings.Contains(text, string(password.Value)) {
				t.Errorf("the ledger knows a password: %s", text)
			}
		}
		want := []string{"write", "scopeMaps/write", "tokens/write", "generateCredentials/action", "write", "regenerateCredential/action", "tokens/delete", "scopeMaps/delete"}
		if !slices.Equal(operations, want) {
			t.Errorf("recorded %q", operations)
		}
	})
}

func TestNoPasswordIsStored(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	var all []string
	for i := range 3 {
		all = append(all, string(h.token(h.server0(), fmt.Sprintf("ci%d", i), "repositories/a/content/read").Secret))
	}
	all = append(all, string(h.user("owner", access.OwnerRole, ref.Everything).Secret))
	docs, err := h.docs.List(t.Context(), "", "", "", 1000)
	h.ok(err)
	for _, doc := range docs {
		text, err := json.Marshal(doc)
		h.ok(err)
		for _, p := range all {
			if strings.Contains(string(text), p) || strings.Contains(string(text), p[:20]) {
				t.Errorf("%s holds a password", doc.ID)
			}
		}
		if strings.EqualFold(doc.Type, identity.TokenType) && strings.Contains(string(text), "argon2id") {
			t.Errorf("%s, which an API shows, holds a verifier", doc.ID)
		}
	}
}

// BenchmarkDoor is what a repeated bearer token costs, from the host name to the
// decision, with many tokens and assignments present.
func BenchmarkDoor(b *testing.B) {
	for _, n := range []struct{ tokens, assignments int }{{1, 1}, {10_000, 100_000}} {
		b.Run(fmt.Sprintf("tokens=%d,assignments=%d", n.tokens, n.assignments), func(b *testing.B) {
			h := build(b, dbtest.SQLite(b))
			ctx := context.Background()
			fill(h, n.tokens, n.assignments)
			var shown []identity.Credentials
			for i := range min(n.tokens, 100) {
				c := h.token(h.server0(), fmt.Sprintf("ci%d", i), "repositories/team/*/content/read")
				g := h.grant("", c)
				text, _, err := h.identity.IssueAccess(ctx, h.at("").Realm(), g.Principal(), g.Ask(identity.ParseScopes([]string{"repository:team/api:pull"})))
				h.ok(err)
				shown = append(shown, identity.Credentials{Method: identity.Bearer, Secret: identity.Secret(text)})
			}
			owner := h.user("owner", access.OwnerRole, ref.Everything)
			b.Run("bearer", func(b *testing.B) {
				b.ReportAllocs()
				i := 0
				for b.Loop() {
					g, err := h.enter("localhost:8443", shown[i%len(shown)])
					if err != nil || !g.Can(access.ContentRead, g.RepositoryScope("team/api")) {
						b.Fatal(err)
					}
					i++
				}
			})
			b.Run("owner", func(b *testing.B) {
				for b.Loop() {
					g, err := h.enter("localhost:8443", owner)
					if err != nil || !g.Can(access.ContentRead, g.RepositoryScope("team/api")) {
						b.Fatal(err)
					}
				}
			})
			b.Run("after-a-change", func(b *testing.B) {
				i := 0
				for b.Loop() {
					b.StopTimer()
					h.ok(h.access.KeepPasswords(ctx, h.server0(), "ci0", "password1"))
					b.StartTimer()
					if _, err := h.enter("localhost:8443", shown[i%len(shown)]); err != nil {
						b.Fatal(err)
					}
					i++
				}
			})
		})
	}
}

// fill writes tokens and role assignments without their passwords, which cost
// time that nothing here measures.
func fill(h *house, tokens, assignments int) {
	h.t.Helper()
	ctx := h.t.Context()
	g := h.server0()
	m, err := h.access.PutScopeMap(ctx, g, "filler", "", []string{"repositories/team/*/content/read"}, resource.Any)
	h.ok(err)
	put := func(tx *db.Tx, id ref.ID, typ string, properties any) error {
		text, err := json.Marshal(properties)
		if err != nil {
			return err
		}
		_, err = h.docs.Put(ctx, tx, resource.Resource{ID: id, Type: typ, Properties: text, System: g.Modified()}, resource.Any)
		return err
	}
	const batch = 2000
	for from := 0; from < max(tokens, assignments); from += batch {
		h.ok(h.db.Write(ctx, func(tx *db.Tx) error {
			for i := from; i < from+batch; i++ {
				if i < tokens {
					if err := put(tx, identity.TokenID(mainID, fmt.Sprintf("filler%d", i)), identity.TokenType, identity.TokenProperties{ScopeMapID: m.ID, Status: "enabled"}); err != nil {
						return err
					}
				}
				if i < assignments {
					id := ref.ID(string(mainID) + "/providers/" + access.AssignmentType + "/" + fmt.Sprintf("filler%d", i))
					if err := put(tx, id, access.AssignmentType, access.AssignmentProperties{RoleDefinitionID: access.PullRole, PrincipalID: fmt.Sprintf("filler%d", i%1000), Scope: mainID.Scope()}); err != nil {
						return err
					}
					pointer := ref.ID(fmt.Sprintf("/providers/Breakwater.Access/assigned/filler%d/to/%d", i%1000, i))
					if err := put(tx, pointer, "Breakwater.Access/assigned", struct{ ID ref.ID }{id}); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	}
}
