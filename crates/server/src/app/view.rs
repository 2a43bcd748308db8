//! What the application takes and shows: plain values, no wire format.

use std::sync::Arc;

use coffer_core::account::{NewDatabase, NewUser};
use coffer_core::datastore::{Datastore, Number, Version};
use coffer_core::drift::Drift;
use coffer_core::engine::{Policy, SettingsChange};
use coffer_core::finding::Finding;
use coffer_core::gap::Spread;
use coffer_core::group::Group;
use coffer_core::id::{FlavorId, ProjectId, VersionId};
use coffer_core::instance::{Instance, Observed, Status, WayBack};
use coffer_core::operation::Plan;
use coffer_core::plan::Step;
use coffer_core::spec::Settings;
use coffer_core::task::{ImageFound, Loss, Preview};
pub use coffer_store::OpenOperation;
use jiff::Timestamp;
use secrecy::SecretString;
use uuid::Uuid;

/// Whose instances are listed. Anything but `Own` is for administrators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those of the caller's project.
    Own,
    /// Those of one project.
    Project(ProjectId),
    /// Those of every project.
    All,
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Only ids after this one. Need not be the id of anything.
    pub marker: Option<String>,
    /// At most so many; never more than the configured page size, which is also what `None` means.
    pub limit: Option<u32>,
}

/// Part of a list, the newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Paged<T> {
    pub items: Vec<T>,
    /// The marker of the next page, if there is one.
    pub next: Option<String>,
}

impl<T> Paged<T> {
    /// The first `limit` of what was found where one more was asked for: that tells whether there is another page.
    pub(super) fn cut(mut found: Vec<T>, limit: u32, id: impl FnOnce(&T) -> String) -> Self {
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        let next = found.last().filter(|_| more).map(id);
        Self { items: found, next }
    }
}

/// An instance with everything that users are shown of it.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceView {
    pub instance: Instance,
    /// The requested version while the status is UPGRADE, else the one that was proven.
    pub version: Arc<Version>,
    /// What it is to be: the target of the open operation, else what is recorded.
    pub requested: Arc<Version>,
    /// The version that was proven last.
    pub recorded: Arc<Version>,
    /// What the running engine says it is.
    pub running: Option<Number>,
    /// The version of the engine that last wrote the data files.
    pub on_disk: Option<Number>,
    pub status: Status,
    /// The settings that wait for a restart, by name.
    pub pending: Vec<String>,
    /// Trove's `operating_status`; empty while an operation runs.
    pub operating_status: &'static str,
    /// What the agent last saw; `None` while it is silent.
    pub observed: Option<Observed>,
    /// Since when its agent says nothing, where that is for too long.
    pub silent_since: Option<Timestamp>,
    /// What is otherwise than recorded.
    pub drift: Vec<Drift>,
    pub operation: Option<OpenOperation>,
    /// What a rollback goes to, and the version that it is of, where that is known.
    pub way_back: Option<(WayBack, Option<Arc<Version>>)>,
}

/// What a new instance shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct NewInstance {
    pub name: String,
    pub flavor: FlavorId,
    pub volume_gib: u32,
    /// Name or id of a datastore; the configured default when neither this nor a version's id is given.
    pub datastore: Option<String>,
    /// Name or id of a version; the datastore's default when it is not given.
    pub version: Option<String>,
    pub settings: Settings,
    /// The first databases and users, if the datastore has such.
    pub databases: Vec<NewDatabase>,
    pub users: Vec<NewUser>,
    /// The id of its configuration group.
    pub group: Option<String>,
}

/// An instance that is being built, and the password that is shown this once.
#[derive(Clone, Debug)]
pub struct Created {
    pub view: InstanceView,
    pub password: SecretString,
}

/// A datastore with its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct DatastoreView {
    /// Made from the name, so it is the same everywhere and for ever.
    pub id: Uuid,
    pub datastore: Datastore,
    pub default_version: Option<VersionId>,
    /// The active ones, oldest number first; administrators see the others too.
    pub versions: Vec<Arc<Version>>,
}

/// What an operator changes of a version. `None` leaves it as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionChange {
    pub active: Option<bool>,
    /// `Some(true)` takes the default away from the version that had it.
    pub default: Option<bool>,
    pub name: Option<String>,
}

/// What an upgrade would do, found out without doing it.
#[derive(Clone, Debug, PartialEq)]
pub struct UpgradePreview {
    pub from: Arc<Version>,
    pub to: Arc<Version>,
    /// What is done about defaults that change.
    pub policy: Policy,
    /// The configuration group that the instance has then; `None` where it has none, or nothing changes.
    pub group: Option<Group>,
    pub plan: Plan<Step>,
    /// What the planner and the agent found; those with severity error would stop the upgrade before it touches
    /// anything.
    pub findings: Vec<Finding>,
    /// What becomes of each setting.
    pub settings: SettingsChange,
    /// The image that would run; `None` when it is the same version and nothing is fetched.
    pub image: Option<ImageFound>,
    /// The agent's figures for this instance; `None` when it is the same version.
    pub preview: Option<Preview>,
    /// The gap to expect, where enough like it were measured.
    pub expected: Option<Spread>,
}

/// What a rollback would do, found out without doing it.
#[derive(Clone, Debug, PartialEq)]
pub struct RollbackPreview {
    pub from: Arc<Version>,
    pub to: Arc<Version>,
    /// The pre-image that marks what is gone back to.
    pub kept: WayBack,
    /// Whether the data stay as they are, so that nothing is lost.
    pub in_place: bool,
    /// Whether the newer engine is not waited for.
    pub down: bool,
    /// What is lost where they do not, as the agent told; `None` where it could not look.
    pub loss: Option<Loss>,
    /// The configuration group that the instance has then.
    pub group: Option<Group>,
    pub plan: Plan<Step>,
    /// What the planner and the agent found; those with severity error would stop it before it touches anything.
    pub findings: Vec<Finding>,
    pub preview: Option<Preview>,
    /// The gap to expect, where enough like it were measured.
    pub expected: Option<Spread>,
}

/// What a project may have, and has. `limit` -1 means any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub limit: i64,
    pub in_use: i64,
}

/// The quota of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub instances: Usage,
    /// In gibibytes.
    pub volumes: Usage,
}
