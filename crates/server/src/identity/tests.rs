use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use coffer_store::{Location, Store};
use coffer_wire::trove::identity::Auth;
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Error, Identity, Issued, ensure_first_users, secret};
use crate::caller::Role;
use crate::clock::Clock;

/// A first start in a directory of its own.
struct World {
    dir: TempDir,
    store: Store,
    identity: Identity,
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let store = Store::open(&Location::File(dir.path().join("coffer.db"))).await.expect("a store");
        ensure_first_users(&store, dir.path(), "http://127.0.0.1:8779", "RegionOne").await.expect("users");
        Self { dir, identity: Identity::new(store.clone(), Clock::system(), 1), store }
    }

    fn clouds(&self) -> String {
        fs_err::read_to_string(self.dir.path().join("clouds.yaml")).expect("clouds.yaml")
    }

    fn password(&self, user: &str) -> String {
        let text = self.clouds();
        let entry = text.split(&format!("  {user}:\n")).nth(1).expect("an entry");
        entry.split("password: '").nth(1).and_then(|rest| rest.split('\'').next()).expect("a password").to_owned()
    }

    async fn log_in(&self, user: Value, scope: Option<Value>) -> Result<Issued, Error> {
        let identity = json!({"methods": ["password"], "password": {"user": user}});
        self.issue(json!({"identity": identity, "scope": scope})).await
    }

    async fn issue(&self, auth: Value) -> Result<Issued, Error> {
        let auth: Auth = serde_json::from_value(auth).expect("a request");
        self.identity.issue(&auth).await
    }

    async fn demo(&self) -> Issued {
        let user = json!({"name": "demo", "domain": {"name": "Default"}, "password": self.password("demo")});
        self.log_in(user, Some(json!({"project": {"name": "demo", "domain": {"id": "default"}}}))).await.expect("demo")
    }
}

fn is_denied<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Denied))
}

#[tokio::test]
async fn the_first_start_writes_credentials_that_work_and_the_second_keeps_them() {
    let world = World::new().await;
    let before = world.clouds();
    let mode = fs_err::metadata(world.dir.path().join("clouds.yaml")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let issued = world.demo().await;
    assert_eq!(issued.session.caller.roles, [Role::Member]);
    assert_eq!(issued.session.project.as_ref().map(|p| p.name.as_str()), Some("demo"));
    ensure_first_users(&world.store, world.dir.path(), "http://elsewhere", "RegionTwo").await.expect("again");
    assert_eq!(world.clouds(), before);
}

#[tokio::test]
async fn a_first_start_that_was_killed_before_the_renaming_is_finished_by_the_next() {
    let world = World::new().await;
    let (clouds, new) = (world.dir.path().join("clouds.yaml"), world.dir.path().join(".clouds.yaml.new"));
    fs_err::rename(&clouds, &new).expect("as it was before");
    ensure_first_users(&world.store, world.dir.path(), "http://127.0.0.1:8779", "RegionOne").await.expect("again");
    world.demo().await;
    assert!(!new.exists());
}

#[tokio::test]
async fn a_clouds_file_of_another_store_is_never_overwritten() {
    let dir = TempDir::new().expect("a directory");
    let store = Store::open(&Location::File(dir.path().join("coffer.db"))).await.expect("a store");
    fs_err::write(dir.path().join("clouds.yaml"), "mine").expect("a file");
    let refused = ensure_first_users(&store, dir.path(), "http://127.0.0.1:8779", "RegionOne").await;
    assert!(matches!(refused, Err(Error::Clouds(_))));
    assert_eq!(fs_err::read_to_string(dir.path().join("clouds.yaml")).expect("a file"), "mine");
}

#[tokio::test]
async fn whoever_is_not_known_is_turned_away_for_one_reason() {
    let world = World::new().await;
    let right = world.password("demo");
    let demo = json!({"project": {"name": "demo"}});
    for (user, scope) in [
        (json!({"name": "demo", "password": "wrong"}), &demo),
        (json!({"name": "nobody", "password": right}), &demo),
        (json!({"id": "nobody", "password": right}), &demo),
        (json!({"password": right}), &demo),
        (json!({"name": "demo", "domain": {"name": "other"}, "password": right}), &demo),
        (json!({"name": "demo", "password": right}), &json!({"project": {"name": "admin"}})),
        (json!({"name": "demo", "password": right}), &json!({"project": {"name": "none"}})),
        (json!({"name": "demo", "password": right}), &json!({"project": {}})),
        (json!({"name": "demo", "password": right}), &json!({"system": {"all": true}})),
    ] {
        assert!(is_denied(world.log_in(user.clone(), Some(scope.clone())).await), "{user} {scope}");
    }
    for methods in [json!([]), json!(["totp"]), json!(["password", "token"]), json!(["token"])] {
        assert!(is_denied(world.issue(json!({"identity": {"methods": methods}})).await), "{methods}");
    }
}

#[tokio::test]
async fn without_a_scope_a_token_is_for_the_users_own_project() {
    let world = World::new().await;
    let user = json!({"name": "admin", "password": world.password("admin")});
    for scope in [None, Some(json!("unscoped"))] {
        let issued = world.log_in(user.clone(), scope).await.expect("a token");
        assert_eq!(issued.session.project.as_ref().map(|p| p.name.as_str()), Some("admin"));
    }
}

#[tokio::test]
async fn a_token_is_known_again_by_another_process_and_by_its_hash_alone() {
    let world = World::new().await;
    let issued = world.demo().await;
    let token = issued.token.expose_secret();
    assert_eq!(*world.identity.authenticate(token).await.expect("from memory"), *issued.session);
    let other = Identity::new(world.store.clone(), Clock::system(), 1);
    let session = other.authenticate(token).await.expect("from the store");
    assert_eq!(session.caller, issued.session.caller);
    assert!(is_denied(other.authenticate(&secret::hex(&secret::hash(token))).await));
    assert!(is_denied(other.authenticate("").await));
}

#[tokio::test]
async fn a_revoked_token_is_worth_nothing_at_once() {
    let world = World::new().await;
    let issued = world.demo().await;
    let token = issued.token.expose_secret();
    world.identity.revoke(token).await.expect("revoked");
    assert!(is_denied(world.identity.authenticate(token).await));
    world.identity.revoke(token).await.expect("and again");
}

#[tokio::test]
async fn a_token_that_another_server_has_revoked_is_worth_nothing_when_that_is_heard() {
    let world = World::new().await;
    let issued = world.demo().await;
    let token = issued.token.expose_secret();
    let other = Identity::new(world.store.clone(), Clock::system(), 1);
    other.authenticate(token).await.expect("valid");
    world.identity.revoke(token).await.expect("revoked");
    other.forget_sessions();
    assert!(is_denied(other.authenticate(token).await));
}

#[tokio::test]
async fn an_expired_token_is_worth_nothing_remembered_or_not() {
    let world = World::new().await;
    let issued = world.demo().await;
    let token = issued.token.expose_secret();
    let now = Arc::new(Mutex::new(Timestamp::now()));
    let told = Arc::clone(&now);
    let clock = Clock::new(move || *told.lock().expect("the time"), || SignedDuration::ZERO);
    let identity = Identity::new(world.store.clone(), clock.clone(), 1);
    identity.authenticate(token).await.expect("still valid");
    *now.lock().expect("the time") = issued.session.expires_at;
    assert!(is_denied(identity.authenticate(token).await));
    assert!(is_denied(Identity::new(world.store.clone(), clock, 1).authenticate(token).await));
}

#[tokio::test]
async fn a_token_begets_another_that_does_not_outlive_it() {
    let world = World::new().await;
    let first = world.demo().await;
    let identity = json!({"methods": ["token"], "token": {"id": first.token.expose_secret()}});
    let second = world.issue(json!({"identity": identity})).await.expect("a token");
    assert_ne!(second.token.expose_secret(), first.token.expose_secret());
    assert_eq!(second.session.expires_at, first.session.expires_at);
}

#[tokio::test]
async fn a_flood_of_logins_is_turned_away_and_not_queued_for_ever() {
    let world = Arc::new(World::new().await);
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let world = Arc::clone(&world);
        logins.spawn(async move { world.log_in(json!({"name": "nobody", "password": "x"}), None).await });
    }
    let results = logins.join_all().await;
    let overloaded = results.iter().filter(|r| matches!(r, Err(Error::Overloaded))).count();
    assert!(overloaded > 0 && overloaded < 200, "{overloaded}");
    world.demo().await;
}

#[tokio::test]
async fn projects_of_others_are_seen_by_administrators_only() {
    let world = World::new().await;
    let demo = world.demo().await.session;
    let user = json!({"name": "admin", "password": world.password("admin")});
    let admin = world.log_in(user, None).await.expect("admin").session;
    let seen = async |session: &super::Session, name: &str| {
        world.identity.project(&session.caller, name).await.expect("an answer").is_some()
    };
    assert!(seen(&demo, "demo").await && !seen(&demo, "admin").await && !seen(&demo, "none").await);
    assert!(seen(&admin, "demo").await && seen(&admin, "admin").await && !seen(&admin, "none").await);
    assert!(seen(&demo, &demo.caller.project.0).await);
}
