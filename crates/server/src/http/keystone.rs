//! The embedded Keystone v3: tokens with a catalogue, and projects. Below `/v3`, and below `/identity/v3` where clients
//! look for it that know only the host.

use axum::extract::{OriginalUri, State};
use axum::routing::get;
use coffer_store::Project;
use coffer_wire::trove::Fault;
use coffer_wire::trove::identity as wire;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use jiff::Timestamp;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Shared;
use super::admit::{Asked, authenticate, identity_refused};
use super::answer::{Answer, Refused, empty, json, ok};
use super::body::{At, Json};
use crate::identity::{Error, Session};

const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

/// The routes, as they are described.
pub(super) fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(version))
        .routes(routes!(issue, validate, revoke))
        .routes(routes!(projects))
        .routes(routes!(project))
}

/// The same routes below `/identity`, and those that only differ in how the path ends.
pub(super) fn more_routes() -> axum::Router<Shared> {
    let same = axum::Router::from(routes()).route("/v3/", get(version));
    axum::Router::new()
        .route("/v3/", get(version))
        .route("/identity", get(versions))
        .route("/identity/", get(versions))
        .nest("/identity", same)
}

/// `{"version": ...}`.
#[derive(Serialize, Deserialize, ToSchema)]
struct VersionDocument {
    version: IdentityVersion,
}

/// A version of the identity API.
#[derive(Serialize, Deserialize, ToSchema)]
struct IdentityVersion {
    id: String,
    status: String,
    updated: String,
    links: Vec<IdentityLink>,
    #[serde(rename = "media-types")]
    media_types: Vec<MediaType>,
}

/// Where it is.
#[derive(Serialize, Deserialize, ToSchema)]
struct IdentityLink {
    rel: String,
    href: String,
}

/// In which form it answers.
#[derive(Serialize, Deserialize, ToSchema)]
struct MediaType {
    base: String,
    #[serde(rename = "type")]
    kind: String,
}

fn document(shared: &Shared, asked: &Asked, uri: &Uri) -> IdentityVersion {
    let prefix = if uri.path().starts_with("/identity") { "/identity" } else { "" };
    IdentityVersion {
        id: "v3.14".to_owned(),
        status: "stable".to_owned(),
        updated: "2020-04-07T00:00:00Z".to_owned(),
        links: vec![IdentityLink { rel: "self".to_owned(), href: format!("{}{prefix}/v3/", asked.base(shared)) }],
        media_types: vec![MediaType {
            base: "application/json".to_owned(),
            kind: "application/vnd.openstack.identity-v3+json".to_owned(),
        }],
    }
}

/// Which version of the identity API this is. Clients ask before they log in.
#[utoipa::path(get, path = "/v3", tag = "identity", responses((status = 200, body = VersionDocument)))]
async fn version(State(shared): State<Shared>, asked: Asked, OriginalUri(uri): OriginalUri) -> Answer {
    ok(&VersionDocument { version: document(&shared, &asked, &uri) })
}

/// Which versions there are: the answer is "several", as Keystone's is, though there is one.
async fn versions(State(shared): State<Shared>, asked: Asked, OriginalUri(uri): OriginalUri) -> Answer {
    let values = [document(&shared, &asked, &uri)];
    json(StatusCode::MULTIPLE_CHOICES, &serde_json::json!({"versions": {"values": values}}))
}

/// A token, for a password or for another token.
#[utoipa::path(post, path = "/v3/auth/tokens", tag = "identity", request_body = wire::AuthBody,
    responses((status = 201, body = wire::TokenBody, headers(("x-subject-token" = String, description = "the token")))))]
async fn issue(State(shared): State<Shared>, asked: Asked, body: Result<Json, Refused>) -> Answer {
    let Json(body) = body.map_err(in_keystones_shape)?;
    let Ok(wire::AuthBody { auth }) = serde_json::from_value(body) else {
        return Err(
            keystone_fault(400, "Bad Request", "Expecting to find auth with identity in the request body.").into()
        );
    };
    let issued = shared.identity.issue(&auth).await.map_err(identity_refused)?;
    let mut response = json(StatusCode::CREATED, &token_body(&issued.session, &shared, &asked))?;
    let mut value = HeaderValue::from_str(issued.token.expose_secret()).map_err(Refused::internal)?;
    value.set_sensitive(true);
    response.headers_mut().insert(SUBJECT, value);
    Ok(response)
}

/// What a token says. One's own, or any for an administrator.
#[utoipa::path(get, path = "/v3/auth/tokens", tag = "identity",
    params(("x-subject-token" = String, Header, description = "the token that is asked about")),
    responses((status = 200, body = wire::TokenBody)))]
async fn validate(State(shared): State<Shared>, asked: Asked, headers: HeaderMap) -> Answer {
    let (subject, session) = subject(&shared, &headers).await?;
    let mut response = ok(&token_body(&session, &shared, &asked))?;
    response.headers_mut().insert(SUBJECT, subject);
    Ok(response)
}

/// Makes a token worth nothing. One's own, or any for an administrator.
#[utoipa::path(delete, path = "/v3/auth/tokens", tag = "identity",
    params(("x-subject-token" = String, Header, description = "the token that is to be worth nothing")),
    responses((status = 204)))]
async fn revoke(State(shared): State<Shared>, headers: HeaderMap) -> Answer {
    let (subject, _) = subject(&shared, &headers).await?;
    shared.identity.revoke(subject.to_str().unwrap_or_default()).await.map_err(identity_refused)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// The token that is asked about, and what it says, for whoever may know.
async fn subject(shared: &Shared, headers: &HeaderMap) -> Result<(HeaderValue, std::sync::Arc<Session>), Refused> {
    let asker = authenticate(shared, headers).await?;
    let unknown = || Refused::from(keystone_fault(404, "Not Found", "This is not a recognized token."));
    let subject = headers.get(&SUBJECT).ok_or_else(unknown)?;
    let token = subject.to_str().map_err(|_| unknown())?;
    let session = match shared.identity.authenticate(token).await {
        Ok(session) => session,
        Err(Error::Denied) => return Err(unknown()),
        Err(other) => return Err(identity_refused(other)),
    };
    // Somebody else's token is not told from none.
    if session.caller.user != asker.caller.user && !asker.caller.is_admin() {
        return Err(unknown());
    }
    Ok((subject.clone(), session))
}

/// The projects in which the caller has a role.
#[utoipa::path(get, path = "/v3/projects", tag = "identity",
    params(("name" = Option<String>, Query, description = "only the one of that name")),
    responses((status = 200, body = wire::ProjectsBody)))]
async fn projects(
    State(shared): State<Shared>,
    asked: Asked,
    headers: HeaderMap,
    paging: super::page::Paging,
) -> Answer {
    let session = authenticate(&shared, &headers).await?;
    let found = match paging.value("name") {
        Some(name) => shared.identity.project(&session.caller, &name).await.map(|p| p.into_iter().collect()),
        None => shared.identity.projects(&session.caller).await,
    };
    let base = asked.base(&shared);
    let projects = found.map_err(identity_refused)?.iter().map(|project| shown(project, &base)).collect();
    ok(&wire::ProjectsBody { projects, links: wire::SelfLink { this: format!("{base}/v3/projects") } })
}

#[derive(Deserialize)]
struct InProject {
    id: String,
}

/// One project, by id or name.
#[utoipa::path(get, path = "/v3/projects/{id}", tag = "identity", responses((status = 200, body = wire::ProjectBody)))]
async fn project(State(shared): State<Shared>, asked: Asked, headers: HeaderMap, At(at): At<InProject>) -> Answer {
    let session = authenticate(&shared, &headers).await?;
    let project = shared.identity.project(&session.caller, &at.id).await.map_err(identity_refused)?;
    let unknown = || {
        let id = coffer_wire::trove::check::clip(&at.id);
        keystone_fault(404, "Not Found", &format!("Could not find project: {id}."))
    };
    ok(&wire::ProjectBody { project: shown(&project.ok_or_else(unknown)?, &asked.base(&shared)) })
}

fn shown(project: &Project, base: &str) -> wire::Project {
    wire::Project {
        id: project.id.to_string(),
        name: project.name.clone(),
        description: String::new(),
        domain_id: wire::Domain::ID.to_owned(),
        parent_id: wire::Domain::ID.to_owned(),
        enabled: true,
        is_domain: false,
        links: wire::SelfLink { this: format!("{base}/v3/projects/{}", project.id) },
    }
}

fn token_body(session: &Session, shared: &Shared, asked: &Asked) -> wire::TokenBody {
    let domain = wire::Domain::default;
    let date = |at: Timestamp| at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let roles = session.caller.roles.iter().map(|role| role.name().to_owned());
    let project = session.project.as_ref();
    wire::TokenBody {
        token: wire::Token {
            methods: vec!["password".to_owned()],
            user: wire::User {
                id: session.caller.user.clone(),
                name: session.user_name.clone(),
                domain: domain(),
                password_expires_at: None,
            },
            audit_ids: vec![session.audit_id.clone()],
            expires_at: date(session.expires_at),
            issued_at: date(session.issued_at),
            project: project.map(|p| wire::Named { id: p.id.to_string(), name: p.name.clone(), domain: domain() }),
            is_domain: false,
            roles: roles.map(|name| wire::Role { id: name.clone(), name }).collect(),
            catalog: project.map(|project| catalogue(project, shared, asked)).unwrap_or_default(),
        },
    }
}

/// Where the services are, for a project. The endpoint has the project in it: clients ask nothing more to find it.
fn catalogue(project: &Project, shared: &Shared, asked: &Asked) -> Vec<wire::Service> {
    let (base, region) = (asked.base(shared), &shared.app.config().region);
    let service = |kind: &str, name: &str, url: &str| wire::Service {
        id: name.to_owned(),
        name: name.to_owned(),
        kind: kind.to_owned(),
        endpoints: ["public", "internal", "admin"]
            .map(|interface| wire::Endpoint {
                id: format!("{name}-{interface}"),
                interface: interface.to_owned(),
                region: region.clone(),
                region_id: region.clone(),
                url: url.to_owned(),
            })
            .into(),
    };
    vec![
        service("database", "trove", &format!("{base}/v1.0/{}", project.id)),
        service("identity", "keystone", &format!("{base}/identity")),
    ]
}

fn keystone_fault(code: u16, title: &'static str, message: &str) -> Fault {
    Fault::Identity { code, title, message: message.to_owned() }
}

/// What went wrong with a body, told as Keystone tells it.
fn in_keystones_shape(refused: Refused) -> Refused {
    let Refused::Fault(fault) = refused else { return refused };
    let title = match fault.code() {
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        _ => "Bad Request",
    };
    keystone_fault(fault.code(), title, fault.message()).into()
}
