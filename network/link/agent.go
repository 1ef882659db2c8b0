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
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"breakwater/network"
	"breakwater/transit"
)

// An Agent offers a registry on an address of its own network.
type Agent struct {
	Server   string      // HOST:PORT of the server's link port
	TLS      *tls.Config // whom it trusts to be the server; nothing else is taken from it
	Key      crypto.Signer
	Registry string       // that it offers, by name
	Name     string       // what it calls itself
	Message  string       // for the registry's owner
	Listener net.Listener // where its clients knock; Run closes it
	Log      *slog.Logger

	every time.Duration // for tests: in place of keepAlive

	mu      sync.Mutex
	tunnel  *yamux.Session
	denied  bool          // the server's last word was that there is none
	changed chan struct{} // closed when one of these changes
	clients map[*client]bool
	room    chan struct{} // has one for each of them
}

// How an agent comes again, and how it takes leave.
const (
	soonest  = 200 * time.Millisecond
	latest   = 10 * time.Second
	patient  = 10 * time.Second // how long a client waits for the tunnel
	draining = 30 * time.Second
	quiet    = 3 * time.Second // a connection is idle that moves nothing for so long; draining ends it

	// A client that takes a window's bytes more slowly than 1 KiB/s, the pace that the
	// door asks for, is gone.
	stall = Window / (1 << 10) * time.Second
)

// Run holds the tunnel and carries connections until ctx ends, and then those that
// are under way for up to 30 s more.
func (a *Agent) Run(ctx context.Context) error {
	defer a.Listener.Close()
	config, err := a.config()
	if err != nil {
		return err
	}
	a.changed, a.clients, a.room = make(chan struct{}), map[*client]bool{}, make(chan struct{}, clientMax)
	holding, release := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer release()
	wg.Go(func() { a.hold(holding, config) })

	stop := context.AfterFunc(ctx, func() { a.Listener.Close() })
	defer stop()
	var carried sync.WaitGroup
	if err := a.accept(ctx, func(c net.Conn) { carried.Go(func() { a.carry(holding, c) }) }); err != nil {
		release()
		carried.Wait()
		return err
	}
	over, looks := time.AfterFunc(draining, release), time.NewTicker(quiet/6)
	defer over.Stop()
	defer looks.Stop()
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		carried.Wait()
	})
	for {
		select {
		case <-ended:
			return nil
		case <-looks.C:
			a.hush()
		}
	}
}

// config is how the server is met, and who the agent is.
func (a *Agent) config() (*tls.Config, error) {
	certificate, err := certify(a.Key)
	if err != nil {
		return nil, err
	}
	if !ValidName(a.Name) {
		return nil, fmt.Errorf("%q: a link's name has up to 40 lower case letters, digits and hyphens", a.Name)
	}
	if len(a.Message) > messageText || strings.ContainsFunc(a.Message, control) {
		return nil, fmt.Errorf("a message has at most %d bytes, and no control characters", messageText)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Certificates: []tls.Certificate{certificate},
		RootCAs: a.TLS.RootCAs, ServerName: a.TLS.ServerName, DynamicRecordSizingDisabled: true,
	}
	if config.ServerName == "" {
		config.ServerName, _, err = net.SplitHostPort(a.Server)
	}
	return config, err
}

// accept hands clients to carry until ctx ends. Who finds no room waits in the
// kernel.
func (a *Agent) accept(ctx context.Context, carry func(net.Conn)) error {
	for wait := time.Duration(0); ; {
		select {
		case a.room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := a.Listener.Accept()
		if err == nil {
			wait = 0
			carry(c)
			continue
		}
		<-a.room
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		wait = min(cmp.Or(2*wait, 5*time.Millisecond), time.Second)
		a.Log.Warn("a connection was not accepted", "err", err)
		time.Sleep(wait)
	}
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
			a.set(nil, true)
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
	transit.BufferLittle(secure.NetConn())
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
	mux, err := yamux.Client(newFramed(c), muxing(a.every, true))
	if err != nil {
		return was, err
	}
	defer mux.Close()
	defer context.AfterFunc(ctx, func() { mux.Close() })()
	a.Log.Info("link up", "server", a.Server, "registry", a.Registry, "connection", was.Connection)
	a.set(mux, false)
	defer a.set(nil, false)
	if _, err = mux.AcceptStream(); err == nil {
		err = errors.New("the server opened a stream, which none does")
	}
	return was, err
}

func (a *Agent) set(mux *yamux.Session, denied bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tunnel, a.denied = mux, denied
	close(a.changed)
	a.changed = make(chan struct{})
}

// open is a stream of the tunnel, which may have to come up first; nobody waits for
// an owner.
func (a *Agent) open(ctx context.Context) (*yamux.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for {
		a.mu.Lock()
		mux, denied, changed := a.tunnel, a.denied, a.changed
		a.mu.Unlock()
		if denied {
			return nil, errors.New("the owner has not approved the link")
		}
		if mux != nil {
			if mux.NumStreams() >= openMax {
				return nil, errors.New("too many clients have gone whom the server still answers")
			}
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

// A client is a neighbour's connection that is carried.
type client struct {
	net.Conn
	moved atomic.Int64 // Unix nanoseconds when it last did
}

func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved.Store(time.Now().UnixNano())
	return n, err
}

func (c *client) Write(p []byte) (int, error) {
	now := time.Now()
	c.moved.Store(now.UnixNano())
	if err := c.SetWriteDeadline(now.Add(stall)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(p)
	c.moved.Store(time.Now().UnixNano())
	return n, err
}

// abort lets the client see that the connection broke: it did not end.
func (c *client) abort() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

func (a *Agent) enter(c *client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients[c] = true
}

func (a *Agent) leave(c *client) {
	c.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.clients, c)
	<-a.room
}

// hush ends the connections that wait for nothing but another request.
func (a *Agent) hush() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.clients {
		if time.Since(time.Unix(0, c.moved.Load())) > quiet {
			c.Close()
		}
	}
}

// carry passes on what a client and the registry say to each other. Each side
// waits for the other one: what one does not take, the other one is not asked for.
func (a *Agent) carry(ctx context.Context, accepted net.Conn) {
	transit.BufferLittle(accepted)
	c := &client{Conn: accepted}
	c.moved.Store(time.Now().UnixNano())
	a.enter(c)
	defer a.leave(c)
	defer context.AfterFunc(ctx, func() { c.Close() })()
	y, err := a.open(ctx)
	if err != nil {
		c.abort()
		return
	}
	defer y.Close()
	if _, err := y.Write(putAddress(peer(c))); err != nil {
		c.abort()
		return
	}
	var up sync.WaitGroup
	defer up.Wait()
	up.Go(func() {
		_, _ = io.Copy(y, c)
		y.Close() // the server sees the client's end, and after a while that has to be its own too
	})
	_, err = io.Copy(c, y)
	if err != nil || y.Session().IsClosed() {
		c.abort()
	} else if tcp, ok := accepted.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	// The registry has closed its connection: nothing is heard any more.
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_ = y.SetWriteDeadline(time.Now().Add(time.Second))
}
