package gate_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/gate/gatetest"
	"breakwater/identity"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/registry"
	"breakwater/resource"
)

// law writes a conditional-access rule that nobody can meet.
func law(t *testing.T, h *gatetest.House, state string, exclude ...string) {
	t.Helper()
	text, err := json.Marshal(access.PolicyProperties{
		State: state, Scope: "/", Actions: []string{"*/repositories/content/*"}, Require: "false",
		Principals: access.Included{Include: []string{access.Everybody}, Exclude: exclude},
	})
	if err != nil {
		t.Fatal(err)
	}
	doc := resource.Resource{ID: ref.ID("/providers/" + access.PolicyType + "/never"), Type: access.PolicyType, Properties: text}
	if _, err := h.Access.Put(context.Background(), h.Server(), doc, resource.Any); err != nil {
		t.Fatal(err)
	}
}

func TestARuleReportsRefusesAndLetsThroughWhomItExcludes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, owner, _ := open(t, d, nil)
		law(t, h, access.RuleReports)
		for range 2 {
			if res, body := owner.get("/read"); res.StatusCode != 200 {
				t.Fatal(res.Status, body)
			}
		}
		e, n := last(t, h, string(access.PolicyReport))
		if n != 2 || e.Category != ledger.Security || e.Outcome != ledger.Success || e.Who.Name != "owner" || e.Scope != ref.RepositoryScope(h.Registry.ID, "team/api") ||
			e.Correlation == "" || e.Detail.More["rules"] != "never" || e.Detail.More["operation"] != "read" || e.Detail.More["action"] != string(access.ContentRead) {
			t.Errorf("%d events, the last is %+v", n, e)
		}

		law(t, h, access.RuleEnabled)
		if res, _ := owner.get("/read"); res.StatusCode != 403 {
			t.Error(res.Status)
		}
		if e, _ := last(t, h, "read"); e.Reason != "Denied" || e.Outcome != ledger.Refused || e.Detail.More["rule"] != "never" {
			t.Errorf("%+v", e)
		}
		if _, n := last(t, h, string(access.PolicyReport)); n != 2 {
			t.Errorf("%d events", n)
		}

		user, err := h.Documents.Get(context.Background(), identity.UserID(h.OwnerName))
		if err != nil {
			t.Fatal(err)
		}
		law(t, h, access.RuleEnabled, user.System.UID)
		if res, _ := owner.get("/read"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
		if e, n := last(t, h, string(access.PolicyBreakGlass)); n != 1 || e.Category != ledger.Security || e.Who.Name != "owner" || e.Detail.More["rules"] != "never" {
			t.Errorf("%d events, the last is %+v", n, e)
		}
		law(t, h, access.RuleDisabled)
		if res, _ := owner.get("/read"); res.StatusCode != 200 {
			t.Error(res.Status)
		}
	})
}

func TestNoGlassBreaksUnrecorded(t *testing.T) {
	h, owner, _ := open(t, dbtest.SQLite(t), nil)
	user, err := h.Documents.Get(context.Background(), identity.UserID(h.OwnerName))
	if err != nil {
		t.Fatal(err)
	}
	law(t, h, access.RuleEnabled, user.System.UID)
	if res, _ := owner.get("/read"); res.StatusCode != 200 {
		t.Fatal(res.Status)
	}
	if err := h.Ledger.Close(); err != nil {
		t.Fatal(err)
	}
	if res, body := owner.get("/upload"); res.StatusCode != 503 {
		t.Error(res.Status, body)
	}
}

func TestThePasswordOfTheAdminUserRaisesAnEventAndItsTokensDoNot(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h, admin, _ := open(t, d, nil)
		ctx := context.Background()
		password, err := h.Registries.RegenerateCredential(ctx, h.Server(), h.Registry.ID, "password")
		if err != nil {
			t.Fatal(err)
		}
		admin.user, admin.password = h.Registry.Name, string(password.Value)
		if res, _ := admin.get("/read"); res.StatusCode != 401 {
			t.Error("the admin user is off: ", res.Status)
		}
		if _, n := last(t, h, string(access.AdminUserUse)); n != 0 {
			t.Errorf("%d events of somebody who did not come in", n)
		}
		h.Update(t, func(r *registry.Registry) { r.AdminUserEnabled = true })
		if res, _ := admin.get("/read"); res.StatusCode != 200 {
			t.Fatal(res.Status)
		}
		e, n := last(t, h, string(access.AdminUserUse))
		if n != 1 || e.Category != ledger.Security || e.Who.Kind != string(identity.Admin) || e.Scope != h.Registry.ID.Scope() || e.Detail.More["operation"] != "read" {
			t.Errorf("%d events, the last is %+v", n, e)
		}

		// What its password got was on record when it got it.
		r, err := h.Registries.ByName(ctx, h.Registry.Name)
		if err != nil {
			t.Fatal(err)
		}
		shown := identity.Credentials{Method: identity.Basic, Name: admin.user, Secret: identity.Secret(admin.password)}
		p, err := h.Identity.Authenticate(ctx, r.Realm(), identity.ContentPlane, shown, network.Origin{})
		if err != nil {
			t.Fatal(err)
		}
		bearer, _, err := h.Identity.IssueAccess(ctx, r.Realm(), p, []identity.Access{{Type: "repository", Name: "team/api", Actions: []string{"pull"}}})
		if err != nil {
			t.Fatal(err)
		}
		if res, body := admin.get("/read", func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+bearer) }); res.StatusCode != 200 {
			t.Error(res.Status, body)
		}
		if _, n := last(t, h, string(access.AdminUserUse)); n != 1 {
			t.Errorf("%d events", n)
		}
	})
}
