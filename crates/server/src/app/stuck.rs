//! What a person does about an operation that is stuck: looked at beforehand, and done.

use coffer_core::finding::Finding;
use coffer_core::id::InstanceId;
use coffer_core::operation::Phase;
use coffer_core::plan::Refusal;
use coffer_core::runner::move_on;
use coffer_core::stuck::{Choice, Offer, Open, displaced_section, offer};
use coffer_provider::Held;
use coffer_store::{Event, Work};

use super::{App, Error, Thing, needs_write, scope_of};
use crate::caller::Caller;
use crate::metrics::End;
use crate::runner::leased;

impl App {
    /// What one of the choices would do and cost. Changes nothing.
    pub async fn preview_choice(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<Offer, Error> {
        let held = self.held(caller, id, choice).await?;
        Ok(self.offered(caller, id, choice, held.as_ref()).await?.1)
    }

    /// Makes one of the choices, as it is previewed.
    pub async fn choose(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<(), Error> {
        // As long as this is held, nobody removes what is given up: who was about to, and was stopped, has it, or asks first.
        let held = self.held(caller, id, choice).await?;
        let (work, offer) = self.offered(caller, id, choice, held.as_ref()).await?;
        let kind = work.operation.kind;
        if matches!(work.operation.phase, Phase::Stuck { .. }) {
            self.decide(&work, choice).await?;
        } else {
            // Its agent's alone, so there is nothing to be written but that somebody has asked.
            self.contact.resume(id);
        }
        drop(held);
        let mut write = self.store.write().await?;
        let what = match choice {
            Choice::Resume => "operation.resumed",
            Choice::Abandon => "operation.abandoned",
        };
        let message =
            format!("user {} chose to {} the {} at step {}", caller.user, choice.name(), kind.name(), offer.step);
        write.insert_event(id, &Event { at: self.clock.now(), id: what.to_owned(), message }).await?;
        write.commit().await?;
        self.contact.wake_runner(id);
        self.contact.wake_agent(id);
        Ok(())
    }

    /// Writes down what was chosen. Whatever comes of it, nobody has to wait for the claim to end.
    async fn decide(&self, work: &Work, choice: Choice) -> Result<(), Error> {
        let Work { operation, instance, .. } = work;
        let busy = || Error::Busy { instance: instance.id, kind: operation.kind };
        let now = self.clock.now();
        // Nobody has a claim on what is stuck, unless somebody else decides just now.
        let mut operation = self.store.claim(operation.id, now, leased(now)).await?.ok_or_else(busy)?;
        let decided = match move_on(&mut operation, choice.event(), now) {
            Ok(_) => self.store.save(&operation, &[], now).await.map_err(Error::from),
            // Somebody else has decided since.
            Err(_) => Err(busy()),
        };
        if decided.is_err() || operation.is_open() {
            self.store.release(&operation).await?;
        } else {
            self.metrics.operation_ended(operation.kind, End::Abandoned);
        }
        decided
    }

    /// To give something up takes that nobody else has its place.
    async fn held(&self, caller: &Caller, id: InstanceId, choice: Choice) -> Result<Option<Held>, Error> {
        needs_write(caller, "deciding about an operation that is stuck")?;
        let row = self.store.instance(scope_of(caller), id).await?;
        let row = row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let waits = row.open.is_some_and(|open| matches!(open.phase, Phase::Stuck { .. }));
        if choice == Choice::Resume || !waits {
            return Ok(None);
        }
        let held = self.places.call(move |provider| provider.hold(id)).await;
        held.map(Some).map_err(|failure| {
            let remedy = format!("mend that, then again; or: coffer instance resume {id}");
            let cause = failure.cause().message;
            let message = format!("it cannot be made sure that nobody still works on its place: {cause}");
            Error::Refused(Refusal(vec![Finding::error("place.held", format!("instance {id}"), message, remedy)]))
        })
    }

    async fn offered(
        &self,
        caller: &Caller,
        id: InstanceId,
        choice: Choice,
        held: Option<&Held>,
    ) -> Result<(Work, Offer), Error> {
        let work = self.store.open_operation(id).await?;
        if let Some(Work { operation, .. }) = &work
            && choice == Choice::Abandon
            && held.is_none()
            && matches!(operation.phase, Phase::Stuck { .. })
        {
            // Only just, and its place is not held.
            return Err(Error::Busy { instance: id, kind: operation.kind });
        }
        let history = self.store.operations(scope_of(caller), id).await?;
        let why = work.as_ref().and_then(|Work { operation, .. }| self.stuck(id, operation.id, &operation.phase));
        let open = work.as_ref().map(|Work { operation, .. }| Open {
            instance: id,
            kind: operation.kind,
            plan: &operation.plan,
            phase: &operation.phase,
            why: why.as_ref(),
            displaced: displaced_section(history.iter().filter(|ended| ended.id != operation.id)),
            is_placed: held.is_some_and(|held| held.is_placed),
        });
        let offer = offer(choice, id, open).map_err(Error::Refused)?;
        let work = work.ok_or_else(|| Error::internal(format!("no operation of {id} is open")))?;
        Ok((work, offer))
    }
}
