//! Settings that a running engine takes: which they are, and in which words it is told.

use super::redis::config::Config;
use super::redis::parameters as redis;
use super::sql::config::{self, literal};
use super::sql::parameters::{self as sql, Kind};
use super::sql::settings::integer;
use crate::datastore::{Datastore, Number};
use crate::group::differences;
use crate::spec::EngineSpec;

/// Settings of Redis and Valkey that no running engine takes. That every other is taken by every engine of the table was
/// tried by `engines/generate-redis-parameters --live`.
const RESTART: &[&str] = &[
    "always-show-logo",
    "aof-rewrite-cpulist",
    "aof_rewrite_cpulist",
    "bgsave-cpulist",
    "bgsave_cpulist",
    "bio-cpulist",
    "bio_cpulist",
    "cluster-databases",
    "cluster-port",
    "databases",
    "disable-thp",
    "hash-seed",
    "io-threads",
    "io-threads-do-reads",
    "mptcp",
    "rdbchecksum",
    "repl-mptcp",
    "server-cpulist",
    "server_cpulist",
    "set-proc-title",
    "tcp-backlog",
];

/// Settings of MariaDB and MySQL for which a statement's DEFAULT is what the engine was started with, so that no statement
/// takes them back to where they were before anybody said anything.
const DEFAULT_IS_START: &[&str] = &[
    "character_set_filesystem",
    "character_set_server",
    "collation_server",
    "default_storage_engine",
    "default_tmp_storage_engine",
    "enforce_storage_engine",
    "lc_messages",
    "lc_time_names",
];

/// One setting that is told to a running engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub name: String,
    /// The value for people; `None` where the default is to hold again.
    pub value: Option<String>,
    /// The value as the engine is told it: a word of its protocol, or an expression of SQL.
    pub to: String,
    /// The same of the value before.
    pub back: String,
}

/// Whether a running engine takes another value of this setting.
pub fn is_live(datastore: Datastore, number: Number, name: &str) -> bool {
    match datastore {
        Datastore::Redis | Datastore::Valkey => {
            !RESTART.contains(&name) && redis::of(datastore, number, name).is_some_and(|p| p.default.is_some())
        }
        Datastore::Mysql | Datastore::Mariadb => {
            !DEFAULT_IS_START.contains(&name) && sql::of(datastore, number, name).is_some_and(|p| p.dynamic)
        }
    }
}

/// What a running engine is told so that it goes on with the settings of `to` in the place of those of `from`, of the same
/// version. All differences have to be such that it takes live.
pub fn changes(from: &EngineSpec, to: &EngineSpec) -> Vec<Change> {
    let told = |spec: &EngineSpec, name: &str| match spec.datastore() {
        Datastore::Redis | Datastore::Valkey => word(spec, name),
        Datastore::Mysql | Datastore::Mariadb => Some(expression(spec, name)),
    };
    let names = differences(&from.settings, &to.settings).into_iter();
    names
        .filter_map(|name| {
            let (to_value, back) = (told(to, &name)?, told(from, &name)?);
            Some(Change { value: to.settings.get(&name).cloned(), name, to: to_value, back })
        })
        .collect()
}

/// What the file would say, or else what holds where it says nothing. `None` where nothing does.
fn word(spec: &EngineSpec, name: &str) -> Option<String> {
    let default = || redis::of(spec.datastore(), spec.number, name)?.default.map(str::to_owned);
    Config::of(spec, None).value(name).or_else(default)
}

fn expression(spec: &EngineSpec, name: &str) -> String {
    let Some(value) = spec.settings.get(name).cloned().or_else(|| config::told(spec, name)) else {
        return "DEFAULT".to_owned();
    };
    let kind = sql::of(spec.datastore(), spec.number, name).map(|parameter| &parameter.kind);
    match kind {
        // Statements take no suffix.
        Some(Kind::Integer { .. }) => integer(&value).map_or_else(|| literal(value.as_bytes()), |n| n.to_string()),
        Some(Kind::Float { .. }) if value.parse::<f64>().is_ok() => value,
        // As a number it is a place among words, or a bit each; in quotes it would be a word.
        Some(Kind::Boolean | Kind::Enum(_) | Kind::Set(_) | Kind::Flags(_)) if is_digits(&value) => value,
        // A file says what is another way than the default; a statement, what is another way than before.
        Some(Kind::Flags(_)) => literal(format!("default,{value}").as_bytes()),
        _ => literal(value.as_bytes()),
    }
}

fn is_digits(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{Change, changes};
    use crate::datastore::Version;
    use crate::flavor::Flavor;
    use crate::id::FlavorId;
    use crate::spec::{EngineSpec, Settings};

    fn told(label: &str, from: &[(&str, &str)], to: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let settings = |pairs: &[(&str, &str)]| -> Settings {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let flavor = Flavor { id: FlavorId::from("1"), name: "small".to_owned(), ram_mib: 512, vcpus: 1 };
        let version = Version::labelled(label);
        let spec = |pairs| EngineSpec::new(&version, &flavor, 1, [127, 20, 0, 5].into(), settings(pairs));
        let all = changes(&spec(from), &spec(to)).into_iter();
        all.map(|Change { name, to, back, .. }| (name, to, back)).collect()
    }

    #[test]
    fn a_running_engine_is_told_in_its_own_words() {
        let hex = |text: &str| super::literal(text.as_bytes());
        for (label, name, from, to, told_to, told_back) in [
            ("redis 7.0.15", "timeout", None, Some("5"), "5".to_owned(), "0".to_owned()),
            ("redis 7.0.15", "maxmemory", Some("1gb"), None, "402653184".to_owned(), "1gb".to_owned()),
            ("redis 7.0.15", "save", Some(""), Some("60 1"), "60 1".to_owned(), String::new()),
            ("mariadb 10.11.19", "max_connections", None, Some("2K"), "2048".to_owned(), "256".to_owned()),
            ("mariadb 10.11.19", "sort_buffer_size", Some("1M"), None, "DEFAULT".to_owned(), "1048576".to_owned()),
            ("mariadb 10.11.19", "slow_query_log", None, Some("ON"), hex("ON"), "DEFAULT".to_owned()),
            ("mariadb 10.11.19", "optimizer_switch", None, Some("mrr=on"), hex("default,mrr=on"), "DEFAULT".to_owned()),
            ("mysql 9.7.4", "event_scheduler", Some("OFF"), None, hex("ON"), hex("OFF")),
            ("mariadb 10.11.19", "event_scheduler", Some("ON"), None, hex("OFF"), hex("ON")),
            ("mariadb 10.11.19", "binlog_format", Some("1"), Some("ROW"), hex("ROW"), "1".to_owned()),
        ] {
            let pair = |value: Option<&'static str>| value.map(|value| (name, value)).into_iter().collect::<Vec<_>>();
            let found = told(label, &pair(from), &pair(to));
            assert_eq!(found, [(name.to_owned(), told_to, told_back)], "{label} {name}");
        }
    }
}
