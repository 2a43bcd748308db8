-- Configuration groups, by the name that the API has for them.
CREATE TABLE configurations (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    description TEXT,
    version_id TEXT NOT NULL REFERENCES versions (id),
    settings TEXT NOT NULL, -- JSON
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX configurations_of_project ON configurations (project_id, id);
-- What an instance was given itself. What it runs with, in `settings`, came from nowhere else so far.
ALTER TABLE instances ADD COLUMN own TEXT NOT NULL DEFAULT '{}'; -- JSON
UPDATE instances SET own = settings;
ALTER TABLE instances ADD COLUMN group_id TEXT REFERENCES configurations (id);
CREATE INDEX instances_of_group ON instances (group_id) WHERE group_id IS NOT NULL;
-- The group that is attached when the operation is done. It may be made then, so it refers to nothing.
ALTER TABLE operations ADD COLUMN group_id TEXT;
