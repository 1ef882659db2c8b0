package access

import (
	"encoding/json"
	"fmt"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// account makes an account of the directory, and returns its principal's id.
func (h *house) account(id ref.ID, typ, status string) string {
	h.t.Helper()
	properties, err := json.Marshal(identity.UserProperties{Status: status})
	h.ok(err)
	var made resource.Resource
	h.ok(h.DB.Write(h.t.Context(), func(tx *db.Tx) (err error) {
		made, err = h.Documents.Put(h.t.Context(), tx, resource.Resource{ID: id, Type: typ, Holder: resource.Itself, Properties: properties}, resource.Any)
		return err
	}))
	return made.System.UID
}

// Who names things chooses no way around a denial: groups, registries and accounts
// may be called "repositories".
func TestNoNameHidesFromADenial(t *testing.T) {
	const group = ref.ID("/subscriptions/s/resourceGroups/repositories")
	registry := group.Extension("Microsoft.ContainerRegistry/registries", "repositories")
	api := ref.RepositoryScope(registry, "team/api")
	app := ref.ID("/providers/Breakwater.Identity/servicePrincipals/repositories")
	owner := Assignment{Principal: "u1", Role: OwnerRole, Scope: ref.Everything}
	for _, row := range []struct {
		at ref.Scope
		Need
	}{
		{group.Scope(), Need{Action: ContentRead, Scope: api}},
		{registry.Scope(), Need{Action: ContentRead, Scope: api}},
		{registry.Scope(), Need{Action: TokenWrite, Scope: registry.Child("tokens", "ci").Scope()}},
		{app.Scope(), Need{Action: ServicePrincipalFederatedWrite, Scope: app.Child("federatedIdentityCredentials", "f").Scope()}},
	} {
		held := NewHeld(owner, Assignment{Principal: Everybody, Deny: true, Permissions: []Permission{{Actions: []string{"*"}}}, Scope: row.at})
		if got := Decide(someone, held, row.Need, now); got.Reason != Denied {
			t.Errorf("a denial at %s does not keep %s from %s", row.at, row.Action, row.Scope)
		}
	}
	only := NewHeld(Assignment{Principal: "u1", Role: "2a1e307c-b015-4ebd-883e-5b7698a07328", Scope: registry.Scope(),
		Condition: mustCondition(name + " StringStartsWith 'team/'")})
	if got := Decide(someone, only, Need{Action: ContentRead, Scope: api, Mode: ABAC}, now); !got.Allowed {
		t.Errorf("a condition reads another name than team/api: %v", got.Reason)
	}
}

// Who may assign to one type of principal does not choose which type somebody is.
func TestNobodySaysWhatTypeAPrincipalIs(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		delegate := numbered(0xc3)
		_, err := h.put(h.server, on(shop, AssignmentType, numbered(0xd1)), AssignmentProperties{RoleDefinitionID: "f58310d9-a9f6-439a-9e8d-f62e7b41a168", PrincipalID: delegate,
			Condition: `@Request[Microsoft.Authorization/roleAssignments:PrincipalType] StringEquals 'ServicePrincipal' OR @Resource[Microsoft.Authorization/roleAssignments:PrincipalType] StringEquals 'ServicePrincipal'`})
		h.ok(err)
		person := h.account(identity.UserID("mallory"), identity.UserType, identity.EnabledStatus)
		app := h.account(identity.ServicePrincipalID("build"), identity.ServicePrincipalType, identity.EnabledStatus)
		abroad := identity.FederatedID("issuer", "sub", "mallory")
		for i, row := range []struct {
			who, to, typ string
			want         fault.Code
		}{
			{delegate, person, "ServicePrincipal", fault.Denied},
			{delegate, abroad, "ServicePrincipal", fault.Denied},
			{delegate, person, "User", fault.Denied},
			{delegate, app, "User", fault.BadRequest},
			{delegate, app, "ServicePrincipal", -1},
			{owner, person, "ServicePrincipal", fault.BadRequest},
			{owner, person, "", -1},
			{owner, abroad, "User", -1},
		} {
			_, err := h.put(h.as(row.who), on(shop, AssignmentType, numbered(byte(i+1))), AssignmentProperties{RoleDefinitionID: PullRole, PrincipalID: row.to, PrincipalType: row.typ})
			h.is(fmt.Sprintf("%d: %s assigns to %s as %q", i, row.who, row.to, row.typ), err, row.want)
		}
		h.is("the delegate takes from a person", h.remove(h.as(delegate), on(shop, AssignmentType, numbered(7))), fault.Denied)
		h.is("the delegate takes from an application", h.remove(h.as(delegate), on(shop, AssignmentType, numbered(5))), -1)
	})
}

// A denial at a management group is not dodged by leaving the group.
func TestWhoIsDeniedInAGroupDoesNotLeaveIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		contributor := numbered(0xc1)
		h.assign(contributor, ContributorRole, ref.Everything)
		h.ok(h.DB.Write(t.Context(), func(tx *db.Tx) error {
			return second(h.Documents.Put(t.Context(), tx, resource.Resource{ID: subscription, Type: "Microsoft.Resources/subscriptions"}, resource.Any))
		}))
		g := on(everywhere, GroupType, "g")
		member := g.Child("subscriptions", subscription.Name())
		h.ok(second(h.put(h.as(owner), g, GroupProperties{})))
		h.ok(second(h.put(h.as(owner), member, `{}`)))
		h.ok(second(h.put(h.as(owner), on(g, DenyAssignmentType, numbered(1)), `{"denyAssignmentName":"d","permissions":[{"dataActions":["*"]}],"principals":[{"id":"`+contributor+`"}]}`)))
		h.is("the contributor takes the subscription out", h.remove(h.as(contributor), member), fault.Denied)
		if h.as(contributor).Can(ContentRead, at("a")) {
			t.Error("the denial is dodged")
		}
		h.is("the owner does", h.remove(h.as(owner), member), -1)
	})
}

// What must be left to somebody is left to somebody who can come in.
func TestNobodyIsLeftWithWhatOnlyAGhostMayDo(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		h := build(t, d)
		rule := func(scope ref.ID, exclude string) PolicyProperties {
			return PolicyProperties{State: RuleEnabled, Scope: scope, Actions: []string{"*"}, Require: "false", Principals: Included{Include: []string{Everybody}, Exclude: []string{exclude}}}
		}
		policy := on(everywhere, PolicyType, "r")
		ghost, glass := ref.NewGUID(), identity.UserID("glass")
		off := h.account(glass, identity.UserType, "disabled")
		for _, p := range []string{ghost, off} {
			h.assign(p, OwnerRole, ref.Everything)
			h.is("excluding an owner whom nobody can be", second(h.put(h.as(owner), policy, rule("/", p))), fault.Conflict)
		}
		h.is("which nobody could take back itself", second(h.put(h.as(owner), policy, rule(policy, ghost))), fault.Conflict)
		h.account(glass, identity.UserType, identity.EnabledStatus)
		h.is("excluding an owner who is there", second(h.put(h.as(owner), policy, rule("/", off))), -1)
	})
}

// A rule for everybody that is for nobody would be worse than none: Azure's words
// for everybody are refused, and the message says which word is ours.
func TestARuleForEverybodyIsNotSilentlyForNobody(t *testing.T) {
	h := build(t, dbtest.SQLite(t))
	for _, everybody := range []string{"All", "all", "00000000-0000-0000-0000-000000000000"} {
		for _, of := range []Included{{Include: []string{everybody}}, {Include: []string{"p"}, Exclude: []string{everybody}}} {
			_, err := h.put(h.as(owner), on(everywhere, PolicyType, "r"), PolicyProperties{State: RuleReports, Actions: []string{"*"}, Require: "false", Principals: of})
			h.is("a rule for "+everybody, err, fault.BadRequest)
		}
	}
}
