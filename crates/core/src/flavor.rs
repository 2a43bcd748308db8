//! Flavors: how much memory and processor an instance is given.

use serde::{Deserialize, Serialize};

use crate::id::FlavorId;

/// A size of instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flavor {
    pub id: FlavorId,
    pub name: String,
    pub ram_mib: u32,
    pub vcpus: u32,
}

impl Flavor {
    /// Memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.ram_mib) << 20
    }
}
