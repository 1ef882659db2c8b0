-- +goose Up
-- A counter numbers the events of one registry. It is updated in the transaction that adds them, which orders commits: a reader
-- that has seen n has seen everything before n. at never goes back; late (µs) bounds how long an event ever waited for its row.
CREATE TABLE counter (
	registry TEXT   NOT NULL PRIMARY KEY,
	n        INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	late     INTEGER NOT NULL
) WITHOUT ROWID, STRICT;

-- at is when the row was made, so it grows with seq and time ranges need no index of their own.
CREATE TABLE event (
	registry TEXT   NOT NULL,
	seq      INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	category TEXT   NOT NULL,
	body     TEXT   NOT NULL,
	PRIMARY KEY (registry, seq)
) WITHOUT ROWID, STRICT;

CREATE TABLE cursor (
	follower TEXT   NOT NULL,
	registry TEXT   NOT NULL,
	seq      INTEGER NOT NULL,
	PRIMARY KEY (follower, registry)
) WITHOUT ROWID, STRICT;

CREATE TABLE lease (
	name   TEXT   NOT NULL PRIMARY KEY,
	holder TEXT   NOT NULL,
	until  INTEGER NOT NULL
) WITHOUT ROWID, STRICT;
