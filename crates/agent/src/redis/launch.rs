//! From a spec to files and a launch.

use std::path::Path;

use coffer_core::datastore::Number;
use coffer_core::spec::EngineSpec;

use super::{Error, Paths, Secrets};
use crate::sandbox::{Launch, User};

/// Whether clients can reach the engine that is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Over the unix socket only; writes no snapshot by itself, evicts nothing. For proving.
    Closed,
    /// At the instance's own address and port.
    Open,
}

/// Whether an engine that was started closed can be opened by [`super::Client::open`]. If not, it has to be stopped by
/// [`super::Client::stop`] and started open.
pub fn opens_in_place(number: Number) -> bool {
    number.at_least(7, 0)
}

/// Writes `redis.conf`, and the ACL file from 6.0 on, whole or not at all, mode 0600, owned by `user`. Users that are
/// there already stay as they are; what the version needs of them is added.
pub fn write_config(_spec: &EngineSpec, _paths: &Paths, _secrets: &Secrets, _user: User) -> Result<(), Error> {
    todo!()
}

/// What starts this engine. Needs the files of [`write_config`]. The control group is left to the caller.
pub fn launch(_spec: &EngineSpec, _root: &Path, _paths: &Paths, _user: User, _exposure: Exposure) -> Result<Launch, Error> {
    todo!()
}
