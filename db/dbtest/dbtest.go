// Package dbtest runs tests on the real databases: SQLite in a temporary
// directory, and PostgreSQL in a temporary cluster.
package dbtest

import (
	"testing"

	"breakwater/db"
)

// Each runs test once on SQLite and once on PostgreSQL.
func Each(t *testing.T, test func(t *testing.T, d *db.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, Postgres(t)) })
}

// SQLite is a fresh SQLite database.
func SQLite(t testing.TB) *db.DB { t.Skip("not yet"); return nil }

// Postgres is a fresh PostgreSQL database; the test is skipped when PostgreSQL is not installed.
func Postgres(t testing.TB) *db.DB { t.Skip("not yet"); return nil }

// PostgresURL is the address of a fresh PostgreSQL database, for a test that starts the binary.
func PostgresURL(t testing.TB) string { t.Skip("not yet"); return "" }
