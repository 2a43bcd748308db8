//! The walk of Trove's upgrade guide on real servers, with Coffer's own client and with the unmodified openstack client:
//! list the instances, list the versions, upgrade, see UPGRADE at once and ACTIVE after it.
//!
//! The openstack client is the one that `COFFER_OPENSTACK` names; `./test` installs it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use support::openstack::Openstack;
use support::world::{Instance, Output, World, wait_for};
use support::{dataset, world};

/// Keeps an agent from doing anything, so that what happens meanwhile can be looked at for as long as it takes.
struct Held(Pid);

impl Held {
    fn agent_of(world: &World, instance: &Instance) -> Self {
        let pid = world.agent_pid(&instance.id).expect("the instance has an agent");
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).expect("the agent can be held");
        Self(pid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).expect("the agent goes on");
    }
}

/// A client that speaks the openstack client's commands: Coffer's own, or the real one.
trait Client {
    /// Runs a command below `database` or `datastore`, for JSON.
    fn ask(&self, arguments: &[&str]) -> Output;
}

/// Coffer's client as somebody uses it who knows the other.
struct Own<'a>(&'a World);

impl Client for Own<'_> {
    fn ask(&self, arguments: &[&str]) -> Output {
        let arguments = arguments.strip_prefix(&["database"]).unwrap_or(arguments);
        self.0.coffer(arguments.iter().copied().chain(["-o", "json"]))
    }
}

impl Client for Openstack<'_> {
    fn ask(&self, arguments: &[&str]) -> Output {
        let prints = arguments.contains(&"list") || arguments.contains(&"show");
        let format: &[&str] = if prints { &["-f", "json"] } else { &[] };
        self.run(&[arguments, format].concat())
    }
}

/// The guide, step by step. Every answer is what the guide shows.
fn walk(world: &World, client: &dyn Client) {
    let instance = world.create("redis_test", "7.0.15", &[]);
    let mut redis = world.redis(&instance);
    dataset::load(&mut redis, 2000).unwrap();
    let before = dataset::summarize(&mut redis).unwrap();

    let listed = || client.ask(&["database", "instance", "list"]).ok().json()[0].clone();
    let expect = |status: &str, version: &str| {
        let row = listed();
        assert_eq!(row["ID"], instance.id.as_str(), "{row}");
        assert_eq!(row["Name"], "redis_test", "{row}");
        assert_eq!(row["Datastore"], "redis", "{row}");
        assert_eq!((&row["Status"], &row["Datastore Version"]), (&json!(status), &json!(version)), "{row}");
        assert_eq!((&row["Flavor ID"], &row["Size"]), (&json!("1"), &json!(1)), "{row}");
    };
    expect("ACTIVE", "7.0.15");

    let versions = client.ask(&["datastore", "version", "list", "redis"]).ok().json();
    let target = versions.as_array().unwrap().iter().find(|v| number(&v["Version"]).starts_with("8.0."));
    let target = number(&target.unwrap_or_else(|| panic!("no 8.0 in {versions}"))["Name"]);

    {
        let _held = Held::agent_of(world, &instance);
        client.ask(&["database", "instance", "upgrade", "redis_test", &target]).ok();
        expect("UPGRADE", &target);
        let shown = world.show(&instance.id);
        assert_eq!(shown["running_version"], "7.0.15", "what runs is another fact than what was asked for: {shown}");
        assert_eq!(shown["on_disk_version"], "7.0.15", "{shown}");
    }
    wait_for("the upgrade to end", || world.show(&instance.id)["status"] == "ACTIVE");
    expect("ACTIVE", &target);
    let shown = client.ask(&["database", "instance", "show", "redis_test"]).ok().json();
    assert_eq!(shown["datastore_version"], target.as_str(), "{shown}");
    assert!(number(&shown["running_version"]).starts_with("8.0."), "{shown}");
    assert_eq!(shown["operating_status"], "HEALTHY", "{shown}");
    assert_eq!(shown.get("fault"), None, "{shown}");
    assert_eq!(dataset::summarize(&mut world.redis(&instance)).unwrap(), before);
}

fn number(value: &Value) -> String {
    world::text(value)
}

#[test]
fn the_walk_of_the_guide_with_coffer_s_own_client() {
    let Some(world) = World::start() else { return };
    walk(&world, &Own(&world));
}

#[test]
fn the_walk_of_the_guide_with_the_unmodified_openstack_client() {
    let Some(world) = World::start() else { return };
    let Some(openstack) = Openstack::find(&world) else { return };
    walk(&world, &openstack);
}

#[test]
fn the_openstack_client_creates_restarts_renames_and_deletes() {
    let Some(world) = World::start() else { return };
    let Some(openstack) = Openstack::find(&world) else { return };
    let run = |line: &str| openstack.run(&line.split(' ').collect::<Vec<_>>());
    // Asked directly: the client takes seconds to start.
    let status = || {
        let listed = world.ask("demo", "GET", "/instances", &Value::Null).json();
        listed["instances"][0]["status"].as_str().unwrap_or("gone").to_owned()
    };

    run("database flavor list -f json").ok();
    run("datastore list -f json").ok();
    run("database limit list -f json").ok();
    run("database instance create walk --flavor 1 --size 1 --datastore redis --datastore-version 7.0.15 -f json").ok();
    wait_for("the instance to be built", || status() == "ACTIVE");
    run("database instance restart walk").ok();
    wait_for("the restart to end", || status() == "ACTIVE");
    run("database instance update walk --name walked").ok();

    let refused = run("database instance upgrade walked 9.9.9");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("9.9.9") && refused.stderr.contains("HTTP 400"), "{refused:?}");

    run("database instance delete walked").ok();
    wait_for("the instance to be gone", || status() == "gone");
}

#[test]
fn the_openstack_client_keeps_configuration_groups() {
    let Some(world) = World::start() else { return };
    let Some(openstack) = Openstack::find(&world) else { return };
    let run = |line: &str| openstack.run(&line.split(' ').collect::<Vec<_>>());
    let json = |line: &str| run(&format!("{line} -f json")).ok().json();
    let instance = world.create("w", "7.0.15", &[]);
    let timeout = || {
        let found = world.redis(&instance).ask(&["CONFIG", "GET", "timeout"]).unwrap().items();
        String::from_utf8(found[1].text().unwrap().to_vec()).unwrap()
    };

    let of = "--datastore redis --datastore-version 7.0.15";
    let made = json(&format!("database configuration create c1 {{\"timeout\":60}} {of} --description d"));
    assert_eq!((&made["name"], &made["values"]), (&json!("c1"), &json!("{\"timeout\": 60}")), "{made}");
    let id = number(&made["id"]);
    let listed = json("database configuration list");
    let row = json!([{"ID": id, "Name": "c1", "Description": "d", "Datastore Name": "redis",
        "Datastore Version Name": "7.0.15", "Datastore Version Number": "7.0.15"}]);
    assert_eq!(listed, row);
    assert_eq!(world.coffer(["configuration", "list", "-o", "json"]).ok().json(), row, "ours is the same");
    assert_eq!(json("database configuration show c1")["instance_count"], 0);
    let parameters = json("database configuration parameter list 7.0.15 --datastore redis");
    assert!(parameters.as_array().unwrap().len() > 100, "{parameters}");
    let shown = json("database configuration parameter show 7.0.15 databases --datastore redis");
    assert_eq!((&shown["type"], &shown["restart_required"]), (&json!("integer"), &json!(true)), "{shown}");

    run("database configuration attach w c1").ok();
    assert_eq!(timeout(), "60");
    assert_eq!(json("database configuration instances c1"), json!([{"ID": instance.id, "Name": "w"}]));
    assert_eq!(json("database instance show w")["configuration"], id.as_str());
    run(&format!("database configuration parameter set {id} {{\"timeout\":61}}")).ok();
    assert_eq!(timeout(), "61");
    run(&format!("database configuration set {id} {{\"timeout\":62}} --name c2")).ok();
    assert_eq!((timeout(), &json("database configuration show c2")["name"]), ("62".to_owned(), &json!("c2")));
    assert_eq!(json("database configuration default w")["timeout"], "0");
    let refused = run("database configuration delete c2");
    assert!(refused.code == 1 && refused.stderr.contains("Detach the configuration group"), "{refused:?}");
    run("database configuration detach w").ok();
    assert_eq!(timeout(), "0");
    run(&format!("database instance update w --configuration {id}")).ok();
    assert_eq!(timeout(), "62");
    run("database instance update w --remove-configuration").ok();
    assert_eq!(timeout(), "0");
    run("database configuration delete c2").ok();
    assert_eq!(json("database configuration list"), json!([]));

    run(&format!("database configuration create c3 {{\"timeout\":63}} {of} -f json")).ok();
    let c3 = number(&json("database configuration show c3")["id"]);
    run(&format!("database instance create v --flavor 1 --size 1 {of} --configuration {c3} -f json")).ok();
    wait_for("the instance to be built", || json("database instance show v")["status"] == "ACTIVE");
    assert_eq!(json("database instance show v")["configuration"], c3.as_str());
}

#[test]
fn the_list_is_a_table_with_exactly_the_guide_s_columns() {
    let Some(world) = World::start() else { return };
    let instance = world.create("redis_test", "7.0.15", &[]);
    let id = &instance.id;
    let line = "+--------------------------------------+------------+-----------+-------------------+--------+-----------+------+-----------+";
    assert_eq!(
        world.coffer(["instance", "list"]).ok().stdout,
        format!(
            "{line}\n| ID                                   | Name       | Datastore | Datastore Version | Status | Flavor ID \
             | Size | Region    |\n{line}\n| {id} | redis_test | redis     | 7.0.15            | ACTIVE | 1         |    1 \
             | RegionOne |\n{line}\n"
        )
    );
}

#[test]
fn waiting_names_each_step_and_ends_with_the_gap() {
    let Some(world) = World::start() else { return };
    world.create("redis_test", "7.0.15", &[]);
    let upgraded = world.coffer(["instance", "upgrade", "redis_test", "8.0", "--wait"]).ok();
    for step in ["fetch", "check", "prepare", "quiesce", "stop", "start", "prove", "open", "record"] {
        assert!(upgraded.stderr.lines().any(|line| line.trim_start().starts_with(step)), "no {step} in {upgraded:?}");
    }
    assert!(upgraded.stdout.contains("redis_test runs redis 8.0"), "{upgraded:?}");
    assert!(upgraded.stdout.contains("clients could not write for"), "{upgraded:?}");
    assert!(upgraded.stdout.contains("clients at its address: "), "{upgraded:?}");

    let shown = world.coffer(["instance", "operations", "redis_test"]).ok().stdout;
    assert!(
        shown.contains("upgrade from redis 7.0.15 to redis 8.0") && shown.contains("create on redis 7.0.15"),
        "{shown}"
    );

    let again = world.coffer(["instance", "upgrade", "redis_test", "8.0", "--wait", "-o", "json"]).ok().json();
    assert_eq!(again["phase"], "done", "the same version again is proven, and nothing else: {again}");
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let Some(world) = World::start() else { return };
    let instance = world.create("redis_test", "7.0.15", &[("maxmemory-policy", "allkeys-lru")]);
    let engine = world.engine_pid(&instance.id);
    let plan = world.coffer(["instance", "upgrade", "redis_test", "8.0", "--dry-run"]).ok().stdout;
    for part in ["Path ", "Image ", "Pre-image ", "Stops ", "Gap ", "Way back ", "kept             maxmemory-policy"] {
        assert!(plan.contains(part), "no {part:?} in\n{plan}");
    }
    let plan = world.coffer(["instance", "upgrade", "redis_test", "8.0", "--dry-run", "-o", "json"]).ok().json();
    assert!(plan["steps"].as_array().is_some_and(|steps| !steps.is_empty()), "{plan}");
    assert_eq!(world.operations(&instance.id).len(), 1, "a dry run is no operation");
    assert_eq!(world.engine_pid(&instance.id), engine);
    assert_eq!(world.show(&instance.id)["datastore"]["version"], "7.0.15");
}

#[test]
fn every_kind_of_failure_has_its_exit_code_and_a_hint() {
    let Some(world) = World::start() else { return };
    let first = world.create("twin", "8.0", &[]);
    let second = world.create("twin", "8.0", &[]);
    let check = |line: &str, code: i32, expected: &[&str]| {
        let output = world.coffer(line.split(' '));
        assert_eq!(output.code, code, "{line}: {output:?}");
        assert!(output.stdout.is_empty(), "{line} says on standard output that it failed: {output:?}");
        for text in expected {
            assert!(output.stderr.contains(text), "{line} does not say {text:?}: {output:?}");
        }
    };
    check("instance show nobody", 4, &["no instance 'nobody'", "hint: coffer instance list"]);
    check("instance show twin", 2, &[&first.id, &second.id, "hint: use the id"]);
    check(&format!("instance upgrade {} 7.0.15", first.id), 3, &["older", "hint: "]);
    check(&format!("instance upgrade {} 9.9", first.id), 3, &["9.9", "hint: coffer datastore version list redis"]);
    check("datastore version list oracle", 4, &["oracle", "hint: coffer datastore list"]);
    check("instance create x --flavor 99 --size 1", 4, &["no flavor '99'", "hint: coffer flavor list"]);
    check("instance list --os-cloud nowhere", 5, &["no cloud 'nowhere'", "hint: "]);
    check("engine fetch redis 1.0", 4, &["no redis 1.0", "hint: choose one of"]);
    check("instance frobnicate", 2, &["unrecognized subcommand"]);
}

/// Ends the server as an operator does, and waits until it has.
fn end_server(world: &mut World) {
    let data = world.data().as_os_str().as_encoded_bytes().to_vec();
    let is_server = |pid: &i32| {
        let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).collect();
        words.contains(&&b"serve"[..]) && words.contains(&data.as_slice())
    };
    let pids =
        || fs_err::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let server = pids().find(is_server).expect("the server runs");
    kill_process(Pid::from_raw(server).unwrap(), Signal::TERM).unwrap();
    // A process that has ended and was not asked for its status has no command line any more.
    wait_for("the server to end", || !is_server(&server));
    world.kill_server();
}

#[test]
fn a_server_that_is_told_to_end_leaves_engines_alone_and_a_wait_survives_it() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("redis_test", "7.0.15", &[]);
    let engine = world.engine_pid(&instance.id).expect("an engine");

    let held = Held::agent_of(&world, &instance);
    world.coffer(["instance", "restart", "redis_test"]).ok();
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_coffer"))
        .args(["instance", "operations", "redis_test", "--wait"])
        .env("OS_CLIENT_CONFIG_FILE", world.data().join("clouds.yaml"))
        .env("OS_CLOUD", "demo")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has seen the operation when it tells the first line of it.
    let mut told = BufReader::new(waiting.stderr.take().unwrap());
    let mut first = String::new();
    told.read_line(&mut first).unwrap();
    assert_eq!(first.trim_end(), "restart redis_test on redis 7.0.15");
    end_server(&mut world);
    let unreachable = world.coffer(["instance", "list"]);
    assert_eq!(unreachable.code, 7, "{unreachable:?}");
    assert!(unreachable.stderr.contains("hint: start the server"), "{unreachable:?}");
    assert_eq!(world.engine_pid(&instance.id), Some(engine), "the engine went with the server");

    world.start_server();
    drop(held);
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert!(waiting.wait().unwrap().success(), "{rest}");
    assert_ne!(world.engine_pid(&instance.id), Some(engine), "the restart was not made");
}
