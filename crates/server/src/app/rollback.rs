//! The way back after success: looked at, gone, or ended before its time.

use std::sync::Arc;

use coffer_core::datastore::Version;
use coffer_core::id::{InstanceId, OperationId, VersionId};
use coffer_core::instance::{Kind, Operation};
use coffer_core::plan::{Refusal, Snapshot, Step, find_way_back, plan_finalize, plan_rollback};
use coffer_core::task::Task;
use coffer_store::Scope;
use uuid::Uuid;

use super::preview::{PATIENCE, silent};
use super::{App, Error, RollbackPreview, Thing, needs_write, scope_of};
use crate::caller::Caller;

impl App {
    /// What a rollback would do, and what would be lost by it, with `restore` to the data of the pre-image in any case. Asks the
    /// agent, which touches nothing that serves.
    pub async fn preview_rollback(
        &self,
        caller: &Caller,
        id: InstanceId,
        restore: bool,
    ) -> Result<RollbackPreview, Error> {
        // The agent works for it, so looking is not enough.
        needs_write(caller, "previewing a rollback")?;
        let row = self.store.instance(scope_of(caller), id).await?;
        let row = row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let history = self.store.operations(scope_of(caller), id).await?;
        let groups = self.store.groups(Scope::Project(&row.instance.project), "", u32::MAX).await?;
        let operation = OperationId(Uuid::new_v4());
        let found = self.planned(operation, &row, |s| {
            let s = &Snapshot { groups: &groups, ..s.clone() };
            let back = find_way_back(s, &history, restore)?;
            let planned = plan_rollback(s, &back);
            Ok::<_, Refusal>((back, planned))
        })?;
        let (back, planned) = match (found, &row.open) {
            (Err(refusal), Some(open)) if refusal.is_busy() => {
                return Err(Error::Busy { instance: id, kind: open.kind });
            }
            (found, _) => found.map_err(Error::Refused)?,
        };
        let mut preview = RollbackPreview {
            from: self.current_version(&row.instance)?,
            to: self.known_version(back.to.version)?,
            kept: back.kept.clone(),
            in_place: back.restores.is_none(),
            down: back.down,
            loss: None,
            group: back.configured.group.clone(),
            plan: planned.plan,
            findings: planned.findings,
            preview: None,
            expected: None,
        };
        let asked = async {
            let image = back.to.image.clone();
            let (fetched, _) = self.ask(id, Task::Fetch { image }, "image.fetch", &mut preview.findings).await?;
            if fetched {
                let check = back.check_task();
                let (_, learned) = self.ask(id, check, "rollback.check", &mut preview.findings).await?;
                (preview.preview, preview.loss) = (learned.preview, learned.loss);
            }
            Ok(())
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(silent(id)))?;
        preview.expected = self.expected_gap(&preview.plan, preview.preview.as_ref()).await?;
        Ok(preview)
    }

    /// Begins to go back to what there was before the last upgrade, as it is previewed. Refused where something would be lost
    /// and nobody has said that it may.
    pub async fn rollback(
        &self,
        caller: &Caller,
        id: InstanceId,
        restore: bool,
        loss_accepted: bool,
    ) -> Result<Operation, Error> {
        needs_write(caller, "rolling an instance back")?;
        let history = self.store.operations(scope_of(caller), id).await?;
        let shown = self.instance(caller, id).await?;
        let target = shown.way_back.and_then(|(kept, _)| target(&history, kept.operation));
        let plan = |s: &Snapshot<'_>| {
            let back = find_way_back(s, &history, restore)?.agreed(s, loss_accepted)?;
            Ok(plan_rollback(s, &back))
        };
        self.begin(caller, id, Kind::Rollback, target, plan).await
    }

    /// Begins to end the time in which there is a way back.
    pub async fn finalize(&self, caller: &Caller, id: InstanceId) -> Result<Operation, Error> {
        needs_write(caller, "finalizing an upgrade")?;
        let history = self.store.operations(scope_of(caller), id).await?;
        self.begin(caller, id, Kind::Finalize, None, |s| plan_finalize(s, &history)).await
    }

    fn known_version(&self, id: VersionId) -> Result<Arc<Version>, Error> {
        self.catalogue.version(id).ok_or_else(|| Error::internal(format!("no version {id}")))
    }
}

/// The version that an instance has again when this operation is taken back.
fn target(history: &[Operation], undone: OperationId) -> Option<VersionId> {
    let undone = history.iter().find(|operation| operation.id == undone)?;
    let section = undone.plan.steps.iter().find_map(Step::section)?;
    Some(section.from.version)
}
