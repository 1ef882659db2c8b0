package network

import "net/netip"

// Where clouds tell a machine its secrets, apart from link-local addresses.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
	netip.MustParseAddr("fd00:ec2::254"):   true, // AWS
	netip.MustParseAddr("fd00:ec2::23"):    true, // AWS, of a pod
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("fd00:42::42"):     true, // Scaleway
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")      // RFC 1122
	reserved    = netip.MustParsePrefix("240.0.0.0/4")    // RFC 1112, and the broadcast
	siteLocal   = netip.MustParsePrefix("fec0::/10")      // RFC 3879
	shared      = netip.MustParsePrefix("100.64.0.0/10")  // RFC 6598
	protocols   = netip.MustParsePrefix("192.0.0.0/24")   // RFC 6890
	benchmark   = netip.MustParsePrefix("198.18.0.0/15")  // RFC 2544
	nat64       = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	localNAT64  = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixTo4      = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo      = netip.MustParsePrefix("2001::/32")      // RFC 4380
	compatible  = netip.MustParsePrefix("::/96")          // RFC 4291, 2.5.5.1
	translated  = netip.MustParsePrefix("::ffff:0:0:0/96")
)

// meanings are the addresses that packets to ip may end at: itself, and the IPv4
// addresses that a translator or tunnel reads in an IPv6 address. Where two readings
// are possible, both are there.
func meanings(ip netip.Addr) []netip.Addr {
	ip = plain(ip)
	all := []netip.Addr{ip}
	if !ip.Is6() {
		return all
	}
	b := ip.As16()
	four := func(bytes ...byte) { all = append(all, netip.AddrFrom4([4]byte(bytes))) }
	switch {
	case nat64.Contains(ip), translated.Contains(ip), compatible.Contains(ip) && !ip.IsLoopback() && !ip.IsUnspecified():
		four(b[12:]...)
	case localNAT64.Contains(ip):
		four(b[12:]...)
		four(b[6], b[7], b[9], b[10])
	case sixTo4.Contains(ip):
		four(b[2:6]...)
	case teredo.Contains(ip):
		four(b[4:8]...)
		four(^b[12], ^b[13], ^b[14], ^b[15])
	}
	if b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe { // ISATAP, RFC 5214
		four(b[12:]...)
	}
	return all
}

// never says why nobody is reached at ip, whatever a rule says; "" if that is not so.
func never(ip netip.Addr) string {
	if !ip.IsValid() {
		return "it is no address"
	}
	for _, a := range meanings(ip) {
		switch {
		case metadata[a]:
			return "a cloud tells its machines their secrets there"
		case a.IsUnspecified(), a.Is4() && thisNetwork.Contains(a):
			return "it is unspecified"
		case a.IsMulticast(), a.Is4() && reserved.Contains(a):
			return "it is multicast or reserved"
		case a.IsLinkLocalUnicast(), siteLocal.Contains(a):
			return "it is link-local"
		}
	}
	return ""
}

// inside reports whether ip is, or stands for, an address of a network that is not
// the Internet.
func inside(ip netip.Addr) bool {
	for _, a := range meanings(ip) {
		if a.IsPrivate() || a.IsLoopback() || shared.Contains(a) || protocols.Contains(a) || benchmark.Contains(a) {
			return true
		}
	}
	return false
}
