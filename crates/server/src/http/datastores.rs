//! Datastores and their versions, as users see them.

use axum::extract::State;
use coffer_core::id::VersionId;
use coffer_wire::trove::Fault;
use coffer_wire::trove::check::clip;
use coffer_wire::trove::datastore::{DatastoreBody, DatastoresBody, VersionBody, VersionsBody};
use coffer_wire::trove::flavor::FlavorsBody;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::Asker;
use super::answer::{Answer, ok};
use super::body::At;
use super::{Shared, flavors, view};

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(list_versions))
        .routes(routes!(show_version))
        .routes(routes!(show_version_by_id))
        .routes(routes!(list_flavors))
        .routes(routes!(list_volume_types))
}

#[derive(Deserialize)]
struct InDatastore {
    datastore: String,
}

#[derive(Deserialize)]
struct InVersion {
    datastore: String,
    version: String,
}

/// All datastores with their versions. Administrators see the inactive ones too.
#[utoipa::path(get, path = "/v1.0/{project}/datastores", tag = "datastores",
    responses((status = 200, body = DatastoresBody)))]
async fn list(State(shared): State<Shared>, asker: Asker) -> Answer {
    let datastores = shared.app.datastores(asker.caller());
    ok(&DatastoresBody { datastores: datastores.iter().map(|d| view::datastore(d, &asker)).collect() })
}

/// One datastore, by id or name.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}", tag = "datastores",
    responses((status = 200, body = DatastoreBody)))]
async fn show(State(shared): State<Shared>, asker: Asker, At(at): At<InDatastore>) -> Answer {
    let datastore = shared.app.datastore(asker.caller(), &at.datastore)?;
    ok(&DatastoreBody { datastore: view::datastore(&datastore, &asker) })
}

/// The versions of a datastore.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions", tag = "datastores",
    responses((status = 200, body = VersionsBody)))]
async fn list_versions(State(shared): State<Shared>, asker: Asker, At(at): At<InDatastore>) -> Answer {
    let datastore = shared.app.datastore(asker.caller(), &at.datastore)?;
    let id = datastore.id.to_string();
    ok(&VersionsBody { versions: datastore.versions.iter().map(|v| view::version(v, &id, &asker)).collect() })
}

/// One version of a datastore, each by id or name.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions/{version}", tag = "datastores",
    responses((status = 200, body = VersionBody)))]
async fn show_version(State(shared): State<Shared>, asker: Asker, At(at): At<InVersion>) -> Answer {
    let version = shared.app.version_of(asker.caller(), &at.datastore, &at.version)?;
    let id = crate::datastore_id(version.datastore).to_string();
    ok(&VersionBody { version: view::version(&version, &id, &asker) })
}

/// One version, by its id alone.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/versions/{version}", tag = "datastores",
    responses((status = 200, body = VersionBody)))]
async fn show_version_by_id(State(shared): State<Shared>, asker: Asker, At(at): At<ById>) -> Answer {
    let version = shared.app.version(asker.caller(), version_id(&at.version)?)?;
    let id = crate::datastore_id(version.datastore).to_string();
    ok(&VersionBody { version: view::version(&version, &id, &asker) })
}

#[derive(Deserialize)]
struct ById {
    version: String,
}

/// The id of a version, or the fault for what cannot be one.
pub(super) fn version_id(text: &str) -> Result<VersionId, Fault> {
    let unknown = || Fault::bad_request(format!("Datastore version '{}' cannot be found.", clip(text)));
    text.parse().map_err(|_| unknown())
}

/// The flavors that a version can have: all of them.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions/{version}/flavors", tag = "datastores",
    responses((status = 200, body = FlavorsBody)))]
async fn list_flavors(State(shared): State<Shared>, asker: Asker, At(at): At<InVersion>) -> Answer {
    shared.app.version_of(asker.caller(), &at.datastore, &at.version)?;
    ok(&flavors::all(&shared, &asker))
}

/// `{"volume_types": []}`: there is one kind of volume, and it has no name.
#[derive(Serialize, Deserialize, ToSchema)]
struct VolumeTypesBody {
    volume_types: Vec<String>,
}

/// The volume types that a version can have.
#[utoipa::path(get, path = "/v1.0/{project}/datastores/{datastore}/versions/{version}/volume-types",
    tag = "datastores", responses((status = 200, body = VolumeTypesBody)))]
async fn list_volume_types(State(shared): State<Shared>, asker: Asker, At(at): At<InVersion>) -> Answer {
    shared.app.version_of(asker.caller(), &at.datastore, &at.version)?;
    ok(&VolumeTypesBody { volume_types: Vec::new() })
}
