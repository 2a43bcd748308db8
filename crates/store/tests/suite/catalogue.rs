//! Versions, and who may log in.

use coffer_core::datastore::{Datastore, Version};
use coffer_core::id::{Digest, ProjectId};
use coffer_store::{Project, Store, Token, User};
use coffer_testkit::fixture::version;

use super::at;

async fn seed(store: &Store, versions: &[Version]) {
    let mut write = store.write().await.expect("write");
    for version in versions {
        write.seed_version(version).await.expect("version");
    }
    write.commit().await.expect("commit");
}

async fn find(store: &Store, wanted: &Version) -> Version {
    let all = store.versions().await.expect("query");
    all.into_iter().find(|v| v.id == wanted.id).expect("the version")
}

async fn save(store: &Store, version: &Version) -> bool {
    let mut write = store.write().await.expect("write");
    let saved = write.save_version(version).await.expect("query");
    if saved {
        write.commit().await.expect("commit");
    }
    saved
}

pub(crate) async fn a_new_catalogue_leaves_alone_what_the_operator_changed(store: &Store) {
    let mut seven = Version { default: true, ..version(1, Datastore::Redis, "7.0.15") };
    let eight = Version { default: true, ..version(2, Datastore::Redis, "8.0.2") };
    seed(store, &[seven.clone(), eight.clone()]).await;
    assert!(find(store, &seven).await.default);
    assert!(!find(store, &eight).await.default, "there was a default already");
    let changed = Version { active: false, name: "seven".to_owned(), default: false, ..seven.clone() };
    assert!(save(store, &changed).await);
    seven.sources = serde_json::json!(["elsewhere"]);
    seven.active = true;
    seed(store, &[Version { default: false, ..seven.clone() }]).await;
    assert_eq!(find(store, &seven).await, Version { sources: seven.sources.clone(), ..changed });
}

pub(crate) async fn one_version_is_the_default_and_names_are_unique(store: &Store) {
    let seven = Version { default: true, ..version(1, Datastore::Redis, "7.0.15") };
    let eight = version(2, Datastore::Redis, "8.0.2");
    let valkey = Version { default: true, ..version(3, Datastore::Valkey, "8.1.1") };
    seed(store, &[seven.clone(), eight.clone(), valkey.clone()]).await;
    assert!(save(store, &Version { default: true, ..eight.clone() }).await);
    assert!(!find(store, &seven).await.default);
    assert!(find(store, &eight).await.default);
    assert!(find(store, &valkey).await.default, "each datastore has its own");
    assert!(!save(store, &Version { name: seven.name.clone(), ..eight.clone() }).await);
    assert_eq!(find(store, &eight).await.name, "8.0.2");
}

pub(crate) async fn the_first_image_of_a_version_stays(store: &Store) {
    let seven = Version { image: None, ..version(1, Datastore::Redis, "7.0.15") };
    seed(store, std::slice::from_ref(&seven)).await;
    for digest in ["sha256:first", "sha256:second"] {
        let mut write = store.write().await.expect("write");
        write.record_image(seven.id, &Digest::from(digest), seven.number).await.expect("image");
        write.commit().await.expect("commit");
    }
    assert_eq!(find(store, &seven).await.image, Some(Digest::from("sha256:first")));
}

pub(crate) async fn a_series_is_named_by_the_number_of_its_image(store: &Store) {
    let series = Version { image: None, ..version(1, Datastore::Redis, "8.0") };
    seed(store, std::slice::from_ref(&series)).await;
    let mut write = store.write().await.expect("write");
    let number = "8.0.2".parse().expect("number");
    write.record_image(series.id, &Digest::from("sha256:first"), number).await.expect("image");
    write.commit().await.expect("commit");
    // The catalogue still says the series, or a later image is on the host: what was recorded stays.
    seed(store, &[Version { number: "8.0.6".parse().expect("number"), ..series.clone() }]).await;
    let found = find(store, &series).await;
    assert_eq!((found.name.as_str(), found.number), ("8.0.2", number));
    // Another entry that turns out to be the same keeps the name that it has.
    let other = Version { image: None, ..version(2, Datastore::Redis, "8") };
    seed(store, &[Version { number, ..other.clone() }]).await;
    let mut write = store.write().await.expect("write");
    write.record_image(other.id, &Digest::from("sha256:first"), number).await.expect("image");
    write.commit().await.expect("commit");
    assert_eq!(find(store, &other).await.name, "8");
}

pub(crate) async fn a_token_comes_with_its_owner_and_roles_until_it_is_deleted(store: &Store) {
    let project = Project { id: ProjectId::from("p1"), name: "demo".to_owned() };
    let user = User { id: "u1".to_owned(), name: "demo".to_owned(), password_hash: "$argon2id$1".to_owned() };
    let mut write = store.write().await.expect("write");
    for _ in 0..2 {
        write.ensure_project(&project).await.expect("project");
        write.ensure_user(&user).await.expect("user");
        for role in ["member", "reader"] {
            write.ensure_role(&user.id, &project.id, role).await.expect("role");
        }
    }
    write.commit().await.expect("commit");
    let token = |hash: &str, project: Option<&ProjectId>, expires| Token {
        hash: hash.to_owned(),
        user: "u1".to_owned(),
        project: project.cloned(),
        issued_at: at(1),
        expires_at: at(expires),
    };
    let (scoped, unscoped) = (token("aa", Some(&project.id), 100), token("bb", None, 50));
    store.insert_token(&scoped).await.expect("token");
    store.insert_token(&unscoped).await.expect("token");

    let mut owner = store.token("aa").await.expect("query").expect("the token");
    owner.roles.sort();
    assert_eq!((owner.token, owner.user_name.as_str()), (scoped, "demo"));
    assert_eq!(owner.project_name.as_deref(), Some("demo"));
    assert_eq!(owner.roles, ["member", "reader"]);
    let owner = store.token("bb").await.expect("query").expect("the token");
    assert_eq!((owner.token, owner.project_name, owner.roles), (unscoped, None, Vec::new()));

    assert_eq!(store.delete_expired_tokens(at(50)).await.expect("query"), 1);
    assert!(store.token("bb").await.expect("query").is_none());
    assert!(store.delete_token("aa").await.expect("query"));
    assert!(!store.delete_token("aa").await.expect("query"));
    assert_eq!(store.projects_of("u1").await.expect("query"), std::slice::from_ref(&project));
    assert_eq!(store.roles("u1", &project.id).await.expect("query"), ["member", "reader"]);
    assert!(store.user_by_name("demo").await.expect("query").is_some_and(|found| found == user));
    assert!(store.user_by_name("nobody").await.expect("query").is_none());
}
