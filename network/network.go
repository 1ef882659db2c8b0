// Package network decides which networks may reach a registry (NS-2).
//
// A caller's Origin is the address at the other end of the socket, unless a
// listed proxy is there; the registry's Access then says whether that origin may
// knock at all. Both are pure: settings in, decision out.
package network

import (
	"net/netip"
	"slices"

	"breakwater/fault"
)

// An Origin is where a request comes from. Addr is unmapped and has no zone, so
// one caller has one spelling; it is invalid when nobody knows the address.
type Origin struct {
	Addr     netip.Addr
	Listener string // the listener that accepted the connection
}

// String is the address for a message or an event.
func (o Origin) String() string {
	if !o.Addr.IsValid() {
		return "unknown"
	}
	return o.Addr.String()
}

// Values of Access, as ARM spells them.
const (
	Enabled  = "Enabled"
	Disabled = "Disabled"
	Allow    = "Allow"
	Deny     = "Deny"
)

// MaxRules is the greatest number of IP rules of one registry, as in Azure.
const MaxRules = 200

// Access is the section of a registry's properties that this control owns. The
// zero Access lets every network knock, as a new registry in Azure does.
type Access struct {
	PublicNetworkAccess string  `json:"publicNetworkAccess,omitempty"` // Enabled (default) or Disabled
	RuleSet             RuleSet `json:"networkRuleSet,omitzero"`
}

// A RuleSet lists networks that may knock; DefaultAction is for the others.
type RuleSet struct {
	DefaultAction string   `json:"defaultAction,omitempty"` // Allow (default) or Deny
	IPRules       []IPRule `json:"ipRules,omitempty"`
}

// An IPRule lets one address or network in. There are no rules that refuse.
type IPRule struct {
	Action string  `json:"action,omitempty"` // Allow
	Value  Network `json:"value"`
}

// A Network is a CIDR or one address, parsed once, written as it is meant: the
// bits outside the prefix are zero and a single address has no "/32".
type Network struct{ netip.Prefix }

// ParseNetwork reads "203.0.113.7", "203.0.113.0/24" or the same of IPv6.
func ParseNetwork(s string) (Network, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return Network{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return Network{}, fault.New(fault.BadRequest, "%q is not an IP address or a CIDR such as 203.0.113.0/24", s)
	}
	return Network{p.Masked()}, nil
}

func (n Network) String() string {
	if n.IsSingleIP() {
		return n.Addr().String()
	}
	return n.Prefix.String()
}

func (n Network) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

func (n *Network) UnmarshalText(text []byte) (err error) {
	*n, err = ParseNetwork(string(text))
	return err
}

// Check refuses settings whose meaning is not certain, so that Allow never has
// to guess.
func (a Access) Check() error {
	if !slices.Contains([]string{"", Enabled, Disabled}, a.PublicNetworkAccess) {
		return fault.New(fault.BadRequest, "publicNetworkAccess is %s or %s", Enabled, Disabled)
	}
	if !slices.Contains([]string{"", Allow, Deny}, a.RuleSet.DefaultAction) {
		return fault.New(fault.BadRequest, "networkRuleSet.defaultAction is %s or %s", Allow, Deny)
	}
	if len(a.RuleSet.IPRules) > MaxRules {
		return fault.New(fault.BadRequest, "a registry has at most %d IP rules", MaxRules)
	}
	for _, r := range a.RuleSet.IPRules {
		if (r.Action != "" && r.Action != Allow) || !r.Value.IsValid() {
			return fault.New(fault.BadRequest, "an IP rule has the action %s and a value that is an IP address or a CIDR", Allow)
		}
	}
	return nil
}

// Allow decides whether o may reach the registry. Without public access nobody
// may, whatever the rules say; otherwise a rule or the default action lets o in.
// An unknown address matches no rule, and a word that Check would refuse refuses.
func (a Access) Allow(o Origin) error {
	public := a.PublicNetworkAccess == "" || a.PublicNetworkAccess == Enabled
	open := a.RuleSet.DefaultAction == "" || a.RuleSet.DefaultAction == Allow
	if public && (open || slices.ContainsFunc(a.RuleSet.IPRules, func(r IPRule) bool {
		return (r.Action == "" || r.Action == Allow) && r.Value.Contains(o.Addr)
	})) {
		return nil
	}
	return fault.New(fault.NetworkDenied, "client with IP '%s' is not allowed access; ask the registry's owner for a network rule", o)
}
