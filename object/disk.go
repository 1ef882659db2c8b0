package object

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"breakwater/fault"
)

// Disk is a Store in a directory of 256 directories.
type Disk struct {
	dir   string
	fatal func(error)
}

// NewDisk opens the store in dir and makes it where it is not there.
//
// A failed fsync is told to fatal, which must end the process: the kernel
// forgets a page that it could not write and says so once, so only a new
// process that reads the disk knows what is there. A nil fatal logs and exits
// with status 1.
func NewDisk(dir string, fatal func(error)) (*Disk, error) {
	d := &Disk{dir, fatal}
	if fatal == nil {
		d.fatal = func(err error) {
			slog.Error("the disk failed; what it holds is only known after a restart", "err", err)
			os.Exit(1)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("object store: %w", err)
	}
	fresh := false
	for i := range 256 {
		err := os.Mkdir(filepath.Join(dir, fmt.Sprintf("%02x", i)), 0o700)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("object store: %w", err)
		}
		fresh = fresh || err == nil
	}
	if fresh {
		if err := cmp.Or(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
			return nil, fmt.Errorf("object store: %w", err)
		}
	}
	return d, nil
}

func (d *Disk) path(key string) (string, error) {
	if err := Check(key); err != nil {
		return "", err
	}
	return filepath.Join(d.dir, key), nil
}

// Put implements Store: create, write, fsync of the file, fsync of the
// directory.
func (d *Disk) Put(ctx context.Context, key string, r io.Reader) (size int64, err error) {
	path, err := d.path(key)
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, refusal(err)
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path)
		}
	}()
	w := &sink{ctx: ctx, f: f}
	if size, err = io.Copy(w, r); err != nil {
		if w.err != nil {
			err = refusal(w.err)
		}
		return 0, err
	}
	if err := f.Sync(); err != nil {
		if full(err) {
			return 0, refusal(err) // nobody else has written to this file
		}
		d.fatal(err)
		return 0, refusal(err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		d.fatal(err)
		return 0, refusal(err)
	}
	return size, nil
}

// early is how much is written before the disk is asked to begin with it, so
// that the fsync at the end of a large object does not stand still for all of it.
const early = 8 << 20

// A sink tells the errors of its file from those of what is copied into it.
type sink struct {
	ctx       context.Context
	f         *os.File
	err       error // of f
	size, old int64 // written; of that, what the disk has begun with
}

func (s *sink) Write(p []byte) (n int, err error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, s.err = s.f.Write(p)
	s.size += int64(n)
	if s.size-s.old >= early {
		beginWriteback(s.f, s.old, s.size-s.old)
		s.old = s.size
	}
	return n, s.err
}

// Open implements Store.
func (d *Disk) Open(_ context.Context, key string) (Object, error) {
	path, err := d.path(key)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, refusal(err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return file{f, info.Size()}, nil
}

type file struct {
	*os.File
	size int64
}

func (f file) Size() int64 { return f.size }

// Delete implements Store. It tries every key, whatever happens to the others.
func (d *Disk) Delete(_ context.Context, keys ...string) error {
	var errs []error
	for _, key := range keys {
		path, err := d.path(key)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, refusal(err))
		}
	}
	return errors.Join(errs...)
}

// List implements Store.
func (d *Disk) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		for i := range 256 {
			dir := fmt.Sprintf("%02x", i)
			if n := min(len(prefix), len(dir)); dir[:n] != prefix[:n] {
				continue
			}
			entries, err := os.ReadDir(filepath.Join(d.dir, dir))
			if err = cmp.Or(ctx.Err(), err); err != nil {
				yield(Info{}, refusal(err))
				return
			}
			for _, e := range entries {
				key := dir + "/" + e.Name()
				if !strings.HasPrefix(key, prefix) || Check(key) != nil {
					continue
				}
				info, err := e.Info()
				if errors.Is(err, fs.ErrNotExist) {
					continue // deleted meanwhile
				}
				if err != nil {
					yield(Info{}, refusal(err))
					return
				}
				if !yield(Info{key, info.Size(), info.ModTime()}, nil) {
					return
				}
			}
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}

// refusal is what a caller is told of an error of the file system. What Store
// gives a name of its own, and a cancelled context, stay as they are.
func refusal(err error) error {
	switch {
	case full(err):
		return fault.New(fault.StorageFull, "the storage of this registry is full; delete content or ask the operator for space").Because(err)
	case errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrNotExist), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return fault.New(fault.Unavailable, "the storage of this registry does not answer; try again later").Because(err)
}

// full reports whether there is no space, no quota or no inode left.
func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
