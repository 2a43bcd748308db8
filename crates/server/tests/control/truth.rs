//! What is shown of an instance is what is: what its agent sees, as long as it says something.

use coffer_core::crash::Crashes;
use coffer_core::drift::Drift;
use coffer_core::id::{Generation, InstanceId};
use coffer_core::instance::{Observed, Status};
use coffer_core::operation::Phase;
use coffer_core::runner::Change;
use coffer_store::{Location, Scope, Store};
use coffer_wire::agent::{Report, report_path};
use http::Method;
use jiff::{SignedDuration, Timestamp};

use crate::agent::exchange;
use crate::place::Gate;
use crate::setting::{Setting, eventually, member};

/// What happened to an instance, the oldest first.
async fn events(setting: &Setting, id: InstanceId) -> Vec<String> {
    let events = setting.app().events(&member(), id).await.expect("events");
    events.into_iter().rev().map(|event| event.id).collect()
}

async fn until_event(setting: &Setting, id: InstanceId, wanted: &str) {
    eventually(async || {
        let events = events(setting, id).await;
        if events.iter().any(|event| event == wanted) { Ok(()) } else { Err(events) }
    })
    .await;
}

/// What is written down of what an agent saw.
async fn written(setting: &Setting, id: InstanceId) -> Observed {
    let store = Store::open(&Location::File(setting.data.path().join("coffer.db"))).await.expect("the store");
    let row = store.instance(Scope::Admin, id).await.expect("query").expect("the instance");
    store.close().await;
    row.observed.expect("something was seen")
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_told_once_with_since_when_and_so_is_its_return() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let before = Timestamp::now();
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.silent_since, view.operating_status), (None, "HEALTHY"), "it was heard just now");
    setting.pass(91);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    let since = view.silent_since.expect("it is silent");
    assert!(since.duration_since(before).abs() < SignedDuration::from_secs(20), "{since} {before}");
    assert_eq!((view.status, view.operating_status, view.running), (Status::Active, "ERROR", None));
    until_event(&setting, id, "agent.silent").await;
    setting.places.set_gate(Gate::Open);
    setting.until(id, |view| view.silent_since.is_none() && view.operating_status == "HEALTHY").await;
    until_event(&setting, id, "agent.heard").await;
    let told = events(&setting, id).await;
    let told: Vec<_> = told.iter().filter(|event| *event == "agent.silent" || *event == "agent.heard").collect();
    assert_eq!(told, ["agent.silent", "agent.heard"], "each once");
}

#[tokio::test]
async fn the_agent_of_an_instance_that_another_server_has_removed_is_not_missed() {
    let setting = Setting::new().await;
    let (removed, silent) = (setting.serving("removed").await, setting.serving("silent").await);
    setting.places.set_gate(Gate::Fails);
    setting.app().delete(&member(), removed).await.expect("accepted");
    setting.until_operation(removed, |o| o.epoch.0 > 0).await;
    // As another server does it, of which this one hears nothing.
    let store = Store::open(&Location::File(setting.data.path().join("coffer.db"))).await.expect("the store");
    let now = Timestamp::now();
    let mut removal = eventually(async || {
        let open = store.open_operation(removed).await.expect("query").expect("an operation");
        let lease = now + SignedDuration::from_hours(1);
        store.claim(open.operation.id, now + SignedDuration::from_mins(1), lease).await.expect("query").ok_or(open)
    })
    .await;
    removal.phase = Phase::Done;
    store.save(&removal, &[Change::Deleted], now).await.expect("removed");
    for id in [removed, silent] {
        setting.places.kill_agent(id);
    }
    setting.pass(91);
    until_event(&setting, silent, "agent.silent").await;
    let last = store.last_event(Scope::Admin, removed, ["agent.silent", "agent.heard"]).await.expect("query");
    assert_eq!(last, None);
    store.close().await;
}

#[tokio::test]
async fn nobody_falls_silent_because_somebody_sets_the_clock_and_nobody_is_heard_for_it() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    for seconds in [6 * 3600, -12 * 3600] {
        setting.set_clock(seconds);
        let view = setting.app().instance(&member(), id).await.expect("the instance");
        assert_eq!((view.silent_since, view.operating_status), (None, "HEALTHY"), "it was heard just now");
    }
    // What is written down is of a time that is to come.
    let before = Timestamp::now() - SignedDuration::from_hours(6);
    setting.pass(91);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    let since = view.silent_since.expect("it is silent");
    assert!(since.duration_since(before).abs() < SignedDuration::from_secs(20), "{since} {before}");
    until_event(&setting, id, "agent.silent").await;
}

#[tokio::test]
async fn a_server_that_has_just_begun_to_listen_gives_every_agent_the_whole_time() {
    let mut setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    setting.stop().await;
    setting.pass(1000);
    setting.start().await;
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.silent_since, None, "nobody could be heard");
    setting.pass(89);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.silent_since, None);
    setting.pass(2);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert!(view.silent_since.is_some());
    until_event(&setting, id, "agent.silent").await;
}

#[tokio::test]
async fn a_heartbeat_is_heard_and_written_nowhere() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let identity = setting.places.identity(id).expect("a place");
    let volume = setting.places.volume(id).expect("a place");
    let first = eventually(async || {
        let observed = written(&setting, id).await;
        if observed.generation == Generation(1) { Ok(observed) } else { Err(observed) }
    })
    .await;
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    let report = async |observed: Observed| {
        let report = Report { observed, running: None, results: Vec::new(), events: Vec::new() };
        let body = serde_json::to_vec(&report).expect("a report");
        exchange(&identity, Method::POST, &report_path(id), body).await.expect("an answer");
    };
    for _ in 0..5 {
        setting.pass(60);
        let used = first.volume_used_bytes + (1 << 20);
        report(Observed { volume_used_bytes: used, ..first.clone() }).await;
        let view = setting.app().instance(&member(), id).await.expect("the instance");
        assert_eq!((view.silent_since, view.operating_status), (None, "HEALTHY"));
        assert_eq!(view.observed.expect("seen").volume_used_bytes, used, "what is shown is fresh");
    }
    assert_eq!(written(&setting, id).await.at, first.at, "nothing was written in five minutes");
    report(Observed { volume_used_bytes: first.volume_used_bytes + (1 << 30), ..first.clone() }).await;
    assert!(written(&setting, id).await.at > first.at, "that is news");
    drop(volume);
}

#[tokio::test]
async fn drift_is_shown_as_long_as_it_is_there_and_changes_no_status() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let volume = setting.places.volume(id).expect("a place");
    let drift = Drift {
        id: "config.file".to_owned(),
        object: "configuration file".to_owned(),
        expected: "the one that coffer wrote".to_owned(),
        found: "somebody has edited it".to_owned(),
        remedy: "coffer instance restart".to_owned(),
    };
    volume.lock().unwrap().drift = vec![drift.clone()];
    let view = setting.until(id, |view| !view.drift.is_empty()).await;
    assert_eq!((view.drift, view.status), (vec![drift], Status::Active));
    volume.lock().unwrap().drift.clear();
    setting.until(id, |view| view.drift.is_empty()).await;
}

#[tokio::test]
async fn a_crash_loop_is_an_error_that_says_what_to_do_and_is_gone_with_the_loop() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let volume = setting.places.volume(id).expect("a place");
    let mut crashes = Crashes::default();
    for n in 0..5 {
        crashes.note(Timestamp::now() + SignedDuration::from_secs(n), "signal 11: no idea");
    }
    volume.lock().unwrap().crash_loop = crashes.in_loop().cloned();
    let view = setting.until(id, |view| view.status == Status::Error).await;
    let cause = view.instance.fault.expect("a fault").cause.to_string();
    for part in ["5 times within 4 s", "signal 11: no idea", &format!("coffer instance restart {id}")] {
        assert!(cause.contains(part), "{cause}");
    }
    let counts = setting.app().instance_counts().await.expect("counts");
    assert_eq!(counts.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [&(Status::Error, 1)]);
    volume.lock().unwrap().crash_loop = None;
    let view = setting.until(id, |view| view.status == Status::Active).await;
    assert_eq!(view.instance.fault, None, "it is derived, and stored nowhere");
}
