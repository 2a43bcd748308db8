//! The endpoint that agents dial: what they should run, what they are asked, and what they report.
//!
//! A unix socket that only the server's own user can reach, in a directory that only that user can enter. Even so every
//! request proves with a token whose agent it is, because engines of tenants run on the same machine.

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path as InPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use coffer_core::finding::Cause;
use coffer_core::id::{InstanceId, OperationId, TaskId};
use coffer_core::instance::Operation;
use coffer_core::plan::Step;
use coffer_core::runner::{operation_of, order_of};
use coffer_core::task::Task;
use coffer_wire::agent::{Ack, BODY_LIMIT, Desired, POLL_SECONDS, Report};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::net::UnixListener;
use tokio::time::{Instant, timeout_at};
use tracing::{error, warn};

use crate::app::App;
use crate::contact::Contact;
use crate::directory::Directory;
use crate::ending::Ending;

/// What an agent saw is written down at least so often, even when nothing changes.
const WRITE_SECONDS: i64 = 30;

/// The event of an engine that ended by itself and was started again.
const ENGINE_DIED: &str = "engine.died";

/// Listens on the agents' socket. What a former server left there is removed; whoever calls this knows that none runs.
pub(crate) fn listen(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    let private = |mode| std::fs::Permissions::from_mode(mode);
    if let Some(dir) = path.parent() {
        fs_err::create_dir_all(dir)?;
        fs_err::set_permissions(dir, private(0o700))?;
    }
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs_err::set_permissions(path, private(0o600))?;
    Ok(listener)
}

/// What everything here needs.
#[derive(Clone)]
struct Endpoint {
    app: Arc<App>,
    /// Connections outlive a server that breaks off, and must not hold its directory for it.
    directory: Weak<Directory>,
    ending: Ending,
}

/// The routes of the agent protocol.
pub(crate) fn router(app: Arc<App>, directory: &Arc<Directory>, ending: Ending) -> Router {
    Router::new()
        .route("/agent/v1/instances/{id}/desired", get(desired))
        .route("/agent/v1/instances/{id}/report", post(report))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(Endpoint { app, directory: Arc::downgrade(directory), ending })
}

#[derive(Deserialize)]
struct Known {
    revision: u64,
}

async fn desired(
    State(endpoint): State<Endpoint>,
    InPath(id): InPath<String>,
    Query(known): Query<Known>,
    headers: HeaderMap,
) -> Response {
    let Some(id) = endpoint.authenticate(&id, &headers) else { return StatusCode::UNAUTHORIZED.into_response() };
    let mut ending = endpoint.ending.clone();
    let until = Instant::now() + Duration::from_secs(POLL_SECONDS);
    let bell = endpoint.app.contact.bell(id);
    loop {
        // Listening begins before looking, so that nothing rings unheard in between.
        let mut rung = pin!(bell.notified());
        rung.as_mut().enable();
        match endpoint.look_up(id).await {
            Ok(None) => return StatusCode::GONE.into_response(),
            Ok(Some(desired)) if desired.revision != known.revision => return axum::Json(desired).into_response(),
            Ok(Some(_)) => {}
            Err(e) => return failed(id, &e),
        }
        let woken = async {
            tokio::select! {
                () = rung => true,
                () = ending.begun() => false,
            }
        };
        if timeout_at(until, woken).await != Ok(true) {
            return StatusCode::NO_CONTENT.into_response();
        }
    }
}

async fn report(
    State(endpoint): State<Endpoint>,
    InPath(id): InPath<String>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Response {
    let Some(id) = endpoint.authenticate(&id, &headers) else { return StatusCode::UNAUTHORIZED.into_response() };
    let report: Report = match serde_json::from_slice(&body) {
        Ok(report) => report,
        Err(e) => {
            warn!(instance = %id, error = %e, "an agent's report cannot be read");
            return (StatusCode::BAD_REQUEST, e.to_string()).into_response();
        }
    };
    match endpoint.take(id, report).await {
        Ok(Some(ack)) => axum::Json(ack).into_response(),
        Ok(None) => StatusCode::GONE.into_response(),
        Err(e) => failed(id, &e),
    }
}

fn failed(id: InstanceId, error: &coffer_store::Error) -> Response {
    error!(instance = %id, %error, "an agent could not be served");
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

impl Endpoint {
    fn authenticate(&self, id: &str, headers: &HeaderMap) -> Option<InstanceId> {
        let id: InstanceId = id.parse().ok()?;
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.app.key.is_agent_token(id, token).then_some(id)
    }

    /// What the agent is to be told. All of it is derived from the store, but for questions whose askers wait.
    async fn look_up(&self, id: InstanceId) -> Result<Option<Desired>, coffer_store::Error> {
        let Some(row) = self.app.store.for_agent(id).await? else { return Ok(None) };
        let mut tasks: Vec<_> = row.open.as_ref().and_then(order_of).into_iter().collect();
        tasks.extend(self.app.contact.questions(id));
        for order in &mut tasks {
            // Only on the way to the agent are passwords as they were given.
            if let Task::Accounts { request } = &mut order.task {
                for password in request.passwords_mut() {
                    *password = self.app.key.unseal(id, password.clone());
                }
            }
        }
        let (generation, engine) = row.desired.map(|d| (d.generation, d.engine)).unzip();
        let mut desired = Desired {
            revision: 0,
            generation: generation.unwrap_or_default(),
            engine,
            tasks,
            keep_preimage_seconds: u64::from(self.app.config.preimage_keep_hours) * 3600,
            held_preimage: row.open.as_ref().and_then(restores),
        };
        desired.revision = revision_of(&desired);
        Ok(Some(desired))
    }

    /// An agent that does not get on with its section goes on trying. Until it does, everybody can see why.
    async fn tell_stuck(
        &self,
        id: InstanceId,
        task: &TaskId,
        cause: &Cause,
        at: Timestamp,
    ) -> Result<(), coffer_store::Error> {
        let mut write = self.app.store.write().await?;
        let open = write.instance(coffer_store::Scope::Admin, id).await?.and_then(|row| row.open);
        if open.is_none_or(|open| operation_of(task) != Some(open.id)) {
            // What it was said of is over, and its end was told.
            return Ok(());
        }
        warn!(instance = %id, %cause, "the agent does not get on with a section");
        let event = coffer_store::Event { at, id: "operation.stuck".to_owned(), message: cause.to_string() };
        write.insert_event(id, &event).await?;
        write.set_fault(id, Some(cause), at).await?;
        write.commit().await
    }

    async fn take(&self, id: InstanceId, report: Report) -> Result<Option<Ack>, coffer_store::Error> {
        let Report { mut observed, running, results, events } = report;
        let contact = &self.app.contact;
        // By our clock: whether it is recent is judged by our clock as well.
        observed.at = self.app.clock.now();
        let news = contact.see(id, &observed, WRITE_SECONDS);
        let told = contact.running(id).and_then(|r| r.stuck);
        if let Some(running) = &running
            && let Some(cause) = running.stuck.as_ref().filter(|cause| told.as_ref() != Some(cause))
        {
            self.tell_stuck(id, &running.id, cause, observed.at).await?;
        }
        contact.set_running(id, running);
        let mut answers = Vec::new();
        for result in &results {
            if !contact.answer(id, result) {
                answers.extend(operation_of(&result.id).map(|operation| (operation, result)));
            }
        }
        for _ in events.iter().filter(|e| e.id == ENGINE_DIED) {
            self.app.metrics.engine_restarted();
        }
        let events_until = events.iter().map(|e| e.at).max();
        let events: Vec<_> =
            events.into_iter().map(|e| coffer_store::Event { at: e.at, id: e.id, message: e.message }).collect();
        if news || !answers.is_empty() || !events.is_empty() {
            let saved = self.app.store.save_report(id, news.then_some(&observed), &answers, &events).await;
            if !matches!(saved, Ok(true)) {
                // Not written down, so it is still news when it is told again.
                contact.forget(id);
                return saved.map(|_| None);
            }
            contact.wake_runner(id);
        }
        // The answer to another server's question is for that one to take, unless it is gone.
        let directory = self.directory.upgrade();
        let has_another = |asker| directory.as_ref().is_none_or(|directory| directory.has_another(&asker));
        let is_others = |id: &TaskId| Contact::asker(id).is_some_and(has_another);
        let taken = results.into_iter().map(|r| r.id).filter(|id| !is_others(id)).collect();
        Ok(Some(Ack { results: taken, events_until }))
    }
}

/// The operation whose pre-image an open one goes back to.
fn restores(open: &Operation) -> Option<OperationId> {
    open.plan.steps.iter().find_map(Step::section)?.restores
}

/// Another number whenever anything else in it is another. Never 0, with which agents begin.
fn revision_of(desired: &Desired) -> u64 {
    // Every type in there is a tree of strings, numbers and maps with string keys, which JSON takes.
    let json = serde_json::to_vec(desired).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(&json).into();
    digest.first_chunk().map_or(1, |eight| u64::from_le_bytes(*eight).max(1))
}
