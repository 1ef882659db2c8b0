// Package dbtest runs tests on the real databases: SQLite in a temporary
// directory, and PostgreSQL in a temporary cluster.
package dbtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"breakwater/db"
)

// Key is the key of the databases that SQLite makes.
var Key = bytes.Repeat([]byte{0xb3}, 32)

// Each runs test once on SQLite and once on PostgreSQL.
func Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// SQLite is a fresh SQLite database.
func SQLite(t testing.TB) *db.DB {
	t.Helper()
	return Open(t, filepath.Join(t.TempDir(), "test.db"))
}

// Postgres is a fresh PostgreSQL database; see PostgresURL.
func Postgres(t testing.TB) *db.DB {
	t.Helper()
	return Open(t, PostgresURL(t))
}

// Open opens source with Key. A lost durability fails the test.
func Open(t testing.TB, source string) *db.DB {
	t.Helper()
	d, err := db.Open(t.Context(), db.Options{Source: source, Key: Key, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// PostgresURL is the address of a fresh PostgreSQL database, dropped after the
// test: in the cluster at $BREAKWATER_TEST_POSTGRES if that is set, else in one
// that the test processes of this user start and share. The test is skipped
// where PostgreSQL is not installed, unless $BREAKWATER_TEST_REQUIRE_ALL is set.
func PostgresURL(t testing.TB) string {
	t.Helper()
	address := os.Getenv("BREAKWATER_TEST_POSTGRES")
	if address == "" {
		var err error
		if address, err = cluster(); err != nil {
			t.Fatal(err)
		}
	}
	if address == "" {
		missing(t)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	if err := admin(address, fmt.Sprintf(`CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8'`, name)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(address, fmt.Sprintf(`DROP DATABASE IF EXISTS %s WITH (FORCE)`, name)); err != nil {
			t.Error(err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// missing skips a test that needs PostgreSQL.
func missing(t testing.TB) {
	t.Helper()
	if os.Getenv("BREAKWATER_TEST_REQUIRE_ALL") != "" {
		t.Fatal("PostgreSQL is not installed, and BREAKWATER_TEST_REQUIRE_ALL is set")
	}
	t.Skip("PostgreSQL is not installed")
}

// admin runs one statement in the cluster.
func admin(address, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := pgx.Connect(ctx, address)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, text)
	return err
}
