//! Flavors.

use axum::extract::State;
use coffer_core::id::FlavorId;
use coffer_wire::trove::flavor::{Flavor, FlavorBody, FlavorsBody};
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asker;
use super::answer::{Answer, ok};
use super::body::At;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show))
}

#[derive(Deserialize)]
struct InFlavor {
    flavor: String,
}

/// All flavors, as an answer.
pub(super) fn all(shared: &Shared, asker: &Asker) -> FlavorsBody {
    FlavorsBody { flavors: shared.app.flavors().iter().map(|f| Flavor::of(f, asker.links())).collect() }
}

/// All flavors.
#[utoipa::path(get, path = "/v1.0/{project}/flavors", tag = "flavors", responses((status = 200, body = FlavorsBody)))]
async fn list(State(shared): State<Shared>, asker: Asker) -> Answer {
    ok(&all(&shared, &asker))
}

/// One flavor.
#[utoipa::path(get, path = "/v1.0/{project}/flavors/{flavor}", tag = "flavors",
    responses((status = 200, body = FlavorBody)))]
async fn show(State(shared): State<Shared>, asker: Asker, At(at): At<InFlavor>) -> Answer {
    let flavor = shared.app.flavor(&FlavorId(at.flavor))?;
    ok(&FlavorBody { flavor: Flavor::of(flavor, asker.links()) })
}
