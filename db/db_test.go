package db_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
)

func write(t testing.TB, d *db.DB, text string, args ...any) {
	t.Helper()
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), text, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func blob(d *db.DB) string {
	if d.Engine() == db.Postgres {
		return "BYTEA"
	}
	return "BLOB"
}

func count(t testing.TB, d *db.DB, from string) (n int) {
	t.Helper()
	if err := d.QueryRow(t.Context(), `SELECT count(*) FROM `+from).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPlaceholdersBindByNumberAndNotByAppearance(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE pair (a TEXT, b TEXT)`)
		write(t, d, `INSERT INTO pair (b, a) VALUES ($2, $1)`, "first", "second")
		var a, b string
		if err := d.QueryRow(t.Context(), `SELECT a, b FROM pair WHERE b = $2 AND a = $1 AND a <> '$3' -- $4
			AND $2 = b /* $5 */`, "first", "second").Scan(&a, &b); err != nil || a != "first" || b != "second" {
			t.Errorf("got %q, %q, %v", a, b, err)
		}
		var ten int
		if err := d.QueryRow(t.Context(), `SELECT CAST($11 AS BIGINT) * 10 + CAST($1 AS BIGINT) - CAST($2 AS BIGINT) + CAST($3 AS BIGINT) + CAST($4 AS BIGINT)
			+ CAST($5 AS BIGINT) + CAST($6 AS BIGINT) + CAST($7 AS BIGINT) + CAST($8 AS BIGINT) + CAST($9 AS BIGINT) + CAST($10 AS BIGINT)`,
			2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1).Scan(&ten); err != nil || ten != 10 {
			t.Errorf("got %d, %v; $11 is not $1 followed by 1", ten, err)
		}
		for _, args := range [][]any{{"one"}, {"one", "two", "three"}} {
			if err := d.QueryRow(t.Context(), `SELECT a FROM pair WHERE a = $1 AND b = $2`, args...).Scan(&a); err == nil || errors.Is(err, db.ErrNoRows) {
				t.Errorf("%d arguments for two placeholders: %v", len(args), err)
			}
		}
	})
}

type name string

func TestValuesComeBackAsTheyWent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE v (n BIGINT, s TEXT, b `+blob(d)+`, f BOOLEAN, r DOUBLE PRECISION, at BIGINT, doc TEXT, none TEXT)`)
		at := time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.FixedZone("", 3600))
		write(t, d, `INSERT INTO v VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			int32(-7), name("näme"), []byte{0, 1, 255}, true, 1.5, at, json.RawMessage(`{"a":1}`), (*string)(nil))
		var (
			n         int64
			s, none   name
			b         []byte
			f         bool
			r         float64
			back      time.Time
			doc       json.RawMessage
			pointer   *string
			null      sql.Null[string]
			small     int8
			something any
		)
		err := d.QueryRow(t.Context(), `SELECT n, s, b, f, r, at, doc, none, none, n, n FROM v`).
			Scan(&n, &s, &b, &f, &r, &back, &doc, &pointer, &null, &small, &something)
		if err != nil {
			t.Fatal(err)
		}
		if n != -7 || s != "näme" || string(b) != "\x00\x01\xff" || !f || r != 1.5 || !back.Equal(at) || back.Location() != time.UTC ||
			string(doc) != `{"a":1}` || pointer != nil || null.Valid || small != -7 || something != int64(-7) {
			t.Error(n, s, b, f, r, back, string(doc), pointer, null, small, something)
		}
		if err := d.QueryRow(t.Context(), `SELECT none FROM v`).Scan(&none); err == nil {
			t.Error("NULL fitted into a string")
		}
		if err := d.QueryRow(t.Context(), `SELECT s FROM v`).Scan(&n); err == nil {
			t.Error("text fitted into a number")
		}
		if err := d.QueryRow(t.Context(), `SELECT n FROM v WHERE n = $1`, struct{}{}).Scan(&n); err == nil {
			t.Error("a struct was bound")
		}
		// Empty is not absent.
		write(t, d, `UPDATE v SET b = $1, s = $2, none = $3`, []byte{}, "", "")
		if err := d.QueryRow(t.Context(), `SELECT b, s, none FROM v WHERE b IS NOT NULL`).Scan(&b, &s, &none); err != nil || b == nil || len(b)+len(s)+len(none) > 0 {
			t.Error(b, s, none, err)
		}
		write(t, d, `UPDATE v SET b = $1`, []byte(nil))
		if err := d.QueryRow(t.Context(), `SELECT b FROM v WHERE b IS NULL`).Scan(&b); err != nil || b != nil {
			t.Error(b, err)
		}
	})
}

func TestRefusalsOfTheDatabaseAreToldApart(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE parent (id BIGINT PRIMARY KEY, mail TEXT UNIQUE)`)
		write(t, d, `CREATE TABLE child (id BIGINT PRIMARY KEY REFERENCES parent ON DELETE RESTRICT)`)
		write(t, d, `INSERT INTO parent VALUES (1, 'a')`)
		write(t, d, `INSERT INTO child VALUES (1)`)
		for text, is := range map[string]func(error) bool{
			`INSERT INTO parent VALUES (1, 'b')`: db.IsUnique,
			`INSERT INTO parent VALUES (2, 'a')`: db.IsUnique,
			`INSERT INTO child VALUES (9)`:       db.IsForeignKey,
			`DELETE FROM parent WHERE id = 1`:    db.IsForeignKey,
			`UPDATE parent SET id = 5`:           db.IsForeignKey,
		} {
			err := d.Write(t.Context(), func(tx *db.Tx) error {
				_, err := tx.Exec(t.Context(), text)
				return err
			})
			kinds := fmt.Sprint(db.IsUnique(err), db.IsForeignKey(err), db.IsFull(err), db.IsBusy(err))
			want := fmt.Sprint(text[:6] == "INSERT" && text[12] == 'p', !(text[:6] == "INSERT" && text[12] == 'p'), false, false)
			if !is(err) || kinds != want {
				t.Errorf("%s: %v: %s", text, err, kinds)
			}
		}
		if n := count(t, d, "parent"); n != 1 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestAFailedWriteLeavesNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
		mine := errors.New("mine")
		add := func(tx *db.Tx, id int) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO t VALUES ($1)`, id)
			return err
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error { add(tx, 1); return mine }); err != mine {
			t.Error(err)
		}
		func() {
			defer func() { recover() }()
			d.Write(t.Context(), func(tx *db.Tx) error { add(tx, 1); panic("at the disco") })
		}()
		// An error of a statement counts even if fn forgets it.
		if err := d.Write(t.Context(), func(tx *db.Tx) error { add(tx, 1); add(tx, 1); add(tx, 2); return nil }); !db.IsUnique(err) {
			t.Error(err)
		}
		var late *db.Tx
		if err := d.Write(t.Context(), func(tx *db.Tx) error { late = tx; return nil }); err != nil {
			t.Error(err)
		}
		if err := add(late, 1); err == nil {
			t.Error("a transaction lived on")
		}
		if n := count(t, d, "t"); n != 0 {
			t.Errorf("%d rows", n)
		}
		write(t, d, `INSERT INTO t VALUES (1)`)
	})
}

func TestRowsLeftOpenDoNotHinderTheCommit(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
		write(t, d, `INSERT INTO t VALUES (1), (2), (3)`)
		for range 3 {
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				if _, err := tx.Exec(t.Context(), `UPDATE t SET id = id + 10`); err != nil {
					return err
				}
				rows, err := tx.Query(t.Context(), `SELECT id FROM t`)
				if err == nil {
					rows.Next()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		var sum int
		if err := d.QueryRow(t.Context(), `SELECT CAST(sum(id) AS BIGINT) FROM t`).Scan(&sum); err != nil || sum != 96 {
			t.Error(sum, err)
		}
	})
}

func TestReturningAndAffectedRows(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE tally (registry TEXT PRIMARY KEY, n BIGINT NOT NULL)`)
		for want := 1; want < 4; want++ {
			var n int
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				return tx.QueryRow(t.Context(), `INSERT INTO tally VALUES ($1, 1)
					ON CONFLICT (registry) DO UPDATE SET n = tally.n + 1 RETURNING n`, "r").Scan(&n)
			}); err != nil || n != want {
				t.Fatal(n, err)
			}
		}
		if err := d.Write(t.Context(), func(tx *db.Tx) error {
			some, err := tx.Exec(t.Context(), `UPDATE tally SET n = 0`)
			none, err2 := tx.Exec(t.Context(), `UPDATE tally SET n = 0 WHERE n = 77`)
			if some != 1 || none != 0 {
				t.Error(some, none)
			}
			return errors.Join(err, err2)
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestReadersCannotWrite(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
		var id int
		if err := d.QueryRow(t.Context(), `INSERT INTO t VALUES (1) RETURNING id`).Scan(&id); err == nil {
			t.Error("a reader wrote")
		}
		if err := d.Read(t.Context(), func(tx *db.Tx) error {
			_, err := tx.Exec(t.Context(), `INSERT INTO t VALUES (2)`)
			return err
		}); err == nil {
			t.Error("a snapshot wrote")
		}
		if n := count(t, d, "t"); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestASnapshotStandsStill(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
		if err := d.Read(t.Context(), func(tx *db.Tx) error {
			for range 3 {
				var n int
				if err := tx.QueryRow(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil || n != 0 {
					t.Error(n, err)
				}
				write(t, d, fmt.Sprintf(`INSERT INTO t VALUES (%d)`, time.Now().UnixNano()))
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if n := count(t, d, "t"); n != 3 {
			t.Errorf("%d rows", n)
		}
	})
}

func TestACancelledCallGivesTheContextsError(t *testing.T) {
	slow := `WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 100000000) SELECT count(*) FROM c`
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
		short := func() context.Context {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			t.Cleanup(cancel)
			return ctx
		}
		var n int
		if err := d.QueryRow(short(), slow).Scan(&n); err != context.DeadlineExceeded {
			t.Errorf("query: %v", err)
		}
		if err := d.Read(t.Context(), func(tx *db.Tx) error { return tx.QueryRow(short(), slow).Scan(&n) }); err != context.DeadlineExceeded {
			t.Errorf("read: %v", err)
		}
		ctx := short()
		if err := d.Read(ctx, func(tx *db.Tx) error { return tx.QueryRow(ctx, slow).Scan(&n) }); err != context.DeadlineExceeded {
			t.Errorf("read: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := d.Write(gone, func(tx *db.Tx) error { t.Error("fn ran"); return nil }); err != context.Canceled {
			t.Errorf("write: %v", err)
		}
		if err := d.QueryRow(gone, `SELECT 1`).Scan(&n); err != context.Canceled {
			t.Errorf("query: %v", err)
		}
		if n := count(t, d, "t"); n != 0 {
			t.Error(n)
		}
	})
}

func TestManyWritersEachCountOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		write(t, d, `CREATE TABLE tally (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)`)
		write(t, d, `CREATE TABLE mark (worker BIGINT, i BIGINT, PRIMARY KEY (worker, i))`)
		write(t, d, `INSERT INTO tally VALUES (1, 0)`)
		const workers, each = 16, 40
		fails := errors.New("every third fails")
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					err := d.Write(t.Context(), func(tx *db.Tx) error {
						var n int
						if err := tx.QueryRow(t.Context(), `UPDATE tally SET n = n + 1 WHERE id = 1 RETURNING n`).Scan(&n); err != nil {
							return err
						}
						if _, err := tx.Exec(t.Context(), `INSERT INTO mark VALUES ($1, $2)`, w, i); err != nil {
							return err
						}
						if i%3 == 2 {
							return fails
						}
						return nil
					})
					if (i%3 == 2) != (err == fails) {
						t.Errorf("worker %d, write %d: %v", w, i, err)
					}
				}
			})
		}
		wg.Wait()
		var n int
		if err := d.QueryRow(t.Context(), `SELECT n FROM tally`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		if want := workers * (each - each/3); n != want || count(t, d, "mark") != want || count(t, d, "mark WHERE i % 3 = 2") != 0 {
			t.Errorf("counted %d and %d, want %d", n, count(t, d, "mark"), want)
		}
	})
}

func TestReadersWaitInLineAndGiveUpWithTheirContext(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, d *db.DB) {
		var open []*db.Rows
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			rows, err := d.Query(ctx, `SELECT 1 UNION ALL SELECT 2`)
			if err != nil {
				cancel()
				if err != context.DeadlineExceeded {
					t.Error(err)
				}
				break
			}
			t.Cleanup(cancel)
			if open = append(open, rows); len(open) > 64 {
				t.Fatal("connections have no bound")
			}
		}
		for _, r := range open {
			r.Close()
			r.Close()
		}
		var n int
		if err := d.QueryRow(t.Context(), `SELECT 1`).Scan(&n); err != nil {
			t.Error(err)
		}
	})
}
