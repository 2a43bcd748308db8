//! How an agent runs, asks and changes Redis and Valkey. The only place that speaks their protocol.
//!
//! ```text
//!   write_config, launch            files and a `sandbox::Launch`; pure but for the files
//!   Client::ready                   the engine answers over its unix socket
//!   Client::facts, verify, try_target   look, change nothing
//!   Client::plan_measures -> Temporary  (the caller writes it down)
//!   Client::prepare(&Temporary)     the stop will be short and lose nothing
//!   PreImage::copy_ahead            while the old engine serves
//!   Client::quiesce -> Quiesced     writes wait; what is there is counted and sampled
//!   Client::stop                    the engine has ended cleanly
//!   PreImage::complete              the rest of the pre-image
//!   Client::prove(&Fingerprint)     the new engine holds what was there
//!   Client::lift, listen            as clients may have it; the port where the gate does not have it (7.0 and later)
//!   Client::settle(&Persistence)    the measures are over; also the undo of prepare
//! ```
//!
//! What is on disk decides what is loaded: an engine is started with its append-only file exactly when there is one,
//! whatever its configuration says, because with `appendonly yes` and no such file it would start empty, and with
//! `appendonly no` and a newer such file it would forget. [`Client::settle`] then makes it as configured. So an engine
//! may be killed at any moment of an upgrade and is started again with all it had acknowledged.

mod client;
mod disk;
mod error;
mod facts;
mod fingerprint;
mod launch;
mod log;
mod measures;
mod preimage;
mod probe;
mod section;
mod survey;
mod trial;

use std::path::{Path, PathBuf};

use coffer_core::engine::redis::config::Persistence;
pub use coffer_core::engine::redis::proof::Fingerprint;
use coffer_core::engine::redis::proof::SampleKey;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

pub use client::Client;
pub(crate) use client::pauses_writes;
pub(crate) use disk::ensure_absent;
pub use error::Error;
pub use launch::{Exposure, Port, launch, opens_in_place, write_config};
pub(crate) use launch::{ensure_dir, inside, replace};
pub use log::last_words;
pub use preimage::{Estimate, PreImage};
pub(crate) use probe::{Caller, End};
pub use probe::{Probe, Seen};
pub use section::Quiesced;
pub(crate) use section::until_ended;
pub use trial::try_target;

/// Where the parts of an instance's volume are on the host. In its sandbox an engine sees the first three as `/data`,
/// `/conf` and `/run`.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What the engine keeps.
    pub data: PathBuf,
    /// `redis.conf` and `users.acl`.
    pub conf: PathBuf,
    /// The engine's socket.
    pub run: PathBuf,
    /// Pre-images, one directory per operation.
    pub pre: PathBuf,
    /// What the agent alone writes: state, log, lock.
    pub agent: PathBuf,
}

impl Paths {
    /// The parts of this volume.
    pub fn of(volume: &Path) -> Self {
        let part = |name| volume.join(name);
        Self { data: part("data"), conf: part("conf"), run: part("run"), pre: part("pre"), agent: part("agent") }
    }
}

/// The passwords of an instance.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// The password that the tenant was shown at creation. Only used for a volume that has no users yet, and before 6.0.
    pub tenant: SecretString,
    /// The password of the agent's own user, `coffer`. Before 6.0 there is one password, the tenant's.
    pub agent: SecretString,
}

/// Measures that are in force only for a while. Written down by the caller before they are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// How the engine kept its data before; `None`: no measure is in force.
    pub found: Option<Persistence>,
    /// The keys whose values are compared.
    pub sample: Vec<SampleKey>,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
