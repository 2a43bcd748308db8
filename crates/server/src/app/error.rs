//! Why the application did not do what it was asked, by what the caller can do about it.

use std::fmt::Display;
use std::sync::Arc;

use coffer_core::datastore::{Datastore, Version};
use coffer_core::finding::{Cause, Finding};
use coffer_core::id::InstanceId;
use coffer_core::instance::Kind;
use coffer_core::plan::Refusal;
use coffer_core::spec::Settings;

/// Why the application did not do what it was asked. One place in `http` maps every variant to a fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing for this caller. Another project's things are among what there is not.
    #[error("{} '{id}' not found", what.name())]
    NotFound { what: Thing, id: String },
    /// The request can never work as it is.
    #[error("{0}")]
    Invalid(String),
    /// It was planned and there are reasons against it; nothing was touched.
    #[error(transparent)]
    Refused(Refusal),
    /// Values that the version does not take; nothing was touched.
    #[error("{}", told(findings))]
    Settings { version: Arc<Version>, values: Settings, findings: Vec<Finding> },
    /// The running engine of the instance did not take its new settings, and goes on with the old ones.
    #[error("instance {instance}: {cause}")]
    NotTaken { instance: InstanceId, cause: Cause },
    /// Another operation of the instance is running; nothing was touched.
    #[error(
        "instance {instance} is busy: another operation is running: {}; hint: wait for it: coffer instance operations {instance}",
        kind.name()
    )]
    Busy { instance: InstanceId, kind: Kind },
    /// It would be more than the project may have.
    #[error("quota exceeded for resources: {}; hint: delete something, or ask the operator for more", describe(.0))]
    QuotaExceeded(Vec<Excess>),
    /// A single volume would be larger than any may be.
    #[error("volume size cannot exceed {limit_gib} GiB, {requested_gib} GiB cannot be accepted")]
    VolumeTooLarge { requested_gib: u32, limit_gib: u32 },
    /// The caller may not do that.
    #[error("{what} needs the role {role}")]
    Forbidden { what: &'static str, role: &'static str },
    /// Instances of this datastore have no such thing.
    #[error("operation not supported for datastore {0}")]
    Unsupported(Datastore),
    /// The engine of the instance does not serve; nothing was touched.
    #[error("instance {instance} is not ready, status: {status}; hint: coffer instance show {instance}")]
    NotReady { instance: InstanceId, status: String },
    /// It cannot be done at this moment, and may be possible later.
    #[error("{0}")]
    Unavailable(String),
    /// It is nobody's fault who asks. The source is for the log, never for the wire.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What kind of thing was not found. Trove answers differently to each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thing {
    Instance,
    Datastore,
    /// A datastore version, whether it was asked for by name or by id.
    Version,
    Flavor,
    /// A configuration group.
    Group,
}

impl Thing {
    fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Datastore => "datastore",
            Self::Version => "datastore version",
            Self::Flavor => "flavor",
            Self::Group => "configuration group",
        }
    }
}

/// One resource of which a project would have too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// `instances`, `volumes` or `configurations`, Trove's words.
    pub resource: &'static str,
    pub requested: i64,
    pub in_use: i64,
    pub limit: i64,
}

impl Error {
    pub(crate) fn not_found(what: Thing, id: impl Display) -> Self {
        Self::NotFound { what, id: id.to_string() }
    }

    /// What should never be, in a sentence for the log.
    pub(crate) fn internal(why: String) -> Self {
        Self::Internal(why.into())
    }
}

impl From<coffer_store::Error> for Error {
    fn from(error: coffer_store::Error) -> Self {
        match error {
            coffer_store::Error::Busy { instance, kind } => Self::Busy { instance, kind },
            other => Self::Internal(Box::new(other)),
        }
    }
}

fn told(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn describe(excesses: &[Excess]) -> String {
    let one =
        |e: &Excess| format!("{} ({} in use, {} requested, limit {})", e.resource, e.in_use, e.requested, e.limit);
    excesses.iter().map(one).collect::<Vec<_>>().join(", ")
}
