package ledger

import (
	"syscall"
	"testing"
	"time"

	"breakwater/db/dbtest"
)

// cpu is what the process has used, all threads and the kernel's part included.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkEncode(b *testing.B) {
	e, buf := pull("r", 1), make([]byte, 0, 2048)
	b.ReportAllocs()
	for b.Loop() {
		buf = e.appendRecord(buf[:0])
	}
	b.ReportMetric(float64(len(buf)), "B/record")
}

// BenchmarkNote is the part that a pull waits for; BenchmarkDrain the part that
// follows. Both in CPU time.
func BenchmarkNote(b *testing.B) {
	d := dbtest.SQLite(b)
	l := open(b, d, Options{Segment: 1 << 30, Every: time.Hour})
	l.stop() // nothing is drained meanwhile
	l.wg.Wait()
	e := pull("r", 1)
	start := cpu()
	b.ReportAllocs()
	for b.Loop() {
		if err := l.Note(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.StopTimer()
}

func BenchmarkDrain(b *testing.B) {
	d := dbtest.SQLite(b)
	l := open(b, d, Options{Segment: 64 << 20, Every: time.Hour})
	l.stop()
	l.wg.Wait()
	e := pull("r", 1)
	const many = 4 * batchRows
	var used time.Duration
	for b.Loop() {
		for range many {
			if err := l.Note(b.Context(), e); err != nil {
				b.Fatal(err)
			}
		}
		start := cpu()
		if err := l.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		used += cpu() - start
	}
	b.ReportMetric(float64(used.Nanoseconds())/float64(b.N*many), "cpu-ns/event")
}

func BenchmarkRecord(b *testing.B) {
	d := dbtest.SQLite(b)
	l := open(b, d, Options{Every: time.Second})
	e := pull("r", 1)
	b.ResetTimer()
	start := cpu()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := l.Record(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

func BenchmarkNotePostgres(b *testing.B) {
	l := open(b, dbtest.Postgres(b), Options{})
	e := pull("r", 1)
	b.SetParallelism(8)
	b.ResetTimer()
	start := cpu()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := l.Note(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkAppend is the ledger's share of a small change on SQLite, with its
// own commit.
func BenchmarkAppend(b *testing.B) {
	l := open(b, dbtest.SQLite(b), Options{})
	e := pull("r", 1)
	start := cpu()
	for b.Loop() {
		if err := appendAll(l, b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-start).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// BenchmarkOpen is what the spool adds to a start.
func BenchmarkOpen(b *testing.B) {
	d, dir := dbtest.SQLite(b), b.TempDir()
	for b.Loop() {
		l, err := Open(b.Context(), d, Options{Spool: dir, Key: spoolKey})
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
