//! The lives of instances: built, upgraded, restarted and removed, well and badly.

use coffer_core::engine::Policy;
use coffer_core::finding::Finding;
use coffer_core::instance::{Kind, Status};
use coffer_core::operation::Phase;
use coffer_core::task::{StepEnd, Task};
use coffer_server::app::Error;
use secrecy::ExposeSecret as _;

use crate::agent::{Act, digest};
use crate::place::Gate;
use crate::setting::{Setting, cause, eventually, member};

#[tokio::test]
async fn a_new_instance_is_built_and_then_active() {
    let setting = Setting::new().await;
    let created = setting.app().create(&member(), crate::setting::new("redis_test")).await.expect("an instance");
    assert_eq!(created.view.status, Status::Build);
    assert_eq!(created.view.version.name, "7.0.15");
    let id = created.view.instance.id;
    let view = setting.until(id, |view| view.status == Status::Active).await;
    assert_eq!(view.operating_status, "HEALTHY");
    assert_eq!(view.running.map(|n| n.to_string()).as_deref(), Some("7.0.15"));
    assert_eq!(view.instance.generation.0, 1);
    assert!(view.instance.built && view.instance.fault.is_none());
    let operation = setting.operation(id).await;
    assert_eq!(operation.kind, Kind::Create);
    let steps: Vec<_> = operation.steps.iter().map(|s| (s.name.as_str(), s.end)).collect();
    let done = Some(StepEnd::Done);
    assert_eq!(steps, [("place", done), ("fetch", done), ("run", done), ("record", done)]);
    // What was found is what every later step means.
    let version = setting.app().version(&member(), view.instance.version).expect("the version");
    assert_eq!(version.image, Some(digest("7.0.15")));
    let told = setting.places.identity(id).expect("a place");
    assert_eq!(told.tenant_password, created.password.expose_secret());
}

#[tokio::test]
async fn an_upgrade_shows_the_requested_version_until_the_proven_one_is_recorded() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Hang);
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.version.name.as_str(), view.operating_status), (Status::Upgrade, "8.0.2", ""));
    let operation = setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
    assert_eq!(
        operation.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        ["fetch", "check", "section", "hanging"]
    );
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.running.map(|n| n.to_string()).as_deref(), Some("7.0.15"), "that is what runs");

    setting.script("section", Act::Succeed);
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!((view.status, view.version.name.as_str()), (Status::Active, "8.0.2"));
    let view = setting.until(id, |view| view.running.is_some_and(|n| n.to_string() == "8.0.2")).await;
    assert_eq!(view.instance.generation.0, 2);
    let operation = setting.operation(id).await;
    assert_eq!(operation.gap_us, Some(12_345));
    assert_eq!(operation.clients.map(|clients| clients.answered()), Some(9));
    let steps: Vec<_> = operation.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(
        steps,
        ["fetch", "check", "section", "prepare", "quiesce", "stop", "keep", "swap", "start", "prove", "open", "record"]
    );
    // The section meant the very image that was fetched.
    let script = setting.places.script.lock().unwrap();
    let section = script.asked.iter().find_map(|task| match task {
        Task::Section(section) => Some(section),
        _ => None,
    });
    assert_eq!(section.expect("a section").to.image.digest, Some(digest("8.0.2")));
}

#[tokio::test]
async fn an_upgrade_that_fails_in_its_section_leaves_the_old_version_and_says_why() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Fail(cause()));
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!((view.status, view.version.name.as_str()), (Status::Active, "7.0.15"));
    assert_eq!(view.instance.fault.expect("a fault").cause, cause());
    let operation = setting.operation(id).await;
    assert_eq!(operation.phase, Phase::Undone { cause: cause() });
    let stop = operation.steps.iter().find(|s| s.name == "stop").expect("the agent's own step");
    assert_eq!(stop.end, Some(StepEnd::Undone));

    // The next one that succeeds clears it.
    setting.script("section", Act::Succeed);
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!((view.version.name.as_str(), view.instance.fault), ("8.0.2", None));
}

#[tokio::test]
async fn a_pre_image_is_held_for_as_long_as_somebody_goes_back_to_it() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until(id, |view| view.status == Status::Active && view.version.name == "8.0.2").await;
    let upgrade = setting.operation(id).await.id;
    let held = || setting.places.volume(id).expect("a place").lock().unwrap().held;
    assert_eq!(held(), None);
    setting.script("check", Act::Hang);
    setting.app().rollback(&member(), id, false, true).await.expect("accepted");
    eventually(async || if held() == Some(upgrade) { Ok(()) } else { Err(held()) }).await;
    setting.script("check", Act::Succeed);
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!((view.version.name.as_str(), view.instance.fault), ("7.0.15", None));
    eventually(async || if held().is_none() { Ok(()) } else { Err(held()) }).await;
}

#[tokio::test]
async fn what_a_check_finds_is_told_all_at_once() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let findings = vec![
        Finding::error("redis.modules", "module bloom", "the target has none", "unload it"),
        Finding::warning("redis.acl", "user app", "loses a command", ""),
        Finding::error("volume.space", "the volume", "is too full", "delete something"),
    ];
    setting.script("check", Act::Find(findings.clone()));
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!(view.version.name, "7.0.15");
    let fault = view.instance.fault.expect("a fault");
    assert_eq!(fault.cause.findings, [findings[0].clone(), findings[2].clone()]);
    assert!(fault.cause.message.contains("bloom") && fault.cause.message.contains("too full"), "{}", fault.cause);
    let operation = setting.operation(id).await;
    assert!(findings.iter().all(|f| operation.findings.contains(f)));
    assert!(!operation.steps.iter().any(|s| s.name == "section"), "the engine was not touched");
}

#[tokio::test]
async fn the_same_version_is_proven_and_nothing_is_changed() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.app().upgrade(&member(), id, "7.0.15", Policy::default()).await.expect("accepted");
    let operation = setting.until_operation(id, |o| !o.is_open()).await;
    assert_eq!(operation.phase, Phase::Done);
    assert_eq!(operation.steps.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["verify"]);
    assert_eq!(setting.app().instance(&member(), id).await.expect("the instance").instance.generation.0, 1);
}

#[tokio::test]
async fn a_restart_ends_active_with_another_generation() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.app().restart(&member(), id).await.expect("accepted");
    let view = setting.until(id, |view| view.status != Status::Reboot).await;
    assert_eq!((view.status, view.instance.generation.0), (Status::Active, 2));
}

#[tokio::test]
async fn a_creation_that_fails_leaves_no_place_and_an_error_that_says_why() {
    for (step, act) in [("fetch", Act::Fail(cause())), ("start", Act::Fail(cause()))] {
        let setting = Setting::new().await;
        setting.script(step, act);
        let id = setting.create("redis_test").await;
        let view = setting.until(id, |view| view.status != Status::Build).await;
        assert_eq!(view.status, Status::Error, "{step}");
        assert_eq!(view.instance.fault.expect("a fault").cause, cause(), "{step}");
        assert!(setting.places.identity(id).is_none(), "{step}: its place is still there");
        let place = setting.operation(id).await.steps.swap_remove(0);
        assert_eq!((place.name.as_str(), place.end), ("place", Some(StepEnd::Undone)));
        let refused = setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
        setting.app().delete(&member(), id).await.expect("accepted");
        setting.until_gone(id).await;
    }
}

#[tokio::test]
async fn a_fetch_that_takes_too_long_fails() {
    let setting = Setting::new().await;
    setting.script("fetch", Act::Hang);
    let id = setting.create("redis_test").await;
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
    setting.pass(1801);
    let view = setting.until(id, |view| view.status != Status::Build).await;
    let fault = view.instance.fault.expect("a fault");
    assert_eq!(view.status, Status::Error);
    assert!(fault.cause.message.contains("fetch") && fault.cause.message.contains("1800 s"), "{}", fault.cause);
}

#[tokio::test]
async fn an_engine_that_does_not_come_up_in_time_fails_its_creation() {
    let setting = Setting::new().await;
    setting.script("start", Act::Hang);
    let id = setting.create("redis_test").await;
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "run")).await;
    setting.pass(121);
    let view = setting.until(id, |view| view.status != Status::Build).await;
    assert_eq!(view.status, Status::Error);
    assert!(view.instance.fault.expect("a fault").cause.message.contains("does not answer"));
}

#[tokio::test]
async fn a_section_is_never_given_up_but_somebody_is_told_that_it_is_late() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Hang);
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "hanging")).await;
    setting.pass(25 * 3600);
    eventually(async || {
        let events = setting.app().events(&member(), id).await.expect("events");
        if events.iter().any(|e| e.id == "operation.late") { Ok(()) } else { Err(events) }
    })
    .await;
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.status, Status::Upgrade);
    setting.script("section", Act::Succeed);
    let view = setting.until(id, |view| view.status != Status::Upgrade).await;
    assert_eq!(view.version.name, "8.0.2");
}

#[tokio::test]
async fn a_section_that_does_not_get_on_says_why_until_it_does() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Stick(cause()));
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let view = setting.until(id, |view| view.instance.fault.is_some()).await;
    let view = setting.until(view.instance.id, |view| view.status == Status::Error).await;
    assert_eq!((view.version.name.as_str(), view.instance.fault.expect("a fault").cause), ("7.0.15", cause()));
    let events = setting.app().events(&member(), id).await.expect("events");
    assert_eq!(events.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["operation.stuck"], "told once");
    setting.script("section", Act::Succeed);
    let view = setting.until(id, |view| view.status == Status::Active).await;
    assert_eq!((view.version.name.as_str(), view.instance.fault), ("8.0.2", None));
}

#[tokio::test]
async fn a_removal_that_is_stuck_can_be_asked_for_again() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Fails);
    setting.app().delete(&member(), id).await.expect("accepted");
    for attempt in 1..=4 {
        setting
            .until_operation(id, |o| matches!(o.phase, Phase::Forward { attempt: made, .. } if made == attempt))
            .await;
        setting.pass(10);
    }
    let view = setting.until(id, |view| view.status == Status::Error).await;
    assert!(view.instance.fault.expect("a fault").cause.message.contains("gone for a walk"));
    let refused = setting.app().restart(&member(), id).await;
    assert!(matches!(refused, Err(Error::Busy { kind: Kind::Delete, .. })), "{refused:?}");
    setting.places.set_gate(Gate::Open);
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_gone(id).await;
}
