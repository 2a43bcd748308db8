//! What a server does for an operation that it has claimed, decided from what is written down and what agents say.
//!
//! ```text
//!  due? -> claim (epoch + 1, lease) -> next_act -> [have the provider do it -> placed] -> move_on -> save --+
//!                                         ^                                                                 |
//!                                         +------------ while there is something to do ---------------------+
//! ```
//!
//! Reading, asking the provider and saving are the server's. What is saved is saved with its changes in one transaction,
//! and only while the epoch of the claim is still the operation's.

mod due;
mod step;

use jiff::{SignedDuration, Timestamp};

pub use due::{Due, due};
pub use step::{operation_of, order_of, task_id};

use crate::account::Answer;
use crate::datastore::Number;
use crate::finding::{Cause, Finding, Severity, refuses};
use crate::gap::{Circumstances, Gap, Way};
use crate::group::Configured;
use crate::id::{Digest, Generation, TaskId, VersionId};
use crate::instance::{Instance, Observed, Operation};
use crate::operation::{Event, Illegal, Next, Phase, apply, next};
use crate::plan::{Record, Step};
use crate::spec::EngineSpec;
use crate::task::{Learned, Outcome, StepEnd, Task, TaskResult};
use due::is_over;
use serde::{Deserialize, Serialize};
use step::{Running, forget_passwords, pin_image, record_begin, record_end, record_undo, runs};

/// How long a claim holds when its claimant says nothing. Every save says something. It is how long an operation stands
/// still after the server that worked on it was killed; a step that takes longer may be taken twice, which steps are made for.
pub const LEASE: SignedDuration = SignedDuration::from_secs(15);

/// What an agent is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desire {
    pub generation: Generation,
    pub engine: EngineSpec,
}

/// What else becomes true when an operation moves, in the same transaction.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The agent is to run this.
    Desire(Desire),
    /// This image was fetched for the version, and its program says this number.
    Image { version: VersionId, digest: Digest, number: Number },
    /// Clients could not write for so long.
    Measured(Gap),
    /// The instance has served.
    Built { generation: Generation },
    /// The instance runs this, and it was proven; and where its settings come from, where that is another way.
    Runs(Desire, Option<Configured>),
    /// The instance is gone.
    Deleted,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Nothing yet, or nothing any more: the claim is given back.
    Wait,
    /// The provider makes the place; what comes of it is for [`placed`].
    Ensure,
    /// The provider drops the place; what comes of it is for [`placed`].
    Drop,
    /// This has happened, and that becomes true with it.
    Move(Event, Vec<Change>),
}

/// The task whose answer decides what is done next, if one does.
pub fn awaited(operation: &Operation) -> Option<TaskId> {
    order_of(operation).map(|order| order.id)
}

/// What is to be done now, and where it is decided at once, the record of it in the operation. `answer` is what the agent
/// said to the task that is [`awaited`], `seen` what it saw last.
pub fn next_act(
    operation: &mut Operation,
    instance: &Instance,
    seen: Option<&Observed>,
    answer: Option<TaskResult>,
    now: Timestamp,
) -> Act {
    match next(&operation.plan, &operation.phase) {
        Next::Begin(at) => begin(operation, at, now),
        Next::Do(at) => perform(operation, instance, at, seen, answer, now),
        // Tasks leave nothing behind, and what an agent runs goes with its place.
        Next::Undo(at) => match operation.plan.steps.get(at) {
            Some(Step::EnsurePlace) => Act::Drop,
            _ => Act::Move(Event::UndoSucceeded, Vec::new()),
        },
        Next::Wait | Next::Nothing => Act::Wait,
    }
}

fn begin(operation: &mut Operation, at: usize, now: Timestamp) -> Act {
    record_begin(operation, at, now);
    let changes = match operation.plan.steps.get(at) {
        // In the transaction in which the step begins: from then on the agent is told.
        Some(Step::Run { spec, generation, .. }) => {
            vec![Change::Desire(Desire { generation: *generation, engine: (**spec).clone() })]
        }
        _ => Vec::new(),
    };
    Act::Move(Event::Begun, changes)
}

/// Does the step, or looks whether it is done.
fn perform(
    operation: &mut Operation,
    instance: &Instance,
    at: usize,
    seen: Option<&Observed>,
    answer: Option<TaskResult>,
    now: Timestamp,
) -> Act {
    let Some(step) = operation.plan.steps.get(at).cloned() else { return Act::Wait };
    match step {
        Step::EnsurePlace => Act::Ensure,
        Step::DropPlace => Act::Drop,
        Step::Record(record) => {
            let change = match record {
                Record::Built { generation } => Change::Built { generation },
                Record::Runs { spec, generation, configured, before: _ } => {
                    Change::Runs(Desire { generation, engine: *spec }, configured.map(|configured| *configured))
                }
                Record::Deleted => Change::Deleted,
            };
            settle(operation, Ok(()), vec![change], now)
        }
        Step::Run { generation, within_seconds, .. } => {
            let outcome = match runs(generation, seen) {
                Running::Yes => Ok(()),
                Running::Never(cause) => Err(cause),
                Running::NotYet(why) if is_over(operation, within_seconds, now) => {
                    let message = format!("the engine did not serve within {within_seconds} s: {why}");
                    Err(Cause::new(message, format!("look at it: coffer instance operations {}", instance.id)))
                }
                Running::NotYet(_) => return Act::Wait,
            };
            settle(operation, outcome, Vec::new(), now)
        }
        Step::Ask { task, within_seconds } => match answer {
            Some(result) => take_answer(operation, instance, &task, result.outcome, now),
            None if !task.is_given_up() => Act::Wait,
            None if is_over(operation, within_seconds, now) => {
                let name = operation.plan.steps.get(at).map_or("", Step::name);
                let message = format!("the agent did not finish the step {name} within {within_seconds} s");
                let hint = format!("look at it: coffer instance show {}", instance.id);
                settle(operation, Err(Cause::new(message, hint)), Vec::new(), now)
            }
            None => Act::Wait,
        },
    }
}

/// What came of what the provider was asked for.
pub fn placed(operation: &mut Operation, outcome: Result<(), Cause>, now: Timestamp) -> Act {
    let Next::Undo(at) = next(&operation.plan, &operation.phase) else {
        return settle(operation, outcome, Vec::new(), now);
    };
    let event = match outcome {
        Ok(()) => {
            record_undo(operation, at, StepEnd::Undone, "", now);
            Event::UndoSucceeded
        }
        Err(cause) => {
            record_undo(operation, at, StepEnd::UndoFailed, &cause.message, now);
            Event::UndoFailed(cause)
        }
    };
    Act::Move(event, Vec::new())
}

/// Takes over what the agent answered to the task of the current step.
fn take_answer(operation: &mut Operation, instance: &Instance, task: &Task, outcome: Outcome, now: Timestamp) -> Act {
    let (outcome, learned) = match outcome {
        Outcome::Done(learned) => (Ok(()), *learned),
        Outcome::Failed { cause, learned } => (Err(cause), *learned),
    };
    let Learned { image, findings, preview: _, steps, gap_us, circumstances, clients, accounts, loss: _ } = learned;
    let outcome = match outcome {
        // Whatever the agent makes of it: a reason to refuse is one.
        Ok(()) if matches!(task, Task::Check { .. } | Task::CheckBack { .. }) && refuses(&findings) => {
            Err(refusal(&findings))
        }
        Ok(()) => refused_accounts(accounts).map_or(Ok(()), Err),
        failed @ Err(_) => failed,
    };
    let told: Vec<_> = outcome.as_ref().err().map(|cause: &Cause| cause.findings.clone()).unwrap_or_default();
    for finding in findings.into_iter().chain(told) {
        if !operation.findings.contains(&finding) {
            operation.findings.push(finding);
        }
    }
    operation.gap_us = gap_us.or(operation.gap_us);
    operation.clients = clients.or(operation.clients);
    let measured = outcome.as_ref().ok().and_then(|()| measured(operation, task, circumstances?, now));
    let mut changes: Vec<_> = measured.map(Change::Measured).into_iter().collect();
    let mut detail = String::new();
    if let Some(image) = image {
        let version: VersionId = operation.target.unwrap_or(instance.version);
        pin_image(operation, version, &image);
        detail = format!("{} from {}", image.digest, image.source);
        changes.push(Change::Image { version, digest: image.digest, number: image.number });
    }
    if let Err(cause) = &outcome {
        detail.clone_from(&cause.message);
    }
    let end = if outcome.is_ok() { StepEnd::Done } else { StepEnd::Failed };
    record_end(operation, end, &detail, steps, now);
    Act::Move(outcome.map_or_else(Event::Failed, |()| Event::Succeeded), changes)
}

/// What the section has told of its gap, for the history.
fn measured(operation: &Operation, task: &Task, circumstances: Circumstances, at: Timestamp) -> Option<Gap> {
    let Task::Section(section) = task else { return None };
    Some(Gap {
        operation: operation.id,
        instance: operation.instance,
        project: operation.project.clone(),
        kind: operation.kind,
        way: Way::of(section),
        circumstances,
        gap_us: operation.gap_us?,
        at,
    })
}

/// Writes down how the current step ended.
fn settle(operation: &mut Operation, outcome: Result<(), Cause>, changes: Vec<Change>, now: Timestamp) -> Act {
    let event = match outcome {
        Ok(()) => {
            record_end(operation, StepEnd::Done, "", Vec::new(), now);
            Event::Succeeded
        }
        Err(cause) => {
            record_end(operation, StepEnd::Failed, &cause.message, Vec::new(), now);
            Event::Failed(cause)
        }
    };
    Act::Move(event, changes)
}

/// Moves the operation, to be saved. False where the same is to be tried once more: not at once, since what failed just now
/// will fail again.
pub fn move_on(operation: &mut Operation, event: Event, now: Timestamp) -> Result<bool, Illegal> {
    let after = apply(&operation.plan, &operation.phase, event)?;
    let before = std::mem::replace(&mut operation.phase, after);
    if !operation.is_open() {
        forget_passwords(operation);
    }
    operation.updated_at = now;
    Ok(!is_again(&before, &operation.phase))
}

/// Whether the same step is to be tried, or undone, once more.
fn is_again(before: &Phase, after: &Phase) -> bool {
    match (before, after) {
        (Phase::Forward { attempt: a, .. }, Phase::Forward { attempt: b, .. })
        | (Phase::Backward { attempt: a, .. }, Phase::Backward { attempt: b, .. }) => b > a,
        _ => false,
    }
}

/// Why the agent did not make what it was asked for, though it is there.
fn refused_accounts(answer: Option<Answer>) -> Option<Cause> {
    let Some(Answer::Refused(refusal)) = answer else { return None };
    Some(Cause::new(format!("the databases and accounts were not made: {refusal}"), "create another instance"))
}

fn refusal(findings: &[Finding]) -> Cause {
    let reasons: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).cloned().collect();
    let message = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Cause { message, hint: "do what is said there, then ask again".to_owned(), findings: reasons }
}
