//! Works on one operation for as long as there is something to do.

use std::sync::Arc;
use std::time::Duration;

use coffer_core::id::InstanceId;
use coffer_core::instance::{Instance, Operation};
use coffer_core::operation::{self, Illegal, Phase};
use coffer_core::runner::{self, Act, Change, LEASE};
use coffer_store::{Event, Work};
use jiff::Timestamp;
use tokio::runtime::Handle;
use tracing::{debug, error, info, warn};

use super::Runner;
use crate::metrics::End;
use crate::places;

/// Why the work on an operation was broken off. It goes on with the next claim.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Store(#[from] coffer_store::Error),
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// No attempt failed: that of another server goes on, or will.
    #[error("{0}")]
    Taken(String),
}

/// The event of a place that another server has for too long.
const TAKEN: &str = "place.taken";

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
            Err(Interrupted::Taken(message)) => {
                info!(operation = %id, message, "the work on an operation waits for a place");
                self.tell_taken(instance.id, message).await;
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
            let answer = match runner::awaited(operation) {
                Some(task) => self.app.store.result(operation.id, &task).await?,
                None => None,
            };
            let seen = self.app.contact.seen(instance.id);
            let act = runner::next_act(operation, instance, seen.as_ref(), answer, self.app.clock.now());
            let act = match act {
                Act::Ensure => {
                    let identity = self.identity(instance);
                    let placed = self.app.places.call(move |provider| provider.ensure(&identity)).await;
                    let placed = unless_taken(placed)?;
                    runner::placed(
                        operation,
                        placed.map(|_| ()).map_err(|failure| failure.cause()),
                        self.app.clock.now(),
                    )
                }
                Act::Drop => {
                    let (id, still) = (instance.id, self.still_claimed(operation));
                    let dropped = self.app.places.call(move |provider| provider.drop_place(id, &still)).await;
                    if let Err(places::Failure::Refused(coffer_provider::Error::Unwanted { .. })) = dropped {
                        return Err(coffer_store::Error::Fenced(operation.id).into());
                    }
                    let dropped = unless_taken(dropped)?;
                    runner::placed(operation, dropped.map_err(|failure| failure.cause()), self.app.clock.now())
                }
                act => act,
            };
            let Act::Move(event, changes) = act else { return Ok(()) };
            if !self.save(operation, event, &changes).await? {
                return Ok(());
            }
        }
    }

    /// Tells that a place is waited for, once, since it is tried again every few seconds.
    async fn tell_taken(&self, instance: InstanceId, message: String) {
        let event = Event { at: self.app.clock.now(), id: TAKEN.to_owned(), message };
        let told = async {
            let mut write = self.app.store.write().await?;
            write.insert_turn(instance, &event, TAKEN).await?;
            write.commit().await
        };
        if let Err(error) = told.await {
            error!(%instance, %error, "an event cannot be written");
        }
    }

    /// Whether the operation still is this server's, asked where the answer stays true: while nobody else can have the place, nobody
    /// can give up a removal. A server that was stopped may find that out only now.
    fn still_claimed(&self, operation: &Operation) -> impl Fn() -> bool + Send + use<> {
        let (app, operation, runtime) = (Arc::clone(&self.app), operation.clone(), Handle::current());
        move || match runtime.block_on(app.store.holds(&operation)) {
            Ok(holds) => holds,
            Err(error) => {
                error!(operation = %operation.id, %error, "it cannot be read whether a place is still to be dropped");
                false
            }
        }
    }

    /// Moves the operation and writes down where it stands then. False where there is nothing more to do at once.
    async fn save(
        &self,
        operation: &mut Operation,
        event: operation::Event,
        changes: &[Change],
    ) -> Result<bool, Interrupted> {
        let now = self.app.clock.now();
        let goes_on = runner::move_on(operation, event, now)?;
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
        // A new image is known to the catalogue from then on.
        if changes.iter().any(|change| matches!(change, Change::Image { .. })) {
            self.app.catalogue.reload(&self.app.store).await?;
        }
        Ok(goes_on)
    }
}

/// What the provider did, unless another server was at it.
fn unless_taken<T>(done: Result<T, places::Failure>) -> Result<Result<T, places::Failure>, Interrupted> {
    match done {
        Err(places::Failure::Refused(taken @ coffer_provider::Error::Taken { .. })) => {
            Err(Interrupted::Taken(taken.to_string()))
        }
        done => Ok(done),
    }
}

/// Until when a claim holds that is made now.
pub(crate) fn leased(now: Timestamp) -> Timestamp {
    now.saturating_add(LEASE).unwrap_or(now)
}
