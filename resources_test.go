package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

var someTypes = []resourceType{
	{Type: "Microsoft.Resources/subscriptions", Path: "/subscriptions/{}"},
	{Type: "Microsoft.Resources/resourceGroups", Path: "/subscriptions/{}/resourceGroups/{}"},
	{Type: "Microsoft.ContainerRegistry/registries", Path: inGroups + "Microsoft.ContainerRegistry/registries/{}"},
	{Type: "Microsoft.ContainerRegistry/registries/tokens", Path: inGroups + "Microsoft.ContainerRegistry/registries/{}/tokens/{}"},
	{Type: "Microsoft.Authorization/locks", Path: "{scope}/providers/Microsoft.Authorization/locks/{}"},
	{Type: "Breakwater.Access/policies", Path: "/providers/Breakwater.Access/policies/{}"},
	{Type: "A.B/xs/credentials", Path: "/providers/A.B/xs/{}/credentials/{}"},
	{Type: "A.B/ys/credentials", Path: "/providers/A.B/ys/{}/credentials/{}"},
	{Type: "C.D/groups/subscriptions", Path: "/providers/C.D/groups/{}/subscriptions/{}"},
}

func TestATypeIsMeantByItsLastWord(t *testing.T) {
	for word, want := range map[string]string{
		"registry": "Microsoft.ContainerRegistry/registries", "REGISTRIES": "Microsoft.ContainerRegistry/registries",
		"token": "Microsoft.ContainerRegistry/registries/tokens", "registries/tokens": "Microsoft.ContainerRegistry/registries/tokens",
		"policy": "Breakwater.Access/policies", "subscriptions": "Microsoft.Resources/subscriptions",
		"Microsoft.ContainerRegistry/registries/tokens": "Microsoft.ContainerRegistry/registries/tokens",
		"ys/credential": "A.B/ys/credentials", "groups/subscription": "C.D/groups/subscriptions",
		"credentials": "", "ken": "", "": "", "s": "", "/": "",
	} {
		got, err := typeOf(someTypes, word)
		if got.Type != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", word, got.Type, err, want)
		}
	}
	for _, of := range someTypes {
		if short := shortType(someTypes, of); short == "" {
			t.Errorf("%s has no short name", of.Type)
		} else if back, err := typeOf(someTypes, short); err != nil || back.Type != of.Type {
			t.Errorf("%s is called %s, which means %s, %v", of.Type, short, back.Type, err)
		}
	}
}

func TestANameSaysWhereAResourceIsAsFarAsItDoes(t *testing.T) {
	const shop = "/subscriptions/S/resourceGroups/G/providers/Microsoft.ContainerRegistry/registries/shop"
	const tokens = inGroups + "Microsoft.ContainerRegistry/registries/{}/tokens/{}"
	for _, test := range []struct{ pattern, name, base, want string }{
		{tokens, "ci", shop, shop + "/tokens/ci"},
		{tokens, "other/ci", shop, strings.Replace(shop, "shop", "other", 1) + "/tokens/ci"},
		{tokens, "G2/other/ci", shop, "/subscriptions/S/resourceGroups/G2/providers/Microsoft.ContainerRegistry/registries/other/tokens/ci"},
		{tokens, "ci", "/subscriptions/S/resourcegroups/G/providers/microsoft.containerregistry/REGISTRIES/shop", shop + "/tokens/ci"},
		{tokens, "ci", "/subscriptions/S/resourceGroups/G", ""},
		{tokens, "ci", "/subscriptions/S/resourceGroups/G/providers/Microsoft.Other/registries/shop", ""},
		{tokens, "ci", "", ""},
		{tokens, "a/b/c/d/e", shop, ""},
		{"/subscriptions/{}/resourceGroups/{}", "new", shop, "/subscriptions/S/resourceGroups/new"},
		{"{scope}/providers/M/locks/{}", "l", shop, shop + "/providers/M/locks/l"},
		{"{scope}/providers/M/locks/{}", "l", "", "/providers/M/locks/l"},
		{"{scope}/providers/M/locks/{}", "x/l", "", ""},
		{"/providers/A.B/users/{}", "alice", shop, "/providers/A.B/users/alice"},
	} {
		got, err := placed(test.pattern, strings.Split(test.name, "/"), test.base)
		if err != nil {
			got = ""
		}
		if got != test.want {
			t.Errorf("%s of %s at %q is %q, %v; want %q", test.name, test.pattern, test.base, got, err, test.want)
		}
	}
}

func TestPairsAreWhatIsMeant(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte("hidden\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for pairs, want := range map[string]string{
		"a=true b=text c=12 d=012 e=1.10 f=null":       `{"properties":{"a":true,"b":"text","c":12,"d":"012","e":"1.10","f":null}}`,
		"a.b=1 a.c=2":                                  `{"properties":{"a":{"b":1,"c":2}}}`,
		`a=["x","y"] b={"c":"d"} e="5" f=[broken`:      `{"properties":{"a":["x","y"],"b":{"c":"d"},"e":"5","f":"[broken"}}`,
		"location=local tags.version=1 sku.name=Basic": `{"location":"local","sku":{"name":"Basic"},"tags":{"version":"1"}}`,
		"properties.location=here Tags.a=b=c":          `{"properties":{"location":"here"},"tags":{"a":"b=c"}}`,
		"clientSecret=@" + file + " x=":                `{"properties":{"clientSecret":"hidden","x":""}}`,
		"usernameSecretIdentifier=https://v.example/s": `{"properties":{"usernameSecretIdentifier":"https://v.example/s"}}`,

		"a": "", "=b": "", "a..b=c": "", ".a=b": "", "a=1 a=2": "", "a=1 a.b=2": "", "a.b=1 a=2": "",
		"signIn.clientSecret=hidden": "", "adminPassword=hidden": "", "customHeaders.Authorization=hidden": "", "serviceUri=https://me:hidden@x": "",
		`signIn={"clientSecret":"hidden"}`: "", `customHeaders={"X-Token":"hidden"}`: "", `list=[{"password":"hidden"}]`: "", "password=@/nowhere": "",
	} {
		got, err := parsePairs(&cobra.Command{}, strings.Fields(pairs))
		text := ""
		if err == nil {
			made, _ := json.Marshal(got)
			text = string(made)
		} else if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the error has the secret: %v", pairs, err)
		}
		if text != want {
			t.Errorf("%s is %s, %v; want %s", pairs, text, err, want)
		}
	}
}

// Whatever somebody types becomes properties or a complaint, and no secret passes by
// the name that it has in JSON.
func FuzzPairs(f *testing.F) {
	for _, seed := range []string{"a.b=true", `a={"b":["c"]}`, "tags.x=y", "customHeaders.x=y", `x={"password":"y"}`, "sku={}", "a=@", "identity=x", "location=", "properties=3"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pair string) {
		if _, value, _ := strings.Cut(pair, "="); strings.HasPrefix(value, "@") {
			return // a file
		}
		got, err := parsePairs(&cobra.Command{}, []string{pair})
		if err != nil {
			return
		}
		if len(got) != 1 {
			t.Fatalf("%q is %v", pair, got)
		}
		delete(got, "tags") // where text is only text
		if _, err := json.Marshal(got); err != nil || secretly([]string{""}, map[string]any(got)) {
			t.Fatalf("%q is %v, %v", pair, got, err)
		}
	})
}

// What others have written is shown, and not obeyed by a terminal; nor does it look
// like a line of its own.
func FuzzShow(f *testing.F) {
	f.Add(`{"name":"a","id":"/subscriptions/s/resourceGroups/g/providers/n/t/a","properties":{"x":"\u001b[2Jy\nz","l":[1,"\t",null],"o":[{"a":{}}],"e":[],"n":null}}`)
	f.Add(`{"properties":{"\u001b[2J":1,"a\nb":"\u009b"}}`)
	f.Add(`[{"a":1}]`)
	f.Add(`3`)
	f.Fuzz(func(t *testing.T, text string) {
		if !json.Valid([]byte(text)) {
			return
		}
		for _, form := range []string{"table", "json", "yaml"} {
			var one, many bytes.Buffer
			if err := showOne(&one, &output{chosen: form}, json.RawMessage(text)); err != nil {
				t.Fatal(err)
			}
			if err := showMany(&many, &output{chosen: form}, []json.RawMessage{json.RawMessage(text)}); err != nil {
				t.Fatal(err)
			}
			if shown := one.String() + many.String(); form == "table" && strings.ContainsAny(shown, "\x00\a\b\t\v\f\r\x1b\x7f\u009b\u202e") {
				t.Fatalf("%q", shown)
			} else if lines := strings.Count(many.String(), "\n"); form == "table" && lines > 2 {
				t.Fatalf("one resource has %d lines: %q", lines, many.String())
			}
		}
	})
}

// Nothing that a command prints is obeyed: not JSON, which need not escape all that a
// terminal knows, and not what a server said of what went wrong.
func TestAScreenShowsAndDoesNotObey(t *testing.T) {
	for text, want := range map[string]string{
		"name\tteam/api é 서울 😀\u3000\n":    "name\tteam/api é 서울 😀\u3000\n",
		"a\x1b[2Jb\r\a\x7f":                `a\u001b[2Jb\u000d\u0007\u007f`,
		`{"a":"` + "\u009b2J\u202e" + `"}`: `{"a":"\u009b2J\u202e"}`,
		"\x9b2J":                           `\ufffd2J`,
		"\U000e0001":                       `\udb40\udc01`,
		"":                                 "",
	} {
		var out bytes.Buffer
		if n, err := (screen{&out}).Write([]byte(text)); n != len(text) || err != nil || out.String() != want {
			t.Errorf("%q is shown as %q, %d, %v", text, out.String(), n, err)
		}
	}
	var stdout, stderr bytes.Buffer
	if run(t.Context(), []string{"get", "x\x1b[2J"}, &stdout, &stderr); strings.Contains(stdout.String()+stderr.String(), "\x1b") {
		t.Errorf("%q %q", stdout.String(), stderr.String())
	}
}

// A login goes to the host that is read from what a client asks for, and to no other.
func TestAHostIsReadInOneWay(t *testing.T) {
	for text, want := range map[string]string{
		"registry.example.com": "registry.example.com", "https://Registry.example.com:8443/v2/": "registry.example.com:8443",
		"[::1]:8443": "[::1]:8443", " localhost:5000\n": "localhost:5000",
		"evil.example#.registry.example.com:8443": "", "evil.example?.registry.example.com:8443": "", "registry.example.com:x@evil.example": "",
		`evil.example\.registry.example.com`: "", "https://evil.example%2f.registry.example.com": "", "": "",
	} {
		if got := hostOf(text); got != want {
			t.Errorf("%q is the host %q, want %q", text, got, want)
		}
	}
}

func TestWhatIsSavedSurvivesManyAtOnce(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			err := changeLogins(t.Context(), func(l *logins) error {
				if l.Kept == nil {
					l.Kept = map[string]kept{}
				}
				l.Kept[strings.Repeat("x", i+1)] = kept{"a", "b"}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	l, err := readLogins()
	if err != nil || len(l.Kept) != 20 {
		t.Errorf("%d of 20 are there, %v", len(l.Kept), err)
	}
	path, _ := loginsFile()
	if left, _ := filepath.Glob(filepath.Dir(path) + "/.breakwater-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// One that fails changes nothing.
	if err := changeLogins(t.Context(), func(l *logins) error { l.Kept = nil; return os.ErrInvalid }); err == nil {
		t.Error("a failure is none")
	}
	if l, _ := readLogins(); len(l.Kept) != 20 {
		t.Error("a change that failed was written")
	}
}

func TestALoginIsForItsOwnServerAndWhatIsBelow(t *testing.T) {
	far, near := &session{login: login{Server: "https://example.com:8443", Registry: "example.com:8443"}}, &session{login: login{Server: "https://eu.example.com:8443", Registry: "eu.example.com:8443"}}
	l := logins{Servers: map[string]*session{far.Server: far, near.Server: near}}
	for host, want := range map[string]*session{
		"example.com:8443": far, "shop.example.com:8443": far, "eu.example.com:8443": near, "shop.eu.example.com:8443": near,
		"example.com": nil, "example.com:443": nil, "badexample.com:8443": nil, "example.com.evil.net:8443": nil, "com:8443": nil, "": nil, "docker.io": nil,
	} {
		if got := l.of(host); got != want {
			t.Errorf("%q is reached by the login of %+v", host, got)
		}
	}
}

func TestTheHelperSpeaksItsProtocol(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, test := range []struct {
		word, in, says string
		status         int
	}{
		{"get", "https://shop.example.com", "credentials not found in native keychain\n", failure},
		{"store", `{"ServerURL":"https://Shop.example.com/v2/","Username":"a","Secret":"b"}`, "", success},
		{"get", "shop.example.com\n", `{"ServerURL":"shop.example.com","Username":"a","Secret":"b"}` + "\n", success},
		{"list", "", `{"shop.example.com":"a"}` + "\n", success},
		{"erase", "https://shop.example.com", "", success},
		{"get", "shop.example.com", "credentials not found in native keychain\n", failure},
		{"erase", "shop.example.com", "", success},
		{"list", "", "{}\n", success},
		{"store", "nonsense", "what shall be stored is no credential\n", failure},
		{"store", `{"ServerURL":"x"}`, "what shall be stored lacks a server, a user name or a secret\n", failure},
		{"nonsense", "", helperName + ` knows no "nonsense"` + "\n", failure},
	} {
		var out bytes.Buffer
		if status := credentialHelper(ctx, []string{test.word}, strings.NewReader(test.in), &out); status != test.status || out.String() != test.says {
			t.Errorf("%s %s: %d %q", test.word, test.in, status, out.String())
		}
	}
}

// What get prints as YAML, set reads as the same.
func FuzzYAML(f *testing.F) {
	for _, seed := range []string{"true", "012", "1.10", "null", "~", "", "- a", "a: b", "#x", " lead", "line\nbreak\n", "2026-11-24T00:00:00Z", "*", "\u009b2J", "'", `"`, `\`, "a\tb", "é", "<<", "a:", "\u2028", "😀", "\U000e0001", "localhost:8443"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		in, err := json.Marshal(map[string]any{"k": s, "l": []any{s, []any{s, 1.5, []any{}}, map[string]any{s: nil}}, "m" + s: map[string]any{s: true, "e": map[string]any{}}})
		if err != nil || len(s) > 1000 {
			return
		}
		var out bytes.Buffer
		if err := showText(&out, &output{chosen: "yaml"}, in); err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := yaml.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		back, err := json.Marshal(got)
		if err := errors.Join(err, json.Unmarshal(back, &got), json.Unmarshal(in, &want)); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%s became\n%s", in, out.String())
		}
	})
}
