// Package seal decides how bytes are encrypted (DP-4): every object and every
// manifest, with a key of its own, bound to its place, so that whoever can read
// or change the raw storage learns and changes nothing unseen.
//
// docs/format.md describes the bytes.
package seal

import (
	"errors"
	"io"

	"breakwater/keys"
)

// ErrDamaged says that sealed bytes are not what was sealed: flipped, cut,
// reordered, moved to another place, or sealed with another key.
var ErrDamaged = errors.New("sealed bytes are damaged or from another place")

// A Place is where a sealed object belongs. It is bound to the bytes: moved to
// another place they do not open.
type Place struct {
	Registry string // uid
	Object   string // the key in the object store, or the column and row
}

// NewReader returns the sealed form of src. It implements io.WriterTo, which
// writes a few large pieces. When src fails, so does the reader, and what came
// out of it so far does not open. No error but io.EOF ends a whole object.
func NewReader(src io.Reader, k keys.DataKey, p Place) io.Reader { return nil }

// NewWriter seals what is written to it onto dst. Close writes the last
// segment; what was not closed does not open.
func NewWriter(dst io.Writer, k keys.DataKey, p Place) (*Writer, error) { return nil, nil }

// A Writer seals what is written to it.
type Writer struct{}

func (w *Writer) Write(p []byte) (int, error) { return 0, nil }
func (w *Writer) Close() error                { return nil }

// Open opens sealed bytes of the given length for reading. It checks the first
// and the last segment's place at once, so a truncated object is ErrDamaged
// before anything of it was read.
func Open(r io.ReaderAt, size int64, ring *keys.Ring, p Place) (*Reader, error) { return nil, nil }

// A Reader reads what is sealed, anywhere in it. Its methods may be called at
// the same time.
type Reader struct{}

// Size is the length of the plaintext.
func (r *Reader) Size() int64 { return 0 }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) { return 0, nil }

// NewStream returns a reader of its own position, for http.ServeContent. Close
// gives its buffer back.
func (r *Reader) NewStream() *Stream { return nil }

// A Stream reads sealed bytes one after the other: io.ReadSeekCloser and
// io.WriterTo.
type Stream struct{}

func (s *Stream) Read(p []byte) (int, error)                   { return 0, nil }
func (s *Stream) Seek(offset int64, whence int) (int64, error) { return 0, nil }
func (s *Stream) Close() error                                 { return nil }
func (s *Stream) WriteTo(w io.Writer) (int64, error)           { return 0, nil }

// WriteNTo writes the next n bytes to w without a copy: what io.CopyN would do
// if it could (http.ServeContent uses io.CopyN; a ResponseWriter whose ReadFrom
// sees *io.LimitedReader can hand its R and N to this).
func (s *Stream) WriteNTo(w io.Writer, n int64) (int64, error) { return 0, nil }

// Size is the length of the plaintext of sealed bytes; ErrDamaged if there is
// none of that length.
func Size(sealed int64) (plain int64, err error) { return 0, nil }

// Small seals bytes that are wholly in memory, in one segment.
func Small(k keys.DataKey, p Place, plaintext []byte) ([]byte, error) { return nil, nil }

// OpenSmall opens what Small sealed.
func OpenSmall(ring *keys.Ring, p Place, sealed []byte) ([]byte, error) { return nil, nil }
