//! Instances: list, show, create, change, restart, delete.

use axum::extract::State;
use axum::response::Response;
use coffer_core::id::{FlavorId, GroupId, InstanceId};
use coffer_core::instance::Status;
use coffer_wire::trove::instance::{Instance, InstanceBody, InstancesBody, Password};
use coffer_wire::trove::request::{self, Action, Attachment, InstanceChange, Unsupported, UnsupportedChange};
use coffer_wire::trove::{Fault, Kind};
use http::StatusCode;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::Asker;
use super::answer::{Answer, Refused, accepted, json, ok};
use super::body::{At, Json};
use super::page::Paging;
use super::{Shared, view};
use crate::app::{Error, InstanceView, NewInstance, Scope};

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(detail))
        .routes(routes!(show, update, edit, delete))
        .routes(routes!(act))
}

#[derive(Deserialize)]
pub(super) struct InInstance {
    id: String,
}

impl InInstance {
    /// The instance's id, or the fault for what cannot be one.
    pub(super) fn id(&self) -> Result<InstanceId, Fault> {
        self.id.parse().map_err(|_| Fault::no_resource(&self.id))
    }
}

/// How one instance is shown in a list.
type View = fn(&InstanceView, &Asker, &str) -> Instance;

/// A page of instances.
pub(super) async fn page(shared: &Shared, asker: &Asker, paging: Paging, scope: Scope, view: View) -> Answer {
    let Paging { page, path, query } = paging;
    let paged = shared.app.instances(asker.caller(), scope, page).await?;
    let region = &shared.app.config().region;
    let instances = paged.items.iter().map(|item| view(item, asker, region)).collect();
    let links = paged.next.map(|marker| asker.links().next(&path, query.as_deref(), &marker)).unwrap_or_default();
    ok(&InstancesBody { instances, links })
}

/// A page of the project's instances: cut by ascending id, then the newest first.
#[utoipa::path(get, path = "/v1.0/{project}/instances", tag = "instances",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only ids after this one"),
    ),
    responses((status = 200, body = InstancesBody)))]
async fn list(State(shared): State<Shared>, asker: Asker, paging: Paging) -> Answer {
    page(&shared, &asker, paging, Scope::Own, view::listed).await
}

/// The same page with everything that is known of each instance.
#[utoipa::path(get, path = "/v1.0/{project}/instances/detail", tag = "instances",
    params(
        ("limit" = Option<u32>, Query, minimum = 1, description = "the largest page"),
        ("marker" = Option<String>, Query, description = "only ids after this one"),
    ),
    responses((status = 200, body = InstancesBody)))]
async fn detail(State(shared): State<Shared>, asker: Asker, paging: Paging) -> Answer {
    page(&shared, &asker, paging, Scope::Own, view::detailed).await
}

/// One instance. Administrators may name any project's.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}", tag = "instances",
    responses((status = 200, body = InstanceBody)))]
async fn show(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let id = at.id()?;
    let view = shared.app.instance(asker.caller(), id).await?;
    let operation = match &view.operation {
        // The steps are not in the view: they would make every list slow.
        Some(open) => shared.app.operations(asker.caller(), id).await?.into_iter().find(|o| o.id == open.id),
        None => None,
    };
    let region = &shared.app.config().region;
    ok(&InstanceBody { instance: view::shown(&view, operation.as_ref(), &asker, region) })
}

/// `{"instance": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct NewInstanceBody {
    instance: request::NewInstance,
}

/// A new instance. The answer has its password, which is never shown again.
#[utoipa::path(post, path = "/v1.0/{project}/instances", tag = "instances", request_body = NewInstanceBody,
    responses((status = 200, body = InstanceBody)))]
async fn create(State(shared): State<Shared>, asker: Asker, Json(body): Json) -> Answer {
    let new = request::NewInstance::read(&body)?;
    if let Some(unsupported) = new.unsupported.first() {
        return Err(cannot_create(&shared, &asker, unsupported).await);
    }
    let flavor = FlavorId(new.flavor.unwrap_or_else(|| "None".to_owned()));
    // To a creation, unlike to everything else, an unknown flavor is a bad request.
    shared.app.flavor(&flavor).map_err(|_| Fault::bad_request(Fault::no_resource(&flavor.0).message()))?;
    let volume = new.volume.ok_or_else(|| Fault::bad_request("Volume size was not specified."))?;
    let new = NewInstance {
        name: new.name,
        flavor,
        volume_gib: volume.size,
        datastore: new.datastore.datastore,
        version: new.datastore.version.or(new.datastore.version_number),
        settings: new.settings,
        databases: new.databases.into_iter().map(Into::into).collect(),
        users: new.users.into_iter().map(Into::into).collect(),
        group: new.configuration,
    };
    let created = shared.app.create(asker.caller(), new).await?;
    let mut instance = view::detailed(&created.view, &asker, &shared.app.config().region);
    if let Some(detail) = &mut instance.detail {
        detail.password = Some(Password(created.password.expose_secret().to_owned()));
    }
    json(StatusCode::OK, &InstanceBody { instance })
}

/// Why an instance cannot be had as asked.
async fn cannot_create(shared: &Shared, asker: &Asker, unsupported: &Unsupported) -> Refused {
    match unsupported {
        Unsupported::ReplicaOf(id) => match id.parse() {
            Ok(source) => match shared.app.instance(asker.caller(), source).await {
                Ok(view) => Fault::bad_request(format!(
                    "Replication is not supported for the '{}' datastore.",
                    view.version.datastore
                ))
                .into(),
                Err(error) => error.into(),
            },
            Err(_) => Fault::no_resource(id).into(),
        },
        // There are no backups yet, so this one cannot be found either.
        Unsupported::RestorePoint(id) => Fault::no_resource(id).into(),
        Unsupported::Modules => {
            Fault::not_implemented("Creating an instance with modules is not supported; leave 'modules' out.").into()
        }
        Unsupported::Access => no_access().into(),
    }
}

fn no_access() -> Fault {
    Fault::not_implemented(
        "Public access and allowed_cidrs are not supported: an instance is reachable by whoever reaches its address.",
    )
}

/// `{"instance": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct InstanceChangeBody {
    instance: InstanceChange,
}

/// Another name, another datastore version (an upgrade), or another configuration group.
#[utoipa::path(put, path = "/v1.0/{project}/instances/{id}", tag = "instances", request_body = InstanceChangeBody,
    responses((status = 202)))]
async fn update(shared: State<Shared>, asker: Asker, at: At<InInstance>, body: Json) -> Answer {
    change(shared, asker, at, body).await
}

/// The same as PUT. This is what `openstack database instance upgrade` sends.
#[utoipa::path(patch, path = "/v1.0/{project}/instances/{id}", tag = "instances", request_body = InstanceChangeBody,
    responses((status = 202)))]
async fn edit(shared: State<Shared>, asker: Asker, at: At<InInstance>, body: Json) -> Answer {
    change(shared, asker, at, body).await
}

async fn change(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    // An instance that there is not, or that is somebody else's, is told before what is wrong with the body.
    let view = shared.app.instance(caller, id).await?;
    let change = InstanceChange::read(&body)?;
    match change.unsupported {
        Some(UnsupportedChange::Detach) => {
            return Err(Fault::bad_request(format!("Instance {id} is not a replica.")).into());
        }
        Some(UnsupportedChange::Access) => return Err(no_access().into()),
        None => {}
    }
    if let Some(version) = change.datastore_version {
        let policy = change.defaults.unwrap_or_default();
        shared.app.upgrade(caller, id, &version, policy).await.map_err(|error| upgrade_refused(error, &version))?;
    }
    if let Some(attachment) = change.configuration {
        let group = match attachment {
            Attachment::Group(group) => Some(GroupId(group)),
            Attachment::None => None,
        };
        let attached = shared.app.attach_group(caller, id, group).await;
        attached.map_err(|error| attach_refused(error, view.status))?;
    }
    if let Some(name) = change.name {
        shared.app.rename(caller, id, &name).await?;
    }
    Ok(accepted())
}

/// To an upgrade, a version's id that there is not is 404 where a name is 400.
pub(super) fn upgrade_refused(error: Error, version: &str) -> Refused {
    let by_id = version.parse::<coffer_core::id::VersionId>().is_ok();
    match error {
        Error::NotFound { what: crate::app::Thing::Version, .. } if by_id => {
            Fault::new(Kind::NotFound, "DBDatastoreVersion Not Found").into()
        }
        other => other.into(),
    }
}

/// Attaching and detaching have words of their own for what every other route says, too.
fn attach_refused(error: Error, status: Status) -> Refused {
    match error {
        Error::NotFound { what: crate::app::Thing::Group, id } => {
            Fault::new(Kind::NotFound, format!("Configuration group id: {id} could not be found.")).into()
        }
        Error::Busy { .. } => Fault::bad_request(format!(
            "The operation you have requested cannot be executed because the instance status is currently: {}.",
            status.name()
        ))
        .into(),
        other => other.into(),
    }
}

/// Stops the engine for good and removes its data.
#[utoipa::path(delete, path = "/v1.0/{project}/instances/{id}", tag = "instances", responses((status = 202)))]
async fn delete(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Result<Response, Refused> {
    let id = at.id()?;
    shared.app.delete(asker.caller(), id).await?;
    Ok(accepted())
}

/// Does something to an instance. What Trove can and Coffer cannot is 501.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/action", tag = "instances",
    request_body = request::ActionBody, responses((status = 202)))]
async fn act(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    let view = shared.app.instance(caller, id).await?;
    match Action::read(&body)? {
        Action::Restart => {
            shared.app.restart(caller, id).await?;
            Ok(accepted())
        }
        // The clients' "force delete" is this and then a deletion, which needs no help here.
        Action::ResetStatus { force_delete: true } => Ok(accepted()),
        Action::ResetStatus { force_delete: false } if !caller.is_admin() => {
            Err(Fault::policy("instance:reset_status").into())
        }
        // No status is stored: it is what Trove's is after the reset, as soon as its guest has told. Only an operation that is
        // under way is more than a word.
        Action::ResetStatus { force_delete: false } => match view.operation {
            Some(open) => Err(Error::Busy { instance: id, kind: open.kind }.into()),
            None => Ok(accepted()),
        },
        Action::Promote => Err(Fault::bad_request(format!("Instance {id} is not a replica.")).into()),
        Action::Eject => Err(Fault::bad_request(format!("Instance {id} is not a replica source.")).into()),
        Action::Resize => Err(Fault::not_implemented("Resizing an instance is not supported.").into()),
    }
}
