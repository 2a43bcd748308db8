//! What agents are told and what they tell. Asked by the control plane itself, for one instance at a time, after the
//! agent has proven to be that instance's; no user's request gets here.

use coffer_core::id::{Generation, InstanceId};
use coffer_core::instance::{Kind, Observed, Operation};
use coffer_core::operation::Phase;
use coffer_core::spec::EngineSpec;
use serde::{Deserialize, Serialize};

use crate::operation::operation_columns;
use crate::row::{Columns, micros, to_json};
use crate::{Error, Event, Store};

/// What an agent is to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desire {
    pub generation: Generation,
    pub engine: EngineSpec,
}

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
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let mut c = Columns::of(&row, "instance");
        let _id: &str = c.get()?;
        let desired = c.json_optional()?;
        let open = if c.is_null()? { None } else { Some(c.operation()?) };
        Ok(Some(AgentRow { desired, open }))
    }

    /// Keeps what an agent saw last. Of an instance that is gone, nothing is kept.
    pub async fn save_observed(&self, id: InstanceId, observed: &Observed) -> Result<(), Error> {
        let mut write = self.write().await?;
        sqlx::query(
            "INSERT INTO observed (instance_id, seen) \
             SELECT $1, $2 FROM instances WHERE id = $1 AND deleted_at IS NULL \
             ON CONFLICT (instance_id) DO UPDATE SET seen = excluded.seen",
        )
        .bind(id.to_string())
        .bind(to_json(observed)?)
        .execute(&mut *write.tx)
        .await?;
        write.commit().await
    }

    /// Keeps events. Told twice, they are kept once.
    pub async fn insert_events(&self, instance: InstanceId, events: &[Event]) -> Result<(), Error> {
        let mut write = self.write().await?;
        for event in events {
            sqlx::query(
                "INSERT INTO events (instance_id, at, id, message) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (instance_id, at, id) DO NOTHING",
            )
            .bind(instance.to_string())
            .bind(micros(event.at))
            .bind(&event.id)
            .bind(&event.message)
            .execute(&mut *write.tx)
            .await?;
        }
        write.commit().await
    }

    /// The instances that are to have an agent: those that have served and those whose place is made, and none that is
    /// being removed.
    pub async fn with_agents(&self) -> Result<Vec<InstanceId>, Error> {
        let rows = sqlx::query(
            "SELECT i.id, i.built, o.phase FROM instances i \
             LEFT JOIN operations o ON o.instance_id = i.id AND o.is_open \
             WHERE i.deleted_at IS NULL AND (i.built AND (o.kind IS NULL OR o.kind <> $1) OR o.kind = $2)",
        )
        .bind(Kind::Delete.name())
        .bind(Kind::Create.name())
        .fetch_all(&self.reader)
        .await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut c = Columns::of(row, "instance");
            let (id, built): (InstanceId, bool) = (c.parse()?, c.get()?);
            // The place is the first step of a creation; on the way back it may be gone at any moment.
            if built || matches!(c.json_optional()?, Some(Phase::Forward { at: 1.., .. })) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}
