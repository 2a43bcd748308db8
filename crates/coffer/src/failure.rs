//! Why a command did not do what it was asked for, and the exit code that says so to scripts.

use std::fmt;
use std::process::ExitCode;

/// What kind of failure it was. Each has an exit code of its own, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something went wrong that none of the others says.
    Failed,
    /// The command line does not make sense. clap's own code for this is the same.
    Usage,
    /// The server understood and will not do it. Nothing was touched.
    Refused,
    /// What was named does not exist, or is not this project's.
    NotFound,
    /// The server does not accept the credentials, or there are none.
    Auth,
    /// The operation failed, and everything is as it was before.
    Undone,
    /// Nobody answers at the server's address.
    Unreachable,
}

impl Kind {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NotFound => 4,
            Self::Auth => 5,
            Self::Undone => 6,
            Self::Unreachable => 7,
        }
    }
}

/// The part of `--help` that documents the exit codes.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  the command line does not make sense
  3  refused by the server; nothing was touched
  4  not found
  5  the credentials are missing or were not accepted
  6  the operation failed and everything was put back
  7  the server cannot be reached";

/// A failure as its reader sees it: what happened, and what to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub kind: Kind,
    /// What happened, in one sentence or, where several things were found, one per line.
    pub message: String,
    /// The next command or action; empty where there is none.
    pub hint: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: hint.into() }
    }

    /// A failure with no kind of its own.
    pub(crate) fn other(message: impl fmt::Display) -> Self {
        // Errors of the other crates end with their hint; it gets a line of its own here.
        let text = message.to_string();
        match text.split_once("hint: ") {
            Some((message, hint)) => Self::new(Kind::Failed, message.trim_end_matches([';', ' ', '\n']), hint),
            None => Self::new(Kind::Failed, text, ""),
        }
    }

    /// The same with a hint, where it was refused or not found and nobody knew a better one.
    pub(crate) fn or_hint(self, hint: &str) -> Self {
        let lacks = self.hint.is_empty() && matches!(self.kind, Kind::Refused | Kind::NotFound);
        if lacks { Self { hint: hint.to_owned(), ..self } } else { self }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        if !self.hint.is_empty() {
            write!(f, "\nhint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::other(error)
    }
}
