package main

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"breakwater/access"
)

// Whatever path leads to a registry's end, or to less of what protects it, leads by the
// other person.
func TestDualControlHasNoWayRound(t *testing.T) {
	d := openDesk(t, "--domain", "registries.test")
	subscription := d.id[:strings.Index(d.id, "/resourceGroups/")]
	group := subscription + "/resourceGroups/trade"
	id := func(name string) string {
		return group + "/providers/Microsoft.ContainerRegistry/registries/" + name
	}
	alice, bob := d.holder("alice", access.OwnerRole), d.holder("bob", access.OwnerRole)
	_, text := d.ask("GET", "/providers/Breakwater.Identity/servicePrincipals/bob", "")
	who := regexp.MustCompile(`"principalId":"([^"]+)"`).FindStringSubmatch(text)[1]
	as := func(login string) []string { return []string{"Authorization", login} }
	on := `"policies":{"softDeletePolicy":{"status":"enabled"}},"dualControl":{"status":"enabled","approvers":["` + who + `"]}`
	d.tried([]tried{
		{"PUT", group, `{"location":"local"}`, nil, 201, ""},
		{"PUT", id("first"), `{"location":"local","properties":{"dualControl":{"status":"enabled"}}}`, nil, 400, "softDeletePolicy"},
		{"PUT", id("first"), `{"location":"local","properties":{"dualControl":{"status":"on"}}}`, nil, 400, "enabled or disabled"},
		{"PUT", id("first"), `{"location":"local","properties":{"dualControl":{"approver":[]}}}`, nil, 409, "NotImplemented"},
		{"PUT", id("first"), `{"location":"local","properties":{` + on + `}}`, nil, 201, `"approvers":["` + who + `"]`},
		{"PUT", id("other"), `{"location":"local"}`, nil, 201, `"dualControl":{"status":"disabled","approvers":[]}`},
		{"PUT", id("first"), `{"location":"local","properties":{}}`, nil, 200, `"dualControl":{"status":"enabled"`},
		{"PUT", id("first"), `{"location":"local","sku":{"name":"Standard"}}`, nil, 200, `"dualControl":{"status":"enabled"`},
	})
	const needs = `"code":"ApprovalRequired"`
	d.tried([]tried{
		{"DELETE", id("first"), "", as(alice), 409, needs},
		{"DELETE", strings.ToUpper(id("first")), "", as(alice), 409, needs},
		{"DELETE", strings.ReplaceAll(id("first"), "/", "//") + "/", "", as(alice), 409, needs},
		{"DELETE", group, "", as(alice), 409, "first: this cannot be undone"},
		{"DELETE", strings.ToUpper(group), "", as(alice), 409, needs},
		{"DELETE", subscription, "", as(alice), 405, ""},
		{"PATCH", id("first"), `{"properties":{"dualControl":null}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"DUALCONTROL":{"STATUS":"disabled"}}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"dualControl":{"status":null}}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"dualControl":{"status":""}}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"dualControl":{"approvers":null}}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"policies":{"softDeletePolicy":{"retentionDays":1}}}}`, as(alice), 409, needs},
		{"PATCH", id("first"), `{"properties":{"policies":{"softDeletePolicy":null}}}`, as(alice), 400, "softDeletePolicy"},
		{"PATCH", id("first"), `{"properties":{"policies":null}}`, as(alice), 400, "softDeletePolicy"},
		{"PUT", id("first"), `{"location":"local","properties":{"dualControl":{"status":"disabled"}}}`, as(alice), 409, needs},
		{"GET", id("other"), "", nil, 200, `"name":"other"`}, // nothing of the group has gone
		{"GET", id("first"), "", nil, 200, `"dualControl":{"status":"enabled"`},
	})
	requests := id("first") + "/providers/Breakwater.Approval/requests"
	_, text = d.ask("GET", requests, "")
	found := regexp.MustCompile(`/requests/([0-9a-f-]+)","name"[^}]*"action":"Microsoft.ContainerRegistry/registries/delete"`).FindStringSubmatch(text)
	if found == nil || strings.Count(text, "registries/delete") != 1 {
		t.Fatalf("one deletion was asked for, however it was spelled: %s", text)
	}
	if strings.Contains(text, "amr") || strings.Contains(text, "listener") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("how somebody came in is shown: %s", text)
	}
	at := requests + "/" + found[1]
	d.tried([]tried{
		{"PUT", at, `{"properties":{"status":"Approved"}}`, as(alice), 405, ""},
		{"PATCH", at, `{"properties":{"status":"Approved"}}`, as(bob), 405, ""},
		{"DELETE", at, "", as(alice), 405, ""},
		{"POST", at + "/approve", "", as(alice), 403, "who asks cannot approve"},
		{"POST", at + "/approve", "", nil, 403, "made by the other"},
		{"POST", at + "/approve", `{"status":"Approved"}`, as(bob), 409, "NotImplemented"},
		{"POST", at + "/approve", `{"note":"a\u000ab"}`, as(bob), 400, "control characters"},
		{"POST", at + "/use", "", as(bob), 404, ""},
		{"POST", requests + "/nobody/approve", "", as(bob), 404, "no such request"},
		{"POST", id("other") + "/providers/Breakwater.Approval/requests/" + found[1] + "/approve", "", as(bob), 404, "no such request"},
		{"POST", id("first") + "/repositories/a/providers/Breakwater.Approval/requests/" + found[1] + "/approve", "", as(bob), 404, ""},
		{"POST", id("first") + "/providers/Microsoft.Authorization/locks/" + found[1] + "/approve", "", as(bob), 404, ""},
		{"POST", at + "/withdraw", "", as(bob), 403, "who asked"},
		{"POST", strings.ToUpper(at) + "/APPROVE", `{"note":"yes"}`, as(bob), 200, `"status":"Approved"`},
		{"GET", at, "", nil, 200, `"note":"yes"`},
		{"DELETE", id("first"), "", as(bob), 409, needs},
		{"DELETE", id("first"), "", nil, 409, needs},
		{"DELETE", group, "", as(alice), 200, ""},
		{"GET", group, "", nil, 404, ""},
		{"POST", at + "/approve", "", as(bob), 404, ""},
		{"GET", at, "", nil, 404, ""},
	})
	if r, text := d.ask("GET", "/providers/Breakwater.Ledger/events?category=Security", ""); r.StatusCode != http.StatusOK || !strings.Contains(text, `"operation":"Breakwater.Approval/requests/use"`) {
		t.Errorf("its use is not on record: %s", text)
	}
}
