package db_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"breakwater/db"
	"breakwater/db/dbtest"
)

func sources(t *testing.T, test func(t *testing.T, source string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "test.db")) })
	t.Run("postgres", func(t *testing.T) { test(t, dbtest.PostgresURL(t)) })
}

func TestASchemaNewerThanTheBinaryIsRefused(t *testing.T) {
	sources(t, func(t *testing.T, source string) {
		o := db.Options{Source: source, Key: dbtest.Key}
		d, err := db.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d, `INSERT INTO schema_version (version_id, is_applied) VALUES (99999, TRUE)`)
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Open(t.Context(), o); err == nil || !strings.Contains(err.Error(), "run the newer binary") {
			t.Error(err)
		}
	})
}

func TestADatabaseOpensAgainWithItsRows(t *testing.T) {
	sources(t, func(t *testing.T, source string) {
		for life := range 3 {
			d := dbtest.Open(t, source)
			if life == 0 {
				write(t, d, `CREATE TABLE life (n BIGINT PRIMARY KEY)`)
			}
			write(t, d, `INSERT INTO life VALUES ($1)`, life)
			if n := count(t, d, "life"); n != life+1 {
				t.Errorf("%d rows in life %d", n, life)
			}
			if err := d.Check(t.Context()); err != nil {
				t.Error(err)
			}
			d.Close()
		}
	})
}

func TestManyNodesMigrateOnePostgres(t *testing.T) {
	source := dbtest.PostgresURL(t)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			d, err := db.Open(t.Context(), db.Options{Source: source, Readers: 2})
			if err != nil {
				t.Error(err)
				return
			}
			d.Close()
		})
	}
	wg.Wait()
}

func TestADeadlockIsTriedAgain(t *testing.T) {
	d := dbtest.Postgres(t)
	write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY, n BIGINT NOT NULL)`)
	write(t, d, `INSERT INTO t VALUES (1, 0), (2, 0)`)
	var both, wg sync.WaitGroup
	both.Add(2)
	for _, order := range [][]int{{1, 2}, {2, 1}} {
		wg.Go(func() {
			first := true
			if err := d.Write(t.Context(), func(tx *db.Tx) error {
				for i, id := range order {
					if _, err := tx.Exec(t.Context(), `UPDATE t SET n = n + 1 WHERE id = $1`, id); err != nil {
						return err
					}
					if i == 0 && first {
						first = false
						both.Done()
						both.Wait()
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := count(t, d, "t WHERE n = 2"); n != 2 {
		t.Errorf("%d rows changed twice", n)
	}
}

func TestALostConnectionIsTriedAgain(t *testing.T) {
	d := dbtest.Postgres(t)
	write(t, d, `CREATE TABLE t (id BIGINT PRIMARY KEY)`)
	runs := 0
	if err := d.Write(t.Context(), func(tx *db.Tx) error {
		runs++
		if _, err := tx.Exec(t.Context(), `INSERT INTO t VALUES (1)`); err != nil {
			return err
		}
		if runs == 1 {
			_, err := tx.Exec(t.Context(), `SELECT pg_terminate_backend(pg_backend_pid())`)
			return err
		}
		return nil
	}); err != nil || runs != 2 || count(t, d, "t") != 1 {
		t.Error(err, runs)
	}
}

func TestOnlyARelaxedWriteIsRelaxed(t *testing.T) {
	d := dbtest.Postgres(t)
	for want, write := range map[string]func(context.Context, func(*db.Tx) error) error{"on": d.Write, "off": d.WriteRelaxed} {
		for range 3 {
			var got string
			if err := write(t.Context(), func(tx *db.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit')`).Scan(&got)
			}); err != nil || got != want {
				t.Errorf("synchronous_commit is %s, want %s: %v", got, want, err)
			}
		}
	}
}

func TestAnAbsentPostgresIsSaidSo(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := db.Open(ctx, db.Options{Source: fmt.Sprintf("postgres://me:hidden@/x?host=%s", t.TempDir())})
	if !db.IsBusy(err) || strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
}

// How PostgreSQL is reached stands in its address: neither a variable nor a file of the
// home directory says it in its place.
func TestTheEnvironmentDoesNotSayHowPostgresIsReached(t *testing.T) {
	address := dbtest.PostgresURL(t)
	home := t.TempDir()
	t.Setenv("HOME", home)
	for _, dir := range []string{".pgpass", ".postgresql/postgresql.crt", ".postgresql/postgresql.key", ".postgresql/root.crt"} {
		path := filepath.Join(home, dir)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("*:*:*:*:of the home directory\n"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	dbtest.Open(t, address)
	for variable, value := range map[string]string{"PGSSLMODE": "disable", "PGPASSWORD": "hidden", "PGPASSFILE": "hidden", "PGSERVICE": "hidden", "PGPORT": "1", "PGTZ": "x", "PGSSLROOTCERT": "x", "PGAPPNAME": "x"} {
		t.Setenv(variable, value)
		d, err := db.Open(t.Context(), db.Options{Source: address})
		if err == nil {
			d.Close()
		}
		if err == nil || !strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", variable, err)
		}
		os.Unsetenv(variable)
	}
	t.Setenv("PGSSLMODE", "verify-full")
	t.Setenv("PGUSER", "nobody")
	dbtest.Open(t, address+"&sslmode=disable") // the address says it, and wins
}
