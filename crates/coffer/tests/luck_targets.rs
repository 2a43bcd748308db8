//! Targets that go wrong: an engine that refuses its configuration, ends, says nothing or forgets. Whatever it does, the
//! old engine is back with everything it held, and who asks is told why.
//!
//! They are all one image, that of a real engine with a script in front of it. What goes wrong is said by a setting of the
//! instance that has no other effect, so that one server can be given all of them.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::Path;

use serde_json::json;
use support::unharmed::{Known, check_fault};
use support::world::{World, link_all, text};

/// The image's name in the catalogue; it says that it is 8.2.3.
const BAD: &str = "8.2";

/// What is in front of the real engine. It is there with data when it is started in earnest, and without when it is tried.
const SCRIPT: &str = r#"#!/bin/busybox sh
[ "$1" = --version ] && exec /usr/bin/redis-real --version
bad=$(busybox sed -n 's/^proc-title-template.*bad-\([a-z-]*\).*/\1/p' "$1")
data=$([ -e /data/appendonlydir ] && echo with-data)
case $bad/$data in
    refuses/*)
        echo '*** FATAL CONFIG FILE ERROR (Redis 8.2.3) ***'
        echo "Reading the configuration file, at line 7"
        echo "Bad directive or wrong number of arguments"
        exit 1 ;;
    hangs-when-tried/ | hangs/with-data) exec busybox sleep 3600 ;;
    ends/with-data) echo "Fatal: the data is in a format that I do not read"; exit 1 ;;
    ends-well/with-data) exit 0 ;;
    forgets/with-data) busybox rm -rf /data/* ;;
    evicts/with-data) exec /usr/bin/redis-real "$@" --maxmemory 2mb --maxmemory-policy allkeys-random ;;
esac
exec /usr/bin/redis-real "$@"
"#;

/// Puts the script in front of the program of `redis 8.2.3` and imports that.
fn import(world: &World) {
    let images = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let real = images.as_array().unwrap().iter().find(|image| image["Version"] == "8.2.3").unwrap();
    let root = world.data().join("engines/roots").join(text(&real["Digest"]).replace(':', "-"));
    let bad = world.data().join("bad");
    link_all(&root, &bad);
    let program = bad.join("usr/bin/redis-server");
    // By its target, since it may be a link, and under another name, since the file is the image store's too.
    fs_err::copy(fs_err::canonicalize(&program).unwrap(), bad.join("usr/bin/redis-real")).unwrap();
    fs_err::remove_file(&program).unwrap();
    write_program(&program, SCRIPT.as_bytes());
    fs_err::create_dir_all(bad.join("bin")).unwrap();
    write_program(&bad.join("bin/busybox"), &fs_err::read("/bin/busybox").unwrap());
    world.coffer(["engine", "import", "redis", BAD, bad.to_str().unwrap()]).ok();
}

fn write_program(path: &Path, content: &[u8]) {
    fs_err::write(path, content).unwrap();
    fs_err::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// One way in which a target goes wrong.
struct Bad {
    name: &'static str,
    /// What everybody is told.
    words: &'static [&'static str],
    /// Whether it is found before the old engine is stopped.
    found_before: bool,
}

const ALL: [Bad; 7] = [
    Bad {
        name: "refuses",
        words: &["FATAL CONFIG FILE ERROR", "does not start on its configuration"],
        found_before: true,
    },
    Bad { name: "hangs-when-tried", words: &["did not answer within 30 s"], found_before: true },
    Bad { name: "hangs", words: &["did not answer within 30 s"], found_before: false },
    Bad { name: "ends", words: &["ended while it started", "a format that I do not read"], found_before: false },
    Bad { name: "ends-well", words: &["ended while it started"], found_before: false },
    Bad {
        name: "forgets",
        words: &["not what it should be", "0 keys that do not expire instead of"],
        found_before: false,
    },
    Bad { name: "evicts", words: &["not what it should be", "it is missing"], found_before: false },
];

#[test]
fn a_target_that_goes_wrong_leaves_the_old_engine_with_all_it_held() {
    let entry = format!(
        "[[release]]\ndatastore = \"redis\"\nversion = {BAD:?}\nbinary = \"/usr/bin/redis-server\"\n\
         [[release.source]]\nfrom = \"root\"\npath = \"bad\"\n"
    );
    let Some(mut world) = World::prepare(&entry, "") else { return };
    import(&world);
    world.start_server();
    let mut cases = Vec::new();
    for (number, bad) in ALL.iter().enumerate() {
        let title = format!("{{title}} bad-{}", bad.name);
        let mut settings = vec![("proc-title-template", title.as_str())];
        if number % 2 == 0 {
            settings.push(("appendonly", "yes"));
        }
        let instance = world.create(bad.name, "7.0.15", &settings);
        // Enough that the smallest memory cannot hold it.
        let known = Known::fill(&world, &instance, 3000);
        let engine = world.engine_pid(&instance.id);
        cases.push((bad, known, engine));
    }
    // At once, because some take half a minute in which nothing happens.
    for bad in &ALL {
        world.coffer(["instance", "upgrade", bad.name, BAD]).ok();
    }
    for (bad, known, engine) in &cases {
        let id = &known.instance.id;
        let newest = world.wait_until_over(id);
        let (cause, gap, clients) = (&newest["cause"], &newest["gap_ms"], &newest["clients"]);
        println!("--- {}: {:#}", bad.name, json!({"cause": cause, "gap_ms": gap, "clients": clients}));
        assert_eq!(clients["attempts"].is_u64(), !bad.found_before, "{}: clients are counted on a way back", bad.name);
        assert_ne!(newest["cause"]["hint"], "", "{}: nothing says what to do", bad.name);
        assert!(newest["cause"]["message"].as_str().unwrap().len() < 700, "{}: nobody will read that", bad.name);
        check_fault(&world, id, bad.words);
        known.check_unharmed(&world);
        let same = world.engine_pid(id) == *engine;
        assert_eq!(same, bad.found_before, "{}: whether the old engine was never stopped", bad.name);
        let shown = world.coffer(["instance", "show", bad.name]).ok().stdout;
        assert!(bad.words.iter().all(|word| shown.contains(word)), "{shown}");
    }
    for (_, known, _) in &cases {
        known.check_upgrades(&world, "8.0.2");
    }
}

/// What an old engine took without looking at it, a newer one refuses, and no table knows.
#[test]
fn a_setting_that_only_the_target_itself_refuses_is_found_before_anything_is_stopped() {
    let Some(world) = World::start() else { return };
    let redis = world.create("redis_test", "5.0.6", &[("slowlog-log-slower-than", "-5")]);
    let known = Known::fill(&world, &redis, 300);
    let engine = world.engine_pid(&redis.id);
    let preview = world.coffer(["instance", "upgrade", "redis_test", "6.0.16", "--dry-run"]);
    println!("{}\n{}", preview.stdout, preview.stderr);
    assert_eq!(preview.code, 3, "{preview:?}");
    assert!(preview.stdout.contains("slowlog-log-slower-than"), "{preview:?}");
    let output = world.coffer(["instance", "upgrade", "redis_test", "6.0.16", "--wait"]);
    println!("{}", output.stderr);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(output.stderr.contains("slowlog-log-slower-than") && output.stderr.contains("hint:"), "{output:?}");
    check_fault(&world, &redis.id, &["slowlog-log-slower-than"]);
    assert_eq!(world.engine_pid(&redis.id), engine);
    known.check_unharmed(&world);
}
