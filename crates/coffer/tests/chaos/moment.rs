//! When a cell strikes: told by what is written down, while whoever writes it is held.

use coffer_core::operation::Phase;
use serde_json::Value;

use super::cell::{Cell, Operation, Place, Side};
use super::support::ledger::Entry;
use super::support::world::World;

/// What is to be seen.
pub(crate) struct Seen<'a> {
    pub world: &'a World,
    /// The instance, once it is known.
    pub id: Option<&'a str>,
    /// What its agent has written down.
    pub journal: &'a Value,
    /// Whether there was a section.
    pub has_begun: bool,
    /// The task that the agent had done last before.
    pub done_before: &'a Value,
    /// The operation, once it is written down.
    pub entry: Option<&'a Entry>,
    /// How many system calls there were since it was asked for.
    pub steps: usize,
}

impl Cell {
    /// Whether the store has to be read to tell when it strikes.
    pub(crate) fn needs_the_store(&self) -> bool {
        matches!(self.step.place, Place::Server | Place::Agent)
    }

    /// Whether it strikes now.
    pub(crate) fn is_now(&self, seen: &Seen<'_>) -> bool {
        match self.step.place {
            Place::Server => seen.entry.is_some_and(|entry| self.is_now_of_server(seen, entry)),
            Place::Agent if self.operation == Operation::Accounts => {
                // An agent that was at rest does something.
                let begins = self.side == Side::Before && seen.steps > 0;
                begins || last_done(seen.journal) != *seen.done_before
            }
            Place::Agent => {
                let Some(entry) = seen.entry else { return false };
                let Some(at) = entry.begun_at(self.step.name) else { return false };
                let task = format!("{}-{at}", entry.id);
                let is_done = seen.journal["done"].as_array().is_some_and(|done| done.iter().any(|d| *d == *task));
                // One that was just started has its lock a moment later.
                let is_there = seen.id.is_some_and(|id| seen.world.agent_pid(id).is_some());
                is_there && is_done == (self.side == Side::After)
            }
            Place::Section | Place::WayBack => self.is_now_of_section(seen),
        }
    }

    fn is_now_of_server(&self, seen: &Seen<'_>, entry: &Entry) -> bool {
        let Some(id) = seen.id else { return false };
        let begun = entry.begun_at(self.step.name).is_some();
        let volume = seen.world.volume(id);
        let next = entry.plan.steps.iter().position(|step| step.name() == self.step.name).map(|at| at + 1);
        match (self.step.name, self.side) {
            ("place", Side::Before) => begun && !volume.join("agent/identity.json").exists(),
            // It is done when the agent's process is there, which has its lock a moment later.
            ("place", _) => {
                let is_next = matches!(entry.phase, Phase::Forward { at, .. } if Some(at) == next);
                (begun || is_next) && seen.world.agent_pid(id).is_some()
            }
            ("drop", Side::Before) => begun && volume.exists(),
            ("drop", _) => begun && !volume.exists(),
            (_, Side::Before) => begun,
            ("record", _) => entry.phase == Phase::Done,
            _ => matches!(entry.phase, Phase::Forward { at, begun: false, .. } if Some(at) == next),
        }
    }

    fn is_now_of_section(&self, seen: &Seen<'_>) -> bool {
        let section = &seen.journal["section"];
        let is_over = seen.has_begun && section.is_null();
        let steps = section["section"]["plan"]["steps"].as_array();
        let Some(at) = steps.and_then(|steps| steps.iter().position(|name| *name == self.step.name)) else {
            return is_over && self.side == Side::After && matches!(self.step.name, "open" | "prepare");
        };
        let phase = &section["phase"];
        let is_at = |kind: &str, at: usize| phase["phase"] == kind && phase["at"] == at;
        match (self.step.place, self.side) {
            (Place::WayBack, _) => self.side == Side::Before && is_at("backward", at),
            (_, Side::Before) => is_at("forward", at) && phase["begun"] == true,
            (_, Side::Within) => {
                let runs = seen.id.is_some_and(|id| seen.world.engine_pid(id).is_some());
                is_at("forward", at) && phase["begun"] == true && runs
            }
            (_, Side::After) => is_at("forward", at + 1) && phase["begun"] == false,
        }
    }
}

/// The task that an agent has done last. It remembers so many, so that their number says nothing.
pub(crate) fn last_done(journal: &Value) -> Value {
    journal["done"].as_array().and_then(|done| done.last()).cloned().unwrap_or_default()
}
