package network

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"breakwater/fault"
)

func TestOriginsThatMayKnock(t *testing.T) {
	for _, row := range []struct {
		settings string
		allowed  string
		refused  string
	}{
		{`{}`, "203.0.113.9 10.0.0.1 2001:db8::1 -", ""},
		{`{"publicNetworkAccess":"Enabled"}`, "203.0.113.9 -", ""},
		{`{"publicNetworkAccess":"Disabled"}`, "", "203.0.113.9 127.0.0.1 -"},
		{`{"publicNetworkAccess":"disabled"}`, "", "203.0.113.9"}, // a word that nobody defined opens nothing
		{`{"networkRuleSet":{"defaultAction":"Deny"}}`, "", "203.0.113.9 127.0.0.1 -"},
		{`{"networkRuleSet":{"defaultAction":"deny"}}`, "", "203.0.113.9"},
		{`{"networkRuleSet":{"defaultAction":"Deny","ipRules":[{"action":"Allow","value":"203.0.113.9"}]}}`, "203.0.113.9 ::ffff:203.0.113.9", "203.0.113.8 ::203.0.113.9 -"},
		{`{"networkRuleSet":{"defaultAction":"Deny","ipRules":[{"value":"203.0.113.0/24"},{"action":"Allow","value":"2001:db8::/32"}]}}`, "203.0.113.255 2001:db8:ffff::1", "203.0.114.0 2001:db9::1"},
		{`{"networkRuleSet":{"defaultAction":"Deny","ipRules":[{"action":"Deny","value":"203.0.113.9"}]}}`, "", "203.0.113.9"},
		{`{"publicNetworkAccess":"Disabled","networkRuleSet":{"ipRules":[{"value":"203.0.113.9"}]}}`, "", "203.0.113.9"},
	} {
		var a Access
		if err := json.Unmarshal([]byte(row.settings), &a); err != nil {
			t.Fatal(row.settings, err)
		}
		for word, want := range map[string]bool{row.allowed: true, row.refused: false} {
			for _, address := range strings.Fields(word) {
				o := Proxies(nil).Origin(netip.AddrPort{}, nil, "")
				if address != "-" {
					o = Proxies(nil).Origin(netip.AddrPortFrom(netip.MustParseAddr(address), 1), nil, "")
				}
				err := a.Allow(o)
				if (err == nil) != want {
					t.Errorf("%s: %s allowed: %v", row.settings, address, err == nil)
				}
				if err != nil && (fault.Of(err) != fault.NetworkDenied || address != "-" && !strings.Contains(err.Error(), o.Addr.String())) {
					t.Errorf("a refusal says who was refused: %v", err)
				}
			}
		}
	}
}

func TestSettingsThatAreNotCertainAreRefused(t *testing.T) {
	for _, settings := range []string{
		`{"publicNetworkAccess":"disabled"}`,
		`{"networkRuleSet":{"defaultAction":"Maybe"}}`,
		`{"networkRuleSet":{"ipRules":[{"action":"Deny","value":"203.0.113.9"}]}}`,
		`{"networkRuleSet":{"ipRules":[{"action":"Allow"}]}}`,
		`{"networkRuleSet":{"ipRules":[{"value":"203.0.113.0/33"}]}}`,
		`{"networkRuleSet":{"ipRules":[{"value":"example.com"}]}}`,
		`{"networkRuleSet":{"ipRules":[{"value":"fe80::1%eth0"}]}}`,
		`{"networkRuleSet":{"ipRules":[` + strings.Repeat(`{"value":"203.0.113.9"},`, MaxRules) + `{"value":"203.0.113.9"}]}}`,
	} {
		var a Access
		err := json.Unmarshal([]byte(settings), &a)
		if err == nil {
			err = a.Check()
		}
		if fault.Of(err) != fault.BadRequest {
			t.Errorf("%.80s: %v", settings, err)
		}
	}
}

func TestSettingsComeBackAsTheyAreMeant(t *testing.T) {
	const settings = `{"publicNetworkAccess":"Enabled","networkRuleSet":{"defaultAction":"Deny","ipRules":[{"action":"Allow","value":"203.0.113.9"},{"action":"Allow","value":"198.51.100.77/24"}]}}`
	var a Access
	if err := json.Unmarshal([]byte(settings), &a); err != nil {
		t.Fatal(err)
	}
	if err := a.Check(); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(settings, ".77/24", ".0/24", 1); string(got) != want {
		t.Errorf("got %s", got)
	}
}

func TestForwardedHeaderIsBelievedOnlyFromListedProxies(t *testing.T) {
	listed := proxies(t, "10.0.0.0/8", "2001:db8:1::/48")
	for _, row := range []struct {
		remote string
		lines  []string
		want   string
	}{
		{"203.0.113.9:1000", nil, "203.0.113.9"},
		{"[::ffff:203.0.113.9]:1000", nil, "203.0.113.9"},
		{"[fe80::1%eth0]:1000", nil, "fe80::1"},
		{"203.0.113.9:1000", []string{"198.51.100.1"}, "203.0.113.9"},
		{"10.0.0.1:1000", nil, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"198.51.100.1"}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"192.0.2.66, 198.51.100.1"}, "198.51.100.1"}, // what the client wrote itself
		{"10.0.0.1:1000", []string{"198.51.100.1, 10.0.0.2"}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"192.0.2.66", "198.51.100.1,10.0.0.2", " 10.0.0.3 "}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"10.0.0.3, 10.0.0.2"}, "10.0.0.3"},
		{"10.0.0.1:1000", []string{"198.51.100.1, unknown"}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"198.51.100.1, unknown, 10.0.0.2"}, "10.0.0.2"},
		{"10.0.0.1:1000", []string{"198.51.100.1,"}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"198.51.100.1:4711"}, "198.51.100.1"},
		{"10.0.0.1:1000", []string{"[2001:db8::1]:4711"}, "2001:db8::1"},
		{"10.0.0.1:1000", []string{"[2001:db8::1]"}, "2001:db8::1"},
		{"10.0.0.1:1000", []string{"[198.51.100.1]"}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		{"[2001:db8:1::9]:1000", []string{"2001:db8::1"}, "2001:db8::1"},
	} {
		got := listed.Origin(netip.MustParseAddrPort(row.remote), http.Header{"X-Forwarded-For": row.lines}, "main")
		if got.Addr.String() != row.want || got.Listener != "main" {
			t.Errorf("%s %q: %v, want %s", row.remote, row.lines, got, row.want)
		}
	}
	others := http.Header{"Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}, "X-Client-Ip": {"192.0.2.1"}}
	if got := listed.Origin(netip.MustParseAddrPort("10.0.0.1:1"), others, ""); got.String() != "10.0.0.1" {
		t.Errorf("another header was believed: %v", got)
	}
	if got := (Proxies)(nil).Origin(netip.MustParseAddrPort("10.0.0.1:1"), http.Header{"X-Forwarded-For": {"192.0.2.1"}}, ""); got.String() != "10.0.0.1" {
		t.Errorf("no proxy is listed, and one was believed: %v", got)
	}
}

func proxies(t testing.TB, networks ...string) (p Proxies) {
	for _, s := range networks {
		n, err := ParseNetwork(s)
		if err != nil {
			t.Fatal(err)
		}
		p = append(p, n)
	}
	return p
}

// A client behind one listed proxy writes what it likes; the proxy appends the
// address that it sees. No text moves the origin away from that address.
func FuzzForwardedHeaderCannotBeForged(f *testing.F) {
	listed := proxies(f, "10.0.0.0/8")
	for _, s := range []string{"", "192.0.2.1", "192.0.2.1, 10.1.1.1", "[::1]:80", "a,b,c", ",,,", "10.0.0.1", "[", "%", "::ffff:10.0.0.1%eth0"} {
		f.Add(s, false)
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, forged string, own bool) {
		lines := []string{forged + ", 198.51.100.1"}
		if own {
			lines = []string{forged, "198.51.100.1"}
		}
		got := listed.Origin(netip.MustParseAddrPort("10.0.0.1:1"), http.Header{"X-Forwarded-For": lines}, "")
		if got.Addr != netip.MustParseAddr("198.51.100.1") {
			t.Fatalf("%q made the origin %v", forged, got)
		}
		if got := listed.Origin(netip.MustParseAddrPort("10.0.0.1:1"), http.Header{"X-Forwarded-For": {forged}}, ""); !got.Addr.IsValid() || got.Addr.Zone() != "" || got.Addr.Is4In6() {
			t.Fatalf("%q made the origin %v", forged, got)
		}
	})
}

func FuzzNetwork(f *testing.F) {
	f.Add("203.0.113.9", "203.0.113.9")
	f.Add("2001:db8::/32", "2001:db8::1")
	f.Add("0.0.0.0/0", "::1")
	f.Fuzz(func(t *testing.T, s, address string) {
		n, err := ParseNetwork(s)
		if err != nil {
			return
		}
		again, err := ParseNetwork(n.String())
		if err != nil || again != n {
			t.Fatalf("%q was read as %v and then as %v, %v", s, n, again, err)
		}
		if a, err := netip.ParseAddr(address); err == nil && n.Contains(plain(a)) && n.Addr().BitLen() != plain(a).BitLen() {
			t.Fatalf("%v contains %v", n, a)
		}
	})
}

func BenchmarkAllow(b *testing.B) {
	a := Access{RuleSet: RuleSet{DefaultAction: Deny}}
	for i := range MaxRules {
		n, _ := ParseNetwork(fmt.Sprintf("198.51.%d.0/24", i))
		a.RuleSet.IPRules = append(a.RuleSet.IPRules, IPRule{Allow, n})
	}
	slices.Reverse(a.RuleSet.IPRules)
	o := Origin{Addr: netip.MustParseAddr("198.51.0.1")}
	for b.Loop() {
		if err := a.Allow(o); err != nil {
			b.Fatal(err)
		}
	}
}
