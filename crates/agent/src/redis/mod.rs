//! How an agent runs, asks and changes Redis and Valkey. The only place that speaks their protocol.
//!
//! ```text
//!   write_config, launch            files and a `sandbox::Launch`; pure but for the files
//!   Client::ready                   the engine answers over its unix socket
//!   Client::facts, verify, try_target   look, change nothing
//!   Client::plan_measures -> Temporary  (the caller writes it down)
//!   Client::prepare(&Temporary)     the stop will be short and lose nothing
//!   site::PreImage::copy_ahead      while the old engine serves
//!   Client::quiesce -> Quiesced     writes wait; what is there is counted and sampled
//!   Client::stop                    the engine has ended cleanly
//!   site::PreImage::complete        the rest of the pre-image
//!   Client::prove(&Fingerprint)     the new engine holds what was there
//!   Client::lift, listen            as clients may have it; the port where the gate does not have it (7.0 and later)
//!   Client::settle(&Persistence)    the measures are over; also the undo of prepare
//! ```
//!
//! What is on disk decides what is loaded: an engine is started with its append-only file exactly when there is one,
//! whatever its configuration says, because with `appendonly yes` and no such file it would start empty, and with
//! `appendonly no` and a newer such file it would forget. [`Client::settle`] then makes it as configured. So an engine
//! may be killed at any moment of an upgrade and is started again with all it had acknowledged.

mod aof;
mod client;
mod disk;
mod facts;
mod fingerprint;
mod launch;
mod measures;
mod section;
mod survey;
mod trial;
mod visitor;
mod writes;

use coffer_core::engine::redis::config::Persistence;
pub use coffer_core::engine::redis::proof::Fingerprint;
use coffer_core::engine::redis::proof::SampleKey;
use coffer_core::spec::EngineSpec;
use serde::{Deserialize, Serialize};

use crate::site::{Error, Paths};

pub use client::Client;
pub(crate) use client::pauses_writes;
pub(crate) use coffer_core::engine::redis::config::CONFIG_FILE;
pub use disk::kind;
pub(crate) use disk::written_by;
pub(crate) use launch::program;
pub use launch::{launch, opens_in_place, write_config};
pub use section::Quiesced;
pub use trial::try_target;
pub use visitor::{probe, reader};

/// Mends the append-only file of an engine that ended over it with these words, where all that is wrong with it are zeros, unless its
/// tenant wants it to be refused. Gives what was done.
pub(crate) async fn mend(spec: &EngineSpec, paths: &Paths, words: &str) -> Result<Option<String>, Error> {
    let wants_refusal = spec.settings.get("aof-load-truncated").is_some_and(|value| value == "no");
    if wants_refusal || !words.contains(aof::REFUSED) {
        return Ok(None);
    }
    let data = paths.data.clone();
    let taken = tokio::task::spawn_blocking(move || aof::mend(&data)).await.map_err(std::io::Error::other)??;
    Ok(taken.map(|bytes| {
        // At once as well: the engine may load for long before the event is written down.
        tracing::warn!(bytes, "zeros were taken out of the append-only file");
        format!(
            "the append-only file had {bytes} zeros where commands should be, as a power cut or a full disk leaves them; they were \
             taken away, and the engine is started again. After a power cut the last writes may be missing: see appendfsync"
        )
    }))
}

/// Measures that are in force only for a while. Written down by the caller before they are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// How the engine kept its data before; `None`: no measure is in force.
    pub found: Option<Persistence>,
    /// The keys whose values are compared.
    pub sample: Vec<SampleKey>,
}
