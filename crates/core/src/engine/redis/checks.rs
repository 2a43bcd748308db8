//! What could go wrong at an upgrade, judged from what the agent saw while the engine serves. Everything at once.

use std::collections::{BTreeMap, BTreeSet};

use super::acl::{self, User};
use super::config::{Config, Persistence};
use crate::finding::Finding;
use crate::spec::EngineSpec;

/// What an agent saw of a running engine and of its host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// All of `INFO`, by name.
    pub info: BTreeMap<String, String>,
    /// All of `CONFIG GET *`.
    pub config: BTreeMap<String, String>,
    /// Names of the loaded modules.
    pub modules: BTreeSet<String>,
    /// Lines of `ACL LIST`; empty on engines without users.
    pub acl: Vec<String>,
    /// Types of a sample of keys, with one key of each, as it is told to people.
    pub types: BTreeMap<String, String>,
    /// Bytes of all files of the data directory, and of its largest file that is appended to.
    pub data_bytes: u64,
    pub appended_bytes: u64,
    /// Bytes free on the file system of the volume.
    pub free_bytes: u64,
    /// Bytes of memory that the host has available.
    pub memory_available_bytes: Option<u64>,
    /// Files of data and configuration that the engine could not write or replace.
    pub foreign_files: Vec<String>,
}

impl Facts {
    fn info(&self, name: &str) -> &str {
        self.info.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> u64 {
        self.info(name).parse().unwrap_or(0)
    }

    fn is_set(&self, name: &str) -> bool {
        self.number(name) != 0
    }
}

/// Kept free on the volume beside what is counted: room for what is written meanwhile.
const DISK_RESERVE: u64 = 64 << 20;
/// Types every version of the paths knows. Others are of modules or of newer versions.
const COMMON_TYPES: &[&str] = &["string", "list", "set", "zset", "hash", "stream"];

/// Everything that speaks against going from `from` to `to`, and everything worth knowing.
pub fn check(facts: &Facts, from: &EngineSpec, to: &EngineSpec) -> Vec<Finding> {
    [serves(facts), replicates(facts), writes(facts), room(facts, from), contents(facts, from, to), drift(facts, from)]
        .concat()
}

/// Whether it is in a state in which it can be stopped.
fn serves(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.is_set("loading") {
        found.push(Finding::error("redis.loading", "engine", "it is still loading its data", "wait until it has"));
    }
    if facts.info("redis_mode") == "cluster" || facts.is_set("cluster_enabled") {
        let message = "it is a node of a cluster, whose other nodes would see it as failed";
        found.push(Finding::error("redis.cluster", "engine", message, "take it out of the cluster first"));
    }
    if facts.info("redis_mode") == "sentinel" {
        found.push(Finding::error("redis.sentinel", "engine", "it is a sentinel and no database", ""));
    }
    if facts.is_set("busy_script") {
        let message = "a script runs and blocks it";
        found.push(Finding::error("redis.busy", "engine", message, "wait for it, or SCRIPT KILL"));
    }
    found
}

fn replicates(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    if facts.info("role") != "master" && !facts.info("role").is_empty() {
        let message = format!(
            "it is a replica of {}:{}, link {}",
            facts.info("master_host"),
            facts.info("master_port"),
            facts.info("master_link_status")
        );
        found.push(Finding::error("redis.replica", "role", message, "upgrade its master, or REPLICAOF NO ONE first"));
    }
    let replicas = facts.number("connected_slaves");
    if replicas > 0 {
        let message = format!(
            "{replicas} replicas follow it; an older replica cannot follow a newer master and would drop its data"
        );
        found.push(Finding::error("redis.replicas", "role", message, "detach them first, and upgrade them before"));
    }
    found
}

/// Whether it can write what it has to write.
fn writes(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, what, remedy) in [
        ("rdb_last_bgsave_status", "its last snapshot failed", "see its log, make room, and run BGSAVE"),
        ("aof_last_bgrewrite_status", "its last rewrite of the append-only file failed", "see its log and make room"),
        ("aof_last_write_status", "its last write to the append-only file failed", "see its log and make room"),
    ] {
        // Without such a file the engine goes on telling how it ended with the last one.
        let is_past = name.starts_with("aof_") && facts.info("aof_enabled") == "0";
        if facts.info(name) == "err" && !is_past {
            found.push(Finding::error("redis.writes", name, what, remedy));
        }
    }
    for (name, what) in [("rdb_bgsave_in_progress", "a snapshot"), ("aof_rewrite_in_progress", "a rewrite")] {
        if facts.is_set(name) {
            let message = format!("{what} is being written; it is waited for");
            found.push(Finding::notice("redis.writing", name, message, ""));
        }
    }
    for file in &facts.foreign_files {
        let message = "the engine does not own it and could not replace it";
        found.push(Finding::error("redis.files", file.clone(), message, "restart the instance, which gives it back"));
    }
    found
}

/// Disk for the pre-image and for what is written beforehand, and memory for the process that writes it.
fn room(facts: &Facts, from: &EngineSpec) -> Vec<Finding> {
    let mut found = Vec::new();
    let used = facts.number("used_memory");
    let persistence = Persistence::configured(from);
    let appends = persistence.appendonly || facts.config.get("appendonly").is_some_and(|v| v == "yes");
    // The append-only file is written anew, which is at most what is in memory; what is appended to is copied besides. A
    // snapshot follows at the end where the engine keeps its data by snapshots.
    let rewritten = if appends { facts.appended_bytes.max(used) } else { used };
    let snapshot = if persistence.save.is_empty() { 0 } else { used };
    let needed = rewritten + snapshot.max(facts.appended_bytes) + DISK_RESERVE;
    if facts.free_bytes < needed {
        let message = format!(
            "{} MiB are free and up to {} MiB are needed for the pre-image and for files written anew",
            facts.free_bytes >> 20,
            needed >> 20
        );
        found.push(Finding::error("redis.disk", "volume", message, "make room, or resize the volume"));
    }
    let volume = from.volume_bytes;
    if facts.data_bytes + needed > volume {
        let message = format!(
            "for a while it would hold up to {} MiB, and it is made for {} MiB",
            (facts.data_bytes + needed) >> 20,
            volume >> 20
        );
        found.push(Finding::warning("redis.volume", "volume", message, "resize the volume to be on the safe side"));
    }
    // A snapshot copies each page that is written to meanwhile, in the worst case all.
    if let Some(available) = facts.memory_available_bytes
        && available < used / 2
    {
        let message = format!(
            "{} MiB of memory are available on the host, and writing {} MiB of data anew may need half of that",
            available >> 20,
            used >> 20
        );
        found.push(Finding::error("redis.memory", "memory", message, "free memory on the host first"));
    }
    let rss = facts.number("used_memory_rss").max(used);
    if rss + used / 4 > from.memory_bytes {
        let message = format!(
            "it uses {} of {} MiB of its flavor; a writer running while it serves many writes may not fit beside it",
            rss >> 20,
            from.memory_bytes >> 20
        );
        found.push(Finding::warning("redis.memory", "flavor", message, "upgrade at a time with few writes, or resize"));
    }
    found
}

/// What is in it that the target does not know, or knows otherwise.
fn contents(facts: &Facts, from: &EngineSpec, to: &EngineSpec) -> Vec<Finding> {
    let mut found = Vec::new();
    for module in &facts.modules {
        let message = format!("{} is loaded, and {} starts without modules", module, to.label());
        found.push(Finding::error(
            "redis.module",
            format!("module {module}"),
            message,
            "remove its data and unload it",
        ));
    }
    let crossing = from.datastore() != to.datastore();
    for (kind, key) in facts.types.iter().filter(|(kind, _)| !COMMON_TYPES.contains(&kind.as_str())) {
        if crossing || !facts.modules.is_empty() {
            let message = format!("it is a {kind}, a type that {} does not know", to.label());
            found.push(Finding::error("redis.type", format!("key {key}"), message, "remove keys of this type first"));
        }
    }
    let gains_channels =
        !acl::has_channels(from.datastore(), from.number) && acl::has_channels(to.datastore(), to.number);
    if gains_channels && acl::has_users(from.datastore(), from.number) {
        let users: Vec<User> = facts.acl.iter().filter_map(|line| User::parse(line)).collect();
        for user in users.iter().filter(|u| u.lacks_channels() && u.name != acl::AGENT) {
            let message = format!("{} gives no channel to users that name none; the user is given &*", to.label());
            found.push(Finding::notice("redis.acl.pubsub", format!("user {}", user.name), message, ""));
        }
    }
    if !acl::has_users(from.datastore(), from.number) && acl::has_users(to.datastore(), to.number) {
        let message = "the password becomes that of the user default, who may no longer end or reconfigure the engine";
        found.push(Finding::notice("redis.acl.new", "user default", message, ""));
    }
    found
}

/// What was changed at run time and is in no file: it is gone after the start.
fn drift(facts: &Facts, from: &EngineSpec) -> Vec<Finding> {
    let deviations = Config::of(from, None).deviations(&facts.config, false);
    deviations
        .into_iter()
        .map(|(name, (wanted, is))| {
            let message = format!("it is '{is}' at run time and '{wanted}' in the file, which holds after the start");
            Finding::warning(
                "redis.drift",
                format!("setting {name}"),
                message,
                "set it in the configuration to keep it",
            )
        })
        .collect()
}

/// What is wrong with a running engine that should be `spec`: its configuration, unless measures are `held`.
pub fn in_force(config: &BTreeMap<String, String>, spec: &EngineSpec, held: bool) -> Vec<Finding> {
    let deviations = Config::of(spec, None).deviations(config, held);
    deviations
        .into_iter()
        .map(|(name, (wanted, is))| {
            let message = format!("it is '{is}' and should be '{wanted}'");
            Finding::error("redis.config", format!("setting {name}"), message, "restart the instance")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::{Facts, check};
    use crate::datastore::Datastore;
    use crate::id::VersionId;
    use crate::spec::{EngineSpec, ImageWanted, Settings};

    fn spec(datastore: Datastore, number: &str) -> EngineSpec {
        EngineSpec {
            version: VersionId(uuid::Uuid::nil()),
            number: number.parse().expect(number),
            image: ImageWanted { datastore, version: number.into(), digest: None, sources: serde_json::Value::Null },
            settings: Settings::new(),
            memory_bytes: 1 << 30,
            cpu_millis: 1000,
            volume_bytes: 10 << 30,
            address: [127, 20, 0, 5].into(),
        }
    }

    fn healthy() -> Facts {
        let info = [("role", "master"), ("loading", "0"), ("used_memory", "1000000"), ("connected_slaves", "0")];
        Facts {
            info: info.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            free_bytes: 1 << 30,
            memory_available_bytes: Some(1 << 30),
            ..Facts::default()
        }
    }

    fn found(facts: &Facts, from: &EngineSpec, to: &EngineSpec) -> Vec<String> {
        check(facts, from, to).into_iter().map(|f| format!("{} {}", f.id, f.object)).collect()
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        let (from, to) = (spec(Datastore::Redis, "7.0.15"), spec(Datastore::Redis, "8.0.2"));
        assert_eq!(found(&healthy(), &from, &to), [""; 0]);
    }

    #[test]
    fn each_trouble_is_found() {
        let (from, to) = (spec(Datastore::Redis, "7.0.15"), spec(Datastore::Redis, "8.0.2"));
        for (name, value, expected) in [
            ("loading", "1", "redis.loading engine"),
            ("role", "slave", "redis.replica role"),
            ("connected_slaves", "2", "redis.replicas role"),
            ("rdb_last_bgsave_status", "err", "redis.writes rdb_last_bgsave_status"),
            ("aof_last_write_status", "err", "redis.writes aof_last_write_status"),
            ("rdb_bgsave_in_progress", "1", "redis.writing rdb_bgsave_in_progress"),
            ("cluster_enabled", "1", "redis.cluster engine"),
            ("redis_mode", "sentinel", "redis.sentinel engine"),
        ] {
            let mut facts = healthy();
            facts.info.insert(name.to_owned(), value.to_owned());
            assert_eq!(found(&facts, &from, &to), [expected], "{name} {value}");
        }
    }

    #[test]
    fn how_a_file_ended_that_is_not_kept_any_more_is_no_trouble() {
        let (from, to) = (spec(Datastore::Redis, "7.0.15"), spec(Datastore::Redis, "8.0.2"));
        for (enabled, troubles) in [("0", 0), ("1", 1)] {
            let mut facts = healthy();
            facts.info.insert("aof_enabled".to_owned(), enabled.to_owned());
            facts.info.insert("aof_last_bgrewrite_status".to_owned(), "err".to_owned());
            assert_eq!(found(&facts, &from, &to).len(), troubles, "aof_enabled {enabled}");
        }
    }

    #[test]
    fn all_troubles_are_told_at_once() {
        let (from, to) = (spec(Datastore::Redis, "6.0.16"), spec(Datastore::Valkey, "8.1.1"));
        let facts = Facts {
            free_bytes: 1,
            memory_available_bytes: Some(1),
            modules: BTreeSet::from(["bf".to_owned()]),
            types: BTreeMap::from([("MBbloom--".to_owned(), "\"b\"".to_owned())]),
            acl: vec!["user default on #aa ~* +@all".to_owned()],
            config: BTreeMap::from([("timeout".to_owned(), "5".to_owned()), ("port".to_owned(), "7".to_owned())]),
            foreign_files: vec!["data/dump.rdb".to_owned()],
            ..healthy()
        };
        assert_eq!(
            found(&facts, &from, &to),
            [
                "redis.files data/dump.rdb",
                "redis.disk volume",
                "redis.memory memory",
                "redis.module module bf",
                "redis.type key \"b\"",
                "redis.acl.pubsub user default",
                "redis.drift setting port",
            ]
        );
    }
}
