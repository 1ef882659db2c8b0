-- +goose Up
-- A repository is there from its first push on. changed is also what a transaction that changes its manifests locks first.
CREATE TABLE repository (
	id       INTEGER PRIMARY KEY,
	registry TEXT    NOT NULL,
	name     TEXT    NOT NULL,
	created  INTEGER NOT NULL,
	changed  INTEGER NOT NULL,
	UNIQUE (registry, name)
) STRICT;

-- bytes owns the parts that the blob is made of. idle is since when perhaps no repository has it; NULL if one has.
CREATE TABLE blob (
	id       INTEGER PRIMARY KEY,
	registry TEXT    NOT NULL,
	digest   TEXT    NOT NULL,
	size     INTEGER NOT NULL,
	bytes    TEXT    NOT NULL,
	idle     INTEGER,
	UNIQUE (registry, digest)
) STRICT;
CREATE INDEX blob_idle ON blob (idle) WHERE idle IS NOT NULL;

-- The name of every object: size bytes, from at on, of its owner (a blob's bytes, or an upload). One without an owner is deleted from due on;
-- as its key is taken here, no late push can give a name to what is gone.
CREATE TABLE part (
	object   TEXT    NOT NULL PRIMARY KEY,
	registry TEXT    NOT NULL,
	owner    TEXT,
	at       INTEGER NOT NULL,
	size     INTEGER NOT NULL,
	due      INTEGER,
	CHECK ((owner IS NULL) = (due IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX part_owner ON part (owner, at) WHERE owner IS NOT NULL;
CREATE INDEX part_due ON part (due) WHERE due IS NOT NULL;

-- The repository has the blob. idle is since when no manifest is known to need it; NULL if one was seen.
CREATE TABLE link (
	repository INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	blob       INTEGER NOT NULL REFERENCES blob (id) ON DELETE RESTRICT,
	idle       INTEGER,
	PRIMARY KEY (blob, repository)
) STRICT, WITHOUT ROWID;

-- sparse: something that it names was not there. body is sealed, and last, so that a look at the rest reads no overflow page.
CREATE TABLE manifest (
	id         INTEGER PRIMARY KEY,
	repository INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	digest     TEXT    NOT NULL,
	type       TEXT    NOT NULL,
	artifact   TEXT    NOT NULL,
	size       INTEGER NOT NULL,
	sparse     INTEGER NOT NULL,
	created    INTEGER NOT NULL,
	body       BLOB    NOT NULL,
	UNIQUE (repository, digest)
) STRICT;

CREATE TABLE needs_blob (
	manifest   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	repository INTEGER NOT NULL,
	blob       INTEGER NOT NULL,
	PRIMARY KEY (manifest, blob),
	FOREIGN KEY (blob, repository) REFERENCES link (blob, repository) ON DELETE RESTRICT
) STRICT, WITHOUT ROWID;
CREATE INDEX needs_blob_link ON needs_blob (blob, repository);

CREATE TABLE needs_manifest (
	manifest INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	child    INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	PRIMARY KEY (manifest, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX needs_manifest_child ON needs_manifest (child);

-- The manifest says that it is about subject, which need not be there. descriptor is what a list of referrers shows.
CREATE TABLE referrer (
	repository INTEGER NOT NULL,
	subject    TEXT    NOT NULL,
	manifest   INTEGER NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	artifact   TEXT    NOT NULL,
	descriptor TEXT    NOT NULL,
	PRIMARY KEY (repository, subject, manifest)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX referrer_manifest ON referrer (manifest);
CREATE INDEX referrer_artifact ON referrer (repository, subject, artifact, manifest);

-- A tag pointed to digest from since until until; the current one has no end, and its manifest cannot go.
CREATE TABLE tag (
	repository INTEGER NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	name       TEXT    NOT NULL,
	since      INTEGER NOT NULL,
	until      INTEGER,
	digest     TEXT    NOT NULL,
	manifest   INTEGER REFERENCES manifest (id) ON DELETE RESTRICT,
	CHECK ((until IS NULL) = (manifest IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX tag_current ON tag (repository, name) WHERE until IS NULL;
CREATE INDEX tag_manifest ON tag (manifest) WHERE manifest IS NOT NULL;

-- A session that has received bytes, or one that is done: it stays until its id has expired, so that it is done once. expires is when the id
-- does; first in the key, so that new rows lie together and old ones are found without an index. until is when the session does.
CREATE TABLE upload (
	expires  INTEGER NOT NULL,
	id       TEXT    NOT NULL,
	registry TEXT    NOT NULL,
	size     INTEGER NOT NULL,
	parts    INTEGER NOT NULL,
	hash     BLOB,
	done     INTEGER NOT NULL,
	until    INTEGER NOT NULL,
	PRIMARY KEY (expires, id)
) STRICT, WITHOUT ROWID;
