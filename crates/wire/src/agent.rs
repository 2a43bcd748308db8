//! The agent protocol: the agent dials out, asks what it should run, and tells what it sees.
//!
//! ```text
//!  agent                                                   control plane
//!    | GET  /agent/v1/instances/{id}/desired?revision=7       |   answered at once when the revision is another one,
//!    |------------------------------------------------------->|   else when it changes, else 204 after POLL_SECONDS
//!    |<------------------------------- 200 Desired | 204 -----|
//!    | POST /agent/v1/instances/{id}/report  Report           |   at every change, and every REPORT_SECONDS
//!    |------------------------------------------------------->|
//!    |<------------------------------- 200 Ack ---------------|   the results it has taken
//! ```
//!
//! A report that says nothing new is a heartbeat: servers note when they heard it, and write nothing.
//!
//! Both carry `Authorization: Bearer <token of this instance's agent>`. For agents of the local provider the transport is
//! HTTP over a unix socket that only the control plane's own user can reach. Everything an agent is told is idempotent:
//! generations older than the one it has are refused, tasks are done once per id.

use coffer_core::finding::Cause;
use coffer_core::gate::Level;
use coffer_core::id::{Generation, InstanceId, OperationId, TaskId};
use coffer_core::instance::Observed;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Order, StepRecord, TaskResult};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How long the control plane holds a request for the desired state open, in seconds.
pub const POLL_SECONDS: u64 = 25;
/// How often an agent reports when nothing changes, in seconds.
pub const REPORT_SECONDS: u64 = 10;
/// The largest body that either side takes, in bytes.
pub const BODY_LIMIT: usize = 4 << 20;

/// Where an agent asks for its desired state.
pub fn desired_path(instance: InstanceId, revision: u64) -> String {
    format!("/agent/v1/instances/{instance}/desired?revision={revision}")
}

/// Where an agent reports.
pub fn report_path(instance: InstanceId) -> String {
    format!("/agent/v1/instances/{instance}/report")
}

/// What an agent should run, and what it is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Changes whenever anything else in here does. For long polls only; says nothing of order.
    pub revision: u64,
    pub generation: Generation,
    /// `None` until there is something to run.
    pub engine: Option<EngineSpec>,
    /// What is asked, in order. A task stays in the list until its result has been taken.
    pub tasks: Vec<Order>,
    /// How long a pre-image stays after its upgrade succeeded. The agent removes it then.
    pub keep_preimage_seconds: u64,
    /// The operation whose pre-image stays even so, because an open one goes back to it.
    #[serde(default)]
    pub held_preimage: Option<OperationId>,
    /// Another value whenever a person wants a section that does not get on to be tried at once.
    #[serde(default)]
    pub resume: Option<Uuid>,
}

/// What an agent sees, and what became of its tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub observed: Observed,
    /// The steps so far of the task that is being worked on, for progress displays.
    pub running: Option<Running>,
    /// Results that have not been acknowledged yet.
    pub results: Vec<TaskResult>,
    /// What happened since the last acknowledged report, such as an engine that died and was started again.
    pub events: Vec<AgentEvent>,
}

/// A task that is being worked on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub id: TaskId,
    pub steps: Vec<StepRecord>,
    /// Why it needs a person's look: it goes on trying, but what it tries has failed again and again.
    pub stuck: Option<Cause>,
}

/// Something that happened to an instance and that a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEvent {
    pub at: Timestamp,
    /// A stable name for machines, such as `engine.died`.
    pub id: String,
    pub message: String,
}

/// The results and the events up to a time that the control plane has taken and the agent may forget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    pub results: Vec<TaskId>,
    pub events_until: Option<Timestamp>,
}

/// How an agent finds its control plane and proves who it is. Written by the provider into the instance's volume as
/// `agent/identity.json`, mode 0600.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    pub instance: InstanceId,
    /// The unix socket of the control plane.
    pub server_socket: String,
    /// Where engine images and roots of this host are.
    pub image_store: String,
    /// Proves to the control plane who this is. Secret.
    pub token: String,
    /// The password that the tenant was shown when the instance was created. Secret.
    pub tenant_password: String,
    /// The user and group that the engine runs as; `None` for the agent's own.
    pub engine_uid: Option<u32>,
    /// No gate goes further than this.
    #[serde(default = "highest_gate")]
    pub gate: Level,
    /// How long new connections wait for an engine at the most, in seconds, where nothing else was said.
    #[serde(default = "usual_hold")]
    pub hold_seconds: u64,
}

/// What holds where an identity of an earlier release says nothing.
fn highest_gate() -> Level {
    Level::Steered
}

fn usual_hold() -> u64 {
    60
}
