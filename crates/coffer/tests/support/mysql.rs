//! An instance of MySQL with something of every kind in it. The version before the one that Debian has runs in an emulator.

use std::process::Command;

use serde_json::{Value, json};

use super::mariadb::{Contents, address, assert_well, connect, read_all};
use super::sql::Sql;
use super::world::{Instance, World, link_all};

pub(crate) const OLD: &str = "9.7.2";
/// As the catalogue names it: whichever one Debian has.
pub(crate) const NEW: &str = "9.7";
/// Times that an emulator keeps, too.
pub(crate) const SLOW: &str = "hold_seconds = 600";

/// The series of [`native_world`]'s older version.
const BEFORE: &str = "9.6";
/// Its engine root, of which there is no image.
pub(crate) const BEFORE_ROOT: &str = "sha256-6666666666666666666666666666666666666666666666666666666666666666";
/// Its entry in the catalogue. What is not in the image store can be had nowhere.
pub(crate) const RELEASE: &str = "[[release]]\ndatastore = 'mysql'\nversion = '9.6'\nbinary = '/usr/sbin/mysqld'\n\
                       [[release.source]]\nfrom = 'root'\npath = 'nowhere'";

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

/// What tables hold, and views and functions tell.
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
];

/// A world with images of these versions, and the number of the newer one. `None`, and said so, without them.
pub(crate) fn world(config: &str, versions: &[&str]) -> Option<(World, String)> {
    with_images(World::start_with("", config)?, versions)
}

/// A world with a version before the one that Debian has which runs without an emulator, and the numbers of both: it is the same
/// program, but for the number that it says. For all that does not ask what an older one writes.
pub(crate) fn native_world(config: &str) -> Option<(World, String, String)> {
    let mut world = World::prepare(RELEASE, config)?;
    let (old, new) = add_older(&world)?;
    world.start_server();
    Some((world, old, new))
}

/// Adds that version to a world whose server does not run yet and whose catalogue has [`RELEASE`]. Gives the numbers of both.
pub(crate) fn add_older(world: &World) -> Option<(String, String)> {
    if !world.has_image(&format!("mysql/{NEW}")) {
        return None;
    }
    let new = world.number(&format!("mysql/{NEW}"));
    let old = new.replacen(NEW, BEFORE, 1);
    let engines = world.data().join("engines");
    let root = |digest: &str| engines.join("roots").join(digest.replace(':', "-"));
    let index = engines.join("images/index.json");
    let mut images: Value = serde_json::from_str(&fs_err::read_to_string(&index).unwrap()).unwrap();
    let manifests = images["manifests"].as_array_mut().unwrap();
    let is_new = |image: &&Value| {
        image["annotations"]["coffer.datastore"] == "mysql" && image["annotations"]["coffer.number"] == new.as_str()
    };
    let mut image = manifests.iter().find(is_new).unwrap().clone();
    let digest = BEFORE_ROOT.replace('-', ":");
    link_all(&root(image["digest"].as_str().unwrap()), &root(&digest));
    // It puts a new file in the place of the link.
    let number = format!("s/{}/{old}/g", new.replace('.', "\\."));
    let program = root(&digest).join("usr/sbin/mysqld");
    assert!(Command::new("sed").env("LC_ALL", "C").args(["-i", &number]).arg(&program).status().unwrap().success());
    image["digest"] = json!(digest);
    image["annotations"]["coffer.version"] = json!(BEFORE);
    image["annotations"]["coffer.number"] = json!(old);
    manifests.push(image);
    fs_err::write(&index, images.to_string()).unwrap();
    Some((old, new))
}

/// The same of a world that is there.
pub(crate) fn with_images(world: World, versions: &[&str]) -> Option<(World, String)> {
    if !versions.iter().all(|version| world.has_image(&format!("mysql/{version}"))) {
        return None;
    }
    let number = world.number(&format!("mysql/{NEW}"));
    Some((world, number))
}

/// An instance with something of every kind.
pub(crate) fn create(world: &World, name: &str, version: &str) -> Instance {
    let instance = world.create_of(["3", "1"], name, &format!("mysql/{version}"), &[]);
    fill(&instance);
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    for statement in ACCOUNTS {
        agent.run(statement);
    }
    instance
}

/// Fills one as its tenant can.
pub(crate) fn fill(instance: &Instance) {
    let mut sql = connect(instance);
    for statement in FILL {
        sql.run(statement);
    }
}

/// All is well, and accounts are let in as they were.
pub(crate) fn check(world: &World, instance: &Instance, version: &str, kind: &str) {
    assert_well(world, instance, version, kind);
    let mut ann = Sql::open(address(instance), "ann", "secret of ann").unwrap();
    assert_eq!(ann.ask("SELECT COUNT(*) FROM shop.parts").unwrap(), ["2000"]);
}

/// Puts a script in the place of the newer version's program, for this world alone. It is for starts on the instance's own
/// data: what only tries the program gets the real one, which is `$real`.
pub(crate) fn replace_program(world: &World, script: &str) {
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

/// What is read before and after, and has to be the same.
pub(crate) fn read(instance: &Instance) -> Contents {
    read_all(instance, READ)
}
