package keys

import (
	"context"
	"time"

	"breakwater/db"
	"breakwater/fault"
)

// current is the state of the one version that a registry seals with; every
// other version only opens.
const current = "current"

type row struct {
	version uint32
	wrapped []byte
	state   string
}

func insert(ctx context.Context, tx *db.Tx, registry string, version uint32, wrapped []byte) error {
	_, err := tx.Exec(ctx,
		`INSERT INTO keyring (registry, version, wrapped, state, created) VALUES ($1, $2, $3, $4, $5)`,
		registry, int64(version), wrapped, current, time.Now().UnixMicro())
	if db.IsUnique(err) {
		return fault.New(fault.Conflict, "this registry already has a key").Because(err)
	}
	return err
}

func destroy(ctx context.Context, tx *db.Tx, registry string) error {
	_, err := tx.Exec(ctx, `DELETE FROM keyring WHERE registry = $1`, registry)
	return err
}

func load(ctx context.Context, d *db.DB, registry string) ([]row, error) {
	rows, err := d.Query(ctx, `SELECT version, wrapped, state FROM keyring WHERE registry = $1 ORDER BY version`, registry)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.version, &r.wrapped, &r.state); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}
