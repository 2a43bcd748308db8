//! Operations: opened by the application, worked off by whoever has claimed them.
//!
//! A claim raises the epoch; every write of the claimant names it. The lease keeps two runners from claiming the same
//! operation in turns; it is not what makes writes safe, the epoch is.

use coffer_core::group::Configured;
use coffer_core::id::{InstanceId, OperationId, TaskId};
use coffer_core::instance::{Fault, Instance, Operation};
use coffer_core::operation::Phase;
use coffer_core::runner::Change;
use coffer_core::task::TaskResult;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::gathered::instance_json;
use crate::row::{Columns, micros, to_json};
use crate::{Error, News, SCHEMA, Store, Write};

/// The columns of an operation, in the order in which `Columns::operation` reads them.
macro_rules! operation_columns {
    () => {
        "o.id, o.instance_id, o.project_id, o.kind, o.target, o.group_id, o.plan, o.phase, o.epoch, o.steps, o.findings, o.gap_us, \
         o.clients, o.created_at, o.updated_at"
    };
}
pub(crate) use operation_columns;

/// Open operations with all that is needed to work on them, in the order in which `works` reads them: a row per answer.
macro_rules! select_work {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            operation_columns!(),
            ", ",
            instance_json!(),
            ", r.result FROM operations o JOIN instances i ON i.id = o.instance_id \
             LEFT JOIN task_results r ON r.operation_id = o.id WHERE o.is_open ",
            $rest
        )
    };
}

/// An open operation with what is needed to work on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub operation: Operation,
    pub instance: Instance,
    /// What the agent answered and nobody used yet.
    pub results: Vec<TaskResult>,
}

impl Store {
    /// Everything that is open, with what agents answered, the oldest first. For the runner: it works for all projects. What
    /// cannot be read of one operation is no reason to leave the others.
    pub async fn open_operations(&self) -> Result<Vec<Result<Work, Error>>, Error> {
        let rows =
            sqlx::query(self.backend.sql(select_work!("ORDER BY o.created_at, o.id"))).fetch_all(self.reader()).await?;
        Ok(works(&rows))
    }

    /// The open operation of one instance, with what its agent answered.
    pub async fn open_operation(&self, instance: InstanceId) -> Result<Option<Work>, Error> {
        let query = sqlx::query(self.backend.sql(select_work!("AND o.instance_id = $1"))).bind(instance.to_string());
        works(&query.fetch_all(self.reader()).await?).pop().transpose()
    }

    /// Claims an open operation that nobody has a lease of, until `lease_until`. `None` when somebody else was faster, or newer:
    /// who does not know the schema any more may not know the plan either, and would leave out what it does not know.
    pub async fn claim(
        &self,
        id: OperationId,
        now: Timestamp,
        lease_until: Timestamp,
    ) -> Result<Option<Operation>, Error> {
        let mut write = self.write().await?;
        let row = sqlx::query(concat!(
            "UPDATE operations AS o SET epoch = epoch + 1, lease_until = $1 \
             WHERE o.id = $2 AND o.is_open AND o.lease_until <= $3 \
             AND NOT EXISTS (SELECT 1 FROM _sqlx_migrations WHERE version > $4) RETURNING ",
            "id, instance_id, project_id, kind, target, group_id, plan, phase, epoch, steps, findings, gap_us, \
             clients, created_at, updated_at"
        ))
        .bind(micros(lease_until))
        .bind(id.to_string())
        .bind(micros(now))
        .bind(SCHEMA)
        .fetch_optional(write.tx())
        .await?;
        write.commit().await?;
        row.map(|row| Columns::of(&row, "operation").operation()).transpose()
    }

    /// Writes where the operation stands now, and with it the changes, what went wrong, and that the answers so far are
    /// used. Done clears the instance's fault; undone, stuck or abandoned sets it. All of it or, fenced, nothing.
    pub async fn save(&self, operation: &Operation, changes: &[Change], lease_until: Timestamp) -> Result<(), Error> {
        let mut write = self.write().await?;
        let done = sqlx::query(
            "UPDATE operations SET plan = $1, phase = $2, is_open = $3, steps = $4, findings = $5, gap_us = $6, \
                 clients = $7, updated_at = $8, lease_until = $9 WHERE id = $10 AND epoch = $11 AND is_open",
        )
        .bind(to_json(&operation.plan)?)
        .bind(to_json(&operation.phase)?)
        .bind(operation.is_open())
        .bind(to_json(&operation.steps)?)
        .bind(to_json(&operation.findings)?)
        .bind(operation.gap_us.map(u64::cast_signed))
        .bind(operation.clients.as_ref().map(to_json).transpose()?)
        .bind(micros(operation.updated_at))
        .bind(micros(lease_until))
        .bind(operation.id.to_string())
        .bind(operation.epoch.0)
        .execute(write.tx())
        .await?;
        if done.rows_affected() == 0 {
            return Err(Error::Fenced(operation.id));
        }
        write.tell(News::Instance(operation.instance));
        sqlx::query("DELETE FROM task_results WHERE operation_id = $1")
            .bind(operation.id.to_string())
            .execute(write.tx())
            .await?;
        for change in changes {
            write.apply(operation.instance, change, operation.updated_at).await?;
        }
        let at = operation.updated_at;
        match &operation.phase {
            Phase::Done => write.set_fault(operation.instance, None, at).await?,
            Phase::Undone { cause } | Phase::Stuck { cause, .. } | Phase::Abandoned { cause, .. } => {
                let abandoned = matches!(operation.phase, Phase::Abandoned { .. });
                let fault = Fault { at, cause: cause.clone(), abandoned };
                write.set_fault(operation.instance, Some(&fault), at).await?;
            }
            Phase::Forward { .. } | Phase::Backward { .. } => {}
        }
        write.commit().await
    }

    /// Gives a claim back, so that anybody can go on at once. Fenced, it has been given back already.
    pub async fn release(&self, operation: &Operation) -> Result<(), Error> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE operations SET lease_until = 0 WHERE id = $1 AND epoch = $2")
            .bind(operation.id.to_string())
            .bind(operation.epoch.0)
            .execute(write.tx())
            .await?;
        write.commit().await
    }

    /// Gives all claims back. Only for a process that knows to be the only one: what a former one had claimed is free.
    pub async fn release_all(&self) -> Result<(), Error> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE operations SET lease_until = 0 WHERE is_open").execute(write.tx()).await?;
        write.commit().await
    }

    /// Whether nobody has claimed the operation since, nor ended it.
    pub async fn holds(&self, operation: &Operation) -> Result<bool, Error> {
        let held: Option<i64> = sqlx::query_scalar("SELECT 1 FROM operations WHERE id = $1 AND epoch = $2 AND is_open")
            .bind(operation.id.to_string())
            .bind(operation.epoch.0)
            .fetch_optional(self.reader())
            .await?;
        Ok(held.is_some())
    }

    /// Where an operation stands. Asked by whoever waits for one that was opened for a caller.
    pub async fn phase(&self, id: OperationId) -> Result<Option<Phase>, Error> {
        let row = sqlx::query("SELECT id, phase FROM operations WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(self.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut c = Columns::of(&row, "operation");
        c.skip(1);
        c.json().map(Some)
    }

    /// The answer to one task of an operation, if it has arrived.
    pub async fn result(&self, operation: OperationId, task: &TaskId) -> Result<Option<TaskResult>, Error> {
        let row = sqlx::query("SELECT task_id, result FROM task_results WHERE operation_id = $1 AND task_id = $2")
            .bind(operation.to_string())
            .bind(&task.0)
            .fetch_optional(self.reader())
            .await?;
        let Some(row) = row else { return Ok(None) };
        let mut c = Columns::of(&row, "task result");
        let _id: &str = c.get()?;
        c.json().map(Some)
    }
}

impl Write {
    /// Opens an operation, unless the instance has one already: then nothing of this transaction may be committed.
    pub async fn insert_operation(&mut self, operation: &Operation) -> Result<(), Error> {
        let written = sqlx::query(
            "INSERT INTO operations (id, instance_id, project_id, kind, target, group_id, plan, phase, is_open, epoch, \
                 lease_until, steps, findings, gap_us, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, $11, $12, NULL, $13, $14) \
             ON CONFLICT (instance_id) WHERE is_open DO NOTHING",
        )
        .bind(operation.id.to_string())
        .bind(operation.instance.to_string())
        .bind(&operation.project.0)
        .bind(operation.kind.name())
        .bind(operation.target.map(|v| v.to_string()))
        .bind(operation.group.map(|g| g.to_string()))
        .bind(to_json(&operation.plan)?)
        .bind(to_json(&operation.phase)?)
        .bind(operation.is_open())
        .bind(operation.epoch.0)
        .bind(to_json(&operation.steps)?)
        .bind(to_json(&operation.findings)?)
        .bind(micros(operation.created_at))
        .bind(micros(operation.updated_at))
        .execute(self.tx())
        .await?;
        self.tell(News::Instance(operation.instance));
        if written.rows_affected() == 0 { Err(self.busy(operation.instance).await?) } else { Ok(()) }
    }

    async fn busy(&mut self, instance: InstanceId) -> Result<Error, Error> {
        let row = sqlx::query("SELECT o.kind FROM operations o WHERE o.instance_id = $1 AND o.is_open")
            .bind(instance.to_string())
            .fetch_one(self.tx())
            .await?;
        Ok(Error::Busy { instance, kind: Columns::of(&row, "operation").kind()? })
    }

    /// Ends an operation that is stuck, because something else takes its place. Whoever still works on it is fenced.
    pub async fn end_stuck(&mut self, id: OperationId, phase: &Phase, now: Timestamp) -> Result<(), Error> {
        sqlx::query(
            "UPDATE operations SET phase = $1, is_open = FALSE, epoch = epoch + 1, updated_at = $2 \
             WHERE id = $3 AND is_open",
        )
        .bind(to_json(phase)?)
        .bind(micros(now))
        .bind(id.to_string())
        .execute(self.tx())
        .await?;
        Ok(())
    }

    async fn apply(&mut self, instance: InstanceId, change: &Change, now: Timestamp) -> Result<(), Error> {
        let query = match change {
            Change::Desire(desire) => sqlx::query("UPDATE instances SET desired = $2, updated_at = $3 WHERE id = $1")
                .bind(instance.to_string())
                .bind(to_json(desire)?)
                .bind(micros(now)),
            Change::Image { version, digest, number } => return self.record_image(*version, digest, *number).await,
            Change::Measured(gap) => return self.insert_gap(gap).await,
            Change::Built { generation } => {
                sqlx::query("UPDATE instances SET built = TRUE, generation = $2, updated_at = $3 WHERE id = $1")
                    .bind(instance.to_string())
                    .bind(generation.0.cast_signed())
                    .bind(micros(now))
            }
            Change::Runs(desire, configured) => {
                if let Some(configured) = configured {
                    self.record_configured(instance, configured, now).await?;
                }
                // Without a group there is nothing that settings could have come from but the instance itself.
                sqlx::query(
                    "UPDATE instances SET version_id = $2, settings = $3, generation = $4, desired = $5, updated_at = $6, \
                         own = CASE WHEN group_id IS NULL AND $7 THEN $3 ELSE own END WHERE id = $1",
                )
                .bind(instance.to_string())
                .bind(desire.engine.version.to_string())
                .bind(to_json(&desire.engine.settings)?)
                .bind(desire.generation.0.cast_signed())
                .bind(to_json(desire)?)
                .bind(micros(now))
                .bind(configured.is_none())
            }
            Change::Deleted => {
                // What its agent saw is of nothing any more. What was done to it stays known.
                sqlx::query("DELETE FROM observed WHERE instance_id = $1")
                    .bind(instance.to_string())
                    .execute(self.tx())
                    .await?;
                sqlx::query(
                    "UPDATE instances SET desired = NULL, group_id = NULL, deleted_at = $2, updated_at = $2 WHERE id = $1",
                )
                .bind(instance.to_string())
                .bind(micros(now))
            }
        };
        query.execute(self.tx()).await?;
        Ok(())
    }

    async fn record_configured(
        &mut self,
        instance: InstanceId,
        configured: &Configured,
        now: Timestamp,
    ) -> Result<(), Error> {
        let group = match &configured.group {
            Some(group) => Some(self.ensure_group(group, now).await?.to_string()),
            None => None,
        };
        sqlx::query("UPDATE instances SET own = $2, group_id = $3 WHERE id = $1")
            .bind(instance.to_string())
            .bind(to_json(&configured.own)?)
            .bind(group)
            .execute(self.tx())
            .await?;
        Ok(())
    }

    /// Sets or clears what went wrong last with an instance.
    pub async fn set_fault(&mut self, instance: InstanceId, fault: Option<&Fault>, at: Timestamp) -> Result<(), Error> {
        let fault = fault.map(to_json).transpose()?;
        sqlx::query("UPDATE instances SET fault = $2, updated_at = $3 WHERE id = $1")
            .bind(instance.to_string())
            .bind(fault)
            .bind(micros(at))
            .execute(self.tx())
            .await?;
        Ok(())
    }
}

fn works(rows: &[AnyRow]) -> Vec<Result<Work, Error>> {
    let mut open: Vec<Result<Work, Error>> = Vec::new();
    for row in rows {
        match (open.last_mut(), work(row)) {
            (Some(Ok(last)), Ok(more)) if last.operation.id == more.operation.id => last.results.extend(more.results),
            (_, work) => open.push(work),
        }
    }
    open
}

fn work(row: &AnyRow) -> Result<Work, Error> {
    let mut c = Columns::of(row, "operation");
    let (operation, instance) = (c.operation()?, c.instance()?);
    let results = c.json_optional()?.into_iter().collect();
    Ok(Work { operation, instance, results })
}
