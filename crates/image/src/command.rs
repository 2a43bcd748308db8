//! Running the programs that sources need, with a time limit and an error that shows what they said.

use std::io;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use crate::error::{Error, Result};

/// Output kept in an error: the end, where programs say what went wrong.
const SHOWN_BYTES: usize = 1500;

/// Runs `command` to its end and gives what it wrote.
///
/// It gets no input and the C locale, so that its words do not depend on the machine. It is killed when `limit` has
/// passed or the caller goes away. `package` is what a person installs if the program is missing.
pub(crate) async fn run(mut command: Command, limit: Duration, package: &'static str) -> Result<Output> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).env("LC_ALL", "C").kill_on_drop(true);
    let output = match tokio::time::timeout(limit, command.output()).await {
        Err(_) => {
            return Err(Error::ProgramSlow { program, seconds: limit.as_secs() });
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::ProgramMissing { program, package });
        }
        Ok(output) => output?,
    };
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::ProgramFailed { program, status: output.status.to_string(), output: said(&output) })
}

/// The last lines that a program wrote, its errors after its output.
pub(crate) fn said(output: &Output) -> String {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let from = text.len().saturating_sub(SHOWN_BYTES);
    String::from_utf8_lossy(&text[from..]).trim().replace('\n', " | ")
}

/// Runs blocking work on tokio's threads for it; a panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(Error::Io(io::Error::other(cancelled))),
        },
    }
}
