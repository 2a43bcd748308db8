//! What an upgrade would do, found out without doing it. Coffer's addition.

use axum::extract::State;
use coffer_core::operation::Plan;
use coffer_core::plan::Step;
use coffer_wire::trove::fault::FindingBody;
use coffer_wire::trove::operation::{PlanBody, PlanGroup, PlanImage, PlanStep, UpgradePlan};
use coffer_wire::trove::request;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, ok};
use super::body::{At, Json};
use super::instances::{InInstance, upgrade_refused};
use crate::app::UpgradePreview;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(preview))
}

/// `{"upgrade": ...}`, for the description.
#[derive(Serialize, ToSchema)]
struct PreviewBody {
    upgrade: request::UpgradePreview,
}

/// What an upgrade would do, and everything that speaks against it. Changes nothing but that the image is fetched, and takes as long as that and
/// all checks take.
#[utoipa::path(post, path = "/v1.0/{project}/instances/{id}/upgrade-preview", tag = "instances",
    request_body = PreviewBody, responses((status = 200, body = PlanBody)))]
async fn preview(State(shared): State<Shared>, asker: Asker, At(at): At<InInstance>, Json(body): Json) -> Answer {
    let (id, caller) = (at.id()?, asker.caller());
    shared.app.instance(caller, id).await?;
    let request::UpgradePreview { datastore_version: version, defaults } = request::UpgradePreview::read(&body)?;
    let preview = shared.app.preview_upgrade(caller, id, &version, defaults.unwrap_or_default()).await;
    ok(&PlanBody { plan: plan(preview.map_err(|error| upgrade_refused(error, &version))?) })
}

fn plan(preview: UpgradePreview) -> UpgradePlan {
    let UpgradePreview { from, to, policy, group, plan, findings, settings, image, preview, expected } = preview;
    UpgradePlan {
        from: (&*from).into(),
        to: (&*to).into(),
        steps: steps(&plan),
        notes: plan.notes,
        findings: findings.into_iter().map(FindingBody::from).collect(),
        settings,
        policy,
        configuration: group.map(|group| PlanGroup { id: group.id.to_string(), name: group.name }),
        image: image.map(|image| PlanImage {
            digest: image.digest.to_string(),
            number: image.number.to_string(),
            source: image.source,
        }),
        preview,
        gap: expected.map(Into::into),
    }
}

/// All steps, those of the critical section in the place of the one that hands it over.
pub(super) fn steps(plan: &Plan<Step>) -> Vec<PlanStep> {
    plan.steps.iter().enumerate().flat_map(|(i, step)| of_step(step, i < plan.point_of_no_return)).collect()
}

/// One step, or those of the critical section that it hands over.
fn of_step(step: &Step, undone: bool) -> Vec<PlanStep> {
    let Some(section) = step.section() else {
        return vec![PlanStep { name: step.name().to_owned(), undone, section: false }];
    };
    let plan = &section.plan;
    let inner = plan.steps.iter().enumerate();
    let inner = inner.map(|(i, step)| PlanStep {
        name: step.name().to_owned(),
        undone: undone && i < plan.point_of_no_return,
        section: true,
    });
    inner.collect()
}
