//! What Coffer adds to Trove: the operations of an instance, and what an upgrade or a rollback would do.

use coffer_core::datastore::Version;
use coffer_core::engine::{Policy, SettingsChange};
use coffer_core::finding::Cause;
use coffer_core::gap::{Line, Spread};
use coffer_core::stuck;
use coffer_core::task::{ClientView, Loss, Preview, StepEnd, StepRecord, Writes};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::trove::date::Date;
use crate::trove::fault::FindingBody;

/// `{"operations": [...]}`, the newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationsBody {
    pub operations: Vec<Operation>,
}

/// One operation, open or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    pub id: String,
    /// `create`, `upgrade`, `restart`, `configure`, `rollback`, `finalize` or `delete`.
    pub kind: String,
    /// `forward`, `backward`, `done` (wholly new), `undone` (wholly old), `stuck` (a person has to choose) or `abandoned` (a person
    /// gave it up half way).
    pub phase: String,
    /// The version before, where the operation changes it, such as `redis 7.0.15`.
    pub from: Option<String>,
    /// The version after, where the operation changes it.
    pub to: Option<String>,
    pub created: Date,
    pub updated: Date,
    /// How long a client could not write, measured at the instance's own address.
    pub gap_ms: Option<f64>,
    /// What clients saw meanwhile; absent where nobody counted, or not from the beginning to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<Clients>,
    pub steps: Vec<OperationStep>,
    /// What was considered when it was planned, and what is not done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    pub findings: Vec<FindingBody>,
    pub cause: Option<CauseBody>,
}

/// `{"choice": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChoiceBody {
    pub choice: Choice,
}

/// What it would do to resume or to abandon an operation that is stuck, and what it costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// `resume` or `abandon`.
    pub choice: String,
    /// The step that is stuck.
    pub step: String,
    /// Whether it was being undone.
    pub undoing: bool,
    /// Why it is stuck.
    pub cause: CauseBody,
    /// What happens, in sentences.
    pub does: Vec<String>,
    /// What it costs, in sentences.
    pub costs: Vec<String>,
}

impl Choice {
    /// An offer as it is told.
    pub fn of(choice: stuck::Choice, offer: stuck::Offer) -> Self {
        let stuck::Offer { step, undoing, cause, does, costs } = offer;
        let (choice, step) = (choice.name().to_owned(), step.to_owned());
        Self { choice, step, undoing, cause: (&cause).into(), does, costs }
    }
}

/// What clients saw that connected to the instance's own address one after the other, each to log in, write once and leave.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Clients {
    pub attempts: u64,
    /// Nobody listened.
    pub refused: u64,
    /// Closed or reset before the answer.
    pub reset: u64,
    /// Answered with an error.
    pub wrong: u64,
    /// The longest time from connecting to the right answer.
    pub longest_wait_ms: f64,
}

impl From<&ClientView> for Clients {
    fn from(seen: &ClientView) -> Self {
        let ClientView { attempts, refused, reset, wrong, longest_wait_us } = *seen;
        let longest_wait_ms = millis(i64::try_from(longest_wait_us).unwrap_or(i64::MAX));
        Self { attempts, refused, reset, wrong, longest_wait_ms }
    }
}

/// One step that was taken, or is being taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OperationStep {
    pub name: String,
    pub begun: Date,
    pub ended: Option<Date>,
    /// `done`, `failed`, `undone`, `undo_failed`; null while it runs.
    #[schema(value_type = Option<String>)]
    pub outcome: Option<StepEnd>,
    pub ms: Option<f64>,
    pub detail: String,
}

impl From<&StepRecord> for OperationStep {
    fn from(step: &StepRecord) -> Self {
        Self {
            name: step.name.clone(),
            begun: step.began_at.into(),
            ended: step.ended_at.map(Date::from),
            outcome: step.end,
            ms: step.ended_at.map(|ended| millis(ended.as_microsecond() - step.began_at.as_microsecond())),
            detail: step.detail.clone(),
        }
    }
}

/// Microseconds as milliseconds with three places.
#[expect(clippy::cast_precision_loss, reason = "spans of less than a century are exact")]
pub fn millis(micros: i64) -> f64 {
    micros as f64 / 1000.0
}

/// Why something failed, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CauseBody {
    pub message: String,
    pub hint: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<FindingBody>,
}

impl From<&Cause> for CauseBody {
    fn from(cause: &Cause) -> Self {
        let findings = cause.findings.iter().cloned().map(FindingBody::from).collect();
        Self { message: cause.message.clone(), hint: cause.hint.clone(), findings }
    }
}

/// `{"plan": ...}`: what an upgrade would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanBody {
    pub plan: UpgradePlan,
}

/// An upgrade that was planned and checked, and not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UpgradePlan {
    pub from: PlanVersion,
    pub to: PlanVersion,
    /// In order; those inside the agent's critical section stand behind the step that hands it over.
    pub steps: Vec<PlanStep>,
    /// What was considered and is not done.
    pub notes: Vec<String>,
    /// Those of severity `error` would refuse the upgrade.
    pub findings: Vec<FindingBody>,
    /// What becomes of each setting: `kept`, `translated`, `dropped`, `pinned`, `default_changed` or `refused`, with its reason.
    #[schema(value_type = Vec<Object>)]
    pub settings: SettingsChange,
    /// `preserve`: old defaults that clients would miss are pinned; `adopt`: none are.
    #[schema(value_type = String)]
    pub policy: Policy,
    /// The configuration group that the instance has then, where it has one and it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<PlanGroup>,
    /// The engine image that would run; null where nothing is fetched.
    pub image: Option<PlanImage>,
    /// The agent's figures for this instance; null where nothing is stopped.
    #[schema(value_type = Option<Object>)]
    pub preview: Option<Preview>,
    /// What was measured of the newest like it: the same way, a host of the same class, about as much data. Null where they are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<MeasuredGap>,
}

/// How long clients could not write, or read, over so many times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MeasuredGap {
    pub count: usize,
    pub shortest_ms: f64,
    pub median_ms: f64,
    pub longest_ms: f64,
}

impl From<Spread> for MeasuredGap {
    fn from(spread: Spread) -> Self {
        let ms = |us| millis(i64::try_from(us).unwrap_or(i64::MAX));
        let Spread { count, shortest_us, median_us, longest_us } = spread;
        Self { count, shortest_ms: ms(shortest_us), median_ms: ms(median_us), longest_ms: ms(longest_us) }
    }
}

/// `{"gaps": [...]}`: all that was measured, a line for what is alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GapsBody {
    pub gaps: Vec<GapLine>,
}

/// Gaps on the same way, on hosts of the same class, with about as much data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GapLine {
    /// `upgrade`, `rollback` or `restart`.
    pub kind: String,
    /// Such as `redis 7.0.15`.
    pub from: String,
    pub to: String,
    /// Such as `x86_64, 2 processors, 24 GiB`.
    pub host: String,
    /// There was no more data than that, and more than half of it; of the smallest size, any less.
    pub data_bytes: u64,
    /// How long clients could not write.
    pub write: MeasuredGap,
    /// How long clients could not read that were connected; null where that was not measured.
    pub read: Option<MeasuredGap>,
    /// When the newest of them ended.
    pub newest: Date,
}

impl From<&Line> for GapLine {
    fn from(line: &Line) -> Self {
        Self {
            kind: line.kind.name().to_owned(),
            from: line.way.from.clone(),
            to: line.way.to.clone(),
            host: line.host.to_string(),
            data_bytes: line.size.at_most(),
            write: line.gap.into(),
            read: line.read.map(Into::into),
            newest: line.newest.into(),
        }
    }
}

/// `{"plan": ...}`: what a rollback would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollbackPlanBody {
    pub plan: RollbackPlan,
}

/// A rollback that was planned and checked, and not begun.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RollbackPlan {
    pub from: PlanVersion,
    pub to: PlanVersion,
    /// The upgrade that is taken back was done then.
    pub since: Date,
    /// Until then there is this way back.
    pub until: Date,
    /// Whether the data stay as they are, so that nothing is lost.
    pub in_place: bool,
    /// Whether the newer engine is down or does not stay up, so that it is not waited for.
    #[serde(default)]
    pub down: bool,
    /// What is lost where they do not; null where they do, and where it could not be looked at.
    pub loss: Option<LossBody>,
    /// In order; those inside the agent's critical section stand in the place of the step that hands it over.
    pub steps: Vec<PlanStep>,
    pub notes: Vec<String>,
    /// Those of severity `error` would refuse it.
    pub findings: Vec<FindingBody>,
    /// The configuration group that the instance has then, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<PlanGroup>,
    /// The agent's figures for this instance; null where it could not look.
    #[schema(value_type = Option<Object>)]
    pub preview: Option<Preview>,
    /// What was measured of the newest like it: the same way, a host of the same class, about as much data. Null where they are too few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<MeasuredGap>,
}

/// What a rollback loses: everything that was written after `since`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LossBody {
    pub since: Date,
    pub counted: Date,
    /// How many commands or statements that change data the engine has taken since then; null where it cannot tell.
    pub writes: Option<u64>,
    /// Whether there may have been more, because the engine was started anew since.
    pub at_least: bool,
    /// Why it cannot tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

impl From<&Loss> for LossBody {
    fn from(loss: &Loss) -> Self {
        let (writes, at_least, why) = match &loss.writes {
            Writes::All { count } => (Some(*count), false, None),
            Writes::Since { count, .. } => (Some(*count), true, None),
            Writes::Unknown { why } => (None, false, Some(why.clone())),
        };
        Self { since: loss.since.into(), counted: loss.counted_at.into(), writes, at_least, why }
    }
}

/// A version, in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanVersion {
    pub id: String,
    pub datastore: String,
    pub name: String,
    pub number: String,
}

impl From<&Version> for PlanVersion {
    fn from(version: &Version) -> Self {
        Self {
            id: version.id.to_string(),
            datastore: version.datastore.to_string(),
            name: version.name.clone(),
            number: version.number.to_string(),
        }
    }
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanStep {
    pub name: String,
    /// Whether it is undone when it or a later step fails. The first that is not is the point of no return.
    pub undone: bool,
    /// Whether the agent does it alone, within the critical section.
    pub section: bool,
}

/// A configuration group, in a plan. It need not be there yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanGroup {
    pub id: String,
    pub name: String,
}

/// An engine image, in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanImage {
    pub digest: String,
    pub number: String,
    pub source: String,
}

/// `{"events": [...]}`, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventsBody {
    pub events: Vec<Event>,
}

/// Something that happened to an instance by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub at: Date,
    /// A stable name for machines, such as `engine.died`.
    pub id: String,
    pub message: String,
}
