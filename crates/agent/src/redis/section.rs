//! The part that clients feel, asked of the engine.

use std::time::Duration;

use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use tokio::time::Instant;

use super::{Client, Error, Fingerprint, Temporary};
use crate::sandbox::Process;

/// Writes wait.
#[derive(Clone, Debug)]
pub struct Quiesced {
    pub fingerprint: Fingerprint,
    /// When the engine lets writes go on by itself.
    pub until: Instant,
}

impl Client {
    /// Makes writes wait and takes the fingerprint. The gap begins with the call.
    pub async fn quiesce(&self, _spec: &EngineSpec, _temporary: &Temporary) -> Result<Quiesced, Error> {
        todo!()
    }

    /// Lets writes go on. Can be called again, and when they never waited.
    pub async fn unquiesce(&self, _spec: &EngineSpec) -> Result<(), Error> {
        todo!()
    }

    /// Ends the engine with all that it acknowledged on disk. Nothing is lost by any failure: it then still runs.
    pub async fn stop(self, _spec: &EngineSpec, _process: &Process, _within: Duration) -> Result<(), Error> {
        todo!()
    }

    /// Whether the engine is what `spec` says and holds what `before` says. Empty: it is proven.
    pub async fn prove(&self, _spec: &EngineSpec, _before: &Fingerprint) -> Result<Vec<Finding>, Error> {
        todo!()
    }

    /// Lets clients in. Only where [`super::opens_in_place`]. Can be called again.
    pub async fn open(&self, _spec: &EngineSpec) -> Result<(), Error> {
        todo!()
    }
}
