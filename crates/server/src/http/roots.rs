//! What needs no token: which API this is, whether it is well, and its figures.

use axum::extract::State;
use axum::response::Response;
use coffer_wire::trove::{Fault, Link};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::Asked;
use super::answer::{Answer, Refused, empty, ok};
use crate::metrics;

/// The routes.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new().routes(routes!(versions)).routes(routes!(healthcheck)).routes(routes!(figures))
}

/// `{"versions": [...]}`.
#[derive(Serialize, Deserialize, ToSchema)]
struct VersionsDocument {
    versions: Vec<ApiVersion>,
}

/// A version of the API.
#[derive(Serialize, Deserialize, ToSchema)]
struct ApiVersion {
    id: String,
    status: String,
    updated: String,
    links: Vec<Link>,
}

/// The versions of the API. There is one.
#[utoipa::path(get, path = "/", tag = "roots", responses((status = 200, body = VersionsDocument)))]
async fn versions(State(shared): State<Shared>, asked: Asked) -> Answer {
    let links = vec![Link { rel: "self".to_owned(), href: format!("{}/v1.0/", asked.base(&shared)) }];
    let (id, status, updated) = ("v1.0".to_owned(), "CURRENT".to_owned(), "2012-08-01T00:00:00Z".to_owned());
    ok(&VersionsDocument { versions: vec![ApiVersion { id, status, updated, links }] })
}

/// `{"detailed": false, "reasons": ["OK"]}`.
#[derive(Serialize, Deserialize, ToSchema)]
struct Health {
    detailed: bool,
    reasons: Vec<String>,
}

/// Whether requests are answered.
#[utoipa::path(get, path = "/healthcheck", tag = "roots", responses((status = 200, body = Health)))]
async fn healthcheck() -> Answer {
    ok(&Health { detailed: false, reasons: vec!["OK".to_owned()] })
}

/// Figures for Prometheus, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "roots",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
async fn figures(State(shared): State<Shared>) -> Answer {
    shared.metrics.set_instances(shared.app.instance_counts().await?);
    shared.metrics.set_gates(shared.app.contact.gates());
    let troubles = shared.app.troubles();
    shared.metrics.set_troubles(troubles.silent, troubles.crashing, troubles.drift);
    let text = shared.metrics.encode().map_err(Refused::internal)?;
    let mut response = Response::new(text.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    Ok(response)
}

/// What there is no route for.
pub(super) async fn no_route() -> Refused {
    Fault::no_route().into()
}

/// A path that is asked for with a method it does not have. OPTIONS is answered, as Trove does.
pub(super) async fn no_method(method: Method) -> Answer {
    if method == Method::OPTIONS { Ok(empty(StatusCode::OK)) } else { Err(Fault::no_route().into()) }
}
