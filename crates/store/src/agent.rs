//! What agents are told and what they tell. Asked by the control plane itself, for one instance at a time, after the
//! agent has proven to be that instance's; no user's request gets here.

use coffer_core::id::{InstanceId, OperationId};
use coffer_core::instance::{Fault, Kind, Observed, Operation};
use coffer_core::operation::Phase;
use coffer_core::runner::Desire;
use coffer_core::stuck;
use coffer_core::task::TaskResult;

use crate::operation::operation_columns;
use crate::row::{Columns, micros, to_json};
use crate::{Error, Event, News, Store, Write};

/// What the control plane has to tell an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    /// `None` until there is something to run.
    pub desired: Option<Desire>,
    pub open: Option<Operation>,
}

impl Store {
    /// What is to be told to the agent of an instance. `None` when there is no such instance any more.
    pub async fn for_agent(&self, id: InstanceId) -> Result<Option<AgentRow>, Error> {
        let row = sqlx::query(concat!(
            "SELECT i.id, i.desired, ",
            operation_columns!(),
            " FROM instances i LEFT JOIN operations o ON o.instance_id = i.id AND o.is_open \
             WHERE i.id = $1 AND i.deleted_at IS NULL"
        ))
        .bind(id.to_string())
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut c = Columns::of(&row, "instance");
        let _id: &str = c.get()?;
        let desired = c.json_optional()?;
        let open = if c.is_null()? { None } else { Some(c.operation()?) };
        Ok(Some(AgentRow { desired, open }))
    }

    /// Keeps what an agent reports, in one transaction: what it saw, where that is news; answers of operations that are
    /// open; events. Told twice, it is kept once. False when there is no such instance any more; nothing is kept then.
    pub async fn save_report(
        &self,
        id: InstanceId,
        observed: Option<&Observed>,
        results: &[(OperationId, &TaskResult)],
        events: &[Event],
    ) -> Result<bool, Error> {
        let mut write = self.write().await?;
        let instance = id.to_string();
        let alive: Option<i64> = sqlx::query_scalar("SELECT 1 FROM instances WHERE id = $1 AND deleted_at IS NULL")
            .bind(&instance)
            .fetch_optional(write.tx())
            .await?;
        if alive.is_none() {
            return Ok(false);
        }
        if let Some(observed) = observed {
            sqlx::query(
                "INSERT INTO observed (instance_id, seen) VALUES ($1, $2) \
                 ON CONFLICT (instance_id) DO UPDATE SET seen = excluded.seen",
            )
            .bind(&instance)
            .bind(to_json(observed)?)
            .execute(write.tx())
            .await?;
        }
        if !results.is_empty() {
            write.tell(News::Instance(id));
        }
        for (operation, result) in results {
            sqlx::query(
                "INSERT INTO task_results (operation_id, task_id, result) \
                 SELECT o.id, $2, $3 FROM operations o WHERE o.id = $1 AND o.instance_id = $4 AND o.is_open \
                 ON CONFLICT (operation_id, task_id) DO NOTHING",
            )
            .bind(operation.to_string())
            .bind(&result.id.0)
            .bind(to_json(result)?)
            .bind(&instance)
            .execute(write.tx())
            .await?;
        }
        for event in events {
            write.insert_event(id, event).await?;
        }
        write.commit().await?;
        Ok(true)
    }

    /// The instances that are to have an agent: those that have served and those whose place is made, and none that is
    /// being removed.
    pub async fn with_agents(&self) -> Result<Vec<InstanceId>, Error> {
        let rows = sqlx::query(
            "SELECT i.id, CAST(i.built AS INTEGER), o.phase FROM instances i \
             LEFT JOIN operations o ON o.instance_id = i.id AND o.is_open \
             WHERE i.deleted_at IS NULL AND (i.built AND (o.kind IS NULL OR o.kind <> $1) OR o.kind = $2)",
        )
        .bind(Kind::Delete.name())
        .bind(Kind::Create.name())
        .fetch_all(self.reader())
        .await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut c = Columns::of(row, "instance");
            let (id, built): (InstanceId, bool) = (c.parse()?, c.truth()?);
            // The place is the first step of a creation; on the way back it may be gone at any moment.
            if built || matches!(c.json_optional()?, Some(Phase::Forward { at: 1.., .. })) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

impl Store {
    /// Whether an instance is to have no place any more, and never again. What is not known here is not answered for.
    pub async fn is_left(&self, id: InstanceId) -> Result<bool, Error> {
        let row = sqlx::query(
            "SELECT i.id, CASE WHEN i.deleted_at IS NULL THEN 0 ELSE 1 END, CAST(i.built AS INTEGER), \
             (SELECT COUNT(*) FROM operations o WHERE o.instance_id = i.id AND o.is_open), i.fault \
             FROM instances i WHERE i.id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(self.reader())
        .await?;
        let Some(row) = row else { return Ok(false) };
        let mut c = Columns::of(&row, "instance");
        c.skip(1);
        let (deleted, built, open) = (c.truth()?, c.truth()?, c.truth()?);
        let fault: Option<Fault> = c.json_optional()?;
        Ok(stuck::is_left(deleted, built, open, fault.as_ref()))
    }
}

impl Write {
    /// Keeps an event; the same one only once.
    pub async fn insert_event(&mut self, instance: InstanceId, event: &Event) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO events (instance_id, at, id, message) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (instance_id, at, id) DO NOTHING",
        )
        .bind(instance.to_string())
        .bind(micros(event.at))
        .bind(&event.id)
        // What an engine said last may hold anything, and PostgreSQL takes no text with this.
        .bind(event.message.replace('\0', "\u{fffd}"))
        .execute(self.tx())
        .await?;
        Ok(())
    }
}
