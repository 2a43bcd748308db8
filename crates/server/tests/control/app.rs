//! What callers may do, and how they are refused.

use coffer_core::engine::Policy;
use coffer_core::finding::Finding;
use coffer_core::instance::{Kind, Status};
use coffer_core::task::Task;
use coffer_server::app::{Error, NewInstance, Page, Scope, Thing, VersionChange};
use coffer_server::caller::{Caller, Role};

use crate::agent::{Act, digest};
use crate::setting::{Setting, caller, member, new};

#[tokio::test]
async fn another_projects_instance_is_not_found_whatever_is_asked_of_it() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let (app, stranger) = (setting.app(), caller("theirs", Role::Member));
    let answers = [
        app.instance(&stranger, id).await.err(),
        app.rename(&stranger, id, "mine").await.err(),
        app.upgrade(&stranger, id, "8.0.2", Policy::default()).await.err(),
        app.preview_upgrade(&stranger, id, "8.0.2", Policy::default()).await.err(),
        app.restart(&stranger, id).await.err(),
        app.delete(&stranger, id).await.err(),
        app.operations(&stranger, id).await.err(),
        app.events(&stranger, id).await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(Error::NotFound { what: Thing::Instance, .. })), "{answer:?}");
    }
    assert!(app.instances(&stranger, Scope::Own, Page::default()).await.expect("a list").items.is_empty());
    let forbidden = app.instances(&stranger, Scope::All, Page::default()).await;
    assert!(matches!(forbidden, Err(Error::Forbidden { .. })), "{forbidden:?}");
    let forbidden = app.quota(&stranger, &member().project).await;
    assert!(matches!(forbidden, Err(Error::Forbidden { .. })), "{forbidden:?}");
    let admin = caller("theirs", Role::Admin);
    assert_eq!(app.instance(&admin, id).await.expect("found").status, Status::Active);
    assert_eq!(app.instances(&admin, Scope::All, Page::default()).await.expect("a list").items.len(), 1);
}

#[tokio::test]
async fn a_reader_looks_and_changes_nothing() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let (app, reader) = (setting.app(), caller("ours", Role::Reader));
    app.instance(&reader, id).await.expect("may be looked at");
    let answers = [
        app.create(&reader, new("mine")).await.err(),
        app.rename(&reader, id, "mine").await.err(),
        app.upgrade(&reader, id, "8.0.2", Policy::default()).await.err(),
        app.restart(&reader, id).await.err(),
        app.delete(&reader, id).await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(Error::Forbidden { role: "member", .. })), "{answer:?}");
    }
}

#[tokio::test]
async fn an_instance_does_one_thing_at_a_time() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("section", Act::Hang);
    setting.app().upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("accepted");
    let app = setting.app();
    let answers = [
        app.upgrade(&member(), id, "8.0.2", Policy::default()).await.err(),
        app.preview_upgrade(&member(), id, "8.0.2", Policy::default()).await.err(),
        app.restart(&member(), id).await.err(),
        app.delete(&member(), id).await.err(),
    ];
    for answer in answers {
        assert!(matches!(answer, Some(Error::Busy { kind: Kind::Upgrade, .. })), "{answer:?}");
    }
    app.rename(&member(), id, "another name").await.expect("a name is no operation");
}

#[tokio::test]
async fn what_would_be_too_much_is_refused_and_leaves_nothing() {
    let setting = Setting::new().await;
    setting.script("fetch", Act::Hang);
    for n in 0..10 {
        setting.create(&format!("redis_{n}")).await;
    }
    let app = setting.app();
    let Err(Error::QuotaExceeded(excesses)) = app.create(&member(), new("one too many")).await else {
        unreachable!("it was accepted")
    };
    assert_eq!(excesses.iter().map(|e| e.resource).collect::<Vec<_>>(), ["instances"]);
    let roomy = caller("theirs", Role::Member);
    let big = |volume_gib| NewInstance { volume_gib, ..new("big") };
    for _ in 0..4 {
        app.create(&roomy, big(10)).await.expect("40 GiB are allowed");
    }
    let Err(Error::QuotaExceeded(excesses)) = app.create(&roomy, big(1)).await else { unreachable!("it was accepted") };
    assert_eq!(excesses.iter().map(|e| (e.resource, e.in_use)).collect::<Vec<_>>(), [("volumes", 40)]);
    let quota = app.quota(&roomy, &roomy.project).await.expect("quota");
    assert_eq!((quota.instances.in_use, quota.volumes.in_use, quota.volumes.limit), (4, 40, 40));
    let refused = app.create(&roomy, big(11)).await;
    assert!(matches!(refused, Err(Error::VolumeTooLarge { limit_gib: 10, .. })), "{refused:?}");
}

#[tokio::test]
async fn each_instance_gets_an_address_of_a_large_network_of_ipv6_and_an_engine_user_of_its_own() {
    let setting = Setting::with_addresses("fd00:c0ff::/32".parse().expect("a pool")).await;
    for (n, address) in [(0, "fd00:c0ff::1"), (1, "fd00:c0ff::2")] {
        let id = setting.serving(&format!("redis_{n}")).await;
        let view = setting.app().instance(&member(), id).await.expect("the instance");
        assert_eq!(view.instance.address.to_string(), address);
        let user = rustix::process::geteuid().is_root().then_some(700_000 + n);
        assert_eq!(setting.places.identity(id).expect("a place").engine_uid, user);
    }
}

#[tokio::test]
async fn an_instance_without_an_address_is_refused() {
    let setting = Setting::with_addresses("::1/128".parse().expect("a pool")).await;
    let first = setting.serving("redis_0").await;
    let refused = setting.app().create(&member(), new("redis_1")).await.expect_err("there is none left");
    let why = "all addresses of ::1/128 are taken; hint: configure a larger address_pool";
    assert_eq!(refused.to_string(), why);
    setting.app().delete(&member(), first).await.expect("accepted");
    setting.until_gone(first).await;
    setting.serving("redis_1").await;
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_the_reason() {
    let setting = Setting::new().await;
    let app = setting.app();
    let check = async |new: NewInstance, expected: &str| {
        let refused = app.create(&member(), new).await.expect_err(expected);
        assert!(format!("{refused:?}").contains(expected), "{refused:?}");
    };
    let named = |name: &str| new(name);
    let on = |datastore: &str, version: &str| NewInstance {
        datastore: Some(datastore.to_owned()),
        version: Some(version.to_owned()),
        ..new("redis_test")
    };
    check(named(""), "Invalid").await;
    check(named("---"), "Invalid").await;
    check(named(&"x".repeat(256)), "Invalid").await;
    check(NewInstance { flavor: "99".into(), ..new("a") }, "Flavor").await;
    check(NewInstance { volume_gib: 0, ..new("a") }, "Invalid").await;
    check(on("redis", "9.9.9"), "Version").await;
    check(on("oracle", "1"), "Datastore").await;
    check(on("valkey", "7.0.15"), "Version").await;
    check(on("redis", "6.2.14"), "version.inactive").await;
    check(NewInstance { datastore: Some("valkey".to_owned()), ..new("a") }, "no default version").await;
    assert!(app.instances(&member(), Scope::Own, Page::default()).await.expect("a list").items.is_empty());
}

#[tokio::test]
async fn pages_are_cut_by_id_and_each_is_sorted_by_age() {
    let setting = Setting::new().await;
    setting.script("fetch", Act::Hang);
    for n in 0..5 {
        setting.create(&format!("redis_{n}")).await;
    }
    let (mut marker, mut seen) = (None, Vec::new());
    loop {
        let page = Page { marker: marker.take(), limit: Some(2) };
        let paged = setting.app().instances(&member(), Scope::Own, page).await.expect("a page");
        let ages: Vec<_> = paged.items.iter().map(|view| view.instance.created_at).collect();
        assert!(ages.is_sorted_by(|a, b| a >= b), "{ages:?}");
        seen.extend(paged.items.into_iter().map(|view| view.instance.name));
        match paged.next {
            Some(next) => marker = Some(next),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["redis_0", "redis_1", "redis_2", "redis_3", "redis_4"]);
}

#[tokio::test]
async fn a_preview_tells_what_the_agent_found_and_touches_nothing() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    let warning = Finding::warning("redis.acl", "user app", "loses a command", "");
    setting.script("check", Act::Find(vec![warning.clone()]));
    let preview = setting.app().preview_upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("a preview");
    assert_eq!((preview.from.name.as_str(), preview.to.name.as_str()), ("7.0.15", "8.0.2"));
    assert_eq!(preview.image.expect("the image").digest, digest("8.0.2"));
    assert_eq!(preview.preview.expect("figures").gap_millis, 42);
    assert!(preview.findings.contains(&warning));
    assert_eq!(preview.plan.steps.len(), 4);
    let view = setting.app().instance(&member(), id).await.expect("the instance");
    assert_eq!((view.status, view.operation), (Status::Active, None));
    let script = setting.places.script.lock().unwrap();
    assert!(!script.asked.iter().any(|task| matches!(task, Task::Section(_))));
    let checked = script.asked.iter().find_map(|task| match task {
        Task::Check { to, .. } => Some(to),
        _ => None,
    });
    assert_eq!(checked.expect("a check").image.digest, Some(digest("8.0.2")), "the image that was just fetched");
}

#[tokio::test]
async fn a_preview_of_what_cannot_be_fetched_says_so() {
    let setting = Setting::new().await;
    let id = setting.serving("redis_test").await;
    setting.script("fetch", Act::Fail(crate::setting::cause()));
    let preview = setting.app().preview_upgrade(&member(), id, "8.0.2", Policy::default()).await.expect("a preview");
    let told = preview.findings.iter().find(|f| f.id == "image.fetch").expect("a finding");
    assert_eq!((told.message.as_str(), told.remedy.as_str()), ("the dog ate it", "feed the dog"));
    assert!(preview.preview.is_none());
}

#[tokio::test]
async fn operators_decide_which_versions_there_are_to_choose_from() {
    let setting = Setting::new().await;
    let (app, admin) = (setting.app(), caller("admin", Role::Admin));
    let names = |caller: &Caller| {
        let datastore = app.datastore(caller, "redis").expect("redis");
        datastore.versions.iter().map(|v| v.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&member()), ["7.0.15", "8.0.2"]);
    assert_eq!(names(&admin), ["6.2.14", "7.0.15", "8.0.2"]);
    let eight = app.version_of(&member(), "redis", "8.0.2").expect("by name").id;
    assert_eq!(app.version(&member(), eight).expect("by id").name, "8.0.2");
    assert_eq!(app.datastores(&member()).len(), 1);
    let by_id = app.datastores(&member())[0].id.to_string();
    assert_eq!(app.datastore(&member(), &by_id).expect("by id").datastore.name(), "redis");
    let forbidden = app.update_version(&member(), eight, VersionChange::default()).await;
    assert!(matches!(forbidden, Err(Error::Forbidden { role: "admin", .. })), "{forbidden:?}");
    let change = VersionChange { active: Some(false), default: Some(true), name: Some("eight".to_owned()) };
    app.update_version(&admin, eight, change).await.expect("changed");
    assert_eq!(names(&member()), ["7.0.15"]);
    assert!(app.version_of(&member(), "redis", "eight").is_err(), "inactive");
    let taken = VersionChange { name: Some("7.0.15".to_owned()), ..VersionChange::default() };
    let refused = app.update_version(&admin, eight, taken).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
    let version = app.version(&admin, eight).expect("the version");
    assert!(version.default && !version.active && version.name == "eight");
}
