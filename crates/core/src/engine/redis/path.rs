//! Which upgrades of Redis and Valkey work in place.
//!
//! What decides is whether the new engine reads the files of the old one. Measured with real servers, snapshots and
//! append-only files alike: Redis reads everything older of Redis, from 3.2 to 8.6; Valkey 8 reads Redis 6.0 to 7.2;
//! Redis 7.4 and 8 write a format that no Valkey reads, Valkey 9 one that no Redis reads; Redis 8 reads Valkey 8.

use std::collections::BTreeMap;

use crate::datastore::{Datastore, Number, Version};
use crate::finding::Finding;

/// The newest series of each that was measured.
const NEWEST_REDIS: (u32, u32) = (8, 6);
const NEWEST_VALKEY: (u32, u32) = (9, 1);

/// What is known of one step from a version to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Works in one step.
    Direct,
    /// Should work in one step, but nobody has seen it.
    Unmeasured,
    /// Not in one step; perhaps by others in between.
    Indirect(&'static str),
    /// Not by any way.
    Never(&'static str),
}

/// Whether `to` can be reached from `from` in one step; if not, why, and by which hops.
pub fn check(from: &Version, to: &Version, catalogue: &[Version]) -> Vec<Finding> {
    let object = format!("{} to {}", from.label(), to.label());
    match way((from.datastore, from.number), (to.datastore, to.number)) {
        Way::Direct => Vec::new(),
        Way::Unmeasured => vec![Finding::warning(
            "path.unmeasured",
            object,
            format!("{} is newer than every {} that was measured with this Coffer", to.number, to.datastore),
            "try it on a copy first; the proof after the start decides, and a failure puts everything back",
        )],
        Way::Indirect(reason) => {
            let remedy = match hops(from, to, catalogue) {
                Some(hops) => format!("upgrade in steps: {}", join(&hops, ", then ")),
                None => targets(from, catalogue),
            };
            vec![Finding::error("path.indirect", object, reason, remedy)]
        }
        Way::Never(reason) => vec![Finding::error("path.none", object, reason, targets(from, catalogue))],
    }
}

fn way((from, old): (Datastore, Number), (to, new): (Datastore, Number)) -> Way {
    use Datastore::{Mariadb, Mysql, Redis, Valkey};
    match (from, to) {
        (_, Mysql | Mariadb) | (Mysql | Mariadb, _) => Way::Never("it is another kind of database"),
        (Redis, _) if !old.at_least(3, 2) => Way::Never("files of Redis before 3.2 were never tried"),
        (Redis, Redis) | (Valkey, Valkey) if new < old => {
            Way::Never("it is older: an older engine does not read what a newer one wrote")
        }
        (Redis, Valkey) if old.at_least(7, 3) => {
            Way::Never("Redis 7.4 and later write a format that no Valkey reads, in files and in replication alike")
        }
        (Redis, Valkey) if !old.at_least(6, 0) => {
            Way::Indirect("Valkey was only seen to read files of Redis 6.0 to 7.2")
        }
        (Redis, Valkey) if new.major() > 8 => Way::Indirect("only Valkey 8 was seen to read files of Redis"),
        (Valkey, Valkey) if new.series() > NEWEST_VALKEY => Way::Unmeasured,
        (Valkey, Valkey) if old.major() == new.major() || old.at_least(8, 1) => Way::Direct,
        (Valkey, Valkey) if new.major() == 8 => Way::Direct,
        (Valkey, Valkey) => Way::Indirect("Valkey 9 was only seen to read files of Valkey 8.1"),
        (Valkey, Redis) if old.major() > 8 => Way::Never("Valkey 9 and later write a format that no Redis reads"),
        (Valkey, Redis) if !new.at_least(8, 0) => Way::Never("Redis before 8.0 was never seen to read files of Valkey"),
        (Redis | Valkey, Redis) if new.series() > NEWEST_REDIS => Way::Unmeasured,
        (Redis | Valkey, Redis | Valkey) => Way::Direct,
    }
}

/// The first series of those that read each other's files, all of them and both ways. One version of the snapshot's format is not
/// enough: users have a language of their own, and so have vector sets, of which Redis 8.0 reads none that 8.2 wrote. Series of
/// which nobody has seen it stand alone.
pub fn data_format(datastore: Datastore, number: Number) -> (Datastore, (u32, u32)) {
    let first = match (datastore, number.series()) {
        (Datastore::Valkey, (8, 0 | 1)) => (8, 0),
        (Datastore::Valkey, (9, 0 | 1)) => (9, 0),
        (_, series) => series,
    };
    (datastore, first)
}

/// The shortest list of active versions from `from` to `to`, each reachable from the one before; `to` is the last.
fn hops<'a>(from: &'a Version, to: &'a Version, catalogue: &'a [Version]) -> Option<Vec<&'a Version>> {
    // Later versions first, so that of several ways of one length the one over the newest versions is taken.
    let mut active: Vec<&Version> = catalogue.iter().filter(|v| v.active && v.id != from.id && v.id != to.id).collect();
    active.sort_by_key(|v| std::cmp::Reverse((v.datastore, v.number)));
    active.push(to);
    let mut before: BTreeMap<usize, Option<usize>> = BTreeMap::new();
    let mut front: Vec<Option<usize>> = vec![None];
    while !front.is_empty() {
        let mut next = Vec::new();
        for at in front {
            let here = at.map_or(from, |i| active[i]);
            for (i, there) in active.iter().enumerate() {
                let direct = way((here.datastore, here.number), (there.datastore, there.number)) == Way::Direct;
                if direct && !before.contains_key(&i) {
                    before.insert(i, at);
                    next.push(Some(i));
                }
            }
        }
        front = next;
    }
    let mut at = Some(active.len() - 1);
    let mut path = Vec::new();
    while let Some(i) = at {
        path.push(active[i]);
        at = *before.get(&i)?;
    }
    path.reverse();
    Some(path)
}

fn targets(from: &Version, catalogue: &[Version]) -> String {
    let reachable: Vec<&Version> = catalogue
        .iter()
        .filter(|v| v.active && v.id != from.id)
        .filter(|v| way((from.datastore, from.number), (v.datastore, v.number)) == Way::Direct)
        .collect();
    if reachable.is_empty() {
        return format!("no active version can be reached from {}", from.label());
    }
    format!("versions that can be reached: {}", join(&reachable, ", "))
}

fn join(versions: &[&Version], separator: &str) -> String {
    versions.iter().map(|v| v.label()).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::datastore::Version;

    const CATALOGUE: &[&str] = &[
        "redis 3.2.6",
        "redis 5.0.6",
        "redis 6.0.16",
        "redis 6.2.14",
        "redis 7.0.15",
        "redis 8.0.2",
        "redis 8.2.3",
        "valkey 8.0.1",
        "valkey 8.1.1",
        "valkey 9.1.2",
        "mariadb 10.11.18",
    ];

    fn ask(from: &str, to: &str, without: &[&str]) -> String {
        let catalogue: Vec<_> =
            CATALOGUE.iter().filter(|l| !without.contains(l)).map(|l| Version::labelled(l)).collect();
        let findings = check(&Version::labelled(from), &Version::labelled(to), &catalogue);
        findings.iter().map(|f| format!("{}: {}", f.id, f.remedy)).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn every_measured_pair_has_the_verdict_that_was_measured() {
        for (from, to, verdict) in [
            ("redis 3.2.6", "redis 5.0.6", ""),
            ("redis 6.0.16", "redis 8.0.2", ""),
            ("redis 3.2.6", "redis 8.6.3", ""),
            ("redis 7.0.15", "redis 7.0.16", ""),
            ("redis 6.0.16", "valkey 8.0.1", ""),
            ("redis 7.0.15", "valkey 8.1.1", ""),
            ("redis 7.2.4", "valkey 8.1.1", ""),
            ("valkey 8.0.1", "valkey 8.1.1", ""),
            ("valkey 8.1.1", "valkey 9.1.2", ""),
            ("valkey 9.0.0", "valkey 9.1.2", ""),
            ("valkey 8.1.1", "redis 8.0.2", ""),
            ("redis 5.0.6", "valkey 8.1.1", "path.indirect: upgrade in steps: redis 7.0.15, then valkey 8.1.1"),
            ("redis 7.0.15", "valkey 9.1.2", "path.indirect: upgrade in steps: valkey 8.1.1, then valkey 9.1.2"),
            (
                "redis 5.0.6",
                "valkey 9.1.2",
                "path.indirect: upgrade in steps: redis 7.0.15, then valkey 8.1.1, then valkey 9.1.2",
            ),
            ("valkey 8.0.1", "valkey 9.1.2", "path.indirect: upgrade in steps: valkey 8.1.1, then valkey 9.1.2"),
            ("redis 7.4.1", "valkey 8.1.1", "path.none: versions that can be reached: redis 8.0.2, redis 8.2.3"),
            ("redis 8.0.2", "valkey 9.1.2", "path.none: versions that can be reached: redis 8.2.3"),
            ("valkey 9.1.2", "redis 8.2.3", "path.none: no active version can be reached from valkey 9.1.2"),
            ("redis 8.0.2", "redis 7.0.15", "path.none: versions that can be reached: redis 8.2.3"),
            ("redis 8.2.3", "mariadb 10.11.18", "path.none: no active version can be reached from redis 8.2.3"),
            ("redis 2.8.1", "redis 7.0.15", "path.none: no active version can be reached from redis 2.8.1"),
        ] {
            assert_eq!(ask(from, to, &[]), verdict, "{from} to {to}");
        }
    }

    #[test]
    fn a_hop_that_is_not_active_is_not_named() {
        let without = ["valkey 8.1.1"];
        assert_eq!(
            ask("valkey 8.0.1", "valkey 9.1.2", &without),
            "path.indirect: versions that can be reached: redis 8.0.2, redis 8.2.3"
        );
    }

    #[test]
    fn a_version_newer_than_all_that_were_measured_is_only_warned_of() {
        assert!(ask("redis 8.2.3", "redis 8.8.0", &[]).starts_with("path.unmeasured"));
    }
}
