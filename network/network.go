// Package network decides which networks may reach a registry (NS-2).
//
// A caller's Origin is the address at the other end of the socket, unless a
// listed proxy is there; the registry's Access then says whether that origin may
// knock at all. Both are pure: settings in, decision out.
package network

import (
	"crypto/sha256"
	"net/netip"
	"slices"
	"strings"

	"breakwater/fault"
	"breakwater/ref"
)

// An Origin is where a request comes from. Addr is unmapped and has no zone, so
// one caller has one spelling; it is invalid when nobody knows the address.
type Origin struct {
	Addr     netip.Addr
	Listener string // the listener that accepted the connection
	Endpoint ref.ID // the private endpoint that the connection came by; "" for the public way
	// Told says that Addr is what the agent of a link tells, whom nobody can check: it
	// is for the record, and no decision follows from it.
	Told bool
}

// String is the address for a message or an event.
func (o Origin) String() string {
	if !o.Addr.IsValid() {
		return "unknown"
	}
	return o.Addr.String()
}

// Counted is the address by which callers are counted that must not try too often.
// The agent of a link could tell a new one each time: all that come by it are one, at
// an address of fc00::/8, which nobody has.
func (o Origin) Counted() netip.Addr {
	if !o.Told {
		return o.Addr
	}
	sum := sha256.Sum256([]byte(o.Endpoint.Key()))
	sum[0] = 0xfc
	return netip.AddrFrom16([16]byte(sum[:16]))
}

// Values of Access, as ARM spells them.
const (
	Enabled  = "Enabled"
	Disabled = "Disabled"
	Allow    = "Allow"
	Deny     = "Deny"

	AzureServices = "AzureServices"
	None          = "None"
)

// Limits of one registry. Azure has 200 IP rules; here they cost nothing.
const (
	MaxRules     = 10_000 // IP rules
	MaxSubnets   = 200    // virtual network rules
	MaxListeners = 20
	MaxTrusted   = 20
)

// Access is the section of a registry's properties that this control owns. The
// zero Access lets every network knock, as a new registry in Azure does.
type Access struct {
	PublicNetworkAccess string  `json:"publicNetworkAccess,omitempty"` // Enabled (default) or Disabled
	RuleSet             RuleSet `json:"networkRuleSet,omitzero"`
	BypassOptions       string  `json:"networkRuleBypassOptions,omitempty"` // AzureServices (default) or None

	// Listeners are those that serve the registry the public way, if there are any;
	// otherwise all do (NS-1).
	Listeners []string `json:"listeners,omitempty"`
	// TrustedServices are the principals that no IP rule has to name, unless
	// BypassOptions says None. Azure has a list of its own; here it is the owner's.
	TrustedServices []string `json:"trustedServices,omitempty"`

	compiled *compiled
}

// A RuleSet lists networks that may knock; DefaultAction is for the others.
type RuleSet struct {
	DefaultAction string   `json:"defaultAction,omitempty"` // Allow (default) or Deny
	IPRules       []IPRule `json:"ipRules,omitzero"`

	// VirtualNetworkRules let in what came by a listener: here that is what a subnet
	// is. Others are kept and let nobody in.
	VirtualNetworkRules []VirtualNetworkRule `json:"virtualNetworkRules,omitempty"`
}

// A VirtualNetworkRule names a subnet; Listener says which are meant here.
type VirtualNetworkRule struct {
	Action string `json:"action,omitempty"` // Allow
	ID     string `json:"id"`
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
	if len(a.RuleSet.VirtualNetworkRules) > MaxSubnets {
		return fault.New(fault.BadRequest, "a registry has at most %d virtual network rules", MaxSubnets)
	}
	for _, r := range a.RuleSet.VirtualNetworkRules {
		if r.Action != "" && r.Action != Allow || !strings.HasPrefix(r.ID, "/") || len(r.ID) > 2048 {
			return fault.New(fault.BadRequest, "a virtual network rule has the action %s and the id of a subnet", Allow)
		}
	}
	if !slices.Contains([]string{"", AzureServices, None}, a.BypassOptions) {
		return fault.New(fault.BadRequest, "networkRuleBypassOptions is %s, %s", AzureServices, None)
	}
	if len(a.Listeners) > MaxListeners {
		return fault.New(fault.BadRequest, "a registry names at most %d listeners", MaxListeners)
	}
	for _, name := range a.Listeners {
		if !ListenerName(name) {
			return fault.New(fault.BadRequest, "listeners: a listener's name has 1 to 64 lower case letters, digits and -")
		}
	}
	if len(a.TrustedServices) > MaxTrusted {
		return fault.New(fault.BadRequest, "a registry has at most %d trusted services", MaxTrusted)
	}
	for _, id := range a.TrustedServices {
		if !ref.IsGUID(id) {
			return fault.New(fault.BadRequest, "trustedServices: the ids of principals, which are GUIDs")
		}
	}
	return nil
}
