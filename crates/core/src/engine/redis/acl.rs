//! Users of Redis 6.0 and later, as they stand in an ACL file.
