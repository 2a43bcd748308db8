//! What somebody does to an engine behind Coffer's back is found and said, and mended by nothing that nobody asked for. On real
//! servers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::http;
use support::resp::Connection;
use support::unharmed::wait_until_settled;
use support::world::{Instance, World, kill, signal, text, wait_for};
use support::{mariadb, world};

/// The ids of what drifted, as the API tells it.
fn drift(world: &World, id: &str) -> BTreeSet<String> {
    let shown = world.show(id);
    shown["drift"].as_array().into_iter().flatten().map(|drift| text(&drift["id"])).collect()
}

#[track_caller]
fn wait_for_drift(world: &World, id: &str, wanted: &[&str]) {
    let wanted: BTreeSet<_> = wanted.iter().map(|id| (*id).to_owned()).collect();
    wait_for(&format!("drift to be {wanted:?}"), || drift(world, id) == wanted);
}

/// How often something of this kind happened.
fn count(world: &World, id: &str, event: &str) -> usize {
    world.events(id).iter().filter(|told| *told == event).count()
}

/// A connection as the agent's own user, whom the engine refuses nothing.
fn as_agent(world: &World, instance: &Instance) -> Connection {
    let identity = fs_err::read(world.volume(&instance.id).join("agent/identity.json")).unwrap();
    let identity: Value = serde_json::from_slice(&identity).unwrap();
    let hash = Sha256::digest(format!("engine user coffer: {}", identity["token"].as_str().unwrap()));
    let password = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mut connection = Connection::open(instance.address, None).unwrap();
    connection.ask(&["AUTH", "coffer", &password]).unwrap();
    connection
}

/// The engine root of the world that an engine of this version runs in.
fn root(world: &World, version: &str) -> PathBuf {
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release =
        list.as_array().unwrap().iter().find(|r| r["Datastore"] == "redis" && r["Version"] == version).unwrap();
    world.data().join("engines/roots").join(text(&release["Digest"]).replace(':', "-"))
}

fn figures(world: &World) -> String {
    http::send(world.listen(), "GET", "/metrics", &[], b"").unwrap().body
}

#[test]
fn an_edited_file_a_setting_and_a_program_are_found_and_the_engine_goes_on() {
    let Some(world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &[("timeout", "5")]);
    let id = &instance.id;
    wait_until_settled(&world, id);
    let engine = world.engine_pid(id);
    wait_for("the agent to know what it started", || world.volume(id).join("agent/settings.json").exists());
    assert_eq!(world.show(id)["drift"], Value::Null);
    for key in ["requested_version", "recorded_version", "running_version", "on_disk_version"] {
        assert_eq!(world.show(id)[key], "7.0.15", "{key}");
    }

    let conf = world.volume(id).join("conf/redis.conf");
    let written = fs_err::read_to_string(&conf).unwrap();
    fs_err::write(&conf, format!("{written}# somebody was here\n")).unwrap();
    let mut agent = as_agent(&world, &instance);
    // One that the file has, and one that it has not.
    agent.ask(&["CONFIG", "SET", "timeout", "77"]).unwrap();
    agent.ask(&["CONFIG", "SET", "list-max-listpack-size", "-1"]).unwrap();
    // Every instance of the world runs that program, which other worlds have under another name: so it is a file of its own.
    let program = fs_err::canonicalize(root(&world, "7.0.15").join("usr/bin/redis-server")).unwrap();
    let kept = program.with_extension("kept");
    fs_err::rename(&program, &kept).unwrap();
    let mut bytes = fs_err::read(&kept).unwrap();
    bytes.push(b'\n');
    fs_err::write(&program, bytes).unwrap();

    wait_for_drift(&world, id, &["config.file", "engine.program", "setting.differs"]);
    wait_for("both settings", || world.show(id)["drift"].as_array().is_some_and(|all| all.len() == 4));
    let shown = world.show(id);
    println!("{}", world.coffer(["instance", "show", "r"]).ok().stdout);
    let timeout = shown["drift"].as_array().unwrap().iter().find(|d| d["object"] == "setting timeout").unwrap().clone();
    assert_eq!((&timeout["expected"], &timeout["found"]), (&json!("'5'"), &json!("it is '77'")), "{timeout}");
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    for drift in shown["drift"].as_array().unwrap() {
        assert!(!text(&drift["remedy"]).is_empty(), "{drift}");
        assert!(!drift.to_string().contains(world.data().to_str().unwrap()), "a tenant is told of the host: {drift}");
    }
    let table = world.coffer(["instance", "show", "r"]).ok().stdout;
    assert!(table.contains("configuration file: somebody has edited it"), "{table}");
    assert!(count(&world, id, "drift.found") >= 1);
    let figures = figures(&world);
    assert!(figures.contains(r#"coffer_drift{id="setting.differs"} 2"#), "{figures}");
    assert_eq!(world.engine_pid(id), engine, "nobody asked for another engine");

    // Another agent knows what there was.
    kill(world.agent_pid(id).unwrap());
    wait_for("another agent", || world.agent_pid(id).is_some());
    wait_for_drift(&world, id, &["config.file", "engine.program", "setting.differs"]);
    fs_err::write(&conf, &written).unwrap();
    fs_err::rename(&kept, &program).unwrap();
    agent.ask(&["CONFIG", "SET", "timeout", "5"]).unwrap();
    agent.ask(&["CONFIG", "SET", "list-max-listpack-size", "-2"]).unwrap();
    wait_for_drift(&world, id, &[]);
    assert!(count(&world, id, "drift.gone") >= 1);
    assert_eq!((world.engine_pid(id), count(&world, id, "engine.died")), (engine, 0));

    // What is changed by Coffer is no drift.
    world
        .coffer([
            "configuration",
            "create",
            "g",
            "--datastore",
            "redis",
            "--datastore-version",
            "7.0.15",
            "--set",
            "hz=20",
        ])
        .ok();
    world.coffer(["instance", "list"]).ok();
    world.coffer(["configuration", "attach", "r", "g"]).ok();
    wait_for("the setting", || {
        let hz = as_agent(&world, &instance).ask(&["CONFIG", "GET", "hz"]).unwrap().items();
        hz.last().and_then(|value| value.text().map(<[u8]>::to_vec)) == Some(b"20".to_vec())
    });
    as_agent(&world, &instance).ask(&["CONFIG", "SET", "timeout", "78"]).unwrap();
    wait_for_drift(&world, id, &["setting.differs"]);
    assert_eq!(world.show(id)["drift"].as_array().unwrap().len(), 1, "{}", world.show(id)["drift"]);
    world.coffer(["instance", "restart", "r", "--wait"]).ok();
    wait_for_drift(&world, id, &[]);
}

#[test]
fn an_engine_that_somebody_stopped_stays_down_until_it_is_asked_for() {
    let Some(world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &[("appendonly", "yes")]);
    let id = &instance.id;
    world.redis(&instance).ask(&["SET", "kept", "1"]).unwrap();
    signal(world.engine_pid(id).unwrap(), Signal::TERM);
    wait_for_drift(&world, id, &["engine.stopped"]);
    let shown = world.show(id);
    assert_eq!(shown["operating_status"], "SHUTDOWN", "{shown}");
    let told = text(&shown["drift"][0]["remedy"]);
    assert_eq!(told, format!("coffer instance restart {id}"));
    assert_eq!(count(&world, id, "engine.stopped"), 1);
    // Neither another agent nor another server takes it for something to be healed.
    kill(world.agent_pid(id).unwrap());
    wait_for("another agent", || world.agent_pid(id).is_some() && world.events(id).iter().any(|e| e == "agent.died"));
    wait_for_drift(&world, id, &["engine.stopped"]);
    assert_eq!(world.engine_pid(id), None);
    world.coffer(["instance", "restart", "r", "--wait"]).ok();
    wait_for_drift(&world, id, &[]);
    let kept = world.redis(&instance).ask(&["GET", "kept"]).unwrap();
    assert_eq!(kept.text(), Some(&b"1"[..]));
}

#[test]
fn an_engine_of_another_version_and_its_data_are_found() {
    let Some(world) = World::start() else { return };
    if !world.has_image("8.0") {
        return;
    }
    let instance = world.create("r", "7.0.15", &[]);
    let id = &instance.id;
    wait_until_settled(&world, id);
    // By hand: another root in the place of the one that is recorded, and the engine started anew.
    let (old, new) = (root(&world, "7.0.15"), root(&world, "8.0"));
    let aside = old.with_extension("aside");
    fs_err::rename(&old, &aside).unwrap();
    world::link_all(&new, &old);
    kill(world.engine_pid(id).unwrap());
    wait_for("the other version to be told", || drift(&world, id).contains("engine.version"));
    let number = world.number("redis/8.0");
    let shown = world.show(id);
    assert_eq!((&shown["running_version"], &shown["recorded_version"]), (&json!(number), &json!("7.0.15")), "{shown}");
    as_agent(&world, &instance).ask(&["SET", "a", "1"]).unwrap();
    as_agent(&world, &instance).ask(&["SAVE"]).unwrap();
    wait_for("the data to say who wrote them", || drift(&world, id).contains("data.version"));
    let shown = world.show(id);
    assert_eq!((&shown["on_disk_version"], &shown["status"]), (&json!(number), &json!("ACTIVE")), "{shown}");
    println!("{}", world.coffer(["instance", "show", "r"]).ok().stdout);
}

#[test]
fn a_crash_loop_is_one_state_with_one_event_and_ends_with_a_restart() {
    let Some(world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &[("appendonly", "yes")]);
    let id = &instance.id;
    let mut last = None;
    for _ in 0..5 {
        wait_for("another engine", || world.engine_pid(id).is_some_and(|pid| Some(pid) != last));
        last = world.engine_pid(id);
        wait_for("it to serve", || {
            let open = Connection::open(instance.address, Some(&instance.password));
            open.is_ok_and(|mut redis| redis.ask(&["PING"]).is_ok())
        });
        kill(last.unwrap());
    }
    wait_for("the state to be told", || world.show(id)["status"] == "ERROR");
    let shown = world.show(id);
    let fault = shown["fault"].to_string();
    for part in ["5 times within", "last at", "signal 9", &format!("coffer instance restart {id}")] {
        assert!(fault.contains(part), "{part:?} is not in {fault}");
    }
    println!("{fault}");
    let died = count(&world, id, "engine.died");
    assert_eq!(count(&world, id, "engine.crashing"), 1);
    // One that is killed before its agent has let clients in did not start.
    assert!((1..=4).contains(&died), "{died}");
    assert!(figures(&world).contains("coffer_crashing_engines 1"));
    // An agent that comes next knows of it, and does not begin to count anew.
    kill(world.agent_pid(id).unwrap());
    wait_for("another agent", || world.agent_pid(id).is_some());
    assert_eq!(world.show(id)["status"], "ERROR");
    world.coffer(["instance", "restart", "r", "--wait"]).ok();
    wait_for("it to be over", || world.show(id)["status"] == "ACTIVE");
    assert_eq!(world.show(id)["fault"], Value::Null);
    wait_for("that to be told", || count(&world, id, "engine.steady") == 1);
    assert_eq!((count(&world, id, "engine.crashing"), count(&world, id, "engine.died")), (1, died), "told once");
}

#[test]
fn an_agent_that_is_stopped_is_silent_and_heard_again() {
    let Some(mut world) = World::start_with("", "silent_seconds = 15") else { return };
    let instance = world.create("r", "7.0.15", &[]);
    let id = &instance.id;
    wait_for("the agent's word", || world.show(id)["operating_status"] == "HEALTHY");
    let (agent, engine) = (world.agent_pid(id).unwrap(), world.engine_pid(id));
    signal(agent, Signal::STOP);
    let check = |world: &World| {
        wait_for("the silence to be told", || world.show(id)["silent"].is_object());
        let shown = world.show(id);
        assert_eq!((&shown["status"], &shown["operating_status"]), (&json!("ACTIVE"), &json!("ERROR")), "{shown}");
        assert!(text(&shown["silent"]["hint"]).contains("end the agent"), "{shown}");
        world.redis(&instance).ask(&["SET", "a", "1"]).unwrap();
    };
    check(&world);
    wait_for("an event", || count(&world, id, "agent.silent") == 1);
    assert!(figures(&world).contains("coffer_silent_agents 1"));
    println!("{}", world.coffer(["instance", "show", "r"]).ok().stdout);
    // A server that has never heard it finds out, too, and tells it to nobody a second time.
    world.kill_server();
    world.start_server();
    assert_eq!(world.show(id)["silent"], Value::Null, "it has only begun to listen");
    check(&world);
    signal(agent, Signal::CONT);
    wait_for("it to be heard", || world.show(id)["operating_status"] == "HEALTHY");
    wait_for("an event", || count(&world, id, "agent.heard") == 1);
    assert_eq!((count(&world, id, "agent.silent"), world.engine_pid(id)), (1, engine));
}

#[test]
fn a_mariadb_that_somebody_changed_edited_and_stopped_is_found_so() {
    const VERSION: &str = "10.11.19";
    let Some(world) = mariadb::world("", &[VERSION]) else { return };
    let instance = world.create("m", &format!("mariadb/{VERSION}"), &[]);
    let id = &instance.id;
    wait_for("the agent to know what it started", || world.volume(id).join("agent/settings.json").exists());
    wait_until_settled(&world, id);
    let engine = world.engine_pid(id);
    mariadb::agent(&world, &instance).run("SET GLOBAL wait_timeout = 1234");
    let conf = world.volume(id).join("conf/my.cnf");
    let written = fs_err::read_to_string(&conf).unwrap();
    fs_err::write(&conf, format!("{written}\n# somebody was here\n")).unwrap();
    wait_for_drift(&world, id, &["config.file", "setting.differs"]);
    let shown = world.show(id);
    let all = shown["drift"].as_array().unwrap();
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all.iter().any(|d| d["object"] == "setting wait_timeout" && d["found"] == "it is '1234'"), "{all:#?}");
    assert_eq!((world.engine_pid(id), &shown["status"]), (engine, &json!("ACTIVE")));
    mariadb::agent(&world, &instance).run("SHUTDOWN");
    wait_for("the stop to be told", || drift(&world, id).contains("engine.stopped"));
    assert_eq!(world.engine_pid(id), None);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    wait_for_drift(&world, id, &[]);
    assert_eq!(world.show(id)["status"], "ACTIVE");
}
