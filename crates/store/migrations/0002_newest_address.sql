-- The address that was given last is looked up whenever one is given, among all instances that ever were.
CREATE INDEX instances_by_age ON instances (created_at, id);
