//! What becomes of settings of Redis and Valkey.

use crate::datastore::Version;
use crate::engine::{Fate, SettingsChange};
use crate::finding::Finding;
use crate::spec::Settings;

/// What becomes of `settings` on the way from `from` to `to`.
pub fn change(_from: &Version, _to: &Version, settings: &Settings) -> SettingsChange {
    SettingsChange(
        settings.iter().map(|(name, value)| Fate::Kept { name: name.clone(), value: value.clone() }).collect(),
    )
}

/// What is wrong with `settings` on `version`.
pub fn check(_version: &Version, _settings: &Settings) -> Vec<Finding> {
    Vec::new()
}
