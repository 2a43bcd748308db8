//! What Coffer knows of MariaDB and MySQL: pure decisions about values that an agent gathers and acts on.
//!
//! [`path`] says which upgrades work, [`parameters`] and [`settings`] what becomes of configuration, [`config`] renders the files
//! and says who may what, [`proof`] whether all is there afterwards. What the two have otherwise is in [`dialect`].

pub mod config;
pub mod dialect;
pub mod in_force;
pub mod parameters;
pub mod path;
pub mod proof;
mod rules;
pub mod settings;
