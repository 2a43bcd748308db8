//! Nothing that was acknowledged is lost: writers write all the time, over upgrades that go well and upgrades that fail
//! after the new engine was started, however the data is kept. Fifty of each, by two tests that may run side by side.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::faulty::{self, Mood};
use support::world::World;
use support::writers::{Balance, Writers};

/// Of each test; the two together make fifty upgrades and fifty that fail.
const INSTANCES: usize = 5;
/// The versions that each instance climbs: five upgrades, and before each one that fails.
const LADDER: [&str; 6] = ["5.0.6", "6.0.16", "6.2.14", "7.0.15", "8.0", "8.2.3"];
/// The one that fails: an 8.2.3 in all but its number, and in that it does not keep what it is given.
const FAULTY: &str = "8.2.9";

/// How many writes are acknowledged between two operations, at least.
const BETWEEN: u64 = 300;

#[test]
fn no_acknowledged_write_is_lost_where_snapshots_are_kept_or_nothing() {
    write_over_upgrades(&[&[("save", "")], &[]]);
}

#[test]
fn no_acknowledged_write_is_lost_where_writes_are_appended() {
    write_over_upgrades(&[&[("appendonly", "yes")], &[("appendonly", "yes"), ("save", "")]]);
}

/// Instances that keep their data in one of these ways, in turn, climb the ladder while they are written to.
fn write_over_upgrades(ways: &[&[(&str, &str)]]) {
    let Some(mut world) = World::prepare(&faulty::entry(FAULTY), "") else { return };
    faulty::import(&world, "8.2.3", FAULTY);
    world.start_server();
    let (mut upgrades, mut failures, mut total) = (0_u32, 0_u32, Balance::default());
    let mut moods = Mood::ALL.into_iter().cycle();
    for number in 0..INSTANCES {
        let keeping = ways[number % ways.len()];
        let name = format!("written-{number}");
        let instance = world.create(&name, LADDER[0], keeping);
        let writers = Writers::start(&instance);
        for to in &LADDER[1..] {
            writers.wait_for_more(BETWEEN);
            let mood = moods.next().expect("one of them");
            faulty::set_mood(&world, &instance, mood);
            let failed = world.coffer(["instance", "upgrade", &name, FAULTY, "--wait"]);
            assert_eq!(failed.code, 6, "{mood:?}: {failed:?}");
            let newest = &world.operations(&instance.id)[0];
            let steps = newest["steps"].to_string();
            assert!(steps.contains("undo start"), "it failed before the new engine was started: {newest:#}");
            failures += 1;
            writers.wait_for_more(BETWEEN);
            world.coffer(["instance", "upgrade", &name, to, "--wait"]).ok();
            upgrades += 1;
        }
        writers.wait_for_more(BETWEEN);
        let balance = writers.stop();
        println!("{name}, kept by {keeping:?}: {} acknowledged, lost {:?}", balance.acknowledged, balance.lost);
        total.add(balance);
        world.coffer(["instance", "delete", &name, "--wait"]).ok();
    }
    println!(
        "{upgrades} upgrades, {failures} forced failures, {} writes acknowledged, {} unanswered, {} lost; errors {:?}",
        total.acknowledged,
        total.unanswered,
        total.lost.len(),
        total.errors
    );
    assert!(total.lost.is_empty(), "{:#?}", total.lost);
}
