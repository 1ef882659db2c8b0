package seal

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"breakwater/keys"
)

// A page holds one opened segment.
type page struct {
	buf       [segment]byte
	nonce     nonce
	i         int64  // which segment, or -1
	plaintext []byte // in buf
}

var pages = sync.Pool{New: func() any { return new(page) }}

// A Reader reads sealed bytes, anywhere in them. Its methods may be called at
// the same time.
type Reader struct {
	cryptor
	r        io.ReaderAt
	sealed   int64
	plain    int64
	segments int64
	tail     atomic.Pointer[page] // the last segment, for the first stream
}

// Open opens sealed bytes of the given length for reading. It opens the last
// segment at once, so that bytes that were cut are ErrDamaged before the first
// of them is used. Errors of r are returned as they are, and an r that is
// shorter than size is ErrDamaged.
func Open(r io.ReaderAt, size int64, ring *keys.Ring, p Place, secret Secret) (*Reader, error) {
	segments, plain, err := layout(size)
	if err != nil {
		return nil, err
	}
	s := &Reader{r: r, sealed: size, plain: plain, segments: segments}
	t := pages.Get().(*page)
	begin := t.buf[:headerSize+tagSize]
	if segments == 1 {
		begin = t.buf[:size]
	}
	if err := s.read(begin, 0); err != nil {
		return nil, err
	}
	if s.cryptor, err = resume(begin, segmented, ring, p, secret); err != nil {
		return nil, err
	}
	if segments == 1 {
		t.i = 0
		t.plaintext, err = s.open(&t.nonce, begin[headerSize:], begin[headerSize:], 0, true)
	} else {
		err = s.load(t, segments-1)
	}
	if err != nil {
		return nil, err
	}
	s.tail.Store(t)
	return s, nil
}

// read fills b from the sealed bytes.
func (s *Reader) read(b []byte, off int64) error {
	n, err := s.r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut at byte %d", ErrDamaged, off+int64(n))
	}
	return err
}

// load opens segment i into pg.
func (s *Reader) load(pg *page, i int64) (err error) {
	from, to := max(i*segment, headerSize), min((i+1)*segment, s.sealed)
	b := pg.buf[:to-from]
	pg.i = -1
	if err := s.read(b, from); err != nil {
		return err
	}
	if pg.plaintext, err = s.open(&pg.nonce, b, b, i, i == s.segments-1); err != nil {
		return err
	}
	pg.i = i
	return nil
}

// at returns the plaintext from off to the end of its segment, in pg.
func (s *Reader) at(pg *page, off int64) ([]byte, error) {
	i := (off + headerSize) / (segment - tagSize)
	if pg.i != i {
		if err := s.load(pg, i); err != nil {
			return nil, err
		}
	}
	return pg.plaintext[off-max(i*(segment-tagSize)-headerSize, 0):], nil
}

// Size is the length of the plaintext.
func (s *Reader) Size() int64 { return s.plain }

// ReadAt implements io.ReaderAt.
func (s *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("seal: negative offset")
	}
	pg := pages.Get().(*page)
	defer pages.Put(pg)
	pg.i = -1
	for n < len(p) {
		if off >= s.plain {
			return n, io.EOF
		}
		b, err := s.at(pg, off)
		if err != nil {
			return n, err
		}
		m := copy(p[n:], b)
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// NewStream returns a reader with a position of its own, at the start. It holds
// one segment in memory until Close.
func (s *Reader) NewStream() *Stream {
	pg := s.tail.Swap(nil)
	if pg == nil {
		pg = pages.Get().(*page)
		pg.i = -1
	}
	return &Stream{r: s, page: pg}
}

var errClosed = errors.New("seal: stream is closed")

// A Stream reads sealed bytes one after the other: an io.ReadSeekCloser for
// http.ServeContent, and an io.WriterTo. Its methods are for one goroutine.
type Stream struct {
	r    *Reader
	off  int64
	page *page // nil when closed
}

// Read implements io.Reader.
func (s *Stream) Read(p []byte) (int, error) {
	b, err := s.next()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	n := copy(p, b)
	s.off += int64(n)
	return n, nil
}

func (s *Stream) next() ([]byte, error) {
	if s.page == nil {
		return nil, errClosed
	}
	if s.off >= s.r.plain {
		return nil, io.EOF
	}
	return s.r.at(s.page, s.off)
}

// WriteTo implements io.WriterTo.
func (s *Stream) WriteTo(w io.Writer) (int64, error) { return s.WriteN(w, math.MaxInt64) }

// WriteN writes the next n bytes, or as many as there are, to w: without the
// copy that io.CopyN makes, and in pieces of a segment. http.ServeContent calls
// io.CopyN, and a ResponseWriter with a ReadFrom sees an *io.LimitedReader
// there, whose R and N are for this method.
func (s *Stream) WriteN(w io.Writer, n int64) (written int64, err error) {
	for written < n {
		b, err := s.next()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		m, err := w.Write(b[:min(int64(len(b)), n-written)])
		s.off += int64(m)
		written += int64(m)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Seek implements io.Seeker. It reads nothing.
func (s *Stream) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += s.off
	case io.SeekEnd:
		offset += s.r.plain
	}
	if offset < 0 {
		return s.off, errors.New("seal: seek to before the start")
	}
	s.off = offset
	return offset, nil
}

// Close gives the buffer back. The sealed bytes stay open: they belong to who
// opened them.
func (s *Stream) Close() error {
	if s.page != nil {
		pages.Put(s.page)
		s.page = nil
	}
	return nil
}
