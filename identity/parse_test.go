package identity

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"breakwater/fault"
)

func basic(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

func TestCredentialsOfARequest(t *testing.T) {
	for _, row := range []struct {
		lines []string
		want  Credentials
		err   bool
	}{
		{nil, Credentials{}, false},
		{[]string{basic("ci:secret")}, Credentials{Method: Basic, Name: "ci", Secret: "secret"}, false},
		{[]string{strings.Replace(basic("ci:secret"), "Basic", "bASIC", 1)}, Credentials{Method: Basic, Name: "ci", Secret: "secret"}, false},
		{[]string{basic("ci:a:b")}, Credentials{Method: Basic, Name: "ci", Secret: "a:b"}, false},
		{[]string{basic("ci:")}, Credentials{Method: Basic, Name: "ci"}, false},
		{[]string{"Bearer a.b.c"}, Credentials{Method: Bearer, Secret: "a.b.c"}, false},
		{[]string{"bearer  a.b-c_"}, Credentials{Method: Bearer, Secret: "a.b-c_"}, false},
		{[]string{"Bearer a.b.c", "Bearer a.b.c"}, Credentials{}, true},
		{[]string{""}, Credentials{}, true},
		{[]string{"Bearer"}, Credentials{}, true},
		{[]string{"Bearer "}, Credentials{}, true},
		{[]string{"Bearer a b"}, Credentials{}, true},
		{[]string{"Bearer a,b"}, Credentials{}, true},
		{[]string{"Basic"}, Credentials{}, true},
		{[]string{"Basic !"}, Credentials{}, true},
		{[]string{basic("ci")}, Credentials{}, true},
		{[]string{basic(":secret")}, Credentials{}, true},
		{[]string{basic("c\x00i:secret")}, Credentials{}, true},
		{[]string{basic("ci:sec\nret")}, Credentials{}, true},
		{[]string{"Basic Y2k6c2VjcmV0\t"}, Credentials{}, true},
		{[]string{"Basic Y2k6c2VjcmV1="}, Credentials{}, true},
		{[]string{"Digest username=ci"}, Credentials{}, true},
		{[]string{"Negotiate abc"}, Credentials{}, true},
		{[]string{"Bearer " + strings.Repeat("a", maxAuthorization)}, Credentials{}, true},
	} {
		got, err := FromRequest(&http.Request{Header: http.Header{"Authorization": row.lines}})
		if (err != nil) != row.err || !reflect.DeepEqual(got, row.want) {
			t.Errorf("%.60q: %+v, %v", row.lines, got, err)
		}
		if err != nil && fault.Of(err) != fault.Unauthenticated {
			t.Errorf("%.60q: %v", row.lines, err)
		}
	}
}

func TestSecretsDoNotSpeak(t *testing.T) {
	c := Credentials{Method: Basic, Name: "ci", Secret: "hush", Verifier: "hush"}
	p := Password{Name: "password1", Value: "hush", proof: verifier{Hash: "hush", Salt: "hush"}}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%s", c.Secret),
		fmt.Sprintf("%+v", p.Value), fmt.Sprintf("%v", p), fmt.Sprintf("%#v", p), fmt.Sprintf("%x", c.Secret)} {
		if strings.Contains(text, "hush") || strings.Contains(text, "68757368") {
			t.Errorf("a secret spoke: %s", text)
		}
	}
}

func TestScopesOfTheTokenEndpoint(t *testing.T) {
	many := strings.Repeat("repository:a:pull ", 2*maxScopes)
	for _, row := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{"repository:team/api:pull"}, "repository|team/api|pull"},
		{[]string{"repository:team/api:pull,push"}, "repository|team/api|pull,push"},
		{[]string{"repository:a:pull repository:b:push"}, "repository|a|pull; repository|b|push"},
		{[]string{"repository:a:pull", "repository:b:push"}, "repository|a|pull; repository|b|push"},
		{[]string{"repository:a:pull", "repository:a:push,pull"}, "repository|a|pull,push"},
		{[]string{"repository:host:5000/a:pull"}, "repository|host:5000/a|pull"},
		{[]string{"registry:catalog:*"}, "registry|catalog|*"},
		{[]string{"registry:None:*"}, "registry|None|*"},
		{[]string{"repository(plugin):a:pull"}, "repository(plugin)|a|pull"},
		{[]string{"repository:a:"}, "repository|a|"},
		{[]string{"repository:a:,,pull,"}, "repository|a|pull"},
		{[]string{"repository::pull", ":a:pull", "repository:a", "pull", "::", ":"}, ""},
		{[]string{many + "repository:b:pull"}, "repository|a|pull"},
		{[]string{strings.Repeat("x", maxScopeBytes+1) + " repository:a:pull"}, ""},
	} {
		var parts []string
		for _, a := range ParseScopes(row.values) {
			parts = append(parts, a.Type+"|"+a.Name+"|"+strings.Join(a.Actions, ","))
		}
		if got := strings.Join(parts, "; "); !reflect.DeepEqual(got, row.want) {
			t.Errorf("%.80q: %q, want %q", row.values, got, row.want)
		}
	}
}

func TestNamesOfAccounts(t *testing.T) {
	for name, want := range map[string]bool{"ci": true, "CI-2_x": true, "a@b.example": true, "0": true, strings.Repeat("a", 64): true,
		"": false, "_x": false, ".": false, "..": false, "a/b": false, "a b": false, "a\x00": false, "é": false, "a%2f": false, strings.Repeat("a", 65): false} {
		if ValidName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func FuzzAuthorization(f *testing.F) {
	for _, s := range []string{"", "Basic", basic("ci:secret"), basic("ci"), "Bearer a.b.c", "Bearer a b", "bearer x", "Basic ====", "Digest a=b", "Basic \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		c, err := ParseAuthorization(value)
		if err != nil {
			if fault.Of(err) != fault.Unauthenticated || !c.None() {
				t.Fatalf("%q: %+v, %v", value, c, err)
			}
			return
		}
		switch {
		case c.None():
			t.Fatalf("%q shows nothing, and was accepted", value)
		case (c.Method == Basic) != (c.Name != ""):
			t.Fatalf("%q shows two credentials", value)
		case c.Name != "":
			again, err := ParseAuthorization(basic(c.Name + ":" + string(c.Secret)))
			if err != nil || !reflect.DeepEqual(again, c) {
				t.Fatalf("%q was read as %q, and then as %q", value, c.Name, again.Name)
			}
		}
	})
}

func FuzzScopes(f *testing.F) {
	for _, s := range []string{"", "repository:a:pull", "repository:a:b:pull,push repository:c:*", "registry:catalog:*", "::", " : : "} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		asked := ParseScopes([]string{a, b})
		if len(asked) > maxScopes {
			t.Fatalf("%d scopes", len(asked))
		}
		var text []string
		for _, s := range asked {
			if s.Type == "" || s.Name == "" || strings.Contains(s.Type, ":") || len(s.Actions) > maxActions || slices.Contains(s.Actions, "") {
				t.Fatalf("%q %q: %+v", a, b, s)
			}
			text = append(text, s.Type+":"+s.Name+":"+strings.Join(s.Actions, ","))
		}
		again := ParseScopes([]string{strings.Join(text, " ")})
		if !slices.EqualFunc(asked, again, func(a, b Access) bool {
			return a.Type == b.Type && a.Name == b.Name && slices.Equal(a.Actions, b.Actions)
		}) {
			t.Fatalf("%q %q: read as %v, and then as %v", a, b, asked, again)
		}
	})
}
