-- +goose Up
-- A counter numbers the events of one registry. It is updated in the transaction that adds them, which orders commits: a reader
-- that has seen n has seen everything before n. at never goes back; late (µs) bounds how long an event ever waited for its row.
CREATE TABLE counter (
	registry TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	n        BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	late     BIGINT NOT NULL
);

-- at is when the row was made, so it grows with seq and time ranges need no index of their own.
CREATE TABLE event (
	registry TEXT COLLATE "C" NOT NULL,
	seq      BIGINT NOT NULL,
	at       BIGINT NOT NULL,
	category TEXT COLLATE "C" NOT NULL,
	body     TEXT COLLATE "C" NOT NULL,
	PRIMARY KEY (registry, seq)
);

CREATE TABLE cursor (
	follower TEXT COLLATE "C" NOT NULL,
	registry TEXT COLLATE "C" NOT NULL,
	seq      BIGINT NOT NULL,
	PRIMARY KEY (follower, registry)
);

CREATE TABLE lease (
	name   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	holder TEXT COLLATE "C" NOT NULL,
	until  BIGINT NOT NULL
);
