package link

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"breakwater/network"
)

// An Agent offers a registry on an address of its own network.
type Agent struct {
	Server   string      // HOST:PORT of the server's link port
	TLS      *tls.Config // whom it trusts to be the server; nothing else is taken from it
	Key      crypto.Signer
	Registry string       // that it offers, by name
	Name     string       // what it calls itself
	Message  string       // for the registry's owner
	Listener net.Listener // where its neighbours knock; Run closes it
	Log      *slog.Logger

	mu      sync.Mutex
	tunnel  *yamux.Session
	changed chan struct{} // closed when there is another tunnel
}

// How an agent comes again.
const (
	soonest  = 200 * time.Millisecond
	latest   = 10 * time.Second
	patient  = 10 * time.Second // how long a neighbour waits for the tunnel
	draining = 30 * time.Second
)

// Run holds the tunnel and carries connections until ctx ends, and then those that
// are under way for up to 30 s more.
func (a *Agent) Run(ctx context.Context) error {
	certificate, err := certify(a.Key)
	if err != nil {
		return err
	}
	if !validName(a.Name) {
		return fmt.Errorf("%q: a link's name has up to 40 lower case letters, digits and hyphens", a.Name)
	}
	a.changed = make(chan struct{})
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Certificates: []tls.Certificate{certificate},
		RootCAs: a.TLS.RootCAs, ServerName: a.TLS.ServerName, DynamicRecordSizingDisabled: true,
	}
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(a.Server); err != nil {
			return err
		}
	}
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	wg.Go(func() { a.hold(holding, config) })

	stop := context.AfterFunc(ctx, func() { a.Listener.Close() })
	defer stop()
	var carried sync.WaitGroup
	room := make(chan struct{}, clientMax)
	for wait := time.Duration(0); ; {
		room <- struct{}{} // who finds none waits in the kernel
		c, err := a.Listener.Accept()
		if err != nil {
			<-room
			if ctx.Err() != nil {
				break
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			wait = min(cmp.Or(2*wait, 5*time.Millisecond), time.Second)
			a.Log.Warn("a connection was not accepted", "err", err)
			time.Sleep(wait)
			continue
		}
		wait = 0
		carried.Go(func() {
			defer func() { <-room }()
			a.carry(holding, c)
		})
	}
	over := time.AfterFunc(draining, release)
	defer over.Stop()
	carried.Wait()
	return nil
}

// hold keeps a tunnel open, and says once what became of it.
func (a *Agent) hold(ctx context.Context, config *tls.Config) {
	said, wait := "", soonest
	for ctx.Err() == nil {
		begun := time.Now()
		was, err := a.meet(ctx, config)
		retry := time.Duration(was.Retry) * time.Second
		switch {
		case ctx.Err() != nil:
			return
		case was.Status == "":
			if text := err.Error(); text != said {
				a.Log.Warn("the server cannot be reached", "server", a.Server, "err", err)
				said = text
			}
		case was.Status == network.Approved:
			a.Log.Warn("link down", "err", err, "after", time.Since(begun).Round(time.Second))
			said = ""
			if time.Since(begun) > latest {
				wait = soonest
			}
		default:
			if text := was.Status + was.Reason; text != said {
				a.Log.Info("the link waits", "status", was.Status, "reason", was.Reason, "connection", was.Connection)
				said = text
			}
			wait = soonest
		}
		if retry > 0 {
			retry = min(retry, latest)
		} else {
			retry, wait = wait, min(2*wait, latest)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry/2 + rand.N(retry)): // so that agents do not come in step
		}
	}
}

// meet asks the server, and holds the tunnel if its owner agreed: then it returns
// when that ends.
func (a *Agent) meet(ctx context.Context, config *tls.Config) (was answer, err error) {
	meeting, cancel := context.WithTimeout(ctx, meetTimeout)
	defer cancel()
	c, err := (&tls.Dialer{NetDialer: &net.Dialer{KeepAlive: keepAlive}, Config: config}).DialContext(meeting, "tcp", a.Server)
	if err != nil {
		return was, err
	}
	defer c.Close()
	secure := c.(*tls.Conn)
	if p := secure.ConnectionState().NegotiatedProtocol; p != protocol {
		return was, fmt.Errorf("what listens there does not speak %s", protocol)
	}
	_ = c.SetDeadline(time.Now().Add(meetTimeout))
	if err := send(c, hello{Registry: a.Registry, Name: a.Name, Message: a.Message}); err != nil {
		return was, err
	}
	if err := receive(c, &was); err != nil {
		return answer{}, fmt.Errorf("the server gave no answer: %w", err)
	}
	if was.Status != network.Approved {
		if was.Status == "" {
			was.Status = refused
		}
		return was, nil
	}
	_ = c.SetDeadline(time.Time{})
	mux, err := yamux.Client(newFramed(c), muxing())
	if err != nil {
		return was, err
	}
	defer mux.Close()
	defer context.AfterFunc(ctx, func() { mux.Close() })()
	a.Log.Info("link up", "server", a.Server, "registry", a.Registry, "connection", was.Connection)
	a.set(mux)
	defer a.set(nil)
	if _, err = mux.AcceptStream(); err == nil {
		err = errors.New("the server opened a stream, which none does")
	}
	return was, err
}

func (a *Agent) set(mux *yamux.Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tunnel = mux
	close(a.changed)
	a.changed = make(chan struct{})
}

// open is a stream of the tunnel, which may have to come up first.
func (a *Agent) open(ctx context.Context) (*yamux.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for {
		a.mu.Lock()
		mux, changed := a.tunnel, a.changed
		a.mu.Unlock()
		if mux != nil {
			if y, err := mux.OpenStream(); err == nil {
				return y, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// carry passes on what a neighbour and the registry say to each other. Each side
// waits for the other one: what one does not take, the other one is not asked for.
func (a *Agent) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	y, err := a.open(ctx)
	if err != nil {
		abort(c)
		return
	}
	defer y.Close()
	if _, err := y.Write(putAddress(peer(c))); err != nil {
		abort(c)
		return
	}
	var up sync.WaitGroup
	defer up.Wait()
	up.Go(func() {
		_, err := io.Copy(y, c)
		y.Close()
		if err != nil { // nobody there: what still comes is thrown away, for a moment
			_ = y.SetReadDeadline(time.Now().Add(patient))
		}
	})
	_, err = io.Copy(c, y)
	if err != nil || y.Session().IsClosed() {
		abort(c)
	} else if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	// The registry has closed its connection: nothing is heard any more.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_ = y.SetWriteDeadline(time.Now().Add(time.Second))
}

// abort lets the neighbour see that the connection broke: it did not end.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}
