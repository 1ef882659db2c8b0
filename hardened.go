package main

import (
	"errors"
	"fmt"

	"breakwater/network"
	"breakwater/transit"
)

// hardened is the profile that refuses what a careful operator would not do, and
// changes what is left open (docs/configuration.md has the reason for each). It is
// about networks and the wire (NS-1, NS-2, DP-3) and nothing else.
const hardened = "hardened"

// tls13 reports whether nothing older is spoken.
func (c *config) tls13() bool { return c.TLS.Minimum == "1.3" || c.Profile == hardened }

// What the networks of proxies have at least, in bits: a wider one is nobody's own.
const (
	narrowest4 = 8
	narrowest6 = 32
)

// harden refuses a configuration that its own profile forbids.
func (c *config) harden() error {
	if c.Profile == "" {
		return nil
	}
	if c.Profile != hardened {
		return fmt.Errorf("profile: %s, or none, not %q", hardened, c.Profile)
	}
	bound := []listenerConfig{{Name: "listen", Address: c.Listen}}
	if c.Ops != "" && c.Ops != autoOps {
		bound = append(bound, listenerConfig{Name: "ops", Address: c.Ops})
	}
	if c.Link.Listen != "" {
		bound = append(bound, listenerConfig{Name: "link.listen", Address: c.Link.Listen})
	}
	for _, l := range append(bound, c.Listeners...) {
		if at, err := transit.ParseAddress(l.Address); err != nil || at.Any() {
			return fmt.Errorf("%s: %q is every address of this machine, which the profile %s refuses: name one, or an interface as in %%eth0:8443", l.Name, l.Address, hardened)
		}
	}
	if c.TLS.Minimum == "1.2" {
		return fmt.Errorf("tls.minimum: the profile %s speaks TLS 1.3 alone; leave the setting out", hardened)
	}
	for _, n := range append(append(network.Proxies{}, c.Proxies.Forwarded...), c.Proxies.Protocol...) {
		if n.Addr().Is4() && n.Bits() < narrowest4 || n.Addr().Is6() && n.Bits() < narrowest6 {
			return fmt.Errorf("proxies: %s is no network of your own: whoever is in it could give itself any address", n)
		}
	}
	if c.ManagedIdentity.Listen != "" {
		return errors.New("managedIdentity: its endpoint speaks clear text, and gives tokens to every program of this machine, which the profile hardened refuses: let workloads show tokens of an issuer")
	}
	return nil
}
