package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"breakwater/transit"
)

// A crossing is one connection that the server makes: the rules as of its beginning,
// and what they said of each address that its name leads to.
type crossing struct {
	w       *Way
	address string
	start   time.Time
	rules   *Rules
	err     error // they could not be read

	mu   sync.Mutex
	said map[netip.AddrPort]Ruling
}

// rules are those of now; the way to the database, where they lie, has none.
func (w *Way) rules(ctx context.Context) (*Rules, error) {
	if w.e.o.Rules == nil || w.purpose == ForDatabase {
		return nil, nil
	}
	return w.e.o.Rules(ctx)
}

func (w *Way) cross(ctx context.Context, address string) *crossing {
	c := &crossing{w: w, address: address, start: time.Now(), said: map[netip.AddrPort]Ruling{}}
	c.rules, c.err = w.rules(ctx)
	return c
}

// flow is what rules look at.
func (w *Way) flow(address string, to netip.AddrPort) Flow {
	f := Flow{Direction: Outbound, Destination: to, Purpose: w.purpose}
	if host, _, err := net.SplitHostPort(address); err == nil && !isAddr(host) {
		f.Name = host
	}
	return f
}

// may is asked about each address that the destination leads to.
func (c *crossing) may(ctx context.Context, at string) error {
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	r := notRead
	if c.err == nil {
		r = c.w.judge(c.rules, c.address, to)
	}
	c.mu.Lock()
	c.said[netip.AddrPortFrom(plain(to.Addr()), to.Port())] = r
	c.mu.Unlock()
	if r.Allowed {
		return nil
	}
	return c.w.refused(ctx, c.address, to, r)
}

func (w *Way) refused(ctx context.Context, address string, to netip.AddrPort, r Ruling) error {
	return w.e.refuse(ctx, Refusal{Purpose: w.purpose, Destination: named(address), Address: to.String(), Ruling: r})
}

var notRead = Ruling{Rule: transit.NoLaw, Reason: "the security rules cannot be read"}

func (w *Way) ended(e Ended) {
	if w.e.o.Ended != nil {
		w.e.o.Ended(e)
	}
}

// over is the connection that was made. It is judged again while bytes move, so that
// one that is kept for the next request does not outlive a rule.
func (c *crossing) over(made net.Conn) net.Conn {
	if c.w.e.o.Rules == nil && c.w.e.o.Ended == nil {
		return made
	}
	e := Ended{Flow: c.w.flow(c.address, remote(made)), Start: c.start}
	if local, ok := made.LocalAddr().(*net.TCPAddr); ok {
		e.Source = local.AddrPort()
	}
	c.mu.Lock()
	by := c.said[e.Destination]
	c.mu.Unlock()
	e.Rule = by.Rule
	s := &sent{Conn: made, w: c.w, address: c.address, by: by, e: e}
	s.asked.Store(c.start.UnixNano())
	return s
}

func remote(c net.Conn) netip.AddrPort {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(plain(at.Addr()), at.Port())
}

// sent is a connection that the server has made.
type sent struct {
	net.Conn
	w       *Way
	address string
	by      Ruling // that let it go
	asked   atomic.Int64
	in, out atomic.Int64

	mu   sync.Mutex
	e    Ended
	over bool
}

func (s *sent) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	s.in.Add(int64(n))
	if refused := s.still(); refused != nil {
		return 0, refused
	}
	return n, err
}

func (s *sent) Write(p []byte) (int, error) {
	if err := s.still(); err != nil {
		return 0, err
	}
	n, err := s.Conn.Write(p)
	s.out.Add(int64(n))
	return n, err
}

// again is how long bytes move between two questions whether they still may.
const again = time.Second

func (s *sent) still() error {
	now, asked := time.Now().UnixNano(), s.asked.Load()
	if s.w.e.o.Rules == nil || s.w.purpose == ForDatabase || now-asked < int64(again) || !s.asked.CompareAndSwap(asked, now) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	rules, err := s.w.rules(ctx)
	if err != nil {
		return nil // what is under way stays, while nobody can say
	}
	r := s.w.stays(rules, s.address, remote(s.Conn), s.by)
	if r.Allowed {
		return nil
	}
	s.mu.Lock()
	s.e.Rule, s.e.Refused = r.Rule, true
	s.mu.Unlock()
	return errors.Join(s.w.refused(ctx, s.address, remote(s.Conn), r), s.Close())
}

// stays is what rules say of a connection that another ruling let go: it stands as
// long as no rule says otherwise.
func (w *Way) stays(rules *Rules, address string, to netip.AddrPort, by Ruling) Ruling {
	if r, decided := rules.Decide(w.flow(address, to)); decided {
		return r
	}
	if by.Rule == called(AllowDeclaredOutBound) {
		return by
	}
	return w.standard(address, inside(to.Addr())) // its rule is gone
}

func (s *sent) Close() error {
	s.mu.Lock()
	told := s.over
	s.over = true
	e := s.e
	s.mu.Unlock()
	err := s.Conn.Close()
	if !told {
		e.In, e.Out = s.in.Load(), s.out.Load()
		s.w.ended(e)
	}
	return err
}

// Explain is what would come of a connection to a destination that is declared, if
// its name leads to ip; invalid is an address that nobody has looked up.
func (e *Egress) Explain(rules *Rules, p Purpose, address string, ip netip.Addr) (Ruling, []Step) {
	w := e.To(p, address)
	to := netip.AddrPortFrom(ip, port(address))
	var steps []Step
	say := func(r Ruling) (Ruling, []Step) {
		return r, append(steps, Step{r.Rule, r.outcome(), r.Reason})
	}
	if ip.IsValid() {
		if why := never(ip); why != "" {
			return say(Ruling{Rule: "<never>", Reason: why})
		}
		steps = append(steps, Step{"<never>", Continue, "it is an address that can be reached"})
	} else {
		steps = append(steps, Step{"<never>", Continue, "whether its address can be reached is known when it is looked up"})
	}
	if p != ForDatabase {
		r, decided, asked := rules.Explain(w.flow(address, to))
		if steps = append(steps, asked...); decided {
			return r, steps
		}
	}
	return say(w.standard(address, inside(ip)))
}

// Resolve is where a name leads now, to explain with.
func (e *Egress) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	return e.o.Resolver.LookupNetIP(ctx, "ip", host) // nil is the machine's
}

func port(address string) uint16 {
	_, text, err := net.SplitHostPort(address)
	if err != nil {
		return 0
	}
	n, err := net.LookupPort("tcp", text)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// Defaults are the rules that count after all others, here: in the hardened profile
// nobody is reached because a document says so.
func (e *Egress) Defaults() []NamedRule {
	return slices.DeleteFunc(DefaultRules(), func(r NamedRule) bool { return e.o.Hardened && r.Name == AllowDeclaredOutBound })
}
