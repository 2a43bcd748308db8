//! What could go wrong at an upgrade, judged from what the agent saw.

use std::collections::{BTreeMap, BTreeSet};

use crate::finding::Finding;
use crate::spec::EngineSpec;

/// What an agent saw of a running engine and of its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// All of `INFO`, by name.
    pub info: BTreeMap<String, String>,
    /// All of `CONFIG GET *`.
    pub config: BTreeMap<String, String>,
    /// Names of the loaded modules.
    pub modules: BTreeSet<String>,
    /// Lines of `ACL LIST`; empty on engines without ACL.
    pub acl: Vec<String>,
    /// Whether what ACL users may is kept in the file; the error of the engine where not.
    pub acl_save: Option<String>,
    /// Types of a sample of keys, with one key of each.
    pub types: BTreeMap<String, String>,
    /// Bytes of all files of the data directory, and of the append-only files among them.
    pub data_bytes: u64,
    pub aof_bytes: u64,
    /// Bytes free on the file system of the volume for an ordinary user.
    pub free_bytes: u64,
    /// Bytes that the volume may still grow by its own limit.
    pub quota_free_bytes: u64,
    /// Whether pre-images take no room for files that are only replaced.
    pub hard_links: bool,
    /// Bytes of memory that the host has available, and that the engine's control group still allows where it has one.
    pub memory_available_bytes: u64,
    pub cgroup_free_bytes: Option<u64>,
    /// Files below data and configuration that the engine's user does not own.
    pub foreign_files: Vec<String>,
}

/// Everything that speaks against going from `from` to `to`, and everything worth knowing, all at once.
pub fn check(_facts: &Facts, _from: &EngineSpec, _to: &EngineSpec) -> Vec<Finding> {
    Vec::new()
}
