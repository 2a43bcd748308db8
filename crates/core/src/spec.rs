//! What an agent is to run: a value that says everything, so that starting an engine needs nothing else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::datastore::{Datastore, Number, Version};
use crate::flavor::Flavor;
use crate::id::{Digest, VersionId};

/// Settings by their name in the engine's own configuration. What the tenant or operator asked for, no more: the base
/// and what the agent owns are added when the file is rendered.
pub type Settings = BTreeMap<String, String>;

/// An engine image that is wanted, and where it can be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageWanted {
    pub datastore: Datastore,
    /// The catalogue's name of the version.
    pub version: String,
    /// When it is known, nothing else will do.
    pub digest: Option<Digest>,
    /// The catalogue's entry. Opaque to all but `coffer-image`.
    pub sources: serde_json::Value,
}

/// One engine of one instance: which binary, with which settings, where, and how much of the machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EngineSpec {
    pub version: VersionId,
    pub number: Number,
    pub image: ImageWanted,
    pub settings: Settings,
    pub memory_bytes: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u32,
    pub volume_bytes: u64,
    pub address: IpAddr,
}

impl EngineSpec {
    /// What `version` runs as, on this flavor, volume and address, with these settings.
    pub fn new(version: &Version, flavor: &Flavor, volume_gib: u32, address: IpAddr, settings: Settings) -> Self {
        Self {
            version: version.id,
            number: version.number,
            image: ImageWanted {
                datastore: version.datastore,
                version: version.name.clone(),
                digest: version.image.clone(),
                sources: version.sources.clone(),
            },
            settings,
            memory_bytes: flavor.memory_bytes(),
            cpu_millis: flavor.vcpus * 1000,
            volume_bytes: u64::from(volume_gib) << 30,
            address,
        }
    }

    /// The family of the engine.
    pub fn datastore(&self) -> Datastore {
        self.image.datastore
    }

    /// `redis 7.0.15`: how messages name it.
    pub fn label(&self) -> String {
        format!("{} {}", self.image.datastore, self.number)
    }
}
