//! What a person can do about an operation that is stuck: each choice told beforehand, and done.

use coffer_core::engine::Policy;
use coffer_core::id::InstanceId;
use coffer_core::instance::Status;
use coffer_core::operation::Phase;
use coffer_core::stuck::Choice;
use coffer_server::app::Error;

use crate::agent::Act;
use crate::place::Gate;
use crate::setting::{Setting, caller, cause, eventually, member};

/// An instance whose removal is stuck, since nobody can touch its place.
async fn stuck_removal(setting: &Setting) -> InstanceId {
    let id = setting.serving("redis_test").await;
    setting.places.set_gate(Gate::Fails);
    setting.app().delete(&member(), id).await.expect("accepted");
    until_stuck(setting, id).await;
    id
}

/// One whose creation is stuck on its way back.
async fn stuck_creation(setting: &Setting) -> InstanceId {
    setting.script("start", Act::Hang);
    let id = setting.create("redis_test").await;
    setting.until_operation(id, |o| o.steps.iter().any(|s| s.name == "run")).await;
    setting.places.set_gate(Gate::Fails);
    setting.pass(121);
    until_stuck(setting, id).await;
    id
}

async fn until_stuck(setting: &Setting, id: InstanceId) {
    for made in 1..=4 {
        setting
            .until_operation(id, |o| {
                matches!(o.phase, Phase::Forward { attempt, .. } | Phase::Backward { attempt, .. } if attempt == made)
            })
            .await;
        setting.pass(10);
    }
    setting.until_operation(id, |o| matches!(o.phase, Phase::Stuck { .. })).await;
}

async fn last_event(setting: &Setting, id: InstanceId) -> String {
    setting.app().events(&member(), id).await.expect("events").remove(0).id
}

#[tokio::test]
async fn a_removal_that_is_stuck_is_resumed_with_its_attempts_counted_anew() {
    let setting = Setting::new().await;
    let id = stuck_removal(&setting).await;
    let told = setting.app().preview_choice(&member(), id, Choice::Resume).await.expect("an offer");
    assert_eq!((told.step, told.undoing), ("drop", false));
    assert!(matches!(setting.operation(id).await.phase, Phase::Stuck { .. }), "a look changes nothing");
    setting.app().choose(&member(), id, Choice::Resume).await.expect("resumed");
    assert_eq!(last_event(&setting, id).await, "operation.resumed");
    // It fails again, and is stuck only after five more attempts.
    until_stuck(&setting, id).await;
    setting.places.set_gate(Gate::Open);
    setting.app().choose(&member(), id, Choice::Resume).await.expect("resumed");
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_removal_that_is_given_up_leaves_an_instance_that_serves_again_and_says_what_happened() {
    let setting = Setting::new().await;
    let id = stuck_removal(&setting).await;
    setting.app().choose(&member(), id, Choice::Abandon).await.expect("abandoned");
    let operation = setting.operation(id).await;
    assert!(matches!(operation.phase, Phase::Abandoned { at: 0, .. }) && !operation.is_open(), "{:?}", operation.phase);
    assert_eq!(last_event(&setting, id).await, "operation.abandoned");
    let view = setting.until(id, |view| view.status == Status::Active).await;
    let fault = view.instance.fault.expect("a fault");
    assert!(fault.abandoned && fault.cause.message.contains("gone for a walk"), "{fault:?}");
    // Whether it is what it was only an engine that serves can tell.
    setting.places.kill_agent(id);
    setting.pass(100);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.silent_since.is_some()), (Status::Error, true));
    setting.places.set_gate(Gate::Open);
    setting.until(id, |view| view.status == Status::Active).await;
    setting.app().restart(&member(), id).await.expect("accepted");
    let view = setting.until(id, |view| view.instance.fault.is_none()).await;
    assert_eq!(view.status, Status::Active, "what was proven since is known");
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_creation_that_is_given_up_stays_an_error_and_can_be_deleted() {
    let setting = Setting::new().await;
    let id = stuck_creation(&setting).await;
    let told = setting.app().preview_choice(&member(), id, Choice::Abandon).await.expect("an offer");
    assert_eq!((told.step, told.undoing), ("place", true));
    setting.app().choose(&member(), id, Choice::Abandon).await.expect("abandoned");
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.operation), (Status::Error, None));
    assert!(view.instance.fault.is_some_and(|fault| fault.abandoned));
    assert!(setting.places.identity(id).is_some(), "nothing was removed");
    setting.places.set_gate(Gate::Open);
    setting.app().delete(&member(), id).await.expect("accepted");
    setting.until_gone(id).await;
}

#[tokio::test]
async fn a_section_is_tried_at_once_when_that_is_asked_for_and_cannot_be_given_up() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Stick(cause()));
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until(id, |view| view.status == Status::Error).await;
    let refused = setting.app().choose(&member(), id, Choice::Abandon).await.expect_err("refused").to_string();
    assert!(refused.contains("the dog ate it") && refused.contains("coffer instance resume"), "{refused}");
    setting.app().choose(&member(), id, Choice::Resume).await.expect("resumed");
    let volume = setting.places.volume(id).expect("a place");
    eventually(async || if volume.lock().unwrap().resumes.len() == 1 { Ok(()) } else { Err("not told yet") }).await;
    setting.script("section", Act::Succeed);
    let view = setting.until(id, |view| view.status == Status::Active).await;
    assert_eq!(view.version.name, "8.0.2");
}

#[tokio::test]
async fn nobody_decides_about_what_is_not_theirs_or_not_stuck() {
    use coffer_server::caller::Role;
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    for choice in [Choice::Resume, Choice::Abandon] {
        let none = setting.app().choose(&member(), id, choice).await.expect_err("refused").to_string();
        assert!(none.contains("none is stuck"), "{none}");
        let other = setting.app().choose(&caller("theirs", Role::Member), id, choice).await;
        assert!(matches!(other, Err(Error::NotFound { .. })), "{other:?}");
        let reader = setting.app().choose(&caller("ours", Role::Reader), id, choice).await;
        assert!(matches!(reader, Err(Error::Forbidden { .. })), "{reader:?}");
    }
    setting.script("section", Act::Hang);
    setting.app().restart(&member(), id).await.expect("accepted");
    let moving = setting.app().choose(&member(), id, Choice::Abandon).await.expect_err("refused").to_string();
    assert!(moving.contains("not stuck"), "{moving}");
}
