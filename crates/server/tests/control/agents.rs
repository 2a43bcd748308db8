//! What the agents' endpoint lets in, and what it tells.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use coffer_core::id::TaskId;
use coffer_core::instance::{Kind, Status};
use coffer_server::app::Error;
use coffer_wire::agent::{AgentEvent, Desired, Identity, Report, Running, desired_path, report_path};
use http::{Method, StatusCode};
use jiff::Timestamp;

use crate::agent::{Act, exchange};
use crate::place::Gate;
use crate::setting::{Setting, cause, eventually, member};

#[tokio::test]
async fn only_the_agent_of_an_instance_is_told_what_it_should_run() {
    let setting = Setting::new().await;
    let (ours, other) = (setting.serving("ours").await, setting.serving("other").await);
    let identity = setting.places.identity(ours).expect("a place");
    let others = setting.places.identity(other).expect("a place");
    let path = desired_path(ours, 0);
    for (token, expected) in [
        (identity.token.clone(), StatusCode::OK),
        (others.token, StatusCode::UNAUTHORIZED),
        (String::new(), StatusCode::UNAUTHORIZED),
        (format!("{}x", identity.token), StatusCode::UNAUTHORIZED),
    ] {
        let claims = Identity { token, ..identity.clone() };
        let (status, _) = exchange(&claims, Method::GET, &path, Vec::new()).await.expect("an answer");
        assert_eq!(status, expected);
        let (status, _) =
            exchange(&claims, Method::POST, &report_path(ours), b"nonsense".to_vec()).await.expect("an answer");
        assert_eq!(status == StatusCode::UNAUTHORIZED, expected == StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn nobody_else_on_the_machine_can_reach_the_socket_or_read_the_key() {
    let setting = Setting::new().await;
    let mode = |path: &str| fs_err::metadata(setting.data.path().join(path)).expect(path).permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/agents.sock"), mode("key")), (0o700, 0o600, 0o600));
    assert_eq!(mode("coffer.db") & 0o077, 0);
}

#[tokio::test]
async fn a_question_is_held_until_there_is_news() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let identity = setting.places.identity(id).expect("a place");
    setting.places.kill_agent(id);
    let ask = async |revision| {
        let (status, body) =
            exchange(&identity, Method::GET, &desired_path(id, revision), Vec::new()).await.expect("an answer");
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice::<Desired>(&body).expect("a desired state")
    };
    let known = ask(0).await;
    assert_eq!((known.generation.0, known.tasks.len()), (1, 0));
    assert_eq!(known.keep_preimage_seconds, 24 * 3600);
    let held = tokio::time::timeout(Duration::from_millis(300), ask(known.revision)).await;
    assert!(held.is_err(), "there was no news");
    setting.script("section", Act::Hang);
    let (news, accepted) = tokio::join!(ask(known.revision), async {
        tokio::task::yield_now().await;
        setting.app().restart(&member(), id).await
    });
    accepted.expect("accepted");
    assert_eq!(news.tasks.len(), 1);
    assert_ne!(news.revision, known.revision);
    assert_eq!(news.generation, known.generation, "a section changes generations by itself");
}

#[tokio::test]
async fn the_agent_of_an_instance_that_is_gone_is_told_so() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let identity = setting.places.identity(id).expect("a place");
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_gone(id).await;
    let (status, _) = exchange(&identity, Method::GET, &desired_path(id, 0), Vec::new()).await.expect("an answer");
    assert_eq!(status, StatusCode::GONE);
}

#[tokio::test]
async fn what_happens_to_an_engine_is_kept_once() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let died = AgentEvent { at: Timestamp::now(), id: "engine.died".to_owned(), message: "killed".to_owned() };
    setting.places.volume(id).expect("a place").lock().unwrap().events = vec![died.clone(), died];
    let events = eventually(async || {
        let events = setting.app().events(&member(), id).await.expect("events");
        if events.is_empty() { Err("none yet") } else { Ok(events) }
    })
    .await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].id.as_str(), events[0].message.as_str()), ("engine.died", "killed"));
}

#[tokio::test]
async fn what_a_silent_agent_saw_is_not_believed_for_long() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    setting.pass(100);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.operating_status, view.running), (Status::Active, "ERROR", None));
    setting.places.set_gate(Gate::Open);
    setting.until(id, |view| view.operating_status == "HEALTHY").await;
}

#[tokio::test]
async fn what_is_said_late_of_an_operation_that_is_over_is_no_news() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let identity = setting.places.identity(id).expect("a place");
    setting.app().restart(&member(), id).await.expect("accepted");
    let over = setting.until_operation(id, |operation| !operation.is_open()).await;
    setting.places.kill_agent(id);
    let seen = setting.app().instance(&member(), id).await.expect("the instance").observed.expect("a report");
    // It was on its way to a server that was stopped.
    let running = Running { id: TaskId(format!("{}-0", over.id)), steps: Vec::new(), stuck: Some(cause()) };
    let report = Report { observed: seen, running: Some(running), results: Vec::new(), events: Vec::new() };
    let body = serde_json::to_vec(&report).expect("a report");
    let (status, _) = exchange(&identity, Method::POST, &report_path(id), body).await.expect("an answer");
    assert_eq!(status, StatusCode::OK);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.instance.fault), (Status::Active, None));
    assert_eq!(setting.app().events(&member(), id).await.expect("events"), []);
    // Nor does it make room for another operation while one is open.
    setting.script("section", Act::Hang);
    setting.app().restart(&member(), id).await.expect("accepted");
    let refused = setting.app().delete(&member(), id).await;
    assert!(matches!(refused, Err(Error::Busy { kind: Kind::Restart, .. })), "{refused:?}");
}
