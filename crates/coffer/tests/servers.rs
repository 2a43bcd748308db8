//! Several servers that share a store in PostgreSQL, with real engines: whichever is killed or stopped, the others go on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coffer_testkit::postgres::Cluster;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::another::Another;
use support::http;
use support::namespace::Namespace;
use support::world::{Instance, World, signal, wait_for};
use support::writers::{Balance, Writers};

/// How long an operation may stand still when the server that had it is gone: its lease, and a look or two.
const SECONDS: Duration = Duration::from_secs(30);

/// A world whose store is a database of a cluster of its own.
fn shared() -> Option<(Cluster, World)> {
    let mut world = World::prepare("", "")?;
    let cluster = Cluster::start();
    let url = cluster.database("coffer");
    fs_err::write(world.data().join("store"), url).expect("where the store is");
    world.start_server();
    Some((cluster, world))
}

#[test]
fn operations_go_on_when_the_server_that_took_them_on_is_killed() {
    let Some((_cluster, mut world)) = shared() else { return };
    let other = Another::start(&world, "b");
    let instances: Vec<_> =
        (0..4).map(|n| world.create(&format!("redis_{n}"), "7.0.15", &[])).inspect(|i| fill(&world, i)).collect();
    let target = json!({"instance": {"datastore_version": "8.0.2"}});
    for instance in &instances {
        let answer = world.ask("demo", "PATCH", &format!("/instances/{}", instance.id), &target);
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    world.kill_server();
    let killed = Instant::now();
    for instance in &instances {
        until(&other, &world, instance, "8.0.2");
        assert_eq!(read(&world, instance), "kept", "{}", instance.id);
    }
    let took = killed.elapsed();
    assert!(took < SECONDS, "the other server needed {took:?}");
    // The one that comes back sees the same.
    world.start_server();
    for instance in &instances {
        let shown = world.show(&instance.id);
        assert_eq!((&shown["status"], &shown["datastore"]["version"]), (&json!("ACTIVE"), &json!("8.0.2")), "{shown}");
    }
}

#[test]
fn a_server_that_was_stopped_past_its_lease_writes_nothing_more() {
    let Some((_cluster, world)) = shared() else { return };
    let other = Another::start(&world, "b");
    let instance = world.create("redis_a", "7.0.15", &[]);
    fill(&world, &instance);
    let target = json!({"instance": {"datastore_version": "8.0.2"}});
    let answer = other.ask(&world, "PATCH", &format!("/instances/{}", instance.id), &target);
    assert_eq!(answer.status, 202, "{answer:?}");
    // Wherever it is with it, also in a transaction: the database takes that back after some seconds.
    other.signal(Signal::STOP);
    let done = world.wait_until_over(&instance.id);
    assert_eq!(done["phase"], "done", "{done}");
    // Decided by the one while the other sleeps: what that knows is of a generation that is past.
    world.coffer(["instance", "restart", &instance.id, "--wait"]).ok();
    let before = world.operations(&instance.id);
    other.signal(Signal::CONT);
    wait_for("the server that slept to see what was done", || {
        let answer = other.ask(&world, "GET", &format!("/instances/{}/operations", instance.id), &Value::Null);
        answer.json()["operations"] == json!(before)
    });
    assert_eq!(read(&world, &instance), "kept");
    assert_eq!(world.engines_on(&instance.id).len(), 1);
    let shown = world.show(&instance.id);
    assert_eq!((&shown["status"], &shown["fault"]), (&json!("ACTIVE"), &Value::Null), "{shown}");
}

#[test]
fn operations_go_on_while_a_server_is_cut_off_from_the_database() {
    let Some(namespace) = Namespace::make() else { return };
    let Some(mut world) = World::prepare("", "") else { return };
    let cluster = Cluster::start_in(namespace.name());
    cluster.database("coffer");
    // Which way each server takes is not said by the URL, which is the same for all.
    fs_err::write(world.data().join("store"), "postgres:///coffer?user=coffer").expect("where the store is");
    let [one, another] = namespace.cables();
    world.start_server_with(&[("PGHOST", one.inside.to_string())]);
    let other = Another::start_with(&world, "b", &[("PGHOST", another.inside.to_string())]);
    let instances: Vec<_> =
        (0..3).map(|n| world.create(&format!("redis_{n}"), "7.0.15", &[])).inspect(|i| fill(&world, i)).collect();
    let target = json!({"instance": {"datastore_version": "8.0.2"}});
    for instance in &instances {
        let answer = other.ask(&world, "PATCH", &format!("/instances/{}", instance.id), &target);
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    // It hears of its agents all the time, and can write nothing down.
    another.cut();
    let began = Instant::now();
    for instance in &instances {
        let done = world.wait_until_over(&instance.id);
        assert_eq!(done["phase"], "done", "{done}");
        assert_eq!(read(&world, instance), "kept");
    }
    let took = began.elapsed();
    assert!(took < SECONDS, "the other server needed {took:?}");
    another.mend();
    for instance in &instances {
        until(&other, &world, instance, "8.0.2");
        assert_eq!(world.engines_on(&instance.id).len(), 1);
    }
}

#[test]
fn a_token_that_one_server_has_revoked_is_worth_nothing_at_another() {
    let Some((_cluster, world)) = shared() else { return };
    let other = Another::start(&world, "b");
    assert_eq!(other.ask(&world, "GET", "/instances", &Value::Null).status, 200);
    let token = world.login("demo").token;
    let headers = [("x-auth-token", token.as_str()), ("x-subject-token", token.as_str())];
    let revoked = http::send(world.listen(), "DELETE", "/v3/auth/tokens", &headers, b"").expect("an answer");
    assert_eq!(revoked.status, 204, "{revoked:?}");
    wait_for("the other to hear of it", || other.ask(&world, "GET", "/instances", &Value::Null).status == 401);
}

#[test]
fn operations_go_on_after_the_database_was_killed() {
    let Some((cluster, world)) = shared() else { return };
    let instance = world.create("redis_a", "7.0.15", &[]);
    fill(&world, &instance);
    let target = json!({"instance": {"datastore_version": "8.0.2"}});
    let answer = world.ask("demo", "PATCH", &format!("/instances/{}", instance.id), &target);
    assert_eq!(answer.status, 202, "{answer:?}");
    cluster.restart();
    let done = world.wait_until_over(&instance.id);
    assert_eq!(done["phase"], "done", "{done}");
    assert_eq!(read(&world, &instance), "kept");
}

#[test]
fn servers_are_replaced_one_after_the_other_while_upgrades_run() {
    let Some((cluster, mut world)) = shared() else { return };
    let mut other = Some(Another::start(&world, "b"));
    let instances: Vec<_> = (0..4).map(|n| world.create(&format!("redis_{n}"), "7.0.15", &[])).collect();
    let writers: Vec<_> = instances.iter().map(Writers::start).collect();
    for version in ["8.0.2", "8.2.3"] {
        // This one is certainly under way all the time, since its agent says nothing.
        let agent = world.agent_pid(&instances[0].id).expect("an agent");
        signal(agent, Signal::STOP);
        let target = json!({"instance": {"datastore_version": version}});
        for instance in &instances {
            let path = format!("/instances/{}", instance.id);
            // Taken on by the one that ends.
            let answer = match &other {
                Some(other) if version == "8.2.3" => other.ask(&world, "PATCH", &path, &target),
                _ => world.ask("demo", "PATCH", &path, &target),
            };
            assert_eq!(answer.status, 202, "{answer:?}");
        }
        let began = Instant::now();
        if version == "8.0.2" {
            world.stop_server();
        } else {
            other.take().expect("the other server").stop();
        }
        let ended = began.elapsed();
        let held = claims(&cluster);
        wait_for("claims to be given back", || claims(&cluster).is_disjoint(&held));
        let lease = held.iter().map(|claim| claim.lease_until).min();
        let given_back = began.elapsed();
        assert!(lease.is_none_or(|lease| cluster_now(&cluster) < lease), "a claim was held to its end: {held:?}");
        if version == "8.0.2" {
            world.start_server();
        } else {
            other = Some(Another::start(&world, "b"));
        }
        signal(agent, Signal::CONT);
        for instance in &instances {
            until(other.as_ref().expect("the other server"), &world, instance, version);
        }
        let over = began.elapsed();
        println!(
            "to {version}: ended in {ended:?}, {} claims given back by {given_back:?}, all over in {over:?}",
            held.len()
        );
    }
    for log in ["serve.log", "serve-b.log"] {
        let log = fs_err::read_to_string(world.data().join(log)).expect("a log");
        assert!(!log.contains("did not end in time"), "{log}");
    }
    let mut total = Balance::default();
    for (writers, instance) in writers.into_iter().zip(&instances) {
        writers.wait_for_more(100);
        total.add(writers.stop());
        let phases: Vec<_> = world.operations(&instance.id).iter().map(|done| done["phase"].clone()).collect();
        assert_eq!(phases, ["done"; 3], "{}", instance.id);
        assert_eq!(world.engines_on(&instance.id).len(), 1);
    }
    println!("{} writes acknowledged, {} lost; errors {:?}", total.acknowledged, total.lost.len(), total.errors);
    assert!(total.lost.is_empty(), "{:#?}", total.lost);
}

/// An older server must not guess at what a newer one has written: it ends, and does not start again.
#[test]
fn servers_end_when_a_newer_one_has_brought_their_store_further() {
    let Some((cluster, mut world)) = shared() else { return };
    let other = Another::start(&world, "b");
    let instance = world.create("redis_a", "7.0.15", &[]);
    fill(&world, &instance);
    cluster.run(
        "coffer",
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         SELECT version + 1, 'of tomorrow', success, checksum, 0 FROM _sqlx_migrations ORDER BY version DESC LIMIT 1",
    );
    assert_eq!(other.wait_for_end().code(), Some(1));
    world.wait_for_end_of_server();
    for log in ["serve.log", "serve-b.log"] {
        let log = fs_err::read_to_string(world.data().join(log)).expect("a log");
        assert!(log.contains("of a newer coffer") && log.contains("hint: start a coffer that is as new"), "{log}");
    }
    let refused = world.coffer(["serve", "--listen", "127.0.0.1:0", "--data", &world.data().display().to_string()]);
    assert!(refused.code == 1 && refused.stderr.contains("of a newer coffer"), "{refused:?}");
    // Its agent and its engine are nobody's business in this.
    assert_eq!(read(&world, &instance), "kept");
    cluster.run("coffer", "DELETE FROM _sqlx_migrations WHERE description = 'of tomorrow'");
    world.start_server();
    assert_eq!(world.show(&instance.id)["status"], "ACTIVE");
}

#[test]
fn an_installation_moves_to_postgresql_and_back_while_its_instances_serve() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("redis_a", "7.0.15", &[]);
    fill(&world, &instance);
    let cluster = Cluster::start();
    let url = cluster.database("coffer");
    let refused = world.coffer(["store", "move", "--to", &url]);
    assert_eq!(refused.code, 1, "a server runs on it: {refused:?}");
    let (operations, shown) = (world.operations(&instance.id), world.show(&instance.id));
    world.stop_server();
    world.coffer(["store", "move", "--to", &url]).ok();
    let moved_again = world.coffer(["store", "move", "--to", &url]);
    assert_eq!(moved_again.code, 3, "{moved_again:?}");
    world.start_server();
    assert_eq!(world.operations(&instance.id), operations);
    assert_eq!(world.show(&instance.id)["id"], shown["id"]);
    world.coffer(["instance", "upgrade", &instance.id, "8.0.2", "--wait"]).ok();
    world.stop_server();
    world.coffer(["store", "move", "--to", "file"]).ok();
    world.start_server();
    assert_eq!(world.show(&instance.id)["datastore"]["version"], "8.0.2");
    assert_eq!(read(&world, &instance), "kept");
    world.coffer(["instance", "restart", &instance.id, "--wait"]).ok();
}

/// An operation that somebody has claimed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    operation: String,
    epoch: String,
    /// In microseconds.
    lease_until: u64,
}

/// What is claimed, also where the lease is over.
fn claims(cluster: &Cluster) -> BTreeSet<Claim> {
    let held = "SELECT id, epoch, lease_until FROM operations WHERE is_open AND lease_until > 0";
    let claim = |line: &str| {
        let mut parts = line.split('|').map(str::to_owned);
        let (operation, epoch) = (parts.next().expect("an id"), parts.next().expect("an epoch"));
        Claim { operation, epoch, lease_until: parts.next().and_then(|us| us.parse().ok()).expect("a time") }
    };
    cluster.run("coffer", held).lines().map(claim).collect()
}

/// The time in microseconds, as the database has it.
fn cluster_now(cluster: &Cluster) -> u64 {
    let now = cluster.run("coffer", "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)");
    now.trim().parse().expect("a time")
}

fn fill(world: &World, instance: &Instance) {
    world.redis(instance).ask(&["SET", "key", "kept"]).expect("an answer");
}

fn read(world: &World, instance: &Instance) -> String {
    let reply = world.redis(instance).ask(&["GET", "key"]).expect("an answer");
    String::from_utf8_lossy(reply.text().unwrap_or_default()).into_owned()
}

/// Until the server says that the instance is active in this version.
fn until(server: &Another, world: &World, instance: &Instance, version: &str) {
    wait_for("the upgrade to end", || {
        let answer = server.ask(world, "GET", &format!("/instances/{}", instance.id), &Value::Null);
        let shown = answer.json();
        assert_eq!(shown["instance"]["fault"], Value::Null, "{shown}");
        shown["instance"]["status"] == "ACTIVE" && shown["instance"]["datastore"]["version"] == version
    });
}
