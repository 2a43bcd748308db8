//! MySQL on real servers: an instance is made, restarted and taken to another version, and all that a client can read is the
//! same afterwards. The version before the one that Debian has runs in an emulator, so what concerns it takes minutes.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use support::mariadb::{Visitors, Writers, address, assert_same, assert_well, connect, read_all};
use support::sql::Sql;
use support::world::{Instance, World, kill, wait_for};

const OLD: &str = "9.7.2";
/// As the catalogue names it: whichever one Debian has.
const NEW: &str = "9.7";
/// Times that an emulator keeps, too.
const SLOW: &str = "hold_seconds = 600";

/// Something of every kind that an instance can hold. A statement each.
const FILL: &[&str] = &[
    "CREATE DATABASE shop",
    "USE shop",
    "SET SESSION cte_max_recursion_depth = 5000",
    "CREATE TABLE shop.kinds (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, i1 TINYINT, i2 SMALLINT, i3 MEDIUMINT, i4 INT, i8 BIGINT,
        b BIT(9), f FLOAT, d DOUBLE, n DECIMAL(30,10), da DATE, ti TIME(6), dt DATETIME(6), ts TIMESTAMP(3) NULL, y YEAR,
        c CHAR(9), vc VARCHAR(99) CHARACTER SET utf8mb4, bi BINARY(5), vb VARBINARY(99), tx TEXT, bl LONGBLOB,
        e ENUM('a','b'), s SET('x','y','z'), j JSON, g GEOMETRY, p POINT SRID 4326,
        gv INT GENERATED ALWAYS AS (i4 + 1) VIRTUAL, gs INT GENERATED ALWAYS AS (i4 * 2) STORED,
        KEY (vc), KEY ((i4 + i8)), KEY down (i4 DESC), FULLTEXT KEY (tx), CHECK (i1 < 100)) ENGINE=InnoDB",
    "INSERT INTO shop.kinds (i1,i2,i3,i4,i8,b,f,d,n,da,ti,dt,ts,y,c,vc,bi,vb,tx,bl,e,s,j,g,p)
        WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 300)
        SELECT n % 100, -n, n, n, n * 1000000000, b'101', n / 3, n / 7, n / 11, '2020-02-29', '12:34:56.789012',
        '2024-12-31 23:59:59.999999', '2024-06-01 12:00:00.123', 2024, 'char', CONCAT('grüße ', n), 'bin', X'00ff27',
        'some text', REPEAT(X'00', 300), 'b', 'x,z', '{\"a\": [1, null]}', POINT(n, 1.5),
        ST_GeomFromText('POINT(1 2)', 4326) FROM seq",
    "CREATE TABLE shop.arrows (a INT PRIMARY KEY, v VECTOR(3))",
    "INSERT INTO shop.arrows VALUES (1, STRING_TO_VECTOR('[1,2,3]'))",
    "INSERT INTO shop.kinds (id) VALUES (5000)",
    "CREATE TABLE shop.old (a INT PRIMARY KEY, t VARCHAR(20)) ENGINE=MyISAM",
    "INSERT INTO shop.old VALUES (1,'one'),(2,NULL)",
    "CREATE TABLE shop.safe (a INT, t VARCHAR(20))",
    "INSERT INTO shop.safe VALUES (1,'one'),(1,'one')",
    "CREATE TABLE shop.lines (a INT NOT NULL, t VARCHAR(20) NOT NULL) ENGINE=CSV",
    "INSERT INTO shop.lines VALUES (1,'one')",
    "CREATE TABLE shop.kept (a INT, t VARCHAR(20)) ENGINE=ARCHIVE",
    "INSERT INTO shop.kept VALUES (1,'one')",
    "CREATE TABLE shop.parts (a INT PRIMARY KEY, b INT) PARTITION BY HASH (a) PARTITIONS 3",
    "INSERT INTO shop.parts WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 2000)
        SELECT n, n FROM seq",
    "CREATE TABLE shop.packed (a INT PRIMARY KEY, b TEXT) ROW_FORMAT=COMPRESSED",
    "INSERT INTO shop.packed VALUES (1, REPEAT('x', 9999))",
    "CREATE TABLE shop.child (a INT PRIMARY KEY, k BIGINT UNSIGNED, FOREIGN KEY (k) REFERENCES shop.kinds (id))",
    "INSERT INTO shop.child VALUES (1, 5000)",
    "CREATE TABLE shop.ticks (at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP)",
    "CREATE VIEW shop.few AS SELECT id, vc FROM shop.kinds WHERE id < 5",
    "CREATE FUNCTION shop.twice (x INT) RETURNS INT DETERMINISTIC RETURN x * 2",
    "CREATE PROCEDURE shop.put (IN x INT) BEGIN INSERT INTO shop.old VALUES (x, 'put'); SELECT ROW_COUNT(); END",
    "CREATE TRIGGER shop.mark BEFORE INSERT ON shop.safe FOR EACH ROW SET NEW.t = CONCAT(IFNULL(NEW.t, ''), '!')",
    "CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.ticks VALUES (NOW())",
];

/// Accounts of several kinds. As the agent, since tenants make theirs over the API.
const ACCOUNTS: &[&str] = &[
    "CREATE USER ann@'%' IDENTIFIED BY 'secret of ann'",
    "CREATE ROLE reader",
    "GRANT SELECT ON shop.* TO reader",
    "GRANT reader TO ann@'%'",
    "SET DEFAULT ROLE reader TO ann@'%'",
    "GRANT INSERT (a), SELECT ON shop.old TO ann@'%'",
];

/// What is read before and after, and has to be the same.
const READ: &[&str] = &[
    "SELECT * FROM shop.kinds",
    "SELECT a, VECTOR_TO_STRING(v) FROM shop.arrows",
    "SELECT * FROM shop.old",
    "SELECT * FROM shop.safe",
    "SELECT * FROM shop.lines",
    "SELECT * FROM shop.kept",
    "SELECT * FROM shop.parts",
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

/// A world with images of these versions, and the number of the newer one. `None`, and said so, without them.
fn world(config: &str, versions: &[&str]) -> Option<(World, String)> {
    let world = World::start_with("", config)?;
    if !versions.iter().all(|version| world.has_image(&format!("mysql/{version}"))) {
        return None;
    }
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release = list.as_array().unwrap().iter().find(|r| r["Datastore"] == "mysql" && r["Version"] == NEW).unwrap();
    let number = release["Number"].as_str().unwrap().to_owned();
    Some((world, number))
}

/// An instance with something of every kind.
fn create(world: &World, version: &str) -> Instance {
    let instance = world.create_of(["3", "1"], "m", &format!("mysql/{version}"), &[]);
    let mut sql = connect(&instance);
    for statement in FILL {
        sql.run(statement);
    }
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    for statement in ACCOUNTS {
        agent.run(statement);
    }
    instance
}

/// All is well, and accounts are let in as they were.
fn check(world: &World, instance: &Instance, version: &str, kind: &str) {
    assert_well(world, instance, version, kind);
    let mut ann = Sql::open(address(instance), "ann", "secret of ann").unwrap();
    assert_eq!(ann.ask("SELECT COUNT(*) FROM shop.parts").unwrap(), ["2000"]);
}

#[test]
fn a_restart_changes_nothing_and_turns_nobody_away() {
    let Some((world, new)) = world("", &[NEW]) else { return };
    let instance = create(&world, &new);
    println!("gate: {}", world.show(&instance.id)["gate"]);
    let before = read_all(&instance, READ);
    let visitors = Visitors::start(&instance);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    visitors.stop("restart");
    assert_same(&before, &read_all(&instance, READ), "restart");
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
    let instance = create(&world, OLD);
    println!("gate: {}", world.show(&instance.id)["gate"]);
    let before = read_all(&instance, READ);
    let visitors = Visitors::start(&instance);
    world.coffer(["instance", "upgrade", "m", &new, "--wait"]).ok();
    visitors.stop("upgrade");
    assert_same(&before, &read_all(&instance, READ), "upgrade");
    check(&world, &instance, &new, "upgrade");
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    assert_eq!(agent.ask("SELECT COUNT(*) FROM mysql.user WHERE user = 'coffer'").unwrap(), ["1"]);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

/// Puts a script in the place of the newer version's program, for this world alone. It is for starts on the instance's own
/// data: what only tries the program gets the real one, which is `$real`.
fn replace_program(world: &World, script: &str) {
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release = list.as_array().unwrap().iter().find(|r| r["Datastore"] == "mysql" && r["Version"] == NEW).unwrap();
    let digest = release["Digest"].as_str().unwrap().replace(':', "-");
    let program = world.data().join("engines/roots").join(digest).join("usr/sbin/mysqld");
    let real = program.with_extension("real");
    if !real.exists() {
        // The root has no shell.
        fs_err::copy("/bin/busybox", program.with_file_name("busybox")).unwrap();
        fs_err::rename(&program, &real).unwrap();
    }
    let _ = fs_err::remove_file(&program);
    let text = format!(
        "#!/usr/sbin/busybox sh\nreal=/usr/sbin/mysqld.real\ncase \"$*\" in\n\
         *--validate-config*|*--initialize*|*--performance-schema=OFF*|*--version*) exec $real \"$@\";;\nesac\n{script}\n"
    );
    fs_err::write(&program, text).unwrap();
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

#[test]
fn an_upgrade_that_fails_ends_with_the_old_engine_and_all_that_it_held() {
    let Some((world, new)) = world(SLOW, &[OLD, NEW]) else { return };
    let instance = create(&world, OLD);
    let before = read_all(&instance, READ);
    for (name, script, told) in [
        ("it does not start", "exit 3", "ended while it started"),
        ("it dies half-way", "$real \"$@\" & /usr/sbin/busybox sleep 2; kill -9 $!; exit 3", "ended while it started"),
        (
            "a row is lost",
            "echo 'DELETE FROM shop.old WHERE a = 1;' >/tmp/lose; exec $real \"$@\" --init-file=/tmp/lose",
            "rows of shop.old",
        ),
    ] {
        replace_program(&world, script);
        let visitors = Visitors::start(&instance);
        let failed = world.coffer(["instance", "upgrade", "m", &new, "--wait"]);
        assert_eq!(failed.code, 6, "{name}: {failed:?}");
        let newest = world.operations(&instance.id).remove(0);
        assert_eq!(newest["phase"], "undone", "{name}: {newest:#}");
        assert!(newest["cause"].to_string().contains(told), "{name}: {}", newest["cause"]);
        assert_same(&before, &read_all(&instance, READ), name);
        visitors.stop(name);
        assert_eq!(connect(&instance).ask("SELECT SUBSTRING_INDEX(VERSION(), '-', 1)").unwrap(), [OLD], "{name}");
        let measures = "SELECT @@innodb_max_dirty_pages_pct > 0, @@read_only, @@event_scheduler";
        wait_for("the measures to be over", || connect(&instance).ask(measures).unwrap() == ["1|0|ON"]);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
