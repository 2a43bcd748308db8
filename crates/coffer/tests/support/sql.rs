//! A client of MariaDB, as tenants have one.

use std::net::SocketAddr;
use std::path::Path;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};

/// A connection, used from a test that has no runtime.
pub(crate) struct Sql {
    runtime: tokio::runtime::Runtime,
    connection: MySqlConnection,
}

impl Sql {
    /// Logs in.
    pub(crate) fn open(address: SocketAddr, user: &str, password: &str) -> Result<Self, sqlx::Error> {
        let options = MySqlConnectOptions::new().host(&address.ip().to_string()).port(address.port());
        Self::with(options.username(user).password(password))
    }

    /// Logs in over the engine's own socket, as the agent does. Only for the user who runs the agent.
    pub(crate) fn as_agent(volume: &Path) -> Result<Self, sqlx::Error> {
        Self::with(MySqlConnectOptions::new().socket(volume.join("run/mysql.sock")).username("coffer"))
    }

    fn with(options: MySqlConnectOptions) -> Result<Self, sqlx::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let options = options.ssl_mode(MySqlSslMode::Disabled).timezone(None);
        let connection = runtime.block_on(options.connect())?;
        Ok(Self { runtime, connection })
    }

    /// All rows as text, columns with a bar between, sorted.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<Vec<String>, sqlx::Error> {
        let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut self.connection);
        let rows = self.runtime.block_on(rows)?;
        let text = |row: &sqlx::mysql::MySqlRow, at| {
            let bytes: Option<Vec<u8>> = row.try_get_unchecked(at).expect("bytes");
            bytes.map_or_else(|| "NULL".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let mut rows: Vec<_> =
            rows.iter().map(|row| (0..row.len()).map(|at| text(row, at)).collect::<Vec<_>>().join("|")).collect();
        rows.sort();
        Ok(rows)
    }

    /// Does something that has to work.
    #[track_caller]
    pub(crate) fn run(&mut self, sql: &str) {
        if let Err(error) = self.ask(sql) {
            panic!("{sql}: {error}");
        }
    }
}
