-- What clients saw during the gap. Not known of operations from before.
ALTER TABLE operations ADD COLUMN clients TEXT; -- JSON
