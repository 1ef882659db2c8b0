package access

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"breakwater/identity"
	"breakwater/ref"
)

// everyAction is one action of each sort, with the word that the table has for it.
var everyAction = []struct {
	word   string
	action Action
	at     ref.Scope
}{
	{"pull", ContentRead, at("team/api")},
	{"push", ContentWrite, at("team/api")},
	{"delete", ContentDelete, at("team/api")},
	{"look", MetadataRead, at("team/api")},
	{"label", MetadataWrite, at("team/api")},
	{"list", CatalogRead, shop.Scope()},
	{"see-quarantine", QuarantineRead, at("team/api")},
	{"quarantine", QuarantineWrite, at("team/api")},
	{"sign", SignWrite, at("team/api")},
	{"see-deleted", DeletedRead, at("team/api")},
	{"restore", DeletedRestore, at("team/api")},
	{"read", RegistryRead, shop.Scope()},
	{"configure", RegistryWrite, shop.Scope()},
	{"destroy", RegistryDelete, shop.Scope()},
	{"import", registries + "importImage/action", shop.Scope()},
	{"admin-password", registries + "listCredentials/action", shop.Scope()},
	{"new-admin-password", RegenerateCredential, shop.Scope()},
	{"see-tokens", TokenRead, shop.Child("tokens", "ci").Scope()},
	{"tokens", TokenWrite, shop.Child("tokens", "ci").Scope()},
	{"token-password", GenerateCredentials, shop.Scope()},
	{"cache-rules", registries + "cacheRules/write", shop.Child("cacheRules", "r").Scope()},
	{"see-cache-rules", registries + "cacheRules/read", shop.Child("cacheRules", "r").Scope()},
	{"credential-sets", registries + "credentialSets/delete", shop.Child("credentialSets", "c").Scope()},
	{"see-credential-sets", registries + "credentialSets/read", shop.Child("credentialSets", "c").Scope()},
	{"pipelines", registries + "exportPipelines/write", shop.Child("exportPipelines", "e").Scope()},
	{"tasks", registries + "scheduleRun/action", shop.Scope()},
	{"webhook-secrets", registries + "webhooks/getCallbackConfig/action", shop.Child("webhooks", "w").Scope()},
	{"see-assignments", RoleAssignmentRead, shop.Scope()},
	{"assign", RoleAssignmentWrite, shop.Scope()},
	{"define", RoleDefinitionWrite, shop.Scope()},
	{"deny", DenyAssignmentWrite, shop.Scope()},
	{"see-rules", PolicyRead, ref.ID("/providers/" + PolicyType + "/r").Scope()},
	{"rule", PolicyWrite, ref.ID("/providers/" + PolicyType + "/r").Scope()},
	{"users", UserWrite, identity.UserID("mallory").Scope()},
	{"events", EventRead, shop.Scope()},
	{"use-key", KeyUse, ref.ID("/providers/Breakwater.Keys/providers/hsm").Scope()},
}

// TestEveryBuiltInRole says of each role what it gives in a registry of either
// mode, as Azure documents it: assigned at everything.
func TestEveryBuiltInRole(t *testing.T) {
	var all []string
	for _, a := range everyAction {
		all = append(all, a.word)
	}
	const (
		reads   = "read see-deleted see-tokens see-cache-rules see-credential-sets see-assignments see-rules events"
		lets    = "assign define deny"
		own     = "rule users"
		config  = "read admin-password see-tokens webhook-secrets"
		manages = "configure destroy new-admin-password tokens token-password see-assignments"
	)
	both := func(words ...string) [2]string { s := strings.Join(words, " "); return [2]string{s, s} }
	without := func(words ...string) string {
		return strings.Join(slices.DeleteFunc(slices.Clone(all), func(w string) bool {
			return slices.Contains(strings.Fields(strings.Join(words, " ")), w)
		}), " ")
	}
	const dataOnly = "pull push delete look label list" // what ABAC registries give by data actions alone
	table := map[string][2]string{
		"Owner":                     {without(), without(dataOnly)},
		"Contributor":               {without(lets, own), without(lets, own, dataOnly)},
		"Reader":                    {"pull look list see-quarantine " + reads, "see-quarantine " + reads},
		"User Access Administrator": {"pull look list see-quarantine " + reads + " " + lets, "see-quarantine " + reads + " " + lets},
		"Role Based Access Control Administrator": {"pull look list see-quarantine assign " + reads, "see-quarantine assign " + reads},

		"AcrPull":             {"pull look list", ""},
		"AcrPush":             {"pull push look list", ""},
		"AcrDelete":           {"delete", ""},
		"AcrImageSigner":      both("sign"),
		"AcrQuarantineReader": both("see-quarantine"),
		"AcrQuarantineWriter": both("see-quarantine quarantine"),

		"Key Vault Crypto Service Encryption User": both("use-key"),

		"Container Registry Repository Reader":             {"", "pull look"},
		"Container Registry Repository Writer":             {"", "pull push look label"},
		"Container Registry Repository Contributor":        {"", "pull push delete look label"},
		"Container Registry Repository Catalog Lister":     {"", "list"},
		"Container Registry Data Importer and Data Reader": {"pull look list read import", "pull look list read import"},

		"Container Registry Cache Rule Administrator":      both("cache-rules see-cache-rules"),
		"Container Registry Cache Rule Reader":             both("see-cache-rules"),
		"Container Registry Credential Set Administrator":  both("credential-sets see-credential-sets"),
		"Container Registry Credential Set Reader":         both("see-credential-sets"),
		"Container Registry Transfer Pipeline Contributor": both("pipelines"),
		"Container Registry Tasks Contributor":             both("tasks read"),

		"Container Registry Contributor and Data Access Configuration Administrator":   both(config, manages),
		"Container Registry Configuration Reader and Data Access Configuration Reader": both(config),
	}
	if len(table) != len(roles) {
		t.Errorf("the table has %d roles, and there are %d", len(table), len(roles))
	}
	for _, r := range Roles() {
		row, ok := table[r.Name]
		if !ok {
			t.Errorf("%s is not in the table", r.Name)
		}
		held := NewHeld(Assignment{Principal: "u1", Role: r.ID, Scope: ref.Everything})
		for i, mode := range []Mode{Legacy, ABAC} {
			for _, a := range everyAction {
				want := slices.Contains(strings.Fields(row[i]), a.word)
				if got := Decide(someone, held, Need{Action: a.action, Scope: a.at, Mode: mode}, now); got.Allowed != want {
					t.Errorf("%s in %s: %s is %v", r.Name, mode, a.word, got.Reason)
				}
			}
		}
	}
}

func mustCondition(text string) *Condition {
	c, err := ParseCondition(text)
	if err != nil {
		panic(err)
	}
	return c
}

func TestDenialsOverride(t *testing.T) {
	owner := Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything}
	deny := func(a Assignment, p Permission) *Held {
		a.Deny, a.Permissions, a.Name = true, []Permission{p}, "d1"
		if a.Principal == "" {
			a.Principal = Everybody
		}
		if a.Scope == "" {
			a.Scope = shop.Scope()
		}
		return NewHeld(owner, a)
	}
	pulls := Permission{Actions: []string{registries + "pull/read"}}
	data := Permission{DataActions: []string{registries + "repositories/content/*"}}
	member := someone
	member.Groups = []string{"g1"}
	for _, row := range []struct {
		sentence string
		held     *Held
		p        identity.Principal
		n        Need
		want     Reason
	}{
		{"everybody is denied", deny(Assignment{}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Denied},
		{"also one of a group", deny(Assignment{Principal: "g1"}, pulls), member, Need{Action: ContentRead, Scope: at("a")}, Denied},
		{"but not one outside it", deny(Assignment{Principal: "g1"}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Assigned},
		{"nor who is excluded", deny(Assignment{Exclude: []string{"u1"}}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Assigned},
		{"nor whose group is excluded", deny(Assignment{Exclude: []string{"g1"}}, pulls), member, Need{Action: ContentRead, Scope: at("a")}, Assigned},
		{"another action is not denied", deny(Assignment{}, pulls), someone, Need{Action: ContentWrite, Scope: at("a")}, Assigned},
		{"what is taken out is not denied", deny(Assignment{}, Permission{Actions: []string{"*"}, NotActions: []string{"*/read"}}), someone, Need{Action: ContentRead, Scope: at("a")}, Assigned},
		{"data actions deny in a legacy registry too", deny(Assignment{}, data), someone, Need{Action: ContentRead, Scope: at("a")}, Denied},
		{"there they deny nothing else", deny(Assignment{}, data), someone, Need{Action: RegistryRead, Scope: shop.Scope()}, Assigned},
		{"below its scope", deny(Assignment{Scope: shop.Parent().Parent().Scope()}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Denied},
		{"not below its scope", deny(Assignment{Here: true}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Assigned},
		{"but at it", deny(Assignment{Here: true}, Permission{Actions: []string{string(RegistryRead)}}), someone, Need{Action: RegistryRead, Scope: shop.Scope()}, Denied},
		{"one repository", deny(Assignment{Scope: at("a")}, pulls), someone, Need{Action: ContentRead, Scope: at("b")}, Assigned},
		{"while its condition is true", deny(Assignment{Condition: mustCondition(name + " StringEquals 'a'")}, pulls), someone, Need{Action: ContentRead, Scope: at("a")}, Denied},
		{"not while it is false", deny(Assignment{Condition: mustCondition(name + " StringEquals 'a'")}, pulls), someone, Need{Action: ContentRead, Scope: at("b")}, Assigned},
		{"and while nobody knows", deny(Assignment{Condition: mustCondition(claims + "x] StringEquals 'a'")}, pulls), someone, Need{Action: ContentRead, Scope: at("b")}, Denied},
		{"or nobody can read it", deny(Assignment{Condition: condition("@Tomorrow[x] StringEquals 'a'")}, pulls), someone, Need{Action: ContentRead, Scope: at("b")}, Denied},
		{"who shows nothing is denied like everybody", NewHeld(Assignment{Actions: []Action{ContentRead}, Scope: shop.Scope()}, Assignment{Principal: Everybody, Deny: true, Permissions: []Permission{pulls}, Scope: shop.Scope()}),
			identity.Principal{Kind: identity.Anonymous}, Need{Action: ContentRead, Scope: at("a")}, Denied},
	} {
		if got := Decide(row.p, row.held, row.n, now); got.Reason != row.want || got.Allowed != (row.want == Assigned) || (got.Rule != "") != (row.want == Denied) && row.p.ID != "" {
			t.Errorf("%s: %+v", row.sentence, got)
		}
	}
}

func TestAssignmentsOfGroupsAndTheirConditions(t *testing.T) {
	member := someone
	member.Groups = []string{"g1", "g2"}
	held := NewHeld(
		Assignment{Principal: "g2", Role: PullRole, Scope: shop.Scope(), Condition: mustCondition(name + " StringStartsWith 'team/'")},
		Assignment{Principal: "u1", Role: PushRole, Scope: shop.Scope(), Condition: condition("@Tomorrow[x] StringEquals 'a'")})
	for _, row := range []struct {
		p    identity.Principal
		n    Need
		want bool
	}{
		{member, Need{Action: ContentRead, Scope: at("team/api")}, true},
		{member, Need{Action: ContentRead, Scope: at("team2/api")}, false},
		{member, Need{Action: CatalogRead, Scope: shop.Scope()}, false}, // of which repository nobody knows
		{someone, Need{Action: ContentRead, Scope: at("team/api")}, false},
		{member, Need{Action: ContentWrite, Scope: at("team/api")}, false}, // a condition that nobody can read
	} {
		if got := Decide(row.p, held, row.n, now); got.Allowed != row.want {
			t.Errorf("%v %s %s: %+v", row.p.Groups, row.n.Action, row.n.Scope, got)
		}
	}
}

func TestManagementGroupsCoverWhatLiesInThem(t *testing.T) {
	const groups = "/providers/microsoft.management/managementgroups/"
	subscription := ref.Subscription("00000000-0000-0000-0000-000000000001").Scope()
	for scope, want := range map[ref.Scope]bool{groups + "inner": true, groups + "outer": true, groups + "other": false, groups + "inn": false} {
		held := NewHeld(Assignment{Principal: "u1", Role: PullRole, Scope: scope})
		held.above = ancestry{subscription: {groups + "inner", groups + "outer"}, groups + "inner": {groups + "outer"}}
		for _, n := range []Need{{Action: ContentRead, Scope: at("team/api")}, {Action: CatalogRead, Scope: shop.Scope()}} {
			if got := Decide(someone, held, n, now); got.Allowed != want {
				t.Errorf("%s, %s: %+v", scope, n.Scope, got)
			}
		}
		if Decide(someone, held, Need{Action: ContentRead, Scope: "/subscriptions/2/x"}, now).Allowed {
			t.Errorf("%s gives a right in another subscription", scope)
		}
	}
}

// ruled is Held of an owner with one rule.
func ruled(scope ref.Scope, r rule) *Held {
	h := NewHeld(Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything})
	r.name = "r1"
	h.rules = map[ref.Scope][]*rule{scope: {&r}}
	h.locations = []location{{name: "office", networks: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}}
	return h
}

func TestRulesLetThroughOnlyWhatTheyRequire(t *testing.T) {
	office := mustCondition(`@Environment[Locations] ForAnyOfAnyValues:StringEquals {'office'}`)
	strong := mustCondition(`@Principal[Amr] ForAnyOfAnyValues:StringEquals {'mfa'}`)
	young := mustCondition(`@Principal[AuthenticationAge] NumericLessThan 3600`)
	here, there := Circumstances{Address: netip.MustParseAddr("203.0.113.9")}, Circumstances{Address: netip.MustParseAddr("198.51.100.9")}
	mfa, old := someone, someone
	mfa.Authentication.AMR = []string{"pwd", "mfa"}
	old.Authentication.Time = now.Add(-2 * time.Hour)
	content := []string{registries + "repositories/content/*"}
	for _, row := range []struct {
		sentence string
		scope    ref.Scope
		r        rule
		p        identity.Principal
		n        Need
		want     Reason
		note     string // reported or broke
	}{
		{"from the office", "/", rule{actions: content, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: here}, Assigned, ""},
		{"from elsewhere", "/", rule{actions: content, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Ruled, ""},
		{"from nobody knows where", "/", rule{actions: content, require: office}, someone, Need{Action: ContentRead, Scope: at("a")}, Ruled, ""},
		{"another action", "/", rule{actions: content, require: office}, someone, Need{Action: MetadataRead, Scope: at("a"), From: there}, Assigned, ""},
		{"by the name that it has in legacy registries", "/", rule{actions: []string{registries + "pull/*"}, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Ruled, ""},
		{"which is none in others", "/", rule{actions: []string{registries + "pull/*"}, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: there, Mode: ABAC}, Unassigned, ""},
		{"another scope", at("b"), rule{actions: content, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Assigned, ""},
		{"this scope", at("a"), rule{actions: content, require: office}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Ruled, ""},
		{"with a second factor", "/", rule{actions: []string{"*"}, require: strong}, mfa, Need{Action: RegistryWrite, Scope: shop.Scope()}, Assigned, ""},
		{"without", "/", rule{actions: []string{"*"}, require: strong}, someone, Need{Action: RegistryWrite, Scope: shop.Scope()}, Ruled, ""},
		{"a sign-in of just now", "/", rule{actions: []string{"*"}, require: young}, someone, Need{Action: ContentRead, Scope: at("a")}, Assigned, ""},
		{"an old one", "/", rule{actions: []string{"*"}, require: young}, old, Need{Action: ContentRead, Scope: at("a")}, Ruled, ""},
		{"reported", "/", rule{actions: content, require: office, reports: true}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Assigned, "reported"},
		{"nothing to report", "/", rule{actions: content, require: office, reports: true}, someone, Need{Action: ContentRead, Scope: at("a"), From: here}, Assigned, ""},
		{"excluded", "/", rule{actions: content, require: office, excluded: true}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Assigned, "broke"},
		{"excluded, without need", "/", rule{actions: content, require: office, excluded: true}, someone, Need{Action: ContentRead, Scope: at("a"), From: here}, Assigned, ""},
		{"excluded from a report", "/", rule{actions: content, require: office, excluded: true, reports: true}, someone, Need{Action: ContentRead, Scope: at("a"), From: there}, Assigned, ""},
		{"a rule gives nothing", "/", rule{actions: content, require: mustCondition("true")}, identity.Principal{ID: "u2", Kind: identity.User}, Need{Action: ContentRead, Scope: at("a")}, Unassigned, ""},
		{"a rule that lets nothing through", "/", rule{actions: content, require: mustCondition("false")}, someone, Need{Action: ContentRead, Scope: at("a"), From: here}, Ruled, ""},
		{"a rule that nobody can read", "/", rule{actions: content, require: condition("@Tomorrow[x] StringEquals 'a'")}, someone, Need{Action: ContentRead, Scope: at("a"), From: here}, Ruled, ""},
	} {
		got := Decide(row.p, ruled(row.scope, row.r), row.n, now)
		note := ""
		if got.Reported != nil {
			note = "reported"
		}
		if got.BrokeGlass != nil {
			note = "broke"
		}
		if got.Reason != row.want || got.Allowed != (row.want == Assigned) || note != row.note || (got.Rule == "r1") != (row.want == Ruled) {
			t.Errorf("%s: %+v", row.sentence, got)
		}
	}
}

func TestTheCatalogShowsWhatMayBeSeen(t *testing.T) {
	lister := Assignment{Principal: "u1", Role: "bfdb9389-c9a5-478a-bb2f-ba9ca092c3c7", Scope: shop.Scope()}
	conditioned := lister
	conditioned.Condition = mustCondition(name + " StringStartsWith 'team/'")
	deny := func(p Permission) Assignment {
		return Assignment{Principal: Everybody, Deny: true, Scope: at("secret"), Permissions: []Permission{p}}
	}
	rules := ruled(at("secret"), rule{actions: []string{"*"}, require: mustCondition("false")})
	for _, row := range []struct {
		sentence string
		held     *Held
		mode     Mode
		want     string
	}{
		{"who may list sees names, also of what it may not pull", NewHeld(lister), ABAC, "team/api other secret"},
		{"a condition narrows it", NewHeld(conditioned), ABAC, "team/api"},
		{"a denial of the list", NewHeld(lister, deny(Permission{DataActions: []string{string(CatalogRead)}})), ABAC, "team/api other"},
		{"a denial of the content", NewHeld(lister, deny(Permission{DataActions: []string{string(ContentRead)}})), ABAC, "team/api other"},
		{"a denial of pushing hides nothing", NewHeld(lister, deny(Permission{DataActions: []string{string(ContentWrite)}})), ABAC, "team/api other secret"},
		{"a rule hides", rules, Legacy, "team/api other"},
		{"who may only pull does not list", NewHeld(Assignment{Principal: "u1", Role: PullRole, Scope: shop.Scope()}), ABAC, ""},
		{"in a legacy registry it does", NewHeld(Assignment{Principal: "u1", Role: PullRole, Scope: shop.Scope()}), Legacy, "team/api other secret"},
	} {
		p := someone
		p.Ceiling = &identity.Ceiling{Access: []identity.Access{{Type: "registry", Name: "catalog", Actions: []string{"*"}}}}
		g := NewGrant(Registry{UID: "r1", ID: shop, Mode: row.mode}, p, row.held, Call{})
		var seen []string
		for _, r := range []ref.Repository{"team/api", "other", "secret"} {
			if g.Lists(r) {
				seen = append(seen, string(r))
			}
		}
		if got := strings.Join(seen, " "); got != row.want || g.Admits(CatalogRead, g.Scope()).Allowed != (row.want != "") {
			t.Errorf("%s: %q, and the door says %+v", row.sentence, got, g.Admits(CatalogRead, g.Scope()))
		}
	}
}

// TestQuarantineIsAlsoAnAttribute: the door lets in who may change only that of the
// attributes, and the domain asks what is changed.
func TestQuarantineIsAlsoAnAttribute(t *testing.T) {
	of := func(role string) Grant {
		return NewGrant(Registry{UID: "r1", ID: shop}, someone, NewHeld(Assignment{Principal: "u1", Role: role, Scope: shop.Scope()}), Call{})
	}
	for role, want := range map[string]bool{QuarantineWriterRole: true, ContributorRole: true, QuarantineReaderRole: false, PushRole: false} {
		g := of(role)
		if g.Admits(MetadataWrite, at("a")).Allowed != want || g.Can(MetadataWrite, at("a")) != (role == ContributorRole) {
			t.Errorf("%s: %+v", role, g.Admits(MetadataWrite, at("a")))
		}
	}
	if given := of(QuarantineWriterRole).Ask(identity.ParseScopes([]string{"repository:a:metadata_write,metadata_read,push"})); len(given) != 1 || strings.Join(given[0].Actions, ",") != "metadata_read,metadata_write" {
		t.Errorf("%+v", given)
	}
}

// TestWhatWasDeletedHasRightsOfItsOwn, which no data action gives.
func TestWhatWasDeletedHasRightsOfItsOwn(t *testing.T) {
	data := Permission{DataActions: []string{"*"}}
	for _, mode := range []Mode{Legacy, ABAC} {
		held := &Held{}
		held.add(Assignment{Principal: "u1", Permissions: []Permission{data}, Scope: shop.Scope()})
		p := someone
		p.Ceiling = &identity.Ceiling{Access: []identity.Access{{Type: "registry", Name: "deleted_catalog", Actions: []string{"*"}}}}
		if g := NewGrant(Registry{UID: "r1", ID: shop, Mode: mode}, p, held, Call{}); g.Admits(DeletedRead, shop.Scope()).Allowed || g.ListsDeleted("a") {
			t.Errorf("%s: a data action shows what was deleted", mode)
		}
		g := NewGrant(Registry{UID: "r1", ID: shop, Mode: mode}, p, NewHeld(Assignment{Principal: "u1", Role: ReaderRole, Scope: shop.Scope()}), Call{})
		if !g.Admits(DeletedRead, shop.Scope()).Allowed || !g.ListsDeleted("a") || g.Can(DeletedRead, at("a")) || g.Admits(CatalogRead, shop.Scope()).Allowed {
			t.Errorf("%s: a token for the catalog of deleted repositories is for that", mode)
		}
		p.Ceiling = nil
		g = NewGrant(Registry{UID: "r1", ID: shop, Mode: mode}, p, NewHeld(Assignment{Principal: "u1", Role: ReaderRole, Scope: shop.Scope()}), Call{})
		given := g.Ask(identity.ParseScopes([]string{"repository:a:deleted_read,deleted_restore registry:deleted_catalog:* registry:deleted_catalog:deleted_read"}))
		if len(given) != 2 || strings.Join(given[0].Actions, ",") != "deleted_read" || strings.Join(given[1].Actions, ",") != "*" {
			t.Errorf("%s: %+v", mode, given)
		}
	}
}

// TestTheDoorAsksWhatItCanKnow: a delegate who may assign one role only comes in,
// and is refused by the domain for another.
func TestTheDoorAsksWhatItCanKnow(t *testing.T) {
	held := NewHeld(Assignment{Principal: "u1", Role: "f58310d9-a9f6-439a-9e8d-f62e7b41a168", Scope: shop.Scope(), Condition: mustCondition(
		`(!(ActionMatches{'Microsoft.Authorization/roleAssignments/write'}) OR @Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {` + PullRole + `})` +
			` AND (!(ActionMatches{'Microsoft.Authorization/roleAssignments/delete'}) OR @Resource[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {` + PullRole + `})`)})
	g := NewGrant(Registry{UID: "r1", ID: shop}, someone, held, Call{})
	for _, a := range []Action{RoleAssignmentWrite, RoleAssignmentDelete} {
		if !g.Admits(a, shop.Scope()).Allowed || g.Can(a, shop.Scope()) {
			t.Errorf("%s: the door knows too much or too little", a)
		}
		if err := g.allowsAssignment(a, &Assignment{Role: PullRole, Scope: shop.Scope()}); err != nil {
			t.Error(a, err)
		}
		if err := g.allowsAssignment(a, &Assignment{Role: OwnerRole, Scope: shop.Scope()}); err == nil {
			t.Errorf("%s of another role", a)
		}
		if err := g.allowsAssignment(a, &Assignment{Role: PullRole, Scope: ref.Everything}); err == nil {
			t.Errorf("%s elsewhere", a)
		}
	}
	if g.Admits(RegistryWrite, shop.Scope()).Allowed || g.Admits(RoleAssignmentWrite, ref.Everything).Allowed {
		t.Error("the door lets in who has no right")
	}
}

// TestATokenIsForWhatMayBeUsedSomehow: what depends on the operation, or on which
// repository, is decided where the token is used.
func TestATokenIsForWhatMayBeUsedSomehow(t *testing.T) {
	h := ruled(ref.Everything, rule{actions: []string{registries + "*"}, require: mustCondition(`SubOperationMatches{'Pull*'} AND ` + name + ` StringStartsWith 'team/'`)})
	g := NewGrant(Registry{UID: "r1", ID: shop}, someone, h, Call{Operation: "Token"})
	given := g.Ask(identity.ParseScopes([]string{"repository:team/api:pull repository:other:pull registry:catalog:*"}))
	if len(given) != 2 || given[0].Name != "team/api" || given[1].Name != "catalog" {
		t.Errorf("%v", given)
	}
	if g.Can(ContentRead, at("team/api")) {
		t.Error("the operation of asking for a token is not one that pulls")
	}
	delegated := NewHeld(Assignment{Principal: "u1", Role: PullRole, Scope: shop.Scope(), Condition: mustCondition(name + ` StringStartsWith 'team/'`)})
	g = NewGrant(Registry{UID: "r1", ID: shop}, someone, delegated, Call{})
	if given := g.Ask(identity.ParseScopes([]string{"repository:*:pull,push"})); len(given) != 1 || strings.Join(given[0].Actions, " ") != "pull" {
		t.Errorf("%v", given)
	}
	if !g.Sees(shop.Scope()) || !g.Sees(ref.Everything) || !g.Sees(at("x")) || g.Sees("/subscriptions/2") {
		t.Error("what is assigned somewhere is not on the way there")
	}
}

// TestScopesThatCoverAreFound compares the way to the top with what Covers says.
func TestScopesThatCoverAreFound(t *testing.T) {
	all := []ref.Scope{"/", "/subscriptions/a", "/subscriptions/a/resourcegroups/g", "/subscriptions/ab", shop.Scope(), shop.Scope() + "2",
		shop.Parent().Scope(), at("team"), at("team/api"), at("team/repositories/x"), at("repositories/x"), "/providers/a.b/c/d", shop.Child("tokens", "t").Scope()}
	h := &Held{}
	for _, s := range all {
		var way []ref.Scope
		h.above.scopes(s, func(up ref.Scope) bool {
			if slices.Contains(way, up) {
				t.Errorf("%s is twice on the way from %s", up, s)
			}
			way = append(way, up)
			return true
		})
		for _, up := range all {
			if slices.Contains(way, up) != up.Covers(s) {
				t.Errorf("%s covers %s: %v, on the way: %v", up, s, up.Covers(s), !up.Covers(s))
			}
		}
	}
}
