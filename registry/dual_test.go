package registry_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"breakwater/access"
	"breakwater/approval"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
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
	return d.registries.Delete(d.ctx, g, shopID, resource.Any)
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
		d.wants("another etag", d.registries.Delete(d.ctx, d.alice, shopID, "x"), fault.Stale)
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
		_, err := d.registries.Create(d.ctx, d.server, shopID, "local", nil, registry.Properties{
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
