//! Every pair of versions that Coffer promises, on real servers: all that a client can see is the same after an upgrade as
//! before, and the data is kept afterwards as the configuration says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::Value;
use support::contents::{self, Contents};
use support::world::{Instance, World, kill, wait_for};

/// How an instance keeps its data.
#[derive(Clone, Copy)]
struct Keeping {
    name: &'static str,
    settings: &'static [(&'static str, &'static str)],
    appendonly: &'static str,
    save: &'static str,
}

const SAVE: &str = "3600 1 300 100 60 10000";
/// As instances are that nobody has said anything about.
const SNAPSHOTS: Keeping = Keeping { name: "rdb", settings: &[], appendonly: "no", save: SAVE };
const APPEND_ONLY: Keeping =
    Keeping { name: "aof", settings: &[("appendonly", "yes"), ("save", "")], appendonly: "yes", save: "" };
const BOTH: Keeping = Keeping { name: "both", settings: &[("appendonly", "yes")], appendonly: "yes", save: SAVE };
const NOT_AT_ALL: Keeping = Keeping { name: "nothing", settings: &[("save", "")], appendonly: "no", save: "" };

/// What the tenant has set besides, as the oldest version calls it, and as every version answers.
const SET: [(&str, &str); 4] = [
    ("maxmemory-policy", "volatile-lru"),
    ("hash-max-ziplist-entries", "100"),
    ("slowlog-log-slower-than", "20000"),
    ("notify-keyspace-events", "Ex"),
];

const LADDER: [&str; 7] = ["3.2.6", "5.0.6", "6.0.16", "6.2.14", "7.0.15", "8.0", "8.2.3"];

#[test]
fn an_instance_that_keeps_snapshots_climbs_the_ladder_of_redis() {
    climb(&LADDER, SNAPSHOTS);
}

#[test]
fn an_instance_that_appends_climbs_the_ladder_of_redis() {
    climb(&LADDER, APPEND_ONLY);
}

#[test]
fn from_6_0_to_8_0_at_once_however_data_is_kept() {
    for keeping in [SNAPSHOTS, APPEND_ONLY, BOTH, NOT_AT_ALL] {
        climb(&["6.0.16", "8.0"], keeping);
    }
}

#[test]
fn from_redis_7_0_over_to_valkey_8_1() {
    for keeping in [SNAPSHOTS, APPEND_ONLY] {
        climb(&["7.0.15", "valkey/8.1.1"], keeping);
    }
}

#[test]
fn the_ladder_of_valkey() {
    for keeping in [SNAPSHOTS, APPEND_ONLY] {
        climb(&["valkey/8.0.1", "valkey/8.1.1", "valkey/9.1"], keeping);
    }
}

#[test]
fn a_pair_that_cannot_work_is_refused_with_its_reason_and_nothing_is_touched() {
    let Some(world) = World::start() else { return };
    let pairs: [(&str, &[(&str, &str)]); 3] = [
        (
            "8.0",
            &[
                ("valkey/8.1.1", "Redis 7.4 and later write a format that no Valkey reads"),
                ("valkey/9.1", "Redis 7.4 and later write a format that no Valkey reads"),
                ("7.0.15", "an older engine does not read what a newer one wrote"),
                ("mariadb/10.11.18", "it is another kind of database"),
            ],
        ),
        (
            "valkey/9.1",
            &[
                ("redis/8.2.3", "Valkey 9 and later write a format that no Redis reads"),
                ("8.1.1", "an older engine does not read what a newer one wrote"),
            ],
        ),
        ("3.2.6", &[("valkey/9.1", "upgrade in steps: redis 7.0.15, then valkey 8.1.1, then valkey 9.1")]),
    ];
    for (from, refused) in pairs {
        if !world.has_image(from) {
            continue;
        }
        let name = from.replace('/', "-");
        let instance = world.create(&name, from, &[]);
        contents::fill(&mut world.redis(&instance), from);
        let before = contents::read(instance.address, &instance.password);
        let (engine, operations) = (world.engine_pid(&instance.id), world.operations(&instance.id).len());
        for (to, reason) in refused {
            for arguments in [&["--wait"][..], &["--dry-run"]] {
                let line = [&["instance", "upgrade", &name, to][..], arguments].concat();
                let said = world.coffer(&line);
                let what = format!("{from} to {to}: {said:?}");
                assert!(said.code == 3 || arguments == ["--dry-run"], "{what}");
                assert!(format!("{}{}", said.stdout, said.stderr).replace('\n', " ").contains(reason), "{what}");
            }
        }
        assert_eq!(world.engine_pid(&instance.id), engine, "the engine was not stopped");
        assert_eq!(world.operations(&instance.id).len(), operations, "nothing was begun");
        let shown = world.show(&instance.id);
        assert_eq!((&shown["status"], &shown["fault"]), (&Value::from("ACTIVE"), &Value::Null));
        before.assert_same(&contents::read(instance.address, &instance.password), from);
    }
}

/// Takes one instance from version to version, fills it at each, and compares what is there before and after.
fn climb(versions: &[&str], keeping: Keeping) {
    let Some(world) = World::start() else { return };
    let mut versions: Vec<_> = versions.iter().copied().filter(|version| world.has_image(version)).collect();
    let first = versions.remove(0);
    let settings: Vec<_> = SET.iter().chain(keeping.settings).copied().collect();
    let instance = world.create("climber", first, &settings);
    let mut at = first;
    check_settings(&world, &instance, keeping, at);
    for to in versions {
        let step = format!("{at} to {to}, {}", keeping.name);
        contents::fill(&mut world.redis(&instance), at);
        let before = contents::read(instance.address, &instance.password);
        let upgraded = world.coffer(["instance", "upgrade", "climber", to, "--wait", "-o", "json"]);
        assert_eq!(upgraded.code, 0, "{step}: {upgraded:?}");
        before.assert_same(&contents::read(instance.address, &instance.password), &step);
        check_version(&world, &instance, to);
        check_settings(&world, &instance, keeping, to);
        check_kept(&world, &instance, keeping, &before, &step);
        let operations = world.operations(&instance.id);
        let gap = &operations.iter().find(|operation| operation["kind"] == "upgrade").unwrap()["gap_ms"];
        println!("{step}: {} values the same, gap {gap} ms", before.len());
        at = to;
    }
    world.coffer(["instance", "delete", "climber", "--wait"]).ok();
}

/// What runs, and what the record and the engine itself say that it is.
fn check_version(world: &World, instance: &Instance, version: &str) {
    let (datastore, name) = version.split_once('/').unwrap_or(("redis", version));
    let shown = world.show(&instance.id);
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    assert_eq!(shown["datastore"]["type"], datastore, "{shown}");
    assert_eq!(shown["running_version"], shown["on_disk_version"], "{shown}");
    let info = world.redis(instance).ask(&["INFO", "server"]).unwrap();
    let info = String::from_utf8_lossy(info.text().unwrap()).into_owned();
    let says = info.lines().find_map(|line| line.strip_prefix(&format!("{datastore}_version:"))).unwrap();
    assert!(says == name || says.starts_with(&format!("{name}.")), "the engine says that it is {says} and not {name}");
    assert_eq!((&shown["running_version"], &shown["datastore"]["version"]), (&says.into(), &says.into()), "{shown}");
}

/// The tenant's settings are in force, and none of the measures that an upgrade takes for a while.
fn check_settings(world: &World, instance: &Instance, keeping: Keeping, version: &str) {
    let mut connection = world.redis(instance);
    let mut get = |name: &str| {
        let pair = connection.ask(&["CONFIG", "GET", name]).unwrap().items();
        String::from_utf8_lossy(pair.get(1).and_then(|value| value.text()).unwrap_or_default()).into_owned()
    };
    for (name, value) in SET {
        let (value, is): (Vec<_>, Vec<_>) = (value.chars().collect(), get(name).chars().collect());
        assert!(
            value.iter().all(|letter| is.contains(letter)) && value.len() == is.len(),
            "{version}: {name} is {is:?}"
        );
    }
    for (name, value) in [
        ("appendonly", keeping.appendonly),
        ("save", keeping.save),
        ("auto-aof-rewrite-percentage", "100"),
        ("hz", "10"),
        ("maxmemory", "402653184"),
        ("port", "6379"),
    ] {
        wait_for(&format!("{version}: {name} to be {value:?}"), || get(name) == value);
    }
}

/// What the configuration promises of the data: it outlives a restart in any case, and a kill wherever it is kept at all.
fn check_kept(world: &World, instance: &Instance, keeping: Keeping, before: &Contents, step: &str) {
    wait_for("temporary measures to be over", || world.show(&instance.id)["settling"] != true);
    kill_engine(world, instance);
    let mut before = before.clone();
    if keeping.appendonly == "no" && keeping.save.is_empty() {
        contents::fill(&mut world.redis(instance), step);
        before = contents::read(instance.address, &instance.password);
    }
    before.assert_same(&contents::read(instance.address, &instance.password), &format!("{step}, killed"));
    world.coffer(["instance", "restart", "climber", "--wait"]).ok();
    before.assert_same(&contents::read(instance.address, &instance.password), &format!("{step}, restarted"));
    check_settings(world, instance, keeping, step);
}

/// Kills the engine and waits until its agent has started another one that answers.
fn kill_engine(world: &World, instance: &Instance) {
    let engine = world.engine_pid(&instance.id).expect("the engine runs");
    kill(engine);
    wait_for("another engine", || world.engine_pid(&instance.id).is_some_and(|pid| pid != engine));
    wait_for("the engine to answer", || {
        let connection = support::resp::Connection::open(instance.address, Some(&instance.password));
        connection.is_ok_and(|mut connection| connection.ask(&["PING"]).is_ok())
    });
}
