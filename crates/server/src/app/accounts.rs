//! Databases and accounts of an instance: asked of its agent, while somebody waits.

use std::time::Duration;

use coffer_core::account::{Answer, Password, Refusal, Request};
use coffer_core::datastore::Datastore;
use coffer_core::engine::sql::accounts::{check, check_first};
use coffer_core::id::InstanceId;
use coffer_core::instance::{Engine, Status};
use coffer_core::task::{Outcome, Task};
use coffer_store::Event;

use super::preview::silent;
use super::{App, Error, needs_write, scope_of};
use crate::caller::Caller;

/// How long somebody is kept waiting for an agent. Most of it takes milliseconds; a large database is not removed at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// The event of root being let in.
const ROOT_ENABLED: &str = "root.enabled";

impl App {
    /// Asks the agent about databases and accounts. Refused, before anything is touched, where the instance has none, is
    /// not there to answer, or names are not allowed.
    pub async fn accounts(&self, caller: &Caller, id: InstanceId, request: Request) -> Result<Answer, Error> {
        let view = self.instance(caller, id).await?;
        let reads = matches!(request, Request::Databases(_) | Request::Users(_) | Request::User { .. } | Request::Root);
        if !reads {
            needs_write(caller, "changing databases and users")?;
        }
        has_accounts(view.version.datastore)?;
        if let Some(open) = &view.operation {
            return Err(Error::Busy { instance: id, kind: open.kind });
        }
        let serves = view.observed.as_ref().is_some_and(|observed| observed.engine == Engine::Serving);
        if view.status != Status::Active || !serves {
            return Err(Error::NotReady { instance: id, status: view.operating_status.to_owned() });
        }
        check(&request).map_err(Error::Invalid)?;
        let asked = self.contact.ask(id, Task::Accounts { request: Box::new(request) }).answer();
        let answer = tokio::time::timeout(PATIENCE, asked).await.ok().flatten().ok_or_else(|| silent(id))?;
        match answer.outcome {
            Outcome::Done(learned) => {
                learned.accounts.ok_or_else(|| Error::internal(format!("the agent of {id} did not say what it did")))
            }
            Outcome::Failed { cause, .. } => Err(Error::Unavailable(cause.to_string())),
        }
    }

    /// Lets root log in with this password. That it once could is an event, which stays when it can no more.
    pub async fn enable_root(&self, caller: &Caller, id: InstanceId, password: Password) -> Result<Answer, Error> {
        let answer = self.accounts(caller, id, Request::EnableRoot { password }).await?;
        if answer == Answer::Changed {
            let message = format!("user {} let root log in, with a password of its own", caller.user);
            let mut write = self.store.write().await?;
            write.insert_event(id, &Event { at: self.clock.now(), id: ROOT_ENABLED.to_owned(), message }).await?;
            write.commit().await?;
        }
        Ok(answer)
    }

    /// Lets root log in no more. As in Trove only an instance on which it never could refuses that.
    pub async fn disable_root(&self, caller: &Caller, id: InstanceId) -> Result<Answer, Error> {
        let answer = self.accounts(caller, id, Request::DisableRoot).await?;
        let is_disabled = answer == Answer::Refused(Refusal::RootDisabled);
        if is_disabled && self.root_enabled(caller, id).await?.is_some() {
            return Ok(Answer::Changed);
        }
        Ok(answer)
    }

    /// When somebody last let root log in, and who, as the event says it. `None`: nobody ever did.
    pub async fn root_enabled(&self, caller: &Caller, id: InstanceId) -> Result<Option<Event>, Error> {
        Ok(self.store.last_event(scope_of(caller), id, [ROOT_ENABLED; 2]).await?)
    }

    /// The first databases and users of an instance, checked and as they may lie in the store. `None`: there are none.
    pub(super) fn first_accounts(
        &self,
        datastore: Datastore,
        id: InstanceId,
        mut first: Request,
    ) -> Result<Option<Request>, Error> {
        if matches!(&first, Request::Make { databases, users, .. } if databases.is_empty() && users.is_empty()) {
            return Ok(None);
        }
        has_accounts(datastore)?;
        check_first(&first).map_err(Error::Invalid)?;
        for password in first.passwords_mut() {
            if let Password::Clear(text) = password {
                *password = self.key.seal(id, text).map_err(|e| Error::Internal(Box::new(e)))?;
            }
        }
        Ok(Some(first))
    }
}

fn has_accounts(datastore: Datastore) -> Result<(), Error> {
    match datastore {
        Datastore::Mysql | Datastore::Mariadb => Ok(()),
        Datastore::Redis | Datastore::Valkey => Err(Error::Unsupported(datastore)),
    }
}
