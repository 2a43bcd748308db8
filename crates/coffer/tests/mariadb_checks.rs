//! The checks before an upgrade on real MariaDB servers: each trouble is planted and found, and a sound instance has none.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Instant;

use support::mariadb::{agent, check};
use support::sql::Sql;
use support::world::{Instance, World, wait_for};

/// What a tenant may have that speaks against nothing: keywords where they were keywords before, names in quotes.
const SOUND: &[&str] = &[
    "CREATE DATABASE shop",
    "CREATE TABLE shop.orders (id INT PRIMARY KEY, note TEXT, twice INT AS (id * 2) VIRTUAL, KEY (note(9)), FULLTEXT KEY (note))",
    "CREATE TABLE shop.parts (a INT PRIMARY KEY) PARTITION BY HASH (a) PARTITIONS 3",
    "CREATE TABLE shop.`a-b c` (a INT) ENGINE=Aria",
    "CREATE TABLE shop.packed (a INT PRIMARY KEY) ROW_FORMAT=COMPRESSED",
    "CREATE TABLE shop.squeezed (a INT PRIMARY KEY) PAGE_COMPRESSED=1",
    "CREATE SEQUENCE shop.numbers",
    "CREATE VIEW shop.few AS SELECT id, ROW_NUMBER() OVER (ORDER BY id) AS n FROM shop.orders LIMIT 5 OFFSET 1",
    "CREATE FUNCTION shop.one () RETURNS INT RETURN (SELECT id FROM shop.orders ORDER BY id LIMIT 1 OFFSET 2) -- offset",
    "CREATE PROCEDURE shop.put (IN `vector` INT) SELECT `vector`, 'offset', @offset",
    "CREATE TRIGGER shop.mark BEFORE INSERT ON shop.orders FOR EACH ROW SET NEW.note = CONCAT(NEW.note, '!')",
    "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 DAY DO DELETE FROM shop.orders WHERE id < 0",
];

/// What is planted, and what is found of it on the way from 10.5 to 11.8.
const TROUBLES: &[(&str, &[&str])] = &[
    ("CREATE TABLE shop.t (id INT PRIMARY KEY, `offset` INT)", &["warning mariadb.word column shop.t.offset"]),
    ("CREATE TABLE shop.`vector` (a INT)", &["warning mariadb.word table shop.vector"]),
    ("CREATE FUNCTION shop.uuid_v7 () RETURNS INT RETURN 1", &["warning mariadb.function function shop.uuid_v7"]),
    ("CREATE PROCEDURE shop.skip (IN offset INT) SELECT 1", &["error mariadb.word procedure shop.skip"]),
    (
        "CREATE TRIGGER shop.see BEFORE INSERT ON shop.t FOR EACH ROW BEGIN DECLARE row_number INT; SET row_number = 1; END",
        &["error mariadb.word trigger shop.see"],
    ),
    ("CREATE EVENT shop.say ON SCHEDULE EVERY 1 DAY DO SELECT 1 AS vector", &["error mariadb.word event shop.say"]),
    ("SET GLOBAL mysql56_temporal_format = OFF", &[]),
    ("CREATE TABLE shop.times (at DATETIME(3))", &["warning mariadb.temporal column shop.times.at"]),
    ("SET GLOBAL mysql56_temporal_format = ON", &[]),
    ("SET GLOBAL innodb_compression_algorithm = lz4", &[]),
    ("CREATE TABLE shop.fast (a INT PRIMARY KEY) PAGE_COMPRESSED=1", &["error mariadb.compressed table shop.fast"]),
    (
        "CREATE TABLE shop.fasts (a INT PRIMARY KEY) PAGE_COMPRESSED=1 PARTITION BY HASH (a) PARTITIONS 1",
        &["error mariadb.compressed table shop.fasts#P#p0"],
    ),
    ("SET GLOBAL innodb_checksum_algorithm = crc32", &[]),
    ("CREATE TABLE shop.dated (a INT PRIMARY KEY) PAGE_COMPRESSED=1", &["warning mariadb.compressed table shop.dated"]),
    ("SET GLOBAL innodb_checksum_algorithm = full_crc32", &[]),
    ("SET GLOBAL innodb_compression_algorithm = zlib", &[]),
    ("CREATE TABLE shop.past (a INT PRIMARY KEY) WITH SYSTEM VERSIONING", &["notice mariadb.rebuild table shop.past"]),
    ("CREATE DEFINER=gone@'%' VIEW shop.lost AS SELECT 1", &["warning mariadb.definer view shop.lost"]),
    ("CREATE DEFINER=gone@'%' PROCEDURE shop.lost () SELECT 1", &["warning mariadb.definer procedure shop.lost"]),
    ("CREATE TABLE shop.base (a INT)", &[]),
    ("CREATE VIEW shop.broken AS SELECT a FROM shop.base", &["warning mariadb.view view shop.broken"]),
    ("DROP TABLE shop.base", &[]),
    (
        "CREATE VIEW shop.waits AS SELECT * FROM information_schema.innodb_mutexes",
        &["warning mariadb.view view shop.waits"],
    ),
    ("INSTALL SONAME 'auth_ed25519'", &["error mariadb.plugin plugin ed25519"]),
    ("CREATE USER eve@'%' IDENTIFIED VIA ed25519 USING PASSWORD('secret of eve')", &["error mariadb.auth user eve@%"]),
    (
        "INSERT INTO mysql.global_priv VALUES ('%', 'pat', '{\"access\":0,\"plugin\":\"pam\"}')",
        &["warning mariadb.auth user pat@%"],
    ),
    ("INSTALL SONAME 'ha_archive'", &["error mariadb.plugin plugin ARCHIVE"]),
    ("CREATE TABLE shop.log (a INT) ENGINE=ARCHIVE", &[]),
    (
        "CHANGE MASTER TO master_host = '127.0.0.9', master_user = 'x', master_password = 'y'",
        &["notice mariadb.replica replication"],
    ),
    ("INSTALL SONAME 'metadata_lock_info'", &[]),
    ("SET GLOBAL myisam_use_mmap = ON", &["error mariadb.mmap myisam_use_mmap"]),
    ("SET GLOBAL read_only = 1", &["notice mariadb.read_only engine"]),
    ("XA START 'x'", &[]),
    ("INSERT INTO shop.orders (id) VALUES (1)", &[]),
    ("XA END 'x'", &[]),
    ("XA PREPARE 'x'", &["error mariadb.xa engine"]),
];

fn ready(version: &str) -> Option<(World, Instance)> {
    let world = World::start()?;
    if ![version, "10.11.19", "11.8"].iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return None;
    }
    let instance = world.create("m", &format!("mariadb/{version}"), &[]);
    let mut sql = agent(&world, &instance);
    for statement in SOUND {
        sql.run(statement);
    }
    Some((world, instance))
}

#[test]
fn a_sound_instance_has_no_finding_and_is_told_the_next_command() {
    for (version, targets) in [("10.5.23", &["10.11.19", "11.8"][..]), ("10.11.19", &["11.8"])] {
        let Some((world, _)) = ready(version) else { return };
        for target in targets {
            assert_eq!(check(&world, "m", target), (0, Vec::new()), "{version} to {target}");
        }
        let told = world.coffer(["instance", "check", "m", "11.8"]);
        assert!(told.stdout.contains("next: coffer instance upgrade m 11.8 --wait"), "{told:?}");
        world.coffer(["instance", "delete", "m", "--wait"]).ok();
    }
}

#[test]
fn each_planted_trouble_is_found_and_an_upgrade_refuses_before_it_touches_anything() {
    let Some((world, instance)) = ready("10.5.23") else { return };
    let mut sql = agent(&world, &instance);
    for (statement, _) in TROUBLES {
        sql.run(statement);
    }
    // It goes with the connection that prepared it only when it is decided.
    drop(sql);
    let mut expected: Vec<String> =
        TROUBLES.iter().flat_map(|(_, found)| *found).map(|&line| line.to_owned()).collect();

    // The libraries that were loaded are not in any target.
    for root in fs_err::read_dir(world.data().join("engines/roots")).unwrap() {
        for library in ["auth_ed25519.so", "ha_archive.so"] {
            let _ = fs_err::remove_file(root.as_ref().unwrap().path().join("usr/lib/mysql/plugin").join(library));
        }
    }
    // Left by an engine that died while it altered a table, and by somebody who copied it there as root.
    let data = world.volume(&instance.id).join("data");
    fs_err::write(data.join("shop/#sql-1a_2.ibd"), "x").unwrap();
    expected.extend(
        ["warning mariadb.orphan shop/#sql-1a_2.ibd", "error mariadb.files data/shop/#sql-1a_2.ibd"].map(str::to_owned),
    );

    let mut open = agent(&world, &instance);
    for statement in ["BEGIN", "INSERT INTO shop.t (id) VALUES (7)"] {
        open.run(statement);
    }
    let id = |sql: &mut Sql| sql.ask("SELECT CONNECTION_ID()").unwrap().remove(0);
    expected.push(format!("warning mariadb.busy connection {}", id(&mut open)));
    let mut backup = agent(&world, &instance);
    backup.run("BACKUP STAGE START");
    expected.push(format!("error mariadb.backup connection {}", id(&mut backup)));
    let age = "SELECT COUNT(*) > 0 FROM information_schema.innodb_trx WHERE trx_started < NOW() - INTERVAL 6 SECOND \
               AND trx_mysql_thread_id > 0";
    wait_for("the transaction to be old", || agent(&world, &instance).ask(age).unwrap() == ["1"]);

    expected.sort();
    let (code, found) = check(&world, "m", "11.8");
    assert_eq!(found, expected);
    assert_eq!(code, 3);
    let told = world.coffer(["instance", "check", "m", "11.8"]);
    println!("{}\n{}", told.stdout, told.stderr);
    assert!(told.stderr.contains("coffer instance check m 11.8"), "{told:?}");

    let engine = world.engine_pid(&instance.id);
    let refused = world.coffer(["instance", "upgrade", "m", "11.8", "--wait"]);
    assert_eq!(refused.code, 6, "{refused:?}");
    let cause = world.operations(&instance.id).remove(0)["cause"].to_string();
    assert!(cause.contains("prepared and not decided"), "{cause}");
    assert_eq!(world.engine_pid(&instance.id), engine, "the engine was not stopped");

    let mut sql = agent(&world, &instance);
    for statement in ["SET GLOBAL read_only = 0", "XA ROLLBACK 'x'"] {
        sql.run(statement);
    }
    let (_, found) = check(&world, "m", "11.8");
    assert!(!found.iter().any(|line| line.contains("mariadb.xa") || line.contains("read_only")), "{found:#?}");
    drop((open, backup));
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn ten_thousand_tables_are_looked_at_to_the_end() {
    let Some(world) = World::start() else { return };
    if !["10.5.23", "11.8"].iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return;
    }
    let settings = [("innodb_flush_log_at_trx_commit", "0"), ("sync_frm", "OFF")];
    let instance = world.create_of(["2", "4"], "m", "mariadb/10.5.23", &settings);
    let mut sql = agent(&world, &instance);
    sql.run("CREATE DATABASE shop");
    for at in 0..100 {
        let table =
            |n| format!("CREATE TABLE shop.t{at}_{n} (id INT PRIMARY KEY, a VARCHAR(100), b DATETIME, KEY (a))");
        sql.run(&(0..100).map(table).collect::<Vec<_>>().join(";"));
    }
    let began = Instant::now();
    let (code, found) = check(&world, "m", "11.8");
    let took = began.elapsed();
    assert_eq!((code, found), (0, Vec::new()));
    assert!(took.as_secs() < 60, "{took:?}");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn redis_is_checked_by_the_same_command() {
    let Some(world) = World::start() else { return };
    if !world.has_image("7.0.15") || !world.has_image("8.0") {
        return;
    }
    world.create("r", "7.0.15", &[]);
    let (code, found) = check(&world, "r", "8.0");
    assert_eq!((code, found), (0, Vec::new()));
    world.coffer(["instance", "delete", "r", "--wait"]).ok();
}
