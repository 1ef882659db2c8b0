package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

const getSQL = `SELECT etag, doc FROM resource WHERE id = $1`

func get(id ref.ID, row *db.Row) (Resource, error) {
	var etag string
	var doc []byte
	err := row.Scan(&etag, &doc)
	if errors.Is(err, db.ErrNoRows) {
		return Resource{}, fault.New(fault.NotFound, "there is no %s", id)
	}
	if err != nil {
		return Resource{}, fmt.Errorf("read %s: %w", id, err)
	}
	return parse(etag, doc)
}

func parse(etag string, doc []byte) (r Resource, err error) {
	if err = json.Unmarshal(doc, &r); err != nil {
		return Resource{}, fmt.Errorf("parse document: %w", err)
	}
	r.Etag = etag
	return r, nil
}

func put(ctx context.Context, tx *db.Tx, r Resource) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write %s: %w", r.ID, err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO resource (id, type, etag, doc) VALUES ($1, $2, $3, $4)
		ON CONFLICT (id) DO UPDATE SET type = excluded.type, etag = excluded.etag, doc = excluded.doc`,
		r.ID.Key(), strings.ToLower(r.Type), r.Etag, string(doc))
	if err != nil {
		return fmt.Errorf("write %s: %w", r.ID, err)
	}
	return nil
}

func remove(ctx context.Context, tx *db.Tx, id ref.ID) error {
	from, to := below(id)
	_, err := tx.Exec(ctx, `DELETE FROM resource WHERE id = $1 OR (id > $2 AND id < $3)`, id.Key(), from, to)
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return nil
}

// A querier is the database, or a transaction on it.
type querier interface {
	Query(ctx context.Context, text string, args ...any) (*db.Rows, error)
}

func list(ctx context.Context, d querier, from, to, typ string, limit int) (all []Resource, err error) {
	where, args := `id > $1 AND id < $2`, []any{from, to, limit}
	if typ != "" {
		where, args = where+` AND type = $4`, append(args, typ)
	}
	rows, err := d.Query(ctx, `SELECT etag, doc FROM resource WHERE `+where+` ORDER BY id LIMIT $3`, args...)
	if err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var etag string
		var doc []byte
		if err := rows.Scan(&etag, &doc); err != nil {
			return nil, fmt.Errorf("list documents: %w", err)
		}
		r, err := parse(etag, doc)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list documents: %w", err)
	}
	return all, nil
}

func generation(ctx context.Context, d *db.DB) (n int64, err error) {
	if err = d.QueryRow(ctx, `SELECT n FROM generation`).Scan(&n); err != nil {
		return 0, fmt.Errorf("read the generation: %w", err)
	}
	return n, nil
}

func advance(ctx context.Context, tx *db.Tx) error {
	if _, err := tx.Exec(ctx, `UPDATE generation SET n = n + 1`); err != nil {
		return fmt.Errorf("count a change: %w", err)
	}
	return nil
}
