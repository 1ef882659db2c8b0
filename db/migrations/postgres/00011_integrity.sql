-- +goose Up
-- proof: sealed, of which objects the blob is made, in which order; NULL until somebody has read all of it and found it whole.
-- damaged: since when it is known that the bytes are not what was stored; NULL while nobody has found so. (Of a manifest a bit of off, 32, says it.)
ALTER TABLE blob ADD COLUMN proof BYTEA;
ALTER TABLE blob ADD COLUMN damaged BIGINT;
CREATE INDEX blob_damaged ON blob (damaged) WHERE damaged IS NOT NULL;

-- hash is sealed from here on; sessions that are under way begin anew.
UPDATE upload SET until = 0 WHERE NOT done;
