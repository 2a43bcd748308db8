//! What is read from the store and is no type of the core: rows as they come out of one query.

use coffer_core::id::{OperationId, VersionId};
use coffer_core::instance::{Instance, Kind, Observed};
use coffer_core::operation::Phase;
use jiff::Timestamp;

/// An operation that is open, as far as lists show it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenOperation {
    pub id: OperationId,
    pub kind: Kind,
    pub target: Option<VersionId>,
    pub phase: Phase,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// An instance with what its agent last saw and its open operation.
#[derive(Clone, Debug, PartialEq)]
pub struct InstanceRow {
    pub instance: Instance,
    pub observed: Option<Observed>,
    pub open: Option<OpenOperation>,
}

/// Something that happened to an instance by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Timestamp,
    /// A stable name for machines, such as `engine.died`.
    pub id: String,
    pub message: String,
}
