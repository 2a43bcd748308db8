//! The critical section: everything between the stop of the old engine and the opening of the new one, as one list
//! that the agent works off alone, from its own journal, with the machine of [`crate::operation`].
//!
//! No round trip to the control plane and none of its database writes are in it, so a dead server, store or network
//! neither prolongs the gap nor leaves the database down.
//!
//! ```text
//!  Prepare    old serves; temporary measures are taken so that the stop is short and loses nothing
//!  Quiesce    writes wait; what is in the database is counted and sampled       <- the gap begins
//!  Stop       the old engine has ended cleanly
//!  Keep       the pre-image is complete
//!  Swap       configuration and record of the agent say the new engine
//!  Restore    of a rollback alone: the data are those of the pre-image that it goes back to
//!  Start      the new engine runs, reachable for the agent alone
//!  Prove      the new engine is what was asked for and holds what was counted
//!  Open       clients get in                     <- the gap ends; the point of no return is the begin of this
//! ```
//!
//! The undo of each step puts back what it may have touched: of Stop that the old engine runs, is proven and open; of
//! Quiesce that writes go on; of Prepare that no temporary measure is left. Restore has none: the undo of Keep puts back the
//! data that there were, from the pre-image that this very section has taken of them.
//!
//! A rollback of an engine that is down ([`Section::down`]) waits for that engine neither forward nor back: undone, it is as down
//! as it was.

use serde::{Deserialize, Serialize};

use crate::id::{Generation, OperationId};
use crate::operation::Plan;
use crate::spec::EngineSpec;

/// One step of a critical section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SectionStep {
    Prepare,
    Quiesce,
    Stop,
    Keep,
    Swap,
    Restore,
    Start,
    Prove,
    Open,
}

impl SectionStep {
    /// The name in records, logs and progress displays.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Quiesce => "quiesce",
            Self::Stop => "stop",
            Self::Keep => "keep",
            Self::Swap => "swap",
            Self::Restore => "restore",
            Self::Start => "start",
            Self::Prove => "prove",
            Self::Open => "open",
        }
    }

    /// Whether that it begins has to survive a power cut too: before the old engine is stopped, before another one may touch
    /// the data, and before clients may write.
    pub fn is_decisive(self) -> bool {
        match self {
            Self::Stop | Self::Restore | Self::Start | Self::Open => true,
            Self::Prepare | Self::Quiesce | Self::Keep | Self::Swap | Self::Prove => false,
        }
    }
}

/// A critical section: from which engine to which, and the steps in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// The operation it belongs to; names the pre-image.
    pub operation: OperationId,
    pub from: EngineSpec,
    pub to: EngineSpec,
    /// The generation that the agent runs when the section is done.
    pub generation: Generation,
    pub plan: Plan<SectionStep>,
    /// The operation whose pre-image the data become, where they do not stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<OperationId>,
    /// Whether the engine that ran before was down when this was planned, or did not stay up. It is asked as long as it does what
    /// it is asked. Where its data are given up, it is killed else, and no way back waits for it; where they are taken over, only
    /// one that has ended is gone without.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub down: bool,
}

impl Section {
    /// From one version to another, with a pre-image.
    pub fn upgrade(operation: OperationId, from: EngineSpec, to: EngineSpec, generation: Generation) -> Self {
        use SectionStep::{Keep, Open, Prepare, Prove, Quiesce, Start, Stop, Swap};
        Self::new(operation, from, to, generation, vec![Prepare, Quiesce, Stop, Keep, Swap, Start, Prove, Open])
    }

    /// The same version again, perhaps with other settings. Its data file is written by nobody else, so there is nothing
    /// to keep; and where nothing is another way, nothing to swap.
    pub fn restart(operation: OperationId, from: EngineSpec, to: EngineSpec, generation: Generation) -> Self {
        use SectionStep::{Open, Prepare, Prove, Quiesce, Start, Stop, Swap};
        let mut steps = vec![Prepare, Quiesce, Stop, Start, Prove, Open];
        if from != to {
            steps.insert(3, Swap);
        }
        Self::new(operation, from, to, generation, steps)
    }

    /// Back to an engine that there was before: on the pre-image of the operation that it `restores`, or, where there is none,
    /// on the data as they are. The data that there are now become this operation's own pre-image. With `down` also without the
    /// engine that ran last.
    pub fn rollback(
        operation: OperationId,
        from: EngineSpec,
        to: EngineSpec,
        generation: Generation,
        restores: Option<OperationId>,
        down: bool,
    ) -> Self {
        use SectionStep::{Keep, Open, Prepare, Prove, Quiesce, Restore, Start, Stop, Swap};
        let mut steps = vec![Prepare, Quiesce, Stop, Keep, Swap, Start, Prove, Open];
        if restores.is_some() {
            steps.insert(5, Restore);
        }
        Self { restores, down, ..Self::new(operation, from, to, generation, steps) }
    }

    /// Whether the engine that ran before is done without in any case, and its data are given up.
    pub fn gives_up_on_it(&self) -> bool {
        self.down && self.restores.is_some()
    }

    fn new(
        operation: OperationId,
        from: EngineSpec,
        to: EngineSpec,
        generation: Generation,
        steps: Vec<SectionStep>,
    ) -> Self {
        // Once Open has begun a client may have written to the new engine.
        let point_of_no_return = steps.len() - 1;
        let plan = Plan { steps, point_of_no_return, notes: Vec::new() };
        Self { operation, from, to, generation, plan, restores: None, down: false }
    }
}
