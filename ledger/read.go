package ledger

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// A Query selects events of one registry, in order of Seq.
type Query struct {
	Registry string
	After    int64     // events with a greater Seq
	Since    time.Time // events that happened at or after; zero is the beginning
	Until    time.Time // events that happened before; zero is no end
	Category string    // "" is every category
	Limit    int       // 0 is all
}

const pageSize = 256

// Events yields what q selects, and everything that was noted before is there. An
// error ends it. If noted events cannot be moved into the table, that is
// the error after the last event.
func (l *Ledger) Events(ctx context.Context, q Query) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		missing := l.Flush(ctx)
		n, late, err := counter(ctx, l.db, q.Registry)
		if err == nil && !q.Since.IsZero() {
			first := int64(0)
			first, err = firstSince(ctx, l.db, q.Registry, q.After+1, n+1, q.Since.UnixMicro())
			q.After = first - 1
		}
		if err != nil {
			yield(Event{}, err)
			return
		}
		for left := q.Limit; ; {
			events, at, err := page(ctx, l.db, q, pageSize)
			if err != nil {
				yield(Event{}, err)
				return
			}
			for _, e := range events {
				q.After = e.Seq
				if e.Time.Before(q.Since) || !q.Until.IsZero() && !e.Time.Before(q.Until) {
					continue
				}
				if !yield(e, nil) {
					return
				}
				if left--; left == 0 {
					return
				}
			}
			if len(events) < pageSize || !q.Until.IsZero() && at >= q.Until.UnixMicro()+late {
				break
			}
		}
		if missing != nil {
			yield(Event{}, missing)
		}
	}
}

// parse fills in e from its body and its registry.
func (e *Event) parse(registry string, body []byte) error {
	e.Registry = registry
	return json.Unmarshal(body, e)
}
