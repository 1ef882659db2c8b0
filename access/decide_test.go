package access

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
)

const shop = ref.ID("/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/Trade/providers/Microsoft.ContainerRegistry/registries/shop")

func at(repo ref.Repository) ref.Scope { return ref.RepositoryScope(shop, repo) }

var (
	someone = identity.Principal{ID: "u1", Kind: identity.User}
	now     = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
)

func TestDecisionsOfBuiltInRoles(t *testing.T) {
	const yes, no = true, false
	for _, row := range []struct {
		role         string
		mode         Mode
		pull         bool
		push         bool
		delete       bool
		look         bool // metadata read
		label        bool // metadata write
		catalog      bool
		writeTokens  bool
		readRegistry bool
		assign       bool
	}{
		{"Owner", Legacy, yes, yes, yes, yes, yes, yes, yes, yes, yes},
		{"Contributor", Legacy, yes, yes, yes, yes, yes, yes, yes, yes, no},
		{"Reader", Legacy, yes, no, no, yes, no, yes, no, yes, no},
		{"User Access Administrator", Legacy, yes, no, no, yes, no, yes, no, yes, yes},
		{"Role Based Access Control Administrator", Legacy, yes, no, no, yes, no, yes, no, yes, yes},
		{"AcrPull", Legacy, yes, no, no, yes, no, yes, no, no, no},
		{"AcrPush", Legacy, yes, yes, no, yes, no, yes, no, no, no},
		{"AcrDelete", Legacy, no, no, yes, no, no, no, no, no, no},
		{"Container Registry Repository Reader", Legacy, no, no, no, no, no, no, no, no, no},
		{"Container Registry Repository Contributor", Legacy, no, no, no, no, no, no, no, no, no},
		{"Container Registry Contributor and Data Access Configuration Administrator", Legacy, no, no, no, no, no, no, yes, yes, no},
		{"Container Registry Configuration Reader and Data Access Configuration Reader", Legacy, no, no, no, no, no, no, no, yes, no},

		{"Owner", ABAC, no, no, no, no, no, no, yes, yes, yes},
		{"Contributor", ABAC, no, no, no, no, no, no, yes, yes, no},
		{"Reader", ABAC, no, no, no, no, no, no, no, yes, no},
		{"AcrPull", ABAC, no, no, no, no, no, no, no, no, no},
		{"AcrPush", ABAC, no, no, no, no, no, no, no, no, no},
		{"AcrDelete", ABAC, no, no, no, no, no, no, no, no, no},
		{"Container Registry Repository Reader", ABAC, yes, no, no, yes, no, no, no, no, no},
		{"Container Registry Repository Writer", ABAC, yes, yes, no, yes, yes, no, no, no, no},
		{"Container Registry Repository Contributor", ABAC, yes, yes, yes, yes, yes, no, no, no, no},
		{"Container Registry Repository Catalog Lister", ABAC, no, no, no, no, no, yes, no, no, no},
		{"Container Registry Data Importer and Data Reader", ABAC, yes, no, no, yes, no, yes, no, yes, no},
	} {
		r, err := RoleByName(row.role)
		if err != nil {
			t.Fatal(row.role, err)
		}
		as := []Assignment{{Principal: "u1", Role: r.ID, Scope: shop.Scope()}}
		for _, n := range []struct {
			action Action
			scope  ref.Scope
			want   bool
		}{
			{ContentRead, at("team/api"), row.pull},
			{ContentWrite, at("team/api"), row.push},
			{ContentDelete, at("team/api"), row.delete},
			{MetadataRead, at("team/api"), row.look},
			{MetadataWrite, at("team/api"), row.label},
			{CatalogRead, shop.Scope(), row.catalog},
			{TokenWrite, shop.Child("tokens", "ci").Scope(), row.writeTokens},
			{RegistryRead, shop.Scope(), row.readRegistry},
			{RoleAssignmentWrite, shop.Scope(), row.assign},
			{UserWrite, identity.UserID("mallory").Scope(), false}, // not at a registry
		} {
			if got := Decide(someone, NewHeld(as...), Need{Action: n.action, Scope: n.scope, Mode: row.mode}, now); got.Allowed != n.want {
				t.Errorf("%s in %s, %s: %v", row.role, row.mode, n.action, got)
			}
		}
	}
}

func TestDecisions(t *testing.T) {
	pull := func(a Assignment) []Assignment {
		a.Principal, a.Actions = "u1", []Action{ContentRead}
		return []Assignment{a}
	}
	everywhere := Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything}
	ceiling := func(access ...identity.Access) identity.Principal {
		p := someone
		p.Ceiling = &identity.Ceiling{Access: access}
		return p
	}
	read := Need{Action: ContentRead, Scope: at("team/api")}
	for _, row := range []struct {
		sentence string
		p        identity.Principal
		as       []Assignment
		n        Need
		want     Reason
	}{
		{"nothing is assigned", someone, nil, read, Unassigned},
		{"an owner of everything may pull", someone, []Assignment{everywhere}, read, Assigned},
		{"a principal that nobody proved may nothing", identity.Principal{ID: "u1"}, []Assignment{everywhere}, read, Unassigned},
		{"the zero principal may nothing, even what anybody may", identity.Principal{}, []Assignment{{Actions: []Action{ContentRead}, Scope: ref.Everything}}, read, Unassigned},
		{"the need of nothing is refused", someone, []Assignment{everywhere}, Need{}, Unassigned},
		{"a need without a place is refused", someone, []Assignment{everywhere}, Need{Action: ContentRead}, Unassigned},
		{"what others are assigned is theirs", someone, []Assignment{{Principal: "u2", Role: OwnerRole, Scope: ref.Everything}}, read, Unassigned},
		{"an assignment without a scope gives nothing", someone, pull(Assignment{}), read, Unassigned},
		{"a role that does not exist gives nothing", someone, []Assignment{{Principal: "u1", Role: "11111111-1111-1111-1111-111111111111", Scope: ref.Everything}}, read, Unassigned},
		{"the resource group covers the registry", someone, pull(Assignment{Scope: shop.Parent().Parent().Scope()}), read, Assigned},
		{"another registry does not", someone, pull(Assignment{Scope: shop.Scope() + "2"}), read, Unassigned},
		{"a part of a name does not", someone, pull(Assignment{Scope: shop.Scope()[:len(shop)-1]}), read, Unassigned},
		{"a repository covers itself", someone, pull(Assignment{Scope: at("team/api")}), read, Assigned},
		{"a repository does not cover those below its name", someone, pull(Assignment{Scope: at("team")}), read, Unassigned},
		{"a prefix covers what is below it", someone, pull(Assignment{Scope: shop.Scope(), Prefix: "team/"}), read, Assigned},
		{"a prefix does not cover itself", someone, pull(Assignment{Scope: shop.Scope(), Prefix: "team/"}), Need{Action: ContentRead, Scope: at("team")}, Unassigned},
		{"a prefix does not cover its neighbour", someone, pull(Assignment{Scope: shop.Scope(), Prefix: "team/"}), Need{Action: ContentRead, Scope: at("team2/api")}, Unassigned},
		{"a prefix does not cover the registry", someone, []Assignment{{Principal: "u1", Role: OwnerRole, Scope: shop.Scope(), Prefix: "team/"}}, Need{Action: RegistryRead, Scope: shop.Scope()}, Unassigned},
		{"another action is not given", someone, pull(Assignment{Scope: shop.Scope()}), Need{Action: ContentWrite, Scope: at("team/api")}, Unassigned},
		{"listed actions hold in either mode", someone, pull(Assignment{Scope: shop.Scope()}), Need{Action: ContentRead, Scope: at("team/api"), Mode: ABAC}, Assigned},
		{"until then", someone, pull(Assignment{Scope: shop.Scope(), Until: now.Add(1)}), read, Assigned},
		{"and no longer", someone, pull(Assignment{Scope: shop.Scope(), Until: now}), read, Unassigned},
		{"a denial overrides, whatever comes after it", someone, append(pull(Assignment{Scope: shop.Scope(), Deny: true}), everywhere), read, Denied},
		{"and whatever came before it", someone, append([]Assignment{everywhere}, pull(Assignment{Scope: shop.Scope(), Deny: true})...), read, Denied},
		{"a denial of another repository does not matter", someone, append([]Assignment{everywhere}, pull(Assignment{Scope: at("other"), Deny: true})...), read, Assigned},
		{"a denial that has ended does not matter", someone, append([]Assignment{everywhere}, pull(Assignment{Scope: shop.Scope(), Deny: true, Until: now})...), read, Assigned},
		{"an empty ceiling lets nothing through", ceiling(), []Assignment{everywhere}, read, Ceiled},
		{"a ceiling leaves what it names", ceiling(identity.Access{Type: "repository", Name: "team/api", Actions: []string{"pull"}}), []Assignment{everywhere}, read, Assigned},
		{"and no other repository", ceiling(identity.Access{Type: "repository", Name: "team/ap", Actions: []string{"pull"}}), []Assignment{everywhere}, read, Ceiled},
		{"and no other action", ceiling(identity.Access{Type: "repository", Name: "team/api", Actions: []string{"push"}}), []Assignment{everywhere}, read, Ceiled},
		{"a ceiling gives nothing", ceiling(identity.Access{Type: "repository", Name: "team/api", Actions: []string{"pull"}}), nil, read, Unassigned},
		{"a push token does not delete", ceiling(identity.Access{Type: "repository", Name: "team/api", Actions: []string{"pull", "push"}}), []Assignment{everywhere}, Need{Action: ContentDelete, Scope: at("team/api")}, Ceiled},
		{"a token for every repository", ceiling(identity.Access{Type: "repository", Name: "*", Actions: []string{"pull"}}), []Assignment{everywhere}, read, Assigned},
		{"is not one for the catalog", ceiling(identity.Access{Type: "repository", Name: "*", Actions: []string{"*", "pull"}}), []Assignment{everywhere}, Need{Action: CatalogRead, Scope: shop.Scope()}, Ceiled},
		{"a catalog token lists", ceiling(identity.Access{Type: "registry", Name: "catalog", Actions: []string{"*"}}), []Assignment{everywhere}, Need{Action: CatalogRead, Scope: shop.Scope()}, Assigned},
		{"and does not pull", ceiling(identity.Access{Type: "registry", Name: "catalog", Actions: []string{"*", "pull"}}), []Assignment{everywhere}, read, Ceiled},
		{"a token of the data plane opens nothing of the control plane", ceiling(identity.Access{Type: "registry", Name: "catalog", Actions: []string{"*"}}, identity.Access{Type: "repository", Name: "*", Actions: []string{"*"}}), []Assignment{everywhere}, Need{Action: TokenWrite, Scope: shop.Scope()}, Ceiled},
		{"anybody may what nobody in particular is assigned", identity.Principal{Kind: identity.Anonymous}, []Assignment{{Actions: []Action{ContentRead}, Scope: shop.Scope()}}, read, Assigned},
		{"but only that", identity.Principal{Kind: identity.Anonymous}, []Assignment{{Actions: []Action{ContentRead}, Scope: shop.Scope()}}, Need{Action: ContentWrite, Scope: at("team/api")}, Unassigned},
	} {
		if got := Decide(row.p, NewHeld(row.as...), row.n, now); got.Reason != row.want || got.Allowed != (row.want == Assigned) {
			t.Errorf("%s: got %+v", row.sentence, got)
		}
	}
}

func TestZeroGrantOpensNothing(t *testing.T) {
	var g Grant
	for _, a := range []Action{"", ContentRead, CatalogRead, RegistryRead, UserWrite} {
		for _, s := range []ref.Scope{"", ref.Everything, shop.Scope(), at("team/api"), g.Scope(), g.RepositoryScope("team/api")} {
			if err := g.Allows(a, s); fault.Of(err) != fault.Denied {
				t.Errorf("the zero grant allows %q at %q", a, s)
			}
		}
	}
	if g.Registry() != "" || g.RegistryID() != "" || g.Principal().Kind != "" || g.UnaskedAnywhere(ContentRead) || g.Unasked(ContentRead, at("team/api")) {
		t.Error("the zero grant is for something")
	}
	if got := g.Ask(identity.ParseScopes([]string{"repository:team/api:pull registry:catalog:* repository:*:pull"})); len(got) != 0 {
		t.Errorf("the zero grant gives a token %v", got)
	}
	if e := g.Event("c", "o", at("team/api")); e.Who.ID != "" || e.Registry != "" {
		t.Errorf("the zero grant is somebody: %+v", e)
	}
}

func TestTokensAreIssuedForWhatTheCallerMay(t *testing.T) {
	as := []Assignment{
		{Principal: "u1", Actions: []Action{ContentRead, MetadataRead}, Scope: shop.Scope(), Prefix: "team/"},
		{Principal: "u1", Actions: []Action{ContentWrite}, Scope: at("team/api")},
	}
	g := NewGrant(Registry{UID: "r1", ID: shop}, someone, NewHeld(as...), Call{})
	for _, row := range []struct{ asked, given string }{
		{"repository:team/api:pull", "repository:team/api:pull"},
		{"repository:team/api:pull,push,delete", "repository:team/api:pull,push"},
		{"repository:team/api:*", "repository:team/api:pull,push,metadata_read"},
		{"repository:team/web:push,pull", "repository:team/web:pull"},
		{"repository:other:pull,push", ""},
		{"repository:team/api:push repository:team/web:pull repository:other:pull", "repository:team/api:push repository:team/web:pull"},
		{"repository:*:pull,push,delete", "repository:*:pull,push"},
		{"registry:catalog:*", ""},
		{"registry:None:*", ""},
		{"artifact-repository:repo:pull", ""},
		{"repository:TEAM/api:pull", ""},
		{"repository:team/../other:pull", ""},
		{"repository:team/api:fly", ""},
	} {
		var given []string
		for _, a := range g.Ask(identity.ParseScopes([]string{row.asked})) {
			given = append(given, a.Type+":"+a.Name+":"+strings.Join(a.Actions, ","))
		}
		if got := strings.Join(given, " "); got != row.given {
			t.Errorf("%s: given %q, want %q", row.asked, got, row.given)
		}
	}
	owner := NewGrant(Registry{UID: "r1", ID: shop}, someone, NewHeld(Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything}), Call{})
	if got := owner.Ask(identity.ParseScopes([]string{"registry:catalog:*"})); len(got) != 1 || got[0].Actions[0] != "*" {
		t.Errorf("an owner asked for the catalog and was given %v", got)
	}
}

func TestOnlyTheTokenStandsInTheWay(t *testing.T) {
	p := someone
	p.Ceiling = &identity.Ceiling{Access: []identity.Access{{Type: "repository", Name: "team/api", Actions: []string{"pull", "push"}}}}
	as := []Assignment{{Principal: "u1", Actions: []Action{ContentRead, ContentWrite}, Scope: shop.Scope(), Prefix: "team/"}}
	g := NewGrant(Registry{UID: "r1", ID: shop}, p, NewHeld(as...), Call{})
	if g.Unasked(ContentRead, at("team/api")) || !g.Unasked(ContentRead, at("team/web")) || g.Unasked(ContentRead, at("other")) {
		t.Error("Unasked is for what the caller may but its token may not")
	}
	if !g.UnaskedAnywhere(ContentRead) || g.UnaskedAnywhere(ContentDelete) {
		t.Error("UnaskedAnywhere is for rights that the caller has somewhere")
	}
}

func TestActionsOfScopeMaps(t *testing.T) {
	for _, row := range []struct {
		text   string
		scope  ref.Scope
		prefix string
		action Action
	}{
		{"repositories/team/api/content/read", at("team/api"), "", ContentRead},
		{"repositories/team/api/content/write", at("team/api"), "", ContentWrite},
		{"repositories/api/content/delete", at("api"), "", ContentDelete},
		{"repositories/team/*/metadata/read", shop.Scope(), "team/", MetadataRead},
		{"repositories/*/metadata/write", shop.Scope(), "", MetadataWrite},
		{"repositories/metadata/write/metadata/write", at("metadata/write"), "", MetadataWrite},
	} {
		a, err := ParseMapped(shop, row.text)
		if err != nil || a.Scope != row.scope || a.Prefix != row.prefix || len(a.Actions) != 1 || a.Actions[0] != row.action {
			t.Errorf("%s: %+v, %v", row.text, a, err)
		}
	}
	for _, text := range []string{"", "repositories//content/read", "repositories/team/api", "repositories/a/*/b/content/read", "repositories/a*/content/read",
		"repositories/*/*/content/read", "repositories/**/content/read", "repositories/Team/content/read", "repositories/../content/read", "repositories/team/content/fly",
		"repository/team/content/read", "gateway/edge/config/delete", "gateway//config/read", "gateway/a/b/config/read", "gateway/*/config/read", "repositories/team/catalog/read", "repositories/team/", "repositories/team"} {
		if a, err := ParseMapped(shop, text); err == nil {
			t.Errorf("%q was read as %+v", text, a)
		}
	}
}

// What a connected registry is given at its gateway gives nothing here.
func TestActionsOfGatewaysGiveNothing(t *testing.T) {
	for _, text := range []string{"gateway/edge/config/read", "gateway/edge/config/write", "gateway/edge/message/read", "gateway/edge/message/write"} {
		if a, err := ParseMapped(shop, text); err != nil || !reflect.DeepEqual(a, Assignment{}) {
			t.Errorf("%q was read as %+v, %v", text, a, err)
		}
	}
}

func TestPatternsOfActions(t *testing.T) {
	for _, row := range []struct {
		pattern string
		action  Action
		want    bool
	}{
		{"*", "a/b", true}, {"*", "", true}, {"", "", true}, {"", "a", false},
		{"*/read", "a/b/read", true}, {"*/read", "a/b/READ", true}, {"*/read", "a/reads", false}, {"*/read", "read", false},
		{"A/*/b", "a/x/y/B", true}, {"a/*/b", "a/b", false}, {"a*a", "a", false}, {"a**b", "ab", true},
		{"*ab*ab", "abab", true}, {"*ab*ab", "ab", false}, {"a/b", "a/b/c", false},
		{strings.Repeat("a*", 50) + "b", Action(strings.Repeat("a", 2000)), false}, // and quickly
	} {
		if match(row.pattern, row.action) != row.want {
			t.Errorf("%.40s of %.40s: %v", row.pattern, row.action, !row.want)
		}
	}
}

func TestRolesAreFoundAsAzureSpellsThem(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range Roles() {
		if seen[r.ID] || seen[r.Name] || len(r.ID) != 36 {
			t.Errorf("role %s has no id of its own", r.Name)
		}
		seen[r.ID], seen[r.Name] = true, true
		for _, spelling := range []string{r.ID, strings.ToUpper(r.ID), r.Name, "/subscriptions/x/providers/Microsoft.Authorization/roleDefinitions/" + r.ID} {
			if got, err := RoleByName(spelling); err != nil || got.ID != r.ID {
				t.Errorf("%s: %v, %v", spelling, got.Name, err)
			}
		}
	}
	if _, err := RoleByName("Emperor"); fault.Of(err) != fault.NotFound {
		t.Errorf("got %v", err)
	}
}

func FuzzActionsOfScopeMaps(f *testing.F) {
	f.Add("repositories/team/*/content/read", "team/api")
	f.Add("repositories/team/content/read", "team")
	f.Add("repositories/*/content/read", "x")
	f.Fuzz(func(t *testing.T, text, name string) {
		a, err := ParseMapped(shop, text)
		if err != nil || a.Actions == nil {
			return
		}
		a.Principal = "u1"
		repo, err := ref.ParseRepository(name)
		if err != nil || !Decide(someone, NewHeld(a), Need{Action: a.Actions[0], Scope: at(repo)}, now).Allowed {
			return
		}
		pattern := strings.TrimPrefix(text, "repositories/")
		stem, wild := strings.CutSuffix(pattern[:strings.LastIndexByte(pattern[:strings.LastIndexByte(pattern, '/')], '/')], "*")
		if wild && !strings.HasPrefix(name, stem) || !wild && name != stem {
			t.Fatalf("%q gives a right to %q", text, name)
		}
	})
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1, 10, 100, 500} {
		b.Run(fmt.Sprintf("assignments=%d", n), func(b *testing.B) {
			var as []Assignment
			for i := range n - 1 {
				a, _ := ParseMapped(shop, fmt.Sprintf("repositories/team%d/content/read", i))
				a.Principal = "u1"
				as = append(as, a)
			}
			as = append(as, Assignment{Principal: "u1", Role: PullRole, Scope: shop.Scope()})
			g := NewGrant(Registry{UID: "r1", ID: shop}, someone, NewHeld(as...), Call{})
			b.ReportAllocs()
			for b.Loop() {
				if !g.Can(ContentRead, g.RepositoryScope("team/api")) {
					b.Fatal("refused")
				}
			}
		})
	}
}
