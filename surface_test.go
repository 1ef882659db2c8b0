package main

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// A route is a line of `breakwater surface`.
type route struct{ Method, Path, Operation, Action string }

func surface(t *testing.T) []route {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"surface", "--output", "json"}, &out, &errs); status != success {
		t.Fatal("breakwater surface: ", errs.String())
	}
	var routes []route
	if err := json.Unmarshal(out.Bytes(), &routes); err != nil {
		t.Fatal(err)
	}
	return routes
}

// Routes that need no right, and why that is right.
var open = map[string]string{
	"GET /adfs/.well-known/openid-configuration":          "is a document for everybody",
	"GET /adfs/discovery/keys":                            "is a document for everybody",
	"GET /{tenant}/v2.0/.well-known/openid-configuration": "is a document for everybody",
	"GET /{tenant}/.well-known/openid-configuration":      "is a document for everybody",
	"GET /{tenant}/discovery/v2.0/keys":                   "is a document for everybody",
	"GET /{tenant}/discovery/keys":                        "is a document for everybody",
	"GET /common/discovery/instance":                      "is a document for everybody",
	"GET /common/userrealm/{}":                            "says the same of every name",
	"POST /adfs/oauth2/token":                             "is where credentials are shown; a token has no rights of its own",
	"POST /adfs/oauth2/devicecode":                        "lets a device wait for somebody who signs in",
	"GET /adfs/oauth2/authorize":                          "is a page where somebody signs in",
	"POST /{tenant}/oauth2/v2.0/token":                    "is where credentials are shown; a token has no rights of its own",
	"POST /{tenant}/oauth2/v2.0/devicecode":               "lets a device wait for somebody who signs in",
	"GET /{tenant}/oauth2/v2.0/authorize":                 "is a page where somebody signs in",
	"POST /{tenant}/oauth2/token":                         "is where credentials are shown; a token has no rights of its own",
	"GET /devicelogin":                                    "is a page where somebody signs in",
	"POST /devicelogin":                                   "is a page where somebody signs in",
	"POST /signin":                                        "is where a person shows a password",
	"GET /signin/to/{}":                                   "sends a browser to an issuer",
	"GET /signin/from/{}":                                 "is where a browser shows the code of an issuer",
	"GET /metadata/identity/oauth2/token":                 "is for the workloads of this machine, on a listener of their own",
	"GET /msi/token":                                      "is for the workloads of this machine, on a listener of their own",
	"POST /msi/token":                                     "is for the workloads of this machine, on a listener of their own",

	"GET /v2/":                                          "says only that the caller is known",
	"HEAD /v2/":                                         "says only that the caller is known",
	"GET /oauth2/token":                                 "is where credentials are shown; a token has no rights of its own",
	"POST /oauth2/exchange":                             "is where tokens of issuers are shown; a token has no rights of its own",
	"POST /oauth2/token":                                "is where credentials are shown; a token has no rights of its own",
	"GET /metadata/endpoints":                           "says where the other endpoints are",
	"GET /providers":                                    "says what the server offers",
	"GET /providers/{}":                                 "says what the server offers",
	"GET /providers/{}/operations":                      "says what the server offers",
	"GET /subscriptions/{}/providers":                   "says what the server offers",
	"GET /subscriptions/{}/providers/{}":                "says what the server offers",
	"GET /subscriptions/{}/locations":                   "says what the server offers",
	"GET /subscriptions/{}/resources":                   "has what the caller may see",
	"GET /subscriptions/{}/resourceGroups/{}/resources": "has what the caller may see",
	"GET /providers/Microsoft.Insights/eventcategories": "says what the server offers",
	"GET /providers/Microsoft.Insights/eventtypes/management/values":                  "has what the caller may see",
	"GET /subscriptions/{}/providers/Microsoft.Insights/eventtypes/management/values": "has what the caller may see",
	"GET {scope}/providers/Microsoft.Authorization/permissions":                       "says what the caller may do there",
	"GET /v1.0/me":                         "says who the caller is",
	"POST /v1.0/directoryObjects/getByIds": "has what the caller may see",
	"GET /{tenant}/receipts/keys":          "has public keys",
	"GET /tenants":                         "has what the caller may see",
	"GET /subscriptions":                   "has what the caller may see",
	"GET /subscriptions/{}/resourceGroups": "has what the caller may see",
	"GET /subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries": "has what the caller may see",
}

// Routes that take away or change less than their method says.
var harmless = map[string]string{
	"DELETE /v2/{name}/blobs/uploads/{session}":              "cancels an upload of one's own",
	"POST /providers/Breakwater.Identity/issuers/{}/resolve": "computes an id from what was sent",

	"POST /subscriptions/{}/providers/Microsoft.ContainerRegistry/checkNameAvailability":                          "only looks",
	"POST /subscriptions/{}/resourceGroups/{}/providers/Microsoft.ContainerRegistry/registries/{}/explainNetwork": "only looks",
	"POST /providers/Breakwater.Network/explainOutbound":                                                          "only looks",
}

// Every route needs a right, or is named as open; no route is there twice.
func TestEveryRouteNeedsARight(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range surface(t) {
		name := r.Method + " " + r.Path
		if seen[name] {
			t.Errorf("%s is there twice", name)
		}
		seen[name] = true
		if _, ok := open[name]; ok != (r.Action == "") {
			t.Errorf("%s needs the right %q, and is named as open: %t", name, r.Action, ok)
		}
		if r.Operation == "" {
			t.Errorf("%s has no name in the ledger", name)
		}
	}
	for name := range open {
		if !seen[name] {
			t.Errorf("%s is named as open but does not exist", name)
		}
	}
}

// What takes away is not a right to write: a token that may push may not
// delete, and one that may read may do neither.
func TestDeletingIsARightOfItsOwn(t *testing.T) {
	for _, r := range surface(t) {
		name := r.Method + " " + r.Path
		_, ok := harmless[name]
		deletes, writes := strings.HasSuffix(r.Action, "/delete"), strings.HasSuffix(r.Action, "/write")
		switch {
		case r.Method == "DELETE" && !ok && !deletes:
			t.Errorf("%s needs only %s", name, r.Action)
		case r.Method != "DELETE" && deletes:
			t.Errorf("%s needs %s", name, r.Action)
		case (r.Method == "GET" || r.Method == "HEAD") && writes && r.Operation != "UploadStatus":
			t.Errorf("%s needs %s to read", name, r.Action)
		case slices.Contains([]string{"PUT", "POST", "PATCH"}, r.Method) && !ok && strings.HasSuffix(r.Action, "/read"):
			t.Errorf("%s changes something with %s", name, r.Action)
		}
	}
}

// docs/surface.md is what reviewers read: a route that is added, removed or
// changed is a line of theirs. UPDATE=1 go test -run TestSurfaceIsDocumented writes it.
func TestSurfaceIsDocumented(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"surface"}, &out, &errs); status != success {
		t.Fatal("breakwater surface: ", errs.String())
	}
	want := "# Surface\n\nEvery request that the server answers, and the right that it needs: what `breakwater surface` prints. What is not here does not exist.\n\n```\n" +
		out.String() + "```\n"
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile("docs/surface.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile("docs/surface.md")
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != want {
		t.Errorf("docs/surface.md is not what breakwater surface prints; UPDATE=1 go test -run TestSurfaceIsDocumented . writes it:\n%s", out.String())
	}
}

// The page about operations has every one that a caller can ask for, in the one
// spelling, and those that happen besides.
func TestEveryOperationIsDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, names, _ := strings.Cut(string(page), "## Names of operations")
	for _, r := range surface(t) {
		if !strings.Contains(names, "`"+r.Operation+"`") {
			t.Errorf("docs/operations.md does not have %s", r.Operation)
		}
	}
}
