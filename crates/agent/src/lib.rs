//! The agent: one process beside each instance. It owns the instance's volume, runs its engine, and carries out what the
//! control plane asks, alone where clients would feel it.
//!
//! Read in this order: [`state`] (what it must not forget), `supervisor` (the loop), `engine` (starting and finding
//! engines), `section` (the part that clients feel), `tasks` (the rest), [`drift`] (what is not as it was left), `driver` (the seam between these and the engines),
//! [`site`] (what drivers share), [`redis`] (how one talks to Redis and Valkey), `sql` (the same for MariaDB),
//! [`sandbox`] (how engines are kept apart), [`gate`] (who gets the connections), `link` (the control plane).
//!
//! Guarantees: the engine outlives the agent; one agent per volume; an agent that is killed at any moment is followed by
//! one that goes on where it was.

mod cause;
pub mod drift;
mod driver;
mod engine;
pub mod gate;
mod link;
mod live;
mod preimages;
pub mod redis;
pub mod sandbox;
mod section;
pub mod site;
mod sql;
pub mod state;
mod supervisor;
mod tasks;

use std::path::{Path, PathBuf};

use coffer_core::instance::{Engine, Observed};
use coffer_wire::agent::{Identity, Report};
use tokio::sync::{mpsc, watch};

use crate::state::StateFile;
use crate::supervisor::Supervisor;

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another agent runs on volume {}; hint: none needed, it does the work", .0.display())]
    AlreadyRuns(PathBuf),
    #[error("{path} cannot be read: {source}; hint: coffer serve writes it anew when it starts")]
    Identity { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    State(#[from] state::Error),
    #[error("the image store cannot be opened: {0}")]
    Images(#[from] coffer_image::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Runs the agent of the instance whose volume this is, until it is told to end by SIGTERM. The engine goes on.
pub fn run(volume: &Path) -> Result<(), Error> {
    // Held for life: the next agent can only begin when this one is gone.
    let Some(_lock) = sandbox::VolumeLock::acquire(volume)? else {
        return Err(Error::AlreadyRuns(volume.to_owned()));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, serve(volume))
}

async fn serve(volume: &Path) -> Result<(), Error> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let identity = load_identity(volume)?;
    let host = engine::EngineHost::take_over(volume, &identity)?;
    let file = StateFile::new(&volume.join("agent"));
    let state = file.load()?;
    tracing::info!(instance = %identity.instance, generation = state.generation.0, "agent started");

    let (desired_in, desired) = watch::channel(link::Wanted::new());
    let (acks_in, acks) = mpsc::unbounded_channel();
    let (report_in, report) = watch::channel(first_report(&state));
    let link = link::Link { identity: identity.into(), desired: desired_in, report, acks: acks_in };
    let mut supervisor = Supervisor::new(host, state, file, report_in, desired, acks);
    tokio::select! {
        () = link::follow_servers(link) => Ok(()),
        end = supervisor.run() => end,
        _ = terminate.recv() => {
            tracing::info!("agent ends, its engine goes on");
            Ok(())
        }
    }
}

fn load_identity(volume: &Path) -> Result<Identity, Error> {
    let path = volume.join("agent/identity.json");
    let bad = |source| Error::Identity { path: path.clone(), source };
    let text = fs_err::read(&path).map_err(bad)?;
    serde_json::from_slice(&text).map_err(|e| bad(e.into()))
}

/// What is known before anything was looked at.
fn first_report(state: &state::State) -> Report {
    let should_run = state.wanted && state.engine.is_some();
    let observed = Observed {
        engine: if should_run { Engine::Starting } else { Engine::Absent },
        generation: state.generation,
        on_disk: state.on_disk,
        drift: state.drift.clone(),
        crash_loop: state.crashes.in_loop().cloned(),
        ..Observed::nothing(jiff::Timestamp::now())
    };
    Report { observed, running: None, results: state.results.clone(), events: state.events.clone() }
}
