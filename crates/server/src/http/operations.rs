//! What was done to an instance, and what happened to it by itself. Coffer's addition.

use axum::extract::State;
use coffer_wire::trove::operation::{EventsBody, GapsBody, OperationsBody};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::Asker;
use super::answer::{Answer, ok};
use super::body::At;
use super::instances::InInstance;
use super::{Shared, view};

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(operations)).routes(routes!(events)).routes(routes!(gaps))
}

/// All operations of an instance, the newest first, with every step and its times.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/operations", tag = "instances",
    responses((status = 200, body = OperationsBody)))]
async fn operations(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let operations = shared.app.operations(asker.caller(), at.id()?).await?;
    ok(&OperationsBody { operations: operations.iter().map(view::operation).collect() })
}

/// What happened to an instance beside its operations, such as an engine that died, the newest first.
#[utoipa::path(get, path = "/v1.0/{project}/instances/{id}/events", tag = "instances",
    responses((status = 200, body = EventsBody)))]
async fn events(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>) -> Answer {
    let events = shared.app.events(asker.caller(), at.id()?).await?;
    ok(&EventsBody { events: events.iter().map(view::event).collect() })
}

/// How long clients could not write or read, as measured at upgrades, rollbacks and restarts: the project's; for administrators all.
#[utoipa::path(get, path = "/v1.0/{project}/gaps", tag = "instances", responses((status = 200, body = GapsBody)))]
async fn gaps(State(shared): State<Shared>, asker: Asker) -> Answer {
    let lines = shared.app.gaps(asker.caller()).await?;
    ok(&GapsBody { gaps: lines.iter().map(Into::into).collect() })
}
