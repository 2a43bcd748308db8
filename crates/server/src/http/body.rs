//! Reading what clients send: JSON that says it is, not too long, and not for ever on its way.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::response::IntoResponse as _;
use coffer_wire::trove::{Fault, Kind};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Shared;
use super::answer::Refused;

/// The longest body, in bytes. The longest that makes sense is a creation with many settings.
pub(super) const LIMIT: usize = 256 << 10;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(30);

/// A JSON body. Ours, because axum's answers otherwise than Trove.
#[derive(Debug)]
pub(super) struct Json(pub(super) Value);

impl FromRequest<Shared> for Json {
    type Rejection = Refused;

    async fn from_request(request: Request, _: &Shared) -> Result<Self, Refused> {
        let given = request.headers().get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
        // Trove takes a body that says nothing for text.
        let given = given.unwrap_or("text/plain");
        let kind = given.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(Fault::media_type(kind).into());
        }
        if request.body().size_hint().lower() > LIMIT as u64 {
            return Err(Fault::too_large(LIMIT).into());
        }
        let read = Limited::new(request.into_body(), LIMIT).collect();
        let body = match tokio::time::timeout(ARRIVAL, read).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(Fault::too_large(LIMIT).into()),
            Ok(Err(_)) => return Err(Fault::malformed().into()),
            Err(_) => return Err(Fault::new(Kind::BadRequest, "The request body did not arrive in time.").into()),
        };
        serde_json::from_slice(&body).map(Self).map_err(|_| Fault::malformed().into())
    }
}

/// A JSON body, or none at all.
#[derive(Debug)]
pub(super) struct MaybeJson(pub(super) Option<Value>);

impl FromRequest<Shared> for MaybeJson {
    type Rejection = Refused;

    async fn from_request(request: Request, shared: &Shared) -> Result<Self, Refused> {
        if request.body().is_end_stream() {
            return Ok(Self(None));
        }
        Json::from_request(request, shared).await.map(|Json(body)| Self(Some(body)))
    }
}

/// What a path names. Ours, because axum's answers otherwise than Trove to what is not even text.
#[derive(Debug)]
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send> FromRequestParts<Shared> for At<T> {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, Refused> {
        match Path::<T>::from_request_parts(parts, shared).await {
            Ok(Path(at)) => Ok(Self(at)),
            Err(rejection) => {
                tracing::debug!(status = %rejection.into_response().status(), "a path that names nothing");
                Err(Fault::no_route().into())
            }
        }
    }
}
