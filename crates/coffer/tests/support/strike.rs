//! Striking at a moment of an upgrade: when a step of its section begins, or is undone.
//!
//! When that is, is told by what the agent has written down, never by a clock. The agent is held while it is looked at, so
//! that a step is not over before anybody has seen that it began.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::unharmed::state;
use super::world::{Instance, PATIENCE, World, signal};

/// The steps of a section, in their order.
pub(crate) const STEPS: [&str; 8] = ["prepare", "quiesce", "stop", "keep", "swap", "start", "prove", "open"];
/// How long the agent is let go between two looks. A step writes to disk or asks the engine, which takes longer.
const GLANCE: Duration = Duration::from_micros(100);
/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As soon as the request was accepted.
    Accepted,
    /// When this step has begun, by its place among [`STEPS`].
    Forward(usize),
    /// When this step is undone.
    Backward(usize),
    /// When the section is over and the control plane has not recorded it yet, or just has.
    Over,
}

impl Moment {
    /// Whether it has come, or gone.
    fn has_come(self, state: &Value, has_begun: bool) -> bool {
        let (phase, section) = (&state["section"]["phase"], &state["section"]);
        let at = phase["at"].as_u64().and_then(|at| usize::try_from(at).ok());
        match self {
            Self::Accepted => true,
            Self::Forward(step) => {
                phase["phase"] == "forward" && (at > Some(step) || (at == Some(step) && phase["begun"] == true))
            }
            Self::Backward(step) => phase["phase"] == "backward" && at <= Some(step),
            Self::Over => has_begun && section.is_null() && !state.is_null(),
        }
    }
}

/// Waits for the moment and strikes, while the agent is held. Tells what the agent had written down then.
pub(crate) fn strike(world: &mut World, instance: &Instance, moment: Moment, blow: impl FnOnce(&mut World)) -> String {
    let id = &instance.id;
    let deadline = Instant::now() + PATIENCE;
    let mut has_begun = false;
    loop {
        assert!(Instant::now() < deadline, "{moment:?} never comes");
        // Free until there is a section: holding it would only make everything late.
        let held = world.agent_pid(id).filter(|_| has_begun);
        held.inspect(|agent| signal(*agent, Signal::STOP));
        let state = state(world, id);
        let is_over = has_begun && state["section"].is_null() && !state.is_null();
        has_begun |= state["section"].is_object();
        if moment.has_come(&state, has_begun) {
            blow(world);
            held.inspect(|agent| signal(*agent, Signal::CONT));
            let phase = &state["section"]["phase"];
            return format!("{} {}, begun: {}", phase["phase"], phase["at"], phase["begun"]);
        }
        held.inspect(|agent| signal(*agent, Signal::CONT));
        assert!(!is_over, "the section was over before {moment:?} was seen");
        if has_begun {
            std::thread::sleep(GLANCE);
        }
    }
}
