package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

// current is the state of the one version that a registry seals with; every
// other version only opens.
const (
	current = "current"
	retired = "retired"
)

type row struct {
	version uint32
	wrapped []byte
	state   string
	created time.Time
	held    *Holder // nil: the platform's key alone
}

func same(a, b []row) bool {
	return slices.EqualFunc(a, b, func(a, b row) bool {
		return a.version == b.version && a.state == b.state && bytes.Equal(a.wrapped, b.wrapped)
	})
}

// holder is the column of a Holder.
func (h *Holder) column() (string, error) {
	if h == nil {
		return "", nil
	}
	b, err := json.Marshal(h)
	return string(b), err
}

func insert(ctx context.Context, tx *db.Tx, registry string, r row) error {
	held, err := r.held.column()
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx,
		`INSERT INTO keyring (registry, version, wrapped, state, created, held) VALUES ($1, $2, $3, $4, $5, $6)`,
		registry, int64(r.version), r.wrapped, r.state, r.created.UnixMicro(), held)
	if db.IsUnique(err) {
		return fault.New(fault.Conflict, "this registry already has a key").Because(err)
	}
	return err
}

// replace makes next of was, which must still be there.
func replace(ctx context.Context, tx *db.Tx, registry string, was, next row) error {
	held, err := next.held.column()
	if err != nil {
		return err
	}
	n, err := tx.Exec(ctx, `UPDATE keyring SET wrapped = $1, state = $2, held = $3 WHERE registry = $4 AND version = $5 AND wrapped = $6 AND state = $7`,
		next.wrapped, next.state, held, registry, int64(was.version), was.wrapped, was.state)
	if err == nil && n != 1 {
		err = moved()
	}
	return err
}

func moved() error {
	return fault.New(fault.Stale, "the registry's keys were changed at the same time; try again")
}

func destroy(ctx context.Context, tx *db.Tx, registry string) error {
	_, err := tx.Exec(ctx, `DELETE FROM keyring WHERE registry = $1`, registry)
	return err
}

// Stored reports whether the database has keys of registries. If it has, they follow from
// a root that there is already, and another would not open them.
func Stored(ctx context.Context, d *db.DB) (bool, error) {
	some, err := sample(ctx, d, 1)
	return len(some) > 0, err
}

// sample is some wrapped keys, whosever they are.
func sample(ctx context.Context, d reader, limit int) (some []Wrapped, err error) {
	rows, err := d.Query(ctx, `SELECT registry, version, wrapped, held FROM keyring LIMIT $1`, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var w Wrapped
		var registry, held string
		var version int64
		if err := rows.Scan(&registry, &version, &w.Data, &held); err != nil {
			return nil, err
		}
		if w.ID = keyID(registry, uint32(version)); held != "" {
			w.ID = heldID(registry, uint32(version))
		}
		some = append(some, w)
	}
	return some, rows.Err()
}

type reader interface {
	Query(ctx context.Context, text string, args ...any) (*db.Rows, error)
}

// load is the rows of a registry, by version.
func load(ctx context.Context, d reader, registry string) ([]row, error) {
	rows, err := d.Query(ctx, `SELECT version, wrapped, state, created, held FROM keyring WHERE registry = $1 ORDER BY version`, registry)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var r row
		var created int64
		var held string
		if err := rows.Scan(&r.version, &r.wrapped, &r.state, &created, &held); err != nil {
			return nil, err
		}
		if r.created = time.UnixMicro(created).UTC(); held != "" {
			if err := json.Unmarshal([]byte(held), &r.held); err != nil {
				return nil, fmt.Errorf("who holds key %d of registry %s: %w", r.version, registry, err)
			}
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// holderOf is who holds the keys of a registry beside the platform: the current one and,
// because they are wrapped together, all of them; nil if nobody does.
func holderOf(rows []row) *Holder {
	for _, r := range rows {
		if r.state == current {
			return r.held
		}
	}
	return nil
}

// keyed are the registries that have keys.
func keyed(ctx context.Context, d reader) (map[string]bool, error) {
	rows, err := d.Query(ctx, `SELECT DISTINCT registry FROM keyring`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	all := map[string]bool{}
	for rows.Next() {
		var uid string
		if err := rows.Scan(&uid); err != nil {
			return nil, err
		}
		all[uid] = true
	}
	return all, rows.Err()
}

// holding are the registries whose keys a provider holds, at most limit.
func holding(ctx context.Context, d reader, provider ref.ID, limit int) (registries []ref.ID, err error) {
	rows, err := d.Query(ctx, `SELECT DISTINCT held FROM keyring WHERE held <> ''`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() && len(registries) < limit {
		var held string
		var h Holder
		if err := rows.Scan(&held); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(held), &h); err != nil {
			return nil, err
		}
		if h.Provider.Key() == provider.Key() && !slices.Contains(registries, h.Registry) {
			registries = append(registries, h.Registry)
		}
	}
	return registries, rows.Err()
}
