//! What Coffer knows of MariaDB: pure decisions about values that an agent gathers and acts on.
//!
//! [`path`] says which upgrades work, [`config`] renders the files and says who may what, [`proof`] whether all is there
//! afterwards.

pub mod config;
pub mod path;
pub mod proof;
