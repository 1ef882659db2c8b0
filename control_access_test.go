package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// What Azure's clients insist on is exact: azure-contract §3.1, §3.2 and §6.1.
func TestWhoMayDoWhatIsAskedAndChangedAsInAzure(t *testing.T) {
	d := openDesk(t)
	group := d.id[:strings.Index(d.id, "/providers/")]
	subscription := group[:strings.Index(group, "/resourceGroups/")]
	const (
		auth    = "/providers/Microsoft.Authorization"
		one     = "/11111111-1111-1111-1111-111111111111"
		two     = "/22222222-2222-2222-2222-222222222222"
		some    = "33333333-3333-3333-3333-333333333333"
		pull    = `{"properties":{"roleDefinitionId":"/subscriptions/any/providers/Microsoft.Authorization/roleDefinitions/7F951DDA-4ED3-4680-A7CA-43FE172D538D","principalId":"` + some + `","principalType":"ServicePrincipal"}}`
		push    = `{"properties":{"roleDefinitionId":"8311e382-0749-4cb8-b61a-304f252e45ec","principalId":"` + some + `"}}`
		denied  = `{"properties":{"denyAssignmentName":"no","principals":[{"id":"` + some + `"}],"permissions":[{"dataActions":["*"]}]}}`
		users   = "/providers/Breakwater.Identity/users"
		sps     = "/providers/Breakwater.Identity/servicePrincipals"
		issuers = "/providers/Breakwater.Identity/issuers"
		groups  = "/providers/Microsoft.Management/managementGroups"
		rules   = "/providers/Breakwater.Access/conditionalAccessPolicies"
		places  = "/providers/Breakwater.Access/namedLocations"
	)
	role := `{"properties":{"roleName":"Looker","type":"CustomRole","assignableScopes":["` + subscription + `"],"permissions":[{"actions":["*/read"],"notActions":[],"dataActions":[],"notDataActions":[]}],"createdOn":null,"updatedBy":"x"}}`
	identities := group + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities"
	for _, test := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"GET", "/tenants?api-version=2019-11-01", "", 200, `"tenantCategory":"Home"`},
		{"GET", "/subscriptions?api-version=2019-11-01", "", 200, `"state":"Enabled"`},
		{"GET", subscription + "/resourcegroups", "", 200, `"provisioningState":"Succeeded"`},

		// Assignments, at every scope. A PUT is answered with 201, and a DELETE with what it was.
		{"PUT", d.id + auth + "/roleAssignments" + one, pull, 201, `"roleDefinitionId":"/`},
		{"PUT", d.id + auth + "/roleAssignments" + one, pull, 201, `"createdOn":"20`},
		{"PUT", d.id + auth + "/roleAssignments" + one, push, 409, "RoleAssignmentUpdateNotPermitted"},
		{"PUT", d.id + auth + "/roleAssignments" + two, pull, 409, "RoleAssignmentExists"},
		{"PUT", group + auth + "/roleAssignments" + two, pull, 201, `"type":"Microsoft.Authorization/roleAssignments"`},
		{"PUT", subscription + auth + "/roleAssignments" + two, pull, 201, subscription},
		{"PUT", auth + "/roleAssignments" + two, pull, 201, `"scope":"/"`},
		{"PUT", d.id + "/repositories/team/api" + auth + "/roleAssignments" + two, push, 201, "/repositories/team/api/providers/"},
		{"PUT", d.id + "/scopeMaps/_repositories_pull" + auth + "/roleAssignments" + two, pull, 201, "scopeMaps"},
		{"PUT", d.id + auth + "/roleAssignments/mine", pull, 400, "GUID"},
		{"PUT", d.id + "/repositories/Team_" + auth + "/roleAssignments" + one, push, 400, `"error"`},
		{"PUT", d.id + auth + "/roleAssignments" + two, `{"properties":{"roleDefinitionId":"00000000-0000-0000-0000-000000000000","principalId":"` + some + `"}}`, 404, "no role"},
		{"PUT", d.id + auth + "/roleAssignments" + two, strings.Replace(pull, "principalId", "principalID2", 1), 409, "no property"},
		{"GET", d.id + auth + "/roleAssignments" + one, "", 200, `"principalType":"ServicePrincipal"`},
		{"GET", strings.ToUpper(d.id+auth+"/roleAssignments"+one) + "?api-version=2022-04-01&tenantId=x", "", 200, `"name":"11111111-`},
		{"GET", d.id + auth + "/roleAssignments?$filter=atScope()", "", 200, `"scope":"/"`},
		{"GET", d.id + auth + "/roleAssignments?$filter=atScope()+and+principalId+eq+%27" + some + "%27", "", 200, some},
		{"GET", d.id + auth + "/roleAssignments?$filter=assignedTo(%27nobody%27)", "", 200, `"value":[]`},
		{"GET", d.id + auth + "/roleAssignments?$filter=roleName+eq+%27x%27", "", 400, "$filter"},
		{"GET", d.id + "/tokens?$filter=atScope()", "", 400, "$filter"},
		{"DELETE", d.id + auth + "/roleAssignments" + one, "", 200, some},
		{"DELETE", d.id + auth + "/roleAssignments" + one, "", 204, ""},
		{"GET", d.id + auth + "/roleAssignments" + one, "", 404, "ResourceNotFound"},
		{"POST", d.id + auth + "/roleAssignments", "", 405, `"error"`},

		// Roles: az and the SDKs take nothing but 201.
		{"PUT", subscription + auth + "/roleDefinitions" + one, role, 201, `"type":"CustomRole"`},
		{"PUT", subscription + auth + "/roleDefinitions" + one, role, 201, `"updatedOn":"20`},
		{"PATCH", subscription + auth + "/roleDefinitions" + one, `{"properties":{"description":"looks"}}`, 200, `"roleName":"Looker"`},
		{"GET", d.id + auth + "/roleDefinitions?$filter=roleName+eq+%27Looker%27", "", 200, `"notDataActions":[]`},
		{"GET", auth + "/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d", "", 200, `"roleName":"AcrPull"`},
		{"PUT", auth + "/roleDefinitions/7f951dda-4ed3-4680-a7ca-43fe172d538d", role, 409, `"error"`},
		{"DELETE", subscription + auth + "/roleDefinitions" + one, "", 200, "Looker"},

		{"PUT", d.id + auth + "/denyAssignments" + one, denied, 201, `"denyAssignmentName":"no"`},
		{"GET", d.id + auth + "/denyAssignments", "", 200, `"denyAssignmentName":"no"`},
		{"DELETE", d.id + auth + "/denyAssignments" + one, "", 200, `"no"`},

		// Rules, locations and groups are the tenant's alone.
		{"PUT", places + "/office", `{"properties":{"networks":["192.0.2.7"]}}`, 201, `192.0.2.7`},
		{"PUT", places + "/office", `{"properties":{"networks":["everywhere"]}}`, 400, `"error"`},
		{"PUT", rules + "/r", `{"properties":{"state":"disabled","scope":"/","principals":{"include":["*"]},"actions":["*"],"require":"false"}}`, 201, `"state":"disabled"`},
		{"PATCH", rules + "/r", `{"properties":{"require":"@Environment[Moon] Exists"}}`, 400, `"error"`},
		{"PUT", d.id + rules + "/r", `{}`, 404, `"error"`},
		{"GET", group + places, "", 404, `"error"`},
		{"DELETE", rules + "/r", "", 200, ""},
		{"PUT", groups + "/all", `{"properties":{"displayName":"All"}}`, 201, `"displayName":"All"`},
		{"PUT", groups + "/all" + subscription, "", 201, `managementGroups/subscriptions"`},
		{"GET", groups + "/all/subscriptions", "", 200, subscription[len("/subscriptions/"):]},
		{"PUT", groups + "/all" + auth + "/roleAssignments" + one, pull, 201, groups[1:] + "/all"},
		{"GET", group + groups, "", 404, `"error"`},

		// Who can be known.
		{"PUT", users + "/ann", `{"properties":{}}`, 201, `"passwords":[]`},
		{"POST", users + "/ann/resetPassword", "", 200, `"value":"`},
		{"GET", users + "/ann", "", 200, `"passwords":[{"name":"password1","creationTime":"20`},
		{"PATCH", users + "/ann", `{"properties":{"status":"disabled","passwords":[]}}`, 200, `"passwords":[{`},
		{"PATCH", users + "/owner", `{"properties":{"status":"disabled"}}`, 409, "itself"},
		{"DELETE", users + "/owner", "", 409, "itself"},
		{"DELETE", users + "/ann", "", 200, ""},
		{"GET", users + "/ann", "", 404, `"error"`},
		{"PUT", sps + "/ci", `{"properties":{"displayName":"CI","redirectUris":["https://app.example.com/back"]}}`, 201, `"passwordCredentials":[]`},
		{"PUT", sps + "/ci", `{"properties":{"appId":"` + some + `"}}`, 200, `"displayName":"CI"`},
		{"PUT", sps + "/ci", `{"properties":{"redirectUris":["http://app.example.com/"]}}`, 400, `"error"`},
		{"POST", sps + "/ci/addPassword", `{"passwordCredential":{"displayName":"a","endDateTime":"2027-01-01T00:00:00Z"}}`, 200, `"secretText":"`},
		{"POST", sps + "/ci/addPassword", `{"displayName":"a"}`, 409, "no property"},
		{"POST", sps + "/ci/removePassword", `{"keyId":"` + some + `"}`, 404, `"error"`},
		{"POST", sps + "/ci/addKey", `{"keyCredential":{"type":"Symmetric","key":""}}`, 400, "AsymmetricX509Cert"},
		{"POST", sps + "/ci/addKey", `{"keyCredential":{"key":"AAAA"}}`, 400, `"error"`},
		{"POST", sps + "/ci/removeKey", `{"keyId":"` + some + `"}`, 404, `"error"`},
		{"GET", sps + "/ci/removeKey", "", 405, `"error"`},
		{"PUT", sps + "/ci/federatedIdentityCredentials/gh", `{"properties":{"issuer":"https://token.example.com","subject":"repo:a/b"}}`, 201, "api://AzureADTokenExchange"},
		{"GET", sps + "/ci/federatedIdentityCredentials", "", 200, `"subject":"repo:a/b"`},
		{"DELETE", sps + "/ci/federatedIdentityCredentials/gh", "", 200, ""},
		{"PUT", identities + "/workload", `{"location":"local","tags":{"a":"b"}}`, 201, `"clientId":"`},
		{"PUT", identities + "/workload/federatedIdentityCredentials/k8s", `{"properties":{"issuer":"https://token.example.com","subject":"system:serviceaccount:a:b","audiences":["x"]}}`, 201, `"audiences":["x"]`},
		{"GET", identities + "/workload?api-version=2018-11-30", "", 200, `"tenantId":"`},
		{"GET", subscription + "/providers/Microsoft.ManagedIdentity/userAssignedIdentities", "", 200, `"name":"workload"`},
		{"PUT", "/providers/Microsoft.ManagedIdentity/userAssignedIdentities/workload", `{}`, 404, `"error"`},
		{"DELETE", identities + "/workload", "", 200, ""},
		{"PUT", issuers + "/idp", `{"properties":{"issuer":"https://idp.example.com","audiences":["breakwater"],"principalType":"User","claims":{"groups":["groups"]},"signIn":{"clientId":"a","clientSecret":"hush"}}}`, 201, `"signIn":{"clientId":"a"}`},
		{"POST", issuers + "/idp/resolve", `{"subject":"ann"}`, 200, `"principalType":"User"`},
		{"POST", issuers + "/idp/resolve", `{"claim":"groups","value":"ops"}`, 200, `"principalType":"Group"`},
		{"POST", issuers + "/idp/resolve", `{"claim":"roles","value":"ops"}`, 400, `"error"`},
		{"POST", issuers + "/idp/resolve", `{"subject":"ann","value":"ops"}`, 400, `"error"`},
		{"PUT", issuers + "/idp", `{"properties":{"issuer":"https://other.example.com"}}`, 409, `"error"`},
		{"GET", issuers, "", 200, `"name":"idp"`},
		{"DELETE", issuers + "/idp", "", 200, ""},
		{"POST", d.id + "/listCredentials", "", 400, "admin user"},
	} {
		r, text := d.ask(test.method, test.path, test.body)
		if r.StatusCode != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%s %s %.100s: %d %.600s", test.method, test.path, test.body, r.StatusCode, text)
		}
		if strings.Contains(text, "hush") {
			t.Errorf("%s %s shows a secret", test.method, test.path)
		}
	}
}

// Who shows nothing is told where tokens are.
func TestTheControlPlaneTellsWhereTokensAre(t *testing.T) {
	d := openDesk(t)
	for _, authorization := range []string{"", "Bearer x.y.z", "Bearer nothing"} {
		r, text := d.ask("GET", d.id, "", "Authorization", authorization)
		challenges := strings.Join(r.Header["Www-Authenticate"], "\n")
		if r.StatusCode != http.StatusUnauthorized || !strings.Contains(text, `"code":"AuthenticationFailed"`) ||
			!strings.HasPrefix(challenges, `Bearer authorization_uri="`+d.client.Server+"/") || strings.Contains(challenges, "claims=") || !strings.Contains(challenges, "\nBasic ") {
			t.Errorf("%q: %s %s\n%s", authorization, r.Status, text, challenges)
		}
	}
}

// A list of what one may see is whole and has an end, however it is cut in pages.
func TestAssignmentsAreReadPageByPage(t *testing.T) {
	d := openDesk(t)
	const auth = "/providers/Microsoft.Authorization/roleAssignments"
	group := d.id[:strings.Index(d.id, "/providers/")]
	want := map[string]bool{}
	for _, scope := range []string{"", group, d.id, d.id + "/repositories/a", d.id + "/repositories/a/b"} {
		for _, n := range "abc" {
			id := scope + auth + "/00000000-0000-0000-0000-00000000000" + string(n)
			r, text := d.ask("PUT", id, `{"properties":{"roleDefinitionId":"acdd72a7-3385-48ef-bd42-f606fba81ae7","principalId":"00000000-0000-0000-0000-00000000001`+string(n)+`"}}`)
			if r.StatusCode != http.StatusCreated {
				t.Fatal(text)
			}
			want[strings.ToLower(id)] = true
		}
	}
	got := map[string]int{}
	err := list(t.Context(), d.client, d.id+auth+"?$top=2", func(m document) error {
		if id := strings.ToLower(m.ID); want[id] { // and not the owner's
			got[id]++
		}
		return nil
	})
	if err != nil || len(got) != len(want) {
		t.Errorf("%d of %d: %v", len(got), len(want), err)
	}
	for id, n := range got {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	n := 0
	err = list(t.Context(), d.client, d.id+auth+"?$top=2&$filter=atScope()", func(m document) error {
		var p struct{ Scope string }
		err := json.Unmarshal(m.Properties, &p)
		if p.Scope == strings.ToLower(d.id+"/repositories/a") {
			t.Errorf("%s is below", m.ID)
		}
		n++
		return err
	})
	if err != nil || n != 10 { // three at each of three scopes, and the owner's
		t.Errorf("%d at the scope and above, %v", n, err)
	}
}
