//! An agent that has no engine: it asks, it does at once what its script says, and it tells.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coffer_core::account::Answer;
use coffer_core::crash::CrashLoop;
use coffer_core::drift::Drift;
use coffer_core::finding::{Cause, Finding};
use coffer_core::id::{Digest, Generation, OperationId, TaskId};
use coffer_core::instance::{Engine, Observed, WayBack};
use coffer_core::section::SectionStep;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{
    ClientView, ImageFound, Learned, Order, Outcome, Preview, StepEnd, StepRecord, Task, TaskResult,
};
use coffer_wire::agent::{Ack, AgentEvent, Desired, Identity, Report, Running, desired_path, report_path};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use tokio::net::UnixStream;

/// What an agent does when it is asked for something of this name: `fetch`, `check`, `verify`, `section`, or `start`.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Succeed,
    Fail(Cause),
    /// It works on it until the script says something else.
    Hang,
    /// It works on it, and says that it does not get on.
    Stick(Cause),
    /// It is done, and found this.
    Find(Vec<Finding>),
}

/// What all agents do, and what they were asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) acts: BTreeMap<&'static str, Act>,
    pub(crate) asked: Vec<Task>,
}

/// What survives the death of an agent.
#[derive(Debug, Default)]
pub(crate) struct Volume {
    runs: Option<(Generation, EngineSpec)>,
    ways_back: Vec<WayBack>,
    /// The pre-image that it was told to keep even after its time.
    pub(crate) held: Option<OperationId>,
    /// How often it was asked to try at once what it cannot get past.
    pub(crate) resumes: BTreeSet<uuid::Uuid>,
    /// What it reports beside what it is asked for.
    pub(crate) drift: Vec<Drift>,
    pub(crate) crash_loop: Option<CrashLoop>,
    journal: BTreeMap<TaskId, TaskResult>,
    acknowledged: Vec<TaskId>,
    pub(crate) events: Vec<AgentEvent>,
}

/// Lives until it is aborted.
pub(crate) async fn live(identity: Identity, script: Arc<Mutex<Script>>, volume: Arc<Mutex<Volume>>) {
    let mut known: Option<Desired> = None;
    loop {
        let revision = known.as_ref().map_or(0, |d| d.revision);
        let path = desired_path(identity.instance, revision);
        // Short, because the script may have changed meanwhile: a real agent would work on while it waits.
        let asked = exchange(&identity, Method::GET, &path, Vec::new());
        match tokio::time::timeout(Duration::from_millis(50), asked).await {
            Ok(Ok((StatusCode::OK, body))) => known = serde_json::from_slice(&body).ok(),
            Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Ok(Ok(_)) | Err(_) => {}
        }
        let Some(desired) = &known else { continue };
        let report = work(desired, &script, &volume);
        let body = serde_json::to_vec(&report).expect("a report");
        if let Ok((StatusCode::OK, body)) =
            exchange(&identity, Method::POST, &report_path(identity.instance), body).await
        {
            let ack: Ack = serde_json::from_slice(&body).expect("an acknowledgement");
            let mut volume = volume.lock().unwrap();
            volume.acknowledged.extend(ack.results);
            volume.events.retain(|e| ack.events_until.is_none_or(|until| e.at > until));
        }
    }
}

fn work(desired: &Desired, script: &Mutex<Script>, volume: &Mutex<Volume>) -> Report {
    let (mut script, mut volume) = (script.lock().unwrap(), volume.lock().unwrap());
    let act = |script: &Script, name| script.acts.get(name).cloned().unwrap_or(Act::Succeed);
    volume.held = desired.held_preimage;
    volume.resumes.extend(desired.resume);
    let mut engine = if volume.runs.is_some() { Engine::Serving } else { Engine::Absent };
    if let Some(wanted) = &desired.engine
        && volume.runs.as_ref().is_none_or(|(generation, _)| *generation < desired.generation)
    {
        match act(&script, "start") {
            Act::Succeed | Act::Find(_) => {
                volume.runs = Some((desired.generation, wanted.clone()));
                engine = Engine::Serving;
            }
            Act::Fail(cause) => engine = Engine::Failed { cause, restarts: 3 },
            Act::Hang | Act::Stick(_) => engine = Engine::Starting,
        }
    }
    let mut running = None;
    for Order { id, task } in &desired.tasks {
        if volume.journal.contains_key(id) {
            continue;
        }
        if !script.asked.contains(task) {
            script.asked.push(task.clone());
        }
        let outcome = match act(&script, name_of(task)) {
            Act::Stick(cause) => {
                running = Some(Running { id: id.clone(), steps: vec![step("hanging", None)], stuck: Some(cause) });
                continue;
            }
            Act::Hang => {
                running = Some(Running { id: id.clone(), steps: vec![step("hanging", None)], stuck: None });
                continue;
            }
            Act::Succeed => Outcome::Done(Box::new(succeed(task, &mut volume))),
            Act::Find(findings) => Outcome::Done(Box::new(Learned { findings, ..succeed(task, &mut volume) })),
            Act::Fail(cause) => {
                let steps = vec![step("stop", Some(StepEnd::Undone))];
                Outcome::Failed { cause, learned: Box::new(Learned { steps, ..Learned::default() }) }
            }
        };
        volume.journal.insert(id.clone(), TaskResult { id: id.clone(), outcome });
    }
    let results = volume.journal.values().filter(|r| !volume.acknowledged.contains(&r.id)).cloned().collect();
    let number = volume.runs.as_ref().map(|(_, spec)| spec.number);
    let observed = Observed {
        at: Timestamp::now(),
        generation: volume.runs.as_ref().map_or(Generation::default(), |(generation, _)| *generation),
        engine,
        running: number,
        on_disk: number,
        volume_used_bytes: 1 << 20,
        isolation: vec!["none: it only pretends".to_owned()],
        settling: false,
        gate: None,
        ways_back: volume.ways_back.clone(),
        drift: volume.drift.clone(),
        crash_loop: volume.crash_loop.clone(),
    };
    Report { observed, running, results, events: volume.events.clone() }
}

fn name_of(task: &Task) -> &'static str {
    match task {
        Task::Fetch { .. } => "fetch",
        Task::Check { .. } | Task::CheckBack { .. } => "check",
        Task::Verify { .. } => "verify",
        Task::Configure { .. } => "configure",
        Task::Section(_) => "section",
        Task::Accounts { .. } => "accounts",
        Task::Finalize { .. } => "finalize",
    }
}

fn succeed(task: &Task, volume: &mut Volume) -> Learned {
    match task {
        Task::Fetch { image } => Learned {
            image: Some(ImageFound {
                digest: image.digest.clone().unwrap_or_else(|| digest(&image.version)),
                number: image.version.parse().expect("a number"),
                source: "the fake's pocket".to_owned(),
            }),
            ..Learned::default()
        },
        Task::Check { .. } | Task::CheckBack { .. } => {
            Learned { preview: Some(Preview { gap_millis: 42, ..Preview::default() }), ..Learned::default() }
        }
        Task::Verify { .. } => Learned::default(),
        Task::Accounts { .. } => Learned { accounts: Some(Answer::Changed), ..Learned::default() },
        Task::Configure { to, generation } => {
            volume.runs = Some((*generation, to.clone()));
            Learned::default()
        }
        Task::Finalize { operations } => {
            volume.ways_back.retain(|kept| !operations.contains(&kept.operation));
            Learned::default()
        }
        Task::Section(section) => {
            if section.plan.steps.contains(&SectionStep::Keep) {
                volume.ways_back.push(WayBack {
                    operation: section.operation,
                    version: Some(section.from.version),
                    since: Timestamp::UNIX_EPOCH,
                    until: Timestamp::UNIX_EPOCH,
                    bytes: 4096,
                });
            }
            volume.runs = Some((section.generation, section.to.clone()));
            let steps = section.plan.steps.iter().map(|s| step(s.name(), Some(StepEnd::Done))).collect();
            let clients = Some(ClientView { attempts: 9, longest_wait_us: 12_000, ..ClientView::default() });
            Learned { steps, gap_us: Some(12_345), clients, ..Learned::default() }
        }
    }
}

/// The digest of the image that is fetched for a version.
pub(crate) fn digest(version: &str) -> Digest {
    Digest(format!("sha256:of-{version}"))
}

fn step(name: &str, end: Option<StepEnd>) -> StepRecord {
    let now = Timestamp::now();
    StepRecord { name: name.to_owned(), began_at: now, ended_at: end.map(|_| now), end, detail: String::new() }
}

/// One request of an agent.
pub(crate) async fn exchange(
    identity: &Identity,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = UnixStream::connect(&identity.server_socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "coffer")
        .header(header::AUTHORIZATION, format!("Bearer {}", identity.token))
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let (status, body) = (response.status(), response.into_body().collect().await?.to_bytes());
    connection.abort();
    Ok((status, body))
}

impl Volume {
    /// Whether so many tasks have been worked off.
    pub(crate) fn is_done(&self, tasks: usize) -> bool {
        self.journal.len() >= tasks
    }
}
