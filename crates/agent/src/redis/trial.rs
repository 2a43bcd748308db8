//! Asking the target binary whether it would start.

use std::path::Path;

use coffer_core::spec::EngineSpec;

use super::{Error, Paths, Secrets};
use crate::sandbox::User;

/// Starts the target on its rendered configuration and the users of the running engine, in a scratch directory, closed
/// and without data, waits for its PONG, and ends it. The error has the last lines of its log.
pub async fn try_target(
    _spec: &EngineSpec,
    _root: &Path,
    _paths: &Paths,
    _secrets: &Secrets,
    _user: User,
) -> Result<(), Error> {
    todo!()
}
