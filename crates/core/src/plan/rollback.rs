//! The way back after success: to the version, settings and data that there were before an upgrade.
//!
//! Where both engines work on each other's data, the older one takes over what there is and nothing is lost. Else the data
//! become those of the pre-image, and what was written since is lost; it is kept as the pre-image of the rollback itself.
//!
//! The newer engine need not run: one that ends again and again is what somebody goes back from. What it was written since is
//! then counted by nobody.

use super::{
    CHECK_SECONDS, FETCH_SECONDS, Planned, Record, Refusal, SECTION_SECONDS, Snapshot, Step, ask, refuse, runs,
};
use crate::datastore::Version;
use crate::engine::{SettingsChange, shares_data};
use crate::finding::Finding;
use crate::group::{self, Configured};
use crate::id::OperationId;
use crate::instance::{Kind, Operation, WayBack};
use crate::operation::{Phase, Plan};
use crate::section::{Section, SectionStep};
use crate::spec::EngineSpec;
use crate::task::{Task, moment};

/// A way back that there is, decided but for the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Back {
    /// The pre-image that marks what is gone back to.
    pub kept: WayBack,
    /// The engine that ran before, as the instance is now.
    pub to: EngineSpec,
    /// The operation whose pre-image the data become; `None` where they stay as they are and nothing is lost.
    pub restores: Option<OperationId>,
    /// Whether it is gone back without the newer engine, which is down or does not stay up.
    pub down: bool,
    /// Where its settings come from then.
    pub configured: Configured,
    findings: Vec<Finding>,
}

impl Back {
    /// The task that looks at the way back without going it.
    pub fn check_task(&self) -> Task {
        Task::CheckBack { to: self.to.clone(), restores: self.restores, down: self.down }
    }

    /// Refused where something would be lost that nobody has agreed to.
    pub fn agreed(self, snapshot: &Snapshot<'_>, loss_accepted: bool) -> Result<Self, Refusal> {
        if self.restores.is_none() || loss_accepted {
            return Ok(self);
        }
        let id = snapshot.instance.id;
        Err(Refusal(vec![Finding::error(
            "rollback.unconfirmed",
            format!("instance {id}"),
            format!(
                "all that was written since {} would be lost, and nobody has agreed to that",
                moment(self.kept.since)
            ),
            format!("see how much it is: coffer instance rollback {id} --dry-run"),
        )]))
    }
}

/// The way back of an instance with these operations, the newest first, or everything that is in its way. With `restore` to the
/// data of the pre-image in any case, which are what is wanted where those that there are were spoiled.
pub fn find_way_back(snapshot: &Snapshot<'_>, history: &[Operation], restore: bool) -> Result<Back, Refusal> {
    let mut findings: Vec<_> =
        snapshot.busy().or_else(|| snapshot.unbuilt()).or_else(|| snapshot.unheard()).into_iter().collect();
    let kept = snapshot.observed.and_then(|observed| observed.ways_back.last());
    // Whether there is one is not known of an agent that says nothing.
    let Some(kept) = kept else {
        findings.extend(snapshot.observed.map(|_| nothing_kept(snapshot, history)));
        return Err(Refusal(findings));
    };
    let undone = history.iter().find(|operation| operation.id == kept.operation);
    let Some((undone, section)) = undone.and_then(|o| Some((o, section_of(o)?))) else {
        findings.push(unknown(snapshot, kept));
        return Err(Refusal(findings));
    };
    refuse(&findings)?;
    let now = snapshot.spec();
    let to = EngineSpec {
        memory_bytes: now.memory_bytes,
        cpu_millis: now.cpu_millis,
        volume_bytes: now.volume_bytes,
        address: now.address,
        ..section.from.clone()
    };
    // Who has restored a pre-image and wants to go back wants the data that there were.
    let stay = !restore
        && section.restores.is_none()
        && shares_data((now.datastore(), now.number), (to.datastore(), to.number));
    let configured = configured(snapshot, undone, &to, &mut findings);
    findings.extend(changed_since(snapshot, undone));
    findings.extend(older(snapshot));
    let down = down(snapshot);
    let restores = (!stay).then_some(kept.operation);
    let is_down = down.is_some();
    findings.extend(down);
    Ok(Back { kept: kept.clone(), restores, down: is_down, to, configured, findings })
}

/// That more is kept than what is gone back to, and that nobody goes back to that: it was left by what came after it.
fn older(snapshot: &Snapshot<'_>) -> Option<Finding> {
    let (_, older) = snapshot.observed?.ways_back.split_last()?;
    let told = |kept: &WayBack| {
        let version = snapshot.catalogue.iter().find(|version| Some(version.id) == kept.version);
        let of = version.map_or_else(|| "another version".to_owned(), Version::label);
        format!("{of} until {}", moment(kept.since))
    };
    let all: Vec<_> = older.iter().rev().map(told).collect();
    let message =
        "a rollback goes to the newest pre-image alone; those from before it are kept, too, and go with their time";
    (!all.is_empty()).then(|| Finding::notice("rollback.older", all.join(", "), message, ""))
}

/// That the engine is down, or does not stay up, if it is so.
fn down(snapshot: &Snapshot<'_>) -> Option<Finding> {
    let id = snapshot.instance.id;
    let in_loop = snapshot.observed.and_then(|observed| observed.crash_loop.as_ref());
    let state = match in_loop {
        Some(found) => found.cause(id, true).message,
        None => snapshot.unhealthy()?.message,
    };
    Some(Finding::warning(
        "rollback.down",
        format!("instance {id}"),
        format!("{state}; it is gone back without it"),
        "",
    ))
}

/// Back, as it was found.
pub fn plan_rollback(snapshot: &Snapshot<'_>, back: &Back) -> Planned {
    let (from, to) = (snapshot.spec(), back.to.clone());
    let generation = snapshot.instance.generation.next();
    let data = match back.restores {
        Some(_) => format!(
            "the data become those of {}, which {} wrote; what {} has written since is lost",
            moment(back.kept.since),
            to.label(),
            from.label()
        ),
        None if back.down => {
            format!("{} works on the data as {} left them: nothing more is lost", to.label(), from.label())
        }
        None => format!("{} works on the data of {} as they are: nothing is lost", to.label(), from.label()),
    };
    let notes = vec![data, "the data that there are now are kept as the pre-image of this operation".to_owned()];
    let section = Section::rollback(snapshot.operation, from, to.clone(), generation, back.restores, back.down);
    let steps = vec![
        ask(Task::Fetch { image: to.image.clone() }, FETCH_SECONDS),
        ask(back.check_task(), CHECK_SECONDS),
        ask(Task::Section(Box::new(section)), SECTION_SECONDS),
        runs(to, generation, Some(back.configured.clone()), Some(snapshot.configured())),
    ];
    let plan = Plan { point_of_no_return: steps.len() - 1, steps, notes };
    Planned { plan, findings: back.findings.clone(), settings: SettingsChange::default() }
}

/// The end of all ways back, before their time. What the agent has forgotten cannot be had again, so nothing is undone.
pub fn plan_finalize(snapshot: &Snapshot<'_>, history: &[Operation]) -> Result<Planned, Refusal> {
    let mut findings: Vec<_> = snapshot.busy().or_else(|| snapshot.unbuilt()).into_iter().collect();
    let Some(observed) = snapshot.observed else {
        findings.extend(snapshot.unhealthy());
        return Err(Refusal(findings));
    };
    let operations: Vec<_> = observed.ways_back.iter().map(|kept| kept.operation).collect();
    if operations.is_empty() {
        findings.push(nothing_kept(snapshot, history));
    }
    refuse(&findings)?;
    let steps = vec![ask(Task::Finalize { operations }, SECTION_SECONDS)];
    let plan = Plan { steps, point_of_no_return: 0, notes: Vec::new() };
    Ok(Planned { plan, findings, settings: SettingsChange::default() })
}

/// The section of an operation that is done and took a pre-image.
fn section_of(operation: &Operation) -> Option<&Section> {
    let section = operation.plan.steps.iter().find_map(Step::section)?;
    (operation.phase == Phase::Done && section.plan.steps.contains(&SectionStep::Keep)).then_some(section)
}

/// Where the settings of the instance came from before `undone`. A group that has gone since is not made again: the engine
/// gets its values from the instance itself.
fn configured(snapshot: &Snapshot<'_>, undone: &Operation, to: &EngineSpec, findings: &mut Vec<Finding>) -> Configured {
    let mut notice = |object: String, message: &str| {
        findings.push(Finding::notice("rollback.settings", object, message, ""));
    };
    let alone = Configured { own: to.settings.clone(), group: None };
    let before = undone.plan.steps.iter().find_map(|step| match step {
        Step::Record(Record::Runs { before, .. }) => before.as_deref(),
        _ => None,
    });
    let Some(before) = before else {
        let message = "where its settings came from was not written down then: they become its own, without a group";
        notice(format!("instance {}", snapshot.instance.id), message);
        return alone;
    };
    let Some(group) = &before.group else { return before.clone() };
    match snapshot.groups.iter().find(|known| known.id == group.id) {
        Some(known) => Configured { own: before.own.clone(), group: Some(known.clone()) },
        None => {
            let message = "it has gone since: its values become the instance's own";
            notice(format!("configuration group {} ({})", group.name, group.id), message);
            alone
        }
    }
}

/// What was set since `undone`, which is as it was before then.
fn changed_since(snapshot: &Snapshot<'_>, undone: &Operation) -> Option<Finding> {
    let after = undone.plan.steps.iter().find_map(|step| match step {
        Step::Record(Record::Runs { spec, .. }) => Some(&spec.settings),
        _ => None,
    })?;
    let names = group::differences(after, &snapshot.instance.wanted());
    let message = "what was set since is as it was before the upgrade";
    (!names.is_empty()).then(|| Finding::notice("rollback.settings", names.join(", "), message, ""))
}

fn unknown(snapshot: &Snapshot<'_>, kept: &WayBack) -> Finding {
    let (id, operation) = (snapshot.instance.id, kept.operation);
    Finding::error(
        "rollback.unknown",
        format!("instance {id}"),
        format!("its agent keeps the pre-image of operation {operation}, of which nothing is recorded here"),
        format!("see what was done to it: coffer instance operations {id}"),
    )
}

/// Why there is nothing to go back to.
fn nothing_kept(snapshot: &Snapshot<'_>, history: &[Operation]) -> Finding {
    let id = snapshot.instance.id;
    let last = history.iter().find(|operation| section_of(operation).is_some());
    let message = match last {
        None => "it was never upgraded, so there is nothing to go back to".to_owned(),
        Some(last) => {
            let (kind, at) = (last.kind.name(), moment(last.updated_at));
            let is_end = |o: &&Operation| o.kind == Kind::Finalize && o.phase == Phase::Done;
            match history.iter().take_while(|operation| operation.id != last.id).find(is_end) {
                Some(end) => format!("its {kind} of {at} was finalized at {}", moment(end.updated_at)),
                None => format!("the time in which its {kind} of {at} could be taken back is over"),
            }
        }
    };
    let remedy = format!("see what was done to it: coffer instance operations {id}");
    Finding::error("rollback.nothing", format!("instance {id}"), message, remedy)
}
