//! What Coffer knows of Redis and Valkey.

pub mod path;
pub mod settings;
