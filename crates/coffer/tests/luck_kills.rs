//! An agent is killed in the middle of what the fault matrix (`chaos`) only strikes the begin and the end of.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use rustix::process::Signal;
use support::strike::{Moment, strike};
use support::struck::ask_upgrade;
use support::unharmed::Known;
use support::world::{World, kill, signal, wait_for};

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
