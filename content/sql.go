package content

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/ref"
)

// querier is what can be asked in and outside of a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (*db.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) *db.Row
}

// scan reads every row into a value of its own.
func scan[T any](rows *db.Rows, err error, into func(*T) []any) (all []T, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v T
		if err := rows.Scan(into(&v)...); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// one is ErrNoRows where a statement changed nothing.
func one(n int64, err error) error {
	if err == nil && n == 0 {
		return db.ErrNoRows
	}
	return err
}

// Repositories.

const theRepository = `(SELECT id FROM repository WHERE registry = $1 AND name = $2)`

func repositoryID(ctx context.Context, q querier, registry string, repo ref.Repository) (id int64, err error) {
	err = q.QueryRow(ctx, `SELECT id FROM repository WHERE registry = $1 AND name = $2`, registry, repo).Scan(&id)
	return id, err
}

// touchRepository makes the repository if it is not there. Until the commit
// nobody else changes its manifests and tags.
func touchRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (id int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO repository (registry, name, created, changed) VALUES ($1, $2, $3, $3)
		ON CONFLICT (registry, name) DO UPDATE SET changed = excluded.changed RETURNING id`, registry, repo, at).Scan(&id)
	return id, err
}

// lockRepository is touchRepository for one that must be there.
func lockRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository) (id int64, err error) {
	err = tx.QueryRow(ctx, `UPDATE repository SET changed = $3 WHERE registry = $1 AND name = $2 RETURNING id`, registry, repo, now()).Scan(&id)
	return id, err
}

// haveRepository makes the repository if it is not there, and locks nothing.
func haveRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (int64, error) {
	id, err := repositoryID(ctx, tx, registry, repo)
	if errors.Is(err, db.ErrNoRows) {
		return touchRepository(ctx, tx, registry, repo, at)
	}
	return id, err
}

func listRepositories(ctx context.Context, q querier, registry, after string, n int) ([]ref.Repository, error) {
	rows, err := q.Query(ctx, `SELECT name FROM repository WHERE registry = $1 AND name > $2 ORDER BY name LIMIT $3`, registry, after, n)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// Tags.

func listTags(ctx context.Context, q querier, repository int64, after string, n int) ([]ref.Tag, error) {
	rows, err := q.Query(ctx, `SELECT name FROM tag WHERE repository = $1 AND until IS NULL AND name > $2 ORDER BY name LIMIT $3`, repository, after, n)
	return scan(rows, err, func(t *ref.Tag) []any { return []any{t} })
}

// moveTag ends the interval of a tag and begins the next, unless it points there
// already. The repository is locked.
func moveTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag, d ref.Digest, manifest, at int64) error {
	var current int64
	err := tx.QueryRow(ctx, `SELECT manifest FROM tag WHERE repository = $1 AND name = $2 AND until IS NULL`, repository, t).Scan(&current)
	if err == nil && current == manifest {
		return nil
	}
	if err == nil {
		_, err = endTag(ctx, tx, repository, t)
	}
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO tag (repository, name, since, digest, manifest) VALUES ($1, $2, $3, $4, $5)`, repository, t, at, d, manifest)
	return err
}

// endTag ends the interval of a tag and returns where it pointed.
func endTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag) (d ref.Digest, err error) {
	err = tx.QueryRow(ctx, `UPDATE tag SET until = $3, manifest = NULL WHERE repository = $1 AND name = $2 AND until IS NULL RETURNING digest`,
		repository, t, now()).Scan(&d)
	return d, err
}

// Manifests.

// The four ways to look for a manifest: with its body or without, by digest or by
// tag. Each is one query.
const (
	headOf     = `SELECT m.digest, m.type, m.artifact, m.size FROM `
	bodyOf     = `SELECT m.digest, m.type, m.artifact, m.size, m.body FROM `
	byDigest   = `manifest m WHERE m.repository = ` + theRepository + ` AND m.digest = $3`
	byTag      = `tag t JOIN manifest m ON m.id = t.manifest WHERE t.repository = ` + theRepository + ` AND t.name = $3 AND t.until IS NULL`
	headDigest = headOf + byDigest
	headTag    = headOf + byTag
	bodyDigest = bodyOf + byDigest
	bodyTag    = bodyOf + byTag
)

// findManifest returns the body as it is sealed.
func findManifest(ctx context.Context, q querier, registry string, repo ref.Repository, r ref.Reference, body bool) (m Manifest, err error) {
	text, into, missing := headDigest, []any{&m.Digest, &m.MediaType, &m.Artifact, &m.Size}, fault.ManifestUnknown
	if body {
		text, into = bodyDigest, append(into, &m.Body)
	}
	if r.Digest == "" {
		missing = fault.TagUnknown
		if text = headTag; body {
			text = bodyTag
		}
	}
	err = q.QueryRow(ctx, text, registry, repo, r.String()).Scan(into...)
	return m, absent(err, missing)
}

func manifestRow(ctx context.Context, tx *db.Tx, repository int64, d ref.Digest) (id int64, mediaType string, sparse bool, err error) {
	err = tx.QueryRow(ctx, `SELECT id, type, sparse FROM manifest WHERE repository = $1 AND digest = $2`, repository, d).Scan(&id, &mediaType, &sparse)
	return id, mediaType, sparse, err
}

func insertManifest(ctx context.Context, tx *db.Tx, repository int64, m Manifest, sealed []byte, at int64) (id int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO manifest (repository, digest, type, artifact, size, sparse, created, body)
		VALUES ($1, $2, $3, $4, $5, FALSE, $6, $7) RETURNING id`, repository, m.Digest, m.MediaType, m.Artifact, m.Size, at, sealed).Scan(&id)
	return id, err
}

func markSparse(ctx context.Context, tx *db.Tx, id int64, sparse bool) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET sparse = $2 WHERE id = $1`, id, sparse)
	return err
}

// needBlob makes the edge from a manifest to a blob of its repository, and
// returns the blob's size; ErrNoRows if the repository does not have it.
func needBlob(ctx context.Context, tx *db.Tx, registry string, repository, manifest int64, d ref.Digest) (int64, error) {
	var id, size int64
	err := tx.QueryRow(ctx, `SELECT b.id, b.size FROM blob b JOIN link l ON l.blob = b.id WHERE b.registry = $1 AND b.digest = $2 AND l.repository = $3`,
		registry, d, repository).Scan(&id, &size)
	if err == nil {
		_, err = tx.Exec(ctx, `INSERT INTO needs_blob (manifest, repository, blob) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, manifest, repository, id)
	}
	return size, err
}

// needManifest is needBlob for what an index names.
func needManifest(ctx context.Context, tx *db.Tx, repository, manifest int64, d ref.Digest) (int64, error) {
	var id, size int64
	err := tx.QueryRow(ctx, `SELECT id, size FROM manifest WHERE repository = $1 AND digest = $2`, repository, d).Scan(&id, &size)
	if err == nil {
		_, err = tx.Exec(ctx, `INSERT INTO needs_manifest (manifest, child) VALUES ($1, $2) ON CONFLICT DO NOTHING`, manifest, id)
	}
	return size, err
}

// dropManifest removes a manifest, the tags that point to it and what it needs.
// The repository is locked.
func dropManifest(ctx context.Context, tx *db.Tx, repository, id, at int64) error {
	for _, step := range []struct {
		text string
		args []any
	}{
		{`UPDATE tag SET until = $2, manifest = NULL WHERE manifest = $1`, []any{id, at}},
		{`UPDATE link SET idle = $3 WHERE repository = $2 AND blob IN (SELECT blob FROM needs_blob WHERE manifest = $1)`, []any{id, repository, at}},
		{`DELETE FROM needs_blob WHERE manifest = $1`, []any{id}},
		{`DELETE FROM needs_manifest WHERE manifest = $1`, []any{id}},
		{`DELETE FROM referrer WHERE manifest = $1`, []any{id}},
		{`DELETE FROM manifest WHERE id = $1`, []any{id}},
	} {
		if _, err := tx.Exec(ctx, step.text, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// Referrers.

func insertReferrer(ctx context.Context, tx *db.Tx, repository, manifest int64, subject ref.Digest, artifact string, descriptor json.RawMessage) error {
	_, err := tx.Exec(ctx, `INSERT INTO referrer (repository, subject, manifest, artifact, descriptor) VALUES ($1, $2, $3, $4, $5)`,
		repository, subject, manifest, artifact, descriptor)
	return err
}

const (
	referrersOf = `SELECT manifest, descriptor FROM referrer WHERE repository = ` + theRepository + ` AND subject = $3 AND manifest > $4`
	anyArtifact = referrersOf + ` ORDER BY manifest LIMIT $5`
	oneArtifact = referrersOf + ` AND artifact = $6 ORDER BY manifest LIMIT $5`
)

func listReferrers(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest, artifact string, after int64) (Referrers, error) {
	text, args := anyArtifact, []any{registry, repo, d, after, referrersPage + 1}
	if artifact != "" {
		text, args = oneArtifact, append(args, artifact)
	}
	rows, err := q.Query(ctx, text, args...)
	if err != nil {
		return Referrers{}, err
	}
	defer rows.Close()
	list := append(make([]byte, 0, 32<<10), '[')
	var r Referrers
	for n := 0; rows.Next(); n++ {
		var descriptor string
		last := after
		if err := rows.Scan(&after, &descriptor); err != nil {
			return r, err
		}
		if n == referrersPage || n > 0 && len(list)+len(descriptor) > referrersBytes {
			r.Next = strconv.FormatInt(last, 10)
			break
		}
		if n > 0 {
			list = append(list, ',')
		}
		list = append(list, descriptor...)
	}
	r.Manifests = append(list, ']')
	return r, rows.Err()
}

// Blobs.

const (
	linkedBlob = `blob b JOIN link l ON l.blob = b.id `
	isTheBlob  = ` WHERE b.registry = $1 AND b.digest = $3 AND l.repository = ` + theRepository
)

func statBlob(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest) (id, size int64, err error) {
	err = q.QueryRow(ctx, `SELECT b.id, b.size FROM `+linkedBlob+isTheBlob, registry, repo, d).Scan(&id, &size)
	return id, size, absent(err, fault.BlobUnknown)
}

// blobParts returns the blob's size and what it is made of: nothing, if it is empty.
func blobParts(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest) (size int64, parts []part, err error) {
	rows, err := q.Query(ctx, `SELECT b.size, p.object, p.at, p.size FROM `+linkedBlob+`LEFT JOIN part p ON p.owner = b.bytes`+isTheBlob+` ORDER BY p.at`, registry, repo, d)
	if err != nil {
		return 0, nil, err
	}
	defer rows.Close()
	found := false
	for rows.Next() {
		var object *string
		var at, n *int64
		if err := rows.Scan(&size, &object, &at, &n); err != nil {
			return 0, nil, err
		}
		found = true
		if object != nil {
			parts = append(parts, part{*object, *at, *n})
		}
	}
	if err := rows.Err(); err != nil {
		return 0, nil, err
	}
	if !found {
		return 0, nil, unknown(fault.BlobUnknown)
	}
	return size, parts, nil
}

// haveBlob makes the row of a blob whose parts bytes owns, or finds the one that
// is there. It locks the row, so no sweep takes it away before the commit.
func haveBlob(ctx context.Context, tx *db.Tx, registry string, d ref.Digest, size int64, bytes string) (id int64, owner string, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO blob (registry, digest, size, bytes) VALUES ($1, $2, $3, $4)
		ON CONFLICT (registry, digest) DO UPDATE SET idle = NULL RETURNING id, bytes`, registry, d, size, bytes).Scan(&id, &owner)
	return id, owner, err
}

// replaceBytes makes a blob of other bytes than those that are damaged.
func replaceBytes(ctx context.Context, tx *db.Tx, blob int64, damaged, owner string, at int64) error {
	if _, err := tx.Exec(ctx, `UPDATE blob SET bytes = $2 WHERE id = $1`, blob, owner); err != nil {
		return err
	}
	return disown(ctx, tx, damaged, at)
}

func linkBlob(ctx context.Context, tx *db.Tx, repository, blob, at int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO link (repository, blob, idle) VALUES ($1, $2, $3)
		ON CONFLICT (blob, repository) DO UPDATE SET idle = excluded.idle WHERE link.idle IS NOT NULL`, repository, blob, at)
	return err
}

// unlinkBlob takes a blob from a repository and has it looked at later. The row
// of the blob comes first, as in a push, so that the two wait and do not lock
// each other out.
func unlinkBlob(ctx context.Context, tx *db.Tx, repository, blob, at int64) error {
	if _, err := tx.Exec(ctx, `UPDATE blob SET idle = $2 WHERE id = $1`, blob, at); err != nil {
		return err
	}
	return one(tx.Exec(ctx, `DELETE FROM link WHERE repository = $1 AND blob = $2`, repository, blob))
}

// holders are repositories that have the blob, at most n.
func holders(ctx context.Context, q querier, registry string, d ref.Digest, n int) ([]ref.Repository, error) {
	rows, err := q.Query(ctx, `SELECT r.name FROM blob b JOIN link l ON l.blob = b.id JOIN repository r ON r.id = l.repository
		WHERE b.registry = $1 AND b.digest = $2 LIMIT $3`, registry, d, n)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// Parts.

func ownedParts(ctx context.Context, q querier, owner string) ([]part, error) {
	rows, err := q.Query(ctx, `SELECT object, at, size FROM part WHERE owner = $1 ORDER BY at`, owner)
	return scan(rows, err, func(p *part) []any { return []any{&p.object, &p.at, &p.size} })
}

// insertPart names an object. One that a sweep has taken for nameless stays so,
// and whoever wanted to name it must begin again.
func insertPart(ctx context.Context, tx *db.Tx, registry, owner string, p part) error {
	_, err := tx.Exec(ctx, `INSERT INTO part (object, registry, owner, at, size) VALUES ($1, $2, $3, $4, $5)`, p.object, registry, owner, p.at, p.size)
	if db.IsUnique(err) {
		return fault.New(fault.Unavailable, "the upload took too long; send it again").Because(err)
	}
	return err
}

// disown gives the parts of an owner up; their bytes go from due on.
func disown(ctx context.Context, tx *db.Tx, owner string, due int64) error {
	_, err := tx.Exec(ctx, `UPDATE part SET owner = NULL, due = $2 WHERE owner = $1`, owner, due)
	return err
}

// Uploads.

func sessionRow(ctx context.Context, q querier, t ticket) (u session, err error) {
	err = q.QueryRow(ctx, `SELECT size, parts, hash, done, until FROM upload WHERE expires = $1 AND id = $2`, t.expires, t.uuid).Scan(&u.size, &u.parts, &u.hash, &u.done, &u.until)
	return u, err
}

// moveSession records that a session went on from its size to another. ErrNoRows
// means that another request was first.
func moveSession(ctx context.Context, tx *db.Tx, registry string, t ticket, from session, size int64, hash []byte, until int64) error {
	if !from.row {
		return one(tx.Exec(ctx, `INSERT INTO upload (expires, id, registry, size, parts, hash, done, until) VALUES ($1, $2, $3, $4, 1, $5, FALSE, $6)
			ON CONFLICT (expires, id) DO NOTHING`, t.expires, t.uuid, registry, size, hash, until))
	}
	return one(tx.Exec(ctx, `UPDATE upload SET size = $4, parts = parts + 1, hash = $5, until = $6
		WHERE expires = $1 AND id = $2 AND size = $3 AND NOT done`, t.expires, t.uuid, from.size, size, hash, until))
}

// endSession marks a session as done, once, for as long as its id would be good.
func endSession(ctx context.Context, tx *db.Tx, registry string, t ticket, from session) error {
	if !from.row {
		return one(tx.Exec(ctx, `INSERT INTO upload (expires, id, registry, size, parts, done, until) VALUES ($1, $2, $3, 0, 0, TRUE, $1)
			ON CONFLICT (expires, id) DO NOTHING`, t.expires, t.uuid, registry))
	}
	return one(tx.Exec(ctx, `UPDATE upload SET done = TRUE, hash = NULL, until = $1 WHERE expires = $1 AND id = $2 AND size = $3 AND NOT done`,
		t.expires, t.uuid, from.size))
}

// What a sweep looks for. Each look tells since when, and what is done about it
// is done only if that is still so: who needed the thing in between said so there.

func overdueSessions(ctx context.Context, q querier, at int64, n int) ([]ticket, error) {
	rows, err := q.Query(ctx, `SELECT expires, id FROM upload WHERE expires <= $1 AND until <= $1 ORDER BY expires LIMIT $2`, at, n)
	return scan(rows, err, func(t *ticket) []any { return []any{&t.expires, &t.uuid} })
}

// dropSession forgets a session. The parts of one that is done are a blob's, or
// given up already.
func dropSession(ctx context.Context, tx *db.Tx, t ticket, at int64) error {
	var done bool
	err := tx.QueryRow(ctx, `DELETE FROM upload WHERE expires = $1 AND id = $2 AND until <= $3 RETURNING done`, t.expires, t.uuid, at).Scan(&done)
	if err != nil || done {
		return err
	}
	return disown(ctx, tx, t.uuid, at)
}

// An idleLink is a blob in a repository where perhaps no manifest needs it.
type idleLink struct {
	repository, blob, since int64
	registry                string
	name                    ref.Repository
	digest                  ref.Digest
	size                    int64
}

// idleLinks reads through all links, from behind one on: no index is worth its
// price at every push.
func idleLinks(ctx context.Context, q querier, before int64, behind idleLink, n int) ([]idleLink, error) {
	rows, err := q.Query(ctx, `SELECT l.repository, l.blob, l.idle, r.registry, r.name, b.digest, b.size
		FROM link l JOIN repository r ON r.id = l.repository JOIN blob b ON b.id = l.blob
		WHERE l.idle <= $1 AND (l.blob, l.repository) > ($2, $3) ORDER BY l.blob, l.repository LIMIT $4`, before, behind.blob, behind.repository, n)
	return scan(rows, err, func(l *idleLink) []any {
		return []any{&l.repository, &l.blob, &l.since, &l.registry, &l.name, &l.digest, &l.size}
	})
}

// dropLink takes the blob from the repository; false if a manifest needs it or
// somebody pushed it since.
func dropLink(ctx context.Context, tx *db.Tx, l idleLink, at int64) (bool, error) {
	if _, err := tx.Exec(ctx, `UPDATE repository SET changed = changed WHERE id = $1`, l.repository); err != nil { // locks it
		return false, err
	}
	n, err := tx.Exec(ctx, `UPDATE link SET idle = NULL WHERE repository = $1 AND blob = $2 AND idle = $3
		AND EXISTS (SELECT 1 FROM needs_blob n WHERE n.repository = $1 AND n.blob = $2)`, l.repository, l.blob, l.since)
	if err != nil || n > 0 {
		return false, err
	}
	if _, err := tx.Exec(ctx, `UPDATE blob SET idle = $2 WHERE id = $1`, l.blob, at); err != nil {
		return false, err
	}
	n, err = tx.Exec(ctx, `DELETE FROM link WHERE repository = $1 AND blob = $2 AND idle = $3`, l.repository, l.blob, l.since)
	return n > 0, err
}

// An idleBlob is one that perhaps no repository has.
type idleBlob struct{ id, since int64 }

func idleBlobs(ctx context.Context, q querier, before int64, n int) ([]idleBlob, error) {
	rows, err := q.Query(ctx, `SELECT id, idle FROM blob WHERE idle <= $1 ORDER BY idle LIMIT $2`, before, n)
	return scan(rows, err, func(b *idleBlob) []any { return []any{&b.id, &b.since} })
}

// dropBlob removes a blob that no repository has; false if one has.
func dropBlob(ctx context.Context, tx *db.Tx, b idleBlob, at int64) (bool, error) {
	var bytes string
	err := tx.QueryRow(ctx, `DELETE FROM blob WHERE id = $1 AND idle = $2 AND NOT EXISTS (SELECT 1 FROM link WHERE blob = $1) RETURNING bytes`,
		b.id, b.since).Scan(&bytes)
	if err == nil {
		return true, disown(ctx, tx, bytes, at)
	}
	if errors.Is(err, db.ErrNoRows) {
		_, err = tx.Exec(ctx, `UPDATE blob SET idle = NULL WHERE id = $1 AND idle = $2 AND EXISTS (SELECT 1 FROM link WHERE blob = $1)`, b.id, b.since)
	}
	return false, err
}

func dueParts(ctx context.Context, q querier, at int64, n int) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT object FROM part WHERE due <= $1 ORDER BY due LIMIT $2`, at, n)
	return scan(rows, err, func(object *string) []any { return []any{object} })
}

func dropPart(ctx context.Context, tx *db.Tx, object string, at int64) error {
	_, err := tx.Exec(ctx, `DELETE FROM part WHERE object = $1 AND due <= $2`, object, at)
	return err
}

// namedObjects are those from first to last that have a row.
func namedObjects(ctx context.Context, q querier, first, last string) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT object FROM part WHERE object >= $1 AND object <= $2 ORDER BY object`, first, last)
	return scan(rows, err, func(object *string) []any { return []any{object} })
}

// takeNameless takes the key of an object, so that nobody can name it any more;
// false if it has a name.
func takeNameless(ctx context.Context, tx *db.Tx, object string, due int64) (bool, error) {
	n, err := tx.Exec(ctx, `INSERT INTO part (object, registry, at, size, due) VALUES ($1, '', 0, 0, $2) ON CONFLICT (object) DO NOTHING`, object, due)
	return n > 0, err
}
