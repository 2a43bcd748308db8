//! Everything of one store into another, of whichever kind.

use sqlx::any::{Any, AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Row as _, SqlSafeStr as _};

use crate::database::Location;
use crate::{Error, Store, Write};

/// All tables with all their columns, each after those that it refers to. `#` follows a number and `?` a truth, everything
/// else is text.
const TABLES: [(&str, &str); 12] = [
    ("projects", "id name"),
    ("users", "id name password_hash"),
    ("roles", "user_id project_id role"),
    ("tokens", "hash user_id project_id issued_at# expires_at#"),
    ("versions", "id datastore name number image active? is_default? sources"),
    ("configurations", "id project_id name description version_id settings created_at# updated_at#"),
    (
        "instances",
        "id project_id name version_id flavor volume_gib# network address# generation# settings own group_id built? fault \
         desired created_at# updated_at# deleted_at#",
    ),
    ("observed", "instance_id seen"),
    (
        "operations",
        "id instance_id project_id kind target group_id plan phase is_open? epoch# lease_until# steps findings gap_us# clients \
         created_at# updated_at#",
    ),
    (
        "gaps",
        "operation_id instance_id project_id kind from_engine to_engine host data_bytes# gap_us# read_gap_us# measured_at#",
    ),
    ("task_results", "operation_id task_id result"),
    ("events", "instance_id at# id message"),
];

/// How many rows are in memory at once.
const BATCH: i64 = 500;

/// How many rows of each table were taken over.
pub type Moved = Vec<(&'static str, u64)>;

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Truth,
}

/// A column as the list above has it.
fn column(text: &'static str) -> (&'static str, Kind) {
    match (text.strip_suffix('#'), text.strip_suffix('?')) {
        (Some(name), _) => (name, Kind::Number),
        (_, Some(name)) => (name, Kind::Truth),
        (None, None) => (text, Kind::Text),
    }
}

impl Store {
    /// Copies everything from this store into an empty one, which is made if it is not there: all of it or, with an error,
    /// nothing. Nobody may write into either meanwhile.
    pub async fn copy_to(&self, location: &Location) -> Result<Moved, Error> {
        let target = Self::open(location).await?;
        let copied = self.copy_into(&target, location).await;
        target.close().await;
        copied
    }

    async fn copy_into(&self, target: &Self, location: &Location) -> Result<Moved, Error> {
        let mut write = target.write().await?;
        let mut moved = Moved::new();
        for (table, columns) in TABLES {
            let columns: Vec<_> = columns.split_ascii_whitespace().map(column).collect();
            if write.count(table).await? > 0 {
                return Err(Error::NotEmpty(location.to_string()));
            }
            moved.push((table, self.copy_table(&mut write, table, &columns).await?));
        }
        write.commit().await?;
        Ok(moved)
    }

    async fn copy_table(
        &self,
        write: &mut Write,
        table: &'static str,
        columns: &[(&'static str, Kind)],
    ) -> Result<u64, Error> {
        let read: Vec<_> = columns
            .iter()
            .map(|(name, kind)| match kind {
                Kind::Truth => format!("CAST({name} AS INTEGER)"),
                Kind::Text | Kind::Number => (*name).to_owned(),
            })
            .collect();
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<_> = (1..=columns.len()).map(|n| format!("${n}")).collect();
        let (read, names, values) = (read.join(", "), names.join(", "), values.join(", "));
        // All columns together are what tells rows apart in every table.
        let select =
            format!("SELECT {read} FROM {table} ORDER BY {names} LIMIT CAST($1 AS BIGINT) OFFSET CAST($2 AS BIGINT)");
        let insert = AssertSqlSafe(format!("INSERT INTO {table} ({names}) VALUES ({values})")).into_sql_str();
        let mut copied = 0;
        loop {
            let rows = sqlx::query(AssertSqlSafe(select.clone()))
                .bind(BATCH)
                .bind(i64::try_from(copied).unwrap_or(i64::MAX))
                .fetch_all(self.reader())
                .await?;
            if rows.is_empty() {
                return Ok(copied);
            }
            for row in rows {
                let mut query = sqlx::query(insert.clone());
                for (at, (_, kind)) in columns.iter().enumerate() {
                    query = bind(query, &row, at, *kind)?;
                }
                query.execute(write.tx()).await?;
                copied += 1;
            }
        }
    }
}

impl Write {
    async fn count(&mut self, table: &'static str) -> Result<i64, Error> {
        let count = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
        Ok(sqlx::query_scalar(count).fetch_one(self.tx()).await?)
    }
}

fn bind<'q>(
    query: Query<'q, Any, AnyArguments>,
    row: &AnyRow,
    at: usize,
    kind: Kind,
) -> Result<Query<'q, Any, AnyArguments>, Error> {
    Ok(match kind {
        Kind::Text => query.bind(row.try_get::<Option<String>, _>(at)?),
        Kind::Number => query.bind(row.try_get::<Option<i64>, _>(at)?),
        Kind::Truth => query.bind(row.try_get::<i64, _>(at)? != 0),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[tokio::test]
    async fn every_column_of_every_table_is_moved() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(&Location::File(dir.path().join("coffer.db"))).await.expect("a store");
        let rows = sqlx::query(
            "SELECT t.name, c.name, c.type FROM sqlite_master t JOIN pragma_table_info(t.name) c \
             WHERE t.type = 'table' AND t.name NOT LIKE '\\_%' ESCAPE '\\'",
        )
        .fetch_all(&store.reader)
        .await
        .expect("the schema");
        let mut schema: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
        for row in &rows {
            schema.entry(row.get(0)).or_default().insert((row.get(1), row.get(2)));
        }
        let kind = |kind| match kind {
            Kind::Text => "TEXT",
            Kind::Number => "BIGINT",
            Kind::Truth => "BOOLEAN",
        };
        let columns = |text: &'static str| {
            let columns = text.split_ascii_whitespace().map(column);
            columns.map(|(name, of)| (name.to_owned(), kind(of).to_owned())).collect()
        };
        let listed: BTreeMap<_, _> = TABLES.map(|(name, text)| (name.to_owned(), columns(text))).into();
        assert_eq!(schema, listed);
        store.close().await;
    }
}
