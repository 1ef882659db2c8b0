// Package ledger is what happened: every fact has one row, never two and never
// none, in the order in which it was committed (LT-3, LT-4).
//
// A change is recorded by Append in its own transaction, what must outlive a power
// cut by Record, what must outlive this process by Note (docs/decisions/0015). On PostgreSQL all three are rows at once, and concurrent ones
// share a commit. On SQLite, Record and Note write to a spool and the rows
// follow within a second; what a killed process leaves there, the next one
// moves into the table exactly once.
package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"breakwater/db"
	"breakwater/fault"
)

// Categories of events. The first two are Azure's resource logs, the third is
// its activity log. Security is what somebody should look at, whether or not it
// was refused; Flow is connections; what the server says about itself is System.
const (
	Login          = "ContainerRegistryLoginEvents"
	Repository     = "ContainerRegistryRepositoryEvents"
	Administrative = "Administrative"
	Security       = "Security"
	Flow           = "Flow"
	System         = "System"
	KeyUsage       = "KeyUsage" // every use of a customer's key
)

// Options say where events are noted before they are rows.
type Options struct {
	Spool   string        // SQLite: an existing directory for the two spool files
	Key     []byte        // SQLite: 32 bytes that seal the spool
	Segment int64         // bytes of one spool file; 0 is 16 MiB. The files keep the size that they were made with, or grow.
	Every   time.Duration // how long a noted event may wait for its row; 0 is one second
	Wait    time.Duration // SQLite: how long Record and Note wait for room in the spool while rows are on their way; 0 is two seconds
	Strict  bool          // Note survives a power cut as well, and waits for the disk
	Fatal   func(error)   // called when durability can no longer be promised; nil logs and ends the process
}

// A Ledger is open for appending, noting, reading and following. It is safe for
// concurrent use.
type Ledger struct {
	db     *db.DB
	o      Options
	holder string        // of leases
	lease  time.Duration // how long one lasts
	alarms alarms

	// PostgreSQL
	durable, relaxed group[row]

	// SQLite
	spool   *spool
	synced  group[*os.File]
	buffers sync.Pool
	wake    chan struct{} // something is noted
	full    chan struct{} // and cannot wait
	stuck   atomic.Bool   // the last drain failed
	turn    chan struct{} // held by the one that drains
	tried   *place        // how far the last drain wanted to get, when it is not known whether it did
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// batchRows is how many rows are moved in one transaction, and how many noted
// events do not wait for Every.
const batchRows = 2048

// Open moves what a killed process had noted into the table, so that the past is
// there before the present. It succeeds when the database cannot write yet,
// on a full disk for instance: then the spool keeps it.
func Open(ctx context.Context, d *db.DB, o Options) (*Ledger, error) {
	if o.Segment == 0 {
		o.Segment = 16 << 20
	}
	if o.Every == 0 {
		o.Every = time.Second
	}
	if o.Wait == 0 {
		o.Wait = 2 * time.Second
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			slog.Error("the ledger cannot promise durability any more; the process stops", "err", err)
			os.Exit(1)
		}
	}
	l := &Ledger{db: d, o: o, holder: rand.Text(), lease: 15 * time.Second}
	l.durable.commit = func(ctx context.Context, rows []row) error {
		return d.Write(ctx, func(tx *db.Tx) error { return insert(ctx, tx, rows) })
	}
	l.relaxed.commit = func(ctx context.Context, rows []row) error {
		return d.WriteRelaxed(ctx, func(tx *db.Tx) error { return insert(ctx, tx, rows) })
	}
	if d.Engine() == db.Postgres {
		return l, nil
	}

	if len(o.Key) != 32 || o.Segment < 2*maxRecord || o.Segment > 1<<31 {
		return nil, errors.New("open ledger: the spool needs a key of 32 bytes and files of 128 KiB to 2 GiB")
	}
	var err error
	if l.spool, err = openSpool(o.Spool, o.Key, o.Segment); err != nil {
		return nil, storage(err)
	}
	l.synced.commit = l.sync
	l.wake, l.full, l.turn = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	if err := l.recover(ctx); err != nil {
		l.spool.close()
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.wg.Go(func() { l.drains(ctx) })
	return l, nil
}

func (l *Ledger) recover(ctx context.Context) error {
	n, err := spoolCursor(ctx, l.db)
	if err != nil {
		return err
	}
	if err := l.spool.found(placed(n)); err != nil {
		return err
	}
	if err := l.drain(ctx); err != nil && !db.IsFull(err) && !db.IsBusy(err) {
		return err
	}
	damaged, err := l.spool.forget()
	if err == nil {
		err = l.spool.start()
	}
	if err == nil && damaged > 0 {
		e := spoolDamaged("files", damaged)
		_, err = l.write(ctx, &e)
	}
	return err
}

// spoolDamaged is the fact that others are missing: so many records, or all of
// so many files.
func spoolDamaged(what string, n int) Event {
	return Event{Category: System, Operation: "SpoolDamaged", Outcome: Failure, Detail: Detail{More: map[string]string{what: strconv.Itoa(n)}}}
}

// Close gives what is noted its rows and lets go of the spool. After an error
// the spool has what is missing, and the next Open moves it.
func (l *Ledger) Close() error {
	if l.spool == nil {
		return nil
	}
	l.stop()
	l.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return errors.Join(l.drain(ctx), l.spool.close())
}

// Append numbers the events and adds them to tx: they commit with the change
// that they record, or not at all. It locks the registry's counter until the
// commit, so it is the last thing that a transaction does.
func (l *Ledger) Append(ctx context.Context, tx *db.Tx, events ...Event) error {
	rows := make([]row, len(events))
	for i := range events {
		rows[i] = events[i].row()
	}
	return insert(ctx, tx, rows)
}

// Next locks the ledger of a registry until tx ends, as Append does, and tells which
// number the first event will have that tx appends to it.
func (l *Ledger) Next(ctx context.Context, tx *db.Tx, registry string) (int64, error) {
	return next(ctx, tx, registry)
}

// Record returns when the event survives a power cut. Concurrent calls share the
// wait for the disk. It goes on when the disk is full.
func (l *Ledger) Record(ctx context.Context, e Event) error {
	if l.spool == nil {
		return unavailable(l.durable.add(ctx, e.row()))
	}
	f, err := l.write(ctx, &e)
	if err != nil {
		return err
	}
	return unavailable(l.synced.add(ctx, f))
}

// Note returns when the event survives the death of this process (and a power
// cut, if Strict). On SQLite it waits for no disk, and goes on when the disk is
// full until the spool is. When reads come faster than their rows, it slows them
// down. An error means that there is no record, so there must be no answer.
func (l *Ledger) Note(ctx context.Context, e Event) error {
	switch {
	case l.o.Strict:
		return l.Record(ctx, e)
	case l.spool == nil:
		return unavailable(l.relaxed.add(ctx, e.row()))
	}
	_, err := l.write(ctx, &e)
	return err
}

func (l *Ledger) write(ctx context.Context, e *Event) (*os.File, error) {
	b, _ := l.buffers.Get().(*[]byte)
	if b == nil {
		b = new([]byte)
		*b = make([]byte, 0, 2048)
	}
	defer l.buffers.Put(b)
	*b = e.appendRecord(append((*b)[:0], make([]byte, recHead)...))
	f, noted, err := l.spool.write(*b)
	if errors.Is(err, errFull) {
		f, noted, err = l.await(ctx, *b)
	}
	if noted == 1 || err != nil {
		signal(l.wake)
	}
	if noted >= batchRows || err != nil {
		signal(l.full)
	}
	return f, unavailable(err)
}

// await writes b when enough of the spool has its rows, unless that takes too
// long, or they cannot come.
func (l *Ledger) await(ctx context.Context, b []byte) (f *os.File, noted int, err error) {
	late := time.After(l.o.Wait)
	for {
		moved := l.spool.moved() // before the attempt: then no move is missed
		if f, noted, err = l.spool.write(b); !errors.Is(err, errFull) || l.stuck.Load() {
			return f, noted, err
		}
		signal(l.wake)
		signal(l.full)
		select {
		case <-moved:
		case <-late:
			return nil, 0, err
		case <-ctx.Done():
			return nil, 0, err
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sync makes what was written to the files survive a power cut. After a failure
// the kernel may have dropped the pages and would call the next attempt a
// success, so there is none.
func (l *Ledger) sync(_ context.Context, files []*os.File) error {
	slices.SortFunc(files, func(a, b *os.File) int { return int(a.Fd()) - int(b.Fd()) })
	for _, f := range slices.Compact(files) {
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			err = fmt.Errorf("sync spool: %w", err)
			l.o.Fatal(err)
			return err
		}
	}
	return nil
}

// Flush returns when everything noted before has its row.
func (l *Ledger) Flush(ctx context.Context) error {
	if l.spool == nil {
		return nil
	}
	return l.drain(ctx)
}

// drains moves noted events into the table until ctx ends.
func (l *Ledger) drains(ctx context.Context) {
	failed := false
	for {
		hurry := l.full
		if failed {
			hurry = nil
		} else {
			select {
			case <-l.wake:
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-hurry:
		case <-time.After(l.o.Every):
		case <-ctx.Done():
			return
		}
		err := l.drain(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !failed:
			slog.ErrorContext(ctx, "noted events wait in the spool until the database can write", "err", err)
		case err == nil && failed:
			slog.InfoContext(ctx, "noted events are in the table again")
		}
		failed = err != nil
		l.stuck.Store(failed)
	}
}

// drain moves what is noted into the table, one transaction after the other.
func (l *Ledger) drain(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.tried != nil { // an error came back; whether the commit took place, only the table knows
		n, err := spoolCursor(ctx, l.db)
		if err != nil {
			return err
		}
		if n == l.tried.stored() {
			l.spool.settle(*l.tried)
		}
		l.tried = nil
	}
	for last := l.spool.mark(); ; {
		g, from, ok := l.spool.pending()
		if !ok || from.stored() >= last.stored() {
			return nil
		}
		if err := l.move(ctx, g, from); err != nil {
			return err
		}
	}
}

// move gives a batch of noted events their rows, and moves the cursor in the
// same transaction: whatever happens, each is moved once.
func (l *Ledger) move(ctx context.Context, g segment, from place) error {
	var rows []row
	sc := g.scan(from, g.end)
	for len(rows) < batchRows && sc.next() {
		if r, ok := parseRecord(sc.record); ok {
			rows = append(rows, r)
		}
	}
	if sc.err != nil {
		return sc.err
	}
	to := place{g.use, sc.index, sc.off}
	if len(rows) < batchRows {
		sc.lost += g.next - sc.index
		to.index, to.off = g.next, g.end
	}
	if sc.lost > 0 {
		rows = append(rows, spoolDamaged("records", int(sc.lost)).row())
	}
	l.tried = &to
	err := l.db.Write(ctx, func(tx *db.Tx) error {
		if err := insert(ctx, tx, rows); err != nil {
			return err
		}
		return moveCursor(ctx, tx, spoolName, "", l.spool.settled().stored(), to.stored())
	})
	if err != nil {
		return err
	}
	l.tried = nil
	l.spool.settle(to)
	return nil
}

// unavailable is what a caller gets when there is no record.
func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Unavailable, "the server cannot record this request now; try again later").After(time.Second).Because(err)
}

// storage tells a full disk from other failures.
func storage(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.StorageFull, "there is no room for the ledger's spool; make room and start again").Because(err)
	}
	return err
}
