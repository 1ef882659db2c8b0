package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A lock is held until it is closed or the process dies, however it dies.
type lock struct{ *os.File }

// hold makes this process one of the users of the data directory. With SQLite
// it is the only one: two would be two truths. With PostgreSQL many may be.
func hold(c *config) (*lock, error) {
	how := unix.LOCK_EX
	if c.postgres() {
		how = unix.LOCK_SH
	}
	l, err := flock(filepath.Join(c.Data, "lock"), how)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("the data directory %s is in use by another breakwater; stop that one first", c.Data)
	}
	return l, err
}

// begin waits until no other process on the data directory is starting: keys and
// first logins are made by one at a time.
func begin(ctx context.Context, c *config) (*lock, error) {
	return waitFor(ctx, filepath.Join(c.Data, "start.lock"))
}

// waitFor waits until no other process holds the file.
func waitFor(ctx context.Context, path string) (*lock, error) {
	for {
		l, err := flock(path, unix.LOCK_EX)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func flock(path string, how int) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &lock{f}, nil
}
