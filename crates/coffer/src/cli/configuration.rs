//! The arguments of `coffer configuration ...`

use clap::{Args, Subcommand};

use super::setting;

#[derive(Debug, Subcommand)]
pub(crate) enum Configuration {
    /// List the configuration groups of the project.
    #[command(after_help = "Example:\n  coffer configuration list")]
    List,
    /// Show one group with its values.
    #[command(after_help = "Example:\n  coffer configuration show cache")]
    Show {
        /// The group's id or name.
        group: String,
    },
    Create(Create),
    /// Give a group other values, and with it all instances that have it.
    ///
    /// Running engines take what can be changed live at once; for the rest an instance becomes RESTART_REQUIRED until it is
    /// restarted.
    #[command(after_help = "Example:\n  coffer configuration set cache maxmemory-policy=allkeys-lfu timeout=60")]
    Set {
        /// The group's id or name.
        group: String,
        /// Settings in the engine's own words.
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = setting)]
        values: Vec<(String, String)>,
    },
    /// Take values away from a group: the defaults hold again.
    #[command(after_help = "Example:\n  coffer configuration unset cache timeout")]
    Unset {
        /// The group's id or name.
        group: String,
        /// Names of settings.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Delete groups that no instance has.
    #[command(after_help = "Example:\n  coffer configuration delete cache")]
    Delete {
        /// Ids or names.
        #[arg(required = true, value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// List the instances that have a group.
    #[command(after_help = "Example:\n  coffer configuration instances cache")]
    Instances {
        /// The group's id or name.
        group: String,
    },
    /// Give an instance a group. Its engine takes at once what can be changed live.
    #[command(after_help = "Example:\n  coffer configuration attach redis_test cache")]
    Attach {
        /// The instance's id or name.
        instance: String,
        /// The group's id or name.
        group: String,
    },
    /// Take the group away from an instance: what it was given itself, and the defaults, hold again.
    #[command(after_help = "Example:\n  coffer configuration detach redis_test")]
    Detach {
        /// The instance's id or name.
        instance: String,
    },
    /// List the settings that a version takes, and which of them need a restart.
    #[command(
        after_help = "Examples:\n  coffer configuration parameters redis 7.0.15\n  coffer configuration parameters mariadb 10.11.19 max_connections"
    )]
    Parameters {
        /// The datastore's name or id.
        datastore: String,
        /// The version's name or id.
        version: String,
        /// Only this one.
        parameter: Option<String>,
    },
}

/// Create a configuration group: settings under a name, for as many instances of one datastore version as you like.
///
/// When an instance is upgraded, its group is migrated with it to a group of the new version; the old one stays.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  coffer configuration create cache --datastore redis --datastore-version 7.0.15 --set maxmemory-policy=allkeys-lru")]
pub(crate) struct Create {
    pub name: String,
    /// The datastore's name or id; the server's default unless given.
    #[arg(long, value_name = "NAME")]
    pub datastore: Option<String>,
    /// The version's name or id; the datastore's default unless given.
    #[arg(long, value_name = "VERSION")]
    pub datastore_version: Option<String>,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A setting in the engine's own words. May be given more than once.
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    pub values: Vec<(String, String)>,
}
