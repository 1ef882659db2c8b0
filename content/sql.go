package content

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"breakwater/db"
	"breakwater/fault"
	"breakwater/receipt"
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

const theRepository = `(SELECT id FROM repository WHERE registry = $1 AND name = $2 AND deleted IS NULL)`

func findRepository(ctx context.Context, q querier, registry string, repo ref.Repository) (id int64, o off, err error) {
	err = q.QueryRow(ctx, `SELECT id, off FROM repository WHERE registry = $1 AND name = $2 AND deleted IS NULL`, registry, repo).Scan(&id, &o)
	return id, o, err
}

// touchRepository makes the repository if it is not there, for a push. Until the
// commit nobody else changes its manifests and tags.
func touchRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (id int64, err error) {
	var o off
	err = tx.QueryRow(ctx, `INSERT INTO repository (registry, name, created, changed) VALUES ($1, $2, $3, $3)
		ON CONFLICT (registry, name) DO UPDATE SET changed = excluded.changed, deleted = NULL RETURNING id, off`, registry, repo, at).Scan(&id, &o)
	return id, o.forbids(noWrite, err)
}

// lockRepository is touchRepository for one that must be there, whatever it allows.
func lockRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository) (id int64, o off, err error) {
	err = tx.QueryRow(ctx, `UPDATE repository SET changed = $3 WHERE registry = $1 AND name = $2 AND deleted IS NULL RETURNING id, off`, registry, repo, now()).Scan(&id, &o)
	return id, o, err
}

// haveRepository makes the repository if it is not there, for a push of a blob, and
// locks nothing.
func haveRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (int64, error) {
	id, o, err := findRepository(ctx, tx, registry, repo)
	if errors.Is(err, db.ErrNoRows) {
		return touchRepository(ctx, tx, registry, repo, at)
	}
	return id, o.forbids(noWrite, err)
}

func listRepositories(ctx context.Context, q querier, registry, after string, n int) ([]ref.Repository, error) {
	rows, err := q.Query(ctx, `SELECT name FROM repository WHERE registry = $1 AND name > $2 AND deleted IS NULL AND (off & $4) = 0 ORDER BY name LIMIT $3`,
		registry, after, n, noList)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// Tags.

func listTags(ctx context.Context, q querier, repository int64, after string, n int, hide off) ([]ref.Tag, error) {
	rows, err := q.Query(ctx, `SELECT name FROM tag WHERE repository = $1 AND until IS NULL AND name > $2 AND (off & $4) = 0 ORDER BY name LIMIT $3`,
		repository, after, n, hide)
	return scan(rows, err, func(t *ref.Tag) []any { return []any{t} })
}

// moveTag ends the interval of a tag and begins the next, unless it points there
// already. What the tag allows stays as it was. The repository is locked.
func moveTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag, d ref.Digest, manifest, at int64, held off) error {
	var current int64
	var said ref.Digest
	var o off
	created := at
	err := tx.QueryRow(ctx, `SELECT manifest, digest, off, created FROM tag WHERE repository = $1 AND name = $2 AND until IS NULL`, repository, t).Scan(&current, &said, &o, &created)
	if err == nil && current == manifest && said == d {
		return nil
	}
	if err = o.forbids(noWrite, err); err == nil {
		_, err = endTag(ctx, tx, repository, t, at, nil)
	}
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	_, err = tx.Exec(ctx, `INSERT INTO tag (repository, name, since, digest, manifest, off, created) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		repository, t, at, d, manifest, o&^quarantined|held, created)
	return err
}

// endTag ends the interval of a tag and returns where it pointed. Until due it can
// be restored; nil: never.
func endTag(ctx context.Context, tx *db.Tx, repository int64, t ref.Tag, at int64, due *int64) (d ref.Digest, err error) {
	err = tx.QueryRow(ctx, `UPDATE tag SET until = $3, manifest = NULL, due = $4 WHERE repository = $1 AND name = $2 AND until IS NULL RETURNING digest`,
		repository, t, at, due).Scan(&d)
	if err == nil {
		_, err = tx.Exec(ctx, `UPDATE manifest SET untagged = $3 WHERE repository = $1 AND digest = $2
			AND NOT EXISTS (SELECT 1 FROM tag t WHERE t.manifest = manifest.id)`, repository, d, at)
	}
	return d, err
}

// Manifests.

// The four ways to look for a manifest: with its body or without, by digest or by
// tag. Each is one query.
const (
	headOf     = `SELECT m.digest, m.type, m.artifact, m.size, m.digest, r.off | m.off FROM `
	bodyOf     = `SELECT m.digest, m.type, m.artifact, m.size, m.digest, r.off | m.off, m.body FROM `
	headOfTag  = `SELECT m.digest, m.type, m.artifact, m.size, t.digest, r.off | m.off | t.off FROM `
	bodyOfTag  = `SELECT m.digest, m.type, m.artifact, m.size, t.digest, r.off | m.off | t.off, m.body FROM `
	byDigest   = `repository r JOIN manifest m ON m.repository = r.id WHERE r.registry = $1 AND r.name = $2 AND r.deleted IS NULL AND m.digest = $3 AND m.deleted IS NULL`
	byTag      = `repository r JOIN tag t ON t.repository = r.id JOIN manifest m ON m.id = t.manifest WHERE r.registry = $1 AND r.name = $2 AND t.name = $3 AND t.until IS NULL`
	headDigest = headOf + byDigest
	headTag    = headOfTag + byTag
	bodyDigest = bodyOf + byDigest
	bodyTag    = bodyOfTag + byTag
)

// findManifest returns the body as it is sealed, what may not be done with the
// manifest where it was found, and the digest that the row that led there gives.
func findManifest(ctx context.Context, q querier, registry string, repo ref.Repository, r ref.Reference, body bool) (m Manifest, o off, said ref.Digest, err error) {
	text, into, missing := headDigest, []any{&m.Digest, &m.MediaType, &m.Artifact, &m.Size, &said, &o}, fault.ManifestUnknown
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
	return m, o, said, absent(err, missing)
}

// A manifestRow is what a change has to know of a manifest.
type manifestRow struct {
	id        int64
	mediaType string
	sparse    bool
	total     int64
	off       off
	deleted   bool
	damage    error // why its body did not open and was replaced; nil if it did
}

func findManifestRow(ctx context.Context, tx *db.Tx, repository int64, d ref.Digest) (m manifestRow, err error) {
	err = tx.QueryRow(ctx, `SELECT id, type, sparse, total, off, deleted IS NOT NULL FROM manifest WHERE repository = $1 AND digest = $2`, repository, d).
		Scan(&m.id, &m.mediaType, &m.sparse, &m.total, &m.off, &m.deleted)
	return m, err
}

// sealedBody is the body of a manifest as it lies in its row.
func sealedBody(ctx context.Context, tx *db.Tx, id int64) (body []byte, size int64, err error) {
	err = tx.QueryRow(ctx, `SELECT body, size FROM manifest WHERE id = $1`, id).Scan(&body, &size)
	return body, size, err
}

// replaceBody puts a body in the place of one that is damaged.
func replaceBody(ctx context.Context, tx *db.Tx, id, size int64, sealed []byte) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET body = $2, size = $3, off = off & $4 WHERE id = $1`, id, sealed, size, ^broken)
	return err
}

// markManifestDamaged is false if that was known.
func markManifestDamaged(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, d ref.Digest) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE manifest SET off = off | $4 WHERE repository = `+theRepository+` AND digest = $3 AND (off & $4) = 0`, registry, repo, d, broken)
	return n > 0, err
}

// unmarkManifest is for one that is whole again.
func unmarkManifest(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, d ref.Digest) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET off = off & $4 WHERE repository = `+theRepository+` AND digest = $3`, registry, repo, d, ^broken)
	return err
}

func unmarkManifestRow(ctx context.Context, tx *db.Tx, id int64) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET off = off & $2 WHERE id = $1`, id, ^broken)
	return err
}

func insertManifest(ctx context.Context, tx *db.Tx, repository int64, m Manifest, a about, sealed []byte, at int64) (id int64, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO manifest (repository, digest, type, artifact, size, sparse, created, body, off, quarantine, untagged, total, config, architecture, os)
		VALUES ($1, $2, $3, $4, $5, FALSE, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING id`, repository, m.Digest, m.MediaType, m.Artifact, m.Size, at, sealed,
		a.off, a.quarantine, a.untagged, a.total, a.config, a.architecture, a.os).Scan(&id)
	return id, err
}

func markManifest(ctx context.Context, tx *db.Tx, id int64, sparse bool, total int64) error {
	_, err := tx.Exec(ctx, `UPDATE manifest SET sparse = $2, total = $3 WHERE id = $1`, id, sparse, total)
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
func needManifest(ctx context.Context, tx *db.Tx, repository, manifest int64, d ref.Digest) (size, total int64, err error) {
	var id int64
	err = tx.QueryRow(ctx, `SELECT id, size, total FROM manifest WHERE repository = $1 AND digest = $2 AND deleted IS NULL`, repository, d).Scan(&id, &size, &total)
	if err == nil {
		_, err = tx.Exec(ctx, `INSERT INTO needs_manifest (manifest, child) VALUES ($1, $2) ON CONFLICT DO NOTHING`, manifest, id)
	}
	return size, total, err
}

// dropManifest removes a manifest, the tags that point to it and what it needs.
// The repository is locked.
func dropManifest(ctx context.Context, tx *db.Tx, repository, id, at int64) error {
	return steps(ctx, tx,
		step{`UPDATE tag SET until = $2, manifest = NULL WHERE manifest = $1`, []any{id, at}},
		step{`UPDATE tag SET due = NULL WHERE repository = $2 AND due IS NOT NULL AND digest = (SELECT digest FROM manifest WHERE id = $1)`, []any{id, repository}},
		step{`UPDATE manifest SET untagged = $2 WHERE untagged IS NOT NULL AND id IN (SELECT child FROM needs_manifest WHERE manifest = $1)`, []any{id, at}},
		step{`UPDATE link SET idle = $3 WHERE repository = $2 AND blob IN (SELECT blob FROM needs_blob WHERE manifest = $1)`, []any{id, repository, at}},
		step{`DELETE FROM needs_blob WHERE manifest = $1`, []any{id}},
		step{`DELETE FROM needs_manifest WHERE manifest = $1 OR child = $1`, []any{id}}, // of those that name it, only such are left that go before it
		step{`DELETE FROM referrer WHERE manifest = $1`, []any{id}},
		step{`DELETE FROM manifest WHERE id = $1`, []any{id}},
	)
}

// A step is one statement of several.
type step struct {
	text string
	args []any
}

func steps(ctx context.Context, tx *db.Tx, all ...step) error {
	for _, s := range all {
		if _, err := tx.Exec(ctx, s.text, s.args...); err != nil {
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
	referrersOf = `SELECT f.manifest, f.descriptor FROM referrer f JOIN manifest m ON m.id = f.manifest WHERE f.repository = ` + theRepository + `
		AND f.subject = $3 AND f.manifest > $4 AND m.deleted IS NULL AND (m.off & $6) = 0`
	anyArtifact = referrersOf + ` ORDER BY f.manifest LIMIT $5`
	oneArtifact = referrersOf + ` AND f.artifact = $7 ORDER BY f.manifest LIMIT $5`
)

func listReferrers(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest, artifact string, after int64, hide off) (Referrers, error) {
	text, args := anyArtifact, []any{registry, repo, d, after, referrersPage + 1, hide}
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
	linkedBlob = `repository r JOIN link l ON l.repository = r.id JOIN blob b ON b.id = l.blob `
	isTheBlob  = ` WHERE r.registry = $1 AND r.name = $2 AND r.deleted IS NULL AND b.registry = $1 AND b.digest = $3`
)

// statBlob tells also of a blob that is known to be damaged.
func statBlob(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest) (id, size int64, whole bool, o off, err error) {
	err = q.QueryRow(ctx, `SELECT b.id, b.size, b.damaged IS NULL, r.off FROM `+linkedBlob+isTheBlob, registry, repo, d).Scan(&id, &size, &whole, &o)
	return id, size, whole, o, absent(err, fault.BlobUnknown)
}

// A stored blob is what the rows say of it.
type stored struct {
	id     int64
	digest ref.Digest
	size   int64
	bytes  string // who owns the parts
	proof  []byte // nil if nobody has read it since proofs are made
	marked *int64 // when it was found damaged
	parts  []part // none, if it is empty
}

const (
	storedBlob = `SELECT b.id, b.size, b.bytes, CASE WHEN COALESCE(p.at, 0) = 0 THEN b.proof END, b.damaged, p.object, p.at, p.size, p.secret, `
	itsParts   = `LEFT JOIN part p ON p.owner = b.bytes`
)

// blobParts returns a blob of the repository, and what the repository allows.
func blobParts(ctx context.Context, q querier, registry string, repo ref.Repository, d ref.Digest) (stored, off, error) {
	rows, err := q.Query(ctx, storedBlob+`r.off FROM `+linkedBlob+itsParts+isTheBlob+` ORDER BY p.at`, registry, repo, d)
	return scanStored(rows, err, d)
}

// findStored returns a blob of the registry.
func findStored(ctx context.Context, q querier, registry string, d ref.Digest) (stored, error) {
	rows, err := q.Query(ctx, storedBlob+`0 FROM blob b `+itsParts+` WHERE b.registry = $1 AND b.digest = $2 ORDER BY p.at`, registry, d)
	b, _, err := scanStored(rows, err, d)
	return b, err
}

func scanStored(rows *db.Rows, err error, d ref.Digest) (b stored, o off, _ error) {
	if err != nil {
		return b, 0, err
	}
	defer rows.Close()
	b.digest = d
	found := false
	for rows.Next() {
		var object *string
		var at, n *int64
		var proof, secret []byte
		if err := rows.Scan(&b.id, &b.size, &b.bytes, &proof, &b.marked, &object, &at, &n, &secret, &o); err != nil {
			return b, 0, err
		}
		if found = true; proof != nil {
			b.proof = proof
		}
		if object != nil {
			b.parts = append(b.parts, part{*object, *at, *n, secret})
		}
	}
	if err := rows.Err(); err != nil {
		return b, 0, err
	}
	if !found {
		return b, 0, unknown(fault.BlobUnknown)
	}
	return b, o, nil
}

// markBlob says that the bytes of a blob are damaged, unless they are others by now.
// It is false if that was known; then it is as good as new.
func markBlob(ctx context.Context, tx *db.Tx, b stored, at int64) (bool, error) {
	n, err := tx.Exec(ctx, `UPDATE blob SET damaged = $3 WHERE id = $1 AND bytes = $2 AND damaged IS NULL`, b.id, b.bytes, at)
	if err != nil || n > 0 {
		return n > 0, err
	}
	_, err = tx.Exec(ctx, `UPDATE blob SET damaged = $3 WHERE id = $1 AND bytes = $2`, b.id, b.bytes, at)
	return false, err
}

// vouch says that somebody has read the bytes of a blob and found them whole.
func vouch(ctx context.Context, tx *db.Tx, b stored, proof []byte) error {
	_, err := tx.Exec(ctx, `UPDATE blob SET proof = $3, damaged = NULL WHERE id = $1 AND bytes = $2`, b.id, b.bytes, proof)
	return err
}

// A numbered blob or manifest is one of all, of every registry.
type (
	numberedBlob struct {
		id       int64
		registry string
		digest   ref.Digest
	}
	numberedManifest struct {
		id         int64
		registry   string
		repository ref.Repository
		Manifest
	}
)

func blobsAfter(ctx context.Context, q querier, after int64, n int) ([]numberedBlob, error) {
	rows, err := q.Query(ctx, `SELECT id, registry, digest FROM blob WHERE id > $1 ORDER BY id LIMIT $2`, after, n)
	return scan(rows, err, func(b *numberedBlob) []any { return []any{&b.id, &b.registry, &b.digest} })
}

func manifestsAfter(ctx context.Context, q querier, after int64, n int) ([]numberedManifest, error) {
	rows, err := q.Query(ctx, `SELECT m.id, r.registry, r.name, m.digest, m.type, m.size, m.body FROM manifest m JOIN repository r ON r.id = m.repository
		WHERE m.id > $1 AND m.deleted IS NULL ORDER BY m.id LIMIT $2`, after, n)
	return scan(rows, err, func(m *numberedManifest) []any {
		return []any{&m.id, &m.registry, &m.repository, &m.Digest, &m.MediaType, &m.Size, &m.Body}
	})
}

// haveBlob makes the row of a blob whose parts bytes owns, or finds the one that
// is there. It locks the row, so no sweep takes it away before the commit.
func haveBlob(ctx context.Context, tx *db.Tx, registry string, d ref.Digest, size int64, bytes string, proof []byte) (id int64, owner string, err error) {
	err = tx.QueryRow(ctx, `INSERT INTO blob (registry, digest, size, bytes, proof) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (registry, digest) DO UPDATE SET idle = NULL RETURNING id, bytes`, registry, d, size, bytes, proof).Scan(&id, &owner)
	return id, owner, err
}

// replaceBytes makes a blob of other bytes than those that are damaged.
func replaceBytes(ctx context.Context, tx *db.Tx, blob int64, damaged, owner string, size int64, proof []byte, at int64) error {
	if _, err := tx.Exec(ctx, `UPDATE blob SET bytes = $2, size = $3, proof = $4, damaged = NULL WHERE id = $1`, blob, owner, size, proof); err != nil {
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
		WHERE b.registry = $1 AND b.digest = $2 AND r.deleted IS NULL AND (r.off & $4) = 0 LIMIT $3`, registry, d, n, noRead)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// Parts.

func ownedParts(ctx context.Context, q querier, owner string) ([]part, error) {
	rows, err := q.Query(ctx, `SELECT object, at, size, secret FROM part WHERE owner = $1 ORDER BY at`, owner)
	return scan(rows, err, func(p *part) []any { return []any{&p.object, &p.at, &p.size, &p.secret} })
}

// insertPart names an object. One that a sweep has taken for nameless stays so,
// and whoever wanted to name it must begin again.
func insertPart(ctx context.Context, tx *db.Tx, registry, owner string, p part) error {
	_, err := tx.Exec(ctx, `INSERT INTO part (object, registry, owner, at, size, secret) VALUES ($1, $2, $3, $4, $5, $6)`, p.object, registry, owner, p.at, p.size, p.secret)
	if db.IsUnique(err) {
		return fault.New(fault.Unavailable, "the upload took too long; send it again").Because(err)
	}
	return err
}

// disown gives the parts of an owner up: nobody can open them any more, and their
// bytes go from due on.
func disown(ctx context.Context, tx *db.Tx, owner string, due int64) error {
	_, err := tx.Exec(ctx, `UPDATE part SET owner = NULL, due = $2, secret = NULL WHERE owner = $1`, owner, due)
	return err
}

// Uploads.

func sessionRow(ctx context.Context, q querier, t ticket) (u session, err error) {
	err = q.QueryRow(ctx, `SELECT size, parts, hash, done, until FROM upload WHERE expires = $1 AND id = $2`, t.expires, t.uuid).Scan(&u.size, &u.parts, &u.sealed, &u.done, &u.until)
	return u, err
}

// moveSession records that a session went on from its size to another. ErrNoRows
// means that another request was first.
func moveSession(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, t ticket, from session, size int64, sealed []byte, until int64) error {
	if !from.row {
		return one(tx.Exec(ctx, `INSERT INTO upload (expires, id, registry, repository, size, parts, hash, done, until) VALUES ($1, $2, $3, $7, $4, 1, $5, FALSE, $6)
			ON CONFLICT (expires, id) DO NOTHING`, t.expires, t.uuid, registry, size, sealed, until, repo))
	}
	return one(tx.Exec(ctx, `UPDATE upload SET size = $4, parts = parts + 1, hash = $5, until = $6
		WHERE expires = $1 AND id = $2 AND size = $3 AND NOT done`, t.expires, t.uuid, from.size, size, sealed, until))
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

func usedRegistries(ctx context.Context, q querier) ([]string, error) {
	rows, err := q.Query(ctx, `SELECT DISTINCT registry FROM repository ORDER BY registry`)
	return scan(rows, err, func(uid *string) []any { return []any{uid} })
}

type someRepository struct {
	id   int64
	name ref.Repository
}

func someRepositories(ctx context.Context, q querier, registry string, n int) ([]someRepository, error) {
	rows, err := q.Query(ctx, `SELECT id, name FROM repository WHERE registry = $1 ORDER BY name LIMIT $2`, registry, n)
	return scan(rows, err, func(r *someRepository) []any { return []any{&r.id, &r.name} })
}

// wipeRepository removes a repository, and what the trash has of it.
func wipeRepository(ctx context.Context, tx *db.Tx, id, at int64) error {
	const all = `(SELECT id FROM manifest WHERE repository = $1)`
	if err := steps(ctx, tx,
		step{`UPDATE repository SET changed = $2 WHERE id = $1`, []any{id, at}}, // locks it
		step{`UPDATE tag SET until = $2, manifest = NULL WHERE repository = $1 AND until IS NULL`, []any{id, at}},
		step{`DELETE FROM needs_blob WHERE manifest IN ` + all, []any{id}},
		step{`DELETE FROM needs_manifest WHERE manifest IN ` + all, []any{id}},
		step{`DELETE FROM referrer WHERE manifest IN ` + all, []any{id}},
		step{`DELETE FROM manifest WHERE repository = $1`, []any{id}},
	); err != nil {
		return err
	}
	return dropRepository(ctx, tx, id, at)
}

// An oldManifest is one whose time has perhaps come.
type oldManifest struct {
	id, repository, since int64 // since when it has no tag, or until when it could be restored
	registry              string
	name                  ref.Repository
	digest                ref.Digest
}

func (m *oldManifest) into() []any {
	return []any{&m.id, &m.repository, &m.since, &m.registry, &m.name, &m.digest}
}

func untaggedManifests(ctx context.Context, q querier, registry string, since, before int64, n int) ([]oldManifest, error) {
	rows, err := q.Query(ctx, `SELECT m.id, m.repository, m.untagged, r.registry, r.name, m.digest FROM manifest m JOIN repository r ON r.id = m.repository
		WHERE m.untagged >= $2 AND m.untagged <= $3 AND r.registry = $1 AND m.deleted IS NULL AND ((m.off | r.off) & $5) = 0
		AND NOT EXISTS (SELECT 1 FROM needs_manifest n WHERE n.child = m.id) AND NOT EXISTS (SELECT 1 FROM referrer f WHERE f.manifest = m.id)
		ORDER BY m.untagged, m.id LIMIT $4`, registry, since, before, n, locked)
	return scan(rows, err, (*oldManifest).into)
}

// stillUntagged locks the repository and looks again.
func stillUntagged(ctx context.Context, tx *db.Tx, m oldManifest, before int64) (still bool, err error) {
	if _, err := tx.Exec(ctx, `UPDATE repository SET changed = changed WHERE id = $1`, m.repository); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM manifest m JOIN repository r ON r.id = m.repository
		WHERE m.id = $1 AND m.digest = $2 AND m.untagged <= $3 AND m.deleted IS NULL AND ((m.off | r.off) & $4) = 0)`, m.id, m.digest, before, locked).Scan(&still)
	return still, err
}

func dueManifests(ctx context.Context, q querier, at int64, n int) ([]oldManifest, error) {
	rows, err := q.Query(ctx, `SELECT m.id, m.repository, m.due, r.registry, r.name, m.digest FROM manifest m JOIN repository r ON r.id = m.repository
		WHERE m.due <= $1 ORDER BY m.due LIMIT $2`, at, n)
	return scan(rows, err, (*oldManifest).into)
}

// stillDue locks the repository and looks again.
func stillDue(ctx context.Context, tx *db.Tx, m oldManifest, at int64) (still bool, err error) {
	if _, err := tx.Exec(ctx, `UPDATE repository SET changed = changed WHERE id = $1`, m.repository); err != nil {
		return false, err
	}
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM manifest WHERE id = $1 AND digest = $2 AND due <= $3)`, m.id, m.digest, at).Scan(&still)
	return still, err
}

// dropEmptyRepository removes a repository in the trash from which the last manifest
// has gone.
func dropEmptyRepository(ctx context.Context, tx *db.Tx, id, at int64) error {
	var empty bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM repository WHERE id = $1 AND deleted IS NOT NULL)
		AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = $1)`, id).Scan(&empty)
	if err != nil || !empty {
		return err
	}
	return dropRepository(ctx, tx, id, at)
}

// forgetTags empties the trash of tags that can no longer be restored.
func forgetTags(ctx context.Context, tx *db.Tx, at int64) error {
	_, err := tx.Exec(ctx, `UPDATE tag SET due = NULL WHERE due <= $1`, at)
	return err
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

// Erasing.

// gone is what an erase took.
type gone struct {
	owners, objects int
	bytes           int64
	old             int // of the objects, those that have no secret of their own
	oldBytes        int64
	digests         []ref.Digest
}

// erase gives the parts of an owner up, as disown does, and counts them.
func (g *gone) erase(ctx context.Context, tx *db.Tx, owner string, at int64) error {
	var n, old int
	var size, oldSize int64
	err := tx.QueryRow(ctx, `SELECT COUNT(*), CAST(COALESCE(SUM(size), 0) AS BIGINT), COUNT(CASE WHEN secret IS NULL THEN 1 END),
		CAST(COALESCE(SUM(CASE WHEN secret IS NULL THEN size END), 0) AS BIGINT) FROM part WHERE owner = $1`, owner).Scan(&n, &size, &old, &oldSize)
	if err != nil {
		return err
	}
	g.owners, g.objects, g.bytes, g.old, g.oldBytes = g.owners+1, g.objects+n, g.bytes+size, g.old+old, g.oldBytes+oldSize
	return disown(ctx, tx, owner, at)
}

// lockAnyRepository is lockRepository for one that may be in the trash.
func lockAnyRepository(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository, at int64) (id int64, o off, err error) {
	err = tx.QueryRow(ctx, `UPDATE repository SET changed = $3 WHERE registry = $1 AND name = $2 RETURNING id, off`, registry, repo, at).Scan(&id, &o)
	return id, o, err
}

// bornAt tells a repository from others that had its name before; there is "" of one that
// nobody has pushed to, and NameUnknown if nothing is under way there either.
func bornAt(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository) (string, error) {
	var created int64
	err := tx.QueryRow(ctx, `SELECT created FROM repository WHERE registry = $1 AND name = $2`, registry, repo).Scan(&created)
	if !errors.Is(err, db.ErrNoRows) {
		return strconv.FormatInt(created, 10), err
	}
	err = tx.QueryRow(ctx, `SELECT 1 FROM upload WHERE registry = $1 AND repository = $2 AND NOT done LIMIT 1`, registry, repo).Scan(&created)
	return "", absent(err, fault.NameUnknown)
}

// allManifests are those in the trash, too.
func allManifests(ctx context.Context, tx *db.Tx, repository int64) ([]ref.Digest, error) {
	rows, err := tx.Query(ctx, `SELECT digest FROM manifest WHERE repository = $1`, repository)
	return scan(rows, err, func(d *ref.Digest) []any { return []any{d} })
}

func countTags(ctx context.Context, tx *db.Tx, repository int64) (n int, err error) {
	err = tx.QueryRow(ctx, `SELECT COUNT(*) FROM tag WHERE repository = $1 AND (until IS NULL OR due IS NOT NULL)`, repository).Scan(&n)
	return n, err
}

// linkedBlobs are the blobs that a repository has.
func linkedBlobs(ctx context.Context, tx *db.Tx, repository int64) ([]stored, error) {
	rows, err := tx.Query(ctx, `SELECT b.id, b.digest, b.size FROM link l JOIN blob b ON b.id = l.blob WHERE l.repository = $1`, repository)
	return scan(rows, err, func(b *stored) []any { return []any{&b.id, &b.digest, &b.size} })
}

// sharers are the repositories that have a blob of this one, too.
func sharers(ctx context.Context, tx *db.Tx, repository int64) ([]ref.Repository, error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT r.name FROM link l JOIN link o ON o.blob = l.blob JOIN repository r ON r.id = o.repository
		WHERE l.repository = $1 AND o.repository <> $1 ORDER BY r.name`, repository)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// eraseUploads ends the sessions of a repository, for as long as their ids would be
// good, and gives up what they have received.
func eraseUploads(ctx context.Context, tx *db.Tx, registry string, repo ref.Repository) (g gone, err error) {
	rows, err := tx.Query(ctx, `UPDATE upload SET done = TRUE, hash = NULL, until = expires WHERE registry = $1 AND repository = $2 AND NOT done RETURNING id`, registry, repo)
	owners, err := scan(rows, err, func(id *string) []any { return []any{id} })
	for _, owner := range owners {
		if err = g.erase(ctx, tx, owner, now()); err != nil {
			break
		}
	}
	return g, err
}

// eraseUnlinked removes the blobs of a registry that no repository has: the rows first,
// so that who links one in between undoes all of it, and never finds a blob without its
// bytes.
func eraseUnlinked(ctx context.Context, tx *db.Tx, registry string, g *gone, at int64) error {
	rows, err := tx.Query(ctx, `DELETE FROM blob WHERE registry = $1 AND idle IS NOT NULL AND NOT EXISTS (SELECT 1 FROM link l WHERE l.blob = blob.id)
		RETURNING digest, bytes`, registry)
	blobs, err := scan(rows, err, func(b *stored) []any { return []any{&b.digest, &b.bytes} })
	for _, b := range blobs {
		if err = g.erase(ctx, tx, b.bytes, at); err != nil {
			break
		}
		g.digests = append(g.digests, b.digest)
	}
	return err
}

// holdRepositories locks all rows of a registry, as who changes what is in one locks it.
func holdRepositories(ctx context.Context, tx *db.Tx, registry string, at int64) error {
	_, err := tx.Exec(ctx, `UPDATE repository SET changed = $2 WHERE registry = $1`, registry, at)
	return err
}

// lockedRepositories are those that are locked, or have something in them that is.
func lockedRepositories(ctx context.Context, tx *db.Tx, registry string, n int) ([]ref.Repository, error) {
	rows, err := tx.Query(ctx, `SELECT r.name FROM repository r WHERE r.registry = $1 AND r.deleted IS NULL AND ((r.off & $2) <> 0
		OR EXISTS (SELECT 1 FROM manifest m WHERE m.repository = r.id AND m.deleted IS NULL AND (m.off & $2) <> 0)
		OR EXISTS (SELECT 1 FROM tag t WHERE t.repository = r.id AND t.until IS NULL AND (t.off & $2) <> 0)) ORDER BY r.name LIMIT $3`, registry, locked, n)
	return scan(rows, err, func(name *ref.Repository) []any { return []any{name} })
}

// emptyRegistry removes all that a registry has, and tells what that was.
func emptyRegistry(ctx context.Context, tx *db.Tx, registry string, at int64) (t receipt.Tally, err error) {
	const repositories = `(SELECT id FROM repository WHERE registry = $1)`
	const manifests = `(SELECT id FROM manifest WHERE repository IN ` + repositories + `)`
	if err := holdRepositories(ctx, tx, registry, at); err != nil {
		return t, err
	}
	rows, err := tx.Query(ctx, `SELECT digest FROM manifest WHERE repository IN `+repositories, registry)
	digests, err := scan(rows, err, func(d *ref.Digest) []any { return []any{d} })
	if err != nil {
		return t, err
	}
	t.Manifests = len(digests)
	rows, err = tx.Query(ctx, `SELECT digest FROM blob WHERE registry = $1`, registry)
	blobs, err := scan(rows, err, func(d *ref.Digest) []any { return []any{d} })
	if err != nil {
		return t, err
	}
	t.Blobs = len(blobs)
	t.List(append(digests, blobs...))
	err = tx.QueryRow(ctx, `SELECT (SELECT COUNT(*) FROM repository WHERE registry = $1),
		(SELECT COUNT(*) FROM tag WHERE repository IN `+repositories+` AND (until IS NULL OR due IS NOT NULL)),
		(SELECT COUNT(*) FROM upload WHERE registry = $1 AND NOT done),
		(SELECT COUNT(*) FROM part WHERE registry = $1 AND owner IS NOT NULL),
		(SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM part WHERE registry = $1 AND owner IS NOT NULL)`, registry).
		Scan(&t.Repositories, &t.Tags, &t.Uploads, &t.Objects, &t.Bytes)
	if err != nil {
		return t, err
	}
	return t, steps(ctx, tx,
		step{`DELETE FROM tag WHERE repository IN ` + repositories, []any{registry}},
		step{`DELETE FROM needs_blob WHERE manifest IN ` + manifests, []any{registry}},
		step{`DELETE FROM needs_manifest WHERE manifest IN ` + manifests, []any{registry}},
		step{`DELETE FROM referrer WHERE manifest IN ` + manifests, []any{registry}},
		step{`DELETE FROM manifest WHERE repository IN ` + repositories, []any{registry}},
		step{`UPDATE blob SET idle = $2 WHERE registry = $1`, []any{registry, at}}, // before their links, as in a push
		step{`DELETE FROM link WHERE repository IN ` + repositories, []any{registry}},
		step{`DELETE FROM repository WHERE registry = $1`, []any{registry}},
		step{`DELETE FROM blob WHERE registry = $1`, []any{registry}},
		step{`UPDATE part SET owner = NULL, due = $2, secret = NULL WHERE registry = $1 AND owner IS NOT NULL`, []any{registry, at}},
		step{`UPDATE upload SET done = TRUE, hash = NULL, until = expires WHERE registry = $1 AND NOT done`, []any{registry}},
	)
}
