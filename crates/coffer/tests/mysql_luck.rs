//! Bad luck with MySQL on real servers: whoever dies, whatever is in the way, an upgrade ends wholly new or wholly old, and
//! nothing that was acknowledged is lost. The older version runs in an emulator: each of these takes minutes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{Writers, connect};
use support::mysql::{NEW, OLD, SLOW, create, read, replace_program, with_images, world};
use support::struck::{AGENT, ALL, Blow, ENGINE, SERVER, Way, a_long_transaction, small_world};

/// Enough for an instance, its pre-image and the trial of the target.
const DISK_MIB: u32 = 2000;

fn way(to: &str) -> Way<'_> {
    Way { create: |world, name| create(world, name, OLD), read, to, one_in: 4 }
}

fn struck(blow: Blow) {
    let Some((mut world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    way(&new).struck(&mut world, blow);
}

#[test]
fn an_engine_that_is_killed_at_a_step_costs_the_upgrade_at_most() {
    struck(ENGINE);
}

#[test]
fn an_agent_that_is_killed_at_a_step_is_followed_by_one_that_goes_on() {
    struck(AGENT);
}

#[test]
fn a_server_that_is_killed_at_a_step_is_not_missed() {
    struck(SERVER);
}

#[test]
fn all_of_them_killed_at_a_step_cost_the_upgrade_at_most() {
    struck(ALL);
}

#[test]
fn a_disk_that_fills_up_costs_the_upgrade_at_most() {
    let Some((mut world, new)) = small_world(DISK_MIB, SLOW).and_then(|world| with_images(world, &[OLD, NEW])) else {
        return;
    };
    way(&new).on_a_full_disk(&mut world, &["keep", "start"]);
}

#[test]
fn a_configuration_that_others_may_write_and_a_crash_are_mended_by_the_next_start() {
    let Some((world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    way(&new).with_a_file_that_others_may_write(&world, "m");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn a_transaction_that_stays_open_is_named_and_nothing_is_stopped() {
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance = world.create("m", &format!("mysql/{new}"), &[]);
    a_long_transaction(&world, &instance, "m");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

/// As many upgrades, and as many that fail, as `COFFER_ROUNDS` says, 1 where it says nothing.
#[test]
fn no_acknowledged_write_is_lost_over_upgrades_and_upgrades_that_fail() {
    let rounds: usize = std::env::var("COFFER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let Some((world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    for round in 1..=rounds {
        let instance = world.create_of(["3", "1"], "w", &format!("mysql/{OLD}"), &[]);
        connect(&instance).run("CREATE DATABASE shop");
        let writers = Writers::start(&instance);
        writers.wait_for_more();
        replace_program(&world, "$real \"$@\" & /usr/sbin/busybox sleep 2; kill -9 $!; exit 3");
        assert_eq!(world.coffer(["instance", "upgrade", "w", &new, "--wait"]).code, 6);
        writers.wait_for_more();
        replace_program(&world, "exec $real \"$@\"");
        world.coffer(["instance", "upgrade", "w", &new, "--wait"]).ok();
        writers.wait_for_more();
        writers.stop(&instance, &format!("round {round}"));
        world.coffer(["instance", "delete", "w", "--wait"]).ok();
    }
}

/// As many tables as `COFFER_TABLES` says, 1,000 where it says nothing.
#[test]
fn of_many_tables_the_gap_is_a_few_seconds() {
    let tables: usize = std::env::var("COFFER_TABLES").ok().and_then(|tables| tables.parse().ok()).unwrap_or(1000);
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance =
        world.create_of(["3", "4"], "m", &format!("mysql/{new}"), &[("innodb_flush_log_at_trx_commit", "0")]);
    let mut sql = connect(&instance);
    for at in 0..tables / 100 {
        sql.run(&format!("CREATE DATABASE d{at}"));
        for n in 0..100 {
            sql.run(&format!("CREATE TABLE d{at}.t{n} (a INT PRIMARY KEY, b VARCHAR(20)) ENGINE=MyISAM"));
        }
        sql.run(&format!("INSERT INTO d{at}.t1 VALUES (1, 'one')"));
    }
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    let newest = world.operations(&instance.id).remove(0);
    println!("{tables} tables: {} gap {} ms; steps {:#}", newest["kind"], newest["gap_ms"], newest["steps"]);
    assert_eq!(connect(&instance).ask("SELECT b FROM d9.t1").unwrap(), ["one"]);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
