//! `coffer serve`: the server's process around `coffer-server`.

use crate::cli::Serve;
use crate::failure::Failure;
use crate::table::Format;

/// Serves until it is told to end.
pub(crate) fn run(_format: Format, _serve: &Serve) -> Result<(), Failure> {
    Err(Failure::other("the server is not wired yet"))
}
