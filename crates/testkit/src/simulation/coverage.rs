//! What struck where, and how it ended: that a simulation found nothing says something only if it went everywhere.

use std::collections::BTreeMap;

use coffer_core::instance::Kind;
use coffer_core::section::SectionStep;
use coffer_core::stuck::Choice;

use super::fault::Fault;

/// In which direction a section stood at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    There,
    Back,
}

/// Who was interrupted in a step of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The agent died.
    Agent,
    /// The engine died.
    Engine,
    /// All power went.
    Machine,
    /// What the step did failed.
    Step,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Done,
    Undone,
    Stuck,
    /// A person gave it up.
    Abandoned,
}

/// Counts of one history, or of many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub histories: u64,
    /// Things that happened, of any kind.
    pub events: u64,
    /// Virtual seconds.
    pub seconds: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Of those the ones that were given up, as a rollback had announced.
    pub forfeited: u64,
    /// Writes that a server was refused because somebody else had claimed the operation since.
    pub fenced: u64,
    /// Reports of agents that do not get on with a section.
    pub stuck: u64,
    /// Requests that were refused because another operation was open.
    pub busy: u64,
    /// Decisions that were refused because nothing is stuck, or is not theirs to give up.
    pub not_stuck: u64,
    /// Decisions to give up that found the place in somebody else's hands.
    pub held: u64,
    /// Decisions that were made, and whether about a section.
    pub choices: BTreeMap<(Choice, bool), u64>,
    pub faults: BTreeMap<Fault, u64>,
    /// Steps of sections at which somebody was interrupted.
    pub struck: BTreeMap<(SectionStep, Way, Victim), u64>,
    pub ends: BTreeMap<(Kind, End), u64>,
}

impl Coverage {
    /// Adds up.
    pub fn add(&mut self, other: &Self) {
        let Self {
            histories,
            events,
            seconds,
            writes,
            forfeited,
            fenced,
            stuck,
            busy,
            not_stuck,
            held,
            choices,
            faults,
            struck,
            ends,
        } = other;
        self.histories += histories;
        self.events += events;
        self.seconds += seconds;
        self.writes += writes;
        self.forfeited += forfeited;
        self.fenced += fenced;
        self.stuck += stuck;
        self.busy += busy;
        self.not_stuck += not_stuck;
        self.held += held;
        merge(&mut self.choices, choices);
        merge(&mut self.faults, faults);
        merge(&mut self.struck, struck);
        merge(&mut self.ends, ends);
    }

    /// What a long run has to have seen and has not.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        gaps.extend(Fault::ALL.iter().filter(|f| !self.faults.contains_key(f)).map(|f| format!("{f:?} never struck")));
        for step in STEPS {
            for victim in [Victim::Agent, Victim::Engine, Victim::Machine, Victim::Step] {
                for way in [Way::There, Way::Back] {
                    if can_be(step, way, victim) && !self.struck.contains_key(&(step, way, victim)) {
                        gaps.push(format!("{victim:?} was never struck at {} on the way {way:?}", step.name()));
                    }
                }
            }
        }
        for kind in Kind::ALL {
            let ends: &[End] = match kind {
                // What has no way back cannot be undone, and only the provider can make anything stuck.
                Kind::Finalize => &[End::Done],
                Kind::Delete => &[End::Done, End::Stuck, End::Abandoned],
                Kind::Create => &[End::Done, End::Undone, End::Stuck, End::Abandoned],
                Kind::Upgrade | Kind::Restart | Kind::Configure | Kind::Rollback => &[End::Done, End::Undone],
            };
            for end in ends.iter().filter(|end| !self.ends.contains_key(&(kind, **end))) {
                gaps.push(format!("no {} ever ended {end:?}", kind.name()));
            }
        }
        for choice in [(Choice::Resume, false), (Choice::Resume, true), (Choice::Abandon, false)] {
            if !self.choices.contains_key(&choice) {
                gaps.push(format!("nobody ever chose to {} something, in a section: {}", choice.0.name(), choice.1));
            }
        }
        for (count, what) in [
            (self.held, "nobody who removes something was ever in the way of who gives it up"),
            (self.not_stuck, "nobody ever wanted to decide about what is not stuck"),
            (self.fenced, "no server was ever fenced"),
            (self.stuck, "no agent ever said that it does not get on"),
            (self.busy, "no two requests ever met"),
            (self.forfeited, "no rollback ever gave anything up"),
        ] {
            gaps.extend((count == 0).then(|| what.to_owned()));
        }
        gaps
    }
}

const STEPS: [SectionStep; 9] = [
    SectionStep::Prepare,
    SectionStep::Quiesce,
    SectionStep::Stop,
    SectionStep::Keep,
    SectionStep::Swap,
    SectionStep::Restore,
    SectionStep::Start,
    SectionStep::Prove,
    SectionStep::Open,
];

/// Whether that victim can be met there at all.
fn can_be(step: SectionStep, way: Way, victim: Victim) -> bool {
    use SectionStep::{Keep, Open, Prepare, Restore, Start, Stop, Swap};
    match (way, victim) {
        // It is past the point of no return.
        (Way::Back, _) if step == Open => false,
        // There is none between its stop and its start, there and back.
        (Way::There, Victim::Engine) => !matches!(step, Keep | Swap | Restore),
        (Way::Back, Victim::Engine) => matches!(step, Prepare | Stop | Start),
        (Way::There | Way::Back, Victim::Agent | Victim::Machine | Victim::Step) => true,
    }
}

fn merge<K: Copy + Ord>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(*key).or_default() += count;
    }
}
