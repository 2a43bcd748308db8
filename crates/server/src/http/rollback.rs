//! The way back after success: what it would do, going it, and ending it before its time. Coffer's addition.

use axum::extract::State;
use coffer_wire::trove::fault::FindingBody;
use coffer_wire::trove::operation::{PlanGroup, RollbackPlan, RollbackPlanBody};
use coffer_wire::trove::request;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, accepted, ok};
use super::body::{At, Json};
use super::instances::InInstance;
use super::upgrade::steps;
use crate::app::RollbackPreview;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(preview)).routes(routes!(rollback)).routes(routes!(finalize))
}

/// `{"rollback": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct RollbackBody {
    rollback: request::Rollback,
}

/// `{"finalize": {}}`, for the description.
#[derive(Serialize, ToSchema)]
struct FinalizeBody {
    #[schema(value_type = Object)]
    finalize: request::Finalize,
}

/// What a rollback would do, what would be lost by it, and everything that speaks against it. Changes nothing.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/rollback-preview", tag = "instances",
    request_body = RollbackBody, responses((status = 200, body = RollbackPlanBody)))]
async fn preview(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    let request::Rollback { restore, .. } = request::Rollback::read(&body)?;
    ok(&RollbackPlanBody { plan: plan(shared.app.preview_rollback(caller, id, restore).await?) })
}

/// Back to version, settings and data from before the last upgrade. Refused where something would be lost and `accept_loss` does
/// not say that it may.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/rollback", tag = "instances",
    request_body = RollbackBody, responses((status = 202)))]
async fn rollback(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    let request::Rollback { restore, accept_loss } = request::Rollback::read(&body)?;
    shared.app.rollback(caller, id, restore, accept_loss).await?;
    Ok(accepted())
}

/// Ends the time in which a rollback is possible, and frees the room that it takes.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/finalize", tag = "instances",
    request_body = FinalizeBody, responses((status = 202)))]
async fn finalize(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    request::Finalize::read(&body)?;
    shared.app.finalize(caller, id).await?;
    Ok(accepted())
}

fn plan(preview: RollbackPreview) -> RollbackPlan {
    let RollbackPreview { from, to, kept, in_place, down, loss, group, plan, findings, preview, expected } = preview;
    RollbackPlan {
        from: (&*from).into(),
        to: (&*to).into(),
        since: kept.since.into(),
        until: kept.until.into(),
        in_place,
        down,
        loss: loss.as_ref().map(Into::into),
        steps: steps(&plan),
        notes: plan.notes,
        findings: findings.into_iter().map(FindingBody::from).collect(),
        configuration: group.map(|group| PlanGroup { id: group.id.to_string(), name: group.name }),
        preview,
        gap: expected.map(Into::into),
    }
}
