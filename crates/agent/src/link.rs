//! The agent's links to its control plane: asks what to run, tells what it sees, over HTTP on a unix socket.
//!
//! Each server of this host has a socket, and the agent a link to each: so whichever server decides something, it is heard
//! at once, and whichever dies is not missed. What they say is the same, since it is derived from one store; that one of them is
//! late does no harm, as nothing is done twice.
//!
//! The link never stands in the way of the instance: it runs beside the supervisor, tries again for ever with a pause
//! that grows, and loses nothing, because what was not acknowledged is told again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use coffer_core::agent::WISH_LASTS;
use coffer_wire::agent::{
    Ack, BODY_LIMIT, Desired, Identity, POLL_SECONDS, REPORT_SECONDS, Report, desired_path, report_path,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

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

// A server that has nothing to say says so before its wish is over.
const _: () = assert!(WISH_LASTS.as_secs() >= POLL_SECONDS + 10);

/// How long an agent that has just begun says nothing, unless it has found out before what there is. One whose engine is loading
/// takes longer, and is not to be silent for that.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// How often it is looked for other servers.
const LOOK_FOR_SERVERS: Duration = Duration::from_secs(2);

/// What all links share.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) identity: Rc<Identity>,
    /// What each server wants, by its socket.
    pub(crate) desired: watch::Sender<Wanted>,
    pub(crate) report: watch::Receiver<Report>,
    pub(crate) acks: mpsc::UnboundedSender<Ack>,
}

/// What each server wants, by its socket.
pub(crate) type Wanted = BTreeMap<PathBuf, Desired>;

/// Has a link to every server there is, for ever. One whose socket goes is gone.
pub(crate) async fn follow_servers(link: Link) {
    let mut links: BTreeMap<PathBuf, AbortHandle> = BTreeMap::new();
    loop {
        let sockets = sockets(Path::new(&link.identity.server_socket));
        links.retain(|socket, running| {
            let stays = sockets.contains(socket);
            if !stays {
                running.abort();
                link.desired.send_if_modified(|wanted| wanted.remove(socket).is_some());
            }
            stays
        });
        for socket in sockets {
            links.entry(socket).or_insert_with_key(|socket| {
                let (link, socket) = (link.clone(), socket.clone());
                let both = async move { tokio::join!(follow_desired(&link, &socket), tell(&link, &socket)) };
                tokio::task::spawn_local(both).abort_handle()
            });
        }
        tokio::time::sleep(LOOK_FOR_SERVERS).await;
    }
}

/// The one that the identity names, which may not be there yet, and those of other servers beside it: `agents-b.sock`.
fn sockets(named: &Path) -> BTreeSet<PathBuf> {
    let beside = named.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.strip_prefix("agents-").is_some_and(|rest| rest.strip_suffix(".sock").is_some())
    };
    let mut all: BTreeSet<_> = beside.map(|entry| entry.path()).filter(is_socket).collect();
    all.insert(named.to_owned());
    all
}

/// Asks for the desired state for ever, and hands on each that is new.
async fn follow_desired(link: &Link, socket: &Path) {
    let mut pause = PAUSE.0;
    let mut answered_at = Instant::now();
    loop {
        // Revision 0 is never handed out, so a new agent is answered at once.
        let revision = link.desired.borrow().get(socket).map_or(0, |d| d.revision);
        match ask(&link.identity, socket, revision).await {
            Ok(answer) => {
                pause = PAUSE.0;
                answered_at = Instant::now();
                if let Some(answer) = answer {
                    link.desired.send_modify(|wanted| drop(wanted.insert(socket.to_owned(), answer)));
                }
            }
            Err(error) => {
                tracing::debug!(%error, ?socket, "control plane not reached");
                let is_silent = answered_at.elapsed() >= WISH_LASTS;
                if matches!(error, Error::Connect(_)) || is_silent {
                    // It is gone, or stopped, or cannot read its store, and nobody can take back what it wanted.
                    link.desired.send_if_modified(|wanted| wanted.remove(socket).is_some());
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Tells every change of `report`, and the same again at intervals, and hands on what was acknowledged.
async fn tell(link: &Link, socket: &Path) {
    let mut report = link.report.clone();
    let mut pause = PAUSE.0;
    // Nobody is to believe that an engine does not run that was only not looked for yet.
    let _ = tokio::time::timeout(FIRST_LOOK, report.changed()).await;
    loop {
        let current = report.borrow_and_update().clone();
        match send(&link.identity, socket, &current).await {
            Ok(ack) => {
                pause = PAUSE.0;
                if !(ack.results.is_empty() && ack.events_until.is_none()) {
                    // The supervisor ends only with the process.
                    let _ = link.acks.send(ack);
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

async fn ask(identity: &Identity, socket: &Path, revision: u64) -> Result<Option<Desired>, Error> {
    let path = desired_path(identity.instance, revision);
    let (status, body) =
        tokio::time::timeout(WISH_LASTS, exchange(identity, socket, Method::GET, &path, Vec::new())).await??;
    match status {
        StatusCode::OK => Ok(Some(parse(&body)?)),
        StatusCode::NO_CONTENT => Ok(None),
        other => Err(Error::Status(other)),
    }
}

async fn send(identity: &Identity, socket: &Path, report: &Report) -> Result<Ack, Error> {
    let limit = Duration::from_secs(10);
    let body = serde_json::to_vec(report).map_err(|e| Error::Body(e.to_string()))?;
    let path = report_path(identity.instance);
    let (status, body) = tokio::time::timeout(limit, exchange(identity, socket, Method::POST, &path, body)).await??;
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
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Error> {
    let stream = UnixStream::connect(socket).await.map_err(Error::Connect)?;
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

#[cfg(test)]
mod tests;
