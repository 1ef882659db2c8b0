package db

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"github.com/ncruces/go-sqlite3"
	"github.com/ncruces/go-sqlite3/util/vfsutil"
	"github.com/ncruces/go-sqlite3/vfs"
	"lukechampine.com/adiantum"
	"lukechampine.com/adiantum/hbsh"
)

// cipherVFS encrypts all that SQLite writes, with Adiantum. It knows the key, so
// that the key is in no file name, no PRAGMA and hence in no error.
//
// A file is encrypted in units, each a permutation of its own bytes under the
// key and a tweak of kind and offset: nothing grows or moves. What SQLite writes
// at once is one unit: a page of the database file; in the log, its header, the
// header of a frame, or the page of a frame. This is what sets it apart from the
// library's vfs/adiantum, whose units in the log are blocks of 4 KiB across the
// frames: a frame then costs three times read, decipher, encipher and write under
// file locks; and each commit must be padded, since appending rewrites a block in
// which the last commit ends, which a power cut could tear. Here a write touches
// no byte that is durable already.
//
// It hides content, it does not by itself prove it: a changed unit deciphers to
// noise, in which the page's checksum (see openSQLite) is wrong.
type cipherVFS struct {
	vfs.VFS // the operating system's
	key     []byte

	// head keeps the write of the first page apart from reads of a part of it,
	// which a new connection does before it takes any lock of SQLite's.
	head sync.RWMutex
}

const (
	pageSize    = 4096
	logHeader   = 32
	frameHeader = 24
)

func (v *cipherVFS) Open(string, vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	return nil, 0, sqlite3.CANTOPEN // OpenFilename is called instead
}

func (v *cipherVFS) OpenFilename(name *vfs.Filename, flags vfs.OpenFlag) (vfs.File, vfs.OpenFlag, error) {
	f, flags, err := vfsutil.WrapOpenFilename(v.VFS, name, flags)
	if err != nil {
		return nil, flags, err
	}
	key := bytes.Clone(v.key)
	if name == nil { // temporary: nobody will ask for it again
		rand.Read(key)
	}
	c := &cipherFile{File: f, vfs: v, cipher: adiantum.New(key), unit: pages}
	switch {
	case flags&vfs.OPEN_MAIN_DB != 0:
		c.kind = 1
	case flags&vfs.OPEN_WAL != 0:
		c.kind, c.unit = 2, frames
	}
	return c, flags, nil
}

// pages are the units of every file but the log.
func pages(off int64) (start, size int64) { return off &^ (pageSize - 1), pageSize }

// frames are the units of the log.
func frames(off int64) (start, size int64) {
	if off < logHeader {
		return 0, logHeader
	}
	start = off - (off-logHeader)%(frameHeader+pageSize)
	if off < start+frameHeader {
		return start, frameHeader
	}
	return start + frameHeader, pageSize
}

// cipherFile is one open file. As SQLite's own, it is used by one goroutine at a time.
type cipherFile struct {
	vfs.File
	vfs    *cipherVFS
	cipher *hbsh.HBSH
	kind   byte // 1 database, 2 log, 0 other
	unit   func(off int64) (start, size int64)
	buf    [pageSize]byte
	tweak  [8]byte

	// A frame's header waits here for its page, which SQLite writes next, and both
	// become one system call. Whatever comes instead writes it first.
	frame  [frameHeader + pageSize]byte
	waits  bool
	header int64 // where it belongs
}

func (f *cipherFile) at(start int64) []byte {
	binary.LittleEndian.PutUint64(f.tweak[:], uint64(start)|uint64(f.kind)<<56)
	return f.tweak[:]
}

// load deciphers the unit at start into buf, which has its size. A unit that the
// file does not have whole is io.EOF; one that was never written is zeros.
func (f *cipherFile) load(buf []byte, start int64) error {
	if n, err := f.File.ReadAt(buf, start); n < len(buf) {
		if err == nil || err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return err
	}
	if hole(buf) {
		return nil
	}
	f.cipher.Decrypt(buf, f.at(start))
	return nil
}

func hole(b []byte) bool {
	return binary.LittleEndian.Uint64(b) == 0 && len(bytes.TrimLeft(b, "\x00")) == 0
}

func (f *cipherFile) ReadAt(p []byte, off int64) (n int, err error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	for n < len(p) {
		start, size := f.unit(off)
		if start == off && int(size) <= len(p)-n {
			if err := f.load(p[n:n+int(size)], start); err != nil {
				return n, err
			}
			n, off = n+int(size), off+size
			continue
		}
		if f.kind == 1 && start == 0 {
			f.vfs.head.RLock()
		}
		err := f.load(f.buf[:size], start)
		if f.kind == 1 && start == 0 {
			f.vfs.head.RUnlock()
		}
		if err != nil {
			return n, err
		}
		m := copy(p[n:], f.buf[off-start:size])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// store writes an enciphered unit.
func (f *cipherFile) store(unit []byte, start int64) error {
	if f.kind == 2 && len(unit) == frameHeader {
		if err := f.flush(); err != nil {
			return err
		}
		copy(f.frame[:], unit)
		f.waits, f.header = true, start
		return nil
	}
	if f.waits && start == f.header+frameHeader {
		f.waits = false
		copy(f.frame[frameHeader:], unit)
		unit, start = f.frame[:], f.header
	}
	if err := f.flush(); err != nil {
		return err
	}
	if f.kind == 1 && start == 0 {
		f.vfs.head.Lock()
		defer f.vfs.head.Unlock()
	}
	_, err := f.File.WriteAt(unit, start)
	return full(err)
}

// flush writes the header that waits.
func (f *cipherFile) flush() error {
	if !f.waits {
		return nil
	}
	f.waits = false
	_, err := f.File.WriteAt(f.frame[:frameHeader], f.header)
	return full(err)
}

func (f *cipherFile) WriteAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		start, size := f.unit(off)
		buf := f.buf[:size]
		if start != off || int(size) > len(p)-n { // a journal; the rest of the unit stays
			if err := f.flush(); err != nil {
				return n, err
			}
			if err := f.load(buf, start); err == io.EOF {
				clear(buf)
			} else if err != nil {
				return n, err
			}
		}
		m := copy(buf[off-start:], p[n:])
		f.cipher.Encrypt(buf, f.at(start))
		if err := f.store(buf, start); err != nil {
			return n, err
		}
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// full marks a full disk: the library looks for a bare errno, which os.File does not return.
func full(err error) error {
	if noRoom(err) {
		return vfs.SystemError(err, sqlite3.FULL)
	}
	return err
}

func (f *cipherFile) Sync(flags vfs.SyncFlag) error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Sync(flags)
}

func (f *cipherFile) Truncate(size int64) error {
	if err := f.flush(); err != nil {
		return err
	}
	return f.File.Truncate(size)
}

func (f *cipherFile) Size() (int64, error) {
	if err := f.flush(); err != nil {
		return 0, err
	}
	return f.File.Size()
}

func (f *cipherFile) Close() error {
	return errors.Join(f.flush(), f.File.Close())
}

// DeviceCharacteristics keeps what is still true under the cipher.
func (f *cipherFile) DeviceCharacteristics() vfs.DeviceCharacteristic {
	return f.File.DeviceCharacteristics() & (vfs.IOCAP_POWERSAFE_OVERWRITE | vfs.IOCAP_SUBPAGE_READ | vfs.IOCAP_UNDELETABLE_WHEN_OPEN)
}

// SharedMemory is the index of the log: page numbers, no content, so it is not encrypted.
func (f *cipherFile) SharedMemory() vfs.SharedMemory { return vfsutil.WrapSharedMemory(f.File) }
