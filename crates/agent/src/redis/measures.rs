//! Measures that make a stop short and lossless, and their end.

use coffer_core::engine::redis::config::Persistence;
use coffer_core::spec::EngineSpec;

use super::{Client, Error, Paths, Temporary};

impl Client {
    /// What [`Client::prepare`] will change, and which keys are compared. Changes nothing. Takes a while: it looks at
    /// every key, some at a time.
    pub async fn plan_measures(&self) -> Result<Temporary, Error> {
        todo!()
    }

    /// Everything acknowledged is in an append-only file from now on, which is as short as it can be; nothing else is
    /// written by itself. Can be called again.
    pub async fn prepare(&self, _spec: &EngineSpec, _temporary: &Temporary) -> Result<(), Error> {
        todo!()
    }

    /// Ends the measures: the engine keeps its data as `want` says ([`Persistence::configured`] after an upgrade, what
    /// was found after an undo). A snapshot is taken first where the append-only file was only a vehicle. Can be called
    /// again, and after the death of agent or engine.
    pub async fn settle(&self, _want: &Persistence, _paths: &Paths) -> Result<(), Error> {
        todo!()
    }
}
