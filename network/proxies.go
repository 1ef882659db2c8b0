package network

import (
	"net/http"
	"net/netip"
	"strings"

	"breakwater/transit"
)

// Proxies are the networks whose X-Forwarded-For is believed. The zero value
// believes nobody: the origin is the socket's peer. No other header is read.
type Proxies []Network

// Prefixes are the networks as those take them who know nothing of registries.
func (p Proxies) Prefixes() []netip.Prefix {
	all := make([]netip.Prefix, len(p))
	for i, n := range p {
		all[i] = n.Prefix
	}
	return all
}

func (p Proxies) listed(a netip.Addr) bool {
	for _, n := range p {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// Origin is where a request with this header comes from. It walks
// X-Forwarded-For from the right for as long as the hop it stands on is a listed
// proxy, so that whatever a client writes to the left of its own address is never
// reached. A hop that cannot be read ends the walk at the proxy that sent it, and so
// does one that a proxy elsewhere calls the loopback: that is its machine, not ours. An
// address that a link tells finds no proxy: its agent could say any.
func (p Proxies) Origin(a transit.Arrival, header http.Header) Origin {
	o := Origin{Addr: plain(a.From.Addr()), Listener: a.Listener, Endpoint: a.Endpoint, Told: a.Told}
	if !o.Told {
		o.Addr = p.walk(o.Addr, header)
	}
	return o
}

func (p Proxies) walk(at netip.Addr, header http.Header) netip.Addr {
	lines := header["X-Forwarded-For"]
	for i := len(lines) - 1; i >= 0 && p.listed(at); i-- {
		for rest, more := lines[i], true; more && p.listed(at); {
			hop := rest
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, hop = rest[:cut], rest[cut+1:]
			} else {
				more = false
			}
			a, ok := parseHop(strings.Trim(hop, " \t"))
			if !ok || a.IsLoopback() && !at.IsLoopback() {
				return at
			}
			at = a
		}
	}
	return at
}

// parseHop reads "192.0.2.1", "192.0.2.1:1234", "2001:db8::1", "[2001:db8::1]"
// and "[2001:db8::1]:1234".
func parseHop(s string) (netip.Addr, bool) {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		s = strings.TrimSuffix(inner, "]")
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() {
			return plain(a), true
		}
		return netip.Addr{}, false
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return plain(a), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return plain(ap.Addr()), true
	}
	return netip.Addr{}, false
}

// plain gives an address its one spelling: IPv4 is never written as IPv6, and a
// zone, which is meaningless elsewhere, is dropped.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
