package gate

import (
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"breakwater/fault"
)

// chunk is how much of a body is moved at once: large enough that the cost of a
// call is nothing, small enough that a thousand streams fit in memory.
const chunk = 128 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// errSilenced is what a handler gets that writes after the door has refused.
var errSilenced = errors.New("gate: the answer was replaced by a refusal")

// An answer is the http.ResponseWriter that a handler gets. Before the first
// byte leaves it asks the door, once, whether the ledger has taken the call.
type answer struct {
	outlet
	before func(status int) error // nil if nothing is to be recorded
	status int                    // 0 until the answer has begun
	err    error                  // why the handler's answer must not leave, or not go on
}

// Unwrap lets http.ResponseController reach the connection.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(status int) {
	if a.status != 0 || a.err != nil {
		return
	}
	if a.before != nil && status >= 200 {
		if a.err = a.before(status); a.err != nil {
			return
		}
	}
	if status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) begin() error {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if a.err != nil {
		return errSilenced
	}
	return nil
}

func (a *answer) Write(p []byte) (int, error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	n, err := a.outlet.Write(p)
	if err != nil && a.err == nil {
		a.err = err
	}
	return n, err
}

func (a *answer) WriteString(s string) (int, error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	return io.WriteString(&a.outlet, s)
}

// ReadFrom moves a body in large pieces. net/http's own would fall back to 32 KiB
// because a TLS connection cannot send files; a source that can write n bytes of
// itself, such as a sealed stream, is not copied at all. An error is kept, because
// http.ServeContent drops it.
func (a *answer) ReadFrom(src io.Reader) (n int64, err error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	if n, err = a.move(src); err != nil {
		a.err = err
	}
	return n, err
}

func (a *answer) move(src io.Reader) (n int64, err error) {
	if l, ok := src.(*io.LimitedReader); ok {
		if part, ok := l.R.(interface {
			WriteN(w io.Writer, n int64) (int64, error)
		}); ok {
			n, err = part.WriteN(&a.outlet, l.N)
			l.N -= n
			return n, err
		}
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{&a.outlet}, src, buf[:])
}

// A body is a request's body that must keep coming. A slow client holds memory
// and an upload session; the length of a body says nothing about its patience.
type body struct {
	io.ReadCloser
	pace
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.keep(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.moved += int64(n)
	switch {
	case err == io.EOF:
		b.rest()
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fault.New(fault.RequestTimeout, "the body came too slowly").Because(err)
	case err != nil: // it is broken off, or framed in a way that nobody can read
		err = fault.New(fault.SizeInvalid, "the body ended before its end").Because(err)
	}
	return n, err
}

// An outlet is where an answer leaves, which must keep going: a slow client holds
// an open object and one of the requests that may be under way, and over HTTP/2
// nobody else watches it.
type outlet struct {
	http.ResponseWriter
	pace
	lost bool // the connection broke: nobody waits for the rest
}

func (o *outlet) Write(p []byte) (int, error) {
	if err := o.keep(); err != nil {
		return 0, err
	}
	n, err := o.ResponseWriter.Write(p)
	o.moved += int64(n)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fault.New(fault.RequestTimeout, "the client took its answer too slowly").Because(err)
	case err != nil:
		// These two are what net/http says of a handler, and not of a connection.
		o.lost = !errors.Is(err, http.ErrContentLength) && !errors.Is(err, http.ErrBodyNotAllowed)
	}
	return n, err
}

// A pace is kept by moving 1 KiB for each second of stall in any such span of
// time. Who does not meets the deadline, which is renewed rarely: a timer for
// each piece would cost more than the piece.
type pace struct {
	deadline func(time.Time) error
	stall    time.Duration
	free     int64 // bytes before it counts
	renewed  time.Time
	moved    int64

	still func() error // whether bytes may go on moving; nil for always
	asked time.Time    // when it was asked last
}

// recheck is how long bytes move between two questions whether they still may.
const recheck = time.Second

// keep is called before bytes move.
func (p *pace) keep() error {
	if p.still != nil {
		if now := time.Now(); now.Sub(p.asked) >= recheck {
			if err := p.still(); err != nil {
				return err
			}
			p.asked = now
		}
	}
	if p.renewed.IsZero() && p.moved < p.free || !p.renewed.IsZero() && p.moved < int64(p.stall/time.Second)<<10 {
		return nil
	}
	now := time.Now()
	if now.Sub(p.renewed) < time.Second {
		return nil
	}
	if err := p.deadline(now.Add(p.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	p.renewed, p.moved = now, 0
	return nil
}

// rest lifts the deadline: what the handler does with a whole body, or the client
// before its next request, may take its time.
func (p *pace) rest() {
	if !p.renewed.IsZero() {
		p.renewed, p.moved = time.Time{}, 0
		_ = p.deadline(time.Time{})
	}
}
