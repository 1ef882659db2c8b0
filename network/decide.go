package network

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/gaissmai/bart"

	"breakwater/fault"
	"breakwater/ref"
)

// A Verdict is what the networks of a registry say of an origin.
type Verdict struct {
	Allowed bool
	// Bypass says that one of the registry's trusted services may come in from there
	// all the same, once it has proven to be one. Everybody else is refused as they
	// would be without it.
	Bypass bool
	Rule   string // that decides, as the document spells it
	Reason string // in words
}

// A Step is one question that is asked on the way to a Verdict.
type Step struct {
	Rule    string `json:"rule"`
	Outcome string `json:"outcome"` // Allow, Deny, Bypass, or Continue: the next one is asked
	Reason  string `json:"reason"`
}

// Decide is whether o may reach the registry, whose private endpoint connections
// are c. What comes by a private endpoint is decided by the connections alone, and
// nothing else by them; then the order is Azure's (azure-baseline §6.7): listeners,
// public network access, rules, default action, bypass. An unknown address matches
// no rule, and a word that Check would refuse opens nothing.
func (a Access) Decide(o Origin, c []PrivateEndpointConnection) Verdict {
	return a.decide(o, c, nil)
}

// Explain is Decide with the questions that were asked.
func (a Access) Explain(o Origin, c []PrivateEndpointConnection) (Verdict, []Step) {
	var steps []Step
	v := a.decide(o, c, func(s Step) { steps = append(steps, s) })
	return v, steps
}

func (a Access) decide(o Origin, c []PrivateEndpointConnection, say func(Step)) Verdict {
	pass := func(rule, reason string) {
		if say != nil {
			say(Step{rule, Continue, reason})
		}
	}
	end := func(outcome, rule, reason string) Verdict {
		if say != nil {
			say(Step{rule, outcome, reason})
		}
		return Verdict{Allowed: outcome == Allow, Bypass: outcome == Bypass, Rule: rule, Reason: reason}
	}
	if o.Endpoint != "" {
		for i := range c {
			if strings.EqualFold(string(c[i].PrivateEndpoint.ID), string(o.Endpoint)) {
				rule := "privateEndpointConnections/" + c[i].Name
				if c[i].State.Status == Approved {
					return end(Allow, rule, "the private endpoint is approved; public rules do not apply")
				}
				pass(rule, "the connection is "+c[i].State.Status)
			}
		}
		return end(Deny, "privateEndpointConnections", "the registry has no approved connection with this private endpoint")
	}
	pass("privateEndpointConnections", "the request came the public way, not by a private endpoint")
	if len(a.Listeners) > 0 && !slices.Contains(a.Listeners, o.Listener) {
		return end(Deny, "listeners", "the registry is not served by the listener that the request came to")
	}
	pass("listeners", "the registry is served by this listener")
	if a.PublicNetworkAccess != "" && a.PublicNetworkAccess != Enabled {
		return end(Deny, "publicNetworkAccess", "public network access is disabled; rules and bypass do not count")
	}
	pass("publicNetworkAccess", "public network access is enabled")
	if n, ok := a.matches(o); ok {
		rule := "networkRuleSet.ipRules"
		if say != nil { // writing it costs more than finding it
			rule += "[" + n.String() + "]"
		}
		return end(Allow, rule, "an IP rule has the address")
	}
	pass("networkRuleSet.ipRules", "no IP rule has the address")
	for i := range a.RuleSet.VirtualNetworkRules {
		if r := &a.RuleSet.VirtualNetworkRules[i]; (r.Action == "" || r.Action == Allow) && o.Listener != "" && r.Listener() == o.Listener {
			return end(Allow, "networkRuleSet.virtualNetworkRules", "a virtual network rule has the listener")
		}
	}
	pass("networkRuleSet.virtualNetworkRules", "no virtual network rule has the listener")
	if a.RuleSet.DefaultAction == "" || a.RuleSet.DefaultAction == Allow {
		return end(Allow, "networkRuleSet.defaultAction", "the default action is Allow")
	}
	if (a.BypassOptions == "" || a.BypassOptions == AzureServices) && len(a.TrustedServices) > 0 {
		pass("networkRuleSet.defaultAction", "the default action is Deny")
		return end(Bypass, "trustedServices", "only a trusted service that proves who it is comes in")
	}
	return end(Deny, "networkRuleSet.defaultAction", "the default action is Deny, and no rule has the address")
}

// Outcomes of a Step beside Allow and Deny.
const (
	Bypass   = "Bypass"
	Continue = "Continue"
)

// Trusts reports whether a proven principal is one of the trusted services.
func (a Access) Trusts(principal string) bool {
	return principal != "" && slices.ContainsFunc(a.TrustedServices, func(id string) bool { return strings.EqualFold(id, principal) })
}

// Refused is what o is told, whatever the reason is. It says what clients know
// from Azure, and not which rule there is.
func Refused(o Origin) error {
	return fault.New(fault.NetworkDenied, "client with IP '%s' is not allowed access. Ask the owner for a network rule", o)
}

// subnet is the virtual network whose subnets the listeners of this server are.
const subnet = "/virtualnetworks/breakwater/subnets/"

// Listener is the listener that the rule means: the subnet of that name in a
// virtual network called breakwater; "" if it means something of Azure.
func (r VirtualNetworkRule) Listener() string {
	key := ref.ID(r.ID).Key()
	at := strings.LastIndex(key, subnet)
	if at < 0 || !ListenerName(key[at+len(subnet):]) {
		return ""
	}
	return key[at+len(subnet):]
}

// ListenerName reports whether a listener may be called so.
func ListenerName(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// compiled is a list of IP rules as a trie of prefixes: one look-up costs the same
// for one rule and for ten thousand.
type compiled struct {
	of   *IPRule // the first of the rules that it was made of
	n    int
	trie bart.Lite
}

// few rules are looked through faster than a trie is.
const few = 8

// Compile makes decisions as quick as they can be. It is for settings that will not
// change any more; a list of rules that was replaced is not taken for the one that
// was compiled.
func (a *Access) Compile() {
	rules := a.RuleSet.IPRules
	a.compiled = nil
	if len(rules) <= few {
		return
	}
	c := &compiled{of: &rules[0], n: len(rules)}
	for _, r := range rules {
		if r.admits() {
			c.trie.Insert(r.Value.Prefix)
		}
	}
	a.compiled = c
}

func (r *IPRule) admits() bool { return (r.Action == "" || r.Action == Allow) && r.Value.IsValid() }

// matches finds an IP rule that has the address, which is not what an agent told.
func (a *Access) matches(o Origin) (Network, bool) {
	rules := a.RuleSet.IPRules
	if !o.Addr.IsValid() || o.Told || len(rules) == 0 {
		return Network{}, false
	}
	if c := a.compiled; c != nil && c.of == &rules[0] && c.n == len(rules) {
		p, ok := c.trie.LookupPrefixLPM(netip.PrefixFrom(o.Addr, o.Addr.BitLen()))
		return Network{p}, ok
	}
	best, found := Network{}, false
	for i := range rules {
		if r := &rules[i]; r.admits() && r.Value.Contains(o.Addr) && (!found || r.Value.Bits() > best.Bits()) {
			best, found = r.Value, true
		}
	}
	return best, found
}
