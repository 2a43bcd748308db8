//! What a person does about an operation that is stuck: looked at beforehand, and done.

use coffer_core::id::InstanceId;
use coffer_core::operation::Event;
use coffer_core::runner::move_on;
use coffer_core::stuck::{Choice, Offer, Open, offer};
use coffer_store::{Event as StoredEvent, Work};

use super::{App, Error, Thing, needs_write, scope_of};
use crate::caller::Caller;
use crate::metrics::End;
use crate::runner::leased;

impl App {
    /// What one of the choices would do and cost. Changes nothing.
    pub async fn preview_choice(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<Offer, Error> {
        Ok(self.offered(caller, id, choice).await?.1)
    }

    /// Makes one of the choices, as it is previewed.
    pub async fn choose(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<(), Error> {
        let (work, offer) = self.offered(caller, id, choice).await?;
        let kind = work.operation.kind;
        let busy = || Error::Busy { instance: id, kind };
        let now = self.clock.now();
        let is_section = !matches!(work.operation.phase, coffer_core::operation::Phase::Stuck { .. });
        if is_section {
            // Its agent's alone, so there is nothing to be written but that somebody has asked.
            self.contact.resume(id);
        } else {
            // Nobody has a claim on what is stuck, unless somebody else decides just now.
            let mut operation = self.store.claim(work.operation.id, now, leased(now)).await?.ok_or_else(busy)?;
            let event = match choice {
                Choice::Resume => Event::Retry,
                Choice::Abandon => Event::Abandon,
            };
            move_on(&mut operation, event, now).map_err(|_| busy())?;
            self.store.save(&operation, &[], now).await?;
            if operation.is_open() {
                self.store.release(&operation).await?;
            } else {
                self.metrics.operation_ended(kind, End::Abandoned);
            }
        }
        let mut write = self.store.write().await?;
        let what = match choice {
            Choice::Resume => "operation.resumed",
            Choice::Abandon => "operation.abandoned",
        };
        let message =
            format!("user {} chose to {} the {} at step {}", caller.user, choice.name(), kind.name(), offer.step);
        write.insert_event(id, &StoredEvent { at: now, id: what.to_owned(), message }).await?;
        write.commit().await?;
        self.contact.wake_runner(id);
        self.contact.wake_agent(id);
        Ok(())
    }

    async fn offered(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<(Work, Offer), Error> {
        needs_write(caller, "deciding about an operation that is stuck")?;
        let row = self.store.instance(scope_of(caller), id).await?;
        row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let work = self.store.open_operation(id).await?;
        let section = self.contact.running(id).and_then(|running| running.stuck);
        let open = work.as_ref().map(|Work { operation, .. }| Open {
            instance: id,
            kind: operation.kind,
            plan: &operation.plan,
            phase: &operation.phase,
            section: section.as_ref(),
        });
        let offer = offer(choice, id, open).map_err(Error::Refused)?;
        let work = work.ok_or_else(|| Error::internal(format!("no operation of {id} is open")))?;
        Ok((work, offer))
    }
}
