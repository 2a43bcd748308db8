//! What operators do: look at every project's instances, and choose which versions there are. For administrators, which
//! [`super::admit`] sees to.

use axum::Router;
use axum::extract::State;
use axum::routing::{post, put};
use coffer_core::id::ProjectId;
use coffer_wire::trove::account::{RootHistory, RootHistoryBody};
use coffer_wire::trove::configuration::{MgmtParameter, MgmtParametersBody};
use coffer_wire::trove::datastore::{MgmtVersionBody, MgmtVersionsBody};
use coffer_wire::trove::instance::{InstanceBody, InstancesBody};
use coffer_wire::trove::request;
use coffer_wire::trove::{Date, Fault};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::Asker;
use super::answer::{Answer, Refused, accepted, ok};
use super::body::{At, Json};
use super::configurations::{named, wire_parameters};
use super::datastores::version_id;
use super::instances::{InInstance, page};
use super::page::Paging;
use super::{Shared, view};
use crate::app::{Scope, VersionChange};

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(instances))
        .routes(routes!(instance))
        .routes(routes!(root))
        .routes(routes!(versions))
        .routes(routes!(version, change_version))
        .routes(routes!(parameters))
        .routes(routes!(parameter))
}

/// Routes that Trove has and that are answered with 501: what may be set is part of what is known of an engine.
pub(super) fn more_routes() -> Router<Shared> {
    const PARAMETERS: &str = "/v1.0/{project}/mgmt/datastores/versions/{version}/parameters";
    let refused = async || {
        let message =
            "The configuration parameters of a datastore version are those of its engine and are not changed here.";
        Refused::from(Fault::not_implemented(message))
    };
    Router::new()
        .route(PARAMETERS, post(refused))
        .route(&format!("{PARAMETERS}/{{parameter}}"), put(refused).delete(refused))
}

/// A page of every project's instances, or of one project's.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/instances", tag = "mgmt",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only ids after this one"),
        ("project_id" = Option<String>, Query, description = "only those of this project"),
        ("deleted" = Option<bool>, Query, description = "deleted ones instead, of which nothing is kept"),
    ),
    responses((status = 200, body = InstancesBody)))]
async fn instances(State(shared): State<Shared>, asker: Asker, paging: Paging) -> Answer {
    if paging.value("deleted").is_some_and(|deleted| deleted.eq_ignore_ascii_case("true")) {
        return ok(&InstancesBody { instances: Vec::new(), links: Vec::new() });
    }
    let scope = paging.value("project_id").map_or(Scope::All, |project| Scope::Project(ProjectId(project)));
    page(&shared, &asker, paging, scope, view::managed).await
}

/// One instance of any project.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/instances/{id}", tag = "mgmt",
    responses((status = 200, body = InstanceBody)))]
async fn instance(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let instance = shared.app.instance(asker.caller(), at.id()?).await?;
    ok(&InstanceBody { instance: view::managed(&instance, &asker, &shared.app.config().region) })
}

/// When root was let in to an instance last, and by whom.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/instances/{id}/root", tag = "mgmt",
    responses((status = 200, body = RootHistoryBody)))]
async fn root(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let id = at.id()?;
    shared.app.instance(asker.caller(), id).await?;
    let last = shared.app.root_enabled(asker.caller(), id).await?;
    // The event says it in a sentence: `user <id> let root log in, ...`.
    let user = |message: &str| message.split(' ').nth(1).unwrap_or_default().to_owned();
    let (enabled, user) = match last {
        Some(event) => (Date(event.at).to_string(), user(&event.message)),
        None => ("Never".to_owned(), "Nobody".to_owned()),
    };
    ok(&RootHistoryBody { root_history: RootHistory { id: id.to_string(), enabled, user } })
}

/// All datastore versions, the inactive among them.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/datastore-versions", tag = "mgmt",
    responses((status = 200, body = MgmtVersionsBody)))]
async fn versions(State(shared): State<Shared>, asker: Asker) -> Answer {
    let versions = shared.app.all_versions(asker.caller())?;
    ok(&MgmtVersionsBody { versions: versions.iter().map(|v| view::managed_version(v)).collect() })
}

#[derive(Deserialize)]
struct InVersion {
    version: String,
}

/// One datastore version.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/datastore-versions/{version}", tag = "mgmt",
    responses((status = 200, body = MgmtVersionBody)))]
async fn version(State(shared): State<Shared>, asker: Asker, At(at): At<InVersion>) -> Answer {
    let version = shared.app.version(asker.caller(), version_id(&at.version)?)?;
    ok(&MgmtVersionBody { version: view::managed_version(&version) })
}

#[derive(Deserialize)]
struct InParameters {
    version: String,
    #[serde(default)]
    parameter: String,
}

/// The settings that may be chosen on a version, with their limits.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/datastores/versions/{version}/parameters", tag = "mgmt",
    responses((status = 200, body = MgmtParametersBody)))]
async fn parameters(State(shared): State<Shared>, At(at): At<InParameters>) -> Answer {
    let parameters = wire_parameters(&shared, None, &at.version)?;
    ok(&MgmtParametersBody { parameters: parameters.into_iter().map(Into::into).collect() })
}

/// One of them.
#[utoipa::path(get, path = "/v1.0/{project}/mgmt/datastores/versions/{version}/parameters/{parameter}", tag = "mgmt",
    responses((status = 200, body = MgmtParameter)))]
async fn parameter(State(shared): State<Shared>, At(at): At<InParameters>) -> Answer {
    let parameters = wire_parameters(&shared, None, &at.version)?;
    ok(&MgmtParameter::from(named(parameters, &at.parameter)?))
}

/// Whether a version may be used, whether it is what creations take, and what it is called.
#[utoipa::path(patch, path = "/v1.0/{project}/mgmt/datastore-versions/{version}", tag = "mgmt",
    request_body = request::VersionChange, responses((status = 202)))]
async fn change_version(State(shared): State<Shared>, asker: Asker, At(at): At<InVersion>, Json(body): Json) -> Answer {
    let id = version_id(&at.version)?;
    let change = request::VersionChange::read(&body)?;
    if let Some(key) = change.unsupported {
        let message = format!("'{key}' of a datastore version comes from the catalogue and is not changed here.");
        return Err(Fault::not_implemented(message).into());
    }
    let change = VersionChange { active: change.active, default: change.default, name: change.name };
    shared.app.update_version(asker.caller(), id, change).await?;
    Ok(accepted())
}
