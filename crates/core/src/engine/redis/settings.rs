//! What becomes of settings of Redis and Valkey.

use super::config::{is_in_base, is_owned, parse_bytes};
use super::parameters::{self, accepts};
use crate::datastore::{Datastore, Number, Version};
use crate::engine::{Fate, SettingsChange};
use crate::finding::Finding;
use crate::spec::Settings;

/// Two names of one setting, the older first. Engines take the older one long after, but show and document the newer.
const RENAMED: &[(&str, &str)] = &[
    ("cluster-slave-no-failover", "cluster-replica-no-failover"),
    ("cluster-slave-validity-factor", "cluster-replica-validity-factor"),
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("lua-time-limit", "busy-reply-threshold"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("repl-ping-slave-period", "repl-ping-replica-period"),
    ("slave-ignore-maxmemory", "replica-ignore-maxmemory"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-priority", "replica-priority"),
    ("slave-read-only", "replica-read-only"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("slowlog-log-slower-than", "commandlog-execution-slower-than"),
    ("slowlog-max-len", "commandlog-slow-execution-max-len"),
    ("aof_rewrite_cpulist", "aof-rewrite-cpulist"),
    ("bgsave_cpulist", "bgsave-cpulist"),
    ("bio_cpulist", "bio-cpulist"),
    ("server_cpulist", "server-cpulist"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
];

/// Settings that ask for something the target may not have at all: without them the tenant gets less than was asked for.
const FEATURES: &[(&str, &str)] = &[("gopher-enabled", "yes"), ("extended-redis-compatibility", "yes")];

/// Values that are words: the setting, the words, and from which version of Redis on.
const WORDS: &[(&str, &[&str])] = &[
    ("appendfsync", &["always", "everysec", "no"]),
    ("loglevel", &["debug", "verbose", "notice", "warning", "nothing"]),
    (
        "maxmemory-policy",
        &[
            "noeviction",
            "allkeys-lru",
            "allkeys-random",
            "volatile-lru",
            "volatile-random",
            "volatile-ttl",
            "allkeys-lfu",
            "volatile-lfu",
            "allkeys-lrm",
            "volatile-lrm",
        ],
    ),
];

/// Why a default is another one, where more can be said than that it is.
const REASONS: &[(&str, &str)] = &[
    (
        "acl-pubsub-default",
        "users made from now on may use no channel unless they are told; users that are there keep theirs",
    ),
    ("lazyfree-lazy-user-del", "memory is given back in the background; what clients see is the same"),
    ("repl-backlog-size", "more memory is kept for replicas that lost their connection"),
    ("repl-diskless-sync", "a new replica is fed without a file on disk"),
];

/// Shown by engines, but not a choice of anybody.
const NOT_CHOSEN: &[&str] = &["ignore-warnings", "hash-seed"];

/// What becomes of `settings` on the way from `from` to `to`.
pub fn change(from: &Version, to: &Version, settings: &Settings) -> SettingsChange {
    let mut fates: Vec<Fate> = settings.iter().map(|(name, value)| fate(from, to, name, value)).collect();
    let set: Vec<String> = fates.iter().map(|fate| name_after(fate).to_owned()).collect();
    for (&name, old) in parameters::all(from.datastore, from.number) {
        let Some(new) = parameters::of(to.datastore, to.number, name) else { continue };
        let (Some(before), Some(after)) = (old.default, new.default) else { continue };
        let renamed = RENAMED.iter().any(|(old, new)| *old == name && knows(to, new));
        let ours = is_owned(name) || is_in_base(name) || NOT_CHOSEN.contains(&name);
        if before == after || renamed || ours || set.iter().any(|s| s == name) {
            continue;
        }
        let reason = REASONS
            .iter()
            .find(|(n, _)| *n == name)
            .map_or_else(|| format!("{} has another default", to.label()), |(_, reason)| (*reason).to_owned());
        let (name, before, after) = (name.to_owned(), before.to_owned(), after.to_owned());
        fates.push(Fate::DefaultChanged { name, before, after, reason });
    }
    SettingsChange(fates)
}

fn fate(from: &Version, to: &Version, name: &str, value: &str) -> Fate {
    let (name, value) = (name.to_owned(), value.to_owned());
    if let Some(to_name) = other_name(to, &name) {
        let reason = format!("{} calls it {to_name}", to.label());
        let (to_name, to_value) = (to_name.to_owned(), value.clone());
        return Fate::Translated { name, value, to_name, to_value, reason };
    }
    let known = parameters::of(to.datastore, to.number, &name).filter(|p| p.accepted);
    match known {
        Some(parameter) if parameter.default.is_none() && parameters::is_measured(to.datastore, to.number) => {
            Fate::Dropped { reason: format!("{} takes {name} and does nothing with it", to.label()), name, value }
        }
        Some(_) => match wrong_value(to.datastore, to.number, &name, &value) {
            Some(why) => Fate::Refused { reason: format!("{} refuses '{value}': {why}", to.label()), name, value },
            None => Fate::Kept { name, value },
        },
        None if FEATURES.contains(&(&name, &value)) => {
            Fate::Refused { reason: format!("{} no longer has what {name} asks for", to.label()), name, value }
        }
        None => {
            let default = parameters::of(from.datastore, from.number, &name).and_then(|p| p.default);
            let harm = if default == Some(value.as_str()) { "; it had its default value" } else { "" };
            Fate::Dropped { reason: format!("{} has no setting {name}{harm}", to.label()), name, value }
        }
    }
}

/// The name by which `to` knows the setting, where it is another one.
fn other_name(to: &Version, name: &str) -> Option<&'static str> {
    let newer = RENAMED.iter().find(|(old, new)| *old == name && knows(to, new)).map(|(_, new)| *new);
    let older = || {
        let known = |(old, new): &&(&str, &str)| *new == name && !knows(to, new) && knows(to, old);
        RENAMED.iter().find(known).map(|(old, _)| *old)
    };
    newer.or_else(older)
}

fn knows(version: &Version, name: &str) -> bool {
    parameters::of(version.datastore, version.number, name).is_some_and(|p| p.accepted && p.default.is_some())
}

fn name_after(fate: &Fate) -> &str {
    match fate {
        Fate::Translated { to_name, .. } => to_name,
        Fate::Kept { name, .. }
        | Fate::Pinned { name, .. }
        | Fate::Dropped { name, .. }
        | Fate::DefaultChanged { name, .. }
        | Fate::Refused { name, .. } => name,
    }
}

/// What is wrong with `settings` on `version`: names that only the agent sets, unknown names, impossible values.
pub fn check(version: &Version, settings: &Settings) -> Vec<Finding> {
    let (datastore, number) = (version.datastore, version.number);
    let mut findings = Vec::new();
    for (name, value) in settings {
        let object = format!("setting {name}");
        if is_owned(name) {
            let message = "it is set by coffer itself and cannot be chosen";
            findings.push(Finding::error("settings.owned", object, message, "leave it out"));
        } else if !accepts(datastore, number, name) {
            let message = format!("{} has no such setting", version.label());
            let remedy = match other_name(version, name) {
                Some(other) => format!("its name there is {other}"),
                None => "leave it out".to_owned(),
            };
            // A series that nobody asked may know more than the one before it.
            findings.push(if parameters::is_measured(datastore, number) {
                Finding::error("settings.unknown", object, message, remedy)
            } else {
                Finding::warning("settings.unknown", object, message, remedy)
            });
        } else if let Some(why) = wrong_value(datastore, number, name, value) {
            let message = format!("'{value}' is not possible: {why}");
            findings.push(Finding::error("settings.value", object, message, format!("give {name} another value")));
        }
    }
    findings
}

/// Why the engine would refuse the value, as far as it can be told without asking it.
fn wrong_value(datastore: Datastore, number: Number, name: &str, value: &str) -> Option<String> {
    if value.chars().any(char::is_control) {
        return Some("it has control characters".to_owned());
    }
    if let Some((_, words)) = WORDS.iter().find(|(n, _)| *n == name) {
        let lfu = datastore == Datastore::Redis && !number.at_least(4, 0) && value.ends_with("lfu");
        let value = value.to_ascii_lowercase();
        return (lfu || !words.contains(&value.as_str())).then(|| format!("it is one of {}", words.join(", ")));
    }
    if name == "save" {
        let numbers: Option<Vec<u64>> = value.split_ascii_whitespace().map(|w| w.parse().ok()).collect();
        let pairs = numbers.is_some_and(|n| n.len().is_multiple_of(2));
        return (!pairs).then(|| "it is pairs of seconds and changes, or empty".to_owned());
    }
    let default = parameters::of(datastore, number, name)?.default?;
    if default == "yes" || default == "no" {
        let choices = ["yes", "no", "always", "adaptive", "relative", "absolute"];
        let value = value.to_ascii_lowercase();
        return (!choices.contains(&value.as_str())).then(|| "it is yes or no".to_owned());
    }
    let number = |v: &str| parse_bytes(v.strip_suffix('%').unwrap_or(v)).is_some();
    (number(default) && !number(value)).then(|| "it is a number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{change, check};
    use crate::datastore::Version;
    use crate::engine::Fate;
    use crate::spec::Settings;

    fn settings(text: &str) -> Settings {
        let pairs = text.split("; ").filter_map(|pair| pair.split_once(' '));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn each_setting_has_the_fate_that_the_engines_showed() {
        for (from, to, name, value, fate) in [
            ("redis 6.2.14", "redis 7.0.15", "hash-max-ziplist-entries", "64", "hash-max-listpack-entries"),
            ("redis 3.2.6", "redis 5.0.6", "slave-read-only", "no", "replica-read-only"),
            ("redis 3.2.6", "redis 8.0.2", "min-slaves-to-write", "1", "min-replicas-to-write"),
            ("redis 6.0.16", "redis 6.2.14", "lua-time-limit", "100", "kept"),
            ("redis 6.0.16", "redis 7.0.15", "gopher-enabled", "no", "dropped"),
            ("redis 6.0.16", "redis 7.0.15", "gopher-enabled", "yes", "refused"),
            ("redis 7.0.15", "redis 8.0.2", "io-threads-do-reads", "yes", "dropped"),
            ("redis 7.0.15", "redis 8.0.2", "maxmemory-policy", "allkeys-lru", "kept"),
            ("redis 7.0.15", "redis 8.0.2", "timeout", "soon", "refused"),
            ("valkey 8.1.1", "redis 8.0.2", "commandlog-execution-slower-than", "1", "slowlog-log-slower-than"),
            ("valkey 8.1.1", "redis 8.0.2", "cluster-blacklist-ttl", "60", "dropped"),
        ] {
            let change =
                change(&Version::labelled(from), &Version::labelled(to), &settings(&format!("{name} {value}")));
            let found = match &change.0[0] {
                Fate::Kept { .. } => "kept",
                Fate::Dropped { .. } => "dropped",
                Fate::Refused { .. } => "refused",
                Fate::Pinned { .. } => "pinned",
                Fate::DefaultChanged { .. } => "default changed",
                Fate::Translated { to_name, .. } => to_name,
            };
            assert_eq!(found, fate, "{name} {value} from {from} to {to}");
        }
    }

    #[test]
    fn a_default_that_changes_is_told_unless_somebody_chose_the_value() {
        let changed = |text: &str| {
            change(&Version::labelled("redis 6.2.14"), &Version::labelled("redis 7.0.15"), &settings(text))
                .0
                .iter()
                .filter_map(|fate| match fate {
                    Fate::DefaultChanged { name, .. } => Some(name.clone()),
                    _ => None,
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(changed(""), ["acl-pubsub-default", "repl-diskless-sync"]);
        assert_eq!(changed("repl-diskless-sync no"), ["acl-pubsub-default"]);
    }

    #[test]
    fn everything_that_is_wrong_with_settings_is_told_at_once() {
        let all = settings("dir /etc; tls-port 1; hash-max-listpack-entries 1; save 900; maxmemory 1gb; timeout x");
        let ids: Vec<_> = check(&Version::labelled("redis 6.0.16"), &all)
            .into_iter()
            .map(|f| format!("{} {}", f.id, f.object))
            .collect();
        assert_eq!(
            ids,
            [
                "settings.owned setting dir",
                "settings.unknown setting hash-max-listpack-entries",
                "settings.value setting save",
                "settings.value setting timeout",
                "settings.owned setting tls-port",
            ]
        );
    }
}
