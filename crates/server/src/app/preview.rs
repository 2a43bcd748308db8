//! What an upgrade would do, found out by planning it and by asking the agent, without doing it.

use std::sync::Arc;
use std::time::Duration;

use coffer_core::datastore::Version;
use coffer_core::engine::Policy;
use coffer_core::finding::{Finding, refuses};
use coffer_core::id::{InstanceId, OperationId};
use coffer_core::plan::{Refusal, Snapshot, check_task, plan_upgrade};
use coffer_core::spec::ImageWanted;
use coffer_core::task::{Learned, Outcome, Task};
use coffer_store::Scope;
use uuid::Uuid;

use super::change::attached;
use super::{App, Error, Thing, UpgradePreview, needs_write, scope_of};
use crate::caller::Caller;

/// How long the asker of a preview is kept waiting for the agent, all together.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);

impl App {
    /// What that upgrade would do. Fetches the image and asks the agent, which touches nothing that serves. Refused when
    /// the plan is; what the agent finds is in the preview.
    pub async fn preview_upgrade(
        &self,
        caller: &Caller,
        id: InstanceId,
        version: &str,
        policy: Policy,
    ) -> Result<UpgradePreview, Error> {
        // The agent works for it, so looking is not enough.
        needs_write(caller, "previewing an upgrade")?;
        let row = self.store.instance(scope_of(caller), id).await?;
        let row = row.ok_or_else(|| Error::not_found(Thing::Instance, id))?;
        let from = self.current_version(&row.instance)?;
        let to = self.find_version(Some(from.datastore), version)?;
        let operation = OperationId(Uuid::new_v4());
        let groups = match &row.instance.group {
            Some(_) => self.store.groups(Scope::Project(&row.instance.project), "", u32::MAX).await?,
            None => Vec::new(),
        };
        let planned = self.planned(operation, &row, |s| {
            let s = &Snapshot { policy, groups: &groups, ..s.clone() };
            Ok::<_, Refusal>((plan_upgrade(s, &to)?, check_task(s, &to)))
        })?;
        let (planned, check) = match (planned, &row.open) {
            (Err(refusal), Some(open)) if refusal.is_busy() => {
                return Err(Error::Busy { instance: id, kind: open.kind });
            }
            (planned, _) => planned.map_err(Error::Refused)?,
        };
        let mut preview = UpgradePreview {
            from: Arc::clone(&from),
            to: Arc::clone(&to),
            policy,
            group: attached(&planned.plan).cloned(),
            plan: planned.plan,
            findings: planned.findings,
            settings: planned.settings,
            image: None,
            preview: None,
            expected: None,
        };
        if from.id != to.id {
            let asked = tokio::time::timeout(PATIENCE, self.ask_agent(id, &to, check, &mut preview)).await;
            asked.unwrap_or_else(|_| Err(silent(id)))?;
        }
        preview.expected = self.expected_gap(&preview.plan, preview.preview.as_ref()).await?;
        Ok(preview)
    }

    async fn ask_agent(
        &self,
        id: InstanceId,
        to: &Version,
        check: Task,
        preview: &mut UpgradePreview,
    ) -> Result<(), Error> {
        let image = ImageWanted {
            datastore: to.datastore,
            version: to.name.clone(),
            digest: to.image.clone(),
            sources: to.sources.clone(),
        };
        let (fetched, learned) = self.ask(id, Task::Fetch { image }, "image.fetch", &mut preview.findings).await?;
        preview.image = learned.image;
        if !fetched {
            return Ok(());
        }
        let found = preview.image.as_ref().map(|image| image.digest.clone());
        let check = match check {
            Task::Check { mut to, try_target } => {
                to.image.digest = to.image.digest.or(found);
                Task::Check { to, try_target }
            }
            other => other,
        };
        let (_, learned) = self.ask(id, check, "upgrade.check", &mut preview.findings).await?;
        preview.preview = learned.preview;
        Ok(())
    }

    /// Asks, and adds what was found. Tells whether it went well.
    pub(super) async fn ask(
        &self,
        id: InstanceId,
        task: Task,
        name: &str,
        findings: &mut Vec<Finding>,
    ) -> Result<(bool, Learned), Error> {
        let answer = self.contact.ask(id, task).answer().await.ok_or_else(|| silent(id))?;
        let (cause, mut learned) = match answer.outcome {
            Outcome::Done(learned) => (None, *learned),
            Outcome::Failed { cause, learned } => (Some(cause), *learned),
        };
        findings.append(&mut learned.findings);
        let failed = cause.is_some();
        if let Some(cause) = cause {
            let untold = cause.findings.into_iter().filter(|f| !findings.contains(f)).collect::<Vec<_>>();
            findings.extend(untold);
            if !refuses(findings) {
                findings.push(Finding::error(name, format!("instance {id}"), cause.message, cause.hint));
            }
        }
        Ok((!failed, learned))
    }
}

pub(super) fn silent(id: InstanceId) -> Error {
    Error::Unavailable(format!("the agent of instance {id} does not answer; hint: coffer instance show {id}"))
}
