//! The way back after success, on real servers: it loses what it said beforehand and nothing else, whatever happens on it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use serde_json::{Value, json};
use support::contents::{self, Contents};
use support::dataset::{self, Summary};
use support::faulty::{self, Mood};
use support::mariadb;
use support::resp::Connection;
use support::strike::{Moment, strike};
use support::struck::{AGENT, ALL, Blow};
use support::unharmed::wait_until_settled;
use support::world::{Instance, World, kill, wait_for};

/// The steps of a section that goes back to a pre-image, in their order.
const STEPS: [&str; 9] = ["prepare", "quiesce", "stop", "keep", "swap", "restore", "start", "prove", "open"];

fn upgrade(world: &World, name: &str, to: &str) {
    world.coffer(["instance", "upgrade", name, to, "--wait"]).ok();
}

fn roll_back(world: &World, name: &str) {
    world.coffer(["instance", "rollback", name, "--yes", "--wait"]).ok();
}

/// What a rollback would do, as programs read it.
fn preview(world: &World, name: &str) -> Value {
    let said = world.coffer(["instance", "rollback", name, "--dry-run", "-o", "json"]).ok();
    println!("{}", world.coffer(["instance", "rollback", name, "--dry-run"]).ok().stdout);
    said.json()
}

/// The command is refused in these words, with something to do next.
#[track_caller]
fn refused(world: &World, arguments: &[&str], words: &[&str]) {
    let said = world.coffer(arguments);
    assert_eq!(said.code, 3, "{said:?}");
    for word in words.iter().chain(&["hint:"]) {
        assert!(said.stderr.contains(word), "{word:?} is not in {said:?}");
    }
}

fn connect(instance: &Instance) -> Connection {
    Connection::open(instance.address, Some(&instance.password)).expect("the engine answers at its address")
}

fn read(instance: &Instance) -> Contents {
    contents::read(instance.address, &instance.password)
}

#[track_caller]
fn check_version(world: &World, instance: &Instance, label: &str) {
    let shown = world.show(&instance.id);
    assert_eq!(shown["status"], "ACTIVE", "{shown}");
    let version =
        format!("{} {}", shown["datastore"]["type"].as_str().unwrap(), shown["datastore"]["version"].as_str().unwrap());
    assert_eq!(version, label, "{shown}");
    let number = label.split(' ').nth(1).unwrap();
    wait_for("the running version to be told", || {
        let shown = world.show(&instance.id);
        shown["running_version"] == number && shown["on_disk_version"] == number
    });
    // One that saves has a child for that.
    wait_for("a single engine", || world.engines_on(&instance.id).len() == 1);
}

/// The names of the pre-images that are there.
fn preimages(world: &World, id: &str) -> usize {
    fs_err::read_dir(world.volume(id).join("pre")).unwrap().count()
}

#[test]
fn a_redis_goes_back_with_what_it_held_and_loses_what_was_announced() {
    let Some(world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &[("maxmemory-policy", "volatile-lru")]);
    contents::fill(&mut world.redis(&instance), "before");
    refused(&world, &["instance", "rollback", "r", "--yes"], &["it was never upgraded"]);
    refused(&world, &["instance", "finalize", "r"], &["it was never upgraded"]);
    let before = read(&instance);
    upgrade(&world, "r", "8.0");
    let shown = world.show(&instance.id);
    assert_eq!(shown["rollback"]["version"], "redis 7.0.15", "{shown}");
    assert!(shown["rollback"]["until"].as_str() > shown["rollback"]["since"].as_str(), "{shown}");

    assert_eq!(preview(&world, "r")["loss"]["writes"], 0, "nobody wrote since");
    let mut redis = world.redis(&instance);
    for n in 0..30 {
        redis.ask(&["SET", &format!("since:{n}"), "new"]).unwrap();
        redis.ask(&["GET", &format!("since:{n}")]).unwrap();
    }
    redis.ask(&["RPUSH", "since:list", "a", "b"]).unwrap();
    redis.ask(&["XGROUP", "CREATE", "since:stream", "readers", "$", "MKSTREAM"]).unwrap();
    redis.ask(&["EVAL", "return redis.call('INCR', KEYS[1])", "1", "since:count"]).unwrap();
    assert!(before.len() > 100);
    let plan = preview(&world, "r");
    assert_eq!(
        (&plan["loss"]["writes"], &plan["loss"]["at_least"], &plan["in_place"]),
        (&Value::from(33), &Value::from(false), &Value::from(false)),
        "{plan}"
    );
    let since = read(&instance);

    let engine = world.engine_pid(&instance.id);
    refused(
        &world,
        &["instance", "rollback", "r"],
        &["nobody is at a terminal", "coffer instance rollback r --yes --wait"],
    );
    let path = format!("/instances/{}/rollback", instance.id);
    let unconfirmed = world.ask("demo", "POST", &path, &json!({"rollback": {}}));
    assert!((400..500).contains(&unconfirmed.status), "{unconfirmed:?}");
    assert!(unconfirmed.json().to_string().contains("rollback.unconfirmed"), "{unconfirmed:?}");
    assert_eq!(world.engine_pid(&instance.id), engine, "nothing was touched");

    roll_back(&world, "r");
    check_version(&world, &instance, "redis 7.0.15");
    before.assert_same(&read(&instance), "back");
    wait_until_settled(&world, &instance.id);
    before.assert_same(&read(&instance), "back and settled");
    assert_eq!(preimages(&world, &instance.id), 2, "the upgrade's and the rollback's");
    let newest = world.operations(&instance.id).remove(0);
    assert_eq!((&newest["kind"], &newest["phase"]), (&Value::from("rollback"), &Value::from("done")));
    println!("gap of the rollback: {} ms, clients {}", newest["gap_ms"], newest["clients"]);
    let told = newest["findings"].to_string();
    assert!(told.contains("what 33 commands that write did since then is lost"), "{told}");

    // The rollback of the rollback brings what was lost.
    assert_eq!(world.show(&instance.id)["rollback"]["version"], "redis 8.0.2");
    roll_back(&world, "r");
    check_version(&world, &instance, "redis 8.0.2");
    since.assert_same(&read(&instance), "forth again");

    // An engine that was started anew does not know what was before.
    world.redis(&instance).ask(&["SET", "forgotten", "1"]).unwrap();
    kill(world.engine_pid(&instance.id).unwrap());
    wait_for("another engine", || {
        let again = Connection::open(instance.address, Some(&instance.password));
        again.is_ok_and(|mut again| again.ask(&["SET", "known", "1"]).is_ok())
    });
    wait_for("its agent to see it", || world.show(&instance.id)["operating_status"] == "HEALTHY");
    let plan = preview(&world, "r");
    assert_eq!((&plan["loss"]["writes"], &plan["loss"]["at_least"]), (&Value::from(1), &Value::from(true)), "{plan}");

    world.coffer(["instance", "finalize", "r", "--wait"]).ok();
    wait_for("the pre-images to go", || preimages(&world, &instance.id) == 0);
    let shown = world.show(&instance.id);
    assert_eq!((&shown["status"], &shown["rollback"]), (&Value::from("ACTIVE"), &Value::Null), "{shown}");
    refused(&world, &["instance", "rollback", "r", "--yes"], &["was finalized at"]);
    refused(&world, &["instance", "finalize", "r"], &["was finalized at"]);
    check_version(&world, &instance, "redis 8.0.2");
}

#[test]
fn where_the_older_engine_reads_the_data_nothing_is_lost() {
    let Some(world) = World::start() else { return };
    if !world.has_image("valkey/8.0.1") {
        return;
    }
    let instance = world.create("v", "valkey/8.0.1", &[]);
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "v", "8.1.1");
    contents::fill(&mut world.redis(&instance), "since");
    let since = read(&instance);
    let plan = preview(&world, "v");
    assert_eq!((&plan["in_place"], &plan["loss"]), (&Value::from(true), &Value::Null), "{plan}");
    // Nobody needs to agree to a loss that there is not.
    let path = format!("/instances/{}/rollback", instance.id);
    assert_eq!(world.ask("demo", "POST", &path, &json!({"rollback": {}})).status, 202);
    let newest = world.wait_until_over(&instance.id);
    assert_eq!(newest["phase"], "done", "{newest:#}");
    check_version(&world, &instance, "valkey 8.0.1");
    since.assert_same(&read(&instance), "back");
    wait_until_settled(&world, &instance.id);
    since.assert_same(&read(&instance), "back and settled");

    // Who wants the data from before gets them even so.
    upgrade(&world, "v", "8.1.1");
    since.assert_same(&read(&instance), "upgraded again");
    world.redis(&instance).ask(&["FLUSHALL"]).unwrap();
    world.coffer(["instance", "rollback", "v", "--restore", "--yes", "--wait"]).ok();
    check_version(&world, &instance, "valkey 8.0.1");
    since.assert_same(&read(&instance), "what was thrown away is there again");
    assert!(before.len() < since.len());
}

#[test]
fn a_valkey_that_was_a_redis_is_one_again() {
    let Some(world) = World::start() else { return };
    if !world.has_image("valkey/8.1.1") {
        return;
    }
    let instance = world.create("r", "7.0.15", &[]);
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "r", "valkey/8.1.1");
    contents::fill(&mut world.redis(&instance), "since");
    assert_eq!(world.show(&instance.id)["rollback"]["version"], "redis 7.0.15");
    roll_back(&world, "r");
    check_version(&world, &instance, "redis 7.0.15");
    before.assert_same(&read(&instance), "back");
}

#[test]
fn an_older_engine_that_cannot_have_its_data_again_leaves_the_newer_one_with_all_that_it_held() {
    const OLD: &str = "7.0.18";
    let Some(mut world) = World::prepare(&faulty::entry(OLD), "") else { return };
    faulty::import(&world, "7.0.15", OLD);
    world.start_server();
    let instance = world.create("r", OLD, &[]);
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "r", "8.0");
    contents::fill(&mut world.redis(&instance), "since");
    let since = read(&instance);
    // What is torn off the end of a file that nothing was appended to shows nothing.
    for mood in [Mood::Ends, Mood::Forgets] {
        faulty::set_mood(&world, &instance, mood);
        let failed = world.coffer(["instance", "rollback", "r", "--yes", "--wait"]);
        assert_eq!(failed.code, 6, "{mood:?}: {failed:?}");
        check_version(&world, &instance, "redis 8.0.2");
        since.assert_same(&read(&instance), &format!("{mood:?}"));
        assert_eq!(preimages(&world, &instance.id), 1, "that of the upgrade alone");
        println!("{mood:?}: {}", world.show(&instance.id)["fault"]["message"]);
    }
    fs_err::remove_file(world.volume(&instance.id).join("run/mood")).unwrap();
    roll_back(&world, "r");
    check_version(&world, &instance, &format!("redis {OLD}"));
    before.assert_same(&read(&instance), "after all that");
}

/// What an instance holds: how more is written, how all is read, and how two readings are compared.
struct Held<C> {
    fill: fn(&Instance, &str),
    read: fn(&Instance) -> C,
    same: fn(&C, &C, &str),
}

/// Back and forth between two versions, struck when each of these steps begins: each rollback goes to what there was before the
/// one before it. Gives how each ended.
fn struck<C>(
    world: &mut World,
    instance: &Instance,
    steps: &[&str],
    (victim, blow): Blow,
    Held { fill, read, same }: Held<C>,
) {
    let mut there = read(instance);
    let name = world.show(&instance.id)["name"].as_str().unwrap().to_owned();
    upgrade(world, &name, if name == "m" { "10.11.19" } else { "8.0" });
    for step in steps {
        fill(instance, step);
        let given_up = read(instance);
        let ask = |world: &mut World| {
            let back = json!({"rollback": {"accept_loss": true}});
            assert_eq!(world.ask("demo", "POST", &format!("/instances/{}/rollback", instance.id), &back).status, 202);
        };
        let at = STEPS.iter().position(|s| s == step).unwrap();
        strike(world, instance, Moment::Forward(at), ask, |world| blow(world, instance));
        world.start_server();
        let newest = world.wait_until_over(&instance.id);
        println!("{victim} killed at {step}: {}, gap {} ms", newest["phase"], newest["gap_ms"]);
        if newest["phase"] == "done" {
            same(&there, &read(instance), step);
            there = given_up;
        } else {
            assert_ne!(victim, "agent", "{step}: {newest:#}");
            same(&given_up, &read(instance), step);
        }
        wait_for("a single engine", || world.engines_on(&instance.id).len() == 1);
    }
}

/// Something of every kind that a Redis can hold.
const REDIS: Held<Contents> = Held {
    fill: |instance, by| contents::fill(&mut connect(instance), by),
    read,
    same: |before, after, when| before.assert_same(after, when),
};

#[test]
fn an_agent_that_is_killed_at_a_step_of_a_rollback_is_followed_by_one_that_goes_on() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &[]);
    struck(&mut world, &instance, &STEPS, AGENT, REDIS);
    assert_eq!(preimages(&world, &instance.id), 1 + STEPS.len());
    check_version(&world, &instance, "redis 7.0.15");
}

#[test]
fn a_rollback_ends_wholly_old_or_wholly_new_whoever_dies() {
    let Some(mut world) = World::start() else { return };
    // One that keeps snapshots has promised nobody to hold what was written since the last, and none its users before they are saved.
    let instance = world.create("r", "7.0.15", &[("appendonly", "yes")]);
    let fill = |instance: &Instance, by: &str| {
        connect(instance)
            .pipeline((0..500).map(|n| ["SET".to_owned(), format!("{by}:{n}"), "value".to_owned()]))
            .unwrap();
    };
    let read = |instance: &Instance| dataset::summarize(&mut connect(instance)).unwrap();
    let same = |before: &Summary, after: &Summary, when: &str| assert_eq!(before, after, "{when}");
    struck(
        &mut world,
        &instance,
        &["prepare", "stop", "keep", "restore", "start", "open"],
        ALL,
        Held { fill, read, same },
    );
}

#[test]
fn an_agent_of_a_mariadb_that_is_killed_during_a_rollback_is_followed_by_one_that_goes_on() {
    let Some(mut world) = mariadb::world("", &["10.5.23", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.5.23", &[]);
    mariadb::fill(&mut mariadb::connect(&instance));
    mariadb::connect(&instance).run("ALTER EVENT shop.tick DISABLE");
    let fill = |instance: &Instance, by: &str| {
        mariadb::connect(instance).run(&format!("REPLACE INTO shop.old VALUES (1000 + CRC32('{by}') % 1000, '{by}')"));
    };
    let same =
        |before: &mariadb::Contents, after: &mariadb::Contents, when: &str| mariadb::assert_same(before, after, when);
    struck(
        &mut world,
        &instance,
        &["keep", "restore", "start", "open"],
        AGENT,
        Held { fill, read: mariadb::read, same },
    );
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn what_has_had_its_time_is_removed_and_there_is_no_way_back() {
    let Some(world) = World::start_with("", "preimage_keep_hours = 0") else { return };
    let instance = world.create("r", "7.0.15", &[]);
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "r", "8.0");
    wait_for("the pre-image to go", || preimages(&world, &instance.id) == 0);
    wait_for("that to be told", || world.show(&instance.id)["rollback"].is_null());
    refused(&world, &["instance", "rollback", "r", "--yes"], &["the time in which its upgrade of", "is over"]);
    before.assert_same(&read(&instance), "a pre-image is gone");
}

#[test]
fn a_mariadb_goes_back_with_what_it_held_and_loses_what_was_announced() {
    const OLD: &str = "10.5.23";
    let Some(world) = mariadb::world("", &[OLD, "10.11.19"]) else { return };
    let instance = world.create("m", &format!("mariadb/{OLD}"), &[("event_scheduler", "ON")]);
    mariadb::fill(&mut mariadb::connect(&instance));
    // Events would be counted, too, and nobody knows how many there are.
    mariadb::connect(&instance).run("ALTER EVENT shop.tick DISABLE");
    let before = mariadb::read(&instance);
    upgrade(&world, "m", "10.11.19");
    let mut sql = mariadb::connect(&instance);
    for statement in [
        "INSERT INTO shop.old VALUES (77, 'since')",
        "UPDATE shop.parts SET b = 0 WHERE a < 100",
        "CREATE TABLE shop.since (a INT)",
        "SELECT COUNT(*) FROM shop.parts",
        "DROP TABLE shop.packed",
    ] {
        sql.run(statement);
    }
    drop(sql);
    let plan = preview(&world, "m");
    assert_eq!(
        (&plan["loss"]["writes"], &plan["loss"]["at_least"], &plan["in_place"]),
        (&Value::from(4), &Value::from(false), &Value::from(false)),
        "{plan}"
    );

    let server = "usr/sbin/mariadbd";
    mariadb::replace(&world, OLD, server, "[ -d /data/shop ] && exit 3; exec /usr/sbin/mariadbd.real \"$@\"");
    let failed = world.coffer(["instance", "rollback", "m", "--yes", "--wait"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    let mut sql = mariadb::connect(&instance);
    assert!(sql.ask("SELECT VERSION()").unwrap()[0].starts_with("10.11.19"));
    assert_eq!(sql.ask("SELECT a FROM shop.old WHERE a = 77").unwrap(), ["77"]);
    drop(sql);
    mariadb::replace(&world, OLD, server, "exec /usr/sbin/mariadbd.real \"$@\"");

    roll_back(&world, "m");
    mariadb::assert_same(&before, &mariadb::read(&instance), "back");
    let mut sql = mariadb::connect(&instance);
    assert!(sql.ask("SELECT VERSION()").unwrap()[0].starts_with(OLD));
    assert_eq!(sql.ask("SELECT @@event_scheduler, @@read_only").unwrap(), ["ON|0"]);
    let newest = world.operations(&instance.id).remove(0);
    println!("gap of the rollback: {} ms, clients {}", newest["gap_ms"], newest["clients"]);
    world.coffer(["instance", "restart", "m", "--wait"]).ok();
    mariadb::assert_same(&before, &mariadb::read(&instance), "back and restarted");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn within_a_series_a_mariadb_goes_back_and_loses_nothing() {
    let Some(world) = mariadb::world("", &["10.11.18", "10.11.19"]) else { return };
    let instance = world.create("m", "mariadb/10.11.18", &[("event_scheduler", "ON")]);
    mariadb::fill(&mut mariadb::connect(&instance));
    upgrade(&world, "m", "10.11.19");
    mariadb::connect(&instance).run("INSERT INTO shop.old VALUES (77, 'since')");
    let since = mariadb::read(&instance);
    let plan = preview(&world, "m");
    assert_eq!((&plan["in_place"], &plan["loss"]), (&Value::from(true), &Value::Null), "{plan}");
    roll_back(&world, "m");
    mariadb::assert_same(&since, &mariadb::read(&instance), "back");
    mariadb::assert_well(&world, &instance, "10.11.18", "rollback");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
