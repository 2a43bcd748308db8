//! What a fetch tells while it runs.

use std::sync::Arc;

/// Called with each [`Progress`]; from any thread, and often, so it must be quick.
pub type Observer = Arc<dyn Fn(Progress) + Send + Sync>;

/// One thing that happened while a version was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process is fetching the same version; this one waits for it.
    Waiting,
    /// A source is asked.
    Trying { source: String },
    /// A source did not give the version; the next one is asked.
    Refused { source: String, cause: String },
    /// A step of the current source begins, in a few words ("download packages").
    Step(&'static str),
    /// Bytes of a blob of a registry have arrived.
    Downloaded { bytes: u64, total: u64 },
    /// The version is in the store and was proven.
    Ready { number: String, digest: String },
}
