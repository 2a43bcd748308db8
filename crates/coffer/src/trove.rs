//! A client of Trove's API: authenticates against Keystone, finds the endpoint in the catalogue, and asks.
//!
//! The token stays in memory. Nothing is asked twice by itself: what failed is told.

use std::time::Duration;

use coffer_core::finding::{Finding, Severity};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::clouds::{Cloud, Credentials, Domain, Named};
use crate::failure::{Failure, Kind};

/// How long a server may take to take a connection, and to answer.
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(660);

/// An authenticated client of one project.
pub(crate) struct Trove {
    http: reqwest::Client,
    /// The endpoint with the project in it, without a slash at its end.
    endpoint: String,
    token: String,
}

impl Trove {
    /// Authenticates, and looks up where the database service is.
    pub(crate) async fn connect(cloud: &Cloud) -> Result<Self, Failure> {
        let secure = cloud.auth_url.starts_with("https:");
        let mut http = http_client(cloud, secure)?;
        let url = format!("{}/auth/tokens", cloud.auth_url);
        let answer = http
            .post(&url)
            .json(&authentication(cloud))
            .send()
            .await
            .map_err(|error| unreachable(&cloud.auth_url, &error))?;
        let status = answer.status();
        let token = answer.headers().get("x-subject-token").and_then(|token| token.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await.map_err(|error| unreachable(&cloud.auth_url, &error))?;
        let (StatusCode::CREATED, Some(token)) = (status, token) else {
            return Err(not_authenticated(cloud, status, &body));
        };
        let issued: Issued = read(&body, &url)?;
        let endpoint = issued.endpoint(cloud)?;
        if !secure && endpoint.starts_with("https:") {
            http = http_client(cloud, true)?;
        }
        Ok(Self { http, endpoint, token })
    }

    /// What is at `path` of the project.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// Sends `body`, and reads what comes back.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(body)).await
    }

    /// Sends `body` where nothing comes back.
    pub(crate) async fn tell(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(), Failure> {
        self.send(method, path, body).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<&Value>) -> Result<T, Failure> {
        let answer = self.send(method, path, body).await?;
        read(&answer, path)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Vec<u8>, Failure> {
        let url = format!("{}{path}", self.endpoint);
        let mut request = self.http.request(method, &url).header("x-auth-token", &self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| unreachable(&self.endpoint, &error))?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(|error| unreachable(&self.endpoint, &error))?;
        if status.is_success() { Ok(body.into()) } else { Err(refusal(status, &body)) }
    }
}

/// The part of Keystone's answer that is needed.
#[derive(Deserialize)]
struct Issued {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    interface: String,
    url: String,
    region: Option<String>,
}

impl Issued {
    fn endpoint(self, cloud: &Cloud) -> Result<String, Failure> {
        let interface = cloud.interface.trim_end_matches("URL");
        let databases = self.token.catalog.into_iter().filter(|service| service.kind == "database");
        let mut fitting = databases.flat_map(|service| service.endpoints).filter(|endpoint| {
            endpoint.interface == interface
                && cloud.region.as_ref().is_none_or(|region| endpoint.region.as_ref().is_none_or(|r| r == region))
        });
        fitting.next().map(|endpoint| endpoint.url.trim_end_matches('/').to_owned()).ok_or_else(|| {
            let region = cloud.region.as_ref().map(|region| format!(" in region {region}")).unwrap_or_default();
            Failure::new(
                Kind::Failed,
                format!("the catalogue of {} has no {interface} endpoint for databases{region}", cloud.auth_url),
                "correct region_name or interface of the cloud",
            )
        })
    }
}

fn http_client(cloud: &Cloud, secure: bool) -> Result<reqwest::Client, Failure> {
    // Fails when it is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("coffer/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(ANSWER);
    builder = match (&cloud.cacert, secure) {
        // Reading the system's certificates takes longer than everything else that a command does.
        (_, false) => builder.tls_certs_only([]),
        (None, true) => builder,
        (Some(path), true) => {
            let pem = fs_err::read(path)?;
            builder.tls_certs_merge(reqwest::Certificate::from_pem_bundle(&pem).map_err(Failure::other)?)
        }
    };
    builder.tls_danger_accept_invalid_certs(!cloud.verify).build().map_err(Failure::other)
}

fn authentication(cloud: &Cloud) -> Value {
    let identity = match &cloud.credentials {
        Credentials::Password { user, password } => {
            let mut user = reference(user);
            user["password"] = json!(password);
            json!({"methods": ["password"], "password": {"user": user}})
        }
        Credentials::Token(token) => json!({"methods": ["token"], "token": {"id": token}}),
    };
    json!({"auth": {"identity": identity, "scope": {"project": reference(&cloud.project)}}})
}

fn reference(named: &Named) -> Value {
    match named {
        Named::Id(id) => json!({"id": id}),
        Named::Name { name, domain: Domain::Id(id) } => json!({"name": name, "domain": {"id": id}}),
        Named::Name { name, domain: Domain::Name(domain) } => json!({"name": name, "domain": {"name": domain}}),
    }
}

fn read<T: DeserializeOwned>(body: &[u8], from: &str) -> Result<T, Failure> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::other(format!("the answer to {from} cannot be read: {error}")))
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    // The innermost error is the one that says what happened, such as a refused connection.
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let message = if error.is_timeout() && !error.is_connect() {
        format!("{url} did not answer in time")
    } else {
        format!("{url} cannot be reached: {innermost}")
    };
    Failure::new(
        Kind::Unreachable,
        message,
        "start the server: coffer serve --data DIR; or correct auth_url of the cloud",
    )
}

fn not_authenticated(cloud: &Cloud, status: StatusCode, body: &[u8]) -> Failure {
    if status == StatusCode::UNAUTHORIZED {
        let message = format!("{} does not accept the credentials", cloud.auth_url);
        return Failure::new(Kind::Auth, message, "use those of the clouds.yaml that this server wrote");
    }
    let Said { message, .. } = said(body);
    Failure::new(
        Kind::Failed,
        format!("{} answered {status} {message}", cloud.auth_url),
        "is auth_url of the cloud right?",
    )
}

/// What an error's body says, in whichever of the shapes it has.
struct Said {
    message: String,
    findings: Vec<Finding>,
}

fn said(body: &[u8]) -> Said {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let inside = body.as_object().and_then(|object| object.values().find(|value| value.is_object())).unwrap_or(&body);
    let message = inside["message"].as_str().unwrap_or_default().replace("<br />", " ");
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    Said { message, findings: serde_json::from_value(inside["findings"].clone()).unwrap_or_default() }
}

/// The server's own words, with every finding on a line of its own.
fn refusal(status: StatusCode, body: &[u8]) -> Failure {
    let Said { message, findings } = said(body);
    let kind = match status {
        StatusCode::UNAUTHORIZED => Kind::Auth,
        StatusCode::NOT_FOUND => Kind::NotFound,
        status if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED => Kind::Refused,
        _ => Kind::Failed,
    };
    if findings.is_empty() {
        let message = if message.is_empty() { format!("the server answered {status}") } else { message };
        return Failure { kind, ..Failure::other(message) };
    }
    let lines: Vec<_> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| format!("  {}: {}", finding.object, finding.message))
        .collect();
    let hints: Vec<_> = findings
        .iter()
        .filter(|f| f.severity == Severity::Error && !f.remedy.is_empty())
        .map(|f| f.remedy.clone())
        .collect();
    Failure::new(kind, format!("refused, and nothing was touched:\n{}", lines.join("\n")), hints.join("\nhint: "))
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::refusal;
    use crate::failure::Kind;

    #[test]
    fn every_shape_of_fault_is_told_in_the_server_s_words() {
        let check = |status: u16, body: &str, kind: Kind, text: &str| {
            let failure = refusal(StatusCode::from_u16(status).expect("a status"), body.as_bytes());
            assert_eq!(failure.kind, kind, "{body}");
            assert_eq!(failure.to_string(), text);
        };
        check(
            404,
            r#"{"itemNotFound": {"code": 404, "message": "Resource nope cannot be found."}}"#,
            Kind::NotFound,
            "error: Resource nope cannot be found.",
        );
        check(
            403,
            r#"{"message": "Access was denied to this resource.<br /><br />\nUser x.\n\n", "code": "403 Forbidden", "title": "Forbidden"}"#,
            Kind::Refused,
            "error: Access was denied to this resource. User x.",
        );
        check(401, r#"{"error": {"code": 401, "title": "Unauthorized", "message": "No."}}"#, Kind::Auth, "error: No.");
        check(
            422,
            r#"{"unprocessableEntity": {"code": 422, "message": "busy; hint: wait for it"}}"#,
            Kind::Refused,
            "error: busy\nhint: wait for it",
        );
        check(502, "<html>", Kind::Failed, "error: the server answered 502 Bad Gateway");
        check(
            400,
            r#"{"badRequest": {"code": 400, "message": "a; b", "findings": [
                {"id": "x", "severity": "error", "object": "setting a", "message": "unknown", "remedy": "remove it"},
                {"id": "y", "severity": "warning", "object": "setting c", "message": "late", "remedy": ""},
                {"id": "z", "severity": "error", "object": "disk", "message": "full", "remedy": "make room"}]}}"#,
            Kind::Refused,
            "error: refused, and nothing was touched:\n  setting a: unknown\n  disk: full\nhint: remove it\nhint: make room",
        );
    }
}
