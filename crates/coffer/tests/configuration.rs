//! Configuration groups on real servers: what running engines take at once, what waits for a restart, what is refused, and
//! what becomes of a group at an upgrade.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::sql::Sql;
use support::world::{Instance, World, kill, signal, text, wait_for};

/// What newer MariaDB does not have any more, by the engine that has it.
const REMOVED: &str = include_str!("../../core/tests/settings/removed.cnf");

/// What the running engine says that a setting is.
fn value(world: &World, instance: &Instance, datastore: &str, name: &str) -> String {
    if ["mariadb", "mysql"].contains(&datastore) {
        let address = SocketAddr::new(instance.address.ip(), 3306);
        let mut sql = Sql::open(address, "admin", &instance.password).unwrap_or_else(|e| panic!("{e}"));
        return sql.ask(&format!("SELECT @@GLOBAL.{name}")).unwrap().remove(0);
    }
    let found = world.redis(instance).ask(&["CONFIG", "GET", name]).unwrap().items();
    String::from_utf8(found[1].text().unwrap().to_vec()).unwrap()
}

fn run(world: &World, line: &str) -> String {
    world.coffer(line.split(' ')).ok().stdout
}

/// A group of that version, by its name.
fn group(world: &World, version: &str, values: &[(&str, &str)]) -> Value {
    let (datastore, version) = version.split_once('/').unwrap();
    let values: serde_json::Map<_, _> = values.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let body = json!({"configuration": {"name": "cache", "values": values,
        "datastore": {"type": datastore, "version": version}}});
    let answer = world.ask("demo", "POST", "/configurations", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["configuration"].clone()
}

fn shown(world: &World, instance: &Instance, key: &str) -> Value {
    world.show(&instance.id)[key].clone()
}

/// A version, a setting that is changed live with its default and two values, and the same of one that needs a restart.
struct Case {
    version: &'static str,
    live: (&'static str, [&'static str; 3]),
    restart: (&'static str, [&'static str; 2]),
}

/// The life of a group with an instance of this version.
fn live(case: &Case) {
    let Some(world) = World::start() else { return };
    if !world.has_image(case.version) {
        return;
    }
    let (datastore, _) = case.version.split_once('/').unwrap();
    let version = &format!("{datastore}/{}", world.number(case.version));
    let ((live, [default, first, second]), (restart, [before, after])) = (case.live, case.restart);
    let instance = world.create("w", version, &[]);
    let is = |name: &str| value(&world, &instance, datastore, name);
    // After a start measures of it are in force for a moment, which change how data is kept.
    let settles = |of_live: &str, of_restart: &str| {
        wait_for("both settings", || (is(live).as_str(), is(restart).as_str()) == (of_live, of_restart));
    };
    let engine = world.engine_pid(&instance.id);
    assert_eq!((is(live), is(restart)), (default.to_owned(), before.to_owned()));
    group(&world, version, &[(live, first), (restart, after)]);

    let said = run(&world, "configuration attach w cache");
    assert!(said.contains(&format!("w needs a restart for {restart}: coffer instance restart w")), "{said}");
    assert_eq!((is(live), is(restart)), (first.to_owned(), before.to_owned()));
    assert_eq!(world.engine_pid(&instance.id), engine, "it was not stopped");
    assert_eq!(shown(&world, &instance, "status"), "RESTART_REQUIRED");
    assert_eq!(shown(&world, &instance, "restart_required"), json!([restart]));
    assert_eq!(shown(&world, &instance, "configuration")["name"], "cache");

    // An engine that dies comes back with what was taken live, and without what waits.
    kill(engine.unwrap());
    wait_for("another engine", || world.engine_pid(&instance.id).is_some_and(|pid| Some(pid) != engine));
    wait_for("the engine to serve", || shown(&world, &instance, "operating_status") == "HEALTHY");
    settles(first, before);

    run(&world, "instance restart w --wait");
    settles(first, after);
    assert_eq!(shown(&world, &instance, "status"), "ACTIVE");
    run(&world, &format!("instance upgrade w {version} --wait"));

    let engine = world.engine_pid(&instance.id);
    let set = |value: &str| world.coffer(["configuration", "set", "cache", &format!("{live}={value}")]).ok().stdout;
    let said = set(second);
    assert!(said.contains("cache is changed; instances that have it: 1"), "{said}");
    assert_eq!((is(live), shown(&world, &instance, "status")), (second.to_owned(), json!("ACTIVE")));
    run(&world, &format!("configuration unset cache {live}"));
    assert_eq!(is(live), default, "the default holds again");
    set(first);

    let refused = world.coffer(["configuration", "delete", "cache"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains("hint: coffer configuration instances cache"), "{refused:?}");
    run(&world, "configuration detach w");
    assert_eq!((is(live), is(restart)), (default.to_owned(), after.to_owned()));
    assert_eq!(shown(&world, &instance, "restart_required"), json!([restart]));
    assert_eq!(world.engine_pid(&instance.id), engine);
    run(&world, "configuration delete cache");
    run(&world, "instance restart w --wait");
    settles(default, before);
    assert_eq!(shown(&world, &instance, "status"), "ACTIVE");
}

#[test]
fn redis_takes_live_what_it_can_and_the_rest_at_its_next_restart() {
    live(&Case { version: "redis/7.0.15", live: ("timeout", ["0", "60", "61"]), restart: ("databases", ["16", "20"]) });
}

#[test]
fn an_old_redis_takes_live_what_it_can_and_the_rest_at_its_next_restart() {
    live(&Case {
        version: "redis/3.2.6",
        live: ("maxmemory-policy", ["noeviction", "allkeys-lru", "volatile-ttl"]),
        restart: ("databases", ["16", "20"]),
    });
}

#[test]
fn valkey_takes_live_what_it_can_and_the_rest_at_its_next_restart() {
    live(&Case {
        version: "valkey/8.1.1",
        live: ("save", ["3600 1 300 100 60 10000", "60 1", "900 1 300 10"]),
        restart: ("databases", ["16", "20"]),
    });
}

#[test]
fn mariadb_takes_live_what_it_can_and_the_rest_at_its_next_restart() {
    live(&Case {
        version: "mariadb/10.11.19",
        live: ("max_connections", ["256", "300", "301"]),
        restart: ("innodb_ft_min_token_size", ["3", "4"]),
    });
}

#[test]
fn mysql_takes_live_what_it_can_and_the_rest_at_its_next_restart() {
    live(&Case {
        version: "mysql/9.7",
        live: ("max_connections", ["256", "300", "301"]),
        restart: ("innodb_ft_min_token_size", ["3", "4"]),
    });
}

/// An instance is given these settings, each with what it is to show, and a switch of its optimizer, which shows all of them.
fn every_kind_of_value(world: &World, version: &str, cases: &[(&str, &str, &str)], (off, on): (&str, &str)) {
    let (datastore, _) = version.split_once('/').unwrap();
    let version = &format!("{datastore}/{}", world.number(version));
    let name = version.replace(['/', '.'], "-");
    let instance = world.create(&name, version, &[]);
    let is = |name: &str| value(world, &instance, datastore, name);
    let switch = is("optimizer_switch");
    assert!(switch.contains(off), "{switch}");
    let before: Vec<_> = cases.iter().map(|(name, _, _)| is(name)).collect();
    let mut all: Vec<_> = cases.iter().map(|(name, value, _)| (*name, *value)).collect();
    all.push(("optimizer_switch", on));
    let made = group(world, version, &all);
    let id = text(&made["id"]);
    world.coffer(["configuration", "attach", &name, &id]).ok();
    for (setting, _, expected) in cases {
        assert_eq!(is(setting), *expected, "{version} {setting}");
    }
    assert_eq!(is("optimizer_switch"), switch.replace(off, on), "{version}");
    assert_eq!(shown(world, &instance, "status"), "ACTIVE", "{version}");
    // What was told is what a file says.
    world.coffer(["instance", "restart", &name, "--wait"]).ok();
    for (setting, _, expected) in cases {
        assert_eq!(is(setting), *expected, "{version} {setting}, after a restart");
    }
    world.coffer(["configuration", "detach", &name]).ok();
    for ((setting, _, _), before) in cases.iter().zip(before) {
        assert_eq!(is(setting), before, "{version} {setting}, without the group");
    }
    assert_eq!(is("optimizer_switch"), switch, "{version}");
    world.coffer(["configuration", "delete", &id]).ok();
}

/// What both take alike.
const KINDS: [(&str, &str, &str); 7] = [
    ("tmp_table_size", "1M", "1048576"),
    ("slow_query_log", "ON", "1"),
    ("long_query_time", "2.5", "2.500000"),
    ("sql_mode", "ANSI_QUOTES,NO_ZERO_DATE", "ANSI_QUOTES,NO_ZERO_DATE"),
    ("init_connect", "SET @a = 'it''s'", "SET @a = 'it''s'"),
    ("innodb_buffer_pool_size", "128M", "134217728"),
    ("log_output", "TABLE", "TABLE"),
];

#[test]
fn mariadb_is_told_every_kind_of_value_in_the_words_of_a_statement() {
    let Some(world) = World::start() else { return };
    let cases = [&KINDS[..], &[("binlog_format", "2", "ROW"), ("event_scheduler", "ON", "ON")]].concat();
    for version in ["mariadb/10.5.23", "mariadb/10.11.19", "mariadb/11.8"] {
        if world.has_image(version) {
            every_kind_of_value(&world, version, &cases, ("mrr=off", "mrr=on"));
        }
    }
}

#[test]
fn mysql_is_told_every_kind_of_value_in_the_words_of_a_statement() {
    let Some(world) = World::start() else { return };
    let cases = [&KINDS[..], &[("binlog_row_image", "1", "NOBLOB"), ("event_scheduler", "OFF", "OFF")]].concat();
    if world.has_image("mysql/9.7") {
        every_kind_of_value(&world, "mysql/9.7", &cases, ("batched_key_access=off", "batched_key_access=on"));
    }
}

#[test]
fn what_a_running_engine_refuses_changes_nothing_and_says_why() {
    let Some(world) = World::start() else { return };
    let instance = world.create("w", "7.0.15", &[]);
    let is = |name: &str| value(&world, &instance, "redis", name);
    group(&world, "redis/7.0.15", &[("hz", "50"), ("maxmemory-samples", "0")]);
    let refused = world.coffer(["configuration", "attach", "w", "cache"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    for part in ["redis 7.0.15 does not take maxmemory-samples = 0", "hint: give maxmemory-samples another value"] {
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    assert_eq!((is("hz"), is("maxmemory-samples")), ("10".to_owned(), "5".to_owned()), "all or nothing");
    assert_eq!(shown(&world, &instance, "configuration"), Value::Null, "it was not attached");
    assert!(text(&shown(&world, &instance, "fault")["message"]).contains("maxmemory-samples"));
    run(&world, "configuration set cache maxmemory-samples=7");
    run(&world, "configuration attach w cache");
    assert_eq!((is("hz"), is("maxmemory-samples")), ("50".to_owned(), "7".to_owned()));
    assert_eq!(shown(&world, &instance, "fault"), Value::Null);
    // Of a group that is attached the new value is a wish that the instance says it cannot follow.
    let refused = world.coffer(["configuration", "set", "cache", "maxmemory-samples=0"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    assert!(refused.stderr.contains(&instance.id), "{refused:?}");
    assert_eq!(is("maxmemory-samples"), "7");
}

/// The file that is turned off would be loaded by the next start after a crash, and what was written since be gone.
fn turned_off(version: &str) {
    let Some(world) = World::start() else { return };
    let instance = world.create("w", version, &[]);
    group(&world, &format!("redis/{version}"), &[("appendonly", "yes"), ("save", "1 1")]);
    run(&world, "configuration attach w cache");
    let ask = |words: &[&str]| world.redis(&instance).ask(words).unwrap();
    ask(&["SET", "k", "before"]);
    run(&world, "configuration set cache appendonly=no");
    assert_eq!(value(&world, &instance, "redis", "appendonly"), "no");
    ask(&["SET", "k", "since"]);
    let saved = |info: &str| info.lines().any(|line| line == "rdb_changes_since_last_save:0");
    wait_for("a snapshot", || saved(&String::from_utf8_lossy(ask(&["INFO", "persistence"]).text().unwrap())));
    let engine = world.engine_pid(&instance.id).unwrap();
    signal(engine, Signal::KILL);
    wait_for("another engine", || world.engine_pid(&instance.id).is_some_and(|pid| pid != engine));
    assert_eq!(ask(&["GET", "k"]).text(), Some(&b"since"[..]));
    assert_eq!(value(&world, &instance, "redis", "save").split(' ').count(), 2, "its snapshots are as they are to be");
}

#[test]
fn an_append_only_file_that_is_turned_off_is_not_loaded_again() {
    turned_off("7.0.15");
}

#[test]
fn an_append_only_file_of_an_old_redis_that_is_turned_off_is_not_loaded_again() {
    turned_off("6.0.16");
}

#[test]
fn an_attachment_outlives_server_and_agent() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("w", "7.0.15", &[]);
    for (n, timeout) in [(0, "60"), (1, "61")] {
        let made = group(&world, "redis/7.0.15", &[("timeout", timeout)]);
        // While it is held, the agent does not take what it is asked.
        let agent = world.agent_pid(&instance.id).expect("an agent");
        signal(agent, Signal::STOP);
        let mut attach = Command::new(env!("CARGO_BIN_EXE_coffer"))
            .args(["configuration", "attach", "w", &text(&made["id"])])
            .env("OS_CLIENT_CONFIG_FILE", world.data().join("clouds.yaml"))
            .env("OS_CLOUD", "demo")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the operation to begin", || world.operations(&instance.id)[0]["kind"] == "configure");
        if n == 0 {
            world.kill_server();
            world.start_server();
            signal(agent, Signal::CONT);
        } else {
            kill(agent);
        }
        let over = world.wait_until_over(&instance.id);
        assert_eq!((&over["kind"], &over["phase"]), (&json!("configure"), &json!("done")), "{over}");
        attach.wait().unwrap();
        assert_eq!(value(&world, &instance, "redis", "timeout"), timeout);
        assert_eq!(shown(&world, &instance, "configuration")["id"], made["id"]);
        run(&world, "configuration detach w");
    }
}

#[test]
fn an_engine_that_does_not_start_with_its_new_settings_goes_on_with_the_old_ones() {
    let Some(world) = World::start() else { return };
    let undone = |instance: &Instance, name: &str, expected: &str| {
        let restarted = world.coffer(["instance", "restart", name, "--wait"]);
        assert_eq!(restarted.code, 6, "{restarted:?}");
        assert!(restarted.stderr.contains(expected), "{restarted:?}");
        assert_eq!(shown(&world, instance, "status"), "RESTART_REQUIRED");
        wait_for("the engine to serve", || shown(&world, instance, "operating_status") == "HEALTHY");
    };
    // Refused by the program beside the engine that runs, which is not stopped.
    let instance = world.create("r", "7.0.15", &[]);
    let made = group(&world, "redis/7.0.15", &[("io-threads", "1000")]);
    let engine = world.engine_pid(&instance.id);
    world.coffer(["configuration", "attach", "r", &text(&made["id"])]).ok();
    undone(&instance, "r", "redis 7.0.15 does not start with its new settings");
    assert_eq!(world.engine_pid(&instance.id), engine, "nothing was stopped");
    assert_eq!(value(&world, &instance, "redis", "io-threads"), "1");
    // Refused only with the data before it: the old engine comes back.
    if !world.has_image("mariadb/10.11.19") {
        return;
    }
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    let made = group(&world, "mariadb/10.11.19", &[("innodb_page_size", "4096")]);
    world.coffer(["configuration", "attach", "m", &text(&made["id"])]).ok();
    undone(&instance, "m", "and everything was put back");
    assert_eq!(value(&world, &instance, "mariadb", "innodb_page_size"), "16384");
    world.coffer(["configuration", "detach", "m"]).ok();
    assert_eq!(shown(&world, &instance, "status"), "ACTIVE");
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
}

#[test]
fn a_group_goes_with_its_instances_from_redis_to_redis_and_to_valkey() {
    let Some(world) = World::start() else { return };
    let made = group(&world, "redis/7.0.15", &[("timeout", "60"), ("io-threads-do-reads", "yes")]);
    let instance = world.create("w", "7.0.15", &[]);
    run(&world, "configuration attach w cache");
    let plan = run(&world, "instance upgrade w 8.0 --dry-run");
    for part in
        ["Group         cache-8.0", "dropped          io-threads-do-reads", "group cache: the instance gets cache-8.0"]
    {
        assert!(plan.contains(part), "no {part:?} in {plan}");
    }
    let said = run(&world, "instance upgrade w 8.0 --wait");
    assert!(said.contains("configuration group cache: the instance gets cache-8.0"), "{said}");
    assert_eq!(shown(&world, &instance, "status"), "ACTIVE");
    let name = text(&shown(&world, &instance, "configuration")["name"]);
    assert!(name.starts_with("cache-8.0"), "{name}");
    assert_eq!(value(&world, &instance, "redis", "timeout"), "60");
    let old = run(&world, &format!("configuration show {} -o json", text(&made["id"])));
    assert!(old.contains("io-threads-do-reads"), "the old one stays: {old}");
    run(&world, &format!("configuration set {name} timeout=62"));
    assert_eq!(value(&world, &instance, "redis", "timeout"), "62", "the new one is the instance's");
}

/// A group with everything that is gone since its version, and an instance that has it.
fn with_removed(world: &World, version: &str, name: &str) -> (Instance, String) {
    let lines = REMOVED.split(&format!("[{}]\n", version.replace('/', " "))).nth(1).unwrap();
    let lines = lines.split("\n[").next().unwrap();
    let all: Vec<_> = lines.lines().filter_map(|line| line.split_once(" = ")).collect();
    assert!(all.len() > 15, "{all:?}");
    let made = group(world, version, &all);
    let id = text(&made["id"]);
    let (datastore, number) = version.split_once('/').unwrap();
    let line =
        ["instance", "create", name, "--flavor", "1", "--size", "1", "--datastore", datastore, "--datastore-version"];
    let created =
        world.coffer(line.into_iter().chain([number, "--configuration", &id, "--wait", "-o", "json"])).ok().json();
    let address = SocketAddr::new(text(&created["ip"][0]).parse().unwrap(), 6379);
    (Instance { id: text(&created["id"]), address, password: text(&created["password"]) }, id)
}

#[test]
fn a_group_with_everything_that_mariadb_removed_goes_to_every_newer_version_by_itself() {
    let Some(world) = World::start() else { return };
    let versions = ["10.5.23", "10.11.19", "11.8"];
    if !versions.iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return;
    }
    for way in [&versions[..], &["10.5.23", "11.8"], &["10.11.19", "11.8"]] {
        let name = way.join("-");
        let (instance, old) = with_removed(&world, &format!("mariadb/{}", way[0]), &name);
        for to in &way[1..] {
            let said = run(&world, &format!("instance upgrade {name} {to} --wait"));
            assert!(said.contains(&format!("{name} runs mariadb {to}")), "{said}");
            assert_eq!(shown(&world, &instance, "status"), "ACTIVE", "{name} to {to}");
            let group = shown(&world, &instance, "configuration");
            assert!(text(&group["name"]).starts_with(&format!("cache-{to}")), "{group}");
            let shown = run(&world, &format!("configuration show {} -o json", text(&group["id"])));
            println!("{name} to {to}: {shown}");
        }
        let old = run(&world, &format!("configuration show {old} -o json"));
        assert!(old.contains("old_alter_table"), "the old one stays: {old}");
        run(&world, &format!("instance delete {name} --wait"));
    }
}
