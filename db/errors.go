package db

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ncruces/go-sqlite3"

	"breakwater/fault"
)

// IsUnique reports whether a UNIQUE or PRIMARY KEY constraint refused the change.
func IsUnique(err error) bool {
	return errors.Is(err, sqlite3.CONSTRAINT_UNIQUE) || errors.Is(err, sqlite3.CONSTRAINT_PRIMARYKEY) ||
		errors.Is(err, sqlite3.CONSTRAINT_ROWID) || state(err) == "23505"
}

// IsForeignKey reports whether a foreign key refused the change: the row is still referenced, or what it references is absent.
func IsForeignKey(err error) bool {
	if s := state(err); s == "23503" || s == "23001" {
		return true
	}
	// SQLite makes RESTRICT a trigger.
	return errors.Is(err, sqlite3.CONSTRAINT_FOREIGNKEY) ||
		errors.Is(err, sqlite3.CONSTRAINT_TRIGGER) && strings.Contains(err.Error(), "FOREIGN KEY")
}

// Overtaken does what others may overtake: try again while a foreign key refuses it, because
// something came in between, or is says of its error that it is of that kind. After about
// a second of that it is fault.Unavailable, and whoever asked asks again.
func Overtaken(ctx context.Context, is func(error) bool, try func() error) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := try()
		if !IsForeignKey(err) && (is == nil || !is(err)) {
			return err
		}
		if pause > 512*time.Millisecond {
			return fault.New(fault.Unavailable, "others change the same all the time; try again").After(time.Second).Because(err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// IsFull reports whether the disk or a quota is full. Such an error is already a fault.StorageFull.
func IsFull(err error) bool {
	return errors.Is(err, sqlite3.FULL) || state(err) == "53100" || noRoom(err)
}

func noRoom(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// IsDamaged reports that a page of SQLite's file, or of PostgreSQL's (where that checks its own), is not what was written. Such an error is
// already a fault.Damaged.
func IsDamaged(err error) bool {
	return errors.Is(err, sqlite3.IOERR_DATA) || errors.Is(err, sqlite3.CORRUPT) || errors.Is(err, sqlite3.NOTADB) || state(err) == "XX001" || state(err) == "XX002"
}

// IsBusy reports whether the database cannot do it now but may do it later. Such an error is already a fault.Unavailable.
func IsBusy(err error) bool {
	return errors.Is(err, sqlite3.BUSY) || errors.Is(err, sqlite3.IOERR) && !IsFull(err) && !IsDamaged(err) || conflict(err) || absent(err)
}

// lostSync reports a failed fsync. Linux then forgets that the pages were
// dirty: trying again would succeed and mean nothing.
func lostSync(err error) bool {
	return errors.Is(err, sqlite3.IOERR_FSYNC) || errors.Is(err, sqlite3.IOERR_DIR_FSYNC)
}

// conflict reports that PostgreSQL undid the transaction because of another one.
func conflict(err error) bool {
	s := state(err)
	return s == "40001" || s == "40P01" || s == "55P03"
}

// absent reports that PostgreSQL is away: starting, stopping, out of connections, or unreachable.
func absent(err error) bool {
	if s := state(err); s != "" {
		return s[:2] == "08" || s[:2] == "53" && s != "53100" || s[:3] == "57P"
	}
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) || errors.Is(err, errLostConnection)
}

var errLostConnection = errors.New("the connection to PostgreSQL was lost")

// lost reports that an error came from the connection and not from the server.
func lost(err error) bool {
	_, network := errors.AsType[net.Error](err)
	return network || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, pgconn.ErrConnClosed) || pgconn.SafeToRetry(err)
}

// state is the SQLSTATE of an error of PostgreSQL, or "".
func state(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && len(e.Code) == 5 {
		return e.Code
	}
	return ""
}

// explain makes of an engine's error what a caller may be told: the context's
// own error if that is why, a fault for what an operator must solve, else err.
func explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, done := errors.AsType[*fault.Error](err); done {
		return err
	}
	if gone := ctx.Err(); gone != nil && (errors.Is(err, sqlite3.INTERRUPT) || errors.Is(err, gone) || state(err) == "57014") {
		return gone
	}
	switch {
	case IsDamaged(err):
		return fault.New(fault.Damaged, "a page of the server's database is damaged; its operator must restore it").Because(err)
	case IsFull(err):
		return fault.New(fault.StorageFull, "the server's disk is full; its operator must make room").Because(err)
	case IsBusy(err):
		return fault.New(fault.Unavailable, "the server's database is not available; try again").After(time.Second).Because(err)
	}
	return err
}
