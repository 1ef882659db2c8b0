-- +goose Up
-- off is what may not be done with a thing, in bits (content.Off): 1 delete, 2 write, 4 list, 8 read; 16: the manifest, or that of the tag, is in quarantine.
-- deleted is since when it is in the trash, due until when it can be restored; both NULL while it is not there.
ALTER TABLE repository ADD COLUMN off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository ADD COLUMN deleted INTEGER;

-- total: bytes of it and of all that it names. config: media type of its config, which says architecture and os. untagged: since when no tag points to it.
-- The body is moved to the end again: a look at the rest reads no overflow page.
ALTER TABLE manifest ADD COLUMN off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE manifest ADD COLUMN deleted INTEGER;
ALTER TABLE manifest ADD COLUMN due INTEGER;
ALTER TABLE manifest ADD COLUMN untagged INTEGER;
ALTER TABLE manifest ADD COLUMN total INTEGER NOT NULL DEFAULT 0;
ALTER TABLE manifest ADD COLUMN config TEXT NOT NULL DEFAULT '';
ALTER TABLE manifest ADD COLUMN architecture TEXT NOT NULL DEFAULT '';
ALTER TABLE manifest ADD COLUMN os TEXT NOT NULL DEFAULT '';
ALTER TABLE manifest ADD COLUMN quarantine TEXT NOT NULL DEFAULT '';
ALTER TABLE manifest ADD COLUMN quarantine_details TEXT NOT NULL DEFAULT '';
ALTER TABLE manifest ADD COLUMN sealed BLOB NOT NULL DEFAULT x'';
UPDATE manifest SET sealed = body,
	total = size + (SELECT COALESCE(SUM(b.size), 0) FROM needs_blob n JOIN blob b ON b.id = n.blob WHERE n.manifest = manifest.id),
	untagged = CASE WHEN EXISTS (SELECT 1 FROM tag t WHERE t.manifest = manifest.id) THEN NULL ELSE created END;
ALTER TABLE manifest DROP COLUMN body;
ALTER TABLE manifest RENAME COLUMN sealed TO body;
CREATE INDEX manifest_created ON manifest (repository, created, digest);
CREATE INDEX manifest_untagged ON manifest (untagged) WHERE untagged IS NOT NULL;
CREATE INDEX manifest_due ON manifest (due) WHERE due IS NOT NULL;
CREATE INDEX manifest_deleted ON manifest (repository, deleted) WHERE deleted IS NOT NULL;

-- created: when there first was a tag of this name. due: an ended tag that can be restored.
ALTER TABLE tag ADD COLUMN off INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tag ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tag ADD COLUMN due INTEGER;
UPDATE tag SET created = since;
CREATE INDEX tag_since ON tag (repository, since, name) WHERE until IS NULL;
CREATE INDEX tag_due ON tag (due) WHERE due IS NOT NULL;
CREATE INDEX tag_deleted ON tag (repository, name) WHERE due IS NOT NULL;

CREATE INDEX link_repository ON link (repository);
CREATE INDEX repository_deleted ON repository (deleted) WHERE deleted IS NOT NULL;
