//! What a world's store says, read beside its servers.

use std::io::Read as _;
use std::path::PathBuf;

use coffer_core::operation::{Phase, Plan};
use coffer_core::plan::Step;
use sqlx::any::install_default_drivers;
use sqlx::{AnyConnection, Connection as _, Row as _};

/// The store, from a test that has no runtime.
pub(crate) struct Ledger {
    runtime: tokio::runtime::Runtime,
    connection: AnyConnection,
    plan: Option<(String, Plan<Step>)>,
    /// The index of SQLite's log.
    index: Option<PathBuf>,
    /// What that began with when the newest operation was read last, and that.
    last: Option<([u8; INDEX_HEADER], Option<Entry>)>,
}

/// At the beginning of the index there is what says to which transaction it goes: <https://www.sqlite.org/walformat.html>
const INDEX_HEADER: usize = 48;

/// The store is being opened by somebody else, who may be held.
#[derive(Debug)]
pub(crate) struct Locked;

/// What SQLite says then.
const SQLITE_PROTOCOL: &str = "15";

/// An operation as it is written down.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub id: String,
    pub instance: String,
    pub phase: Phase,
    pub plan: Plan<Step>,
}

impl Entry {
    /// Where it stands, if that is at a step of this name that has begun.
    pub(crate) fn begun_at(&self, name: &str) -> Option<usize> {
        match self.phase {
            Phase::Forward { at, begun: true, .. } => (self.plan.steps.get(at)?.name() == name).then_some(at),
            Phase::Forward { .. }
            | Phase::Backward { .. }
            | Phase::Done
            | Phase::Undone { .. }
            | Phase::Stuck { .. }
            | Phase::Abandoned { .. } => None,
        }
    }
}

impl Ledger {
    /// Opens the store at this URL.
    pub(crate) fn open(url: &str) -> Self {
        install_default_drivers();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connection = runtime.block_on(AnyConnection::connect(url)).expect("the store");
        let index = url.strip_prefix("sqlite://").map(|file| PathBuf::from(format!("{file}-shm")));
        Self { runtime, connection, plan: None, index, last: None }
    }

    /// The operation that was asked for last, if there is one. While nothing is written, SQLite is not asked again: this is asked
    /// at each system call of who is held.
    pub(crate) fn newest(&mut self) -> Result<Option<Entry>, Locked> {
        let header = self.index_header();
        if let (Some(header), Some((last, entry))) = (&header, &self.last)
            && header == last
        {
            return Ok(entry.clone());
        }
        let entry = self.read_newest()?;
        self.last = header.map(|header| (header, entry.clone()));
        Ok(entry)
    }

    fn index_header(&self) -> Option<[u8; INDEX_HEADER]> {
        let mut header = [0; INDEX_HEADER];
        fs_err::File::open(self.index.as_ref()?).ok()?.read_exact(&mut header).ok()?;
        Some(header)
    }

    fn read_newest(&mut self) -> Result<Option<Entry>, Locked> {
        let newest = "SELECT id, instance_id, phase FROM operations ORDER BY created_at DESC, id LIMIT 1";
        let row = self.runtime.block_on(sqlx::query(newest).fetch_optional(&mut self.connection));
        let row = match row {
            Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == SQLITE_PROTOCOL) => {
                return Err(Locked);
            }
            row => row.expect("an answer"),
        };
        let Some(row) = row else { return Ok(None) };
        let (id, instance, phase): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        if self.plan.as_ref().is_none_or(|(of, _)| *of != id) {
            let plan = sqlx::query("SELECT plan FROM operations WHERE id = $1").bind(&id);
            let row = self.runtime.block_on(plan.fetch_one(&mut self.connection)).expect("an answer");
            let plan = serde_json::from_str(row.get(0)).expect("a plan");
            self.plan = Some((id.clone(), plan));
        }
        let phase = serde_json::from_str(&phase).expect("a phase");
        Ok(self.plan.clone().map(|(_, plan)| Entry { id, instance, phase, plan }))
    }

    /// How many rows there are by this query.
    pub(crate) fn count(&mut self, sql: &'static str) -> i64 {
        self.runtime.block_on(sqlx::query(sql).fetch_one(&mut self.connection)).expect("an answer").get(0)
    }
}
