-- +goose Up
CREATE TABLE keyring (
    registry TEXT    NOT NULL,
    version  INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    wrapped  BLOB    NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('current', 'retired')),
    created  INTEGER NOT NULL,
    PRIMARY KEY (registry, version)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX keyring_current ON keyring (registry) WHERE state = 'current';

-- +goose Down
DROP TABLE keyring;
