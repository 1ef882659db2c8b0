package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// tried are requests in order, and what their answers are and say.
func (d *desk) tried(tests []tried) {
	d.t.Helper()
	for _, test := range tests {
		r, text := d.ask(test.method, test.path, test.body, test.header...)
		if r.StatusCode != test.status || !strings.Contains(text, test.says) {
			d.t.Errorf("%s %s %.100s: %d %.600s", test.method, test.path, test.body, r.StatusCode, text)
		}
		if r.Header.Get("X-Ms-Request-Id") == "" {
			d.t.Errorf("%s %s: an answer without an id", test.method, test.path)
		}
	}
}

type tried struct {
	method, path, body string
	header             []string
	status             int
	says               string
}

func TestTheTreeAboveTheProviders(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	dev := subscription + "/resourcegroups/dev"
	identity := dev + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/"
	d.tried([]tried{
		{"HEAD", dev, "", nil, 404, ""},
		{"GET", dev, "", nil, 404, `"code":"ResourceGroupNotFound"`},
		{"PATCH", dev, `{"tags":{}}`, nil, 404, `"code":"ResourceGroupNotFound"`},
		{"PUT", dev, `{}`, nil, 400, `has a location`},
		{"PUT", subscription + "/resourceGroups/bad%20name", `{"location":"local"}`, nil, 400, ``},
		{"PUT", subscription + "/resourceGroups/name.", `{"location":"local"}`, nil, 400, `"code":"InvalidResourceName"`},
		{"PUT", "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/dev", `{"location":"local"}`, nil, 404, `"code":"SubscriptionNotFound"`},
		{"PUT", identity + "robot", `{"location":"local"}`, nil, 404, `"code":"ResourceGroupNotFound"`},
		{"PUT", dev, `{"location":"west","tags":{"team":"a"},"properties":{}}`, nil, 201, `"type":"Microsoft.Resources/resourceGroups"`},
		{"PUT", dev, `{"location":"West","tags":{"team":"b"}}`, nil, 200, `"provisioningState":"Succeeded"`},
		{"PUT", dev, `{"location":"east"}`, nil, 409, `lies in west`},
		{"PATCH", dev, `{"tags":{"stage":"x"},"properties":{"provisioningState":"Failed"}}`, nil, 200, `"tags":{"stage":"x"}`},
		{"PATCH", dev, `{"properties":{"colour":"red"}}`, nil, 409, `NotImplemented`},
		{"HEAD", strings.ToUpper(dev), "", nil, 204, ""},
		{"HEAD", d.id, "", nil, 204, ""},
		{"HEAD", d.id + "x", "", nil, 404, ""},
		{"HEAD", subscription + "/resourceGroups", "", nil, 405, ""},
		{"GET", subscription + "/resourceGroups", "", nil, 200, `/resourceGroups/dev","name":"dev","type":"Microsoft.Resources/resourceGroups","location":"west","tags":{"stage":"x"}`},
		{"GET", subscription + "/resourceGroups?$filter=tagName%20eq%20'stage'%20and%20tagValue%20eq%20'x'", "", nil, 200, `{"value":[{"id":"` + subscription + `/resourceGroups/dev"`},
		{"GET", subscription + "/resourceGroups?$filter=tagName%20eq%20'stage'%20and%20tagValue%20eq%20'y'", "", nil, 200, `{"value":[]}`},
		{"GET", subscription + "/resourceGroups?$filter=resourceType%20eq%20'x'", "", nil, 400, `tagName`},
		{"GET", dev, "", nil, 200, `"properties":{"provisioningState":"Succeeded"}`},

		{"PUT", identity + "robot", `{"location":"local","tags":{"team":"a","stage":"b"}}`, nil, 201, ``},
		{"PUT", identity + "drone", `{"location":"local","tags":{"team":"b"}}`, nil, 201, ``},
		{"GET", subscription + "/resources?$filter=resourceType%20eq%20'microsoft.containerregistry/registries'", "", nil, 200, `{"value":[{"id":"` + d.id + `","name":"breakwater","type":"Microsoft.ContainerRegistry/registries","location":"local"`},
		{"GET", dev + "/resources?$filter=tagname+eq+'team'+and+tagvalue+eq+'a'&$expand=createdTime,changedTime,provisioningState", "", nil, 200, `"name":"robot"`},
		{"GET", dev + "/resources?$filter=tagname+eq+'stage'+and+tagvalue+eq+'a'", "", nil, 200, `{"value":[]}`},
		{"GET", dev + "/resources?$top=1", "", nil, 200, `"nextLink":"https://localhost:`},
		{"GET", dev + "/resources?$filter=colour+eq+'red'", "", nil, 400, `"error"`},
		{"GET", subscription + "/resources", "", []string{"Authorization", ""}, 401, `"error"`},
		{"POST", subscription + "/resources", "", nil, 405, `"error"`},

		{"GET", subscription + "/providers/microsoft.containerregistry?api-version=2021-04-01", "", nil, 200, `"registrationState":"Registered"`},
		{"GET", subscription + "/providers/Microsoft.ContainerRegistry", "", nil, 200, `{"resourceType":"registries","locations":[],"apiVersions":["2025-03-01-preview"`},
		{"GET", subscription + "/providers/Microsoft.ContainerRegistry", "", nil, 200, `"defaultApiVersion":"2023-07-01"`},
		{"POST", subscription + "/providers/Microsoft.ContainerRegistry/register", "", nil, 200, `"registrationState":"Registered"`},
		{"GET", subscription + "/providers/Microsoft.Nothing", "", nil, 404, `"error"`},
		{"GET", subscription + "/providers", "", nil, 200, `"namespace":"Microsoft.Authorization"`},
		{"GET", "/providers", "", nil, 200, `"namespace":"Breakwater.Identity"`},
		{"GET", "/providers/Microsoft.ContainerRegistry/operations", "", nil, 200, `{"name":"Microsoft.ContainerRegistry/registries/repositories/content/read","origin":"user,system","isDataAction":true`},
		{"GET", "/providers/Microsoft.ContainerRegistry/operations", "", nil, 200, `"name":"Microsoft.ContainerRegistry/registries/write"`},
		{"GET", subscription + "/locations", "", nil, 200, `"name":"west"`},
		{"GET", "/metadata/endpoints?api-version=2015-01-01", "", []string{"Authorization", ""}, 200, `{"authentication":{"audiences":["https://management.core.windows.net/"],"loginEndpoint":"https://localhost:`},
		{"GET", "/metadata/endpoints?api-version=2022-09-01", "", []string{"Authorization", ""}, 200, `[{"`},

		{"DELETE", dev, "", []string{"If-Match", `"old"`}, 412, `"error"`},
		{"DELETE", dev, "", nil, 200, ``},
		{"GET", identity + "robot", "", nil, 404, `"code":"ResourceGroupNotFound"`},
		{"DELETE", dev, "", nil, 404, `ResourceGroupNotFound`},
		{"DELETE", group, "", nil, 409, `"error"`}, // which holds the registry of bare addresses
		{"GET", d.id, "", nil, 200, `"name":"breakwater"`},
	})
	if r, _ := d.ask("GET", d.id, "", "X-Ms-Client-Request-Id", "6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2"); r.Header.Get("X-Ms-Client-Request-Id") != "6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2" {
		t.Error("a client's own id does not come back")
	}
	// What was deleted with the group is recorded, each by itself.
	deleted := map[string]int{}
	err := list(t.Context(), d.client, "/providers/Breakwater.Ledger/events?category=Administrative", func(e struct{ Operation, Outcome string }) error {
		if e.Outcome == "success" && strings.HasSuffix(e.Operation, "/delete") {
			deleted[e.Operation]++
		}
		return nil
	})
	if err != nil || deleted["Microsoft.ManagedIdentity/userAssignedIdentities/delete"] != 2 || deleted["Microsoft.Resources/subscriptions/resourceGroups/delete"] != 1 {
		t.Errorf("%v, %v", deleted, err)
	}
}

func TestALockHoldsWhoeverAsks(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	dev := group[:strings.Index(group, "/resourceGroups/")] + "/resourceGroups/dev"
	robot := dev + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/robot"
	// As az writes it.
	lock := func(on, name string) string {
		return strings.Replace(strings.Replace(on, "resourceGroups", "resourcegroups", 1), "Registry/", "Registry//", 1) + "/providers/Microsoft.Authorization/locks/" + name + "?api-version=2016-09-01"
	}
	const keep, freeze = `{"properties":{"level":"CanNotDelete","notes":"n"}}`, `{"properties":{"level":"ReadOnly"}}`
	d.tried([]tried{
		{"PUT", dev, `{"location":"local"}`, nil, 201, ``},
		{"PUT", robot, `{"location":"local"}`, nil, 201, ``},
		{"PUT", lock(robot, "keep"), keep, nil, 201, `"level":"CanNotDelete","notes":"n"`},
		{"PUT", lock(robot, "keep"), `{"properties":{"level":"Perhaps"}}`, nil, 400, `"error"`},
		{"PUT", lock(robot+"x", "keep"), keep, nil, 404, `"code":"ParentResourceNotFound"`},
		{"PUT", "/providers/Breakwater.Identity/users/owner/providers/Microsoft.Authorization/locks/x", keep, nil, 400, `"error"`},
		{"PUT", lock(robot, "keep")[:strings.Index(lock(robot, "keep"), "?")] + "/providers/Microsoft.Authorization/locks/x", keep, nil, 400, `"error"`},
		{"DELETE", robot, "", nil, 409, `"code":"ScopeLocked"`},
		{"DELETE", dev, "", nil, 409, `/locks/keep`},
		{"PATCH", robot, `{"tags":{"a":"b"}}`, nil, 200, `"a":"b"`},
		{"GET", lock(dev, "")[:strings.Index(lock(dev, ""), "/?")], "", nil, 200, `"name":"keep"`},
		{"DELETE", lock(robot, "keep"), "", nil, 200, ``},
		{"PUT", lock(d.id, "freeze"), freeze, nil, 201, `"level":"ReadOnly"`},
		{"PATCH", d.id, `{"properties":{"adminUserEnabled":true}}`, nil, 409, `"code":"ScopeLocked"`},
		{"PUT", d.id + "/scopeMaps/x", `{"properties":{"actions":[]}}`, nil, 409, `"code":"ScopeLocked"`},
		{"PUT", d.id + "/providers/Microsoft.Authorization/roleAssignments/6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2",
			`{"properties":{"roleDefinitionId":"acdd72a7-3385-48ef-bd42-f606fba81ae7","principalId":"6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2","principalType":"ServicePrincipal"}}`, nil, 409, `"code":"ScopeLocked"`},
		{"GET", d.id, "", nil, 200, `"adminUserEnabled":false`},
		{"PUT", lock(d.id, "freeze"), keep, nil, 200, `"level":"CanNotDelete"`},
		{"PATCH", d.id, `{"tags":{"a":"b"}}`, nil, 200, `"a":"b"`},
		{"DELETE", lock(d.id, "freeze"), "", nil, 200, ``},
		{"DELETE", dev, "", nil, 200, ``},
	})
	// A lock is no matter of who may change the resource: it is a right of its own.
	contributor := d.holder("contributor", "b24988ac-6180-42a0-ab88-20f7382dd24c")
	d.tried([]tried{
		{"PUT", lock(d.id, "mine"), keep, []string{"Authorization", contributor}, 403, `"error"`},
		{"PUT", lock(d.id, "keep"), keep, nil, 201, ``},
		{"DELETE", lock(d.id, "keep"), "", []string{"Authorization", contributor}, 403, `"error"`},
		{"GET", lock(d.id, "keep"), "", []string{"Authorization", contributor}, 200, `"CanNotDelete"`},
	})
}

// Lists across kinds have what the caller may see, and no more.
func TestAListAcrossKindsHasWhatTheCallerMaySee(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	if r, text := d.ask("PUT", group+"/providers/Microsoft.ManagedIdentity/userAssignedIdentities/robot", `{"location":"local"}`); r.StatusCode != 201 {
		t.Fatal(text)
	}
	var names []string
	if err := list(t.Context(), d.client, subscription+"/resources?$top=1", func(r struct{ Name string }) error {
		names = append(names, r.Name)
		return nil
	}); err != nil || strings.Join(names, " ") != "breakwater robot" {
		t.Errorf("page by page: %v, %v", names, err)
	}
	reader, nobody := d.holder("reader", ""), d.holder("nobody", "")
	_, text := d.ask("GET", "/providers/Breakwater.Identity/servicePrincipals/reader", "")
	_, text, _ = strings.Cut(text, `"principalId":"`)
	id, _, _ := strings.Cut(text, `"`)
	if r, text := d.ask("PUT", d.id+"/providers/Microsoft.Authorization/roleAssignments/6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2",
		`{"properties":{"roleDefinitionId":"acdd72a7-3385-48ef-bd42-f606fba81ae7","principalType":"ServicePrincipal","principalId":"`+id+`"}}`); r.StatusCode != 201 {
		t.Fatal(text)
	}
	for login, want := range map[string]string{reader: "breakwater", nobody: ""} {
		r, text := d.ask("GET", subscription+"/resources", "", "Authorization", login)
		var page struct{ Value []struct{ Name string } }
		if err := json.Unmarshal([]byte(text), &page); err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(text, err)
		}
		names := []string{}
		for _, v := range page.Value {
			names = append(names, v.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s sees %s", want, got)
		}
		if r, text := d.ask("POST", subscription+"/providers/Microsoft.ContainerRegistry/register", "", "Authorization", login); r.StatusCode != http.StatusForbidden {
			t.Errorf("%s registers a provider: %s", want, text)
		}
	}
}

func TestTheActivityLogHasWhatWasChangedAndTheCallerMaySee(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	dev := subscription + "/resourceGroups/dev"
	stranger := d.holder("stranger", "")
	d.tried([]tried{
		{"PUT", dev, `{"location":"local"}`, nil, 201, ``},
		{"PUT", dev + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/robot", `{"location":"local"}`, nil, 201, ``},
		{"PATCH", d.id, `{"tags":{"a":"b"}}`, nil, 200, ``},
		{"PATCH", d.id, `{"tags":{"a":"c"}}`, []string{"Authorization", stranger}, 403, ``},
		{"DELETE", dev, "", nil, 200, ``},
	})
	values := subscription + "/providers/microsoft.insights/eventtypes/management/values?api-version=2015-04-01&$filter="
	log := func(path string, header ...string) (operations []string) {
		t.Helper()
		for path != "" {
			r, text := d.ask("GET", path, "", header...)
			var page struct {
				Value []struct {
					OperationName, Status struct{ Value string }
					ResourceID, Caller    string
					SubscriptionID        string
				}
				NextLink string
			}
			if err := json.Unmarshal([]byte(text), &page); err != nil || r.StatusCode != http.StatusOK {
				t.Fatal(path, text, err)
			}
			for _, v := range page.Value {
				name := v.OperationName.Value[strings.Index(v.OperationName.Value, "/")+1:]
				operations = append(operations, name+" "+v.Status.Value)
				if v.SubscriptionID != subscription[len("/subscriptions/"):] || v.Caller == "" {
					t.Errorf("%+v", v)
				}
			}
			_, path, _ = strings.Cut(page.NextLink, d.client.Server)
		}
		return operations
	}
	const past = "eventTimestamp+ge+2026-01-01T00:00:00+and+eventTimestamp+le+2126-01-01T00:00:00"
	want := []string{
		"subscriptions/resourceGroups/delete Succeeded", "userAssignedIdentities/delete Succeeded", "registries/write Failed", "registries/write Succeeded",
		"userAssignedIdentities/write Succeeded", "subscriptions/resourceGroups/write Succeeded",
	}
	for _, test := range []struct {
		filter string
		want   string
	}{
		{past, strings.Join(want, ", ")},
		{past + "+and+resourceGroupName+eq+'DEV'", strings.Join([]string{want[0], want[1], want[4], want[5]}, ", ")},
		{past + "+and+resourceId+eq+'" + d.id + "'&$top=1", strings.Join(want[2:4], ", ")},
		{past + "+and+resourceId+eq+'" + d.id + "'+and+status+eq+'Failed'", want[2]},
		{past + "+and+caller+eq+'stranger'", want[2]},
		{"eventTimestamp+ge+2126-01-01T00:00:00", ""},
	} {
		got := log(values + test.filter)
		if strings.Contains(test.filter, "past") || len(got) > 6 {
			got = got[:6] // what the first start made comes before
		}
		if len(got) > 1 && strings.Contains(test.filter, "resourceId") && !strings.Contains(test.filter, "status") {
			got = got[:2]
		}
		if text := strings.Join(got, ", "); text != test.want {
			t.Errorf("%s:\n%s, want\n%s", test.filter, text, test.want)
		}
	}
	if got := log(values+past, "Authorization", stranger); got != nil {
		t.Errorf("a stranger sees %v", got)
	}
	d.tried([]tried{
		{"GET", values + "eventTimestamp+ge+yesterday", "", nil, 400, ``},
		{"GET", values + "&$skipToken=x", "", nil, 400, ``},
		{"GET", d.id + "/providers/Microsoft.Authorization/permissions", "", nil, 200, `{"value":[{"actions":["*"],"notActions":[],"dataActions":[],"notDataActions":[]}]}`},
		{"GET", d.id + "/repositories/team/api/providers/Microsoft.Authorization/permissions", "", []string{"Authorization", stranger}, 200, `{"value":[]}`},
		{"GET", group + "/providers/Microsoft.Authorization/permissions", "", nil, 200, `"*"`},
		{"GET", "/providers/Microsoft.Authorization/permissions", "", nil, 200, `"*"`},
		{"GET", d.id + "/tokens/providers/Microsoft.Authorization/permissions", "", nil, 404, ``},
		{"GET", "/providers/Microsoft.Insights/eventcategories", "", nil, 200, `"Administrative"`},
	})
}

// Who may delete a resource, but not what is denied there, does not get rid of the
// denial by deleting both and making one again.
func TestADenialIsNotDeletedWithWhatItIsAbout(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	dev := group[:strings.Index(group, "/resourceGroups/")] + "/resourceGroups/dev"
	robot := dev + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/robot"
	contributor := []string{"Authorization", d.holder("contributor", "b24988ac-6180-42a0-ab88-20f7382dd24c")}
	denial := robot + "/providers/Microsoft.Authorization/denyAssignments/6a1bd0ab-93ec-4b82-8b9b-1c3b9a38e9f2"
	d.tried([]tried{
		{"PUT", dev, `{"location":"local"}`, contributor, 201, ``},
		{"PUT", robot, `{"location":"local"}`, contributor, 201, ``},
		{"PUT", denial, `{"properties":{"denyAssignmentName":"n","permissions":[{"actions":["Microsoft.ContainerRegistry/*"]}],"principals":[{"id":"00000000-0000-0000-0000-000000000000","type":"SystemDefined"}]}}`, nil, 201, ``},
		{"DELETE", robot, "", contributor, 403, `"error"`},
		{"DELETE", dev, "", contributor, 403, `"error"`},
		{"GET", denial, "", nil, 200, ``},
		{"DELETE", denial, "", contributor, 403, `"error"`},
		{"DELETE", denial, "", nil, 200, ``},
		{"DELETE", dev, "", contributor, 200, ``},
	})
}

// What a denial keeps from the caller is in no list of what lies above it, either.
func TestADenialHoldsInListsFromAbove(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	const auth, zero = "/providers/Microsoft.Authorization", "/00000000-0000-0000-0000-00000000000"
	reader := d.holder("reader", "")
	_, text := d.ask("GET", "/providers/Breakwater.Identity/servicePrincipals/reader", "")
	_, text, _ = strings.Cut(text, `"principalId":"`)
	id, _, _ := strings.Cut(text, `"`)
	one := `{"properties":{"roleDefinitionId":"acdd72a7-3385-48ef-bd42-f606fba81ae7","principalType":"ServicePrincipal","principalId":"` + id + `"}}`
	keep := `{"properties":{"level":"CanNotDelete"}}`
	d.tried([]tried{
		{"PUT", auth + "/roleAssignments" + zero + "1", one, nil, 201, ``},
		{"PUT", subscription + "/resourceGroups/a-secret", `{"location":"local"}`, nil, 201, ``},
		{"PUT", subscription + "/resourceGroups/a-secret/providers/Microsoft.ManagedIdentity/userAssignedIdentities/robot", `{"location":"local"}`, nil, 201, ``},
		{"PUT", subscription + "/resourceGroups/a-secret" + auth + "/roleAssignments" + zero + "2", one, nil, 201, ``},
		{"PUT", subscription + "/resourceGroups/a-secret" + auth + "/locks/a-lock", keep, nil, 201, ``},
		{"PUT", group + auth + "/locks/open", keep, nil, 201, ``},
		{"PUT", group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/open", `{"location":"local"}`, nil, 201, ``},
		{"PUT", d.id + "/scopeMaps/a-secret", `{"properties":{"actions":[]}}`, nil, 201, ``},
	})
	lists := []struct{ path, open string }{
		{subscription + "/resourceGroups", `"name":"breakwater"`},
		{subscription + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities", `"name":"open"`},
		{subscription + auth + "/locks", `"name":"open"`},
		{subscription + auth + "/roleAssignments", zero[1:] + "1"},
		{d.id + "/scopeMaps", `"_repositories_pull"`},
		{"/providers/Breakwater.Identity/servicePrincipals", `"value":[`},
	}
	tell := func(secret bool) {
		t.Helper()
		for _, l := range lists {
			r, text := d.ask("GET", l.path, "", "Authorization", reader)
			if hidden := strings.Contains(text, "secret") || strings.Contains(text, `"name":"reader"`); r.StatusCode != 200 || hidden != secret || !strings.Contains(text, l.open) {
				t.Errorf("%s: %d %s", l.path, r.StatusCode, text)
			}
		}
		// Nor does it shorten a page.
		if _, text := d.ask("GET", subscription+"/resourceGroups?$top=1", "", "Authorization", reader); !secret && !strings.Contains(text, `"name":"breakwater"`) {
			t.Error(text)
		}
	}
	tell(true)
	no := `{"properties":{"denyAssignmentName":"no","permissions":[{"actions":["*"]}],"principals":[{"id":"` + id + `","type":"ServicePrincipal"}]}}`
	d.tried([]tried{
		{"PUT", subscription + "/resourceGroups/a-secret" + auth + "/denyAssignments" + zero + "3", no, nil, 201, ``},
		{"PUT", d.id + "/scopeMaps/a-secret" + auth + "/denyAssignments" + zero + "4", no, nil, 201, ``},
		{"PUT", "/providers/Breakwater.Identity/servicePrincipals/reader" + auth + "/denyAssignments" + zero + "5", no, nil, 201, ``},
	})
	tell(false)
}
