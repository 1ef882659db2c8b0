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
	http.ResponseWriter
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
	return a.ResponseWriter.Write(p)
}

func (a *answer) WriteString(s string) (int, error) {
	if err := a.begin(); err != nil {
		return 0, err
	}
	return io.WriteString(a.ResponseWriter, s)
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
			n, err = part.WriteN(a.ResponseWriter, l.N)
			l.N -= n
			return n, err
		}
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{a.ResponseWriter}, src, buf[:])
}

// A body is a request's body that must keep coming: 1 KiB for each second of
// stall in any such span of time, or reading it fails and the connection ends. A
// slow client holds memory and an upload session; the length of a body says
// nothing about its patience.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	stall   time.Duration
	renewed time.Time
	brought int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.renewed.IsZero() || b.brought >= int64(b.stall/time.Second)<<10 {
		if now := time.Now(); now.Sub(b.renewed) >= time.Second {
			if err := b.control.SetReadDeadline(now.Add(b.stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return 0, err
			}
			b.renewed, b.brought = now, 0
		}
	}
	n, err := b.ReadCloser.Read(p)
	b.brought += int64(n)
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

// rest lifts the deadline: what the handler does with a whole body may take its
// time.
func (b *body) rest() {
	if !b.renewed.IsZero() {
		b.renewed, b.brought = time.Time{}, 0
		_ = b.control.SetReadDeadline(time.Time{})
	}
}
