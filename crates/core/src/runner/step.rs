//! What a step of a plan comes down to, as far as it can be said without doing anything.

use jiff::Timestamp;

use crate::account::Password;
use crate::finding::Cause;
use crate::id::{Generation, OperationId, TaskId, VersionId};
use crate::instance::{Engine, Observed, Operation};
use crate::operation::{Next, next};
use crate::plan::{Record, Step};
use crate::spec::EngineSpec;
use crate::task::{ImageFound, Order, StepEnd, StepRecord, Task};

/// An engine that has ended so often at its first start will not come up by being started once more.
const HOPELESS_RESTARTS: u32 = 3;

/// What the agent is asked at this moment on behalf of an operation.
pub fn order_of(operation: &Operation) -> Option<Order> {
    let Next::Do(at) = next(&operation.plan, &operation.phase) else { return None };
    match operation.plan.steps.get(at)? {
        Step::Ask { task, .. } => Some(Order { id: task_id(operation.id, at), task: Task::clone(task) }),
        Step::EnsurePlace | Step::DropPlace | Step::Run { .. } | Step::Record(_) => None,
    }
}

/// The id of the task that a step asks for.
pub fn task_id(operation: OperationId, at: usize) -> TaskId {
    TaskId(format!("{operation}-{at}"))
}

/// The operation that a task was asked for; `None` for questions outside of operations.
pub fn operation_of(task: &TaskId) -> Option<OperationId> {
    task.0.rsplit_once('-')?.0.parse().ok()
}

/// Whether an agent runs what it was told, judged by what it saw last.
pub(super) enum Running {
    Yes,
    NotYet(String),
    Never(Cause),
}

/// Whether the agent has made `generation` true and clients get in.
pub(super) fn runs(generation: Generation, observed: Option<&Observed>) -> Running {
    let Some(observed) = observed else { return Running::NotYet("its agent has not reported yet".to_owned()) };
    match &observed.engine {
        Engine::Failed { cause, restarts } if *restarts >= HOPELESS_RESTARTS => Running::Never(cause.clone()),
        Engine::Failed { cause, .. } => Running::NotYet(cause.message.clone()),
        Engine::Absent => Running::NotYet("the engine was not started".to_owned()),
        Engine::Starting => Running::NotYet("the engine does not answer".to_owned()),
        Engine::Serving if observed.generation < generation => {
            Running::NotYet("the engine still runs as it was before".to_owned())
        }
        Engine::Serving => Running::Yes,
    }
}

/// When the step that is being taken began.
pub(super) fn began_at(operation: &Operation) -> Timestamp {
    operation.steps.iter().rev().find(|s| s.end.is_none()).map_or(operation.updated_at, |s| s.began_at)
}

/// Writes down that step `at` begins.
pub(super) fn record_begin(operation: &mut Operation, at: usize, now: Timestamp) {
    if let Some(step) = operation.plan.steps.get(at) {
        let name = step.name().to_owned();
        operation.steps.push(StepRecord { name, began_at: now, ended_at: None, end: None, detail: String::new() });
    }
}

/// Writes down how the step that is being taken ended, and what the agent did in the course of it.
pub(super) fn record_end(
    operation: &mut Operation,
    end: StepEnd,
    detail: &str,
    within: Vec<StepRecord>,
    now: Timestamp,
) {
    if let Some(record) = operation.steps.iter_mut().rev().find(|s| s.end.is_none()) {
        record.ended_at = Some(now);
        record.end = Some(end);
        detail.clone_into(&mut record.detail);
    }
    operation.steps.extend(within);
}

/// Writes down how the undo of step `at` ended, in the record of the step itself.
pub(super) fn record_undo(operation: &mut Operation, at: usize, end: StepEnd, detail: &str, now: Timestamp) {
    let Some(name) = operation.plan.steps.get(at).map(Step::name) else { return };
    if let Some(record) = operation.steps.iter_mut().find(|s| s.name == name) {
        record.ended_at = Some(now);
        record.end = Some(end);
        if !detail.is_empty() {
            detail.clone_into(&mut record.detail);
        }
    }
}

/// Has an operation that is over keep no password, not even a sealed one.
pub(super) fn forget_passwords(operation: &mut Operation) {
    for step in &mut operation.plan.steps {
        if let Step::Ask { task, .. } = step
            && let Task::Accounts { request } = &mut **task
        {
            request.passwords_mut().into_iter().for_each(|password| *password = Password::Forgotten);
        }
    }
}

/// Says in the rest of the plan which image was found for what was asked without a digest, so that every later step
/// means the same one, and which number its program says.
pub(super) fn pin_image(operation: &mut Operation, version: VersionId, image: &ImageFound) {
    let pin = |spec: &mut EngineSpec| {
        if spec.version == version && spec.image.digest.is_none() {
            spec.image.digest = Some(image.digest.clone());
            spec.number = image.number;
        }
    };
    for step in &mut operation.plan.steps {
        match step {
            Step::Run { spec, .. } | Step::Record(Record::Runs { spec, .. }) => pin(spec),
            Step::Ask { task, .. } => match &mut **task {
                Task::Check { to: spec, .. }
                | Task::CheckBack { to: spec, .. }
                | Task::Verify { expect: spec }
                | Task::Configure { to: spec, .. } => pin(spec),
                Task::Section(section) => {
                    pin(&mut section.from);
                    pin(&mut section.to);
                }
                Task::Fetch { .. } | Task::Accounts { .. } | Task::Finalize { .. } => {}
            },
            Step::EnsurePlace | Step::DropPlace | Step::Record(_) => {}
        }
    }
}
