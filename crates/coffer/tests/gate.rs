//! The port that never closes: a client comes every millisecond, and whatever happens to engine, agent and keeper, nobody is
//! refused, nobody is cut, nobody sees an engine that loads, and nobody gets a wrong answer.
//!
//! `COFFER_ROUNDS` says how often each thing is done, 2 unless given; `COFFER_MEGABYTES` how much the upgraded hold, none unless
//! given.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::{Duration, Instant};

use support::faulty::{self, Mood};
use support::load;
use support::resp::Connection;
use support::strike::{Moment, STEPS, strike};
use support::struck::ask_upgrade;
use support::visitors::{Tally, Visitors};
use support::world::{Instance, World, kill, wait_for};

/// Visitors who have to be served between two events.
const SOME: u64 = 100;
/// An engine that fails when it gets to see data.
const FAULTY: &str = "8.2.9";

fn rounds() -> usize {
    given("COFFER_ROUNDS").unwrap_or(2)
}

fn given(variable: &str) -> Option<usize> {
    Some(std::env::var(variable).ok()?.parse().expect("a number"))
}

/// Fills it with as much as was asked for.
fn fill(world: &World, instance: &Instance) {
    let mut connection = world.redis(instance);
    load::fill(&mut connection, given("COFFER_MEGABYTES").unwrap_or(0)).unwrap();
    load::wait_for_rest(&mut connection).unwrap();
}

fn told(level: &str, what: &str, tally: &Tally) {
    println!("{level:8} {what:44} {tally}");
}

/// Lets visitors come while something is done to the instance. What it gives are the times at which engines were killed.
fn visited(instance: &Instance, act: impl FnOnce() -> Vec<(Instant, Instant)>) -> Tally {
    let visitors = Visitors::start(instance.address, &instance.password);
    visitors.wait_for_more(SOME);
    let killed = act();
    visitors.wait_for_more(SOME);
    visitors.stop(&killed)
}

fn gate(world: &World, instance: &Instance) -> (String, String) {
    let gate = world.show(&instance.id)["gate"].clone();
    let text = |name: &str| gate[name].as_str().unwrap_or_default().to_owned();
    (text("level"), text("state"))
}

fn check_level(world: &World, instance: &Instance, level: &str) {
    wait_for("the gate to be told", || gate(world, instance).0 == level);
}

#[test]
fn nobody_is_turned_away_over_upgrades_and_restarts() {
    let Some(world) = World::start() else { return };
    for round in 0..rounds() {
        for ladder in [&["6.0.16", "7.0.15", "8.0"][..], &["valkey/8.1", "valkey/9.1"]] {
            let name = format!("visited-{round}-{}", ladder.len());
            let instance = world.create_of(["4", "10"], &name, ladder[0], &[]);
            check_level(&world, &instance, "steered");
            fill(&world, &instance);
            for pair in ladder.windows(2) {
                let tally = visited(&instance, || {
                    world.coffer(["instance", "upgrade", &name, pair[1], "--wait"]).ok();
                    Vec::new()
                });
                told("steered", &format!("upgrade {} to {}", pair[0], pair[1]), &tally);
                tally.assert_all_served("upgrade");
                let tally = visited(&instance, || {
                    world.coffer(["instance", "restart", &name, "--wait"]).ok();
                    Vec::new()
                });
                told("steered", &format!("restart of {}", pair[1]), &tally);
                tally.assert_all_served("restart");
            }
            world.coffer(["instance", "delete", &name, "--wait"]).ok();
        }
    }
}

#[test]
fn nobody_is_turned_away_when_an_upgrade_fails_and_the_old_engine_comes_back() {
    let Some(mut world) = World::prepare(&faulty::entry(FAULTY), "") else { return };
    faulty::import(&world, "8.2.3", FAULTY);
    world.start_server();
    for version in ["6.0.16", "7.0.15", "8.0"] {
        let name = format!("fails-{version}");
        let instance = world.create(&name, version, &[]);
        for _ in 0..rounds() {
            for mood in Mood::ALL {
                faulty::set_mood(&world, &instance, mood);
                let tally = visited(&instance, || {
                    let failed = world.coffer(["instance", "upgrade", &name, FAULTY, "--wait"]);
                    assert_eq!(failed.code, 6, "{failed:?}");
                    Vec::new()
                });
                told("steered", &format!("{version}: target {mood:?}, and back"), &tally);
                tally.assert_all_served("failed upgrade");
            }
        }
    }
}

#[test]
fn nobody_is_turned_away_when_engine_agent_or_keeper_is_killed() {
    let Some(world) = World::start() else { return };
    for version in ["6.0.16", "8.0", "valkey/9.1"] {
        let name = format!("killed-{}", version.replace('/', "-"));
        let instance = world.create(&name, version, &[("appendonly", "yes")]);
        for _ in 0..rounds() {
            for victims in [
                &["engine"][..],
                &["agent"],
                &["keeper"],
                &["agent", "keeper"],
                &["agent", "engine"],
                &["keeper", "engine"],
            ] {
                let tally = visited(&instance, || kill_all(&world, &instance, victims));
                told("steered", &format!("{version}: kill -9 {}", victims.join(" and ")), &tally);
                tally.assert_all_served(&victims.join(" and "));
            }
        }
        // With everything dead the port is closed. It comes back, and with it the gate.
        let tally = visited(&instance, || kill_all(&world, &instance, &["agent", "keeper", "engine"]));
        told("steered", &format!("{version}: kill -9 of all"), &tally);
        let tally = visited(&instance, || kill_all(&world, &instance, &["engine"]));
        tally.assert_all_served("after all were killed");
    }
}

/// Kills an engine. When this returns it serves nobody any more; until then it takes along who gets to it.
fn kill_and_wait(engine: u32) {
    use rustix::event::{PollFd, PollFlags, poll};
    let pid = rustix::process::Pid::from_raw(engine.cast_signed()).unwrap();
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    kill(engine);
    poll(&mut [PollFd::new(&process, PollFlags::IN)], None).unwrap();
}

/// Kills them and waits until all are there again.
fn kill_all(world: &World, instance: &Instance, victims: &[&str]) -> Vec<(Instant, Instant)> {
    let (agent, keeper, engine) =
        (world.agent_pid(&instance.id), world.keeper_pid(&instance.id), world.engine_pid(&instance.id));
    let mut killed = Vec::new();
    for victim in victims {
        let pid = match *victim {
            "agent" => agent,
            "keeper" => keeper,
            _ => engine,
        };
        let pid = pid.unwrap_or_else(|| panic!("there is no {victim}"));
        let from = Instant::now();
        if *victim == "engine" {
            kill_and_wait(pid);
            killed.push((from, Instant::now()));
        } else {
            kill(pid);
        }
    }
    for (victim, old) in [("agent", agent), ("keeper", keeper), ("engine", engine)] {
        let now = || match victim {
            "agent" => world.agent_pid(&instance.id),
            "keeper" => world.keeper_pid(&instance.id),
            _ => world.engine_pid(&instance.id),
        };
        if victims.contains(&victim) {
            wait_for(victim, || now().is_some_and(|pid| Some(pid) != old));
        }
    }
    wait_for("the gate to be open", || gate(world, instance).1 == "open");
    killed
}

#[test]
fn nobody_is_turned_away_when_agent_or_keeper_is_killed_in_the_middle_of_an_upgrade() {
    let Some(mut world) = World::start() else { return };
    for victims in [&["agent"][..], &["keeper"], &["agent", "keeper"]] {
        for (step, name_of_step) in STEPS.iter().enumerate().skip(1) {
            // With both dead while no new engine is there, nobody has the line: who waited in it is cut.
            let nobody_has_the_line = victims.len() == 2 && (2..=5).contains(&step);
            let name = format!("struck-{}-{}-{step}", victims[0], victims.len());
            let instance = world.create(&name, "6.0.16", &[]);
            for to in ["7.0.15", "8.0"] {
                let visitors = Visitors::start(instance.address, &instance.password);
                visitors.wait_for_more(SOME);
                let ask = |world: &mut World| ask_upgrade(world, &instance, to);
                strike(&mut world, &instance, Moment::Forward(step), ask, |world| {
                    let pids = [("agent", world.agent_pid(&instance.id)), ("keeper", world.keeper_pid(&instance.id))];
                    for (_, pid) in pids.into_iter().filter(|(name, _)| victims.contains(name)) {
                        kill(pid.expect("it is there"));
                    }
                });
                let newest = world.wait_until_over(&instance.id);
                assert_eq!(newest["phase"], "done", "{newest:#}");
                visitors.wait_for_more(SOME);
                let tally = visitors.stop(&[]);
                told("steered", &format!("to {to}: {} killed in {name_of_step}", victims.join(" and ")), &tally);
                assert!(tally.loading == 0 && tally.wrong.is_empty(), "{tally:?}");
                if !nobody_has_the_line {
                    tally.assert_all_served(name_of_step);
                }
            }
            world.coffer(["instance", "delete", &name, "--wait"]).ok();
        }
    }
}

#[test]
fn who_waits_for_an_engine_that_does_not_come_is_told_so_in_time() {
    const HOLD: Duration = Duration::from_secs(2);
    let Some(world) = World::start_with("", &format!("hold_seconds = {}\n", HOLD.as_secs())) else { return };
    let instance = world.create("crashes", "8.0", &[("appendonly", "yes")]);
    let manifest = world.volume(&instance.id).join("data/appendonlydir/appendonly.aof.manifest");
    let sound = fs_err::read(&manifest).unwrap();
    let visitors = Visitors::start(instance.address, &instance.password);
    visitors.wait_for_more(SOME);
    fs_err::write(&manifest, "an engine ends at once that is to read this").unwrap();
    kill_and_wait(world.engine_pid(&instance.id).unwrap());
    wait_for("the gate to refuse", || gate(&world, &instance).1 == "refusing");
    let came = Instant::now();
    assert!(Connection::open(instance.address, Some(&instance.password)).is_err());
    assert!(came.elapsed() < HOLD, "it was told only after {:?}", came.elapsed());
    wait_for("the event", || world.events(&instance.id).iter().any(|id| id == "gate.changed"));
    fs_err::write(&manifest, sound).unwrap();
    wait_for("the gate to be open", || gate(&world, &instance).1 == "open");
    visitors.wait_for_more(SOME);
    let tally = visitors.stop(&[]);
    told("steered", "an engine that does not come for a while", &tally);
    assert!(tally.loading == 0 && tally.wrong.is_empty(), "{tally:?}");
    // Whoever was the first to wait has waited as long as was said, and some time for this machine.
    assert!(tally.longest_in_vain < HOLD + Duration::from_secs(5), "{tally:?}");
}

#[test]
fn a_host_that_allows_less_gets_the_next_level_down_and_is_told_so() {
    for level in ["shared", "own"] {
        let Some(world) = World::start_with("", &format!("gate = \"{level}\"\n")) else { return };
        for (from, to) in [("6.0.16", "7.0.15"), ("7.0.15", "8.0"), ("valkey/8.1", "valkey/9.1")] {
            let name = format!("{level}-{}", from.replace('/', "-"));
            let instance = world.create(&name, from, &[("appendonly", "yes")]);
            check_level(&world, &instance, level);
            assert!(world.show(&instance.id)["gate"]["why"].as_str().is_some_and(|why| why.contains("configuration")));
            for round in 0..=rounds() {
                let to = if round == 0 { to } else { from };
                let what = if round == 0 { format!("upgrade {from} to {to}") } else { format!("restart after {from}") };
                let tally = visited(&instance, || {
                    if round == 0 {
                        world.coffer(["instance", "upgrade", &name, to, "--wait"]).ok();
                    } else {
                        world.coffer(["instance", "restart", &name, "--wait"]).ok();
                    }
                    Vec::new()
                });
                told(level, &what, &tally);
                assert!(tally.wrong.is_empty(), "{tally:?}");
                // An engine before 7.0 cannot close its port: at this level it is cut in the middle of what it has.
                let may_cut = from == "6.0.16" && round == 0;
                if level == "shared" {
                    assert_eq!(tally.refused, 0, "{what}: {tally:?}");
                    assert!(may_cut || tally.reset == 0, "{what}: {tally:?}");
                    assert_eq!(tally.loading, 0, "{what}: {tally:?}");
                }
            }
            let tally = visited(&instance, || {
                let engine = world.engine_pid(&instance.id);
                let from = Instant::now();
                kill_and_wait(engine.unwrap());
                let killed = (from, Instant::now());
                wait_for("another engine", || world.engine_pid(&instance.id).is_some_and(|pid| Some(pid) != engine));
                vec![killed]
            });
            told(level, &format!("kill -9 of the engine after {from}"), &tally);
            if level == "shared" {
                assert_eq!((tally.refused, tally.reset - tally.cut), (0, 0), "{tally:?}");
            }
        }
    }
}
