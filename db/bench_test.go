package db_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"breakwater/db"
	"breakwater/db/dbtest"
)

// cpu reports the processor time of the process for each operation.
func cpu(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N)/1e3, "cpu-µs/op") }
}

func each(b *testing.B, run func(b *testing.B, d *db.DB)) {
	b.Run("sqlite", func(b *testing.B) { run(b, dbtest.SQLite(b)) })
	b.Run("postgres", func(b *testing.B) { run(b, dbtest.Postgres(b)) })
}

func fill(b *testing.B, d *db.DB, rows int) {
	write(b, d, `CREATE TABLE item (registry TEXT NOT NULL, name TEXT NOT NULL, size BIGINT NOT NULL, body `+blob(d)+`, PRIMARY KEY (registry, name))`)
	write(b, d, `CREATE TABLE happened (registry TEXT NOT NULL, seq BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (registry, seq))`)
	write(b, d, `CREATE TABLE tally (registry TEXT PRIMARY KEY, n BIGINT NOT NULL)`)
	write(b, d, `INSERT INTO tally VALUES ('r', 0)`)
	body := make([]byte, 1000)
	if err := d.Write(b.Context(), func(tx *db.Tx) error {
		for i := range rows {
			if _, err := tx.Exec(b.Context(), `INSERT INTO item VALUES ('r', $1, $2, $3)`, fmt.Sprintf("%08x", i*2654435761%(1<<32)), i, body); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
}

// small is a change and its event, numbered by the counter that is updated last.
func small(b *testing.B, d *db.DB, name string) error {
	event := strings.Repeat("e", 300)
	return d.Write(b.Context(), func(tx *db.Tx) error {
		if _, err := tx.Exec(b.Context(), `INSERT INTO item VALUES ($1, $2, $3, $4)`, "r", name, 7, []byte(event)); err != nil {
			return err
		}
		var n int64
		if err := tx.QueryRow(b.Context(), `UPDATE tally SET n = n + 1 WHERE registry = $1 RETURNING n`, "r").Scan(&n); err != nil {
			return err
		}
		_, err := tx.Exec(b.Context(), `INSERT INTO happened VALUES ($1, $2, $3)`, "r", n, event)
		return err
	})
}

func BenchmarkSmallDurableWrite(b *testing.B) {
	each(b, func(b *testing.B, d *db.DB) {
		fill(b, d, 20000)
		report := cpu(b)
		i := 0
		for b.Loop() {
			if i++; small(b, d, fmt.Sprintf("new%d", i)) != nil {
				b.Fatal("failed")
			}
		}
		report()
	})
}

func BenchmarkSmallDurableWriteBy16(b *testing.B) {
	each(b, func(b *testing.B, d *db.DB) {
		fill(b, d, 20000)
		b.SetParallelism(8)
		names := make(chan int)
		go func() {
			for i := range b.N + 1000 {
				names <- i
			}
		}()
		b.ResetTimer()
		report := cpu(b)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := small(b, d, fmt.Sprintf("new%d", <-names)); err != nil {
					b.Error(err)
				}
			}
		})
		report()
	})
}

func BenchmarkPointRead(b *testing.B) {
	each(b, func(b *testing.B, d *db.DB) {
		fill(b, d, 20000)
		report := cpu(b)
		i := 0
		for b.Loop() {
			i++
			var size int64
			var body []byte
			if err := d.QueryRow(b.Context(), `SELECT size, body FROM item WHERE registry = $1 AND name = $2`, "r",
				fmt.Sprintf("%08x", i%20000*2654435761%(1<<32))).Scan(&size, &body); err != nil {
				b.Fatal(err)
			}
		}
		report()
	})
}

func BenchmarkPointReadAfterEachWrite(b *testing.B) {
	each(b, func(b *testing.B, d *db.DB) {
		fill(b, d, 20000)
		report := cpu(b)
		i := 0
		for b.Loop() {
			i++
			if i%2 == 0 {
				if small(b, d, fmt.Sprintf("new%d", i)) != nil {
					b.Fatal("failed")
				}
				continue
			}
			var size int64
			if err := d.QueryRow(b.Context(), `SELECT size FROM item WHERE registry = $1 AND name = $2`, "r",
				fmt.Sprintf("%08x", i%20000*2654435761%(1<<32))).Scan(&size); err != nil {
				b.Fatal(err)
			}
		}
		report()
	})
}
