//! The connection to an engine.

use std::time::Duration;

use coffer_core::datastore::Number;
use coffer_core::engine::redis::checks::Facts;
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;

use super::{Error, Paths, Secrets};

/// A connection to a running engine over its unix socket, as the agent's user.
#[derive(Clone)]
pub struct Client {}

impl Client {
    /// Connects. Fails when nothing listens yet, or when the engine still loads.
    pub async fn connect(_spec: &EngineSpec, _paths: &Paths, _secrets: &Secrets) -> Result<Self, Error> {
        todo!()
    }

    /// Connects as soon as the engine answers with PONG, which it does when it has loaded all its data. Race it against
    /// the end of the process, which it does not know. [`Error::Late`] says in its detail whether it was still loading.
    pub async fn ready(_spec: &EngineSpec, _paths: &Paths, _secrets: &Secrets, _within: Duration) -> Result<Self, Error> {
        todo!()
    }

    /// What the engine says it is.
    pub async fn version(&self) -> Result<Number, Error> {
        todo!()
    }

    /// Everything that the checks look at.
    pub async fn facts(&self, _spec: &EngineSpec, _paths: &Paths) -> Result<Facts, Error> {
        todo!()
    }

    /// Whether the engine is what `expect` says: version, role, configuration in force.
    pub async fn verify(&self, _expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        todo!()
    }
}
