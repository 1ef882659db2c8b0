-- +goose Up
-- The activity log goes through the ledgers of all registries at once, the newest first. Only the control plane's events are in it, so
-- pulls and pushes pay nothing for it.
CREATE INDEX event_activity ON event (at, registry, seq) WHERE category = 'Administrative';
