//! Tasks: what the control plane asks of an agent, and what the agent answers.
//!
//! A task has an id and is journalled by the agent: delivered twice, it is done once, and its result is kept until the
//! control plane has taken it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::account;
use crate::datastore::{Datastore, Number};
use crate::finding::{Cause, Finding};
use crate::gap::Circumstances;
use crate::id::{Digest, Generation, OperationId, TaskId};
use crate::section::Section;
use crate::spec::{EngineSpec, ImageWanted};

/// One thing asked of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "snake_case")]
pub enum Task {
    /// Have the image here and its engine root unpacked. Nothing that serves is touched.
    Fetch { image: ImageWanted },
    /// Look at everything that could go wrong on the way to `to`, without changing anything. With `try_target` the
    /// target binary is asked to start on the rendered configuration in a scratch directory.
    Check { to: EngineSpec, try_target: bool },
    /// Prove that the engine runs as `expect` says, without touching it.
    Verify { expect: EngineSpec },
    /// Work off a critical section, alone, forward or back to the beginning.
    Section(Box<Section>),
    /// Look at databases and accounts, or change them. Its passwords are sealed wherever it is stored.
    Accounts { request: Box<account::Request> },
    /// Have the running engine take these settings, without stopping it, and run with them from now on. All of them, or
    /// none where it refuses one.
    Configure { to: EngineSpec, generation: Generation },
    /// Look at everything that could go wrong on the way back to `to`, and at what would be lost by it, without changing
    /// anything. The pre-image of the operation that it `restores` is to become the data; where there is none, they stay. Where
    /// the engine is `down`, nothing depends on what it answers.
    CheckBack {
        to: EngineSpec,
        restores: Option<OperationId>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        down: bool,
    },
    /// Keep the pre-images of these operations no longer.
    Finalize { operations: Vec<OperationId> },
}

impl Task {
    /// Which generation it makes true, where it is more than a look: such a task is done alone, and not when it is of a past one.
    pub fn generation(&self) -> Option<Generation> {
        match self {
            Self::Section(section) => Some(section.generation),
            Self::Configure { generation, .. } => Some(*generation),
            Self::Fetch { .. }
            | Self::Check { .. }
            | Self::CheckBack { .. }
            | Self::Verify { .. }
            | Self::Accounts { .. }
            | Self::Finalize { .. } => None,
        }
    }

    /// Whether it is given up when its time is over. What touches the engine or what is kept is not: the agent works it off by
    /// itself, and only it knows how that ends.
    pub fn is_given_up(&self) -> bool {
        match self {
            Self::Section(_) | Self::Configure { .. } | Self::Finalize { .. } => false,
            Self::Fetch { .. }
            | Self::Check { .. }
            | Self::CheckBack { .. }
            | Self::Verify { .. }
            | Self::Accounts { .. } => true,
        }
    }
}

/// A task with its id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Order {
    pub id: TaskId,
    #[serde(flatten)]
    pub task: Task,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub id: TaskId,
    pub outcome: Outcome,
}

/// Done with what was learned, or failed with nothing left behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Done(Box<Learned>),
    /// The cause is in `cause`; whatever was learned up to then stays readable.
    Failed {
        cause: Cause,
        learned: Box<Learned>,
    },
}

/// What a task found out on its way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// The image that was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageFound>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What the section would do, with figures of this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// Every step that was taken, with its times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRecord>,
    /// How long a client could not write, in microseconds, measured at the instance's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_us: Option<u64>,
    /// What it was measured of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circumstances: Option<Circumstances>,
    /// What clients saw meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientView>,
    /// What became of a request about databases and accounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accounts: Option<account::Answer>,
    /// What a way back would lose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Loss>,
}

/// What a way back to a pre-image loses: all that was written since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// The data become what they were then.
    pub since: Timestamp,
    /// When it was counted.
    pub counted_at: Timestamp,
    pub writes: Writes,
}

/// How many commands or statements that change data an engine has taken. Those that failed are among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "known", rename_all = "snake_case")]
pub enum Writes {
    /// All of them.
    All { count: u64 },
    /// Those since the engine was started anew. There may have been others before.
    Since { count: u64, started_at: Timestamp },
    /// The engine cannot tell.
    Unknown { why: String },
}

impl Loss {
    /// In a sentence, of an engine of this family.
    pub fn sentence(&self, datastore: Datastore) -> String {
        let (one, many) = match datastore {
            Datastore::Mysql | Datastore::Mariadb => ("statement that changes data", "statements that change data"),
            Datastore::Redis | Datastore::Valkey => ("command that writes", "commands that write"),
        };
        let counted = |count: u64| format!("{count} {}", if count == 1 { one } else { many });
        let lost = match &self.writes {
            Writes::All { count: 0 } => "nothing was written since".to_owned(),
            Writes::All { count } => format!("what {} did since then is lost", counted(*count)),
            Writes::Since { count, started_at } => format!(
                "what {} did since then is lost, at least: the engine was started anew at {} and knows of none before",
                counted(*count),
                moment(*started_at)
            ),
            Writes::Unknown { why } => {
                format!("whatever was written since then is lost; how much that is cannot be told: {why}")
            }
        };
        format!("the data become those of {}, {} ago: {lost}", moment(self.since), self.age())
    }

    /// How long ago the data were as they will be, in words.
    fn age(&self) -> String {
        let seconds = self.counted_at.duration_since(self.since).as_secs().max(0);
        match seconds {
            0..120 => format!("{seconds} s"),
            120..7200 => format!("{} min", seconds / 60),
            _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

/// A moment as people read it.
pub(crate) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What clients saw that connected to the instance's own address one after the other, each to log in, write once and
/// leave. What none of the counts of failures has did what it was for, however long it waited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientView {
    /// Connections that were tried, up to their end.
    pub attempts: u64,
    /// Nobody listened.
    pub refused: u64,
    /// Closed or reset before the answer, or without one for minutes.
    pub reset: u64,
    /// Answered with something else: that it still loads, that it takes no writes, that it knows none of the logins.
    pub wrong: u64,
    /// The longest time from connecting to the right answer, in microseconds.
    pub longest_wait_us: u64,
}

impl ClientView {
    /// Those that did what they were for.
    pub fn answered(&self) -> u64 {
        self.attempts.saturating_sub(self.refused).saturating_sub(self.reset).saturating_sub(self.wrong)
    }
}

/// An engine image that is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageFound {
    pub digest: Digest,
    /// What the binary itself says it is.
    pub number: Number,
    /// The source that answered, for the record.
    pub source: String,
}

/// What an upgrade would do to this instance, with its figures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preview {
    /// How the pre-image is taken, in a sentence.
    pub preimage_method: String,
    pub preimage_bytes: u64,
    pub preimage_millis: u64,
    /// What is done beforehand while the old engine serves.
    pub while_serving: Vec<String>,
    /// What is stopped, in a sentence.
    pub stops: String,
    /// For how long clients will not be able to write, as far as can be reckoned.
    pub gap_millis: u64,
    /// What that depends on. Agents from before did not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circumstances: Option<Circumstances>,
}

/// One step that was taken, or is being taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub name: String,
    pub began_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub end: Option<StepEnd>,
    /// What is worth knowing of it, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepEnd {
    Done,
    Failed,
    Undone,
    UndoFailed,
}
