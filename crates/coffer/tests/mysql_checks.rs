//! The checks before an upgrade on a real MySQL server: each trouble is planted and found, and a sound instance has none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::thread;

use support::mariadb::{agent, check};
use support::mysql::{create, native_world};
use support::world::wait_for;

/// What a tenant may have that speaks against nothing, beside something of every kind.
const SOUND: &[&str] = &[
    "CREATE PROCEDURE shop.lend (IN `library` INT) SELECT `library`, 'external', @external, 'md5(x)'",
    "CREATE FUNCTION shop.hash (x INT) RETURNS TEXT DETERMINISTIC RETURN SHA2(x, 256) -- md5(x)",
    "CREATE TABLE shop.named (md5 CHAR(32) DEFAULT 'sha1(x)', sha INT, t TEXT DEFAULT (SHA2('md5(x)', 256)), CHECK (md5 <> 'sha(x)'))",
];

/// What is planted, and what is found of it on the way from before 9.7.
const TROUBLES: &[(&str, &[&str])] = &[
    ("CREATE TABLE shop.t (id INT PRIMARY KEY, `external` INT)", &["warning mysql.word column shop.t.external"]),
    ("CREATE TABLE shop.`library` (a INT)", &["warning mysql.word table shop.library"]),
    ("CREATE FUNCTION shop.etag () RETURNS INT DETERMINISTIC RETURN 1", &["warning mysql.function function shop.etag"]),
    (
        "CREATE FUNCTION shop.digest (x TEXT) RETURNS TEXT DETERMINISTIC RETURN Md5 (x)",
        &["error mysql.function function shop.digest"],
    ),
    ("CREATE PROCEDURE shop.sum () SELECT SHA('x')", &["error mysql.function procedure shop.sum"]),
    (
        "CREATE TRIGGER shop.see BEFORE INSERT ON shop.t FOR EACH ROW SET @x = sha1(NEW.id)",
        &["error mysql.function trigger shop.see"],
    ),
    ("CREATE EVENT shop.say ON SCHEDULE EVERY 1 DAY DO DO md5('x')", &["error mysql.function event shop.say"]),
    (
        "INSTALL COMPONENT 'file://component_classic_hashing'",
        &["error mysql.plugin component component_classic_hashing"],
    ),
    ("CREATE VIEW shop.sums AS SELECT md5('x') AS a", &["error mysql.function view shop.sums"]),
    ("CREATE DEFINER=gone@'%' VIEW shop.lost AS SELECT 1", &["warning mysql.definer view shop.lost"]),
    ("CREATE DEFINER=gone@'%' PROCEDURE shop.lost () SELECT 1", &["warning mysql.definer procedure shop.lost"]),
    (
        "CREATE DEFINER=gone@'%' EVENT shop.lost ON SCHEDULE EVERY 1 DAY DO DO 1",
        &["warning mysql.definer event shop.lost"],
    ),
    ("CREATE TABLE shop.base (a INT)", &[]),
    ("CREATE VIEW shop.broken AS SELECT a FROM shop.base", &["warning mysql.view view shop.broken"]),
    ("DROP TABLE shop.base", &[]),
    ("INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so'", &["error mysql.plugin plugin mysql_no_login"]),
    ("CREATE USER eve@'%' IDENTIFIED WITH mysql_no_login", &["error mysql.auth user eve@%"]),
    ("CREATE USER pat@'%'", &["warning mysql.auth user pat@%"]),
    ("UPDATE mysql.user SET plugin = 'mysql_native_password' WHERE user = 'pat'", &[]),
    (
        "CHANGE REPLICATION SOURCE TO source_host = '127.0.0.9', source_user = 'x', source_password = 'y'",
        &["notice mysql.replica replication"],
    ),
    ("SET GLOBAL read_only = 1", &["notice mysql.read_only engine"]),
    ("XA START 'x'", &[]),
    ("INSERT INTO shop.kinds (id) VALUES (9000)", &[]),
    ("XA END 'x'", &[]),
    ("XA PREPARE 'x'", &["error mysql.xa engine"]),
];

#[test]
fn a_sound_instance_has_no_finding_and_each_planted_trouble_is_found() {
    let Some((world, old, new)) = native_world("") else { return };
    let instance = create(&world, "m", &old);
    let mut sql = agent(&world, &instance);
    for statement in SOUND {
        sql.run(statement);
    }
    let unmeasured = format!("warning path.unmeasured mysql {old} to mysql {new}");
    assert_eq!(check(&world, "m", &new), (0, vec![unmeasured.clone()]), "a sound one");

    for (statement, _) in TROUBLES {
        sql.run(statement);
    }
    // It goes with the connection that prepared it only when it is decided.
    drop(sql);
    let mut expected: Vec<String> =
        TROUBLES.iter().flat_map(|(_, found)| *found).map(|&line| line.to_owned()).chain([unmeasured]).collect();
    for root in fs_err::read_dir(world.data().join("engines/roots")).unwrap() {
        for library in ["mysql_no_login.so", "component_classic_hashing.so"] {
            let _ = fs_err::remove_file(root.as_ref().unwrap().path().join("usr/lib/mysql/plugin").join(library));
        }
    }
    // Left by an engine that died while it altered a table, or of tables that it no longer knows.
    for file in ["#sql-1a_2.ibd", "ghost.ibd", "ghost.MYD"] {
        fs_err::write(world.volume(&instance.id).join("data/shop").join(file), "x").unwrap();
        expected.push(format!("warning mysql.orphan shop/{file}"));
        expected.push(format!("error mysql.files data/shop/{file}"));
    }
    let mut open = agent(&world, &instance);
    for statement in ["BEGIN", "INSERT INTO shop.parts VALUES (7777, 7)"] {
        open.run(statement);
    }
    let mut backup = agent(&world, &instance);
    backup.run("LOCK INSTANCE FOR BACKUP");
    let mut altering = agent(&world, &instance);
    for (what, sql) in
        [("warning mysql.busy", &mut open), ("error mysql.ddl", &mut altering), ("error mysql.backup", &mut backup)]
    {
        expected.push(format!("{what} connection {}", sql.ask("SELECT CONNECTION_ID()").unwrap().remove(0)));
    }
    // It waits for the backup to end.
    let altering = thread::spawn(move || altering.run("ALTER TABLE shop.arrows ADD b INT"));
    let waits =
        "SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE 'ALTER TABLE%' AND state LIKE 'Waiting%'";
    wait_for("a table to be altered", || agent(&world, &instance).ask(waits).unwrap() == ["1"]);
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
    drop((open, backup));
    altering.join().unwrap();
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
