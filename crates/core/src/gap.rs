//! How long clients could not write: what was measured, and what that tells of the next time.
//!
//! A gap is like another one where the way is the same (from which engine to which), the host is of the same class, and there
//! is about as much data. Of those that are alike the newest few tell what to expect, with their spread.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, OperationId, ProjectId};
use crate::instance::Kind;
use crate::section::Section;

/// So many of the newest gaps tell what to expect. Older ones are of an older Coffer.
const NEWEST: usize = 20;
/// Fewer than that tell nothing of their spread.
const FEWEST: usize = 3;
/// Up to here a size makes no difference that could be felt.
const SMALLEST: u64 = 16 << 20;

/// What an agent adds to a gap that it measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Circumstances {
    pub host: Host,
    /// How much data there was, on disk or in memory, whichever is more.
    pub data_bytes: u64,
    /// How long a client could not read that was connected before, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_gap_us: Option<u64>,
}

/// The class of a host, as far as gaps differ by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Host {
    /// Such as `x86_64`.
    pub arch: String,
    pub processors: u32,
    pub memory_gib: u32,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arch, processors, memory_gib } = self;
        let s = if *processors == 1 { "" } else { "s" };
        write!(f, "{arch}, {processors} processor{s}, {memory_gib} GiB")
    }
}

/// Which way an engine went: `redis 7.0.15`, `redis 8.0.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    pub from: String,
    pub to: String,
}

impl Way {
    /// That of a section.
    pub fn of(section: &Section) -> Self {
        Self { from: section.from.label(), to: section.to.label() }
    }
}

/// A gap that was measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub operation: OperationId,
    pub instance: InstanceId,
    pub project: ProjectId,
    pub kind: Kind,
    pub way: Way,
    pub circumstances: Circumstances,
    /// How long a client could not write, in microseconds.
    pub gap_us: u64,
    pub at: Timestamp,
}

/// About how much data there is: up to so many bytes, and more than half of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    /// That of so much data.
    pub fn of(bytes: u64) -> Self {
        Self(bytes.max(SMALLEST).checked_next_power_of_two().unwrap_or(u64::MAX))
    }

    /// The most that is of this size, in bytes.
    pub fn at_most(self) -> u64 {
        self.0
    }
}

/// What was measured of gaps that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    pub shortest_us: u64,
    /// The one in the middle; of an even number the longer of both.
    pub median_us: u64,
    pub longest_us: u64,
}

impl Spread {
    fn of(gaps: impl Iterator<Item = u64>) -> Option<Self> {
        let mut all: Vec<_> = gaps.collect();
        all.sort_unstable();
        let (shortest_us, longest_us) = (*all.first()?, *all.last()?);
        Some(Self { count: all.len(), shortest_us, median_us: all[all.len() / 2], longest_us })
    }
}

/// What to expect of the next gap on the way that `measured` went, all of it on the same way: by the newest ones that are alike.
/// `None` where there are too few.
pub fn expected(measured: &[Gap], of: &Circumstances) -> Option<Spread> {
    let alike = |gap: &&Gap| {
        gap.circumstances.host == of.host && Size::of(gap.circumstances.data_bytes) == Size::of(of.data_bytes)
    };
    let mut alike: Vec<_> = measured.iter().filter(alike).collect();
    alike.sort_by_key(|gap| std::cmp::Reverse(gap.at));
    alike.truncate(NEWEST);
    Spread::of(alike.into_iter().map(|gap| gap.gap_us)).filter(|spread| spread.count >= FEWEST)
}

/// Gaps that are alike, told together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: Kind,
    pub way: Way,
    pub host: Host,
    pub size: Size,
    pub gap: Spread,
    /// How long clients could not read, where that was measured.
    pub read: Option<Spread>,
    pub newest: Timestamp,
}

/// All that was measured, by what is alike: the ways in their order, small sizes first.
pub fn report(measured: &[Gap]) -> Vec<Line> {
    let mut alike: BTreeMap<_, Vec<&Gap>> = BTreeMap::new();
    for gap in measured {
        let Circumstances { host, data_bytes, .. } = &gap.circumstances;
        alike.entry((&gap.way, gap.kind.name(), Size::of(*data_bytes), host)).or_default().push(gap);
    }
    let line = |((way, _, size, host), gaps): ((&Way, &str, Size, &Host), Vec<&Gap>)| {
        Some(Line {
            kind: gaps.first()?.kind,
            way: way.clone(),
            host: host.clone(),
            size,
            gap: Spread::of(gaps.iter().map(|gap| gap.gap_us))?,
            read: Spread::of(gaps.iter().filter_map(|gap| gap.circumstances.read_gap_us)),
            newest: gaps.iter().map(|gap| gap.at).max()?,
        })
    };
    alike.into_iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const MB: u64 = 1 << 20;

    fn circumstances(data_bytes: u64, processors: u32) -> Circumstances {
        let host = Host { arch: "x86_64".to_owned(), processors, memory_gib: 24 };
        Circumstances { host, data_bytes, read_gap_us: None }
    }

    /// Measured at this second.
    fn gap(at: i64, gap_us: u64, data_bytes: u64, processors: u32) -> Gap {
        Gap {
            operation: OperationId(Uuid::from_u128(u128::from(at.unsigned_abs()))),
            instance: InstanceId(Uuid::nil()),
            project: ProjectId("ours".to_owned()),
            kind: Kind::Upgrade,
            way: Way { from: "redis 7.0.15".to_owned(), to: "redis 8.0.2".to_owned() },
            circumstances: Circumstances { read_gap_us: Some(gap_us / 2), ..circumstances(data_bytes, processors) },
            gap_us,
            at: Timestamp::from_second(at).expect("a time"),
        }
    }

    #[test]
    fn only_what_is_alike_tells_what_to_expect() {
        let mut measured: Vec<_> =
            (1..=5).map(|n| gap(n, u64::try_from(n).expect("small") * 1000, 40 * MB, 2)).collect();
        measured.push(gap(6, 900_000, 900 * MB, 2));
        measured.push(gap(7, 100, 40 * MB, 64));
        let expected = |bytes, processors| expected(&measured, &circumstances(bytes, processors));
        let spread = Spread { count: 5, shortest_us: 1000, median_us: 3000, longest_us: 5000 };
        assert_eq!(expected(64 * MB, 2), Some(spread), "between 32 and 64 MB, as those were");
        assert_eq!(expected(33 * MB, 2), Some(spread));
        assert_eq!(expected(20 * MB, 2), None, "half as much was never measured");
        assert_eq!(expected(900 * MB, 2), None, "one says nothing of the spread");
        assert_eq!(expected(40 * MB, 64), None);
    }

    #[test]
    fn the_newest_tell_it() {
        let measured: Vec<_> = (0..60).map(|n| gap(n, if n < 40 { 900_000 } else { 40_000 }, 0, 2)).rev().collect();
        let spread = expected(&measured, &circumstances(SMALLEST, 2)).expect("enough");
        assert_eq!(spread, Spread { count: NEWEST, shortest_us: 40_000, median_us: 40_000, longest_us: 40_000 });
    }

    #[test]
    fn a_report_has_a_line_for_what_is_alike() {
        let mut measured = vec![gap(1, 50, 0, 2), gap(3, 70, 5, 2), gap(2, 60, SMALLEST, 2)];
        measured.push(gap(9, 9000, 2000 * MB, 2));
        measured.push(Gap { kind: Kind::Rollback, ..gap(4, 20, 0, 2) });
        let lines = report(&measured);
        let told: Vec<_> = lines.iter().map(|line| (line.kind, line.size.at_most() / MB, line.gap.count)).collect();
        assert_eq!(told, [(Kind::Rollback, 16, 1), (Kind::Upgrade, 16, 3), (Kind::Upgrade, 2048, 1)]);
        assert_eq!(lines[1].gap, Spread { count: 3, shortest_us: 50, median_us: 60, longest_us: 70 });
        assert_eq!(lines[1].read.map(|read| read.median_us), Some(30));
        assert_eq!(lines[1].newest, Timestamp::from_second(3).expect("a time"));
    }
}
