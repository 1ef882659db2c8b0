package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/transit"
)

// rulesOf are rules as their documents have them: "NAME {properties}".
func rulesOf(t testing.TB, groups map[string]IPGroup, documents ...string) (*Rules, error) {
	t.Helper()
	var rules []NamedRule
	for _, d := range documents {
		name, text, _ := strings.Cut(d, " ")
		r := NamedRule{Name: name}
		if err := json.Unmarshal([]byte(text), &r.SecurityRule); err != nil {
			t.Fatal(d, err)
		}
		rules = append(rules, r)
	}
	return Compile(rules, groups, FlowLog{})
}

func mustRules(t testing.TB, groups map[string]IPGroup, documents ...string) *Rules {
	t.Helper()
	r, err := rulesOf(t, groups, documents...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestTheRuleWithTheLowestPriorityDecides(t *testing.T) {
	office := map[string]IPGroup{"Office": {IPAddresses: []Network{rule(t, "198.51.100.0/24").Value, rule(t, "2001:db8::/32").Value}}, "nobody": {}}
	r := mustRules(t, office,
		`deny-office {"priority":300,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"office"}`,
		`allow-desk {"priority":200,"direction":"Inbound","access":"Allow","sourceAddressPrefixes":["198.51.100.7","203.0.113.9"],"destinationPortRange":443}`,
		`deny-inner {"priority":100,"direction":"Inbound","access":"Deny","listeners":["inner"],"destinationPortRanges":["8000-8010","9000"],"sourceAddressPrefix":"Internet"}`,
		`deny-none {"priority":150,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"nobody"}`,
		`deny-low {"priority":160,"direction":"Inbound","access":"Deny","sourcePortRange":"0-99","destinationAddressPrefix":"192.0.2.1"}`,
		`out {"priority":100,"direction":"Outbound","access":"Deny"}`,
	)
	for _, row := range []struct {
		from, to, listener string
		rule               string
	}{
		{"198.51.100.7:1000", "192.0.2.1:443", "registry", "allow-desk"},
		{"[::ffff:198.51.100.7]:1000", "192.0.2.1:443", "registry", "allow-desk"},
		{"198.51.100.7:1000", "192.0.2.1:8443", "registry", "deny-office"},
		{"198.51.100.8:1000", "192.0.2.1:443", "registry", "deny-office"},
		{"[2001:db8::1]:1000", "192.0.2.1:443", "registry", "deny-office"},
		{"198.51.100.7:1000", "192.0.2.1:8000", "inner", "deny-inner"},
		{"198.51.100.7:1000", "192.0.2.1:8010", "inner", "deny-inner"},
		{"203.0.113.1:1000", "192.0.2.1:9000", "inner", "deny-inner"},
		{"203.0.113.1:1000", "192.0.2.1:8011", "inner", AllowAllInBound},
		{"10.0.0.1:1000", "192.0.2.1:9000", "inner", AllowAllInBound},
		{"203.0.113.1:1000", "192.0.2.1:9000", "registry", AllowAllInBound},
		{"203.0.113.1:99", "192.0.2.1:1", "registry", "deny-low"},
		{"203.0.113.1:99", "192.0.2.2:1", "registry", AllowAllInBound},
		{"", "", "socket", AllowAllInBound},
	} {
		f := Flow{Direction: Inbound, Listener: row.listener}
		if row.from != "" {
			f.Source, f.Destination = netip.MustParseAddrPort(row.from), netip.MustParseAddrPort(row.to)
		}
		got, decided, steps := r.Explain(f)
		if !decided || got.Rule != called(row.rule) || got.Allowed == strings.HasPrefix(row.rule, "deny") {
			t.Errorf("%+v: %+v", row, got)
		}
		if again, _ := r.Decide(f); again != got || steps[len(steps)-1].Rule != got.Rule {
			t.Errorf("%+v: decided %+v, explained %+v by %+v", row, again, got, steps)
		}
	}
}

// What an agent tells is no address, and the machine is the machine only if nobody says
// so for it.
func TestTheMachineItselfIsNeverKeptOut(t *testing.T) {
	r := mustRules(t, nil, `all {"priority":100,"direction":"Inbound","access":"Deny"}`)
	at := func(from, peer string, told bool) transit.Flow {
		return transit.Flow{Arrival: transit.Arrival{From: netip.AddrPortFrom(netip.MustParseAddr(from), 1), Told: told}, Peer: netip.MustParseAddr(peer)}
	}
	for f, want := range map[transit.Flow]bool{
		at("127.0.0.1", "127.0.0.1", false):        true,
		at("::1", "::1", false):                    true,
		at("::ffff:127.0.0.1", "127.0.0.1", false): true,
		at("127.0.0.2", "127.0.0.2", false):        false,
		at("127.0.0.1", "203.0.113.9", false):      false, // a proxy elsewhere says so
		at("203.0.113.9", "127.0.0.1", false):      false, // a proxy here has a client
		at("127.0.0.1", "127.0.0.1", true):         false,
	} {
		if rule, ok := r.Admits(&f); ok != want {
			t.Errorf("%+v: %s", f, rule)
		}
	}
}

func TestRulesThatAreNotCertainAreRefused(t *testing.T) {
	for document, says := range map[string]string{
		`a {}`: "priority",
		`a {"priority":99,"direction":"Inbound","access":"Deny"}`:                                                                                         "priority",
		`a {"priority":4097,"direction":"Inbound","access":"Deny"}`:                                                                                       "priority",
		`a {"priority":100,"direction":"inbound","access":"Deny"}`:                                                                                        "direction",
		`a {"priority":100,"direction":"Inbound","access":"Block"}`:                                                                                       "access",
		`a {"priority":100,"direction":"Inbound","access":"Deny","protocol":"Udp"}`:                                                                       "protocol",
		`a {"priority":100,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"10.0.0.0/33"}`:                                                    "sourceAddressPrefix",
		`a {"priority":100,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"home"}`:                                                           "no IP group",
		`a {"priority":100,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"*","sourceAddressPrefixes":["*"]}`:                                "not both",
		`a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRange":"443-80"}`:                                                        "destinationPortRange",
		`a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRange":"65536"}`:                                                         "destinationPortRange",
		`a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRange":"-"}`:                                                             "destinationPortRange",
		`a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRanges":[null]}`:                                                         "destinationPortRange",
		`a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRanges":["*","x"]}`:                                                      "destinationPortRange",
		`a {"priority":100,"direction":"Inbound","access":"Deny","listeners":["Registry"]}`:                                                               "listeners",
		`a {"priority":100,"direction":"Inbound","access":"Deny","purposes":["issuer"]}`:                                                                  "outbound",
		`a {"priority":100,"direction":"Outbound","access":"Deny","listeners":["registry"]}`:                                                              "inbound",
		`a {"priority":100,"direction":"Outbound","access":"Deny","purposes":["database"]}`:                                                               "database",
		`a {"priority":100,"direction":"Outbound","access":"Deny","purposes":["fun"]}`:                                                                    "purposes",
		`a {"priority":100,"direction":"Outbound","access":"Deny","sourceAddressPrefix":"10.0.0.1"}`:                                                      "source",
		`a {"priority":100,"direction":"Outbound","access":"Deny","destinationNames":["https://x"]}`:                                                      "destinationNames",
		`a {"priority":100,"direction":"Outbound","access":"Deny","destinationNames":["*"]}`:                                                              "destinationNames",
		`a {"priority":100,"direction":"Outbound","access":"Deny","destinationNames":["10.0.0.1"]}`:                                                       "destinationNames",
		`a {"priority":100,"direction":"Outbound","access":"Deny","description":"` + strings.Repeat("x", 141) + `"}`:                                      "description",
		`a {"priority":100,"direction":"Inbound","access":"Deny","sourceAddressPrefixes":[` + strings.Repeat(`"10.0.0.1",`, MaxPrefixes) + `"10.0.0.1"]}`: "IP group",
	} {
		if _, err := rulesOf(t, nil, document); fault.Of(err) != fault.BadRequest || !strings.Contains(err.Error(), says) {
			t.Errorf("%.120s: %v", document, err)
		}
	}
	null := mustRules(t, nil, `a {"priority":100,"direction":"Inbound","access":"Deny","destinationPortRange":null,"destinationPortRanges":["443"]}`)
	if ports := null.in[0].destination.ports; !slices.Equal(ports, []span{{443, 443}}) {
		t.Errorf("%v", ports)
	}
	if _, err := rulesOf(t, nil, `a {"priority":100,"direction":"Inbound","access":"Deny"}`, `b {"priority":100,"direction":"Inbound","access":"Deny"}`); fault.Of(err) != fault.Conflict {
		t.Error("two rules have one priority:", err)
	}
	mustRules(t, nil, `a {"priority":100,"direction":"Inbound","access":"Deny"}`, `b {"priority":100,"direction":"Outbound","access":"Deny"}`)
	for _, name := range []string{"", "1a", "a b", "internet", "VirtualNetwork", "any", "denyalloutbound", "10.0.0.1", "::1", strings.Repeat("a", 81)} {
		if RuleName(name) == nil {
			t.Errorf("a rule is called %q", name)
		}
	}
}

// Where the way out leads, by rules: what is denied in one spelling is denied in all,
// what is allowed is what a rule names, and a name alone leads nobody inside.
func TestRulesOfTheWayOut(t *testing.T) {
	r := mustRules(t, nil,
		`never-ten {"priority":100,"direction":"Outbound","access":"Deny","destinationAddressPrefix":"10.9.0.0/16"}`,
		`no-keys {"priority":110,"direction":"Outbound","access":"Deny","purposes":["issuer"],"destinationNames":["*.Evil.example"]}`,
		`hooks {"priority":120,"direction":"Outbound","access":"Allow","purposes":["webhook"],"destinationAddressPrefix":"10.1.0.0/16","destinationPortRange":"443"}`,
		`vault {"priority":130,"direction":"Outbound","access":"Allow","purposes":["key"],"destinationNames":["vault.example"]}`,
		`tens {"priority":140,"direction":"Outbound","access":"Allow","purposes":["cache"],"destinationAddressPrefix":"VirtualNetwork"}`,
		`web {"priority":150,"direction":"Outbound","access":"Allow","purposes":["cache"],"destinationAddressPrefix":"Internet"}`,
	)
	for _, row := range []struct {
		purpose          Purpose
		address, to      string
		rule             string
		allowed, decided bool
	}{
		{ForCache, "x.example:443", "10.9.0.1:443", "never-ten", false, true},
		{ForCache, "x.example:443", "[64:ff9b::a09:1]:443", "never-ten", false, true},
		{ForCache, "x.example:443", "10.8.0.1:443", "tens", true, true},
		{ForCache, "x.example:443", "203.0.113.1:443", "web", true, true},
		{ForIssuer, "keys.evil.example:443", "203.0.113.1:443", "no-keys", false, true},
		{ForIssuer, "KEYS.EVIL.example.:443", "203.0.113.1:443", "no-keys", false, true},
		{ForIssuer, "evil.example:443", "203.0.113.1:443", "", false, false},
		{ForIssuer, "notevil.example:443", "203.0.113.1:443", "", false, false},
		{ForWebhook, "hook.example:443", "10.1.2.3:443", "hooks", true, true},
		{ForWebhook, "hook.example:444", "10.1.2.3:444", "", false, false},
		{ForImport, "hook.example:443", "10.1.2.3:443", "", false, false},
		{ForKey, "vault.example:443", "203.0.113.1:443", "vault", true, true},
		{ForKey, "vault.example:443", "10.1.2.3:443", "", false, false}, // somebody's name server says so
		{ForKey, "203.0.113.1:443", "203.0.113.1:443", "", false, false},
	} {
		w := NewEgress(EgressOptions{}).To(row.purpose)
		got, decided := r.Decide(w.flow(row.address, netip.MustParseAddrPort(row.to)))
		if decided != row.decided || got.Allowed != row.allowed || decided && got.Rule != called(row.rule) {
			t.Errorf("%+v: %+v %t", row, got, decided)
		}
	}
}

// A door is a listener of the loopback that says hello.
func openDoor(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	return l.Addr().String()
}

// The way out asks the rules that there are when it connects, and again while bytes
// move; what became of each connection is told once.
func TestTheWayOutAsksTheRules(t *testing.T) {
	address := openDoor(t)
	var mu sync.Mutex
	var ended []Ended
	rules, broken := mustRules(t, nil), error(nil)
	e := NewEgress(EgressOptions{
		Rules: func(context.Context) (*Rules, error) { mu.Lock(); defer mu.Unlock(); return rules, broken },
		Ended: func(f Ended) { mu.Lock(); defer mu.Unlock(); ended = append(ended, f) },
	})
	set := func(documents ...string) {
		r := mustRules(t, nil, documents...)
		mu.Lock()
		defer mu.Unlock()
		rules = r
	}
	last := func() Ended {
		mu.Lock()
		defer mu.Unlock()
		if len(ended) == 0 {
			return Ended{}
		}
		return ended[len(ended)-1]
	}
	dial := func(p Purpose) (net.Conn, string) {
		c, err := e.Dial(t.Context(), p, "tcp", address)
		if r, ok := errors.AsType[*Refusal](err); ok {
			return nil, r.Rule
		} else if err != nil {
			t.Fatal(err)
		}
		return c, ""
	}
	echo := func(c net.Conn) error {
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	const deny = `no {"priority":100,"direction":"Outbound","access":"Deny","purposes":["issuer"]}`
	const allow = `inside {"priority":100,"direction":"Outbound","access":"Allow","purposes":["webhook"],"destinationAddressPrefix":"127.0.0.0/8"}`

	c, _ := dial(ForIssuer) // declared, and the operator's: no rule is needed
	if err := echo(c); err != nil {
		t.Fatal(err)
	}
	set(deny)
	if _, rule := dial(ForIssuer); rule != called("no") {
		t.Errorf("%q, %+v", rule, last())
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := echo(c); err != nil {
			if _, ok := errors.AsType[*Refusal](err); !ok {
				t.Error(err)
			}
			break
		} else if time.Now().After(end) {
			t.Fatal("a connection outlives the rule that denies it")
		}
	}
	if f := last(); !f.Refused || f.Out < 5 || f.In < 5 || f.Purpose != ForIssuer || f.Destination.String() != address {
		t.Errorf("%+v", f)
	}
	if _, rule := dial(ForWebhook); rule != "<inside>" {
		t.Errorf("%q", rule)
	}
	set(allow)
	c, _ = dial(ForWebhook)
	if err := echo(c); err != nil {
		t.Fatal(err)
	}
	c.Close()
	c.Close()
	mu.Lock()
	n := len(ended)
	if f := ended[n-1]; f.Refused || f.Rule != called("inside") || f.In != 5 || f.Out != 5 || f.Source.Addr() != netip.MustParseAddr("127.0.0.1") || n != 2 {
		t.Errorf("%d: %+v", n, f)
	}
	broken = errors.New("no database")
	mu.Unlock()
	if _, rule := dial(ForWebhook); rule != transit.NoLaw {
		t.Errorf("without rules: %q", rule)
	}
	c, rule := dial(ForDatabase) // where the rules are
	if rule != "" {
		t.Fatal(rule)
	}
	c.Close()
}

// A flood of strangers is few events, whatever their addresses are.
func TestAFloodIsFewEvents(t *testing.T) {
	b := &Border{}
	for i := range 200_000 {
		b.Ended(Ended{Flow: Flow{Direction: Inbound, Listener: "registry", Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 1)}, Rule: "r", Refused: true, Start: time.Now()})
	}
	for i := range 10_000 {
		b.Ended(Ended{Flow: Flow{Direction: Inbound, Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 1)}, In: 1, Start: time.Now()})
	}
	now, flows := time.Now(), int64(0)
	first := b.flows.due(now, false)
	for _, s := range first {
		flows += s.count
	}
	if len(first) > 2*flowKinds+flowSingles+10 || flows != 210_000 {
		t.Errorf("%d events tell of %d connections", len(first), flows)
	}
	refused := slices.IndexFunc(first, func(s flowSum) bool { return s.first.Refused })
	b.Ended(first[refused].first)
	if due := b.flows.due(now.Add(time.Second), false); len(due) != 0 {
		t.Errorf("%d events within a minute", len(due))
	}
	if due := b.flows.due(now.Add(flowWindow), false); len(due) != 1 || due[0].count != 1 {
		t.Errorf("after a minute: %+v", due)
	}
	b.flows.due(now.Add(2*flowWindow), false)
	if due := b.flows.due(now.Add(3*flowWindow), false); len(due) != 0 || len(b.flows.sums) != 0 {
		t.Errorf("%d strangers are remembered for ever", len(b.flows.sums))
	}
}

// However many are let in, strangers who are refused are told of one by one.
func TestAcceptedConnectionsHideNoRefusal(t *testing.T) {
	b := &Border{}
	from := func(i int, refused bool) Ended {
		return Ended{Flow: Flow{Direction: Inbound, Source: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1)}, Refused: refused, Start: time.Now()}
	}
	for i := range 2*flowKinds + flowSingles {
		b.Ended(from(i, false))
	}
	b.Ended(from(7, true))
	b.flows.due(time.Now(), false)
	for i := range flowKinds - 1 {
		b.Ended(from(i, true))
	}
	strangers := 0
	for _, s := range b.flows.due(time.Now().Add(flowWindow), false) {
		if s.first.Refused && s.first.kind().from.IsValid() && s.count == 1 {
			strangers++
		}
	}
	if strangers != flowKinds-1 {
		t.Errorf("%d strangers are told of one by one", strangers)
	}
}

// What comes by a link is explained as it is judged: the address is told, and the
// machine is then nobody's word.
func TestALinksAddressExplainsNothing(t *testing.T) {
	r := mustRules(t, nil, `all {"priority":100,"direction":"Inbound","access":"Deny"}`)
	for _, endpoint := range []ref.ID{Fingerprint(strings.Repeat("ab", 32)).Endpoint(), "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/privateEndpoints/e"} {
		link := IsLink(ref.ID(strings.ToUpper(string(endpoint))))
		ruling, _ := r.ExplainInbound(transit.Arrival{Endpoint: endpoint, From: netip.MustParseAddrPort("127.0.0.1:0"), Told: link}, netip.AddrPort{})
		if ruling.Allowed == link {
			t.Errorf("%s: %+v", endpoint, ruling)
		}
	}
}

// Rules cost what one does, however many networks they name.
func BenchmarkRules(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		for _, count := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("%d networks, %d rules", n, count), func(b *testing.B) {
				group := IPGroup{}
				for i := range n {
					group.IPAddresses = append(group.IPAddresses, Network{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)})
				}
				var documents []string
				for i := range count {
					documents = append(documents, fmt.Sprintf(`r%d {"priority":%d,"direction":"Inbound","access":"Deny","sourceAddressPrefix":"g"}`, i, 100+i))
				}
				r := mustRules(b, map[string]IPGroup{"g": group}, documents...)
				f := Flow{Direction: Inbound, Source: netip.MustParseAddrPort("203.0.113.9:1"), Destination: netip.MustParseAddrPort("192.0.2.1:443"), Listener: "registry"}
				b.ReportAllocs()
				for b.Loop() {
					if got, _ := r.Decide(f); !got.Allowed {
						b.Fatal(got)
					}
				}
			})
		}
	}
}

// A compiled side has what its networks have.
func FuzzSideIsItsNetworks(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8}, []byte{10, 1, 2, 3})
	f.Fuzz(func(t *testing.T, networks, address []byte) {
		if len(address) < 4 {
			return
		}
		a := netip.AddrFrom4([4]byte(address[:4]))
		var texts []string
		want := false
		for ; len(networks) >= 5 && len(texts) < 100; networks = networks[5:] {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte(networks[:4])), int(networks[4])%33).Masked()
			texts, want = append(texts, p.String()), want || p.Contains(a)
		}
		if len(texts) == 0 {
			return
		}
		s, err := compileSide("source", "", texts, "", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.has(a) != want || slices.Contains(texts, "0.0.0.0/0") && !s.has(a) {
			t.Fatalf("%v has %v: %t", texts, a, !want)
		}
	})
}
