//! What changes an instance: read, plan and record in one transaction, so that the plan is of the instance as it is.

use std::sync::Arc;

use coffer_core::datastore::Version;
use coffer_core::engine::Policy;
use coffer_core::finding::{Cause, Finding};
use coffer_core::group::Group;
use coffer_core::id::{Epoch, InstanceId, OperationId, VersionId};
use coffer_core::instance::{Instance, Kind, Operation};
use coffer_core::operation::{Phase, Plan};
use coffer_core::plan::{Planned, Record, Refusal, Snapshot, Step, plan_delete, plan_restart, plan_upgrade};
use coffer_core::stuck;
use coffer_store::{InstanceRow, Write};
use jiff::Timestamp;
use uuid::Uuid;

use super::{App, Error, Thing, needs_write, scope_of};
use crate::caller::Caller;

impl App {
    /// Begins to upgrade an instance to `version`: an id, a name within the instance's own datastore, or
    /// `datastore/name`. Its configuration group is migrated with it.
    pub async fn upgrade(
        &self,
        caller: &Caller,
        id: InstanceId,
        version: &str,
        policy: Policy,
    ) -> Result<Operation, Error> {
        needs_write(caller, "upgrading an instance")?;
        let shown = self.instance(caller, id).await?;
        let from = self.current_version(&shown.instance)?;
        let to = self.find_version(Some(from.datastore), version)?;
        let plan = |snapshot: &Snapshot<'_>| plan_upgrade(&Snapshot { policy, ..snapshot.clone() }, &to);
        self.begin(caller, id, Kind::Upgrade, Some(to.id), plan).await
    }

    /// Begins to stop and start the engine.
    pub async fn restart(&self, caller: &Caller, id: InstanceId) -> Result<Operation, Error> {
        needs_write(caller, "restarting an instance")?;
        self.begin(caller, id, Kind::Restart, None, plan_restart).await
    }

    /// Begins to remove an instance with all its data. Takes the place of an operation that is stuck.
    pub async fn delete(&self, caller: &Caller, id: InstanceId) -> Result<Operation, Error> {
        needs_write(caller, "deleting an instance")?;
        self.begin(caller, id, Kind::Delete, None, plan_delete).await
    }

    pub(super) async fn begin(
        &self,
        caller: &Caller,
        id: InstanceId,
        kind: Kind,
        target: Option<VersionId>,
        plan: impl FnOnce(&Snapshot<'_>) -> Result<Planned, Refusal>,
    ) -> Result<Operation, Error> {
        let mut write = self.store.write().await?;
        let row = write.instance(scope_of(caller), id).await?;
        let mut row = row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let now = self.clock.now();
        if kind == Kind::Delete
            && let Some(cause) = row.open.as_ref().and_then(|open| self.stuck(id, open.id, &open.phase))
            && let Some(open) = row.open.take()
        {
            write.end_stuck(open.id, &stuck::displaced(&open.phase, cause), now).await?;
        }
        let operation = self.open(&mut write, &row, kind, target, plan).await?;
        write.commit().await?;
        self.contact.wake_runner(id);
        Ok(operation)
    }

    /// Plans and opens an operation, within a transaction that may have more to do.
    pub(super) async fn open(
        &self,
        write: &mut Write,
        row: &InstanceRow,
        kind: Kind,
        target: Option<VersionId>,
        plan: impl FnOnce(&Snapshot<'_>) -> Result<Planned, Refusal>,
    ) -> Result<Operation, Error> {
        let (instance, now) = (&row.instance, self.clock.now());
        let operation = OperationId(Uuid::new_v4());
        let groups = match (kind, &instance.group) {
            (Kind::Upgrade, Some(_)) | (Kind::Rollback, _) => write.groups(&instance.project).await?,
            _ => Vec::new(),
        };
        let plan = |snapshot: &Snapshot<'_>| plan(&Snapshot { groups: &groups, ..snapshot.clone() });
        let planned = match (self.planned(operation, row, plan)?, &row.open) {
            (Err(refusal), Some(open)) if refusal.is_busy() => {
                return Err(Error::Busy { instance: instance.id, kind: open.kind });
            }
            (planned, _) => planned.map_err(Error::Refused)?,
        };
        let Planned { plan, findings, .. } = planned;
        let operation = new_operation(operation, instance, kind, target, plan, findings, now);
        write.insert_operation(&operation).await?;
        Ok(operation)
    }

    /// Why an open operation needs a person: it waits for one, or its agent has tried again and again.
    pub(super) fn stuck(&self, id: InstanceId, open: OperationId, phase: &Phase) -> Option<Cause> {
        let running = self.contact.running(id);
        let said = running.as_ref().and_then(|running| Some((&running.id, running.stuck.as_ref()?)));
        stuck::why(open, phase, said).cloned()
    }

    /// Has an instance planned for, with everything that a planner wants to know of it.
    pub(super) fn planned<T>(
        &self,
        operation: OperationId,
        row: &InstanceRow,
        plan: impl FnOnce(&Snapshot<'_>) -> T,
    ) -> Result<T, Error> {
        let version = self.current_version(&row.instance)?;
        let catalogue: Vec<Version> = self.catalogue.all().iter().map(|v| Version::clone(v)).collect();
        let observed = self.believed(&row.instance, row.observed.clone()).ok().flatten();
        let flavor = self.flavor(&row.instance.flavor).map_err(|e| Error::Internal(Box::new(e)))?;
        Ok(plan(&Snapshot {
            operation,
            instance: &row.instance,
            version: &version,
            flavor,
            open: row.open.as_ref().map(|open| open.kind),
            observed: observed.as_ref(),
            catalogue: &catalogue,
            policy: Policy::default(),
            groups: &[],
        }))
    }

    pub(super) fn current_version(&self, instance: &Instance) -> Result<Arc<Version>, Error> {
        let version = self.catalogue.version(instance.version);
        version.ok_or_else(|| Error::internal(format!("no version {}", instance.version)))
    }
}

/// The group that is attached when the plan is done, where it says so.
pub(super) fn attached(plan: &Plan<Step>) -> Option<&Group> {
    plan.steps.iter().find_map(|step| match step {
        Step::Record(Record::Runs { configured: Some(configured), .. }) => configured.group.as_ref(),
        _ => None,
    })
}

pub(super) fn new_operation(
    id: OperationId,
    instance: &Instance,
    kind: Kind,
    target: Option<VersionId>,
    plan: Plan<Step>,
    findings: Vec<Finding>,
    now: Timestamp,
) -> Operation {
    Operation {
        id,
        instance: instance.id,
        project: instance.project.clone(),
        kind,
        target,
        group: attached(&plan).map(|group| group.id),
        plan,
        phase: Phase::START,
        epoch: Epoch::default(),
        steps: Vec::new(),
        findings,
        gap_us: None,
        clients: None,
        created_at: now,
        updated_at: now,
    }
}
