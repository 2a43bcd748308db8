-- Times are microseconds since 1970, ids are text, addresses are numbers; columns that hold JSON say so.

CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL
);

CREATE TABLE roles (
    user_id TEXT NOT NULL REFERENCES users (id),
    project_id TEXT NOT NULL REFERENCES projects (id),
    role TEXT NOT NULL,
    PRIMARY KEY (user_id, project_id, role)
);

-- Only the SHA-256 of a token is kept, so that nobody who reads this table can use one.
CREATE TABLE tokens (
    hash TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    project_id TEXT REFERENCES projects (id),
    issued_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tokens_expiry ON tokens (expires_at);

CREATE TABLE versions (
    id TEXT NOT NULL PRIMARY KEY,
    datastore TEXT NOT NULL,
    name TEXT NOT NULL,
    number TEXT NOT NULL,
    image TEXT,
    active BOOLEAN NOT NULL,
    is_default BOOLEAN NOT NULL,
    sources TEXT NOT NULL, -- JSON
    UNIQUE (datastore, name)
);
CREATE UNIQUE INDEX versions_one_default ON versions (datastore) WHERE is_default;

CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    name TEXT NOT NULL,
    version_id TEXT NOT NULL REFERENCES versions (id),
    flavor TEXT NOT NULL,
    volume_gib BIGINT NOT NULL,
    address BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    settings TEXT NOT NULL, -- JSON
    built BOOLEAN NOT NULL,
    fault TEXT, -- JSON
    desired TEXT, -- JSON: the generation and the engine that the agent is to run
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT
);
CREATE UNIQUE INDEX instances_one_per_address ON instances (address) WHERE deleted_at IS NULL;
CREATE INDEX instances_of_project ON instances (project_id, id) WHERE deleted_at IS NULL;
CREATE INDEX instances_alive ON instances (id) WHERE deleted_at IS NULL;

-- Apart from the instances, because it is written all the time.
CREATE TABLE observed (
    instance_id TEXT NOT NULL PRIMARY KEY REFERENCES instances (id),
    seen TEXT NOT NULL -- JSON
);

CREATE TABLE operations (
    id TEXT NOT NULL PRIMARY KEY,
    instance_id TEXT NOT NULL REFERENCES instances (id),
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    target TEXT,
    plan TEXT NOT NULL, -- JSON
    phase TEXT NOT NULL, -- JSON
    is_open BOOLEAN NOT NULL,
    epoch BIGINT NOT NULL,
    lease_until BIGINT NOT NULL,
    steps TEXT NOT NULL, -- JSON
    findings TEXT NOT NULL, -- JSON
    gap_us BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX operations_one_open ON operations (instance_id) WHERE is_open;
CREATE INDEX operations_of_instance ON operations (instance_id, created_at);

-- What agents answered and the runner has not used yet.
CREATE TABLE task_results (
    operation_id TEXT NOT NULL REFERENCES operations (id),
    task_id TEXT NOT NULL,
    result TEXT NOT NULL, -- JSON
    PRIMARY KEY (operation_id, task_id)
);

CREATE TABLE events (
    instance_id TEXT NOT NULL REFERENCES instances (id),
    at BIGINT NOT NULL,
    id TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (instance_id, at, id)
);
