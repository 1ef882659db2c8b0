package link

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"golang.org/x/time/rate"
)

// A lobby bounds the connections of those who have not been let in yet: when it is
// full, the neighbourhood that holds the most loses its oldest one to the newcomer.
// A proper agent is through in a few round trips.
type lobby struct {
	all, each int

	mu   sync.Mutex
	held int
	of   map[netip.Prefix][]net.Conn // oldest first
}

func (l *lobby) enter(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := neighbourhood(peer(c).Addr())
	switch {
	case len(l.of[n]) >= l.each:
		l.evict(n)
	case l.held >= l.all:
		most := n
		for p, conns := range l.of {
			if len(conns) > len(l.of[most]) {
				most = p
			}
		}
		l.evict(most)
	}
	if l.of == nil {
		l.of = map[netip.Prefix][]net.Conn{}
	}
	l.of[n] = append(l.of[n], c)
	l.held++
}

func (l *lobby) evict(n netip.Prefix) {
	c := l.of[n][0]
	l.drop(n, 0)
	c.Close()
}

func (l *lobby) drop(n netip.Prefix, at int) {
	l.held--
	if l.of[n] = slices.Delete(l.of[n], at, at+1); len(l.of[n]) == 0 {
		delete(l.of, n)
	}
}

// leave is for whoever was let in or went away.
func (l *lobby) leave(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := neighbourhood(peer(c).Addr())
	if at := slices.Index(l.of[n], c); at >= 0 {
		l.drop(n, at)
	}
}

// A pace lets each neighbourhood do something now and then.
type pace struct {
	each  rate.Limit
	burst int

	mu sync.Mutex
	of map[netip.Prefix]*rate.Limiter
}

// known bounds how many neighbourhoods a pace remembers: a flood of addresses
// makes it forget all, which gives each of them one burst more.
const known = 4096

func (p *pace) allow(a netip.Addr) bool {
	n := neighbourhood(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.of == nil || len(p.of) >= known {
		p.of = map[netip.Prefix]*rate.Limiter{}
	}
	l := p.of[n]
	if l == nil {
		l = rate.NewLimiter(p.each, p.burst)
		p.of[n] = l
	}
	return l.Allow()
}

// neighbourhood is the addresses that one caller easily has.
func neighbourhood(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// peer is the address at the other end; invalid where connections have none.
func peer(c net.Conn) netip.AddrPort {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	a := tcp.AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
