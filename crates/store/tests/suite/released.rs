//! What every release left in a store is read by this one, and what was open is carried on.
//!
//! `released/000N.sql` is what a server of schema N wrote, killed in the middle of its work: rows of real servers with real
//! engines, with shorter ids. It is never changed, and a new migration brings a new file.

#![allow(clippy::panic)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use coffer_core::account;
use coffer_core::id::{Digest, InstanceId, OperationId, TaskId};
use coffer_core::instance::{Engine, Instance, Kind, Observed, Operation, Status};
use coffer_core::operation::{Next, Phase, next};
use coffer_core::plan::Step;
use coffer_core::runner::{Act, awaited, move_on, next_act, placed};
use coffer_core::task::{ImageFound, Learned, Outcome, Task, TaskResult};
use coffer_store::{Error, InstanceRow, Location, Scope, Store, Work};
use serde_json::Value;
use sqlx::any::install_drivers;
use sqlx::migrate::Migrator;
use sqlx::{AnyConnection, AssertSqlSafe, Connection as _, Row as _};

use super::{at, insert_another, open};

/// What each release left, by its schema.
const RELEASED: [&str; 6] = [
    include_str!("../released/0001.sql"),
    include_str!("../released/0002.sql"),
    include_str!("../released/0003.sql"),
    include_str!("../released/0004.sql"),
    include_str!("../released/0005.sql"),
    include_str!("../released/0006.sql"),
];

/// How the releases' own migrators wrote down what they had done. A migration that is not the same any more is refused by
/// every store there is.
const CHECKSUMS: [&str; 6] = [
    "9a5c03f790e1831851f6dde07dbb4de5b8244a314a9b322af10d55e0518076e5656740f029d3852fcebdc8cc08eb434e",
    "d2d89ee724e7aec196e8a377798a65359ade53aa96f33049a2a334feb07831f4fed5a64c34673b6851f88ccb36452946",
    "e3ec47e96cc6dcd0bf28916a71db7c123d87525b8fd88851893ff7ad48980d3238965aba180a1dc81ba39bef8f183bcd",
    "dc149c2b21746ab34c54a5c95e39d6324ca32a0e82dd5a1fbd38e3eb1f6e22e925a795c4e0df6ef7a7e5b16359d1d311",
    "74d1bde481dd391ee7423659b0a518e6317f1682ec5eca6058c7c025386f864ef6ff2d68bd1e7ee586ac6097433adca5",
    "9c537ab208697d792b0bf2afb723ce09c0d409c6e52e8a902330ab1e4d95ec5c0a1f4799f3b488d2974dae48e00a1a21",
];

/// Schemas, the first of which is 1.
pub(crate) fn released() -> std::ops::RangeInclusive<usize> {
    1..=RELEASED.len()
}

/// The migrations up to this schema, as they are in their files.
async fn migrations(schema: usize) -> Migrator {
    let files = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations"));
    let mut all = Migrator::new(files).await.expect("the migrations");
    assert_eq!(all.migrations.len(), RELEASED.len(), "a migration has no file in tests/released");
    all.migrations = Cow::Owned(all.migrations.iter().take(schema).cloned().collect());
    all
}

async fn connect(url: &str) -> AnyConnection {
    // Refused where a store was opened before, which has installed the same.
    let _ = install_drivers(const { &[sqlx::sqlite::any::DRIVER, sqlx::postgres::any::DRIVER] });
    AnyConnection::connect(url).await.expect("the database")
}

/// The first column of each row, as text.
async fn texts(connection: &mut AnyConnection, sql: &str) -> Vec<String> {
    let rows = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await.expect("an answer");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The JSON of a column, by the id that is in another.
async fn jsons(connection: &mut AnyConnection, id: &str, column: &str, table: &str) -> BTreeMap<String, Value> {
    let sql = format!("SELECT {id}, {column} FROM {table} WHERE {column} IS NOT NULL");
    let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(connection).await.expect("an answer");
    let read = |text: String| serde_json::from_str(&text).expect("JSON");
    rows.iter().map(|row| (row.get(0), read(row.get(1)))).collect()
}

/// What a release left is all there, and goes on. `url` is where it is for who has no [`Store`].
pub(crate) async fn what_a_release_left_is_read_and_carried_on(location: &Location, url: &str, schema: usize) {
    let mut then = connect(url).await;
    let migrations = migrations(schema).await;
    for (migration, released) in migrations.iter().zip(CHECKSUMS) {
        let is = migration.checksum.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        assert_eq!(is, released, "migration {} was released and is another now", migration.version);
    }
    migrations.run(&mut then).await.expect("the schema of then");
    sqlx::raw_sql(RELEASED[schema - 1]).execute(&mut then).await.expect("what was written then");

    let store = Store::open(location).await.expect("the store of then");
    nothing_is_passed_over(&store, &mut then).await;
    instances_are_as_they_were(&store, schema).await;
    whoever_logged_in_is_known(&store, &mut then).await;
    what_was_open_is_carried_on(&store, schema).await;
    store.close().await;
    then.close().await.expect("closed");
}

type Part = fn(&Operation) -> Value;

/// All that the release said of operations, instances and agents is in what today's types say of them.
async fn nothing_is_passed_over(store: &Store, then: &mut AnyConnection) {
    let mut operations = BTreeMap::new();
    for id in texts(then, "SELECT id FROM instances").await {
        let id = id.parse().expect("an id");
        operations.extend(all_of(store, id).await.into_iter().map(|operation| (operation.id.to_string(), operation)));
    }
    let parts: [(&str, Part); 4] = [
        ("plan", |operation| to_value(&operation.plan)),
        ("phase", |operation| to_value(&operation.phase)),
        ("steps", |operation| to_value(&operation.steps)),
        ("findings", |operation| to_value(&operation.findings)),
    ];
    for (column, today) in parts {
        let written = jsons(then, "id", column, "operations").await;
        assert_eq!(written.len(), operations.len());
        for (id, was) in written {
            assert_holds(&today(&operations[&id]), &was, &format!("{column} of operation {id}"));
        }
    }
    let instances = all(store).await;
    let (observed, faults) =
        (jsons(then, "instance_id", "seen", "observed").await, jsons(then, "id", "fault", "instances").await);
    let desired = jsons(then, "id", "desired", "instances").await;
    assert!(!observed.is_empty() && !faults.is_empty() && !desired.is_empty());
    for row in &instances {
        let id = row.instance.id.to_string();
        let wanted = store.for_agent(row.instance.id).await.expect("query").expect("the instance").desired;
        for (what, today, was) in [
            ("what was seen", to_value(&row.observed), observed.get(&id)),
            ("the fault", to_value(&row.instance.fault), faults.get(&id)),
            ("what is to run", to_value(&wanted), desired.get(&id)),
        ] {
            assert_holds(&today, was.unwrap_or(&Value::Null), &format!("{what} of instance {id}"));
        }
    }
    for (id, was) in jsons(then, "operation_id", "result", "task_results").await {
        let operation: OperationId = id.parse().expect("an id");
        let task = serde_json::from_value::<TaskResult>(was.clone()).expect("an answer").id;
        let today = store.result(operation, &task).await.expect("query").expect("an answer");
        assert_holds(&to_value(&today), &was, &format!("an answer to operation {id}"));
    }
}

async fn instances_are_as_they_were(store: &Store, schema: usize) {
    let instances = all(store).await;
    let then = [("cache", "8.0.2", 2), ("jobs", "7.0.15", 1), ("queue", "7.0.15", 1), ("sessions", "7.0.15", 2)];
    for (name, number, generation) in then {
        let InstanceRow { instance, .. } = named(&instances, name);
        let versions = store.versions().await.expect("versions");
        let version = versions.iter().find(|version| version.id == instance.version).expect("its version");
        assert_eq!((version.number.to_string().as_str(), instance.generation.0), (number, generation), "{name}");
        assert!(instance.built && version.image.is_some(), "{name}");
        assert_eq!(instance.own, instance.settings, "{name}: what it runs with is what it was given");
    }
    let InstanceRow { instance: cache, observed, open } = named(&instances, "cache");
    assert_eq!(cache.settings.get("maxmemory-policy").map(String::as_str), Some("allkeys-lru"));
    assert_eq!(cache.address.to_string(), format!("127.21.{schema}.1"));
    assert_eq!(observed.as_ref().map(|seen| &seen.engine), Some(&Engine::Serving));
    assert_eq!(Status::of(cache.built, open.as_ref().map(|open| (open.kind, &open.phase))), Status::Active);
    let events = store.events(Scope::Admin, cache.id, 9).await.expect("events");
    assert!(events.iter().any(|event| event.id.starts_with("engine.")), "{events:?}");
    let upgrade = all_of(store, cache.id).await.into_iter().find(|operation| operation.kind == Kind::Upgrade);
    let upgrade = upgrade.expect("its upgrade");
    assert_eq!(upgrade.phase, Phase::Done);
    assert!(upgrade.gap_us.is_some() && upgrade.clients.is_some() == (schema >= 4), "{upgrade:?}");
    let gaps = store.gaps(Scope::Admin, 9).await.expect("gaps");
    assert_eq!(gaps.iter().any(|gap| gap.operation == upgrade.id), schema >= 6, "{gaps:?}");

    let InstanceRow { instance: sessions, .. } = named(&instances, "sessions");
    let fault = sessions.fault.as_ref().expect("its upgrade had failed");
    assert!(fault.cause.message.contains("could not be fetched") && !fault.abandoned, "{fault:?}");
    assert!(matches!(all_of(store, sessions.id).await[0].phase, Phase::Undone { .. }));

    let open: Vec<_> =
        instances.iter().filter_map(|row| Some((&*row.instance.name, row.open.as_ref()?.kind))).collect();
    let mut expected = vec![("jobs", Kind::Upgrade), ("new", Kind::Create), ("queue", Kind::Upgrade)];
    if schema >= 5 {
        expected.extend([("back", Kind::Rollback), ("grouped", Kind::Upgrade), ("shop", Kind::Create)]);
        expected.sort_unstable();
        let InstanceRow { instance: grouped, .. } = named(&instances, "grouped");
        let group = grouped.group.as_ref().expect("its group");
        assert_eq!((&*group.name, group.values.len()), ("lru", 2), "{group:?}");
    }
    assert_eq!(sorted(open), expected);
}

async fn whoever_logged_in_is_known(store: &Store, then: &mut AnyConnection) {
    let demo = store.user_by_name("demo").await.expect("query").expect("a user");
    assert!(demo.password_hash.starts_with("$argon2id$"), "{}", demo.password_hash);
    let projects = store.projects_of(&demo.id).await.expect("projects");
    assert_eq!(projects.iter().map(|project| &*project.name).collect::<Vec<_>>(), ["demo"]);
    let hash = texts(then, "SELECT hash FROM tokens").await.pop().expect("a token");
    let owner = store.token(&hash).await.expect("query").expect("its owner");
    assert_eq!((&*owner.user_name, owner.project_name.as_deref()), ("demo", Some("demo")));
    assert_eq!(owner.roles, ["member"]);
}

/// As a server would, with agents that do whatever they are asked.
async fn what_was_open_is_carried_on(store: &Store, schema: usize) {
    let was_open = store.open_operations().await.expect("operations");
    assert_eq!(was_open.len(), if schema >= 5 { 6 } else { 3 });
    for work in was_open {
        let Work { operation, instance, results } = work.expect("it can be read");
        let had_answer = !results.is_empty();
        assert_eq!(had_answer, instance.name == "jobs", "whose agent had answered");
        let done = carry_on(store, operation.id, &instance).await;
        assert_eq!(done.phase, Phase::Done, "{}: {done:?}", instance.name);
        assert_eq!(done.gap_us.is_some(), had_answer, "{done:?}");
        assert!(store.open_operation(instance.id).await.expect("query").is_none());
    }
    let instances = all(store).await;
    let versions = store.versions().await.expect("versions");
    for InstanceRow { instance, open, .. } in &instances {
        let version = versions.iter().find(|version| version.id == instance.version).expect("its version");
        let is = match &*instance.name {
            "new" | "sessions" | "back" => "redis 7.0.15",
            "shop" => "mariadb 10.11.19",
            _ => "redis 8.0.2",
        };
        assert_eq!(version.label(), is, "{}", instance.name);
        assert!(instance.built && open.is_none(), "{instance:?}");
        assert_eq!(instance.pending(), [""; 0], "{}", instance.name);
    }
    if schema >= 5 {
        let grouped = &named(&instances, "grouped").instance;
        let group = grouped.group.as_ref().expect("its group");
        assert_eq!((group.version, group.values.len()), (grouped.version, 2), "it came along: {group:?}");
    }
}

async fn carry_on(store: &Store, id: OperationId, instance: &Instance) -> Operation {
    // Some days later. No time limit is over by that: none of these steps has an agent that does not answer.
    let now = at(1_800_000_000);
    let mut operation = store.claim(id, now, at(1_800_000_015)).await.expect("query").expect("nobody has it");
    while operation.is_open() {
        let answer = match awaited(&operation) {
            None => None,
            Some(task) => match store.result(id, &task).await.expect("query") {
                Some(answer) => Some(answer),
                None => answered(&operation, task, instance),
            },
        };
        let mut seen = Observed { engine: Engine::Serving, ..Observed::nothing(now) };
        if let Some(Step::Run { generation, .. }) = current(&operation) {
            seen.generation = *generation;
        }
        let act = match next_act(&mut operation, instance, Some(&seen), answer, now) {
            Act::Ensure | Act::Drop => placed(&mut operation, Ok(()), now),
            act => act,
        };
        let Act::Move(event, changes) = act else { panic!("it waits: {operation:?}") };
        move_on(&mut operation, event, now).expect("it fits");
        store.save(&operation, &changes, at(1_800_000_015)).await.expect("the claim holds");
    }
    operation
}

fn current(operation: &Operation) -> Option<&Step> {
    match next(&operation.plan, &operation.phase) {
        Next::Do(at) => operation.plan.steps.get(at),
        Next::Begin(_) | Next::Undo(_) | Next::Wait | Next::Nothing => None,
    }
}

/// What an agent says that has done what it was asked, if it was asked.
fn answered(operation: &Operation, id: TaskId, instance: &Instance) -> Option<TaskResult> {
    let Some(Step::Ask { task, .. }) = current(operation) else { return None };
    let mut learned = Learned::default();
    match &**task {
        Task::Fetch { image } => {
            let number = match (&*instance.name, operation.kind) {
                ("shop", _) => "10.11.19",
                (_, Kind::Create | Kind::Rollback) => "7.0.15",
                _ => "8.0.2",
            };
            // Nobody had fetched it yet, of MariaDB.
            let digest = image.digest.clone().unwrap_or_else(|| Digest("sha256:00".to_owned()));
            let number = number.parse().expect("a number");
            learned.image = Some(ImageFound { digest, number, source: "here".to_owned() });
        }
        Task::Accounts { .. } => learned.accounts = Some(account::Answer::Changed),
        _ => {}
    }
    Some(TaskResult { id, outcome: Outcome::Done(Box::new(learned)) })
}

/// Whatever has befallen one of them.
pub(crate) async fn an_operation_that_cannot_be_read_leaves_the_others(location: &Location, url: &str) {
    let store = Store::open(location).await.expect("new store");
    let mut ids = Vec::new();
    for n in 1..=3 {
        let instance = insert_another(&store, n, "ours").await;
        ids.push(open(&store, &instance, Kind::Upgrade).await.id);
    }
    ids.sort();
    let mut damaged = connect(url).await;
    let by = format!("UPDATE operations SET phase = '{{\"phase\":\"sideways\"}}' WHERE id = '{}'", ids[1]);
    sqlx::raw_sql(AssertSqlSafe(by)).execute(&mut damaged).await.expect("damaged");
    damaged.close().await.expect("closed");

    let read = store.open_operations().await.expect("operations");
    let (good, bad): (Vec<_>, Vec<_>) = read.into_iter().partition(Result::is_ok);
    assert_eq!(good.into_iter().flatten().map(|work| work.operation.id).collect::<Vec<_>>(), [ids[0], ids[2]]);
    let [Err(error)] = &*bad else { panic!("{bad:?}") };
    let said = error.to_string();
    assert!(said.starts_with(&format!("operation {} cannot be read: unknown variant `sideways`", ids[1])), "{said}");
    store.close().await;
}

/// Who does not know the schema any more claims nothing, and is not let in again.
pub(crate) async fn a_store_of_a_newer_schema_is_refused(location: &Location, url: &str) {
    let store = Store::open(location).await.expect("new store");
    let instance = insert_another(&store, 1, "ours").await;
    let operation = open(&store, &instance, Kind::Upgrade).await;
    store.check_schema().await.expect("it is its own");
    let mut tomorrow = connect(url).await;
    let migrated = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                    SELECT version + 1, 'of tomorrow', success, checksum, 0 FROM _sqlx_migrations ORDER BY version DESC LIMIT 1";
    sqlx::raw_sql(migrated).execute(&mut tomorrow).await.expect("a migration");

    let claimed = store.claim(operation.id, at(200), at(215)).await.expect("query");
    assert_eq!(claimed, None, "who knows what its plan says");
    let outdated = store.check_schema().await.expect_err("it was brought further");
    store.close().await;
    let refused = Store::open(location).await.expect_err("nobody knows what is in it");
    let (has, knows) = (RELEASED.len() + 1, RELEASED.len());
    let said = format!(
        "the store {location} has schema {has}, of a newer coffer, and this one knows none after {knows}; hint: start a coffer \
         that is as new, or put back a copy of the store from before that"
    );
    for error in [outdated, refused] {
        assert!(matches!(error, Error::Newer { .. }), "{error:?}");
        assert_eq!(error.to_string(), said);
    }
    let back = "DELETE FROM _sqlx_migrations WHERE description = 'of tomorrow'";
    sqlx::raw_sql(back).execute(&mut tomorrow).await.expect("as it was");
    tomorrow.close().await.expect("closed");
    let store = Store::open(location).await.expect("it was left as it was");
    assert!(store.claim(operation.id, at(200), at(215)).await.expect("query").is_some());
    store.close().await;
}

async fn all(store: &Store) -> Vec<InstanceRow> {
    store.instances(Scope::Admin, "", 100).await.expect("instances")
}

async fn all_of(store: &Store, instance: InstanceId) -> Vec<Operation> {
    store.operations(Scope::Admin, instance).await.expect("operations")
}

fn named<'a>(instances: &'a [InstanceRow], name: &str) -> &'a InstanceRow {
    instances.iter().find(|row| row.instance.name == name).unwrap_or_else(|| panic!("no instance {name}"))
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort_unstable();
    all
}

fn to_value(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("JSON")
}

/// Everything of what was is in what is. What was null may be absent.
#[track_caller]
fn assert_holds(is: &Value, was: &Value, what: &str) {
    match (is, was) {
        (_, Value::Null) => {}
        (Value::Object(is), Value::Object(was)) => {
            for (name, was) in was {
                assert_holds(is.get(name).unwrap_or(&Value::Null), was, &format!("{name} in {what}"));
            }
        }
        (Value::Array(is), Value::Array(was)) if is.len() == was.len() => {
            for (is, was) in is.iter().zip(was) {
                assert_holds(is, was, what);
            }
        }
        (is, was) => assert_eq!(is, was, "{what}"),
    }
}
