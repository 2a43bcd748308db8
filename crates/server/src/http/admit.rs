//! Who may do what, decided in one place for every route below `/v1.0`, before the route is looked at:
//!
//! ```text
//!  no valid token                    401, Keystone's shape
//!  another project in the path       403, for administrators too: they use their own and name things by id
//!  below mgmt/ without role admin    401, but for quotas, which everybody may read of themselves
//!  a change without role member      403
//! ```
//!
//! Trove answers in this order, and 401 and 403 come before 404: nobody learns which paths there are.

use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use coffer_wire::trove::{Fault, Kind, Links};
use http::header::{HOST, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::Shared;
use super::answer::Refused;
use crate::caller::Caller;
use crate::identity::{Error, Session};

/// Admits a request, or turns it away.
pub(super) async fn admit(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let asked = Asked { host: host(&shared, &parts.headers, parts.uri.host()) };
    if let Some(below) = below_v1(parts.uri.path()) {
        match check(&shared, below, &parts).await {
            Ok(session) => {
                parts.extensions.insert(session);
            }
            Err(refused) => return with_challenge(refused.into_response(), &shared, &asked),
        }
    }
    parts.extensions.insert(asked.clone());
    let response = next.run(Request::from_parts(parts, body)).await;
    with_challenge(response, &shared, &asked)
}

/// Every 401 of Keystone's shape says where to log in, as keystonemiddleware does.
fn with_challenge(mut response: Response, shared: &Shared, asked: &Asked) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED {
        let uri = format!("Keystone uri=\"{}/identity\"", asked.base(shared));
        if let Ok(value) = HeaderValue::from_str(&uri) {
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
    }
    response
}

/// What follows `/v1.0`, if the path is there or below it.
fn below_v1(path: &str) -> Option<&str> {
    let below = path.strip_prefix("/v1.0")?;
    (below.is_empty() || below.starts_with('/')).then_some(below)
}

async fn check(shared: &Shared, below: &str, parts: &Parts) -> Result<Arc<Session>, Refused> {
    let session = authenticate(shared, &parts.headers).await?;
    let caller = &session.caller;
    let (tenant, rest) = below.trim_start_matches('/').split_once('/').unwrap_or_default();
    if tenant != caller.project.0 || tenant.is_empty() {
        return Err(Fault::other_tenant(&caller.project.0).into());
    }
    let is_quota = rest.starts_with("mgmt/quotas/") && parts.method == Method::GET;
    if (rest == "mgmt" || rest.starts_with("mgmt/")) && !caller.is_admin() && !is_quota {
        return Err(Fault::new(Kind::Unauthorized, "User does not have admin privileges.").into());
    }
    let reads = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let allowed = if reads { !caller.roles.is_empty() } else { caller.may_write() };
    if !allowed {
        let route = parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str);
        return Err(Fault::policy(policy(&parts.method, route.unwrap_or_default())).into());
    }
    Ok(session)
}

/// Whoever shows a valid token.
pub(super) async fn authenticate(shared: &Shared, headers: &HeaderMap) -> Result<Arc<Session>, Refused> {
    let token = headers.get("x-auth-token").and_then(|token| token.to_str().ok());
    let Some(token) = token else { return Err(Fault::unauthenticated().into()) };
    shared.identity.authenticate(token).await.map_err(identity_refused)
}

/// What is told of an error of the identity service.
pub(super) fn identity_refused(error: Error) -> Refused {
    match error {
        Error::Denied => Fault::unauthenticated().into(),
        Error::Overloaded => Fault::new(Kind::Unavailable, error.to_string()).into(),
        Error::Store(_) | Error::Clouds(_) | Error::Secret(_) => Refused::internal(error),
    }
}

/// Trove's name of what was asked for, as its policies name it.
fn policy(method: &Method, route: &str) -> &'static str {
    let last = route.rsplit('/').next().unwrap_or_default();
    let instances = route.contains("/instances");
    match (method.as_str(), last) {
        ("POST", "instances") => "instance:create",
        ("POST", "action") => "instance:action",
        ("PUT" | "PATCH", _) if instances => "instance:update",
        ("DELETE", _) if instances => "instance:delete",
        ("GET" | "HEAD", _) if instances => "instance:index",
        ("POST", "upgrade-preview" | "rollback-preview" | "rollback" | "finalize") => "instance:update",
        _ => "this",
    }
}

/// What a request says of where it thinks it is.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    host: Arc<str>,
}

impl Asked {
    /// Where this server is reached: as the operator says, else as the client did.
    pub(super) fn base(&self, shared: &Shared) -> String {
        shared.app.config().public_url.clone().unwrap_or_else(|| format!("http://{}", self.host))
    }
}

/// The host that the client asked, for links. Only if it can be one: it is repeated in answers.
fn host(shared: &Shared, headers: &HeaderMap, of_uri: Option<&str>) -> Arc<str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
    let given = headers.get(HOST).and_then(|host| host.to_str().ok()).or(of_uri);
    match given.filter(|host| !host.is_empty() && host.len() <= 255 && host.bytes().all(plain)) {
        Some(host) => host.into(),
        None => shared.app.config().listen.to_string().into(),
    }
}

/// An admitted request: who asks, and how links for them look.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    session: Arc<Session>,
    asked: Asked,
}

impl Asker {
    /// Who asks.
    pub(super) fn caller(&self) -> &Caller {
        &self.session.caller
    }

    /// How links for them look.
    pub(super) fn links(&self) -> Links<'_> {
        Links { host: &self.asked.host, project: &self.session.caller.project.0 }
    }
}

impl FromRequestParts<Shared> for Asker {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refused> {
        let session = parts.extensions.get::<Arc<Session>>().cloned();
        let asked = parts.extensions.get::<Asked>().cloned();
        // A route that asks for this outside of /v1.0 is a mistake of ours, and must not let anybody in.
        let (Some(session), Some(asked)) = (session, asked) else { return Err(Fault::unauthenticated().into()) };
        Ok(Self { session, asked })
    }
}

impl FromRequestParts<Shared> for Asked {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refused> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| Fault::unauthenticated().into())
    }
}
