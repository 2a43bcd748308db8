//! The order to end that is lost on its way to a real MariaDB, or whose answer is: the upgrade goes on either way.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{Writers, agent, assert_same, connect, fill, read, world};
use support::strike::{Moment, strike};
use support::struck::ask_upgrade;
use support::world::{Instance, World, wait_for};

const FROM: &str = "10.5.23";
const TO: &str = "10.11.19";
/// When writes wait, and nobody has told the engine to end yet.
const STOP: Moment = Moment::Forward(2);
/// An upgrade in the stop of which something happens to the connection over which the engine is told to end; the agent says
/// this then, where it has to say something.
fn check(said: Option<&str>, blow: impl FnOnce(&World, &Instance)) {
    let Some(mut world) = world("", &[FROM, TO]) else { return };
    let instance = world.create("m", &format!("mariadb/{FROM}"), &[]);
    fill(&mut connect(&instance));
    let before = read(&instance);
    let writers = Writers::start(&instance);
    writers.wait_for_more();
    let ask = |world: &mut World| ask_upgrade(world, &instance, TO);
    strike(&mut world, &instance, STOP, ask, |world| blow(world, &instance));
    let newest = world.wait_until_over(&instance.id);
    assert_eq!(newest["phase"], "done", "{newest:#}");
    println!("gap {} ms; {:#}", newest["gap_ms"], newest["steps"]);
    if let Some(words) = said {
        let log = fs_err::read_to_string(world.volume(&instance.id).join("agent/agent.log")).unwrap();
        let all = format!("{log}{}", newest["steps"]);
        assert!(all.contains(words), "{all}");
    }
    writers.wait_for_more();
    writers.stop(&instance, "the order was lost");
    connect(&instance).run("DROP TABLE shop.log");
    assert_same(&before, &read(&instance), "upgrade");
    assert_eq!(world.engines_on(&instance.id).len(), 1);
    assert!(!world.events(&instance.id).iter().any(|id| id == "engine.died"));
}

#[test]
fn an_engine_that_never_heard_that_it_is_to_end_is_told_again() {
    check(Some("it may not have heard that it is to end"), |world, instance| {
        let mut sql = agent(world, instance);
        let others = "SELECT id FROM information_schema.processlist WHERE user = 'coffer' AND id <> CONNECTION_ID()";
        let lost = sql.ask(others).unwrap();
        assert!(!lost.is_empty(), "the agent has a connection over which writes wait");
        for id in lost {
            sql.run(&format!("KILL CONNECTION {id}"));
        }
        wait_for("the agent's connection to be gone", || sql.ask(others).unwrap().is_empty());
    });
}

#[test]
fn an_engine_that_hangs_up_because_it_ends_already_is_waited_for() {
    // How far it has come with that when the agent looks, and so what the agent says, is not the test's: it may have ended.
    check(None, |world, instance| {
        let _ = agent(world, instance).ask("SHUTDOWN");
    });
}
