//! How a change moves: the machine that works off a plan, forward to the end or back to the beginning.
//!
//! ```text
//!              Begun            Succeeded                    (last step) Succeeded
//!  Forward{at} -----> Forward{at, begun} -----> Forward{at+1} ... ----------------> Done
//!                        |        |
//!     Failed, before the |        | Failed, past the point of no return: again, and
//!     point of no return |        | after the last attempt
//!                        v        v
//!              Backward{at}      Stuck{at} --Retry--> Forward{at, begun}
//!                 |   ^  \
//!         Undone  |   |   \ UndoFailed: again, and after the last attempt
//!                 v   |    v
//!      Backward{at-1} |   Stuck{at, undoing} --Retry--> Backward{at}
//!                 |
//!                 v (first step undone)
//!              Undone                                             Stuck --Abandon--> Abandoned
//! ```
//!
//! Rules that hold for every plan, whoever is killed at whatever moment:
//! - That a step begins is recorded before it acts. After a crash a step that had begun is done again: steps and undos
//!   are idempotent.
//! - The step that failed is undone too, because it may have acted in part.
//! - Once the step at the point of no return has begun, nothing is undone any more.
//! - A cancel comes between two steps, before the point of no return is reached. A step that was begun may be in the
//!   hands of somebody else, who may be past a point of no return of their own; who does a step may give it up by
//!   reporting that it failed. And what stands right before the point of no return may have been opened to clients, such
//!   as a section before its record.
//!
//! The same machine drives the control plane's plans and the agent's critical section.

use serde::{Deserialize, Serialize};

use crate::finding::Cause;

/// How often a step past the point of no return, or an undo, is tried before a person has to decide.
pub const ATTEMPTS: u32 = 5;

/// The steps, decided completely before anything is touched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan<S> {
    /// Never empty.
    pub steps: Vec<S>,
    /// The index of the first step that is not undone once it has begun. `steps.len()` where all can be undone.
    pub point_of_no_return: usize,
    /// What was considered, and what will not be done: for the reader of the plan.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Where a plan stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// Working towards the end; `begun` says whether step `at` may have acted already.
    Forward { at: usize, begun: bool, attempt: u32 },
    /// Working back to the beginning; step `at` is the next to be undone.
    Backward { at: usize, attempt: u32, cause: Cause },
    /// Wholly new.
    Done,
    /// Wholly old.
    Undone { cause: Cause },
    /// Neither, and it needs a person: try again, or give it up.
    Stuck {
        at: usize,
        cause: Cause,
        /// Why it was being undone, where it was on the way back.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undoing: Option<Cause>,
    },
    /// Neither, and nobody works on it any more, because a person has given it up. What has been done stays as it is.
    Abandoned { at: usize, cause: Cause },
}

impl Phase {
    /// Where every plan begins.
    pub const START: Self = Self::Forward { at: 0, begun: false, attempt: 0 };

    /// Whether nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Undone { .. } | Self::Abandoned { .. })
    }

    /// Why it did not go well, if it did not.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Backward { cause, .. }
            | Self::Undone { cause }
            | Self::Stuck { cause, .. }
            | Self::Abandoned { cause, .. } => Some(cause),
            Self::Forward { .. } | Self::Done => None,
        }
    }
}

/// What has to happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Record that the step begins, then ask again.
    Begin(usize),
    /// Do the step, or do it again.
    Do(usize),
    /// Undo the step, or undo it again.
    Undo(usize),
    /// A person has to choose.
    Wait,
    /// Nothing: it is over.
    Nothing,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The beginning of the step is about to be recorded.
    Begun,
    /// The step did what it is for.
    Succeeded,
    /// The step did not, or only in part.
    Failed(Cause),
    /// The undo did what it is for.
    UndoSucceeded,
    /// The undo did not, or only in part.
    UndoFailed(Cause),
    /// A person wants it undone. Fits only between two steps, before the point of no return.
    Cancel(Cause),
    /// A person wants the stuck step tried again.
    Retry,
    /// A person gives up what is stuck. It undoes nothing, and does nothing more.
    Abandon,
}

/// The event does not fit the phase. Whoever gets this has missed a write of somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} does not fit a plan that is {phase}")]
pub struct Illegal {
    pub event: String,
    pub phase: String,
}

/// What has to happen now with this plan in this phase.
pub fn next<S>(plan: &Plan<S>, phase: &Phase) -> Next {
    match phase {
        Phase::Forward { at, .. } if *at >= plan.steps.len() => Next::Nothing,
        Phase::Forward { at, begun: false, .. } => Next::Begin(*at),
        Phase::Forward { at, begun: true, .. } => Next::Do(*at),
        Phase::Backward { at, .. } => Next::Undo(*at),
        Phase::Stuck { .. } => Next::Wait,
        Phase::Done | Phase::Undone { .. } | Phase::Abandoned { .. } => Next::Nothing,
    }
}

/// The phase after the event.
pub fn apply<S>(plan: &Plan<S>, phase: &Phase, event: Event) -> Result<Phase, Illegal> {
    let illegal = |event: &Event| Illegal { event: format!("{event:?}"), phase: format!("{phase:?}") };
    Ok(match (phase, event) {
        (&Phase::Forward { at, begun: false, attempt }, Event::Begun) => Phase::Forward { at, begun: true, attempt },
        (&Phase::Forward { at, begun: true, .. }, Event::Succeeded) => {
            if at + 1 == plan.steps.len() {
                Phase::Done
            } else {
                Phase::Forward { at: at + 1, begun: false, attempt: 0 }
            }
        }
        (&Phase::Forward { at, begun: true, attempt }, Event::Failed(cause)) => {
            if at < plan.point_of_no_return {
                Phase::Backward { at, attempt: 0, cause }
            } else if attempt + 1 < ATTEMPTS {
                Phase::Forward { at, begun: true, attempt: attempt + 1 }
            } else {
                Phase::Stuck { at, cause, undoing: None }
            }
        }
        (&Phase::Forward { at, begun: false, .. }, Event::Cancel(cause)) if at < plan.point_of_no_return => {
            match at.checked_sub(1) {
                Some(before) => Phase::Backward { at: before, attempt: 0, cause },
                None => Phase::Undone { cause },
            }
        }
        (Phase::Backward { at, cause, .. }, Event::UndoSucceeded) => match at.checked_sub(1) {
            Some(before) => Phase::Backward { at: before, attempt: 0, cause: cause.clone() },
            None => Phase::Undone { cause: cause.clone() },
        },
        (Phase::Backward { at, attempt, cause }, Event::UndoFailed(why)) => {
            if attempt + 1 < ATTEMPTS {
                Phase::Backward { at: *at, attempt: attempt + 1, cause: cause.clone() }
            } else {
                // Both are needed at 3 am: what went wrong first, and what keeps it from being put back.
                let both = Cause {
                    message: format!("{}; and the way back failed: {}", cause.message, why.message),
                    hint: why.hint,
                    findings: cause.findings.clone(),
                };
                Phase::Stuck { at: *at, cause: both, undoing: Some(cause.clone()) }
            }
        }
        (&Phase::Stuck { at, undoing: None, .. }, Event::Retry) => Phase::Forward { at, begun: true, attempt: 0 },
        (Phase::Stuck { at, undoing: Some(cause), .. }, Event::Retry) => {
            Phase::Backward { at: *at, attempt: 0, cause: cause.clone() }
        }
        (Phase::Stuck { at, cause, .. }, Event::Abandon) => Phase::Abandoned { at: *at, cause: cause.clone() },
        (_, event) => return Err(illegal(&event)),
    })
}
