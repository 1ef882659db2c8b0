-- +goose Up
CREATE TABLE keyring (
    registry TEXT   COLLATE "C" NOT NULL,
    version  BIGINT NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    wrapped  BYTEA  NOT NULL,
    state    TEXT   NOT NULL CHECK (state IN ('current', 'retired')),
    created  BIGINT NOT NULL,
    PRIMARY KEY (registry, version)
);
CREATE UNIQUE INDEX keyring_current ON keyring (registry) WHERE state = 'current';

-- +goose Down
DROP TABLE keyring;
