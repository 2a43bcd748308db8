//! Which database the store is in, how it is opened, and the little that is otherwise in each.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Once;
use std::time::Duration;

use fs_err::os::unix::fs::OpenOptionsExt as _;
use sqlx::any::{Any, AnyConnectOptions, AnyPoolOptions, install_drivers};
use sqlx::{AnyPool, AssertSqlSafe, ConnectOptions as _, Connection as _, SqlSafeStr as _, SqlStr};

use crate::Error;
use crate::limit::in_time;

/// How many connections read. They are as many as the server's threads, which have as much to do with what is read.
const READERS: u32 = 2;
/// How much of the file each connection to SQLite keeps in memory. What it has not is in the kernel's cache.
const CACHE_KIB: u32 = 512;
/// How long a statement waits for somebody else who writes: a backup of the file, another server.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server that says nothing may keep all others from writing, in PostgreSQL.
const SILENCE: Duration = Duration::from_secs(5);

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A file of SQLite, for one server.
    File(PathBuf),
    /// A database of PostgreSQL, for any number of servers.
    Postgres(PostgresUrl),
}

/// The URL of a database of PostgreSQL, without a password: that comes from `~/.pgpass`, or the file that
/// `PGPASSFILE` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresUrl(String);

/// Why a text is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAUrl {
    /// It does not look like one.
    #[error("it does not begin with postgres://; hint: --store postgres://USER@HOST:PORT/DATABASE")]
    Scheme,
    /// Everybody on the machine would see it in the list of processes.
    #[error("it holds a password; hint: write it into ~/.pgpass (mode 0600), or a file that PGPASSFILE names")]
    Password,
}

impl FromStr for PostgresUrl {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(NotAUrl::Scheme)?;
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        let in_query = rest.split(['?', '&']).skip(1).any(|pair| pair.starts_with("password="));
        if has_password || in_query { Err(NotAUrl::Password) } else { Ok(Self(text.to_owned())) }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(PostgresUrl(url)) => f.write_str(url),
        }
    }
}

/// What kind of database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    /// A statement in its words. The texts are SQLite's, and differ in the name of one function.
    pub(crate) fn sql(self, text: &'static str) -> SqlStr {
        match self {
            Self::Sqlite => text.into_sql_str(),
            // Of PostgreSQL's own `json_array` 15 knows nothing, and that of 16 leaves out what is null.
            Self::Postgres => AssertSqlSafe(text.replace("json_array(", "json_build_array(")).into_sql_str(),
        }
    }

    /// Begins a transaction in which nobody else writes, so that what is read in it is still true when it is written. In
    /// PostgreSQL that is a lock that goes with the transaction; its number stands for Coffer.
    pub(crate) async fn begin(self, pool: &AnyPool) -> Result<sqlx::Transaction<'static, Any>, sqlx::Error> {
        match self {
            Self::Sqlite => pool.begin_with("BEGIN IMMEDIATE").await,
            Self::Postgres => {
                // First a transaction and then the lock: one that is not waited for to its end, or not had, is then known to
                // have begun, and ended.
                let mut tx = pool.begin().await?;
                sqlx::raw_sql("SELECT pg_advisory_xact_lock(1668245093)").execute(&mut *tx).await?;
                Ok(tx)
            }
        }
    }

    /// What each new connection is told first.
    fn session(self) -> String {
        let (patience, silence) = (PATIENCE.as_millis(), SILENCE.as_millis());
        match self {
            // FULL: what was answered with 202 has to be there after a power cut.
            Self::Sqlite => format!(
                "PRAGMA busy_timeout = {patience}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
                 PRAGMA foreign_keys = ON; PRAGMA cache_size = -{CACHE_KIB}"
            ),
            // A server that was stopped, or cut off, in the middle of a transaction loses it and the lock.
            Self::Postgres => format!(
                "SET lock_timeout = {patience}; SET idle_in_transaction_session_timeout = {silence}; \
                 SET tcp_user_timeout = {silence}; SET synchronous_commit = on"
            ),
        }
    }
}

impl Location {
    /// The URL, where it has one.
    pub(crate) fn url(&self) -> Option<&str> {
        match self {
            Self::File(_) => None,
            Self::Postgres(PostgresUrl(url)) => Some(url),
        }
    }

    /// Whether other servers may work on what is in it.
    pub fn is_shared(&self) -> bool {
        self.url().is_some()
    }

    pub(crate) fn backend(&self) -> Backend {
        match self {
            Self::File(_) => Backend::Sqlite,
            Self::Postgres(_) => Backend::Postgres,
        }
    }

    /// Opens the connection that writes. A file is made if it is not there.
    pub(crate) async fn writer(&self) -> Result<AnyPool, Error> {
        match self {
            Self::File(path) => {
                // Made here, for its owner alone; SQLite gives the files beside it the same mode.
                fs_err::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
                self.pool(1, &file_url(path, "rw")?).await
            }
            Self::Postgres(PostgresUrl(url)) => self.pool(1, url).await,
        }
    }

    /// Opens the connections that read.
    pub(crate) async fn reader(&self) -> Result<AnyPool, Error> {
        match self {
            Self::File(path) => self.pool(READERS, &file_url(path, "ro")?).await,
            Self::Postgres(PostgresUrl(url)) => self.pool(READERS, url).await,
        }
    }

    async fn pool(&self, size: u32, url: &str) -> Result<AnyPool, Error> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(|| {
            // Refused only where somebody installed some before, and nobody else does.
            let _ = install_drivers(const { &[sqlx::sqlite::any::DRIVER, sqlx::postgres::any::DRIVER] });
        });
        let backend = self.backend();
        let options: AnyConnectOptions = url.parse()?;
        let pool = AnyPoolOptions::new().max_connections(size).acquire_timeout(PATIENCE);
        let pool = pool.after_connect(move |connection, _| {
            Box::pin(
                async move { sqlx::raw_sql(AssertSqlSafe(backend.session())).execute(connection).await.map(|_| ()) },
            )
        });
        // Where the database took a transaction back by itself, as SQLite does on a full disk, what is left of it here cannot be
        // ended any more, and no other begun: such a connection is given up.
        let pool =
            pool.before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))));
        let pool = match backend {
            // Connections to a file do not go stale: asking each time whether one is alive costs more than the query.
            Backend::Sqlite => pool.test_before_acquire(false).idle_timeout(None).max_lifetime(None),
            // One that says nothing does not keep its place.
            Backend::Postgres => pool.after_release(|connection, _| {
                Box::pin(async move { in_time(connection.ping()).await.map(|()| true) })
            }),
        };
        Ok(pool.connect_with(options.disable_statement_logging()).await?)
    }
}

fn file_url(path: &Path, mode: &str) -> Result<String, Error> {
    let absolute = std::path::absolute(path)?;
    let mut url = url::Url::from_file_path(&absolute)
        .map_err(|()| std::io::Error::new(std::io::ErrorKind::InvalidInput, "the path of the store is no file's"))?;
    url.set_query(Some(&format!("mode={mode}")));
    Ok(url.as_str().replacen("file://", "sqlite://", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_is_refused() {
        let parsed = |text: &str| text.parse::<PostgresUrl>().map(|url| url.0);
        assert_eq!(parsed("postgres://coffer@db/coffer"), Ok("postgres://coffer@db/coffer".to_owned()));
        assert_eq!(parsed("postgresql:///coffer?host=/run"), Ok("postgresql:///coffer?host=/run".to_owned()));
        assert_eq!(parsed("postgres://coffer:secret@db/coffer"), Err(NotAUrl::Password));
        assert_eq!(parsed("postgres://db/coffer?user=coffer&password=secret"), Err(NotAUrl::Password));
        assert_eq!(parsed("mysql://db/coffer"), Err(NotAUrl::Scheme));
    }
}
