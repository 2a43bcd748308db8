//! Which upgrades of MariaDB work in place.
//!
//! Measured with real servers: 10.5 to 10.11, 10.11 to 11.8, 10.5 to 11.8 at once, and within a series. An older server
//! refuses the redo log of a newer one, or starts on files that it does not understand.

use crate::datastore::{Datastore, Version};
use crate::finding::Finding;

/// The oldest and the newest series that were measured.
const OLDEST: (u32, u32) = (10, 5);
const NEWEST: (u32, u32) = (11, 8);

/// Whether `to` can be reached from `from` in one step; if not, why, and what can be.
pub fn check(from: &Version, to: &Version, catalogue: &[Version]) -> Vec<Finding> {
    let object = format!("{} to {}", from.label(), to.label());
    let never = |reason: &str| vec![Finding::error("path.none", object.clone(), reason, targets(from, catalogue))];
    if (from.datastore, to.datastore) != (Datastore::Mariadb, Datastore::Mariadb) {
        return never("it is another kind of database");
    }
    if to.number < from.number {
        return never("it is older: an older server does not read what a newer one wrote");
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

fn targets(from: &Version, catalogue: &[Version]) -> String {
    let reachable: Vec<_> = catalogue
        .iter()
        .filter(|v| v.active && v.datastore == from.datastore && v.number > from.number && v.number.series() <= NEWEST)
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
