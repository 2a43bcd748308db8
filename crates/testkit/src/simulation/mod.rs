//! Whole installations in virtual time: servers that share a store, agents with their engines, clients that write, people who ask,
//! and everything that goes wrong. A history is made of a seed and of nothing else.
//!
//! ```text
//!  people --- requests ---> servers (1 to 3) --- transactions ---> store
//!                             |    ^  \--- provider ---> places
//!               desired, acks |    | reports, questions     (messages are late, lost, doubled, cut)
//!                             v    |
//!                            agents --- sections, gates ---> engines <--- clients
//! ```
//!
//! What decides is the code that decides in production: the planners, the operation machine, what a runner does next
//! (`coffer_core::runner`), what an agent takes (`coffer_core::agent`), the list of a section, and the gate. What acts, and in which
//! order, is modelled here after the server, the store and the agent: between any two acts whoever acts may die, be stopped for
//! longer than its lease, or be cut off. A power cut takes what was written and not flushed.
//!
//! At some moment nothing goes wrong any more. Then all has to become well within a bound: each instance wholly as its record says,
//! served by an engine that was proven and holds every write that was acknowledged, and nothing left over of anything.
//!
//! What is stuck is resumed or given up by people, at any moment and of any server, also when nothing is stuck.
//!
//! Meanwhile it must never happen that
//! - a client gets to an engine that was not proven, or finds a write missing that it was told is safe, but for those that a
//!   rollback had announced;
//! - something is recorded that is not true, or was not proven;
//! - data are touched while an engine runs on them;
//! - a place is dropped that nobody wants dropped, or an operation is opened beside another;
//! - something is stuck and does not look like it, or looks so and is not; what was given up is dropped, or looks well without a
//!   place; what was resumed is not tried at once;
//! - the machine, or the gate, is told something that does not fit.

// Each of these may be one way or the other by itself: they are no states of one thing.
#![allow(clippy::struct_excessive_bools)]

mod agent;
mod choice;
mod coverage;
mod fault;
mod link;
mod place;
mod request;
mod rng;
mod section;
mod server;
mod store;
mod task;
mod world;

use std::fmt;

pub use coverage::{Coverage, End, Victim, Way};
pub use fault::Fault;
use world::World;

/// A history that went wrong.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub violations: Vec<String>,
    /// The last things that happened.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violations.join("; "))?;
        for line in &self.trace {
            writeln!(f, "{line}")?;
        }
        write!(f, "again: COFFER_SEED={}", self.seed)
    }
}

/// Plays the history of this seed.
pub fn play(seed: u64) -> Result<Coverage, Failure> {
    let mut world = World::new(seed, false);
    world.play();
    if world.violations.is_empty() {
        return Ok(world.coverage);
    }
    // Once more, the same in all, and told.
    let mut world = World::new(seed, true);
    world.play();
    Err(Failure { seed, violations: world.violations, trace: world.trace.into_iter().flatten().collect() })
}
