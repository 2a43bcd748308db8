//! Configuration groups where something goes wrong: an engine that refuses, an upgrade that fails, an instance that is down.

use std::collections::BTreeMap;

use coffer_core::engine::Policy;
use coffer_core::engine::parameter::Given;
use coffer_core::id::{GroupId, InstanceId};
use coffer_core::instance::Status;
use coffer_core::operation::Phase;
use coffer_server::app::{Error, GroupChange, NewGroup, Page};

use crate::agent::Act;
use crate::place::Gate;
use crate::setting::{Setting, cause, member};

/// A group of the version that new instances have.
async fn group(setting: &Setting, timeout: &str) -> GroupId {
    let new = NewGroup {
        name: "cache".to_owned(),
        description: None,
        datastore: Some("redis".to_owned()),
        version: Some("7.0.15".to_owned()),
        values: values(timeout).into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
    };
    setting.app().create_group(&member(), new).await.expect("a group").group.id
}

fn values(timeout: &str) -> BTreeMap<String, Option<Given>> {
    BTreeMap::from([("timeout".to_owned(), Some(Given::Text(timeout.to_owned())))])
}

async fn change(setting: &Setting, group: GroupId, timeout: &str) -> Result<(), Error> {
    let change = GroupChange { values: Some(values(timeout)), ..GroupChange::default() };
    setting.app().change_group(&member(), &group.to_string(), change).await
}

/// The group that the instance has, and the value that its engine was told last.
async fn has(setting: &Setting, id: InstanceId) -> (Option<GroupId>, Option<String>) {
    let instance = setting.app().instance(&member(), id).await.expect("the instance").instance;
    (instance.group.map(|group| group.id), instance.settings.get("timeout").cloned())
}

#[tokio::test]
async fn an_engine_that_refuses_leaves_the_instance_without_the_group() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let cache = group(&setting, "5").await;
    setting.script("configure", Act::Fail(cause()));
    let refused = setting.app().attach_group(&member(), id, Some(cache)).await;
    assert!(matches!(refused, Err(Error::NotTaken { instance, cause: why }) if instance == id && why == cause()));
    assert_eq!(has(&setting, id).await, (None, None));
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.status, Status::Active);
    assert_eq!(view.instance.fault.map(|fault| fault.cause), Some(cause()));
    setting.app().delete_group(&member(), &cache.to_string()).await.expect("nobody has it");
}

#[tokio::test]
async fn a_group_s_new_value_that_an_engine_refuses_is_a_wish_that_is_told() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let cache = group(&setting, "5").await;
    setting.app().attach_group(&member(), id, Some(cache)).await.expect("taken");
    assert_eq!(has(&setting, id).await, (Some(cache), Some("5".to_owned())));
    setting.script("configure", Act::Fail(cause()));
    assert!(matches!(change(&setting, cache, "6").await, Err(Error::NotTaken { .. })));
    assert_eq!(has(&setting, id).await, (Some(cache), Some("5".to_owned())), "it goes on with the old one");
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.pending), (Status::RestartRequired, vec!["timeout".to_owned()]));
    setting.script("configure", Act::Succeed);
    change(&setting, cache, "7").await.expect("taken");
    assert_eq!(has(&setting, id).await, (Some(cache), Some("7".to_owned())));
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.instance.fault), (Status::Active, None));
}

#[tokio::test]
async fn an_upgrade_that_fails_leaves_the_old_group_and_makes_none() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let cache = group(&setting, "5").await;
    setting.app().attach_group(&member(), id, Some(cache)).await.expect("taken");
    setting.script("section", Act::Fail(cause()));
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until_operation(id, |o| matches!(o.phase, Phase::Undone { .. })).await;
    assert_eq!(has(&setting, id).await, (Some(cache), Some("5".to_owned())));
    let all = async || setting.app().groups(&member(), Page::default()).await.expect("groups").items.len();
    assert_eq!(all().await, 1);
    setting.script("section", Act::Succeed);
    let operation = setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    setting.until_operation(id, |o| o.phase == Phase::Done).await;
    assert_eq!(has(&setting, id).await, (Some(GroupId(operation.id.0)), Some("5".to_owned())));
    assert_eq!(all().await, 2);
}

#[tokio::test]
async fn a_group_goes_on_being_changed_while_one_of_its_instances_is_not_heard_of() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let cache = group(&setting, "5").await;
    setting.app().attach_group(&member(), id, Some(cache)).await.expect("taken");
    setting.script("configure", Act::Fail(cause()));
    // What an agent said so long ago is no news.
    setting.places.set_gate(Gate::Fails);
    setting.places.kill_agent(id);
    setting.pass(100);
    change(&setting, cache, "6").await.expect("nobody is asked");
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!(view.status, Status::RestartRequired);
}
