-- How long clients could not write, of every operation that stopped an engine for another. Kept when the instance is gone.
CREATE TABLE gaps (
    operation_id TEXT NOT NULL PRIMARY KEY REFERENCES operations (id),
    instance_id TEXT NOT NULL,
    project_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    from_engine TEXT NOT NULL, -- such as redis 7.0.15
    to_engine TEXT NOT NULL,
    host TEXT NOT NULL, -- JSON
    data_bytes BIGINT NOT NULL,
    gap_us BIGINT NOT NULL,
    read_gap_us BIGINT,
    measured_at BIGINT NOT NULL
);
CREATE INDEX gaps_of_way ON gaps (from_engine, to_engine, measured_at);
