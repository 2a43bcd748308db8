//! What an agent takes of what servers want of it, and what it keeps.
//!
//! Servers may be late, each by another time, and what they say may arrive late, twice or not at all. What keeps an agent right
//! in spite of it is in here: nothing is done twice, nothing is done that was decided before what is in force, and nothing is
//! thrown away that somebody is about to go back to.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use crate::finding::Cause;
use crate::id::{Generation, OperationId, TaskId};
use crate::task::Order;

/// How many ids of tasks that are done are remembered. More than servers can ask for in the time for which a wish counts that
/// nobody confirms: an order of an operation that was undone has the generation of the next one, so only this keeps it from being
/// done again.
pub const DONE_REMEMBERED: usize = 64;

/// For how long the wish of a server that says nothing counts.
pub const WISH_LASTS: Duration = Duration::from_secs(35);

/// Whether an agent that runs nothing yet takes over what it is to run. Any other engine comes by a section.
pub fn takes_over(generation: Generation, in_force: Generation, runs: bool) -> bool {
    generation > in_force && !runs
}

/// The first order that is not known yet, and why it is refused, if it is: what changes an engine was decided before what is
/// in force.
pub fn choose<'a>(
    orders: impl IntoIterator<Item = &'a Order>,
    knows: impl Fn(&TaskId) -> bool,
    in_force: Generation,
) -> Option<(&'a Order, Option<Cause>)> {
    let order = orders.into_iter().find(|order| !knows(&order.id))?;
    let late = order.task.generation().filter(|generation| *generation <= in_force).map(|generation| {
        Cause::new(
            format!("generation {} was decided before what runs here", generation.0),
            "ask again for what you want",
        )
    });
    Some((order, late))
}

/// Whether a person wants what is stuck to be tried at once, who had not asked for that before: `before` is what servers passed on
/// when the last try began, so that what was mended meanwhile is not waited for.
pub fn is_asked_anew<T: Ord>(before: &BTreeSet<T>, now: &BTreeSet<T>) -> bool {
    !now.is_subset(before)
}

/// A pre-image whose operation succeeded, as far as it matters for how long it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub operation: OperationId,
    pub since: Timestamp,
    /// Whether its time was ended.
    pub finalized: bool,
}

impl Kept {
    /// Whether it goes: its time is over, and no open operation goes back to it.
    pub fn goes(self, keep: Duration, held: Option<OperationId>, now: Timestamp) -> bool {
        let age = Duration::try_from(now.duration_since(self.since));
        (self.finalized || age.is_ok_and(|age| age >= keep)) && held != Some(self.operation)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{BTreeSet, Duration, Generation, Kept, Order, TaskId, Timestamp, choose, is_asked_anew, takes_over};
    use crate::datastore::Version;
    use crate::flavor::Flavor;
    use crate::id::{FlavorId, OperationId};
    use crate::section::Section;
    use crate::spec::{EngineSpec, Settings};
    use crate::task::Task;

    fn spec() -> EngineSpec {
        let flavor = Flavor { id: FlavorId::from("1"), name: "small".to_owned(), ram_mib: 512, vcpus: 1 };
        EngineSpec::new(&Version::labelled("redis 7.0.15"), &flavor, 1, IpAddr::from([127, 20, 0, 5]), Settings::new())
    }

    fn order(id: &str, task: Task) -> Order {
        Order { id: TaskId(id.to_owned()), task }
    }

    fn changes(generation: u64) -> [Task; 2] {
        let (operation, generation) = (OperationId(uuid::Uuid::nil()), Generation(generation));
        let section = Section::restart(operation, spec(), spec(), generation);
        [Task::Section(Box::new(section)), Task::Configure { to: spec(), generation }]
    }

    #[test]
    fn what_was_decided_before_what_is_in_force_is_refused() {
        for (decided, refused) in [(3, true), (4, true), (5, false)] {
            for task in changes(decided) {
                let orders = [order("a", task)];
                let (_, late) = choose(&orders, |_| false, Generation(4)).expect("an order");
                assert_eq!(late.is_some(), refused, "{decided} while 4 is in force");
            }
        }
        let looks = [order("a", Task::Verify { expect: spec() })];
        assert_eq!(choose(&looks, |_| false, Generation(4)).expect("an order").1, None, "it changes nothing");
    }

    #[test]
    fn what_is_known_is_not_chosen_again() {
        let orders = ["a", "b"].map(|id| order(id, Task::Verify { expect: spec() }));
        let chosen = |known: &[&str]| {
            let knows = |id: &TaskId| known.contains(&id.0.as_str());
            choose(&orders, knows, Generation(1)).map(|(order, _)| order.id.0.clone())
        };
        assert_eq!(chosen(&[]).as_deref(), Some("a"));
        assert_eq!(chosen(&["a"]).as_deref(), Some("b"));
        assert_eq!(chosen(&["a", "b"]), None);
    }

    #[test]
    fn an_engine_is_taken_over_once_and_only_if_it_is_newer() {
        assert!(takes_over(Generation(1), Generation(0), false));
        assert!(!takes_over(Generation(1), Generation(1), false));
        assert!(!takes_over(Generation(2), Generation(1), true), "what runs changes by a section alone");
    }

    #[test]
    fn what_was_asked_before_the_last_try_is_not_asked_anew() {
        let [none, one, both] = [vec![], vec![1], vec![1, 2]].map(BTreeSet::from_iter);
        assert!(is_asked_anew(&none, &one) && is_asked_anew(&one, &both));
        assert!(!is_asked_anew(&one, &one), "it was tried since");
        assert!(!is_asked_anew(&both, &one), "a server is gone, and nobody has asked");
    }

    #[test]
    fn a_pre_image_goes_when_its_time_is_over_and_nobody_goes_back_to_it() {
        let [one, other] = [1, 2].map(|n| OperationId(uuid::Uuid::from_u128(n)));
        let at = |second| Timestamp::from_second(second).expect("a time");
        let (kept, hour) = (Kept { operation: one, since: at(0), finalized: false }, Duration::from_secs(3600));
        assert!(!kept.goes(hour, None, at(3599)));
        assert!(kept.goes(hour, None, at(3600)));
        assert!(kept.goes(hour, Some(other), at(3600)));
        assert!(!kept.goes(hour, Some(one), at(9999)), "somebody goes back to it");
        assert!(Kept { finalized: true, ..kept }.goes(hour, None, at(1)));
        assert!(!Kept { finalized: true, ..kept }.goes(hour, Some(one), at(1)));
        assert!(!kept.goes(hour, None, at(-9999)), "by a clock that went back");
    }
}
