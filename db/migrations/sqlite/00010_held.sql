-- +goose Up
-- Who holds the key that a registry's data key is wrapped with beside the platform's: a key of a customer, as JSON; '' for nobody.
ALTER TABLE keyring ADD COLUMN held TEXT NOT NULL DEFAULT '';

-- +goose Down
ALTER TABLE keyring DROP COLUMN held;
