//! MySQL on real servers: an instance is made, restarted and taken to another version, and all that a client can read is the
//! same afterwards. The version before the one that Debian has runs in an emulator, so what concerns it takes minutes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{Visitors, Writers, address, assert_same, connect};
use support::mysql::{NEW, OLD, SLOW, check, create, native_world, read, replace_program, world};
use support::sql::Sql;
use support::world::{kill, wait_for};

#[test]
fn a_restart_changes_nothing_and_turns_nobody_away() {
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance = create(&world, "m", &new);
    println!("gate: {}", world.show(&instance.id)["gate"]);
    let before = read(&instance);
    let visitors = Visitors::start(&instance);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    visitors.stop("restart");
    assert_same(&before, &read(&instance), "restart");
    check(&world, &instance, &new, "restart");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn the_tenant_has_no_way_to_what_the_promises_rest_on() {
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance = world.create("m", &format!("mysql/{new}"), &[]);
    let mut sql = connect(&instance);
    for refused in [
        "SHUTDOWN",
        "RESTART",
        "SELECT * FROM mysql.user",
        "UPDATE mysql.user SET plugin = ''",
        "CREATE TABLE mysql.mine (a INT)",
        "CREATE TABLE sys.mine (a INT)",
        "UPDATE performance_schema.setup_instruments SET enabled = 'NO'",
        "DROP DATABASE mysql",
        "SELECT 1 INTO OUTFILE '/run/x'",
        "SET GLOBAL innodb_fast_shutdown = 2",
        "SET PERSIST event_scheduler = OFF",
        "ALTER INSTANCE DISABLE INNODB REDO_LOG",
        "INSTALL PLUGIN x SONAME 'adt_null.so'",
        "ALTER USER coffer@localhost IDENTIFIED BY 'x'",
        "DROP USER coffer@localhost",
        "GRANT ALL ON *.* TO admin@'%'",
    ] {
        assert!(sql.ask(refused).is_err(), "{refused}");
    }
    for user in ["coffer", "root", "mysql.sys", ""] {
        assert!(Sql::open(address(&instance), user, "").is_err(), "{user:?} is let in");
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn what_was_acknowledged_is_there_whatever_is_done_to_the_engine() {
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance = world.create("m", &format!("mysql/{new}"), &[]);
    connect(&instance).run("CREATE DATABASE shop");
    let writers = Writers::start(&instance);
    writers.wait_for_more();
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    writers.wait_for_more();
    kill(world.engine_pid(&instance.id).expect("an engine"));
    writers.wait_for_more();
    writers.stop(&instance, &new);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn an_instance_goes_from_version_to_version() {
    let Some((world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    let instance = create(&world, "m", OLD);
    println!("gate: {}", world.show(&instance.id)["gate"]);
    let before = read(&instance);
    let visitors = Visitors::start(&instance);
    world.coffer(["instance", "upgrade", "m", &new, "--wait"]).ok();
    visitors.stop("upgrade");
    assert_same(&before, &read(&instance), "upgrade");
    check(&world, &instance, &new, "upgrade");
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    assert_eq!(agent.ask("SELECT COUNT(*) FROM mysql.user WHERE user = 'coffer'").unwrap(), ["1"]);
    drop(agent);

    // Within its series the older one works on what the newer one wrote, so that nothing is lost by going back.
    connect(&instance).run("INSERT INTO shop.old VALUES (77, 'since')");
    let since = read(&instance);
    world.coffer(["instance", "rollback", "m", "--yes", "--wait"]).ok();
    assert_same(&since, &read(&instance), "rollback");
    check(&world, &instance, OLD, "rollback");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn an_upgrade_that_fails_ends_with_the_old_engine_and_all_that_it_held() {
    let Some((world, old, new)) = native_world("") else { return };
    let instance = create(&world, "m", &old);
    let before = read(&instance);
    for (name, script, told) in [
        ("it does not start", "exit 3", "ended while it started"),
        (
            "it dies half-way",
            "$real \"$@\" 2>/tmp/said & until /usr/sbin/busybox grep -q 'InnoDB initialization has started' /tmp/said; \
             do /usr/sbin/busybox sleep 0.01; done; kill -9 $!; exit 3",
            "ended while it started",
        ),
        (
            "a row is lost",
            "echo 'DELETE FROM shop.old WHERE a = 1;' >/tmp/lose; exec $real \"$@\" --init-file=/tmp/lose",
            "rows of shop.old",
        ),
        (
            "a long value is another",
            "echo \"UPDATE shop.kinds SET bl = 'x' WHERE id = 1;\" >/tmp/lose; exec $real \"$@\" --init-file=/tmp/lose",
            "rows of shop.kinds",
        ),
    ] {
        replace_program(&world, script);
        let visitors = Visitors::start(&instance);
        let failed = world.coffer(["instance", "upgrade", "m", &new, "--wait"]);
        assert_eq!(failed.code, 6, "{name}: {failed:?}");
        let newest = world.operations(&instance.id).remove(0);
        assert_eq!(newest["phase"], "undone", "{name}: {newest:#}");
        assert!(newest["cause"].to_string().contains(told), "{name}: {}", newest["cause"]);
        assert_same(&before, &read(&instance), name);
        visitors.stop(name);
        assert_eq!(
            connect(&instance).ask("SELECT SUBSTRING_INDEX(VERSION(), '-', 1)").unwrap(),
            [old.as_str()],
            "{name}"
        );
        let measures = "SELECT @@innodb_max_dirty_pages_pct > 0, @@read_only, @@event_scheduler";
        wait_for("the measures to be over", || connect(&instance).ask(measures).unwrap() == ["1|0|ON"]);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
