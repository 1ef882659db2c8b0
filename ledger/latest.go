package ledger

import (
	"context"
	"fmt"
	"iter"
	"math"
	"strings"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

// A Mark is a place in the order of Latest; "" is before the newest event.
type Mark string

// Marked is an event and its place.
type Marked struct {
	Event
	Mark Mark
}

// Latest yields the administrative events of all registries and of the server, also
// of registries that are gone, that happened in [since, until): the newest first,
// in the order in which they were recorded, from after the mark. A zero time is no
// bound. Everything that was noted before is there.
func (l *Ledger) Latest(ctx context.Context, after Mark, since, until time.Time) iter.Seq2[Marked, error] {
	return func(yield func(Marked, error) bool) {
		missing := l.Flush(ctx)
		at, err := l.place(ctx, after, until)
		if err != nil {
			yield(Marked{}, err)
			return
		}
		from := int64(math.MinInt64)
		if !since.IsZero() {
			from = since.UnixMicro() // what is recorded before has happened before
		}
		for {
			events, err := latest(ctx, l.db, &at, from, pageSize)
			if err != nil {
				yield(Marked{}, err)
				return
			}
			for _, e := range events {
				if e.Time.Before(since) || !until.IsZero() && !e.Time.Before(until) {
					continue
				}
				if !yield(e, nil) {
					return
				}
			}
			if len(events) < pageSize {
				break
			}
		}
		if missing != nil {
			yield(Marked{}, missing)
		}
	}
}

// A spot is where Latest is; what comes next is less.
type spot struct {
	at       int64
	seq      int64
	registry string
}

func (p spot) mark() Mark { return Mark(fmt.Sprintf("%d.%d.%s", p.at, p.seq, p.registry)) }

// place is where Latest begins. An event waits for its row at most as long as one
// ever has.
func (l *Ledger) place(ctx context.Context, m Mark, until time.Time) (p spot, err error) {
	if m != "" {
		head, registry, _ := strings.Cut(strings.Replace(string(m), ".", " ", 1), ".")
		if _, err := fmt.Sscanf(head, "%d %d", &p.at, &p.seq); err != nil || len(registry) > 64 {
			return p, fault.New(fault.BadRequest, "$skipToken is not one that was given")
		}
		p.registry = registry
		return p, nil
	}
	p.at = math.MaxInt64
	if until.IsZero() {
		return p, nil
	}
	var late int64
	if err := l.db.QueryRow(ctx, `SELECT COALESCE(MAX(late), 0) FROM counter`).Scan(&late); err != nil {
		return p, err
	}
	p.at = until.UnixMicro() + late + 1
	return p, nil
}

func latest(ctx context.Context, d *db.DB, at *spot, from int64, limit int) (events []Marked, err error) {
	rows, err := d.Query(ctx, `
		SELECT at, registry, seq, body FROM event
		WHERE category = 'Administrative' AND at >= $1 AND at <= $2 AND (at, registry, seq) < ($2, $3, $4)
		ORDER BY at DESC, registry DESC, seq DESC LIMIT $5`, from, at.at, at.registry, at.seq, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e Marked
		var body []byte
		if err := rows.Scan(&at.at, &at.registry, &at.seq, &body); err != nil {
			return nil, err
		}
		registry, seq := at.registry, at.seq
		if err := e.parse(registry, body); err != nil {
			return nil, fmt.Errorf("event %d of %q: %w", seq, registry, err)
		}
		e.Seq, e.Category, e.Mark = seq, Administrative, at.mark()
		events = append(events, e)
	}
	return events, rows.Err()
}
