//! Bad luck with MariaDB on real servers: whoever dies, whatever is in the way, an upgrade ends wholly new or wholly old, and
//! nothing that was acknowledged is lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::os::unix::fs::MetadataExt as _;

use support::mariadb::{Writers, assert_same, connect, fill, read, replace, world};
use support::struck::{Way, small_world};

const FROM: &str = "10.5.23";
const TO: &str = "10.11.19";
const OWN_STEP: &str = "usr/bin/mariadb-upgrade";
const REAL_STEP: &str = "exec /usr/bin/mariadb-upgrade.real \"$@\"";
/// Enough for an instance, its pre-image and the trial of the target.
const DISK_MIB: u32 = 900;

const WAY: Way<'_> = Way {
    create: |world, name| {
        let instance = world.create(name, &format!("mariadb/{FROM}"), &[("max_connections", "77")]);
        fill(&mut connect(&instance));
        instance
    },
    read,
    to: TO,
    one_in: 2,
};

#[test]
fn a_configuration_that_others_may_write_and_a_crash_are_mended_by_the_next_start() {
    let Some(world) = world("", &[FROM, TO]) else { return };
    let instance = WAY.with_a_file_that_others_may_write(&world, "m");
    assert_eq!(connect(&instance).ask("SELECT @@max_connections").unwrap(), ["77"]);
}

#[test]
fn a_disk_that_fills_up_costs_the_upgrade_at_most() {
    let Some(mut world) = small_world(DISK_MIB, "") else { return };
    if ![FROM, TO].iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return;
    }
    WAY.on_a_full_disk(&mut world, &["prepare", "keep", "start"]);
}

#[test]
fn data_of_another_user_are_named_before_anything_is_touched() {
    let Some(world) = world("", &[FROM, TO]) else { return };
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: data_of_another_user_are_named_before_anything_is_touched: only root may give files away");
        return;
    }
    let instance = world.create("m", &format!("mariadb/{FROM}"), &[]);
    fill(&mut connect(&instance));
    let (before, engine) = (read(&instance), world.engine_pid(&instance.id));
    let data = world.volume(&instance.id).join("data");
    let owner = fs_err::metadata(&data).unwrap().uid();
    let give = |path: &std::path::Path, uid: u32| {
        let done = std::process::Command::new("chown").arg("-R").arg(format!("{uid}:{uid}")).arg(path).status();
        assert!(done.unwrap().success());
    };
    for (path, told) in [(data.join("shop/old.MYI"), "data/shop/old.MYI"), (data.clone(), "data")] {
        give(&path, 54_321);
        let refused = world.coffer(["instance", "upgrade", "m", TO, "--wait"]);
        assert!(
            refused.stderr.contains(told) && refused.stderr.contains("owner of the directory `run`"),
            "{refused:?}"
        );
        assert_eq!(world.engine_pid(&instance.id), engine, "it was not stopped");
        give(&data, owner);
        assert_same(&before, &read(&instance), told);
    }
    world.coffer(["instance", "upgrade", "m", TO, "--wait"]).ok();
    assert_same(&before, &read(&instance), "upgrade");
}

#[test]
fn of_ten_thousand_tables_the_gap_is_a_few_seconds() {
    let Some(world) = world("", &[FROM, TO]) else { return };
    let instance =
        world.create_of(["2", "4"], "m", &format!("mariadb/{FROM}"), &[("innodb_flush_log_at_trx_commit", "0")]);
    let mut sql = connect(&instance);
    for at in 0..100 {
        sql.run(&format!("CREATE DATABASE d{at}"));
        let table = |n| format!("CREATE TABLE d{at}.t{n} (a INT PRIMARY KEY, b VARCHAR(20)) ENGINE=Aria");
        sql.run(&(0..100).map(table).collect::<Vec<_>>().join(";"));
        sql.run(&format!("INSERT INTO d{at}.t1 VALUES (1, 'one')"));
    }
    drop(sql);
    for target in [None, Some(TO)] {
        match target {
            None => world.coffer(["instance", "restart", "m", "--wait"]).ok(),
            Some(version) => world.coffer(["instance", "upgrade", "m", version, "--wait"]).ok(),
        };
        let newest = world.operations(&instance.id).remove(0);
        println!("10,000 tables: {} gap {} ms; steps {:#}", newest["kind"], newest["gap_ms"], newest["steps"]);
    }
    assert_eq!(connect(&instance).ask("SELECT b FROM d99.t1").unwrap(), ["one"]);
}

/// As many upgrades, and as many that fail, as `COFFER_ROUNDS` says, 2 where it says nothing.
#[test]
fn no_acknowledged_write_is_lost_over_upgrades_and_upgrades_that_fail() {
    let rounds: usize = std::env::var("COFFER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(2);
    let Some(world) = world("", &[FROM, TO, "11.8"]) else { return };
    let ladder = [FROM, TO, "11.8"];
    let mut done = 0;
    for number in 0.. {
        let name = format!("w{number}");
        let instance = world.create(&name, &format!("mariadb/{FROM}"), &[]);
        connect(&instance).run("CREATE DATABASE shop");
        let writers = Writers::start(&instance);
        for to in &ladder[1..] {
            if done == rounds {
                break;
            }
            writers.wait_for_more();
            replace(&world, to, OWN_STEP, "/usr/bin/mariadb-upgrade.real \"$@\" && exit 3");
            assert_eq!(world.coffer(["instance", "upgrade", &name, to, "--wait"]).code, 6);
            writers.wait_for_more();
            replace(&world, to, OWN_STEP, REAL_STEP);
            world.coffer(["instance", "upgrade", &name, to, "--wait"]).ok();
            done += 1;
        }
        writers.wait_for_more();
        writers.stop(&instance, &format!("{done} upgrades, {done} that failed"));
        world.coffer(["instance", "delete", &name, "--wait"]).ok();
        if done == rounds {
            break;
        }
    }
}
