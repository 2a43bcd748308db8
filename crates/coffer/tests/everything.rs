//! Everything that Coffer has started on a machine is killed at once, some of it in the middle of operations: one `coffer serve`
//! brings every instance back as it was, or its operation to its end.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::struck::ask_upgrade;
use support::unharmed::{Known, state};
use support::world::{Instance, World, kill, wait_for};
use support::writers::{Writers, forget_written};
use support::{mariadb, mysql};

#[test]
fn one_server_brings_back_all_that_was_killed_with_it() {
    let Some(mut world) = World::prepare(mysql::RELEASE, "") else { return };
    if !["redis/8.0", "valkey/8.1.1", "mariadb/10.11.19"].iter().all(|version| world.has_image(version)) {
        return;
    }
    let Some((mysql_old, _)) = mysql::add_older(&world) else { return };
    world.start_server();
    let keeps = [("appendonly", "yes")];
    let keys = ["redis/7.0.15", "redis/7.0.15", "valkey/8.0.1", "valkey/8.0.1"].map(|version| {
        let name =
            format!("k{}", world.coffer(["instance", "list", "-o", "json"]).ok().json().as_array().unwrap().len());
        Known::fill(&world, &world.create(&name, version, &keeps), 1000)
    });
    let tables = [(format!("mysql/{mysql_old}"), "my"), ("mariadb/10.5.23".to_owned(), "ma")].map(|(version, name)| {
        let instance = world.create_of(["3", "1"], name, &version, &[]);
        let read: fn(&Instance) -> mariadb::Contents = match name {
            "my" => {
                mysql::fill(&instance);
                mysql::read
            }
            _ => {
                mariadb::fill(&mut mariadb::connect(&instance));
                mariadb::read
            }
        };
        mariadb::connect(&instance).run("CREATE TABLE shop.log (n BIGINT PRIMARY KEY)");
        (read(&instance), read, instance)
    });
    let [rests, upgraded, restarted, configured] = keys.each_ref().map(|known| &known.instance);
    let (at_rest, in_upgrade) = (&tables[0].2, &tables[1].2);
    let all = [rests, upgraded, restarted, configured, at_rest, in_upgrade];
    let of_keys = keys.each_ref().map(|known| Writers::start(&known.instance));
    let of_tables = tables.each_ref().map(|(_, _, instance)| mariadb::Writers::start_from(instance, 0, Duration::ZERO));
    for writers in &of_keys {
        writers.wait_for_more(100);
    }
    for writers in &of_tables {
        writers.wait_for_more();
    }

    ask_upgrade(&world, in_upgrade, "10.11.19");
    wait_for("the section of a MariaDB", || !state(&world, &in_upgrade.id)["section"].is_null());
    ask_upgrade(&world, upgraded, "8.0.2");
    let restart = json!({"restart": {}});
    let answer = world.ask("demo", "POST", &format!("/instances/{}/action", restarted.id), &restart);
    assert_eq!(answer.status, 202, "{answer:?}");
    let groups = world.coffer([
        "configuration",
        "create",
        "g",
        "--datastore",
        "valkey",
        "--datastore-version",
        "8.0.1",
        "--set",
        "timeout=60",
    ]);
    groups.ok();
    let new = json!({"instance": {"name": "new", "flavorRef": "1", "volume": {"size": 1},
        "datastore": {"type": "redis", "version": "7.0.15"}}});
    let created = world.ask("demo", "POST", "/instances", &new).json();
    world.coffer(["configuration", "attach", "k3", "g"]);

    // The server first: it would start again whoever ends.
    let of_instance = |i: &&Instance| {
        [world.agent_pid(&i.id), world.keeper_pid(&i.id), world.engine_pid(&i.id)].into_iter().flatten()
    };
    let pids: Vec<u32> = all.iter().flat_map(of_instance).collect();
    let phases: Vec<_> = all.iter().map(|i| state(&world, &i.id)["section"]["phase"].to_string()).collect();
    println!("killed: the server and {} processes; sections: {phases:?}", pids.len());
    world.server_pid().into_iter().chain(pids).for_each(kill);
    world.kill_everything();
    assert!(all.iter().all(|i| world.engines_on(&i.id).is_empty()), "an engine lives on");

    world.start_server();
    for (known, writers) in keys.iter().zip(of_keys) {
        let newest = world.wait_until_over(&known.instance.id);
        writers.wait_for_more(100);
        let balance = writers.stop();
        println!("{} {}: {} acknowledged", newest["kind"], newest["phase"], balance.acknowledged);
        assert!(balance.lost.is_empty(), "{}: {:#?}", newest["kind"], balance.lost);
        forget_written(&mut world.redis(&known.instance));
        known.check_upgraded(&world, world.show(&known.instance.id)["datastore"]["version"].as_str().unwrap());
    }
    for ((held, read, instance), writers) in tables.iter().zip(of_tables) {
        let newest = world.wait_until_over(&instance.id);
        writers.wait_for_more();
        writers.stop(instance, &format!("{} {}", newest["kind"], newest["phase"]));
        mariadb::assert_same(held, &read(instance), "what it holds");
        assert_eq!(world.show(&instance.id)["status"], "ACTIVE");
        assert_eq!(world.engines_on(&instance.id).len(), 1);
    }
    let new = created["instance"]["id"].as_str().unwrap();
    assert_eq!(world.wait_until_over(new)["phase"], "done");
    assert_eq!(world.show(new)["status"], "ACTIVE");
    for instance in all {
        let shown = world.show(&instance.id);
        let version = &shown["datastore"]["version"];
        wait_for("what runs to be what is recorded", || world.show(&instance.id)["running_version"] == *version);
        assert_ne!(shown["operating_status"], Value::Null, "{shown}");
    }
}
