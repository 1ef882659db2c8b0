package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

// insert numbers the rows and adds them, registry by registry, always in the
// same order of registries: two transactions cannot wait for each other's counter.
func insert(ctx context.Context, tx *db.Tx, rows []row) error {
	byRegistry := func(a, b row) int { return strings.Compare(a.registry, b.registry) }
	if !slices.IsSortedFunc(rows, byRegistry) {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, byRegistry)
	}
	for len(rows) > 0 {
		n := 1
		for n < len(rows) && rows[n].registry == rows[0].registry {
			n++
		}
		if err := insertOne(ctx, tx, rows[:n]); err != nil {
			return fmt.Errorf("append to the ledger: %w", err)
		}
		rows = rows[n:]
	}
	return nil
}

// minLate is how long an event may always wait for its row without being late.
const minLate = int64(4 * time.Second / time.Microsecond)

const countSQL = `
	INSERT INTO counter (registry, n, at, late) VALUES ($1, $2, $3, $4)
	ON CONFLICT (registry) DO UPDATE SET n = counter.n + excluded.n,
		at = CASE WHEN counter.at > excluded.at THEN counter.at ELSE excluded.at END
	RETURNING n, at, late`

func next(ctx context.Context, tx *db.Tx, registry string) (n int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO counter (registry, n, at, late) VALUES ($1, 0, 0, $2)
		ON CONFLICT (registry) DO UPDATE SET n = counter.n RETURNING n`, registry, minLate).Scan(&n)
	return n + 1, err
}

func insertOne(ctx context.Context, tx *db.Tx, rows []row) error {
	at, oldest := time.Now().UnixMicro(), rows[0].time
	for _, r := range rows {
		at, oldest = max(at, r.time), min(oldest, r.time)
	}
	registry := rows[0].registry
	var n, late int64
	if err := tx.QueryRow(ctx, countSQL, registry, len(rows), at, minLate).Scan(&n, &at, &late); err != nil {
		return err
	}
	if bound := late; at-oldest > bound {
		for at-oldest > bound {
			bound *= 2 // so that this statement is rare
		}
		if _, err := tx.Exec(ctx, `UPDATE counter SET late = $1 WHERE registry = $2`, bound, registry); err != nil {
			return err
		}
	}
	seq := n - int64(len(rows)) + 1
	for _, size := range chunks {
		for len(rows) >= size {
			args := make([]any, 0, 3+2*size)
			args = append(args, registry, at, seq)
			for _, r := range rows[:size] {
				args = append(args, r.category, r.body)
			}
			if _, err := tx.Exec(ctx, insertSQL[size], args...); err != nil {
				return err
			}
			rows, seq = rows[size:], seq+int64(size)
		}
	}
	return nil
}

// insertSQL has a statement for each number of rows that goes in at once: few
// texts, so that each is prepared once.
var (
	chunks    = [...]int{64, 8, 1}
	insertSQL = func() map[int]string {
		m := map[int]string{}
		for _, size := range chunks {
			b := []byte(`INSERT INTO event (registry, seq, at, category, body) VALUES `)
			for i := range size {
				if i > 0 {
					b = append(b, ", "...)
				}
				b = fmt.Appendf(b, "($1, CAST($3 AS BIGINT) + %d, $2, $%d, $%d)", i, 4+2*i, 5+2*i)
			}
			m[size] = string(b)
		}
		return m
	}()
)

// firstSince is the first seq in [lo, hi) whose row was made at or after since:
// at grows with seq.
func firstSince(ctx context.Context, d *db.DB, registry string, lo, hi, since int64) (int64, error) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		var seq, at int64
		err := d.QueryRow(ctx, `SELECT seq, at FROM event WHERE registry = $1 AND seq >= $2 ORDER BY seq LIMIT 1`, registry, mid).Scan(&seq, &at)
		switch {
		case errors.Is(err, db.ErrNoRows) || err == nil && at >= since:
			hi = mid
		case err != nil:
			return 0, err
		default:
			lo = seq + 1
		}
	}
	return lo, nil
}

// page reads up to limit events after q.After, and how late the last one is. A
// page that is not full is the last.
func page(ctx context.Context, d *db.DB, q Query, limit int) (events []Event, at int64, err error) {
	rows, err := d.Query(ctx, `
		SELECT seq, at, category, body FROM event
		WHERE registry = $1 AND seq > $2 AND ($3 = '' OR category = $3) ORDER BY seq LIMIT $4`,
		q.Registry, q.After, q.Category, limit)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Event
		var body []byte
		if err := rows.Scan(&e.Seq, &at, &e.Category, &body); err != nil {
			return nil, 0, err
		}
		if err := e.parse(q.Registry, body); err != nil {
			return nil, 0, fmt.Errorf("event %s of %q: %w", strconv.FormatInt(e.Seq, 10), q.Registry, err)
		}
		events = append(events, e)
	}
	return events, at, rows.Err()
}

// counter returns how many events a registry has, and how late one ever was.
func counter(ctx context.Context, d *db.DB, registry string) (n, late int64, err error) {
	err = d.QueryRow(ctx, `SELECT n, late FROM counter WHERE registry = $1`, registry).Scan(&n, &late)
	if errors.Is(err, db.ErrNoRows) {
		err = nil
	}
	return n, late, err
}

// behind yields the registries that have events which the follower has not seen,
// and the last it has seen.
func behind(ctx context.Context, d *db.DB, follower string) (map[string]int64, error) {
	rows, err := d.Query(ctx, `
		SELECT c.registry, COALESCE(k.seq, 0) FROM counter c
		LEFT JOIN cursor k ON k.follower = $1 AND k.registry = c.registry
		WHERE c.n > COALESCE(k.seq, 0)`, follower)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	m := map[string]int64{}
	for rows.Next() {
		var registry string
		var seq int64
		if err := rows.Scan(&registry, &seq); err != nil {
			return nil, err
		}
		m[registry] = seq
	}
	return m, rows.Err()
}

// moveCursor moves a cursor from where its holder believes it is. If it is not
// there, somebody else holds it now.
func moveCursor(ctx context.Context, tx *db.Tx, follower, registry string, from, to int64) error {
	n, err := tx.Exec(ctx, `
		INSERT INTO cursor (follower, registry, seq) VALUES ($1, $2, $3)
		ON CONFLICT (follower, registry) DO UPDATE SET seq = excluded.seq WHERE cursor.seq = $4`,
		follower, registry, to, from)
	if err == nil && n != 1 {
		err = fault.New(fault.Conflict, "the cursor of %s was moved by another process", follower)
	}
	return err
}

// spoolName is the follower that moves the spool into the table.
const spoolName = "spool"

// spoolCursor is how far the spool is in the table.
func spoolCursor(ctx context.Context, d *db.DB) (n int64, err error) {
	return cursorOf(ctx, d, spoolName)
}

// cursorOf is the place of who goes through something else than events.
func cursorOf(ctx context.Context, d *db.DB, name string) (n int64, err error) {
	err = d.QueryRow(ctx, `SELECT seq FROM cursor WHERE follower = $1 AND registry = ''`, name).Scan(&n)
	if errors.Is(err, db.ErrNoRows) {
		err = nil
	}
	return n, err
}

// takeLease takes or prolongs a lease if it is free or ours.
func takeLease(ctx context.Context, d *db.DB, name, holder string, lasts time.Duration) (held bool, err error) {
	now := time.Now()
	err = d.WriteRelaxed(ctx, func(tx *db.Tx) error {
		n, err := tx.Exec(ctx, `
			INSERT INTO lease (name, holder, until) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
			WHERE lease.holder = excluded.holder OR lease.until < $4`, name, holder, now.Add(lasts), now)
		held = n == 1
		return err
	})
	return held, err
}

func releaseLease(ctx context.Context, d *db.DB, name, holder string) error {
	return d.WriteRelaxed(ctx, func(tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM lease WHERE name = $1 AND holder = $2`, name, holder)
		return err
	})
}
