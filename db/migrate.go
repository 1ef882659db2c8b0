package db

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

// migrations has a directory for each engine, with the same numbers in both: each room owns the file with its number.
//
//go:embed migrations
var migrations embed.FS

// migrate brings the schema up to this binary's.
func migrate(ctx context.Context, pool *sql.DB, kind Engine) error {
	dialect := map[Engine]goose.Dialect{SQLite: goose.DialectSQLite3, Postgres: goose.DialectPostgres}[kind]
	dir, err := fs.Sub(migrations, "migrations/"+string(kind))
	if err != nil {
		return err
	}
	return migrateFrom(ctx, pool, dialect, dir)
}

func migrateFrom(ctx context.Context, pool *sql.DB, dialect goose.Dialect, dir fs.FS) error {
	p, err := goose.NewProvider(dialect, pool, dir,
		goose.WithTableName("schema_version"),
		goose.WithDisableGlobalRegistry(true),
		goose.WithAllowOutofOrder(true), // a room may be born with a lower number than its neighbour
		goose.WithLogger(goose.NopLogger()))
	if errors.Is(err, goose.ErrNoMigrations) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	sources := p.ListSources()
	known := sources[len(sources)-1].Version
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema's version: %w", err)
	}
	if have > known {
		return fmt.Errorf("the database has schema version %d, this binary knows %d: run the newer binary", have, known)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}
