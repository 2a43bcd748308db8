//! The runner works off operations: it claims what has something to do, does it, and lets go of what has to wait.
//!
//! ```text
//!  look: at every open operation each second, at one of them ---- nothing to do yet ---> left alone
//!        when somebody wakes us for its instance
//!             | due
//!             v
//!  claim (epoch + 1, lease) -> next() -> perform -> apply() -> save, if the epoch is still ours --+
//!                                ^                                                                |
//!                                +-------------------- while there is something to do ------------+
//! ```
//!
//! No worker waits: whether an operation is due is decided from what is written down and what agents said last, and
//! agents work by themselves. The store is the truth and is looked at every second; wake-ups only make it quick. What
//! was claimed by a server that is gone is free again at the start of the next.

mod drive;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use coffer_core::id::{InstanceId, OperationId};
use coffer_core::instance::Instance;
use coffer_core::runner::{Due, due};
use coffer_provider::Agent;
use coffer_store::{Event, Work};
use coffer_wire::agent::Identity;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tracing::{error, info, warn};

use crate::app::App;
use crate::ending::Ending;
use crate::places;
pub(crate) use drive::leased;

/// How often the store and the agents are looked at when nothing wakes us.
const POLL: Duration = Duration::from_secs(1);
/// After how many looks it is looked for places that nobody wants.
const SWEEP: u32 = 30;
/// How many operations are worked on at once.
const WORKERS: usize = 8;

/// What the agents of this host are told about it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) server_socket: String,
    pub(crate) image_store: String,
    /// The first user id for engines; `None` where the server may not choose.
    pub(crate) engine_uid_base: Option<u32>,
}

/// The runner. One per server.
pub(crate) struct Runner {
    app: Arc<App>,
    host: Host,
    workers: Semaphore,
    /// The instances of which something is being done, by whichever part of this runner.
    taken: Mutex<HashMap<InstanceId, Again>>,
}

/// Whether there was something to do for an instance while it was taken, so that it has to be looked at once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    No,
    Yes,
}

/// An instance that nobody else in this process touches until this is dropped.
struct Taken<'a> {
    runner: &'a Runner,
    instance: InstanceId,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let again = self.runner.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.instance);
        if again == Some(Again::Yes) {
            self.runner.app.contact.wake_runner(self.instance);
        }
    }
}

impl Runner {
    pub(crate) fn new(app: Arc<App>, host: Host) -> Self {
        Self { app, host, workers: Semaphore::new(WORKERS), taken: Mutex::default() }
    }

    /// Works until the server is to end, then finishes the steps that are being taken.
    pub(crate) async fn run(self: Arc<Self>, mut ending: Ending) {
        let mut drives = JoinSet::new();
        let mut tick = tokio::time::interval(POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0_u32;
        let (mut told, mut unreadable) = (HashSet::new(), HashSet::new());
        let mut complaints = HashMap::new();
        loop {
            let open = tokio::select! {
                () = ending.begun() => break,
                instances = self.app.contact.runner_woken() => self.open_of(instances).await,
                _ = tick.tick() => {
                    self.revive_agents(&mut complaints).await;
                    if ticks.is_multiple_of(SWEEP) {
                        // Beside the rest: it takes as long as the files of a place.
                        let runner = Arc::clone(&self);
                        drives.spawn(async move { runner.drop_left_places().await });
                    }
                    ticks = ticks.wrapping_add(1);
                    let open = self.app.store.open_operations().await.unwrap_or_else(|error| vec![Err(error)]);
                    told.retain(|id| open.iter().flatten().any(|work| work.operation.id == *id));
                    let unread = open.iter().filter_map(|work| work.as_ref().err()).map(ToString::to_string);
                    let unread: HashSet<_> = unread.collect();
                    unreadable.retain(|error| unread.contains(error));
                    open
                }
            };
            for work in open {
                match work {
                    Ok(work) => self.look_at(work, &mut drives, &mut told).await,
                    // Said once, and again when it is something else: this is tried every second.
                    Err(error) => {
                        if unreadable.insert(error.to_string()) {
                            error!(%error, "an open operation cannot be read, and nobody works on it");
                        }
                    }
                }
            }
            while drives.try_join_next().is_some() {}
        }
        while drives.join_next().await.is_some() {}
    }

    async fn open_of(&self, instances: HashSet<InstanceId>) -> Vec<Result<Work, coffer_store::Error>> {
        let mut open = Vec::new();
        for instance in instances {
            open.extend(self.app.store.open_operation(instance).await.transpose());
        }
        open
    }

    async fn look_at(self: &Arc<Self>, work: Work, drives: &mut JoinSet<()>, told: &mut HashSet<OperationId>) {
        let seen = self.app.contact.seen(work.instance.id);
        match due(&work.operation, &work.results, seen.as_ref(), self.app.clock.now()) {
            Due::Now => {
                let runner = Arc::clone(self);
                drives.spawn(async move {
                    let Some(_taken) = runner.take(work.instance.id) else { return };
                    // The semaphore is never closed.
                    let Ok(_worker) = runner.workers.acquire().await else { return };
                    runner.drive(work).await;
                });
            }
            Due::Late(message) => {
                if told.insert(work.operation.id) {
                    warn!(instance = %work.instance.id, operation = %work.operation.id, "{message}");
                    let event = Event { at: self.app.clock.now(), id: "operation.late".to_owned(), message };
                    self.tell(work.instance.id, &event).await;
                }
            }
            Due::Later => {}
        }
    }

    /// Starts agents that died. Their engines went on; the new agent finds them.
    async fn revive_agents(self: &Arc<Self>, complaints: &mut HashMap<InstanceId, String>) {
        let places = match self.app.places.call(|provider| provider.list()).await {
            Ok(places) => places,
            Err(error) => return error!(%error, "places cannot be listed"),
        };
        let dead: Vec<_> = places.into_iter().filter(|p| p.agent == Agent::Dead).map(|p| p.instance).collect();
        complaints.retain(|instance, _| dead.contains(instance));
        if dead.is_empty() {
            return;
        }
        let wanted = match self.app.store.with_agents().await {
            Ok(wanted) => wanted,
            Err(error) => return error!(%error, "instances cannot be read"),
        };
        for instance in dead.into_iter().filter(|instance| wanted.contains(instance)) {
            let Some(_taken) = self.take(instance) else { continue };
            match self.app.places.call(move |provider| provider.ensure_agent(instance)).await {
                // Another server was faster, or is at it.
                Ok(Agent::Runs) | Err(places::Failure::Refused(coffer_provider::Error::Taken { .. })) => {}
                Ok(_) => {
                    info!(%instance, "started the agent of an instance again");
                    let message = "the agent had ended and was started again; the engine was not touched".to_owned();
                    let event = Event { at: self.app.clock.now(), id: "agent.died".to_owned(), message };
                    self.tell(instance, &event).await;
                }
                Err(error) => {
                    // Said once, and again when it is something else: this is tried every second.
                    let complaint = error.to_string();
                    if complaints.get(&instance) != Some(&complaint) {
                        error!(%instance, %error, "the agent of an instance cannot be started");
                        complaints.insert(instance, complaint);
                    }
                }
            }
        }
    }

    /// Drops places whose instances are gone. A server that was stopped while it made a place goes on with that when it wakes up,
    /// however late that is, and only then finds out that it was fenced.
    async fn drop_left_places(self: &Arc<Self>) {
        let dropped = async {
            let places = self.app.places.call(|provider| provider.list()).await?;
            let wanted: HashSet<_> = self.app.store.with_agents().await?.into_iter().collect();
            for instance in places.into_iter().map(|place| place.instance).filter(|id| !wanted.contains(id)) {
                // Asked after it was seen: what is left by then stays so.
                if !self.app.store.is_left(instance).await? {
                    continue;
                }
                let Some(_taken) = self.take(instance) else { continue };
                match self.app.places.call(move |provider| provider.drop_place(instance, &|| true)).await {
                    Err(places::Failure::Refused(coffer_provider::Error::Taken { .. })) => {}
                    dropped => {
                        dropped?;
                        info!(%instance, "dropped a place that was left of an instance");
                    }
                }
            }
            Ok::<_, Left>(())
        };
        if let Err(error) = dropped.await {
            error!(%error, "places that are left cannot be dropped");
        }
    }

    async fn tell(&self, instance: InstanceId, event: &Event) {
        let told = async {
            let mut write = self.app.store.write().await?;
            write.insert_event(instance, event).await?;
            write.commit().await
        };
        if let Err(error) = told.await {
            error!(%instance, %error, "an event cannot be written");
        }
    }

    fn take(&self, instance: InstanceId) -> Option<Taken<'_>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(again) = taken.get_mut(&instance) {
            *again = Again::Yes;
            return None;
        }
        taken.insert(instance, Again::No);
        Some(Taken { runner: self, instance })
    }

    fn identity(&self, instance: &Instance) -> Identity {
        use secrecy::ExposeSecret as _;
        let key = &self.app.key;
        let index = self.app.config.address_pool.index(instance.address);
        Identity {
            instance: instance.id,
            server_socket: self.host.server_socket.clone(),
            image_store: self.host.image_store.clone(),
            token: key.agent_token(instance.id).expose_secret().to_owned(),
            tenant_password: key.tenant_password(instance.id).expose_secret().to_owned(),
            engine_uid: self.host.engine_uid_base.zip(index).and_then(|(base, index)| base.checked_add(index)),
            gate: self.app.config.gate,
            hold_seconds: self.app.config.hold_seconds,
        }
    }
}

/// Why places that are left stay for now.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error(transparent)]
    Provider(#[from] places::Failure),
    #[error(transparent)]
    Store(#[from] coffer_store::Error),
}
