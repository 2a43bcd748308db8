//! Instances as tenants see them. Every query here says whose.

use std::net::IpAddr;

use coffer_core::id::{InstanceId, ProjectId};
use coffer_core::instance::{Instance, Kind, Operation};
use coffer_core::operation::Phase;
use jiff::Timestamp;
use sqlx::{Any, Executor};

use crate::database::Backend;
use crate::gathered::{instance_json, page, select_page, select_shown};
use crate::row::{Columns, join_address, micros, split_address, to_json};
use crate::{Error, Event, InstanceRow, Scope, Store, Write};

/// What a project has, deleted instances left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    pub instances: i64,
    /// All volumes together.
    pub volume_gib: i64,
}

impl Store {
    /// At most `limit` instances with an id after `marker`, by ascending id.
    pub async fn instances(&self, scope: Scope<'_>, marker: &str, limit: u32) -> Result<Vec<InstanceRow>, Error> {
        let query = match scope {
            Scope::Project(project) => {
                sqlx::query_scalar(self.backend.sql(select_page!("AND i.id > $1 AND i.project_id = $3")))
                    .bind(marker)
                    .bind(i64::from(limit))
                    .bind(&project.0)
            }
            Scope::Admin => {
                sqlx::query_scalar(self.backend.sql(select_page!("AND i.id > $1"))).bind(marker).bind(i64::from(limit))
            }
        };
        let text: Option<String> = query.fetch_one(self.reader()).await?;
        page(&text.unwrap_or_default())
    }

    /// One instance.
    pub async fn instance(&self, scope: Scope<'_>, id: InstanceId) -> Result<Option<InstanceRow>, Error> {
        find(self.reader(), self.backend, scope, id).await
    }

    /// What a project has.
    pub async fn in_use(&self, project: &ProjectId) -> Result<InUse, Error> {
        count(self.reader(), project).await
    }

    /// How many instances there are of each kind that makes a status: whether they have served, and their open
    /// operation. Of all projects, because it names nobody.
    pub async fn instance_counts(&self) -> Result<Vec<(bool, Option<(Kind, Phase)>, u64)>, Error> {
        let rows = sqlx::query(
            "SELECT o.kind, o.phase, CAST(i.built AS INTEGER), COUNT(*) FROM instances i \
             LEFT JOIN operations o ON o.instance_id = i.id AND o.is_open \
             WHERE i.deleted_at IS NULL GROUP BY o.kind, o.phase, i.built",
        )
        .fetch_all(self.reader())
        .await?;
        let counted = |row| {
            let mut c = Columns::of(row, "instance");
            let open = if c.is_null()? {
                c.skip(2);
                None
            } else {
                Some((c.kind()?, c.json()?))
            };
            Ok((c.truth()?, open, c.number()?))
        };
        rows.iter().map(counted).collect()
    }

    /// All operations of an instance, deleted ones among them, the newest first.
    pub async fn operations(&self, scope: Scope<'_>, instance: InstanceId) -> Result<Vec<Operation>, Error> {
        let rows = sqlx::query(concat!(
            "SELECT ",
            crate::operation::operation_columns!(),
            " FROM operations o WHERE o.instance_id = $1 AND ($2 IS NULL OR o.project_id = $2) \
             ORDER BY o.created_at DESC"
        ))
        .bind(instance.to_string())
        .bind(project_of(scope))
        .fetch_all(self.reader())
        .await?;
        rows.iter().map(|row| Columns::of(row, "operation").operation()).collect()
    }

    /// The last `limit` events of an instance, the newest first.
    pub async fn events(&self, scope: Scope<'_>, instance: InstanceId, limit: u32) -> Result<Vec<Event>, Error> {
        // The cast is for the same reason as in `select_page`.
        let rows = sqlx::query(
            "SELECT e.id, e.message, e.at FROM events e JOIN instances i ON i.id = e.instance_id \
             WHERE e.instance_id = $1 AND ($2 IS NULL OR i.project_id = $2) ORDER BY e.at DESC LIMIT CAST($3 AS BIGINT)",
        )
        .bind(instance.to_string())
        .bind(project_of(scope))
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await?;
        let event = |row| {
            let mut c = Columns::of(row, "event");
            Ok(Event { id: c.get()?, message: c.get()?, at: c.time()? })
        };
        rows.iter().map(event).collect()
    }

    /// The last event of one of these kinds.
    pub async fn last_event(
        &self,
        scope: Scope<'_>,
        instance: InstanceId,
        kinds: [&str; 2],
    ) -> Result<Option<Event>, Error> {
        last_event(self.reader(), scope, instance, kinds).await
    }

    /// Gives an instance another name. False when there is no such instance.
    pub async fn rename(&self, scope: Scope<'_>, id: InstanceId, name: &str, now: Timestamp) -> Result<bool, Error> {
        let mut write = self.write().await?;
        let done = sqlx::query(
            "UPDATE instances SET name = $1, updated_at = $2 \
             WHERE id = $3 AND deleted_at IS NULL AND ($4 IS NULL OR project_id = $4)",
        )
        .bind(name)
        .bind(micros(now))
        .bind(id.to_string())
        .bind(project_of(scope))
        .execute(write.tx())
        .await?;
        write.commit().await?;
        Ok(done.rows_affected() > 0)
    }
}

impl Write {
    /// One instance, as nobody else can change it while this transaction lasts.
    pub async fn instance(&mut self, scope: Scope<'_>, id: InstanceId) -> Result<Option<InstanceRow>, Error> {
        let backend = self.backend;
        find(self.tx(), backend, scope, id).await
    }

    /// Keeps an event of a kind that takes turns with another, unless the last of both was of its kind already: what several
    /// servers notice is told once. False where it is not kept.
    pub async fn insert_turn(&mut self, instance: InstanceId, event: &Event, other: &str) -> Result<bool, Error> {
        let last = last_event(self.tx(), Scope::Admin, instance, [event.id.as_str(), other]).await?;
        if last.is_some_and(|last| last.id == event.id) {
            return Ok(false);
        }
        self.insert_event(instance, event).await?;
        Ok(true)
    }

    /// What a project has.
    pub async fn in_use(&mut self, project: &ProjectId) -> Result<InUse, Error> {
        count(self.tx(), project).await
    }

    /// An address between `first` and `last` that no instance has. One that became free is given again as late as
    /// possible, so that clients of a deleted instance do not meet another tenant's. `None` when all are taken. Of a range
    /// of IPv6 that is larger only those are looked at that differ from `first` in the last 32 bits alone.
    pub async fn free_address(&mut self, first: IpAddr, last: IpAddr) -> Result<Option<IpAddr>, Error> {
        let ((network, first), (end, last)) = (split_address(first), split_address(last));
        let (first, last) = (i64::from(first), i64::from(if network == end { last } else { u32::MAX }));
        let newest: Option<i64> = sqlx::query_scalar(
            "SELECT address FROM instances WHERE network = $1 AND address BETWEEN $2 AND $3 \
             ORDER BY created_at DESC, id DESC LIMIT 1",
        )
        .bind(&network)
        .bind(first)
        .bind(last)
        .fetch_optional(self.tx())
        .await?;
        let from = newest.map_or(first, |address| address + 1);
        let found = match self.free_between(&network, from, last).await? {
            Some(address) => Some(address),
            None => self.free_between(&network, first, last).await?,
        };
        Ok(found.and_then(|number| join_address(&network, u32::try_from(number).ok()?).ok()))
    }

    async fn free_between(&mut self, network: &str, from: i64, to: i64) -> Result<Option<i64>, Error> {
        if from > to {
            return Ok(None);
        }
        let taken: Option<i64> = sqlx::query_scalar(
            "SELECT address FROM instances WHERE network = $1 AND address = $2 AND deleted_at IS NULL",
        )
        .bind(network)
        .bind(from)
        .fetch_optional(self.tx())
        .await?;
        if taken.is_none() {
            return Ok(Some(from));
        }
        // The end of the first run of neighbours; the index is read in order up to it.
        let end: Option<i64> = sqlx::query_scalar(
            "SELECT i.address + 1 FROM instances i \
             WHERE i.deleted_at IS NULL AND i.network = $1 AND i.address >= $2 AND i.address < $3 AND NOT EXISTS \
                 (SELECT 1 FROM instances n \
                  WHERE n.deleted_at IS NULL AND n.network = i.network AND n.address = i.address + 1) \
             ORDER BY i.address LIMIT 1",
        )
        .bind(network)
        .bind(from)
        .bind(to)
        .fetch_optional(self.tx())
        .await?;
        Ok(end)
    }

    /// Records a new instance.
    pub async fn insert_instance(&mut self, instance: &Instance) -> Result<(), Error> {
        let (network, address) = split_address(instance.address);
        sqlx::query(
            "INSERT INTO instances (id, project_id, name, version_id, flavor, volume_gib, network, address, \
                 generation, settings, own, group_id, built, fault, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, NULL, $14, $15)",
        )
        .bind(instance.id.to_string())
        .bind(&instance.project.0)
        .bind(&instance.name)
        .bind(instance.version.to_string())
        .bind(&instance.flavor.0)
        .bind(i64::from(instance.volume_gib))
        .bind(network)
        .bind(i64::from(address))
        .bind(instance.generation.0.cast_signed())
        .bind(to_json(&instance.settings)?)
        .bind(to_json(&instance.own)?)
        .bind(instance.group.as_ref().map(|group| group.id.to_string()))
        .bind(instance.built)
        .bind(micros(instance.created_at))
        .bind(micros(instance.updated_at))
        .execute(self.tx())
        .await?;
        Ok(())
    }
}

async fn find(
    executor: impl Executor<'_, Database = Any>,
    backend: Backend,
    scope: Scope<'_>,
    id: InstanceId,
) -> Result<Option<InstanceRow>, Error> {
    let text: Option<String> =
        sqlx::query_scalar(backend.sql(select_shown!("AND i.id = $1 AND ($2 IS NULL OR i.project_id = $2)")))
            .bind(id.to_string())
            .bind(project_of(scope))
            .fetch_optional(executor)
            .await?;
    Ok(page(&text.unwrap_or_default())?.pop())
}

async fn last_event(
    executor: impl Executor<'_, Database = Any>,
    scope: Scope<'_>,
    instance: InstanceId,
    [one, other]: [&str; 2],
) -> Result<Option<Event>, Error> {
    let row = sqlx::query(
        "SELECT e.id, e.message, e.at FROM events e JOIN instances i ON i.id = e.instance_id \
         WHERE e.instance_id = $1 AND (e.id = $2 OR e.id = $3) AND ($4 IS NULL OR i.project_id = $4) \
         ORDER BY e.at DESC LIMIT 1",
    )
    .bind(instance.to_string())
    .bind(one)
    .bind(other)
    .bind(project_of(scope))
    .fetch_optional(executor)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut c = Columns::of(&row, "event");
    Ok(Some(Event { id: c.get()?, message: c.get()?, at: c.time()? }))
}

async fn count(executor: impl Executor<'_, Database = Any>, project: &ProjectId) -> Result<InUse, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*), CAST(COALESCE(SUM(i.volume_gib), 0) AS BIGINT) FROM instances i \
         WHERE i.deleted_at IS NULL AND i.project_id = $1",
    )
    .bind(&project.0)
    .fetch_one(executor)
    .await?;
    let mut c = Columns::of(&row, "instance");
    Ok(InUse { instances: c.get()?, volume_gib: c.get()? })
}

/// For `$n IS NULL OR project_id = $n`: null is everybody.
pub(crate) fn project_of(scope: Scope<'_>) -> Option<&str> {
    match scope {
        Scope::Project(project) => Some(&project.0),
        Scope::Admin => None,
    }
}
