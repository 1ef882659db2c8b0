package link

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Frames of yamux: version, type, flags, stream, length.
const (
	frameHeader = 12
	frameData   = 0
	framePing   = 2
	flagSYN     = 1
)

// What the other side may ask for a second without being read more slowly: yamux
// starts a goroutine for each ping and keeps a stream for each opening.
const (
	pingRate = 10
	openRate = 500
)

var errFrame = errors.New("a frame longer than any window")

// framed is a connection below yamux. It watches the frames that come in: who
// floods is read slowly, and a frame that nobody asked for ends the connection,
// where yamux would wait for 4 GiB to throw away. And it sends a frame's header
// together with its body, in one record and one system call.
type framed struct {
	net.Conn
	pings, opens *rate.Limiter
	once         sync.Once
	closed       chan struct{}

	head [frameHeader]byte // that is being read
	have int               // … so far
	body uint32            // bytes that come before the next header
	held []byte            // a header to send that waits for its body
}

func newFramed(c net.Conn) *framed {
	return &framed{Conn: c, closed: make(chan struct{}),
		pings: rate.NewLimiter(pingRate, 2*pingRate), opens: rate.NewLimiter(openRate, 2*openRate)}
}

func (f *framed) Close() error {
	f.once.Do(func() { close(f.closed) })
	return f.Conn.Close()
}

func (f *framed) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if wrong := f.watch(p[:n]); wrong != nil {
		return 0, wrong
	}
	return n, err
}

func (f *framed) watch(p []byte) error {
	for len(p) > 0 {
		if f.body > 0 {
			n := min(uint32(len(p)), f.body)
			p, f.body = p[n:], f.body-n
			continue
		}
		n := copy(f.head[f.have:], p)
		p, f.have = p[n:], f.have+n
		if f.have < frameHeader {
			return nil
		}
		f.have = 0
		kind, opens := f.head[1], binary.BigEndian.Uint16(f.head[2:])&flagSYN != 0
		if kind == frameData {
			if f.body = binary.BigEndian.Uint32(f.head[8:]); f.body > Window {
				return errFrame
			}
		}
		if !opens {
			continue
		}
		limit := f.opens
		if kind == framePing {
			limit = f.pings
		}
		if wait := limit.Reserve().Delay(); wait > 0 {
			select {
			case <-time.After(wait):
			case <-f.closed:
				return net.ErrClosed
			}
		}
	}
	return nil
}

// Write is called by one goroutine of yamux: with a header, then with its body.
func (f *framed) Write(p []byte) (int, error) {
	if len(f.held) == 0 {
		if len(p) == frameHeader && p[1] == frameData && binary.BigEndian.Uint32(p[8:]) > 0 {
			f.held = append(f.held, p...)
			return len(p), nil
		}
		return f.Conn.Write(p)
	}
	f.held = append(f.held, p...)
	_, err := f.Conn.Write(f.held)
	f.held = f.held[:0]
	if err != nil {
		return 0, err
	}
	return len(p), nil
}
