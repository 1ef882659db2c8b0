package ledger

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
	"breakwater/fault"
)

func TestAnEventCommitsWithItsChangeOrNotAtAll(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{})
		undone := errors.New("undone")
		err := d.Write(t.Context(), func(tx *db.Tx) error {
			if err := l.Append(t.Context(), tx, pull("a", 1)); err != nil {
				return err
			}
			return undone
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
		e := pull("a", 2)
		e.Detail.More = map[string]string{"agent\x00": "bad \xff utf-8 \u2028 <&>"}
		e.Time = time.Now()
		if err := appendAll(l, t.Context(), e, pull("b", 3), pull("a", 4)); err != nil {
			t.Fatal(err)
		}
		got := events(t, l, Query{Registry: "a"})
		whole(t, got)
		if len(got) != 2 || got[0].Correlation != e.Correlation || got[0].Detail.More["agent\x00"] != "bad \ufffd utf-8 \u2028 <&>" {
			t.Fatalf("%+v", got)
		}
		if !got[0].Time.Equal(e.Time.Truncate(time.Microsecond)) || got[0].Who != e.Who || got[0].From != e.From || got[0].Duration != e.Duration {
			t.Fatalf("%+v", got[0])
		}
		if b := events(t, l, Query{Registry: "b"}); len(b) != 1 || b[0].Seq != 1 {
			t.Fatalf("%+v", b)
		}
	})
}

func TestWhoHasSeenANumberHasSeenAllBeforeIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{Every: 5 * time.Millisecond})
		const writers, each = 8, 40
		done := make(chan struct{})
		var reader, wg sync.WaitGroup
		var seen []int64
		reader.Go(func() {
			last := int64(0)
			for last < writers*each {
				select {
				case <-done:
					if last == int64(len(seen)) && last == writers*each {
						return
					}
				default:
				}
				for e, err := range l.Events(t.Context(), Query{Registry: "r", After: last}) {
					if err != nil {
						t.Error(err)
						return
					}
					seen, last = append(seen, e.Seq), e.Seq
				}
			}
		})
		for w := range writers {
			wg.Go(func() {
				for i := range each {
					e := pull("r", w*each+i)
					var err error
					switch i % 4 {
					case 0:
						err = l.Note(t.Context(), e)
					case 1:
						err = l.Record(t.Context(), e)
					default:
						d.Write(t.Context(), func(tx *db.Tx) error { // a number that is not used must not be missed
							l.Append(t.Context(), tx, pull("r", -1))
							return errors.New("undone")
						})
						err = appendAll(l, t.Context(), e)
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		close(done)
		reader.Wait()
		for i, n := range seen {
			if n != int64(i)+1 {
				t.Fatalf("the reader saw %d in place %d", n, i+1)
			}
		}
		if got := whole(t, events(t, l, Query{Registry: "r"})); len(got) != writers*each {
			t.Fatalf("%d events of %d", len(got), writers*each)
		}
	})
}

func TestNotedEventsGetTheirRowsBySoonAndByClose(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		o := Options{Every: 10 * time.Millisecond, Spool: t.TempDir(), Key: spoolKey}
		l, err := Open(t.Context(), d, o)
		if err != nil {
			t.Fatal(err)
		}
		rows := func() (n int64) {
			n, _, err := counter(t.Context(), d, "r")
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		if err := l.Note(t.Context(), pull("r", 1)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a row for a noted event", func() bool { return rows() == 1 })
		if err := l.Note(t.Context(), pull("r", 2)); err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if rows() != 2 {
			t.Fatalf("%d rows after Close", rows())
		}
	})
}

func TestEventsSelectsByTimeCategoryAndPlace(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{})
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var all []Event
		for i := range 700 {
			e := pull("r", i)
			e.Time = start.Add(time.Duration(i) * time.Minute)
			if i%10 == 0 {
				e.Category = Login
			}
			all = append(all, e)
		}
		// Their rows are made late, and one later than others that happened after it.
		slices.SortFunc(all[300:303], func(a, b Event) int { return b.Time.Compare(a.Time) })
		for part := range slices.Chunk(all, 100) {
			if err := appendAll(l, t.Context(), part...); err != nil {
				t.Fatal(err)
			}
		}
		at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Minute) }
		for _, c := range []struct {
			q    Query
			want int
		}{
			{Query{}, 700},
			{Query{Limit: 5}, 5},
			{Query{After: 690}, 10},
			{Query{Category: Login}, 70},
			{Query{Category: Login, After: 100, Limit: 20}, 20},
			{Query{Since: at(301)}, 399},
			{Query{Since: at(301), Until: at(302)}, 1},
			{Query{Until: at(302)}, 302},
			{Query{Since: at(100), Until: at(200), Category: Login}, 10},
			{Query{Since: at(800)}, 0},
			{Query{Until: at(0)}, 0},
		} {
			c.q.Registry = "r"
			if got := events(t, l, c.q); len(got) != c.want {
				t.Errorf("%+v: %d events, not %d", c.q, len(got), c.want)
			}
		}
		if got := events(t, l, Query{Registry: "other"}); len(got) != 0 {
			t.Errorf("%d events of another registry", len(got))
		}
		if got, err := firstSince(t.Context(), d, "r", 1, 701, time.Now().UnixMicro()); err != nil || got != 701 {
			t.Errorf("the first row since now is %d (%v)", got, err)
		}
	})
}

func TestSinceFindsItsPlaceByHalving(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{})
		var marks []time.Time
		for i := range 20 {
			marks = append(marks, time.Now())
			if err := appendAll(l, t.Context(), pull("r", i)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Millisecond)
		}
		for i, m := range marks {
			if got := events(t, l, Query{Registry: "r", Since: m}); len(got) != 20-i || got[0].Seq != int64(i)+1 {
				t.Fatalf("since mark %d: %d events", i, len(got))
			}
		}
	})
}

type follower struct {
	name string
	do   func(ctx context.Context, events []Event) error
}

func (f follower) Name() string                                     { return f.name }
func (f follower) Follow(ctx context.Context, events []Event) error { return f.do(ctx, events) }

func TestAFollowerGetsEverythingInOrderAndAgainAfterAnError(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		l := open(t, d, Options{Every: 5 * time.Millisecond})
		var mu sync.Mutex
		got := map[string][]int64{}
		failures := 0
		f := follower{"sink", func(_ context.Context, events []Event) error {
			mu.Lock()
			defer mu.Unlock()
			if failures++; failures%3 == 1 {
				return errors.New("not reachable")
			}
			for _, e := range events {
				got[e.Registry] = append(got[e.Registry], e.Seq)
			}
			return nil
		}}
		run := func(total int) {
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { l.Follow(ctx, f) })
			eventually(t, "the follower has everything", func() bool {
				mu.Lock()
				defer mu.Unlock()
				// Stopped before its cursor has moved, it would rightly get the last page again.
				seen, err := behind(t.Context(), d, "sink")
				return err == nil && len(seen) == 0 && len(got["a"])+len(got["b"]) >= total
			})
			cancel()
			wg.Wait()
		}
		for i := range 600 {
			if err := appendAll(l, t.Context(), pull([]string{"a", "b"}[i%2], i)); err != nil {
				t.Fatal(err)
			}
		}
		run(600)
		if err := l.Record(t.Context(), pull("a", 600)); err != nil {
			t.Fatal(err)
		}
		run(601)
		for registry, want := range map[string]int64{"a": 301, "b": 300} {
			if n := int64(len(got[registry])); n != want {
				t.Errorf("%d events of %s, not %d", n, registry, want)
			}
			for i, n := range got[registry] {
				if n != int64(i)+1 {
					t.Fatalf("event %d of %s in place %d", n, registry, i+1)
				}
			}
		}
	})
}

func TestOneProcessAtATimeHoldsALeaseAndAnotherTakesItOver(t *testing.T) {
	d := dbtest.Postgres(t)
	var holding, most, turns int
	var mu sync.Mutex
	lead := func(ctx context.Context, l *Ledger) {
		l.lease = 300 * time.Millisecond
		l.Lead(ctx, "sweep", time.Millisecond, func(ctx context.Context) error {
			mu.Lock()
			holding++
			turns++
			most = max(most, holding)
			mu.Unlock()
			sleep(ctx, 10*time.Millisecond)
			mu.Lock()
			holding--
			mu.Unlock()
			return nil
		})
	}
	var wg sync.WaitGroup
	first, stop := context.WithCancel(t.Context())
	second, stopSecond := context.WithCancel(t.Context())
	a, b := open(t, d, Options{}), open(t, d, Options{})
	wg.Go(func() { lead(first, a) })
	wg.Go(func() { lead(second, b) })
	time.Sleep(500 * time.Millisecond)
	stop()
	mu.Lock()
	before := turns
	mu.Unlock()
	eventually(t, "the other goes on", func() bool { mu.Lock(); defer mu.Unlock(); return turns > before+5 })
	// A holder that died without a word is waited for, not longer.
	stopSecond()
	wg.Wait()
	if held, err := takeLease(t.Context(), d, "sweep", "the dead", 200*time.Millisecond); err != nil || !held {
		t.Fatal(held, err)
	}
	if held, err := takeLease(t.Context(), d, "sweep", "the living", time.Second); err != nil || held {
		t.Fatal("took a lease that another holds", err)
	}
	time.Sleep(250 * time.Millisecond)
	if held, err := takeLease(t.Context(), d, "sweep", "the living", time.Second); err != nil || !held {
		t.Fatal("did not get a lease that has ended", err)
	}
	if most != 1 {
		t.Fatalf("%d held the lease at once", most)
	}
}

func TestALostLeaseEndsTheWork(t *testing.T) {
	d := dbtest.Postgres(t)
	l := open(t, d, Options{})
	l.lease = 150 * time.Millisecond
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	started := make(chan struct{})
	wg.Go(func() {
		l.Lead(ctx, "sweep", time.Hour, func(ctx context.Context) error {
			close(started)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		})
	})
	<-started
	err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `UPDATE lease SET holder = 'another', until = $1`, time.Now().Add(time.Hour))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ended
	cancel()
	wg.Wait()
}

func TestAFollowerThatLostItsPlaceMovesNoCursor(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		move := func(from, to int64) error {
			return d.Write(t.Context(), func(tx *db.Tx) error { return moveCursor(t.Context(), tx, "sink", "r", from, to) })
		}
		if err := move(0, 10); err != nil {
			t.Fatal(err)
		}
		if err := move(0, 5); fault.Of(err) != fault.Conflict {
			t.Fatalf("a cursor went back: %v", err)
		}
		if err := move(10, 11); err != nil {
			t.Fatal(err)
		}
	})
}

func TestConcurrentRecordsShareCommits(t *testing.T) {
	var commits atomic.Int32
	release := make(chan struct{})
	g := group[int]{commit: func(_ context.Context, all []int) error {
		commits.Add(1)
		<-release
		return nil
	}}
	var wg sync.WaitGroup
	wg.Go(func() { g.add(t.Context(), 0) })
	eventually(t, "the first leads", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.next == nil && commits.Load() == 1 })
	for i := range 50 {
		wg.Go(func() {
			if err := g.add(t.Context(), i); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "fifty gather", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.next != nil && len(g.next.all) == 50 })
	close(release)
	wg.Wait()
	if commits.Load() != 2 {
		t.Fatalf("%d commits for 51 callers", commits.Load())
	}
}

func TestNoRecordIsAnErrorThatTellsToComeBack(t *testing.T) {
	d := dbtest.Postgres(t)
	l := open(t, d, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), `DROP TABLE event`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"Note": l.Note(ctx, pull("r", 1)), "Record": l.Record(ctx, pull("r", 1))} {
		if f := fault.From(err); f.Code != fault.Unavailable || f.Retry == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
