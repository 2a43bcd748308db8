//! The suite on SQLite, and what only SQLite has to prove.

#[macro_use]
mod suite;

use std::time::Duration;

use coffer_core::instance::Kind;
use coffer_store::{Location, Scope, Store};
use coffer_testkit::fixture::Fixture;
use sqlx::{Connection as _, SqliteConnection};

/// A test of the suite for each name, each on a store of its own.
macro_rules! on_sqlite {
    ($($name:ident),+ $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().expect("temporary directory");
                let store = Store::open(&Location::File(dir.path().join("coffer.db"))).await.expect("new store");
                suite::$name(&store).await;
                store.close().await;
            }
        )+
    };
}

each_of_the_suite!(on_sqlite);

/// A file that is not there yet, as a store and as a URL.
fn new_file(dir: &tempfile::TempDir, name: &str) -> (Location, String) {
    let path = dir.path().join(name);
    let url = format!("sqlite://{}?mode=rwc", path.display());
    (Location::File(path), url)
}

#[tokio::test]
async fn what_every_release_left_is_read_and_carried_on() {
    let dir = tempfile::tempdir().expect("temporary directory");
    for schema in suite::released() {
        let (location, url) = new_file(&dir, &format!("{schema}.db"));
        suite::what_a_release_left_is_read_and_carried_on(&location, &url, schema).await;
    }
}

#[tokio::test]
async fn a_store_of_a_newer_schema_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (location, url) = new_file(&dir, "coffer.db");
    suite::a_store_of_a_newer_schema_is_refused(&location, &url).await;
}

#[tokio::test]
async fn an_operation_that_cannot_be_read_leaves_the_others() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let (location, url) = new_file(&dir, "coffer.db");
    suite::an_operation_that_cannot_be_read_leaves_the_others(&location, &url).await;
}

#[tokio::test]
async fn connections_do_not_wait_for_each_others_pages_and_allocations() {
    let mut connection =
        <sqlx::SqliteConnection as sqlx::Connection>::connect("sqlite::memory:").await.expect("memory");
    let options: Vec<String> =
        sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut connection).await.expect("options");
    // As .cargo/config.toml has it.
    assert!(options.contains(&"DEFAULT_MEMSTATUS=0".to_owned()), "{options:?}");
    assert!(!options.contains(&"ENABLE_MEMORY_MANAGEMENT".to_owned()), "{options:?}");
}

#[tokio::test]
async fn a_read_does_not_wait_for_the_writer() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = Store::open(&Location::File(dir.path().join("coffer.db"))).await.expect("new store");
    let fixture = Fixture::serving();
    suite::insert(&store, &fixture.instance).await;
    let write = store.write().await.expect("the one writer");
    let read = store.instance(Scope::Admin, fixture.instance.id);
    let row = tokio::time::timeout(Duration::from_secs(5), read).await.expect("no waiting").expect("a row");
    assert_eq!(row.expect("the instance").instance, fixture.instance);
    drop(write);
    store.close().await;
}

/// A new store in a file, with one instance.
async fn with_instance() -> (tempfile::TempDir, std::path::PathBuf, Fixture, Store) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("coffer.db");
    let fixture = Fixture::serving();
    let store = Store::open(&Location::File(path.clone())).await.expect("new store");
    suite::insert(&store, &fixture.instance).await;
    (dir, path, fixture, store)
}

#[tokio::test]
async fn a_store_that_is_opened_again_has_everything_and_is_migrated_once() {
    let (_dir, path, fixture, store) = with_instance().await;
    store.close().await;
    let store = Store::open(&Location::File(path.clone())).await.expect("the same store");
    let row = store.instance(Scope::Admin, fixture.instance.id).await.expect("a row").expect("the instance");
    assert_eq!(row.instance, fixture.instance);
    store.close().await;
}

#[tokio::test]
async fn an_address_from_before_ipv6_is_read_as_it_was_written() {
    let (_dir, path, fixture, store) = with_instance().await;
    store.close().await;

    // The schema as it was, and what a coffer of that time has written into it.
    let mut former = SqliteConnection::connect(path.to_str().expect("a path")).await.expect("the store's file");
    let before = "DROP INDEX instances_one_per_address; ALTER TABLE instances DROP COLUMN network; \
                  CREATE UNIQUE INDEX instances_one_per_address ON instances (address) WHERE deleted_at IS NULL; \
                  DELETE FROM _sqlx_migrations WHERE version = 3";
    sqlx::raw_sql(before).execute(&mut former).await.expect("the former schema");
    let address: i64 = sqlx::query_scalar("SELECT address FROM instances").fetch_one(&mut former).await.expect("a row");
    assert_eq!(address, 0x7f14_0005, "127.20.0.5, as it always was");
    former.close().await.expect("closed");

    let store = Store::open(&Location::File(path.clone())).await.expect("the former store");
    let row = store.instance(Scope::Admin, fixture.instance.id).await.expect("a row").expect("the instance");
    assert_eq!(row.instance, fixture.instance);
    store.close().await;
}

#[tokio::test]
async fn operations_from_before_clients_were_counted_are_read() {
    let (_dir, path, fixture, store) = with_instance().await;
    let operation = suite::open(&store, &fixture.instance, Kind::Upgrade).await;
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut before = SqliteConnection::connect_with(&options).await.expect("the file");
    for back in ["ALTER TABLE operations DROP COLUMN clients", "DELETE FROM _sqlx_migrations WHERE version = 4"] {
        sqlx::query(back).execute(&mut before).await.expect("as it was before");
    }
    before.close().await.expect("closed");
    let store = Store::open(&Location::File(path.clone())).await.expect("the same store");
    let all = store.operations(Scope::Admin, fixture.instance.id).await.expect("query");
    assert_eq!(all, [operation]);
    store.close().await;
}

#[tokio::test]
async fn instances_from_before_there_were_groups_were_given_what_they_run_with() {
    let (_dir, path, fixture, store) = with_instance().await;
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut before = SqliteConnection::connect_with(&options).await.expect("the file");
    for back in [
        "DROP INDEX instances_of_group",
        "ALTER TABLE instances DROP COLUMN group_id",
        "ALTER TABLE instances DROP COLUMN own",
        "ALTER TABLE operations DROP COLUMN group_id",
        "DROP TABLE configurations",
        "DELETE FROM _sqlx_migrations WHERE version = 5",
    ] {
        sqlx::query(back).execute(&mut before).await.expect("as it was before");
    }
    before.close().await.expect("closed");
    let store = Store::open(&Location::File(path.clone())).await.expect("the same store");
    let row = store.instance(Scope::Admin, fixture.instance.id).await.expect("a row").expect("the instance");
    assert_eq!(row.instance, fixture.instance);
    assert_eq!(row.instance.own, row.instance.settings);
    store.close().await;
}

#[tokio::test]
async fn nothing_stays_of_what_the_agent_of_a_deleted_instance_saw() {
    let (_dir, path, fixture, store) = with_instance().await;
    let id = fixture.instance.id;
    assert!(store.save_report(id, Some(&fixture.observed), &[], &[]).await.expect("report"));
    let operation = suite::open(&store, &fixture.instance, Kind::Delete).await;
    let mut claimed = store.claim(operation.id, suite::at(1), suite::at(2)).await.expect("query").expect("claim");
    claimed.phase = coffer_core::operation::Phase::Done;
    store.save(&claimed, &[coffer_store::Change::Deleted], suite::at(2)).await.expect("save");
    assert!(!store.save_report(id, Some(&fixture.observed), &[], &[]).await.expect("report"));
    store.close().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut file = SqliteConnection::connect_with(&options).await.expect("the file");
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM observed").fetch_one(&mut file).await.expect("a count");
    assert_eq!(left, 0);
}

/// As on a disk that is full: then SQLite takes a transaction back by itself.
#[tokio::test]
async fn a_transaction_that_the_database_took_back_stands_in_nobodys_way() {
    let (_dir, path, fixture, store) = with_instance().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut file = SqliteConnection::connect_with(&options).await.expect("the file");
    let full = "CREATE TRIGGER is_full BEFORE INSERT ON operations BEGIN SELECT RAISE(ROLLBACK, 'full'); END";
    sqlx::query(full).execute(&mut file).await.expect("a disk that is full");
    let operation = suite::operation(&fixture.instance, Kind::Upgrade);
    for _ in 0..2 {
        let mut write = store.write().await.expect("it can be tried again");
        write.insert_operation(&operation).await.expect_err("it is full");
    }
    sqlx::query("DROP TRIGGER is_full").execute(&mut file).await.expect("room again");
    let mut write = store.write().await.expect("a transaction");
    write.insert_operation(&operation).await.expect("there is room");
    write.commit().await.expect("commit");
    assert_eq!(store.operations(Scope::Admin, fixture.instance.id).await.expect("query"), [operation]);
    store.close().await;
}

#[tokio::test]
async fn an_instance_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("coffer.db");
    let store = Store::open(&Location::File(path.clone())).await.expect("new store");
    let [_, damaged, _] = [
        suite::insert_another(&store, 1, "ours").await,
        suite::insert_another(&store, 2, "ours").await,
        suite::insert_another(&store, 3, "ours").await,
    ];
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
    let mut connection = sqlx::ConnectOptions::connect(&options).await.expect("a connection");
    sqlx::query("UPDATE instances SET settings = '{\"a\": 1}' WHERE id = $1")
        .bind(damaged.id.to_string())
        .execute(&mut connection)
        .await
        .expect("damage");
    for error in [
        store.instances(Scope::Admin, "", 10).await.expect_err("an error"),
        store.instance(Scope::Admin, damaged.id).await.expect_err("an error"),
    ] {
        assert!(error.to_string().contains(&damaged.id.to_string()), "{error}");
    }
    store.close().await;
}
