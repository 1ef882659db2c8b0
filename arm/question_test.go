package arm

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"breakwater/access"
	"breakwater/directory"
	"breakwater/identity"
	"breakwater/ref"
	"breakwater/registry"
)

func TestAQuestionIsAskedAboutWhatThePathBeginsWith(t *testing.T) {
	const s, g = "/subscriptions/S", "/subscriptions/S/resourceGroups/G"
	const reg = g + "/providers/Microsoft.ContainerRegistry/registries/shop"
	const permissions = "/providers/Microsoft.Authorization/permissions"
	for path, want := range map[string]struct {
		pattern string
		at      ref.ID
		name    string
	}{
		s + "/resources":      {"/subscriptions/{}/resources", s, ""},
		g + "/resources":      {"/subscriptions/{}/resourceGroups/{}/resources", g, ""},
		s + "/providers/A.b":  {"/subscriptions/{}/providers/{}", s, "A.b"},
		"/providers/A.b":      {"/providers/{}", "", "A.b"},
		"/metadata/endpoints": {"/metadata/endpoints", "", ""},
		permissions:           {"{scope}/providers/Microsoft.Authorization/permissions", "", ""},
		g + permissions:       {"{scope}/providers/Microsoft.Authorization/permissions", g, ""},
		reg + "/repositories/team/api" + permissions: {"{scope}/providers/Microsoft.Authorization/permissions", reg + "/repositories/team/api", ""},
	} {
		for _, as := range []string{path, strings.ReplaceAll(path, "/", "//") + "/", strings.ToUpper(path)} {
			of, q, ok := (&API{}).question(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: as}})
			if of == nil || !ok || of.pattern != want.pattern || q.at.Key() != want.at.Key() || !strings.EqualFold(strings.Join(q.names, " "), want.name) {
				t.Errorf("%s: %+v", as, q)
			}
		}
		if of, _, ok := (&API{}).question(&http.Request{Method: http.MethodDelete, URL: &url.URL{Path: path}}); of == nil || ok {
			t.Errorf("DELETE %s is offered", path)
		}
	}
	for _, path := range []string{"", "/", s, g, reg, s + "/resources/x", reg + "/tokens" + permissions, "/x" + permissions, "/providers/A/b/c"} {
		if of, _, _ := (&API{}).question(&http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}}); of != nil {
			t.Errorf("%s is %s", path, of.pattern)
		}
	}
}

// What a deleted resource group takes along is every kind that lies in one.
func TestAResourceGroupKnowsWhatLiesInIt(t *testing.T) {
	a := New(Options{}, Above(nil, nil, nil), Registries(&registry.Store{}, &access.Store{}, nil, nil, nil, nil, nil), Directory(&directory.Store{}, &identity.Store{}))
	var types []string
	for _, k := range a.tracked() {
		if types = append(types, k.Type); k.Delete == "" {
			t.Errorf("%s cannot be deleted", k.Type)
		}
	}
	if !slices.Equal(types, grouped) {
		t.Errorf("%v lie in resource groups, which know of %v", types, grouped)
	}
}

func FuzzRoute(f *testing.F) {
	f.Add("GET", "/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/shop/providers/Microsoft.Authorization/permissions")
	f.Add("POST", "/subscriptions/S/providers/A.b/register")
	f.Add("HEAD", "//subscriptions//S//resourcegroups//G")
	a := New(Options{}, Above(nil, nil, nil), Locks(nil), Registries(&registry.Store{}, &access.Store{}, nil, nil, nil, nil, nil), Directory(&directory.Store{}, &identity.Store{}))
	f.Fuzz(func(t *testing.T, method, path string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL = method, &url.URL{Path: path}
		call, err := a.Route(r)
		if err != nil {
			return
		}
		if call.Handler == nil || call.Operation == "" {
			t.Errorf("%s %q: %+v", method, path, call)
		}
		// What changes something needs a right, at a scope of its own.
		for _, n := range call.Needs {
			if n.Scope == "" && call.Operation != string(access.EventRead) {
				t.Errorf("%s %q needs %s nowhere", method, path, n.Action)
			}
		}
		if !call.Read && len(call.Needs) == 0 {
			t.Errorf("%s %q changes something and needs nothing", method, path)
		}
	})
}
