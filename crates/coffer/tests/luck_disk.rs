//! The disk fills up in the middle of an upgrade. Nothing is lost, whoever asks is told why, the old engine serves as soon as
//! it can, and with room again everything works again. And what a full disk and a power cut leave in files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::io::Write as _;

use rustix::process::Signal;
use support::dataset;
use support::leftovers::has_ended;
use support::resp::Connection;
use support::strike::{Moment, STEPS, strike};
use support::struck::ask_upgrade;
use support::unharmed::{Known, check_fault};
use support::world::{World, kill, signal, wait_for};
use support::writers::{Writers, forget_written};

/// Enough for what the checks want to be free for one instance, and no more than a test should take.
const DISK_MIB: u32 = 160;

/// Takes all the room there is on the disk of the instances.
fn fill(world: &World) {
    let mut ballast = fs_err::File::create(world.data().join("instances/ballast")).unwrap();
    for size in [1 << 20, 4096, 1] {
        while ballast.write_all(&vec![0xc0; size]).is_ok() {}
    }
}

fn make_room(world: &World) {
    fs_err::remove_file(world.data().join("instances/ballast")).unwrap();
}

/// More than the agent holds back for its own journal: what is written anew does not fit in there.
const KEYS: usize = 15_000;

#[test]
fn a_disk_that_fills_up_during_an_upgrade_loses_nothing() {
    let Some(mut world) = World::prepare("", "") else { return };
    if !world.ensure_disk(DISK_MIB) {
        println!("NOT RUN: a_disk_that_fills_up_during_an_upgrade_loses_nothing: only root may mount a small disk");
        return;
    }
    world.start_server();
    for step in 0..STEPS.len() {
        check(&mut world, step, true);
    }
    // Where not even the journal can be written any more, nothing can be decided until there is room.
    for step in [2, 3, 5] {
        check(&mut world, step, false);
    }
}

fn check(world: &mut World, step: usize, has_reserve: bool) {
    let name = format!("{}-{has_reserve}", STEPS[step]);
    let settings: &[_] = if step.is_multiple_of(2) { &[] } else { &[("appendonly", "yes")] };
    let instance = world.create(&name, "7.0.15", settings);
    let known = Known::fill(world, &instance, KEYS);
    let writers = Writers::start(&instance);
    writers.wait_for_more(100);
    let volume = world.volume(&instance.id);
    let ask = |world: &mut World| ask_upgrade(world, &instance, "8.0.2");
    let struck = strike(world, &instance, Moment::Forward(step), ask, |world| {
        if !has_reserve {
            fs_err::remove_file(volume.join("agent/reserve")).unwrap();
        }
        fill(world);
    });
    if !has_reserve {
        wait_for("the agent to say that there is no room", || {
            fs_err::read_to_string(volume.join("agent/agent.log")).is_ok_and(|log| log.contains("No space left"))
        });
        make_room(world);
    }
    let newest = world.wait_until_over(&instance.id);
    println!("full at {name}: struck at {struck}; {}: {}", newest["phase"], newest["cause"]);
    let is_done = newest["phase"] == "done";
    // Before there is more room: an engine that cannot write answers all the same.
    assert!(dataset::summarize(&mut world.redis(&instance)).unwrap().keys() >= KEYS);
    if is_done {
        assert_ne!(STEPS[step], "prepare", "there was room after all: this shows nothing");
    } else {
        assert_ne!(newest["cause"]["hint"], "", "{name}: nobody is told what to do");
        assert!(!newest["cause"].to_string().contains(world.data().to_str().unwrap()), "{newest:#}");
        check_fault(world, &instance.id, &["room"]);
    }
    if has_reserve {
        make_room(world);
    }
    wait_for("writes to go on", || world.redis(&instance).ask(&["SET", "room", "again"]).is_ok());
    world.redis(&instance).ask(&["DEL", "room"]).unwrap();
    writers.wait_for_more(100);
    let balance = writers.stop();
    assert!(balance.lost.is_empty(), "{name}: of {} are lost: {:#?}", balance.acknowledged, balance.lost);
    forget_written(&mut world.redis(&instance));
    if is_done {
        known.check_upgraded(world, "8.0.2");
    } else {
        known.check_unharmed(world);
        known.check_upgrades(world, "8.0.2");
    }
    world.coffer(["instance", "delete", &name, "--wait"]).ok();
}

/// With zeros in its append-only file no engine would ever start again.
#[test]
fn zeros_that_a_full_disk_or_a_power_cut_left_keep_no_engine_from_starting() {
    let Some(world) = World::start() else { return };
    for version in ["7.0.15", "8.0.2"] {
        let instance = world.create(&format!("zeros-{version}"), version, &[("appendonly", "yes")]);
        let known = Known::fill(&world, &instance, 2000);
        // The agent sees the end of the engine when the file is as it is to be.
        let (agent, engine) = (world.agent_pid(&instance.id).unwrap(), world.engine_pid(&instance.id).unwrap());
        signal(agent, Signal::STOP);
        kill(engine);
        wait_for("the engine to end", || has_ended(engine));
        let appended = world.volume(&instance.id).join("data/appendonlydir");
        let mut increments: Vec<_> = fs_err::read_dir(appended).unwrap().map(|entry| entry.unwrap().path()).collect();
        increments.retain(|path| path.to_str().unwrap().ends_with(".incr.aof"));
        let mut file = fs_err::OpenOptions::new().append(true).open(increments.iter().max().unwrap()).unwrap();
        let behind = "*3\r\n$3\r\nSET\r\n$6\r\nbehind\r\n$4\r\nhole\r\n";
        file.write_all(&[&[0; 4000], behind.as_bytes(), &[0; 5000]].concat()).unwrap();
        signal(agent, Signal::CONT);

        wait_for("the event", || world.events(&instance.id).iter().any(|id| id == "data.mended"));
        wait_for("the engine to serve", || Connection::open(instance.address, Some(&instance.password)).is_ok());
        let mut redis = world.redis(&instance);
        assert_eq!(redis.ask(&["GET", "behind"]).unwrap().text(), Some(&b"hole"[..]), "{version}");
        redis.ask(&["DEL", "behind"]).unwrap();
        known.check_unharmed(&world);
    }
}
