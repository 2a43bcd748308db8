//! Agent, engine and server are killed at every step of an upgrade, singly and all at once, forward and on the way back.
//! Whoever dies, and whenever: the upgrade ends wholly new or wholly old, clients lose nothing that was acknowledged, and
//! the next upgrade works.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use rustix::process::Signal;
use support::faulty::{self, Mood};
use support::strike::{Moment, STEPS, strike};
use support::struck::ask_upgrade;
use support::unharmed::Known;
use support::world::{Instance, World, kill, signal, wait_for};
use support::writers::{Writers, forget_written};

/// An engine that forgets what it is given.
const FAULTY: &str = "8.2.9";

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Agent,
    Engine,
    Server,
    All,
}

/// Asks for an upgrade, and kills when the moment has come. Tells what the agent had written down then.
fn kill_at(world: &mut World, instance: &Instance, to: &str, victim: Victim, moment: Moment) -> String {
    let ask = |world: &mut World| ask_upgrade(world, instance, to);
    let struck = strike(world, instance, moment, ask, |world| {
        let (agent, engine) = (world.agent_pid(&instance.id), world.engine_pid(&instance.id));
        if matches!(victim, Victim::Agent | Victim::All) {
            kill(agent.expect("an agent"));
        }
        if matches!(victim, Victim::Engine | Victim::All) {
            engine.into_iter().for_each(kill);
        }
        if matches!(victim, Victim::Server | Victim::All) {
            world.kill_server();
        }
    });
    world.start_server();
    struck
}

/// One upgrade of a new instance under writers, one strike, and everything that has to be true afterwards.
fn check(world: &mut World, name: &str, settings: &[(&str, &str)], to: &str, victim: Victim, moment: Moment) {
    let instance = world.create(name, "7.0.15", settings);
    let known = Known::fill(world, &instance, 2000);
    if to == FAULTY {
        faulty::set_mood(world, &instance, Mood::Forgets);
    }
    let writers = Writers::start(&instance);
    writers.wait_for_more(100);
    let struck = kill_at(world, &instance, to, victim, moment);
    let newest = world.wait_until_over(&instance.id);
    writers.wait_for_more(100);
    let balance = writers.stop();
    let is_done = newest["phase"] == "done";
    println!("{victim:?} at {moment:?}: struck at {struck}; {}: {}", newest["phase"], newest["cause"]);
    let lost = &balance.lost;
    assert!(lost.is_empty(), "{victim:?} at {moment:?}: of {} writes are lost: {lost:#?}", balance.acknowledged);

    // Whoever can go on goes on: only the death of an engine is a reason to go back, and the target's own fault.
    let may_be_undone = to == FAULTY || matches!(victim, Victim::Engine | Victim::All);
    assert!(is_done || may_be_undone, "{victim:?} at {moment:?}: {newest:#}");
    assert!(!(is_done && to == FAULTY), "{newest:#}");
    forget_written(&mut world.redis(&instance));
    if is_done {
        known.check_upgraded(world, "8.0.2");
    } else {
        let cause = newest["cause"]["message"].as_str().unwrap_or_default();
        assert!(!cause.is_empty(), "nobody is told why: {newest:#}");
        assert_ne!(newest["cause"]["hint"], "", "nobody is told what to do: {newest:#}");
        let inside = world.data().to_str().unwrap();
        assert!(!cause.contains(inside), "a tenant is told what is inside the host: {cause}");
        assert!(world.show(&instance.id)["fault"]["message"].as_str().is_some_and(|fault| fault.contains(cause)));
        known.check_unharmed(world);
        known.check_upgrades(world, "8.0.2");
    }
    world.coffer(["instance", "delete", name]).ok();
}

/// How an instance keeps its data. What an engine alone keeps of what it acknowledged when it is killed is its promise and
/// not Coffer's, so that an engine without an append-only file is killed only where Coffer has given it one.
fn settings(victim: Victim, moment: Moment, number: usize) -> &'static [(&'static str, &'static str)] {
    let engine_dies = matches!(victim, Victim::Engine | Victim::All);
    let before_it_is_kept = engine_dies && matches!(moment, Moment::Accepted | Moment::Forward(0));
    match number % 3 {
        1 if !before_it_is_kept => &[],
        2 if !before_it_is_kept => &[("save", "")],
        _ => &[("appendonly", "yes")],
    }
}

fn check_all(victim: Victim, moments: impl IntoIterator<Item = Moment>) {
    let Some(mut world) = World::start() else { return };
    for (number, moment) in moments.into_iter().enumerate() {
        check(&mut world, &format!("struck-{number}"), settings(victim, moment, number), "8.0.2", victim, moment);
    }
}

fn all_steps() -> impl Iterator<Item = Moment> {
    (0..STEPS.len()).map(Moment::Forward).chain([Moment::Starting])
}

#[test]
fn an_agent_that_is_killed_at_any_step_is_followed_by_one_that_goes_on() {
    check_all(Victim::Agent, all_steps());
}

#[test]
fn an_engine_that_is_killed_at_any_step_has_lost_nothing() {
    check_all(Victim::Engine, all_steps());
}

#[test]
fn all_at_once_killed_at_any_step_lose_nothing() {
    check_all(Victim::All, all_steps());
}

#[test]
fn a_server_that_is_killed_at_any_moment_finishes_what_it_accepted() {
    check_all(Victim::Server, [Moment::Accepted, Moment::Forward(0), Moment::Forward(3), Moment::Over]);
}

#[test]
fn whoever_is_killed_on_the_way_back_the_old_engine_comes_back() {
    let Some(mut world) = World::prepare(&faulty::entry(FAULTY), "") else { return };
    faulty::import(&world, "8.2.3", FAULTY);
    world.start_server();
    // Prove is the step that fails.
    for step in (0..=6).rev() {
        for victim in [Victim::Agent, Victim::All] {
            let moment = Moment::Backward(step);
            let name = format!("struck-{step}-{victim:?}");
            check(&mut world, &name, settings(victim, moment, step), FAULTY, victim, moment);
        }
    }
}

/// The agent is killed between telling the engine to end and seeing its end, and the next one finds it going.
#[test]
fn an_engine_that_was_told_to_end_by_an_agent_that_was_killed_is_upgraded() {
    const STOP: usize = 2;
    let Some(mut world) = World::start() else { return };
    for (from, to) in [("5.0.6", "6.0.16"), ("7.0.15", "8.0.2")] {
        let name = format!("told-{from}");
        let instance = world.create(&name, from, &[("appendonly", "yes")]);
        let known = Known::fill(&world, &instance, 2000);
        let mut going = None;
        let ask = |world: &mut World| ask_upgrade(world, &instance, to);
        strike(&mut world, &instance, Moment::Forward(STOP), ask, |world| {
            going = world.engine_pid(&instance.id);
            going.inspect(|engine| signal(*engine, Signal::STOP));
            kill(world.agent_pid(&instance.id).expect("an agent"));
        });
        // The kernel has it wait in line for an engine that is held, and tells it of its end as soon as it is let go.
        let engine = going.expect("the agent writes down that it stops the engine before it does");
        let before = connections(engine);
        signal(engine, Signal::TERM);
        wait_for("the next agent to connect", || connections(engine) > before);
        signal(engine, Signal::CONT);
        let newest = world.wait_until_over(&instance.id);
        assert_eq!(newest["phase"], "done", "{from}: {newest:#}");
        known.check_upgraded(&world, to);
    }
}

/// How many have the engine's socket open, in the line too, and the engine itself.
fn connections(engine: u32) -> usize {
    let sockets = std::fs::read_to_string(format!("/proc/{engine}/net/unix")).expect("it is there");
    sockets.lines().filter(|line| line.ends_with("/run/redis.sock")).count()
}
