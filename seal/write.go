package seal

import (
	"errors"
	"io"
	"math"
	"sync"

	"breakwater/keys"
)

// chunk is how many sealed bytes are made before they are handed on: few system
// calls, and still in the processor's cache.
const chunk = 4 * segment

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// NewReader returns the sealed form of src.
//
// Who opens it needs the secret, too.
//
// When src fails, so does the sealed form, and what has come out of it does not
// open. A src that ends with io.ErrUnexpectedEOF, like the body of a request
// that was cut off, has failed.
func NewReader(src io.Reader, k keys.DataKey, p Place, secret Secret) *Source {
	return &Source{src: src, key: k, place: p, secret: secret}
}

// A Source is the sealed form of a reader: an io.Reader, and an io.WriterTo
// that copies no byte and writes pieces of 256 KiB.
type Source struct {
	src    io.Reader
	key    keys.DataKey
	place  Place
	secret Secret

	cryptor
	nonce nonce
	i     int64        // the next segment
	buf   *[chunk]byte // nil before the first and after the last piece
	out   []byte       // the part of buf that is sealed and not yet handed on
	ahead [1]byte      // the first byte of segment i,
	had   int          // if it was read
	err   error        // what comes after out
}

// Read implements io.Reader.
func (s *Source) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if s.err != nil {
			s.release()
			return 0, s.err
		}
		s.next()
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (s *Source) WriteTo(w io.Writer) (written int64, err error) {
	defer s.release()
	for {
		if len(s.out) > 0 {
			n, err := w.Write(s.out)
			written += int64(n)
			if err != nil {
				return written, err
			}
		}
		if s.err == io.EOF {
			return written, nil
		}
		if s.err != nil {
			return written, s.err
		}
		s.next()
	}
}

func (s *Source) release() {
	if s.buf != nil {
		chunks.Put(s.buf)
	}
	s.buf, s.out = nil, nil
	if s.err == nil {
		s.err = errors.New("seal: read after a failed write")
	}
}

// next makes a piece of up to four segments, and sets err when it is the last.
// It reads one byte further than it seals, because a full segment is only known
// to be the last when nothing follows it.
func (s *Source) next() {
	end := 0
	if s.buf == nil {
		s.buf = chunks.Get().(*[chunk]byte)
		if s.cryptor, s.err = begin(s.buf[:], segmented, s.key, s.place, s.secret); s.err != nil {
			return
		}
		end = headerSize
	}
	s.out = nil
	for limit := segment; limit <= chunk && s.err == nil; limit += segment {
		plaintext := s.buf[end : limit-tagSize]
		n := copy(plaintext, s.ahead[:s.had])
		m, err := fill(s.src, plaintext[n:])
		n += m
		if err == nil {
			s.had, err = fill(s.src, s.ahead[:])
		}
		if err == nil && s.i == math.MaxUint32 {
			err = errors.New("seal: more than 256 TiB")
		}
		if s.err = err; err != nil && err != io.EOF {
			return
		}
		s.seal(&s.nonce, plaintext[:n], s.i, err == io.EOF)
		s.i++
		end += n + tagSize
	}
	s.out = s.buf[:end]
}

// fill reads until p is full. Its error is that of r, and only if p is not full:
// io.ReadFull would not tell a cut body from a short one.
func fill(r io.Reader, p []byte) (n int, err error) {
	for idle := 0; n < len(p); {
		m, err := r.Read(p[n:])
		n += m
		if n < len(p) && err != nil {
			return n, err
		}
		if m > 0 {
			idle = 0
		} else if idle++; idle == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}
