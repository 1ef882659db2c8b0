// Package transit protects what is on the wire (DP-3): which certificate a
// listener shows, which TLS it speaks, and how many connections it holds.
//
// It decides nothing about callers. It remembers which listener a connection
// came in by, because the network rules (NS-1, NS-2) want to know.
package transit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	proxyproto "github.com/pires/go-proxyproto"

	"breakwater/ref"
)

// Limits of a connection. They bound what a client costs before the door has
// seen a whole request.
const (
	headerTimeout = 10 * time.Second // TLS handshake, PROXY header, request header
	idleTimeout   = 2 * time.Minute
	stallTimeout  = time.Minute // a client that takes no byte of its answer for so long is gone
	headerBytes   = 64 << 10
	drainTimeout  = 30 * time.Second

	// unsent is how much the kernel keeps of an answer before the client has room
	// for it. It would take megabytes, and let nobody write before a third is gone:
	// slow clients would cost their memory, and look as if they stood still.
	unsent = 512 << 10
)

// Options of a Listener.
type Options struct {
	Name     string // what network rules call this listener
	Address  string // as ParseAddress reads it
	Endpoint ref.ID // the private endpoint that all who come in here come by; "" for the public way
	// Inner is where connections come from that come by no address of this process, such
	// as the streams of a link, in place of Address. They may be Carriers.
	Inner net.Listener
	TLS   *tls.Config
	// Clear is clear text where nobody but this machine can knock: on the loopback.
	// Anywhere else it is TLS, or without that nothing.
	Clear bool
	// Proxies may speak the PROXY protocol, and then must: they are believed
	// about the address of their client. Nobody else is.
	Proxies []netip.Prefix
	// Forwarders are proxies that speak HTTP: like those of Proxies, one of their
	// addresses stands for many clients.
	Forwarders []netip.Prefix
	// Connections bounds how many connections are held, 0 means no bound;
	// PerAddress bounds how many of one address (not of a proxy).
	Connections, PerAddress int
	Log                     *slog.Logger
	Court                   Court // that judges each connection before a byte of it is read
}

// A Listener is a bound address that is not served yet.
type Listener struct {
	o     Options
	inner net.Listener
	crowd *crowd
}

// Listen binds the address, so that a wrong or taken one fails before anything
// is announced.
func Listen(ctx context.Context, o Options) (*Listener, error) {
	if o.TLS == nil && !o.Clear {
		return nil, errors.New("transit: a listener without TLS")
	}
	inner, err := o.Inner, error(nil)
	if inner == nil {
		at, bad := ParseAddress(o.Address)
		if bad != nil {
			return nil, bad
		}
		inner, err = at.Listen(ctx)
	}
	if err != nil {
		return nil, err
	}
	if o.Clear = o.Clear && isHere(inner.Addr()); !o.Clear && o.TLS == nil {
		inner.Close()
		return nil, fmt.Errorf("%s is not an address of the loopback, and what is said there would be in clear text", o.Address)
	}
	return &Listener{o: o, inner: inner, crowd: newCrowd(o)}, nil
}

// isHere reports whether only this machine can reach the address: it is one of the
// loopback's, or was given to its interface.
func isHere(a net.Addr) bool {
	ip, ok := addr(a)
	if !ok || ip.IsLoopback() {
		return ok
	}
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 {
			continue
		}
		given, _ := i.Addrs()
		for _, g := range given {
			if p, err := netip.ParsePrefix(g.String()); err == nil && p.Addr().Unmap() == ip {
				return true
			}
		}
	}
	return false
}

// Addr is the bound address, Port its port; 0 where there are none.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

func (l *Listener) Port() int {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}

// Secure reports whether it speaks TLS.
func (l *Listener) Secure() bool { return !l.o.Clear }

// Held is how many connections are open, Refused how many were turned away
// because there were too many.
func (l *Listener) Held() int       { return l.crowd.held() }
func (l *Listener) Refused() uint64 { return l.crowd.refused.Load() }

// Serve answers with h until ctx ends. Then it accepts nothing more, waits up to
// 30 s for the requests under way, and returns nil.
func (l *Listener) Serve(ctx context.Context, h http.Handler) error {
	var in net.Listener = &door{Listener: l.inner, crowd: l.crowd}
	if len(l.o.Proxies) > 0 {
		in = clients{&proxyproto.Listener{Listener: in, ConnPolicy: believe(l.o.Proxies), ReadHeaderTimeout: headerTimeout}}
	}
	if l.o.Court.Law != nil {
		over, watch := l.o.Court.Over(in, Arrival{Listener: l.o.Name, Endpoint: l.o.Endpoint})
		in = over
		watching, stop := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		wg.Go(func() { watch(watching) })
		defer wg.Wait()
		defer stop()
	}
	server := &http.Server{
		Handler:           strict(h),
		TLSConfig:         l.o.TLS,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes,
		ErrorLog:          slog.NewLogLogger(l.o.Log.With("listener", l.o.Name).Handler(), slog.LevelDebug),
		ConnState:         l.crowd.state,
		ConnContext:       l.arrive,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          128,
			MaxReadFrameSize:              64 << 10,
			MaxReceiveBufferPerConnection: 1 << 20,
			MaxReceiveBufferPerStream:     512 << 10,
			SendPingTimeout:               time.Minute,
			PingTimeout:                   headerTimeout,
			WriteByteTimeout:              stallTimeout,
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" goes the way of every request
	}
	defer server.Close()
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		drained <- server.Shutdown(patience)
	})
	serve := func() error { return server.ServeTLS(in, "", "") }
	if l.o.Clear {
		serve = func() error { return server.Serve(in) }
	}
	err := serve()
	if stop() {
		return err // the listener broke by itself
	}
	if err := <-drained; errors.Is(err, context.DeadlineExceeded) {
		l.o.Log.Warn("requests were cut off: they took too long to finish", "listener", l.o.Name)
	}
	return nil
}

// hsts has a browser speak nothing but TLS with the name for a year (RFC 6797).
// Subdomains are not meant: each registry says it for its own.
var hsts = []string{"max-age=31536000"}

// strict says so to who asks for a name. Addresses have none, and localhost is what
// many other programs of the client's machine are called.
func strict(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && r.TLS.ServerName != "" && r.TLS.ServerName != "localhost" && !strings.HasSuffix(r.TLS.ServerName, ".localhost") {
			w.Header()["Strict-Transport-Security"] = hsts
		}
		h.ServeHTTP(w, r)
	})
}

// Close frees the address of a listener that is not served.
func (l *Listener) Close() error { return l.inner.Close() }

// believe takes a PROXY header from listed proxies only, and from them always:
// one that forgets it would make its clients look like itself.
func believe(proxies []netip.Prefix) proxyproto.ConnPolicyFunc {
	return func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
		if a, ok := addr(o.Upstream); ok && listed(proxies, a) {
			return proxyproto.REQUIRE, nil
		}
		return proxyproto.SKIP, nil // a header is then not TLS, and ends the connection
	}
}

// clients accepts the clients of proxies.
type clients struct{ net.Listener }

func (l clients) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if p, ok := c.(*proxyproto.Conn); ok {
		return client{p}, err
	}
	return c, err
}

// A client is one that a proxy tells of.
type client struct{ *proxyproto.Conn }

// RemoteAddr is who the proxy says that it is. The loopback of a proxy elsewhere is that
// of its own machine, and who comes from there is the proxy.
func (c client) RemoteAddr() net.Addr {
	told, proxy := c.Conn.RemoteAddr(), c.Raw().RemoteAddr()
	if a, ok := addr(told); ok && a.IsLoopback() {
		if a, ok := addr(proxy); !ok || !a.IsLoopback() {
			return proxy
		}
	}
	return told
}

func addr(a net.Addr) (netip.Addr, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	return tcp.AddrPort().Addr().Unmap(), true
}

func listed(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A conn gives up on a peer that stops taking bytes, unless somebody above it has
// set a deadline. Its own is renewed rarely, because a timer per TLS record would
// cost more than the copy.
type conn struct {
	net.Conn
	crowd   *crowd
	renewed atomic.Int64 // unix seconds; the end of time while the deadline is not ours
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	renewed := int64(math.MaxInt64)
	if t.IsZero() {
		renewed = 0
	}
	c.renewed.Store(renewed)
	return c.Conn.SetWriteDeadline(t)
}

func (c *conn) Close() error {
	c.crowd.gone(c)
	return c.Conn.Close()
}

func (c *conn) Write(p []byte) (int, error) {
	now := time.Now()
	if s := now.Unix(); s-c.renewed.Load() > int64(stallTimeout/time.Second/4) {
		c.renewed.Store(s)
		if err := c.Conn.SetWriteDeadline(now.Add(stallTimeout)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(p)
}
