//! Engines that end by themselves: when one is started again, and when that has become a loop.
//!
//! The first few ends are told one by one. From the [`LOOP`]th within [`WINDOW`] on it is one thing that goes on: told when it
//! begins and when it is over, shown all the time, and tried at the slowest pause that there is for such an end.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::finding::Cause;
use crate::id::InstanceId;
use crate::task::moment;

/// So many ends within [`WINDOW`] are a loop.
pub const LOOP: u32 = 5;
/// See [`LOOP`].
pub const WINDOW: SignedDuration = SignedDuration::from_mins(10);
/// How long an engine must have run for its next end to count as the first again.
pub const STEADY: Duration = Duration::from_secs(300);
/// The pauses before an engine that does not stay up is started again. The last one repeats.
const PAUSES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// The longest of them for one that had come up.
const CAME_UP: usize = 1;

/// The ends of an engine by itself since it last ran steadily.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crashes {
    count: u32,
    /// When the last few of them were, the oldest first.
    recent: Vec<Timestamp>,
    /// Since it is one.
    in_loop: Option<CrashLoop>,
}

/// An engine that ends again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrashLoop {
    /// How often, from the first to the last.
    pub count: u32,
    pub since: Timestamp,
    pub last: Timestamp,
    /// How it ended last, with its last words.
    pub how: String,
}

/// What another end of an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// One to be told by itself.
    Single,
    /// From now on it is a loop.
    LoopBegins,
    /// It goes on, as has been told.
    LoopGoesOn,
}

impl Crashes {
    /// Notes that an engine has ended by itself, or did not come up.
    pub fn note(&mut self, at: Timestamp, how: &str) -> Noted {
        self.count = self.count.saturating_add(1);
        let since = *self.recent.first().unwrap_or(&at);
        if let Some(known) = &mut self.in_loop {
            *known =
                CrashLoop { count: known.count.saturating_add(1), last: at, how: how.to_owned(), since: known.since };
            return Noted::LoopGoesOn;
        }
        self.recent.push(at);
        if self.recent.len() < LOOP as usize {
            return Noted::Single;
        }
        if at.duration_since(since) <= WINDOW {
            self.in_loop = Some(CrashLoop { count: LOOP, since, last: at, how: how.to_owned() });
            return Noted::LoopBegins;
        }
        self.recent.remove(0);
        Noted::Single
    }

    /// The engine has run for [`STEADY`]. True where a loop is over with that.
    pub fn forget(&mut self) -> bool {
        std::mem::take(self).in_loop.is_some()
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The loop, while it is one.
    pub fn in_loop(&self) -> Option<&CrashLoop> {
        self.in_loop.as_ref()
    }

    /// How long to wait before the engine is started again. One that `came_up` is worth a start: what it does for clients until it
    /// ends again is more than nothing, and who waits for it is refused when it stays away for too long.
    pub fn pause(&self, came_up: bool) -> Duration {
        let longest = if came_up { CAME_UP } else { PAUSES.len() - 1 };
        let at = if self.in_loop.is_some() { longest } else { self.count.saturating_sub(1) as usize };
        PAUSES[at.min(longest)]
    }
}

impl CrashLoop {
    /// Why the instance does not serve, and what to do.
    pub fn cause(&self, instance: InstanceId, has_way_back: bool) -> Cause {
        let Self { count, since, last, how } = self;
        let within = last.duration_since(*since).as_secs();
        let mut hint = format!(
            "mend what its last words name; it comes back by itself then, or at once: coffer instance restart {instance}"
        );
        if has_way_back {
            hint =
                format!("{hint}; or go back to what there was before: coffer instance rollback {instance} --dry-run");
        }
        Cause::new(
            format!(
                "the engine does not stay up: {count} times within {within} s it ended by itself or did not start, last at {}: {how}; \
                 it is started again, with pauses of up to {} s",
                moment(*last),
                PAUSES[PAUSES.len() - 1].as_secs()
            ),
            hint,
        )
    }
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use uuid::Uuid;

    use super::{Crashes, Noted};
    use crate::id::InstanceId;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds)
    }

    /// What each of these ends is, in seconds.
    fn noted(ends: &[i64]) -> (Crashes, Vec<Noted>) {
        let mut crashes = Crashes::default();
        let noted = ends.iter().map(|end| crashes.note(at(*end), "signal 9: no memory")).collect();
        (crashes, noted)
    }

    #[test]
    fn five_ends_within_ten_minutes_are_a_loop_which_is_told_once() {
        use Noted::{LoopBegins, LoopGoesOn, Single};
        let (_, few) = noted(&[0, 1, 3, 8]);
        assert_eq!(few, [Single; 4]);
        let (crashes, all) = noted(&[0, 1, 3, 8, 23, 83, 143]);
        assert_eq!(all, [Single, Single, Single, Single, LoopBegins, LoopGoesOn, LoopGoesOn]);
        let found = crashes.in_loop().expect("a loop");
        assert_eq!((found.count, found.since, found.last), (7, at(0), at(143)));
        let (_, slow) = noted(&[0, 200, 400, 600, 800, 1000, 1100]);
        assert_eq!(slow[..6], [Single; 6], "that many, but not within the window");
    }

    #[test]
    fn ends_that_come_closer_become_a_loop() {
        let (crashes, all) = noted(&[0, 500, 1000, 1010, 1020, 1030]);
        assert_eq!(all.last(), Some(&Noted::LoopBegins), "{all:?}");
        assert_eq!(crashes.in_loop().map(|found| (found.count, found.since)), Some((5, at(500))));
    }

    #[test]
    fn pauses_grow_and_a_loop_has_the_longest() {
        let mut crashes = Crashes::default();
        let pauses: Vec<_> = (0..7)
            .map(|n| {
                crashes.note(at(n), "");
                (crashes.pause(false).as_secs(), crashes.pause(true).as_secs())
            })
            .collect();
        assert_eq!(
            pauses,
            [(0, 0), (1, 1), (2, 1), (5, 1), (60, 1), (60, 1), (60, 1)],
            "one that came up is back soon"
        );
    }

    #[test]
    fn one_that_ran_steadily_begins_anew_and_only_a_loop_is_told_to_be_over() {
        let (mut few, _) = noted(&[0, 1]);
        assert!(!few.forget());
        assert!(few.is_empty());
        let (mut many, _) = noted(&[0, 1, 2, 3, 4]);
        assert!(many.forget());
        assert_eq!((many.in_loop(), many.count()), (None, 0));
        assert_eq!(many.note(at(9), ""), Noted::Single);
    }

    #[test]
    fn the_cause_names_count_window_last_words_and_the_next_command() {
        let (crashes, _) = noted(&[0, 1, 3, 8, 23]);
        let id = InstanceId(Uuid::nil());
        for has_way_back in [false, true] {
            let cause = crashes.in_loop().expect("a loop").cause(id, has_way_back).to_string();
            for part in ["5 times within 23 s", "signal 9: no memory", &format!("coffer instance restart {id}")] {
                assert!(cause.contains(part), "{cause}");
            }
            assert_eq!(cause.contains(&format!("coffer instance rollback {id} --dry-run")), has_way_back, "{cause}");
        }
    }
}
