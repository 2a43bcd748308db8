-- Of an IPv6 address `address` is the last 32 bits, and this is what comes before; of an IPv4 address it is empty.
ALTER TABLE instances ADD COLUMN network TEXT NOT NULL DEFAULT '';
DROP INDEX instances_one_per_address;
CREATE UNIQUE INDEX instances_one_per_address ON instances (network, address) WHERE deleted_at IS NULL;
