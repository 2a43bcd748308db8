//! Every path of upgrade, there and back: what the way back announces is lost, and nothing else. On real servers.
//!
//! Paths that are gone back in other tests are not in here: MariaDB 10.5 to 10.11 and within 10.11 (`rollback.rs`), MySQL within
//! 9.7 (`mysql.rs`).

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::contents::{self, Contents};
use support::mariadb;
use support::mysql;
use support::unharmed::wait_until_settled;
use support::world::{Instance, World, text, wait_for};

/// What becomes of the data.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Data {
    Stay,
    Return,
}

/// Writes of every sort, to what there was `before`, too. One command each that the engine calls a write.
const WRITES: [&[&str]; 11] = [
    &["SET", "since:text", "new"],
    &["SET", "before:text", "other"],
    &["DEL", "before:list:small"],
    &["DEL", "nobody has this"],
    &["INCR", "since:count"],
    &["RPUSH", "since:list", "a", "b"],
    &["SADD", "since:set", "a"],
    &["ZADD", "since:sorted", "1", "a"],
    &["HSET", "since:hash", "a", "1"],
    &["RENAME", "before:set:numbers", "since:renamed"],
    &["PEXPIREAT", "before:hash:big", "4000000000009"],
];
const READS: [&[&str]; 3] = [&["GET", "since:text"], &["LRANGE", "since:list", "0", "-1"], &["DBSIZE"]];

fn run(world: &World, arguments: &[&str]) {
    world.coffer(arguments).ok();
}

/// What it runs is what is recorded.
#[track_caller]
fn assert_runs(world: &World, instance: &Instance, version: &str) {
    let (datastore, name) = version.split_once('/').unwrap_or(("redis", version));
    let shown = world.show(&instance.id);
    let number = &shown["datastore"]["version"];
    assert!(text(number) == name || text(number).starts_with(&format!("{name}.")), "{version}: {shown}");
    assert_eq!(shown["status"], "ACTIVE", "{version}: {shown}");
    wait_for("its agent to say the same", || {
        let shown = world.show(&instance.id);
        shown["running_version"] == *number && shown["on_disk_version"] == *number
    });
    assert_eq!((&shown["datastore"]["type"], &shown["fault"]), (&json!(datastore), &Value::Null), "{shown}");
}

/// The plan of the way back says this, and no more is lost than it says.
#[track_caller]
fn assert_announced(world: &World, name: &str, data: Data, writes: u64, path: &str) -> Value {
    let plan = world.coffer(["instance", "rollback", name, "--dry-run", "-o", "json"]).ok().json();
    assert_eq!(plan["in_place"], json!(data == Data::Stay), "{path}: {plan}");
    match data {
        Data::Stay => assert_eq!(plan["loss"], Value::Null, "{path}"),
        Data::Return => {
            let loss = &plan["loss"];
            assert_eq!((&loss["writes"], &loss["at_least"]), (&json!(writes), &json!(false)), "{path}: {plan}");
        }
    }
    plan
}

fn read(instance: &Instance) -> Contents {
    contents::read(instance.address, &instance.password)
}

/// Takes a Redis or Valkey up each of these rungs, and back, and up again.
fn climb(world: &World, name: &str, first: &str, rungs: &[(&str, Data)], settings: &[(&str, &str)]) {
    let rungs: Vec<_> = rungs.iter().filter(|(version, _)| world.has_image(version)).collect();
    let instance = world.create(name, first, settings);
    let mut at = first;
    for (to, data) in rungs {
        let path = format!("{at} to {to}");
        contents::fill(&mut world.redis(&instance), at);
        run(world, &["instance", "upgrade", name, to, "--wait"]);
        let before = read(&instance);
        // Users are in a file of the newer engine by then, in its words.
        wait_until_settled(world, &instance.id);
        let mut redis = world.redis(&instance);
        for command in WRITES.iter().chain(&READS) {
            let words: Vec<_> = command.iter().map(|word| word.replace("before:", &format!("{at}:"))).collect();
            redis.ask(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        }
        let since = read(&instance);
        let plan = assert_announced(world, name, *data, WRITES.len() as u64, &path);
        // What is left of the rungs below is kept, and nobody goes back to it.
        assert!(text(&plan["to"]["name"]).starts_with(at.rsplit('/').next().unwrap()), "{path}: {plan}");
        assert_eq!(plan["findings"].to_string().contains("rollback.older"), at != first, "{path}: {plan}");
        run(world, &["instance", "rollback", name, "--yes", "--wait"]);
        assert_runs(world, &instance, at);
        let expected = if *data == Data::Stay { &since } else { &before };
        expected.assert_same(&read(&instance), &format!("{path}, back"));
        wait_until_settled(world, &instance.id);
        expected.assert_same(&read(&instance), &format!("{path}, back and settled"));
        let newest = &world.operations(&instance.id)[0];
        println!("{path} and back: {data:?}, {} values the same, gap {} ms", expected.len(), newest["gap_ms"]);
        for count in ["refused", "reset", "wrong"] {
            assert_eq!(newest["clients"][count], json!(0), "{path}: {count} of {newest:#}");
        }
        run(world, &["instance", "upgrade", name, to, "--wait"]);
        assert_runs(world, &instance, to);
        at = to;
    }
    run(world, &["instance", "delete", name, "--wait"]);
}

use Data::{Return, Stay};

#[test]
fn the_ladder_of_redis_is_climbed_down_too() {
    let Some(world) = World::start() else { return };
    let rungs = [
        ("5.0.6", Return),
        ("6.0.16", Return),
        ("6.2.14", Return),
        ("7.0.15", Return),
        ("8.0", Return),
        ("8.2.3", Return),
    ];
    if world.has_image("3.2.6") {
        climb(&world, "r", "3.2.6", &rungs, &[]);
    }
}

#[test]
fn several_rungs_at_once_are_gone_back_at_once() {
    let Some(world) = World::start() else { return };
    climb(&world, "snapshots", "6.0.16", &[("8.0", Return)], &[]);
    climb(&world, "appends", "6.0.16", &[("8.0", Return)], &[("appendonly", "yes"), ("save", "")]);
    climb(&world, "over", "7.0.15", &[("valkey/8.1.1", Return), ("valkey/9.1", Return)], &[]);
}

#[test]
fn the_ladder_of_valkey_is_climbed_down_too() {
    let Some(world) = World::start() else { return };
    if world.has_image("valkey/8.0.1") {
        climb(&world, "v", "valkey/8.0.1", &[("valkey/8.1.1", Stay), ("valkey/9.1", Return)], &[]);
    }
}

/// Statements that change data or definitions, to what there was before, too. One of them each.
const STATEMENTS: [&str; 6] = [
    "INSERT INTO shop.old VALUES (77, 'since')",
    "UPDATE shop.parts SET b = 0 WHERE a < 100",
    "DELETE FROM shop.parts WHERE a = 500",
    "CREATE TABLE shop.since (a INT)",
    "ALTER TABLE shop.child ADD COLUMN since INT",
    "DROP TABLE shop.packed",
];

/// The same of an instance of SQL, with what all that it holds is read by.
fn there_and_back(world: &World, instance: &Instance, from: &str, to: &str, read: fn(&Instance) -> mariadb::Contents) {
    let path = format!("{from} to {to}");
    // Events would be counted, too, and nobody knows how many there are.
    mariadb::connect(instance).run("ALTER EVENT shop.tick DISABLE");
    run(world, &["instance", "upgrade", "m", to, "--wait"]);
    let before = read(instance);
    let mut sql = mariadb::connect(instance);
    for statement in STATEMENTS.iter().chain(&["SELECT COUNT(*) FROM shop.parts", "DO SLEEP(0)"]) {
        sql.run(statement);
    }
    drop(sql);
    assert_announced(world, "m", Return, STATEMENTS.len() as u64, &path);
    run(world, &["instance", "rollback", "m", "--yes", "--wait"]);
    assert_runs(world, instance, from);
    mariadb::assert_same(&before, &read(instance), &format!("{path}, back"));
    println!("{path} and back: gap {} ms", world.operations(&instance.id)[0]["gap_ms"]);
    run(world, &["instance", "restart", "m", "--wait"]);
    mariadb::assert_same(&before, &read(instance), &format!("{path}, back and restarted"));
    run(world, &["instance", "delete", "m", "--wait"]);
}

fn mariadb_there_and_back(from: &str, to: &str) {
    let Some(world) = mariadb::world("", &[from, to]) else { return };
    let from = format!("mariadb/{from}");
    let instance = world.create("m", &from, &[]);
    mariadb::fill(&mut mariadb::connect(&instance));
    there_and_back(&world, &instance, &from, to, mariadb::read);
}

#[test]
fn a_mariadb_goes_back_over_a_series() {
    mariadb_there_and_back("10.11.19", "11.8");
}

#[test]
fn a_mariadb_goes_back_over_two_series_at_once() {
    if std::env::var_os("COFFER_EVERY_STEP").is_none() {
        println!("NOT RUN: from 10.5 to 11.8 and back; COFFER_EVERY_STEP=1 runs it");
        return;
    }
    mariadb_there_and_back("10.5.23", "11.8");
}

#[test]
fn a_mysql_goes_back_over_a_series() {
    let Some((world, old, _)) = mysql::native_world("") else { return };
    let instance = mysql::create(&world, "m", &old);
    there_and_back(&world, &instance, &format!("mysql/{old}"), mysql::NEW, mysql::read);
}
