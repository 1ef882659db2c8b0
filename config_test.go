package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"breakwater/network"
)

// configured is the configuration of a file and flags.
func configured(t *testing.T, file string, args ...string) (*config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "breakwater.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	c := defaults()
	flags := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	c.flags(flags)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := c.read(path, flags); err != nil {
		return nil, err
	}
	return c, c.check()
}

func TestAFlagWinsOverTheFileAndTheFileOverTheDefault(t *testing.T) {
	c, err := configured(t, "listen: example.com:1\nops: 127.0.0.1:2\nsweep:\n  grace: 90m\n", "--listen", "example.com:3", "--domain", "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "example.com:3" || c.Ops != "127.0.0.1:2" || c.Sweep.Grace != 90*time.Minute || c.Sweep.Every != time.Hour {
		t.Errorf("listen %s, ops %s, grace %v, every %v", c.Listen, c.Ops, c.Sweep.Grace, c.Sweep.Every)
	}
	c, err = configured(t, "ops: 127.0.0.1:2\n", "--ops", "")
	if err != nil || c.Ops != "" {
		t.Errorf("a flag that was given empty did not win: %q, %v", c.Ops, err)
	}
}

func TestAFileThatSaysLittleChangesLittle(t *testing.T) {
	for _, file := range []string{"", "# nothing\n", "data: ./elsewhere\n"} {
		if _, err := configured(t, file); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
}

func TestWhatCannotBeMeantIsRefusedWithItsPlace(t *testing.T) {
	for _, test := range []struct{ file, says string }{
		{"listen: localhost:1\nlissen: localhost:2\n", "breakwater.yaml:2:"},
		{"tls:\n  minimum: \"1.3\"\n  maximum: \"1.2\"\n", "breakwater.yaml:3:"},
		{"data: a\ndata: b\n", "breakwater.yaml:2:"},
		{"limits:\n  connections: many\n", "breakwater.yaml:2:"},
		{"data: [\n", "breakwater.yaml:"},
		{"tls:\n  minimum: \"1.1\"\n", "tls.minimum"},
		{"tls:\n  certificate: cert.pem\n", "tls"},
		{"listen: localhost\n", "listen"},
		{"domain: registries.example.com:8443\n", "without a port"},
		{"domain: '*.example.com'\n", "domain"},
		{"domain: .example.com\n", "domain"},
		{"proxies:\n  forwarded: [everyone]\n", `"everyone" is not`},
		{"proxies:\n  protocol: [10.0.0.0/33]\n", `"10.0.0.0/33" is not`},
		{"log:\n  format: xml\n", "log.format"},
		{"sweep:\n  every: 0s\n", "sweep"},
	} {
		_, err := configured(t, test.file)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q: %v, want it to say %s", test.file, err, test.says)
		}
	}
}

func TestTheEnvironmentHasNoSay(t *testing.T) {
	t.Setenv("BREAKWATER_LISTEN", "0.0.0.0:1")
	t.Setenv("LISTEN", "0.0.0.0:1")
	c, err := configured(t, "")
	if err != nil || c.Listen != "localhost:8443" {
		t.Errorf("%v, %v", c.Listen, err)
	}
}

func TestClientsAreToldANameThatTheCertificateHas(t *testing.T) {
	for listen, want := range map[string]string{
		"localhost:8443": "localhost:8443", "127.0.0.1:8443": "localhost:8443", "[::]:8443": "localhost:8443",
		":8443": "localhost:8443", "0.0.0.0:8443": "localhost:8443", "registry.example.com:8443": "registry.example.com:8443",
		"192.0.2.1:8443": "192.0.2.1:8443", "[2001:db8::1]:8443": "[2001:db8::1]:8443",
	} {
		c := defaults()
		c.Listen = listen
		if got := c.public(8443); got != want {
			t.Errorf("%s is %s to clients, want %s", listen, got, want)
		}
		if !slices.Contains(c.names(), c.host()) {
			t.Errorf("%s: the certificate is for %v", listen, c.names())
		}
	}
	c := defaults()
	c.Listen = "registry.example.com:443"
	if got := c.public(443); got != "registry.example.com" {
		t.Errorf("the usual port is said: %s", got)
	}
}

func TestExitStatusesTellMisuseFromFailure(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "owner.json")
	for _, test := range []struct {
		status int
		args   []string
	}{
		{success, []string{"--help"}},
		{success, []string{"version"}},
		{success, []string{"token"}},
		{misuse, []string{"nonsense"}},
		{misuse, []string{"token", "nonsense"}},
		{misuse, []string{"serve", "--nonsense"}},
		{misuse, []string{"serve", "extra"}},
		{misuse, []string{"serve", "--listen", "nowhere"}},
		{misuse, []string{"serve", "--log-level", "loud"}},
		{misuse, []string{"serve", "--config", absent}},
		{misuse, []string{"token", "create"}},
		{misuse, []string{"token", "create", "ci", "--owner-file", absent}},
		{misuse, []string{"token", "create", "ci", "--action", "repositories/a*/content/read", "--owner-file", absent}},
		{misuse, []string{"token", "create", "ci", "--action", "repositories/a/content/own", "--owner-file", absent}},
		{misuse, []string{"token", "create", "ci", "--action", "repositories/a/content/read", "--expires", "soon", "--owner-file", absent}},
		{misuse, []string{"registry", "update", "--owner-file", absent}},
		{misuse, []string{"registry", "update", "--anonymous-pull", "perhaps", "--owner-file", absent}},
		{misuse, []string{"logs", "--output", "xml", "--owner-file", absent}},
		{misuse, []string{"hammer", "verify"}},
		{failure, []string{"token", "list", "--owner-file", absent}},
		{failure, []string{"logs", "--owner-file", absent}},
		{failure, []string{"trust", "--owner-file", absent}},
	} {
		var out, errs bytes.Buffer
		if got := run(t.Context(), test.args, &out, &errs); got != test.status {
			t.Errorf("%v ended with %d, want %d: %s", test.args, got, test.status, errs.String())
		}
		if lines := strings.Count(errs.String(), "\n"); (test.status == success) != (lines == 0) || lines > 1 {
			t.Errorf("%v said %q", test.args, errs.String())
		}
	}
}

// Every key of the file and every flag of serve has its row in the page about
// them, with its default, and the page has no other rows.
func TestTheConfigurationIsDocumented(t *testing.T) {
	page, err := os.ReadFile("docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // key: flag, default
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		if len(cells) != 4 || !strings.Contains(cells[0], "`") {
			continue
		}
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		documented[cells[0]] = cells[1:3]
	}
	flags := serveCommand().Flags()
	c := defaults()
	var walk func(prefix string, v reflect.Value)
	walk = func(prefix string, v reflect.Value) {
		for field, value := range v.Fields() {
			key := prefix + field.Tag.Get("yaml")
			if value.Kind() == reflect.Struct {
				walk(key+".", value)
				continue
			}
			row, ok := documented[key]
			delete(documented, key)
			if !ok {
				t.Errorf("docs/configuration.md says nothing about %s", key)
				continue
			}
			usual := fmt.Sprint(value.Interface())
			if value.IsZero() {
				usual = ""
			} else if d, ok := value.Interface().(time.Duration); ok {
				usual = strings.TrimSuffix(strings.TrimSuffix(d.String(), "0s"), "0m")
			}
			if row[1] != usual {
				t.Errorf("the default of %s is %q, not %q", key, usual, row[1])
			}
			flag := strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(strings.ReplaceAll(key, ".", "-"), "$1-$2"))
			if flags.Lookup(flag) == nil {
				flag = ""
			} else {
				flag = "--" + flag
			}
			if row[0] != flag {
				t.Errorf("the flag of %s is %q, not %q", key, flag, row[0])
			}
		}
	}
	walk("", reflect.ValueOf(*c))
	for key := range documented {
		t.Errorf("docs/configuration.md has %s, which does not exist", key)
	}
}

func TestAnAuthorityElsewhereIsAskedOnlyAsItWasAgreed(t *testing.T) {
	const whole = "tls:\n  acme:\n    directory: https://ca.example/dir\n    agree: true\n"
	if _, err := configured(t, whole); err != nil {
		t.Error(err)
	}
	for _, text := range []string{
		"tls: {acme: {directory: https://ca.example/dir}}",
		"tls: {acme: {agree: true}}",
		"tls: {acme: {directory: http://ca.example/dir, agree: true}}",
		"tls: {acme: {directory: https://u:p@ca.example/dir, agree: true}}",
		"tls: {acme: {directory: ca.example, agree: true}}",
		whole + "    binding: {id: a}\n",
		whole + "  certificate: a\n  key: b\n",
	} {
		if _, err := configured(t, text); err == nil {
			t.Errorf("%s: accepted", text)
		}
	}
}

func TestTheHardenedProfileRefusesWhatItsOperatorWouldRegret(t *testing.T) {
	const whole = "profile: hardened\nlisten: 192.0.2.1:8443\nlisteners: [{name: inner, address: \"%eth1:8443\"}, {name: socket, address: \"unix:/run/s\"}]\nproxies: {forwarded: [10.0.0.0/8]}\n"
	c, err := configured(t, whole)
	if err != nil || !c.tls13() {
		t.Fatalf("%v, %v", c, err)
	}
	if _, err := configured(t, "profile: hardened\n"); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	for text, says := range map[string]string{
		"profile: paranoid\n":                                          "profile: hardened",
		"profile: hardened\nlisten: :8443\n":                           "listen:",
		"profile: hardened\nlisten: 0.0.0.0:8443\n":                    "listen:",
		"profile: hardened\nlisten: \"[::]:8443\"\n":                   "listen:",
		"profile: hardened\nlisten: \"[::ffff:0.0.0.0]:8443\"\n":       "listen:",
		"profile: hardened\nlisten: 0:8443\n":                          "listen:",
		"profile: hardened\nops: 0.0.0.0:8444\n":                       "ops:",
		"profile: hardened\nlisteners: [{name: a, address: \":1\"}]\n": "a:",
		"profile: hardened\ntls: {minimum: \"1.2\"}\n":                 "tls.minimum",
		"profile: hardened\nproxies: {forwarded: [0.0.0.0/0]}\n":       "proxies:",
		"profile: hardened\nproxies: {protocol: [128.0.0.0/1]}\n":      "proxies:",
		"profile: hardened\nproxies: {forwarded: [\"::/0\"]}\n":        "proxies:",
		"profile: hardened\nmanagedIdentity: {listen: \"127.0.0.1:1\", identities: [/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/a]}\n": "managedIdentity:",
	} {
		if _, err := configured(t, text); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
		if without := strings.Replace(text, "profile: hardened\n", "", 1); without != text {
			if _, err := configured(t, without); err != nil {
				t.Errorf("%q, without the profile: %v", without, err)
			}
		}
	}
}

func TestSourcesAreForWhatTheServerConnectsFor(t *testing.T) {
	c, err := configured(t, "egress: {sources: {database: 10.0.0.5, key: eth1, peer: \"10.0.0.5%eth1\"}}\n")
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[network.Purpose]string{network.ForDatabase: "10.0.0.5", network.ForKey: "eth1", network.ForPeer: "10.0.0.5%eth1"} {
		if got := c.Egress.Sources[p]; got.String() != want {
			t.Errorf("%s leaves by %v, want %s", p, got, want)
		}
	}
	for text, says := range map[string]string{
		"egress: {sources: {databse: eth1}}":              `"databse"`,
		"egress: {sources: {database: 10.0.0.0/8}}":       "10.0.0.0/8",
		"egress: {sources: {database: 0.0.0.0}}":          "0.0.0.0",
		"egress: {sources: {database: \"fe80::1\"}}":      "fe80::1",
		"egress: {sources: {database: \"\"}}":             "ADDRESS",
		"egress: {sources: {database: averylongname12}}":  "",
		"egress: {sources: {database: averylongname123}}": "averylongname123",
	} {
		if _, err := configured(t, text); (err != nil) != (says != "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
