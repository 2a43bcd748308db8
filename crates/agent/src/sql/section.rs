//! The part that clients feel, asked of the engine, and the measures that make it short.

use std::time::Duration;

use coffer_core::engine::sql::config::{self, AGENT, UNLIMITED, literal};
use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::engine::sql::proof::{COLUMNS, Holdings, KEYS, ROWS, Sampled, compare};
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use tokio::time::{Instant, sleep};

use super::client::text;
use super::launch::{LOG, upgrade};
use super::read::{OfAll, PATIENT, QUICK};
use super::{Client, Measures, Temporary, read};
use crate::sandbox::{CgroupLimits, Process};
use crate::site::{Error, Site, flush_all, last_words, until_ended};

/// How long dirty pages are waited for. What is left then is written in the stop. Few engines have so many that it takes as long.
const DRAIN_LIMIT: Duration = Duration::from_secs(600);
/// So few dirty pages are written within milliseconds.
const FEW_PAGES: u64 = 200;
/// Clients who write keep some pages dirty for ever: when they have not become fewer for so long, they will not.
const DRAINED_FOR: Duration = Duration::from_secs(3);
/// How long a statement or transaction may have run, and how long others may take to end, when nobody is to write any
/// more. Those who are connected wait that long.
const BUSY_SECONDS: u32 = 5;
/// How long those may take who are about to log in, and then to say what they want.
const LOGIN_LIMIT: Duration = Duration::from_secs(1);
const LOGGED_IN: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_millis(5);
/// How long an engine may take to write what it has and end. It can't be told otherwise once it was told to end.
const STOP_LIMIT: Duration = Duration::from_secs(1800);

impl Client {
    /// What [`Client::prepare`] will change, and which tables are read for the proof. Changes nothing.
    pub(crate) async fn plan_measures(&self) -> Result<Temporary, Error> {
        let before = Measures {
            dirty_pages_pct: self.value("@@GLOBAL.innodb_max_dirty_pages_pct").await?,
            dirty_pages_pct_lwm: self.value("@@GLOBAL.innodb_max_dirty_pages_pct_lwm").await?,
            io_capacity: self.value("@@GLOBAL.innodb_io_capacity").await?,
            read_only: self.value("@@GLOBAL.read_only").await?,
            events: self.value("@@GLOBAL.event_scheduler").await?,
        };
        let (tables, others) = read::choose(self).await?;
        Ok(Temporary { before, tables, others })
    }

    /// Has the engine write its dirty pages while it serves, so that little is left for the stop. Can be called again.
    pub(crate) async fn prepare(&self) -> Result<(), Error> {
        self.run("SET GLOBAL", "SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0").await?;
        self.run("SET GLOBAL", "SET GLOBAL innodb_max_dirty_pages_pct = 0").await?;
        // As fast as it is allowed to when it has to: at the pace for every day, minutes of writing take minutes to drain.
        self.run("SET GLOBAL", "SET GLOBAL innodb_io_capacity = @@GLOBAL.innodb_io_capacity_max").await?;
        if self.value("@@GLOBAL.innodb_fast_shutdown > 1").await? == "1" {
            // Such a stop would leave a log that only this very version can read.
            self.run("SET GLOBAL", "SET GLOBAL innodb_fast_shutdown = 1").await?;
        }
        let (mut fewest, mut seen_at) = (u64::MAX, Instant::now());
        let began = seen_at;
        while began.elapsed() < DRAIN_LIMIT && seen_at.elapsed() < DRAINED_FOR {
            let status = self.status("Innodb_buffer_pool_pages_dirty").await?;
            let dirty: u64 = status.values().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            if dirty <= FEW_PAGES {
                break;
            }
            if dirty < fewest {
                (fewest, seen_at) = (dirty, Instant::now());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Ends the measures. Can be called again.
    pub(crate) async fn settle(&self, before: &Measures) -> Result<(), Error> {
        for (name, value) in [
            ("innodb_max_dirty_pages_pct", &before.dirty_pages_pct),
            ("innodb_max_dirty_pages_pct_lwm", &before.dirty_pages_pct_lwm),
            ("innodb_io_capacity", &before.io_capacity),
            ("read_only", &before.read_only),
        ] {
            if value.is_empty() {
                continue;
            }
            // What was read of the engine, so it is a number or a word.
            self.run("SET GLOBAL", &format!("SET GLOBAL {name} = {value}")).await?;
        }
        Ok(())
    }

    /// Makes writes wait and reads what there is. The gap begins with the call. A client that is busy for too long is
    /// named in the error, and nobody waits then.
    pub(crate) async fn quiesce(&self, temporary: &Temporary) -> Result<Holdings, Error> {
        match self.lock_and_read(temporary).await {
            Ok(holdings) => Ok(holdings),
            Err(e) => {
                self.unquiesce(&temporary.before).await?;
                Err(e)
            }
        }
    }

    async fn lock_and_read(&self, temporary: &Temporary) -> Result<Holdings, Error> {
        if let Some(reason) = self.busy().await? {
            return Err(Error::Busy { reason });
        }
        self.logins_to_end().await?;
        // No event begins any more, and what one has begun ends with the connections.
        self.run("SET GLOBAL", "SET GLOBAL event_scheduler = OFF").await?;
        self.run("SET", &format!("SET SESSION lock_wait_timeout = {BUSY_SECONDS}")).await?;
        if let Err(e) = self.run("FLUSH TABLES WITH READ LOCK", "FLUSH TABLES WITH READ LOCK").await {
            return Err(match self.busy().await? {
                Some(reason) => Error::Busy { reason },
                None => e,
            });
        }
        // When the lock goes with this connection at the end, nobody else gets to write.
        self.run("SET GLOBAL", "SET GLOBAL read_only = 1").await?;
        self.kill_others("").await?;
        let all = OfAll { others: &temporary.others, columns: true, keys: true };
        read::holdings(self, &temporary.tables, Some(all), QUICK).await
    }

    /// Writes go on. Can be called again, by another connection than the one that made them wait, and when they never did.
    pub(crate) async fn unquiesce(&self, before: &Measures) -> Result<(), Error> {
        self.run("UNLOCK TABLES", "UNLOCK TABLES").await?;
        // The lock is the other connection's, and goes with it.
        self.kill_others(&format!("AND user = {}", literal(AGENT.as_bytes()))).await?;
        self.run("SET GLOBAL", &format!("SET GLOBAL read_only = {}", before.read_only)).await?;
        if before.events.is_empty() {
            return Ok(());
        }
        self.run("SET GLOBAL", &format!("SET GLOBAL event_scheduler = {}", before.events)).await
    }

    /// Waits for those who were about to log in when new connections began to wait: between two messages of a login a client looks
    /// idle, and the engine may have to reckon for a while. Who has logged in has said what it wants soon after. Costs nothing
    /// where nobody is.
    async fn logins_to_end(&self) -> Result<(), Error> {
        let sql = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'unauthenticated user'";
        let began = Instant::now();
        let mut last_seen = None;
        while began.elapsed() < LOGIN_LIMIT {
            if self.rows("the question who logs in", sql).await?.first().is_some_and(|row| text(row, 0) != "0") {
                last_seen = Some(Instant::now());
            } else if last_seen.is_none_or(|at| at.elapsed() > LOGGED_IN) {
                break;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Who keeps the engine from being stopped. What they do is theirs, and not told.
    async fn busy(&self) -> Result<Option<String>, Error> {
        let sql = format!(
            "SELECT p.id, p.user, GREATEST(IF(p.command = 'Query', p.time, 0), \
             IFNULL(TIMESTAMPDIFF(SECOND, t.trx_started, NOW()), 0)) AS seconds, t.trx_id IS NOT NULL \
             FROM information_schema.processlist p \
             LEFT JOIN information_schema.innodb_trx t ON t.trx_mysql_thread_id = p.id \
             WHERE p.id <> CONNECTION_ID() AND p.user NOT IN ('system user', 'event_scheduler') \
             HAVING seconds >= {BUSY_SECONDS} ORDER BY seconds DESC LIMIT 1"
        );
        let rows = self.rows("the question who is busy", &sql).await?;
        Ok(rows.first().map(|row| {
            let what = if text(row, 3) == "1" { "transaction" } else { "statement" };
            format!("connection {} of user '{}' has a {what} open for {} s", text(row, 0), text(row, 1), text(row, 2))
        }))
    }

    async fn kill_others(&self, which: &str) -> Result<(), Error> {
        let sql = format!(
            "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() \
             AND command <> 'Daemon' AND user NOT IN ('system user', 'event_scheduler') {which}"
        );
        for row in self.rows("the list of connections", &sql).await? {
            match self.run("KILL", &format!("KILL CONNECTION {}", text(&row, 0))).await {
                // It has gone by itself.
                Ok(()) | Err(Error::Refused { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Ends the engine with all that it acknowledged on disk. That it has done so is in its log.
    pub(crate) async fn stop(self, spec: &EngineSpec, process: &Process) -> Result<(), Error> {
        let mut client = self;
        let began = Instant::now();
        loop {
            match client.run("SHUTDOWN", "SHUTDOWN").await {
                Ok(()) => break,
                Err(refused @ Error::Refused { .. }) => return Err(refused),
                Err(late) if began.elapsed() > STOP_LIMIT => return Err(late),
                Err(error) => tracing::warn!(%error, "it may not have heard that it is to end"),
            }
            // One that heard it ends. One that lets the agent in did not.
            tokio::select! {
                exit = process.exited() => {
                    exit?;
                    break;
                }
                again = Self::ready(client.dialect, &client.paths) => client = again?,
            }
        }
        until_ended(spec, process, STOP_LIMIT).await
    }

    /// What differs from what `before` says, and how much was compared.
    pub(crate) async fn compare(
        &self,
        temporary: Option<&Temporary>,
        before: &Holdings,
    ) -> Result<(Vec<Finding>, String), Error> {
        let was_read = |table: &&Sampled| {
            [ROWS, COLUMNS, KEYS].iter().any(|what| before.read.contains_key(&format!("{what}{}", table.name())))
        };
        let tables = temporary.map(|t| t.tables.as_slice()).unwrap_or_default();
        let tables: Vec<_> = tables.iter().filter(was_read).cloned().collect();
        // What took too long then takes no shorter now, while clients wait.
        let (columns, keys) = (!before.columns.is_empty(), !before.keys.is_empty());
        let all = temporary.map(|t| OfAll { others: &t.others, columns, keys });
        let holds = read::holdings(self, &tables, all, PATIENT).await?;
        Ok((compare(before, &holds), holds.summary()))
    }

    /// What is the new engine's own to do after a change of its version, with what it said. MySQL has done it before it
    /// answers.
    pub(crate) async fn own_step(&self, site: Site<'_>, cgroup: Option<CgroupLimits>) -> Result<String, Error> {
        match self.dialect {
            Dialect::MariaDb => {
                let said = self.unlimited(upgrade(site, cgroup)).await?;
                // It makes tables anew that have no log: a power cut would leave nothing of them.
                self.run("FLUSH TABLES", "FLUSH TABLES").await?;
                flush_all(&site.paths.data).await?;
                Ok(said)
            }
            Dialect::MySql => Ok(last_words(&site.paths.agent.join(LOG), 0, site.secrets)),
        }
    }

    /// Does something for which sessions must not be limited by the settings. Where it fails they stay as they were made for it:
    /// the engine is ended then.
    async fn unlimited<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let names: Vec<_> = UNLIMITED.iter().map(|(name, _)| format!("'{name}'")).collect();
        let sql = format!("SHOW GLOBAL VARIABLES WHERE variable_name IN ({})", names.join(", "));
        let before = self.rows("SHOW VARIABLES", &sql).await?;
        for (name, value) in UNLIMITED.iter().filter(|(name, _)| before.iter().any(|row| text(row, 0) == *name)) {
            self.run("SET GLOBAL", &format!("SET GLOBAL {name} = {value}")).await?;
        }
        let done = work.await?;
        for row in &before {
            // What was read of the engine, so it is a number or a word.
            self.run("SET GLOBAL", &format!("SET GLOBAL {} = {}", text(row, 0), text(row, 1))).await?;
        }
        Ok(done)
    }

    /// Ends what makes an engine that was started closed other than clients may have it. Can be called again.
    pub(crate) async fn lift(&self, spec: &EngineSpec) -> Result<(), Error> {
        let is_on = self.value("@@GLOBAL.event_scheduler").await? == "ON";
        if config::runs_events(spec) && !is_on {
            self.run("SET GLOBAL", "SET GLOBAL event_scheduler = ON").await?;
        }
        Ok(())
    }
}
