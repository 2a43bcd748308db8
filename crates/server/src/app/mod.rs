//! The application: every decision about what a caller sees and may do, behind values that know nothing of HTTP.
//!
//! Guarantees: another project's things are not found, whatever is asked of them; what is refused has touched nothing;
//! what is accepted is one committed transaction, and survives the death of this process.

mod accounts;
mod change;
mod create;
mod error;
mod gaps;
mod groups;
mod preview;
mod rollback;
mod silence;
mod stuck;
mod versions;
mod view;

pub use error::{Error, Excess, Thing};
pub use groups::{GroupChange, GroupView, NewGroup};
pub use view::{
    Created, DatastoreView, InstanceView, NewInstance, OpenOperation, Page, Paged, Quota, RollbackPreview, Scope,
    UpgradePreview, Usage, VersionChange,
};

use std::sync::Arc;

use coffer_core::drift::find_in_record;
use coffer_core::flavor::Flavor;
use coffer_core::id::{FlavorId, InstanceId, ProjectId};
use coffer_core::instance::{Fault, Instance, Observed, Operation, Status, operating_status};
use coffer_store::{Event, InstanceRow, Store};
use jiff::{SignedDuration, Timestamp};
use versions::{needs_admin, needs_write};

use crate::caller::Caller;
use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::config::Config;
use crate::contact::{Contact, Troubles};
use crate::key::Key;
use crate::metrics::Metrics;
use crate::places::Places;

/// How many events of an instance are shown.
const EVENTS_SHOWN: u32 = 100;

/// The application. Shared by every request.
#[derive(Debug)]
pub struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) contact: Arc<Contact>,
    pub(crate) key: Arc<Key>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) places: Places,
}

impl App {
    /// What the operator configured.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A page of instances: cut by ascending id, then the newest first, as Trove does.
    pub async fn instances(&self, caller: &Caller, scope: Scope, page: Page) -> Result<Paged<InstanceView>, Error> {
        let scope = match &scope {
            Scope::Own => coffer_store::Scope::Project(&caller.project),
            Scope::Project(project) if *project == caller.project => coffer_store::Scope::Project(project),
            Scope::Project(project) => {
                needs_admin(caller, "listing another project's instances")?;
                coffer_store::Scope::Project(project)
            }
            Scope::All => {
                needs_admin(caller, "listing every project's instances")?;
                coffer_store::Scope::Admin
            }
        };
        let limit = page.limit.unwrap_or(u32::MAX).min(self.config.page_size);
        let marker = page.marker.unwrap_or_default();
        // One more than asked for tells whether there is another page.
        let rows = self.store.instances(scope, &marker, limit.saturating_add(1)).await?;
        let Paged { items, next } = Paged::cut(rows, limit, |row| row.instance.id.to_string());
        let now = self.clock.now();
        let mut items = items.into_iter().map(|row| self.view(row, now)).collect::<Result<Vec<_>, _>>()?;
        items.sort_by_key(|view| std::cmp::Reverse(view.instance.created_at));
        Ok(Paged { items, next })
    }

    /// One instance.
    pub async fn instance(&self, caller: &Caller, id: InstanceId) -> Result<InstanceView, Error> {
        let row = self.store.instance(scope_of(caller), id).await?;
        self.view(row.ok_or_else(|| Error::not_found(Thing::Instance, id))?, self.clock.now())
    }

    /// Gives an instance another name.
    pub async fn rename(&self, caller: &Caller, id: InstanceId, name: &str) -> Result<(), Error> {
        needs_write(caller, "renaming an instance")?;
        create::check_name(name)?;
        let renamed = self.store.rename(scope_of(caller), id, name, self.clock.now()).await?;
        if renamed { Ok(()) } else { Err(Error::not_found(Thing::Instance, id)) }
    }

    /// All operations of an instance, the newest first, with the live progress of the open one.
    pub async fn operations(&self, caller: &Caller, id: InstanceId) -> Result<Vec<Operation>, Error> {
        let mut operations = self.store.operations(scope_of(caller), id).await?;
        if operations.is_empty() {
            return Err(Error::not_found(Thing::Instance, id));
        }
        if let (Some(open), Some(running)) = (operations.iter_mut().find(|o| o.is_open()), self.contact.running(id))
            && running.id.0.starts_with(&open.id.to_string())
        {
            open.steps.extend(running.steps);
        }
        Ok(operations)
    }

    /// What happened to an instance beside its operations, the newest first, at most 100.
    pub async fn events(&self, caller: &Caller, id: InstanceId) -> Result<Vec<Event>, Error> {
        self.instance(caller, id).await?;
        Ok(self.store.events(scope_of(caller), id, EVENTS_SHOWN).await?)
    }

    /// All flavors, as configured.
    pub fn flavors(&self) -> &[Flavor] {
        &self.config.flavors
    }

    /// One flavor.
    pub fn flavor(&self, id: &FlavorId) -> Result<&Flavor, Error> {
        self.config.flavors.iter().find(|f| f.id == *id).ok_or_else(|| Error::not_found(Thing::Flavor, id))
    }

    /// What a project may have and has. Another project's is for administrators.
    pub async fn quota(&self, caller: &Caller, project: &ProjectId) -> Result<Quota, Error> {
        if *project != caller.project {
            needs_admin(caller, "looking at another project's quota")?;
        }
        let in_use = self.store.in_use(project).await?;
        Ok(Quota {
            instances: Usage { limit: self.config.quota.instances, in_use: in_use.instances },
            volumes: Usage { limit: self.config.quota.volumes, in_use: in_use.volume_gib },
        })
    }

    /// How many instances have each status, all projects together. For figures that name nobody.
    pub async fn instance_counts(&self) -> Result<Vec<(Status, u64)>, Error> {
        let mut counts = Vec::<(Status, u64)>::new();
        let mut add = |status: Status, more: i64| match counts.iter_mut().find(|(other, _)| *other == status) {
            Some((_, sum)) => *sum = sum.saturating_add_signed(more),
            None => counts.push((status, u64::try_from(more).unwrap_or(0))),
        };
        for (built, open, count) in self.store.instance_counts().await? {
            let status = Status::of(built, open.as_ref().map(|(kind, phase)| (*kind, phase)));
            add(status, i64::try_from(count).unwrap_or(i64::MAX));
        }
        // Of a few the status is another because of what their agents say, which the store does not count.
        let now = self.clock.now();
        for id in self.troubles().instances {
            let Some(row) = self.store.instance(coffer_store::Scope::Admin, id).await? else { continue };
            let counted = Status::of(row.instance.built, row.open.as_ref().map(|o| (o.kind, &o.phase)));
            let shown = self.view(row, now)?.status;
            if shown != counted {
                add(counted, -1);
                add(shown, 1);
            }
        }
        Ok(counts)
    }

    /// What an agent saw last, as far as that says how things are: what it saw before it fell silent is no news. Else since when
    /// it is silent.
    pub(super) fn believed(
        &self,
        instance: &Instance,
        written: Option<Observed>,
    ) -> Result<Option<Observed>, Timestamp> {
        let written_at = written.as_ref().map(|observed| observed.at);
        if instance.built
            && let Some(since) = self.contact.silent_since(instance.id, written_at, self.silence_limit())
        {
            return Err(since);
        }
        let seen = self.contact.seen(instance.id);
        // What is written down in the future was written before somebody set the clock.
        let now = self.clock.now();
        let written = written.filter(|written| seen.is_none() || written.at <= now);
        let newest = [written, seen].into_iter().flatten().max_by_key(|observed| observed.at);
        Ok(newest.filter(|observed| instance.is_told_by(observed)))
    }

    /// What is not as it should be, over all agents that this server hears.
    pub(crate) fn troubles(&self) -> Troubles {
        self.contact.troubles(self.silence_limit())
    }

    /// For how long an agent may say nothing.
    pub(crate) fn silence_limit(&self) -> SignedDuration {
        SignedDuration::from_secs(self.config.silent_seconds.into())
    }

    /// An instance as it is shown.
    fn view(&self, row: InstanceRow, now: Timestamp) -> Result<InstanceView, Error> {
        let InstanceRow { mut instance, observed, open } = row;
        let (observed, silent_since) = match self.believed(&instance, observed) {
            Ok(observed) => (observed, None),
            Err(since) => (None, Some(since)),
        };
        let mut status = Status::of(instance.built, open.as_ref().map(|o| (o.kind, &o.phase)));
        if let Some(cause) = open.as_ref().and_then(|o| self.stuck(instance.id, o.id, &o.phase)) {
            status = Status::Error;
            instance.fault.get_or_insert(Fault { at: now, cause, abandoned: false });
        }
        let pending = instance.pending();
        if status == Status::Active && open.is_none() && !pending.is_empty() {
            status = Status::RestartRequired;
        }
        if open.is_none() {
            status = status.seen(&instance, observed.as_ref());
        }
        if status == Status::Error
            && let Some(seen) = observed.as_ref().filter(|_| open.is_none())
            && let Some(found) = &seen.crash_loop
        {
            let cause = found.cause(instance.id, !seen.ways_back.is_empty());
            instance.fault = Some(Fault { at: found.last, cause, abandoned: false });
        }
        let version = |id| self.catalogue.version(id).ok_or_else(|| Error::internal(format!("no version {id}")));
        let requested = open.as_ref().and_then(|o| o.target);
        let recorded = version(instance.version)?;
        let version = version(requested.filter(|_| status == Status::Upgrade).unwrap_or(instance.version))?;
        let requested = requested.and_then(|id| self.catalogue.version(id)).unwrap_or_else(|| Arc::clone(&recorded));
        let mut drift = observed.as_ref().map(|o| o.drift.clone()).unwrap_or_default();
        if let Some(observed) = observed.as_ref().filter(|_| open.is_none() && instance.built) {
            drift.extend(find_in_record(&instance, recorded.number, observed));
        }
        let kept = observed.as_ref().and_then(|o| o.ways_back.last()).cloned();
        let way_back = kept.map(|kept| {
            let version = kept.version.and_then(|id| self.catalogue.version(id));
            (kept, version)
        });
        Ok(InstanceView {
            version,
            requested,
            recorded,
            running: observed.as_ref().and_then(|o| o.running),
            on_disk: observed.as_ref().and_then(|o| o.on_disk),
            status,
            pending,
            operating_status: operating_status(status, observed.as_ref()),
            instance,
            observed,
            silent_since,
            drift,
            operation: open,
            way_back,
        })
    }
}

/// Administrators find everybody's instances by their id, as in Trove.
fn scope_of(caller: &Caller) -> coffer_store::Scope<'_> {
    if caller.is_admin() { coffer_store::Scope::Admin } else { coffer_store::Scope::Project(&caller.project) }
}
