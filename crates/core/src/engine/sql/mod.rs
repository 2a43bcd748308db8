//! What Coffer knows of MariaDB and MySQL: pure decisions about values that an agent gathers and acts on.
//!
//! [`parameters`] and [`settings`] say what becomes of configuration.

pub mod parameters;
mod rules;
pub mod settings;
