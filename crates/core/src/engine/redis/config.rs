//! The configuration file: what is in it, how it is written and read, and whether it is in force.
//!
//! A file is rendered from a spec as a whole: the base (from flavor and version), what the tenant asked for, and what the
//! agent owns. Only directives that the version knows are in it. Nothing is ever edited in place.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::parameters;
use super::quoting::{push_quoted, split_words};
use crate::spec::EngineSpec;

/// Where an engine finds its things inside its sandbox.
pub const DATA: &str = "/data";
pub const CONFIG_FILE: &str = "/conf/redis.conf";
pub const ACL_FILE: &str = "/conf/users.acl";
pub const SOCKET: &str = "/run/redis.sock";

/// The file names in [`DATA`], which never change, so that an upgrade never has to look for them.
pub const RDB: &str = "dump.rdb";
pub const AOF: &str = "appendonly.aof";
pub const AOF_DIR: &str = "appendonlydir";

/// Directives that only the agent sets. A tenant who could would reach beyond the instance, or break a promise.
pub const OWNED: &[&str] = &[
    "aclfile",
    "acllog-max-len",
    "always-show-logo",
    "appenddirname",
    "appendfilename",
    "aof_rewrite_cpulist",
    "bind",
    "bind-source-addr",
    "cluster-enabled",
    "cluster-config-file",
    "daemonize",
    "dbfilename",
    "dir",
    "enable-debug-command",
    "enable-module-command",
    "enable-protected-configs",
    "include",
    "loadmodule",
    "logfile",
    "masterauth",
    "masteruser",
    "pidfile",
    "port",
    "primaryauth",
    "primaryuser",
    "protected-mode",
    "rdma-bind",
    "rdma-port",
    "rename-command",
    "replicaof",
    "requirepass",
    "slaveof",
    "socket-mark-id",
    "supervised",
    "syslog-enabled",
    "syslog-facility",
    "syslog-ident",
    "unixsocket",
    "unixsocketgroup",
    "unixsocketperm",
    "user",
];
/// Beginnings of names that are all the agent's.
pub const OWNED_PREFIXES: &[&str] = &["tls-", "cluster-announce-", "rdma-"];

/// Directives that are other than configured while an engine is closed or measures are in force.
const HELD: &[&str] = &["appendonly", "auto-aof-rewrite-percentage", "hz", "maxmemory", "port", "save"];
/// Directives whose value is several words, or several groups of words.
const WORDS: &[&str] = &["bind", "latency-tracking-info-percentiles", "oom-score-adj-values"];
/// Directives of which each group of so many words stands on a line of its own, which every version takes.
const GROUPS: &[(&str, usize)] = &[("save", 2), ("client-output-buffer-limit", 4)];
/// Directives whose value must not be told.
const SECRET: &[&str] = &["requirepass", "masterauth", "primaryauth", "tls-key-file-pass", "tls-client-key-file-pass"];

/// Whether the value of this directive must not be told.
pub(crate) fn is_secret(name: &str) -> bool {
    SECRET.contains(&name)
}

/// Whether measures change this directive for a while.
pub(crate) fn is_held(name: &str) -> bool {
    HELD.contains(&name)
}

/// Whether only the agent sets this directive.
pub fn is_owned(name: &str) -> bool {
    OWNED.contains(&name) || OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// One line: a name and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    pub name: String,
    pub words: Vec<String>,
}

/// A configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config(pub Vec<Directive>);

/// Why a text is not a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the configuration has unbalanced quotes or is not UTF-8")]
pub struct BadConfig {
    pub line: usize,
}

impl Config {
    /// What this engine is started with. `password` is for engines without users, before 6.0.
    pub fn of(spec: &EngineSpec, password: Option<&str>) -> Self {
        let mut config = Self::default();
        let mut settings: BTreeMap<&str, String> = base(spec).into_iter().collect();
        settings.extend(spec.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        for (name, value) in settings.iter().filter(|(name, _)| !is_owned(name)) {
            for words in split_value(name, value) {
                config.push(name, words);
            }
        }
        for (name, value) in owned(spec) {
            config.push(name, vec![value]);
        }
        if let Some(password) = password {
            config.push("requirepass", vec![password.to_owned()]);
        }
        config
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        self.0.iter().fold(String::new(), |mut text, directive| {
            text.push_str(&directive.name);
            for word in &directive.words {
                text.push(' ');
                push_quoted(&mut text, word);
            }
            text.push('\n');
            text
        })
    }

    /// Reads the text of a file, as the engine does.
    pub fn parse(text: &str) -> Result<Self, BadConfig> {
        let mut config = Self::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = split_words(line).ok_or(BadConfig { line: at + 1 })?;
            if !words.is_empty() {
                let name = words.remove(0).to_ascii_lowercase();
                config.push(&name, words);
            }
        }
        Ok(config)
    }

    /// Where an engine's `CONFIG GET *` says otherwise, by name: what was wanted, and what is. Secrets are left out. While
    /// `held`, so are the directives that measures change for a while.
    pub fn deviations(&self, actual: &BTreeMap<String, String>, held: bool) -> BTreeMap<String, (String, String)> {
        let names: BTreeSet<&str> = self.0.iter().map(|d| d.name.as_str()).collect();
        let mut found = BTreeMap::new();
        for name in names {
            let Some(is) = actual.get(name) else { continue };
            if is_secret(name) || (held && is_held(name)) {
                continue;
            }
            let wanted = self.value(name).unwrap_or_default();
            if !means_the_same(name, &wanted, is) {
                found.insert(name.to_owned(), (wanted, is.clone()));
            }
        }
        found
    }

    /// All words of a directive, over all its lines; `None` where it is not in the file.
    pub fn value(&self, name: &str) -> Option<String> {
        let mut lines = self.0.iter().filter(|d| d.name == name).peekable();
        lines.peek()?;
        Some(lines.flat_map(|d| d.words.iter().map(String::as_str)).collect::<Vec<_>>().join(" "))
    }

    fn push(&mut self, name: &str, words: Vec<String>) {
        self.0.push(Directive { name: name.to_owned(), words });
    }
}

/// How an engine keeps its data on disk: the settings that are changed for a while around a stop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persistence {
    pub appendonly: bool,
    /// Save points in the words of `CONFIG GET save`; empty: none.
    pub save: String,
    pub auto_aof_rewrite_percentage: String,
    /// How often a second it looks whether it was told to end, among other things.
    pub hz: String,
}

impl Persistence {
    /// What the configuration of this engine asks for.
    pub fn configured(spec: &EngineSpec) -> Self {
        let config = Config::of(spec, None);
        let value = |name| {
            let default = || parameters::of(spec.datastore(), spec.number, name).and_then(|p| p.default);
            config.value(name).unwrap_or_else(|| default().unwrap_or_default().to_owned())
        };
        Self {
            appendonly: value("appendonly").eq_ignore_ascii_case("yes"),
            save: value("save"),
            auto_aof_rewrite_percentage: value("auto-aof-rewrite-percentage"),
            hz: value("hz"),
        }
    }
}

/// How much of the flavor's memory is for data, in bytes: three quarters. The rest is for what is written while a
/// snapshot is taken, which is copied page by page, for buffers of clients and of the append-only file, and for
/// fragmentation. An engine without a limit would be ended by the kernel instead of refusing a write.
pub fn maxmemory(spec: &EngineSpec) -> u64 {
    spec.memory_bytes / 4 * 3
}

/// What holds where the tenant says nothing. The save points are those of 6.2 and later: before, an engine that has a
/// configuration file has none unless it says so, and would forget everything at its end.
fn base(spec: &EngineSpec) -> [(&'static str, String); 3] {
    [
        ("maxmemory", maxmemory(spec).to_string()),
        ("maxmemory-policy", "noeviction".to_owned()),
        ("save", "3600 1 300 100 60 10000".to_owned()),
    ]
}

/// Whether [`Config::of`] sets this where the tenant does not.
pub(super) fn is_in_base(name: &str) -> bool {
    ["maxmemory", "maxmemory-policy", "save"].contains(&name)
}

fn owned(spec: &EngineSpec) -> Vec<(&'static str, String)> {
    let port = spec.datastore().port().to_string();
    let address = spec.address.to_string();
    let all = [
        ("bind", address.as_str()),
        ("port", &port),
        ("protected-mode", "yes"),
        ("unixsocket", SOCKET),
        ("unixsocketperm", "700"),
        ("dir", DATA),
        ("dbfilename", RDB),
        ("appendfilename", AOF),
        ("appenddirname", AOF_DIR),
        ("daemonize", "no"),
        ("supervised", "no"),
        ("logfile", ""),
        ("aclfile", ACL_FILE),
    ];
    all.into_iter()
        .filter(|(name, _)| parameters::accepts(spec.datastore(), spec.number, name))
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}

fn split_value(name: &str, value: &str) -> Vec<Vec<String>> {
    let words: Vec<String> = value.split_ascii_whitespace().map(str::to_owned).collect();
    if let Some((_, group)) = GROUPS.iter().find(|(n, _)| *n == name)
        && !words.is_empty()
    {
        return words.chunks(*group).map(<[String]>::to_vec).collect();
    }
    if WORDS.contains(&name) && !words.is_empty() {
        return vec![words];
    }
    vec![vec![value.to_owned()]]
}

/// Whether the engine, asked for `wanted`, may say `is`.
pub(super) fn means_the_same(name: &str, wanted: &str, is: &str) -> bool {
    if name == "client-output-buffer-limit" {
        let groups = |value: &str| {
            let words: Vec<String> = value.split_ascii_whitespace().map(canonical).collect();
            words.chunks(4).map(<[String]>::to_vec).collect::<Vec<_>>()
        };
        let is = groups(is);
        return groups(wanted).iter().all(|group| is.contains(group));
    }
    if name == "notify-keyspace-events" {
        let letters = |value: &str| value.chars().flat_map(spell_out).collect::<BTreeSet<_>>();
        return letters(wanted) == letters(is);
    }
    wanted == is || wanted.split_ascii_whitespace().map(canonical).eq(is.split_ascii_whitespace().map(canonical))
}

/// `A` stands for all of these; an engine answers with the letters or with `A`.
fn spell_out(letter: char) -> Vec<char> {
    if letter == 'A' { "g$lshzxetd".chars().collect() } else { vec![letter] }
}

fn canonical(word: &str) -> String {
    if let Some(bytes) = parse_bytes(word) {
        return bytes.to_string();
    }
    match word.to_ascii_lowercase().as_str() {
        "slave" => "replica".to_owned(),
        other => other.to_owned(),
    }
}

/// An amount in the engine's units: `100`, `1k` (1000), `1kb` (1024), `2gb`.
pub(super) fn parse_bytes(word: &str) -> Option<i128> {
    let digits = word.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(word.len());
    let (number, unit) = word.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<i128>().ok().map(|n| n * factor)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::{Config, Directive, Persistence, means_the_same};
    use crate::datastore::{Datastore, Number};
    use crate::id::VersionId;
    use crate::spec::{EngineSpec, ImageWanted};

    fn spec(number: &str, settings: &[(&str, &str)]) -> EngineSpec {
        EngineSpec {
            version: VersionId(uuid::Uuid::nil()),
            number: number.parse::<Number>().expect(number),
            image: ImageWanted {
                datastore: Datastore::Redis,
                version: number.to_owned(),
                digest: None,
                sources: serde_json::Value::Null,
            },
            settings: settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            volume_bytes: 1 << 30,
            address: "127.20.0.5".parse().expect("address"),
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back_the_same(
            lines in prop::collection::vec(("[a-z][a-z-]{0,20}", prop::collection::vec(any::<String>(), 1..4)), 0..12)
        ) {
            let config = Config(lines.into_iter().map(|(name, words)| Directive { name, words }).collect());
            prop_assert_eq!(Config::parse(&config.render()), Ok(config));
        }

        #[test]
        fn what_is_rendered_from_a_spec_is_read_back_the_same(
            value in any::<String>(), save in "([0-9]{1,4} [0-9]{1,4} ?){0,3}", password in any::<Option<String>>()
        ) {
            let config = Config::of(&spec("7.0.15", &[("proc-title-template", &value), ("save", &save)]), password.as_deref());
            prop_assert_eq!(Config::parse(&config.render()), Ok(config));
        }
    }

    #[test]
    fn the_file_says_only_what_the_version_knows() {
        for (number, has, lacks) in [
            ("3.2.6", "unixsocketperm", "aclfile"),
            ("6.0.16", "aclfile", "appenddirname"),
            ("7.0.15", "appenddirname", "requirepass"),
        ] {
            let config = Config::of(&spec(number, &[]), None);
            assert!(config.value(has).is_some(), "{number} {has}");
            assert!(config.value(lacks).is_none(), "{number} {lacks}");
        }
    }

    #[test]
    fn a_tenant_cannot_set_what_the_agent_owns_and_can_set_the_rest() {
        let config = Config::of(&spec("7.0.15", &[("dir", "/etc"), ("maxmemory", "5mb"), ("save", "")]), None);
        assert_eq!(config.value("dir").as_deref(), Some("/data"));
        assert_eq!(config.value("maxmemory").as_deref(), Some("5mb"));
        assert!(config.render().contains("\nsave \"\"\n"));
    }

    #[test]
    fn an_engine_listens_at_its_address_of_either_family() {
        for address in ["127.20.0.5", "fd00:c0ff::5", "::1"] {
            let mut spec = spec("7.0.15", &[]);
            spec.address = address.parse().expect("address");
            let config = Config::of(&spec, None);
            assert!(config.render().contains(&format!("\nbind {address}\n")), "{}", config.render());
            let actual = BTreeMap::from([("bind".to_owned(), address.to_owned())]);
            assert!(config.deviations(&actual, false).is_empty(), "{address}");
            let json = serde_json::to_value(&spec).expect("JSON");
            assert_eq!(json["address"], address, "as text, as ever");
            assert_eq!(serde_json::from_value::<EngineSpec>(json).expect("a spec"), spec);
        }
    }

    #[test]
    fn save_points_hold_where_nobody_says_anything() {
        let persistence = Persistence::configured(&spec("6.0.16", &[]));
        assert_eq!(persistence.save, "3600 1 300 100 60 10000");
        assert!(!persistence.appendonly);
        assert!(Persistence::configured(&spec("6.0.16", &[("appendonly", "yes")])).appendonly);
    }

    #[test]
    fn what_the_engine_says_in_other_words_is_no_deviation() {
        for (name, wanted, is, same) in [
            ("maxmemory", "1gb", "1073741824", true),
            ("maxmemory", "1g", "1073741824", false),
            ("appendonly", "YES", "yes", true),
            ("notify-keyspace-events", "KEA", "AKE", true),
            ("notify-keyspace-events", "KEA", "KE", false),
            ("save", "900 1 300 10", "900 1 300 10", true),
            (
                "client-output-buffer-limit",
                "slave 1mb 1mb 60",
                "normal 0 0 0 replica 1048576 1048576 60 pubsub 33554432 8388608 60",
                true,
            ),
        ] {
            assert_eq!(means_the_same(name, wanted, is), same, "{name} {wanted} {is}");
        }
    }

    #[test]
    fn a_held_engine_may_deviate_where_measures_are_taken_and_nowhere_else() {
        let config = Config::of(&spec("7.0.15", &[("timeout", "5")]), None);
        let actual = BTreeMap::from([
            ("appendonly".to_owned(), "yes".to_owned()),
            ("port".to_owned(), "0".to_owned()),
            ("timeout".to_owned(), "6".to_owned()),
        ]);
        assert_eq!(config.deviations(&actual, true).into_keys().collect::<Vec<_>>(), ["timeout"]);
        assert_eq!(config.deviations(&actual, false).into_keys().collect::<Vec<_>>(), ["port", "timeout"]);
    }
}
