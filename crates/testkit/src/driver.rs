//! The loop that works off a plan, as every executor has to run it.
//!
//! What survives is text: the plan, written once, and the phase, written at every transition and read back before the
//! next. A crash is therefore nothing but leaving the loop and entering it again.

use std::marker::PhantomData;

use coffer_core::finding::Cause;
use coffer_core::operation::{self, Event, Illegal, Next, Phase, Plan};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is on disk of a plan that is being worked off.
#[derive(Clone, Debug)]
pub struct Journal<S> {
    plan: String,
    phase: String,
    /// How often the phase was written.
    pub writes: usize,
    steps: PhantomData<S>,
}

impl<S: Serialize + DeserializeOwned> Journal<S> {
    /// A plan that nobody has begun.
    pub fn new(plan: &Plan<S>) -> Self {
        let plan = serde_json::to_string(plan).expect("plans can be written");
        let mut journal = Self { plan, phase: String::new(), writes: 0, steps: PhantomData };
        journal.save(&Phase::START);
        journal
    }

    /// The plan as it was written.
    pub fn plan(&self) -> Plan<S> {
        serde_json::from_str(&self.plan).expect("what was written can be read")
    }

    /// The phase as it was written last.
    pub fn phase(&self) -> Phase {
        serde_json::from_str(&self.phase).expect("what was written can be read")
    }

    /// Records what a person or an executor says has happened.
    pub fn tell(&mut self, event: Event) -> Result<(), Illegal> {
        let phase = operation::apply(&self.plan(), &self.phase(), event)?;
        self.save(&phase);
        Ok(())
    }

    fn save(&mut self, phase: &Phase) {
        self.phase = serde_json::to_string(phase).expect("phases can be written");
        self.writes += 1;
    }
}

/// How a step or an undo ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    Failed(Cause),
    /// Its performer is gone, and nobody knows how far it came.
    Crashed,
    /// It goes on elsewhere and needs a person there.
    Waiting,
}

/// Whoever takes the steps.
pub trait Performer<S> {
    /// Does the step, or does it again.
    fn perform(&mut self, at: usize, step: &S) -> Ended;

    /// Undoes the step, or undoes it again.
    fn undo(&mut self, at: usize, step: &S) -> Ended;

    /// Why a person wants it undone, if one does right before this turn.
    fn cancelled(&mut self) -> Option<Cause>;

    /// What became of the cancel.
    fn answer_cancel(&mut self, accepted: bool);
}

/// Why the loop was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Nothing more will happen.
    Over,
    /// A person has to choose.
    Waiting,
    /// Enter it again.
    Crashed,
    /// All turns were taken, and it is not over yet.
    Exhausted,
}

/// Works off the plan for at most `turns` transitions. An error is a defect of the loop or the machine.
pub fn run<S, P>(journal: &mut Journal<S>, performer: &mut P, turns: usize) -> Result<Halt, Illegal>
where
    S: Serialize + DeserializeOwned,
    P: Performer<S>,
{
    let plan = journal.plan();
    for _ in 0..turns {
        let phase = journal.phase();
        if let Some(cause) = performer.cancelled() {
            let cancelled = operation::apply(&plan, &phase, Event::Cancel(cause));
            performer.answer_cancel(cancelled.is_ok());
            if let Ok(phase) = cancelled {
                journal.save(&phase);
                continue;
            }
        }
        let event = match operation::next(&plan, &phase) {
            Next::Begin(_) => Event::Begun,
            Next::Do(at) => match performer.perform(at, &plan.steps[at]) {
                Ended::Done => Event::Succeeded,
                Ended::Failed(cause) => Event::Failed(cause),
                Ended::Crashed => return Ok(Halt::Crashed),
                Ended::Waiting => return Ok(Halt::Waiting),
            },
            Next::Undo(at) => match performer.undo(at, &plan.steps[at]) {
                Ended::Done => Event::UndoSucceeded,
                Ended::Failed(cause) => Event::UndoFailed(cause),
                Ended::Crashed => return Ok(Halt::Crashed),
                Ended::Waiting => return Ok(Halt::Waiting),
            },
            Next::Wait => return Ok(Halt::Waiting),
            Next::Nothing => return Ok(Halt::Over),
        };
        journal.save(&operation::apply(&plan, &phase, event)?);
    }
    Ok(Halt::Exhausted)
}
