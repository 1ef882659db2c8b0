package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// names [ADDRESS] NAME...: from here on the story's clients find these names at this
// machine, as they would with lines in /etc/hosts: each runs where a file of the
// story's own is mounted there.
func names(ts *testscript.TestScript, _ bool, names []string) {
	address := "127.0.0.1"
	if len(names) > 0 && strings.HasPrefix(names[0], "127.") {
		address, names = names[0], names[1:]
	}
	if len(names) == 0 {
		ts.Fatalf("usage: names [ADDRESS] NAME...")
	}
	hosts, bin := ts.MkAbs("hosts"), ts.MkAbs("bin")
	ts.Check(os.MkdirAll(bin, 0o700))
	text := address + " " + strings.Join(names, " ") + "\n"
	if !slices.Contains(names, "localhost") {
		text += "127.0.0.1 localhost\n"
	}
	ts.Check(os.WriteFile(hosts, []byte(text), 0o600))
	for _, client := range []string{"az", "skopeo", "crane", "oras", "podman", "regctl", "ctr", "curl", "breakwater"} {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			path := filepath.Join(dir, client)
			if _, err := os.Stat(path); err != nil || dir == bin {
				continue
			}
			wrapper := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind \"$0\" /etc/hosts && exec \"$@\"' %s %s \"$@\"\n", hosts, path)
			ts.Check(os.WriteFile(filepath.Join(bin, client), []byte(wrapper), 0o700))
			break
		}
	}
	if !strings.HasPrefix(ts.Getenv("PATH"), bin) {
		ts.Setenv("PATH", bin+":"+ts.Getenv("PATH"))
	}
}

// azure FORM: az is signed in as $APP, which owns the $SUBSCRIPTION. The form is how it
// learns of the cloud, Here: from flags, from a file (config), from the server itself
// (detect), or not at all, because the server has the names of Azure's own (public).
// $SUFFIX is what stands behind a registry's name, with the port.
func azure(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: azure flags|config|detect|public")
	}
	ts.Setenv("AZURE_CONFIG_DIR", ts.MkAbs("azure"))
	ts.Setenv("AZURE_CORE_COLLECT_TELEMETRY", "no")
	ts.Setenv("AZURE_CORE_NO_COLOR", "1")
	ts.Setenv("REQUESTS_CA_BUNDLE", ts.Getenv("CA"))
	ts.Check(os.MkdirAll(ts.MkAbs("azure"), 0o700))

	server := "https://" + ts.Getenv("HOST")
	register := []string{"cloud", "register", "--name", "Here"}
	switch args[0] {
	case "flags":
		register = append(register, "--endpoint-resource-manager", server, "--endpoint-management", server,
			"--endpoint-active-directory", server+"/adfs", "--endpoint-active-directory-resource-id", "https://management.core.windows.net/",
			"--endpoint-active-directory-graph-resource-id", server+"/graph", "--suffix-acr-login-server-endpoint", ts.Getenv("SUFFIX"))
	case "config":
		text, err := json.Marshal(map[string]map[string]string{
			"endpoints": {
				"resourceManager": server, "management": server, "activeDirectory": server + "/adfs",
				"activeDirectoryResourceId": "https://management.core.windows.net/", "activeDirectoryGraphResourceId": server + "/graph", "microsoftGraphResourceId": server + "/",
			},
			"suffixes": {"acrLoginServerEndpoint": ts.Getenv("SUFFIX"), "storageEndpoint": "storage.invalid"},
		})
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs("cloud.json"), text, 0o600))
		register = append(register, "--cloud-config", "@"+ts.MkAbs("cloud.json"))
	case "detect":
		register = append(register, "--endpoint-resource-manager", server+"/")
	case "public":
		register = nil
	default:
		ts.Fatalf("azure: what is %q?", args[0])
	}
	run := func(command string, args ...string) string {
		ts.Check(ts.Exec(command, args...))
		return ts.ReadFile("stdout")
	}
	rest := func(method, path, body string) (answer struct {
		TenantID, SubscriptionID, SecretText string
		Value                                []struct{ TenantID, SubscriptionID string }
		Properties                           struct{ AppID, PrincipalID string }
	}) {
		ts.Check(json.Unmarshal([]byte(run("breakwater", "rest", "--method", method, path, "--body", body)), &answer))
		return answer
	}
	if register != nil {
		run("az", register...)
		run("az", "cloud", "set", "--name", "Here")
	}
	tenant := rest("get", "/tenants", "").Value[0].TenantID
	subscription := rest("get", "/subscriptions", "").Value[0].SubscriptionID
	app := rest("put", "/providers/Breakwater.Identity/servicePrincipals/engineer", `{"properties":{"displayName":"Engineer"}}`).Properties
	secret := rest("post", "/providers/Breakwater.Identity/servicePrincipals/engineer/addPassword", `{"passwordCredential":{"displayName":"az"}}`).SecretText
	principal := rest("get", "/providers/Breakwater.Identity/servicePrincipals/engineer", "").Properties.PrincipalID
	rest("put", "/subscriptions/"+subscription+"/providers/Microsoft.Authorization/roleAssignments/{guid}",
		`{"properties":{"principalId":"`+principal+`","principalType":"ServicePrincipal","roleDefinitionId":"/providers/Microsoft.Authorization/roleDefinitions/8e3af657-a8ff-443c-a75c-2fe8c4bcb635"}}`)
	run("az", "login", "--service-principal", "--username", app.AppID, "--password", secret, "--tenant", tenant)
	for name, value := range map[string]string{"TENANT": tenant, "SUBSCRIPTION": subscription, "APP": app.AppID, "SECRET": secret, "PRINCIPAL": principal} {
		ts.Setenv(name, value)
	}
}
