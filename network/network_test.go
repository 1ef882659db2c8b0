package network

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/transit"
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
				o := Proxies(nil).Origin(transit.Arrival{}, nil)
				if address != "-" {
					o = Proxies(nil).Origin(transit.Arrival{From: netip.AddrPortFrom(netip.MustParseAddr(address), 1)}, nil)
				}
				if got := a.Decide(o, nil).Allowed; got != want {
					t.Errorf("%s: %s allowed: %v", row.settings, address, got)
				}
				if err := Refused(o); fault.Of(err) != fault.NetworkDenied || address != "-" && !strings.Contains(err.Error(), o.Addr.String()) {
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
		{"10.0.0.1:1000", []string{"127.0.0.1"}, "10.0.0.1"}, // its machine, not ours
		{"10.0.0.1:1000", []string{"::1"}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"::ffff:127.0.0.1"}, "10.0.0.1"},
		{"10.0.0.1:1000", []string{"127.0.0.1, 198.51.100.1"}, "198.51.100.1"},
	} {
		got := listed.Origin(transit.Arrival{From: netip.MustParseAddrPort(row.remote), Listener: "main"}, http.Header{"X-Forwarded-For": row.lines})
		if got.Addr.String() != row.want || got.Listener != "main" {
			t.Errorf("%s %q: %v, want %s", row.remote, row.lines, got, row.want)
		}
	}
	others := http.Header{"Forwarded": {"for=192.0.2.1"}, "X-Real-Ip": {"192.0.2.1"}, "X-Client-Ip": {"192.0.2.1"}}
	if got := listed.Origin(transit.Arrival{From: netip.MustParseAddrPort("10.0.0.1:1")}, others); got.String() != "10.0.0.1" {
		t.Errorf("another header was believed: %v", got)
	}
	if got := (Proxies)(nil).Origin(transit.Arrival{From: netip.MustParseAddrPort("10.0.0.1:1")}, http.Header{"X-Forwarded-For": {"192.0.2.1"}}); got.String() != "10.0.0.1" {
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
		got := listed.Origin(transit.Arrival{From: netip.MustParseAddrPort("10.0.0.1:1")}, http.Header{"X-Forwarded-For": lines})
		if got.Addr != netip.MustParseAddr("198.51.100.1") {
			t.Fatalf("%q made the origin %v", forged, got)
		}
		if got := listed.Origin(transit.Arrival{From: netip.MustParseAddrPort("10.0.0.1:1")}, http.Header{"X-Forwarded-For": {forged}}); !got.Addr.IsValid() || got.Addr.Zone() != "" || got.Addr.Is4In6() {
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

// What the door pays for the networks of a registry, however many rules it has
// (CI runs the numbers of docs/operations.md with it).
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{0, 8, 200, MaxRules} {
		for _, way := range []string{"allowed", "refused"} {
			b.Run(fmt.Sprintf("rules=%d/%s", n, way), func(b *testing.B) {
				a := Access{RuleSet: RuleSet{DefaultAction: Deny}}
				for i := range n {
					a.RuleSet.IPRules = append(a.RuleSet.IPRules, rule(b, fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255)))
				}
				a.Compile()
				o := Origin{Addr: netip.MustParseAddr("203.0.113.1"), Listener: "registry"}
				if way == "allowed" {
					if n == 0 {
						b.Skip()
					}
					o.Addr = a.RuleSet.IPRules[n-1].Value.Addr()
				}
				for b.Loop() {
					if got := a.Decide(o, nil).Allowed; got != (way == "allowed") {
						b.Fatal(got)
					}
				}
			})
		}
	}
}

func rule(t testing.TB, value string) IPRule {
	n, err := ParseNetwork(value)
	if err != nil {
		t.Fatal(err)
	}
	return IPRule{Allow, n}
}

// Every combination of what the rules can say and where a request can come from is
// decided as the table of azure-baseline §6.7 has it, which is written here a second
// time: as what must hold, and not as an order of questions.
func TestTheOrderOfEvaluation(t *testing.T) {
	const here, other = ref.ID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/here"), ref.ID("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/other")
	connection := func(id ref.ID, status string) PrivateEndpointConnection {
		return PrivateEndpointConnection{Name: "c", PrivateEndpoint: Endpoint{id}, State: LinkState{Status: status}}
	}
	subnet := []VirtualNetworkRule{{Allow, "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/breakwater/subnets/inner"}}
	n := 0
	for _, public := range []string{"", Enabled, Disabled, "disabled", "?"} {
		for _, action := range []string{"", Allow, Deny, "allow"} {
			for _, rules := range []string{"", "203.0.113.0/24", "many"} {
				for _, subnets := range [][]VirtualNetworkRule{nil, subnet} {
					for _, bypass := range []string{"", AzureServices, None} {
						for _, trusted := range [][]string{nil, {"11111111-1111-4111-8111-111111111111"}} {
							for _, listeners := range [][]string{nil, {"inner"}, {"registry"}} {
								a := Access{PublicNetworkAccess: public, BypassOptions: bypass, TrustedServices: trusted, Listeners: listeners,
									RuleSet: RuleSet{DefaultAction: action, VirtualNetworkRules: subnets}}
								switch rules {
								case "many":
									for i := range 20 {
										a.RuleSet.IPRules = append(a.RuleSet.IPRules, rule(t, fmt.Sprintf("10.0.%d.0/24", i)))
									}
									a.RuleSet.IPRules = append(a.RuleSet.IPRules, rule(t, "203.0.113.9"))
								case "":
								default:
									a.RuleSet.IPRules = []IPRule{rule(t, rules)}
								}
								a.Compile()
								for _, endpoint := range []ref.ID{"", here, other} {
									for _, status := range []string{"", Pending, Approved, Rejected, Disconnected} {
										for _, address := range []string{"203.0.113.9", "198.51.100.1", ""} {
											for _, told := range []bool{false, true} {
												for _, listener := range []string{"registry", "inner", ""} {
													o := Origin{Endpoint: endpoint, Listener: listener, Told: told}
													if address != "" {
														o.Addr = netip.MustParseAddr(address)
													}
													var c []PrivateEndpointConnection
													if status != "" {
														c = append(c, connection(here, status))
													}
													private := endpoint != ""
													approved := endpoint == here && status == Approved
													served := listeners == nil || listeners[0] == listener
													isPublic := public == "" || public == Enabled
													named := rules != "" && address == "203.0.113.9" && !told || subnets != nil && listener == "inner"
													open := action == "" || action == Allow
													allowed := private && approved || !private && served && isPublic && (named || open)
													bypassed := !private && served && isPublic && !named && !open && bypass != None && trusted != nil
													got, steps := a.Explain(o, c)
													if got.Allowed != allowed || got.Bypass != bypassed {
														t.Fatalf("%+v from %+v with %+v: %+v", a, o, c, got)
													}
													if plain := a.Decide(o, c); plain.Allowed != allowed || plain.Bypass != bypassed || plain.Reason != got.Reason {
														t.Fatalf("decided %+v, explained %+v", plain, got)
													}
													if last := steps[len(steps)-1]; last.Outcome != outcome(got) || last.Rule != got.Rule {
														t.Fatalf("%+v is explained by %+v", got, steps)
													}
													n++
												}
											}
										}
									}
								}
							}
						}
					}
				}
			}
		}
	}
	t.Log(n, "combinations")
}

// A list of rules that was replaced is not decided by the trie of the one before.
func TestReplacedRulesCountAtOnce(t *testing.T) {
	a := Access{RuleSet: RuleSet{DefaultAction: Deny}}
	for i := range 100 {
		a.RuleSet.IPRules = append(a.RuleSet.IPRules, rule(t, fmt.Sprintf("10.0.%d.0/24", i)))
	}
	a.Compile()
	o := Origin{Addr: netip.MustParseAddr("10.0.7.1")}
	if !a.Decide(o, nil).Allowed {
		t.Fatal("the rule was not found")
	}
	changed := a
	changed.RuleSet.IPRules = []IPRule{rule(t, "192.0.2.0/24")}
	if changed.Decide(o, nil).Allowed {
		t.Fatal("the trie of other rules has let somebody in")
	}
}

// The trie finds what looking through the rules finds: the longest prefix.
func FuzzTrieIsTheRules(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 0, 0, 0, 24}, []byte{10, 0, 0, 9})
	f.Add([]byte{0, 0, 0, 0, 0, 255, 255, 255, 255, 32}, []byte{1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, rules, address []byte) {
		a := Access{RuleSet: RuleSet{DefaultAction: Deny}}
		for ; len(rules) >= 5; rules = rules[5:] {
			addr := netip.AddrFrom4([4]byte(rules[:4]))
			bits := int(rules[4]) % 33
			if rules[4]&64 != 0 {
				b := [16]byte{0x20, 0x01, 0x0d, 0xb8, rules[0], rules[1], rules[2], rules[3]}
				addr, bits = netip.AddrFrom16(b), int(rules[4])%129
			}
			a.RuleSet.IPRules = append(a.RuleSet.IPRules, IPRule{Allow, Network{netip.PrefixFrom(addr, bits).Masked()}})
		}
		for range few + 1 { // enough for a trie
			a.RuleSet.IPRules = append(a.RuleSet.IPRules, rule(t, "192.0.2.1"))
		}
		if len(address) < 4 {
			return
		}
		o := Origin{Addr: netip.AddrFrom4([4]byte(address[:4]))}
		if len(address) >= 8 {
			o.Addr = netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, address[4], address[5], address[6], address[7]})
		}
		slow, _ := a.Explain(o, nil)
		a.Compile()
		if quick, _ := a.Explain(o, nil); quick != slow {
			t.Fatalf("%v: %+v by the trie, %+v without", o, quick, slow)
		}
	})
}

func FuzzVirtualNetworkRule(f *testing.F) {
	f.Add("/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/breakwater/subnets/inner")
	f.Add("/virtualNetworks/breakwater/subnets/x/virtualNetworks/other/subnets/inner")
	f.Fuzz(func(t *testing.T, id string) {
		if name := (VirtualNetworkRule{ID: id}).Listener(); name != "" && (!ListenerName(name) || !strings.HasSuffix(strings.ToLower(id), "/virtualnetworks/breakwater/subnets/"+name)) {
			t.Fatalf("%q means the listener %q", id, name)
		}
	})
}

func TestAnAgentThatTellsManyAddressesIsOneCaller(t *testing.T) {
	a, b := Fingerprint("aa").Endpoint(), Fingerprint("bb").Endpoint()
	seen := map[netip.Addr]int{}
	for _, o := range []Origin{
		{Addr: netip.MustParseAddr("192.0.2.1"), Endpoint: a, Told: true}, {Addr: netip.MustParseAddr("2001:db8::1"), Endpoint: a, Told: true}, {Endpoint: a, Told: true},
		{Addr: netip.MustParseAddr("192.0.2.1"), Endpoint: b, Told: true}, {Addr: netip.MustParseAddr("192.0.2.1"), Endpoint: b}, {Addr: netip.MustParseAddr("192.0.2.1")},
	} {
		p, _ := o.Counted().Prefix(min(64, o.Counted().BitLen()))
		seen[p.Addr()]++
	}
	if len(seen) != 3 || seen[netip.MustParseAddr("192.0.2.1")] != 2 {
		t.Errorf("%v", seen)
	}
}

// For the control plane the machine is who it is for security rules: whoever was given
// another address of the loopback is asked like everybody.
func TestTheMachineIsOneForEveryRule(t *testing.T) {
	closed := ControlPlane{DefaultAction: Deny}
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "127.0.0.2": false, "127.255.255.254": false, "203.0.113.9": false} {
		o := Origin{Addr: netip.MustParseAddr(address)}
		f := transit.Flow{Arrival: transit.Arrival{From: netip.AddrPortFrom(o.Addr, 1)}, Peer: o.Addr}
		if v := closed.Decide(o); v.Allowed != want || f.FromMachine() != want {
			t.Errorf("%s: control plane %v, security rules %v; want %v", address, v.Allowed, f.FromMachine(), want)
		}
		o.Told = true
		if closed.Decide(o).Allowed {
			t.Errorf("%s is believed from who only tells it", address)
		}
	}
}
