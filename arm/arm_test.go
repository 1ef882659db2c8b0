package arm

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

func TestAPathNamesOneThing(t *testing.T) {
	const group = "/subscriptions/S/resourceGroups/G"
	const reg = group + "/providers/Microsoft.ContainerRegistry/registries/shop"
	const registries, repository = "Microsoft.ContainerRegistry/registries", "Microsoft.ContainerRegistry/registries/repositories"
	const auth, assigned = "/providers/Microsoft.Authorization/roleAssignments", "Microsoft.Authorization/roleAssignments"
	const managed = "/providers/Microsoft.Management/managementGroups/all"
	for _, test := range []struct {
		path string
		want target
	}{
		{"/subscriptions", target{Last: "subscriptions", List: SubscriptionType, Place: above}},
		{"/tenants", target{Last: "tenants", List: tenantType, Place: above}},
		{"/subscriptions/S", target{ID: "/subscriptions/S", Type: SubscriptionType, Place: above}},
		{group, target{ID: group, Type: ResourceGroupType, Place: above}},
		{"/subscriptions/S/resourceGroups", target{ID: "/subscriptions/S", Type: SubscriptionType, Last: "resourceGroups", List: ResourceGroupType, Place: above}},
		{reg, target{ID: reg, Type: registries, On: group}},
		{reg + "/tokens/ci", target{ID: reg + "/tokens/ci", Type: registries + "/tokens", On: group}},
		{reg + "/tokens", target{ID: reg, Type: registries, Last: "tokens", List: registries + "/tokens", On: group}},
		{"/subscriptions/S/providers/Microsoft.ContainerRegistry/registries",
			target{ID: "/subscriptions/S", Type: SubscriptionType, Last: "registries", List: registries, On: "/subscriptions/S", Place: extension}},
		{"/providers/Microsoft.ContainerRegistry/registries", target{Last: "registries", List: registries, Place: inTenant}},

		{auth + "/g", target{ID: auth + "/g", Type: assigned, Place: inTenant}},
		{auth, target{Last: "roleAssignments", List: assigned, Place: inTenant}},
		{managed + auth + "/g", target{ID: managed + auth + "/g", Type: assigned, On: managed, Place: extension}},
		{managed + "/subscriptions/S", target{ID: managed + "/subscriptions/S", Type: "Microsoft.Management/managementGroups/subscriptions", Place: inTenant}},
		{group + auth + "/g", target{ID: group + auth + "/g", Type: assigned, On: group}},
		{reg + auth + "/g", target{ID: reg + auth + "/g", Type: assigned, On: reg, Place: extension}},
		{reg + "/tokens/ci" + auth, target{ID: reg + "/tokens/ci", Type: registries + "/tokens", Last: "roleAssignments", List: assigned, On: reg + "/tokens/ci", Place: extension}},
		{reg + "/repositories/team/api" + auth + "/g", target{ID: reg + "/repositories/team/api" + auth + "/g", Type: assigned, On: reg + "/repositories/team/api", Place: extension}},
		{reg + "/repositories/api" + auth, target{ID: reg + "/repositories/api", Type: repository, Last: "roleAssignments", List: assigned, On: reg + "/repositories/api", Place: extension}},
		{reg + "/repositories/providers/api" + auth + "/g", target{ID: reg + "/repositories/providers/api" + auth + "/g", Type: assigned, On: reg + "/repositories/providers/api", Place: extension}},
		{reg + "/repositories/team/api", target{ID: reg + "/repositories/team/api", Type: repository, On: group}},
		{reg + "/repositories", target{ID: reg, Type: registries, Last: "repositories", List: repository, On: group}},
	} {
		got, err := parse(test.path)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v", test.path, got, err)
		}
		// Clients double slashes, end in one, and write in any case.
		odd, err := parse(strings.ReplaceAll(test.path, "/", "//") + "/")
		if err != nil || odd != test.want {
			t.Errorf("%s with doubled slashes: %+v, %v", test.path, odd, err)
		}
		upper, err := parse(strings.ToUpper(test.path))
		if err != nil || upper.ID.Key() != test.want.ID.Key() || upper.On.Key() != test.want.On.Key() || upper.Place != test.want.Place ||
			!strings.EqualFold(upper.Type, test.want.Type) || !strings.EqualFold(upper.List, test.want.List) {
			t.Errorf("%s in upper case: %+v, %v", test.path, upper, err)
		}
	}
}

// A kind is only where its place is, so that nothing has two ids.
func TestAKindIsOfferedWhereItLies(t *testing.T) {
	const group = "/subscriptions/S/resourceGroups/G"
	const reg = group + "/providers/Microsoft.ContainerRegistry/registries/shop"
	kinds := map[place]*Kind{inGroup: {Type: "N/t"}, inTenant: {Type: "N/t", Place: inTenant}, extension: {Type: "N/t", Place: extension}}
	for path, want := range map[string][]place{
		"/providers/N/t/x":                      {inTenant, extension},
		"/providers/N/t":                        {inTenant, extension, inGroup},
		"/subscriptions/S/providers/N/t/x":      {extension},
		"/subscriptions/S/providers/N/t":        {extension, inGroup},
		group + "/providers/N/t/x":              {extension, inGroup},
		group + "/providers/N/t":                {extension, inGroup},
		reg + "/providers/N/t/x":                {extension},
		reg + "/providers/N/t":                  {extension},
		reg + "/repositories/a/providers/N/t/x": {extension},
	} {
		target, err := parse(path)
		if err != nil {
			t.Fatal(err)
		}
		for at, k := range kinds {
			if k.lies(target) != slices.Contains(want, at) {
				t.Errorf("%s is offered in place %d: %t", path, at, k.lies(target))
			}
		}
		on := ref.Everything
		if before := path[:strings.LastIndex(path, "/providers/")]; before != "" {
			on = ref.ID(before).Scope()
		}
		if got := kinds[extension].at(target); got != on {
			t.Errorf("%s is a matter of %s", path, got)
		}
	}
}

func TestAPathThatNamesNothingIsRefused(t *testing.T) {
	for _, path := range []string{
		"", "/", "//", "/v2/", "/nothing/here", "/resourceGroups/G", "/subscriptions/S/../T", "/subscriptions/./resourceGroups/G",
		"/subscriptions/S%2f", "/subscriptions/a b", "/subscriptions/" + strings.Repeat("x", ref.MaxID),
		"/providers/A/providers/B/c/d", "/tenants/T", "/tenants/T/providers/A/b",
		"/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/shop/repositories/a_/providers/A/b/c",
	} {
		if got, err := parse(path); err == nil && got.Type == "" && got.List == "" {
			t.Errorf("%q is %+v", path, got)
		} else if err == nil && strings.Contains(path, "..") {
			t.Errorf("%q is %+v", path, got)
		}
	}
}

func FuzzPath(f *testing.F) {
	f.Add("/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/shop/tokens")
	f.Add("//providers//A/b/c/providers/D/e/f/g")
	f.Add("/providers/Microsoft.Management/managementGroups/g/providers/A/b/c")
	f.Add("/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/shop/repositories/team/api/providers/A/b/c")
	f.Fuzz(func(t *testing.T, path string) {
		got, err := parse(path)
		if err != nil {
			return
		}
		if got.ID != "" {
			if _, err := ref.ParseID(string(got.ID)); err != nil {
				t.Errorf("%q has the id %q: %v", path, got.ID, err)
			}
			again, err := parse(string(got.ID))
			// Only a repository that is called like an extension is one, on its own.
			called := strings.EqualFold(got.Type, repositoryType) && strings.Contains(got.ID.Key(), "/providers/")
			if err != nil || !called && (again.ID != got.ID || again.Type != got.Type || again.Last != "") {
				t.Errorf("%q has the id %q, which is %+v, %v", path, got.ID, again, err)
			}
		}
		if (got.Last == "") != (got.List == "") {
			t.Errorf("%q: %+v", path, got)
		}
		// What an extension lies on is what its rights are asked for: it is all that
		// stands before it.
		if got.Place != above && (!strings.HasPrefix(string(got.ID), string(got.On)) || (got.On == "") != (got.Place == inTenant)) {
			t.Errorf("%q: %+v", path, got)
		}
	})
}

func TestAChangeIsMerged(t *testing.T) {
	for _, test := range []struct{ stored, sent, want string }{
		{`{}`, `{"properties":{"a":1}}`, `{"a":1}`},
		{`{"a":1,"b":2}`, `{"properties":{"b":3}}`, `{"a":1,"b":3}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
		{`{"set":{"action":"Deny","rules":[1,2]}}`, `{"properties":{"set":{"action":"Allow"}}}`, `{"set":{"action":"Allow","rules":[1,2]}}`},
		{`{"set":{"rules":[1,2]}}`, `{"properties":{"set":{"rules":[]}}}`, `{"set":{"rules":[]}}`},
		{`{"a":1,"b":2}`, `{"properties":{"a":null}}`, `{"b":2}`},
		{`{"adminUserEnabled":true}`, `{"properties":{"ADMINUSERENABLED":false}}`, `{"adminUserEnabled":false}`},
		{`{"a":{"b":1}}`, `{"properties":{"a":2}}`, `{"a":2}`},
	} {
		var c change
		if err := json.Unmarshal([]byte(test.sent), &c); err != nil {
			t.Fatal(err)
		}
		next, err := c.over(resource.Resource{Properties: json.RawMessage(test.stored)}, false)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if json.Unmarshal(next.Properties, &got) != nil || json.Unmarshal([]byte(test.want), &want) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s with %s over it is %s", test.stored, test.sent, next.Properties)
		}
	}
}

func TestTagsReplaceTagsAndALocationIsForEver(t *testing.T) {
	over := func(was resource.Resource, sent string, created bool) (resource.Resource, error) {
		c, err := changeOf(json.RawMessage(sent), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.over(was, created)
	}
	was := resource.Resource{Location: "west", Tags: map[string]string{"a": "1", "b": "2"}}
	next, err := over(was, `{"location":"West","tags":{"a":null,"c":"3"}}`, false)
	if err != nil || next.Location != "west" || !reflect.DeepEqual(next.Tags, map[string]string{"c": "3"}) {
		t.Errorf("%+v, %v", next, err)
	}
	if next, err = over(was, `{"properties":{}}`, false); err != nil || len(next.Tags) != 2 {
		t.Errorf("%+v, %v", next, err)
	}
	if next, err = over(was, `{"tags":{}}`, false); err != nil || len(next.Tags) != 0 || len(was.Tags) != 2 {
		t.Errorf("%+v, %v", next, err)
	}
	if next, err = over(resource.Resource{}, `{"location":"moon"}`, true); err != nil || next.Location != "moon" {
		t.Errorf("%+v, %v", next, err)
	}
	if _, err = over(was, `{"location":"moon"}`, false); fault.Of(err) != fault.Conflict {
		t.Error("it moved", err)
	}
	many := []string{}
	for i := range 51 {
		many = append(many, fmt.Sprintf(`"t%d":"x"`, i))
	}
	for _, tags := range []string{`"":"x"`, `"a<":"x"`, `"a":"` + strings.Repeat("x", 257) + `"`, `"` + strings.Repeat("x", 513) + `":""`, `"a":"\u0000"`, strings.Join(many, ",")} {
		if _, err := over(was, `{"tags":{`+tags+`}}`, false); fault.Of(err) != fault.BadRequest {
			t.Errorf("%.50s: %v", tags, err)
		}
	}
}

func TestPreconditionsAreRead(t *testing.T) {
	for _, test := range []struct {
		match, none, want string
		code              fault.Code
	}{
		{"", "", resource.Any, 0},
		{"", "*", resource.Absent, 0},
		{"*", "", resource.Exists, 0},
		{`"abc"`, "", "abc", 0},
		{"abc", "", "abc", 0},
		{`W/"abc"`, "", "abc", 0},
		{`""`, "", "", fault.Stale},
		{`"-"`, "", "", fault.Stale},
		{"", `"abc"`, "", fault.BadRequest},
		{"abc", "*", "", fault.BadRequest},
	} {
		h := http.Header{}
		if test.match != "" {
			h.Set("If-Match", test.match)
		}
		if test.none != "" {
			h.Set("If-None-Match", test.none)
		}
		got, err := expectation(h)
		if got != test.want || err != nil && fault.Of(err) != test.code || err == nil && test.code != 0 {
			t.Errorf("If-Match %q, If-None-Match %q: %q, %v", test.match, test.none, got, err)
		}
	}
}

func TestOnlyALostRaceIsRunAgain(t *testing.T) {
	stale := fault.New(fault.Stale, "somebody was faster")
	for _, test := range []struct {
		name string
		fail error
		code fault.Code // with which it ends
		runs int
	}{
		{"a name that is another's", fault.New(fault.Conflict, "taken"), fault.Conflict, 1},
		{"one too many", fault.New(fault.BadRequest, "enough"), fault.BadRequest, 1},
		{"an etag that is no more", stale, 0, 2},
		{"a name that was free", resource.Taken(stale, resource.Absent, "thing", "x"), 0, 2},
	} {
		runs := 0
		k := &Kind{
			Type: "N/things",
			Get: func(context.Context, access.Grant, ref.ID) (resource.Resource, error) {
				return resource.Resource{}, absent("N/things")
			},
			Put: func(_ context.Context, _ access.Grant, next resource.Resource, _ string) (resource.Resource, error) {
				if runs++; runs == 1 {
					return next, test.fail
				}
				return next, nil
			},
		}
		err := put(k, "/providers/N/things/x", false)(httptest.NewRecorder(), httptest.NewRequest("PUT", "/", strings.NewReader(`{}`)), access.Grant{})
		if runs != test.runs || test.code == 0 && err != nil || test.code != 0 && fault.Of(err) != test.code {
			t.Errorf("%s: run %d times, %v", test.name, runs, err)
		}
	}
}
