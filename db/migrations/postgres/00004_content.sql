-- +goose Up
-- A repository is there from its first push on. changed is also what a transaction that changes its manifests locks first.
CREATE TABLE repository (
	id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	registry TEXT COLLATE "C" NOT NULL,
	name     TEXT COLLATE "C" NOT NULL,
	created  BIGINT NOT NULL,
	changed  BIGINT NOT NULL,
	UNIQUE (registry, name)
);

-- bytes owns the parts that the blob is made of. idle is since when perhaps no repository has it; NULL if one has.
CREATE TABLE blob (
	id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	registry TEXT COLLATE "C" NOT NULL,
	digest   TEXT COLLATE "C" NOT NULL,
	size     BIGINT NOT NULL,
	bytes    TEXT COLLATE "C" NOT NULL,
	idle     BIGINT,
	UNIQUE (registry, digest)
);
CREATE INDEX blob_idle ON blob (idle) WHERE idle IS NOT NULL;

-- The name of every object: size bytes, from at on, of its owner (a blob's bytes, or an upload). One without an owner is deleted from due on;
-- as its key is taken here, no late push can give a name to what is gone.
CREATE TABLE part (
	object   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	registry TEXT COLLATE "C" NOT NULL,
	owner    TEXT COLLATE "C",
	at       BIGINT NOT NULL,
	size     BIGINT NOT NULL,
	due      BIGINT,
	CHECK ((owner IS NULL) = (due IS NOT NULL))
);
CREATE UNIQUE INDEX part_owner ON part (owner, at) WHERE owner IS NOT NULL;
CREATE INDEX part_due ON part (due) WHERE due IS NOT NULL;

-- The repository has the blob. idle is since when no manifest is known to need it; NULL if one was seen.
CREATE TABLE link (
	repository BIGINT NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	blob       BIGINT NOT NULL REFERENCES blob (id) ON DELETE RESTRICT,
	idle       BIGINT,
	PRIMARY KEY (blob, repository)
);

-- sparse: something that it names was not there. body is sealed, and last, so that a look at the rest reads no overflow page.
CREATE TABLE manifest (
	id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	repository BIGINT NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	digest     TEXT COLLATE "C" NOT NULL,
	type       TEXT COLLATE "C" NOT NULL,
	artifact   TEXT COLLATE "C" NOT NULL,
	size       BIGINT NOT NULL,
	sparse     BOOLEAN NOT NULL,
	created    BIGINT NOT NULL,
	body       BYTEA  NOT NULL,
	UNIQUE (repository, digest)
);

CREATE TABLE needs_blob (
	manifest   BIGINT NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	repository BIGINT NOT NULL,
	blob       BIGINT NOT NULL,
	PRIMARY KEY (manifest, blob),
	FOREIGN KEY (blob, repository) REFERENCES link (blob, repository) ON DELETE RESTRICT
);
CREATE INDEX needs_blob_link ON needs_blob (blob, repository);

CREATE TABLE needs_manifest (
	manifest BIGINT NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	child    BIGINT NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	PRIMARY KEY (manifest, child)
);
CREATE INDEX needs_manifest_child ON needs_manifest (child);

-- The manifest says that it is about subject, which need not be there. descriptor is what a list of referrers shows.
CREATE TABLE referrer (
	repository BIGINT NOT NULL,
	subject    TEXT COLLATE "C" NOT NULL,
	manifest   BIGINT NOT NULL REFERENCES manifest (id) ON DELETE RESTRICT,
	artifact   TEXT COLLATE "C" NOT NULL,
	descriptor TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (repository, subject, manifest)
);
CREATE UNIQUE INDEX referrer_manifest ON referrer (manifest);
CREATE INDEX referrer_artifact ON referrer (repository, subject, artifact, manifest);

-- A tag pointed to digest from since until until; the current one has no end, and its manifest cannot go.
CREATE TABLE tag (
	repository BIGINT NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
	name       TEXT COLLATE "C" NOT NULL,
	since      BIGINT NOT NULL,
	until      BIGINT,
	digest     TEXT COLLATE "C" NOT NULL,
	manifest   BIGINT REFERENCES manifest (id) ON DELETE RESTRICT,
	CHECK ((until IS NULL) = (manifest IS NOT NULL))
);
CREATE UNIQUE INDEX tag_current ON tag (repository, name) WHERE until IS NULL;
CREATE INDEX tag_manifest ON tag (manifest) WHERE manifest IS NOT NULL;

-- A session that has received bytes, or one that is done: it stays until its id has expired, so that it is done once. expires is when the id
-- does; first in the key, so that new rows lie together and old ones are found without an index. until is when the session does.
CREATE TABLE upload (
	expires  BIGINT NOT NULL,
	id       TEXT COLLATE "C" NOT NULL,
	registry TEXT COLLATE "C" NOT NULL,
	size     BIGINT NOT NULL,
	parts    BIGINT NOT NULL,
	hash     BYTEA,
	done     BOOLEAN NOT NULL,
	until    BIGINT NOT NULL,
	PRIMARY KEY (expires, id)
);
