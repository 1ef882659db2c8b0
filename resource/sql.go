package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

// unkept reports whether no document can be called so: what is no UTF-8, or has a NUL
// in it, PostgreSQL does not even look for.
func unkept[T ~string](text T) bool {
	return !utf8.ValidString(string(text)) || strings.IndexByte(string(text), 0) >= 0
}

func get(ctx context.Context, d reader, id ref.ID) (Resource, error) {
	if unkept(id) {
		return Resource{}, fault.New(fault.NotFound, "there is no document of this id")
	}
	row := d.QueryRow(ctx, `SELECT etag, doc FROM resource WHERE id = $1`, id.Key())
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
		INSERT INTO resource (id, type, etag, holder, doc) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (id) DO UPDATE SET type = excluded.type, etag = excluded.etag, holder = excluded.holder, doc = excluded.doc`,
		r.ID.Key(), strings.ToLower(r.Type), r.Etag, strings.ToLower(r.Holder), string(doc))
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

// reader is a database, or a transaction in it.
type reader interface {
	QueryRow(ctx context.Context, text string, args ...any) *db.Row
	Query(ctx context.Context, text string, args ...any) (*db.Rows, error)
}

func count(ctx context.Context, d *db.DB, q Query) (n int64, err error) {
	where, args := q.where()
	if where == "" {
		return 0, nil
	}
	if err = d.QueryRow(ctx, `SELECT COUNT(*) FROM resource WHERE `+where, args...).Scan(&n); err != nil {
		return 0, fmt.Errorf("count documents: %w", err)
	}
	return n, nil
}

// where is the condition of q; "" if nothing can be meant.
func (q Query) where() (where string, args []any) {
	q.Holders, q.Under = slices.DeleteFunc(slices.Clone(q.Holders), unkept), slices.DeleteFunc(slices.Clone(q.Under), unkept)
	if q.Holders != nil && len(q.Holders) == 0 || q.Under != nil && len(q.Under) == 0 || unkept(q.After) {
		return "", nil // of nobody, nowhere, or after what is in no order
	}
	arg := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	where = `id > ` + arg(q.After.Key())
	if q.Type != "" {
		where += ` AND type = ` + arg(strings.ToLower(q.Type))
	}
	if q.Holders != nil {
		in := make([]string, len(q.Holders))
		for i, h := range q.Holders {
			in[i] = arg(strings.ToLower(h))
		}
		where += ` AND holder <> '' AND holder IN (` + strings.Join(in, ", ") + `)`
	}
	if q.Under != nil {
		in := make([]string, len(q.Under))
		for i, id := range q.Under {
			from, to := below(id)
			in[i] = `id > ` + arg(from) + ` AND id < ` + arg(to)
		}
		where += ` AND (` + strings.Join(in, " OR ") + `)`
	}
	return where, args
}

func find(ctx context.Context, d reader, q Query) (all []Resource, err error) {
	where, args := q.where()
	if where == "" {
		return nil, nil
	}
	limit := q.Limit
	if limit == 0 {
		limit = math.MaxInt32
	}
	rows, err := d.Query(ctx, `SELECT etag, doc FROM resource WHERE `+where+` ORDER BY id LIMIT $`+strconv.Itoa(len(args)+1), append(args, limit)...)
	if err != nil {
		return nil, fmt.Errorf("find documents: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var etag string
		var doc []byte
		if err := rows.Scan(&etag, &doc); err != nil {
			return nil, fmt.Errorf("find documents: %w", err)
		}
		r, err := parse(etag, doc)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find documents: %w", err)
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
