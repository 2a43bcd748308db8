//! An operation that is stuck: what it would do to resume or to abandon it, and doing it. Coffer's addition.

use axum::extract::State;
use coffer_core::stuck::Choice;
use coffer_wire::trove::operation::{self as wire, ChoiceBody};
use coffer_wire::trove::request::Decision;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, accepted, ok};
use super::body::{At, Json};
use super::instances::InInstance;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(preview_resume))
        .routes(routes!(resume))
        .routes(routes!(preview_abandon))
        .routes(routes!(abandon))
}

/// `{"resume": {}}`, for the description.
#[derive(Serialize, ToSchema)]
struct ResumeBody {
    #[schema(value_type = Object)]
    resume: Decision,
}

/// `{"abandon": {}}`, for the description.
#[derive(Serialize, ToSchema)]
struct AbandonBody {
    #[schema(value_type = Object)]
    abandon: Decision,
}

/// What it would do to try at once what is stuck, and what it costs. Changes nothing.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/resume-preview", tag = "instances",
    request_body = ResumeBody, responses((status = 200, body = ChoiceBody)))]
async fn preview_resume(shared: State<Shared>, asker: Asker, at: At<InInstance>, Json(body): Json) -> Answer {
    preview(shared, asker, at, &body, Choice::Resume).await
}

/// Tries at once what is stuck, and counts its attempts anew.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/resume", tag = "instances",
    request_body = ResumeBody, responses((status = 202)))]
async fn resume(shared: State<Shared>, asker: Asker, at: At<InInstance>, Json(body): Json) -> Answer {
    choose(shared, asker, at, &body, Choice::Resume).await
}

/// What it would mean to give up what is stuck, and what it costs. Changes nothing.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/abandon-preview", tag = "instances",
    request_body = AbandonBody, responses((status = 200, body = ChoiceBody)))]
async fn preview_abandon(shared: State<Shared>, asker: Asker, at: At<InInstance>, Json(body): Json) -> Answer {
    preview(shared, asker, at, &body, Choice::Abandon).await
}

/// Gives up what is stuck. Nothing is removed, and nothing is done any more.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/abandon", tag = "instances",
    request_body = AbandonBody, responses((status = 202)))]
async fn abandon(shared: State<Shared>, asker: Asker, at: At<InInstance>, Json(body): Json) -> Answer {
    choose(shared, asker, at, &body, Choice::Abandon).await
}

async fn preview(
    State(shared): State<Shared>,
    asker: Asker,
    At(at): At<InInstance>,
    body: &Value,
    choice: Choice,
) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    Decision::read(body, choice)?;
    let offer = shared.app.preview_choice(caller, id, choice).await?;
    ok(&ChoiceBody { choice: wire::Choice::of(choice, offer) })
}

async fn choose(
    State(shared): State<Shared>,
    asker: Asker,
    At(at): At<InInstance>,
    body: &Value,
    choice: Choice,
) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    Decision::read(body, choice)?;
    shared.app.choose(caller, id, choice).await?;
    Ok(accepted())
}
