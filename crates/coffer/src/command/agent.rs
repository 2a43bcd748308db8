//! `coffer agent`: the process beside one instance. The provider starts it; nobody else should, so no help tells of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing::Level;

/// What the provider says to an agent.
#[derive(Parser)]
#[command(name = "coffer agent", bin_name = "coffer agent")]
struct Agent {
    /// The volume of the instance, with the agent's identity in it.
    #[arg(long)]
    volume: PathBuf,
    /// The control plane's socket. It stands in the identity too; here it is for who looks at the list of processes.
    #[arg(long)]
    server: Option<PathBuf>,
}

/// Runs the agent until it is told to end.
pub(crate) fn main() -> ExitCode {
    let Agent { volume, server: _ } = Agent::parse_from(std::env::args_os().skip(1));
    log();
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
