//! The connection to an engine, and what can be asked of it without changing anything.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coffer_core::datastore::Number;
use coffer_core::engine::sql::config;
use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::engine::sql::in_force::is_in_force;
use coffer_core::engine::sql::parameters;
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Row as _};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::site::{Error, Paths};

/// How long an engine may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// How long an engine may take to recover before it says anything. Its end is seen at once, so this is for one that hangs.
const SILENCE_LIMIT: Duration = Duration::from_secs(600);
/// How long one attempt to reach a starting engine may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(5);
/// What it says where there is no room for what it has to write (`ER_DISK_FULL`).
const DISK_FULL: u16 = 1021;

/// A row as text, column by column; `None` is NULL.
pub(super) type Texts = Vec<Option<Vec<u8>>>;

/// A connection to a running engine over its unix socket, as the agent's account. Clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    connection: Arc<Mutex<MySqlConnection>>,
    pub(super) dialect: Dialect,
    pub(super) paths: Paths,
}

impl Client {
    /// Connects. Fails when nothing listens.
    pub(crate) async fn connect(dialect: Dialect, paths: &Paths) -> Result<Self, Error> {
        // A path in a deep volume is longer than the 108 bytes that an address takes; one through an open directory is not.
        let run = fs_err::File::open(&paths.run)?;
        let name = config::SOCKET.rsplit('/').next().unwrap_or_default();
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{name}", run.as_raw_fd()));
        let options = options().socket(&socket).username(config::AGENT);
        let connection = tokio::time::timeout(ANSWER_LIMIT, options.connect())
            .await
            .map_err(|_| Error::Late { what: "answer", within: ANSWER_LIMIT, detail: String::new() })?
            .map_err(|e| error("the login", e))?;
        let client = Self { connection: Arc::new(Mutex::new(connection)), dialect, paths: paths.clone() };
        client.run("SET SESSION", &dialect.session()).await?;
        client.run("SET NAMES", "SET NAMES utf8mb4").await?;
        Ok(client)
    }

    /// Connects as soon as the engine lets the agent in, which it does when it has recovered. Race it against the end of
    /// the process, of which it knows nothing.
    pub(crate) async fn ready(dialect: Dialect, paths: &Paths) -> Result<Self, Error> {
        let began = Instant::now();
        loop {
            let why = match tokio::time::timeout(ATTEMPT_LIMIT, Self::connect(dialect, paths)).await {
                Ok(Ok(client)) => return Ok(client),
                Ok(Err(why)) => format!(": {why}"),
                Err(_) => String::new(),
            };
            if began.elapsed() > SILENCE_LIMIT {
                return Err(Error::Late { what: "answer", within: SILENCE_LIMIT, detail: why });
            }
            sleep(PAUSE).await;
        }
    }

    /// What the engine says it is.
    pub(crate) async fn version(&self) -> Result<Number, Error> {
        let said = self.value("VERSION()").await?;
        said.split('-').next().and_then(|v| v.parse().ok()).ok_or(Error::Misunderstood { command: "VERSION()" })
    }

    /// The transactions that are prepared and not decided, in a sentence, if there are any.
    pub(crate) async fn undecided(&self) -> Result<Option<String>, Error> {
        let prepared = self.rows("XA RECOVER", "XA RECOVER").await?.len();
        Ok((prepared > 0)
            .then(|| format!("{prepared} transactions are prepared and not decided (XA RECOVER names them)")))
    }

    /// Whether the engine is what `expect` says, and has read its configuration: one that ignores its file answers too.
    pub(crate) async fn verify(&self, expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        let mut findings = Vec::new();
        let found = self.version().await?;
        if found != expect.number {
            let message = format!("it says that it is {found} instead of {}", expect.number);
            findings.push(Finding::error("proof.version", "engine", message, "check what the engine image carries"));
        }
        let connections = config::max_connections(expect).to_string();
        // Not the port: an engine that is closed without a gate says that it has none.
        for (name, wanted) in [("datadir", "/data/"), ("skip_name_resolve", "1"), ("max_connections", &connections)] {
            let is = self.value(&format!("@@GLOBAL.{name}")).await?;
            if is != wanted {
                let message = format!("it is {is} instead of {wanted}");
                findings.push(Finding::error("config.value", name, message, "restart the instance"));
            }
        }
        // Engines may correct what they are told, which is worth a word and no more.
        let version = (expect.datastore(), expect.number);
        let rows = self.rows("SHOW VARIABLES", "SHOW GLOBAL VARIABLES").await?;
        let shown: BTreeMap<_, _> = rows.iter().map(|row| (text(row, 0), text(row, 1))).collect();
        let told: BTreeMap<_, _> = config::settings(expect).into_iter().collect();
        for (name, wanted) in &told {
            if let Some(is) = shown.get(name).filter(|is| !is_in_force(version, name, wanted, is)) {
                let message = format!("it is {is} instead of {wanted}");
                findings.push(Finding::warning("config.value", name, message, "choose a value that the engine takes"));
            }
        }
        Ok(findings)
    }

    /// Those of its settings that may be chosen, as they are now.
    pub(crate) async fn settings(&self, spec: &EngineSpec) -> Result<BTreeMap<String, String>, Error> {
        let known = parameters::all(spec.datastore(), spec.number);
        let rows = self.rows("SHOW VARIABLES", "SHOW GLOBAL VARIABLES").await?;
        let all = rows.iter().map(|row| (text(row, 0), text(row, 1)));
        Ok(all.filter(|(name, _)| known.contains_key(name.as_str())).collect())
    }

    /// Whether it has its port.
    pub(crate) async fn listens(&self) -> Result<bool, Error> {
        Ok(self.value("@@GLOBAL.skip_networking").await? == "0")
    }

    /// One value, as text.
    pub(super) async fn value(&self, expression: &str) -> Result<String, Error> {
        let rows = self.rows("a question", &format!("SELECT {expression}")).await?;
        Ok(rows.into_iter().next().map(|row| text(&row, 0)).unwrap_or_default())
    }

    /// Global status by these names.
    pub(super) async fn status(&self, pattern: &str) -> Result<BTreeMap<String, String>, Error> {
        let rows = self.rows("SHOW STATUS", &format!("SHOW GLOBAL STATUS LIKE '{pattern}'")).await?;
        Ok(rows.into_iter().map(|row| (text(&row, 0), text(&row, 1))).collect())
    }

    /// Does something. `what` names it in errors: the statement itself may hold what is not to be told.
    pub(super) async fn run(&self, what: &'static str, sql: &str) -> Result<(), Error> {
        self.rows(what, sql).await.map(drop)
    }

    /// All rows of a question that the engine gives up after so long.
    pub(super) async fn rows_within(
        &self,
        what: &'static str,
        sql: &str,
        limit: Duration,
    ) -> Result<Vec<Texts>, Error> {
        self.rows(what, &self.dialect.within(sql, limit)).await
    }

    /// All rows that a statement gives, as the engine writes them as text.
    pub(super) async fn rows(&self, what: &'static str, sql: &str) -> Result<Vec<Texts>, Error> {
        let mut connection = self.connection.lock().await;
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection);
        let rows = tokio::time::timeout(ANSWER_LIMIT, asked)
            .await
            .map_err(|_| Error::Late { what: "answer", within: ANSWER_LIMIT, detail: format!(" ({what})") })?
            .map_err(|e| error(what, e))?;
        rows.iter().map(|row| texts(row).map_err(|e| error(what, e))).collect()
    }
}

/// A connection that sends nothing by itself.
pub(super) fn options() -> MySqlConnectOptions {
    MySqlConnectOptions::new()
        .ssl_mode(MySqlSslMode::Disabled)
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .timezone(None)
        .set_names(false)
        .disable_statement_logging()
}

fn texts(row: &MySqlRow) -> Result<Texts, sqlx::Error> {
    (0..row.len()).map(|at| row.try_get_unchecked::<Option<Vec<u8>>, _>(at)).collect()
}

/// A column as text; nothing where it is NULL.
pub(super) fn text(row: &Texts, at: usize) -> String {
    row.get(at).and_then(Option::as_ref).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}

fn error(command: &'static str, error: sqlx::Error) -> Error {
    match error {
        sqlx::Error::Database(e) => match e.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number) {
            Some(number) if Dialect::is_timeout(number) => {
                Error::Late { what: "answer", within: Duration::ZERO, detail: format!(" ({command})") }
            }
            Some(DISK_FULL) => Error::Io(io::ErrorKind::StorageFull.into()),
            _ => Error::Refused { command, reason: e.message().to_owned() },
        },
        sqlx::Error::Io(e) => Error::Unreachable { socket: PathBuf::from(config::SOCKET), reason: e.to_string() },
        other => Error::Unreachable { socket: PathBuf::from(config::SOCKET), reason: format!("{command}: {other}") },
    }
}
