// Package ledger is what happened: every fact has one row, never two and never
// none, in the order in which it was committed (LT-3, LT-4).
package ledger

import (
	"context"
	"errors"
	"iter"
	"time"

	"breakwater/db"
)

// Options say where reads are noted before they are rows.
type Options struct {
	Spool   string        // SQLite: an existing directory for the two spool files
	Key     []byte        // SQLite: 32 bytes that seal the spool
	Segment int64         // size of one spool file; 0 is 16 MiB. Two are allocated at once.
	Every   time.Duration // how long a noted event may wait for its row; 0 is one second
	Strict  bool          // Note survives a power cut as well, at the price of a commit
	Log     func(error)   // told when noted events cannot become rows for now; nil is slog
}

// A Ledger is open for appending, noting, reading and following.
type Ledger struct{ db *db.DB }

var errStub = errors.New("ledger: not yet")

// Open replays what a killed process had noted, so that each fact has its row
// before the first new one.
func Open(ctx context.Context, d *db.DB, o Options) (*Ledger, error) { return nil, errStub }

// Close flushes and lets go of the spool.
func (l *Ledger) Close() error { return errStub }

// Append numbers the events and adds them to tx: they commit with the change
// that they record, or not at all. It locks the registry's counter until the
// commit, so it is the last thing that a transaction does.
func (l *Ledger) Append(ctx context.Context, tx *db.Tx, events ...Event) error { return errStub }

// Record returns when the event is durable. Concurrent calls share a commit.
func (l *Ledger) Record(ctx context.Context, e Event) error { return errStub }

// Note returns when the event survives the death of this process (and a power
// cut, if Strict). It waits for no disk otherwise. An error means that there is
// no record, so there must be no answer.
func (l *Ledger) Note(ctx context.Context, e Event) error { return errStub }

// Flush returns when everything noted before has its row.
func (l *Ledger) Flush(ctx context.Context) error { return errStub }

// A Query selects events of one registry, in order of Seq.
type Query struct {
	Registry string
	After    int64     // events with a greater Seq
	Since    time.Time // events that happened at or after; zero is the beginning
	Until    time.Time // events that happened before; zero is no end
	Category string    // "" is every category
	Limit    int       // 0 is all
}

// Events yields what q selects, noted reads included. An error ends it.
func (l *Ledger) Events(ctx context.Context, q Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) { yield(Event{}, errStub) }
}

// A Follower reacts to what happened.
type Follower interface {
	Name() string                                     // also the name of its cursor and of its lease
	Follow(ctx context.Context, events []Event) error // nil moves the cursor; at least once, in order of Seq within a registry
}

// Follow gives f every event of every registry until ctx ends, while this
// process holds f's lease. After an error f gets the same events again, later.
func (l *Ledger) Follow(ctx context.Context, f Follower) error { return errStub }

// Lead runs work whenever this process holds the lease called name, until ctx
// ends. The context of work ends when the lease is lost. When work returns, it
// runs again after pause.
func (l *Ledger) Lead(ctx context.Context, name string, pause time.Duration, work func(ctx context.Context) error) error {
	return errStub
}
