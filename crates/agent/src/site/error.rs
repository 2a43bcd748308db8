//! What goes wrong with an engine.

use std::path::PathBuf;
use std::time::Duration;

/// Why something with an engine did not work. Texts never contain a secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The engine could not be reached, or hung up.
    #[error("the engine cannot be reached over {}: {reason}", socket.display())]
    Unreachable { socket: PathBuf, reason: String },
    /// The engine is there and loads its data.
    #[error("the engine is still loading its data")]
    Loading,
    /// The engine answered with an error.
    #[error("the engine refused {command}: {reason}")]
    Refused { command: &'static str, reason: String },
    /// The engine did not do in time what it was told.
    #[error("the engine did not {what} within {} s{detail}", within.as_secs())]
    Late { what: &'static str, within: Duration, detail: String },
    /// The engine said something that is not understood.
    #[error("the engine's answer to {command} is not understood")]
    Misunderstood { command: &'static str },
    /// The engine does not keep what it acknowledges in an append-only file, so a stop would lose it.
    #[error("the engine cannot be stopped without a loss: {reason}; hint: mend that, then ask again")]
    Unsafe { reason: String },
    /// Clients do what keeps the engine from being stopped.
    #[error("the engine is busy: {reason}; hint: wait until it is over or end it, then ask again")]
    Busy { reason: String },
    /// The engine ended, and these are the last lines of its log.
    #[error("{what} ended with {exit}; its last words: {log}")]
    Ended { what: String, exit: String, log: String },
    /// The target started, and is not what it should be.
    #[error("{what} started, but: {found}")]
    Wrong { what: String, found: String },
    /// The engine could not be started.
    #[error(transparent)]
    Start(#[from] crate::sandbox::Error),
    /// A pre-image is not what it should be.
    #[error("pre-image {} {problem}", path.display())]
    PreImage { path: PathBuf, problem: String },
}

#[cfg(test)]
mod tests {
    use super::Error;
    use crate::cause::cause;

    #[test]
    fn whatever_goes_wrong_with_an_engine_somebody_is_told_what_to_do() {
        let text = || "text".to_owned();
        for error in [
            Error::Io(std::io::ErrorKind::NotFound.into()),
            Error::Unreachable { socket: "socket".into(), reason: text() },
            Error::Loading,
            Error::Refused { command: "PING", reason: text() },
            Error::Late { what: "answer", within: std::time::Duration::ZERO, detail: text() },
            Error::Misunderstood { command: "PING" },
            Error::Unsafe { reason: text() },
            Error::Busy { reason: text() },
            Error::Ended { what: text(), exit: text(), log: text() },
            Error::Wrong { what: text(), found: text() },
            Error::PreImage { path: "pre".into(), problem: text() },
        ] {
            let told = format!("{error:?}");
            assert_ne!(cause(error).hint, "", "{told}");
        }
    }
}
