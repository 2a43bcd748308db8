//! Configuration groups. Every query on a tenant's says whose.

use coffer_core::group::Group;
use coffer_core::id::{GroupId, InstanceId, ProjectId, VersionId};
use coffer_core::spec::Settings;
use jiff::Timestamp;
use serde::Deserialize;
use sqlx::any::AnyRow;

use crate::gathered::Micros;
use crate::instance::project_of;
use crate::row::{Columns, micros, to_json};
use crate::{Error, Scope, Store, Write};

/// A group, as [`GatheredGroup`] reads it.
macro_rules! group_json {
    () => {
        "'[' || CAST(json_array(g.id, g.project_id, g.name, g.description, g.version_id, g.created_at, g.updated_at) AS TEXT) \
             || ',' || g.settings || ']'"
    };
}
pub(crate) use group_json;

macro_rules! select_groups {
    ($rest:literal) => {
        concat!(
            "SELECT g.id, ",
            group_json!(),
            " FROM configurations g WHERE ($1 IS NULL OR g.project_id = $1) ",
            $rest
        )
    };
}

/// A group.
#[derive(Deserialize)]
pub(crate) struct GatheredGroup(PlainGroup, Settings);

#[derive(Deserialize)]
struct PlainGroup {
    id: GroupId,
    project: ProjectId,
    name: String,
    description: Option<String>,
    version: VersionId,
    created_at: Micros,
    updated_at: Micros,
}

impl From<GatheredGroup> for Group {
    fn from(GatheredGroup(plain, values): GatheredGroup) -> Self {
        Self {
            id: plain.id,
            project: plain.project,
            name: plain.name,
            description: plain.description,
            version: plain.version,
            values,
            created_at: plain.created_at.0,
            updated_at: plain.updated_at.0,
        }
    }
}

impl Store {
    /// At most `limit` groups with an id after `marker`, by ascending id.
    pub async fn groups(&self, scope: Scope<'_>, marker: &str, limit: u32) -> Result<Vec<Group>, Error> {
        // The cast is for the same reason as in `select_page`.
        let rows =
            sqlx::query(self.backend.sql(select_groups!("AND g.id > $2 ORDER BY g.id LIMIT CAST($3 AS BIGINT)")))
                .bind(project_of(scope))
                .bind(marker)
                .bind(i64::from(limit))
                .fetch_all(self.reader())
                .await?;
        rows.iter().map(group).collect()
    }

    /// One group.
    pub async fn group(&self, scope: Scope<'_>, id: GroupId) -> Result<Option<Group>, Error> {
        let rows = sqlx::query(self.backend.sql(select_groups!("AND g.id = $2")))
            .bind(project_of(scope))
            .bind(id.to_string())
            .fetch_all(self.reader())
            .await?;
        rows.iter().map(group).next().transpose()
    }

    /// At most `limit` instances that have the group, with an id after `marker`, by ascending id, with their names. For
    /// whoever may see the group: all of them are of its project.
    pub async fn instances_of_group(
        &self,
        id: GroupId,
        marker: &str,
        limit: u32,
    ) -> Result<Vec<(InstanceId, String)>, Error> {
        let rows = sqlx::query(
            "SELECT i.id, i.name FROM instances i WHERE i.group_id = $1 AND i.deleted_at IS NULL AND i.id > $2 \
             ORDER BY i.id LIMIT CAST($3 AS BIGINT)",
        )
        .bind(id.to_string())
        .bind(marker)
        .bind(i64::from(limit))
        .fetch_all(self.reader())
        .await?;
        let named = |row| {
            let mut c = Columns::of(row, "instance");
            Ok((c.parse()?, c.get()?))
        };
        rows.iter().map(named).collect()
    }

    /// How many instances have the group.
    pub async fn count_of_group(&self, id: GroupId) -> Result<i64, Error> {
        let sql = "SELECT COUNT(*) FROM instances i WHERE i.group_id = $1 AND i.deleted_at IS NULL";
        Ok(sqlx::query_scalar(sql).bind(id.to_string()).fetch_one(self.reader()).await?)
    }
}

impl Write {
    /// One group, as nobody else can change it while this transaction lasts.
    pub async fn group(&mut self, scope: Scope<'_>, id: GroupId) -> Result<Option<Group>, Error> {
        let rows = sqlx::query(self.backend.sql(select_groups!("AND g.id = $2")))
            .bind(project_of(scope))
            .bind(id.to_string())
            .fetch_all(self.tx())
            .await?;
        rows.iter().map(group).next().transpose()
    }

    /// All groups of a project.
    pub async fn groups(&mut self, project: &ProjectId) -> Result<Vec<Group>, Error> {
        let rows = sqlx::query(self.backend.sql(select_groups!("ORDER BY g.created_at, g.id")))
            .bind(&project.0)
            .fetch_all(self.tx())
            .await?;
        rows.iter().map(group).collect()
    }

    /// The instances that have the group, and those that an open operation gives it to.
    pub async fn users_of_group(&mut self, id: GroupId) -> Result<Vec<InstanceId>, Error> {
        let rows = sqlx::query(
            "SELECT i.id FROM instances i WHERE i.group_id = $1 AND i.deleted_at IS NULL \
             UNION SELECT o.instance_id FROM operations o WHERE o.group_id = $1 AND o.is_open",
        )
        .bind(id.to_string())
        .fetch_all(self.tx())
        .await?;
        rows.iter().map(|row| Columns::of(row, "instance").parse()).collect()
    }

    /// Writes a new group.
    pub async fn insert_group(&mut self, group: &Group) -> Result<(), Error> {
        sqlx::query(
            "INSERT INTO configurations (id, project_id, name, description, version_id, settings, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(group.id.to_string())
        .bind(&group.project.0)
        .bind(&group.name)
        .bind(&group.description)
        .bind(group.version.to_string())
        .bind(to_json(&group.values)?)
        .bind(micros(group.created_at))
        .bind(micros(group.updated_at))
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Writes what may change of a group: name, description and values.
    pub async fn save_group(&mut self, group: &Group) -> Result<(), Error> {
        sqlx::query(
            "UPDATE configurations SET name = $2, description = $3, settings = $4, updated_at = $5 WHERE id = $1",
        )
        .bind(group.id.to_string())
        .bind(&group.name)
        .bind(&group.description)
        .bind(to_json(&group.values)?)
        .bind(micros(group.updated_at))
        .execute(self.tx())
        .await?;
        Ok(())
    }

    /// Removes a group that nobody has.
    pub async fn delete_group(&mut self, id: GroupId) -> Result<(), Error> {
        sqlx::query("DELETE FROM configurations WHERE id = $1").bind(id.to_string()).execute(self.tx()).await?;
        Ok(())
    }

    /// The id of that group, which is made where there is neither it nor one with the same name, version and values.
    pub(crate) async fn ensure_group(&mut self, wanted: &Group, now: Timestamp) -> Result<GroupId, Error> {
        let all = self.groups(&wanted.project).await?;
        let same = |g: &&Group| (g.version, &g.name, &g.values) == (wanted.version, &wanted.name, &wanted.values);
        let found = all.iter().find(|group| group.id == wanted.id).or_else(|| all.iter().find(same));
        if let Some(group) = found {
            return Ok(group.id);
        }
        self.insert_group(&Group { created_at: now, updated_at: now, ..wanted.clone() }).await?;
        Ok(wanted.id)
    }
}

fn group(row: &AnyRow) -> Result<Group, Error> {
    let mut c = Columns::of(row, "configuration group");
    c.skip(1);
    c.json::<GatheredGroup>().map(Group::from)
}
