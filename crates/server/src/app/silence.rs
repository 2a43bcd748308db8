//! Agents that say nothing, and when they do again: noticed in memory by each server, since all agents report to all of them, and
//! written down only when it changes.

use coffer_core::id::InstanceId;
use coffer_store::{Event, Scope, Write};
use jiff::Timestamp;

use super::{App, Error};

/// The event of an agent that has said nothing for too long, and the one of its being heard again.
const SILENT: &str = "agent.silent";
const HEARD: &str = "agent.heard";
/// So many instances are looked at at once.
const PAGE: u32 = 500;

impl App {
    /// Tells of each agent that has fallen silent since this server heard it.
    pub(crate) async fn tell_silent(&self) -> Result<(), Error> {
        let mut silent = Vec::new();
        for (id, since) in self.contact.newly_silent(self.silence_limit()) {
            // Another server may have removed it, which ends its agent.
            match self.store.instance(Scope::Admin, id).await? {
                Some(_) => silent.push((id, since)),
                None => self.contact.forget(id),
            }
        }
        self.tell_all_silent(&silent).await
    }

    /// Tells of each agent that this server has never heard, though it has listened for long enough.
    pub(crate) async fn tell_never_heard(&self) -> Result<(), Error> {
        let mut marker = String::new();
        loop {
            let rows = self.store.instances(Scope::Admin, &marker, PAGE).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            marker = last.instance.id.to_string();
            let silent = rows.into_iter().filter(|row| row.open.is_none() && !self.contact.has_heard(row.instance.id));
            let silent: Vec<_> = silent
                .filter_map(|row| Some((row.instance.id, self.believed(&row.instance, row.observed).err()?)))
                .collect();
            for (id, _) in &silent {
                self.contact.told_silent(*id);
            }
            self.tell_all_silent(&silent).await?;
        }
    }

    async fn tell_all_silent(&self, silent: &[(InstanceId, Timestamp)]) -> Result<(), Error> {
        if silent.is_empty() {
            return Ok(());
        }
        let mut write = self.store.write().await?;
        for (id, since) in silent {
            tracing::warn!(instance = %id, %since, "an agent says nothing");
            let message = format!("its agent has said nothing since {since:.0}; the engine goes on by itself");
            self.tell_turn(&mut write, *id, SILENT, HEARD, message).await?;
        }
        Ok(write.commit().await?)
    }

    /// Tells that an agent is heard again, where it was told that it is silent.
    pub(crate) async fn tell_heard(&self, id: InstanceId) -> Result<(), coffer_store::Error> {
        let last = self.store.last_event(Scope::Admin, id, [SILENT, HEARD]).await?;
        if last.is_none_or(|last| last.id != SILENT) {
            return Ok(());
        }
        let mut write = self.store.write().await?;
        self.tell_turn(&mut write, id, HEARD, SILENT, "its agent is heard again".to_owned()).await?;
        write.commit().await
    }

    async fn tell_turn(
        &self,
        write: &mut Write,
        id: InstanceId,
        event: &str,
        other: &str,
        message: String,
    ) -> Result<(), coffer_store::Error> {
        let event = Event { at: self.clock.now(), id: event.to_owned(), message };
        write.insert_turn(id, &event, other).await.map(drop)
    }
}
