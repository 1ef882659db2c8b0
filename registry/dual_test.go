package registry_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

const shop = "shop1.example.com"

// A dual is a house whose registry Shop1 has dual control, and people who own everything.
type dual struct {
	*house
	ctx        context.Context
	alice, bob access.Grant
}

func twoPeople(t *testing.T, d *db.DB, approvers ...string) dual {
	t.Helper()
	h := build(t, d)
	two := dual{house: h, ctx: t.Context()}
	two.alice, two.bob = two.person("alice", access.OwnerRole, shopID.Scope()), two.person("bob", access.OwnerRole, shopID.Scope())
	h.ok(two.set(h.server, "*", func(r *registry.Registry) {
		r.Policies.SoftDelete.Status, r.DualControl.Status, r.DualControl.Approvers = "enabled", "enabled", approvers
	}))
	return two
}

func (d dual) person(name, role string, at ref.Scope) access.Grant {
	d.t.Helper()
	return d.grant(shop, d.user(name, role, at))
}

func (d dual) set(g access.Grant, ifMatch string, change func(*registry.Registry)) error {
	_, err := d.registries.Update(d.ctx, g, shopID, ifMatch, func(r *registry.Registry) error { change(r); return nil })
	return err
}

func (d dual) delete(g access.Grant) error {
	_, err := d.registries.Delete(d.ctx, g, shopID, resource.Any)
	return err
}

// asked is the request that an error tells of.
func (d dual) asked(err error) ref.ID {
	d.t.Helper()
	f := fault.From(err)
	detail, ok := f.Detail.(map[string]string)
	if f.Code != fault.ApprovalRequired || !ok {
		d.t.Fatalf("it was not asked for: %v", err)
	}
	return ref.ID(detail["request"])
}

func (d dual) approve(g access.Grant, id ref.ID) error {
	_, err := d.approvals.Answer(d.ctx, g, id, approval.Approved, "")
	return err
}

func (d dual) state(id ref.ID) approval.State {
	d.t.Helper()
	r, err := d.approvals.Get(d.ctx, d.server, id)
	d.ok(err)
	return r.At(time.Now())
}

func (d dual) wants(what string, err error, code fault.Code) {
	d.t.Helper()
	if (err == nil) != (code == 0) || err != nil && fault.Of(err) != code {
		d.t.Errorf("%s: %v", what, err)
	}
}

// bend changes a request as time would.
func (d dual) bend(id ref.ID, change func(*approval.Properties)) {
	d.t.Helper()
	d.ok(d.db.Write(d.ctx, func(tx *db.Tx) error {
		doc, err := d.docs.GetTx(d.ctx, tx, id)
		if err != nil {
			return err
		}
		r, err := d.approvals.Get(d.ctx, d.server, id)
		if err != nil {
			return err
		}
		change(&r.Properties)
		doc.Properties, _ = json.Marshal(r.Properties)
		_, err = d.docs.Put(d.ctx, tx, doc, resource.Any)
		return err
	}))
}

func TestTwoHaveToWantThatARegistryGoes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, on *db.DB) {
		d := twoPeople(t, on)
		id := d.asked(d.delete(d.alice))
		if again := d.asked(d.delete(d.alice)); again != id {
			t.Errorf("asked twice, it is two requests: %s, %s", id, again)
		}
		d.wants("who asks", d.approve(d.alice, id), fault.Denied)
		d.wants("the other, before approval", d.delete(d.bob), fault.ApprovalRequired)
		d.ok(d.approve(d.bob, id))
		d.wants("the approver, with what it approved", d.delete(d.bob), fault.ApprovalRequired)
		d.wants("another act", d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Status = "disabled" }), fault.ApprovalRequired)
		_, err := d.registries.Delete(d.ctx, d.alice, shopID, "x")
		d.wants("another etag", err, fault.Stale)
		if s := d.state(id); s != approval.Approved {
			t.Errorf("the request is %s", s)
		}
		uid := d.at(shop).UID
		d.ok(d.delete(d.alice))
		if _, err := d.registries.ByHost(d.ctx, shop); fault.Of(err) != fault.NotFound {
			t.Errorf("it is there still: %v", err)
		}
		told := ""
		for e, err := range d.ledger.Events(d.ctx, ledger.Query{Category: ledger.Security}) {
			d.ok(err)
			if verb, ok := strings.CutPrefix(e.Operation, approval.Type+"/"); ok && e.Detail.More["request"] == id.Name() {
				told += verb + ":" + e.Who.Name + "/" + e.Detail.More["requesterName"] + "/" + e.Detail.More["approverName"] + " "
				if e.Detail.More["uid"] != uid || e.Scope != shopID.Scope() {
					t.Errorf("the event is about another: %+v", e)
				}
			}
		}
		if told != "request:alice/alice/ approve:bob/alice/bob use:alice/alice/bob " {
			t.Errorf("on record is %q", told)
		}

		// Made again under its name, it is another one.
		_, err = d.registries.Create(d.ctx, d.server, shopID, "local", nil, registry.Properties{
			DualControl: approval.Settings{Status: "enabled"}, Policies: registry.Policies{SoftDelete: registry.SoftDelete{Policy: registry.Policy{Status: "enabled"}}},
		})
		d.ok(err)
		if again := d.asked(d.delete(d.grant(shop, d.user("alice2", access.OwnerRole, shopID.Scope())))); again == id {
			t.Error("the request of the one before is there")
		}
		if err := d.delete(d.alice); err == nil {
			t.Error("the approval of the one before opens the one after")
		}
	})
}

// Whoever holds only another credential of the same person, or an account that is as
// good as that, is not somebody else.
func TestNobodyApprovesWhatItAskedForInDisguise(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	id := d.asked(d.delete(d.alice))
	password, err := d.registries.RegenerateCredential(d.ctx, d.alice, shopID, "password")
	d.ok(err)
	d.ok(d.set(d.alice, "*", func(r *registry.Registry) { r.AdminUserEnabled = true }))
	admin := d.grant(shop, identity.Credentials{Method: identity.Basic, Name: "Shop1", Secret: password.Value})
	token := d.grant(shop, d.token(d.alice, "robot", "repositories/*/content/delete"))
	asOwner := func(principal identity.Principal) access.Grant { // as if somebody let it
		return access.NewGrant(d.at(shop).Ref(), principal, access.NewHeld(access.Assignment{Principal: principal.ID, Role: access.OwnerRole, Scope: ref.Everything}), access.Call{})
	}
	again := d.alice.Principal()
	again.Kind, again.Client, again.Credential, again.Groups = identity.Federated, "another", "a refresh token", []string{ref.NewGUID()}
	for what, g := range map[string]access.Grant{
		"nobody": {}, "alice": d.alice, "alice with another credential": asOwner(again),
		"the admin user": admin, "the admin user with every right": asOwner(admin.Principal()),
		"a repository token": token, "a repository token with every right": asOwner(token.Principal()),
		"the server": d.server, "a principal without an id": asOwner(identity.Principal{Kind: identity.User}),
	} {
		d.wants(what, d.approve(g, id), fault.Denied)
	}
	for what, g := range map[string]access.Grant{"the admin user": asOwner(admin.Principal()), "a repository token": asOwner(token.Principal())} {
		d.wants(what+" asks", d.delete(g), fault.Denied)
	}
	// Accounts that one of the two made, or can prove since a short time ago.
	root := d.person("root", access.OwnerRole, ref.Everything)
	login := func(by access.Grant, name string) access.Grant {
		t.Helper()
		password, doc, err := d.users.CreateUser(d.ctx, by, name)
		d.ok(err)
		_, err = d.access.Assign(d.ctx, d.server, shopID.Scope(), "assignment-of-"+name, access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: doc.System.UID})
		d.ok(err)
		return d.grant(shop, identity.Credentials{Method: identity.Basic, Name: name, Secret: password.Value})
	}
	mine := d.asked(d.delete(root))
	puppet := login(root, "puppet")
	d.wants("an account that who asks made", d.approve(puppet, mine), fault.Denied)
	d.wants("who made the account that asks", d.approve(root, d.asked(d.delete(puppet))), fault.Denied)
	d.ok(d.set(d.server, "*", func(r *registry.Registry) { r.Encryption.DataKeys.RotationDays = 10 })) // nothing to do with it
	second := login(root, "second")
	d.wants("two accounts of a third", d.approve(second, d.asked(d.delete(puppet))), fault.Denied)
	_, err = d.users.ResetUser(d.ctx, root, "bob")
	d.ok(err)
	d.wants("an account whose password who asks has reset", d.approve(d.bob, mine), fault.Denied)
	m, err := d.users.PutManagedIdentity(d.ctx, d.server, group.Extension(identity.ManagedIdentityType, "pod"), "local", nil, resource.Absent)
	d.ok(err)
	pod := asOwner(identity.Principal{ID: m.System.UID, Kind: identity.ManagedIdentity, Account: m.ID, Client: m.ClientID})
	_, err = d.users.PutServicePrincipal(d.ctx, d.server, "ci", directory.ServicePrincipalSettings{}, resource.Absent)
	d.ok(err)
	sp, err := d.users.ServicePrincipal(d.ctx, d.server, "ci")
	d.ok(err)
	ci := asOwner(identity.Principal{ID: sp.System.UID, Kind: identity.ServicePrincipal, Account: sp.ID, Client: sp.AppID})
	d.ok(d.approve(pod, mine))
	d.ok(d.approve(ci, mine))
	_, err = d.users.PutFederatedCredential(d.ctx, root, m.ID.Child("federatedIdentityCredentials", "mine"), identity.FederatedCredentialProperties{Issuer: "https://issuer.example", Subject: "me"}, resource.Absent)
	d.ok(err)
	_, err = d.users.AddPassword(d.ctx, root, "ci", "mine", time.Time{}, time.Time{})
	d.ok(err)
	d.wants("a workload whose tokens who asks can make", d.approve(pod, mine), fault.Denied)
	d.wants("an application whose secret who asks has made", d.approve(ci, mine), fault.Denied)
	d.wants("… though it approved before that", d.delete(root), fault.ApprovalRequired)
	d.age("bob", "puppet")
	d.ok(d.approve(d.bob, mine)) // a week later
	d.ok(d.approve(puppet, mine))
}

// age makes accounts older than the time for which they are somebody's hand.
func (d dual) age(users ...string) {
	d.t.Helper()
	for _, user := range users {
		docs, err := d.docs.List(d.ctx, identity.UserID(user), "", "", 0)
		d.ok(err)
		doc, err := d.docs.Get(d.ctx, identity.UserID(user))
		d.ok(err)
		d.ok(d.db.Write(d.ctx, func(tx *db.Tx) error {
			for _, doc := range append(docs, doc) {
				doc.System.CreatedAt, doc.System.LastModifiedAt = doc.System.CreatedAt.Add(-approval.Settles), doc.System.LastModifiedAt.Add(-approval.Settles)
				text, err := json.Marshal(doc)
				if err != nil {
					return err
				}
				if _, err := tx.Exec(d.ctx, `UPDATE resource SET doc = $1 WHERE id = $2`, string(text), doc.ID.Key()); err != nil {
					return err
				}
			}
			return d.docs.Lock(d.ctx, tx)
		}))
	}
}

func TestAnApprovalOpensNothingThatItShouldNot(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, on *db.DB) {
		d := twoPeople(t, on)
		carol := d.person("carol", access.OwnerRole, shopID.Scope())
		approved := func() ref.ID {
			t.Helper()
			id := d.asked(d.delete(d.alice))
			d.ok(d.approve(d.bob, id))
			return id
		}
		refused := func(what string) {
			t.Helper()
			d.wants(what, d.delete(d.alice), fault.ApprovalRequired)
		}
		withdraw := func(id ref.ID) {
			t.Helper()
			_, err := d.approvals.TakeBack(d.ctx, d.alice, id)
			d.ok(err)
		}

		first := d.asked(d.delete(d.alice))
		d.bend(first, func(p *approval.Properties) { p.Until = time.Now() })
		d.wants("an answer that comes too late", d.approve(d.bob, first), fault.Conflict)
		if id := approved(); id == first || d.state(first) != approval.Expired {
			t.Errorf("%s is %s", first, d.state(first))
		}
		second := d.approved()
		d.bend(second, func(p *approval.Properties) { p.Until = time.Now() })
		refused("an approval that has ended")
		d.ok(d.approvals.Tend(d.ctx))

		// Rejected: before and after it was approved. It cannot be asked for again at once.
		third := approved()
		_, err := d.approvals.Answer(d.ctx, carol, third, approval.Rejected, "not this one")
		d.ok(err)
		refused("what was approved and then rejected")
		if again := d.asked(d.delete(d.alice)); again != third {
			t.Errorf("who was rejected asked again: %s", again)
		}
		d.wants("an approval of what was rejected", d.approve(d.bob, third), fault.Conflict)
		_, err = d.approvals.TakeBack(d.ctx, d.alice, third)
		d.wants("to withdraw what was rejected", err, fault.Conflict)
		d.bend(third, func(p *approval.Properties) { p.Until = time.Now() })

		fourth := approved()
		_, err = d.approvals.TakeBack(d.ctx, carol, fourth)
		d.wants("somebody else withdraws", err, fault.Denied)
		withdraw(fourth)
		refused("what was withdrawn")

		// Rights are looked up when the approval is used.
		fifth := approved()
		lose := func(name string) {
			t.Helper()
			_, err := d.access.Delete(d.ctx, d.server, shopID+"/providers/"+access.AssignmentType+"/assignment-of-"+ref.ID(name), resource.Any)
			d.ok(err)
		}
		lose("bob")
		refused("an approver who may not any more")
		d.ok(d.approve(carol, fifth)) // another takes its place
		_, err = d.users.PutUser(d.ctx, d.server, "carol", identity.UserProperties{Status: "disabled"}, resource.Any)
		d.ok(err)
		refused("an approver whose account is disabled")
		_, err = d.users.PutUser(d.ctx, d.server, "carol", identity.UserProperties{Status: "enabled"}, resource.Any)
		d.ok(err)
		d.ok(d.set(d.server, "*", func(r *registry.Registry) { r.Tags = map[string]string{"a": "b"} })) // the etag changes: it is the same registry
		lose("alice")
		alice, err := d.access.LoadAssignments(d.ctx, d.at(shop).Ref(), d.alice.Principal())
		d.ok(err)
		d.wants("who asked and may not any more", d.delete(access.NewGrant(d.at(shop).Ref(), d.alice.Principal(), alice, access.Call{})), fault.Denied)
		d.ok(d.users.DeleteUser(d.ctx, d.server, "carol", resource.Any))
		refused("an approver who is gone")

		expired := 0
		for e, err := range d.ledger.Events(d.ctx, ledger.Query{Category: ledger.Security}) {
			d.ok(err)
			if e.Operation == approval.Type+"/expire" && e.Who.ID == "server" {
				expired++
			}
		}
		if expired != 2 {
			t.Errorf("%d requests expired on record", expired)
		}
	})
}

// approved is the request that alice's deletion rests on now.
func (d dual) approved() ref.ID {
	d.t.Helper()
	all, err := d.approvals.List(d.ctx, d.server, shopID, "", 0)
	d.ok(err)
	for _, r := range all {
		if r.At(time.Now()) == approval.Approved {
			return r.ID
		}
	}
	d.t.Fatal("nothing is approved")
	return ""
}

func TestDualControlIsLessenedByTwo(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	bob := d.bob.Principal().ID
	six, eight := 6, 8
	for what, row := range map[string]struct {
		change func(*registry.Registry)
		want   fault.Code
	}{
		"off":                  {func(r *registry.Registry) { r.DualControl.Status = "disabled" }, fault.ApprovalRequired},
		"left out":             {func(r *registry.Registry) { r.DualControl = approval.Settings{} }, fault.ApprovalRequired},
		"with soft delete off": {func(r *registry.Registry) { r.Policies.SoftDelete.Status = "disabled" }, fault.BadRequest},
		"both off": {func(r *registry.Registry) {
			r.Policies.SoftDelete.Status, r.DualControl.Status = "disabled", "disabled"
		}, fault.ApprovalRequired},
		"fewer days":       {func(r *registry.Registry) { r.Policies.SoftDelete.RetentionDays = &six }, fault.ApprovalRequired},
		"an approver more": {func(r *registry.Registry) { r.DualControl.Approvers = []string{bob} }, fault.ApprovalRequired},
		"more days":        {func(r *registry.Registry) { r.Policies.SoftDelete.RetentionDays = &eight }, 0},
		"no guid":          {func(r *registry.Registry) { r.DualControl.Approvers = []string{"bob"} }, fault.BadRequest},
		"another word":     {func(r *registry.Registry) { r.DualControl.Status = "maybe" }, fault.BadRequest},
		"anything else":    {func(r *registry.Registry) { r.AnonymousPullEnabled = true }, 0},
	} {
		d.wants(what, d.set(d.alice, "*", row.change), row.want)
	}
	if r := d.at(shop); !r.DualControl.Enabled() || !r.Policies.SoftDelete.Enabled() || r.DualControl.Approvers != nil {
		t.Fatalf("it was lessened: %+v", r.Properties.DualControl)
	}
	off := func(r *registry.Registry) { r.DualControl.Status = "disabled" }
	d.ok(d.approve(d.bob, d.asked(d.set(d.alice, "*", off))))
	d.wants("another change than was approved", d.set(d.alice, "*", func(r *registry.Registry) {
		r.Policies.SoftDelete.Status, r.DualControl.Status = "disabled", "disabled"
	}), fault.ApprovalRequired)
	d.ok(d.set(d.alice, "*", off))
	d.ok(d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Status = "enabled" }))
	d.wants("a second time", d.set(d.alice, "*", off), fault.ApprovalRequired)
}

func TestNamedApproversAlone(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	carol := d.person("carol", access.OwnerRole, shopID.Scope())
	root := d.person("root", access.OwnerRole, ref.Everything)
	reader := d.person("reader", access.ReaderRole, shopID.Scope())
	contributor := d.person("contributor", access.ContributorRole, shopID.Scope())
	off := d.asked(d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Approvers = []string{carol.Principal().ID} }))
	d.ok(d.approve(d.bob, off))
	d.ok(d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Approvers = []string{strings.ToUpper(carol.Principal().ID)} }))

	id := d.asked(d.delete(d.alice))
	d.wants("an owner who is not named", d.approve(d.bob, id), fault.Denied)
	d.wants("a reader", d.approve(reader, id), fault.Denied)
	d.wants("a contributor", d.approve(contributor, id), fault.Denied)
	d.wants("a contributor may still ask", d.delete(contributor), fault.ApprovalRequired)
	d.ok(d.approve(carol, id))
	d.wants("nobody in particular", d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Approvers = nil }), fault.ApprovalRequired)

	// Who approves everywhere breaks the glass, and that is on record.
	d.ok(d.approve(root, id))
	broke := 0
	for e, err := range d.ledger.Events(d.ctx, ledger.Query{Category: ledger.Security}) {
		d.ok(err)
		if e.Detail.More["breakGlass"] != "" && e.Who.Name == "root" {
			broke++
		}
	}
	if broke != 1 {
		t.Errorf("%d times on record", broke)
	}
	d.ok(d.delete(d.alice))
}

// What is approved is done once, whoever is faster, and at whichever node.
func TestAnApprovalIsUsedOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, on *db.DB) {
		d := twoPeople(t, on)
		nodes := []*approval.Store{d.approvals}
		if on.Engine() == db.Postgres { // of another process
			docs := resource.New(on)
			nodes = append(nodes, &approval.Store{DB: on, Documents: docs, Ledger: d.ledger, Access: &access.Store{DB: on, Documents: docs, Ledger: d.ledger, Identity: d.identity}})
		}
		act := approval.Act{Action: access.ContentDelete, Scope: shopID.Scope() + "/repositories/team/api", On: shopID, UID: d.at(shop).UID, Exact: "erase 17"}
		use := func(s *approval.Store, then error) error {
			return s.Ask(d.ctx, d.alice, on.Write(d.ctx, func(tx *db.Tx) error {
				if err := s.Use(d.ctx, tx, d.alice, act); err != nil {
					return err
				}
				return then
			}))
		}
		together := func(all ...func() error) (won int) {
			errs := make([]error, len(all))
			var wg sync.WaitGroup
			for i, fn := range all {
				wg.Go(func() { errs[i] = fn() })
			}
			wg.Wait()
			for _, err := range errs {
				if err == nil {
					won++
				} else if c := fault.Of(err); c != fault.ApprovalRequired && c != fault.Conflict {
					t.Error(err)
				}
			}
			return won
		}

		id := d.asked(use(d.approvals, nil))
		d.ok(d.approve(d.bob, id))
		d.wants("the act fails after all", use(d.approvals, fault.New(fault.Referenced, "it is in use")), fault.Referenced)
		if s := d.state(id); s != approval.Approved {
			t.Errorf("what was not done has used the approval: it is %s", s)
		}
		var all []func() error
		for i := range 8 {
			all = append(all, func() error { return use(nodes[i%len(nodes)], nil) })
		}
		if won := together(all...); won != 1 || d.state(id) != approval.Used {
			t.Errorf("it was done %d times; the request is %s", won, d.state(id))
		}
		// Its use and its rejection exclude each other.
		for range 10 {
			id := d.asked(use(d.approvals, nil))
			d.ok(d.approve(d.bob, id))
			used, rejected := false, false
			together(func() error {
				err := use(nodes[len(nodes)-1], nil)
				used = err == nil
				return err
			}, func() error {
				_, err := d.approvals.Answer(d.ctx, d.bob, id, approval.Rejected, "")
				rejected = err == nil
				return err
			})
			if used == rejected || used != (d.state(id) == approval.Used) {
				t.Fatalf("used %v, rejected %v: %s", used, rejected, d.state(id))
			}
			d.bend(id, func(p *approval.Properties) { p.Until = time.Now() }) // so that it can be asked for again
		}
		// A registry goes once.
		gone := d.asked(d.delete(d.alice))
		d.ok(d.approve(d.bob, gone))
		won := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if d.delete(d.alice) == nil {
					mu.Lock()
					won++
					mu.Unlock()
				}
			})
		}
		if wg.Wait(); won != 1 {
			t.Errorf("it was deleted %d times", won)
		}
	})
}

func TestRequestsAreBounded(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	ask := func(g access.Grant, days int) error {
		return d.set(g, "*", func(r *registry.Registry) {
			r.Policies.SoftDelete.RetentionDays = &days
		})
	}
	for days := 1; days <= 6; days++ {
		d.asked(ask(d.alice, days))
	}
	d.asked(d.delete(d.alice))
	d.asked(d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Status = "disabled" }))
	d.wants("one request too many", d.set(d.alice, "*", func(r *registry.Registry) { r.DualControl.Approvers = []string{ref.NewGUID()} }), fault.Conflict)
	d.asked(d.delete(d.alice)) // it is there already
	d.asked(ask(d.bob, 1))     // and others have theirs
	all, err := d.approvals.List(d.ctx, d.alice, shopID, "", 0)
	if err != nil || len(all) != 9 {
		t.Errorf("%d requests, %v", len(all), err)
	}
}

// A lock, and an etag that does not hold, refuse before somebody is asked to approve
// what would not be done.
func TestNothingIsAskedForThatCannotBeDone(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	lock := resource.Resource{ID: shopID + "/providers/" + resource.LockType + "/keep", Type: resource.LockType, Properties: []byte(`{"level":"CanNotDelete"}`)}
	d.ok(d.db.Write(d.ctx, func(tx *db.Tx) error { _, err := d.docs.Put(d.ctx, tx, lock, resource.Any); return err }))
	d.wants("under a lock", d.delete(d.alice), fault.ScopeLocked)
	_, err := d.registries.Delete(d.ctx, d.alice, shopID, "old")
	d.wants("with an old etag", err, fault.Stale)
	d.wants("without the right", d.delete(d.person("reader", access.ReaderRole, shopID.Scope())), fault.Denied)
	d.wants("with an old etag", func() error {
		_, err := d.registries.Update(d.ctx, d.alice, shopID, "old", func(r *registry.Registry) error { r.DualControl.Status = "disabled"; return nil })
		return err
	}(), fault.Stale)
	if all, err := d.approvals.List(d.ctx, d.server, "", "", 0); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// Under another key of a customer's, the content is as lasting as that key.
func TestTwoChooseWhoseKeyItIs(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	customer(t, d.house)
	root := d.person("root", access.OwnerRole, ref.Everything)
	key := func(identifier string) error {
		_, err := d.encrypt(root, enabled(identifier))
		return err
	}
	id := d.asked(key("https://hsm/keys/root"))
	d.wants("another key", key("https://hsm/keys/other"), fault.ApprovalRequired)
	d.ok(d.approve(d.bob, id))
	d.ok(key("https://hsm/keys/root"))
	d.ok(d.registries.TendKeys(d.ctx))
	d.ok(key("https://hsm/keys/root/1")) // a version of the same
	_, err := d.registries.RotateDataKey(d.ctx, d.alice, shopID)
	d.ok(err)
	_, err = d.encrypt(root, registry.Encryption{}) // up to the platform
	d.ok(err)
}

// Requests that are over make room, and those that are not do not.
func TestRequestsThatAreOverMakeRoom(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	first := d.asked(d.delete(d.alice))
	r, err := d.approvals.Get(d.ctx, d.server, first)
	d.ok(err)
	d.ok(d.db.Write(d.ctx, func(tx *db.Tx) error {
		for i := range 220 {
			over := r.Properties
			over.State, over.Asked = approval.Used, over.Asked.Add(time.Duration(i-300)*time.Hour)
			text, err := json.Marshal(over)
			if err != nil {
				return err
			}
			doc := resource.Resource{ID: shopID + "/providers/" + approval.Type + ref.ID("/"+ref.NewGUID()), Type: approval.Type, Properties: text}
			if _, err := d.docs.Put(d.ctx, tx, doc, resource.Absent); err != nil {
				return err
			}
		}
		return nil
	}))
	next := d.asked(d.delete(d.bob))
	all, err := d.approvals.List(d.ctx, d.server, shopID, "", 0)
	if err != nil || len(all) != 200 {
		t.Errorf("%d requests are kept, %v", len(all), err)
	}
	if d.state(first) != approval.Pending || d.state(next) != approval.Pending {
		t.Error("one that waits was forgotten")
	}
}

// An erase is as final as a deletion, and what was approved is that erase and no other.
func TestTwoHaveToWantAnErase(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, on *db.DB) {
		d := twoPeople(t, on)
		erase := func(g access.Grant, platform bool) error {
			_, err := d.registries.Erase(d.ctx, g, shopID, platform)
			return err
		}
		before, err := d.rings.Ring(d.ctx, d.at(shop).UID)
		d.ok(err)
		id := d.asked(erase(d.alice, false))
		d.wants("who asks", d.approve(d.alice, id), fault.Denied)
		d.ok(d.approve(d.bob, id))
		d.wants("without the customer's key", erase(d.alice, true), fault.ApprovalRequired)
		d.wants("the deletion", d.delete(d.alice), fault.ApprovalRequired)
		if now, err := d.rings.Ring(d.ctx, d.at(shop).UID); err != nil || now.Current().Version() != before.Current().Version() {
			t.Errorf("the keys have changed: %v", err)
		}
		d.ok(erase(d.alice, false))
		if now, err := d.rings.Ring(d.ctx, d.at(shop).UID); err != nil || now.Current().Version() != before.Current().Version()+1 {
			t.Errorf("the keys are the old ones: %v", err)
		}
		if s := d.state(id); s != approval.Used {
			t.Errorf("the request is %s", s)
		}
		d.wants("once more", erase(d.alice, false), fault.ApprovalRequired)
	})
}

func TestWhoIsGoneWasSomebodysHand(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	root := d.person("root", access.OwnerRole, ref.Everything)
	d.age("alice", "bob", "root")
	mine := d.asked(d.delete(root))
	password, doc, err := d.users.CreateUser(d.ctx, root, "helper")
	d.ok(err)
	_, err = d.access.Assign(d.ctx, d.server, ref.Everything, "assignment-of-helper", access.AssignmentProperties{RoleDefinitionID: access.OwnerRole, PrincipalID: doc.System.UID})
	d.ok(err)
	helper := d.grant(shop, identity.Credentials{Method: identity.Basic, Name: "helper", Secret: password.Value})
	_, err = d.users.ResetUser(d.ctx, helper, "bob")
	d.ok(err)
	d.wants("an account that the hand of who asks has reset", d.approve(d.bob, mine), fault.Denied)
	d.ok(d.users.DeleteUser(d.ctx, root, "helper", resource.Any))
	d.wants("… and the hand is gone", d.approve(d.bob, mine), fault.Denied)
	d.age("bob")
	d.ok(d.approve(d.bob, mine)) // a week later
}

// Whom an issuer vouches for may be anybody whom the issuer's maker wants.
func TestWhomOnlyAnIssuerKnowsHasNoHandsToShow(t *testing.T) {
	d := twoPeople(t, dbtest.SQLite(t))
	d.age("alice", "bob")
	mine := d.asked(d.delete(d.alice))
	puppet := identity.Principal{ID: ref.DerivedGUID([]byte("https://issuer.example puppet")), Kind: identity.Federated, Name: "puppet"}
	of := access.NewGrant(access.Registry{}, puppet, access.NewHeld(access.Assignment{Principal: puppet.ID, Role: access.OwnerRole, Scope: ref.Everything}), access.Call{})
	_, err := d.users.ResetUser(d.ctx, of, "bob")
	d.ok(err)
	d.wants("an account that somebody of an issuer's has reset", d.approve(d.bob, mine), fault.Denied)
}
