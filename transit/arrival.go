package transit

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"

	"breakwater/ref"
)

// An Arrival is how a request came here, as far as the wire knows: nothing that
// its caller wrote is in it. It hangs on the connection, where no caller can write.
type Arrival struct {
	Listener string // that accepted the connection; "" for none
	Endpoint ref.ID // the private endpoint that it came by; "" for the public way
	// From is the other end of the connection, or what a listed proxy says of it in a
	// PROXY header; invalid where connections have no addresses (a unix socket).
	From netip.AddrPort
	// Told says that From is what the agent of a link tells: there is no socket whose
	// peer could be asked, and no proxy is found by such an address.
	Told bool
}

// A Carrier is a connection that knows itself how it came, such as a stream of a
// link. Its listener is always the one that serves it.
type Carrier interface {
	net.Conn
	Arrival() Arrival
}

type arrivalKey struct{}

// Private says, before Serve, which private endpoint a listener is.
func (l *Listener) Private(endpoint ref.ID) { l.o.Endpoint = endpoint }

// arrive notes on a connection's context how it came.
func (l *Listener) arrive(ctx context.Context, outer net.Conn) context.Context {
	a := Arrival{Listener: l.o.Name, Endpoint: l.o.Endpoint}
	if c, ok := bare(outer).(*conn); ok {
		if carrier, ok := c.Conn.(Carrier); ok {
			a = carrier.Arrival()
			a.Listener = l.o.Name
		}
	}
	ctx = context.WithValue(ctx, arrivalKey{}, a)
	if t, ok := outer.(*tls.Conn); ok {
		outer = t.NetConn()
	}
	if j, ok := outer.(*judged); ok {
		ctx = context.WithValue(ctx, flowKey{}, j)
	}
	return ctx
}

// ArrivalOf is how the connection came that a request's context belongs to, but for
// its other end; zero for none.
func ArrivalOf(ctx context.Context) Arrival {
	a, _ := ctx.Value(arrivalKey{}).(Arrival)
	return a
}

// Arrived is how the request came in. Without a Listener, in a test, it is the
// other end alone.
func Arrived(r *http.Request) Arrival {
	a := ArrivalOf(r.Context())
	if !a.From.IsValid() { // net/http asked the connection, after its PROXY header
		a.From, _ = netip.ParseAddrPort(r.RemoteAddr)
	}
	return a
}
