//! The planners: pure functions from what is known to a plan or to all the reasons against it.
//!
//! A plan is decided completely before anything is touched. What `--dry-run` prints is this value, and nothing later
//! decides anew. A variant of [`Step`] may be added, never changed: plans lie in stores, and newer binaries finish them.

mod rollback;

use serde::{Deserialize, Serialize};

use crate::account;
use crate::datastore::{Datastore, Version};
use crate::engine::{self, Policy, SettingsChange};
use crate::finding::{Finding, refuses};
use crate::flavor::Flavor;
use crate::group::{self, Configured, Group, Migration};
use crate::id::{Generation, GroupId, OperationId};
use crate::instance::{Engine, Instance, Kind, Observed};
use crate::operation::Plan;
use crate::section::Section;
use crate::spec::{EngineSpec, Settings};
use crate::task::Task;

pub use rollback::{Back, find_way_back, plan_finalize, plan_rollback};

/// One step of the control plane.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// A place for the instance: volume, address and a running agent. Undone by dropping all of it.
    EnsurePlace,
    /// Drop the place with all that is in it.
    DropPlace,
    /// Tell the agent what to run, and wait until it does. Undone with the place.
    Run { spec: Box<EngineSpec>, generation: Generation, within_seconds: u32 },
    /// Ask the agent for something, and wait for the answer. Tasks leave nothing behind when they fail, and what they
    /// leave when they succeed is for the collector, so there is nothing to undo. A section that succeeded is never undone:
    /// it stands right before the point of no return.
    Ask { task: Box<Task>, within_seconds: u32 },
    /// Write down what is now true. Always at or past the point of no return, so never undone.
    Record(Record),
}

impl Step {
    /// The name in records, logs and progress displays.
    pub fn name(&self) -> &'static str {
        match self {
            Self::EnsurePlace => "place",
            Self::DropPlace => "drop",
            Self::Run { .. } => "run",
            Self::Ask { task, .. } => match **task {
                Task::Fetch { .. } => "fetch",
                Task::Check { .. } | Task::CheckBack { .. } => "check",
                Task::Verify { .. } => "verify",
                Task::Section(_) => "section",
                Task::Accounts { .. } => "accounts",
                Task::Configure { .. } => "configure",
                Task::Finalize { .. } => "finalize",
            },
            Self::Record(_) => "record",
        }
    }

    /// The critical section that it hands over, if that is what it does.
    pub fn section(&self) -> Option<&Section> {
        match self {
            Self::Ask { task, .. } => match &**task {
                Task::Section(section) => Some(section),
                Task::Fetch { .. }
                | Task::Check { .. }
                | Task::CheckBack { .. }
                | Task::Verify { .. }
                | Task::Configure { .. }
                | Task::Finalize { .. }
                | Task::Accounts { .. } => None,
            },
            Self::EnsurePlace | Self::DropPlace | Self::Run { .. } | Self::Record(_) => None,
        }
    }
}

/// What is written down when the rest of the plan is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The instance has served.
    Built { generation: Generation },
    /// The instance runs this now, and it was proven.
    Runs {
        spec: Box<EngineSpec>,
        generation: Generation,
        /// Where its settings come from, where that changes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        configured: Option<Box<Configured>>,
        /// Where its settings came from until then, where there is a way back to that.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Box<Configured>>,
    },
    /// The instance is gone.
    Deleted,
}

/// How long the agent may take to fetch an image and unpack it.
const FETCH_SECONDS: u32 = 1800;
/// How long the agent may take to look at everything, and to try the target.
const CHECK_SECONDS: u32 = 600;
/// How long an engine that has no data yet may take to answer.
const FIRST_START_SECONDS: u32 = 120;
/// How long the agent may take to make the first databases and accounts.
const ACCOUNTS_SECONDS: u32 = 300;
/// The same of MySQL, which writes its dictionary first: some 20 s on a busy machine, and minutes where an emulator runs it.
const FIRST_START_SECONDS_MYSQL: u32 = 600;
/// How long a section is waited for before somebody is told. Nothing is given up then: the agent finishes by itself.
const SECTION_SECONDS: u32 = 24 * 3600;

/// What a planner decides from.
#[derive(Clone, Debug)]
pub struct Snapshot<'a> {
    pub operation: OperationId,
    pub instance: &'a Instance,
    pub version: &'a Version,
    pub flavor: &'a Flavor,
    /// The open operation of the instance, if there is one.
    pub open: Option<Kind>,
    pub observed: Option<&'a Observed>,
    /// All datastore versions, to name the hops and the valid targets.
    pub catalogue: &'a [Version],
    /// What an upgrade does about defaults that change.
    pub policy: Policy,
    /// The groups of the instance's project, for an upgrade, which uses again what was migrated before, and for a rollback.
    pub groups: &'a [Group],
}

impl Snapshot<'_> {
    /// What the instance runs, as recorded.
    pub fn spec(&self) -> EngineSpec {
        let i = self.instance;
        EngineSpec::new(self.version, self.flavor, i.volume_gib, i.address, i.settings.clone())
    }

    /// Where its settings come from.
    fn configured(&self) -> Configured {
        Configured { own: self.instance.own.clone(), group: self.instance.group.clone() }
    }

    fn busy(&self) -> Option<Finding> {
        let kind = self.open?;
        Some(Finding::error(
            "instance.busy",
            format!("instance {}", self.instance.id),
            format!("another operation is running: {}", kind.name()),
            format!("wait for it: coffer instance operations {}", self.instance.id),
        ))
    }

    /// That nothing is known of what its agent sees.
    fn unheard(&self) -> Option<Finding> {
        self.unhealthy().filter(|_| self.observed.is_none())
    }

    fn unhealthy(&self) -> Option<Finding> {
        let state = match self.observed.map(|o| &o.engine) {
            Some(Engine::Serving) => return None,
            Some(Engine::Starting) => "its engine is still starting".to_owned(),
            Some(Engine::Absent) => "its engine is not running".to_owned(),
            Some(Engine::Failed { cause, .. }) => format!("its engine does not run: {}", cause.message),
            None => "its agent has not reported yet".to_owned(),
        };
        Some(Finding::error(
            "instance.unhealthy",
            format!("instance {}", self.instance.id),
            state,
            format!("look at it: coffer instance show {}", self.instance.id),
        ))
    }

    fn unbuilt(&self) -> Option<Finding> {
        (!self.instance.built).then(|| {
            Finding::error(
                "instance.unbuilt",
                format!("instance {}", self.instance.id),
                "it was never built",
                format!("delete it: coffer instance delete {}", self.instance.id),
            )
        })
    }

    /// The reasons against any operation on a running engine.
    fn reasons(&self) -> Vec<Finding> {
        let unready = self.unbuilt().or_else(|| self.unhealthy());
        self.busy().or(unready).into_iter().collect()
    }
}

/// All the reasons against an operation, at once. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Refusal(pub Vec<Finding>);

impl Refusal {
    /// Whether it is only because another operation is running.
    pub fn is_busy(&self) -> bool {
        self.0.iter().any(|f| f.id == "instance.busy")
    }
}

/// A plan with what was found on the way to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    pub plan: Plan<Step>,
    pub findings: Vec<Finding>,
    /// What happens to each setting; empty where no version changes.
    pub settings: SettingsChange,
}

/// A new instance: a place, the image, the engine.
pub fn plan_create(snapshot: &Snapshot<'_>) -> Result<Planned, Refusal> {
    let mut findings = engine::check_settings(snapshot.version, &snapshot.instance.settings);
    if !snapshot.version.active {
        findings.push(inactive(snapshot.version, snapshot.catalogue));
    }
    refuse(&findings)?;
    let spec = snapshot.spec();
    let generation = snapshot.instance.generation.next();
    let within_seconds = match spec.datastore() {
        Datastore::Mysql => FIRST_START_SECONDS_MYSQL,
        Datastore::Mariadb | Datastore::Redis | Datastore::Valkey => FIRST_START_SECONDS,
    };
    let steps = vec![
        Step::EnsurePlace,
        ask(Task::Fetch { image: spec.image.clone() }, FETCH_SECONDS),
        Step::Run { spec: Box::new(spec), generation, within_seconds },
        Step::Record(Record::Built { generation }),
    ];
    // The engine is open to the tenant: that it is written down late is no reason to drop it with what it holds.
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: SettingsChange::default() })
}

/// The same with databases and accounts, which are there before the instance is built.
pub fn plan_create_with(snapshot: &Snapshot<'_>, accounts: account::Request) -> Result<Planned, Refusal> {
    let mut planned = plan_create(snapshot)?;
    let steps = &mut planned.plan.steps;
    steps.insert(steps.len() - 1, ask(Task::Accounts { request: Box::new(accounts) }, ACCOUNTS_SECONDS));
    planned.plan.point_of_no_return = steps.len() - 1;
    Ok(planned)
}

/// From the recorded version to `to`. Asked for the version that it already has, the plan proves just that.
pub fn plan_upgrade(snapshot: &Snapshot<'_>, to: &Version) -> Result<Planned, Refusal> {
    let from = snapshot.version;
    let mut findings = snapshot.reasons();
    if from.id == to.id {
        refuse(&findings)?;
        let steps = vec![ask(Task::Verify { expect: snapshot.spec() }, CHECK_SECONDS)];
        let notes = vec![format!("{} is what it runs already: nothing is changed, only proven", to.label())];
        let plan = Plan { point_of_no_return: steps.len(), steps, notes };
        return Ok(Planned { plan, findings, settings: SettingsChange::default() });
    }
    if !to.active {
        findings.push(inactive(to, snapshot.catalogue));
    }
    findings.extend(engine::check_path(from, to, snapshot.catalogue));
    let (settings, configured, target) = upgraded(snapshot, to);
    findings.extend(settings.findings());
    findings.extend(configured.group.as_ref().map(|group| group_notice(snapshot, to, group)));
    refuse(&findings)?;

    let spec = snapshot.spec();
    let generation = snapshot.instance.generation.next();
    let section = Section::upgrade(snapshot.operation, spec, target.clone(), generation);
    let steps = vec![
        ask(Task::Fetch { image: target.image.clone() }, FETCH_SECONDS),
        ask(Task::Check { to: target.clone(), try_target: true }, CHECK_SECONDS),
        ask(Task::Section(Box::new(section)), SECTION_SECONDS),
        runs(target, generation, Some(configured), Some(snapshot.configured())),
    ];
    let adopted = (snapshot.policy == Policy::Adopt)
        .then(|| format!("the defaults of {} are adopted: nothing is pinned to the old ones", to.label()));
    let notes = adopted.into_iter().chain(engine::upgrade_note(to.datastore).map(str::to_owned)).collect();
    // What the section did is proven and has taken writes: only the record is left to be written.
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes };
    Ok(Planned { plan, findings, settings })
}

/// Where an upgrade leads: what becomes of each setting, where they come from then, and the engine that has them.
fn upgraded(snapshot: &Snapshot<'_>, to: &Version) -> (SettingsChange, Configured, EngineSpec) {
    let i = snapshot.instance;
    let Migration { change, own, values } =
        group::migrate(snapshot.version, to, &i.own, i.group.as_ref(), snapshot.policy);
    let group = values.and_then(|values| migrated_group(snapshot, to, values));
    let settings = group::merged(&own, group.as_ref());
    let spec = EngineSpec::new(to, snapshot.flavor, i.volume_gib, i.address, settings);
    (change, Configured { own, group }, spec)
}

/// The group that an instance with a group has on another version: the one that was made for the same before, or a new one,
/// whose id is that of the operation.
fn migrated_group(snapshot: &Snapshot<'_>, to: &Version, values: Settings) -> Option<Group> {
    let old = snapshot.instance.group.as_ref()?;
    let name = group::migrated_name(&old.name, snapshot.version, to);
    let same = |group: &&Group| group.version == to.id && group.name == name && group.values == values;
    let fresh = || Group {
        id: GroupId(snapshot.operation.0),
        name: name.clone(),
        version: to.id,
        values: values.clone(),
        ..old.clone()
    };
    Some(snapshot.groups.iter().find(same).cloned().unwrap_or_else(fresh))
}

fn group_notice(snapshot: &Snapshot<'_>, to: &Version, group: &Group) -> Finding {
    let old = snapshot.instance.group.as_ref().map_or("", |group| group.name.as_str());
    let there = snapshot.groups.iter().any(|known| known.id == group.id);
    let (name, id) = (&group.name, group.id);
    let whence = if there { "which is there already" } else { "which is made of it" };
    Finding::notice(
        "group.migrated",
        format!("configuration group {old}"),
        format!("the instance gets {name} ({id}) of {}, {whence}; {old} stays as it is", to.label()),
        "",
    )
}

/// The task that looks at an upgrade without doing it, for `--dry-run`.
pub fn check_task(snapshot: &Snapshot<'_>, to: &Version) -> Task {
    let (_, _, target) = upgraded(snapshot, to);
    Task::Check { to: target, try_target: true }
}

/// The same engine again, without losing what it holds, with the settings that wait for that.
pub fn plan_restart(snapshot: &Snapshot<'_>) -> Result<Planned, Refusal> {
    // A restart is what an operator reaches for when an engine is not well: only what cannot work is refused.
    let findings: Vec<_> = snapshot.busy().or_else(|| snapshot.unbuilt()).into_iter().collect();
    refuse(&findings)?;
    let spec = snapshot.spec();
    let to = EngineSpec { settings: snapshot.instance.wanted(), ..spec.clone() };
    let generation = snapshot.instance.generation.next();
    let section = Section::restart(snapshot.operation, spec, to.clone(), generation);
    let steps = vec![ask(Task::Section(Box::new(section)), SECTION_SECONDS), runs(to, generation, None, None)];
    let plan = Plan { point_of_no_return: 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: SettingsChange::default() })
}

/// The settings of this group for an instance that goes on: what can be changed live is, and the rest waits for a restart.
/// The group that is attached already, with other values than before; another; or none.
pub fn plan_configure(snapshot: &Snapshot<'_>, group: Option<&Group>) -> Result<Planned, Refusal> {
    let i = snapshot.instance;
    let wanted = group::merged(&i.own, group);
    let settings = group::apply_live(snapshot.version, &i.settings, &wanted);
    let is_live = settings != i.settings;
    let unready = snapshot.unbuilt().or_else(|| snapshot.unhealthy().filter(|_| is_live));
    let mut findings: Vec<_> = snapshot.busy().or(unready).into_iter().collect();
    findings.extend(engine::check_settings(snapshot.version, &wanted));
    refuse(&findings)?;
    for name in group::differences(&settings, &wanted) {
        findings.push(Finding::notice(
            "settings.restart",
            format!("setting {name}"),
            "it takes effect at the next start of the engine",
            format!("coffer instance restart {}", i.id),
        ));
    }
    let spec = EngineSpec { settings, ..snapshot.spec() };
    // Where nobody is told anything, nothing was decided anew.
    let generation = if is_live { i.generation.next() } else { i.generation };
    let mut steps = Vec::new();
    if is_live {
        steps.push(ask(Task::Configure { to: spec.clone(), generation }, SECTION_SECONDS));
    }
    steps.push(runs(spec, generation, Some(Configured { own: i.own.clone(), group: group.cloned() }), None));
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: SettingsChange::default() })
}

/// The end of an instance. Nothing of it is undone.
pub fn plan_delete(snapshot: &Snapshot<'_>) -> Result<Planned, Refusal> {
    refuse(&snapshot.busy().into_iter().collect::<Vec<_>>())?;
    let steps = vec![Step::DropPlace, Step::Record(Record::Deleted)];
    let plan = Plan { steps, point_of_no_return: 0, notes: Vec::new() };
    Ok(Planned { plan, findings: Vec::new(), settings: SettingsChange::default() })
}

fn runs(spec: EngineSpec, generation: Generation, configured: Option<Configured>, before: Option<Configured>) -> Step {
    let (configured, before) = (configured.map(Box::new), before.map(Box::new));
    Step::Record(Record::Runs { spec: Box::new(spec), generation, configured, before })
}

fn ask(task: Task, within_seconds: u32) -> Step {
    Step::Ask { task: Box::new(task), within_seconds }
}

fn refuse(findings: &[Finding]) -> Result<(), Refusal> {
    if refuses(findings) {
        return Err(Refusal(findings.to_vec()));
    }
    Ok(())
}

fn inactive(version: &Version, catalogue: &[Version]) -> Finding {
    let active: Vec<_> =
        catalogue.iter().filter(|v| v.datastore == version.datastore && v.active).map(|v| v.name.as_str()).collect();
    Finding::error(
        "version.inactive",
        version.label(),
        format!("datastore version '{}' is not active", version.name),
        format!("active versions of {}: {}", version.datastore, active.join(", ")),
    )
}
