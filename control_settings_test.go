package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// What is kept, checked and shown of a registry, and never does what it says in
// silence. says "!x" is that the answer does not have x.
func TestSettingsAreKeptCheckedAndShown(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	pec, hook := d.id+"/privateEndpointConnections/ours", d.id+"/webhooks/builds"
	const endpoint = `"privateEndpoint":{"id":"/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/privateEndpoints/pe"}`
	diagnostics := d.id + "/providers/microsoft.insights/diagnosticSettings/to-us"
	const auth = "/providers/Microsoft.Authorization"
	definition, assignment := subscription+auth+"/policyDefinitions/no-admin", d.id+auth+"/policyAssignments/no-admin"
	const rule = `"policyRule":{"if":{"allOf":[{"field":"type","equals":"Microsoft.ContainerRegistry/registries"},{"field":"Microsoft.ContainerRegistry/registries/adminUserEnabled","equals":"true"}]},"then":{"effect":"[parameters('effect')]"}}`
	const parameters = `"parameters":{"effect":{"type":"String","allowedValues":["Audit","Deny"],"defaultValue":"Audit"}}`
	const local = auth + "/policyDefinitions/dc921057-6b28-4fbe-9b83-f7bec05db6c2"
	edge := d.id + "/connectedRegistries/edge-one"
	connected := func(more string) string {
		return `{"properties":{"mode":"readonly","parent":{"syncProperties":{"tokenId":"` + d.id + `/tokens/edge","schedule":"* * * * *","messageTtl":"P2D"}},"logging":{"logLevel":"Information","auditLogStatus":"Disabled"}` + more + `}}`
	}
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"PUT", pec, `{"properties":{` + endpoint + `}}`, 201, `"status":"Pending"`},
		{"PUT", pec, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved","description":"welcome"},"provisioningState":"Succeeded"}}`, 200, `"actionsRequired":"None"`},
		{"GET", pec, "", 200, `"description":"welcome"`},
		{"PUT", pec, `{"properties":{"privateLinkServiceConnectionState":{"status":"Perhaps"}}}`, 400, `Pending, Approved`},
		{"PUT", pec + "2", `{"properties":{"privateEndpoint":{"id":"/x/y"}}}`, 400, `privateEndpoint.id`},
		{"PUT", pec, `{"properties":{"privateLinkServiceConnectionState":{"status":"Disconnected"}}}`, 200, `Disconnected`},
		{"PUT", pec, `{"properties":{"privateLinkServiceConnectionState":{"status":"Approved"}}}`, 409, `"Conflict"`},
		{"GET", d.id + "/privateEndpointConnections", "", 200, `"name":"ours"`},
		{"DELETE", pec, "", 200, ``},
		{"DELETE", pec, "", 204, ``},
		{"GET", d.id + "/privateLinkResources", "", 200, `"requiredMembers":["registry","registry_data_local"]`},
		{"GET", d.id + "/privateLinkResources/registry", "", 200, `"requiredZoneNames":[]`},
		{"GET", d.id + "/privateLinkResources/other", "", 404, `"ResourceNotFound"`},

		{"PUT", d.id + "/replications/elsewhere", `{"location":"West Europe","properties":{}}`, 201, `"displayStatus":"NotReady"`},
		{"PATCH", d.id + "/replications/elsewhere", `{"tags":{"a":"b"},"properties":{"regionEndpointEnabled":false}}`, 200, `"regionEndpointEnabled":false`},
		{"PUT", d.id + "/replications/athome", `{"location":"local"}`, 409, `"Conflict"`},
		{"PUT", d.id + "/replications/again", `{"location":"westeurope"}`, 409, `elsewhere is for`},
		{"PUT", d.id + "/replications/nowhere", `{}`, 400, `has a location`},
		{"PUT", d.id + "/replications/a-b-c", `{"location":"x"}`, 400, `5 to 50`},

		{"PUT", hook, `{"location":"local","properties":{"serviceUri":"https://me:hunter2@example.com/hook","customHeaders":{"Authorization":"Bearer hunter3"},"actions":["push","delete"],"scope":"team/api:*"}}`, 201, `!hunter`},
		{"GET", hook, "", 200, `"actions":["delete","push"]`},
		{"GET", d.id + "/webhooks", "", 200, `!example.com`},
		{"PATCH", hook, `{"properties":{"status":"disabled"}}`, 200, `"status":"disabled"`},
		{"POST", hook + "/getCallbackConfig", "", 200, `"serviceUri":"https://me:hunter2@example.com/hook"`},
		{"POST", hook + "/getCallbackConfig", "", 200, `"Authorization":"Bearer hunter3"`},
		{"PATCH", hook, `{"properties":{"customHeaders":{}}}`, 200, `!hunter`},
		{"POST", hook + "/getCallbackConfig", "", 200, `"customHeaders":{}`},
		{"POST", hook + "/listEvents", "", 200, `{"value":[]}`},
		{"POST", hook + "/ping", "", 409, `"NotImplemented"`},
		{"POST", d.id + "/webhooks/nobody/getCallbackConfig", "", 404, ``},
		{"PUT", d.id + "/webhooks/other", `{"properties":{"serviceUri":"gopher://hunter2@example.com","actions":["push"]}}`, 400, `!hunter`},
		{"PUT", d.id + "/webhooks/other", `{"properties":{"serviceUri":"https://example.com","actions":["fly"]}}`, 400, `chart_push`},
		{"PUT", d.id + "/webhooks/other", `{"properties":{"serviceUri":"https://example.com","actions":["push"],"customHeaders":{"Host":"hunter2"}}}`, 400, `!hunter`},
		{"PUT", d.id + "/webhooks/other", `{"properties":{"serviceUri":"https://example.com","actions":["push"],"customHeaders":{"X":"a\r\nhunter2: b"}}}`, 400, `!hunter`},
		{"PUT", d.id + "/webhooks/other", `{"properties":{"serviceUri":"https://example.com","actions":["push"],"retries":3}}`, 409, `retries`},

		{"PUT", d.id + "/credentialSets/dockerhub", `{"identity":{"type":"SystemAssigned"},"properties":{"loginServer":"docker.io","authCredentials":[{"name":"Credential1","usernameSecretIdentifier":"https://v.example.com/secrets/user","passwordSecretIdentifier":"https://v.example.com/secrets/pass/1"}]}}`, 201, `"status":"Unhealthy"`},
		{"GET", d.id + "/credentialSets/dockerhub", "", 200, `"type":"SystemAssigned"`},
		{"PUT", d.id + "/credentialSets/other", `{"properties":{"loginServer":"docker.io","authCredentials":[{"usernameSecretIdentifier":"hunter2","passwordSecretIdentifier":"hunter2"}]}}`, 400, `!hunter`},
		{"PUT", d.id + "/cacheRules/nginx", `{"properties":{"sourceRepository":"docker.io/library/nginx","targetRepository":"nginx","credentialSetResourceId":"` + d.id + `/credentialSets/dockerhub"}}`, 201, `"creationDate"`},
		{"PUT", d.id + "/cacheRules/again", `{"properties":{"sourceRepository":"quay.io/a/nginx","targetRepository":"nginx"}}`, 409, `nginx is for`},
		{"PUT", d.id + "/cacheRules/other", `{"properties":{"sourceRepository":"nginx","targetRepository":"web"}}`, 400, `HOST/REPOSITORY`},
		{"PUT", d.id + "/cacheRules/other", `{"properties":{"sourceRepository":"docker.io/a/b","targetRepository":"web","credentialSetResourceId":"` + d.id + `/credentialSets/none"}}`, 400, `credentialSets`},
		{"DELETE", d.id + "/credentialSets/dockerhub", "", 409, `uses the credential set`},
		{"PATCH", d.id + "/cacheRules/nginx", `{"properties":{"credentialSetResourceId":null}}`, 200, `!credentialSetResourceId`},
		{"DELETE", d.id + "/credentialSets/dockerhub", "", 204, ``}, // which is all that Azure's SDKs take
		{"GET", d.id + "/credentialSets/dockerhub", "", 404, ``},

		{"PUT", d.id + "/scopeMaps/edge", `{"properties":{"actions":["repositories/hello/content/read","gateway/edge/config/read","gateway/edge/message/write"]}}`, 201, `gateway/edge/config/read`},
		{"PUT", edge, connected(""), 400, `tokens`},
		{"PUT", d.id + "/tokens/edge", `{"properties":{"scopeMapId":"` + d.id + `/scopeMaps/edge"}}`, 201, ``},
		{"PUT", edge, connected(""), 201, `"connectionState":"Offline"`},
		{"PATCH", edge, `{"properties":{"syncProperties":{"schedule":"0 3 * * *","syncWindow":"PT4H"},"notificationsList":["hello:*:push"]}}`, 200, `"schedule":"0 3 * * *"`},
		{"GET", edge, "", 200, `"messageTtl":"P2D"`},
		{"GET", edge, "", 200, `!"properties":{"syncProperties"`},
		{"PATCH", edge, `{"properties":{"syncProperties":{"schedule":"whenever"}}}`, 400, `cron`},
		{"PATCH", edge, `{"properties":{"mode":"ReadWrite"}}`, 400, `do not change`},
		{"POST", edge + "/deactivate", "", 200, ``},
		{"GET", d.id + "/connectedRegistries", "", 200, `"Inactive"`},
		{"GET", d.id + "/tasks", "", 200, `{"value":[]}`},
		{"GET", d.id + "/runs?$top=15", "", 200, `{"value":[]}`},
		{"GET", d.id + "/agentPools", "", 200, `{"value":[]}`},
		{"GET", d.id + "/exportPipelines", "", 404, ``},
		{"POST", d.id + "/importImage", `{}`, 409, `skopeo copy`},
		{"POST", d.id + "/scheduleRun", `{}`, 409, `"NotImplemented"`},
		{"PUT", d.id + "x/webhooks/builds", `{"properties":{"serviceUri":"https://example.com","actions":["push"]}}`, 404, `"ResourceNotFound"`},

		{"PUT", diagnostics, `{"properties":{"workspaceId":"/subscriptions/S/w","logs":[{"category":"ContainerRegistryLoginEvents","enabled":true,"retentionPolicy":{"enabled":false,"days":0}}],"metrics":[{"category":"AllMetrics","enabled":true}]}}`, 200, `"workspaceId"`},
		{"PUT", diagnostics, `{"properties":{"logs":[{"categoryGroup":"audit","enabled":true}]}}`, 200, `!LoginEvents`},
		{"PUT", diagnostics, `{"properties":{"logs":[{"category":"Gossip","enabled":true}]}}`, 400, `ContainerRegistryLoginEvents`},
		{"PUT", diagnostics + "2", `{"properties":{"logs":[{"categoryGroup":"audit","enabled":true}]}}`, 400, `destination`},
		{"PUT", group + "/providers/microsoft.insights/diagnosticSettings/x", `{"properties":{"workspaceId":"/s/w","logs":[{"categoryGroup":"audit","enabled":true}]}}`, 409, `registries only`},
		{"GET", d.id + "/providers/microsoft.insights/diagnosticSettings", "", 200, `"name":"to-us"`},
		{"GET", d.id + "/providers/microsoft.insights/diagnosticSettingsCategories", "", 200, `"categoryType":"Metrics"`},
		{"DELETE", diagnostics, "", 200, ``},

		{"PUT", definition, `{"properties":{"mode":"All",` + rule + `,` + parameters + `,"metadata":{"category":"Ours"}}}`, 201, `"policyType":"Custom"`},
		{"PUT", definition, `{"properties":{"policyRule":{"if":{"field":"type","equals":"x"},"then":{"effect":"[parameters('effect')]"}}}}`, 201, `!allOf`},
		{"PUT", definition + "2", `{"properties":{"policyRule":{"if":{"field":"type","equal":"x"},"then":{"effect":"deny"}}}}`, 400, `equal`},
		{"PUT", definition + "2", `{"properties":{"policyRule":{"if":{"field":"type","equals":"x"},"then":{"effect":"explode"}}}}`, 400, `Audit`},
		{"PUT", definition + "2", `{"properties":{` + rule + `}}`, 400, `effect`},
		{"PUT", d.id + auth + "/policyDefinitions/x", `{"properties":{` + rule + `,` + parameters + `}}`, 400, `subscription`},
		{"GET", subscription + auth + "/policyDefinitions", "", 200, `"policyType":"BuiltIn"`},
		{"GET", local, "", 200, `registries/adminUserEnabled`},
		{"PUT", local, `{"properties":{}}`, 404, ``},
		{"DELETE", local, "", 204, ``}, // nothing of it can be taken away
		{"GET", local, "", 200, `local admin`},
		{"PUT", assignment, `{"properties":{"policyDefinitionId":"` + definition + `","enforcementMode":"Default","parameters":{"effect":{"value":"Deny"}}}}`, 201, `neither evaluates nor enforces`},
		{"PUT", assignment, `{"properties":{"policyDefinitionId":"` + definition + `","enforcementMode":"Default","metadata":{"a":"b"}}}`, 201, `"scope":"` + d.id},
		{"PATCH", assignment, `{"properties":{"displayName":"Nobody is admin"}}`, 200, `"enforcementMode":"Default"`},
		{"PUT", assignment, `{"properties":{"parameters":{"effect":{"value":"Explode"}}}}`, 400, `not one of those allowed`},
		{"PUT", assignment, `{"properties":{"parameters":{"colour":{"value":"red"}}}}`, 400, `colour`},
		{"PUT", group + auth + "/policyAssignments/local", `{"properties":{"policyDefinitionId":"` + local + `"}}`, 201, ``},
		{"PUT", group + auth + "/policyAssignments/none", `{"properties":{"policyDefinitionId":"` + definition + `nope"}}`, 400, `no policy definition`},
		{"GET", d.id + auth + "/policyAssignments", "", 200, `"name":"local"`},
		{"GET", d.id + auth + "/policyAssignments?$filter=atScope()", "", 200, `"name":"local"`},
		{"GET", group + auth + "/policyAssignments?$filter=atScope()", "", 200, `!"name":"no-admin"`},
		{"DELETE", definition, "", 409, `is assigned by`},
		{"PUT", subscription + auth + "/policySetDefinitions/all", `{"properties":{"policyDefinitions":[{"policyDefinitionId":"` + definition + `","parameters":{"effect":{"value":"[parameters('e')]"}}}],"parameters":{"e":{"type":"String"}}}}`, 201, `"policyDefinitionReferenceId":"no-admin"`},
		{"PUT", group + auth + "/policyAssignments/all", `{"properties":{"policyDefinitionId":"` + subscription + auth + `/policySetDefinitions/all"}}`, 400, `needs a value`},
		{"DELETE", assignment, "", 200, ``},
		{"DELETE", definition, "", 409, `the set all has it`},
		{"DELETE", subscription + auth + "/policySetDefinitions/all", "", 200, ``},
		{"DELETE", definition, "", 200, ``},
	} {
		r, text := d.ask(test.method, test.path, test.body)
		has := strings.Contains(text, strings.TrimPrefix(test.says, "!"))
		if r.StatusCode != test.status || has == strings.HasPrefix(test.says, "!") {
			t.Errorf("%s %s %.120s: %d %s", test.method, test.path[len("/subscriptions/"):], test.body, r.StatusCode, text)
		}
	}
	// No secret is in the ledger, and every change is.
	_, text := d.ask("GET", "/providers/Breakwater.Ledger/events", "")
	var events struct {
		Value []struct{ Operation, Outcome string }
	}
	if err := json.Unmarshal([]byte(text), &events); err != nil {
		t.Fatal(err)
	}
	counted := map[string]int{}
	for _, e := range events.Value {
		counted[e.Operation+" "+e.Outcome]++
	}
	const registries = "Microsoft.ContainerRegistry/registries/"
	for what, want := range map[string]int{
		registries + "webhooks/write success": 3, registries + "webhooks/getCallbackConfig/action success": 3, registries + "webhooks/ping/action refused": 1,
		registries + "connectedRegistries/deactivate/action success": 1, registries + "privateEndpointConnections/delete success": 1,
	} {
		if counted[what] != want {
			t.Errorf("%s is in the ledger %d times, want %d", what, counted[what], want)
		}
	}
	if strings.Contains(text, "hunter") {
		t.Error("a secret is in the ledger")
	}
}

// To ask for a private way in and to let it in are two rights, and so are to see a
// webhook and to see where it goes.
func TestWhoAsksForAWayInDoesNotLetItselfIn(t *testing.T) {
	d := openDesk(t)
	const role = "44444444-4444-4444-4444-444444444444"
	if r, text := d.ask("PUT", "/providers/Microsoft.Authorization/roleDefinitions/"+role, `{"properties":{"roleName":"Asker","type":"CustomRole","assignableScopes":["/"],"permissions":[{"actions":["*/read","Microsoft.ContainerRegistry/registries/privateEndpointConnections/write"]}]}}`); r.StatusCode != 201 {
		t.Fatal(r.Status, text)
	}
	asker := d.holder("asker", role)
	pec, hook := d.id+"/privateEndpointConnections/theirs", d.id+"/webhooks/builds"
	state := func(status string) string {
		return `{"properties":{"privateEndpoint":{"id":"/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/privateEndpoints/pe"},"privateLinkServiceConnectionState":{"status":"` + status + `"}}}`
	}
	for _, test := range []struct {
		who, method, path, body string
		status                  int
		says                    string
	}{
		{"", "PUT", hook, `{"properties":{"serviceUri":"https://hunter2@example.com/","actions":["push"]}}`, 201, `!hunter2`},
		{asker, "GET", hook, "", 200, `!hunter2`},
		{asker, "POST", hook + "/getCallbackConfig", "", 403, `!hunter2`},
		{asker, "PATCH", hook, `{"properties":{"serviceUri":"https://example.com/mine"}}`, 403, `AuthorizationFailed`},
		{asker, "DELETE", hook, "", 403, `AuthorizationFailed`},
		{asker, "PUT", pec, state("Approved"), 403, `AuthorizationFailed`},
		{asker, "GET", pec, "", 404, ``},
		{asker, "PUT", pec, state("Pending"), 201, `Pending`},
		{asker, "PUT", pec, state("Approved"), 403, `AuthorizationFailed`},
		{"", "PUT", pec, state("Approved"), 200, `Approved`},
		{asker, "PUT", pec, `{"tags":{"a":"b"}}`, 200, `Approved`},
		{asker, "PUT", d.id + "/providers/Microsoft.Insights/diagnosticSettings/x", `{}`, 403, `AuthorizationFailed`},
		{asker, "PUT", d.id + "/providers/Microsoft.Authorization/policyAssignments/x", `{}`, 403, `AuthorizationFailed`},
		{asker, "POST", d.id + "/importImage", `{}`, 403, `AuthorizationFailed`},
	} {
		var header []string
		if test.who != "" {
			header = []string{"Authorization", test.who}
		}
		r, text := d.ask(test.method, test.path, test.body, header...)
		has := strings.Contains(text, strings.TrimPrefix(test.says, "!"))
		if r.StatusCode != test.status || has == strings.HasPrefix(test.says, "!") {
			t.Errorf("%s %s %.120s: %d %s", test.method, test.path[len("/subscriptions/"):], test.body, r.StatusCode, text)
		}
	}
}
