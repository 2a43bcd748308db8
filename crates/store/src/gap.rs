//! Gaps that were measured.

use coffer_core::gap::{Circumstances, Gap, Way};
use coffer_core::id::ProjectId;
use sqlx::any::AnyRow;

use crate::row::{Columns, micros, to_json};
use crate::{Error, Scope, Store, Write};

/// The columns of a gap, in the order in which `gap` reads them.
const COLUMNS: &str = "operation_id, instance_id, project_id, kind, from_engine, to_engine, host, data_bytes, gap_us, \
                       read_gap_us, measured_at";

impl Store {
    /// The newest gaps on this way, of all projects: what is told of them is how long an engine needs.
    pub async fn gaps_on(&self, way: &Way, limit: u32) -> Result<Vec<Gap>, Error> {
        let query = format!(
            "SELECT {COLUMNS} FROM gaps WHERE from_engine = $1 AND to_engine = $2 ORDER BY measured_at DESC LIMIT $3"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(query)).bind(&way.from).bind(&way.to).bind(i64::from(limit));
        query.fetch_all(self.reader()).await?.iter().map(gap).collect()
    }

    /// The newest gaps.
    pub async fn gaps(&self, scope: Scope<'_>, limit: u32) -> Result<Vec<Gap>, Error> {
        let of = |which| format!("SELECT {COLUMNS} FROM gaps {which} ORDER BY measured_at DESC, operation_id LIMIT $1");
        let rows = match scope {
            Scope::Project(project) => {
                let query = sqlx::AssertSqlSafe(of("WHERE project_id = $2"));
                sqlx::query(query).bind(i64::from(limit)).bind(&project.0).fetch_all(self.reader()).await?
            }
            Scope::Admin => {
                sqlx::query(sqlx::AssertSqlSafe(of(""))).bind(i64::from(limit)).fetch_all(self.reader()).await?
            }
        };
        rows.iter().map(gap).collect()
    }
}

impl Write {
    /// Writes a gap down, once.
    pub(crate) async fn insert_gap(&mut self, gap: &Gap) -> Result<(), Error> {
        let insert = format!(
            "INSERT INTO gaps ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (operation_id) DO NOTHING"
        );
        sqlx::query(sqlx::AssertSqlSafe(insert))
            .bind(gap.operation.to_string())
            .bind(gap.instance.to_string())
            .bind(&gap.project.0)
            .bind(gap.kind.name())
            .bind(&gap.way.from)
            .bind(&gap.way.to)
            .bind(to_json(&gap.circumstances.host)?)
            .bind(gap.circumstances.data_bytes.cast_signed())
            .bind(gap.gap_us.cast_signed())
            .bind(gap.circumstances.read_gap_us.map(u64::cast_signed))
            .bind(micros(gap.at))
            .execute(self.tx())
            .await?;
        Ok(())
    }
}

fn gap(row: &AnyRow) -> Result<Gap, Error> {
    let mut c = Columns::of(row, "gap");
    let (operation, instance, project) = (c.parse()?, c.parse()?, ProjectId(c.get()?));
    let (kind, way) = (c.kind()?, Way { from: c.get()?, to: c.get()? });
    let (host, data_bytes, gap_us) = (c.json()?, c.number()?, c.number()?);
    let read_gap_us = c.get::<Option<i64>>()?.and_then(|us| u64::try_from(us).ok());
    let circumstances = Circumstances { host, data_bytes, read_gap_us };
    Ok(Gap { operation, instance, project, kind, way, circumstances, gap_us, at: c.time()? })
}
