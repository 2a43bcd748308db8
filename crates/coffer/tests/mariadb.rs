//! MariaDB on real servers: an instance is made, restarted and taken from version to version, and all that a client can
//! read is the same afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{Visitors, Writers, address, assert_same, assert_well, connect, fill, read, replace, world};
use support::sql::Sql;
use support::strike::{Moment, STEPS, strike};
use support::struck::{a_long_transaction, ask_upgrade};
use support::world::{Instance, World, kill, wait_for};

/// Accounts of several kinds. As the agent, since tenants make theirs over the API.
const ACCOUNTS: &[&str] = &[
    "INSTALL SONAME 'auth_ed25519'",
    "CREATE USER ann@'%' IDENTIFIED BY 'secret of ann'",
    "CREATE USER eve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret of eve')",
    "CREATE ROLE reader",
    "GRANT SELECT ON shop.* TO reader",
    "GRANT reader TO ann@'%'",
    "GRANT INSERT (a), SELECT ON shop.old TO ann@'%'",
    "GRANT PROCESS, REPLICATION CLIENT ON *.* TO eve@'%'",
];

/// Takes one instance from version to version, with a restart at each.
fn climb(versions: &[&str]) {
    let Some(world) = world("", versions) else { return };
    let instance = world.create("m", &format!("mariadb/{}", versions[0]), &[("event_scheduler", "ON")]);
    let mut sql = connect(&instance);
    fill(&mut sql);
    drop(sql);
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    for statement in ACCOUNTS {
        agent.run(statement);
    }
    drop(agent);
    for (at, version) in versions.iter().enumerate() {
        let before = read(&instance);
        let visitors = Visitors::start(&instance);
        if at > 0 {
            world.coffer(["instance", "upgrade", "m", version, "--wait"]).ok();
            assert_same(&before, &read(&instance), &format!("upgrade to {version}"));
            check(&world, &instance, version, "upgrade");
        }
        world.coffer(["instance", "restart", "m", "--wait"]).ok();
        assert_same(&before, &read(&instance), &format!("restart of {version}"));
        check(&world, &instance, version, "restart");
        visitors.stop(version);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

/// All is well, and accounts are let in as they were.
fn check(world: &World, instance: &Instance, version: &str, kind: &str) {
    assert_well(world, instance, version, kind);
    let mut ann = Sql::open(address(instance), "ann", "secret of ann").unwrap();
    ann.run("SET ROLE reader");
    assert_eq!(ann.ask("SELECT COUNT(*) FROM shop.parts").unwrap(), ["2000"]);
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    let eve = "SELECT plugin, LENGTH(authentication_string) FROM mysql.user WHERE user = 'eve'";
    assert_eq!(agent.ask(eve).unwrap(), ["ed25519|43"]);
}

#[test]
fn an_instance_climbs_series_by_series() {
    climb(&["10.5.23", "10.11.19", "11.8"]);
}

#[test]
fn an_instance_goes_to_the_next_version_of_its_series() {
    climb(&["10.11.18", "10.11.19"]);
}

#[test]
fn an_instance_goes_from_10_5_to_11_8_at_once() {
    climb(&["10.5.23", "11.8"]);
}

#[test]
fn an_instance_of_the_newest_series_is_made() {
    let Some(world) = world("", &["11.8"]) else { return };
    let instance = world.create("m", "mariadb/11.8", &[]);
    fill(&mut connect(&instance));
    let certificate = world.volume(&instance.id).join("conf/tls.pem");
    let before = fs_err::read_to_string(&certificate).unwrap();
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    let restart = world.operations(&instance.id).remove(0);
    let quiesce = restart["steps"].as_array().unwrap().iter().find(|step| step["name"] == "quiesce").unwrap();
    let told = quiesce["detail"].as_str().unwrap();
    assert!(told.starts_with("all that was sent was answered"), "nobody waits for Coffer's own clients: {told}");
    assert!(connect(&instance).ask("SELECT VERSION()").unwrap()[0].starts_with("11.8"));
    assert_eq!(connect(&instance).ask("SELECT @@have_ssl, @@ssl_cert").unwrap(), ["YES|/conf/tls.pem"]);
    assert_eq!(fs_err::read_to_string(&certificate).unwrap(), before, "none is made while nobody is served");
}

#[test]
fn the_tenant_has_no_way_to_what_the_promises_rest_on() {
    let Some(world) = world("", &["10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    let mut sql = connect(&instance);
    for refused in [
        "SHUTDOWN",
        "SELECT * FROM mysql.global_priv",
        "UPDATE mysql.global_priv SET Priv = ''",
        "CREATE TABLE mysql.mine (a INT)",
        "DROP DATABASE mysql",
        "SELECT LOAD_FILE('/run/mysql.pid') INTO OUTFILE '/run/x'",
        "SET GLOBAL innodb_fast_shutdown = 2",
        "SET PASSWORD FOR coffer@localhost = PASSWORD('x')",
        "DROP USER coffer@localhost",
        "GRANT ALL ON *.* TO admin@'%'",
    ] {
        assert!(sql.ask(refused).is_err(), "{refused}");
    }
    for user in ["coffer", "root", ""] {
        assert!(Sql::open(address(&instance), user, "").is_err(), "{user:?} is let in");
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn an_upgrade_that_fails_at_any_point_ends_with_the_old_engine_and_all_that_it_held() {
    let Some(world) = world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[("event_scheduler", "ON")]);
    let mut sql = connect(&instance);
    fill(&mut sql);
    drop(sql);
    let before = read(&instance);
    let (server, step) = ("usr/sbin/mariadbd", "usr/bin/mariadb-upgrade");
    let real = "/usr/bin/mariadb-upgrade.real \"$@\"";
    for (name, path, script, told) in [
        ("its own step fails", step, "exit 3".to_owned(), "mariadb-upgrade"),
        ("its own step fails half-way", step, format!("{real} --upgrade-system-tables; exit 3"), "mariadb-upgrade"),
        (
            "a row is lost",
            step,
            format!("{real} && mariadb --socket=/run/mysql.sock --user=coffer -e 'DELETE FROM shop.old WHERE a = 1'"),
            "rows of shop.old",
        ),
        (
            "it does not start",
            server,
            // On the data of the trial it does.
            "[ -d /data/shop ] && exit 3; exec /usr/sbin/mariadbd.real \"$@\"".to_owned(),
            "ended while it started",
        ),
    ] {
        replace(&world, "10.11.19", path, &script);
        let visitors = Visitors::start(&instance);
        let failed = world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]);
        assert_eq!(failed.code, 6, "{name}: {failed:?}");
        let newest = world.operations(&instance.id).remove(0);
        assert_eq!(newest["phase"], "undone", "{name}: {newest:#}");
        assert!(newest["cause"].to_string().contains(told), "{name}: {}", newest["cause"]);
        assert_same(&before, &read(&instance), name);
        visitors.stop(name);
        let mut sql = connect(&instance);
        assert!(sql.ask("SELECT VERSION()").unwrap()[0].starts_with("10.5.23"), "{name}");
        let measures = "SELECT @@innodb_max_dirty_pages_pct > 0, @@read_only, @@event_scheduler";
        wait_for("the measures to be over", || connect(&instance).ask(measures).unwrap() == ["1|0|ON"]);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn an_agent_that_is_killed_at_a_step_is_followed_by_one_that_goes_on() {
    let Some(mut world) = world("", &["10.5.23", "10.11.19"]) else { return };
    for (at, step) in STEPS.iter().enumerate() {
        let name = format!("m-{step}");
        let instance = world.create(&name, "mariadb/10.5.23", &[("event_scheduler", "ON")]);
        let mut sql = connect(&instance);
        fill(&mut sql);
        drop(sql);
        let before = read(&instance);
        let ask = |world: &mut World| ask_upgrade(world, &instance, "10.11.19");
        strike(&mut world, &instance, Moment::Forward(at), ask, |world| {
            kill(world.agent_pid(&instance.id).expect("an agent"));
        });
        let newest = world.wait_until_over(&instance.id);
        assert_eq!(newest["phase"], "done", "{step}: {newest:#}");
        assert_same(&before, &read(&instance), step);
        println!("agent killed at {}: {}", step, newest["gap_ms"]);
        assert_eq!(world.engines_on(&instance.id).len(), 1);
        world.coffer(["instance", "delete", &name, "--wait"]).ok();
    }
}

#[test]
fn a_transaction_that_stays_open_is_named_and_nothing_is_stopped() {
    let Some(world) = world("", &["10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    a_long_transaction(&world, &instance, "m");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn what_was_acknowledged_is_there_whatever_is_done_to_the_engine() {
    let versions = ["10.5.23", "10.11.19", "11.8"];
    let Some(world) = world("", &versions) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    connect(&instance).run("CREATE DATABASE shop");
    for version in versions {
        let writers = Writers::start(&instance);
        writers.wait_for_more();
        if version != versions[0] {
            world.coffer(["instance", "upgrade", "m", version, "--wait"]).ok();
            writers.wait_for_more();
        }
        world.coffer(["instance", "restart", "m", "--wait"]).ok();
        writers.wait_for_more();
        kill(world.engine_pid(&instance.id).expect("an engine"));
        writers.wait_for_more();
        writers.stop(&instance, version);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn without_a_gate_upgrades_work_too() {
    let Some(world) = world("gate = \"own\"", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    let mut sql = connect(&instance);
    fill(&mut sql);
    drop(sql);
    let before = read(&instance);
    let writers = Writers::start(&instance);
    writers.wait_for_more();
    world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]).ok();
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    writers.wait_for_more();
    writers.stop(&instance, "without a gate");
    connect(&instance).run("DROP TABLE shop.log");
    assert_same(&before, &read(&instance), "without a gate");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
