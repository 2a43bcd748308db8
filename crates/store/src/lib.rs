//! What is written down: the only crate with SQL.
//!
//! Guarantees: a write that returned is on disk; what belongs together is one transaction; reads never wait for the
//! writer; a query on a tenant's data cannot be written without saying whose ([`Scope`]); a claimant that was fenced
//! writes nothing.
//!
//! The SQL is one text for SQLite and PostgreSQL: `$1`, text ids, microseconds as BIGINT, JSON as TEXT, RETURNING,
//! partial indexes; only what `gathered` has to do with JSON is SQLite's own. SQLite is what it runs on today: in WAL, with
//! one connection that writes and a few that read.

mod agent;
mod error;
mod gathered;
mod group;
mod identity;
mod instance;
mod operation;
mod row;
mod version;

use std::path::Path;
use std::time::Duration;

use coffer_core::id::ProjectId;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, SqlSafeStr};

pub use agent::{AgentRow, Desire};
pub use error::Error;
pub use identity::{Project, Token, TokenOwner, User};
pub use instance::InUse;
pub use operation::{Change, Work};
pub use row::{Event, InstanceRow, OpenOperation};

/// Whose data a query sees. There is no default: whoever writes `Admin` has decided it.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// That of one project; everything else does not exist.
    Project(&'a ProjectId),
    /// That of every project, for administrators.
    Admin,
}

/// How many connections read. They are as many as the server's threads, which have as much to do with what is read.
const READERS: u32 = 2;
/// How much of the file each connection keeps in memory. What it has not is in the kernel's cache.
const CACHE_KIB: u32 = 512;
/// How long a statement waits for a lock of another process, such as a backup's.
const BUSY: Duration = Duration::from_secs(10);

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    reader: SqlitePool,
    writer: SqlitePool,
}

/// A transaction that writes, alone: nobody else writes until it ends. Dropped, it has never been.
#[derive(Debug)]
pub struct Write {
    tx: sqlx::Transaction<'static, sqlx::Sqlite>,
}

impl Store {
    /// Opens the store in that file, making it or bringing it to what this binary knows.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        // Made here, for its owner alone; SQLite gives the files beside it the same mode.
        fs_err::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // What was answered with 202 has to be there after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("cache_size", format!("-{CACHE_KIB}"))
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let pool = |size| {
            // Connections to a file do not go stale: asking each time whether one is alive costs more than the query.
            SqlitePoolOptions::new()
                .max_connections(size)
                .test_before_acquire(false)
                .idle_timeout(None)
                .max_lifetime(None)
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        migrations().run(&writer).await?;
        let reader = pool(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { reader, writer })
    }

    /// Begins to write.
    pub async fn write(&self) -> Result<Write, Error> {
        // IMMEDIATE, so that what is read in it is still true when it is written.
        Ok(Write { tx: self.writer.begin_with("BEGIN IMMEDIATE").await? })
    }

    /// Waits for what is being written, then closes every connection.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

impl Write {
    /// Makes everything that was written true, at once.
    pub async fn commit(self) -> Result<(), Error> {
        Ok(self.tx.commit().await?)
    }
}

fn migrations() -> Migrator {
    let simple = |version, name: &'static str, sql: &'static str| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        simple(1, "foundation", include_str!("../migrations/0001_foundation.sql")),
        simple(2, "newest address", include_str!("../migrations/0002_newest_address.sql")),
        simple(3, "ipv6", include_str!("../migrations/0003_ipv6.sql")),
        simple(4, "clients", include_str!("../migrations/0004_clients.sql")),
        simple(5, "groups", include_str!("../migrations/0005_groups.sql")),
    ])
}
