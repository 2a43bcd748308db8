//! Instances, as tenants see them.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use coffer_core::finding::Cause;
use coffer_core::id::{Generation, ProjectId};
use coffer_core::instance::Fault;
use coffer_core::instance::Kind;
use coffer_core::operation::Phase;
use coffer_store::{Change, Event, InUse, Scope, Store};
use coffer_testkit::fixture::Fixture;

use super::{at, insert, insert_another, open};

pub(crate) async fn what_is_written_is_read_again_exactly(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let saved = store.save_report(fixture.instance.id, Some(&fixture.observed), &[], &[]).await;
    assert!(saved.expect("report"));
    let operation = open(store, &fixture.instance, Kind::Upgrade).await;
    let scope = Scope::Project(&fixture.instance.project);
    let row = store.instance(scope, fixture.instance.id).await.expect("query").expect("the instance");
    assert_eq!(row.instance, fixture.instance);
    assert_eq!(row.observed.as_ref(), Some(&fixture.observed));
    let shown = row.open.expect("the open operation");
    assert_eq!((shown.id, shown.kind, shown.target), (operation.id, operation.kind, operation.target));
    let all = store.operations(scope, fixture.instance.id).await.expect("query");
    assert_eq!(all, [operation]);
}

pub(crate) async fn an_event_may_say_anything(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let said = Event { at: at(7), id: "engine.died".to_owned(), message: "its last words: \0\u{1}ä".to_owned() };
    let kept = store.save_report(fixture.instance.id, None, &[], &[said.clone(), said]).await;
    assert!(kept.expect("report"));
    let events = store.events(Scope::Admin, fixture.instance.id, 10).await.expect("query");
    let message = "its last words: \u{fffd}\u{1}ä".to_owned();
    assert_eq!(events, [Event { at: at(7), id: "engine.died".to_owned(), message }]);
}

pub(crate) async fn a_page_has_what_each_of_its_instances_has(store: &Store) {
    let mut fixture = Fixture::serving();
    // What JSON writes in a way of its own, and the largest and smallest of every number.
    fixture.instance.name.push_str(" \"b\" \\ ] ',' \n \t \u{1} \u{7f} \u{2028} ä 𝄞");
    fixture.instance.settings.insert("save".to_owned(), "60 1\n\"\" [".to_owned());
    fixture.instance.volume_gib = u32::MAX;
    fixture.instance.address = std::net::Ipv4Addr::BROADCAST.into();
    fixture.instance.generation = Generation(i64::MAX.cast_unsigned());
    fixture.instance.updated_at = "9999-12-30T21:59:59.999999Z".parse().expect("a time");
    fixture.instance.created_at = "-009999-01-03T00:00:00.000001Z".parse().expect("a time");
    insert(store, &fixture.instance).await;
    assert!(store.save_report(fixture.instance.id, Some(&fixture.observed), &[], &[]).await.expect("report"));
    open(store, &fixture.instance, Kind::Upgrade).await;
    let other = insert_another(store, 200, "0123456789abcdef0123456789abcdef").await;
    let failed = open(store, &other, Kind::Restart).await;
    let mut write = store.write().await.expect("write");
    let given_up = Phase::Abandoned { at: 0, cause: Cause::new("it \"broke\"", "mend\nit") };
    write.end_stuck(failed.id, &given_up, at(300)).await.expect("end");
    let fault = Fault { at: at(300), cause: Cause::new("it \"broke\"", "mend\nit"), abandoned: false };
    write.set_fault(other.id, Some(&fault), at(300)).await.expect("fault");
    write.commit().await.expect("commit");
    let scope = Scope::Project(&other.project);
    let page = store.instances(scope, "", 10).await.expect("page");
    assert_eq!(page.len(), 2);
    assert_eq!(page[0].instance, fixture.instance);
    assert_eq!(page[0].observed.as_ref(), Some(&fixture.observed));
    assert!(page[0].open.is_some());
    assert!(page[1].instance.fault.is_some() && page[1].open.is_none());
    for row in page {
        let alone = store.instance(scope, row.instance.id).await.expect("query").expect("the instance");
        assert_eq!(row, alone);
    }
}

pub(crate) async fn another_projects_instance_does_not_exist(store: &Store) {
    let instance = insert_another(store, 1, "theirs").await;
    open(store, &instance, Kind::Upgrade).await;
    let event = Event { at: at(1), id: "engine.died".to_owned(), message: "it did".to_owned() };
    assert!(store.save_report(instance.id, None, &[], &[event]).await.expect("report"));
    let (ours, theirs) = (ProjectId::from("ours"), ProjectId::from("theirs"));
    for (project, there) in [(&ours, false), (&theirs, true)] {
        let scope = Scope::Project(project);
        assert_eq!(store.instance(scope, instance.id).await.expect("query").is_some(), there);
        assert_eq!(!store.instances(scope, "", 10).await.expect("query").is_empty(), there);
        assert_eq!(!store.operations(scope, instance.id).await.expect("query").is_empty(), there);
        assert_eq!(!store.events(scope, instance.id, 10).await.expect("query").is_empty(), there);
        let last = store.last_event(scope, instance.id, ["engine.died", "engine.steady"]).await.expect("query");
        assert_eq!(last.is_some_and(|last| last.id == "engine.died"), there);
        assert_eq!(store.rename(scope, instance.id, "renamed", at(2)).await.expect("query"), there);
        let mut write = store.write().await.expect("write");
        assert_eq!(write.instance(scope, instance.id).await.expect("query").is_some(), there);
        assert_eq!(write.in_use(project).await.expect("query").instances, i64::from(there));
    }
    assert!(store.instance(Scope::Admin, instance.id).await.expect("query").is_some());
}

pub(crate) async fn a_page_ends_where_the_next_begins(store: &Store) {
    for n in 1..=5 {
        insert_another(store, n, "ours").await;
    }
    insert_another(store, 6, "theirs").await;
    let (project, mut marker, mut pages) = (ProjectId::from("ours"), String::new(), Vec::new());
    loop {
        let page = store.instances(Scope::Project(&project), &marker, 2).await.expect("page");
        let Some(last) = page.last() else { break };
        marker = last.instance.id.to_string();
        pages.push(page.iter().map(|row| row.instance.id.0.as_u128()).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec![1, 2], vec![3, 4], vec![5]]);
    assert_eq!(store.instances(Scope::Admin, "", 10).await.expect("page").len(), 6);
}

pub(crate) async fn a_freed_address_is_given_again_as_late_as_possible(store: &Store) {
    let nth = |n| IpAddr::from([127, 20, 1, n]);
    let pool = (nth(1), nth(4));
    assert_eq!(free(store, pool).await, Some(nth(1)));
    for n in 1..=3 {
        assert_eq!(free(store, pool).await, Some(nth(n)));
        insert_another(store, n, "ours").await;
    }
    delete(store, 2).await;
    assert_eq!(free(store, pool).await, Some(nth(4)), "the freed one has to rest");
    insert_another(store, 4, "ours").await;
    assert_eq!(free(store, pool).await, Some(nth(2)), "now there is no other");
    let mut again = Fixture::serving().instance;
    again.address = [127, 20, 1, 2].into();
    again.created_at = at(5);
    insert(store, &again).await;
    assert_eq!(free(store, pool).await, None);
}

pub(crate) async fn addresses_of_ipv6_are_given_like_those_of_ipv4(store: &Store) {
    let v6 = |text: &str| IpAddr::from(text.parse::<Ipv6Addr>().expect(text));
    let small = (v6("fd00:c0ff::fffe"), v6("fd00:c0ff::1:1"));
    // One of another network and one of IPv4 that end in the same bits, which must not matter.
    for (n, other) in [(91, v6("fd00:beef::fffe")), (92, IpAddr::from([0, 0, 255, 254]))] {
        insert_at(store, n, other).await;
    }
    for (n, address) in [(1, "fd00:c0ff::fffe"), (2, "fd00:c0ff::ffff"), (3, "fd00:c0ff::1:0")] {
        assert_eq!(free(store, small).await, Some(v6(address)));
        insert_at(store, n, v6(address)).await;
    }
    delete(store, 2).await;
    assert_eq!(free(store, small).await, Some(v6("fd00:c0ff::1:1")), "the freed one has to rest");
    insert_at(store, 4, v6("fd00:c0ff::1:1")).await;
    assert_eq!(free(store, small).await, Some(v6("fd00:c0ff::ffff")), "now there is no other");
    insert_at(store, 5, v6("fd00:c0ff::ffff")).await;
    assert_eq!(free(store, small).await, None);

    let whole = (v6("fd00:c0ff::1"), v6("fd00:c0ff::ffff:ffff:ffff:ffff"));
    assert_eq!(free(store, whole).await, Some(v6("fd00:c0ff::1:2")), "after all that are taken");
    let one = (v6("::1"), v6("::1"));
    assert_eq!(free(store, one).await, Some(v6("::1")));
    insert_at(store, 6, v6("::1")).await;
    assert_eq!(free(store, one).await, None);
}

pub(crate) async fn two_instances_never_have_one_address(store: &Store) {
    for (n, address) in [(1, IpAddr::from([127, 20, 1, 1])), (3, "fd00:c0ff::1".parse().expect("address"))] {
        insert_at(store, n, address).await;
        let mut second = Fixture::serving().instance;
        second.address = address;
        let mut write = store.write().await.expect("write");
        write.insert_instance(&second).await.expect_err("it is taken");
    }
}

pub(crate) async fn a_deleted_instance_is_gone_and_gives_back_what_it_had(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let project = ProjectId::from("ours");
    assert_eq!(store.in_use(&project).await.expect("query"), InUse { instances: 1, volume_gib: 2 });
    delete(store, 1).await;
    assert_eq!(store.in_use(&project).await.expect("query"), InUse { instances: 0, volume_gib: 0 });
    assert!(store.instance(Scope::Admin, instance.id).await.expect("query").is_none());
    assert!(store.for_agent(instance.id).await.expect("query").is_none());
    assert!(!store.save_report(instance.id, None, &[], &[]).await.expect("report"));
    assert!(!store.rename(Scope::Admin, instance.id, "ghost", at(9)).await.expect("query"));
    let history = store.operations(Scope::Project(&project), instance.id).await.expect("query");
    assert_eq!(history.len(), 1, "what was done to it is still known");
}

pub(crate) async fn who_is_to_have_an_agent_follows_from_the_record(store: &Store) {
    let serving = insert_another(store, 1, "ours").await;
    let upgrading = insert_another(store, 2, "ours").await;
    open(store, &upgrading, Kind::Upgrade).await;
    let leaving = insert_another(store, 3, "ours").await;
    open(store, &leaving, Kind::Delete).await;
    let mut wanted = vec![serving.id, upgrading.id];
    for (n, phase, has_place) in [
        (4, Phase::START, false),
        (5, Phase::Forward { at: 0, begun: true, attempt: 0 }, false),
        (6, Phase::Forward { at: 1, begun: true, attempt: 0 }, true),
        (7, Phase::Backward { at: 1, attempt: 0, cause: coffer_core::finding::Cause::new("no", "") }, false),
    ] {
        let mut instance = Fixture::unbuilt().instance;
        instance.id.0 = uuid::Uuid::from_u128(n);
        instance.address = [127, 20, 1, u8::try_from(n).expect("small")].into();
        insert(store, &instance).await;
        let operation = open(store, &instance, Kind::Create).await;
        let mut claimed = store.claim(operation.id, at(1), at(2)).await.expect("query").expect("claim");
        claimed.phase = phase;
        store.save(&claimed, &[], at(2)).await.expect("save");
        wanted.extend(has_place.then_some(instance.id));
    }
    let found: HashSet<_> = store.with_agents().await.expect("query").into_iter().collect();
    assert_eq!(found, wanted.into_iter().collect());
}

pub(crate) async fn what_is_left_of_an_instance_is_known_for_certain(store: &Store) {
    let is_left = async |id| store.is_left(id).await.expect("query");
    let serving = insert_another(store, 1, "ours").await;
    assert!(!is_left(serving.id).await);
    let leaving = open(store, &serving, Kind::Delete).await;
    assert!(!is_left(serving.id).await, "it is being removed by somebody");
    let mut claimed = store.claim(leaving.id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Done;
    store.save(&claimed, &[Change::Deleted], at(2)).await.expect("save");
    assert!(is_left(serving.id).await, "it is gone");

    let mut unbuilt = Fixture::unbuilt().instance;
    unbuilt.id.0 = uuid::Uuid::from_u128(2);
    insert(store, &unbuilt).await;
    let creation = open(store, &unbuilt, Kind::Create).await;
    assert!(!is_left(unbuilt.id).await, "it is being built");
    let mut claimed = store.claim(creation.id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Undone { cause: coffer_core::finding::Cause::new("no", "") };
    store.save(&claimed, &[], at(2)).await.expect("save");
    assert!(is_left(unbuilt.id).await, "nobody builds it any more");

    let mut given_up = Fixture::unbuilt().instance;
    given_up.id.0 = uuid::Uuid::from_u128(4);
    given_up.address = [127, 20, 0, 44].into();
    insert(store, &given_up).await;
    let creation = open(store, &given_up, Kind::Create).await;
    let mut claimed = store.claim(creation.id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Abandoned { at: 0, cause: coffer_core::finding::Cause::new("no", "") };
    store.save(&claimed, &[], at(2)).await.expect("save");
    assert!(!is_left(given_up.id).await, "it was said that nothing is removed");

    let unknown = coffer_core::id::InstanceId(uuid::Uuid::from_u128(3));
    assert!(!is_left(unknown).await, "of what is not known nothing is said");
}

/// Writes down an instance with this address, newer than those with smaller numbers, and reads it again.
async fn insert_at(store: &Store, n: u8, address: IpAddr) {
    let mut instance = Fixture::serving().instance;
    instance.id.0 = uuid::Uuid::from_u128(u128::from(n));
    instance.address = address;
    instance.created_at = at(i64::from(n));
    insert(store, &instance).await;
    let row = store.instance(Scope::Admin, instance.id).await.expect("query").expect("the instance");
    assert_eq!(row.instance, instance);
}

async fn delete(store: &Store, n: u8) {
    let id = coffer_core::id::InstanceId(uuid::Uuid::from_u128(u128::from(n)));
    let row = store.instance(Scope::Admin, id).await.expect("query").expect("the instance");
    let operation = open(store, &row.instance, Kind::Delete).await;
    let mut claimed = store.claim(operation.id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Done;
    store.save(&claimed, &[Change::Deleted], at(2)).await.expect("save");
}

async fn free(store: &Store, pool: (IpAddr, IpAddr)) -> Option<IpAddr> {
    store.write().await.expect("write").free_address(pool.0, pool.1).await.expect("query")
}
