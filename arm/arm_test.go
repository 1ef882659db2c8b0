package arm

import (
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
)

func TestAPathNamesOneThing(t *testing.T) {
	const group = "/subscriptions/S/resourceGroups/G"
	const reg = group + "/providers/Microsoft.ContainerRegistry/registries/shop"
	for _, test := range []struct {
		path string
		want target
	}{
		{"/subscriptions", target{Last: "subscriptions", List: SubscriptionType}},
		{"/subscriptions/S", target{ID: "/subscriptions/S", Type: SubscriptionType}},
		{group, target{ID: group, Type: ResourceGroupType}},
		{"/subscriptions/S/resourceGroups", target{ID: "/subscriptions/S", Type: SubscriptionType, Last: "resourceGroups", List: ResourceGroupType}},
		{reg, target{ID: reg, Type: "Microsoft.ContainerRegistry/registries"}},
		{reg + "/tokens/ci", target{ID: reg + "/tokens/ci", Type: "Microsoft.ContainerRegistry/registries/tokens"}},
		{reg + "/tokens", target{ID: reg, Type: "Microsoft.ContainerRegistry/registries", Last: "tokens", List: "Microsoft.ContainerRegistry/registries/tokens"}},
		{"/subscriptions/S/providers/Microsoft.ContainerRegistry/registries",
			target{ID: "/subscriptions/S", Type: SubscriptionType, Last: "registries", List: "Microsoft.ContainerRegistry/registries"}},
		{"/providers/Microsoft.ContainerRegistry/registries", target{Last: "registries", List: "Microsoft.ContainerRegistry/registries"}},
		{reg + "/providers/Microsoft.Authorization/locks/l", target{ID: reg + "/providers/Microsoft.Authorization/locks/l", Type: "Microsoft.Authorization/locks"}},
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
		if err != nil || upper.ID.Key() != test.want.ID.Key() || !strings.EqualFold(upper.Type, test.want.Type) || !strings.EqualFold(upper.List, test.want.List) {
			t.Errorf("%s in upper case: %+v, %v", test.path, upper, err)
		}
	}
}

func TestAPathThatNamesNothingIsRefused(t *testing.T) {
	for _, path := range []string{
		"", "/", "//", "/v2/", "/nothing/here", "/resourceGroups/G", "/subscriptions/S/../T", "/subscriptions/./resourceGroups/G",
		"/subscriptions/S%2f", "/subscriptions/a b", "/subscriptions/" + strings.Repeat("x", ref.MaxID),
		"/providers/A/providers/B/c/d",
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
			if err != nil || again.ID != got.ID || again.Type != got.Type || again.Last != "" {
				t.Errorf("%q has the id %q, which is %+v, %v", path, got.ID, again, err)
			}
		}
		if (got.Last == "") != (got.List == "") {
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

func TestTagsAreMergedAndALocationIsForEver(t *testing.T) {
	var c change
	if err := json.Unmarshal([]byte(`{"location":"moon","tags":{"a":null,"c":"3"}}`), &c); err != nil {
		t.Fatal(err)
	}
	was := resource.Resource{Location: "local", Tags: map[string]string{"a": "1", "b": "2"}}
	next, err := c.over(was, false)
	if err != nil || next.Location != "local" || !reflect.DeepEqual(next.Tags, map[string]string{"b": "2", "c": "3"}) {
		t.Errorf("%+v, %v", next, err)
	}
	if len(was.Tags) != 2 {
		t.Error("what was there before was changed")
	}
	if next, err = c.over(resource.Resource{}, true); err != nil || next.Location != "moon" {
		t.Errorf("%+v, %v", next, err)
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
