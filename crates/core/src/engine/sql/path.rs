//! Which upgrades of MariaDB and MySQL work in place.
//!
//! Measured with real servers: 10.5 to 10.11, 10.11 to 11.8, 10.5 to 11.8 at once, and within a series. An older server
//! refuses the redo log of a newer one, or starts on files that it does not understand. MySQL goes from one long-term series
//! to the next and leaves none out, as its makers say; measured was an upgrade within 9.7.

use crate::datastore::{Datastore, Number, Version};
use crate::finding::Finding;

/// The oldest and the newest series that were measured.
const OLDEST: (u32, u32) = (10, 5);
const NEWEST: (u32, u32) = (11, 8);

/// The series of MySQL that its upgrades go by. Those between two of them lead to the later one.
const RUNGS: &[(u32, u32)] = &[(5, 6), (5, 7), (8, 0), (8, 4), (9, 7)];

/// Whether `to` can be reached from `from` in one step; if not, why, and what can be.
pub fn check(from: &Version, to: &Version, catalogue: &[Version]) -> Vec<Finding> {
    let object = format!("{} to {}", from.label(), to.label());
    let never = |reason: &str| vec![Finding::error("path.none", object.clone(), reason, targets(from, catalogue))];
    if from.datastore != to.datastore {
        return never("it is another kind of database");
    }
    if to.number < from.number {
        return never("it is older: an older server does not read what a newer one wrote");
    }
    if from.datastore == Datastore::Mysql {
        return check_mysql(object, from, to, catalogue);
    }
    if from.number.series() < OLDEST {
        return never("files of MariaDB before 10.5 were never tried");
    }
    if to.number.series() > NEWEST {
        return vec![Finding::warning(
            "path.unmeasured",
            object,
            format!("{} is newer than every MariaDB that was measured with this Coffer", to.number),
            "try it on a copy first; the proof after the start decides, and a failure puts everything back",
        )];
    }
    Vec::new()
}

/// The series whose servers work on each other's data as they are, where somebody has seen it: the older one starts on what
/// the newer one wrote, and all is there. Across series the log has another format, or system tables were changed.
pub fn data_format(datastore: Datastore, number: Number) -> Option<(u32, u32)> {
    match (datastore, number.series()) {
        (Datastore::Mariadb, series @ ((10, 11) | (11, 8))) | (Datastore::Mysql, series @ (9, 7)) => Some(series),
        _ => None,
    }
}

/// Only upwards.
fn check_mysql(object: String, from: &Version, to: &Version, catalogue: &[Version]) -> Vec<Finding> {
    let series = |v: &Version| v.number.series();
    if series(from) < RUNGS[0] {
        return vec![Finding::error("path.none", object, "MySQL before 5.6 was never tried", targets(from, catalogue))];
    }
    let way = hops(from, to);
    if way.is_empty() {
        return match series(from) == series(to) {
            true => Vec::new(),
            false => vec![Finding::warning(
                "path.unmeasured",
                object,
                format!("a step from {} to another series of MySQL was not measured with this Coffer", from.label()),
                "try it on a copy first; the proof after the start decides, and a failure puts everything back",
            )],
        };
    }
    let hop = |(major, minor): &(u32, u32)| {
        let offered =
            catalogue.iter().any(|v| v.active && v.datastore == from.datastore && series(v) == (*major, *minor));
        format!("{} {major}.{minor}{}", from.datastore, if offered { "" } else { " (not offered here)" })
    };
    let steps: Vec<_> = way.iter().map(hop).chain([to.label()]).collect();
    let reason = "MySQL goes from one long-term series to the next and leaves none out";
    vec![Finding::error("path.indirect", object, reason, format!("upgrade in steps: {}", steps.join(", then ")))]
}

/// The series of MySQL that lie between.
fn hops(from: &Version, to: &Version) -> Vec<(u32, u32)> {
    let (from, to) = (from.number.series(), to.number.series());
    // Where a series itself is a rung, the step to it is one; where it is not, it belongs to the rung after it.
    let rung = |series| RUNGS.iter().position(|rung| *rung >= series).unwrap_or(RUNGS.len());
    let first = if RUNGS.contains(&from) { rung(from) + 1 } else { rung(from) };
    RUNGS.get(first..rung(to)).unwrap_or_default().to_vec()
}

fn targets(from: &Version, catalogue: &[Version]) -> String {
    let direct = |v: &Version| match from.datastore {
        Datastore::Mysql => from.number.series() >= RUNGS[0] && hops(from, v).is_empty(),
        _ => v.number.series() <= NEWEST,
    };
    let reachable: Vec<_> = catalogue
        .iter()
        .filter(|v| v.active && v.datastore == from.datastore && v.number > from.number && direct(v))
        .map(Version::label)
        .collect();
    if reachable.is_empty() {
        return format!("no active version can be reached from {}", from.label());
    }
    format!("versions that can be reached: {}", reachable.join(", "))
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::datastore::Version;

    #[test]
    fn mysql_goes_from_one_long_term_series_to_the_next() {
        let catalogue = ["mysql 8.0.44", "mysql 8.4.9", "mysql 9.7.4", "mariadb 11.8.6"].map(Version::labelled);
        let unmeasured = "path.unmeasured: try it on a copy first; the proof after the start decides, and a failure puts everything back";
        for (from, to, verdict) in [
            ("mysql 9.7.2", "mysql 9.7.4", ""),
            ("mysql 8.4.1", "mysql 8.4.9", ""),
            ("mysql 8.4.9", "mysql 9.7.4", unmeasured),
            ("mysql 8.0.44", "mysql 8.4.9", unmeasured),
            ("mysql 8.2.0", "mysql 8.4.9", unmeasured),
            ("mysql 9.1.0", "mysql 9.7.4", unmeasured),
            ("mysql 9.7.4", "mysql 10.1.0", unmeasured),
            ("mysql 8.0.44", "mysql 9.7.4", "path.indirect: upgrade in steps: mysql 8.4, then mysql 9.7.4"),
            ("mysql 8.2.0", "mysql 9.7.4", "path.indirect: upgrade in steps: mysql 8.4, then mysql 9.7.4"),
            (
                "mysql 5.6.24",
                "mysql 9.7.4",
                "path.indirect: upgrade in steps: mysql 5.7 (not offered here), then mysql 8.0, then mysql 8.4, then mysql 9.7.4",
            ),
            ("mysql 9.7.4", "mysql 9.7.2", "path.none: no active version can be reached from mysql 9.7.4"),
            ("mysql 8.4.9", "mariadb 11.8.6", "path.none: versions that can be reached: mysql 9.7.4"),
            ("mysql 5.1.9", "mysql 5.7.1", "path.none: no active version can be reached from mysql 5.1.9"),
        ] {
            let found = check(&Version::labelled(from), &Version::labelled(to), &catalogue);
            let found: Vec<_> = found.iter().map(|f| format!("{}: {}", f.id, f.remedy)).collect();
            assert_eq!(found.join("; "), verdict, "{from} to {to}");
        }
    }

    #[test]
    fn every_measured_pair_has_the_verdict_that_was_measured() {
        let catalogue =
            ["mariadb 10.5.23", "mariadb 10.11.19", "mariadb 11.8.6", "redis 7.0.15"].map(Version::labelled);
        for (from, to, verdict) in [
            ("mariadb 10.5.23", "mariadb 10.11.19", ""),
            ("mariadb 10.11.18", "mariadb 10.11.19", ""),
            ("mariadb 10.11.19", "mariadb 11.8.6", ""),
            ("mariadb 10.5.23", "mariadb 11.8.6", ""),
            ("mariadb 11.8.6", "mariadb 10.11.19", "path.none: no active version can be reached from mariadb 11.8.6"),
            ("mariadb 10.11.19", "redis 7.0.15", "path.none: versions that can be reached: mariadb 11.8.6"),
            (
                "mariadb 10.1.1",
                "mariadb 10.5.23",
                "path.none: versions that can be reached: mariadb 10.5.23, mariadb 10.11.19, mariadb 11.8.6",
            ),
        ] {
            let found = check(&Version::labelled(from), &Version::labelled(to), &catalogue);
            let found: Vec<_> = found.iter().map(|f| format!("{}: {}", f.id, f.remedy)).collect();
            assert_eq!(found.join("; "), verdict, "{from} to {to}");
        }
        let found = check(&Version::labelled("mariadb 11.8.6"), &Version::labelled("mariadb 12.3.1"), &catalogue);
        assert_eq!(found[0].id, "path.unmeasured");
    }
}
