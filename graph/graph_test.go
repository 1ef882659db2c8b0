package graph_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/directory"
	"breakwater/gate/gatetest"
	"breakwater/graph"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/resource"
)

// A desk is the API at the door, and who is in the directory behind it.
type desk struct {
	*gatetest.House
	t    *testing.T
	url  string
	http *http.Client

	owner     caller
	ci, other directory.ServicePrincipal
	web       directory.ManagedIdentity
	alice     directory.User
}

type caller struct{ name, password string }

func open(t *testing.T, d *db.DB) *desk {
	h := gatetest.Open(t, d, nil)
	s := gatetest.Serve(t, h.Gate.Serve(&graph.API{Directory: h.Directory, Identity: h.Identity}))
	k := &desk{House: h, t: t, url: s.URL, http: s.Client(), owner: caller{h.OwnerName, h.OwnerPassword}}
	ctx, g := t.Context(), h.Server()
	group := h.Registry.ID.Parent().Parent()
	_ = h.DB.Write(ctx, func(tx *db.Tx) error {
		_, err := h.Documents.Put(ctx, tx, resource.Resource{ID: group, Type: "Microsoft.Resources/resourceGroups"}, resource.Any)
		return err
	})
	k.ci = must(h.Directory.PutServicePrincipal(ctx, g, "ci", directory.ServicePrincipalSettings{DisplayName: "Build's robot"}, resource.Any))
	k.other = must(h.Directory.PutServicePrincipal(ctx, g, "other", directory.ServicePrincipalSettings{Status: "disabled"}, resource.Any))
	k.web = must(h.Directory.PutManagedIdentity(ctx, g, group.Extension(identity.ManagedIdentityType, "web"), "local", nil, resource.Any))
	k.alice = must(h.Directory.PutUser(ctx, g, "alice@example.com", identity.UserProperties{Status: identity.EnabledStatus}, resource.Any))
	return k
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// person is somebody new who has a role at a scope; with no role, none.
func (k *desk) person(name, role string, scope ref.Scope) caller {
	k.t.Helper()
	password, user, err := k.Directory.CreateUser(k.t.Context(), k.Server(), name)
	if err != nil {
		k.t.Fatal(err)
	}
	if role != "" {
		if _, err := k.Access.Assign(k.t.Context(), k.Server(), scope, ref.NewGUID(), access.AssignmentProperties{RoleDefinitionID: role, PrincipalID: user.System.UID, PrincipalType: "User"}); err != nil {
			k.t.Fatal(err)
		}
	}
	return caller{name, string(password.Value)}
}

type object struct {
	Type        string   `json:"@odata.type"`
	ID          string   `json:"id"`
	AppID       string   `json:"appId"`
	DisplayName string   `json:"displayName"`
	Names       []string `json:"servicePrincipalNames"`
	Enabled     bool     `json:"accountEnabled"`
	UPN         string   `json:"userPrincipalName"`
	ClientType  string   `json:"servicePrincipalType"`
}

type reply struct {
	status int
	object
	Value []object `json:"value"`
	Next  string   `json:"@odata.nextLink"`
	Error struct{ Code, Message string }
	text  string
}

func (r reply) ids() (all []string) {
	for _, o := range r.Value {
		all = append(all, o.ID)
	}
	return all
}

func (k *desk) ask(c caller, method, path, body string) (r reply) {
	k.t.Helper()
	if !strings.HasPrefix(path, "https://") {
		path = k.url + path
	}
	q := must(http.NewRequest(method, path, strings.NewReader(body)))
	if c.name != "" {
		q.SetBasicAuth(c.name, c.password)
	}
	res, err := k.http.Do(q)
	if err != nil {
		k.t.Fatal(err)
	}
	defer res.Body.Close()
	text := must(io.ReadAll(res.Body))
	r.status, r.text = res.StatusCode, string(text)
	if err := json.Unmarshal(text, &r); err != nil {
		k.t.Fatalf("%s %s: %d %s", method, path, r.status, text)
	}
	if r.status == 401 && res.Header.Get("Www-Authenticate") == "" {
		k.t.Errorf("%s %s: no challenge", method, path)
	}
	return r
}

func (k *desk) filter(c caller, set, filter string) reply {
	k.t.Helper()
	return k.ask(c, "GET", "/v1.0/"+set+"?$filter="+url.QueryEscape(filter), "")
}

func TestAPrincipalIsFoundByItsNames(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		k := open(t, d)
		for _, test := range []struct {
			set, filter string
			want        []string
		}{
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq '" + k.ci.AppID + "')", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "servicePrincipalNames/any(x:x eq '" + strings.ToUpper(k.ci.AppID) + "')", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq 'ci')", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq '" + k.web.ClientID + "')", []string{k.web.PrincipalID}},
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq '" + k.ci.PrincipalID + "')", nil},
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq 'web')", nil}, // of one group of many
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq 'http://ci/x')", nil},
			{"servicePrincipals", "servicePrincipalNames/any(c:c eq 'alice@example.com')", nil},
			{"servicePrincipals", "appId eq '" + k.ci.AppID + "'", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "id eq '" + k.web.PrincipalID + "'", []string{k.web.PrincipalID}},
			{"servicePrincipals", "displayName eq 'build''s ROBOT'", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "startswith(displayName,'BUILD')", []string{k.ci.PrincipalID}},
			{"servicePrincipals", "startswith(displayName, 'build') and appId eq '" + k.other.AppID + "'", nil},
			{"servicePrincipals", "", []string{k.ci.PrincipalID, k.other.PrincipalID, k.web.PrincipalID}},
			{"users", "userPrincipalName eq 'Alice@example.com'", []string{k.alice.PrincipalID}},
			{"users", "startswith(displayName,'alice')", []string{k.alice.PrincipalID}},
			{"users", "userPrincipalName eq 'ci'", nil},
			{"users", "id eq '" + k.ci.PrincipalID + "'", nil},
			{"USERS", "id eq '" + k.alice.PrincipalID + "'", []string{k.alice.PrincipalID}},
		} {
			if got := k.filter(k.owner, test.set, test.filter); got.status != 200 || !slices.Equal(got.ids(), test.want) {
				t.Errorf("%s with %s: %d %s", test.set, test.filter, got.status, got.text)
			}
		}
		for path, want := range map[string]object{
			"/v1.0/servicePrincipals/" + k.ci.PrincipalID:      {"#microsoft.graph.servicePrincipal", k.ci.PrincipalID, k.ci.AppID, "Build's robot", []string{k.ci.AppID, "ci"}, true, "", "Application"},
			"/v1.0/servicePrincipals/" + k.other.PrincipalID:   {"#microsoft.graph.servicePrincipal", k.other.PrincipalID, k.other.AppID, "other", []string{k.other.AppID, "other"}, false, "", "Application"},
			"/v1.0/servicePrincipals/" + k.web.PrincipalID:     {"#microsoft.graph.servicePrincipal", k.web.PrincipalID, k.web.ClientID, "web", []string{k.web.ClientID}, true, "", "ManagedIdentity"},
			"/v1.0/users/" + k.alice.PrincipalID:               {"#microsoft.graph.user", k.alice.PrincipalID, "", "alice@example.com", nil, true, "alice@example.com", ""},
			"/v1.0/users/ALICE@example.com?$select=id,surname": {"#microsoft.graph.user", k.alice.PrincipalID, "", "alice@example.com", nil, true, "alice@example.com", ""},
		} {
			if got := k.ask(k.owner, "GET", path, ""); got.status != 200 || fmt.Sprint(got.object) != fmt.Sprint(want) {
				t.Errorf("%s: %d %s", path, got.status, got.text)
			}
		}
		if me := k.ask(k.owner, "GET", "/v1.0/me", ""); me.UPN != "owner" || !ref.IsGUID(me.ID) {
			t.Errorf("%d %s", me.status, me.text)
		}
		ids := fmt.Sprintf(`{"ids":[%q,%q,%q,%q],"types":["user","group","servicePrincipal","directoryObjectPartnerReference"]}`, k.ci.PrincipalID, k.web.PrincipalID, strings.ToUpper(k.alice.PrincipalID), ref.NewGUID())
		if got := k.ask(k.owner, "POST", "/v1.0/directoryObjects/getByIds", ids); !slices.Equal(got.ids(), []string{k.alice.PrincipalID, k.ci.PrincipalID, k.web.PrincipalID}) {
			t.Errorf("%d %s", got.status, got.text)
		}
		if got := k.ask(k.owner, "POST", "/v1.0/directoryObjects/getByIds", strings.Replace(ids, `"servicePrincipal"`, `"device"`, 1)); !slices.Equal(got.ids(), []string{k.alice.PrincipalID}) {
			t.Errorf("%d %s", got.status, got.text)
		}
	})
}

func TestAListGoesOnWhereItStopped(t *testing.T) {
	k := open(t, dbtest.SQLite(t))
	for i := range 7 {
		must(k.Directory.PutServicePrincipal(t.Context(), k.Server(), fmt.Sprintf("p%d", i), directory.ServicePrincipalSettings{}, resource.Any))
	}
	var all []string
	pages := 0
	for next := "/v1.0/servicePrincipals?$top=3&$count=true"; next != ""; pages++ {
		got := k.ask(k.owner, "GET", next, "")
		if len(got.Value) > 3 {
			t.Errorf("%d on a page", len(got.Value))
		}
		all, next = append(all, got.ids()...), got.Next
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) != 10 || pages != 4 {
		t.Errorf("%d on %d pages", len(all), pages)
	}
}

// A caller sees those that it may read, and whether there are others stays unsaid.
func TestNobodySeesMoreThanItMayRead(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		k := open(t, d)
		group := k.web.ID.Parent()
		const reader = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
		nobody := k.person("nobody", "", "")
		everywhere := k.person("everywhere", reader, ref.Everything)
		grouped := k.person("grouped", reader, group.Scope())
		one := k.person("one", reader, identity.ServicePrincipalID("ci").Scope())
		ids := fmt.Sprintf(`{"ids":[%q,%q,%q]}`, k.ci.PrincipalID, k.web.PrincipalID, k.alice.PrincipalID)
		for _, test := range []struct {
			who   caller
			sees  []string // by their ids
			fails int      // … and what a look at any other is answered
		}{
			{nobody, nil, 403},
			{everywhere, []string{k.alice.PrincipalID, k.ci.PrincipalID, k.web.PrincipalID}, 404},
			{grouped, []string{k.web.PrincipalID}, 403},
			{one, []string{k.ci.PrincipalID}, 403},
		} {
			if got := k.ask(test.who, "POST", "/v1.0/directoryObjects/getByIds", ids); (got.status != 200) != (test.sees == nil && got.status == 403) || !slices.Equal(got.ids(), test.sees) {
				t.Errorf("%s: %d %s", test.who.name, got.status, got.text)
			}
			for _, id := range []string{k.ci.PrincipalID, k.web.PrincipalID, ref.NewGUID()} {
				want := test.fails
				if slices.Contains(test.sees, id) {
					want = 200
				}
				if got := k.ask(test.who, "GET", "/v1.0/servicePrincipals/"+id, ""); got.status != want {
					t.Errorf("%s looks at %s: %d %s", test.who.name, id, got.status, got.text)
				}
			}
			got := k.ask(test.who, "GET", "/v1.0/servicePrincipals", "")
			for _, id := range got.ids() {
				if test.who != everywhere && !slices.Contains(test.sees, id) {
					t.Errorf("%s is shown %s", test.who.name, id)
				}
			}
			// A name that there is, and one that there is not, look alike.
			if test.fails == 403 {
				there, not := k.filter(test.who, "users", "userPrincipalName eq 'alice@example.com'"), k.filter(test.who, "users", "userPrincipalName eq 'bob'")
				if there.status != 403 || there.text != not.text || there.Error.Code != "Authorization_RequestDenied" {
					t.Errorf("%s: %s and %s", test.who.name, there.text, not.text)
				}
			}
		}
		// Who is not of the directory does not look into it.
		name, password := k.Token(t, "ci-token", "repositories/*/content/read")
		for _, c := range []caller{{}, {"owner", "wrong"}, {name, password}} {
			for _, path := range []string{"/v1.0/me", "/v1.0/users", "/v1.0/servicePrincipals/" + k.ci.PrincipalID} {
				if got := k.ask(c, "GET", path, ""); got.status != 401 && got.status != 403 {
					t.Errorf("%q at %s: %d %s", c.name, path, got.status, got.text)
				}
			}
			if got := k.ask(c, "POST", "/v1.0/directoryObjects/getByIds", ids); got.status != 401 && got.status != 403 {
				t.Errorf("%q: %d %s", c.name, got.status, got.text)
			}
		}
		// Looks and refusals are on record.
		seen := map[string]int{}
		for _, e := range k.Events(t) {
			seen[e.Operation+" "+string(e.Outcome)]++
		}
		for _, want := range []string{
			string(access.ServicePrincipalRead) + " success", string(access.ServicePrincipalRead) + " refused",
			string(access.UserRead) + " refused", "ResolvePrincipals success", "ShowCaller refused",
		} {
			if seen[want] == 0 {
				t.Errorf("no event is %s: %v", want, seen)
			}
		}
	})
}

func TestWhatIsNotUnderstoodIsRefused(t *testing.T) {
	k := open(t, dbtest.SQLite(t))
	for _, filter := range []string{
		"mail eq 'x'", "displayName ne 'x'", "displayName eq x", "displayName eq 'x", "displayName eq ''", "displayName eq 'a' or displayName eq 'b'",
		"displayName eq 'a' and", "and displayName eq 'a'", "displayName eq 'a' displayName eq 'b'", "displayName eq 'a' and displayName eq 'b'",
		"servicePrincipalNames/any(c:d eq 'x')", "servicePrincipalNames/any(c:c eq 'x'", "displayName eq 'x')", "startswith(displayName,'x'", "startswith(appId,'x')",
		"userPrincipalName eq 'x'", "appId eq 'x'", "id eq 'x'", "tags/any(c:c eq 'x')", strings.Repeat("x", 2000), "servicePrincipalNames eq 'x'",
	} {
		if got := k.filter(k.owner, "servicePrincipals", filter); got.status != 400 || got.Error.Code != "Request_BadRequest" {
			t.Errorf("%.80s: %d %s", filter, got.status, got.text)
		}
	}
	for _, test := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1.0/users?$search=%22a%22", "", 400},
		{"GET", "/v1.0/users?$top=0", "", 400},
		{"GET", "/v1.0/users?$skiptoken=%00", "", 400},
		{"GET", "/v1.0/users?$top=1000", "", 400},
		{"GET", "/v1.0/servicePrincipals/ci", "", 400},
		{"GET", "/v1.0/users/bob", "", 404},
		{"GET", "/v1.0/applications", "", 404},
		{"GET", "/v1.0/users/bob/memberOf", "", 404},
		{"DELETE", "/v1.0/users/owner", "", 405},
		{"POST", "/v1.0/users", "{}", 405},
		{"POST", "/v1.0/directoryObjects/getByIds", "", 400},
		{"POST", "/v1.0/directoryObjects/getByIds", `{"ids":[]}`, 400},
		{"POST", "/v1.0/directoryObjects/getByIds", `{"ids":["alice"]}`, 400},
		{"POST", "/v1.0/directoryObjects/getByIds", `{"ids":["` + ref.NoGUID + `"],"more":1}`, 400},
		{"POST", "/v1.0/directoryObjects/getByIds", `{"ids":["` + ref.NoGUID + `"` + strings.Repeat(`,"`+ref.NoGUID+`"`, 1000) + `]}`, 400},
		{"POST", "/v1.0/directoryObjects/getByIds", `{"ids":["` + strings.Repeat("x", 1<<20) + `"]}`, 413},
	} {
		if got := k.ask(k.owner, test.method, test.path, test.body); got.status != test.status || got.Error.Code == "" || got.Error.Message == "" {
			t.Errorf("%s %s: %d %.300s", test.method, test.path, got.status, got.text)
		}
	}
}
