package content

import (
	"context"
	"errors"
	"slices"
	"strings"

	"breakwater/db"
	"breakwater/ref"
)

// The SQL of attributes and of the trash.

func showRepository(ctx context.Context, q querier, registry string, repo ref.Repository) (r RepositoryInfo, err error) {
	var o off
	var created, changed int64
	err = q.QueryRow(ctx, `SELECT r.created, r.changed, r.off,
		(SELECT COUNT(*) FROM manifest m WHERE m.repository = r.id AND m.deleted IS NULL),
		(SELECT COUNT(*) FROM tag t WHERE t.repository = r.id AND t.until IS NULL)
		FROM repository r WHERE r.registry = $1 AND r.name = $2 AND r.deleted IS NULL`, registry, repo).Scan(&created, &changed, &o, &r.Manifests, &r.Tags)
	r.Name, r.Created, r.Changed, r.Attributes = repo, instant(created), instant(changed), o.attributes()
	return r, err
}

// aPage is how a list goes on after a place: by name, or by time and name.
func aPage(o Order, name, time string) string {
	return map[Order]string{
		ByName:      ` AND ` + name + ` > $2 AND CAST($3 AS BIGINT) = 0 ORDER BY ` + name + ` LIMIT $4`,
		OldestFirst: ` AND (` + time + `, ` + name + `) > ($3, $2) ORDER BY ` + time + `, ` + name + ` LIMIT $4`,
		NewestFirst: ` AND (` + time + `, ` + name + `) < ($3, $2) ORDER BY ` + time + ` DESC, ` + name + ` DESC LIMIT $4`,
	}[o]
}

// start is where a page begins, as aPage wants to know it. when looks up the time of
// a name that came without one.
func (p Page) start(when func(name string) (int64, error)) (name string, at int64, err error) {
	name, at, err = p.from()
	switch {
	case err != nil || p.Order == ByName:
		return name, 0, err
	case p.After == "" && p.Order == NewestFirst:
		return "", 1<<63 - 1, nil
	case p.After == "":
		return "", 0, nil
	case at >= 0:
		return name, at, nil
	}
	if at, err = when(name); errors.Is(err, db.ErrNoRows) {
		err = lostPlace()
	}
	return name, at, err
}

const aTag = `SELECT t.name, t.digest, t.created, t.since, t.off, m.quarantine FROM tag t JOIN manifest m ON m.id = t.manifest WHERE t.repository = $1 AND t.until IS NULL`

func readTags(rows *db.Rows, err error) (all []TagInfo, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t TagInfo
		var o off
		var created, since int64
		if err := rows.Scan(&t.Name, &t.Digest, &created, &since, &o, &t.Quarantine); err != nil {
			return nil, err
		}
		t.Created, t.Changed, t.Attributes = instant(created), instant(since), o.attributes()
		all = append(all, t)
	}
	return all, rows.Err()
}

func showTags(ctx context.Context, q querier, repository int64, p Page) ([]TagInfo, error) {
	name, at, err := p.start(func(name string) (at int64, err error) {
		err = q.QueryRow(ctx, `SELECT since FROM tag WHERE repository = $1 AND name = $2 ORDER BY since DESC LIMIT 1`, repository, name).Scan(&at)
		return at, err
	})
	if err != nil {
		return nil, err
	}
	text, args := aTag+` AND (t.off & $5) = 0`, []any{repository, name, at, page(p.N) + 1, noList}
	if p.Digest != "" {
		text, args = text+` AND t.manifest = (SELECT id FROM manifest WHERE repository = $1 AND digest = $6)`, append(args, p.Digest)
	}
	return readTags(q.Query(ctx, text+aPage(p.Order, "t.name", "t.since"), args...))
}

func showTag(ctx context.Context, q querier, repository int64, t ref.Tag) (TagInfo, error) {
	all, err := readTags(q.Query(ctx, aTag+` AND t.name = $2`, repository, t))
	if err == nil && len(all) == 0 {
		err = db.ErrNoRows
	}
	if err != nil {
		return TagInfo{}, err
	}
	return all[0], nil
}

func tagOff(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag) (o off, err error) {
	err = tx.QueryRow(ctx, `SELECT off FROM tag WHERE repository = $1 AND name = $2 AND until IS NULL`, repository, t).Scan(&o)
	return o, err
}

// tagsOff is what one or another of the tags of a manifest does not allow, of what
// keeps them from being deleted.
func tagsOff(ctx context.Context, tx *db.Tx, manifest int64) (o off, err error) {
	err = tx.QueryRow(ctx, `SELECT COALESCE(MAX(off & $2), 0) FROM tag WHERE manifest = $1`, manifest, locked).Scan(&o)
	return o, err
}

// tagManifest records that a tag points to the manifest.
func tagManifest(ctx context.Context, tx *db.Tx, id int64) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET untagged = NULL WHERE id = $1 AND untagged IS NOT NULL`, id)
	return err
}

// No name of a tag, no digest and no platform has a space or a bar in it.
const aManifest = `SELECT m.digest, m.type, m.config, m.total, m.created, m.architecture, m.os, m.off, m.quarantine, m.quarantine_details,
	COALESCE((SELECT string_agg(t.name, ' ') FROM tag t WHERE t.manifest = m.id AND (t.off & 4) = 0), ''),
	COALESCE((SELECT string_agg(c.digest || ' ' || c.architecture || ' ' || c.os, '|') FROM needs_manifest n JOIN manifest c ON c.id = n.child WHERE n.manifest = m.id), '')
	FROM manifest m WHERE m.repository = $1 AND m.deleted IS NULL`

func readManifests(rows *db.Rows, err error) (all []ManifestInfo, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var m ManifestInfo
		var o off
		var created int64
		var tags, names string
		if err := rows.Scan(&m.Digest, &m.MediaType, &m.ConfigMediaType, &m.Size, &created, &m.Architecture, &m.OS, &o, &m.QuarantineState, &m.QuarantineDetails, &tags, &names); err != nil {
			return nil, err
		}
		m.Created, m.Attributes, m.Tags = instant(created), o.attributes(), tagsOf(tags)
		m.Changed = m.Created
		for _, name := range strings.Split(names, "|") {
			if f := strings.Split(name, " "); len(f) == 3 {
				m.References = append(m.References, Platform{ref.Digest(f[0]), f[1], f[2]})
			}
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

func tagsOf(list string) (tags []ref.Tag) {
	for _, t := range strings.Fields(list) {
		tags = append(tags, ref.Tag(t))
	}
	slices.Sort(tags)
	return tags
}

func showManifests(ctx context.Context, q querier, repository int64, p Page) ([]ManifestInfo, error) {
	name, at, err := p.start(func(name string) (at int64, err error) {
		err = q.QueryRow(ctx, `SELECT created FROM manifest WHERE repository = $1 AND digest = $2`, repository, name).Scan(&at)
		return at, err
	})
	if err != nil {
		return nil, err
	}
	return readManifests(q.Query(ctx, aManifest+` AND (m.off & $5) = 0`+aPage(p.Order, "m.digest", "m.created"), repository, name, at, page(p.N)+1, noList))
}

func showManifest(ctx context.Context, q querier, repository int64, d ref.Digest) (ManifestInfo, error) {
	all, err := readManifests(q.Query(ctx, aManifest+` AND m.digest = $2`, repository, d))
	if err == nil && len(all) == 0 {
		err = db.ErrNoRows
	}
	if err != nil {
		return ManifestInfo{}, err
	}
	return all[0], nil
}

func patchManifest(ctx context.Context, tx *db.Tx, id int64, o off, p AttributesPatch) error {
	if err := steps(ctx, tx,
		step{`UPDATE manifest SET off = $2 WHERE id = $1`, []any{id, o}},
		step{`UPDATE tag SET off = (off & $2) | $3 WHERE manifest = $1`, []any{id, ^quarantined, o & quarantined}},
	); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE manifest SET quarantine = COALESCE($2, quarantine), quarantine_details = COALESCE($3, quarantine_details) WHERE id = $1`,
		id, p.QuarantineState, p.QuarantineDetails)
	return err
}

// namedBy tells whether an index that is there names the manifest, and until when
// one in the trash does; 0 if none.
func namedBy(ctx context.Context, tx *db.Tx, id int64) (live bool, until int64, err error) {
	var n int64
	err = tx.QueryRow(ctx, `SELECT COUNT(*) - COUNT(p.due), COALESCE(MAX(p.due), 0) FROM needs_manifest n JOIN manifest p ON p.id = n.manifest WHERE n.child = $1`, id).Scan(&n, &until)
	return n > 0, until, err
}

// trashManifest puts a manifest with its tags into the trash. What it needs stays.
func trashManifest(ctx context.Context, tx *db.Tx, id, at, due int64) error {
	return steps(ctx, tx,
		step{`UPDATE tag SET until = $2, manifest = NULL, due = $3 WHERE manifest = $1`, []any{id, at, due}},
		step{`UPDATE manifest SET untagged = $2 WHERE untagged IS NOT NULL AND id IN (SELECT child FROM needs_manifest WHERE manifest = $1)`, []any{id, at}},
		step{`UPDATE manifest SET deleted = $2, due = $3, untagged = NULL WHERE id = $1`, []any{id, at, due}},
	)
}

func untrashManifest(ctx context.Context, tx *db.Tx, id, at int64) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET deleted = NULL, due = NULL, untagged = $2 WHERE id = $1`, id, at)
	return err
}

func trashedChildren(ctx context.Context, tx *db.Tx, id int64) ([]ref.Digest, error) {
	rows, err := tx.Query(ctx, `SELECT c.digest FROM needs_manifest n JOIN manifest c ON c.id = n.child WHERE n.manifest = $1 AND c.deleted IS NOT NULL ORDER BY c.digest LIMIT 100`, id)
	return scan(rows, err, func(d *ref.Digest) []any { return []any{d} })
}

// untrashTag takes what the trash has of a tag that pointed to d.
func untrashTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag, d ref.Digest) (int64, error) {
	return tx.Exec(ctx, `UPDATE tag SET due = NULL WHERE repository = $1 AND name = $2 AND digest = $3 AND due IS NOT NULL`, repository, t, d)
}

// anyRepository also finds one that is in the trash.
func anyRepository(ctx context.Context, q querier, registry string, repo ref.Repository) (id int64, err error) {
	err = q.QueryRow(ctx, `SELECT id FROM repository WHERE registry = $1 AND name = $2`, registry, repo).Scan(&id)
	return id, err
}

// reviveRepository is lockRepository for one that may be in the trash.
func reviveRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (id int64, o off, err error) {
	err = tx.QueryRow(ctx, `UPDATE repository SET changed = $3, deleted = NULL WHERE registry = $1 AND name = $2 RETURNING id, off`, registry, repo, at).Scan(&id, &o)
	return id, o, err
}

func anyLocked(ctx context.Context, tx *db.Tx, repository int64) (some bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = $1 AND deleted IS NULL AND (off & $2) <> 0)
		OR EXISTS (SELECT 1 FROM tag WHERE repository = $1 AND until IS NULL AND (off & $2) <> 0)`, repository, locked).Scan(&some)
	return some, err
}

// contents are the manifests and tags of a repository, in order.
func contents(ctx context.Context, tx *db.Tx, repository int64) (manifests []ref.Digest, tags []ref.Tag, err error) {
	rows, err := tx.Query(ctx, `SELECT digest FROM manifest WHERE repository = $1 AND deleted IS NULL ORDER BY digest`, repository)
	if manifests, err = scan(rows, err, func(d *ref.Digest) []any { return []any{d} }); err != nil {
		return nil, nil, err
	}
	rows, err = tx.Query(ctx, `SELECT name FROM tag WHERE repository = $1 AND until IS NULL ORDER BY name`, repository)
	tags, err = scan(rows, err, func(t *ref.Tag) []any { return []any{t} })
	return manifests, tags, err
}

// emptyRepository deletes all that is in a repository, into the trash if due says
// until when, and the repository if nothing is left. The repository is locked.
func emptyRepository(ctx context.Context, tx *db.Tx, repository, at int64, due *int64) error {
	if due != nil {
		if _, err := tx.Exec(ctx, `UPDATE manifest SET deleted = $2, due = $3, untagged = NULL WHERE repository = $1 AND deleted IS NULL`, repository, at, *due); err != nil {
			return err
		}
	}
	// What an index in the trash names goes there too, for as long.
	for more := int64(1); more > 0; {
		var err error
		if more, err = tx.Exec(ctx, `UPDATE manifest SET deleted = COALESCE(deleted, $2), untagged = NULL,
			due = (SELECT MAX(p.due) FROM needs_manifest n JOIN manifest p ON p.id = n.manifest WHERE n.child = manifest.id)
			WHERE repository = $1 AND EXISTS (SELECT 1 FROM needs_manifest n JOIN manifest p ON p.id = n.manifest WHERE n.child = manifest.id AND p.due > COALESCE(manifest.due, 0))`,
			repository, at); err != nil {
			return err
		}
	}
	const live = `(SELECT id FROM manifest WHERE repository = $1 AND deleted IS NULL)`
	if err := steps(ctx, tx,
		step{`UPDATE tag SET until = $2, due = (SELECT m.due FROM manifest m WHERE m.id = tag.manifest), manifest = NULL WHERE repository = $1 AND until IS NULL`, []any{repository, at}},
		step{`UPDATE link SET idle = $2 WHERE repository = $1 AND blob IN (SELECT blob FROM needs_blob WHERE manifest IN ` + live + `)`, []any{repository, at}},
		step{`DELETE FROM needs_blob WHERE manifest IN ` + live, []any{repository}},
		step{`DELETE FROM needs_manifest WHERE manifest IN ` + live, []any{repository}},
		step{`DELETE FROM referrer WHERE manifest IN ` + live, []any{repository}},
		step{`DELETE FROM manifest WHERE repository = $1 AND deleted IS NULL`, []any{repository}},
	); err != nil {
		return err
	}
	var left bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = $1)`, repository).Scan(&left); err != nil {
		return err
	}
	if left {
		_, err := tx.Exec(ctx, `UPDATE repository SET deleted = $2 WHERE id = $1`, repository, at)
		return err
	}
	return dropRepository(ctx, tx, repository, at)
}

// dropRepository removes a repository without manifests. The rows of its blobs come
// first, as in unlinkBlob. A link that came behind them stays, so that the repository
// does not go (IsForeignKey): without it no sweep would ever look at that blob.
func dropRepository(ctx context.Context, tx *db.Tx, repository, at int64) error {
	return steps(ctx, tx,
		step{`UPDATE blob SET idle = $2 WHERE id IN (SELECT blob FROM link WHERE repository = $1)`, []any{repository, at}},
		step{`DELETE FROM link WHERE repository = $1 AND blob IN (SELECT id FROM blob WHERE idle = $2)`, []any{repository, at}},
		step{`DELETE FROM tag WHERE repository = $1`, []any{repository}},
		step{`DELETE FROM repository WHERE id = $1`, []any{repository}},
	)
}

func trashedRepositories(ctx context.Context, q querier, registry, after string, n int) ([]ref.Repository, error) {
	rows, err := q.Query(ctx, `SELECT r.name FROM repository r WHERE r.registry = $1 AND r.name > $2
		AND (EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id AND m.deleted IS NOT NULL) OR EXISTS (SELECT 1 FROM tag t WHERE t.repository = r.id AND t.due IS NOT NULL))
		ORDER BY r.name LIMIT $3`, registry, after, n)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

func trashedManifests(ctx context.Context, q querier, repository int64, after string, n int) (all []Deleted, err error) {
	rows, err := q.Query(ctx, `SELECT m.digest, m.deleted, m.due,
		COALESCE((SELECT string_agg(t.name, ' ') FROM tag t WHERE t.repository = m.repository AND t.digest = m.digest AND t.due IS NOT NULL), '')
		FROM manifest m WHERE m.repository = $1 AND m.deleted IS NOT NULL AND m.digest > $2 ORDER BY m.digest LIMIT $3`, repository, after, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d Deleted
		var at, due int64
		var tags string
		if err := rows.Scan(&d.Digest, &at, &due, &tags); err != nil {
			return nil, err
		}
		d.At, d.Until, d.Tags = instant(at), instant(due), slices.Compact(tagsOf(tags))
		all = append(all, d)
	}
	return all, rows.Err()
}

func trashedTags(ctx context.Context, q querier, repository int64, name string, at int64, n int) (all []DeletedTag, err error) {
	rows, err := q.Query(ctx, `SELECT name, digest, until, due FROM tag WHERE repository = $1 AND due IS NOT NULL AND (name, until) > ($2, $3) ORDER BY name, until LIMIT $4`,
		repository, name, at, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t DeletedTag
		var at, due int64
		if err := rows.Scan(&t.Name, &t.Digest, &at, &due); err != nil {
			return nil, err
		}
		t.At, t.Until = instant(at), instant(due)
		all = append(all, t)
	}
	return all, rows.Err()
}
