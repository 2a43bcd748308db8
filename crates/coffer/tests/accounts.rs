//! Databases, users and root on real servers, by our commands and by the openstack client.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::net::{IpAddr, SocketAddr};

use coffer_core::account::Account;
use coffer_core::engine::sql::quoting::Sql as Statement;
use serde_json::{Value, json};
use support::openstack::Openstack;
use support::sql::Sql;
use support::world::{Instance, World, text, wait_for};

/// A world with an instance of this version, its first databases `shop` and `a_b`, and its first user `ann`.
fn begin(version: &str) -> Option<(World, Instance, String)> {
    let world = World::start()?;
    if !world.has_image(version) {
        return None;
    }
    let (datastore, name) = version.split_once('/').unwrap();
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let release = list.as_array().unwrap().iter().find(|r| r["Datastore"] == datastore && r["Version"] == name);
    let version = &text(&release.unwrap()["Number"]);
    let line = ["instance", "create", "m", "--flavor", "1", "--size", "1", "--datastore", datastore];
    let more = ["--datastore-version", version, "--databases", "shop", "a_b", "--users", "ann", "--wait", "-o", "json"];
    let created = world.coffer(line.into_iter().chain(more)).ok().json();
    assert_eq!(created["status"], "ACTIVE", "{created}");
    Some((world, instance_of(&created), text(&created["user_passwords"]["ann"])))
}

fn instance_of(shown: &Value) -> Instance {
    let address: IpAddr = text(&shown["ip"][0]).parse().unwrap();
    let password = shown["password"].as_str().unwrap_or_default().to_owned();
    Instance { id: text(&shown["id"]), address: SocketAddr::new(address, 3306), password }
}

fn login(instance: &Instance, user: &str, password: &str) -> Result<Sql, String> {
    Sql::open(instance.address, user, password).map_err(|error| error.to_string())
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|row| text(&row["Name"])).collect()
}

#[test]
fn first_databases_and_users_are_there_and_stay_over_an_upgrade() {
    let Some((world, instance, password)) = begin("mariadb/10.5.23") else { return };
    if !world.has_image("mariadb/10.11.19") {
        return;
    }
    let json = |line: &[&str]| world.coffer(line.iter().copied().chain(["-o", "json"])).ok().json();
    assert_eq!(names(&json(&["database", "list", "m"])), ["a_b", "shop"]);
    let users = json(&["user", "list", "m"]);
    assert_eq!(users[1], json!({"Name": "ann", "Host": "%", "Databases": "a_b, shop"}), "{users}");
    assert_eq!(names(&users), ["admin", "ann"]);
    let root = text(&json(&["root", "enable", "m"])["password"]);
    let check = || {
        let mut ann = login(&instance, "ann", &password).unwrap();
        assert_eq!(ann.ask("SELECT t FROM shop.notes").unwrap(), ["grüße"]);
        assert!(ann.ask("CREATE DATABASE other").is_err());
        let mut root = login(&instance, "root", &root).unwrap();
        assert_eq!(root.ask("SELECT t FROM shop.notes").unwrap(), ["grüße"]);
    };
    let mut ann = login(&instance, "ann", &password).unwrap();
    ann.run("CREATE TABLE shop.notes (t VARCHAR(9) CHARACTER SET utf8mb4)");
    ann.run("INSERT INTO shop.notes VALUES ('grüße')");
    drop(ann);
    check();
    world.coffer(["instance", "upgrade", "m", "10.11.19", "--wait"]).ok();
    check();
    assert_eq!(json(&["user", "list", "m"]), users);
    assert_eq!(json(&["root", "show", "m"]), json!({"is_root_enabled": true}));
    // Whatever was kept anywhere, it was no password.
    let log = fs_err::read_to_string(world.data().join("serve.log")).unwrap();
    let state = fs_err::read_to_string(world.volume(&instance.id).join("agent/state.json")).unwrap();
    for secret in [&password, &root] {
        assert!(!log.contains(secret.as_str()) && !state.contains(secret.as_str()));
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn our_commands_do_what_they_say() {
    our_commands_on("mariadb/10.11.19");
}

#[test]
fn our_commands_do_what_they_say_on_mysql() {
    our_commands_on("mysql/9.7");
}

fn our_commands_on(version: &str) {
    let Some((world, instance, _)) = begin(version) else { return };
    let run = |line: &[&str]| world.coffer(line.iter().copied());
    let json = |line: &[&str]| world.coffer(line.iter().copied().chain(["-o", "json"])).ok().json();
    assert_eq!(names(&json(&["user", "list", "m"])), ["admin", "ann"]);
    run(&["database", "create", "m", "axb", "50%", "a b", "--character-set", "utf8mb4"]).ok();
    let again = run(&["database", "create", "m", "new", "shop"]);
    assert_eq!(again.code, 3, "{again:?}");
    assert!(again.stderr.contains("A database with the name \"shop\" already exists."), "{again:?}");
    assert_eq!(names(&json(&["database", "list", "m"])), ["50%", "a b", "a_b", "axb", "shop"], "all of them or none");

    let made = json(&["user", "create", "m", "eve", "--database", "a_b"]);
    let password = text(&made["password"]);
    let mut eve = login(&instance, "eve", &password).unwrap();
    eve.run("CREATE TABLE a_b.t (a INT)");
    // `_` is a sign of the name, and no pattern.
    assert!(eve.ask("CREATE TABLE axb.t (a INT)").is_err());
    assert_eq!(json(&["user", "show", "m", "eve"]), json!({"name": "eve", "host": "%", "databases": ["a_b"]}));
    run(&["user", "grant", "m", "eve", "axb", "50%"]).ok();
    assert_eq!(json(&["user", "show", "m", "eve"])["databases"], json!(["50%", "a_b", "axb"]));
    login(&instance, "eve", &password).unwrap().run("CREATE TABLE axb.t (a INT)");
    run(&["user", "revoke", "m", "eve", "axb"]).ok();
    assert!(login(&instance, "eve", &password).unwrap().ask("SELECT * FROM axb.t").is_err());
    let other = text(&json(&["user", "set-password", "m", "eve"])["password"]);
    assert!(login(&instance, "eve", &password).is_err() && login(&instance, "eve", &other).is_ok());
    for (line, code, told) in [
        (&["user", "grant", "m", "eve", "nosuch"][..], 4, "Database nosuch cannot be found on the instance."),
        (&["user", "revoke", "m", "eve", "axb"], 4, "Database axb cannot be found on the instance."),
        (&["user", "delete", "m", "nosuch"], 4, "User nosuch cannot be found on the instance."),
        (&["user", "show", "m", "coffer", "--host", "localhost"], 4, "User coffer cannot be found"),
        (&["user", "create", "m", "root"], 3, "on the reserved list"),
        (&["database", "delete", "m", "mysql"], 3, "on the reserved list"),
        (&["database", "create", "m", "x", "--collate", "uca1400_nosuch"], 3, "The engine refused it: CREATE DATABASE"),
        (&["root", "disable", "m"], 4, "Root user has never been enabled on the instance."),
    ] {
        let refused = run(line);
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.stderr.contains(told), "{refused:?}");
    }
    run(&["user", "delete", "m", "eve"]).ok();
    run(&["database", "delete", "m", "50%"]).ok();
    assert!(login(&instance, "eve", &other).is_err());
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn root_has_no_way_to_what_the_promises_rest_on() {
    let own = [
        "SELECT * FROM mysql.global_priv",
        "SET PASSWORD FOR coffer@localhost = PASSWORD('x')",
        "START SLAVE",
        "INSTALL SONAME 'auth_ed25519'",
    ];
    root_on("mariadb/10.11.19", "SHOW BINLOG STATUS", &own);
}

#[test]
fn root_of_mysql_has_no_way_to_what_the_promises_rest_on() {
    let own = [
        "SELECT * FROM mysql.user",
        "SET PASSWORD FOR coffer@localhost = 'x'",
        "START REPLICA",
        "INSTALL COMPONENT 'file://component_classic_hashing'",
        "SET PERSIST event_scheduler = OFF",
        "ALTER INSTANCE DISABLE INNODB REDO_LOG",
        "LOCK INSTANCE FOR BACKUP",
    ];
    root_on("mysql/9.7", "SHOW REPLICA STATUS", &own);
}

/// What root of this version may beside what all may, and what it may not.
fn root_on(version: &str, allowed: &str, refused: &[&str]) {
    let Some((world, instance, ann)) = begin(version) else { return };
    login(&instance, "ann", &ann).unwrap().run("CREATE TABLE a_b.t (a INT)");
    let enable = || text(&world.coffer(["root", "enable", "m", "-o", "json"]).ok().json()["password"]);
    let first = enable();
    let password = enable();
    assert!(login(&instance, "root", &first).is_err(), "enabled again, it has another password");
    let mut root = login(&instance, "root", &password).unwrap();
    let own = ["CREATE DATABASE more", "CREATE TABLE more.t (a INT)", "DROP DATABASE more", "SELECT * FROM a_b.t"];
    for allowed in own.into_iter().chain([allowed]) {
        root.run(allowed);
    }
    for refused in [
        "SHUTDOWN",
        "FLUSH TABLES WITH READ LOCK",
        "SET GLOBAL read_only = 0",
        "DROP DATABASE mysql",
        "CREATE TABLE mysql.mine (a INT)",
        "SELECT 1 INTO OUTFILE '/run/x'",
        "DROP USER coffer@localhost",
        "CREATE USER x",
        "GRANT ALL ON shop.* TO ann",
        "CREATE DEFINER = coffer@localhost VIEW shop.v AS SELECT 1",
    ]
    .iter()
    .chain(refused)
    {
        assert!(root.ask(refused).is_err(), "{refused}");
    }
    drop(root);
    world.coffer(["root", "disable", "m"]).ok();
    assert!(login(&instance, "root", &password).is_err());
    // As in Trove: it once was enabled.
    world.coffer(["root", "disable", "m"]).ok();
    assert_eq!(world.events(&instance.id).iter().filter(|id| *id == "root.enabled").count(), 2);
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

#[test]
fn the_openstack_client_does_all_of_it_too() {
    let Some(world) = World::start() else { return };
    let Some(openstack) = Openstack::find(&world) else { return };
    if !world.has_image("mariadb/10.11.19") {
        return;
    }
    let run = |line: &str| openstack.run(&line.split(' ').collect::<Vec<_>>());
    let list = |line: &str| run(&format!("{line} -f json")).ok().json();
    run("database instance create m --flavor 1 --size 1 --datastore mariadb --datastore-version 10.11.19 \
         --databases shop --users ann:secret")
    .ok();
    let shown = || world.coffer(["instance", "show", "m", "-o", "json"]).ok().json();
    wait_for("the instance to be active", || shown()["status"] == "ACTIVE");
    let instance = instance_of(&shown());
    login(&instance, "ann", "secret").unwrap().run("CREATE TABLE shop.t (a INT)");

    run("database db create m a_b --character_set utf8mb4 --collate utf8mb4_bin").ok();
    assert_eq!(names(&list("database db list m")), ["a_b", "shop"]);
    run("database user create m eve first --databases shop").ok();
    assert_eq!(list("database user list m")[2], json!({"Name": "eve", "Host": "%", "Databases": "shop"}));
    run("database user grant access m eve a_b").ok();
    assert_eq!(names(&list("database user show access m eve")), ["a_b", "shop"]);
    assert_eq!(list("database user show m eve")["host"], "%");
    run("database user revoke access m eve shop").ok();
    assert_eq!(names(&list("database user show access m eve")), ["a_b"]);
    // With a host the path has a `.`, which this client writes in its own way.
    run("database user update attributes m eve --new_name zoe --new_password second --new_host 127.0.0.%").ok();
    login(&instance, "zoe", "second").unwrap().run("CREATE TABLE a_b.t (a INT)");
    run("database user delete m zoe --host 127.0.0.%").ok();
    assert!(login(&instance, "zoe", "second").is_err());
    run("database db delete m a_b").ok();

    assert_eq!(list("database root show m")["is_root_enabled"], false);
    let root = list("database root enable m");
    login(&instance, "root", &text(&root["password"])).unwrap().run("SELECT COUNT(*) FROM shop.t");
    let root = list("database root enable m --root_password swordfish");
    assert_eq!((&root["name"], &root["password"]), (&json!("root"), &json!("swordfish")));
    assert_eq!(list("database root show m")["is_root_enabled"], true);
    run("database root disable m").ok();
    assert!(login(&instance, "root", "swordfish").is_err());
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}

/// Texts of signs that mean something to somebody, the same in every run.
fn nasty(count: usize) -> Vec<String> {
    const SIGNS: [&str; 20] =
        ["'", "\"", "`", "\\", "%", "_", ";", "--", "/*", "a", "B", " x", "@", "é", "漢", "?", "$", ".", "#x", "\\%"];
    let mut state = 1_u64;
    let mut below = |most: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % most
    };
    (0..count).map(|_| (0..=below(6)).map(|_| SIGNS[below(SIGNS.len())]).collect()).collect()
}

#[test]
fn whatever_a_text_is_the_server_takes_it_for_that_text_in_every_sql_mode() {
    texts_on("mariadb/10.11.19", 40);
}

#[test]
fn whatever_a_text_is_mysql_takes_it_for_that_text_in_every_sql_mode() {
    texts_on("mysql/9.7", 12);
}

fn texts_on(version: &str, count: usize) {
    let Some((world, instance, _)) = begin(version) else { return };
    let mut agent = Sql::as_agent(&world.volume(&instance.id)).unwrap();
    agent.run("SET NAMES utf8mb4");
    let ask = |agent: &mut Sql, sql: &Statement| {
        agent.ask(sql.as_str()).unwrap_or_else(|error| panic!("{}: {error}", sql.as_str()))
    };
    for mode in ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"] {
        agent.run(&format!("SET SESSION sql_mode = '{mode}'"));
        for name in nasty(count) {
            let value = Statement::new("SELECT CONVERT(").value(&name).words(" USING utf8mb4)");
            assert_eq!(ask(&mut agent, &value), [name.as_str()], "{mode}");
            if mode == "NO_BACKSLASH_ESCAPES" {
                assert_eq!(ask(&mut agent, &Statement::new("SELECT ").text(&name)), [name.as_str()]);
            }
            let account = Account::new(&name, Some("10.0.0.%"));
            ask(&mut agent, &Statement::new("CREATE USER ").account(&account));
            ask(&mut agent, &Statement::new("CREATE DATABASE ").name(&name));
            ask(&mut agent, &Statement::new("GRANT SELECT ON ").only(&name).words(".* TO ").account(&account));
            let found = Statement::new(
                "SELECT d.db, s.schema_name FROM mysql.db d, information_schema.schemata s \
                 WHERE CAST(d.user AS BINARY) = ",
            )
            .value(&name)
            .words(" AND CAST(s.schema_name AS BINARY) LIKE CAST(d.db AS BINARY) ESCAPE ")
            .value("\\");
            let found = ask(&mut agent, &found);
            assert_eq!(found.len(), 1, "{name} alone is meant: {found:?}");
            assert!(found[0].ends_with(&format!("|{name}")), "{found:?}");
            ask(&mut agent, &Statement::new("DROP DATABASE ").name(&name));
            ask(&mut agent, &Statement::new("DROP USER ").account(&account));
        }
    }
    // Through the API, while the server's own mode is the oddest.
    agent.run("SET GLOBAL sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'");
    let path = |below: &str| format!("/instances/{}/{below}", instance.id);
    for password in nasty(12) {
        let user = json!({"users": [{"name": "zoe", "password": password, "databases": [{"name": "a_b"}]}]});
        let made = world.ask("demo", "POST", &path("users"), &user);
        assert_eq!(made.status, 202, "{made:?}");
        login(&instance, "zoe", &password).unwrap_or_else(|error| panic!("{password}: {error}"));
        assert_eq!(world.ask("demo", "DELETE", &path("users/zoe"), &Value::Null).status, 202);
    }
    world.coffer(["instance", "delete", "m", "--wait"]).ok();
}
