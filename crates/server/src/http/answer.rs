//! How answers look: always `application/json`, even when there is nothing in them.

use std::error::Error as StdError;
use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use coffer_wire::trove::Fault;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What a route gives back.
pub(super) type Answer = Result<Response, Refused>;

/// A request that was not answered as it was asked.
#[derive(Debug)]
pub(super) enum Refused {
    /// With something that the client is told.
    Fault(Fault),
    /// With something that only the log is told; the client gets the request's id.
    Internal(Arc<dyn StdError + Send + Sync>),
}

/// Why a request failed inside. Travels with the answer to [`super::observe`], which knows the request's id.
#[derive(Clone, Debug)]
pub(super) struct Inside(pub(super) Arc<dyn StdError + Send + Sync>);

impl Refused {
    pub(super) fn internal(error: impl StdError + Send + Sync + 'static) -> Self {
        Self::Internal(Arc::new(error))
    }
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        match self {
            Self::Fault(fault) => {
                let code = StatusCode::from_u16(fault.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                json(code, &fault).unwrap_or_else(|_| empty(code))
            }
            Self::Internal(error) => {
                let mut response = empty(StatusCode::INTERNAL_SERVER_ERROR);
                response.extensions_mut().insert(Inside(error));
                response
            }
        }
    }
}

/// An answer with something in it.
pub(super) fn json<T: Serialize>(code: StatusCode, body: &T) -> Answer {
    let mut bytes = Vec::with_capacity(1024);
    serde_json::to_writer(&mut bytes, body).map_err(Refused::internal)?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// 200 with something in it.
pub(super) fn ok<T: Serialize>(body: &T) -> Answer {
    json(StatusCode::OK, body)
}

/// 202 with nothing in it: it was recorded, and will be done.
pub(super) fn accepted() -> Response {
    empty(StatusCode::ACCEPTED)
}

/// An answer with nothing in it.
pub(super) fn empty(code: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
