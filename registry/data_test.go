package registry

import (
	"strings"
	"testing"
)

func TestADataEndpointHasANameOfItsOwn(t *testing.T) {
	for host, want := range map[string]dataName{
		"shop1.westeurope.data.example.com":                 {"shop1", "westeurope"},
		"Shop1.WestEurope.Data.Example.com.":                {"shop1", "westeurope"},
		"shop1.westeurope.data.example.com:8443":            {"shop1", "westeurope"},
		"shop1.eu-1.data.privatelink.example.com":           {"shop1", "eu-1"},
		"shop1.westeurope.data.privatelink.example.com:443": {"shop1", "westeurope"},
		"privatelink.data.data.example.com":                 {"privatelink", "data"},
		"shop1.example.com":                                 {},
		"shop1.privatelink.example.com":                     {},
		"shop1.data.example.com":                            {},
		"data.example.com":                                  {},
		"westeurope.data.example.com":                       {},
		"shop1..data.example.com":                           {},
		".westeurope.data.example.com":                      {},
		"shop1.west.europe.data.example.com":                {},
		"x.shop1.westeurope.data.example.com":               {},
		"shop1.westeurope.privatelink.data.example.com":     {},
		"shop1.-x.data.example.com":                         {},
		"shop1.x-.data.example.com":                         {},
		"shop_1.westeurope.data.example.com":                {},
		"shop1.westeurope.data.example.com.evil.org":        {},
		"shop1.westeurope.data.evilexample.com":             {},
		"shop1.westeurope.data.":                            {},
		"":                                                  {},
		"127.0.0.1":                                         {},
	} {
		got, ok := parseData(host, "example.com:8443")
		if ok != (want != dataName{}) || ok && got != want {
			t.Errorf("%s: %+v, %t", host, got, ok)
		}
		if _, ok := parseData(host, ""); ok {
			t.Errorf("%s is a data endpoint where there is no domain", host)
		}
	}
}

// What is read as a name is the name that is made of it, and no login server's.
func FuzzDataHost(f *testing.F) {
	for _, seed := range []string{"shop1.westeurope.data.example.com", "shop1.example.com", "shop1.a.data.privatelink.example.com:1", ".data.example.com", "\xff.a.data.example.com"} {
		f.Add(seed)
	}
	s := New(Options{Domain: "example.com", Default: "breakwater"})
	f.Fuzz(func(t *testing.T, host string) {
		n, ok := parseData(host, "example.com")
		if !ok {
			return
		}
		if made := dataHost(n.name, n.location, "example.com"); made != bare(host) && dataHost(n.name, n.location, PrivateLink+".example.com") != bare(host) {
			t.Errorf("%q is read as %q", host, made)
		}
		if name, _ := s.name(host); validName(name) || strings.ContainsAny(n.name+n.location, ".:") {
			t.Errorf("%q is the login server %q too", host, name)
		}
	})
}
