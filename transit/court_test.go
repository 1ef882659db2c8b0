package transit

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A verdict is a law that refuses some addresses.
type verdict struct{ refused map[netip.Addr]bool }

func (v *verdict) Admits(f *Flow) (string, bool) { return "law", !v.refused[f.From.Addr()] }

// A bailiff keeps the law and what became of connections.
type bailiff struct {
	mu    sync.Mutex
	law   *verdict
	err   error
	ended []Flow
}

func (b *bailiff) court() Court {
	return Court{
		Law:   func(context.Context) (Law, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.law, b.err },
		Ended: func(f Flow) { b.mu.Lock(); defer b.mu.Unlock(); b.ended = append(b.ended, f) },
	}
}

func (b *bailiff) refuse(addresses ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.law = &verdict{map[netip.Addr]bool{}}
	for _, a := range addresses {
		b.law.refused[netip.MustParseAddr(a)] = true
	}
}

// last waits for the end of the n-th connection.
func (b *bailiff) last(t *testing.T, n int) Flow {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b.mu.Lock()
		got := len(b.ended)
		if got == n {
			defer b.mu.Unlock()
			return b.ended[n-1]
		}
		b.mu.Unlock()
		if time.Now().After(end) {
			t.Fatalf("%d connections are over, not %d", got, n)
		}
	}
}

// silent says something on a connection from an address, and reports whether no byte
// came back.
func silent(t *testing.T, s *site, from, say string) bool {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	c, err := d.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, say); err != nil {
		return true
	}
	n, err := c.Read(make([]byte, 1))
	var late net.Error
	return n == 0 && !(errors.As(err, &late) && late.Timeout())
}

func TestWhoIsRefusedHearsNoByte(t *testing.T) {
	b := &bailiff{}
	b.refuse("127.0.0.2")
	s := open(t, http.HandlerFunc(greet), func(o *Options) { o.Court = b.court() })
	for i, say := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01"} { // the last two make a listener of TLS answer
		if !silent(t, s, "127.0.0.2", say) {
			t.Errorf("a refused connection that said %q was answered", say)
		}
		if f := b.last(t, i+1); !f.Refused || f.Rule != "law" || f.In+f.Out != 0 || f.From.Addr().String() != "127.0.0.2" || f.To.String() != s.address || f.Listener != "front" {
			t.Errorf("%+v", f)
		}
	}
	if silent(t, s, "127.0.0.3", "GET / HTTP/1.1\r\n\r\n") {
		t.Error("who is let in hears nothing")
	}
	if f := b.last(t, 4); f.Refused || f.In == 0 || f.Out == 0 || f.From.Addr().String() != "127.0.0.3" {
		t.Errorf("%+v", f)
	}
}

func TestALawThatCannotBeReadRefuses(t *testing.T) {
	b := &bailiff{err: errors.New("no database")}
	s := open(t, http.HandlerFunc(greet), func(o *Options) { o.Court = b.court() })
	if !silent(t, s, "127.0.0.3", "GET / HTTP/1.1\r\n\r\n") {
		t.Error("somebody was let in by no law")
	}
	if f := b.last(t, 1); !f.Refused || f.Rule != NoLaw {
		t.Errorf("%+v", f)
	}
}

// The machine itself is let in without a law, by its own two addresses and not as
// somebody tells; the next law judges it like everybody.
func TestTheMachineItselfIsLetInWithoutALaw(t *testing.T) {
	b := &bailiff{err: errors.New("no database")}
	s := open(t, http.HandlerFunc(greet), func(o *Options) {
		o.Court, o.Proxies = b.court(), []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}
	})
	if !silent(t, s, "127.0.0.2", "PROXY TCP4 127.0.0.1 192.0.2.1 4711 443\r\nGET / HTTP/1.1\r\n\r\n") {
		t.Error("somebody else's word made it the machine")
	}
	if f := b.last(t, 1); !f.Refused || f.Rule != NoLaw || f.From.Addr().String() != "127.0.0.1" {
		t.Errorf("%+v", f)
	}
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", s.address, s.trust(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.mu.Lock()
	b.err = nil
	b.mu.Unlock()
	b.refuse("127.0.0.1") // as no law of the server's does
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = io.Copy(io.Discard, c)
	if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
		t.Error("no law was asked about it later")
	}
	if f := b.last(t, 2); !f.Refused || f.Rule != "law" {
		t.Errorf("%+v", f)
	}
}

// Those whom no law tells yet whether they may be are so many at most.
func TestAsManyWaitForALawAsTheProcessBears(t *testing.T) {
	law := &verdict{}
	room := &courtroom{Court: Court{Law: func(context.Context) (Law, error) { return law, nil }}}
	room.waiting.Store(maxWaiting)
	if _, err := room.read(); err == nil {
		t.Error("one more waits")
	}
	room.waiting.Add(-1)
	if got, err := room.read(); err != nil || got != law {
		t.Errorf("%v, %v", got, err)
	}
	if n := room.waiting.Load(); n != maxWaiting-1 {
		t.Errorf("%d wait", n)
	}
}

// A judged connection buffers as little as any other.
func TestAJudgedConnectionBuffersLittle(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	in, _ := (&bailiff{}).court().Over(inner, Arrival{})
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := in.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	BufferLittle(c)
	raw, err := bare(c).(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var got int
	failed := raw.Control(func(fd uintptr) { got, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) })
	if failed != nil || err != nil || got != unsent {
		t.Errorf("%d bytes, %v, %v", got, failed, err)
	}
}

// Behind a listed proxy its client is judged, and not the proxy; a PROXY header of
// anybody else is nothing.
func TestTheClientOfAProxyIsJudged(t *testing.T) {
	b := &bailiff{}
	b.refuse("203.0.113.9", "127.0.0.1")
	s := open(t, http.HandlerFunc(greet), func(o *Options) {
		o.Court, o.Proxies = b.court(), []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	if got, err := s.proxied("PROXY TCP4 203.0.113.9 192.0.2.1 4711 443\r\n"); err == nil {
		t.Errorf("a refused client was told %q", got)
	}
	if got, err := s.proxied("PROXY TCP4 203.0.113.8 192.0.2.1 4711 443\r\n"); err != nil || got != "front 203.0.113.8" {
		t.Errorf("%q, %v", got, err)
	}
	b.last(t, 2)
	b.refuse("127.0.0.2")
	if !silent(t, s, "127.0.0.2", "PROXY TCP4 203.0.113.8 192.0.2.1 4711 443\r\n") {
		t.Error("a stranger's header was believed")
	}
	if f := b.last(t, 3); f.From.Addr().String() != "127.0.0.2" || !f.Refused {
		t.Errorf("%+v", f)
	}
}

// A law that changes cuts those whom it refuses, idle or not, and nobody else; while
// none can be read, who is here stays.
func TestANewLawCutsWhomItRefuses(t *testing.T) {
	b := &bailiff{}
	b.refuse()
	under := make(chan struct{})
	var knows atomic.Bool
	s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := FlowOf(r.Context())
		knows.Store(ok && f.From.String() == r.RemoteAddr && f.Rule == "law")
		if r.URL.Path == "/long" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			close(under)
			<-r.Context().Done()
		}
	}), func(o *Options) { o.Court = b.court() })
	dial := func(from, path string) *tls.Conn {
		d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
		c, err := tls.DialWithDialer(d, "tcp", s.address, s.trust(nil))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	idle, long, other := dial("127.0.0.2", "/"), dial("127.0.0.2", "/long"), dial("127.0.0.3", "/")
	<-under
	if !knows.Load() {
		t.Error("a request does not know its connection")
	}
	b.mu.Lock()
	b.err = errors.New("no database")
	b.mu.Unlock()
	time.Sleep(rejudge + rejudge/2) // time to be cut in, wrongly
	b.mu.Lock()
	b.err = nil
	early := len(b.ended)
	b.mu.Unlock()
	if early != 0 {
		t.Errorf("%d were cut by no law", early)
	}
	start := time.Now()
	b.refuse("127.0.0.2")
	for _, c := range []net.Conn{idle, long} {
		_, err := io.Copy(io.Discard, c)
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Fatal("a connection outlives the law that refuses it")
		}
	}
	t.Log("cut after", time.Since(start))
	b.last(t, 2)
	if _, err := io.WriteString(other, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); err != nil {
		t.Error("who is still let in was cut:", err)
	}
}

// Somebody whose ruling takes its time keeps nobody else waiting.
func TestASlowLawDoesNotSlowAccepting(t *testing.T) {
	release := make(chan struct{})
	var first atomic.Bool
	law := &verdict{}
	s := open(t, http.HandlerFunc(greet), func(o *Options) {
		o.Court.Law = func(context.Context) (Law, error) {
			if first.CompareAndSwap(false, true) {
				<-release
			}
			return law, nil
		}
	})
	slow, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	for !first.Load() {
		time.Sleep(time.Millisecond)
	}
	if r, err := s.client().Get("https://" + s.address); err != nil {
		t.Error(err)
	} else {
		r.Body.Close()
	}
	close(release)
}
