//! For how long the wish of a server counts, and when an agent says something for the first time. Time passes as soon as everybody
//! waits, and no test does.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use coffer_core::agent::WISH_LASTS;
use coffer_core::gate::Level;
use coffer_core::id::{Generation, InstanceId};
use coffer_core::instance::{Engine, Observed};
use coffer_wire::agent::{Desired, Identity, POLL_SECONDS, Report};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::{FIRST_LOOK, Link, Wanted, follow_desired, follow_servers, tell};

/// How a server answers to who asks what is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// It wants something else now.
    Wants(u64),
    /// What it wants is what is known.
    Same,
    /// As one that cannot read its store.
    Fails,
    /// As one that is stopped.
    Silent,
}

struct Server {
    socket: PathBuf,
    mood: Rc<Cell<Mood>>,
    /// What agents told it.
    told: Rc<RefCell<Vec<Report>>>,
}

impl Server {
    /// Serves from now on.
    fn start(dir: &Path, name: &str) -> Self {
        let socket = dir.join(name);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mood = Rc::new(Cell::new(Mood::Wants(7)));
        let answers = Rc::clone(&mood);
        let told = Rc::new(RefCell::new(Vec::new()));
        let tells = Rc::clone(&told);
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (mood, told) = (Rc::clone(&answers), Rc::clone(&tells));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (mood, told) = (Rc::clone(&mood), Rc::clone(&told));
                    async move {
                        if request.method() == Method::POST {
                            let body = request.into_body().collect().await.expect("a body").to_bytes();
                            told.borrow_mut().push(serde_json::from_slice(&body).expect("a report"));
                        }
                        answer(mood).await
                    }
                });
                let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::task::spawn_local(served);
            }
        });
        Self { socket, mood, told }
    }
}

async fn answer(mood: Rc<Cell<Mood>>) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (status, body) = match mood.get() {
        Mood::Wants(revision) => {
            mood.set(Mood::Same);
            (StatusCode::OK, serde_json::to_vec(&desired(revision)).expect("a body"))
        }
        Mood::Same => {
            tokio::time::sleep(Duration::from_secs(POLL_SECONDS)).await;
            (StatusCode::NO_CONTENT, Vec::new())
        }
        Mood::Fails => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
        Mood::Silent => std::future::pending().await,
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}

fn desired(revision: u64) -> Desired {
    Desired {
        revision,
        generation: Generation(3),
        engine: None,
        tasks: Vec::new(),
        keep_preimage_seconds: 0,
        held_preimage: None,
        resume: None,
    }
}

fn report(engine: Engine) -> Report {
    let observed = Observed { engine, ..Observed::nothing(jiff::Timestamp::UNIX_EPOCH) };
    Report { observed, running: None, results: Vec::new(), events: Vec::new() }
}

fn link(socket: &Path) -> (Link, watch::Receiver<Wanted>) {
    let identity = Identity {
        instance: InstanceId(uuid::Uuid::nil()),
        server_socket: socket.to_str().expect("a path").to_owned(),
        image_store: String::new(),
        token: String::new(),
        tenant_password: String::new(),
        engine_uid: None,
        gate: Level::Steered,
        hold_seconds: 60,
    };
    let (desired, wanted) = watch::channel(Wanted::new());
    let link = Link {
        identity: identity.into(),
        desired,
        report: watch::channel(report(Engine::Starting)).1,
        acks: mpsc::unbounded_channel().0,
    };
    (link, wanted)
}

/// Plays in virtual time. What is sent over a socket arrives before any of it passes.
fn play(test: impl AsyncFnOnce(&Path)) {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test(dir.path()));
}

/// Until the wishes are as told: how long that took.
async fn until(wanted: &mut watch::Receiver<Wanted>, is_so: impl FnMut(&Wanted) -> bool) -> Duration {
    let began = Instant::now();
    let hour = Duration::from_secs(3600);
    tokio::time::timeout(hour, wanted.wait_for(is_so)).await.expect("it is never so").expect("a link");
    began.elapsed()
}

/// A server, and an agent that has heard what it wants and goes on listening.
async fn follow(dir: &Path) -> (Server, watch::Receiver<Wanted>) {
    let server = Server::start(dir, "agents.sock");
    let (link, mut wanted) = link(&server.socket);
    let socket = server.socket.clone();
    tokio::task::spawn_local(async move { follow_desired(&link, &socket).await });
    until(&mut wanted, |wanted| wanted.contains_key(&server.socket)).await;
    (server, wanted)
}

/// Whether there is a wish for so long.
async fn stays(wanted: &mut watch::Receiver<Wanted>, long: Duration) -> bool {
    tokio::time::timeout(long, wanted.wait_for(Wanted::is_empty)).await.is_err()
}

/// For how long the wish of a server counts that goes over into this mood right after it has said what it wants.
fn lasts(mood: Mood) -> Duration {
    let lasted = Cell::new(Duration::ZERO);
    play(async |dir| {
        let (server, mut wanted) = follow(dir).await;
        server.mood.set(mood);
        lasted.set(until(&mut wanted, Wanted::is_empty).await);
    });
    lasted.get()
}

#[test]
fn the_wish_of_a_server_that_is_stopped_expires() {
    let lasted = lasts(Mood::Silent);
    assert!((WISH_LASTS..WISH_LASTS + Duration::from_secs(1)).contains(&lasted), "{lasted:?}");
}

#[test]
fn the_wish_of_a_server_that_cannot_read_its_store_expires() {
    let lasted = lasts(Mood::Fails);
    assert!((WISH_LASTS..WISH_LASTS + Duration::from_secs(6)).contains(&lasted), "{lasted:?}");
}

#[test]
fn the_wish_of_a_server_that_has_nothing_new_to_say_counts_as_long_as_it_says_so() {
    play(async |dir| {
        let (server, mut wanted) = follow(dir).await;
        assert!(stays(&mut wanted, WISH_LASTS * 10).await, "it was confirmed all the time");
        // Some failures between two answers are none of its business either.
        server.mood.set(Mood::Fails);
        assert!(stays(&mut wanted, WISH_LASTS / 4).await);
        server.mood.set(Mood::Wants(8));
        until(&mut wanted, |wanted| wanted.get(&server.socket).is_some_and(|d| d.revision == 8)).await;
        assert!(stays(&mut wanted, WISH_LASTS * 2).await);
    });
}

#[test]
fn the_wish_of_a_server_that_is_gone_ends_with_it_and_those_of_others_stay() {
    play(async |dir| {
        let [one, other] = ["agents.sock", "agents-b.sock"].map(|name| Server::start(dir, name));
        let (link, mut wanted) = link(&one.socket);
        tokio::task::spawn_local(follow_servers(link));
        until(&mut wanted, |wanted| wanted.len() == 2).await;
        std::fs::remove_file(&other.socket).expect("removed");
        let lasted = until(&mut wanted, |wanted| wanted.len() == 1).await;
        assert!(wanted.borrow().contains_key(&one.socket) && lasted < Duration::from_secs(5), "{lasted:?}");
    });
}

/// What an agent says first that has found its engine serving after so long, and when it says it.
fn first_told(after: Duration) -> (Engine, Duration) {
    let said = RefCell::new(None);
    play(async |dir| {
        let server = Server::start(dir, "agents.sock");
        let (found, known) = watch::channel(report(Engine::Starting));
        let link = Link { report: known, ..link(&server.socket).0 };
        let socket = server.socket.clone();
        tokio::task::spawn_local(async move { tell(&link, &socket).await });
        let began = Instant::now();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            found.send_replace(report(Engine::Serving));
            // Whoever finds goes on.
            std::future::pending::<()>().await;
            drop(found);
        });
        while server.told.borrow().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never says anything");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        said.replace(Some((server.told.borrow()[0].observed.engine.clone(), began.elapsed())));
    });
    said.take().expect("something was said")
}

#[test]
fn an_agent_says_nothing_of_an_engine_that_it_has_not_looked_for_yet() {
    let after = Duration::from_millis(700);
    let (engine, when) = first_told(after);
    assert_eq!(engine, Engine::Serving);
    assert!(when >= after && when < after + Duration::from_millis(100), "{when:?}");
}

#[test]
fn an_agent_that_takes_long_to_find_its_engine_is_not_silent_meanwhile() {
    let (engine, when) = first_told(Duration::from_secs(600));
    assert_eq!(engine, Engine::Starting);
    assert!(when >= FIRST_LOOK && when < FIRST_LOOK + Duration::from_millis(100), "{when:?}");
}
