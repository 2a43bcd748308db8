//! What the drivers of all engines work with: where an engine is at home, the files there, what it said, its pre-image, what
//! its clients see, and what can go wrong.

mod copy;
mod differences;
mod error;
mod files;
mod host;
mod log;
mod owner;
mod preimage;
mod probe;

use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_core::spec::EngineSpec;
use secrecy::SecretString;

pub use error::Error;
pub use files::{File, Kind, Kinds};
pub(crate) use files::{ensure_absent, ensure_dir, flush_all, hex, inside, list, list_all, open, replace, used_below};
pub(crate) use host::host;
pub(crate) use log::last_line;
pub use log::last_words;
pub(crate) use owner::{foreign_files, give_back};
pub(crate) use preimage::copy_millis;
pub use preimage::{Estimate, PreImage};
pub(crate) use probe::{Caller, End, STAYING};
pub use probe::{Probe, Seen};

use crate::sandbox::{self, Exit, Process, User};

/// Where an engine is at home: what it is started from, its volume, its passwords, and as whom it runs.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The engine root on the host.
    pub root: &'a Path,
    pub paths: &'a Paths,
    pub secrets: &'a Secrets,
    pub user: User,
}

/// Where the parts of an instance's volume are on the host. In its sandbox an engine sees the first three as `/data`,
/// `/conf` and `/run`.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What the engine keeps.
    pub data: PathBuf,
    /// Its configuration.
    pub conf: PathBuf,
    /// The engine's socket.
    pub run: PathBuf,
    /// Pre-images, one directory per operation.
    pub pre: PathBuf,
    /// What the agent alone writes: state, log, lock.
    pub agent: PathBuf,
}

impl Paths {
    /// The parts of this volume.
    pub fn of(volume: &Path) -> Self {
        let part = |name| volume.join(name);
        Self { data: part("data"), conf: part("conf"), run: part("run"), pre: part("pre"), agent: part("agent") }
    }
}

/// The passwords of an instance.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The password that the tenant was shown at creation. Only used for a volume that has no users yet, and by Redis before 6.0.
    pub tenant: SecretString,
    /// The password of the agent's own user, `coffer`. Redis before 6.0 has one password, the tenant's.
    pub agent: SecretString,
}

/// For whom an engine is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// For the agent alone: it writes no snapshot by itself, evicts nothing and runs no events. For proving.
    Closed,
    /// For clients, at the instance's own address and port.
    Open,
}

/// When an engine opens its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// When it starts. Whether clients then reach it is for the gate.
    AtStart,
    /// When it is told to, or never.
    Later,
}

/// Where a target is tried, as if it were a volume.
pub(crate) fn trial(paths: &Paths) -> PathBuf {
    paths.agent.join("trial")
}

/// Ends a trial and leaves nothing of it, also one of an agent that died over it.
pub(crate) async fn end_trial(paths: &Paths) -> Result<(), Error> {
    let scratch = trial(paths);
    // As often as not there is none.
    for entry in fs_err::read_dir(Paths::of(&scratch).agent).into_iter().flatten() {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "lock") {
            sandbox::end(&file).await?;
        }
    }
    Ok(ensure_absent(&scratch)?)
}

/// Waits for the end of an engine that was told to end. An error unless it ends with status 0, as far as anybody knows.
pub(crate) async fn until_ended(spec: &EngineSpec, process: &Process, within: Duration) -> Result<(), Error> {
    match tokio::time::timeout(within, process.exited()).await {
        Ok(exit) => match exit? {
            Exit::Code(0) | Exit::Unknown => Ok(()),
            exit => Err(Error::Ended { what: spec.label(), exit: exit.to_string(), log: String::new() }),
        },
        Err(_) => Err(Error::Late { what: "end", within, detail: String::new() }),
    }
}
