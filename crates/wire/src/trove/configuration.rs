//! Configuration groups, and the settings that they may have.

use std::collections::BTreeMap;

use coffer_core::engine::parameter::Given;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::trove::check::{Check, clip, inside};
use crate::trove::date::Date;
use crate::trove::fault::Fault;
use crate::trove::link::NextLink;
use crate::trove::request::{DatastoreChoice, read_datastore};

/// The longest a setting's value may be, in characters.
const VALUE_LENGTH: usize = 4096;
/// The most values that a group may have.
const VALUES: usize = 500;
/// The longest that a description may be, in characters.
const DESCRIPTION_LENGTH: usize = 256;

/// `{"configuration": ...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationBody {
    pub configuration: Configuration,
}

/// `{"configurations": [...]}`, with `links` only where there is another page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConfigurationsBody {
    pub configurations: Vec<Configuration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NextLink>,
}

/// A configuration group. Lists have neither its values nor how many instances have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    pub id: String,
    pub name: String,
    pub description: Option<String>,
    /// Numbers and truth values as such, where the setting takes nothing else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub values: Option<BTreeMap<String, Value>>,
    pub created: Date,
    pub updated: Date,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_count: Option<i64>,
    pub datastore_name: String,
    pub datastore_version_id: String,
    pub datastore_version_name: String,
    pub datastore_version_number: String,
}

/// `{"instances": [...]}` of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupInstancesBody {
    pub instances: Vec<GroupInstance>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<NextLink>,
}

/// An instance that has a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupInstance {
    pub id: String,
    pub name: String,
}

/// `{"configuration-parameters": [...]}`. Never paged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ParametersBody {
    #[serde(rename = "configuration-parameters")]
    pub parameters: Vec<Parameter>,
}

/// A setting that may be chosen. On its own it stands in no other object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Parameter {
    pub name: String,
    pub datastore_version_id: String,
    /// Whether another value takes effect only at the next start of the engine.
    pub restart_required: bool,
    /// `integer`, `float`, `boolean` or `string`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub max: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub min: Option<Value>,
    /// Its value where nobody says anything. Coffer's addition.
    pub default: String,
}

/// `{"configuration-parameters": [...]}`, for operators. Never paged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MgmtParametersBody {
    #[serde(rename = "configuration-parameters")]
    pub parameters: Vec<MgmtParameter>,
}

/// A setting that may be chosen, as operators are shown it: its limits have other names. On its own it stands in no other object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MgmtParameter {
    pub name: String,
    pub datastore_version_id: String,
    /// Whether another value takes effect only at the next start of the engine.
    pub restart_required: bool,
    /// `integer`, `float`, `boolean` or `string`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub max_size: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub min_size: Option<Value>,
}

impl From<Parameter> for MgmtParameter {
    fn from(parameter: Parameter) -> Self {
        let Parameter { name, datastore_version_id, restart_required, kind, max, min, default: _ } = parameter;
        Self { name, datastore_version_id, restart_required, kind, max_size: max, min_size: min }
    }
}

/// `{"instance": {"configuration": {...}}}`: what holds on an instance where nobody says anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DefaultsBody {
    pub instance: Defaults,
}

/// The values by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Defaults {
    pub configuration: BTreeMap<String, String>,
}

/// `POST /configurations`: what a group is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewConfiguration {
    pub name: String,
    pub description: Option<String>,
    pub datastore: DatastoreChoice,
    /// Settings by their names in the engine's own configuration.
    #[schema(value_type = Object)]
    #[serde(skip)]
    pub values: BTreeMap<String, Given>,
}

impl NewConfiguration {
    /// Reads `{"configuration": {...}}`. Keys that are not known are ignored, as Trove's schema has it.
    pub fn read(body: &Value) -> Result<Self, Fault> {
        let value = inside(body, "configuration")?;
        let mut check = Check::default();
        let mut new = Self::default();
        if let Some(object) = check.object("configuration", value) {
            let name = check.required("configuration", object, "name");
            new.name = name.and_then(|v| check.name("configuration['name']", v)).unwrap_or_default();
            new.description = read_description(&mut check, object);
            let datastore = object.get("datastore").filter(|v| !v.is_null());
            new.datastore = datastore.map(|v| read_datastore(&mut check, "configuration", v)).unwrap_or_default();
            let values = check.required("configuration", object, "values");
            let values = values.map(|v| read_values(&mut check, v, false)).unwrap_or_default();
            new.values = values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        }
        check.finish()?;
        Ok(new)
    }
}

/// `PUT` and `PATCH /configurations/{id}`: what is to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigurationChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// PUT puts these in the place of all, PATCH puts them to the others. A null in a PATCH takes a value away.
    #[schema(value_type = Option<Object>)]
    #[serde(skip)]
    pub values: Option<BTreeMap<String, Option<Given>>>,
}

impl ConfigurationChange {
    /// Reads `{"configuration": {...}}`. `merge` says that it is a PATCH.
    pub fn read(body: &Value, merge: bool) -> Result<Self, Fault> {
        let value = inside(body, "configuration")?;
        let mut check = Check::default();
        let mut change = Self::default();
        if let Some(object) = check.object("configuration", value) {
            change.name = object.get("name").and_then(|v| check.name("configuration['name']", v));
            change.description = read_description(&mut check, object);
            change.values = object.get("values").map(|v| read_values(&mut check, v, merge));
        }
        check.finish()?;
        Ok(change)
    }
}

fn read_description(check: &mut Check, object: &Map<String, Value>) -> Option<String> {
    let value = object.get("description").filter(|v| !v.is_null())?;
    if value.as_str() == Some("") {
        return Some(String::new());
    }
    check.text("configuration['description']", value, DESCRIPTION_LENGTH)
}

/// The values; a null, where it may be one, is none.
fn read_values(check: &mut Check, value: &Value, may_be_null: bool) -> BTreeMap<String, Option<Given>> {
    const PLACE: &str = "configuration['values']";
    let Some(object) = check.object(PLACE, value) else { return BTreeMap::new() };
    if object.len() > VALUES {
        check.add(PLACE, &format!("has more than {VALUES} properties"));
        return BTreeMap::new();
    }
    let mut values = BTreeMap::new();
    for (name, value) in object {
        let place = format!("{PLACE}['{}']", clip(name));
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            check.add(&place, "is not the name of a setting");
        }
        let given = match value {
            Value::Null if may_be_null => None,
            Value::Number(number) => Some(Given::Text(number.to_string())),
            Value::Bool(truth) => Some(Given::Truth(*truth)),
            // An empty text is a value: `save ""` switches snapshots off.
            Value::String(text) if text.is_empty() => Some(Given::Text(String::new())),
            other => check.text(&place, other, VALUE_LENGTH).map(Given::Text),
        };
        values.insert(name.clone(), given);
    }
    values
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{ConfigurationChange, Given, NewConfiguration};

    fn told<T: std::fmt::Debug>(read: Result<T, crate::trove::Fault>) -> String {
        read.expect_err("a fault").message().to_owned()
    }

    #[test]
    fn a_new_group_is_read_as_clients_send_it() {
        let body = json!({"configuration": {"name": "c1", "description": "d",
            "datastore": {"type": "redis", "version": "7.0"}, "values": {"maxclients": 100, "appendonly": true, "save": ""}}});
        let new = NewConfiguration::read(&body).expect("a group");
        assert_eq!((new.name.as_str(), new.description.as_deref()), ("c1", Some("d")));
        assert_eq!(new.datastore.version.as_deref(), Some("7.0"));
        assert_eq!(new.values["maxclients"], Given::Text("100".to_owned()));
        assert_eq!(new.values["appendonly"], Given::Truth(true));
        assert_eq!(new.values["save"], Given::Text(String::new()));
    }

    #[test]
    fn bad_groups_are_refused_in_the_words_of_the_schema() {
        let check = |inside: Value, expected: &str| {
            assert_eq!(told(NewConfiguration::read(&json!({"configuration": inside}))), expected);
        };
        check(json!({"name": "c2"}), "Validation error: configuration 'values' is a required property");
        check(json!({"values": {}}), "Validation error: configuration 'name' is a required property");
        check(
            json!({"name": "c", "values": {"a": null}}),
            "Validation error: configuration['values']['a'] None is not of type 'string'",
        );
        check(
            json!({"name": "c", "values": {"a b": [1]}}),
            "Validation error: configuration['values']['a b'] is not the name of a setting; \
             configuration['values']['a b'] [1] is not of type 'string'",
        );
        let longest = |n: usize| json!({"configuration": {"name": "c", "values": {"a": "x".repeat(n)}}});
        assert!(NewConfiguration::read(&longest(4096)).is_ok());
        assert!(told(NewConfiguration::read(&longest(4097))).contains("is too long"));
        let most = |n: usize| {
            let values: serde_json::Map<_, _> = (0..n).map(|i| (format!("a{i}"), json!(1))).collect();
            json!({"configuration": {"name": "c", "values": values}})
        };
        assert!(NewConfiguration::read(&most(500)).is_ok());
        assert!(told(NewConfiguration::read(&most(501))).contains("more than 500"));
    }

    #[test]
    fn a_null_takes_a_value_away_in_a_patch_alone() {
        let body = json!({"configuration": {"values": {"a": null, "b": 1}}});
        let values = ConfigurationChange::read(&body, true).expect("a change").values.expect("values");
        assert_eq!(values["a"], None);
        assert_eq!(values["b"], Some(Given::Text("1".to_owned())));
        assert!(ConfigurationChange::read(&body, false).is_err());
    }
}
