//! The commands. Each asks the server or the image store, and prints one answer.

pub(crate) mod accounts;
pub(crate) mod agent;
pub(crate) mod check;
pub(crate) mod configuration;
pub(crate) mod doctor;
pub(crate) mod engine;
pub(crate) mod instance;
pub(crate) mod offer;
pub(crate) mod plan;
pub(crate) mod report;
pub(crate) mod rollback;
pub(crate) mod serve;
pub(crate) mod store;
pub(crate) mod stuck;

use std::io::{self, IsTerminal as _, Write as _};

use crate::cli::Common;
use crate::clouds::{self, Cloud};
use crate::failure::{Failure, Kind};
use crate::table::{self, Format};
use crate::trove::Trove;

/// What a client command works with.
pub(crate) struct Session {
    pub cloud: Cloud,
    pub trove: Trove,
    pub format: Format,
}

impl Session {
    /// Reads clouds.yaml and the environment, and authenticates.
    pub(crate) async fn open(common: &Common) -> Result<Self, Failure> {
        let cloud = clouds::load(common.os_cloud.as_deref(), &clouds::environment)?;
        let trove = Trove::connect(&cloud).await?;
        Ok(Self { cloud, trove, format: common.output })
    }
}

/// Prints the value for programs, or the text for people.
fn print(format: Format, value: &impl serde::Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    match format {
        Format::Json => table::print(&table::json(value))?,
        Format::Table => table::print(&text())?,
    }
    Ok(())
}

/// Asks whoever is at the terminal. `again` is the command that asks nobody.
fn agreed(question: &str, again: &str) -> Result<bool, Failure> {
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        let message = "nobody is at a terminal who could be asked; nothing was touched";
        return Err(Failure::new(Kind::Refused, message, again));
    }
    write!(stderr, "{question} [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
