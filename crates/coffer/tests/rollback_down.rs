//! The way back where the newer engine is down: it ends again and again, somebody has stopped it, or it does not answer. That is
//! when somebody needs it. On real servers.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::contents::{self, Contents};
use support::faulty::{self, Mood};
use support::mariadb;
use support::resp::Connection;
use support::strike::{Moment, strike};
use support::struck::ENGINE;
use support::unharmed::wait_until_settled;
use support::world::{Instance, Output, World, kill, signal, text, wait_for};

/// All that is acknowledged is in a file, so that an engine may be killed.
const KEPT: [(&str, &str); 1] = [("appendonly", "yes")];

fn upgrade(world: &World, name: &str, to: &str) {
    world.coffer(["instance", "upgrade", name, to, "--wait"]).ok();
}

fn roll_back(world: &World, arguments: &[&str]) -> Output {
    world.coffer([&["instance", "rollback"], arguments, &["--yes", "--wait"]].concat())
}

/// What a rollback would do, as programs read it, and as people do.
fn preview(world: &World, arguments: &[&str]) -> (Value, String) {
    let ask = |more: &[&str]| world.coffer([&["instance", "rollback"], arguments, &["--dry-run"], more].concat());
    let (told, plan) = (ask(&[]), ask(&["-o", "json"]));
    println!("{}{}", told.stdout, told.stderr);
    (plan.json(), told.stdout.replace('\n', " "))
}

/// What an engine has in its file when it has acknowledged it. Users are there only when they were saved.
fn write_more(world: &World, instance: &Instance, by: &str) {
    let commands = (0..500).map(|n| ["SET".to_owned(), format!("{by}:{n}"), "value".to_owned()]);
    world.redis(instance).pipeline(commands).unwrap();
}

fn read(instance: &Instance) -> Contents {
    contents::read(instance.address, &instance.password)
}

/// It runs what is recorded, and nothing is wrong with it.
#[track_caller]
fn assert_well(world: &World, instance: &Instance, label: &str) {
    wait_for("the instance to be well", || {
        let shown = world.show(&instance.id);
        shown["status"] == "ACTIVE" && shown["operating_status"] == "HEALTHY"
    });
    let shown = world.show(&instance.id);
    let recorded = format!("{} {}", text(&shown["datastore"]["type"]), text(&shown["datastore"]["version"]));
    assert_eq!((recorded.as_str(), &shown["fault"]), (label, &Value::Null), "{shown}");
    assert_eq!(shown["running_version"], shown["datastore"]["version"], "{shown}");
    wait_for("a single engine", || world.engines_on(&instance.id).len() == 1);
}

/// Kills the engine each time that it serves, until that is a loop. It may serve or not then.
fn make_it_crash(world: &World, instance: &Instance) {
    let mut last = None;
    wait_for("a loop of crashes", || {
        let engine = world.engine_pid(&instance.id).filter(|pid| Some(*pid) != last);
        let serves = || {
            let open = Connection::open(instance.address, Some(&instance.password));
            open.is_ok_and(|mut redis| redis.ask(&["PING"]).is_ok())
        };
        if let Some(engine) = engine.filter(|_| serves()) {
            kill(engine);
            last = Some(engine);
        }
        world.show(&instance.id)["status"] == "ERROR"
    });
}

fn preimages(world: &World, id: &str) -> usize {
    fs_err::read_dir(world.volume(id).join("pre")).unwrap().count()
}

#[test]
fn an_engine_that_does_not_stay_up_is_rolled_back_or_left_as_it_is() {
    const OLD: &str = "6.0.17";
    const NEW: &str = "7.0.18";
    let catalogue = format!("{}{}", faulty::entry(OLD), faulty::entry(NEW));
    let Some(mut world) = World::prepare(&catalogue, "") else { return };
    faulty::import(&world, "6.0.16", OLD);
    faulty::import(&world, "7.0.15", NEW);
    world.start_server();
    let instance = world.create("r", OLD, &KEPT);
    let id = &instance.id;
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "r", NEW);
    write_more(&world, &instance, "since");
    let since = read(&instance);
    wait_until_settled(&world, id);
    faulty::set_mood_of(&world, &instance, NEW, Some(Mood::Ends));
    make_it_crash(&world, &instance);

    let fault = world.show(id)["fault"].to_string();
    assert!(fault.contains(&format!("coffer instance rollback {id} --dry-run")), "{fault}");
    let (plan, told) = preview(&world, &["r"]);
    assert_eq!(
        (&plan["down"], &plan["in_place"], &plan["loss"]["writes"]),
        (&json!(true), &json!(false), &Value::Null)
    );
    assert!(text(&plan["loss"]["why"]).contains("its files were written to last at 20"), "{plan}");
    for words in [
        "the engine does not stay up: ",
        "it is gone back without it",
        "how much that is cannot be told",
        "the newer engine is down",
        "redis 7.0.18 is not waited for and redis 6.0.17 started on a copy of the pre-image",
    ] {
        assert!(told.contains(words), "{words:?} is not in {told}");
    }
    let asked = world.coffer(["instance", "rollback", "r"]);
    assert!(asked.code == 3 && asked.stderr.contains("coffer instance rollback r --yes --wait"), "{asked:?}");
    let unconfirmed = world.ask("demo", "POST", &format!("/instances/{id}/rollback"), &json!({"rollback": {}}));
    assert!(unconfirmed.json().to_string().contains("rollback.unconfirmed"), "{unconfirmed:?}");

    // The older one does not start either: all is as it was, and the newer one comes back as soon as it can.
    faulty::set_mood_of(&world, &instance, OLD, Some(Mood::Ends));
    let failed = roll_back(&world, &["r"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    let newest = world.operations(id).remove(0);
    assert_eq!((&newest["kind"], &newest["phase"]), (&json!("rollback"), &json!("undone")), "{newest:#}");
    assert!(text(&newest["cause"]["message"]).contains("redis 6.0.17 ended while it started"), "{}", newest["cause"]);
    assert_ne!(newest["cause"]["hint"], "", "nobody is told what to do");
    assert_eq!(preimages(&world, id), 1, "that of the upgrade alone");
    let shown = world.show(id);
    assert_eq!((&shown["status"], &shown["datastore"]["version"]), (&json!("ERROR"), &json!(NEW)), "{shown}");
    faulty::set_mood_of(&world, &instance, NEW, None);
    world.coffer(["instance", "restart", "r", "--wait"]).ok();
    since.assert_same(&read(&instance), "nothing was changed by the rollback that failed");
    assert_well(&world, &instance, &format!("redis {NEW}"));

    faulty::set_mood_of(&world, &instance, OLD, None);
    faulty::set_mood_of(&world, &instance, NEW, Some(Mood::Ends));
    kill(world.engine_pid(id).unwrap());
    wait_for("its end to be told", || world.show(id)["operating_status"] != "HEALTHY");
    roll_back(&world, &["r"]).ok();
    assert_well(&world, &instance, &format!("redis {OLD}"));
    before.assert_same(&read(&instance), "back");
    wait_until_settled(&world, id);
    before.assert_same(&read(&instance), "back and settled");
    let newest = world.operations(id).remove(0);
    assert_eq!(newest["gap_ms"], Value::Null, "nobody knows since when it was away: {newest:#}");

    // What the newer one left is kept, and is there again once that one stays up.
    faulty::set_mood_of(&world, &instance, NEW, None);
    roll_back(&world, &["r"]).ok();
    since.assert_same(&read(&instance), "forth again");
    assert_well(&world, &instance, &format!("redis {NEW}"));
}

#[test]
fn an_engine_that_ends_again_while_it_is_asked_is_done_without() {
    let Some(mut world) = World::start() else { return };
    let instance = world.create("r", "7.0.15", &KEPT);
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    let every_step = std::env::var_os("COFFER_EVERY_STEP").is_some();
    let struck = |(_, step): &(usize, &str)| every_step || *step == "quiesce";
    for (at, step) in ["prepare", "quiesce", "stop"].into_iter().enumerate().filter(struck) {
        upgrade(&world, "r", "8.0");
        write_more(&world, &instance, step);
        let since = read(&instance);
        make_it_crash(&world, &instance);
        wait_for("it to serve", || Connection::open(instance.address, Some(&instance.password)).is_ok());
        let (plan, _) = preview(&world, &["r"]);
        assert_eq!((&plan["down"], &plan["loss"]["at_least"]), (&json!(true), &json!(true)), "it can be asked: {plan}");
        let ask = |world: &mut World| {
            let back = json!({"rollback": {"accept_loss": true}});
            assert_eq!(world.ask("demo", "POST", &format!("/instances/{}/rollback", instance.id), &back).status, 202);
        };
        strike(&mut world, &instance, Moment::Forward(at), ask, |world| (ENGINE.1)(world, &instance));
        let newest = world.wait_until_over(&instance.id);
        assert_eq!(newest["phase"], "done", "{step}: {newest:#}");
        assert_well(&world, &instance, "redis 7.0.15");
        before.assert_same(&read(&instance), step);
        roll_back(&world, &["r"]).ok();
        since.assert_same(&read(&instance), &format!("{step}: what it had acknowledged is kept"));
        roll_back(&world, &["r"]).ok();
        world.coffer(["instance", "finalize", "r", "--wait"]).ok();
        wait_for("the pre-images to go", || preimages(&world, &instance.id) == 0);
    }
}

#[test]
fn an_engine_that_somebody_stopped_stays_down_unless_it_is_rolled_back() {
    const OLD: &str = "7.0.18";
    let Some(mut world) = World::prepare(&faulty::entry(OLD), "") else { return };
    faulty::import(&world, "7.0.15", OLD);
    world.start_server();
    let instance = world.create("r", OLD, &KEPT);
    let id = &instance.id;
    contents::fill(&mut world.redis(&instance), "before");
    let before = read(&instance);
    upgrade(&world, "r", "8.0");
    write_more(&world, &instance, "since");
    wait_until_settled(&world, id);
    signal(world.engine_pid(id).unwrap(), Signal::TERM);
    wait_for("its end to be told", || world.show(id)["operating_status"] == "SHUTDOWN");

    faulty::set_mood_of(&world, &instance, OLD, Some(Mood::Ends));
    let failed = roll_back(&world, &["r"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    assert_eq!((world.engine_pid(id), preimages(&world, id)), (None, 1), "it is as it was");
    assert!(Connection::open(instance.address, None).is_err(), "nobody waits for it");
    wait_for("that to be told as before", || world.show(id)["drift"].to_string().contains("engine.stopped"));
    faulty::set_mood_of(&world, &instance, OLD, None);

    let (plan, told) = preview(&world, &["r"]);
    assert_eq!((&plan["down"], &plan["loss"]["writes"]), (&json!(true), &Value::Null), "{plan}");
    assert!(told.contains("the engine was told to end, by somebody else than coffer"), "{told}");
    roll_back(&world, &["r"]).ok();
    assert_well(&world, &instance, &format!("redis {OLD}"));
    before.assert_same(&read(&instance), "back");
}

#[test]
fn an_engine_that_does_not_answer_is_killed_only_where_a_loss_was_agreed_to() {
    if std::env::var_os("COFFER_EVERY_STEP").is_none() {
        println!("NOT RUN: an agent waits for a minute before it says so; COFFER_EVERY_STEP=1 runs it");
        return;
    }
    let Some(world) = World::start() else { return };
    if !world.has_image("valkey/8.1.1") {
        return;
    }
    let lossy = world.create("r", "7.0.15", &KEPT);
    let in_place = world.create("v", "valkey/8.0.1", &KEPT);
    contents::fill(&mut world.redis(&lossy), "before");
    let before = read(&lossy);
    upgrade(&world, "r", "8.0");
    upgrade(&world, "v", "8.1.1");
    for instance in [&lossy, &in_place] {
        write_more(&world, instance, "since");
        wait_until_settled(&world, &instance.id);
    }
    let since = [&lossy, &in_place].map(read);
    let engines = [&lossy, &in_place].map(|instance| world.engine_pid(&instance.id).unwrap());
    for engine in engines {
        signal(engine, Signal::STOP);
    }
    for instance in [&lossy, &in_place] {
        wait_for("that to be seen", || world.show(&instance.id)["operating_status"] == "SHUTDOWN");
    }

    // What it may have in memory alone would be lost, which nobody has agreed to.
    let refused = roll_back(&world, &["v"]);
    assert_eq!(refused.code, 3, "{refused:?}");
    for words in ["runs, but it does not answer within 5 s", "end it with coffer instance restart", "--restore"] {
        assert!(refused.stdout.replace('\n', " ").contains(words), "{words:?} is not in {refused:?}");
    }
    let path = format!("/instances/{}/rollback", in_place.id);
    assert_eq!(world.ask("demo", "POST", &path, &json!({"rollback": {}})).status, 202);
    assert_eq!(world.wait_until_over(&in_place.id)["phase"], "undone");
    assert_eq!(world.engine_pid(&in_place.id), Some(engines[1]), "it was not touched");
    signal(engines[1], Signal::CONT);
    assert_well_but_for_the_fault(&world, &in_place);
    since[1].assert_same(&read(&in_place), "it goes on");

    let (plan, _) = preview(&world, &["r"]);
    assert_eq!((&plan["down"], &plan["loss"]["writes"]), (&json!(true), &Value::Null), "{plan}");
    roll_back(&world, &["r"]).ok();
    assert_well(&world, &lossy, "redis 7.0.15");
    before.assert_same(&read(&lossy), "back");
    roll_back(&world, &["r"]).ok();
    since[0].assert_same(&read(&lossy), "what it had written was kept");

    // One that has ended has nothing in memory any more: the older one takes over what it left.
    signal(engines[1], Signal::TERM);
    wait_for("its end to be told", || world.show(&in_place.id)["operating_status"] == "SHUTDOWN");
    let (plan, told) = preview(&world, &["v"]);
    assert_eq!((&plan["down"], &plan["in_place"], &plan["loss"]), (&json!(true), &json!(true), &Value::Null), "{plan}");
    assert!(told.contains("nothing more: the data stay as the newer engine left them"), "{told}");
    roll_back(&world, &["v"]).ok();
    assert_well(&world, &in_place, "valkey 8.0.1");
    since[1].assert_same(&read(&in_place), "nothing is lost");
}

#[track_caller]
fn assert_well_but_for_the_fault(world: &World, instance: &Instance) {
    wait_for("the engine to serve", || world.show(&instance.id)["operating_status"] == "HEALTHY");
    let shown = world.show(&instance.id);
    assert_eq!((&shown["status"], shown["fault"].is_object()), (&json!("ACTIVE"), true), "{shown}");
}

#[test]
fn a_mariadb_that_does_not_start_any_more_is_rolled_back() {
    const OLD: &str = "10.5.23";
    const NEW: &str = "10.11.19";
    let Some(world) = mariadb::world("", &[OLD, NEW]) else { return };
    let instance = world.create("m", &format!("mariadb/{OLD}"), &[]);
    mariadb::fill(&mut mariadb::connect(&instance));
    mariadb::connect(&instance).run("ALTER EVENT shop.tick DISABLE");
    let before = mariadb::read(&instance);
    upgrade(&world, "m", NEW);
    mariadb::connect(&instance).run("INSERT INTO shop.old VALUES (77, 'since')");
    let since = mariadb::read(&instance);
    let server = "usr/sbin/mariadbd";
    mariadb::replace(&world, NEW, server, "[ -d /data/shop ] && exit 3; exec /usr/sbin/mariadbd.real \"$@\"");
    kill(world.engine_pid(&instance.id).unwrap());
    wait_for("its end to be told", || world.show(&instance.id)["operating_status"] != "HEALTHY");
    let (plan, _) = preview(&world, &["m"]);
    assert_eq!((&plan["down"], &plan["loss"]["writes"]), (&json!(true), &Value::Null), "{plan}");
    roll_back(&world, &["m"]).ok();
    mariadb::assert_same(&before, &mariadb::read(&instance), "back");
    assert_well(&world, &instance, &format!("mariadb {OLD}"));

    // It was killed, so the newer one recovers first what is kept of it.
    mariadb::replace(&world, NEW, server, "exec /usr/sbin/mariadbd.real \"$@\"");
    roll_back(&world, &["m"]).ok();
    mariadb::assert_same(&since, &mariadb::read(&instance), "forth again");
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn an_older_mariadb_takes_over_what_a_newer_one_left_only_if_that_ended_cleanly() {
    const OLD: &str = "10.11.18";
    const NEW: &str = "10.11.19";
    let Some(world) = mariadb::world("", &[OLD, NEW]) else { return };
    let instance = world.create("m", &format!("mariadb/{OLD}"), &[]);
    mariadb::fill(&mut mariadb::connect(&instance));
    mariadb::connect(&instance).run("ALTER EVENT shop.tick DISABLE");
    upgrade(&world, "m", NEW);
    mariadb::connect(&instance).run("INSERT INTO shop.old VALUES (76, 'since')");
    let before = mariadb::read(&instance);
    mariadb::agent(&world, &instance).run("SHUTDOWN");
    wait_for("its end to be told", || world.show(&instance.id)["operating_status"] == "SHUTDOWN");
    let (plan, told) = preview(&world, &["m"]);
    assert_eq!((&plan["down"], &plan["in_place"], &plan["loss"]), (&json!(true), &json!(true), &Value::Null), "{plan}");
    assert!(told.contains("nothing more: the data stay as the newer engine left them"), "{told}");
    roll_back(&world, &["m"]).ok();
    mariadb::assert_same(&before, &mariadb::read(&instance), "nothing is lost");
    assert_well(&world, &instance, &format!("mariadb {OLD}"));

    upgrade(&world, "m", NEW);
    mariadb::connect(&instance).run("INSERT INTO shop.old VALUES (77, 'since')");
    let since = mariadb::read(&instance);
    let server = "usr/sbin/mariadbd";
    mariadb::replace(&world, NEW, server, "[ -d /data/shop ] && exit 3; exec /usr/sbin/mariadbd.real \"$@\"");
    kill(world.engine_pid(&instance.id).unwrap());
    wait_for("its end to be told", || world.show(&instance.id)["operating_status"] != "HEALTHY");
    let refused = roll_back(&world, &["m"]);
    let said = format!("{}{}", refused.stdout, refused.stderr).replace('\n', " ");
    for words in ["mariadb 10.11.19 ended without a clean stop", "--restore", "hint:"] {
        assert!(refused.code == 3 && said.contains(words), "{words:?} is not in {refused:?}");
    }
    // Who asks all the same, and not by the command, gets the same answer of the check.
    let asked = world.ask("demo", "POST", &format!("/instances/{}/rollback", instance.id), &json!({"rollback": {}}));
    assert_eq!(asked.status, 202, "{asked:?}");
    let newest = world.wait_until_over(&instance.id);
    assert_eq!(newest["phase"], "undone", "{newest:#}");
    assert!(newest["cause"].to_string().contains("ended without a clean stop"), "{newest:#}");

    roll_back(&world, &["m", "--restore"]).ok();
    mariadb::assert_same(&before, &mariadb::read(&instance), "the data from before");
    assert_well(&world, &instance, &format!("mariadb {OLD}"));
    mariadb::replace(&world, NEW, server, "exec /usr/sbin/mariadbd.real \"$@\"");
    roll_back(&world, &["m"]).ok();
    mariadb::assert_same(&since, &mariadb::read(&instance), "forth again");

    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
