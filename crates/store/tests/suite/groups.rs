//! Configuration groups.

use coffer_core::group::{Configured, Group};
use coffer_core::id::{Generation, GroupId, ProjectId};
use coffer_core::instance::Kind;
use coffer_core::operation::Phase;
use coffer_core::spec::Settings;
use coffer_store::{Change, Desire, Scope, Store};
use coffer_testkit::fixture::Fixture;
use uuid::Uuid;

use super::{at, insert, insert_another, open, operation};

/// Writes down the fixture's group with another id.
async fn insert_group(store: &Store, n: u8, project: &str) -> Group {
    let group = Group {
        id: GroupId(Uuid::from_u128(u128::from(n))),
        project: project.into(),
        created_at: at(i64::from(n)),
        ..Fixture::serving().group(&[("timeout", "60"), ("save", "60 1\n\"\" [")])
    };
    let mut write = store.write().await.expect("write");
    for version in &Fixture::serving().catalogue {
        write.seed_version(version).await.expect("version");
    }
    write.insert_group(&group).await.expect("group");
    write.commit().await.expect("commit");
    group
}

/// Ends an operation of the instance with what its settings come from then.
async fn configure(store: &Store, fixture: &Fixture, group: Option<&Group>) {
    let id = open(store, &fixture.instance, Kind::Configure).await.id;
    let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Done;
    let desire = Desire { generation: Generation(5), engine: fixture.snapshot().spec() };
    let configured = Configured { own: fixture.instance.own.clone(), group: group.cloned() };
    store.save(&claimed, &[Change::Runs(desire, Some(configured))], at(2)).await.expect("save");
}

pub(crate) async fn a_group_is_read_as_it_was_written_by_its_project_alone(store: &Store) {
    let mut group = insert_group(store, 1, "ours").await;
    let (ours, theirs) = (ProjectId::from("ours"), ProjectId::from("theirs"));
    assert_eq!(store.group(Scope::Project(&ours), group.id).await.expect("query"), Some(group.clone()));
    assert_eq!(store.group(Scope::Admin, group.id).await.expect("query"), Some(group.clone()));
    assert_eq!(store.group(Scope::Project(&theirs), group.id).await.expect("query"), None);
    assert_eq!(store.groups(Scope::Project(&theirs), "", 10).await.expect("query"), []);
    let mut write = store.write().await.expect("write");
    assert_eq!(write.group(Scope::Project(&theirs), group.id).await.expect("query"), None);
    assert_eq!(write.groups(&theirs).await.expect("query"), []);
    group.name.push_str(" renamed");
    group.description = Some("for the cache".to_owned());
    group.values = Settings::new();
    group.updated_at = at(9);
    write.save_group(&group).await.expect("save");
    write.commit().await.expect("commit");
    assert_eq!(store.group(Scope::Project(&ours), group.id).await.expect("query"), Some(group.clone()));
    let mut write = store.write().await.expect("write");
    write.delete_group(group.id).await.expect("delete");
    write.commit().await.expect("commit");
    assert_eq!(store.group(Scope::Admin, group.id).await.expect("query"), None);
}

pub(crate) async fn groups_come_in_pages_by_their_ids(store: &Store) {
    for n in [3, 1, 2] {
        insert_group(store, n, "ours").await;
    }
    let ours = ProjectId::from("ours");
    let page = async |marker: &str| {
        let page = store.groups(Scope::Project(&ours), marker, 2).await.expect("page");
        page.iter().map(|group| group.id.0.as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(page("").await, [1, 2]);
    assert_eq!(page(&Uuid::from_u128(2).to_string()).await, [3]);
}

pub(crate) async fn an_instance_has_the_group_that_the_end_of_an_operation_gave_it(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let group = insert_group(store, 1, &fixture.instance.project.0).await;
    let shown = async || store.instance(Scope::Admin, fixture.instance.id).await.expect("query").expect("there");
    assert_eq!(shown().await.instance.group, None);
    configure(store, &fixture, Some(&group)).await;
    let row = shown().await;
    assert_eq!(row.instance.group, Some(group.clone()));
    assert_eq!(row.instance.pending(), ["save", "timeout"], "it does not run with them yet");
    assert_eq!(store.count_of_group(group.id).await.expect("query"), 1);
    let named = [(fixture.instance.id, fixture.instance.name.clone())];
    assert_eq!(store.instances_of_group(group.id, "", 10).await.expect("query"), named);
    assert_eq!(store.instances_of_group(group.id, &fixture.instance.id.to_string(), 10).await.expect("query"), []);
    configure(store, &fixture, None).await;
    assert_eq!(shown().await.instance.group, None);
    assert_eq!(shown().await.instance.pending(), [] as [String; 0]);
}

pub(crate) async fn whoever_is_about_to_have_a_group_uses_it(store: &Store) {
    let group = insert_group(store, 1, "ours").await;
    let instance = insert_another(store, 1, "ours").await;
    let users = async || store.write().await.expect("write").users_of_group(group.id).await.expect("query");
    assert_eq!(users().await, []);
    let mut write = store.write().await.expect("write");
    let mut configure = operation(&instance, Kind::Configure);
    configure.group = Some(group.id);
    write.insert_operation(&configure).await.expect("operation");
    write.commit().await.expect("commit");
    assert_eq!(users().await, [instance.id]);
    let mut claimed = store.claim(configure.id, at(1), at(2)).await.expect("query").expect("claim");
    assert_eq!(claimed.group, Some(group.id));
    claimed.phase = Phase::Undone { cause: coffer_core::finding::Cause::new("no", "") };
    store.save(&claimed, &[], at(2)).await.expect("save");
    assert_eq!(users().await, [], "it does not get it");
}

pub(crate) async fn a_migrated_group_is_made_once(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let project = fixture.instance.project.clone();
    let migrated = |n: u128, timeout: &str| Group {
        id: GroupId(Uuid::from_u128(n)),
        name: "cache-8.0.2".to_owned(),
        version: fixture.target().id,
        ..fixture.group(&[("timeout", timeout)])
    };
    let attached = async |group: Group| {
        configure(store, &fixture, Some(&group)).await;
        let row = store.instance(Scope::Admin, fixture.instance.id).await.expect("query").expect("there");
        row.instance.group.expect("a group").id.0.as_u128()
    };
    assert_eq!(attached(migrated(7, "60")).await, 7);
    assert_eq!(attached(migrated(8, "60")).await, 7, "the same is there already");
    assert_eq!(attached(migrated(9, "61")).await, 9, "other values are another group");
    assert_eq!(store.groups(Scope::Project(&project), "", 10).await.expect("query").len(), 2);
}

pub(crate) async fn a_deleted_instance_leaves_its_group(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let group = insert_group(store, 1, &fixture.instance.project.0).await;
    configure(store, &fixture, Some(&group)).await;
    let id = open(store, &fixture.instance, Kind::Delete).await.id;
    let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Done;
    store.save(&claimed, &[Change::Deleted], at(3)).await.expect("save");
    let mut write = store.write().await.expect("write");
    assert_eq!(write.users_of_group(group.id).await.expect("query"), []);
    write.delete_group(group.id).await.expect("nobody has it");
    write.commit().await.expect("commit");
}
