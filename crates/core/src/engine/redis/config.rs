//! The configuration file.

use serde::{Deserialize, Serialize};

use crate::spec::EngineSpec;

/// How an engine keeps its data on disk: the settings that are changed for a while around a stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistence {
    pub appendonly: bool,
    /// Save points in the words of `CONFIG GET save`; empty: none.
    pub save: String,
    pub auto_aof_rewrite_percentage: String,
}

impl Persistence {
    /// What the configuration of this engine asks for.
    pub fn configured(_spec: &EngineSpec) -> Self {
        Self::default()
    }
}
