package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/ref"
)

// words is what docs/roles.md means: the first pattern that a right has is its
// word, so that no right is without one.
var words = []struct{ word, prefix, suffix string }{
	{"pull", "Microsoft.ContainerRegistry/registries/repositories/content/read", ""},
	{"push", "Microsoft.ContainerRegistry/registries/repositories/content/write", ""},
	{"delete", "Microsoft.ContainerRegistry/registries/repositories/content/delete", ""},
	{"look", "Microsoft.ContainerRegistry/registries/repositories/metadata/read", ""},
	{"label", "Microsoft.ContainerRegistry/registries/repositories/metadata/write", ""},
	{"catalog", "Microsoft.ContainerRegistry/registries/catalog/read", ""},
	{"quarantine", "Microsoft.ContainerRegistry/registries/quarantinedArtifacts/read", ""},
	{"release", "Microsoft.ContainerRegistry/registries/quarantinedArtifacts/write", ""},
	{"secrets", "Microsoft.ContainerRegistry/registries/generateCredentials/action", ""},
	{"secrets", "Microsoft.ContainerRegistry/registries/regenerateCredential/action", ""},
	{"credentials", "Microsoft.ContainerRegistry/registries/listCredentials/action", ""},
	{"tokens-read", "Microsoft.ContainerRegistry/registries/tokens/", "read"},
	{"tokens", "Microsoft.ContainerRegistry/registries/tokens/", ""},
	{"tokens-read", "Microsoft.ContainerRegistry/registries/scopeMaps/", "read"},
	{"tokens", "Microsoft.ContainerRegistry/registries/scopeMaps/", ""},
	{"read", "Microsoft.ContainerRegistry/registries/read", ""},
	{"trash-read", "Microsoft.ContainerRegistry/registries/deleted/read", ""},
	{"restore", "Microsoft.ContainerRegistry/registries/deleted/restore/action", ""},
	{"configure", "Microsoft.ContainerRegistry/registries/write", ""},
	{"configure", "Microsoft.ContainerRegistry/registries/delete", ""},
	{"around", "Microsoft.ContainerRegistry/checkNameAvailability/read", ""},
	{"around", "Microsoft.ContainerRegistry/registries/listUsages/read", ""},
	{"around", "Microsoft.ContainerRegistry/registries/privateLinkResources/read", ""},
	{"hooks", "Microsoft.ContainerRegistry/registries/webhooks/getCallbackConfig/action", ""},
	{"hooks", "Microsoft.ContainerRegistry/registries/webhooks/listEvents/action", ""},
	{"parts-read", "Microsoft.ContainerRegistry/registries/webhooks/read", ""},
	{"parts", "Microsoft.ContainerRegistry/registries/webhooks/", ""},
	{"parts-read", "Microsoft.ContainerRegistry/registries/replications/read", ""},
	{"parts", "Microsoft.ContainerRegistry/registries/replications/", ""},
	{"parts-read", "Microsoft.ContainerRegistry/registries/connectedRegistries/read", ""},
	{"parts", "Microsoft.ContainerRegistry/registries/connectedRegistries/", ""},
	{"parts-read", "Microsoft.ContainerRegistry/registries/privateEndpointConnections/read", ""},
	{"parts", "Microsoft.ContainerRegistry/registries/privateEndpointConnections/", ""},
	{"caching-read", "Microsoft.ContainerRegistry/registries/cacheRules/read", ""},
	{"caching", "Microsoft.ContainerRegistry/registries/cacheRules/", ""},
	{"upstream-read", "Microsoft.ContainerRegistry/registries/credentialSets/read", ""},
	{"upstream", "Microsoft.ContainerRegistry/registries/credentialSets/", ""},
	{"import", "Microsoft.ContainerRegistry/registries/importImage/action", ""},
	{"tasks-read", "Microsoft.ContainerRegistry/registries/agentPools/read", ""},
	{"tasks-read", "Microsoft.ContainerRegistry/registries/runs/read", ""},
	{"tasks-read", "Microsoft.ContainerRegistry/registries/taskRuns/read", ""},
	{"tasks-read", "Microsoft.ContainerRegistry/registries/tasks/read", ""},
	{"tasks", "Microsoft.ContainerRegistry/registries/scheduleRun/action", ""},
	{"tasks", "Microsoft.ContainerRegistry/registries/listBuildSourceUploadUrl/action", ""},
	{"diagnostics-read", "Microsoft.Insights/diagnosticSettings", "/read"},
	{"diagnostics", "Microsoft.Insights/diagnosticSettings/", ""},
	{"groups", "Microsoft.Resources/subscriptions/resourceGroups/read", ""},
	{"build", "Microsoft.Resources/subscriptions/resourceGroups/", ""},
	{"build", "Microsoft.Resources/subscriptions/providers/register/action", ""},
	{"subscriptions", "Microsoft.Resources/subscriptions/read", ""},
	{"logs", "Microsoft.Insights/eventtypes/values/Read", ""},
	{"rights-read", "Microsoft.Authorization/", "/read"},
	{"assign", "Microsoft.Authorization/roleAssignments/", ""},
	{"define", "Microsoft.Authorization/", ""},
	{"rekey", "Microsoft.ContainerRegistry/registries/rotateDataKey/action", ""},
	{"erase", "Microsoft.ContainerRegistry/registries/erase/action", ""},
	{"erase", "Microsoft.ContainerRegistry/registries/eraseRepository/action", ""},
	{"receipts-read", "Breakwater.Keys/receipts/", "read"},
	{"keys-read", "Breakwater.Keys/", "/read"},
	{"keys", "Breakwater.Keys/", ""},
	{"requests-read", "Breakwater.Approval/", "/read"},
	{"withdraw", "Breakwater.Approval/requests/withdraw/action", ""},
	{"approve", "Breakwater.Approval/", ""},
	{"rules-read", "Breakwater.Access/", "/read"},
	{"rules", "Breakwater.Access/", ""},
	{"networks-read", "Breakwater.Network/", "/read"},
	{"networks", "Breakwater.Network/", ""},
	{"people-read", "Breakwater.Identity/", "/read"},
	{"people", "Breakwater.Identity/", ""},
	{"tree-read", "Microsoft.Management/", "/read"},
	{"tree", "Microsoft.Management/", ""},
	{"workloads-read", "Microsoft.ManagedIdentity/", "/read"},
	{"workloads", "Microsoft.ManagedIdentity/", ""},
}

func word(right string) string {
	for _, w := range words {
		if strings.HasPrefix(right, w.prefix) && strings.HasSuffix(right, w.suffix) {
			return w.word
		}
	}
	return ""
}

// may is docs/roles.md: role → what it may do, in a legacy and in an ABAC registry.
func may(t *testing.T) map[string][2][]string {
	t.Helper()
	text, err := os.ReadFile("docs/roles.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "```roles\n")
	table, _, end := strings.Cut(table, "\n```")
	if !ok || !end {
		t.Fatal("docs/roles.md has no table of roles")
	}
	all := map[string][2][]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 3 {
			t.Fatalf("a line of the table has three parts: %s", line)
		}
		row := [2][]string{}
		for i := range row {
			for _, w := range strings.Fields(cells[i+1]) {
				if w != "-" && !isWord(w) {
					t.Fatalf("the word %q has no meaning", w)
				}
				row[i] = append(row[i], w)
			}
		}
		all[strings.TrimSpace(cells[0])] = row
	}
	return all
}

func isWord(w string) bool {
	return slices.ContainsFunc(words, func(e struct{ word, prefix, suffix string }) bool { return e.word == w })
}

func TestEveryRoleMayDoWhatAzureSaysAndNoMore(t *testing.T) {
	all := may(t)
	d := openDesk(t)
	roles := access.Roles()
	if len(roles) != len(all) {
		t.Errorf("there are %d roles, and %d in docs/roles.md", len(roles), len(all))
	}
	logins := make([]string, len(roles))
	for i, r := range roles {
		if _, ok := all[r.Name]; !ok {
			t.Fatalf("docs/roles.md does not say what %s may do", r.Name)
		}
		logins[i] = d.holder(fmt.Sprintf("role-%d", i), r.ID)
	}
	routes, tried := surface(t), 0
	for mode, name := range []access.Mode{access.Legacy, access.ABAC} {
		if r, text := d.ask("PATCH", d.id, `{"properties":{"roleAssignmentMode":"`+string(name)+`"}}`); r.StatusCode != http.StatusOK {
			t.Fatalf("set %s: %d %s", name, r.StatusCode, text)
		}
		for i, role := range roles {
			for _, at := range routes {
				if at.Action == "" || strings.HasPrefix(at.Path, "https://") { // there a ticket counts, of who had the right
					continue
				}
				word := word(at.Action)
				if word == "" {
					t.Fatalf("no word of docs/roles.md means %s", at.Action)
				}
				r, text := d.ask(at.Method, d.place(at), "[", "Authorization", logins[i])
				allowed := r.StatusCode != http.StatusUnauthorized && r.StatusCode != http.StatusForbidden
				if want := slices.Contains(all[role.Name][mode], word); allowed != want || r.StatusCode >= 500 {
					t.Errorf("%s, %s: %s %s (%s) answers %d; may is %v\n%s", role.Name, name, at.Method, at.Path, word, r.StatusCode, want, text)
				}
				tried++
			}
		}
	}
	t.Logf("%d roles, %d requests", len(roles), tried)
}

// holder makes a service principal that holds a role everywhere, and returns the
// Authorization header that proves it.
func (d *desk) holder(name, role string) string {
	d.t.Helper()
	do := func(method, path, body string) string {
		r, text := d.ask(method, path, body)
		if r.StatusCode >= 300 {
			d.t.Fatalf("%s %s: %d %s", method, path, r.StatusCode, text)
		}
		return text
	}
	at := "/providers/Breakwater.Identity/servicePrincipals/" + name
	var made struct {
		Properties struct{ AppID, PrincipalID string }
	}
	if err := json.Unmarshal([]byte(do("PUT", at, `{"properties":{}}`)), &made); err != nil || made.Properties.PrincipalID == "" {
		d.t.Fatalf("a service principal has a principalId: %+v, %v", made, err)
	}
	secret := d.member(do("POST", at+"/addPassword", `{}`), "secretText")
	if role != "" {
		do("PUT", "/providers/Microsoft.Authorization/roleAssignments/"+ref.NewGUID(), fmt.Sprintf(
			`{"properties":{"roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/%s","principalId":"%s","principalType":"ServicePrincipal"}}`,
			role, made.Properties.PrincipalID))
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(made.Properties.AppID+":"+secret))
}

// place is a path of the route: of the registry itself, and of what is not there
// below it.
func (d *desk) place(r route) string {
	const registry = "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{}"
	path := r.Path
	if rest, ok := strings.CutPrefix(path, registry); ok && r.Method != http.MethodDelete {
		path = d.id + rest
	}
	return strings.NewReplacer(
		"{scope}", d.id,
		"/subscriptions/{}", "/subscriptions/00000000-0000-4000-8000-000000000000",
		"servicePrincipals/{}", "servicePrincipals/00000000-0000-4000-8000-000000000000", // which Graph calls by id alone
		"{name}", "team/api", "{reference}", "v1", "{digest}", "sha256:"+strings.Repeat("0", 64), "{session}", "x",
		"{}", "nobody",
	).Replace(path)
}
