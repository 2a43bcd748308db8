//! What happens to every request, outermost: it gets an id, is counted, and what failed inside goes into the log and not
//! to the client.

use std::error::Error as StdError;
use std::fmt::Write as _;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use coffer_wire::trove::{Fault, Kind};
use http::{HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use super::Shared;
use super::answer::{Inside, Refused};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");

/// Answers, and tells how that went.
pub(super) async fn observe(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = Uuid::new_v4();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();

    let mut response = next.run(request).await;

    if let Some(Inside(error)) = response.extensions_mut().remove() {
        tracing::error!(request = %id, error = chain(&*error), "a request failed inside");
        response = internal(id);
    }
    if let Ok(value) = HeaderValue::from_str(&format!("req-{id}")) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let (code, took) = (response.status().as_u16(), began.elapsed());
    tracing::debug!(request = %id, %method, route = route.as_ref().map(MatchedPath::as_str), code, ?took, "answered");
    shared.metrics.request_answered(route, &method, code, took);
    response
}

fn internal(id: Uuid) -> Response {
    let message = format!("Internal Server Error. Please keep this ID to help us figure out what went wrong: ({id}).");
    let mut response = Refused::from(Fault::new(Kind::Internal, message)).into_response();
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// An error with all that is behind it.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Writing to a text cannot fail.
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}
