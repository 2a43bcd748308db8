//! What Coffer knows of MariaDB and MySQL: pure decisions about values that an agent gathers and acts on.
//!
//! [`path`] says which upgrades work, [`parameters`] and [`settings`] what becomes of configuration, [`config`] renders the files
//! and says who may what, [`accounts`] which databases and accounts tenants may have, [`quoting`] writes statements, [`proof`] whether all is
//! there afterwards, [`checks`] what speaks against an upgrade, from [`facts`] and
//! from what [`features`] come and go, [`writes`] how much was written. What the two have otherwise is in [`dialect`].

pub mod accounts;
pub mod checks;
pub mod config;
pub mod dialect;
pub mod facts;
pub mod features;
pub mod in_force;
pub mod parameters;
pub mod path;
pub mod proof;
pub mod quoting;
mod rules;
pub mod settings;
mod words;
pub mod writes;
