//! Configuration groups, and the settings that they may have.

use std::collections::BTreeMap;

use axum::extract::State;
use coffer_core::datastore::Version;
use coffer_core::engine::parameter::{self, Kind as Values, Parameter};
use coffer_core::finding::{Finding, Severity};
use coffer_core::spec::Settings;
use coffer_wire::trove::configuration::{
    Configuration, ConfigurationBody, ConfigurationChange, ConfigurationsBody, Defaults, DefaultsBody, GroupInstance,
    GroupInstancesBody, NewConfiguration, Parameter as WireParameter, ParametersBody,
};
use coffer_wire::trove::{Fault, Kind};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, Refused, accepted, empty, ok};
use super::body::{At, Json};
use super::datastores::version_id;
use super::instances::InInstance;
use super::page::Paging;
use crate::app::{GroupChange, GroupView, NewGroup};

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, edit, delete))
        .routes(routes!(instances))
        .routes(routes!(defaults))
        .routes(routes!(list_parameters))
        .routes(routes!(show_parameter))
        .routes(routes!(list_parameters_by_id))
        .routes(routes!(show_parameter_by_id))
}

#[derive(Deserialize)]
struct InGroup {
    group: String,
}

/// A page of the project's groups: cut by ascending id, then the newest first.
#[utoipa::path(get, path = "/v1.0/{project}/configurations", tag = "configurations",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only ids after this one"),
    ),
    responses((status = 200, body = ConfigurationsBody)))]
async fn list(State(shared): State<Shared>, asker: Asker, paging: Paging) -> Answer {
    let Paging { page, path, query } = paging;
    let paged = shared.app.groups(asker.caller(), page).await?;
    let configurations = paged.items.iter().map(listed).collect();
    let links = paged.next.map(|marker| asker.links().next(&path, query.as_deref(), &marker)).unwrap_or_default();
    ok(&ConfigurationsBody { configurations, links })
}

/// `{"configuration": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct NewConfigurationBody {
    configuration: NewConfiguration,
}

/// A new group, of one datastore version. Everything that is wrong with its values is told at once.
#[utoipa::path(post, path = "/v1.0/{project}/configurations", tag = "configurations",
    request_body = NewConfigurationBody, responses((status = 200, body = ConfigurationBody)))]
async fn create(State(shared): State<Shared>, asker: Asker, Json(body): Json) -> Answer {
    let NewConfiguration { name, description, datastore, values } = NewConfiguration::read(&body)?;
    let version = datastore.version.or(datastore.version_number);
    let new = NewGroup { name, description, datastore: datastore.datastore, version, values };
    let view = shared.app.create_group(asker.caller(), new).await?;
    ok(&ConfigurationBody { configuration: shown(&view) })
}

/// One group. Administrators may name any project's.
#[utoipa::path(get, path = "/v1.0/{project}/configurations/{group}", tag = "configurations",
    responses((status = 200, body = ConfigurationBody)))]
async fn show(State(shared): State<Shared>, asker: Asker, At(at): At<InGroup>) -> Answer {
    let view = shared.app.group(asker.caller(), &at.group).await?;
    ok(&ConfigurationBody { configuration: shown(&view) })
}

/// `{"configuration": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct ConfigurationChangeBody {
    configuration: ConfigurationChange,
}

/// Another name, description or values, which take the place of all that there were. Instances get them as in a PATCH.
#[utoipa::path(put, path = "/v1.0/{project}/configurations/{group}", tag = "configurations",
    request_body = ConfigurationChangeBody, responses((status = 202)))]
async fn update(State(shared): State<Shared>, asker: Asker, At(at): At<InGroup>, Json(body): Json) -> Answer {
    change(&shared, &asker, &at.group, &body, true).await?;
    Ok(accepted())
}

/// Some values. Running engines of its instances take what they take live; for the rest the instances need a restart.
#[utoipa::path(patch, path = "/v1.0/{project}/configurations/{group}", tag = "configurations",
    request_body = ConfigurationChangeBody, responses((status = 200)))]
async fn edit(State(shared): State<Shared>, asker: Asker, At(at): At<InGroup>, Json(body): Json) -> Answer {
    change(&shared, &asker, &at.group, &body, false).await?;
    Ok(empty(StatusCode::OK))
}

async fn change(shared: &Shared, asker: &Asker, group: &str, body: &Value, replace: bool) -> Result<(), Refused> {
    // A group that there is not, or that is somebody else's, is told before what is wrong with the body.
    shared.app.group(asker.caller(), group).await?;
    let ConfigurationChange { name, description, values } = ConfigurationChange::read(body, !replace)?;
    let change = GroupChange { name, description, values, replace };
    Ok(shared.app.change_group(asker.caller(), group, change).await?)
}

/// Removes a group that no instance has.
#[utoipa::path(delete, path = "/v1.0/{project}/configurations/{group}", tag = "configurations",
    responses((status = 202)))]
async fn delete(State(shared): State<Shared>, asker: Asker, At(at): At<InGroup>) -> Answer {
    shared.app.delete_group(asker.caller(), &at.group).await?;
    Ok(accepted())
}

/// A page of the instances that have the group, by ascending id.
#[utoipa::path(get, path = "/v1.0/{project}/configurations/{group}/instances", tag = "configurations",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only ids after this one"),
    ),
    responses((status = 200, body = GroupInstancesBody)))]
async fn instances(State(shared): State<Shared>, asker: Asker, At(at): At<InGroup>, paging: Paging) -> Answer {
    let Paging { page, path, query } = paging;
    let paged = shared.app.group_instances(asker.caller(), &at.group, page).await?;
    let instances = paged.items.into_iter().map(|(id, name)| GroupInstance { id: id.to_string(), name }).collect();
    let links = paged.next.map(|marker| asker.links().next(&path, query.as_deref(), &marker)).unwrap_or_default();
    ok(&GroupInstancesBody { instances, links })
}

/// What holds on an instance where nobody says anything.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/configuration", tag = "configurations",
    responses((status = 200, body = DefaultsBody)))]
async fn defaults(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let configuration = shared.app.default_settings(asker.caller(), at.id()?).await?;
    ok(&DefaultsBody { instance: Defaults { configuration } })
}

#[derive(Deserialize)]
struct OfVersion {
    datastore: Option<String>,
    version: String,
    parameter: Option<String>,
}

/// The settings that may be chosen on a version of a datastore, each by id or name.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions/{version}/parameters",
    tag = "configurations", responses((status = 200, body = ParametersBody)))]
async fn list_parameters(State(shared): State<Shared>, At(at): At<OfVersion>) -> Answer {
    parameters(&shared, &at)
}

/// One of them.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions/{version}/parameters/{parameter}",
    tag = "configurations", responses((status = 200, body = WireParameter)))]
async fn show_parameter(State(shared): State<Shared>, At(at): At<OfVersion>) -> Answer {
    parameters(&shared, &at)
}

/// The settings that may be chosen on a version, by its id alone.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/versions/{version}/parameters",
    tag = "configurations", responses((status = 200, body = ParametersBody)))]
async fn list_parameters_by_id(State(shared): State<Shared>, At(at): At<OfVersion>) -> Answer {
    parameters(&shared, &at)
}

/// One of them.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/versions/{version}/parameters/{parameter}",
    tag = "configurations", responses((status = 200, body = WireParameter)))]
async fn show_parameter_by_id(State(shared): State<Shared>, At(at): At<OfVersion>) -> Answer {
    parameters(&shared, &at)
}

/// All parameters, or the one that is named.
fn parameters(shared: &Shared, at: &OfVersion) -> Answer {
    let parameters = wire_parameters(shared, at.datastore.as_deref(), &at.version)?;
    match &at.parameter {
        None => ok(&ParametersBody { parameters }),
        Some(name) => ok(&named(parameters, name)?),
    }
}

/// All parameters of a version, which is named by its id alone where no datastore is named.
pub(super) fn wire_parameters(
    shared: &Shared,
    datastore: Option<&str>,
    version: &str,
) -> Result<Vec<WireParameter>, Refused> {
    if datastore.is_none() {
        version_id(version)?;
    }
    let (version, all) = shared.app.parameters(datastore, version)?;
    Ok(all.iter().map(|parameter| wire_parameter(parameter, &version)).collect())
}

/// The one of this name.
pub(super) fn named(parameters: Vec<WireParameter>, name: &str) -> Result<WireParameter, Refused> {
    let found = parameters.into_iter().find(|parameter| parameter.name == name);
    found.ok_or_else(|| Fault::no_resource(name).into())
}

fn wire_parameter(parameter: &Parameter, version: &Version) -> WireParameter {
    let (min, max) = match parameter.kind {
        Values::Integer { min, max } => (min.map(whole), max.map(whole)),
        Values::Float { min, max } => (Some(json!(min)), Some(json!(max))),
        Values::Boolean | Values::Text => (None, None),
    };
    WireParameter {
        name: parameter.name.to_owned(),
        datastore_version_id: version.id.to_string(),
        restart_required: !parameter.live,
        kind: parameter.kind.name().to_owned(),
        max,
        min,
        default: parameter.default.to_owned(),
    }
}

/// A limit as JSON has it. No engine has one beyond.
fn whole(number: i128) -> Value {
    u64::try_from(number).map_or_else(|_| json!(i64::try_from(number).unwrap_or(i64::MIN)), |number| json!(number))
}

fn listed(view: &GroupView) -> Configuration {
    let GroupView { group, version, .. } = view;
    Configuration {
        id: group.id.to_string(),
        name: group.name.clone(),
        description: group.description.clone(),
        values: None,
        created: group.created_at.into(),
        updated: group.updated_at.into(),
        instance_count: None,
        datastore_name: version.datastore.to_string(),
        datastore_version_id: version.id.to_string(),
        datastore_version_name: version.name.clone(),
        datastore_version_number: version.number.to_string(),
    }
}

fn shown(view: &GroupView) -> Configuration {
    let values = values(&view.version, &view.group.values);
    Configuration { values: Some(values), instance_count: Some(view.instances), ..listed(view) }
}

/// The values as JSON has them: numbers and truth values where the setting takes nothing else.
fn values(version: &Version, settings: &Settings) -> BTreeMap<String, Value> {
    let kinds: BTreeMap<_, _> = parameter::all(version).into_iter().map(|p| (p.name, p.kind)).collect();
    let value = |(name, text): (&String, &String)| {
        let typed = match kinds.get(name.as_str()) {
            Some(Values::Integer { .. }) => {
                text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<i64>().map(Value::from)).ok()
            }
            Some(Values::Float { .. }) => text.parse::<f64>().ok().map(Value::from),
            Some(Values::Boolean) => match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" => Some(Value::Bool(true)),
                "no" | "off" | "false" => Some(Value::Bool(false)),
                _ => None,
            },
            Some(Values::Text) | None => None,
        };
        (name.clone(), typed.unwrap_or_else(|| Value::String(text.clone())))
    };
    settings.iter().map(value).collect()
}

/// The fault for values that a version does not take, in Trove's words where it has them.
pub(super) fn refused(version: &Version, settings: &Settings, findings: Vec<Finding>) -> Fault {
    let kinds: BTreeMap<_, _> = parameter::all(version).into_iter().map(|p| (p.name, p.kind)).collect();
    let sentence = |finding: &Finding| {
        let name = finding.object.strip_prefix("setting ").unwrap_or(&finding.object);
        let value = settings.get(name).map(String::as_str).unwrap_or_default();
        let unsupported = ["settings.unknown", "settings.owned"].contains(&finding.id.as_str());
        match kinds.get(name) {
            _ if unsupported => {
                let remedy = if finding.remedy.is_empty() { String::new() } else { format!(" ({})", finding.remedy) };
                format!(
                    "The configuration parameter {name} is not supported for this datastore: {}.{remedy}",
                    version.label()
                )
            }
            Some(Values::Integer { min, max }) => match (value.parse::<i128>(), min, max) {
                (Ok(n), Some(min), _) if n < *min => {
                    format!("The value for the configuration parameter {name} is less than the minimum allowed: {min}")
                }
                (Ok(n), _, Some(max)) if n > *max => format!(
                    "The value for the configuration parameter {name} is greater than the maximum allowed: {max}"
                ),
                _ => format!("The value provided for the configuration parameter {name} is not of type integer."),
            },
            _ => finding.to_string(),
        }
    };
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    let message = errors.map(sentence).collect::<Vec<_>>().join("; ");
    Fault::Trove { kind: Kind::Unprocessable, message, findings }
}
