package transit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
)

// A stream is a connection that came by a link.
type stream struct {
	net.Conn
	arrival Arrival
}

func (s stream) Arrival() Arrival { return s.arrival }
func (s stream) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(s.arrival.From)
}

// A feed is a listener whose connections are handed to it.
type feed struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func (f *feed) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.ended:
		return nil, net.ErrClosed
	}
}
func (f *feed) Close() error   { f.once.Do(func() { close(f.ended) }); return nil }
func (f *feed) Addr() net.Addr { return &net.UnixAddr{Name: "feed"} }

func TestAStreamFromElsewhereIsServedAndSaysHowItCame(t *testing.T) {
	f := &feed{conns: make(chan net.Conn), ended: make(chan struct{})}
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := Arrived(r)
		fmt.Fprint(w, a.Listener, " ", a.Endpoint, " ", a.From.Addr(), " ", a.Told)
	}), func(o *Options) { o.Name, o.Address, o.Inner = "link", "", f })
	for _, row := range []struct {
		arrival Arrival
		want    string
	}{
		{Arrival{Endpoint: "/e", From: netip.MustParseAddrPort("10.7.0.2:4711"), Told: true, Listener: "managedIdentity"}, "link /e 10.7.0.2 true"},
		{Arrival{Endpoint: "/f", From: netip.MustParseAddrPort("[fd00::7]:1"), Told: true}, "link /f fd00::7 true"},
	} {
		client := s.client()
		client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
			far, near := net.Pipe()
			select {
			case f.conns <- stream{near, row.arrival}:
				return far, nil
			case <-f.ended:
				return nil, errors.New("closed")
			}
		}
		r, err := client.Get("https://localhost/")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if string(text) != row.want {
			t.Errorf("%s, not %s", text, row.want)
		}
	}
}
