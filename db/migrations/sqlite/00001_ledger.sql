-- +goose Up
-- A counter numbers the events of one registry. It is updated in the transaction that adds them, which orders commits: a reader
-- that has seen n has seen everything before n. at never goes back; late is the longest an event had waited for its row (µs).
CREATE TABLE counter (
	registry TEXT   NOT NULL PRIMARY KEY,
	n        BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	late     BIGINT NOT NULL
) WITHOUT ROWID;

-- at is when the row was made, so it grows with seq and time ranges need no index of their own.
CREATE TABLE event (
	registry TEXT   NOT NULL,
	seq      BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	category TEXT   NOT NULL,
	body     TEXT   NOT NULL,
	PRIMARY KEY (registry, seq)
) WITHOUT ROWID;

CREATE TABLE cursor (
	follower TEXT   NOT NULL,
	registry TEXT   NOT NULL,
	seq      BIGINT NOT NULL,
	PRIMARY KEY (follower, registry)
) WITHOUT ROWID;

CREATE TABLE lease (
	name   TEXT   NOT NULL PRIMARY KEY,
	holder TEXT   NOT NULL,
	until  BIGINT NOT NULL
) WITHOUT ROWID;
