//! Which upgrades of Redis and Valkey work in place.

use crate::datastore::Version;
use crate::finding::Finding;

/// Whether `to` can be reached from `from` in one step; if not, why, and by which hops.
pub fn check(_from: &Version, _to: &Version, _catalogue: &[Version]) -> Vec<Finding> {
    Vec::new()
}
