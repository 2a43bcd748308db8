//! Findings: what a check found. A check reports all of them at once, so that nobody mends one only to meet the next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a finding weighs. An error refuses the operation, a warning is told beforehand, a notice is for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
    Notice,
}

/// One thing that a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name for machines, such as `redis.acl.pubsub`.
    pub id: String,
    pub severity: Severity,
    /// What it is about: an instance, a setting, a user, a key.
    pub object: String,
    /// What was found, in a sentence.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

impl Finding {
    /// A reason to refuse.
    pub fn error(id: &str, object: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Error, id, object, message, remedy)
    }

    /// Something to know before going on.
    pub fn warning(id: &str, object: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Warning, id, object, message, remedy)
    }

    /// Something for the record.
    pub fn notice(id: &str, object: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Severity::Notice, id, object, message, remedy)
    }

    fn new(
        severity: Severity,
        id: &str,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { id: id.to_owned(), severity, object: object.into(), message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)?;
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.remedy)
    }
}

/// Whether any of them refuses the operation.
pub fn refuses(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Error)
}

/// Why something failed, and what to do next. What users read in `fault` and in an operation's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub message: String,
    /// The next command or action; empty where there is none.
    #[serde(default)]
    pub hint: String,
    /// What the checks found, where they were the cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

impl Cause {
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into(), findings: Vec::new() }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, "; hint: {}", self.hint)?;
        }
        Ok(())
    }
}
