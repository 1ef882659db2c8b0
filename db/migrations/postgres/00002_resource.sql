-- +goose Up
-- id and type are in lower case: ARM compares them so. doc keeps the spelling.
CREATE TABLE resource (
	id   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
	type TEXT COLLATE "C" NOT NULL,
	etag TEXT COLLATE "C" NOT NULL,
	doc  TEXT COLLATE "C" NOT NULL
);
CREATE INDEX resource_type ON resource (type, id);
-- How many changes were committed, for the caches of every node. On SQLite the one process counts them itself.
CREATE TABLE generation (n BIGINT NOT NULL);
INSERT INTO generation (n) VALUES (1);
