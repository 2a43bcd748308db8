//! Servers and agents that die, at every moment at which something waits.

use coffer_core::engine::Policy;
use coffer_core::id::InstanceId;
use coffer_core::instance::Status;
use coffer_core::operation::Phase;
use coffer_provider::Provider as _;
use coffer_server::{DirectoryError, Error, Server};
use coffer_store::{Location, Scope, Store};
use coffer_wire::agent::Identity;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::agent::Act;
use crate::place::Gate;
use crate::setting::{Setting, eventually, member};

#[tokio::test]
async fn a_creation_goes_on_after_the_server_was_killed_in_any_of_its_steps() {
    for step in ["place", "fetch", "run"] {
        let mut setting = Setting::new().await;
        hold(&setting, step);
        let id = setting.create("redis_test").await;
        setting.until_operation(id, |o| o.steps.last().is_some_and(|s| s.name == step || s.name == "hanging")).await;
        setting.kill().await;
        setting.start().await;
        let view = setting.app().instance(&member(), id).await.expect("the instance");
        assert_eq!(view.status, Status::Build, "{step}");
        release(&setting);
        let view = setting.until(id, |view| view.status != Status::Build).await;
        assert_eq!((view.status, &view.instance.fault), (Status::Active, &None), "{step}");
    }
}

#[tokio::test]
async fn an_upgrade_goes_on_after_the_server_was_killed_in_any_of_its_steps() {
    for step in ["fetch", "check", "section"] {
        let mut setting = Setting::new().await;
        let id = setting.serving("redis_test").await;
        hold(&setting, step);
        setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
        setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
        setting.kill().await;
        setting.start().await;
        let view = setting.app().instance(&member(), id).await.expect("the instance");
        assert_eq!((view.status, view.version.name.as_str()), (Status::Upgrade, "8.0.2"), "{step}");
        release(&setting);
        let view = setting.until(id, |view| view.status != Status::Upgrade).await;
        assert_eq!((view.version.name.as_str(), &view.instance.fault), ("8.0.2", &None), "{step}");
    }
}

#[tokio::test]
async fn an_upgrade_that_ended_while_there_was_no_server_is_recorded_by_the_next() {
    for (act, version) in [(Act::Succeed, "8.0.2"), (Act::Fail(crate::setting::cause()), "7.0.15")] {
        let mut setting = Setting::new().await;
        let id = setting.serving("redis_test").await;
        hold(&setting, "section");
        setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
        setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
        setting.stop().await;
        setting.script("section", act);
        let volume = setting.places.volume(id).expect("a place");
        eventually(async || if volume.lock().unwrap().is_done(3) { Ok(()) } else { Err("the agent works") }).await;
        setting.start().await;
        let view = setting.until(id, |view| view.status != Status::Upgrade).await;
        assert_eq!((view.status, view.version.name.as_str()), (Status::Active, version));
        assert_eq!(view.instance.fault.is_some(), version == "7.0.15");
    }
}

#[tokio::test]
async fn a_removal_goes_on_after_the_server_was_killed_in_it() {
    let mut setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Hangs);
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "drop")).await;
    setting.kill().await;
    setting.start().await;
    setting.places.set_gate(Gate::Open);
    setting.until_gone(id).await;
}

#[tokio::test]
async fn what_was_tried_when_the_clock_was_ahead_is_tried_again_when_it_is_right() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.set_clock(6 * 3600);
    setting.places.set_gate(Gate::Fails);
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_operation(id, |o| matches!(o.phase, Phase::Forward { attempt: 1.., .. })).await;
    setting.set_clock(-6 * 3600);
    setting.places.set_gate(Gate::Open);
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_place_that_another_server_has_is_waited_for_without_an_attempt_and_told_once() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Taken);
    setting.app().delete(&member(), id).await.expect("accepted");
    // Tried again and again, each time with a claim of its own.
    let waits = setting.until_operation(id, |o| o.epoch.0 >= 4).await;
    assert!(matches!(waits.phase, Phase::Forward { attempt: 0, .. }), "{:?}", waits.phase);
    let events = setting.app().events(&member(), id).await.expect("events");
    assert_eq!(events.iter().filter(|event| event.id == "place.taken").count(), 1, "{events:?}");
    setting.places.set_gate(Gate::Open);
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_place_that_is_made_after_its_instance_is_gone_is_dropped() {
    let mut setting = Setting::new().await;
    let (gone, stays) = (setting.serving("gone").await, setting.serving("stays").await);
    let identity = setting.places.identity(gone).expect("a place");
    setting.app().delete(&member(), gone).await.expect("accepted");
    setting.until_gone(gone).await;
    // As a server does that was stopped while it made the place, and wakes up now.
    setting.places.ensure(&identity).expect("a place");
    // And a place of which nothing is known here is not ours to drop.
    let unknown = Identity { instance: InstanceId(Uuid::new_v4()), ..identity };
    setting.places.ensure(&unknown).expect("a place");
    setting.kill().await;
    setting.start().await;
    eventually(async || if setting.places.identity(gone).is_none() { Ok(()) } else { Err("it is still there") }).await;
    assert!(setting.places.identity(stays).is_some() && setting.places.identity(unknown.instance).is_some());
}

#[tokio::test]
async fn an_instance_whose_agent_is_dead_can_be_removed() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.kill_agent(id);
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_dead_agent_is_started_again_and_the_upgrade_goes_on() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    hold(&setting, "section");
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
    setting.places.kill_agent(id);
    release(&setting);
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!(view.version.name, "8.0.2");
    assert!(setting.places.has_agent(id));
    let events = setting.app().events(&member(), id).await.expect("events");
    assert!(events.iter().any(|e| e.id == "agent.died"), "{events:?}");
}

#[tokio::test]
async fn a_runner_that_was_fenced_writes_nothing_more() {
    let setting = Setting::new().await;
    setting.places.set_gate(Gate::Hangs);
    let id = setting.create("redis_test").await;
    let operation = setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "place")).await;
    // Somebody else who believes that the lease has ended takes the operation over, and is slow.
    let store = Store::open(&Location::File(setting.data.path().join("coffer.db"))).await.expect("the same store");
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let much_later = Timestamp::now() + SignedDuration::from_hours(2);
    let claimed = store.claim(operation.id, later, much_later).await.expect("query").expect("a claim");
    setting.places.set_gate(Gate::Open);
    eventually(async || if setting.places.identity(id).is_some() { Ok(()) } else { Err("no place yet") }).await;
    // The lost lease is not waited for: an ended one would be claimed again, a held one is not.
    let mut seen = setting.operation(id).await;
    for _ in 0..20 {
        tokio::task::yield_now().await;
        seen = setting.operation(id).await;
    }
    assert_eq!(seen.phase, Phase::Forward { at: 0, begun: true, attempt: 0 });
    assert_eq!(seen.epoch, claimed.epoch);
    store.release(&claimed).await.expect("release");
    store.close().await;
    let view = setting.until(id, |view| view.status != Status::Build).await;
    assert_eq!(view.status, Status::Active);
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let mut setting = Setting::new().await;
    let refused = Server::start(setting.setup()).await;
    assert!(matches!(refused, Err(Error::Directory(DirectoryError::AlreadyRuns { .. }))), "{:?}", refused.err());
    setting.stop().await;
    setting.start().await;
}

#[tokio::test]
async fn nothing_of_an_instance_changes_while_there_is_no_server() {
    let mut setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let before = setting.app().instance(&member(), id).await.expect("the instance").instance;
    setting.stop().await;
    let store = Store::open(&Location::File(setting.data.path().join("coffer.db"))).await.expect("the store");
    let row = store.instance(Scope::Admin, id).await.expect("query").expect("the instance");
    assert_eq!(row.instance, before);
    store.close().await;
    assert!(setting.places.has_agent(id), "its agent lives on");
    setting.start().await;
    let view = setting.until(id, |view| view.operating_status == "HEALTHY").await;
    assert_eq!(view.instance, before);
}

/// Has the step take until it is released.
fn hold(setting: &Setting, step: &'static str) {
    match step {
        "place" => setting.places.set_gate(Gate::Hangs),
        "run" => setting.script("start", Act::Hang),
        task => setting.script(task, Act::Hang),
    }
}

fn release(setting: &Setting) {
    setting.places.set_gate(Gate::Open);
    setting.places.script.lock().unwrap().acts.clear();
}
