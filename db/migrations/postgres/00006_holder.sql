-- +goose Up
-- holder is whom a document is about: the principal of a role assignment, or that of an account itself. What somebody is assigned, and who somebody is, is found by it, wherever it lies.
ALTER TABLE resource ADD COLUMN holder TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE resource SET holder = lower(doc::json -> 'properties' ->> 'principalId') WHERE type = 'microsoft.authorization/roleassignments';
UPDATE resource SET holder = lower(doc::json -> 'systemData' ->> 'uid') WHERE type = 'breakwater.identity/users';
DELETE FROM resource WHERE type = 'breakwater.access/assigned';
CREATE INDEX resource_holder ON resource (type, holder, id) WHERE holder <> '';
