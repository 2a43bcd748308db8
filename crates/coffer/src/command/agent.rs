//! `coffer agent`: the process beside one instance. The provider starts it; nobody else should, so no help tells of it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use tracing::Level;

/// Runs the agent until it is told to end.
pub(crate) fn main() -> ExitCode {
    log();
    // Not clap, which would take more memory in each of them than all that they do.
    let Some(volume) = volume(std::env::args_os().skip(2)) else {
        tracing::error!("no --volume; hint: the server starts agents, nobody else needs to");
        return ExitCode::FAILURE;
    };
    match coffer_agent::run(&volume) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps the gate of an instance until nobody needs it.
pub(crate) fn keeper_main() -> ExitCode {
    log();
    coffer_agent::gate::keeper_main()
}

/// Standard error is the agent's log file, which nobody colours.
fn log() {
    tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(std::io::stderr).with_ansi(false).init();
}

/// The volume of the instance, with the agent's identity in it. The control plane's socket, which follows, stands in the
/// identity too; among the arguments it is for who looks at the list of processes.
fn volume(mut arguments: impl Iterator<Item = OsString>) -> Option<PathBuf> {
    arguments.find(|argument| argument == "--volume")?;
    arguments.next().map(PathBuf::from)
}
