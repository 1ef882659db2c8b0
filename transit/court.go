package transit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A Court decides which connections may be, before a byte of them is read: no TLS is
// spoken with who is refused, and nothing is said (NS-1). Behind a proxy that speaks
// the PROXY protocol, it is its client who is judged. The zero Court lets everybody in.
type Court struct {
	// Law is what counts now. An error refuses who comes, but for the machine itself.
	Law func(context.Context) (Law, error)
	// Ended is told of each connection that was judged, once, at its end. It must not
	// wait for anything.
	Ended func(Flow)
}

// A Law says which connections may be, and by which rule. It does not change: who was
// let in by another one is judged again. Laws can be compared.
type Law interface {
	Admits(f *Flow) (rule string, ok bool)
}

// Judged says, before Serve, who judges the connections of a listener.
func (l *Listener) Judged(by Court) { l.o.Court = by }

// A Flow is a TCP connection as the wire knows it.
type Flow struct {
	Arrival
	Peer    netip.Addr     // whose socket it is: a proxy's, or that of From
	To      netip.AddrPort // this end
	Start   time.Time
	In, Out int64 // bytes that came and went, so far
	Rule    string
	Refused bool // when it came, or later: then it was cut
}

// FromMachine reports whether the other end is this machine itself, which is never kept
// out: it comes by one of the two addresses by which a machine calls itself, and not
// because somebody tells so. The others of the loopback are anybody's who was given one.
func (f *Flow) FromMachine() bool { return !f.Told && IsMachine(f.Peer) && IsMachine(f.From.Addr()) }

// IsMachine reports whether a is one of the two addresses by which a machine calls itself.
func IsMachine(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback()
}

// NoLaw is the rule of who came when no law could be read.
const NoLaw = "<no rules>"

const (
	readLaw    = 5 * time.Second // how long reading the law may take
	rejudge    = time.Second     // between two looks whether who is here still may be
	maxWaiting = 4096            // for a ruling, in one courtroom
)

var (
	errRefused = errors.New("transit: the connection is refused by a rule")
	errCrowded = errors.New("transit: too many wait for a ruling")
)

// A courtroom is where the connections of one listener are judged.
type courtroom struct {
	Court
	at Arrival // what all of them have in common

	waiting atomic.Int64 // those for whom the law is read

	mu      sync.Mutex
	present map[*judged]struct{}
}

// Over has what comes out of a listener judged. watch cuts those who may not be here
// any more, until its context ends.
func (c Court) Over(inner net.Listener, at Arrival) (over net.Listener, watch func(context.Context)) {
	room := &courtroom{Court: c, at: at, present: map[*judged]struct{}{}}
	return &bench{inner, room}, room.watch
}

// A bench has what comes out of a listener judged, in the goroutine of who reads it
// first: accepting waits for nobody.
type bench struct {
	net.Listener
	room *courtroom
}

func (b *bench) Accept() (net.Conn, error) {
	c, err := b.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &judged{Conn: c, room: b.room, start: time.Now()}, nil
}

// judged is a connection that waits for a ruling, or has one.
type judged struct {
	net.Conn
	room    *courtroom
	start   time.Time
	in, out atomic.Int64

	first sync.Once
	open  bool // as it was judged first; read after first

	mu   sync.Mutex
	flow Flow
	law  Law // nil until it is judged by one
	over bool
}

func (j *judged) Read(p []byte) (int, error) {
	if !j.may() {
		return 0, errRefused
	}
	n, err := j.Conn.Read(p)
	j.in.Add(int64(n))
	return n, err
}

func (j *judged) Write(p []byte) (int, error) {
	if !j.may() {
		return 0, errRefused
	}
	n, err := j.Conn.Write(p)
	j.out.Add(int64(n))
	return n, err
}

func (j *judged) may() bool {
	j.first.Do(j.judge)
	return j.open
}

func (j *judged) judge() {
	f := Flow{Arrival: j.room.at, Start: j.start}
	peer := j.Conn
	if c, ok := bare(j).(*conn); ok {
		peer = c
		if carrier, ok := c.Conn.(Carrier); ok {
			f.Arrival = carrier.Arrival()
			f.Listener = j.room.at.Listener
		}
	}
	f.Peer, _ = addr(peer.RemoteAddr())
	if !f.From.IsValid() {
		f.From = addrPort(j.RemoteAddr()) // which reads the PROXY header
	}
	f.To = addrPort(j.LocalAddr())
	law, err := j.room.read()
	if err == nil {
		f.Rule, j.open = law.Admits(&f)
	} else {
		law, f.Rule, j.open = nil, NoLaw, f.FromMachine() // watch judges it by the next one
	}
	f.Refused = !j.open
	j.mu.Lock()
	over := j.over // closed meanwhile
	j.flow, j.law = f, law
	j.mu.Unlock()
	switch {
	case over:
		j.room.end(j)
	case j.open:
		j.room.seat(j)
	default:
		_ = j.Close()
	}
}

// read is what counts now, for as many at once as the process bears to hold.
func (r *courtroom) read() (Law, error) {
	defer r.waiting.Add(-1)
	if r.waiting.Add(1) > maxWaiting {
		return nil, errCrowded
	}
	ctx, cancel := context.WithTimeout(context.Background(), readLaw) // who comes has none of its own yet
	defer cancel()
	return r.Law(ctx)
}

// Close is the end, which is told once.
func (j *judged) Close() error {
	j.mu.Lock()
	told := j.over || j.flow.Start.IsZero()
	j.over = true
	j.mu.Unlock()
	err := j.Conn.Close()
	if !told {
		j.room.end(j)
	}
	return err
}

// seen is the flow as it is now.
func (j *judged) seen() Flow {
	j.mu.Lock()
	defer j.mu.Unlock()
	f := j.flow
	f.In, f.Out = j.in.Load(), j.out.Load()
	return f
}

func (r *courtroom) seat(j *judged) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.present[j] = struct{}{}
	if j.gone() { // before it was seated
		delete(r.present, j)
	}
}

func (j *judged) gone() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.over
}

func (r *courtroom) end(j *judged) {
	r.mu.Lock()
	delete(r.present, j)
	r.mu.Unlock()
	if r.Ended != nil {
		r.Ended(j.seen())
	}
}

// watch looks once a second. While the law cannot be read, who is here stays: what is
// asked for meets other doors.
func (r *courtroom) watch(ctx context.Context) {
	tick := time.NewTicker(rejudge)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		bounded, cancel := context.WithTimeout(ctx, readLaw)
		law, err := r.Law(bounded)
		cancel()
		if err != nil {
			continue
		}
		for _, j := range r.under(law) {
			if !j.still(law) {
				_ = j.Close()
			}
		}
	}
}

// under is who was let in by another law.
func (r *courtroom) under(law Law) (others []*judged) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for j := range r.present {
		j.mu.Lock()
		if j.law != law {
			others = append(others, j)
		}
		j.mu.Unlock()
	}
	return others
}

func (j *judged) still(law Law) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	rule, ok := law.Admits(&j.flow)
	j.law, j.flow.Rule, j.flow.Refused = law, rule, !ok
	return ok
}

type flowKey struct{}

// FlowOf is the connection that a request's context belongs to, if it was judged.
func FlowOf(ctx context.Context) (Flow, bool) {
	j, ok := ctx.Value(flowKey{}).(*judged)
	if !ok {
		return Flow{}, false
	}
	return j.seen(), true
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
