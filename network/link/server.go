package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/time/rate"

	"breakwater/fault"
	"breakwater/ledger"
	"breakwater/network"
	"breakwater/ref"
	"breakwater/resource"
	"breakwater/transit"
)

// A Standing is what a registry's owner has said about a private endpoint.
type Standing struct {
	Registry   ref.ID
	UID        string // of the registry
	Connection ref.ID // "" if there is none
	State      network.LinkState
}

// An Ask is for a connection that its registry's owner has not heard of.
type Ask struct {
	Registry    string // its name
	Name        string // what the agent calls itself
	Fingerprint network.Fingerprint
	Message     string
	From        ledger.From
}

// Options of a Server.
type Options struct {
	Listener    net.Listener // where agents knock; the Server closes it
	Name        string       // of the listener, for the ledger
	Certificate transit.Certificate
	Documents   *resource.Store
	Ledger      *ledger.Ledger
	Log         *slog.Logger

	// Standing looks up, Ask makes a connection that waits for its owner, and says
	// how it stands; Conflict where there is no room for one more.
	Standing func(ctx context.Context, registry string, endpoint ref.ID) (Standing, error)
	Ask      func(ctx context.Context, a Ask) (Standing, error)
	// Known lets those agents ask alone whose connection the owner made.
	Known bool
}

// Bounds of all links together.
const (
	lobbyMax, lobbyEach = 512, 16
	sessionMax          = 256
	asking              = 2 * time.Second        // how often a waiting agent comes again
	watching            = 500 * time.Millisecond // how often it is asked whether links may stay
	blind               = 10                     // … and how often that may fail in a row
)

// A Server lets agents in and is the net.Listener of what they carry: each
// connection that it accepts is a transit.Carrier.
type Server struct {
	o     Options
	tls   *tls.Config
	lobby lobby
	asks  pace // writes of strangers
	comes pace // tunnels, each of which the ledger hears of twice
	tells pace // what the ledger hears of refusals

	streams chan net.Conn
	refused atomic.Uint64
	wg      sync.WaitGroup
	once    sync.Once
	closed  chan struct{} // no more streams are accepted

	every time.Duration // for tests: in place of keepAlive

	mu       sync.Mutex
	sessions map[seat]*session
}

// A seat is for one agent at one registry: who comes again takes its own.
type seat struct {
	uid         string // of the registry
	fingerprint network.Fingerprint
}

// New is a Server that waits for Serve.
func New(o Options) *Server {
	config := transit.Config(o.Certificate, true)
	config.ClientAuth = tls.RequireAnyClientCert // what counts is the key, which proven reads
	config.NextProtos = []string{protocol}
	config.SessionTicketsDisabled = true // every connection proves its key
	config.DynamicRecordSizingDisabled = true
	return &Server{
		o: o, tls: config, lobby: lobby{all: lobbyMax, each: lobbyEach},
		asks: pace{each: rate.Every(time.Second), burst: 8}, comes: pace{each: rate.Every(time.Second), burst: 32},
		tells:   pace{each: rate.Every(time.Minute), burst: 8},
		streams: make(chan net.Conn), closed: make(chan struct{}), sessions: map[seat]*session{},
	}
}

// Accept is the next client's connection.
func (s *Server) Accept() (net.Conn, error) {
	select {
	case c := <-s.streams:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close stops accepting agents and streams; what is under way goes on until Serve
// ends.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closed) })
	return s.o.Listener.Close()
}

// Addr is where agents knock.
func (s *Server) Addr() net.Addr { return s.o.Listener.Addr() }

// Held is how many links are up, Refused how often an agent was told that it has none.
func (s *Server) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

func (s *Server) Refused() uint64 { return s.refused.Load() }

// Serve holds links until ctx ends, and returns when all of them are closed.
func (s *Server) Serve(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer s.wg.Wait()
	defer stop()
	s.wg.Go(func() { s.watch(ctx) })
	context.AfterFunc(ctx, func() { s.Close() })
	for wait := time.Duration(0); ; {
		c, err := s.o.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			<-ctx.Done()
			return nil
		} else if err != nil { // no more files, for a moment
			wait = min(cmp.Or(2*wait, 5*time.Millisecond), time.Second)
			s.o.Log.Warn("a link was not accepted", "err", err)
			time.Sleep(wait)
			continue
		}
		wait = 0
		transit.BufferLittle(c) // so that what keeps the link alive does not stand behind megabytes
		s.lobby.enter(c)
		s.wg.Go(func() { s.meet(ctx, c) })
	}
}

// meet finds out who knocks. A stranger has a connection until it has its answer.
func (s *Server) meet(ctx context.Context, c net.Conn) {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	defer c.Close()
	defer s.lobby.leave(c)
	_ = c.SetDeadline(time.Now().Add(meetTimeout))
	secure := tls.Server(c, s.tls)
	var h hello
	f, err := s.greet(ctx, secure, &h)
	if err != nil {
		s.o.Log.Debug("a stranger knocked at the link's port", "address", peer(c).Addr(), "err", err)
		return
	}
	from := ledger.From{Address: peer(c).Addr(), Listener: s.o.Name, Endpoint: f.Endpoint()}
	a, n, err := s.judge(ctx, h, f, from)
	if err != nil {
		s.o.Log.Error("a link was not judged", "address", from.Address, "err", err)
		a = answer{Status: refused, Reason: "the server cannot look up now what its owner said"}
	}
	if a.Status != network.Approved {
		if a.Retry = int(cmp.Or(n.retry, time.Minute) / time.Second); a.Status != network.Pending {
			s.refused.Add(1)
		}
		_ = send(secure, a)
		_ = secure.CloseWrite() // …so that the answer arrives although nobody reads here any more
		return
	}
	held := &session{server: s, standing: n.Standing, registry: h.Registry, fingerprint: f, from: from, conn: secure}
	if !s.comes.allow(from.Address) || !s.sit(held) {
		s.refused.Add(1)
		_ = send(secure, answer{Status: refused, Reason: "the server has as many links as it may, or they come and go too fast", Retry: 60})
		return
	}
	defer s.rise(held)
	if err := send(secure, a); err != nil {
		return
	}
	s.lobby.leave(c)
	_ = c.SetDeadline(time.Time{})
	held.run(ctx)
}

// greet reads who knocks and what for.
func (s *Server) greet(ctx context.Context, c *tls.Conn, h *hello) (network.Fingerprint, error) {
	if err := c.HandshakeContext(ctx); err != nil {
		return "", err
	}
	f, err := proven(c.ConnectionState())
	if err != nil {
		return "", err
	}
	if err := receive(c, h); err != nil {
		return "", err
	}
	if !ValidName(h.Name) || len(h.Registry) > 64 || len(h.Message) > messageText || strings.ContainsFunc(h.Message, control) {
		return "", errors.New("a hello that no agent says")
	}
	return f, nil
}

func control(r rune) bool { return r < ' ' || r == 0x7f }

// A verdict is a Standing and when to ask again.
type verdict struct {
	Standing
	retry time.Duration
}

// judge says how the agent stands with the registry's owner, and asks for it if
// the owner has not heard of it. Who finds no room is told the same, whatever the
// reason.
func (s *Server) judge(ctx context.Context, h hello, f network.Fingerprint, from ledger.From) (answer, verdict, error) {
	n, err := s.o.Standing(ctx, h.Registry, f.Endpoint())
	if code := fault.Of(err); err != nil && code != fault.NotFound {
		return answer{}, verdict{}, err
	}
	known := err == nil
	if known && n.Connection == "" {
		known = false
		if !s.o.Known && s.asks.allow(from.Address) {
			n, err = s.o.Ask(ctx, Ask{Registry: h.Registry, Name: h.Name, Fingerprint: f, Message: h.Message, From: from})
			if code := fault.Of(err); err != nil && code != fault.NotFound && code != fault.Conflict {
				return answer{}, verdict{}, err
			}
			known = err == nil
		}
	}
	if !known {
		s.tell(ctx, n, from, "noRoom", f)
		return answer{Status: refused, Reason: "there is no such registry, or it takes no link that it does not know: have its owner make the connection with this agent's fingerprint"}, verdict{n, 30 * time.Second}, nil
	}
	a := answer{Status: n.State.Status, Reason: n.State.Description, Connection: n.Connection.Name()}
	switch n.State.Status {
	case network.Approved:
	case network.Pending:
		return a, verdict{n, asking}, nil
	default:
		s.tell(ctx, n, from, n.State.Status, f)
		return a, verdict{n, 30 * time.Second}, nil
	}
	return a, verdict{n, 0}, nil
}

// What the ledger calls what happens to links.
const (
	operation = "Microsoft.ContainerRegistry/registries/privateEndpointConnections/link/"
	OpUp      = operation + "up"
	OpDown    = operation + "down"
	OpRefused = operation + "refused"
)

// tell notes that an agent was refused, as often as its neighbourhood may make it.
func (s *Server) tell(ctx context.Context, n Standing, from ledger.From, why string, f network.Fingerprint) {
	if s.tells.allow(from.Address) {
		_ = s.note(ctx, n, from, OpRefused, ledger.Refused, why, map[string]string{"fingerprint": string(f)})
	}
}

// note says so in the ledger, or in the log that the ledger cannot be told.
func (s *Server) note(ctx context.Context, n Standing, from ledger.From, what string, o ledger.Outcome, why string, more map[string]string) error {
	e := ledger.Event{
		Registry: n.UID, Category: ledger.Security, Operation: what, Scope: cmp.Or(n.Connection, n.Registry).Scope(),
		Who: ledger.Who{Kind: "link", ID: more["fingerprint"]}, From: from, Outcome: o, Reason: why, Detail: ledger.Detail{More: more},
	}
	err := s.o.Ledger.Note(context.WithoutCancel(ctx), e)
	if err != nil {
		s.o.Log.Error("the ledger did not hear of a link", "operation", what, "err", err)
	}
	return err
}

// sit gives the agent its seat, from which its older connection rises.
func (s *Server) sit(held *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := held.seat()
	before := s.sessions[at]
	if before == nil && len(s.sessions) >= sessionMax {
		return false
	}
	s.sessions[at] = held
	if before != nil {
		before.end("the agent came again")
	}
	return true
}

func (s *Server) rise(held *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := held.seat(); s.sessions[at] == held {
		delete(s.sessions, at)
	}
}

// watch cuts the links whose registry's owner has changed its mind. A look-up that
// fails for some seconds is one that nobody can trust any more.
func (s *Server) watch(ctx context.Context) {
	ticks := time.NewTicker(watching)
	defer ticks.Stop()
	for failed := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		s.mu.Lock()
		all := make([]*session, 0, len(s.sessions))
		for _, held := range s.sessions {
			all = append(all, held)
		}
		s.mu.Unlock()
		if len(all) == 0 {
			continue
		}
		now, done := context.WithTimeout(ctx, 2*time.Second)
		now = s.o.Documents.Pin(now)
		lost := false
		for _, held := range all {
			n, err := s.o.Standing(now, held.registry, held.fingerprint.Endpoint())
			switch {
			case err != nil && fault.Of(err) != fault.NotFound:
				if lost = true; failed+1 >= blind {
					held.end("nobody can look up whether it is still approved")
				}
			case err != nil || n.UID != held.standing.UID || n.State.Status != network.Approved:
				held.end("it is not approved any more")
			}
		}
		done()
		if failed++; !lost {
			failed = 0
		}
	}
}

// A session is one agent's tunnel.
type session struct {
	server      *Server
	standing    Standing
	registry    string
	fingerprint network.Fingerprint
	from        ledger.From
	conn        *tls.Conn

	wg sync.WaitGroup // of streams that say whose they are

	mu  sync.Mutex
	why string // it ended
}

func (h *session) seat() seat { return seat{h.standing.UID, h.fingerprint} }

// end cuts the tunnel and all that runs in it, and says why it ended. It does not
// wait.
func (h *session) end(why string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = cmp.Or(h.why, why)
	_ = h.conn.NetConn().Close() // yamux sees that, and closes its streams
	return h.why
}

func (h *session) run(ctx context.Context) {
	defer h.wg.Wait()
	s := h.server
	// What a client does not take any more is its agent's to end: a timer here would
	// outlive the link, and keep what the agent has sent.
	mux, err := yamux.Server(newFramed(h.conn), muxing(s.every, false))
	if err != nil {
		s.o.Log.Error("a link did not begin", "err", err)
		return
	}
	defer mux.Close()
	begun := time.Now()
	if s.note(ctx, h.standing, h.from, OpUp, ledger.Success, "", map[string]string{"fingerprint": string(h.fingerprint)}) != nil {
		return // who is not on record does not come in
	}
	s.o.Log.Info("link up", "connection", h.standing.Connection, "address", h.from.Address)
	h.wg.Go(func() {
		select {
		case <-s.closed: // what is under way goes on; what comes next goes to whoever listens then
			_ = mux.GoAway()
		case <-mux.CloseChan():
		}
	})
	streams, why := 0, ""
	for why == "" {
		stream, err := mux.AcceptStream()
		switch {
		case err != nil && ctx.Err() != nil:
			why = h.end("the server stopped")
		case errors.Is(err, io.EOF):
			why = h.end("the agent went away")
		case err != nil:
			why = h.end(err.Error())
		case mux.NumStreams() > streamMax:
			why = h.end("the agent opened more streams than one may")
		default:
			streams++
			h.wg.Go(func() { h.begin(stream) })
		}
	}
	_ = s.note(ctx, h.standing, h.from, OpDown, ledger.Success, "",
		map[string]string{"fingerprint": string(h.fingerprint), "why": why, "streams": strconv.Itoa(streams)})
	s.o.Log.Info("link down", "connection", h.standing.Connection, "address", h.from.Address, "why", why, "after", time.Since(begun).Round(time.Second))
}

// begin reads whose connection the stream is, and hands it on.
func (h *session) begin(y *yamux.Stream) {
	_ = y.SetReadDeadline(time.Now().Add(meetTimeout))
	var b [addressBytes]byte
	if _, err := io.ReadFull(y, b[:]); err != nil {
		y.Close()
		return
	}
	_ = y.SetReadDeadline(time.Time{})
	c := &stream{Stream: y, remote: h.conn.RemoteAddr(), arrival: transit.Arrival{
		Endpoint: h.fingerprint.Endpoint(), From: getAddress(b), Told: true,
	}}
	select {
	case h.server.streams <- c:
	case <-h.server.closed:
		y.Close()
	case <-y.Session().CloseChan():
	}
}

// A stream is a client's connection. To whoever counts connections by address its
// peer is the agent's host, because the client's address is only told.
type stream struct {
	*yamux.Stream
	arrival transit.Arrival
	remote  net.Addr

	mu     sync.Mutex // of the deadlines, of which that of Close is the last one
	closed bool
}

var _ transit.Carrier = (*stream)(nil)

func (c *stream) Arrival() transit.Arrival { return c.arrival }
func (c *stream) RemoteAddr() net.Addr     { return c.remote }

func (c *stream) Read(p []byte) (int, error) {
	n, err := c.Stream.Read(p)
	return n, c.plain(err)
}

func (c *stream) Write(p []byte) (int, error) {
	n, err := c.Stream.Write(p)
	return n, c.plain(err)
}

// plain says of a deadline what a socket says of it.
func (c *stream) plain(err error) error {
	if err != yamux.ErrTimeout {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return os.ErrDeadlineExceeded
}

// Close ends both directions for who called it: what blocks in Read returns, as
// with a socket. It does not wait for a tunnel that takes nothing.
func (c *stream) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	_ = c.Stream.SetDeadline(time.Unix(1, 0))
	go c.Stream.Close() // returns with its session at the latest
	return nil
}

func (c *stream) SetDeadline(t time.Time) error      { return c.until(c.Stream.SetDeadline, t) }
func (c *stream) SetReadDeadline(t time.Time) error  { return c.until(c.Stream.SetReadDeadline, t) }
func (c *stream) SetWriteDeadline(t time.Time) error { return c.until(c.Stream.SetWriteDeadline, t) }

// until leaves what Close has set.
func (c *stream) until(set func(time.Time) error, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return set(t)
}
