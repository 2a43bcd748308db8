//! Works on one operation for as long as there is something to do.

use std::time::Duration;

use coffer_core::account::Answer;
use coffer_core::finding::{Cause, refuses};
use coffer_core::id::VersionId;
use coffer_core::instance::{Instance, Operation};
use coffer_core::operation::{self, Illegal, Next, Phase, apply, next};
use coffer_core::plan::{Record, Step};
use coffer_core::task::{Learned, Outcome, StepEnd, Task};
use coffer_store::{Change, Desire, Work};
use jiff::{SignedDuration, Timestamp};
use tracing::{debug, error, info, warn};

use super::due::is_over;
use super::step::{Running, forget_passwords, pin_image, record_begin, record_end, record_undo, runs, task_id};
use crate::metrics::End;

use super::{ProviderFailure, Runner};

/// How long a claim holds when its claimant says nothing. Every save says something. It is how long an operation stands
/// still after the server that worked on it was killed; a step that takes longer may be taken twice, which steps are made for.
const LEASE: SignedDuration = SignedDuration::from_secs(15);

/// Why the work on an operation was broken off. It goes on with the next claim.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] coffer_store::Error),
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

impl Runner {
    /// Claims the operation and works on it until it has to wait or is over.
    pub(super) async fn drive(&self, work: Work) {
        let Work { operation: Operation { id, .. }, instance, .. } = work;
        let now = self.app.clock.now();
        let claimed = self.app.store.claim(id, now, leased(now)).await;
        let mut operation = match claimed {
            Ok(Some(operation)) => operation,
            Ok(None) => return,
            Err(error) => return error!(operation = %id, %error, "an operation cannot be claimed"),
        };
        match self.advance(&mut operation, &instance).await {
            Ok(()) => {}
            Err(Interrupted::Store(coffer_store::Error::Fenced(_))) => {
                return info!(operation = %id, "somebody else works on this operation now");
            }
            Err(error) => error!(operation = %id, %error, "the work on an operation was broken off"),
        }
        if operation.is_open()
            && let Err(error) = self.app.store.release(&operation).await
        {
            // The lease ends by itself.
            warn!(operation = %id, %error, "an operation cannot be released");
        }
    }

    async fn advance(&self, operation: &mut Operation, instance: &Instance) -> Result<(), Interrupted> {
        loop {
            let attempt_before = operation.phase.clone();
            match next(&operation.plan, &operation.phase) {
                Next::Begin(at) => self.begin(operation, at).await?,
                Next::Do(at) => {
                    if !self.perform(operation, instance, at).await? {
                        return Ok(());
                    }
                }
                Next::Undo(at) => self.undo(operation, instance, at).await?,
                Next::Wait | Next::Nothing => return Ok(()),
            }
            if is_again(&attempt_before, &operation.phase) {
                // Not at once: what failed just now will fail again.
                return Ok(());
            }
        }
    }

    async fn begin(&self, operation: &mut Operation, at: usize) -> Result<(), Interrupted> {
        let now = self.app.clock.now();
        record_begin(operation, at, now);
        let changes = match operation.plan.steps.get(at) {
            // In the transaction in which the step begins: from then on the agent is told.
            Some(Step::Run { spec, generation, .. }) => {
                vec![Change::Desire(Desire { generation: *generation, engine: (**spec).clone() })]
            }
            _ => Vec::new(),
        };
        self.save(operation, operation::Event::Begun, &changes).await
    }

    /// Does the step, or looks whether it is done. False when it has to be waited for.
    async fn perform(&self, operation: &mut Operation, instance: &Instance, at: usize) -> Result<bool, Interrupted> {
        let now = self.app.clock.now();
        let Some(step) = operation.plan.steps.get(at).cloned() else { return Ok(false) };
        match step {
            Step::EnsurePlace => {
                let identity = self.identity(instance);
                let placed = self.with_provider(move |provider| provider.ensure(&identity)).await;
                self.settle(operation, placed.map(|_| ()).map_err(cause_of), &[]).await?;
            }
            Step::DropPlace => {
                let id = instance.id;
                let dropped = self.with_provider(move |provider| provider.drop_place(id)).await;
                self.settle(operation, dropped.map_err(cause_of), &[]).await?;
            }
            Step::Record(record) => {
                let change = match record {
                    Record::Built { generation } => Change::Built { generation },
                    Record::Runs { spec, generation, configured, before: _ } => {
                        Change::Runs(Desire { generation, engine: *spec }, configured.map(|configured| *configured))
                    }
                    Record::Deleted => Change::Deleted,
                };
                self.settle(operation, Ok(()), &[change]).await?;
            }
            Step::Run { generation, within_seconds, .. } => {
                let seen = self.app.contact.seen(instance.id);
                let outcome = match runs(generation, seen.as_ref()) {
                    Running::Yes => Ok(()),
                    Running::Never(cause) => Err(cause),
                    Running::NotYet(why) if is_over(operation, within_seconds, now) => {
                        let message = format!("the engine did not serve within {within_seconds} s: {why}");
                        Err(Cause::new(message, format!("look at it: coffer instance operations {}", instance.id)))
                    }
                    Running::NotYet(_) => return Ok(false),
                };
                self.settle(operation, outcome, &[]).await?;
            }
            Step::Ask { task, within_seconds } => {
                let result = self.app.store.result(operation.id, &task_id(operation.id, at)).await?;
                match result {
                    Some(result) => self.take_answer(operation, instance, &task, result.outcome).await?,
                    None if !task.is_given_up() => return Ok(false),
                    None if is_over(operation, within_seconds, now) => {
                        let name = operation.plan.steps.get(at).map_or("", Step::name);
                        let message = format!("the agent did not finish the step {name} within {within_seconds} s");
                        let hint = format!("look at it: coffer instance show {}", instance.id);
                        self.settle(operation, Err(Cause::new(message, hint)), &[]).await?;
                    }
                    None => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    /// Undoes what the step may have done. Tasks leave nothing behind, and what an agent runs goes with its place.
    async fn undo(&self, operation: &mut Operation, instance: &Instance, at: usize) -> Result<(), Interrupted> {
        if !matches!(operation.plan.steps.get(at), Some(Step::EnsurePlace)) {
            return self.save(operation, operation::Event::UndoSucceeded, &[]).await;
        }
        let id = instance.id;
        let dropped = self.with_provider(move |provider| provider.drop_place(id)).await;
        let now = self.app.clock.now();
        let event = match dropped {
            Ok(()) => {
                record_undo(operation, at, StepEnd::Undone, "", now);
                operation::Event::UndoSucceeded
            }
            Err(failure) => {
                record_undo(operation, at, StepEnd::UndoFailed, &failure.to_string(), now);
                operation::Event::UndoFailed(cause_of(failure))
            }
        };
        self.save(operation, event, &[]).await
    }

    /// Takes over what the agent answered to the task of the current step.
    async fn take_answer(
        &self,
        operation: &mut Operation,
        instance: &Instance,
        task: &Task,
        outcome: Outcome,
    ) -> Result<(), Interrupted> {
        let (outcome, learned) = match outcome {
            Outcome::Done(learned) => (Ok(()), *learned),
            Outcome::Failed { cause, learned } => (Err(cause), *learned),
        };
        let Learned { image, findings, preview: _, steps, gap_us, clients, accounts, loss: _ } = learned;
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
        let mut changes = Vec::new();
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
        record_end(operation, end, &detail, steps, self.app.clock.now());
        let event = outcome.map_or_else(operation::Event::Failed, |()| operation::Event::Succeeded);
        self.save(operation, event, &changes).await?;
        if !changes.is_empty() {
            self.app.catalogue.reload(&self.app.store).await?;
        }
        Ok(())
    }

    /// Writes down how the current step ended.
    async fn settle(
        &self,
        operation: &mut Operation,
        outcome: Result<(), Cause>,
        changes: &[Change],
    ) -> Result<(), Interrupted> {
        let now = self.app.clock.now();
        let event = match outcome {
            Ok(()) => {
                record_end(operation, StepEnd::Done, "", Vec::new(), now);
                operation::Event::Succeeded
            }
            Err(cause) => {
                record_end(operation, StepEnd::Failed, &cause.message, Vec::new(), now);
                operation::Event::Failed(cause)
            }
        };
        self.save(operation, event, changes).await
    }

    /// Moves the operation and writes down where it stands then.
    async fn save(
        &self,
        operation: &mut Operation,
        event: operation::Event,
        changes: &[Change],
    ) -> Result<(), Interrupted> {
        operation.phase = apply(&operation.plan, &operation.phase, event)?;
        if !operation.is_open() {
            forget_passwords(operation);
        }
        let now = self.app.clock.now();
        operation.updated_at = now;
        self.app.store.save(operation, changes, leased(now)).await?;
        let (id, instance, kind) = (operation.id, operation.instance, operation.kind.name());
        if let (Phase::Done | Phase::Undone { .. }, Some(clients)) = (&operation.phase, &operation.clients) {
            self.app.metrics.clients_seen(operation.kind, clients);
        }
        match &operation.phase {
            Phase::Forward { .. } | Phase::Backward { .. } => {
                debug!(operation = %id, %instance, kind, phase = ?operation.phase, "operation moved");
            }
            Phase::Done => {
                info!(operation = %id, %instance, kind, gap_us = operation.gap_us, "operation done");
                self.app.metrics.operation_ended(operation.kind, End::Done);
                if let Some(gap) = operation.gap_us {
                    self.app.metrics.gap_measured(operation.kind, Duration::from_micros(gap));
                }
            }
            Phase::Undone { cause } => {
                warn!(operation = %id, %instance, kind, %cause, "operation undone");
                self.app.metrics.operation_ended(operation.kind, End::Undone);
            }
            Phase::Stuck { cause, .. } => {
                error!(operation = %id, %instance, kind, %cause, "operation stuck");
                self.app.metrics.operation_ended(operation.kind, End::Stuck);
            }
            // Not by a runner: a person gives up, and what is given up is stuck.
            Phase::Abandoned { cause, .. } => warn!(operation = %id, %instance, kind, %cause, "operation abandoned"),
        }
        if changes.contains(&Change::Deleted) {
            self.app.contact.forget(instance);
        } else {
            self.app.contact.wake_agent(instance);
        }
        Ok(())
    }
}

/// Until when a claim holds that is made now.
pub(crate) fn leased(now: Timestamp) -> Timestamp {
    now.saturating_add(LEASE).unwrap_or(now)
}

/// Whether the same step is to be tried, or undone, once more.
fn is_again(before: &Phase, after: &Phase) -> bool {
    match (before, after) {
        (Phase::Forward { attempt: a, .. }, Phase::Forward { attempt: b, .. })
        | (Phase::Backward { attempt: a, .. }, Phase::Backward { attempt: b, .. }) => b > a,
        _ => false,
    }
}

fn cause_of(failure: ProviderFailure) -> Cause {
    use std::error::Error as _;
    // The hint is in the sentence already; what the system said is not.
    let source = failure.source().map(|source| format!(" ({source})")).unwrap_or_default();
    Cause::new(format!("{failure}{source}"), "")
}

/// Why the agent did not make what it was asked for, though it is there.
fn refused_accounts(answer: Option<Answer>) -> Option<Cause> {
    let Some(Answer::Refused(refusal)) = answer else { return None };
    Some(Cause::new(format!("the databases and accounts were not made: {refusal}"), "create another instance"))
}

fn refusal(findings: &[coffer_core::finding::Finding]) -> Cause {
    let reasons: Vec<_> =
        findings.iter().filter(|f| f.severity == coffer_core::finding::Severity::Error).cloned().collect();
    let message = reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Cause { message, hint: "do what is said there, then ask again".to_owned(), findings: reasons }
}
