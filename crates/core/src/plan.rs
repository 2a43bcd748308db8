//! The planners: pure functions from what is known to a plan or to all the reasons against it.
//!
//! A plan is decided completely before anything is touched. What `--dry-run` prints is this value, and nothing later
//! decides anew. A variant of [`Step`] may be added, never changed: plans lie in stores, and newer binaries finish them.

use serde::{Deserialize, Serialize};

use crate::account;
use crate::datastore::Version;
use crate::engine::{self, Policy};
use crate::finding::{Finding, refuses};
use crate::flavor::Flavor;
use crate::id::{Generation, OperationId};
use crate::instance::{Engine, Instance, Kind, Observed};
use crate::operation::Plan;
use crate::section::Section;
use crate::spec::{EngineSpec, Settings};
use crate::task::Task;

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
                Task::Check { .. } => "check",
                Task::Verify { .. } => "verify",
                Task::Section(_) => "section",
                Task::Accounts { .. } => "accounts",
            },
            Self::Record(_) => "record",
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
    Runs { spec: Box<EngineSpec>, generation: Generation },
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
}

impl Snapshot<'_> {
    /// What the instance runs, as recorded.
    pub fn spec(&self) -> EngineSpec {
        let i = self.instance;
        EngineSpec::new(self.version, self.flavor, i.volume_gib, i.address, i.settings.clone())
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
    pub settings: engine::SettingsChange,
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
    let steps = vec![
        Step::EnsurePlace,
        ask(Task::Fetch { image: spec.image.clone() }, FETCH_SECONDS),
        Step::Run { spec: Box::new(spec), generation, within_seconds: FIRST_START_SECONDS },
        Step::Record(Record::Built { generation }),
    ];
    // The engine is open to the tenant: that it is written down late is no reason to drop it with what it holds.
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: engine::SettingsChange::default() })
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
        return Ok(Planned { plan, findings, settings: engine::SettingsChange::default() });
    }
    if !to.active {
        findings.push(inactive(to, snapshot.catalogue));
    }
    findings.extend(engine::check_path(from, to, snapshot.catalogue));
    let settings = engine::change_settings(from, to, &snapshot.instance.settings, Policy::default());
    findings.extend(settings.findings());
    refuse(&findings)?;

    let spec = snapshot.spec();
    let target = target_spec(snapshot, to, settings.after());
    let generation = snapshot.instance.generation.next();
    let section = Section::upgrade(snapshot.operation, spec, target.clone(), generation);
    let steps = vec![
        ask(Task::Fetch { image: target.image.clone() }, FETCH_SECONDS),
        ask(Task::Check { to: target.clone(), try_target: true }, CHECK_SECONDS),
        ask(Task::Section(Box::new(section)), SECTION_SECONDS),
        Step::Record(Record::Runs { spec: Box::new(target), generation }),
    ];
    // What the section did is proven and has taken writes: only the record is left to be written.
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings })
}

/// The task that looks at an upgrade without doing it, for `--dry-run`.
pub fn check_task(snapshot: &Snapshot<'_>, to: &Version) -> Task {
    let settings = engine::change_settings(snapshot.version, to, &snapshot.instance.settings, Policy::default());
    Task::Check { to: target_spec(snapshot, to, settings.after()), try_target: true }
}

/// The same engine again, without losing what it holds.
pub fn plan_restart(snapshot: &Snapshot<'_>) -> Result<Planned, Refusal> {
    // A restart is what an operator reaches for when an engine is not well: only what cannot work is refused.
    let findings: Vec<_> = snapshot.busy().or_else(|| snapshot.unbuilt()).into_iter().collect();
    refuse(&findings)?;
    let spec = snapshot.spec();
    let generation = snapshot.instance.generation.next();
    let section = Section::restart(snapshot.operation, spec.clone(), generation);
    let steps = vec![
        ask(Task::Section(Box::new(section)), SECTION_SECONDS),
        Step::Record(Record::Runs { spec: Box::new(spec), generation }),
    ];
    let plan = Plan { point_of_no_return: 1, steps, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: engine::SettingsChange::default() })
}

/// The end of an instance. Nothing of it is undone.
pub fn plan_delete(snapshot: &Snapshot<'_>) -> Result<Planned, Refusal> {
    refuse(&snapshot.busy().into_iter().collect::<Vec<_>>())?;
    let steps = vec![Step::DropPlace, Step::Record(Record::Deleted)];
    let plan = Plan { steps, point_of_no_return: 0, notes: Vec::new() };
    Ok(Planned { plan, findings: Vec::new(), settings: engine::SettingsChange::default() })
}

fn target_spec(snapshot: &Snapshot<'_>, to: &Version, settings: Settings) -> EngineSpec {
    let i = snapshot.instance;
    EngineSpec::new(to, snapshot.flavor, i.volume_gib, i.address, settings)
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
