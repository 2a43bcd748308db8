//! A data directory that somebody gives away after the checks: real servers get it back before it could stop them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use support::mariadb::{assert_same, connect, fill, read, replace, world};
use support::strike::{Moment, STEPS, strike};
use support::struck::ask_upgrade;
use support::world::{Instance, World, kill, wait_for};

const FROM: &str = "10.5.23";
const TO: &str = "10.11.19";
/// Nobody here.
const STRANGER: u32 = 54_321;

/// A world in which files can be given away.
fn begin(test: &str) -> Option<World> {
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: {test}: only root may give files away");
        return None;
    }
    world("", &[FROM, TO])
}

fn create(world: &World, name: &str) -> Instance {
    let instance = world.create(name, &format!("mariadb/{FROM}"), &[]);
    fill(&mut connect(&instance));
    instance
}

/// Data, and the configuration, by which an engine also knows who the agent is.
const ALL: [&str; 2] = ["data", "conf"];

/// Gives these parts of the volume away, as `chown -R` does.
fn give_away(world: &World, instance: &Instance, parts: &[&str]) {
    for part in parts {
        let owner = format!("{STRANGER}:{STRANGER}");
        let done = Command::new("chown").arg("-R").arg(owner).arg(world.volume(&instance.id).join(part)).status();
        assert!(done.unwrap().success());
    }
}

/// Whose what lies below is, and the directory itself.
fn owners(dir: &Path) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([fs_err::metadata(dir).unwrap().uid()]);
    for entry in fs_err::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.metadata().unwrap().is_dir() {
            true => found.extend(owners(&entry.path())),
            false => found.extend([entry.metadata().unwrap().uid()]),
        }
    }
    found
}

/// All is the engine's, and that it had to be given is told.
#[track_caller]
fn assert_given(world: &World, instance: &Instance, what: &str) {
    let volume = world.volume(&instance.id);
    let engine = fs_err::metadata(volume.join("run")).unwrap().uid();
    for part in ALL {
        assert_eq!(owners(&volume.join(part)), [engine].into(), "{what}: {part}");
    }
    wait_for("the event", || world.events(&instance.id).iter().any(|id| id == "files.given"));
}

#[test]
fn what_is_given_away_after_the_checks_costs_no_upgrade() {
    let Some(mut world) = begin("what_is_given_away_after_the_checks_costs_no_upgrade") else { return };
    for (at, step) in
        STEPS.iter().enumerate().filter(|(_, step)| ["prepare", "quiesce", "stop", "keep", "start"].contains(step))
    {
        let instance = create(&world, &format!("m-{step}"));
        let before = read(&instance);
        let ask = |world: &mut World| ask_upgrade(world, &instance, TO);
        strike(&mut world, &instance, Moment::Forward(at), ask, |world| give_away(world, &instance, &ALL));
        let newest = world.wait_until_over(&instance.id);
        assert_eq!(newest["phase"], "done", "{step}: {newest:#}");
        println!("given away at {step}: gap {} ms", newest["gap_ms"]);
        assert_same(&before, &read(&instance), step);
        assert_given(&world, &instance, step);
        world.coffer(["instance", "delete", &format!("m-{step}"), "--wait"]).ok();
    }
}

#[test]
fn what_is_given_away_on_the_way_back_keeps_no_old_engine_from_coming_back() {
    let Some(mut world) = begin("what_is_given_away_on_the_way_back") else { return };
    replace(&world, TO, "usr/bin/mariadb-upgrade", "/usr/bin/mariadb-upgrade.real \"$@\" && exit 3");
    // Before the pre-image is put back, and right before the old engine starts.
    for step in ["keep", "stop"] {
        let at = STEPS.iter().position(|s| *s == step).unwrap();
        let instance = create(&world, &format!("m-{step}"));
        let before = read(&instance);
        let ask = |world: &mut World| ask_upgrade(world, &instance, TO);
        strike(&mut world, &instance, Moment::Backward(at), ask, |world| give_away(world, &instance, &ALL));
        let newest = world.wait_until_over(&instance.id);
        assert_eq!(newest["phase"], "undone", "{step}: {newest:#}");
        println!("given away before the undo of {step}: {}", newest["cause"]["message"]);
        assert_same(&before, &read(&instance), step);
        assert_given(&world, &instance, step);
        world.coffer(["instance", "delete", &format!("m-{step}"), "--wait"]).ok();
    }
}

#[test]
fn a_restart_gives_back_what_the_checks_would_refuse_and_so_does_the_start_after_a_death() {
    let Some(world) = begin("a_restart_gives_back_what_the_checks_would_refuse") else { return };
    let instance = create(&world, "m");
    let before = read(&instance);
    let upgrade = || world.coffer(["instance", "upgrade", "m", TO, "--wait"]);
    give_away(&world, &instance, &["data"]);
    let refused = upgrade();
    assert!(refused.stderr.contains("restart the instance"), "{refused:?}");
    give_away(&world, &instance, &ALL);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    assert_same(&before, &read(&instance), "restart");
    assert_given(&world, &instance, "restart");

    give_away(&world, &instance, &ALL);
    let engine = world.engine_pid(&instance.id).unwrap();
    kill(engine);
    wait_for("the next engine", || {
        world.engine_pid(&instance.id).is_some_and(|pid| pid != engine)
            && world.coffer(["instance", "check", "m", TO]).code == 0
    });
    assert_same(&before, &read(&instance), "death");
    assert_given(&world, &instance, "death");
    wait_for("both events", || world.events(&instance.id).iter().filter(|id| *id == "files.given").count() >= 2);
    upgrade().ok();
    assert_same(&before, &read(&instance), "upgrade");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
