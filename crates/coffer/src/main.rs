//! The one binary: the server, the agents, the processes that become engines, and the commands of operators and tenants.
//!
//! Which of them it is, is decided by the first argument before anything else happens, because an engine that starts
//! must not pay for a command line parser or a runtime.

mod cli;
mod cli_accounts;
mod clouds;
mod command;
mod failure;
mod find;
mod table;
mod trove;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command, Datastore, DatastoreVersion, Flavor, Report};
use crate::command::{Session, accounts, agent, configuration, doctor, engine, instance, offer, report, serve, store};
use crate::failure::Failure;

fn main() -> ExitCode {
    let first = std::env::args_os().nth(1).unwrap_or_default();
    if first == coffer_agent::sandbox::INIT_COMMAND {
        return coffer_agent::sandbox::init_main();
    }
    if first == coffer_agent::gate::TRIAL_COMMAND {
        return coffer_agent::gate::trial_main();
    }
    if first == coffer_agent::gate::KEEPER_COMMAND {
        return agent::keeper_main();
    }
    if first == "agent" {
        return agent::main();
    }
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&failure);
            failure.code()
        }
    }
}

#[expect(clippy::print_stderr, reason = "this is where errors are told")]
fn tell(failure: &Failure) {
    eprintln!("{failure}");
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { common, command } = cli;
    if let Command::Serve(arguments) = &command {
        return serve::run(common.output, arguments);
    }
    // A client does one thing at a time.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(_) => Ok(()),
            Command::Doctor => doctor::run(common.output),
            Command::Store(command) => store::run(common.output, command).await,
            Command::Engine(command) => engine::run(common.output, command).await,
            Command::Datastore(Datastore::List) => offer::list_datastores(&Session::open(&common).await?).await,
            Command::Datastore(Datastore::Version(DatastoreVersion::List { datastore })) => {
                offer::list_versions(&Session::open(&common).await?, &datastore).await
            }
            Command::Flavor(Flavor::List) => offer::list_flavors(&Session::open(&common).await?).await,
            Command::Report(Report::Gaps) => report::gaps(&Session::open(&common).await?).await,
            Command::Configuration(command) => configuration::run(&Session::open(&common).await?, command).await,
            Command::Instance(command) => instance::run(Session::open(&common).await?, command).await,
            Command::Database(command) => accounts::database(&Session::open(&common).await?, command).await,
            Command::User(command) => accounts::user(&Session::open(&common).await?, command).await,
            Command::Root(command) => accounts::root(&Session::open(&common).await?, command).await,
        }
    })
}
