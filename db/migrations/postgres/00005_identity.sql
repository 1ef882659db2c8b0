-- +goose Up
-- What is known of somebody on the way in, and is forgotten at until (µs): kind is code, device, refresh, assertion … A document would not do:
-- each change of one makes every cache look again. id is made of what the caller shows by a hash, so that the row gives nobody a way in.
CREATE TABLE signin (
	id    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	kind  TEXT COLLATE "C" NOT NULL,
	until BIGINT NOT NULL,
	body  BYTEA NOT NULL
);
CREATE INDEX signin_until ON signin (until);

-- When a credential last proved somebody (µs), to about ten minutes.
CREATE TABLE used (
	credential TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	at         BIGINT NOT NULL
);
CREATE INDEX used_at ON used (at);
