//! What is written down: the only crate with SQL.
//!
//! Guarantees: a write that returned is on disk; what belongs together is one transaction; reads never wait for the
//! writer; a query on a tenant's data cannot be written without saying whose ([`Scope`]); a claimant that was fenced
//! writes nothing.
//!
//! The SQL is one text for SQLite and PostgreSQL: `$1`, text ids, microseconds as BIGINT, JSON as TEXT, RETURNING,
//! partial indexes. In both, one at a time writes and a few read: writes are short and each is flushed to disk, and a
//! control plane whose transactions can be thought of one after another is worth more than some more of them.

mod agent;
mod database;
mod error;
mod gap;
mod gathered;
mod group;
mod identity;
mod instance;
mod limit;
mod moving;
mod news;
mod operation;
mod row;
mod version;

use std::collections::BTreeSet;

use coffer_core::id::ProjectId;
use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Any, AnyConnection, AnyPool, SqlSafeStr as _};

pub use agent::AgentRow;
pub use coffer_core::runner::{Change, Desire};
use database::Backend;
pub use database::{Location, NotAUrl, PostgresUrl};
pub use error::Error;
pub use identity::{Project, Token, TokenOwner, User};
pub use instance::InUse;
use limit::{Limited, in_time};
pub use moving::Moved;
pub use news::{Listener, News};
pub use operation::Work;
pub use row::{Event, InstanceRow, OpenOperation};

/// Whose data a query sees. There is no default: whoever writes `Admin` has decided it.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// That of one project; everything else does not exist.
    Project(&'a ProjectId),
    /// That of every project, for administrators.
    Admin,
}

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    location: Location,
    backend: Backend,
    reader: AnyPool,
    writer: AnyPool,
}

/// A transaction that writes, alone: nobody else writes until it ends. Dropped, it has never been.
#[derive(Debug)]
pub struct Write {
    backend: Backend,
    tx: sqlx::Transaction<'static, Any>,
    /// What others are told of it.
    news: BTreeSet<News>,
}

impl Store {
    /// Opens the store that is there, making it or bringing it to what this binary knows. One that a newer binary has
    /// brought further is refused.
    pub async fn open(location: &Location) -> Result<Self, Error> {
        let writer = location.writer().await?;
        migrations().run(&writer).await.map_err(|error| match error {
            MigrateError::VersionMissing(has) => newer(location, has),
            error => Error::Migrate(error),
        })?;
        let reader = location.reader().await?;
        Ok(Self { location: location.clone(), backend: location.backend(), reader, writer })
    }

    /// Whether this binary still knows what is written: not any more once a newer one has brought the schema further, as it
    /// does when servers are replaced one after the other.
    pub async fn check_schema(&self) -> Result<(), Error> {
        let has = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations").fetch_one(self.reader()).await?;
        if has > SCHEMA { Err(newer(&self.location, has)) } else { Ok(()) }
    }

    /// Begins to write.
    pub async fn write(&self) -> Result<Write, Error> {
        let tx = in_time(self.backend.begin(&self.writer)).await?;
        Ok(Write { backend: self.backend, tx, news: BTreeSet::new() })
    }

    /// What reads.
    fn reader(&self) -> Limited<&AnyPool> {
        Limited(&self.reader)
    }

    /// Waits for what is being written, then closes every connection.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

impl Write {
    /// What reads and writes in it.
    fn tx(&mut self) -> Limited<&mut AnyConnection> {
        Limited(&mut self.tx)
    }

    /// Makes everything that was written true, at once.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.backend == Backend::Postgres {
            self.send_news().await?;
        }
        Ok(in_time(self.tx.commit()).await?)
    }
}

/// The schema as it came to be. Servers of the schema before go on for a moment when they are replaced, so none takes away or
/// renames what they use; and what they could not read, such as a new kind of step, comes with a migration, be it an empty one.
const MIGRATIONS: [(i64, &str, &str); 6] = [
    (1, "foundation", include_str!("../migrations/0001_foundation.sql")),
    (2, "newest address", include_str!("../migrations/0002_newest_address.sql")),
    (3, "ipv6", include_str!("../migrations/0003_ipv6.sql")),
    (4, "clients", include_str!("../migrations/0004_clients.sql")),
    (5, "groups", include_str!("../migrations/0005_groups.sql")),
    (6, "gaps", include_str!("../migrations/0006_gaps.sql")),
];
/// The newest schema that this binary knows.
const SCHEMA: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;

fn newer(location: &Location, has: i64) -> Error {
    Error::Newer { store: location.to_string(), has, knows: SCHEMA }
}

fn migrations() -> Migrator {
    let simple = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().map(simple).collect())
}
