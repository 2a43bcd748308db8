//! Bad input on real servers: every request that cannot work is refused with what is wrong and what to do, and nothing is
//! touched by it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::unharmed::{Known, check_fault};
use support::world::{Instance, World, text};

/// A version that the catalogue has, and nobody has the image of; one whose image is not what the catalogue says; and one
/// in whose image the program is not there. `STORE` is the image store of this world.
const UNAVAILABLE: &str = r#"
[[release]]
datastore = "redis"
version = "8.0.71"
binary = "/usr/bin/redis-server"
[[release.source]]
from = "archive"
path = "no-such-archive.tar.zst"

[[release]]
datastore = "redis"
version = "8.0.72"
binary = "/usr/bin/redis-server"
[[release.source]]
from = "oci-layout"
path = "engines/images"
digest = "sha256:00000000000000000000000000000000000000000000000000000000deadbeef"

[[release]]
datastore = "redis"
version = "8.0.73"
binary = "/usr/bin/redis-server"
[[release.source]]
from = "root"
path = "without-binary"
"#;

/// An instance of the admin's project.
fn create_elsewhere(world: &World) -> String {
    let body = json!({"instance": {
        "name": "elsewhere", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "redis", "version": "7.0.15"},
    }});
    let answer = world.ask("admin", "POST", "/instances", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    text(&answer.json()["instance"]["id"])
}

/// What must be the same after everything that was refused.
fn untouched(world: &World, instance: &Instance) -> (Option<u32>, Option<u32>, Vec<Value>) {
    (world.engine_pid(&instance.id), world.agent_pid(&instance.id), world.operations(&instance.id))
}

#[test]
fn what_cannot_work_is_refused_and_touches_nothing() {
    let Some(world) = World::start() else { return };
    let redis = world.create("seven", "7.0.15", &[]);
    let eight = world.create("eight", "8.0.2", &[]);
    let six = world.create("six", "6.0.16", &[("gopher-enabled", "yes")]);
    let elsewhere = create_elsewhere(&world);
    let known = [&redis, &eight, &six].map(|i| Known::fill(&world, i, 300));
    let all = || [&redis, &eight, &six].map(|i| untouched(&world, i));
    let before = all();

    let check = |instance: &str, version: &str, code: i32, words: &[&str]| {
        let output = world.coffer(["instance", "upgrade", instance, version]);
        println!("--- upgrade {instance} {version}: {}\n{}", output.code, output.stderr);
        assert_eq!(output.code, code, "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is not in {output:?}");
        }
        assert!(output.stderr.contains("hint:"), "nothing says what to do: {output:?}");
        assert_eq!(all(), before, "upgrade {instance} {version} touched something");
    };
    check("seven", "9.9.9", 3, &["9.9.9", "coffer datastore version list redis"]);
    check("seven", "no such version", 3, &["no such version", "coffer datastore version list redis"]);
    check("seven", "mysql/8.0", 3, &["mysql/8.0", "coffer datastore version list redis"]);
    check("seven", "01234567-89ab-cdef-0123-456789abcdef", 4, &["coffer datastore version list redis"]);
    check("eight", "7.0.15", 3, &["it is older", "redis 8.2.3"]);
    check("eight", "valkey/8.1.1", 3, &["no Valkey reads", "redis 8.2.3"]);
    check("seven", "valkey/9.1", 3, &["only Valkey 8", "upgrade in steps: valkey 8"]);
    check("six", "7.0.15", 3, &["gopher-enabled", "change or remove it"]);
    check("nobody", "8.0.2", 4, &["nobody", "coffer instance list"]);
    check(&elsewhere, "8.0.2", 4, &[&elsewhere, "coffer instance list"]);
    check("01234567-89ab-cdef-0123-456789abcdef", "8.0.2", 4, &["01234567", "coffer instance list"]);

    // Inactive, for as long as the administrator says so.
    let versions = world.ask("admin", "GET", "/mgmt/datastore-versions", &Value::Null).json();
    let found = versions["versions"].as_array().unwrap().iter().find(|v| v["name"] == "8.2.3").unwrap();
    let path = format!("/mgmt/datastore-versions/{}", text(&found["id"]));
    assert_eq!(world.ask("demo", "PATCH", &path, &json!({"active": false})).status, 401);
    assert_eq!(world.ask("admin", "PATCH", &path, &json!({"active": false})).status, 202);
    check("seven", "8.2.3", 3, &["8.2.3", "not active", "8.0.2"]);
    let listed = world.coffer(["datastore", "version", "list", "redis"]).ok().stdout;
    assert!(!listed.contains("8.2.3"), "{listed}");

    for known in &known {
        known.check_unharmed(&world);
    }
    known[0].check_upgrades(&world, "8.0.2");
}

#[test]
fn another_project_is_told_no_more_than_that_there_is_no_such_instance() {
    let Some(world) = World::start() else { return };
    let elsewhere = create_elsewhere(&world);
    let nowhere = "01234567-89ab-cdef-0123-456789abcdef";
    let upgrade = json!({"instance": {"datastore_version": "8.0.2"}});
    let restart = json!({"restart": {}});
    for (method, path, body) in [
        ("GET", "", &Value::Null),
        ("GET", "/operations", &Value::Null),
        ("PATCH", "", &upgrade),
        ("PUT", "", &upgrade),
        ("PATCH", "", &json!({"malformed": true})),
        ("POST", "/action", &restart),
        ("POST", "/upgrade-preview", &json!({"upgrade": {"datastore_version": "8.0.2"}})),
        ("DELETE", "", &Value::Null),
    ] {
        let [foreign, none] = [elsewhere.as_str(), nowhere].map(|id| {
            let answer = world.ask("demo", method, &format!("/instances/{id}{path}"), body);
            (answer.status, answer.body.replace(id, "ID"))
        });
        assert_eq!(foreign.0, 404, "{method} {path}: {foreign:?}");
        assert_eq!(foreign, none, "{method} {path}");
    }
    let listed = world.ask("demo", "GET", "/instances", &Value::Null);
    assert!(!listed.body.contains(&elsewhere), "{listed:?}");
}

#[test]
fn the_same_version_is_proven_and_nothing_is_restarted() {
    let Some(world) = World::start() else { return };
    let redis = world.create("redis_test", "7.0.15", &[]);
    let known = Known::fill(&world, &redis, 300);
    let before = (world.engine_pid(&redis.id), world.agent_pid(&redis.id));
    let output = world.coffer(["instance", "upgrade", "redis_test", "7.0.15", "--wait", "-o", "json"]).ok().json();
    println!("{output:#}");
    let steps: Vec<_> = output["steps"].as_array().unwrap().iter().map(|step| text(&step["name"])).collect();
    assert_eq!(steps, ["verify"]);
    assert_eq!(output["phase"], "done");
    assert_eq!((world.engine_pid(&redis.id), world.agent_pid(&redis.id)), before);
    known.check_unharmed(&world);
}

#[test]
fn a_busy_instance_refuses_everything_else_and_finishes_what_it_does() {
    let Some(world) = World::start() else { return };
    let redis = world.create("redis_test", "7.0.15", &[]);
    let known = Known::fill(&world, &redis, 300);
    world.coffer(["instance", "upgrade", "redis_test", "8.0.2"]).ok();
    let shown = world.show(&redis.id);
    assert_eq!((&shown["status"], &shown["datastore"]["version"]), (&json!("UPGRADE"), &json!("8.0.2")), "{shown}");
    assert_eq!(shown["running_version"], "7.0.15", "{shown}");
    for arguments in
        [vec!["upgrade", "redis_test", "8.2.3"], vec!["restart", "redis_test"], vec!["delete", "redis_test"]]
    {
        let output = world.coffer(["instance"].into_iter().chain(arguments));
        println!("{}", output.stderr);
        assert_eq!(output.code, 3, "{output:?}");
        for word in ["another operation is running: upgrade", "coffer instance operations"] {
            assert!(output.stderr.contains(word), "{output:?}");
        }
    }
    assert_eq!(world.wait_until_over(&redis.id)["phase"], "done");
    known.check_upgraded(&world, "8.0.2");
    assert_eq!(world.operations(&redis.id).len(), 2);
}

#[test]
fn an_image_that_cannot_be_had_stops_nothing() {
    let Some(world) = World::start_with(UNAVAILABLE, "") else { return };
    fs_err::create_dir_all(world.data().join("without-binary/usr/bin")).unwrap();
    fs_err::write(world.data().join("without-binary/usr/bin/something-else"), "").unwrap();
    let redis = world.create("redis_test", "7.0.15", &[]);
    let known = Known::fill(&world, &redis, 300);
    let before = (world.engine_pid(&redis.id), world.agent_pid(&redis.id));
    for (version, words) in [
        ("8.0.71", ["8.0.71", "no-such-archive.tar.zst"]),
        ("8.0.72", ["8.0.72", "deadbeef"]),
        ("8.0.73", ["8.0.73", "/usr/bin/redis-server"]),
    ] {
        let output = world.coffer(["instance", "upgrade", "redis_test", version, "--wait"]);
        println!("--- {version}\n{}", output.stderr);
        assert_eq!(output.code, 6, "{output:?}");
        assert!(output.stderr.contains("hint:"), "{output:?}");
        for word in words {
            assert!(output.stderr.contains(word), "{word:?} is not in {output:?}");
        }
        check_fault(&world, &redis.id, &words);
        assert_eq!((world.engine_pid(&redis.id), world.agent_pid(&redis.id)), before, "{version}");
        known.check_unharmed(&world);
        let imported = world.coffer(["engine", "fetch", "redis", version]);
        assert_ne!(imported.code, 0, "{imported:?}");
        assert!(words.iter().all(|word| imported.stderr.contains(word)), "{imported:?}");
    }
    let wrong = world.data().join("without-binary").display().to_string();
    let imported = world.coffer(["engine", "import", "redis", "8.0.71", &wrong]);
    println!("{}", imported.stderr);
    assert!(imported.code != 0 && imported.stderr.contains("/usr/bin/redis-server"), "{imported:?}");
    known.check_upgrades(&world, "8.0.2");
}

#[test]
fn settings_that_cannot_be_had_are_refused_at_once() {
    let Some(world) = World::start() else { return };
    for (setting, words) in [
        ("no-such-setting=1", ["no-such-setting", "no such setting"]),
        ("maxmemory-policy=sometimes", ["maxmemory-policy", "allkeys-lru"]),
        ("dir=/etc", ["dir", "cannot be chosen"]),
        ("save=900", ["save", "pairs"]),
    ] {
        let line =
            ["instance", "create", "x", "--flavor", "1", "--size", "1", "--datastore-version", "7.0.15", "--set"];
        let output = world.coffer(line.into_iter().chain([setting]));
        println!("--- {setting}\n{}", output.stderr);
        assert_eq!(output.code, 3, "{output:?}");
        assert!(words.iter().all(|word| output.stderr.contains(word)), "{output:?}");
    }
    assert_eq!(world.coffer(["instance", "list", "-o", "json"]).ok().json(), json!([]));
}

#[test]
fn bodies_that_make_no_sense_are_refused_with_the_reason() {
    let Some(world) = World::start() else { return };
    let redis = world.create("redis_test", "7.0.15", &[]);
    let known = Known::fill(&world, &redis, 300);
    let before = untouched(&world, &redis);
    let (one, actions) = (format!("/instances/{}", redis.id), format!("/instances/{}/action", redis.id));
    let large = format!("{{\"instance\": {{\"name\": \"{}\"}}}}", "x".repeat(4 << 20));
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let json = "application/json";
    let cases: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("PATCH", &one, json, "{\"instance\": ", 400, "Malformed"),
        ("PATCH", &one, json, "", 400, ""),
        ("PATCH", &one, json, "null", 400, ""),
        ("PATCH", &one, json, "[]", 400, ""),
        ("PATCH", &one, json, &deep, 400, ""),
        ("PATCH", &one, json, "{\"instance\": 7}", 400, "instance"),
        ("PATCH", &one, json, "{\"instance\": {\"datastore_version\": 8}}", 400, "datastore_version"),
        ("PATCH", &one, json, "{\"instance\": {\"datastore_version\": [\"8.0.2\"]}}", 400, "datastore_version"),
        ("PUT", &one, json, "{\"instance\": {\"datastore_version\": \"\"}}", 400, "datastore_version"),
        ("PATCH", &one, json, &large, 413, "longer than"),
        ("PATCH", &one, "text/plain", "{\"instance\": {\"datastore_version\": \"8.0.2\"}}", 415, ""),
        ("POST", &actions, json, "{\"restart\": {}, \"resize\": {}}", 400, ""),
        ("POST", &actions, json, "{\"explode\": {}}", 400, "explode"),
        ("POST", "/instances", json, "{\"instance\": {\"name\": \"x\", \"flavorRef\": {}}}", 400, "flavorRef"),
        (
            "POST",
            "/instances",
            json,
            "{\"instance\": {\"name\": \"x\", \"flavorRef\": \"1\", \"volume\": 1}}",
            400,
            "volume",
        ),
    ];
    for (method, path, content_type, body, status, word) in cases {
        let answer = world.send("demo", method, path, content_type, body.as_bytes());
        let shown: String = body.chars().take(80).collect();
        println!("{method} {content_type} {shown}: {} {}", answer.status, answer.body);
        assert_eq!(answer.status, *status, "{method} {shown}: {answer:?}");
        assert!(answer.body.contains(word), "{word:?} is not in the answer to {method} {shown}: {answer:?}");
    }
    assert_eq!(untouched(&world, &redis), before);
    known.check_unharmed(&world);
}
