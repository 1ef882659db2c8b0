package ledger

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"breakwater/db"
)

// Damaged is the operation of an event about something stored that is not what was
// stored: changed, cut, exchanged, or gone (DP-4).
const Damaged = "Breakwater.Server/integrity/damaged"

// alarms remembers which damage was told, so that who meets it again and again does
// not fill the ledger.
type alarms struct {
	mu    sync.Mutex
	told  map[alarm]time.Time
	total atomic.Int64
}

type alarm struct{ registry, kind, object string }

// Damage is told once for each thing and hour, and no more than so many things are
// remembered: what comes on top waits for the next hour, in the log and the count.
const (
	alarmAgain = time.Hour
	alarmsKept = 4096
)

// fresh reports whether an alarm was not told within the hour.
func (a *alarms) fresh(about alarm, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if at, ok := a.told[about]; ok && now.Sub(at) < alarmAgain {
		return false
	}
	if len(a.told) >= alarmsKept {
		for k, at := range a.told {
			if now.Sub(at) >= alarmAgain {
				delete(a.told, k)
			}
		}
		if len(a.told) >= alarmsKept {
			return false
		}
	}
	if a.told == nil {
		a.told = map[alarm]time.Time{}
	}
	a.told[about] = now
	return true
}

// Damage makes e, which says where, in which request, and who found it, the event of a
// damaged object of some kind: "blob", "manifest", "tag", "upload", "key", "database".
func Damage(e Event, kind, object string) Event {
	e.Category, e.Operation, e.Outcome, e.Status = Security, Damaged, Failure, 0
	more := map[string]string{"kind": kind, "object": object}
	for k, v := range e.Detail.More {
		more[k] = v
	}
	e.Detail.More = more
	return e
}

// Alarm records damage and says so in the log: once, however often it is met. What
// is damaged is refused whether or not this succeeds.
//
// mark makes the object's own mark, in the transaction that records; if it was marked
// already it returns false, and nothing is told again. Where nothing can be marked it
// is nil, and this process tells the same no more than once an hour.
func (l *Ledger) Alarm(ctx context.Context, e Event, cause error, mark func(*db.Tx) (bool, error)) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	fresh, err := false, error(nil)
	if mark != nil {
		err = l.db.Write(ctx, func(tx *db.Tx) (err error) {
			if fresh, err = mark(tx); err != nil || !fresh {
				return err
			}
			return l.Append(ctx, tx, e)
		})
	}
	if mark == nil || err != nil {
		if fresh = l.alarms.fresh(alarm{e.Registry, e.Detail.More["kind"], e.Detail.More["object"]}, time.Now()); fresh {
			err = l.Record(ctx, e)
		}
	}
	if fresh {
		l.Told(ctx, e, cause)
	}
	if err != nil {
		slog.ErrorContext(ctx, "damage is not on record", "kind", e.Detail.More["kind"], "object", e.Detail.More["object"], "err", err)
	}
}

// Told logs and counts damage whose event is recorded.
func (l *Ledger) Told(ctx context.Context, e Event, cause error) {
	l.alarms.total.Add(1)
	slog.ErrorContext(ctx, "what is stored is damaged and is not given out", "registry", e.Registry, "kind", e.Detail.More["kind"],
		"object", e.Detail.More["object"], "repository", e.Detail.Repository, "correlation", e.Correlation, "err", cause)
}

// Alarms is how often this process has told of damage.
func (l *Ledger) Alarms() int64 { return l.alarms.total.Load() }
