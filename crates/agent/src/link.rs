//! The agent's link to its control plane: asks what to run, tells what it sees, over HTTP on a unix socket.
//!
//! The link never stands in the way of the instance: it runs beside the supervisor, tries again for ever with a pause
//! that grows, and loses nothing, because what was not acknowledged is told again.

use std::time::Duration;

use coffer_wire::agent::{
    Ack, BODY_LIMIT, Desired, Identity, POLL_SECONDS, REPORT_SECONDS, Report, desired_path, report_path,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

/// The shortest and the longest pause before an attempt to reach the control plane again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why an exchange with the control plane failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("no connection: {0}")]
    Connect(std::io::Error),
    #[error("no answer: {0}")]
    Exchange(#[from] hyper::Error),
    #[error("no answer within the time limit")]
    Late(#[from] tokio::time::error::Elapsed),
    #[error("answered with status {0}")]
    Status(StatusCode),
    #[error("answered with a body that cannot be read: {0}")]
    Body(String),
}

/// Asks for the desired state for ever, and hands on each that is new.
pub(crate) async fn follow_desired(identity: &Identity, desired: &watch::Sender<Option<Desired>>) {
    let mut pause = PAUSE.0;
    loop {
        // Revision 0 is never handed out, so a new agent is answered at once.
        let revision = desired.borrow().as_ref().map_or(0, |d| d.revision);
        match ask(identity, revision).await {
            Ok(answer) => {
                pause = PAUSE.0;
                if let Some(answer) = answer {
                    desired.send_replace(Some(answer));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "control plane not reached");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Tells every change of `report`, and the same again at intervals, and hands on what was acknowledged.
pub(crate) async fn tell(identity: &Identity, mut report: watch::Receiver<Report>, acks: mpsc::UnboundedSender<Ack>) {
    let mut pause = PAUSE.0;
    loop {
        let current = report.borrow_and_update().clone();
        match send(identity, &current).await {
            Ok(ack) => {
                pause = PAUSE.0;
                if !(ack.results.is_empty() && ack.events_until.is_none()) {
                    // The supervisor ends only with the process.
                    let _ = acks.send(ack);
                }
                let interval = Duration::from_secs(REPORT_SECONDS);
                if let Ok(Err(_)) = tokio::time::timeout(interval, report.changed()).await {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "report not delivered");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

async fn ask(identity: &Identity, revision: u64) -> Result<Option<Desired>, Error> {
    let limit = Duration::from_secs(POLL_SECONDS + 10);
    let path = desired_path(identity.instance, revision);
    let (status, body) = tokio::time::timeout(limit, exchange(identity, Method::GET, &path, Vec::new())).await??;
    match status {
        StatusCode::OK => Ok(Some(parse(&body)?)),
        StatusCode::NO_CONTENT => Ok(None),
        other => Err(Error::Status(other)),
    }
}

async fn send(identity: &Identity, report: &Report) -> Result<Ack, Error> {
    let limit = Duration::from_secs(10);
    let body = serde_json::to_vec(report).map_err(|e| Error::Body(e.to_string()))?;
    let path = report_path(identity.instance);
    let (status, body) = tokio::time::timeout(limit, exchange(identity, Method::POST, &path, body)).await??;
    match status {
        StatusCode::OK => parse(&body),
        other => Err(Error::Status(other)),
    }
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|e| Error::Body(e.to_string()))
}

/// One request on a connection of its own: on a unix socket that costs less than keeping one alive.
async fn exchange(
    identity: &Identity,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Error> {
    let stream = UnixStream::connect(&identity.server_socket).await.map_err(Error::Connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "coffer")
        .header(header::AUTHORIZATION, format!("Bearer {}", identity.token))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| Error::Body(e.to_string()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
    connection.abort();
    Ok((status, body.map_err(|e| Error::Body(e.to_string()))?.to_bytes()))
}
