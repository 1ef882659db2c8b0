package network

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/gaissmai/bart"

	"breakwater/fault"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/transit"
)

// Types of the documents that say which connections may be (NS-1).
const (
	SecurityRuleType = "Breakwater.Network/securityRules"
	IPGroupType      = "Breakwater.Network/ipGroups"
)

// Directions of a connection, as Azure's security rules spell them.
const (
	Inbound  = "Inbound"
	Outbound = "Outbound"
)

// Limits of the rules of a server.
const (
	MaxSecurityRules = 1000 // of both directions, as in one of Azure's groups
	MaxPrefixes      = 1000 // in one rule; an IP group has MaxRules
	MaxIPGroups      = 200

	firstPriority = 100
	lastPriority  = 4096
)

// A SecurityRule allows or denies connections, those that come to the server or those
// that it makes, before anything is said on them. Its properties are those of a rule
// of Azure's network security groups: the rule with the lowest priority that has all
// that a connection is decides. What is left out is anything.
type SecurityRule struct {
	Description string `json:"description,omitempty"`
	Priority    int    `json:"priority"` // 100 to 4096, unique in its direction
	Direction   string `json:"direction"`
	Access      string `json:"access"`             // Allow or Deny
	Protocol    string `json:"protocol,omitempty"` // Tcp, or *: nothing else is spoken here

	// An address is a CIDR, the name of an IP group, *, or one of Azure's tags: Internet,
	// VirtualNetwork (what is not the Internet). A port is 443, 8000-8999 or *.
	SourceAddressPrefix        string   `json:"sourceAddressPrefix,omitempty"`
	SourceAddressPrefixes      []string `json:"sourceAddressPrefixes,omitempty"`
	SourcePortRange            Ports    `json:"sourcePortRange,omitempty"`
	SourcePortRanges           []Ports  `json:"sourcePortRanges,omitempty"`
	DestinationAddressPrefix   string   `json:"destinationAddressPrefix,omitempty"`
	DestinationAddressPrefixes []string `json:"destinationAddressPrefixes,omitempty"`
	DestinationPortRange       Ports    `json:"destinationPortRange,omitempty"`
	DestinationPortRanges      []Ports  `json:"destinationPortRanges,omitempty"`

	Listeners        []string  `json:"listeners,omitempty"`        // of an inbound rule
	Purposes         []Purpose `json:"purposes,omitempty"`         // of an outbound rule
	DestinationNames []string  `json:"destinationNames,omitempty"` // of an outbound rule: host names as they are dialled, or *.example.com
}

// Ports are a port, a range of them or all: 443, 8000-8999, *. Some clients send a
// single one as a number. Nothing (null) is no port.
type Ports string

func (p *Ports) UnmarshalJSON(text []byte) error {
	var n *uint16
	if json.Unmarshal(text, &n) == nil && n != nil {
		*p = Ports(strconv.Itoa(int(*n)))
		return nil
	}
	*p = ""
	return json.Unmarshal(text, (*string)(p))
}

// An IPGroup is networks that rules call by one name.
type IPGroup struct {
	Description string    `json:"description,omitempty"`
	IPAddresses []Network `json:"ipAddresses"`
}

// Check refuses what is not certain.
func (g IPGroup) Check() error {
	if len(g.IPAddresses) > MaxRules || len(g.Description) > 1024 {
		return fault.New(fault.BadRequest, "an IP group has at most %d networks, and a description of 1024 bytes", MaxRules)
	}
	if slices.ContainsFunc(g.IPAddresses, func(n Network) bool { return !n.IsValid() }) {
		return fault.New(fault.BadRequest, "ipAddresses: an IP address or a CIDR such as 203.0.113.0/24")
	}
	return nil
}

// Words that stand for addresses.
const (
	anyone         = "*"
	internet       = "Internet"
	virtualNetwork = "VirtualNetwork"
)

// RuleName refuses names that a rule or an IP group cannot have. A group is named
// where an address can stand, and must not look like one.
func RuleName(name string) error {
	ok := name != "" && len(name) <= 80 && (name[0]|0x20 >= 'a' && name[0]|0x20 <= 'z')
	for i := range len(name) {
		c := name[i]
		ok = ok && (c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	for _, taken := range slices.Concat([]string{internet, virtualNetwork, "Any"}, builtIn()) {
		ok = ok && !strings.EqualFold(name, taken)
	}
	if !ok {
		return fault.New(fault.NameInvalid, "a name has 1 to 80 letters, digits and . _ -, begins with a letter, and is none of the server's own")
	}
	return nil
}

// What decides when no rule does. It is listed with the rules, and cannot be changed.
const (
	AllowAllInBound       = "AllowAllInBound"
	AllowDeclaredOutBound = "AllowDeclaredOutBound"
	DenyAllOutBound       = "DenyAllOutBound"
)

// A NamedRule is a rule and what it is called.
type NamedRule struct {
	Name string
	SecurityRule
}

func builtIn() []string { return []string{AllowAllInBound, AllowDeclaredOutBound, DenyAllOutBound} }

// DefaultRules are those that count after all others.
func DefaultRules() []NamedRule {
	rule := func(name string, priority int, direction, access, why string) NamedRule {
		return NamedRule{name, SecurityRule{Description: why, Priority: priority, Direction: direction, Access: access, Protocol: anyone,
			SourceAddressPrefix: anyone, SourcePortRange: anyone, DestinationAddressPrefix: anyone, DestinationPortRange: anyone}}
	}
	return []NamedRule{
		rule(AllowAllInBound, 65500, Inbound, Allow, "The server listens where it was told to."),
		rule(AllowDeclaredOutBound, 65000, Outbound, Allow, "Destinations that a document or the configuration declares, and of those inside only the operator's. Not in the hardened profile."),
		rule(DenyAllOutBound, 65500, Outbound, Deny, "Nobody else is reached."),
	}
}

// called is how rulings name a rule.
func called(name string) string { return "securityRules/" + name }

// A Flow is a connection, as far as rules look at it. Addresses that nobody knows, or
// that are only told, are invalid.
type Flow struct {
	Direction           string
	Source, Destination netip.AddrPort
	Listener            string  // that it came to
	Purpose             Purpose // that it is made for
	Name                string  // the host that was dialled
	// Machine says that the other end is this machine itself, which is never kept out.
	Machine bool
}

// inbound is what rules look at of a connection that came.
func inbound(f *transit.Flow) Flow {
	flow := Flow{Direction: Inbound, Source: f.From, Destination: f.To, Listener: f.Listener}
	if f.Told { // an address that an agent tells is for the record alone
		flow.Source = netip.AddrPort{}
	}
	flow.Machine = f.FromMachine()
	return flow
}

// Rules are all rules of a server, compiled: what a rule costs does not grow with the
// networks that it names. They do not change.
type Rules struct {
	in, out []law
	Flows   FlowLog // which flows are recorded
}

// A law is a compiled rule.
type law struct {
	name                string // as rulings say it
	priority            int
	allow               bool
	source, destination side
	listeners           []string
	purposes            []Purpose
	names               []string
}

// A side is an end of connections: addresses and ports.
type side struct {
	any, outside, inside bool
	sets                 []*set
	ports                []span // none are all
}

type span struct{ from, to uint16 }

// A set is networks, as a trie if they are many.
type set struct {
	few  []netip.Prefix
	trie *bart.Lite
}

func newSet(networks []Network) *set {
	s := &set{}
	if len(networks) > few {
		s.trie = new(bart.Lite)
	}
	for _, n := range networks {
		if s.trie != nil {
			s.trie.Insert(n.Prefix)
		} else {
			s.few = append(s.few, n.Prefix)
		}
	}
	return s
}

func (s *set) has(a netip.Addr) bool {
	if s.trie != nil {
		return s.trie.Lookup(a)
	}
	return slices.ContainsFunc(s.few, func(p netip.Prefix) bool { return p.Contains(a) })
}

// has reports whether the side has the address, whose meanings may be several.
func (s *side) has(a netip.Addr) bool {
	switch {
	case s.any:
		return true
	case !a.IsValid():
		return false
	case s.inside && inside(a), s.outside && !inside(a):
		return true
	}
	return slices.ContainsFunc(s.sets, func(s *set) bool { return s.has(a) })
}

// reaches is has for where packets go: what is denied in one spelling is denied in
// all, and what is allowed is what the rule names. Anything is then the Internet: the
// name that led inside may be somebody else's.
func (s *side) reaches(a netip.Addr, allow bool) bool {
	a = plain(a)
	if allow {
		return s.any && !inside(a) || !s.any && s.has(a)
	}
	if s.has(a) {
		return true
	}
	return a.IsValid() && slices.ContainsFunc(meanings(a)[1:], s.has)
}

func (s *side) port(p uint16) bool {
	return len(s.ports) == 0 || slices.ContainsFunc(s.ports, func(s span) bool { return s.from <= p && p <= s.to })
}

// Decide is by which rule a connection is allowed or denied. For one that is made it
// may be none: then it is decided by who declared it.
func (r *Rules) Decide(f Flow) (ruling Ruling, decided bool) { return r.decide(f, nil) }

// Explain is Decide with the rules that were asked.
func (r *Rules) Explain(f Flow) (ruling Ruling, decided bool, steps []Step) {
	ruling, decided = r.decide(f, func(s Step) { steps = append(steps, s) })
	return ruling, decided, steps
}

// ExplainInbound is Explain of a connection that comes so, by no proxy, to an address
// and port of the server.
func (r *Rules) ExplainInbound(by transit.Arrival, to netip.AddrPort) (Ruling, []Step) {
	f := inbound(&transit.Flow{Arrival: by, Peer: by.From.Addr(), To: to})
	ruling, _, steps := r.Explain(f)
	return ruling, steps
}

func (r *Rules) decide(f Flow, say func(Step)) (Ruling, bool) {
	end := func(allowed bool, rule, reason string) (Ruling, bool) {
		v := Ruling{Allowed: allowed, Rule: rule, Reason: reason}
		if say != nil {
			say(Step{rule, v.outcome(), reason})
		}
		return v, true
	}
	if f.Machine {
		return end(true, "securityRules", "the machine itself is never kept out")
	}
	var laws []law
	if r != nil && f.Direction == Outbound {
		laws = r.out
	} else if r != nil {
		laws = r.in
	}
	for i := range laws {
		l := &laws[i]
		if why := l.spares(&f); why == "" {
			return end(l.allow, l.name, "its priority is "+strconv.Itoa(l.priority))
		} else if say != nil {
			say(Step{l.name, Continue, why})
		}
	}
	if f.Direction == Outbound {
		return Ruling{}, false
	}
	return end(true, called(AllowAllInBound), "no rule has the connection")
}

func (r Ruling) outcome() string {
	if r.Allowed {
		return Allow
	}
	return Deny
}

// spares is why the rule does not have the connection; "" if it does.
func (l *law) spares(f *Flow) string {
	out := f.Direction == Outbound
	switch {
	case len(l.listeners) > 0 && !slices.Contains(l.listeners, f.Listener):
		return "it is about another listener"
	case len(l.purposes) > 0 && !slices.Contains(l.purposes, f.Purpose):
		return "it is about another purpose"
	case len(l.names) > 0 && !slices.ContainsFunc(l.names, func(n string) bool { return isNamed(n, f.Name) }):
		return "it is about another host name"
	case !out && !l.source.has(plain(f.Source.Addr())):
		return "it is about another source"
	case !l.source.port(f.Source.Port()):
		return "it is about another source port"
	case !l.destination.port(f.Destination.Port()):
		return "it is about another destination port"
	case out && !l.destination.any && !f.Destination.Addr().IsValid():
		return "it depends on the address that the name leads to"
	case out && !l.destination.reaches(f.Destination.Addr(), l.allow):
		if l.allow && l.destination.any {
			return "it does not name the address, which is inside"
		}
		return "it is about another destination"
	case !out && !l.destination.has(plain(f.Destination.Addr())):
		return "it is about another address of the server"
	}
	return ""
}

// isNamed reports whether a pattern of names, in lower case, has the host.
func isNamed(pattern, host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if suffix, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(host) > len(suffix) && strings.HasSuffix(host, suffix)
	}
	return pattern == host
}

// Admits makes Rules the law of listeners.
func (r *Rules) Admits(f *transit.Flow) (rule string, ok bool) {
	ruling, _ := r.Decide(inbound(f))
	return ruling.Rule, ruling.Allowed
}

// Compile makes Rules of rules and of what they name. It refuses what is not certain.
func Compile(rules []NamedRule, groups map[string]IPGroup, flows FlowLog) (*Rules, error) {
	r := &Rules{Flows: flows}
	sets := map[string]*set{}
	for name, g := range groups {
		sets[strings.ToLower(name)] = newSet(g.IPAddresses)
	}
	taken := map[string]string{}
	for _, rule := range rules {
		l, err := rule.compile(sets)
		if err != nil {
			return nil, err
		}
		at := rule.Direction + " " + strconv.Itoa(rule.Priority)
		if other, ok := taken[at]; ok {
			return nil, fault.New(fault.Conflict, "the rules %s and %s are both %s with the priority %d; give one of them another", other, rule.Name, rule.Direction, rule.Priority)
		}
		taken[at] = rule.Name
		if rule.Direction == Outbound {
			r.out = append(r.out, l)
		} else {
			r.in = append(r.in, l)
		}
	}
	for _, laws := range [][]law{r.in, r.out} {
		slices.SortFunc(laws, func(a, b law) int { return cmp.Compare(a.priority, b.priority) })
	}
	return r, nil
}

// compile checks the rule against the IP groups that there are.
func (r NamedRule) compile(sets map[string]*set) (l law, err error) {
	bad := func(format string, args ...any) (law, error) {
		return law{}, fault.New(fault.BadRequest, format, args...)
	}
	l = law{name: called(r.Name), priority: r.Priority, allow: r.Access == Allow, listeners: r.Listeners, purposes: r.Purposes}
	switch {
	case r.Priority < firstPriority || r.Priority > lastPriority:
		return bad("priority is a number from %d to %d; the lowest is asked first", firstPriority, lastPriority)
	case r.Direction != Inbound && r.Direction != Outbound:
		return bad("direction is %s or %s", Inbound, Outbound)
	case r.Access != Allow && r.Access != Deny:
		return bad("access is %s or %s", Allow, Deny)
	case r.Protocol != "" && r.Protocol != "Tcp" && r.Protocol != anyone:
		return bad("protocol is Tcp or *: the server speaks nothing else")
	case len(r.Description) > 140:
		return bad("a description has at most 140 bytes")
	case r.Direction == Inbound && len(r.Purposes)+len(r.DestinationNames) > 0:
		return bad("purposes and destinationNames are of outbound rules")
	case r.Direction == Outbound && len(r.Listeners) > 0:
		return bad("listeners are of inbound rules")
	case len(r.Listeners) > MaxListeners || !allOf(r.Listeners, isListener):
		return bad("listeners: at most %d names of listeners, 1 to 64 lower case letters, digits and -", MaxListeners)
	case slices.Contains(r.Purposes, ForDatabase):
		return bad("purposes: the rules lie in the database, and say nothing about the way there")
	case !allOf(r.Purposes, func(p Purpose) bool { return slices.Contains(Purposes, p) }):
		return bad("purposes: of %s", list(Purposes))
	case len(r.DestinationNames) > MaxPrefixes:
		return bad("destinationNames: at most %d", MaxPrefixes)
	}
	for _, n := range r.DestinationNames {
		n = strings.ToLower(n)
		if !hostName(strings.TrimPrefix(n, "*.")) {
			return bad("destinationNames: a host name such as keys.example.com, or *.example.com")
		}
		l.names = append(l.names, n)
	}
	if l.source, err = compileSide("source", r.SourceAddressPrefix, r.SourceAddressPrefixes, r.SourcePortRange, r.SourcePortRanges, sets); err != nil {
		return l, err
	}
	if r.Direction == Outbound && (!l.source.any || len(l.source.ports) > 0) {
		return bad("the source of an outbound rule is *: sources in the configuration say by which address a purpose leaves")
	}
	l.destination, err = compileSide("destination", r.DestinationAddressPrefix, r.DestinationAddressPrefixes, r.DestinationPortRange, r.DestinationPortRanges, sets)
	return l, err
}

func allOf[T any](all []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(all, func(x T) bool { return !ok(x) })
}

// isListener reports whether a listener is called so: the one for workloads was before
// there was a rule for names.
func isListener(name string) bool { return ListenerName(name) || name == "managedIdentity" }

func list(all []Purpose) string {
	var words []string
	for _, p := range all {
		if p != ForDatabase {
			words = append(words, string(p))
		}
	}
	return strings.Join(words, ", ")
}

func hostName(s string) bool {
	if s == "" || len(s) > 253 || isAddr(s) {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > 63 || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// one is the property in one or in many: Azure has both, and one of them at a time.
func one[T ~string](what string, single T, many []T) ([]T, error) {
	if single != "" && len(many) > 0 {
		return nil, fault.New(fault.BadRequest, "a rule has one %s or a list of them, not both: set the other to null", what)
	}
	if len(many) > MaxPrefixes {
		return nil, fault.New(fault.BadRequest, "a rule has at most %d of %s; put them into an IP group", MaxPrefixes, what)
	}
	if single != "" {
		return []T{single}, nil
	}
	return many, nil
}

func compileSide(what, prefix string, prefixes []string, port Ports, ports []Ports, sets map[string]*set) (s side, err error) {
	addresses, err := one(what+"AddressPrefix", prefix, prefixes)
	if err != nil {
		return s, err
	}
	var networks []Network
	for _, a := range addresses {
		switch named := sets[strings.ToLower(a)]; {
		case a == anyone:
			s.any = true
		case strings.EqualFold(a, internet):
			s.outside = true
		case strings.EqualFold(a, virtualNetwork):
			s.inside = true
		case named != nil:
			s.sets = append(s.sets, named)
		default:
			n, err := ParseNetwork(a)
			if err != nil {
				return s, fault.New(fault.BadRequest, "%sAddressPrefix: %q is no IP address, no CIDR such as 203.0.113.0/24, no IP group that there is, and not *, %s or %s", what, a, internet, virtualNetwork)
			}
			networks = append(networks, n)
		}
	}
	if len(networks) > 0 {
		s.sets = append(s.sets, newSet(networks))
	}
	s.any = s.any || len(addresses) == 0
	ranges, err := one(what+"PortRange", port, ports)
	if err != nil {
		return s, err
	}
	for _, text := range ranges {
		if text == anyone {
			continue
		}
		from, to, isRange := strings.Cut(string(text), "-")
		if !isRange {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, bad := strconv.ParseUint(to, 10, 16)
		if err != nil || bad != nil || first > last || last > math.MaxUint16 {
			return s, fault.New(fault.BadRequest, "%sPortRange: %q is not a port such as 443, a range such as 8000-8999, or *", what, text)
		}
		s.ports = append(s.ports, span{uint16(first), uint16(last)})
	}
	if slices.Contains(ranges, anyone) {
		s.ports = nil
	}
	return s, nil
}

// ReadRules compiles the documents that there are: those of a type, which documents
// returns.
func ReadRules(documents func(typ string) ([]resource.Resource, error)) (*Rules, error) {
	rules, groups := []NamedRule(nil), map[string]IPGroup{}
	flows := FlowLog{}
	for _, kind := range []struct {
		typ  string
		take func(name string, properties []byte) error
	}{
		{SecurityRuleType, func(name string, text []byte) error {
			rules = append(rules, NamedRule{Name: name})
			return json.Unmarshal(text, &rules[len(rules)-1].SecurityRule)
		}},
		{IPGroupType, func(name string, text []byte) (err error) {
			var g IPGroup
			err = json.Unmarshal(text, &g)
			groups[name] = g
			return err
		}},
		{FlowLogType, func(_ string, text []byte) error { return json.Unmarshal(text, &flows) }},
	} {
		docs, err := documents(kind.typ)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if err := kind.take(doc.ID.Name(), doc.Properties); err != nil {
				return nil, fmt.Errorf("read %s: %w", doc.ID, err)
			}
		}
	}
	return Compile(rules, groups, flows)
}

// Names reports whether the rule names the IP group.
func (r SecurityRule) Names(group string) bool {
	all := slices.Concat(r.SourceAddressPrefixes, r.DestinationAddressPrefixes, []string{r.SourceAddressPrefix, r.DestinationAddressPrefix})
	return slices.ContainsFunc(all, func(a string) bool { return strings.EqualFold(a, group) })
}

// FlowLogType is the ARM type of FlowLogID, the one document of its kind.
const (
	FlowLogType        = "Breakwater.Network/flowLogs"
	FlowLogID   ref.ID = "/providers/" + FlowLogType + "/default"
)

// A FlowLog says which connections are recorded, in both directions.
type FlowLog struct {
	Refused  string `json:"refused,omitempty"`  // Enabled (default) or Disabled
	Accepted string `json:"accepted,omitempty"` // Enabled or Disabled (default)
}

// Check refuses words whose meaning is not certain.
func (l FlowLog) Check() error {
	for _, word := range []string{l.Refused, l.Accepted} {
		if !slices.Contains([]string{"", Enabled, Disabled}, word) {
			return fault.New(fault.BadRequest, "refused and accepted are %s or %s", Enabled, Disabled)
		}
	}
	return nil
}

func (l FlowLog) records(refused bool) bool {
	if refused {
		return l.Refused != Disabled
	}
	return l.Accepted == Enabled
}
