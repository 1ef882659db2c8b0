-- +goose Up
-- secret: what the key of the object takes beside the data key, and what lies nowhere else; NULL for an object from before there were any, and once it is given up.
ALTER TABLE part ADD COLUMN secret BLOB;

-- repository: where the upload was begun, so that an erase finds it; those that are under way and do not say it begin anew.
ALTER TABLE upload ADD COLUMN repository TEXT NOT NULL DEFAULT '';
UPDATE upload SET until = 0 WHERE NOT done;
