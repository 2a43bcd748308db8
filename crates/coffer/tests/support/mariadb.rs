//! An instance of MariaDB with something of every kind in it, and who comes to it, or to one of MySQL.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::sql::Sql;
use super::world::{Instance, World, wait_for};
use super::writers::Balance;

pub(crate) const TENANT: &str = "admin";

/// A world with images of all of these versions of MariaDB. `None`, and said so, without them.
pub(crate) fn world(config: &str, versions: &[&str]) -> Option<World> {
    let world = World::start_with("", config)?;
    versions.iter().all(|version| world.has_image(&format!("mariadb/{version}"))).then_some(world)
}

/// Something of every kind that an instance can hold. A statement each.
pub(crate) const FILL: &[&str] = &[
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

/// What tables hold, and views and functions tell.
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
];

/// What every kind of MariaDB and MySQL tells of its objects.
const OBJECTS: &[&str] = &[
    "SELECT table_name, table_type, engine, table_collation FROM information_schema.tables WHERE table_schema = 'shop'",
    "SELECT trigger_name, action_statement FROM information_schema.triggers WHERE trigger_schema = 'shop'",
    "SELECT event_name, status, event_definition FROM information_schema.events WHERE event_schema = 'shop'",
    "SELECT routine_name, routine_definition FROM information_schema.routines WHERE routine_schema = 'shop'",
    "SELECT id FROM shop.kinds WHERE MATCH (tx) AGAINST ('text')",
];

pub(crate) fn fill(sql: &mut Sql) {
    for statement in FILL {
        sql.run(statement);
    }
}

pub(crate) fn address(instance: &Instance) -> SocketAddr {
    SocketAddr::new(instance.address.ip(), 3306)
}

pub(crate) fn connect(instance: &Instance) -> Sql {
    Sql::open(address(instance), TENANT, &instance.password).unwrap_or_else(|e| panic!("{e}"))
}

/// The connection that the agent has.
pub(crate) fn agent(world: &World, instance: &Instance) -> Sql {
    Sql::as_agent(&world.volume(&instance.id)).unwrap_or_else(|e| panic!("{e}"))
}

/// The findings of a check as lines, sorted, and its exit code.
pub(crate) fn check(world: &World, name: &str, version: &str) -> (i32, Vec<String>) {
    let began = Instant::now();
    let checked = world.coffer(["instance", "check", name, version, "-o", "json"]);
    println!("check of {name} for {version}: {:?}\n{}", began.elapsed(), checked.stdout);
    let cell = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let line = |f: &Value| format!("{} {} {}", cell(f, "severity"), cell(f, "id"), cell(f, "object"));
    let found = checked.json();
    let mut lines: Vec<_> = found.as_array().unwrap_or_else(|| panic!("{checked:?}")).iter().map(line).collect();
    lines.sort();
    (checked.code, lines)
}

/// The engine's own tables can be read, also those that have no log.
#[track_caller]
pub(crate) fn assert_own_tables_sound(world: &World, instance: &Instance) {
    let mut sql = agent(world, instance);
    let named = "SELECT CONCAT('mysql.', table_name) FROM information_schema.tables \
                 WHERE table_schema = 'mysql' AND table_type = 'BASE TABLE'";
    let names = sql.ask(named).unwrap_or_else(|e| panic!("{named}: {e}"));
    let checked = sql.ask(&format!("CHECK TABLE {}", names.join(", "))).unwrap_or_else(|e| panic!("CHECK TABLE: {e}"));
    let broken: Vec<_> = checked.iter().filter(|row| row.to_lowercase().contains("|error|")).collect();
    assert!(broken.is_empty() && !checked.is_empty(), "{broken:#?}");
}

/// What an instance holds: questions and their answers.
pub(crate) type Contents = Vec<(&'static str, Vec<String>)>;

pub(crate) fn read(instance: &Instance) -> Contents {
    read_all(instance, READ)
}

/// What is read by these questions, and what there is besides tables.
pub(crate) fn read_all(instance: &Instance, questions: &[&'static str]) -> Contents {
    let mut sql = connect(instance);
    questions
        .iter()
        .chain(OBJECTS)
        .map(|question| (*question, sql.ask(question).unwrap_or_else(|e| panic!("{question}: {e}"))))
        .collect()
}

#[track_caller]
pub(crate) fn assert_same(before: &[(&str, Vec<String>)], after: &[(&str, Vec<String>)], what: &str) {
    for (was, is) in before.iter().zip(after) {
        assert_eq!(was, is, "{what}");
    }
}

/// What runs is what is recorded, events go on, and the last operation of this kind turned nobody away.
#[track_caller]
pub(crate) fn assert_well(world: &World, instance: &Instance, version: &str, kind: &str) {
    let shown = world.show(&instance.id);
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    assert_eq!(shown["running_version"], shown["on_disk_version"], "{shown}");
    let mut sql = connect(instance);
    assert!(sql.ask("SELECT VERSION()").unwrap()[0].starts_with(version));
    assert_eq!(sql.ask("SELECT @@event_scheduler").unwrap(), ["ON"]);
    let fired = || connect(instance).ask("SELECT COUNT(*) FROM shop.ticks").unwrap();
    let so_far = fired();
    wait_for("another event", || fired() != so_far);
    let operations = world.operations(&instance.id);
    let newest = operations.iter().find(|operation| operation["kind"] == kind).unwrap();
    println!("{kind} {version}: gap {} ms, clients {}", newest["gap_ms"], newest["clients"]);
    for count in ["refused", "reset", "wrong"] {
        assert_eq!(newest["clients"][count], Value::from(0), "{newest}");
    }
    // What the engine refuses to read is not compared.
    assert!(!newest["steps"].to_string().contains("could not be read"), "{newest:#}");
}

/// Clients that come and go, each with a connection of its own.
pub(crate) struct Visitors {
    told: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Visitors {
    pub(crate) fn start(instance: &Instance) -> Self {
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
    pub(crate) fn stop(self, what: &str) {
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
pub(crate) struct Writers {
    told: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<u64>>>,
}

impl Writers {
    pub(crate) fn start(instance: &Instance) -> Self {
        connect(instance).run("DROP TABLE IF EXISTS shop.log");
        Self::start_from(instance, 0, Duration::ZERO)
    }

    /// The same with other numbers than those of writers before them, and into the same table, and so long between two writes.
    pub(crate) fn start_from(instance: &Instance, first: u64, thinks: Duration) -> Self {
        connect(instance).run("CREATE TABLE IF NOT EXISTS shop.log (n BIGINT PRIMARY KEY)");
        let (told, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let write = move |told: Arc<AtomicBool>, count: Arc<AtomicUsize>, instance: Instance, first: u64| {
            let (mut n, mut written) = (first, Vec::new());
            while !told.load(Ordering::Relaxed) {
                let Ok(mut sql) = Sql::open(address(&instance), TENANT, &instance.password) else {
                    std::thread::sleep(thinks);
                    continue;
                };
                while !told.load(Ordering::Relaxed) {
                    n += 1;
                    if sql.ask(&format!("INSERT INTO shop.log VALUES ({n})")).is_err() {
                        break;
                    }
                    written.push(n);
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(thinks);
                }
            }
            written
        };
        let threads = (first..first + 4).map(|writer| {
            let (told, count, instance) = (Arc::clone(&told), Arc::clone(&acknowledged), instance.clone());
            std::thread::spawn(move || write(told, count, instance, writer << 32))
        });
        Self { threads: threads.collect(), told, acknowledged }
    }

    /// Waits until more was acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_more(&self) {
        let enough = self.acknowledged.load(Ordering::Relaxed) + 50;
        wait_for("more writes", || self.acknowledged.load(Ordering::Relaxed) >= enough);
    }

    /// All that was acknowledged is there.
    #[track_caller]
    pub(crate) fn stop(self, instance: &Instance, what: &str) {
        let balance = self.stop_and_count(instance, false);
        let lost = &balance.lost;
        println!("{what}: {} writes acknowledged, {} lost", balance.acknowledged, lost.len());
        assert!(lost.is_empty(), "{what}: {lost:?}");
    }

    /// Ends them and counts. After a loss, what they wrote up to some moment is lost as it should be, and nothing after that.
    pub(crate) fn stop_and_count(self, instance: &Instance, after_a_loss: bool) -> Balance {
        self.told.store(true, Ordering::Relaxed);
        let written: Vec<Vec<u64>> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let there: BTreeSet<String> = connect(instance).ask("SELECT n FROM shop.log").unwrap().into_iter().collect();
        let is_lost = |n: &&u64| !there.contains(&n.to_string());
        let of_one = |written: &Vec<u64>| {
            let skipped = if after_a_loss { written.iter().take_while(is_lost).count() } else { 0 };
            written.iter().skip(skipped).filter(is_lost).map(u64::to_string).collect::<Vec<_>>()
        };
        let lost = written.iter().flat_map(of_one).collect();
        let acknowledged = written.iter().map(Vec::len).sum::<usize>() as u64;
        Balance { acknowledged, lost, ..Balance::default() }
    }
}

/// Where a version's programs are, for this world alone.
pub(crate) fn program(world: &World, version: &str, path: &str) -> PathBuf {
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release = list.as_array().unwrap().iter().find(|r| r["Datastore"] == "mariadb" && r["Version"] == version);
    let digest = release.unwrap()["Digest"].as_str().unwrap().replace(':', "-");
    world.data().join("engines/roots").join(digest).join(path)
}

/// Puts a script in the place of a program, which stays there as `<name>.real`.
pub(crate) fn replace(world: &World, version: &str, path: &str, script: &str) {
    let program = program(world, version, path);
    let real = program.with_extension("real");
    if !real.exists() {
        fs_err::rename(&program, &real).unwrap();
    }
    let _ = fs_err::remove_file(&program);
    fs_err::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
