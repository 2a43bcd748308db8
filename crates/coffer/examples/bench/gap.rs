//! The gap of an upgrade, beside that of a stop and a start by hand, on the same data.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::bare::{Bare, Engine};
use crate::load;
use crate::probe::Probe;
use crate::resp::Connection;
use crate::server::{Session, free_address};

/// How an engine keeps what it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Persistence {
    /// Snapshots, as where nobody chose otherwise.
    Rdb,
    /// An append-only file, and no snapshots: what ends and starts the fastest by hand.
    Aof,
}

impl Persistence {
    /// Both of them.
    pub(crate) const ALL: [Self; 2] = [Self::Rdb, Self::Aof];

    /// The name in figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rdb => "rdb",
            Self::Aof => "aof",
        }
    }

    fn settings(self) -> [(&'static str, &'static str); 2] {
        match self {
            Self::Rdb => [("appendonly", "no"), ("save", "3600 1 300 100 60 10000")],
            Self::Aof => [("appendonly", "yes"), ("save", "")],
        }
    }
}

/// The engines between which is measured.
#[derive(Clone, Debug)]
pub(crate) struct Engines {
    pub old: Engine,
    /// As the catalogue names it.
    pub old_version: &'static str,
    pub new: Engine,
    /// As the catalogue names it.
    pub new_version: &'static str,
}

/// One upgrade.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upgrade {
    /// What this benchmark's own client saw.
    pub gap: Duration,
    /// What the operation says of itself.
    pub told: Duration,
    /// From the request to the end of the operation.
    pub total: Duration,
    /// Acknowledged writes that were gone afterwards.
    pub lost: u64,
}

/// Stops the old engine by hand and starts the new one; gives what the client saw.
pub(crate) fn by_hand(dir: &Path, engines: &Engines, megabytes: usize, persistence: Persistence) -> Result<Duration> {
    let data = tempfile::tempdir_in(dir)?;
    let (address, settings) = (free_address()?, persistence.settings());
    let mut old = Bare::start(&engines.old, data.path(), address, &settings)?;
    let mut connection = old.connect()?;
    load::fill(&mut connection, megabytes)?;
    load::wait_for_rest(&mut connection)?;
    let probe = Probe::start(address, None)?;
    old.stop(connection)?;
    let _new = Bare::start(&engines.new, data.path(), address, &settings)?;
    let seen = probe.finish()?;
    check_version(&engines.new, address, None)?;
    Ok(seen.gap)
}

/// Has Coffer upgrade an instance.
pub(crate) fn by_coffer(
    session: &Session,
    engines: &Engines,
    megabytes: usize,
    persistence: Persistence,
) -> Result<Upgrade> {
    let instance = session.create(engines.old_version, &persistence.settings())?;
    let password = Some(instance.password.as_str());
    let mut connection = Connection::open(instance.address, password)?;
    load::fill(&mut connection, megabytes)?;
    load::wait_for_rest(&mut connection)?;
    drop(connection);
    let probe = Probe::start(instance.address, password)?;
    let began = Instant::now();
    session.upgrade(&instance, engines.new_version)?;
    let operation = session.wait_until_over(&instance.id)?;
    let total = began.elapsed();
    let seen = probe.finish()?;
    check_version(&engines.new, instance.address, password)?;
    session.delete(&instance)?;
    let told = operation["gap_ms"].as_f64().with_context(|| format!("no gap was measured: {operation:#}"))?;
    Ok(Upgrade { gap: seen.gap, told: Duration::from_secs_f64(told / 1000.0), total, lost: seen.lost })
}

fn check_version(engine: &Engine, address: SocketAddr, password: Option<&str>) -> Result<()> {
    let info = Connection::open(address, password)?.ask(&["INFO", "server"])?;
    let info = String::from_utf8_lossy(info.text().unwrap_or_default()).into_owned();
    if !info.lines().any(|line| line.trim_end() == format!("redis_version:{}", engine.number)) {
        bail!("{address} does not run {}:\n{info}", engine.number);
    }
    Ok(())
}
