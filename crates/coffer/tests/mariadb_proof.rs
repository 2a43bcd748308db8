//! What the proof of an upgrade of MariaDB may not stumble over, and what has to stop it, on real servers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use support::mariadb::{address, agent, assert_same, connect, fill, read, replace, world};
use support::sql::Sql;
use support::strike::{Moment, strike};
use support::struck::ask_upgrade;
use support::world::{Instance, World, kill, signal, wait_for};

/// Steps of a section.
const QUIESCE: Moment = Moment::Forward(1);
const STOP: Moment = Moment::Forward(2);
const OWN_STEP: &str = "usr/bin/mariadb-upgrade";

fn run(instance: &Instance, statements: &[&str]) {
    let mut sql = connect(instance);
    for statement in statements {
        sql.run(statement);
    }
}

/// An upgrade that fails, and has the cause that it should have.
#[track_caller]
fn fails(world: &World, instance: &Instance, version: &str, told: &str) {
    let failed = world.coffer(["instance", "upgrade", "m", version, "--wait"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    assert_undone(&world.operations(&instance.id).remove(0), told);
}

#[track_caller]
fn assert_undone(operation: &Value, told: &str) {
    assert_eq!(operation["phase"], "undone", "{operation:#}");
    assert!(operation["cause"].to_string().contains(told), "{operation:#}");
}

/// What the section said when this step was done.
fn detail(operation: &Value, step: &str) -> String {
    let steps = operation["steps"].as_array().unwrap();
    let nested = steps.iter().flat_map(|s| s["steps"].as_array().cloned().unwrap_or_default());
    let step = steps.iter().cloned().chain(nested).find(|s| s["name"] == step);
    step.map(|s| s["detail"].to_string()).unwrap_or_default()
}

#[test]
fn what_does_not_outlast_a_stop_keeps_nobody_out() {
    let Some(world) = world("", &["10.11.19", "11.8"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    run(
        &instance,
        &[
            "CREATE DATABASE shop",
            "CREATE TABLE shop.memory (a INT PRIMARY KEY) ENGINE=MEMORY",
            "INSERT INTO shop.memory VALUES (1), (2)",
            "CREATE TABLE shop.clock (a INT PRIMARY KEY, n DATETIME(6) AS (NOW(6)) VIRTUAL, c INT AS (CONNECTION_ID()) VIRTUAL)",
            "INSERT INTO shop.clock (a) VALUES (1), (2)",
        ],
    );
    let serves = || assert_eq!(connect(&instance).ask("SELECT a FROM shop.clock").unwrap(), ["1", "2"]);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    serves();
    run(&instance, &["INSERT INTO shop.memory VALUES (3)"]);
    replace(&world, "11.8", OWN_STEP, "exit 3");
    fails(&world, &instance, "11.8", "mariadb-upgrade");
    serves();
    replace(&world, "11.8", OWN_STEP, "exec /usr/bin/mariadb-upgrade.real \"$@\"");
    run(&instance, &["INSERT INTO shop.memory VALUES (4)"]);
    world.coffer(["instance", "upgrade", "m", "11.8", "--wait"]).ok();
    serves();
    assert_eq!(world.show(&instance.id)["status"], "ACTIVE");
}

#[test]
fn names_of_character_sets_may_change() {
    let Some(world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    run(
        &instance,
        &[
            "CREATE DATABASE old CHARACTER SET utf8 COLLATE utf8_polish_ci",
            "CREATE TABLE old.t (a VARCHAR(20) PRIMARY KEY, b ENUM('x','y') CHARACTER SET utf8) CHARACTER SET utf8",
            "INSERT INTO old.t VALUES ('grün', 'x')",
            "CREATE FUNCTION old.f (x VARCHAR(9) CHARACTER SET utf8) RETURNS VARCHAR(9) CHARACTER SET utf8 RETURN x",
        ],
    );
    world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]).ok();
    assert_eq!(connect(&instance).ask("SELECT a, b, old.f(a) FROM old.t").unwrap(), ["grün|x|grün"]);
}

#[test]
fn however_much_a_table_holds_little_of_it_is_read() {
    let Some(world) = world("", &["10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    run(
        &instance,
        &[
            "CREATE DATABASE shop",
            "USE shop",
            "CREATE TABLE shop.big (b LONGBLOB)",
            "CREATE TABLE shop.keyed (a INT PRIMARY KEY, b LONGBLOB)",
            "INSERT INTO shop.keyed SELECT seq, REPEAT('x', 1000000) FROM seq_1_to_150",
            "INSERT INTO shop.big SELECT b FROM shop.keyed",
            "CREATE TABLE shop.many (a INT)",
            "INSERT INTO shop.many SELECT seq FROM seq_1_to_50000",
        ],
    );
    let agent = world.agent_pid(&instance.id).unwrap();
    let peak = || {
        let status = fs_err::read_to_string(format!("/proc/{agent}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    };
    let before = peak();
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    let operation = world.operations(&instance.id).remove(0);
    println!(
        "gap {} ms; agent {before} MiB, then {} MiB; {}",
        operation["gap_ms"],
        peak(),
        detail(&operation, "quiesce")
    );
    assert!(peak() < before + 32, "{} MiB after {before}", peak());
}

#[test]
fn a_table_that_goes_away_meanwhile_is_no_loss() {
    let Some(mut world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    fill(&mut connect(&instance));
    let ask = |world: &mut World| ask_upgrade(world, &instance, "10.11.19");
    strike(&mut world, &instance, QUIESCE, ask, |world| {
        let mut sql = agent(world, &instance);
        sql.run("DROP TABLE shop.old");
        sql.run("ALTER TABLE shop.packed DROP COLUMN b");
    });
    let newest = world.wait_until_over(&instance.id);
    assert_eq!(newest["phase"], "done", "{newest:#}");
    assert_eq!(connect(&instance).ask("SELECT a FROM shop.packed").unwrap(), ["1"]);
}

#[test]
fn a_transaction_that_was_prepared_meanwhile_keeps_the_engine_from_being_stopped() {
    let Some(mut world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    fill(&mut connect(&instance));
    let ask = |world: &mut World| ask_upgrade(world, &instance, "10.11.19");
    strike(&mut world, &instance, QUIESCE, ask, |world| {
        let mut sql = agent(world, &instance);
        for statement in ["XA START 'x'", "INSERT INTO shop.parts VALUES (7777, 7)", "XA END 'x'", "XA PREPARE 'x'"] {
            sql.run(statement);
        }
    });
    assert_undone(&world.wait_until_over(&instance.id), "prepared");
    run(&instance, &["INSERT INTO shop.parts VALUES (7778, 8)"]);
    // The same version finds it again.
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    agent(&world, &instance).run("XA COMMIT 'x'");
    world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]).ok();
    assert_eq!(connect(&instance).ask("SELECT a FROM shop.parts WHERE a > 7000").unwrap(), ["7777", "7778"]);
}

#[test]
fn an_engine_that_dies_in_its_stop_has_not_ended_cleanly_for_an_agent_that_found_it_running() {
    let Some(mut world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    fill(&mut connect(&instance));
    let before = read(&instance);
    let first = world.agent_pid(&instance.id).unwrap();
    kill(first);
    let may_be_upgraded = || world.coffer(["instance", "upgrade", "m", "10.11.19", "--dry-run"]).code == 0;
    wait_for("the next agent and what it says", || {
        world.agent_pid(&instance.id).is_some_and(|pid| pid != first) && may_be_upgraded()
    });
    let ask = |world: &mut World| ask_upgrade(world, &instance, "10.11.19");
    strike(&mut world, &instance, STOP, ask, |world| {
        let engine = world.engine_pid(&instance.id).unwrap();
        signal(engine, Signal::STOP);
    });
    kill(world.engine_pid(&instance.id).unwrap());
    assert_undone(&world.wait_until_over(&instance.id), "without a clean stop");
    assert_same(&before, &read(&instance), "after a crash in the stop");
}

#[test]
fn what_limits_sessions_limits_neither_the_agent_nor_the_engines_own_step() {
    let Some(world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let limits = [
        ("wait_timeout", "1"),
        ("max_statement_time", "0.001"),
        ("transaction_read_only", "ON"),
        ("autocommit", "OFF"),
    ];
    let instance = world.create("m", "mariadb/10.5.23", &limits);
    world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]).ok();
    let mut sql = agent(&world, &instance);
    sql.run("SET max_statement_time = 0");
    let limits =
        "SELECT @@GLOBAL.wait_timeout, @@GLOBAL.max_statement_time, @@GLOBAL.tx_read_only, @@GLOBAL.autocommit";
    assert_eq!(sql.ask(limits).unwrap(), ["1|0.001000|1|0"], "they are as they were chosen");
}

#[test]
fn without_a_gate_an_engine_that_never_gets_ready_is_given_up() {
    let Some(world) = world("gate = \"own\"\nhold_seconds = 1", &["10.11.19", "11.8"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    fill(&mut connect(&instance));
    let before = read(&instance);
    replace(
        &world,
        "11.8",
        OWN_STEP,
        "exec mariadb --no-defaults --socket=/run/mysql.sock --user=coffer -e 'DO SLEEP(10000)'",
    );
    let began = Instant::now();
    fails(&world, &instance, "11.8", "not ready in the time");
    assert!(began.elapsed() < Duration::from_secs(150), "{:?}", began.elapsed());
    assert_same(&before, &read(&instance), "without a gate");
    assert!(world.engines_on(&instance.id).len() == 1, "what slept was ended");
}

#[test]
fn events_do_not_write_behind_the_proof() {
    let Some(world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[("event_scheduler", "ON")]);
    fill(&mut connect(&instance));
    run(&instance, &["CREATE TABLE shop.counted (n INT)", "INSERT INTO shop.counted VALUES (0)"]);
    for at in 0..20 {
        run(
            &instance,
            &[&format!("CREATE EVENT shop.e{at} ON SCHEDULE EVERY 1 SECOND DO UPDATE shop.counted SET n = n + 1")],
        );
    }
    for script in ["exit 3", "exec /usr/bin/mariadb-upgrade.real \"$@\""] {
        replace(&world, "10.11.19", OWN_STEP, script);
        world.coffer(["instance", "restart", "m", "--wait"]).ok();
        let upgraded = world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]);
        assert_eq!(upgraded.code == 0, script != "exit 3", "{upgraded:?}");
        assert_eq!(world.events(&instance.id).iter().filter(|id| *id == "proof.differs").count(), 0);
        let counted = || connect(&instance).ask("SELECT n FROM shop.counted").unwrap();
        let so_far = counted();
        wait_for("events to go on", || counted() != so_far);
    }
}

#[test]
fn of_a_trial_whose_agent_was_killed_nothing_is_left() {
    let Some(world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    let trial = world.volume(&instance.id).join("agent/trial");
    ask_upgrade(&world, &instance, "10.11.19");
    wait_for("the trial", || trial.join("agent/init.lock").exists());
    kill(world.agent_pid(&instance.id).unwrap());
    let newest = world.wait_until_over(&instance.id);
    assert_eq!(newest["phase"], "done", "{newest:#}");
    assert!(!trial.exists());
}

#[test]
fn columns_and_indexes_of_each_of_many_tables_and_an_enabled_root_are_proven() {
    let Some(world) = world("", &["10.11.19", "11.8"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    run(&instance, &["CREATE DATABASE shop", "CREATE SEQUENCE shop.numbers", "CREATE VIEW shop.one AS SELECT 1 AS a"]);
    // More than those of which rows are read.
    for table in 0..400 {
        let columns = "a INT PRIMARY KEY, b VARCHAR(20), KEY one (b), KEY two (b, a)";
        run(&instance, &[&format!("CREATE TABLE shop.t{table} ({columns})")]);
    }
    let root = world.coffer(["root", "enable", "m", "-o", "json"]).ok().json()["password"].as_str().unwrap().to_owned();
    let alter = |what: &str| {
        format!("FOR i IN 0 .. 399 DO EXECUTE IMMEDIATE CONCAT('ALTER TABLE shop.t', i, ' {what}'); END FOR")
    };
    let columns = alter("MODIFY b VARCHAR(21)");
    // Each column is in an index as before.
    let indexes = format!("DROP USER root@'%';; {}", alter("DROP KEY two"));
    for (statement, told, of) in [(columns, "columns of shop.t", "columns of "), (indexes, "user root@%", "keys of ")] {
        let script = format!(
            "/usr/bin/mariadb-upgrade.real \"$@\" && mariadb --socket=/run/mysql.sock --user=coffer --delimiter=';;' -e \"{statement};;\""
        );
        replace(&world, "11.8", OWN_STEP, &script);
        fails(&world, &instance, "11.8", told);
        let failed = world.operations(&instance.id).remove(0);
        let is_of = |finding: &&Value| finding["object"].as_str().unwrap().starts_with(of);
        assert_eq!(failed["findings"].as_array().unwrap().iter().filter(is_of).count(), 400, "{of}");
        assert_eq!(Sql::open(address(&instance), "root", &root).unwrap().ask("SELECT 1").unwrap(), ["1"]);
    }
    replace(&world, "11.8", OWN_STEP, "exec /usr/bin/mariadb-upgrade.real \"$@\"");
    world.coffer(["instance", "upgrade", "m", "11.8", "--wait"]).ok();
    let upgrade = world.operations(&instance.id).remove(0);
    assert!(upgrade["notes"].to_string().contains("no binary log"), "{upgrade:#}");
    let proof = detail(&upgrade, "prove");
    assert!(proof.contains("columns of 400, keys of 400"), "{proof}");
    assert_eq!(Sql::open(address(&instance), "root", &root).unwrap().ask("SELECT 1").unwrap(), ["1"]);
}
