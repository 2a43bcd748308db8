//! What Coffer knows of Redis and Valkey: pure decisions about values that an agent gathers and acts on.
//!
//! [`path`] says which upgrades work, [`parameters`] and [`settings`] what becomes of configuration, [`config`] and [`acl`]
//! render and read the files, [`checks`] judges what could go wrong beforehand, [`proof`] whether all is there afterwards, [`writes`]
//! how much was written.

pub mod acl;
pub mod checks;
pub mod config;
pub mod parameters;
pub mod path;
pub mod proof;
mod quoting;
pub mod settings;
pub mod writes;
