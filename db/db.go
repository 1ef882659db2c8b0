// Package db decides where rows lie and when a change is durable: SQLite in one
// encrypted file (DP-4), or PostgreSQL, through one SQL text.
//
// SQL is written once, with $1 placeholders, and runs unchanged on both engines.
// There is no interface over it: *DB is concrete, and each package keeps the SQL
// of its own tables.
package db

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/ncruces/go-sqlite3/vfs"
)

// An Engine is a kind of database.
type Engine string

const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// ErrNoRows is what Row.Scan returns when there is no row.
var ErrNoRows = sql.ErrNoRows

var (
	errClosed = errors.New("db: closed")
	errTxDone = errors.New("db: the transaction has ended")
)

// Options say which database it is and how it is opened.
type Options struct {
	Source  string      // a file path, or postgres://…
	Key     []byte      // SQLite only: 32 bytes that encrypt the file; no error and no log ever shows them
	Readers int         // connections for reading; 0 means two for each processor, 4 to 16
	Fatal   func(error) // called when durability can no longer be promised; nil logs and ends the process

	// Dial is how PostgreSQL is reached over a network; nil is the machine's own way. It
	// gets the names that the source has: what they lead to is its to look up.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Proven refuses a source that would have PostgreSQL reached over a network
	// without TLS that proves who it is.
	Proven bool
}

// engine is what SQLite and PostgreSQL do differently.
type engine interface {
	query(ctx context.Context, text string, args []any) (*Rows, error)
	write(ctx context.Context, relaxed bool, fn func(*Tx) error) error
	read(ctx context.Context, fn func(*Tx) error) error
	check(ctx context.Context) error
	settle(ctx context.Context) error
	close() error
}

// A DB is one open database. It is safe for concurrent use.
type DB struct {
	kind Engine
	engine
}

// Open opens the database, creates it if it is absent, and brings its schema up
// to this binary's. A schema that is newer than the binary is refused: an old
// binary would write rows that the new one does not expect.
func Open(ctx context.Context, o Options) (*DB, error) {
	if o.Fatal == nil {
		o.Fatal = func(err error) {
			slog.Error("the database cannot promise durability any more; the process stops", "err", err)
			os.Exit(1)
		}
	}
	d := &DB{kind: SQLite}
	var err error
	if strings.HasPrefix(o.Source, "postgres://") || strings.HasPrefix(o.Source, "postgresql://") {
		d.kind = Postgres
		d.engine, err = openPostgres(ctx, o)
	} else {
		d.engine, err = openSQLite(ctx, o, vfs.Find("os"))
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Engine tells which kind of database it is.
func (d *DB) Engine() Engine { return d.kind }

// Close waits for running writes and closes the database. The caller has ended its reads.
func (d *DB) Close() error { return d.close() }

// Check reads a little, to tell whether the database answers.
func (d *DB) Check(ctx context.Context) error { return d.check(ctx) }

// Settle makes what was deleted leave the files, as far as that is in this process's
// hands: SQLite's log is moved into the file, where what is deleted is overwritten, and
// begins anew. PostgreSQL keeps old rows until its own VACUUM, and its log as it is told.
func (d *DB) Settle(ctx context.Context) error { return d.settle(ctx) }

// Query reads outside a transaction, on a reader's connection that it keeps
// until the rows are closed. Readers are few: who asks a second question while
// the rows of the first are open may wait for itself.
//
// Arguments are strings, integers, floats, bools, []byte, named types of these,
// json.RawMessage (as text), time.Time (as BIGINT microseconds), driver.Valuer,
// pointers to these, and nil.
func (d *DB) Query(ctx context.Context, text string, args ...any) (*Rows, error) {
	return d.query(ctx, text, args)
}

// QueryRow reads at most one row; an error appears in Scan, which must be called.
func (d *DB) QueryRow(ctx context.Context, text string, args ...any) *Row {
	return row(d.query(ctx, text, args))
}

// Write runs fn in one write transaction. When it returns nil, the change is
// durable; otherwise nothing of it happened, except that PostgreSQL may lose the
// connection during the commit, and then nobody knows: the error says so.
//
// fn does database work only, for others wait for it. It may run again, after a
// conflict or when a commit that it shared failed, so it leaves nothing behind
// outside tx but what the next run overwrites. An error of any statement ends the
// transaction, on both engines. A Write inside a Write waits for itself.
func (d *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	return d.commit(ctx, false, fn)
}

// WriteRelaxed is Write whose change survives the death of this process, but
// perhaps not a power cut. SQLite keeps the stronger promise: its commits are
// shared, so the weaker one would save nothing.
func (d *DB) WriteRelaxed(ctx context.Context, fn func(tx *Tx) error) error {
	return d.commit(ctx, true, fn)
}

func (d *DB) commit(ctx context.Context, relaxed bool, fn func(tx *Tx) error) error {
	var last *Tx
	err := d.write(ctx, relaxed, func(tx *Tx) error { last = tx; return fn(tx) })
	if err == nil {
		for _, then := range last.then {
			then()
		}
	}
	return err
}

// Read runs fn on one consistent snapshot, in which it can only read.
func (d *DB) Read(ctx context.Context, fn func(tx *Tx) error) error {
	return d.read(ctx, fn)
}

// A Tx is one transaction. It belongs to the function that received it, and ends when that returns.
type Tx struct {
	run  runner
	open map[*Rows]struct{} // not yet closed
	err  error              // of the first statement that failed, or errTxDone
	then []func()           // after the commit
	once map[any]struct{}   // what First was asked
}

// First reports whether it is asked for the key for the first time in this run of
// the transaction: for what is done once, however often it is wanted.
func (tx *Tx) First(key any) bool {
	_, asked := tx.once[key]
	if tx.once == nil {
		tx.once = map[any]struct{}{}
	}
	tx.once[key] = struct{}{}
	return !asked
}

// Then runs fn after the commit, before Write returns; never if there is no commit.
func (tx *Tx) Then(fn func()) { tx.then = append(tx.then, fn) }

// runner runs statements in an open transaction.
type runner interface {
	query(ctx context.Context, text string, args []any) (*Rows, error)
	exec(ctx context.Context, text string, args []any) (int64, error)
}

// Exec runs an INSERT, UPDATE or DELETE and tells how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, text string, args ...any) (int64, error) {
	if tx.err != nil {
		return 0, tx.err
	}
	n, err := tx.run.exec(ctx, text, args)
	tx.err = err
	return n, err
}

// Query reads inside the transaction. The rows are closed before the next statement.
func (tx *Tx) Query(ctx context.Context, text string, args ...any) (*Rows, error) {
	if tx.err != nil {
		return nil, tx.err
	}
	r, err := tx.run.query(ctx, text, args)
	if err != nil {
		tx.err = err
		return nil, err
	}
	if tx.open == nil {
		tx.open = make(map[*Rows]struct{})
	}
	r.tx, tx.open[r] = tx, struct{}{}
	return r, nil
}

// QueryRow reads at most one row inside the transaction, also that of INSERT …
// RETURNING; an error appears in Scan, which must be called.
func (tx *Tx) QueryRow(ctx context.Context, text string, args ...any) *Row {
	return row(tx.Query(ctx, text, args...))
}

// call runs fn in tx and ends tx, whatever fn does. A statement's error counts even if fn forgot it.
func (tx *Tx) call(fn func(*Tx) error) (err error) {
	defer func() {
		for r := range tx.open {
			r.Close()
		}
		if err == nil {
			err = tx.err
		}
		tx.err = errTxDone
	}()
	return fn(tx)
}

// cursor walks over the rows of one engine.
type cursor interface {
	next() bool
	scan(dest []any) error
	end() error // closes it; the error that ended the rows early, nil if called again
}

// Rows are the result of a query. They are closed on every path; Next closes them at the end.
type Rows struct {
	cursor
	tx   *Tx
	err  error
	done bool
}

// Next moves to the next row. It is false at the end and after an error, which Err tells.
func (r *Rows) Next() bool {
	if r.done {
		return false
	}
	if r.next() {
		return true
	}
	r.Close()
	return false
}

// Scan copies the columns of the current row. Destinations are pointers to what
// Query takes as arguments, to a pointer when the column may be NULL, and
// sql.Scanner. NULL into []byte is nil.
func (r *Rows) Scan(dest ...any) error {
	if r.done {
		return errors.New("db: Scan without a row")
	}
	return r.scan(dest)
}

// Err is the error that ended the rows early.
func (r *Rows) Err() error { return r.err }

// Close ends the query and returns Err. It may be called more than once.
func (r *Rows) Close() error {
	if r.done {
		return r.err
	}
	r.done = true
	r.err = r.end()
	if r.tx != nil {
		delete(r.tx.open, r)
		if r.err != nil && r.tx.err == nil {
			r.tx.err = r.err
		}
	}
	return r.err
}

// A Row is the result of a query for at most one row.
type Row Rows

func row(r *Rows, err error) *Row {
	if err != nil {
		return &Row{err: err, done: true}
	}
	return (*Row)(r)
}

// Scan copies the columns of the row, or returns ErrNoRows.
func (r *Row) Scan(dest ...any) error {
	rows := (*Rows)(r)
	if rows.done {
		return rows.err
	}
	if !rows.Next() {
		if rows.err != nil {
			return rows.err
		}
		return ErrNoRows
	}
	err := rows.scan(dest)
	return errors.Join(err, rows.Close())
}
