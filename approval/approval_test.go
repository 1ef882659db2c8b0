package approval

import (
	"testing"
	"time"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/identity"
)

// The decision, in one table: who asks, who approved, what has become of it.
func TestARequestOpensOneActForWhoAsked(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	act := Act{Action: access.RegistryDelete, Scope: "/r", On: "/r", UID: "1"}
	approved := Properties{Act: act, State: Approved, Requester: Party{ID: "alice"}, Approver: Party{ID: "bob"}, Until: now.Add(Holds)}
	with := func(change func(*Properties)) Properties {
		p := approved
		change(&p)
		return p
	}
	for _, row := range []struct {
		what string
		p    Properties
		act  Act
		by   string
		at   time.Duration
		want bool
	}{
		{"as it should be", approved, act, "alice", 0, true},
		{"to its end", approved, act, "alice", Holds - 1, true},
		{"at its end", approved, act, "alice", Holds, false},
		{"the approver", approved, act, "bob", 0, false},
		{"a third", approved, act, "carol", 0, false},
		{"nobody", with(func(p *Properties) { p.Requester.ID = "" }), act, "", 0, false},
		{"nobody approved", with(func(p *Properties) { p.Approver.ID = "" }), act, "alice", 0, false},
		{"approved by who asked", with(func(p *Properties) { p.Approver.ID = "alice" }), act, "alice", 0, false},
		{"waiting", with(func(p *Properties) { p.State = Pending }), act, "alice", 0, false},
		{"rejected", with(func(p *Properties) { p.State = Rejected }), act, "alice", 0, false},
		{"withdrawn", with(func(p *Properties) { p.State = Withdrawn }), act, "alice", 0, false},
		{"used", with(func(p *Properties) { p.State = Used }), act, "alice", 0, false},
		{"expired", with(func(p *Properties) { p.State = Expired }), act, "alice", 0, false},
		{"a word that nobody knows", with(func(p *Properties) { p.State = "approved" }), act, "alice", 0, false},
		{"no words", Properties{}, Act{}, "", 0, false},
		{"another right", approved, Act{access.RegistryWrite, act.Scope, act.On, act.UID, ""}, "alice", 0, false},
		{"another place", approved, Act{act.Action, "/r/repositories/a", act.On, act.UID, ""}, "alice", 0, false},
		{"made again", approved, Act{act.Action, act.Scope, act.On, "2", ""}, "alice", 0, false},
		{"another change", approved, Act{act.Action, act.Scope, act.On, act.UID, "dualControl: disabled"}, "alice", 0, false},
	} {
		if got := row.p.opens(row.act, row.by, now.Add(row.at)); got != row.want {
			t.Errorf("%s: opens %v", row.what, got)
		}
	}
}

func TestWhoIsSomebodyElse(t *testing.T) {
	who := func(id string, kind identity.Kind, others ...string) hand {
		return hand{Party: Party{ID: id, Kind: kind}, Others: others}
	}
	alice := who("alice", identity.User)
	for _, row := range []struct {
		what  string
		a, b  hand
		named bool
		ok    bool
	}{
		{"another person", alice, who("bob", identity.User), false, true},
		{"an application", alice, who("ci", identity.ServicePrincipal), false, true},
		{"a workload", alice, who("pod", identity.ManagedIdentity), false, true},
		{"whom an issuer vouches for", alice, who("bob@example.com", identity.Federated), false, true},
		{"the same", alice, alice, true, false},
		{"the same, signed in otherwise", alice, who("alice", identity.Federated), true, false},
		{"a repository token", alice, who("robot", identity.Token), true, false},
		{"the admin user", alice, who("admin@1", identity.Admin), true, false},
		{"anybody", alice, who("", identity.Anonymous), true, false},
		{"the server", alice, who("server", identity.Server), true, false},
		{"without an id", alice, who("", identity.User), true, false},
		{"a token asks", who("robot", identity.Token), who("bob", identity.User), true, false},
		{"whom the first made", alice, who("puppet", identity.User, "alice"), false, false},
		{"… though it is named", alice, who("puppet", identity.User, "alice"), true, false},
		{"whose maker the first made", alice, who("puppet", identity.User, "second", "alice"), false, false},
		{"who made the first", who("puppet", identity.User, "bob"), who("bob", identity.User), true, false},
		{"by nobody knows whom", alice, hand{Party{ID: "bob", Kind: identity.User}, []string{"gone"}, true}, false, false},
		{"… though it is named", alice, hand{Party{ID: "bob", Kind: identity.User}, []string{"gone"}, true}, true, false},
		{"and it asks", hand{Party{ID: "bob", Kind: identity.User}, []string{"gone"}, true}, alice, true, false},
		{"two of a third", who("one", identity.User, "root"), who("two", identity.User, "root"), false, false},
		{"two of a third, and one is named", who("one", identity.User, "root"), who("two", identity.User, "root"), true, true},
		{"of different makers", who("one", identity.User, "root"), who("two", identity.User, "other"), false, true},
	} {
		err := another(row.a, row.b, row.named)
		if (err == nil) != row.ok || err != nil && fault.Of(err) != fault.Denied {
			t.Errorf("%s: %v", row.what, err)
		}
	}
}

func TestWhatLessensDualControl(t *testing.T) {
	on := func(ids ...string) Settings { return Settings{Status: enabled, Approvers: ids} }
	for _, row := range []struct {
		what     string
		was, now Settings
		lessens  bool
	}{
		{"nothing", on(), on(), false},
		{"on", Settings{}, on("a"), false},
		{"off", on(), Settings{Status: disabled}, true},
		{"left out", on("a"), Settings{}, true},
		{"while it is off, anything", Settings{}, Settings{Approvers: []string{"a"}}, false},
		{"one named more", on("a"), on("a", "b"), true},
		{"one for another", on("a"), on("b"), true},
		{"one named less", on("a", "b"), on("a"), false},
		{"anybody instead of some", on("a"), on(), true},
		{"some instead of anybody", on(), on("a"), true}, // or one person would choose who that is
	} {
		if how := row.was.Lessened(row.now); (how != "") != row.lessens {
			t.Errorf("%s: %q", row.what, how)
		}
	}
}
