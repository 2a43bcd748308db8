//! Whether there is something to do for an operation at this moment.

use jiff::{SignedDuration, Timestamp};

use super::step::{Running, began_at, runs, task_id};
use crate::instance::{Observed, Operation};
use crate::operation::{Next, Phase, next};
use crate::plan::Step;
use crate::task::TaskResult;

/// Whether there is something to do for an operation.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// A server may claim it.
    Now,
    /// Something else has to happen first.
    Later,
    /// Something else has to happen first, and it takes so long that somebody should be told.
    Late(String),
}

/// Whether there is something to do for this operation, whose agent has answered this and said that of itself.
pub fn due(operation: &Operation, results: &[TaskResult], seen: Option<&Observed>, now: Timestamp) -> Due {
    match next(&operation.plan, &operation.phase) {
        Next::Begin(_) => Due::Now,
        Next::Undo(_) => when(has_paused(operation, now)),
        Next::Wait | Next::Nothing => Due::Later,
        Next::Do(at) => match operation.plan.steps.get(at) {
            None | Some(Step::EnsurePlace | Step::DropPlace | Step::Record(_)) => when(has_paused(operation, now)),
            Some(Step::Run { generation, within_seconds, .. }) => {
                let waits = matches!(runs(*generation, seen), Running::NotYet(_));
                when(!waits || is_over(operation, *within_seconds, now))
            }
            Some(Step::Ask { task, within_seconds }) => {
                let id = task_id(operation.id, at);
                match &**task {
                    _ if results.iter().any(|result| result.id == id) => Due::Now,
                    task if !task.is_given_up() => match is_over(operation, *within_seconds, now) {
                        true => Due::Late(format!(
                            "its agent has been asked for step {} for {within_seconds} s and has not answered",
                            operation.plan.steps.get(at).map_or("", Step::name)
                        )),
                        false => Due::Later,
                    },
                    _ => when(is_over(operation, *within_seconds, now)),
                }
            }
        },
    }
}

/// Whether the step that is being taken has had its time.
pub(super) fn is_over(operation: &Operation, within_seconds: u32, now: Timestamp) -> bool {
    now.duration_since(began_at(operation)) > SignedDuration::from_secs(i64::from(within_seconds))
}

/// Whether an attempt after a failed one may be made: after 1, 2, 4 and 8 seconds. What is written down in the future was written
/// before somebody set the clock, and nobody waits for that.
fn has_paused(operation: &Operation, now: Timestamp) -> bool {
    let attempt = match operation.phase {
        Phase::Forward { attempt, .. } | Phase::Backward { attempt, .. } => attempt,
        Phase::Done | Phase::Undone { .. } | Phase::Stuck { .. } | Phase::Abandoned { .. } => 0,
    };
    let pause = match attempt {
        0 => 0,
        n => 1_i64 << (n - 1).min(6),
    };
    let since = now.duration_since(operation.updated_at);
    since.is_negative() || since >= SignedDuration::from_secs(pause)
}

fn when(is_due: bool) -> Due {
    if is_due { Due::Now } else { Due::Later }
}
