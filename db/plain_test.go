package db

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ncruces/go-sqlite3/vfs"
)

// openPlain is the same database without the cipher, for what the cipher costs.
func openPlain(t testing.TB, file string) *DB {
	t.Helper()
	d := &lite{file: file, name: "os"}
	d.readers = &pool{slots: make(chan struct{}, 2), open: func(ctx context.Context) (*conn, error) {
		return d.connect(ctx, readerMemory, both+reading)
	}}
	if err := own(file); err != nil {
		t.Fatal(err)
	}
	if err := d.start(t.Context(), Options{Source: file, Fatal: func(err error) { t.Error(err) }}); err != nil {
		t.Fatal(err)
	}
	return &DB{SQLite, d}
}

// BenchmarkSealed is a durable change, a read of a page that SQLite holds, and reads of
// pages that it does not, in the sealed and in the plain file: in turns, of each a round.
func BenchmarkSealed(b *testing.B) {
	const rows = 20000
	body := make([]byte, 1000)
	fresh := func(b *testing.B, open func(testing.TB, string) *DB) *DB {
		d := open(b, filepath.Join(b.TempDir(), "bench.db"))
		b.Cleanup(func() { d.Close() })
		must(b, d, `CREATE TABLE item (id INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT`)
		if err := d.Write(b.Context(), func(tx *Tx) error {
			for i := range rows {
				if _, err := tx.Exec(b.Context(), `INSERT INTO item VALUES ($1, $2)`, i, body); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		return d
	}
	read := func(b *testing.B, d *DB, id int) {
		var got []byte
		if err := d.QueryRow(b.Context(), `SELECT body FROM item WHERE id = $1`, id).Scan(&got); err != nil || len(got) != len(body) {
			b.Fatal(len(got), err)
		}
	}
	used := func() int64 {
		var u syscall.Rusage
		syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	for round := range 3 {
		for name, open := range map[string]func(testing.TB, string) *DB{
			"sealed": func(t testing.TB, file string) *DB { return openTest(t, file, vfs.Find("os"), nil) },
			"plain":  openPlain,
		} {
			for what, do := range map[string]func(b *testing.B, d *DB, i int){
				"write":     func(b *testing.B, d *DB, i int) { must(b, d, `INSERT INTO item VALUES ($1, $2)`, rows+i, body) },
				"read-held": func(b *testing.B, d *DB, i int) { read(b, d, i%100) },
				"read":      func(b *testing.B, d *DB, i int) { read(b, d, i*7919%rows) },
			} {
				b.Run(fmt.Sprintf("%s/%s/%d", what, name, round), func(b *testing.B) {
					d, i := fresh(b, open), 0
					b.ResetTimer()
					before := used()
					for ; i < b.N; i++ {
						do(b, d, i)
					}
					b.ReportMetric(float64(used()-before)/float64(b.N)/1e3, "cpu-µs/op")
				})
			}
		}
	}
}
