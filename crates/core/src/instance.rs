//! Instances: what is recorded of them, what their agent last saw, and the status that users read.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crash::CrashLoop;
use crate::datastore::Number;
use crate::drift::Drift;
use crate::finding::{Cause, Finding};
use crate::gate::{Level, Stance};
use crate::group::{self, Group};
use crate::id::{Epoch, FlavorId, Generation, GroupId, InstanceId, OperationId, ProjectId, VersionId};
use crate::operation::{Phase, Plan};
use crate::plan::Step;
use crate::spec::Settings;
use crate::task::{ClientView, StepRecord};

/// One database of a tenant, as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    pub id: InstanceId,
    pub project: ProjectId,
    pub name: String,
    /// The version that was proven last. Never the one that is only wished for.
    pub version: VersionId,
    pub flavor: FlavorId,
    pub volume_gib: u32,
    pub address: IpAddr,
    pub generation: Generation,
    /// What its engine runs with.
    pub settings: Settings,
    /// What it was given itself, in the words of its version. Its group's values go before these.
    pub own: Settings,
    /// The configuration group that is attached to it, as it is now.
    pub group: Option<Group>,
    /// Whether it has ever served.
    pub built: bool,
    pub fault: Option<Fault>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Instance {
    /// What its engine is to run with after its next start.
    pub fn wanted(&self) -> Settings {
        group::merged(&self.own, self.group.as_ref())
    }

    /// Whether what was seen says how it is. Of one that was given up half way only what was seen since does: what
    /// was tried may have ended its engine.
    pub fn is_told_by(&self, observed: &Observed) -> bool {
        self.fault.as_ref().is_none_or(|fault| !fault.abandoned || observed.at >= fault.at)
    }

    /// The settings that wait for a restart, by name: those that the engine runs with otherwise than it is to.
    pub fn pending(&self) -> Vec<String> {
        // Every list asks it of every instance, and what was never touched needs no maps.
        if self.group.is_none() && self.own == self.settings {
            return Vec::new();
        }
        group::differences(&self.settings, &self.wanted())
    }
}

/// What went wrong last, and what to do about it. Gone with the next operation that succeeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub at: Timestamp,
    #[serde(flatten)]
    pub cause: Cause,
    /// Whether an operation was given up half way. Until an engine serves again nobody knows what the instance is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub abandoned: bool,
}

/// What an agent saw when it last looked at its engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub at: Timestamp,
    /// The generation that the agent has made true.
    pub generation: Generation,
    pub engine: Engine,
    /// The version that the running engine says it is.
    pub running: Option<Number>,
    /// The version of the engine that last wrote the data files.
    pub on_disk: Option<Number>,
    pub volume_used_bytes: u64,
    /// How the engine is isolated and what of its flavor is enforced, in sentences.
    pub isolation: Vec<String>,
    /// Whether temporary measures of the last section are still in force, such as an append-only file.
    pub settling: bool,
    /// Who gets new connections; `None` until the first engine was started.
    #[serde(default)]
    pub gate: Option<GateSeen>,
    /// The pre-images that are kept, the oldest first. A rollback goes to the last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ways_back: Vec<WayBack>,
    /// What is otherwise than the agent's record says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// Set while the engine ends again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_loop: Option<CrashLoop>,
}

impl Observed {
    /// What an agent has seen before it has looked.
    pub fn nothing(at: Timestamp) -> Self {
        Self {
            at,
            generation: Generation::default(),
            engine: Engine::Absent,
            running: None,
            on_disk: None,
            volume_used_bytes: 0,
            isolation: Vec::new(),
            settling: false,
            gate: None,
            ways_back: Vec::new(),
            drift: Vec::new(),
            crash_loop: None,
        }
    }

    /// Whether this is worth to be written down where `other` was: anything is another, or the volume holds much more or less.
    /// When it was seen is no news.
    pub fn is_news_after(&self, other: &Self) -> bool {
        let (used, known) = (self.volume_used_bytes, other.volume_used_bytes);
        let alike = Self { at: self.at, volume_used_bytes: used, ..other.clone() };
        alike != *self || used.abs_diff(known) > VOLUME_NEWS_BYTES.max(known / 16)
    }
}

/// Less than this is no news of a volume.
const VOLUME_NEWS_BYTES: u64 = 16 << 20;

/// A pre-image that an agent keeps: what an instance can be taken back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayBack {
    /// The operation before which data and configuration were so.
    pub operation: OperationId,
    /// The version that it is of; `None` where the agent that took it did not write that down.
    pub version: Option<VersionId>,
    pub since: Timestamp,
    /// When it is removed, as far as the agent has been told.
    pub until: Timestamp,
    pub bytes: u64,
}

/// An instance's gate, as its agent sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateSeen {
    /// How far it goes.
    pub level: Level,
    /// What becomes of a new connection; `None` where the engine has its port itself.
    pub state: Option<Stance>,
    /// Why it does not go further, and what to do about it; empty at the highest level.
    pub why: String,
}

/// What state an engine is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Engine {
    /// Not started yet, or stopped on purpose.
    Absent,
    /// Started, not answering yet.
    Starting,
    /// Answers, and clients get in.
    Serving,
    /// It ended or does not answer; the agent tries again at `retry_at`.
    Failed { cause: Cause, restarts: u32 },
}

/// What kind of change an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Create,
    Upgrade,
    Restart,
    Delete,
    /// Other settings for an engine that goes on.
    Configure,
    /// Back to what there was before an upgrade that succeeded.
    Rollback,
    /// The end of the time in which there is a way back.
    Finalize,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Create, Self::Upgrade, Self::Restart, Self::Delete, Self::Configure, Self::Rollback, Self::Finalize];

    /// The name in records, logs, metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Upgrade => "upgrade",
            Self::Restart => "restart",
            Self::Delete => "delete",
            Self::Configure => "configure",
            Self::Rollback => "rollback",
            Self::Finalize => "finalize",
        }
    }
}

/// One long-running change of one instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub id: OperationId,
    pub instance: InstanceId,
    pub project: ProjectId,
    pub kind: Kind,
    /// The version that the instance has when the operation is done, where it changes.
    pub target: Option<VersionId>,
    /// The configuration group that is attached when the operation is done, where another one is.
    pub group: Option<GroupId>,
    pub plan: Plan<Step>,
    pub phase: Phase,
    pub epoch: Epoch,
    /// Every step that was taken, those inside an agent's section among them, with its times.
    pub steps: Vec<StepRecord>,
    pub findings: Vec<Finding>,
    /// How long a client could not write, in microseconds.
    pub gap_us: Option<u64>,
    /// What clients saw meanwhile.
    pub clients: Option<ClientView>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Operation {
    /// Whether something is still to happen, by itself or by a person.
    pub fn is_open(&self) -> bool {
        !self.phase.is_final()
    }
}

/// What users see as an instance's status. Trove's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Build,
    Active,
    Upgrade,
    Reboot,
    Shutdown,
    /// It serves, and has settings that wait for a restart.
    RestartRequired,
    Error,
}

impl Status {
    /// The word on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Build => "BUILD",
            Self::Active => "ACTIVE",
            Self::Upgrade => "UPGRADE",
            Self::Reboot => "REBOOT",
            Self::Shutdown => "SHUTDOWN",
            Self::RestartRequired => "RESTART_REQUIRED",
            Self::Error => "ERROR",
        }
    }

    /// The status of an instance with this open operation. Derived whenever it is asked for, stored nowhere.
    pub fn of(built: bool, open: Option<(Kind, &Phase)>) -> Self {
        match open {
            Some((_, Phase::Stuck { .. })) => Self::Error,
            Some((Kind::Create, _)) => Self::Build,
            Some((Kind::Upgrade | Kind::Rollback, _)) => Self::Upgrade,
            Some((Kind::Restart, _)) => Self::Reboot,
            Some((Kind::Delete, _)) => Self::Shutdown,
            Some((Kind::Configure | Kind::Finalize, _)) => Self::Active,
            None if built => Self::Active,
            None => Self::Error,
        }
    }

    /// The same, given what its agent sees of an instance to which nothing is being done: one whose engine ends again and again
    /// does not serve, and what one is that was given up half way only an engine that serves can show.
    #[must_use]
    pub fn seen(self, instance: &Instance, observed: Option<&Observed>) -> Self {
        if !matches!(self, Self::Active | Self::RestartRequired) {
            return self;
        }
        let serves = observed.is_some_and(|o| o.engine == Engine::Serving);
        let in_loop = observed.is_some_and(|o| o.crash_loop.is_some());
        let abandoned = instance.fault.as_ref().is_some_and(|fault| fault.abandoned);
        if in_loop || abandoned && !serves { Self::Error } else { self }
    }
}

/// Trove's `operating_status`: empty while an operation runs, else what the agent last saw.
pub fn operating_status(status: Status, observed: Option<&Observed>) -> &'static str {
    if !matches!(status, Status::Active | Status::RestartRequired) {
        return "";
    }
    match observed.map(|o| &o.engine) {
        Some(Engine::Serving) => "HEALTHY",
        Some(Engine::Starting) => "RESTARTING",
        Some(Engine::Absent | Engine::Failed { .. }) => "SHUTDOWN",
        None => "ERROR",
    }
}
