//! What clients ask for. Each body reads itself from JSON and says everything that is wrong with it at once.

use std::collections::BTreeMap;

use coffer_core::engine::Policy;
use coffer_core::stuck::Choice;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::trove::account::{NewDatabase, NewUser, read_databases, read_users};
use crate::trove::check::{Check, clip, inside, show};
use crate::trove::fault::Fault;

/// The longest a setting's value may be, in characters.
const SETTING_LENGTH: usize = 4096;
/// The most settings that one instance may have.
const SETTINGS: usize = 500;

/// `POST /instances`: what an instance is to be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct NewInstance {
    /// 1 to 255 characters, one of them a letter or a digit.
    pub name: String,
    /// A flavor's id, or an address that ends in one.
    #[serde(rename = "flavorRef")]
    pub flavor: Option<String>,
    pub volume: Option<NewVolume>,
    #[serde(default)]
    pub datastore: DatastoreChoice,
    /// A configuration group's id, or an address that ends in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration: Option<String>,
    /// Settings of the engine by their own names. Coffer's addition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The first databases and users, where the datastore has such.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub databases: Vec<NewDatabase>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<NewUser>,
    /// What the body asks for and Coffer does not have; never ignored in silence.
    #[serde(skip)]
    pub unsupported: Vec<Unsupported>,
}

/// The volume that an instance is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewVolume {
    /// In GiB, from 1.
    pub size: u32,
}

/// Which datastore version an instance is to have. All of it may be left out where there are defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DatastoreChoice {
    /// A datastore's name or id.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    /// A version's name or id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The version's number, where two have one name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version_number: Option<String>,
}

/// Something that Trove can do at creation and Coffer cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// A replica of this instance.
    ReplicaOf(String),
    /// From this backup.
    RestorePoint(String),
    /// With modules.
    Modules,
    /// Reachable by others than the provider's network lets in, or by fewer.
    Access,
}

impl NewInstance {
    /// Reads `{"instance": {...}}`. Keys that are not known are ignored, as Trove's schema has it.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let value = inside(body, "instance")?;
        let mut check = Check::default();
        let mut new = Self::default();
        if let Some(object) = check.object("instance", value) {
            let name = check.required("instance", object, "name");
            new.name = name.and_then(|v| check.name("instance['name']", v)).unwrap_or_default();
            new.flavor = object.get("flavorRef").and_then(|v| read_flavor(&mut check, v));
            new.volume = present(object, "volume").and_then(|v| read_volume(&mut check, v));
            let datastore = present(object, "datastore");
            new.datastore = datastore.map(|v| read_datastore(&mut check, "instance", v)).unwrap_or_default();
            let group = present(object, "configuration");
            new.configuration = group.and_then(|v| read_reference(&mut check, "instance['configuration']", v));
            new.settings = present(object, "settings").map(|v| read_settings(&mut check, v)).unwrap_or_default();
            let databases = present(object, "databases");
            new.databases =
                databases.map(|v| read_databases(&mut check, "instance['databases']", v)).unwrap_or_default();
            let users = present(object, "users");
            new.users = users.map(|v| read_users(&mut check, "instance['users']", v)).unwrap_or_default();
            new.unsupported = read_unsupported(&mut check, object);
            check_placement(&mut check, object);
        }
        check.finish()?;
        Ok(new)
    }
}

pub(crate) type Object = serde_json::Map<String, Value>;

/// The value of a key that may be left out or null.
pub(crate) fn present<'v>(object: &'v Object, key: &str) -> Option<&'v Value> {
    object.get(key).filter(|value| !value.is_null())
}

fn read_flavor(check: &mut Check, value: &Value) -> Option<String> {
    if let Some(id) = value.as_u64() {
        return Some(id.to_string());
    }
    read_reference(check, "instance['flavorRef']", value)
}

/// An id, or an address that ends in one.
fn read_reference(check: &mut Check, place: &str, value: &Value) -> Option<String> {
    let text = check.text(place, value, 255)?;
    text.trim_end_matches('/').rsplit('/').next().map(str::to_owned)
}

fn read_volume(check: &mut Check, value: &Value) -> Option<NewVolume> {
    let object = check.object("instance['volume']", value)?;
    let size = check.required("instance['volume']", object, "size")?;
    let size = check.size("instance['volume']['size']", size)?;
    Some(NewVolume { size })
}

/// The datastore version that something is to be of; `within` is what stands around it.
pub(super) fn read_datastore(check: &mut Check, within: &str, value: &Value) -> DatastoreChoice {
    let place = format!("{within}['datastore']");
    let Some(object) = check.object(&place, value) else { return DatastoreChoice::default() };
    let mut text = |key: &str| present(object, key).and_then(|v| check.text(&format!("{place}['{key}']"), v, 255));
    DatastoreChoice { datastore: text("type"), version: text("version"), version_number: text("version_number") }
}

fn place(outer: &str, key: &str) -> String {
    format!("instance['{outer}']['{}']", clip(key))
}

fn read_settings(check: &mut Check, value: &Value) -> BTreeMap<String, String> {
    let Some(object) = check.object("instance['settings']", value) else { return BTreeMap::new() };
    if object.len() > SETTINGS {
        check.add("instance['settings']", &format!("has more than {SETTINGS} properties"));
        return BTreeMap::new();
    }
    let mut settings = BTreeMap::new();
    for (name, value) in object {
        let place = place("settings", name);
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            check.add(&place, "is not the name of a setting");
        }
        let text = match value {
            Value::Number(number) => number.to_string(),
            Value::Bool(true) => "yes".to_owned(),
            Value::Bool(false) => "no".to_owned(),
            // An empty text is a value: `save ""` switches snapshots off.
            Value::String(text) if text.is_empty() => String::new(),
            other => check.text(&place, other, SETTING_LENGTH).unwrap_or_default(),
        };
        settings.insert(name.clone(), text);
    }
    settings
}

fn read_unsupported(check: &mut Check, object: &Object) -> Vec<Unsupported> {
    let mut unsupported = Vec::new();
    let replica = present(object, "replica_of").or_else(|| present(object, "slave_of"));
    if let Some(id) = replica.and_then(|v| check.text("instance['replica_of']", v, 255)) {
        unsupported.push(Unsupported::ReplicaOf(id));
    }
    if let Some(point) = present(object, "restorePoint").and_then(|v| check.object("instance['restorePoint']", v)) {
        let backup = check.required("instance['restorePoint']", point, "backupRef");
        let backup = backup.and_then(|v| check.text("instance['restorePoint']['backupRef']", v, 255));
        unsupported.extend(backup.map(Unsupported::RestorePoint));
    }
    let modules = present(object, "modules").and_then(|v| check.list("instance['modules']", v, usize::MAX));
    if modules.is_some_and(|list| !list.is_empty()) {
        unsupported.push(Unsupported::Modules);
    }
    if present(object, "access").is_some_and(|v| !read_access(check, v)) {
        unsupported.push(Unsupported::Access);
    }
    unsupported
}

/// Whether what is asked for is what every instance has: it is open to whoever reaches its address, so it is as public as the pool
/// of addresses, and nobody can be kept out.
fn read_access(check: &mut Check, value: &Value) -> bool {
    let Some(object) = check.object("instance['access']", value) else { return true };
    let place = "instance['access']['is_public']";
    present(object, "is_public").and_then(|v| check.truth(place, v));
    let place = "instance['access']['allowed_cidrs']";
    let cidrs = present(object, "allowed_cidrs").and_then(|v| check.list(place, v, usize::MAX));
    cidrs.is_none_or(<[Value]>::is_empty)
}

/// Checks what says where an instance is to be. The provider decides that, so only nonsense is refused.
fn check_placement(check: &mut Check, object: &Object) {
    if let Some(nics) = present(object, "nics").and_then(|v| check.list("instance['nics']", v, 1)) {
        for (i, nic) in nics.iter().enumerate() {
            let place = format!("instance['nics'][{i}]");
            if let Some(nic) = check.object(&place, nic) {
                check.only(&place, nic, &["net-id", "network_id", "subnet_id", "ip_address"]);
            }
        }
    }
    for key in ["availability_zone", "region_name", "locality"] {
        if let Some(value) = present(object, key) {
            check.text(&format!("instance['{key}']"), value, 255);
        }
    }
}

/// `PUT` and `PATCH /instances/{id}`: what is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct InstanceChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A version's name or id, or `datastore/name` to cross from one datastore to another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastore_version: Option<String>,
    /// Beside a version: `adopt` takes its new defaults, where `preserve`, which is what holds where nothing is said, keeps
    /// the old ones that clients would miss. Coffer's addition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub defaults: Option<Policy>,
    /// A configuration group's id to attach it; null to detach the one that is attached. So does nothing at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub configuration: Option<Attachment>,
    /// Something that Trove can change and Coffer cannot.
    #[serde(skip)]
    pub unsupported: Option<UnsupportedChange>,
}

/// Something that Trove can change about an instance and Coffer cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsupportedChange {
    /// Detach from the instance it follows.
    Detach,
    /// Let others in, or fewer.
    Access,
}

impl InstanceChange {
    /// Reads `{"instance": {...}}`. Keys that are not known are refused; nothing to change means, as in Trove, "detach the
    /// configuration group".
    pub fn read(body: &Value) -> Result<Self, Fault> {
        const KNOWN: [&str; 7] =
            ["name", "datastore_version", "defaults", "configuration", "replica_of", "slave_of", "access"];
        let value = inside(body, "instance")?;
        let mut check = Check::default();
        let mut change = Self::default();
        let mut attributes = 0;
        if let Some(object) = check.object("instance", value) {
            check.only("instance", object, &KNOWN);
            attributes = object.keys().filter(|key| !["name", "defaults"].contains(&key.as_str())).count();
            change.name = object.get("name").and_then(|v| check.name("instance['name']", v));
            let version = object.get("datastore_version");
            change.datastore_version = version.and_then(|v| check.name("instance['datastore_version']", v));
            change.defaults = object.get("defaults").and_then(|v| read_policy(&mut check, "instance['defaults']", v));
            if change.defaults.is_some() && version.is_none() {
                check.add("instance['defaults']", "says something only beside 'datastore_version'");
            }
            if object.contains_key("replica_of") || object.contains_key("slave_of") {
                change.unsupported = Some(UnsupportedChange::Detach);
            }
            change.configuration = match object.get("configuration") {
                Some(value) => read_attachment(&mut check, value),
                None if object.is_empty() => Some(Attachment::None),
                None => None,
            };
            if present(object, "access").is_some_and(|v| !read_access(&mut check, v)) {
                change.unsupported = Some(UnsupportedChange::Access);
            }
        }
        check.finish()?;
        if attributes > 1 {
            return Err(Fault::bad_request("Only one attribute (except 'name') is allowed to update."));
        }
        Ok(change)
    }
}

/// Which configuration group an instance is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// The one with this id.
    Group(Uuid),
    None,
}

impl Serialize for Attachment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Group(id) => id.serialize(serializer),
            Self::None => serializer.serialize_none(),
        }
    }
}

/// An id as Trove's schema has it, or null.
fn read_attachment(check: &mut Check, value: &Value) -> Option<Attachment> {
    const PATTERN: &str = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$";
    if value.is_null() {
        return Some(Attachment::None);
    }
    let text = value.as_str();
    // Of the forms of an id only the one with four dashes has 36 characters.
    if let Some(id) = text.filter(|text| text.len() == 36).and_then(|text| text.parse().ok()) {
        return Some(Attachment::Group(id));
    }
    let shown = show(value);
    let why = match text {
        Some("") => format!("{shown} should be non-empty; {shown} does not match '{PATTERN}'"),
        Some(_) => format!("{shown} does not match '{PATTERN}'"),
        None => format!("{shown} is not of type 'string'"),
    };
    let why = format!("{shown} is not valid under any of the given schemas; {why}; {shown} is not of type 'null'");
    check.add("instance['configuration']", &why);
    None
}

/// What to do about defaults that change.
fn read_policy(check: &mut Check, place: &str, value: &Value) -> Option<Policy> {
    let policy = serde_json::from_value(value.clone()).ok();
    if policy.is_none() {
        check.add(place, &format!("{} is not one of ['preserve', 'adopt']", show(value)));
    }
    policy
}

/// `POST /instances/{id}/action`: what is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Restart,
    /// Forget the state that is recorded. With `force_delete` it announces a deletion.
    ResetStatus {
        force_delete: bool,
    },
    Promote,
    Eject,
    Resize,
}

impl Action {
    /// Reads an object with one key, the action, and its arguments.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let object = body.as_object().filter(|object| object.len() == 1);
        let Some((name, arguments)) = object.and_then(|object| object.iter().next()) else {
            return Err(Fault::bad_request(
                "Invalid instance action: exactly one is needed, such as {\"restart\": {}}",
            ));
        };
        let mut check = Check::default();
        let given = check.object(name, arguments);
        let action = match name.as_str() {
            "restart" => Self::Restart,
            "reset_status" => {
                Self::ResetStatus { force_delete: given.is_some_and(|object| object.contains_key("force_delete")) }
            }
            "promote_to_replica_source" => Self::Promote,
            "eject_replica_source" => Self::Eject,
            "resize" => Self::Resize,
            other => return Err(Fault::bad_request(format!("Invalid instance action: {}", clip(other)))),
        };
        check.finish()?;
        Ok(action)
    }
}

/// The body of an action, for the description of the API. Exactly one key.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct ActionBody {
    /// `{}`: stop the engine cleanly and start it again.
    #[schema(value_type = Object)]
    pub restart: Value,
}

/// `POST /instances/{id}/upgrade-preview`: which upgrade to look at. Coffer's addition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct UpgradePreview {
    /// As in an upgrade.
    pub datastore_version: String,
    /// As in an upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub defaults: Option<Policy>,
}

impl UpgradePreview {
    /// Reads `{"upgrade": {"datastore_version": "..."}}`.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let value = inside(body, "upgrade")?;
        let mut check = Check::default();
        let (mut version, mut defaults) = (None, None);
        if let Some(object) = check.object("upgrade", value) {
            check.only("upgrade", object, &["datastore_version", "defaults"]);
            defaults = object.get("defaults").and_then(|v| read_policy(&mut check, "upgrade['defaults']", v));
            let given = check.required("upgrade", object, "datastore_version");
            version = given.and_then(|v| check.name("upgrade['datastore_version']", v));
        }
        check.finish()?;
        Ok(Self { datastore_version: version.unwrap_or_default(), defaults })
    }
}

/// `POST /instances/{id}/rollback`, and the same with `-preview`. Coffer's addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rollback {
    /// Whether the data are to become those of the pre-image even where the older version works on those that there are.
    #[schema(required = false)]
    pub restore: bool,
    /// Whether what was written since may be lost. A preview does not ask.
    #[schema(required = false)]
    pub accept_loss: bool,
}

impl Rollback {
    /// Reads `{"rollback": {"restore": false, "accept_loss": true}}`.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let value = inside(body, "rollback")?;
        let mut check = Check::default();
        let mut read = Self::default();
        if let Some(object) = check.object("rollback", value) {
            check.only("rollback", object, &["restore", "accept_loss"]);
            for (name, flag) in [("restore", &mut read.restore), ("accept_loss", &mut read.accept_loss)] {
                match object.get(name) {
                    None => {}
                    Some(Value::Bool(given)) => *flag = *given,
                    Some(other) => {
                        check.add(&format!("rollback['{name}']"), &format!("{} is not of type 'boolean'", show(other)));
                    }
                }
            }
        }
        check.finish()?;
        Ok(read)
    }
}

/// `POST /instances/{id}/finalize`. Coffer's addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Finalize {}

impl Finalize {
    /// Reads `{"finalize": {}}`.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        read_empty(body, "finalize").map(|()| Self {})
    }
}

/// `POST /instances/{id}/resume`, `/abandon`, and the same with `-preview`. Coffer's addition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decision {}

impl Decision {
    /// Reads `{"resume": {}}` or `{"abandon": {}}`.
    pub fn read(body: &Value, choice: Choice) -> Result<Self, Fault> {
        read_empty(body, choice.name()).map(|()| Self {})
    }
}

/// Reads `{"<key>": {}}`.
fn read_empty(body: &Value, key: &str) -> Result<(), Fault> {
    let value = inside(body, key)?;
    let mut check = Check::default();
    if let Some(object) = check.object(key, value) {
        check.only(key, object, &[]);
    }
    check.finish()
}

/// `PATCH /mgmt/datastore-versions/{id}`: what an operator changes about a version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct VersionChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<bool>,
    /// The first key that Trove changes and Coffer takes from the catalogue.
    #[serde(skip)]
    pub unsupported: Option<&'static str>,
}

impl VersionChange {
    /// Reads a bare object.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        const CATALOGUED: [&str; 6] =
            ["datastore_manager", "packages", "image", "image_tags", "registry_ext", "repl_strategy"];
        let mut check = Check::default();
        let mut change = Self::default();
        if let Some(object) = check.object("version", body) {
            let known: Vec<_> = CATALOGUED.into_iter().chain(["name", "active", "default"]).collect();
            check.only("version", object, &known);
            change.name = present(object, "name").and_then(|v| check.name("name", v));
            change.active = present(object, "active").and_then(|v| check.truth("active", v));
            change.default = present(object, "default").and_then(|v| check.truth("default", v));
            change.unsupported = CATALOGUED.into_iter().find(|key| present(object, key).is_some());
        }
        check.finish()?;
        Ok(change)
    }
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
