//! The checks before an upgrade on a real MySQL server: each trouble is planted and found, and a sound instance has none. The older
//! version runs in an emulator.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{agent, check};
use support::mysql::{NEW, OLD, SLOW, create, world};
use support::world::wait_for;

/// What is planted, and what is found of it.
const TROUBLES: &[(&str, &[&str])] = &[
    ("CREATE TABLE shop.t (id INT PRIMARY KEY)", &[]),
    ("CREATE DEFINER=gone@'%' VIEW shop.lost AS SELECT 1", &["warning mysql.definer view shop.lost"]),
    ("CREATE DEFINER=gone@'%' PROCEDURE shop.lost () SELECT 1", &["warning mysql.definer procedure shop.lost"]),
    ("CREATE TABLE shop.base (a INT)", &[]),
    ("CREATE VIEW shop.broken AS SELECT a FROM shop.base", &["warning mysql.view view shop.broken"]),
    ("DROP TABLE shop.base", &[]),
    ("INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so'", &["error mysql.plugin plugin mysql_no_login"]),
    ("CREATE USER eve@'%' IDENTIFIED WITH mysql_no_login", &["error mysql.auth user eve@%"]),
    (
        "CHANGE REPLICATION SOURCE TO source_host = '127.0.0.9', source_user = 'x', source_password = 'y'",
        &["notice mysql.replica replication"],
    ),
    ("SET GLOBAL read_only = 1", &["notice mysql.read_only engine"]),
    ("XA START 'x'", &[]),
    ("INSERT INTO shop.t (id) VALUES (1)", &[]),
    ("XA END 'x'", &[]),
    ("XA PREPARE 'x'", &["error mysql.xa engine"]),
];

#[test]
fn a_sound_instance_has_no_finding_and_each_planted_trouble_is_found() {
    let Some((world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    let instance = create(&world, "m", OLD);
    assert_eq!(check(&world, "m", &new), (0, Vec::new()), "a sound one");

    let mut sql = agent(&world, &instance);
    for (statement, _) in TROUBLES {
        sql.run(statement);
    }
    // It goes with the connection that prepared it only when it is decided.
    drop(sql);
    let mut expected: Vec<String> =
        TROUBLES.iter().flat_map(|(_, found)| *found).map(|&line| line.to_owned()).collect();
    for root in fs_err::read_dir(world.data().join("engines/roots")).unwrap() {
        let _ = fs_err::remove_file(root.unwrap().path().join("usr/lib/mysql/plugin/mysql_no_login.so"));
    }
    fs_err::write(world.volume(&instance.id).join("data/shop/#sql-1a_2.ibd"), "x").unwrap();
    expected.extend(
        ["warning mysql.orphan shop/#sql-1a_2.ibd", "error mysql.files data/shop/#sql-1a_2.ibd"].map(str::to_owned),
    );
    let mut open = agent(&world, &instance);
    for statement in ["BEGIN", "INSERT INTO shop.t (id) VALUES (7)"] {
        open.run(statement);
    }
    let connection = open.ask("SELECT CONNECTION_ID()").unwrap().remove(0);
    expected.push(format!("warning mysql.busy connection {connection}"));
    let age = "SELECT COUNT(*) > 0 FROM information_schema.innodb_trx WHERE trx_started < NOW() - INTERVAL 6 SECOND \
               AND trx_mysql_thread_id > 0";
    wait_for("the transaction to be old", || agent(&world, &instance).ask(age).unwrap() == ["1"]);

    expected.sort();
    let engine = world.engine_pid(&instance.id);
    let (code, found) = check(&world, "m", &new);
    assert_eq!(found, expected);
    assert_eq!(code, 3);
    assert_eq!(world.coffer(["instance", "upgrade", "m", &new, "--wait"]).code, 6);
    assert_eq!(world.engine_pid(&instance.id), engine, "the engine was not stopped");
    drop(open);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
