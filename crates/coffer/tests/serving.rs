//! Instances serve, whoever else is stopped, killed or replaced; and what began is finished without the control plane.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};

use rustix::process::Signal;
use serde_json::Value;
use support::contents;
use support::dataset;
use support::faulty::{self, Mood};
use support::unharmed::state;
use support::world::{Instance, World, kill, wait_for};
use support::writers::Writers;

/// Writes that have to be acknowledged before it counts as serving.
const SOME: u64 = 500;

#[test]
fn clients_notice_nothing_while_coffer_and_agents_are_stopped_killed_and_started_again() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("serves", "7.0.15", &[("save", "")]);
    let engine = world.engine_pid(&instance.id).expect("an engine");
    let agent = world.agent_pid(&instance.id).expect("an agent");
    let writers = Writers::start(&instance);
    writers.wait_for_more(SOME);

    world.stop_server();
    writers.wait_for_more(SOME);
    world.start_server();
    check_found(&world, &instance);
    world.kill_server();
    writers.wait_for_more(SOME);
    assert_eq!(world.agent_pid(&instance.id), Some(agent), "the agent outlives the server");
    world.start_server();
    check_found(&world, &instance);

    kill(agent);
    wait_for("another agent", || world.agent_pid(&instance.id).is_some_and(|pid| pid != agent));
    check_found(&world, &instance);
    wait_for("the event", || world.events(&instance.id).contains(&"agent.died".to_owned()));
    writers.wait_for_more(SOME);

    world.kill_server();
    kill(world.agent_pid(&instance.id).expect("an agent"));
    writers.wait_for_more(SOME);
    assert_eq!(world.agent_pid(&instance.id), None, "nobody is there who could start another");
    world.start_server();
    wait_for("another agent", || world.agent_pid(&instance.id).is_some());
    check_found(&world, &instance);
    assert_eq!(world.engine_pid(&instance.id), Some(engine), "nobody touched the engine");

    let balance = writers.stop();
    assert!(balance.lost.is_empty() && balance.unanswered == 0 && balance.errors.is_empty(), "{balance:?}");
    world.coffer(["instance", "upgrade", "serves", "8.0", "--wait"]).ok();
}

#[test]
fn an_instance_with_an_address_of_ipv6_serves_and_is_upgraded_and_gives_it_back() {
    // There is but one such address that needs no set-up. Whoever holds this socket has it.
    let mut held = None;
    wait_for("[::1] to be free", || {
        let taken = UdpSocket::bind("[::1]:8779");
        if taken.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrNotAvailable) {
            return true;
        }
        held = taken.ok().filter(|_| TcpListener::bind("[::1]:6379").is_ok());
        held.is_some()
    });
    if held.is_none() {
        println!("NOT RUN: there is no ::1 on this machine");
        return;
    }
    let Some(world) = World::start_with("", "address_pool = '::1/128'") else { return };
    let instance = world.create("six", "6.0.16", &[("save", "")]);
    assert_eq!(instance.address.to_string(), "[::1]:6379");
    contents::fill(&mut world.redis(&instance), "six");
    let before = contents::read(instance.address, &instance.password);
    for version in ["7.0.15", "valkey/8.1.1"] {
        world.coffer(["instance", "upgrade", "six", version, "--wait"]).ok();
        before.assert_same(&contents::read(instance.address, &instance.password), version);
        let operation = world.operations(&instance.id).remove(0);
        println!("{version}: a gap of {} ms", operation["gap_ms"]);
    }
    let create = ["instance", "create", "second", "--flavor", "1", "--size", "1"];
    let refused = world.coffer(create);
    assert!(refused.code != 0 && refused.stderr.contains("all addresses of ::1/128 are taken"), "{refused:?}");
    world.coffer(["instance", "delete", "six", "--wait"]).ok();
    assert_eq!(world.create("second", "7.0.15", &[]).address, instance.address);
}

#[test]
fn an_engine_that_dies_is_started_again_with_what_it_promised_to_keep() {
    let Some(world) = World::start() else { return };
    let instance = world.create("dies", "8.0", &[("appendonly", "yes")]);
    contents::fill(&mut world.redis(&instance), "before");
    // Of users an engine promises only what was saved.
    world.redis(&instance).ask(&["ACL", "SAVE"]).unwrap();
    let before = contents::read(instance.address, &instance.password);
    for _ in 0..2 {
        let engine = world.engine_pid(&instance.id).expect("an engine");
        kill(engine);
        wait_for("another engine", || world.engine_pid(&instance.id).is_some_and(|pid| pid != engine));
        wait_until_open(&instance);
        before.assert_same(&contents::read(instance.address, &instance.password), "killed");
    }
    wait_for("the events", || world.events(&instance.id).iter().filter(|id| *id == "engine.died").count() == 2);
    wait_for("it to be healthy", || world.show(&instance.id)["operating_status"] == "HEALTHY");
}

#[test]
fn a_restart_loses_nothing_even_where_nothing_is_kept_on_disk() {
    let Some(world) = World::start() else { return };
    for version in ["6.0.16", "7.0.15", "valkey/9.1"] {
        let name = format!("restarts-{}", version.replace('/', "-"));
        let instance = world.create(&name, version, &[("save", "")]);
        let writers = Writers::start(&instance);
        for _ in 0..3 {
            writers.wait_for_more(SOME);
            let engine = world.engine_pid(&instance.id);
            world.coffer(["instance", "restart", &name, "--wait"]).ok();
            assert_ne!(world.engine_pid(&instance.id), engine, "it is another process");
        }
        writers.wait_for_more(SOME);
        let balance = writers.stop();
        assert!(balance.lost.is_empty(), "{version}: {balance:?}");
        println!(
            "{version}: {} writes acknowledged over 3 restarts, {} unanswered, 0 lost",
            balance.acknowledged, balance.unanswered
        );
    }
}

#[test]
fn a_section_ends_without_the_server_forward_or_back() {
    let Some(mut world) = World::prepare(&faulty::entry("8.2.9"), "") else { return };
    faulty::import(&world, "8.2.3", "8.2.9");
    world.start_server();
    for (number, (is_killed, mood)) in
        [(true, None), (false, None), (true, Some(Mood::Forgets)), (false, Some(Mood::Ends))].into_iter().enumerate()
    {
        let case = format!("{}, {mood:?}", if is_killed { "killed" } else { "stopped" });
        let name = format!("alone-{number}");
        let instance = world.create(&name, "7.0.15", &[("save", "")]);
        dataset::load(&mut world.redis(&instance), 20_000).unwrap();
        let before = dataset::summarize(&mut world.redis(&instance)).unwrap();
        let (target, after, phase) = match mood {
            None => ("8.0", "8.0.2", "done"),
            Some(mood) => {
                faulty::set_mood(&world, &instance, mood);
                ("8.2.9", "7.0.15", "undone")
            }
        };
        world.coffer(["instance", "upgrade", &name, target]).ok();
        wait_for("the section to begin", || state(&world, &instance.id)["section"].is_object());
        if is_killed {
            world.kill_server();
        } else {
            world.signal_server(Signal::STOP);
        }
        let is_open = !state(&world, &instance.id)["section"].is_null();
        assert!(is_open, "{case}: the section was over before the server was: this test shows nothing");

        wait_for("the section to end", || state(&world, &instance.id)["section"].is_null());
        let mut connection = world.redis(&instance);
        let info = connection.ask(&["INFO", "server"]).unwrap();
        let info = String::from_utf8_lossy(info.text().unwrap()).into_owned();
        assert!(info.contains(&format!("redis_version:{after}")), "{case}: {info}");
        assert_eq!(dataset::summarize(&mut connection).unwrap(), before, "{case}");
        connection.ask(&["SET", "written", "while the server is away"]).unwrap();

        if is_killed {
            world.start_server();
        } else {
            world.signal_server(Signal::CONT);
        }
        let operation = world.wait_until_over(&instance.id);
        assert_eq!(operation["phase"], phase, "{case}: {operation:#}");
        let steps: Vec<_> = operation["steps"].as_array().unwrap().iter().map(|step| &step["name"]).collect();
        let last = if mood.is_some() { "undo prepare" } else { "open" };
        assert!(steps.contains(&&Value::from(last)), "{case}: {operation:#}");
        let shown = world.show(&instance.id);
        assert_eq!((&shown["status"], &shown["datastore"]["version"]), (&"ACTIVE".into(), &after.into()), "{case}");
        wait_for("the agent's word", || world.show(&instance.id)["running_version"] == after);
    }
}

/// Server and agent have found each other: what only the agent can answer is answered.
fn check_found(world: &World, instance: &Instance) {
    wait_for("the agent's answer", || {
        world.coffer(["instance", "upgrade", &instance.id, "8.0", "--dry-run", "-o", "json"]).code == 0
    });
}

fn wait_until_open(instance: &Instance) {
    wait_for("the engine to answer", || {
        let connection = support::resp::Connection::open(instance.address, Some(&instance.password));
        connection.is_ok_and(|mut connection| connection.ask(&["PING"]).is_ok())
    });
}
