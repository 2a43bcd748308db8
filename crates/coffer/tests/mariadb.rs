//! MariaDB on real servers: an instance is made, restarted and taken from version to version, and all that a client can
//! read is the same afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use support::sql::Sql;
use support::strike::{Moment, STEPS, strike};
use support::world::{Instance, World, kill, wait_for};

const TENANT: &str = "admin";

/// Something of every kind that an instance can hold. A statement each.
const FILL: &[&str] = &[
    "CREATE DATABASE shop",
    "USE shop",
    "CREATE TABLE shop.kinds (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, i1 TINYINT, i2 SMALLINT, i3 MEDIUMINT, i4 INT, i8 BIGINT,
        b BIT(9), f FLOAT, d DOUBLE, n DECIMAL(30,10), da DATE, ti TIME(6), dt DATETIME(6), ts TIMESTAMP(3) NULL, y YEAR,
        c CHAR(9), vc VARCHAR(99) CHARACTER SET utf8mb4, bi BINARY(5), vb VARBINARY(99), tx TEXT, bl LONGBLOB,
        e ENUM('a','b'), s SET('x','y','z'), j JSON, g GEOMETRY, ip INET6,
        gv INT GENERATED ALWAYS AS (i4 + 1) VIRTUAL, gs INT GENERATED ALWAYS AS (i4 * 2) STORED,
        KEY (vc), FULLTEXT KEY (tx)) ENGINE=InnoDB",
    "INSERT INTO shop.kinds (i1,i2,i3,i4,i8,b,f,d,n,da,ti,dt,ts,y,c,vc,bi,vb,tx,bl,e,s,j,g,ip) SELECT
        seq % 100, -seq, seq, seq, seq * 1000000000, b'101', seq / 3, seq / 7, seq / 11, '2020-02-29', '12:34:56.789012',
        '2024-12-31 23:59:59.999999', '2024-06-01 12:00:00.123', 2024, 'char', CONCAT('grüße ', seq), 'bin', X'00ff27',
        'some text', REPEAT(X'00', 300), 'b', 'x,z', '{\"a\": [1, null]}', POINT(seq, 1.5), '::1' FROM seq_1_to_300",
    "INSERT INTO shop.kinds (id) VALUES (5000)",
    "CREATE TABLE shop.old (a INT PRIMARY KEY, t VARCHAR(20)) ENGINE=MyISAM",
    "INSERT INTO shop.old VALUES (1,'one'),(2,NULL)",
    "CREATE TABLE shop.safe (a INT, t VARCHAR(20)) ENGINE=Aria",
    "INSERT INTO shop.safe VALUES (1,'one'),(1,'one')",
    "CREATE TABLE shop.parts (a INT PRIMARY KEY, b INT) PARTITION BY HASH (a) PARTITIONS 3",
    "INSERT INTO shop.parts SELECT seq, seq FROM seq_1_to_2000",
    "CREATE TABLE shop.past (a INT PRIMARY KEY, b INT) WITH SYSTEM VERSIONING",
    "INSERT INTO shop.past SELECT seq, seq FROM seq_1_to_40",
    "UPDATE shop.past SET b = 0 WHERE a < 10",
    "CREATE TABLE shop.packed (a INT PRIMARY KEY, b TEXT) ROW_FORMAT=COMPRESSED",
    "INSERT INTO shop.packed VALUES (1, REPEAT('x', 9999))",
    "CREATE TABLE shop.child (a INT PRIMARY KEY, k BIGINT UNSIGNED, FOREIGN KEY (k) REFERENCES shop.kinds (id))",
    "INSERT INTO shop.child VALUES (1, 5000)",
    "CREATE TABLE shop.ticks (at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE SEQUENCE shop.numbers START WITH 7",
    "CREATE VIEW shop.few AS SELECT id, vc FROM shop.kinds WHERE id < 5",
    "CREATE FUNCTION shop.twice (x INT) RETURNS INT DETERMINISTIC RETURN x * 2",
    "CREATE PROCEDURE shop.put (IN x INT) BEGIN INSERT INTO shop.old VALUES (x, 'put'); SELECT ROW_COUNT(); END",
    "CREATE TRIGGER shop.mark BEFORE INSERT ON shop.safe FOR EACH ROW SET NEW.t = CONCAT(IFNULL(NEW.t, ''), '!')",
    "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW())",
];

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

/// What is read before and after, and has to be the same.
const READ: &[&str] = &[
    "SELECT * FROM shop.kinds",
    "SELECT * FROM shop.old",
    "SELECT * FROM shop.safe",
    "SELECT * FROM shop.parts",
    "SELECT a, b FROM shop.past",
    "SELECT a, b FROM shop.past FOR SYSTEM_TIME ALL",
    "SELECT * FROM shop.packed",
    "SELECT * FROM shop.child",
    "SELECT * FROM shop.few",
    "SELECT shop.twice(21)",
    "SELECT table_name, table_type, engine, table_collation FROM information_schema.tables WHERE table_schema = 'shop'",
    "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'shop'",
    "SELECT event_name, status, event_definition FROM information_schema.events WHERE event_schema = 'shop'",
    "SELECT routine_name, routine_definition FROM information_schema.routines WHERE routine_schema = 'shop'",
    "SELECT id FROM shop.kinds WHERE MATCH (tx) AGAINST ('text')",
];

fn fill(sql: &mut Sql) {
    for statement in FILL {
        sql.run(statement);
    }
}

fn address(instance: &Instance) -> SocketAddr {
    SocketAddr::new(instance.address.ip(), 3306)
}

fn connect(instance: &Instance) -> Sql {
    Sql::open(address(instance), TENANT, &instance.password).unwrap_or_else(|e| panic!("{e}"))
}

fn read(instance: &Instance) -> Vec<(&'static str, Vec<String>)> {
    let mut sql = connect(instance);
    READ.iter().map(|question| (*question, sql.ask(question).unwrap_or_else(|e| panic!("{question}: {e}")))).collect()
}

#[track_caller]
fn assert_same(before: &[(&str, Vec<String>)], after: &[(&str, Vec<String>)], what: &str) {
    for (was, is) in before.iter().zip(after) {
        assert_eq!(was, is, "{what}");
    }
}

/// Clients that come and go, each with a connection of its own.
struct Visitors {
    told: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Visitors {
    fn start(instance: &Instance) -> Self {
        let told = Arc::new(AtomicBool::new(false));
        let come = |told: Arc<AtomicBool>, instance: Instance| {
            let (mut visits, mut turned_away) = (0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                let seen =
                    Sql::open(address(&instance), TENANT, &instance.password).and_then(|mut sql| sql.ask("SELECT 1"));
                visits += 1;
                turned_away.extend(seen.err().map(|error| error.to_string()));
            }
            (visits, turned_away)
        };
        let threads = (0..8).map(|_| {
            let (told, instance) = (Arc::clone(&told), instance.clone());
            std::thread::spawn(move || come(told, instance))
        });
        Self { threads: threads.collect(), told }
    }

    /// All of them were served.
    #[track_caller]
    fn stop(self, what: &str) {
        self.told.store(true, Ordering::Relaxed);
        let (mut visits, mut turned_away) = (0, Vec::new());
        for thread in self.threads {
            let (of, errors) = thread.join().unwrap();
            visits += of;
            turned_away.extend(errors);
        }
        println!("{what}: {visits} visits, {} turned away", turned_away.len());
        assert!(turned_away.is_empty(), "{what}: {turned_away:#?}");
    }
}

/// Clients that write, and remember what was acknowledged.
struct Writers {
    told: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<u64>>>,
}

impl Writers {
    fn start(instance: &Instance) -> Self {
        connect(instance).run("CREATE OR REPLACE TABLE shop.log (n BIGINT PRIMARY KEY)");
        let (told, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let write = |told: Arc<AtomicBool>, count: Arc<AtomicUsize>, instance: Instance, first: u64| {
            let (mut n, mut written) = (first, Vec::new());
            while !told.load(Ordering::Relaxed) {
                let Ok(mut sql) = Sql::open(address(&instance), TENANT, &instance.password) else { continue };
                while !told.load(Ordering::Relaxed) {
                    n += 1;
                    if sql.ask(&format!("INSERT INTO shop.log VALUES ({n})")).is_err() {
                        break;
                    }
                    written.push(n);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            written
        };
        let threads = (0..4).map(|writer| {
            let (told, count, instance) = (Arc::clone(&told), Arc::clone(&acknowledged), instance.clone());
            std::thread::spawn(move || write(told, count, instance, writer << 32))
        });
        Self { threads: threads.collect(), told, acknowledged }
    }

    /// Waits until more was acknowledged.
    #[track_caller]
    fn wait_for_more(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + 50;
        wait_for("more writes", || self.acknowledged.load(Ordering::Relaxed) >= enough);
    }

    /// All that was acknowledged is there.
    #[track_caller]
    fn stop(self, instance: &Instance, what: &str) {
        self.told.store(true, Ordering::Relaxed);
        let written: Vec<u64> = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let there: BTreeSet<String> = connect(instance).ask("SELECT n FROM shop.log").unwrap().into_iter().collect();
        let lost: Vec<_> = written.iter().filter(|n| !there.contains(&n.to_string())).collect();
        println!("{what}: {} writes acknowledged, {} lost", written.len(), lost.len());
        assert!(lost.is_empty(), "{what}: {lost:?}");
    }
}

/// Where a version's programs are, for this world alone.
fn program(world: &World, version: &str, path: &str) -> PathBuf {
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release = list.as_array().unwrap().iter().find(|r| r["Datastore"] == "mariadb" && r["Version"] == version);
    let digest = release.unwrap()["Digest"].as_str().unwrap().replace(':', "-");
    world.data().join("engines/roots").join(digest).join(path)
}

/// Puts a script in the place of a program, which stays there as `<name>.real`.
fn replace(world: &World, version: &str, path: &str, script: &str) {
    let program = program(world, version, path);
    let real = program.with_extension("real");
    if !real.exists() {
        fs_err::rename(&program, &real).unwrap();
    }
    let _ = fs_err::remove_file(&program);
    fs_err::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// Takes one instance from version to version, with a restart at each.
fn climb(versions: &[&str]) {
    let Some(world) = World::start() else { return };
    if !versions.iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return;
    }
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

/// What runs is what is recorded, nobody was turned away, and events go on.
fn check(world: &World, instance: &Instance, version: &str, kind: &str) {
    let shown = world.show(&instance.id);
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    assert_eq!(shown["running_version"], shown["on_disk_version"], "{shown}");
    let mut sql = connect(instance);
    assert!(sql.ask("SELECT VERSION()").unwrap()[0].starts_with(version));
    assert_eq!(sql.ask("SELECT @@event_scheduler").unwrap(), ["ON"]);
    let mut ann = Sql::open(address(instance), "ann", "secret of ann").unwrap();
    ann.run("SET ROLE reader");
    assert_eq!(ann.ask("SELECT COUNT(*) FROM shop.parts").unwrap(), ["2000"]);
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    let eve = "SELECT plugin, LENGTH(authentication_string) FROM mysql.user WHERE user = 'eve'";
    assert_eq!(agent.ask(eve).unwrap(), ["ed25519|43"]);
    let fired = || connect(instance).ask("SELECT COUNT(*) FROM shop.ticks").unwrap();
    let so_far = fired();
    wait_for("another event", || fired() != so_far);
    let operations = world.operations(&instance.id);
    let newest = operations.iter().find(|operation| operation["kind"] == kind).unwrap();
    println!("{kind} {version}: gap {} ms, clients {}", newest["gap_ms"], newest["clients"]);
    for count in ["refused", "reset", "wrong"] {
        assert_eq!(newest["clients"][count], Value::from(0), "{newest}");
    }
}

#[test]
fn an_instance_climbs_series_by_series() {
    climb(&["10.5.23", "10.11.19", "11.8"]);
}

#[test]
fn an_instance_goes_from_10_5_to_11_8_at_once() {
    climb(&["10.5.23", "11.8"]);
}

#[test]
fn the_tenant_has_no_way_to_what_the_promises_rest_on() {
    let Some(world) = World::start() else { return };
    if !world.has_image("mariadb/10.11.19") {
        return;
    }
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
    let Some(world) = World::start() else { return };
    if !world.has_image("mariadb/10.5.23") || !world.has_image("mariadb/10.11.19") {
        return;
    }
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
            "case \"$*\" in *--verbose*) exec /usr/sbin/mariadbd.real \"$@\";; esac; exit 3".to_owned(),
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
    let Some(mut world) = World::start() else { return };
    if !world.has_image("mariadb/10.5.23") || !world.has_image("mariadb/10.11.19") {
        return;
    }
    for (at, step) in STEPS.iter().enumerate() {
        let name = format!("m-{step}");
        let instance = world.create(&name, "mariadb/10.5.23", &[("event_scheduler", "ON")]);
        let mut sql = connect(&instance);
        fill(&mut sql);
        drop(sql);
        let before = read(&instance);
        let upgrade = json!({"instance": {"datastore_version": "10.11.19"}});
        assert_eq!(world.ask("demo", "PATCH", &format!("/instances/{}", instance.id), &upgrade).status, 202);
        strike(&mut world, &instance, Moment::Forward(at), |world| {
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
    let Some(world) = World::start() else { return };
    if !world.has_image("mariadb/10.11.19") {
        return;
    }
    let instance = world.create("m", "mariadb/10.11.19", &[]);
    let mut sql = connect(&instance);
    for statement in
        ["CREATE DATABASE shop", "CREATE TABLE shop.t (a INT PRIMARY KEY)", "BEGIN", "INSERT INTO shop.t VALUES (1)"]
    {
        sql.run(statement);
    }
    let id = sql.ask("SELECT CONNECTION_ID()").unwrap().remove(0);
    let age = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_started < NOW() - INTERVAL 6 SECOND";
    wait_for("the transaction to be old", || connect(&instance).ask(age).unwrap() == ["1"]);
    let engine = world.engine_pid(&instance.id);
    let failed = world.coffer(["instance", "restart", "m", "--wait"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    let cause = world.operations(&instance.id).remove(0)["cause"].to_string();
    assert!(cause.contains(&format!("connection {id} of user 'admin' has a transaction open for")), "{cause}");
    assert_eq!(world.engine_pid(&instance.id), engine, "the engine was not stopped");
    sql.run("COMMIT");
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    assert_eq!(connect(&instance).ask("SELECT a FROM shop.t").unwrap(), ["1"]);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn what_was_acknowledged_is_there_whatever_is_done_to_the_engine() {
    let Some(world) = World::start() else { return };
    let versions = ["10.5.23", "10.11.19", "11.8"];
    if !versions.iter().all(|version| world.has_image(&format!("mariadb/{version}"))) {
        return;
    }
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
    let Some(world) = World::start_with("", "gate = \"own\"") else { return };
    if !world.has_image("mariadb/10.5.23") || !world.has_image("mariadb/10.11.19") {
        return;
    }
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
