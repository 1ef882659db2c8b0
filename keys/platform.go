package keys

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Platform is a key of the server itself: the platform key, from a file, or the root
// that it opens. Everything that the server stores can be opened with the root, and
// nothing without it.
type Platform struct {
	silent
	key secret
}

// OpenPlatform reads the platform key from the file path. Where there is no
// file it makes one, and returns only when the file would survive a power cut,
// because what is sealed next can be opened with nothing else. A process that
// dies half-way leaves no half key: the file appears whole or not at all.
//
// A symbolic link, a file of another size, or one that the group or others may read or
// that belongs to somebody else, is refused.
func OpenPlatform(path string) (*Platform, error) {
	p, err := readPlatform(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, Size)
		rand.Read(key)
		defer clear(key)
		if err := createPlatform(path, key); err != nil {
			return nil, fmt.Errorf("create the platform key: %w", err)
		}
		p, err = readPlatform(path)
	}
	return p, err
}

func readPlatform(path string) (*Platform, error) {
	f, info, err := openOwn("platform key", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info.Size() != Size {
		return nil, fmt.Errorf("platform key %s: not a file of %d bytes; restore it from its copy", path, Size)
	}
	var key [Size]byte
	if _, err := f.ReadAt(key[:], 0); err != nil {
		return nil, fmt.Errorf("platform key: %w", err)
	}
	return &Platform{key: hide(key[:])}, nil
}

// openOwn opens a file that is one, and that nobody else can read or has put there. what
// is in it stands in the errors.
func openOwn(what, path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, nil, fmt.Errorf("%s %s: a symbolic link; name the file itself", what, path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("%s: %w", what, err)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s %s: not a file", what, path)
	case !private(f, info.Mode()):
		err = fmt.Errorf("%s %s: others may read it (mode %04o); change it to 0600 and consider known what is in it", what, path, info.Mode().Perm())
	default:
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && int(owner) != os.Geteuid() {
			err = fmt.Errorf("%s %s: it belongs to somebody else (user %d); give it to the user that the server runs as", what, path, owner)
		}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, info, nil
}

// private reports whether nobody may read a file but its owner and the user of this
// process. systemd gives a credential to a service's user by an access list, whose
// mask looks like rights of the group.
func private(f *os.File, mode fs.FileMode) bool {
	if mode.Perm()&0o077 == 0 {
		return true
	}
	var list [4 + 16*8]byte
	n, err := unix.Fgetxattr(int(f.Fd()), "system.posix_acl_access", list[:])
	if err != nil || n < 4 || mode.Perm()&0o007 != 0 {
		return false
	}
	const owner, user, mask = 0x01, 0x02, 0x10 // whom an entry is for; all others are groups or everybody
	for e := list[4:n]; len(e) >= 8; e = e[8:] {
		whom, may, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		if may == 0 || whom == owner || whom == mask || whom == user && int(id) == os.Geteuid() {
			continue
		}
		return false
	}
	return true
}

// createPlatform writes beside path and then links: unlike a rename, a link
// never replaces a key that another process made first.
func createPlatform(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".platform-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }() // no second copy stays unnoticed
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// Derive returns the key of one purpose: "database", "token-check" … Keys of
// different purposes tell nothing about each other or about the platform key.
func (p *Platform) Derive(purpose string) []byte {
	key, err := hkdf.Key(sha256.New, p.key()[:], nil, "breakwater platform 1/"+purpose, Size)
	if err != nil {
		panic(err) // only for lengths that HKDF cannot yield
	}
	return key
}

// Wrap seals a secret with AES-256-GCM and binds id to it.
func (p *Platform) Wrap(_ context.Context, id KeyID, secret []byte) (Wrapped, error) {
	return Wrapped{id, p.sealing("wrap").Seal(nil, nil, secret, []byte(id))}, nil
}

// Unwrap opens what Wrap sealed.
func (p *Platform) Unwrap(_ context.Context, w Wrapped) ([]byte, error) {
	secret, err := p.sealing("wrap").Open(nil, nil, w.Data, []byte(w.ID))
	if err != nil {
		return nil, fmt.Errorf("unwrap %s: %w, or the platform key is another one", w.ID, ErrDamaged)
	}
	return secret, nil
}
