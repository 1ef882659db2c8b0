package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"breakwater/db"
)

// A Follower reacts to what happened.
type Follower interface {
	Name() string                                     // also the name of its cursor and of its lease
	Follow(ctx context.Context, events []Event) error // nil moves the cursor; at least once, in order of Seq within a registry
}

// Follow gives f every event of every registry until ctx ends, while this
// process holds f's lease. After an error f gets the same events again, later.
func (l *Ledger) Follow(ctx context.Context, f Follower) {
	l.Lead(ctx, f.Name(), l.o.Every, func(ctx context.Context) error {
		for {
			more, err := l.feed(ctx, f)
			if err != nil || !more {
				return err
			}
		}
	})
}

// feed gives f one page of each registry that has one, so that a busy registry
// or one that f stumbles over holds up no other.
func (l *Ledger) feed(ctx context.Context, f Follower) (more bool, err error) {
	seen, err := behind(ctx, l.db, f.Name())
	if err != nil {
		return false, err
	}
	var errs []error
	for registry, seq := range seen {
		events, _, err := page(ctx, l.db, Query{Registry: registry, After: seq}, pageSize)
		if err == nil && len(events) > 0 {
			err = f.Follow(ctx, events)
		}
		if err == nil && len(events) > 0 {
			err = l.db.Write(ctx, func(tx *db.Tx) error {
				return moveCursor(ctx, tx, f.Name(), registry, seq, events[len(events)-1].Seq)
			})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s follows %q after %d: %w", f.Name(), registry, seq, err))
		}
	}
	return len(seen) > 0, errors.Join(errs...)
}

// Lead runs work, again and again with a pause between, while this process holds
// the lease called name, until ctx ends. The context of work ends when the lease
// is lost: another process may have begun. SQLite has one process, which holds
// every lease.
func (l *Ledger) Lead(ctx context.Context, name string, pause time.Duration, work func(ctx context.Context) error) {
	if l.db.Engine() == db.SQLite {
		repeat(ctx, name, pause, work)
		return
	}
	for ctx.Err() == nil {
		held, err := takeLease(ctx, l.db, name, l.holder, l.lease)
		switch {
		case err != nil && ctx.Err() == nil:
			slog.ErrorContext(ctx, "cannot ask for a lease", "name", name, "err", err)
		case held:
			l.hold(ctx, name, pause, work)
		}
		sleep(ctx, l.lease/3)
	}
}

// hold works until the lease is lost or ctx ends, and gives the lease back.
func (l *Ledger) hold(ctx context.Context, name string, pause time.Duration, work func(ctx context.Context) error) {
	leading, lost := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { repeat(leading, name, pause, work) })
	for until := time.Now().Add(l.lease); sleep(leading, l.lease/3); {
		began := time.Now()
		asking, cancel := context.WithDeadline(leading, until)
		held, err := takeLease(asking, l.db, name, l.holder, l.lease)
		cancel()
		switch {
		case err == nil && held:
			until = began.Add(l.lease)
		case err == nil || !time.Now().Before(until):
			lost()
		}
	}
	lost()
	wg.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := releaseLease(last, l.db, name, l.holder); err != nil {
		slog.ErrorContext(ctx, "cannot give back a lease; it ends by itself", "name", name, "err", err)
	}
}

func repeat(ctx context.Context, name string, pause time.Duration, work func(ctx context.Context) error) {
	for ctx.Err() == nil {
		if err := work(ctx); err != nil && ctx.Err() == nil {
			slog.ErrorContext(ctx, "background work failed; it will be tried again", "name", name, "err", err)
		}
		sleep(ctx, pause)
	}
}

// sleep reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Place is how far a worker has come that Lead runs and that goes through something
// else than events; 0 before its first Move.
func (l *Ledger) Place(ctx context.Context, name string) (int64, error) {
	return cursorOf(ctx, l.db, name)
}

// Move says that the worker is at another place now, and puts on record, in the same
// transaction, what it found on the way. One that was not at from, because another
// process has taken over, is Conflict, and then nothing is on record.
func (l *Ledger) Move(ctx context.Context, name string, from, to int64, found ...Event) error {
	write := l.db.Write
	if len(found) == 0 { // who does the way again loses time and nothing else
		write = l.db.WriteRelaxed
	}
	return write(ctx, func(tx *db.Tx) error {
		if err := moveCursor(ctx, tx, name, "", from, to); err != nil {
			return err
		}
		return l.Append(ctx, tx, found...)
	})
}
