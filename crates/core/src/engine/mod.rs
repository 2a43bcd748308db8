//! What Coffer knows of each datastore: which upgrades work, what becomes of settings, how configuration is rendered,
//! and what its checks look at. All of it pure; agents supply the facts.

pub mod live;
pub mod parameter;
pub mod redis;
pub mod sql;
pub mod written;

use serde::{Deserialize, Serialize};

use crate::datastore::{Datastore, Number, Version};
use crate::finding::Finding;
use crate::spec::Settings;

/// What becomes of one setting at an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "snake_case")]
pub enum Fate {
    /// The same name and value.
    Kept { name: String, value: String },
    /// Another name or value that means the same.
    Translated { name: String, value: String, to_name: String, to_value: String, reason: String },
    /// The target does not know it, and nothing takes its place.
    Dropped { name: String, value: String, reason: String },
    /// Nobody set it, and it is set from now on to what the default was, because the target's would change what clients see.
    Pinned { name: String, value: String, reason: String },
    /// Nobody set it, and the target's default is another one than before.
    DefaultChanged { name: String, before: String, after: String, reason: String },
    /// The target would refuse it, and leaving it out would change what the tenant asked for.
    Refused { name: String, value: String, reason: String },
}

impl Fate {
    /// The setting that it is about, by its name before.
    pub fn name(&self) -> &str {
        match self {
            Self::Kept { name, .. }
            | Self::Translated { name, .. }
            | Self::Dropped { name, .. }
            | Self::Pinned { name, .. }
            | Self::DefaultChanged { name, .. }
            | Self::Refused { name, .. } => name,
        }
    }
}

/// What to do about a default that changes and that clients would feel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Keep what was so: the old default is set from now on.
    #[default]
    Preserve,
    /// Take what the target does.
    Adopt,
}

/// What becomes of all settings at an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SettingsChange(pub Vec<Fate>);

impl SettingsChange {
    /// The settings that the target is started with.
    pub fn after(&self) -> Settings {
        self.0
            .iter()
            .filter_map(|fate| match fate {
                Fate::Kept { name, value } | Fate::Pinned { name, value, .. } => Some((name.clone(), value.clone())),
                Fate::Translated { to_name, to_value, .. } => Some((to_name.clone(), to_value.clone())),
                Fate::Dropped { .. } | Fate::DefaultChanged { .. } | Fate::Refused { .. } => None,
            })
            .collect()
    }

    /// What the reader of the plan should know of it: what is refused as errors, what is dropped as warnings.
    pub fn findings(&self) -> Vec<Finding> {
        self.0
            .iter()
            .filter_map(|fate| match fate {
                Fate::Refused { name, reason, .. } => Some(Finding::error(
                    "settings.refused",
                    format!("setting {name}"),
                    reason.clone(),
                    "change or remove it first",
                )),
                Fate::Dropped { name, reason, .. } => {
                    Some(Finding::warning("settings.dropped", format!("setting {name}"), reason.clone(), ""))
                }
                Fate::Kept { .. } | Fate::Translated { .. } | Fate::Pinned { .. } | Fate::DefaultChanged { .. } => None,
            })
            .collect()
    }
}

/// Whether `to` can be reached from `from` in one step; if not, why, and by which hops.
pub fn check_path(from: &Version, to: &Version, catalogue: &[Version]) -> Vec<Finding> {
    match from.datastore {
        Datastore::Redis | Datastore::Valkey => redis::path::check(from, to, catalogue),
        Datastore::Mysql | Datastore::Mariadb => sql::path::check(from, to, catalogue),
    }
}

/// Whether two engines work on each other's data as they are, so that a way back between them needs no pre-image and loses
/// nothing. Only what was measured.
pub fn shares_data(a: (Datastore, Number), b: (Datastore, Number)) -> bool {
    match a.0 {
        Datastore::Redis | Datastore::Valkey => {
            redis::path::data_format(a.0, a.1) == redis::path::data_format(b.0, b.1)
        }
        Datastore::Mysql | Datastore::Mariadb => {
            let format = sql::path::data_format(a.0, a.1);
            a.0 == b.0 && format.is_some() && format == sql::path::data_format(b.0, b.1)
        }
    }
}

/// Whether the values of this setting are nobody's to be told, or to be kept beside the engine.
pub fn is_secret(datastore: Datastore, name: &str) -> bool {
    match datastore {
        Datastore::Redis | Datastore::Valkey => redis::config::is_secret(name),
        Datastore::Mysql | Datastore::Mariadb => false,
    }
}

/// Whether the measures around a stop change this setting for a while.
pub fn is_measured(datastore: Datastore, name: &str) -> bool {
    match datastore {
        Datastore::Redis | Datastore::Valkey => redis::config::is_held(name),
        Datastore::Mysql | Datastore::Mariadb => sql::config::is_held(name),
    }
}

/// What the reader of any upgrade's plan may look for in vain.
pub fn upgrade_note(datastore: Datastore) -> Option<&'static str> {
    match datastore {
        Datastore::Redis | Datastore::Valkey => None,
        Datastore::Mysql | Datastore::Mariadb => {
            Some("it keeps no binary log: nobody follows it, and no position of one is recorded")
        }
    }
}

/// What becomes of `settings` on the way from `from` to `to`. Redis has no default that would have to be pinned.
pub fn change_settings(from: &Version, to: &Version, settings: &Settings, policy: Policy) -> SettingsChange {
    match from.datastore {
        Datastore::Redis | Datastore::Valkey => redis::settings::change(from, to, settings),
        Datastore::Mysql | Datastore::Mariadb => sql::settings::change(from, to, settings, policy),
    }
}

/// What is wrong with `settings` on `version`: unknown names, names the agent owns, values out of range.
pub fn check_settings(version: &Version, settings: &Settings) -> Vec<Finding> {
    match version.datastore {
        Datastore::Redis | Datastore::Valkey => redis::settings::check(version, settings),
        Datastore::Mysql | Datastore::Mariadb => sql::settings::check(version, settings),
    }
}

#[cfg(test)]
mod tests {
    use super::shares_data;
    use crate::datastore::Version;

    #[test]
    fn data_are_shared_where_it_was_measured_and_nowhere_else() {
        let of = |label: &str| {
            let version = Version::labelled(label);
            (version.datastore, version.number)
        };
        for (a, b, shared) in [
            ("redis 8.0.2", "redis 8.0.6", true),
            ("redis 7.4.1", "redis 8.0.2", false),
            ("redis 8.0.6", "redis 8.2.3", false),
            ("redis 7.0.14", "redis 7.0.15", true),
            ("redis 7.0.15", "redis 8.0.2", false),
            ("redis 8.2.3", "redis 8.6.3", false),
            ("redis 6.0.16", "redis 6.2.14", false),
            ("valkey 8.0.1", "valkey 8.1.1", true),
            ("valkey 9.0.0", "valkey 9.1.2", true),
            ("valkey 8.1.1", "valkey 9.1.2", false),
            ("redis 8.0.2", "valkey 8.0.2", false),
            ("mariadb 11.8.6", "mariadb 11.8.9", true),
            ("mariadb 10.11.18", "mariadb 10.11.19", true),
            ("mariadb 10.5.23", "mariadb 10.5.29", false),
            ("mariadb 10.11.19", "mariadb 11.8.6", false),
            ("mysql 9.7.2", "mysql 9.7.4", true),
            ("mysql 8.4.1", "mysql 8.4.9", false),
        ] {
            assert_eq!(shares_data(of(a), of(b)), shared, "{a} and {b}");
            assert_eq!(shares_data(of(b), of(a)), shared, "{b} and {a}");
        }
    }
}
