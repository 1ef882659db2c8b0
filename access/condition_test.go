package access

import (
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"breakwater/fault"
	"breakwater/identity"
	"breakwater/network"
	"breakwater/ref"
)

// asked is a question with an answer to everything.
func asked() *question {
	office, _ := network.ParseNetwork("203.0.113.0/24")
	return &question{
		caller: &identity.Principal{ID: "11111111-2222-3333-4444-555555555555", Kind: identity.Federated, Name: "repo:team/api",
			Groups: []string{"aaaaaaaa-0000-0000-0000-000000000001", "aaaaaaaa-0000-0000-0000-000000000002"},
			Client: "04b07795-8ddb-461a-bbee-02f9e1bf7b46",
			Authentication: identity.Authentication{Time: now.Add(-10 * time.Minute), Issuer: "https://token.example.com", ACR: "c2", AMR: []string{"pwd", "mfa"},
				Claims: map[string][]string{"ref": {"refs/heads/main"}, "level": {"7"}, "roles": {"red", "blue"}, "since": {"2026-01-01T00:00:00Z"}}}},
		need: &Need{Action: ContentRead, Scope: at("team/api"), Mode: ABAC, From: Circumstances{
			Address: netip.MustParseAddr("203.0.113.9"), Listener: "inner", Operation: "PullManifest",
			Assignment: &Assignment{Role: PullRole, Principal: "99999999-2222-3333-4444-555555555555", PrincipalType: "User"}}},
		now:       now, // a Monday noon
		locations: []location{{name: "office", networks: []netip.Prefix{office.Prefix}}, {name: "vault", listeners: []string{"inner"}}, {name: "moon"}},
	}
}

const (
	name   = "@Request[Microsoft.ContainerRegistry/registries/repositories:name]"
	claims = "@Principal[Claims:"
)

func TestConditions(t *testing.T) {
	for _, row := range []struct {
		text string
		want truth
	}{
		// As Azure's portal writes them.
		{`((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) AND !(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/metadata/read'})) OR (` + name + ` StringEqualsIgnoreCase 'Team/API'))`, yes},
		{`((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'})) OR (` + name + ` StringStartsWithIgnoreCase 'backend/'))`, no},
		{`((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/write'})) OR (` + name + ` StringStartsWithIgnoreCase 'backend/'))`, yes},
		{"(\r\n (\n  !(ActionMatches{'Microsoft.Authorization/roleAssignments/write'})\n )\n OR \n (\n  @Request[Microsoft.Authorization/roleAssignments:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {" + PushRole + ", " + PullRole + "}\n )\n)", yes},
		{`@Resource[Microsoft.Authorization/roleAssignments:PrincipalType] StringEqualsIgnoreCase 'user'`, yes},
		{`@Request[subOperation] ForAnyOfAnyValues:StringEqualsIgnoreCase {'pullmanifest'}`, yes},
		{`SubOperationMatches{'Pull*'} && !SubOperationMatches{'PullBlob'}`, yes},

		{name + ` StringEquals 'team/api'`, yes},
		{name + ` StringEquals 'Team/api'`, no},
		{name + ` stringnotequals 'Team/api'`, yes},
		{name + ` StringNotEqualsIgnoreCase 'Team/api'`, no},
		{name + ` StringStartsWith 'team/'`, yes},
		{name + ` StringNotStartsWith 'team2/'`, yes},
		{name + ` StringNotStartsWithIgnoreCase 'TEAM/'`, no},
		{name + ` StringContains 'm/a'`, yes},
		{name + ` StringNotContainsIgnoreCase 'M/A'`, no},
		{name + ` StringLike 'te?m/*'`, yes},
		{name + ` StringLikeIgnoreCase 'T*I'`, yes},
		{name + ` StringNotLike 'team'`, yes},
		{name + ` StringLike 'team/ap\?'`, no},
		{name + ` StringLike 'team*ap\i'`, unknown}, // refused
		{name + ` StringEquals 'it\'s'`, no},

		{claims + `level] NumericEquals 7`, yes},
		{claims + `level] NumericGreaterThan 6.5`, yes},
		{claims + `level] NumericLessThanEquals 7`, yes},
		{claims + `level] NumericNotEquals -7`, yes},
		{claims + `ref] NumericEquals 7`, unknown}, // what is no number is not compared
		{claims + `ref] NumericNotEquals 7`, unknown},
		{claims + `ref] StringStartsWith 'refs/heads/'`, yes},
		{claims + `REF] StringStartsWith 'refs/heads/'`, unknown}, // claims are the issuer's, to the letter
		{claims + `roles] StringEquals 'red'`, unknown},           // which of them?
		{claims + `roles] ForAnyOfAnyValues:StringEquals {'blue', 'green'}`, yes},
		{claims + `roles] ForAnyOfAnyValues:StringEquals {'orange', 'green'}`, no},
		{claims + `roles] ForAllOfAnyValues:StringEquals {'orange', 'red', 'blue'}`, yes},
		{claims + `roles] ForAllOfAnyValues:StringEquals {'red', 'green'}`, no},
		{claims + `roles] ForAnyOfAllValues:StringNotEquals {'red', 'green'}`, yes},
		{claims + `roles] ForAllOfAllValues:StringNotEquals {'red', 'green'}`, no},
		{claims + `roles] ForAllOfAllValues:StringNotEquals {'pink', 'green'}`, yes},
		{claims + `roles] ForAnyOfAnyValues:StringEquals 'red'`, yes},
		{`@Principal[Microsoft.Directory/CustomSecurityAttributes/Id:roles] ForAnyOfAnyValues:StringEquals {'red'}`, yes},
		{claims + `since] DateTimeLessThan '2026-01-02T00:00:00+01:00'`, yes},
		{claims + `roles] ForAnyOfAnyValues:StringEquals ` + claims + `ref]`, no},
		{`@Environment[UtcNow] DateTimeGreaterThan ` + claims + `since]`, yes},

		{`@Principal[Id] GuidEquals 11111111-2222-3333-4444-555555555555`, yes},
		{`@Principal[Id] GuidEquals '11111111-2222-3333-4444-555555555555'`, yes},
		{`@Principal[Client] GuidNotEquals 04B07795-8DDB-461A-BBEE-02F9E1BF7B46`, no},
		{`@Principal[Groups] ForAnyOfAnyValues:GuidEquals {AAAAAAAA-0000-0000-0000-000000000002}`, yes},
		{`@Principal[Kind] StringEquals 'federated' AND @Principal[Issuer] StringEquals 'https://token.example.com'`, yes},
		{`@Principal[Amr] ForAnyOfAnyValues:StringEquals {'mfa', 'hwk'}`, yes},
		{`@Principal[Acr] StringEquals 'c2'`, yes},
		{`@Principal[AuthenticationAge] NumericLessThan 601`, yes},
		{`@Principal[AuthenticationAge] NumericLessThan 600`, no},
		{`@Principal[AuthenticationTime] DateTimeGreaterThanEquals '2026-11-23T11:50:00Z'`, yes},

		{`@Environment[UtcNow] DateTimeLessThan '2026-11-23T12:00:00Z'`, no},
		{`@Environment[UtcNow] DateTimeEquals '2026-11-23T13:00:00+01:00'`, yes},
		{`@Environment[UtcNow] TimeOfDayGreaterThanEquals '12:00' AND @Environment[UtcNow] TimeOfDayLessThan '12:00:01'`, yes},
		{`@Environment[UtcNow] TimeOfDayGreaterThan '18:00' OR @Environment[UtcNow] TimeOfDayLessThan '06:00'`, no},
		{`@Environment[Weekday] ForAnyOfAnyValues:StringEquals {'Saturday', 'Sunday'}`, no},
		{`@Environment[Weekday] StringEquals 'Monday'`, yes},
		{`@Environment[Address] IpMatch '203.0.113.0/24'`, yes},
		{`@Environment[Address] ForAnyOfAnyValues:IpMatch {'10.0.0.0/8', '203.0.113.9'}`, yes},
		{`@Environment[Address] IpNotMatch '0.0.0.0/0'`, no},
		{`@Environment[Address] IpMatch '::/0'`, no},
		{`@Environment[Locations] ForAnyOfAnyValues:StringEquals {'office'}`, yes},
		{`@Environment[Locations] ForAllOfAnyValues:StringEquals {'office', 'vault'}`, yes},
		{`@Environment[Locations] ForAnyOfAnyValues:StringEquals {'moon'}`, no},
		{`@Environment[Listener] StringEquals 'inner'`, yes},
		{`@Environment[isPrivateLink] BoolEquals false`, yes},
		{`@Environment[isPrivateLink] BoolNotEquals FALSE`, no},
		{`@Environment[Microsoft.Network/privateEndpoints] StringEquals 'x'`, unknown}, // there are none yet
		{`Exists @Environment[Microsoft.Network/privateEndpoints]`, no},
		{`NotExists @Environment[Microsoft.Network/privateEndpoints]`, yes},
		{`NOT Exists ` + name, no},
		{`Exists ` + claims + `nothing] OR true`, yes},

		// Kleene's logic.
		{claims + `x] StringEquals 'y'`, unknown},
		{`!` + claims + `x] StringEquals 'y'`, unknown},
		{claims + `x] StringNotEquals 'y'`, unknown},
		{`true AND ` + claims + `x] StringEquals 'y'`, unknown},
		{`false AND ` + claims + `x] StringEquals 'y'`, no},
		{`true OR ` + claims + `x] StringEquals 'y'`, yes},
		{claims + `x] StringEquals 'y' OR false`, unknown},
		{`NOT NOT true && !(false || !true)`, yes},
		{`true AND true AND true AND false`, no},
		{`(true AND false) OR true`, yes},
	} {
		c, err := ParseCondition(row.text)
		if err != nil {
			if row.want != unknown || !strings.Contains(row.text, `\i`) {
				t.Errorf("%s: %v", row.text, err)
			}
			continue
		}
		if got := c.root.ask(asked()); got != row.want {
			t.Errorf("%s: %d, not %d", row.text, got, row.want)
		}
		if c.String() != row.text {
			t.Errorf("%s became %s", row.text, c)
		}
	}
}

func TestNothingIsGuessedOfARequestThatSaysNothing(t *testing.T) {
	empty := &question{caller: &identity.Principal{Kind: identity.Anonymous}, need: &Need{Action: CatalogRead, Scope: shop.Scope()}, now: now}
	for _, a := range attributes {
		switch a.name {
		case "UtcNow", "Weekday", "isPrivateLink", "Kind", "AuthenticationTime", "AuthenticationAge":
			continue // these are always known
		}
		if got := a.read(empty); len(got) > 0 {
			t.Errorf("@%s[%s] is %+v", a.source, a.name, got)
		}
	}
	if (within{"*"}).ask(empty) != unknown {
		t.Error("an operation that nobody named matches")
	}
}

func TestAConditionThatCannotBeReadSaysWhere(t *testing.T) {
	for _, row := range []struct{ text, at string }{
		{``, "character 1:"},
		{`   `, "character 4:"},
		{`(true`, "character 6: ) belongs here"},
		{`true)`, "character 5: AND, OR or the end"},
		{`true false`, "character 6:"},
		{`true AND`, "character 9:"},
		{`true AND false OR true`, "only in parentheses"},
		{`true && false || true`, "only in parentheses"},
		{`é`, "character 1:"},
		{name + ` StringEquals 'é' x`, "character 85:"},
		{name, "there is no operator"},
		{name + ` StringEquals`, "belongs here"},
		{name + ` StringEquals team`, "another sort"},
		{name + ` StringEquals 7`, "another sort"},
		{name + ` StringEquals "team"`, "' belongs here"},
		{name + ` StringEquals 'team`, "no end"},
		{name + ` StringEquals 'team\`, "backslash"},
		{name + ` StringEquals 'te\nam'`, "backslash"},
		{name + " StringEquals 'te\nam'", "not allowed"},
		{name + " StringEquals 'te\xffam'", "not allowed"},
		{name + ` StringEquals {'a', 'b'}`, "ForAnyOfAnyValues: and the like"},
		{name + ` ForAnyOfAnyValues:StringEquals {}`, "belongs here"},
		{name + ` ForAnyOfAnyValues:StringEquals {'a',}`, "belongs here"},
		{name + ` ForAnyOfAnyValues:StringEquals {'a' 'b'}`, ", belongs here"},
		{name + ` ForAnyOfAnyValues:StringEquals {'a'`, ", belongs here"},
		{name + ` ForSomeOfAnyValues:StringEquals {'a'}`, "is none of"},
		{name + ` ForAnyOfAnyValues: {'a'}`, "there is no operator"},
		{name + ` StringResembles 'a'`, "there is no operator"},
		{name + ` StringNot 'a'`, "there is no operator"},
		{name + ` NumericEquals 7`, "does not compare this attribute"},
		{name + ` IpMatch '10.0.0.0/8'`, "does not compare this attribute"},
		{claims + `x] NumericEquals '7'`, "another sort"},
		{claims + `x] NumericEquals 1e9`, "does not understand"},
		{claims + `x] NumericEquals 0x10`, "does not understand"},
		{claims + `x] NumericEquals 99999999999999999999`, "does not understand"},
		{claims + `x] NumericNotLessThan 7`, "there is no operator"},
		{claims + `x] NumericEqualsIgnoreCase 7`, "there is no operator"},
		{claims + `x] BoolEquals maybe`, "does not understand"},
		{claims + `x] GuidEquals 'x'`, "does not understand"},
		{claims + `x] DateTimeEquals '2026-13-01T00:00:00Z'`, "does not understand"},
		{claims + `x] DateTimeEquals 'yesterday'`, "does not understand"},
		{`@Environment[UtcNow] TimeOfDayEquals '25:00'`, "does not understand"},
		{`@Environment[UtcNow] TimeOfDayEquals '9:00'`, "does not understand"},
		{`@Environment[Address] IpMatch 'example.com'`, "does not understand"},
		{`@Environment[Address] IpMatch '10.0.0.0/33'`, "does not understand"},
		{`@Environment[Locations] StringEquals 'office'`, "several values"},
		{`@Environment[Listener] StringLike ` + name, "does not compare with this attribute"},
		{`@Environment[Listener] StringEquals @Environment[Locations]`, "does not compare with this attribute"},
		{`@Environment[Weather] StringEquals 'fine'`, "character 1: there is no attribute @Environment[Weather]"},
		{`@Principal[Claims:] StringEquals 'x'`, "there is no attribute"},
		{`@Nobody[x] StringEquals 'x'`, "there is no attribute"},
		{`@Principal[Id StringEquals 'x'`, "] belongs here"},
		{`'a' StringEquals 'a'`, "an attribute, a function or a parenthesis"},
		{`ActionMatches 'x'`, "{ belongs here"},
		{`ActionMatches{'x'`, "} belongs here"},
		{`Exists 'x'`, "@ belongs here"},
		{strings.Repeat("(", 40) + "true" + strings.Repeat(")", 40), "deeper than 32"},
		{strings.Repeat("!", 100000) + "true", "at most 8192"},
		{strings.Repeat("!", 8000) + "true", "deeper than 32"},
		{"true" + strings.Repeat(" OR true", 300), "more than 256 terms"},
	} {
		c, err := ParseCondition(row.text)
		if err == nil {
			t.Errorf("%.80s was read as %v", row.text, c.root)
			continue
		}
		if fault.Of(err) != fault.BadRequest || !strings.Contains(err.Error(), row.at) {
			t.Errorf("%.80s: %v, without %q", row.text, err, row.at)
		}
	}
}

func TestAConditionIsAnsweredInBoundedTime(t *testing.T) {
	q := asked()
	q.need.Scope = at(ref.Repository(strings.Repeat("a", 200)))
	lists := "{" + strings.TrimSuffix(strings.Repeat(`'`+strings.Repeat("a*", 12)+`b',`, 280), ",") + "}"
	c, err := ParseCondition(name + ` ForAnyOfAnyValues:StringLike ` + lists)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if got := c.root.ask(q); got != no {
		t.Errorf("%d", got)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestTheLanguageIsDocumented: what there is stands in docs/conditions.md, and what
// stands there can be written.
func TestTheLanguageIsDocumented(t *testing.T) {
	raw, err := os.ReadFile("../docs/conditions.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(raw)
	for _, a := range attributes {
		spelled := "@" + a.source + "[" + a.name + "]"
		last := a.name[strings.LastIndexByte(a.name, ':')+1:]
		if !strings.Contains(doc, spelled) && !(a.source == "Resource" || strings.Contains(doc, "`…:"+last+"`")) {
			t.Errorf("%s is not documented", spelled)
		}
		if stars := strings.Contains(doc, spelled+"` *"); stars != a.many {
			t.Errorf("%s has several values: %v, documented: %v", spelled, a.many, stars)
		}
	}
	for _, f := range families {
		for ask := range f.asks {
			if _, ok := relationOf(f.name + ask); !ok || !strings.Contains(strings.ToLower(doc), "`"+f.name+ask) && f.name != "datetime" && f.name != "timeofday" {
				t.Errorf("%s%s is not documented", f.name, ask)
			}
		}
	}
	for _, m := range regexp.MustCompile("`((?:String|Numeric|DateTime|TimeOfDay|Guid|Bool|Ip)[A-Z][A-Za-z]+)`").FindAllStringSubmatch(doc, -1) {
		if _, ok := relationOf(m[1]); !ok {
			t.Errorf("there is no %s", m[1])
		}
	}
	written := regexp.MustCompile(`"require": "(@[^"]+)"`).FindStringSubmatch(doc)
	_, example, _ := strings.Cut(doc, "\n\n    ((")
	example, _, _ = strings.Cut("(("+example, "\n\n")
	for _, text := range []string{example, written[1]} {
		if _, err := ParseCondition(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzCondition holds the parser and the evaluation to what they promise: the
// fault is the caller's and has a place, what is read is kept as written, and
// NOT, AND and OR of it are as Kleene says, whatever is asked.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{
		`true`, `!(true AND false) OR true`, name + ` StringLike 'te?m/*'`, `@Principal[Amr] ForAllOfAnyValues:StringEquals {'mfa', 'pwd'}`,
		`ActionMatches{'Microsoft.*'} && NotExists @Environment[Address]`, `@Environment[UtcNow] TimeOfDayLessThan '18:00'`,
		claims + `level] NumericGreaterThan -1.5`, `@Principal[Id] GuidEquals 11111111-2222-3333-4444-555555555555`,
		`@Environment[Address] IpMatch '203.0.113.0/24'`, `@Environment[isPrivateLink] BoolEquals false`,
		`SubOperationMatches{'Pull*'}`, `(((`, `'\''`, "\x00", `@Request[subOperation] StringEquals '\*\\'`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			if fault.Of(err) != fault.BadRequest {
				t.Fatal(err)
			}
			return
		}
		for _, q := range []*question{asked(), {caller: &identity.Principal{}, need: &Need{}, now: now}} {
			is := c.root.ask(q)
			for _, around := range []struct {
				text string
				want truth
			}{{text, is}, {"!(" + text + ")", -is}, {"(" + text + ") AND false", no}, {"(" + text + ") OR true", yes}, {"(" + text + ") && true", is}, {"false || (" + text + ")", is}} {
				again, err := ParseCondition(around.text)
				if err != nil {
					if around.text == text || !strings.Contains(err.Error(), "deeper") && !strings.Contains(err.Error(), "at most") && !strings.Contains(err.Error(), "terms") {
						t.Fatalf("%q: %v", around.text, err)
					}
					continue
				}
				if got := again.root.ask(q); got != around.want {
					t.Fatalf("%q is %d, and %q is %d", text, is, around.text, got)
				}
			}
		}
	})
}

func FuzzLike(f *testing.F) {
	f.Add("a*b?", "axxbc")
	f.Add(`\*\?`, "*?")
	f.Add("**", "")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if strings.IndexByte(pattern, '\\') >= 0 || len(pattern) > 12 || len(s) > 24 || !utf8.ValidString(pattern) || !utf8.ValidString(s) {
			return
		}
		if got, want := like(pattern, s), slowly([]rune(pattern), []rune(s)); got != want {
			t.Fatalf("%q like %q: %v", s, pattern, got)
		}
	})
}

// slowly is like as its definition reads.
func slowly(pattern, s []rune) bool {
	if len(pattern) == 0 {
		return len(s) == 0
	}
	if pattern[0] == '*' {
		return slowly(pattern[1:], s) || len(s) > 0 && slowly(pattern, s[1:])
	}
	return len(s) > 0 && (pattern[0] == '?' || pattern[0] == s[0]) && slowly(pattern[1:], s[1:])
}

func BenchmarkCondition(b *testing.B) {
	c, err := ParseCondition(`((!(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/content/read'}) AND !(ActionMatches{'Microsoft.ContainerRegistry/registries/repositories/metadata/read'})) OR (` +
		name + ` StringStartsWithIgnoreCase 'team/' AND @Principal[Amr] ForAnyOfAnyValues:StringEquals {'mfa'} AND @Environment[Locations] ForAnyOfAnyValues:StringEquals {'office'}))`)
	if err != nil {
		b.Fatal(err)
	}
	q := asked()
	b.ReportAllocs()
	for b.Loop() {
		if c.root.ask(q) != yes {
			b.Fatal("no")
		}
	}
}
