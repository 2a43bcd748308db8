//! What is stuck on a real engine: shown as that, with its two choices, each of which does what it says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::strike::{Moment, STEPS, strike};
use support::struck::ask_upgrade;
use support::unharmed::{Known, state};
use support::world::{World, kill, text, wait_for};

const KEYS: usize = 500;
/// The pause of an agent that has failed often. Whoever has something tried at once does not wait for it.
const PAUSE: Duration = Duration::from_secs(30);

/// The program of an engine, out of order until it is mended by hand.
struct Broken(PathBuf);

impl Broken {
    /// The file itself may be others' too, so another takes its place.
    fn of(world: &World, version: &str) -> Self {
        let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
        let is_it = |r: &&Value| r["Datastore"] == "redis" && (r["Version"] == version || r["Number"] == version);
        let release = list.as_array().unwrap().iter().find(is_it).unwrap_or_else(|| panic!("no {version}: {list:#}"));
        let root = world.data().join("engines/roots").join(text(&release["Digest"]).replace(':', "-"));
        let bin = root.join("usr/bin");
        fs_err::set_permissions(&bin, std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = bin.join("redis-server");
        fs_err::rename(&program, away(&program)).unwrap();
        fs_err::write(&program, "no program").unwrap();
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o644)).unwrap();
        Self(program)
    }

    fn mend(self) {
        fs_err::rename(away(&self.0), &self.0).unwrap();
    }
}

fn away(program: &Path) -> PathBuf {
    program.with_extension("away")
}

/// Upgrades an instance so that neither the new engine nor the old one starts, until its agent says that it is stuck.
fn stick(world: &mut World, known: &Known) -> [Broken; 2] {
    let id = &known.instance.id;
    let swap = STEPS.iter().position(|step| *step == "swap").unwrap();
    let mut broken = None;
    let ask = |world: &mut World| ask_upgrade(world, &known.instance, "8.0.2");
    strike(world, &known.instance, Moment::Forward(swap), ask, |world| {
        broken = Some(["7.0.15", "8.0.2"].map(|version| Broken::of(world, version)));
    });
    // The next agent tries at once and has counted what failed before it, so that nobody has to wait for the longest pause.
    wait_for("the agent to have failed often", || state(world, id)["section"]["phase"]["attempt"] == 4);
    assert_ne!(world.show(id)["status"], "ERROR", "it is not stuck yet");
    kill(world.agent_pid(id).unwrap());
    wait_for("the section to be stuck", || world.show(id)["status"] == "ERROR");
    broken.unwrap()
}

#[test]
fn a_section_that_is_stuck_is_resumed_when_its_reason_is_mended_and_is_not_given_up() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("s", "7.0.15", &[]);
    let id = &instance.id;
    let known = Known::fill(&world, &instance, KEYS);
    let broken = stick(&mut world, &known);

    let shown = world.show(id);
    let why = text(&shown["fault"]["message"]);
    println!("stuck: {why}");
    assert!(why.contains("the way back failed"), "{shown:#}");
    let told = world.coffer(["instance", "resume", "s", "--dry-run"]).ok().stdout;
    println!("{told}");
    for part in [why.as_str(), "its agent tries at once", "What it costs"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    for dry in ["--dry-run", "--yes"] {
        let refused = world.coffer(["instance", "abandon", "s", dry]);
        assert_ne!(refused.code, 0, "{refused:?}");
        for part in [why.as_str(), "in the hands of its agent", "coffer instance resume", "coffer instance delete"] {
            assert!(refused.stderr.contains(part), "{part:?} is not in {refused:?}");
        }
    }
    assert!(state(&world, id)["section"].is_object(), "nothing was given up");

    broken.into_iter().for_each(Broken::mend);
    let asked = Instant::now();
    let resumed = world.coffer(["instance", "resume", "s", "--yes", "--wait"]);
    let took = asked.elapsed();
    println!("resumed in {took:?}: {resumed:?}");
    assert!(took < PAUSE / 2, "it was not tried at once: {took:?}");
    let newest = world.operations(id).remove(0);
    assert_eq!(newest["phase"], "undone", "{newest:#}");
    known.check_unharmed(&world);
    assert!(world.events(id).iter().any(|event| event == "operation.resumed"), "{:?}", world.events(id));
}

#[test]
fn a_section_that_is_stuck_can_be_removed_as_it_says() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("s", "7.0.15", &[]);
    let known = Known::fill(&world, &instance, KEYS);
    let _broken = stick(&mut world, &known);
    let asked = world.coffer(["instance", "delete", "s", "--wait"]);
    assert_eq!(asked.code, 0, "{asked:?}");
    assert!(!world.volume(&instance.id).exists());
}

#[test]
fn a_removal_that_is_given_up_serves_as_before() {
    let Some(world) = World::start() else { return };
    let instance = world.create("s", "7.0.15", &[("appendonly", "yes")]);
    let id = &instance.id;
    let known = Known::fill(&world, &instance, KEYS);
    // Where what is removed would go first there is something that is in the way.
    let in_the_way = world.data().join("instances").join(format!(".dropped-{id}"));
    fs_err::write(&in_the_way, "").unwrap();
    world.coffer(["instance", "delete", "s"]).ok();
    let asked = Instant::now();
    wait_for("the removal to be stuck", || world.operations(id).remove(0)["phase"] == "stuck");
    println!("stuck after {:?}", asked.elapsed());
    assert_eq!(world.show(id)["status"], "ERROR");
    let told = world.coffer(["instance", "abandon", "s", "--dry-run"]).ok().stdout;
    println!("{told}");
    for part in ["delete the volume", "it serves as before", "nothing is removed", "without an append-only file"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    assert_eq!(world.operations(id).remove(0)["phase"], "stuck", "a look changes nothing");
    world.coffer(["instance", "abandon", "s", "--yes"]).ok();
    assert_eq!(world.operations(id).remove(0)["phase"], "abandoned");
    wait_for("the instance to serve", || world.show(id)["status"] == "ACTIVE");
    known.check_unharmed(&world);
    // It is free for what comes next.
    world.coffer(["instance", "restart", "s", "--wait"]).ok();
    assert_eq!(world.show(id)["fault"], Value::Null);
    known.check_unharmed(&world);
    fs_err::remove_file(&in_the_way).unwrap();
    world.coffer(["instance", "delete", "s", "--wait"]).ok();
    assert!(!world.volume(id).exists());
}
