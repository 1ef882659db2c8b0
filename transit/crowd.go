package transit

import (
	"container/list"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A crowd is the connections of a listener. When it is full, the address that
// holds the most connections loses its longest idle one to the newcomer: who
// hoards idle connections cannot lock the others out, and no request under way
// is cut.
type crowd struct {
	total, perAddress int
	unbounded         []netip.Prefix // proxies: many clients behind one address
	refused           atomic.Uint64

	mu     sync.Mutex
	guests map[net.Conn]*guest
	tables map[netip.Addr]*table
}

// A table is the guests of one address.
type table struct {
	count int
	idle  list.List // of *guest, longest idle first
}

type guest struct {
	conn net.Conn
	from netip.Addr
	idle *list.Element // nil while a request is under way
}

func newCrowd(o Options) *crowd {
	return &crowd{
		total: o.Connections, perAddress: o.PerAddress, unbounded: slices.Concat(o.Proxies, o.Forwarders),
		guests: map[net.Conn]*guest{}, tables: map[netip.Addr]*table{},
	}
}

func (c *crowd) held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.guests)
}

// enter makes room for conn, or says that there is none.
func (c *crowd) enter(conn net.Conn) bool {
	from, _ := addr(conn.RemoteAddr())
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.tables[from]; c.perAddress > 0 && from.IsValid() && t != nil && t.count >= c.perAddress && !listed(c.unbounded, from) && !c.evict(t) ||
		c.total > 0 && len(c.guests) >= c.total && !c.evict(c.fullest()) {
		c.refused.Add(1)
		return false
	}
	t := c.tables[from]
	if t == nil {
		t = new(table)
		c.tables[from] = t
	}
	t.count++
	g := &guest{conn: conn, from: from}
	g.idle = t.idle.PushBack(g)
	c.guests[conn] = g
	return true
}

// fullest is the table with the most guests of those that have an idle one.
func (c *crowd) fullest() *table {
	var most *table
	for _, t := range c.tables {
		if t.idle.Len() > 0 && (most == nil || t.count > most.count) {
			most = t
		}
	}
	return most
}

func (c *crowd) evict(t *table) bool {
	if t == nil || t.idle.Len() == 0 {
		return false
	}
	g := t.idle.Front().Value.(*guest)
	c.leave(g)
	g.conn.(*conn).Conn.Close() // not its own Close: that takes the lock
	return true
}

func (c *crowd) leave(g *guest) {
	t := c.tables[g.from]
	if g.idle != nil {
		t.idle.Remove(g.idle)
		g.idle = nil
	}
	delete(c.guests, g.conn)
	if t.count--; t.count == 0 {
		delete(c.tables, g.from)
	}
}

// gone is told by the connection itself when it is closed.
func (c *crowd) gone(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.guests[conn]; g != nil {
		c.leave(g)
	}
}

// state follows what net/http does with a connection.
func (c *crowd) state(outer net.Conn, s http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.guests[bare(outer)]
	if g == nil {
		return
	}
	switch idle := &c.tables[g.from].idle; {
	case s == http.StateActive && g.idle != nil:
		idle.Remove(g.idle)
		g.idle = nil
	case s == http.StateIdle && g.idle == nil:
		g.idle = idle.PushBack(g)
	}
}

// bare is the connection as it was accepted.
func bare(outer net.Conn) net.Conn {
	if t, ok := outer.(*tls.Conn); ok {
		outer = t.NetConn()
	}
	if j, ok := outer.(*judged); ok {
		outer = j.Conn
	}
	if p, ok := outer.(client); ok {
		outer = p.Raw()
	}
	return outer
}

// A door lets connections in as long as there is room.
type door struct {
	net.Listener
	crowd *crowd
}

func (d *door) Accept() (net.Conn, error) {
	for {
		accepted, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		BufferLittle(accepted)
		c := &conn{Conn: accepted, crowd: d.crowd}
		if d.crowd.enter(c) {
			return c, nil
		}
		accepted.Close()
	}
}

// BufferLittle has the kernel keep little of what c does not take. (Set on the
// listening socket it would be for MPTCP only.)
func BufferLittle(c net.Conn) {
	tcp, ok := bare(c).(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
		})
	}
}
