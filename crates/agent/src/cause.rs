//! Errors as the causes that tenants read: what is wrong and what to do, in words that name nothing of the host. Paths and sockets
//! are in the agent's log, for operators.

use std::io;

use coffer_core::finding::Cause;

use crate::site::Error;
use crate::state::is_full;
use crate::{gate, sandbox};

/// What to do about an engine that has gone: its agent starts it again.
pub(crate) const AGAIN_HINT: &str = "wait until it serves again, then ask again";

/// An error of the gate as a cause.
pub(crate) fn gate_cause(error: &gate::Error) -> Cause {
    Cause::new(
        error.to_string(),
        "coffer doctor says what this host allows; look into the agent's log: agent/agent.log",
    )
}

/// An error of a driver as a cause. Its text says what to do where something can be done. Which file or socket it was
/// is for the log: tenants read this, and where things are on the host is not their concern.
pub(crate) fn cause(error: Error) -> Cause {
    match error {
        Error::Unreachable { reason, .. } => Cause::new(format!("the engine cannot be reached: {reason}"), AGAIN_HINT),
        Error::Busy { reason } => Cause::new(
            format!("the engine is busy: {reason}"),
            "wait until that is over or end it (KILL and the number of the connection), then ask again",
        ),
        Error::Unsafe { reason } => {
            Cause::new(format!("the engine cannot be stopped without a loss: {reason}"), "mend that, then ask again")
        }
        Error::Io(error) => {
            tracing::error!(%error, "file of the volume");
            if is_full(&error) {
                Cause::new("there is no room left on the disk of the volume", "make room on it, then ask again")
            } else {
                let message = format!("a file of the volume cannot be read or written: {}", error.kind());
                Cause::new(message, "look into the agent's log in the instance's volume: agent/agent.log")
            }
        }
        Error::Start(error) => unstarted(&error),
        Error::PreImage { path, problem } => {
            tracing::error!(path = %path.display(), problem, "pre-image");
            Cause::new(format!("the pre-image {problem}"), "ask the operator: the agent's log names it")
        }
        Error::Loading | Error::Late { .. } => Cause::new(in_full(&error), AGAIN_HINT),
        Error::Ended { .. } | Error::Refused { .. } | Error::Misunderstood { .. } | Error::Wrong { .. } => {
            Cause::new(in_full(&error), "look into the logs in the instance's volume: agent/*.log")
        }
    }
}

/// An error of the image store as a cause. Where the store is on the host is for the log.
pub(crate) fn image_cause(error: &coffer_image::Error) -> Cause {
    use coffer_image::Error as Image;
    let log = "ask the operator: the agent's log names the file";
    if matches!(error, Image::Io(_) | Image::BadLayout { .. } | Image::BadDocument { .. }) {
        tracing::error!(error = in_full(error), "image store");
    }
    match error {
        Image::Io(io) if is_full(io) => {
            Cause::new("there is no room left on the disk of the image store", "make room on it, then ask again")
        }
        Image::Io(io) => Cause::new(format!("a file of the image store cannot be read or written: {}", io.kind()), log),
        Image::BadLayout { .. } | Image::BadDocument { .. } => {
            Cause::new("a document of the image store is not valid", log)
        }
        // What it is about is an image or a source of the catalogue, and what to do is in the sentence.
        _ => Cause::new(in_full(error), ""),
    }
}

/// Why no engine came of a start. On which file or directory of the host is for the log.
pub(crate) fn unstarted(error: &sandbox::Error) -> Cause {
    tracing::error!(error = in_full(error), "engine is not started");
    let because = |what: String, source: &io::Error| match source.raw_os_error() {
        // Without the path that the error may name.
        Some(code) => format!("{what}: {}", io::Error::from_raw_os_error(code)),
        None => format!("{what}: {}", source.kind()),
    };
    let message = match error {
        sandbox::Error::AsRoot { .. } => "the engine would run as root".to_owned(),
        sandbox::Error::AlreadyRuns { .. } => "an engine already runs on this volume".to_owned(),
        sandbox::Error::Step { step, source, .. } => because(format!("the engine is not started: {step}"), source),
        sandbox::Error::Silent { status, .. } => format!("the start of the engine ended without a word ({status})"),
        sandbox::Error::Agent { what, source } => because(format!("the agent could not {what}"), source),
    };
    Cause::new(message, error.hint())
}

/// An error with the errors behind it.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        // Transparent wrappers say the same twice.
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::{cause, image_cause};
    use crate::sandbox::{self, Step};
    use crate::site::Error;

    #[test]
    fn what_tenants_read_names_nothing_of_the_host() {
        let secret = PathBuf::from("/srv/secret/place");
        let denied = || io::Error::from_raw_os_error(13);
        let told = |error: Error| cause(error).to_string();
        for (error, words) in [
            (sandbox::Error::Step { step: Step::Root, object: secret.clone(), source: denied() }, "Permission denied"),
            (sandbox::Error::Step { step: Step::Lock, object: secret.clone(), source: denied() }, "lock"),
            (sandbox::Error::AlreadyRuns { lock: secret.clone() }, "already runs"),
            (sandbox::Error::Agent { what: "watch", source: io::Error::other("/srv/secret/place") }, "could not watch"),
        ] {
            let text = told(Error::Start(error));
            assert!(!text.contains("/srv") && text.contains(words), "{text}");
        }
        let text = told(Error::PreImage { path: secret.clone(), problem: "is not complete".to_owned() });
        assert!(!text.contains("/srv") && text.contains("is not complete"), "{text}");
        for error in [
            coffer_image::Error::Io(io::Error::other("/srv/secret/place")),
            coffer_image::Error::BadLayout { path: secret.clone(), what: "no index".to_owned() },
        ] {
            let text = image_cause(&error).to_string();
            assert!(!text.contains("/srv") && text.contains("image store"), "{text}");
        }
        let text = told(Error::Unreachable { socket: secret, reason: "gone".to_owned() });
        assert!(!text.contains("/srv"), "{text}");
    }
}
