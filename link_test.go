package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestALinksKeyIsMadeOnceAndIsItsOwnersAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "link.key")
	fingerprint := func(status int) string {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(t.Context(), []string{"link", "fingerprint", "--key", path}, &out, &errs); got != status {
			t.Fatalf("%d: %s", got, errs.String())
		}
		return out.String() + errs.String()
	}
	first := fingerprint(success)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || len(first) != 65 || fingerprint(success) != first {
		t.Errorf("%v, %v, %q", info.Mode(), err, first)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("%v", left)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if text := fingerprint(failure); !strings.Contains(text, "chmod 600") {
			t.Error(text)
		}
	}
	for _, text := range []string{"", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(path, 0o600)
		if said := fingerprint(failure); strings.Contains(said, "AAAA") || strings.Contains(said, "xxx") {
			t.Error(said)
		}
	}
	path = filepath.Join(dir, "nowhere", "link.key")
	fingerprint(failure)
}

func TestALinkIsToldWhatItNeeds(t *testing.T) {
	key := filepath.Join(t.TempDir(), "link.key")
	for _, args := range []string{
		"--listen localhost:1", "--server example.com:1", "--server example.com --listen localhost:1",
		"--server example.com:1 --listen nowhere", "--server example.com:1 --listen localhost:1 --name UPPER",
		"--server example.com:1 --listen localhost:1 --log-level loud", "--server example.com:1 --listen localhost:1 more",
	} {
		var out, errs bytes.Buffer
		if got := run(t.Context(), append(strings.Fields("link --key "+key), strings.Fields(args)...), &out, &errs); got != misuse {
			t.Errorf("%s ended with %d: %s", args, got, errs.String())
		}
	}
	if _, err := os.Stat(key); err == nil {
		t.Error("a command that was not understood made a key")
	}
	for _, file := range []string{"link: {known: true}", "link: {listen: example.com}", "link: {listen: \"unix:/run/x\"}", "link: {listen: \"a%:1\"}"} {
		if _, err := configured(t, file); err == nil || !strings.Contains(err.Error(), "link") {
			t.Errorf("%s: %v", file, err)
		}
	}
	c, err := configured(t, "link: {listen: \"192.0.2.7:8444\", known: true}")
	if err != nil || !c.Link.Known || !strings.Contains(strings.Join(c.names(), " "), "192.0.2.7") {
		t.Errorf("%v, %v", err, c)
	}
}

func TestTheNamesOfAPrivateEndpointAreAzures(t *testing.T) {
	members := []string{"registry", "registry_data_westeurope"}
	shop := dnsName{Member: "registry", Name: "shop1.example.com", CNAME: "shop1.privatelink.example.com", Zone: "privatelink.example.com"}
	blobs := dnsName{Member: "registry_data_westeurope", Name: "shop1.westeurope.data.example.com", CNAME: "shop1.westeurope.data.privatelink.example.com", Zone: "privatelink.example.com"}
	for _, test := range []struct {
		data []string
		want []dnsName
	}{
		{nil, []dnsName{shop}},
		{[]string{"shop1.example.com:8443"}, []dnsName{shop}}, // content comes from the login server
		{[]string{"shop1.westeurope.data.example.com:8443"}, []dnsName{shop, blobs}},
	} {
		if got := privateDNS("shop1.example.com:8443", test.data, members); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%v: %+v", test.data, got)
		}
	}
	for form, want := range map[string]string{
		"hosts": "2001:db8::7 shop1.example.com shop1.privatelink.example.com\n",
		"zone":  "shop1.example.com. 300 IN CNAME shop1.privatelink.example.com.\nshop1.privatelink.example.com. 300 IN AAAA 2001:db8::7\n",
	} {
		var out bytes.Buffer
		if err := printDNS(&out, &output{chosen: form}, []dnsName{shop}, netip.MustParseAddr("2001:db8::7")); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v", form, out.String(), err)
		}
	}
}
