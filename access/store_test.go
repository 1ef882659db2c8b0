package access

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/resource"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A house is what stands around a Store, with an owner of everything.
type house struct {
	*Store
	t      testing.TB
	server Grant
}

// Those who come in.
const (
	owner    = "00000000-0000-0000-0000-00000000000a"
	alice    = "00000000-0000-0000-0000-0000000000a1"
	bob      = "00000000-0000-0000-0000-0000000000b0"
	nobody   = "00000000-0000-0000-0000-0000000000f0"
	builders = "00000000-0000-0000-0000-0000000000e0" // groups
	testers  = "00000000-0000-0000-0000-0000000000e1"
	writers  = "00000000-0000-0000-0000-0000000000e2"
)

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
	h := &house{&Store{DB: d, Documents: resource.New(d), Ledger: l}, t, ServerGrant(Registry{}, Call{})}
	h.assign(owner, OwnerRole, ref.Everything)
	return h
}

func (h *house) ok(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// is checks the code of an error; -1 is none.
func (h *house) is(what string, err error, want fault.Code) {
	h.t.Helper()
	if want == -1 && err != nil || want != -1 && (err == nil || fault.Of(err) != want) {
		h.t.Errorf("%s: %v, not %v", what, err, want)
	}
}

// as is the grant of a principal who comes in now.
func (h *house) as(id string, groups ...string) Grant {
	h.t.Helper()
	p := identity.Principal{ID: id, Kind: identity.User, Name: id, Groups: groups}
	held, err := h.LoadAssignments(h.t.Context(), Registry{}, p)
	h.ok(err)
	return NewGrant(Registry{UID: "r1", ID: shop}, p, held, Call{})
}

func (h *house) assign(principal, role string, scope ref.Scope) ref.ID {
	h.t.Helper()
	id := extensionID(scope, AssignmentType, ref.NewGUID())
	_, err := h.put(h.server, id, AssignmentProperties{RoleDefinitionID: role, PrincipalID: principal})
	h.ok(err)
	return id
}

func (h *house) put(g Grant, id ref.ID, properties any) (resource.Resource, error) {
	h.t.Helper()
	text, ok := properties.(string)
	if !ok {
		raw, err := json.Marshal(properties)
		h.ok(err)
		text = string(raw)
	}
	return h.Put(h.t.Context(), g, resource.Resource{ID: id, Properties: json.RawMessage(text)}, resource.Any)
}

func (h *house) remove(g Grant, id ref.ID) error {
	return second(h.Delete(h.t.Context(), g, id, resource.Any))
}

func (h *house) names(g Grant, typ string, under ref.ID, f Filter) string {
	h.t.Helper()
	docs, err := h.List(h.t.Context(), g, typ, under, "", 0, f)
	h.ok(err)
	var names []string
	for _, doc := range docs {
		names = append(names, doc.ID.Name()[len(doc.ID.Name())-1:])
	}
	return strings.Join(names, "")
}

// events are what is recorded of one type, of those who came through a registry.
func (h *house) events(typ string) (all []ledger.Event) {
	h.t.Helper()
	for e, err := range h.Ledger.Events(h.t.Context(), ledger.Query{Registry: "r1"}) {
		h.ok(err)
		if strings.HasPrefix(e.Operation, typ) {
			all = append(all, e)
		}
	}
	return all
}

func numbered(last byte) string { return fmt.Sprintf("00000000-0000-0000-0000-0000000000%02x", last) }

var (
	group        = ref.ID(shop.Parent().Parent())
	subscription = ref.Subscription("00000000-0000-0000-0000-000000000001")
	everywhere   = ref.ID("/")
)

func on(scope ref.ID, typ, name string) ref.ID { return extensionID(scope.Scope(), typ, name) }

func TestAnAssignmentIsMadeChangedAndTakenAway(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		g := h.as(owner)
		id := on(shop, AssignmentType, numbered(1))
		made, err := h.put(g, id, `{"roleDefinitionId":"/subscriptions/x/providers/Microsoft.Authorization/roleDefinitions/`+strings.ToUpper(PullRole)+`","principalId":"`+strings.ToUpper(numbered(0xab))+`","principalType":"User","condition":"`+name+` StringEquals 'a'"}`)
		h.ok(err)
		if a, err := assignment(made); err != nil || a.Role != PullRole || a.Principal != numbered(0xab) || a.Scope != shop.Scope() || !strings.Contains(string(made.Properties), `"conditionVersion":"2.0"`) {
			t.Errorf("%s, %v", made.Properties, err)
		}
		if may := h.as(numbered(0xab)); !may.Can(ContentRead, at("a")) || may.Can(ContentRead, at("b")) {
			t.Error("the assignment does not count on the next request")
		}
		_, err = h.put(g, id, `{"roleDefinitionId":"`+PullRole+`","principalId":"`+numbered(0xab)+`","condition":"`+name+` StringEquals 'b'","conditionVersion":"2.0"}`)
		h.ok(err)
		if may := h.as(numbered(0xab)); may.Can(ContentRead, at("a")) || !may.Can(ContentRead, at("b")) {
			t.Error("its condition was not changed")
		}
		for what, c := range map[string]struct {
			at   ref.ID
			body AssignmentProperties
			want fault.Code
		}{
			"another role under its name":      {id, AssignmentProperties{RoleDefinitionID: PushRole, PrincipalID: numbered(0xab)}, fault.AssignmentUpdate},
			"another principal under its name": {id, AssignmentProperties{RoleDefinitionID: PullRole, PrincipalID: numbered(0xac)}, fault.AssignmentUpdate},
			"the same under another name":      {on(shop, AssignmentType, numbered(2)), AssignmentProperties{RoleDefinitionID: PullRole, PrincipalID: numbered(0xab)}, fault.AssignmentExists},
			"the same elsewhere":               {on(group, AssignmentType, numbered(3)), AssignmentProperties{RoleDefinitionID: PullRole, PrincipalID: numbered(0xab)}, -1},
			"another role beside it":           {on(shop, AssignmentType, numbered(4)), AssignmentProperties{RoleDefinitionID: PushRole, PrincipalID: numbered(0xab)}, -1},
			"at one repository":                {on(shop+"/repositories/team/api", AssignmentType, numbered(5)), AssignmentProperties{RoleDefinitionID: DeleteRole, PrincipalID: numbered(0xab), Scope: at("team/api"), Until: time.Now().Add(time.Hour)}, -1},
		} {
			_, err := h.put(g, c.at, c.body)
			h.is(what, err, c.want)
		}
		may := h.as(numbered(0xab))
		if !may.Can(ContentDelete, at("team/api")) || may.Can(ContentDelete, at("team/ap")) {
			t.Error("an assignment at a repository")
		}
		for _, row := range []struct {
			under ref.ID
			f     Filter
			want  string
		}{
			{shop, Filter{Exactly: true}, "14"},
			{shop, Filter{}, "145"},
			{shop, Filter{Exactly: true, Above: true, Principal: strings.ToUpper(numbered(0xab))}, "314"},
			{"", Filter{Principal: numbered(0xab)}, "3145"},
			{subscription, Filter{Principal: numbered(0xac)}, ""},
			{shop + "/repositories/team/api", Filter{Exactly: true}, "5"},
		} {
			if got := h.names(g, AssignmentType, row.under, row.f); !sameLetters(got, row.want) {
				t.Errorf("under %s with %+v: %q, not %q", row.under, row.f, got, row.want)
			}
		}
		h.ok(h.remove(g, id))
		h.is("taken away twice", h.remove(g, id), fault.NotFound)
		var ops []string
		for _, e := range h.events(AssignmentType) {
			if strings.HasSuffix(string(e.Scope), numbered(1)) {
				ops = append(ops, e.Operation[len(AssignmentType)+1:]+" "+e.Who.ID+" "+e.Detail.More["principal"])
			}
		}
		if got := strings.Join(ops, ", "); got != fmt.Sprintf("write %s %s, write %[1]s %[2]s, delete %[1]s %[2]s", owner, numbered(0xab)) {
			t.Errorf("recorded: %s", got)
		}
	})
}

func sameLetters(a, b string) bool {
	x, y := []byte(a), []byte(b)
	slices.Sort(x)
	slices.Sort(y)
	return bytes.Equal(x, y)
}

func TestAnAssignmentEnds(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	_, err := h.put(h.server, on(shop, AssignmentType, numbered(1)), AssignmentProperties{RoleDefinitionID: PullRole, PrincipalID: numbered(0xab), Until: time.Now().Add(200 * time.Millisecond)})
	h.ok(err)
	g := h.as(numbered(0xab))
	if !g.Can(ContentRead, at("a")) {
		t.Error("it does not hold yet")
	}
	time.Sleep(210 * time.Millisecond)
	if g.Can(ContentRead, at("a")) {
		t.Error("it holds still, for a request that is under way")
	}
}

func TestWhatIsNotCertainIsRefused(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	g := h.as(owner)
	const define = `{"roleName":"r","assignableScopes":["/"],"permissions":[{"actions":["*/read"]}]}`
	assigned := func(more string) string {
		return `{"roleDefinitionId":"` + PullRole + `","principalId":"` + alice + `"` + more + `}`
	}
	denied := func(more string) string {
		return `{"denyAssignmentName":"d","permissions":[{"actions":["x/read"]}],"principals":[{"id":"` + alice + `"}]` + more + `}`
	}
	rule := func(state, include, action, require string) string {
		return fmt.Sprintf(`{"state":%q,"principals":{"include":[%s]},"actions":[%q],"require":%q}`, state, include, action, require)
	}
	for _, row := range []struct {
		id   ref.ID
		body string
		want fault.Code
	}{
		{on(shop, AssignmentType, "visit"), assigned(``), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"unknown":1`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`} {`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `[]`, fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + PullRole + `"}`, fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + PullRole + `","principalId":"p/../q"}`, fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + numbered(9) + `","principalId":"` + alice + `"}`, fault.NotFound},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"principalType":"King"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"scope":"/subscriptions/x"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"condition":"@Request[x"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"condition":"true","conditionVersion":"1.0"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"conditionVersion":"2.0"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"until":"2020-01-01T00:00:00Z"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), assigned(`,"description":"` + strings.Repeat("x", 1025) + `"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + QuarantineReaderRole + `","principalId":"` + alice + `","condition":"true"}`, fault.BadRequest},
		{on(shop, "Microsoft.Authorization/locks", numbered(1)), `{}`, fault.NotFound},
		{shop, `{}`, fault.NotFound},
		{on(shop, PolicyType, "r"), rule("enabled", `"*"`, "*", "true"), fault.NotFound}, // rules are not at a scope
		{on(everywhere, AssignmentType, numbered(1)) + "/more/x", assigned(``), fault.NotFound},
		{on(everywhere, MemberType, "x"), `{}`, fault.NotFound},

		{on(everywhere, DefinitionType, OwnerRole), define, fault.Conflict},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `"r"`, `"acrpull"`, 1), fault.Conflict},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `"/"`, ``, 1), fault.BadRequest},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `"/"`, `"x"`, 1), fault.BadRequest},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `*/read`, `read`, 1), fault.BadRequest},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `*/read`, `a b/read`, 1), fault.BadRequest},
		{on(everywhere, DefinitionType, numbered(1)), strings.Replace(define, `"*/read"`, ``, 1), fault.BadRequest},

		{on(shop, DenyAssignmentType, numbered(1)), denied(`,"isSystemProtected":true`), fault.BadRequest},
		{on(shop, DenyAssignmentType, numbered(1)), denied(`,"condition":"perhaps"`), fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + PullRole + `","principalId":"alice"}`, fault.BadRequest},
		{on(shop, AssignmentType, numbered(1)), `{"roleDefinitionId":"` + PullRole + `","principalId":"*"}`, fault.BadRequest},
		{on(shop, DenyAssignmentType, numbered(1)), denied(`,"excludePrincipals":[{"id":"alice"}]`), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("enabled", `"alice"`, "*", "true"), fault.BadRequest},
		{on(shop, DenyAssignmentType, numbered(1)), denied(`,"excludePrincipals":[{"id":""}]`), fault.BadRequest},
		{on(shop, DenyAssignmentType, numbered(1)), strings.Replace(denied(``), `{"id":"`+alice+`"}`, ``, 1), fault.BadRequest},

		{on(everywhere, PolicyType, "a b"), rule("enabled", `"`+alice+`"`, "*", "true"), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("on", `"`+alice+`"`, "*", "true"), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("enabled", ``, "*", "true"), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("enabled", `"`+alice+`"`, "pull", "true"), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("enabled", `"`+alice+`"`, "*", ""), fault.BadRequest},
		{on(everywhere, PolicyType, "r"), rule("enabled", `"`+alice+`"`, "*", "true AND"), fault.BadRequest},

		{on(everywhere, LocationType, "l"), `{}`, fault.BadRequest},
		{on(everywhere, LocationType, "l"), `{"networks":["10.0.0.0/33"]}`, fault.BadRequest},
		{on(everywhere, LocationType, "l"), `{"listeners":[""]}`, fault.BadRequest},

		{on(everywhere, GroupType, "a b"), `{}`, fault.BadRequest},
		{on(everywhere, GroupType, "g"), `{"parent":"/providers/Microsoft.Management/managementGroups/none"}`, fault.BadRequest},
		{on(everywhere, GroupType, "g"), `{"parent":"/providers/Microsoft.Management/managementGroups/g"}`, fault.BadRequest},
		{on(everywhere, GroupType, "g").Child("subscriptions", numbered(1)), `{}`, fault.NotFound},
	} {
		if _, err := h.put(g, row.id, row.body); err == nil || fault.Of(err) != row.want {
			t.Errorf("%s %s: %v", row.id, row.body, err)
		}
		for _, g := range []Grant{{}, h.as(nobody)} {
			if _, err := h.put(g, row.id, row.body); fault.Of(err) != fault.Denied && fault.Of(err) != fault.BadRequest {
				t.Errorf("a stranger learns of %s %s: %v", row.id, row.body, err)
			}
		}
	}
}

func TestACustomRoleHoldsWhereItMayBeAssigned(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		g := h.as(owner)
		role := DefinitionProperties{RoleName: "Puller of metadata", AssignableScopes: []ref.ID{group}, Permissions: []Permission{
			{Actions: []string{registries + "*"}, NotActions: []string{registries + "push/*", registries + "*/delete"}}}}
		id := on(subscription, DefinitionType, numbered(1))
		made, err := h.put(g, id, role)
		h.ok(err)
		if made.ID != id || !strings.Contains(string(made.Properties), `"CustomRole"`) {
			t.Errorf("%s %s", made.ID, made.Properties)
		}
		assign := func(scope ref.ID, name byte) error {
			return second(h.put(g, on(scope, AssignmentType, numbered(name)), AssignmentProperties{RoleDefinitionID: string(id), PrincipalID: alice}))
		}
		h.is("assigned above", assign(subscription, 1), fault.BadRequest)
		h.is("assigned where it may be", assign(shop, 2), -1)
		may := h.as(alice)
		if !may.Can(ContentRead, at("a")) || may.Can(ContentWrite, at("a")) || may.Can(ContentDelete, at("a")) || !may.Can(RegistryWrite, shop.Scope()) {
			t.Error("the role gives something else")
		}
		h.is("taken away while it is assigned", h.remove(g, id), fault.Conflict)
		role.Permissions = []Permission{{Actions: []string{registries + "read"}}}
		_, err = h.put(g, on(shop, DefinitionType, numbered(1)), role)
		h.ok(err)
		if may = h.as(alice); may.Can(ContentRead, at("a")) || !may.Can(RegistryRead, shop.Scope()) {
			t.Error("a change of the role does not count on the next request")
		}
		role.AssignableScopes = []ref.ID{group + "2"}
		_, err = h.put(g, id, role)
		h.ok(err)
		if h.as(alice).Can(RegistryRead, shop.Scope()) {
			t.Error("the role holds where it may no longer be assigned")
		}
		h.ok(h.remove(g, on(shop, AssignmentType, numbered(2))))
		role.RoleName = "Another"
		_, err = h.put(g, on(everywhere, DefinitionType, numbered(2)), role)
		h.ok(err)
		role.RoleName = "PULLER of metadata"
		_, err = h.put(g, on(everywhere, DefinitionType, numbered(2)), role)
		h.is("a name that is taken", err, fault.Conflict)

		found, err := h.List(t.Context(), g, DefinitionType, shop, "", 0, Filter{RoleName: "acrpull"})
		if err != nil || len(found) != 1 || found[0].ID != on(ref.ID(shop.Scope()), DefinitionType, PullRole) {
			t.Errorf("%v, %v", found, err)
		}
		if found, err := h.List(t.Context(), g, DefinitionType, "", "", 0, Filter{}); err != nil || len(found) != len(roles)+2 {
			t.Errorf("%d role definitions, %v", len(found), err)
		}
		if here, err := h.List(t.Context(), g, DefinitionType, shop, "", 0, Filter{}); err != nil || len(here) != len(roles) {
			t.Errorf("%d role definitions at the registry, %v", len(here), err)
		}
		var pages []resource.Resource
		for after := ref.ID(""); ; after = pages[len(pages)-1].ID {
			page, err := h.List(t.Context(), g, DefinitionType, "", after, 7, Filter{})
			h.ok(err)
			if pages = append(pages, page...); len(page) == 0 {
				break
			}
		}
		if len(pages) != len(roles)+2 {
			t.Errorf("%d role definitions in pages", len(pages))
		}
		if doc, err := h.Get(t.Context(), g, on(shop, DefinitionType, strings.ToUpper(PullRole))); err != nil || !strings.Contains(string(doc.Properties), `"BuiltInRole"`) {
			t.Errorf("%s, %v", doc.Properties, err)
		}
		h.ok(h.remove(g, id))
		h.ok(h.remove(g, on(everywhere, DefinitionType, numbered(2))))
	})
}

// TestNobodyGivesMoreThanItMay: every change of who may do what is one of those
// who were let to make it, there.
func TestNobodyGivesMoreThanItMay(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		contributor, admin, delegate, definer, reader := numbered(0xc1), numbered(0xc2), numbered(0xc3), numbered(0xc4), numbered(0xc5)
		h.assign(contributor, ContributorRole, ref.Everything)
		h.assign(reader, ReaderRole, ref.Everything)
		h.assign(admin, "18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", group.Scope())
		_, err := h.put(h.server, on(shop, AssignmentType, numbered(0xd1)), AssignmentProperties{RoleDefinitionID: "f58310d9-a9f6-439a-9e8d-f62e7b41a168", PrincipalID: delegate,
			Condition: `@Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {` + PullRole + `} AND @Request[Microsoft.Authorization/roleAssignments:PrincipalId] GuidNotEquals ` + delegate})
		h.ok(err)
		_, err = h.put(h.server, on(everywhere, DefinitionType, numbered(0xd2)), DefinitionProperties{RoleName: "definer", AssignableScopes: []ref.ID{"/"}, Permissions: []Permission{{Actions: []string{string(RoleDefinitionWrite), string(RoleDefinitionDelete)}}}})
		h.ok(err)
		h.assign(definer, numbered(0xd2), group.Scope())
		_, err = h.put(h.server, on(everywhere, GroupType, "g"), GroupProperties{})
		h.ok(err)
		h.assign(admin, OwnerRole, on(everywhere, GroupType, "g").Scope())
		h.ok(h.DB.Write(t.Context(), func(tx *db.Tx) error {
			return second(h.Documents.Put(t.Context(), tx, resource.Resource{ID: subscription, Type: "Microsoft.Resources/subscriptions"}, resource.Any))
		}))

		give := func(role, to string) AssignmentProperties {
			return AssignmentProperties{RoleDefinitionID: role, PrincipalID: to}
		}
		define := func(at ...ref.ID) DefinitionProperties {
			return DefinitionProperties{RoleName: "x", AssignableScopes: at, Permissions: []Permission{{Actions: []string{"*"}}}}
		}
		for i, row := range []struct {
			who  string
			id   ref.ID
			body any
			want fault.Code
		}{
			{contributor, on(shop, AssignmentType, numbered(1)), give(OwnerRole, contributor), fault.Denied},
			{reader, on(shop, AssignmentType, numbered(1)), give(PullRole, reader), fault.Denied},
			{contributor, on(everywhere, DefinitionType, numbered(1)), define(group), fault.Denied},
			{contributor, on(shop, DenyAssignmentType, numbered(1)), `{"denyAssignmentName":"d","permissions":[{"actions":["x/read"]}],"principals":[{"id":"` + alice + `"}]}`, fault.Denied},
			{contributor, on(everywhere, PolicyType, "r"), `{"state":"disabled","principals":{"include":["` + alice + `"]},"actions":["*"],"require":"true"}`, fault.Denied},
			{contributor, on(everywhere, LocationType, "l"), `{"networks":["0.0.0.0/0"]}`, fault.Denied},
			{admin, on(shop, AssignmentType, numbered(2)), give(PullRole, alice), -1},
			{admin, on(subscription, AssignmentType, numbered(3)), give(PullRole, alice), fault.Denied},
			{admin, on(everywhere, AssignmentType, numbered(3)), give(OwnerRole, admin), fault.Denied},
			{delegate, on(shop, AssignmentType, numbered(4)), give(PullRole, bob), -1},
			{delegate, on(shop, AssignmentType, numbered(5)), give(PushRole, bob), fault.Denied},
			{delegate, on(shop, AssignmentType, numbered(5)), give(OwnerRole, delegate), fault.Denied},
			{delegate, on(shop, AssignmentType, numbered(5)), give(PullRole, delegate), fault.Denied},
			{delegate, on(group, AssignmentType, numbered(5)), give(PullRole, bob), fault.Denied},
			{definer, on(everywhere, DefinitionType, numbered(6)), define(group), -1},
			{definer, on(everywhere, DefinitionType, numbered(7)), define(group, subscription), fault.Denied},
			{definer, on(everywhere, DefinitionType, numbered(6)), define("/"), fault.Denied},
			{definer, on(everywhere, DefinitionType, numbered(0xd2)), define(group), fault.Denied}, // what is assignable elsewhere is not its to change
			{definer, on(shop, AssignmentType, numbered(8)), give(numbered(6), definer), fault.Denied},
			// Who owns a management group does not draw a subscription into it.
			{admin, on(everywhere, GroupType, "g").Child("subscriptions", subscription.Name()), `{}`, fault.Denied},
			{owner, on(everywhere, GroupType, "g").Child("subscriptions", subscription.Name()), `{}`, -1},
			{admin, on(subscription, AssignmentType, numbered(9)), give(PullRole, alice), -1}, // now it may
			{admin, on(everywhere, GroupType, "h"), `{}`, fault.Denied},
		} {
			_, err := h.put(h.as(row.who), row.id, row.body)
			h.is(fmt.Sprintf("%d: %s writes %s", i, row.who, row.id), err, row.want)
		}
		for i, row := range []struct {
			who  string
			id   ref.ID
			want fault.Code
		}{
			{contributor, on(shop, AssignmentType, numbered(2)), fault.Denied},
			{contributor, on(shop, AssignmentType, numbered(0xee)), fault.Denied}, // nor does it learn that there is none
			{delegate, on(shop, AssignmentType, numbered(0xd1)), fault.Denied},    // the condition on itself
			{definer, on(everywhere, DefinitionType, numbered(0xd2)), fault.Denied},
			{definer, on(everywhere, DefinitionType, numbered(6)), -1},
			{contributor, on(everywhere, GroupType, "g"), fault.Conflict}, // it may, but somebody is in it
			{admin, on(shop, AssignmentType, numbered(2)), -1},
		} {
			h.is(fmt.Sprintf("%d: %s deletes %s", i, row.who, row.id), h.remove(h.as(row.who), row.id), row.want)
		}
	})
}

func TestManagementGroupsHoldSubscriptions(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		g := h.as(owner)
		h.ok(h.DB.Write(t.Context(), func(tx *db.Tx) error {
			return second(h.Documents.Put(t.Context(), tx, resource.Resource{ID: subscription, Type: "Microsoft.Resources/subscriptions"}, resource.Any))
		}))
		outer, inner, other := on(everywhere, GroupType, "outer"), on(everywhere, GroupType, "inner"), on(everywhere, GroupType, "other")
		for id, p := range map[ref.ID]GroupProperties{outer: {DisplayName: "Outer"}, other: {}} {
			h.ok(second(h.put(g, id, p)))
		}
		h.ok(second(h.put(g, inner, GroupProperties{Parent: outer})))
		h.is("a group in itself", second(h.put(g, outer, GroupProperties{Parent: inner})), fault.BadRequest)
		h.ok(second(h.put(g, inner.Child("subscriptions", subscription.Name()), `{}`)))
		h.assign(alice, PullRole, outer.Scope())
		h.assign(bob, PullRole, other.Scope())
		pulls := func(who string) bool { return h.as(who).Can(ContentRead, at("a")) }
		if !pulls(alice) || pulls(bob) {
			t.Error("a group does not cover what is in it")
		}
		h.ok(second(h.put(g, other.Child("subscriptions", strings.ToUpper(subscription.Name())), `{}`)))
		if pulls(alice) || !pulls(bob) {
			t.Error("a subscription that was moved is where it was")
		}
		h.is("a group with a subscription", h.remove(g, other), fault.Conflict)
		h.is("a group with a group", h.remove(g, outer), fault.Conflict)
		h.ok(second(h.put(g, other, GroupProperties{Parent: inner})))
		if !pulls(alice) {
			t.Error("a group that was moved takes nothing along")
		}
		h.ok(h.remove(g, other.Child("subscriptions", subscription.Name())))
		if pulls(alice) || pulls(bob) {
			t.Error("a subscription that was taken out is in")
		}
		for _, id := range []ref.ID{other, inner, outer} {
			h.ok(h.remove(g, id))
		}
		if docs, err := h.List(t.Context(), g, AssignmentType, "", "", 0, Filter{}); err != nil || len(docs) != 1 {
			t.Errorf("%d assignments are left, %v", len(docs), err)
		}
	})
}

func TestRulesCountOnTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		h.assign(alice, PullRole, shop.Scope())
		p := identity.Principal{ID: alice, Kind: identity.User}
		from := func(listener string) Decision {
			held, err := h.LoadAssignments(t.Context(), Registry{UID: "r1", ID: shop}, p)
			h.ok(err)
			return NewGrant(Registry{UID: "r1", ID: shop}, p, held, Call{From: ledger.From{Listener: listener}}).Decide(ContentRead, at("a"))
		}
		g := h.as(owner)
		h.ok(second(h.put(g, on(everywhere, LocationType, "inside"), `{"listeners":["inner"]}`)))
		write := func(state, exclude string) error {
			return second(h.put(g, on(everywhere, PolicyType, "inside-only"), `{"displayName":"Only from inside","state":"`+state+`","principals":{"include":["*"],"exclude":[`+exclude+`]},"actions":["Microsoft.ContainerRegistry/*"],"require":"@Environment[Locations] ForAnyOfAnyValues:StringEquals {'inside'}"}`))
		}
		for _, row := range []struct {
			state, exclude, listener string
			want                     Reason
			reported, broke          int
		}{
			{RuleReports, "", "outer", Assigned, 1, 0},
			{RuleReports, "", "inner", Assigned, 0, 0},
			{RuleEnabled, "", "outer", Ruled, 0, 0},
			{RuleEnabled, "", "inner", Assigned, 0, 0},
			{RuleEnabled, `"` + strings.ToUpper(alice) + `"`, "outer", Assigned, 0, 1},
			{RuleDisabled, "", "outer", Assigned, 0, 0},
			{RuleEnabled, "", "outer", Ruled, 0, 0},
		} {
			h.ok(write(row.state, row.exclude))
			if got := from(row.listener); got.Reason != row.want || len(got.Reported) != row.reported || len(got.BrokeGlass) != row.broke {
				t.Errorf("%s excluding %s from %s: %+v", row.state, row.exclude, row.listener, got)
			}
		}
		h.ok(second(h.put(g, on(everywhere, LocationType, "inside"), `{"listeners":["outer"],"networks":["10.1.2.3/8"]}`)))
		if got := from("outer"); !got.Allowed {
			t.Errorf("after the location grew: %+v", got)
		}
		h.ok(h.remove(g, on(everywhere, LocationType, "inside")))
		if got := from("outer"); got.Allowed {
			t.Error("a location that is gone is still somewhere")
		}
		h.ok(h.remove(g, on(everywhere, PolicyType, "inside-only")))
		if got := from("outer"); !got.Allowed {
			t.Errorf("after the rule has gone: %+v", got)
		}
		if n := len(h.events(PolicyType)); n != 8 {
			t.Errorf("%d events about the rule", n)
		}
	})
}

func TestADenialCountsOnTheNextRequest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		h.assign(testers, PushRole, shop.Scope())
		push := func() bool { return h.as(alice, builders, testers).Can(ContentWrite, at("a")) }
		if !push() {
			t.Error("a member of the group may not push")
		}
		id := on(group, DenyAssignmentType, numbered(1))
		h.ok(second(h.put(h.as(owner), id, `{"denyAssignmentName":"freeze","permissions":[{"actions":["*/push/*"]}],"principals":[{"id":"00000000-0000-0000-0000-000000000000","type":"SystemDefined"}],"excludePrincipals":[{"id":"`+strings.ToUpper(writers)+`"}]}`)))
		if push() || !h.as(alice, testers, writers).Can(ContentWrite, at("a")) {
			t.Error("the denial is not for everybody but those who are excluded")
		}
		h.ok(h.remove(h.as(owner), id))
		if !push() {
			t.Error("the denial has gone and holds")
		}
	})
}

// TestSomebodyCanAlwaysTakeItBack: whoever is Owner of everything, unconditionally,
// is never shut out by all rules and denials together.
func TestSomebodyCanAlwaysTakeItBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		g := h.as(owner)
		const second2 = "00000000-0000-0000-0000-00000000000b"
		rule := func(state, include, exclude, action string) string {
			return `{"state":"` + state + `","principals":{"include":["` + include + `"],"exclude":[` + exclude + `]},"actions":["` + action + `"],"require":"false"}`
		}
		deny := func(who, exclude, action string) string {
			return `{"denyAssignmentName":"d","permissions":[{"actions":["` + action + `"]}],"principals":[{"id":"` + who + `"}],"excludePrincipals":[` + exclude + `]}`
		}
		policy, denial := on(everywhere, PolicyType, "r"), on(shop, DenyAssignmentType, numbered(1))
		for _, row := range []struct {
			sentence string
			id       ref.ID
			body     string
			want     fault.Code
		}{
			{"a rule that shuts everybody out of everything", policy, rule("enabled", "*", "", "*"), fault.Conflict},
			{"which only reports", policy, rule(RuleReports, "*", "", "*"), -1},
			{"or is enforced then", policy, rule("enabled", "*", "", "*"), fault.Conflict},
			{"excluding somebody who is not owner", policy, rule("enabled", "*", `"`+alice+`"`, "*"), fault.Conflict},
			{"excluding the owner", policy, rule("enabled", "*", `"`+owner+`"`, "*"), -1},
			{"of content only", policy, rule("enabled", "*", "", "Microsoft.ContainerRegistry/*"), -1},
			{"which names the owner", policy, rule("enabled", owner, "", "Breakwater.Access/*"), fault.Conflict},
			{"a denial for everybody of everything", denial, deny("*", "", "*"), fault.Conflict},
			{"excluding the owner", denial, deny("*", `{"id":"`+owner+`"}`, "*"), -1},
			{"of content only", denial, deny("*", "", registries+"*"), -1},
		} {
			_, err := h.put(g, row.id, row.body)
			h.is(row.sentence, err, row.want)
		}
		owners := h.names(g, AssignmentType, "", Filter{Exactly: true, Principal: owner})
		if len(owners) != 1 {
			t.Fatal(owners)
		}
		docs, err := h.List(t.Context(), g, AssignmentType, "", "", 0, Filter{Exactly: true, Principal: owner})
		h.ok(err)
		mine := docs[0].ID
		h.is("the last owner leaves", h.remove(g, mine), fault.Conflict)
		_, err = h.put(g, mine, AssignmentProperties{RoleDefinitionID: OwnerRole, PrincipalID: owner, Condition: "true"})
		h.is("the last owner under a condition", err, fault.Conflict)
		_, err = h.put(g, mine, AssignmentProperties{RoleDefinitionID: OwnerRole, PrincipalID: owner, Until: time.Now().Add(time.Hour)})
		h.is("the last owner for an hour", err, fault.Conflict)
		h.assign(second2, OwnerRole, ref.Everything)
		h.ok(second(h.put(g, policy, rule("enabled", "*", `"`+owner+`"`, "*"))))
		h.is("the one who is excluded leaves", h.remove(g, mine), fault.Conflict)
		h.ok(second(h.put(g, policy, rule("enabled", "*", `"`+owner+`","`+second2+`"`, "*"))))
		h.is("another is excluded too", h.remove(g, mine), -1)
	})
}

// TestAnOwnerWhoIsMadeAnewIsSpared: who was excluded is gone, and another owner
// takes the rules back all the same.
func TestAnOwnerWhoIsMadeAnewIsSpared(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		g := h.as(owner)
		for _, state := range []string{RuleEnabled, RuleReports} {
			h.ok(second(h.put(g, on(everywhere, PolicyType, state), `{"state":"`+state+`","principals":{"include":["*"],"exclude":["`+owner+`"]},"actions":["*"],"require":"false"}`)))
		}
		h.ok(second(h.put(g, on(everywhere, PolicyType, "content"), `{"state":"enabled","principals":{"include":["*"]},"actions":["Microsoft.ContainerRegistry/*"],"require":"false"}`)))
		h.ok(second(h.put(g, on(shop, DenyAssignmentType, numbered(1)), `{"denyAssignmentName":"d","permissions":[{"actions":["*"]}],"principals":[{"id":"*"}],"excludePrincipals":[{"id":"`+owner+`"}]}`)))
		const anew = "00000000-0000-0000-0000-00000000000b"
		h.assign(anew, OwnerRole, ref.Everything)
		if h.as(anew).Can(PolicyWrite, ref.Everything) {
			t.Error("the rule is for nobody")
		}
		for range 2 {
			h.ok(h.Spare(t.Context(), h.server, anew))
		}
		h.is("spared by itself", h.Spare(t.Context(), h.as(bob), bob), fault.Denied)
		again := h.as(anew)
		if !again.Can(PolicyWrite, ref.Everything) || !again.Can(DenyAssignmentDelete, shop.Scope()) || again.Can(ContentRead, at("a")) || h.as(alice).Can(RegistryRead, shop.Scope()) {
			t.Error("it is spared from too little or too much")
		}
		for _, id := range []ref.ID{on(everywhere, PolicyType, RuleReports), on(everywhere, PolicyType, "content")} {
			if doc, err := h.Get(t.Context(), again, id); err != nil || strings.Contains(string(doc.Properties), anew) {
				t.Errorf("%s was changed: %s, %v", id, doc.Properties, err)
			}
		}
	})
}

// TestADeletedPlaceTakesItsAssignmentsAlong: what is made again under the name
// starts without them.
func TestADeletedPlaceTakesItsAssignmentsAlong(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	make := func() {
		h.ok(h.DB.Write(t.Context(), func(tx *db.Tx) error {
			return second(h.Documents.Put(t.Context(), tx, resource.Resource{ID: shop, Type: "x"}, resource.Absent))
		}))
	}
	make()
	h.assign(alice, PullRole, shop.Scope())
	h.assign(alice, PushRole, at("team/api"))
	h.ok(h.DB.Write(t.Context(), func(tx *db.Tx) error { return h.Documents.Delete(t.Context(), tx, shop, resource.Any) }))
	make()
	if g := h.as(alice); g.Can(ContentRead, at("team/api")) || g.Can(ContentWrite, at("team/api")) {
		t.Error("the new registry has the old one's assignments")
	}
}

func FuzzDocuments(f *testing.F) {
	d := dbtest.SQLite(f)
	h := build(f, d)
	for _, k := range kinds {
		f.Add(k.typ, "00000000-0000-0000-0000-0000000000cc", `{"roleDefinitionId":"`+PullRole+`","principalId":"`+alice+`"}`)
		f.Add(k.typ, "x", `{"state":"enabled","principals":{"include":["*"]},"actions":["*"],"require":"true"}`)
	}
	f.Fuzz(func(t *testing.T, typ, name, body string) {
		h.t = t
		id := on(shop, typ, name)
		if len(name)%2 == 0 {
			id = on(everywhere, typ, name)
		}
		for _, g := range []Grant{h.as(nobody), h.as(owner)} {
			_, err := h.Put(t.Context(), g, resource.Resource{ID: id, Properties: json.RawMessage(body)}, resource.Any)
			if err != nil && fault.Of(err) == fault.Internal {
				t.Fatalf("%s %s: %v", id, body, err)
			}
			if err == nil && g.Principal().ID == nobody {
				t.Fatalf("%s %s: anybody may", id, body)
			}
			if _, err := h.Delete(t.Context(), g, id, resource.Any); err != nil && fault.Of(err) == fault.Internal {
				t.Fatalf("%s: %v", id, err)
			}
		}
		if _, err := h.LoadAssignments(t.Context(), Registry{}, identity.Principal{ID: owner, Kind: identity.User}); err != nil {
			t.Fatal(err)
		}
	})
}
