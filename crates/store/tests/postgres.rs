//! The suite on PostgreSQL, and what only several servers have to prove.

#[macro_use]
mod suite;

use std::time::Duration;

use coffer_core::datastore::Datastore;
use coffer_core::instance::Kind;
use coffer_store::{Error, Listener, Location, News, Scope, Store};
use coffer_testkit::fixture::version;
use coffer_testkit::postgres::Cluster;
use sqlx::Connection as _;

/// One test for the whole suite, since a cluster takes a second to start: each name has a database of its own.
macro_rules! on_postgres {
    ($($name:ident),+ $(,)?) => {
        #[tokio::test]
        async fn the_suite_holds() {
            let cluster = Cluster::start();
            $({
                let store = open(&cluster, stringify!($name)).await;
                eprintln!("{}", stringify!($name));
                suite::$name(&store).await;
                store.close().await;
            })+
        }
    };
}

each_of_the_suite!(on_postgres);

async fn open(cluster: &Cluster, database: &str) -> Store {
    // Names of databases are cut after 63 bytes.
    let url = cluster.database(&database[..database.len().min(63)]);
    Store::open(&Location::Postgres(url.parse().expect("a URL"))).await.expect("new store")
}

/// The same store, as two servers have it.
async fn two_servers(url: &str) -> [Store; 2] {
    let location = Location::Postgres(url.parse().expect("a URL"));
    [Store::open(&location).await.expect("new store"), Store::open(&location).await.expect("the same")]
}

#[tokio::test]
async fn what_every_release_left_is_read_and_carried_on() {
    let cluster = Cluster::start();
    for schema in suite::released() {
        let url = cluster.database(&format!("schema_{schema}"));
        let location = Location::Postgres(url.parse().expect("a URL"));
        suite::what_a_release_left_is_read_and_carried_on(&location, &url, schema).await;
    }
}

#[tokio::test]
async fn a_store_of_a_newer_schema_is_refused() {
    let cluster = Cluster::start();
    let url = cluster.database("newer");
    let location = Location::Postgres(url.parse().expect("a URL"));
    suite::a_store_of_a_newer_schema_is_refused(&location, &url).await;
}

#[tokio::test]
async fn an_operation_that_cannot_be_read_leaves_the_others() {
    let cluster = Cluster::start();
    let url = cluster.database("damaged");
    let location = Location::Postgres(url.parse().expect("a URL"));
    suite::an_operation_that_cannot_be_read_leaves_the_others(&location, &url).await;
}

#[tokio::test]
async fn a_store_is_the_same_after_it_was_moved_there_and_back() {
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = |name: &str| Location::File(dir.path().join(name));
    let shared = Location::Postgres(cluster.database("moved").parse().expect("a URL"));
    let first = Store::open(&file("first.db")).await.expect("new store");
    let instance = suite::insert_another(&first, 1, "ours").await;
    let operation = suite::open(&first, &instance, Kind::Upgrade).await;
    suite::insert_another(&first, 2, "theirs").await;

    first.copy_to(&shared).await.expect("moved");
    let second = Store::open(&shared).await.expect("the same store");
    let again = first.copy_to(&shared).await.expect_err("it is not empty");
    assert!(matches!(again, Error::NotEmpty(_)), "{again}");
    second.copy_to(&file("third.db")).await.expect("moved back");
    let third = Store::open(&file("third.db")).await.expect("the same store");
    for store in [&second, &third] {
        let all = store.instances(Scope::Admin, "", 10).await.expect("a page");
        assert_eq!(all, first.instances(Scope::Admin, "", 10).await.expect("a page"));
        let open = store.open_operations().await.expect("operations");
        assert_eq!(open.iter().flatten().map(|work| &work.operation).collect::<Vec<_>>(), [&operation]);
        assert_eq!(store.versions().await.expect("versions").len(), first.versions().await.expect("versions").len());
    }
    for store in [first, second, third] {
        store.close().await;
    }
}

#[tokio::test]
async fn what_one_server_writes_another_hears_when_it_is_true() {
    let cluster = Cluster::start();
    let location = Location::Postgres(cluster.database("news").parse().expect("a URL"));
    let (one, other) =
        (Store::open(&location).await.expect("new store"), Store::open(&location).await.expect("the same"));
    let instance = suite::insert_another(&one, 1, "ours").await;
    let mut listener = Listener::open(&location).await.expect("a connection").expect("it is shared");
    let operation = suite::open(&one, &instance, Kind::Upgrade).await;
    assert_eq!(listener.next().await.expect("news"), News::Instance(instance.id));
    let open = other.open_operation(instance.id).await.expect("query").expect("it is there already");
    assert_eq!(open.operation, operation);
    let mut write = one.write().await.expect("write");
    write.seed_version(&version(9, Datastore::Redis, "9.9.9")).await.expect("a version");
    write.commit().await.expect("commit");
    assert_eq!(listener.next().await.expect("news"), News::Catalogue);
    one.delete_token("of somebody").await.expect("revoked");
    assert_eq!(listener.next().await.expect("news"), News::Revoked);
    for store in [one, other] {
        store.close().await;
    }
}

#[tokio::test]
async fn a_server_that_falls_silent_while_it_writes_loses_what_it_wrote_and_others_go_on() {
    let cluster = Cluster::start();
    let [one, other] = two_servers(&cluster.database("silent")).await;
    let instance = suite::insert_another(&one, 1, "ours").await;
    let mut silent = one.write().await.expect("write");
    silent.insert_operation(&suite::operation(&instance, Kind::Restart)).await.expect("operation");
    // Waits for the other until the database has had enough of it.
    let operation = suite::open(&other, &instance, Kind::Upgrade).await;
    silent.commit().await.expect_err("it is gone");
    let open = other.open_operation(instance.id).await.expect("query").expect("an operation");
    assert_eq!(open.operation, operation);
    for store in [one, other] {
        store.close().await;
    }
}

#[tokio::test]
async fn a_store_works_again_after_its_database_was_killed() {
    let cluster = Cluster::start();
    let store = open(&cluster, "killed").await;
    let instance = suite::insert_another(&store, 1, "ours").await;
    cluster.restart();
    let row = store.instance(Scope::Admin, instance.id).await.expect("a row").expect("the instance");
    assert_eq!(row.instance, instance);
    suite::open(&store, &instance, Kind::Upgrade).await;
    store.close().await;
}

/// Who waits to write in this database, once somebody does.
async fn who_waits(connection: &mut sqlx::PgConnection) -> i32 {
    let waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    loop {
        if let Some(pid) = sqlx::query_scalar(waiting).fetch_optional(&mut *connection).await.expect("locks") {
            return pid;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_does_not_wait_for_its_turn_to_write_any_more_does_not_keep_it() {
    let cluster = Cluster::start();
    let url = cluster.database("gives_up");
    let [one, other] = two_servers(&url).await;
    let mut observer = sqlx::PgConnection::connect(&url).await.expect("a connection");
    let first = one.write().await.expect("write");
    tokio::select! {
        _ = other.write() => panic!("two write"),
        _ = who_waits(&mut observer) => {}
    }
    // It is the next in turn all the same, until it is seen that nobody waits for the answer.
    drop(first);
    let soon = Duration::from_secs(3);
    let again = tokio::time::timeout(soon, one.write()).await.expect("nobody keeps the turn").expect("write");
    again.commit().await.expect("commit");
    for store in [one, other] {
        store.close().await;
    }
}

#[tokio::test]
async fn a_server_that_did_not_get_its_turn_to_write_gets_the_next() {
    let cluster = Cluster::start();
    let url = cluster.database("no_turn");
    let [one, other] = two_servers(&url).await;
    let mut observer = sqlx::PgConnection::connect(&url).await.expect("a connection");
    let first = one.write().await.expect("write");
    let give_up = async {
        let pid = who_waits(&mut observer).await;
        sqlx::query("SELECT pg_cancel_backend($1)").bind(pid).execute(&mut observer).await.expect("it gives up");
    };
    let (refused, ()) = tokio::join!(other.write(), give_up);
    refused.expect_err("it was not its turn");
    drop(first);
    let turn = other.write().await.expect("the next turn");
    turn.commit().await.expect("commit");
    for store in [one, other] {
        store.close().await;
    }
}
