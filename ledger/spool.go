package ledger

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// A spool holds what was noted until it is in the table. It is two files of
// fixed size, used in turn and allocated beforehand, so that noting goes on when
// the disk is full. A written record survives the death of the process; it
// waits for no disk.
//
// A file starts with a header (magic, use, salt, tag); records follow at
// multiples of 8: length, index, run, sealed. Each use of a file has its own
// key, from the spool's key and the salt. The nonce is index and run; run is
// another one in each process and after each failed write, so no nonce is used
// twice. What an earlier use left behind does not open.
type spool struct {
	mu     sync.Mutex
	secret []byte
	size   int64
	run    uint64
	files  [2]segment
	live   *segment
	done   place         // what is in the table already
	noted  int           // records written since the last mark
	step   chan struct{} // closed when done moves; nil if nobody waits for that
}

// A place is how far the records of one use went into the table.
type place struct {
	use, index uint32
	off        int64 // of the record index, when it is known
}

// stored is a place as the cursor table keeps it.
func (p place) stored() int64 { return int64(p.use)<<32 | int64(p.index) }

func placed(n int64) place { return place{use: uint32(n >> 32), index: uint32(n), off: headSize} }

type segment struct {
	f    *os.File
	aead cipher.AEAD
	use  uint32 // 0: never used
	next uint32 // index of the record to come
	end  int64  // where it will be

	damaged bool // the header does not open: what it held is lost
}

const (
	magic     = "bwspool1"
	headSize  = 64
	recHead   = 16
	tagSize   = 16
	maxRecord = 64 << 10 // with head and tag
)

var errFull = errors.New("the spool is full")

func align(n int) int { return (n + 7) &^ 7 }

// openSpool opens or creates the files and finds the end of what they hold.
func openSpool(dir string, secret []byte, size int64) (*spool, error) {
	s := &spool{secret: secret, size: size, run: newRun()}
	for i := range s.files {
		if err := s.files[i].open(filepath.Join(dir, fmt.Sprintf("spool-%d", i)), secret, size); err != nil {
			s.close()
			return nil, fmt.Errorf("open spool: %w", err)
		}
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("open spool: %w", err)
	}
	return s, nil
}

func newRun() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// open allocates the file to its full size: a later write into it needs no new
// room on the disk.
func (g *segment) open(path string, secret []byte, size int64) (err error) {
	if g.f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	info, err := g.f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < size {
		if err := allocate(g.f, info.Size(), size); err != nil {
			return err
		}
		if err := g.f.Sync(); err != nil {
			return err
		}
	}
	var head [headSize]byte
	if _, err := g.f.ReadAt(head[:], 0); err != nil {
		return err
	}
	if !g.parse(head, secret) {
		g.damaged = head != [headSize]byte{}
		return nil
	}
	sc := g.scan(placed(0), info.Size())
	for sc.next() {
	}
	g.next, g.end = sc.index, sc.off
	return sc.err
}

func allocate(f *os.File, from, to int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, from, to-from)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	_, err = io.CopyN(io.NewOffsetWriter(f, from), zeros{}, to-from)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// parse takes use and key from the header, if it is whole and ours.
func (g *segment) parse(head [headSize]byte, secret []byte) bool {
	use := binary.LittleEndian.Uint64(head[8:])
	if string(head[:8]) != magic || use == 0 || use >= 1<<31 {
		return false
	}
	aead := sealer(secret, head[16:48])
	if _, err := aead.Open(nil, headNonce, head[48:], head[:48]); err != nil {
		return false
	}
	g.aead, g.use, g.next, g.end = aead, uint32(use), 0, headSize
	return true
}

// headNonce is no record's: an index never gets that far.
var headNonce = []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")

func sealer(secret, salt []byte) cipher.AEAD {
	k, err := hkdf.Key(sha256.New, secret, salt, "breakwater ledger spool", 32)
	if err != nil {
		panic(err) // only a length that is wrong in this line
	}
	block, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// begin makes the segment empty, for its next use.
func (g *segment) begin(use uint32, secret []byte) error {
	var head [headSize]byte
	copy(head[:], magic)
	binary.LittleEndian.PutUint64(head[8:], uint64(use))
	rand.Read(head[16:48])
	aead := sealer(secret, head[16:48])
	aead.Seal(head[48:48], headNonce, nil, head[:48])
	if _, err := g.f.WriteAt(head[:], 0); err != nil {
		return err
	}
	g.aead, g.use, g.next, g.end = aead, use, 0, headSize
	return nil
}

// found says how far the table is, as it was committed together with the rows.
func (s *spool) found(done place) error {
	s.done = done
	for i := range s.files {
		g := &s.files[i]
		if g.use != done.use || g.next <= done.index {
			continue
		}
		sc := g.scan(placed(int64(g.use)<<32), g.end)
		for sc.index < done.index && sc.next() {
			if sc.index <= done.index {
				s.done.off = sc.off
			}
		}
		if sc.err != nil {
			return sc.err
		}
	}
	return nil
}

// start begins a new use of a free file. If there is none, noting goes on behind
// what the newer file holds.
func (s *spool) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = s.newest()
	use := max(s.done.use, s.live.use) + 1
	for i := range s.files {
		if g := &s.files[i]; s.free(g) {
			s.live = g
			return g.begin(use, s.secret)
		}
	}
	return nil
}

// forget takes the damaged headers away, and tells how many there were.
func (s *spool) forget() (n int, err error) {
	for i := range s.files {
		if g := &s.files[i]; g.damaged {
			if _, err := g.f.WriteAt(make([]byte, headSize), 0); err != nil {
				return 0, err
			}
			g.damaged = false
			n++
		}
	}
	return n, nil
}

func (s *spool) newest() *segment {
	if s.files[1].use > s.files[0].use {
		return &s.files[1]
	}
	return &s.files[0]
}

// free reports whether the table has all that g holds.
func (s *spool) free(g *segment) bool {
	return g.use < s.done.use || g.use == s.done.use && g.next <= s.done.index
}

// write adds a record: b is room for its head and then the plain text; its
// capacity should have room for the tag. It returns the file that it went to, and
// how many were written since the last mark.
func (s *spool) write(b []byte) (*os.File, int, error) {
	n := align(len(b) + tagSize)
	if n > maxRecord {
		return nil, 0, fmt.Errorf("an event of %d bytes is too large to be noted", len(b))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.live
	if g.end+int64(n) > s.size {
		other := &s.files[0]
		if other == g {
			other = &s.files[1]
		}
		if !s.free(other) {
			return nil, 0, errFull
		}
		if err := other.begin(g.use+1, s.secret); err != nil {
			return nil, 0, err
		}
		s.live, g = other, other
	}
	binary.LittleEndian.PutUint32(b, uint32(len(b)-recHead+tagSize))
	binary.LittleEndian.PutUint32(b[4:], g.next)
	binary.LittleEndian.PutUint64(b[8:], s.run)
	b = g.aead.Seal(b[:recHead], b[4:recHead], b[recHead:], nil)
	if _, err := g.f.WriteAt(b, g.end); err != nil {
		s.run = newRun()
		return nil, 0, err
	}
	g.next++
	g.end += int64(n)
	s.noted++
	return g.f, s.noted, nil
}

// pending returns the records that the table has not, from the oldest file that
// has any, and where they begin.
func (s *spool) pending() (g segment, from place, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *segment
	for i := range s.files {
		f := &s.files[i]
		if f.use > 0 && f.next > 0 && !s.free(f) && (oldest == nil || f.use < oldest.use) {
			oldest = f
		}
	}
	if oldest == nil {
		return segment{}, place{}, false
	}
	if from = s.done; from.use != oldest.use {
		from = placed(int64(oldest.use) << 32)
	}
	return *oldest, from, true
}

func (s *spool) settle(done place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = done
	if s.step != nil {
		close(s.step)
		s.step = nil
	}
}

// moved is closed when the table has more than now.
func (s *spool) moved() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.step == nil {
		s.step = make(chan struct{})
	}
	return s.step
}

// mark returns the end of what is noted, and counts from there.
func (s *spool) mark() place {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noted = 0
	g := s.newest()
	return place{use: g.use, index: g.next}
}

func (s *spool) settled() place {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

func (s *spool) close() error {
	var errs []error
	for i := range s.files {
		if f := s.files[i].f; f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// A scanner reads records one after the other. It steps over what does not open
// if something behind it does: that was damage, and counts as lost. If nothing
// does, it was the torn end.
type scanner struct {
	r      io.ReaderAt
	aead   cipher.AEAD
	index  uint32 // of the next record
	off    int64  // where it should be
	limit  int64  // where records end at the latest
	lost   uint32
	record []byte // plain text of the current one
	err    error

	window []byte // of the file, from base
	base   int64
}

func (g *segment) scan(from place, limit int64) *scanner {
	return &scanner{r: g.f, aead: g.aead, index: from.index, off: from.off, limit: limit}
}

func (s *scanner) next() bool {
	for off := s.off; ; off += 8 {
		head := s.at(off, recHead)
		if head == nil {
			return false
		}
		n, index := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
		if n < tagSize || n > maxRecord-recHead || index < s.index || index-s.index > 1<<24 {
			continue
		}
		whole := s.at(off, recHead+int(n))
		if whole == nil {
			continue
		}
		plain, err := s.aead.Open(s.record[:0], whole[4:recHead], whole[recHead:], nil)
		if err != nil {
			continue
		}
		s.lost += index - s.index
		s.record, s.index, s.off = plain, index+1, off+int64(align(len(whole)))
		return true
	}
}

// at returns n bytes of the file, nil if records cannot lie there.
func (s *scanner) at(off int64, n int) []byte {
	if s.err != nil || off+int64(n) > s.limit {
		return nil
	}
	if off < s.base || off+int64(n) > s.base+int64(len(s.window)) {
		if s.window == nil {
			s.window = make([]byte, 4*maxRecord)
		}
		size := min(s.limit-off, int64(cap(s.window)))
		s.window, s.base = s.window[:size], off
		if _, err := s.r.ReadAt(s.window, off); err != nil {
			s.err = fmt.Errorf("read spool: %w", err)
			return nil
		}
	}
	return s.window[off-s.base:][:n]
}
