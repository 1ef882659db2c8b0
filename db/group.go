package db

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ncruces/go-sqlite3"
)

const (
	// batchMax and batchAge bound what shares a commit, so that the first of a
	// batch does not wait long for the last.
	batchMax = 64
	batchAge = 5 * time.Millisecond
	// checkpointPages is how many pages (of 4 KiB) the log grows before they move
	// to the file: a page that changes often moves once for all its changes, and a
	// restart reads at most this much again (8 MiB, about 30 ms).
	checkpointPages = 2048
	// checkpointForce is where a checkpoint waits for readers, so that the log can begin anew.
	checkpointForce = 4 * checkpointPages
)

// writer is SQLite's single writing connection, with group commit.
//
// Whoever holds the turn runs its function in the open transaction, and then
// either hands the turn to the next in the queue with the transaction still
// open, or commits for all who took part. So each function runs in its caller's
// goroutine, one after the other, and while one batch commits the next gathers.
//
//   - A function that fails is undone alone: by ROLLBACK if it was the first, to
//     its savepoint if not.
//   - No one is answered before the commit that holds its change has returned.
//   - If the transaction is lost (a full disk; a foreign key deferred to the
//     commit), those who were not the cause run again, each one alone. So who gets
//     an error gets its own.
//   - No context interrupts a running statement here: SQLite would answer by
//     rolling back the whole transaction, of others too.
//   - A failed fsync ends everything: no commit is promised after it.
type writer struct {
	c     *conn
	fatal func(error)

	mu     sync.Mutex
	taken  bool // the turn
	queue  []*waiter
	closed bool

	// Of who holds the turn.
	batch *batch // its open transaction, if any
	dead  error  // why nothing is promised any more
	pages int    // in the log
	mark  int    // pages at the last checkpoint
	full  bool   // the last transaction found the disk full
	after sync.WaitGroup
}

type waiter struct {
	turn  chan struct{} // has room for the one turn that it is given
	alone bool
}

// batch is one transaction and those who share it.
type batch struct {
	began time.Time
	alone bool
	n     int           // whose functions succeeded
	done  chan struct{} // closed when err and lost are final
	err   error
	lost  bool // by one who is not of the n
}

func newWriter(c *conn, fatal func(error)) *writer {
	c.steady = true
	w := &writer{c: c, fatal: fatal}
	c.WALHook(func(_ *sqlite3.Conn, _ string, pages int) error { w.pages = pages; return nil })
	return w
}

func (w *writer) write(ctx context.Context, fn func(*Tx) error) error {
	err, shared := w.attempt(ctx, false, fn)
	if err != nil && shared {
		err, _ = w.attempt(ctx, true, fn)
	}
	return err
}

// attempt runs fn in a transaction that others may share. If it tells that the
// error was shared, then it may be due to another.
func (w *writer) attempt(ctx context.Context, alone bool, fn func(*Tx) error) (err error, shared bool) {
	if err := w.enter(ctx, alone); err != nil {
		return err, false
	}
	b, err := w.join(alone)
	if err != nil {
		w.leave()
		return err, false
	}
	if err := w.run(b, fn); err != nil {
		return err, false
	}
	<-b.done // whatever ctx says: the outcome is near, and is the truth
	return b.err, b.n > 1 || b.lost
}

// enter waits for the turn. While it holds it, no other uses the connection.
func (w *writer) enter(ctx context.Context, alone bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return errClosed
	}
	if !w.taken {
		w.taken = true
		w.mu.Unlock()
		return nil
	}
	me := &waiter{turn: make(chan struct{}, 1), alone: alone}
	w.queue = append(w.queue, me)
	w.mu.Unlock()
	select {
	case <-me.turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	for i, other := range w.queue {
		if other == me {
			w.queue = append(w.queue[:i], w.queue[i+1:]...)
			w.mu.Unlock()
			return ctx.Err()
		}
	}
	w.mu.Unlock()
	<-me.turn // it came at the same moment, perhaps with a transaction that waits for its commit
	w.leave()
	return ctx.Err()
}

// join begins a transaction, or a savepoint in the one that came with the turn.
func (w *writer) join(alone bool) (*batch, error) {
	if w.dead != nil {
		return nil, w.dead
	}
	if w.batch != nil {
		return w.batch, w.do(`SAVEPOINT fn`)
	}
	if err := w.do(`BEGIN IMMEDIATE`); err != nil {
		return nil, err
	}
	w.batch = &batch{began: time.Now(), alone: alone, done: make(chan struct{})}
	return w.batch, nil
}

// run runs fn, undoes it if it fails or panics, and gives the turn away.
func (w *writer) run(b *batch, fn func(*Tx) error) (err error) {
	err = errors.New("db: the function did not return")
	defer func() {
		if err == nil && b.n > 0 {
			err = w.do(`RELEASE fn`)
		}
		if err == nil && w.c.GetAutocommit() {
			err = errors.New("db: the function ended the transaction")
		}
		if err == nil {
			b.n++
		} else {
			w.undo(err)
		}
		w.leave()
	}()
	return (&Tx{run: w.c}).call(fn)
}

// undo takes back what the function did that failed because of cause.
func (w *writer) undo(cause error) {
	w.watch(cause)
	if w.batch.n > 0 && !w.c.GetAutocommit() && w.do(`ROLLBACK TO fn`) == nil && w.do(`RELEASE fn`) == nil {
		return
	}
	w.batch.lost = true
	w.abandon(fmt.Errorf("another write took the transaction with it: %w", cause))
}

// abandon gives up the transaction.
func (w *writer) abandon(cause error) {
	if !w.c.GetAutocommit() {
		if err := w.do(`ROLLBACK`); err != nil && !w.c.GetAutocommit() {
			w.die(fmt.Errorf("roll back: %w", err))
		}
	}
	w.full = IsFull(cause)
	b := w.batch
	w.batch, b.err = nil, cause
	close(b.done)
}

// leave gives the turn to the next: with the open transaction, if the next can
// share it, else after its commit, and perhaps a checkpoint.
func (w *writer) leave() {
	w.mu.Lock()
	if b := w.batch; b != nil && len(w.queue) > 0 && w.shares(b, w.queue[0]) {
		w.pass()
		return
	}
	w.mu.Unlock()
	if w.batch != nil {
		w.commit()
	}
	if w.due() {
		w.after.Go(func() {
			w.checkpoint()
			w.mu.Lock()
			w.pass()
		})
		return
	}
	w.mu.Lock()
	w.pass()
}

func (w *writer) shares(b *batch, next *waiter) bool {
	return !b.alone && !next.alone && b.n < batchMax && time.Since(b.began) < batchAge
}

// pass gives the turn to the first in the queue, or to nobody. It unlocks mu.
func (w *writer) pass() {
	if len(w.queue) == 0 {
		w.taken = false
	} else {
		w.queue[0].turn <- struct{}{}
		w.queue = w.queue[1:]
	}
	w.mu.Unlock()
}

func (w *writer) commit() {
	b := w.batch
	if err := w.do(`COMMIT`); err != nil {
		w.abandon(fmt.Errorf("commit: %w", err))
		return
	}
	w.batch = nil
	close(b.done)
}

// due reports whether the log has grown enough since the last checkpoint, or
// could grow no more: then a checkpoint makes its room usable again, so that a
// delete still works on a full disk.
func (w *writer) due() bool {
	if w.pages < w.mark {
		w.mark = 0 // the log began anew
	}
	return w.dead == nil && (w.full || w.pages-w.mark >= checkpointPages)
}

// checkpoint moves the log's pages to the file. Its commits are answered, so
// nobody waits but who writes next. A failure loses nothing: the log still has
// everything, and the next checkpoint writes it all again.
func (w *writer) checkpoint() {
	mode := sqlite3.CHECKPOINT_PASSIVE
	if w.full || w.pages >= checkpointForce {
		mode = sqlite3.CHECKPOINT_RESTART
		w.c.BusyTimeout(100 * time.Millisecond)
		defer w.c.BusyTimeout(busyTimeout)
	}
	w.mark, w.full = w.pages, false
	_, _, err := w.c.WALCheckpoint("main", mode)
	w.watch(err)
}

// settle moves the whole log into the file and empties it, which waits for readers.
func (w *writer) settle(ctx context.Context) error {
	if err := w.enter(ctx, true); err != nil {
		return err
	}
	defer w.leave()
	if w.dead != nil {
		return w.dead
	}
	w.c.BusyTimeout(settleTime)
	defer w.c.BusyTimeout(busyTimeout)
	_, _, err := w.c.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE)
	w.watch(err)
	return err
}

// settleTime is how long settle waits for readers; others wait for it.
const settleTime = time.Second

// do runs a statement of the transaction's frame.
func (w *writer) do(text string) error {
	_, err := w.c.exec(context.Background(), text, nil)
	w.watch(err)
	return err
}

// watch looks for the failure after which nothing can be promised.
func (w *writer) watch(err error) {
	if lostSync(err) {
		w.die(err)
	}
}

func (w *writer) die(err error) {
	if w.dead == nil {
		w.dead = fmt.Errorf("db: stopped, because durability was lost: %w", err)
		w.fatal(w.dead)
	}
}

// close waits for who holds the turn and for the queue, then moves the log into the file.
func (w *writer) close() error {
	if err := w.enter(context.Background(), true); err != nil {
		return nil // closed before
	}
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.dead = errClosed // for those in the queue
	w.leave()
	w.after.Wait()
	if _, _, err := w.c.WALCheckpoint("main", sqlite3.CHECKPOINT_TRUNCATE); lostSync(err) {
		w.fatal(err)
	} // any other failure leaves it in the log, for the next start
	return w.c.close()
}
