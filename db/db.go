// Package db decides where rows lie and when a change is durable: SQLite in one
// sealed file (DP-4), or PostgreSQL, through one SQL text.
//
// SQL is written once, with $1 placeholders, and runs unchanged on both engines.
// There is no interface over it: *DB is concrete, and each package keeps the SQL
// of its own tables.
package db

import (
	"context"
	"database/sql"
	"errors"
)

// An Engine is a kind of database.
type Engine string

const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// ErrNoRows is what Row.Scan returns when there is no row.
var ErrNoRows = sql.ErrNoRows

// Options say which database and how it is opened.
type Options struct {
	Source  string      // a file path, or postgres://…
	Key     []byte      // SQLite only: 32 bytes that encrypt the file; no error or log ever shows them
	Readers int         // connections for reading; 0 is a good number for this machine
	Fatal   func(error) // called when durability can no longer be promised; nil logs and exits the process
}

// A DB is one open database. It is safe for concurrent use.
type DB struct {
	engine Engine
}

// A Tx is one transaction. It is for the goroutine that runs the function it was given to, and only until that returns.
type Tx struct{}

// Rows are the result of a query. Close is due on every path; Next closes at the end.
type Rows struct{}

// A Row is the result of a query for at most one row.
type Row struct{ err error }

var errStub = errors.New("db: not yet")

// Open opens the database, creates it if absent, and brings its schema up to this binary's.
// It refuses a schema that is newer than the binary.
func Open(ctx context.Context, o Options) (*DB, error) { return nil, errStub }

// Engine tells which kind of database it is.
func (d *DB) Engine() Engine { return d.engine }

// Close waits for running work and closes the database.
func (d *DB) Close() error { return errStub }

// Query reads outside a transaction. Args and Scan take strings, integers, floats, bools, []byte, nil, pointers to
// these, named types of these, sql.Scanner/driver.Valuer, and time.Time (as BIGINT microseconds).
func (d *DB) Query(ctx context.Context, sql string, args ...any) (*Rows, error) { return nil, errStub }

// QueryRow reads at most one row; its error appears in Scan.
func (d *DB) QueryRow(ctx context.Context, sql string, args ...any) *Row { return &Row{errStub} }

// Write runs fn in one write transaction. When it returns nil the change is durable; otherwise nothing of it happened.
// fn does database work only, and may run again after a conflict: it must not leave anything behind outside tx.
func (d *DB) Write(ctx context.Context, fn func(tx *Tx) error) error { return errStub }

// WriteRelaxed is Write whose change survives the death of this process but perhaps not a power cut.
func (d *DB) WriteRelaxed(ctx context.Context, fn func(tx *Tx) error) error { return errStub }

// Read runs fn on one consistent snapshot.
func (d *DB) Read(ctx context.Context, fn func(tx *Tx) error) error { return errStub }

// Exec runs a statement and tells how many rows it changed.
func (tx *Tx) Exec(ctx context.Context, sql string, args ...any) (int64, error) { return 0, errStub }

// Query reads inside the transaction. The rows must be closed before fn returns.
func (tx *Tx) Query(ctx context.Context, sql string, args ...any) (*Rows, error) { return nil, errStub }

// QueryRow reads at most one row inside the transaction; also for INSERT … RETURNING.
func (tx *Tx) QueryRow(ctx context.Context, sql string, args ...any) *Row { return &Row{errStub} }

// Next moves to the next row; false at the end or after an error.
func (r *Rows) Next() bool { return false }

// Scan copies the columns of the current row.
func (r *Rows) Scan(dest ...any) error { return errStub }

// Err is the error that ended the rows early.
func (r *Rows) Err() error { return errStub }

// Close ends the query. It may be called more than once.
func (r *Rows) Close() error { return nil }

// Scan copies the columns of the row, or returns ErrNoRows.
func (r *Row) Scan(dest ...any) error { return r.err }

// IsUnique reports whether a UNIQUE or PRIMARY KEY constraint refused the change.
func IsUnique(err error) bool { return false }

// IsForeignKey reports whether a foreign key refused the change.
func IsForeignKey(err error) bool { return false }

// IsFull reports whether the disk (or quota) is full. Such an error is already a fault.StorageFull.
func IsFull(err error) bool { return false }

// IsBusy reports whether the database could not do it now but may do it later. Such an error is already a fault.Unavailable.
func IsBusy(err error) bool { return false }
