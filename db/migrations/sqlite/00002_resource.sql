-- +goose Up
-- id and type are in lower case: ARM compares them so. doc keeps the spelling.
CREATE TABLE resource (
	id   TEXT NOT NULL PRIMARY KEY,
	type TEXT NOT NULL,
	etag TEXT NOT NULL,
	doc  TEXT NOT NULL
) STRICT;
CREATE INDEX resource_type ON resource (type, id);
