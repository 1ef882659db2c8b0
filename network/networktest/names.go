// Package networktest runs a name server that tells what a test wants.
package networktest

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// Names is a name server and who asks it.
type Names struct {
	*net.Resolver
	c    net.PacketConn
	mu   sync.Mutex
	zone map[string][]string
}

// NewNames tells of each name in the zone one answer after the other, and then the
// last one again and again. An answer is addresses with spaces between.
func NewNames(t testing.TB, zone map[string][]string) *Names {
	n, err := OpenNames("127.0.0.1:0", zone)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(n.Serve)
	t.Cleanup(func() { n.Close(); serving.Wait() })
	return n
}

// OpenNames is NewNames at an address that others may ask; Close ends it.
func OpenNames(address string, zone map[string][]string) (*Names, error) {
	c, err := net.ListenPacket("udp", address)
	if err != nil {
		return nil, err
	}
	n := &Names{c: c, zone: zone}
	n.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", c.LocalAddr().String())
	}}
	return n, nil
}

// Close ends Serve.
func (n *Names) Close() error { return n.c.Close() }

// Serve answers until it is closed.
func (n *Names) Serve() {
	question := make([]byte, 1500)
	for {
		size, from, err := n.c.ReadFrom(question)
		if err != nil {
			return
		}
		if answer := n.answer(question[:size]); answer != nil {
			_, _ = n.c.WriteTo(answer, from)
		}
	}
}

func (n *Names) answer(question []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(question) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.TrimSuffix(strings.ToLower(q.Name.String()), ".")
	n.mu.Lock()
	defer n.mu.Unlock()
	answers := n.zone[name]
	m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
	if answers == nil {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range strings.Fields(append(answers, "")[0]) {
		h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
		switch ip := netip.MustParseAddr(a); {
		case ip.Is4() && q.Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: ip.As4()}})
		case ip.Is6() && q.Type == dnsmessage.TypeAAAA:
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: ip.As16()}})
		}
	}
	if q.Type == dnsmessage.TypeA && len(answers) > 1 { // both kinds are asked for at each look-up
		n.zone[name] = answers[1:]
	}
	packed, err := m.Pack()
	if err != nil {
		return nil
	}
	return packed
}
