//! Instances as users see them: Trove's keys in Trove's order, and Coffer's behind them.

use std::fmt;

use coffer_core::drift;
use coffer_core::finding::Cause;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::trove::date::Date;
use crate::trove::link::{Link, NextLink};

/// `{"instance": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceBody {
    pub instance: Instance,
}

/// `{"instances": [...]}`, with `links` only where there is another page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstancesBody {
    pub instances: Vec<Instance>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NextLink>,
}

/// An instance. Lists leave out what only the detailed view has; a key that has no value is absent, not null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Instance {
    pub id: String,
    pub name: String,
    /// `BUILD`, `ACTIVE`, `UPGRADE`, `REBOOT`, `SHUTDOWN`, `RESTART_REQUIRED` or `ERROR`.
    pub status: String,
    /// Empty while an operation runs; else `HEALTHY`, `RESTARTING`, `SHUTDOWN` or `ERROR`.
    pub operating_status: String,
    pub links: Vec<Link>,
    pub flavor: FlavorRef,
    pub datastore: DatastoreRef,
    pub region: String,
    pub access: Access,
    /// For administrators.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    pub volume: Volume,
    /// Absent until the instance was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<Address>>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Detail)]
    pub detail: Option<Detail>,
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Mgmt)]
    pub mgmt: Option<Mgmt>,
}

/// What the detailed view has in addition. In the description nothing of it is required, because lists have none of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Detail {
    #[schema(required = false)]
    pub created: Date,
    #[schema(required = false)]
    pub updated: Date,
    /// When the agent last said what it sees.
    #[schema(required = false)]
    pub service_status_updated: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<InstanceFault>,
    /// The configuration group that is attached, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<GroupRef>,
    /// In the reply to the creation, and nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub password: Option<Password>,
    /// The version that it is to be: the target of the open operation, else the one that is recorded. Coffer's addition, as is all
    /// that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_version: Option<String>,
    /// The version that was proven last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded_version: Option<String>,
    /// What the running engine says it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_version: Option<String>,
    /// The version of the engine that last wrote the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disk_version: Option<String>,
    /// What is otherwise than recorded, though nobody asked Coffer for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// Set while the agent says nothing: then nothing is known of the engine, which goes on by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Silent>,
    /// How the engine is isolated, and what of its flavor is enforced, in sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub isolation: Vec<String>,
    /// Who gets new connections. Missing until the first engine was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// What a rollback goes back to. Missing where nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<WayBack>,
    /// The settings that wait for a restart, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart_required: Vec<String>,
    /// The operation that is open, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Progress>,
}

/// The gate of an instance: its port, which never closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gate {
    /// How far it goes: `steered` (nobody is refused, and no engine is seen before it was proven), `shared` (nobody is refused) or
    /// `own` (the engine has its port itself, which is closed while it is down).
    pub level: String,
    /// `open`, `holding` (new connections wait) or `refusing`. Missing at level `own`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it does not go further, and what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// One thing that is otherwise than recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// A stable name for machines, such as `config.file`.
    pub id: String,
    /// What it is about.
    pub object: String,
    pub expected: String,
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<drift::Drift> for Drift {
    fn from(drift: drift::Drift) -> Self {
        let drift::Drift { id, object, expected, found, remedy } = drift;
        Self { id, object, expected, found, remedy }
    }
}

/// An agent that says nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Silent {
    /// When it was heard last, or the server began to listen.
    pub since: Date,
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

/// What there was before an upgrade and is kept for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WayBack {
    /// The version that it is of, such as `redis 7.0.15`. Missing where that was not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    pub since: Date,
    /// It is removed then.
    pub until: Date,
    /// The size of data and configuration, which may take less room.
    pub bytes: u64,
    /// The operation that would be taken back.
    pub operation: String,
}

/// The password that a tenant is shown once. It is not part of what debugging prints.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What the list for administrators has in addition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Mgmt {
    /// Null, as is what follows: Coffer's instances are no virtual machines.
    #[schema(required = false)]
    pub server_id: Option<String>,
    #[schema(required = false)]
    pub volume_id: Option<String>,
    #[schema(required = false)]
    pub server: Option<String>,
    #[schema(required = false)]
    pub service_status: String,
    #[schema(required = false)]
    pub deleted: bool,
    #[schema(required = false)]
    pub deleted_at: Option<Date>,
    #[schema(required = false)]
    pub task_description: String,
}

/// The flavor of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FlavorRef {
    pub id: String,
    pub links: Vec<Link>,
}

/// The configuration group of an instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GroupRef {
    pub id: String,
    pub name: String,
    pub links: Vec<Link>,
}

/// The datastore version of an instance: the requested one while the status is `UPGRADE`, else the one that was proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreRef {
    #[serde(rename = "type")]
    pub datastore: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_number: Option<String>,
}

/// Who may reach an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Access {
    pub is_public: bool,
}

/// The volume of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    /// In GiB.
    pub size: u32,
    /// In GiB. Absent in lists, and while an operation runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_percent: Option<f64>,
}

impl Volume {
    /// A volume with what is used of it, to two places as Trove rounds.
    #[expect(clippy::cast_precision_loss, reason = "hundredths of a GiB are shown")]
    pub fn used(size: u32, bytes: u64) -> Self {
        let hundredths = |x: f64| (x * 100.0).round() / 100.0;
        let used = bytes as f64 / f64::from(1u32 << 30);
        let used_percent = Some(hundredths(used / f64::from(size.max(1)) * 100.0));
        Self { size, used: Some(hundredths(used)), used_percent }
    }
}

/// One address of an instance. There is no port: every client takes the datastore's standard one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Address {
    pub address: String,
    /// `private`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The provider's own network, which has no id but this.
    #[schema(value_type = String)]
    pub network: Uuid,
}

impl Address {
    /// An address of the provider's pool.
    pub fn private(address: String) -> Self {
        Self { address, kind: "private".to_owned(), network: Uuid::nil() }
    }
}

/// What went wrong last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstanceFault {
    pub message: String,
    pub created: Date,
    /// What was found, and what to do next: a line each.
    pub details: Option<String>,
}

impl InstanceFault {
    /// How a cause is told.
    pub fn of(cause: &Cause, at: Date) -> Self {
        let findings = cause.findings.iter().map(ToString::to_string);
        let hint = (!cause.hint.is_empty()).then(|| format!("hint: {}", cause.hint));
        let lines: Vec<_> = findings.chain(hint).collect();
        let details = (!lines.is_empty()).then(|| lines.join("\n"));
        Self { message: cause.message.clone(), created: at, details }
    }
}

/// How far the open operation of an instance is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    pub id: String,
    /// `create`, `upgrade`, `restart`, `configure`, `rollback`, `finalize` or `delete`.
    pub kind: String,
    /// What is being done; empty where that is not known.
    pub step: String,
    /// Which step that is, counted from 1.
    pub at: usize,
    /// Of how many.
    pub of: usize,
}

#[cfg(test)]
mod tests {
    use coffer_core::finding::Cause;

    use super::{InstanceFault, Volume};
    use crate::trove::Date;

    #[test]
    fn what_is_used_of_a_volume_has_two_places() {
        let volume = serde_json::to_string(&Volume::used(5, 171_798_692)).expect("a volume");
        assert_eq!(volume, r#"{"size":5,"used":0.16,"used_percent":3.2}"#);
    }

    #[test]
    fn a_fault_tells_the_cause_and_what_to_do_next() {
        let at = Date(jiff::Timestamp::UNIX_EPOCH);
        let fault = InstanceFault::of(&Cause::new("it broke", "mend it"), at);
        assert_eq!((fault.message.as_str(), fault.details.as_deref()), ("it broke", Some("hint: mend it")));
        assert_eq!(InstanceFault::of(&Cause::new("it broke", ""), at).details, None);
    }
}
