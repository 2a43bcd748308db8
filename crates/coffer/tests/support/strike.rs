//! Striking at a moment of an upgrade: when a step of its section begins, or is undone.
//!
//! When that is, is told by what the agent has written down, never by a clock. The agent's main thread, which alone writes it, is
//! stopped at every system call, so that what is written is seen before anything else is done: no step is too short to be met.

use std::os::unix::fs::MetadataExt as _;
use std::time::Instant;

use serde_json::Value;

use super::held::Held;
use super::unharmed::state;
use super::world::{Instance, PATIENCE, World};

/// The steps of a section, in their order.
pub(crate) const STEPS: [&str; 8] = ["prepare", "quiesce", "stop", "keep", "swap", "start", "prove", "open"];

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// As soon as the request was accepted.
    Accepted,
    /// When this step has begun, by its place among [`STEPS`], and nothing was done for it yet.
    Forward(usize),
    /// When the step `start` has made the new engine's process.
    Starting,
    /// When this step is to be undone.
    Backward(usize),
    /// When the section is over and the control plane has not recorded it yet.
    Over,
}

/// The place of `start` among [`STEPS`].
const START: usize = 5;

impl Moment {
    /// Whether it is now, as far as what is written down tells. `has_begun`: there was a section.
    fn is_now(self, state: &Value, has_begun: bool) -> bool {
        let phase = &state["section"]["phase"];
        let is_at = |kind: &str, step: usize| phase["phase"] == kind && phase["at"] == step;
        match self {
            Self::Accepted => true,
            Self::Starting => Self::Forward(START).is_now(state, has_begun),
            Self::Forward(step) => is_at("forward", step) && phase["begun"] == true,
            Self::Backward(step) => is_at("backward", step),
            Self::Over => has_begun && state["section"].is_null(),
        }
    }
}

/// Asks for something that has a section, waits for the moment and strikes, while the agent is held. Tells what the agent had
/// written down then.
pub(crate) fn strike(
    world: &mut World,
    instance: &Instance,
    moment: Moment,
    ask: impl FnOnce(&mut World),
    blow: impl FnOnce(&mut World),
) -> String {
    let id = &instance.id;
    let mut agent = Held::main_thread(world.agent_pid(id).expect("an agent"));
    ask(world);
    let file = world.volume(id).join("agent/state.json");
    let deadline = Instant::now() + PATIENCE;
    let (mut seen, mut written, mut has_begun) = (None, Value::Null, false);
    loop {
        // What is written takes the place of what was there, so it is another file.
        let inode = fs_err::metadata(&file).expect("what the agent has written down").ino();
        if seen.replace(inode) != Some(inode) {
            written = state(world, id);
            has_begun |= written["section"].is_object();
        }
        let phase = &written["section"]["phase"];
        if moment.is_now(&written, has_begun) && (moment != Moment::Starting || world.engine_pid(id).is_some()) {
            blow(world);
            return format!("{} {}, begun: {}", phase["phase"], phase["at"], phase["begun"]);
        }
        assert!(!has_begun || phase.is_object(), "the section was over, and {moment:?} never came");
        assert!(Instant::now() < deadline, "{moment:?} never comes");
        assert!(agent.step().is_some(), "the agent has ended before {moment:?}");
    }
}
