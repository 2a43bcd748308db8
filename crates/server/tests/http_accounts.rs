//! Databases, users and root over the API: codes, bodies and faults of Trove's, where no engine is needed to see them.

mod support;

use serde_json::{Value, json};
use support::World;

#[tokio::test]
async fn lists_and_single_things_look_as_troves_do() {
    let world = World::start().await;
    let id = world.mariadb("m").await;
    let ann = json!({"name": "ann", "host": "%", "databases": [{"name": "shop"}]});
    for (below, expected) in [
        ("databases?marker=a", json!({"databases": [{"name": "shop"}]})),
        ("users?marker=a", json!({"users": [ann]})),
        ("users/ann", json!({"user": ann})),
        ("users/ann@%25", json!({"user": ann})),
        ("users/ann/databases", json!({"databases": [{"name": "shop"}]})),
        ("root", json!({"rootEnabled": false})),
    ] {
        let reply = world.demo.get(&format!("/instances/{id}/{below}")).await;
        assert_eq!((reply.code, reply.json()), (200, expected), "{below}");
    }
    let page = world.demo.get(&format!("/instances/{id}/users?limit=1")).await.json();
    let next = page["links"][0]["href"].as_str().unwrap_or_default();
    assert!(next.ends_with("/users?limit=1&marker=ann%40%25"), "{page}");
    world.stop().await;
}

#[tokio::test]
async fn changes_have_troves_codes_and_root_its_password_once() {
    let world = World::start().await;
    let id = world.mariadb("m").await;
    let ask = async |method: &str, below: &str, body: Option<Value>| {
        world.demo.ask(method, &format!("/instances/{id}/{below}"), body.as_ref()).await
    };
    let databases = Some(json!({"databases": [{"name": "a_b", "character_set": "utf8mb4"}]}));
    let shop = Some(json!({"databases": [{"name": "shop"}]}));
    let users = |name: &str| Some(json!({"users": [{"name": name, "password": "p", "databases": []}]}));
    for (method, below, body, code) in [
        ("POST", "databases", databases, 202),
        ("POST", "databases", shop.clone(), 400),
        ("DELETE", "databases/shop", None, 202),
        ("DELETE", "databases/other", None, 404),
        ("GET", "databases/shop", None, 501),
        ("POST", "users", users("eve"), 202),
        ("POST", "users", users("ann"), 400),
        ("PUT", "users", users("ann"), 202),
        ("PUT", "users/update_all", users("ann"), 202),
        ("PUT", "users/update_all", Some(json!({"users": [{"name": "ann"}]})), 400),
        ("PUT", "users/update_all", Some(json!({"user": {}})), 400),
        ("GET", "users/eve", None, 404),
        ("PUT", "users/ann", Some(json!({"user": {"host": "10.0.0.%", "password": "q"}})), 202),
        ("PUT", "users/ann", Some(json!({"user": {}})), 400),
        ("PUT", "users/ann/databases", shop, 202),
        ("DELETE", "users/ann/databases/shop", None, 202),
        ("DELETE", "users/ann/databases/other", None, 404),
        ("DELETE", "users/ann", None, 202),
        ("DELETE", "users/eve", None, 404),
        ("DELETE", "root", None, 404),
    ] {
        let reply = ask(method, below, body).await;
        assert_eq!(reply.code, code, "{method} {below}: {}", reply.text);
        assert!(code != 202 || reply.text.is_empty());
    }
    let history = async || {
        let reply = world.admin.get(&format!("/mgmt/instances/{id}/root")).await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        reply.json()["root_history"].take()
    };
    assert_eq!(history().await, json!({"id": id, "enabled": "Never", "user": "Nobody"}));
    assert_eq!(world.demo.get(&format!("/mgmt/instances/{id}/root")).await.code, 401);
    let given = ask("POST", "root", Some(json!({"password": "swordfish"}))).await.json();
    let since = history().await;
    assert!(
        since["enabled"].as_str().is_some_and(|date| date.starts_with("20")) && since["user"] != "Nobody",
        "{since}"
    );
    assert_eq!(given, json!({"user": {"name": "root", "password": "swordfish"}}));
    for body in [None, Some(json!({}))] {
        let made = ask("POST", "root", body).await.json();
        assert_eq!(made["user"]["password"].as_str().map(str::len), Some(32), "{made}");
    }
    // Root cannot log in any more, or could not; that it once could is what counts.
    for _ in 0..2 {
        let disabled = ask("DELETE", "root", None).await;
        assert_eq!((disabled.code, disabled.text.as_str()), (204, ""));
    }
    let events = ask("GET", "events", None).await.json();
    let events = events["events"].as_array().cloned().unwrap_or_default();
    assert_eq!(events.iter().filter(|event| event["id"] == "root.enabled").count(), 3, "{events:?}");
    let other = world.mariadb("o").await;
    world.demo.ask("DELETE", &format!("/instances/{other}/root"), None).await.assert_fault(404, "itemNotFound");
    world.stop().await;
}

#[tokio::test]
async fn what_a_tenant_may_not_have_is_refused_in_troves_words() {
    let world = World::start().await;
    let id = world.mariadb("m").await;
    let reserved = "is on the reserved list: ['coffer', 'coffer_probe', 'mariadb.sys', 'mysql.infoschema', \
                    'mysql.session', 'mysql.sys', 'public', 'root'].";
    let user = |name: &str, password: &str| json!({"users": [{"name": name, "password": password}]});
    for (method, below, body, message) in [
        ("POST", "users", user("root", "x"), format!("User create error: User name \"root\" {reserved}")),
        ("DELETE", "users/coffer@localhost", json!({}), format!("User name \"coffer\" {reserved}")),
        ("PUT", "users", user("coffer", "x"), format!("User name \"coffer\" {reserved}")),
        ("PUT", "users/ann", json!({"user": {"name": "root"}}), format!("User name \"root\" {reserved}")),
        (
            "POST",
            "databases",
            json!({"databases": [{"name": "mysql"}]}),
            "Database create error: Database name \"mysql\" is on the reserved list: ['information_schema', 'mysql', \
             'performance_schema', 'sys']."
                .to_owned(),
        ),
        (
            "POST",
            "users",
            user("u", "a\nb"),
            "A password has 1 to 255 characters, and no control characters.".to_owned(),
        ),
        ("POST", "databases", json!({}), "Validation error: 'databases' is a required property".to_owned()),
    ] {
        let reply = world.demo.ask(method, &format!("/instances/{id}/{below}"), Some(&body)).await;
        reply.assert_fault(400, "badRequest");
        assert_eq!(reply.message(), message, "{method} {below}");
    }
    world.stop().await;
}

#[tokio::test]
async fn only_an_instance_of_sql_that_serves_and_is_left_alone_is_asked() {
    let world = World::start().await;
    let (redis, mariadb) = (world.instance("r").await, world.mariadb("m").await);
    for below in ["databases", "users", "root"] {
        let reply = world.demo.get(&format!("/instances/{redis}/{below}")).await;
        reply.assert_fault(422, "unprocessableEntity");
        assert_eq!(reply.message(), "Operation not supported for datastore redis.");
        world.other.get(&format!("/instances/{mariadb}/{below}")).await.assert_fault(404, "itemNotFound");
        let reader = world.reader.ask("DELETE", &format!("/instances/{mariadb}/{below}/x"), None).await;
        assert!([403, 404].contains(&reader.code), "{}", reader.text);
    }
    world.hold(true);
    let restart = json!({"restart": {}});
    assert_eq!(world.demo.post(&format!("/instances/{mariadb}/action"), &restart).await.code, 202);
    let body = json!({"databases": [{"name": "d"}]});
    for reply in [
        world.demo.get(&format!("/instances/{mariadb}/users")).await,
        world.demo.post(&format!("/instances/{mariadb}/databases"), &body).await,
    ] {
        reply.assert_fault(422, "unprocessableEntity");
    }
    world.stop().await;
}

#[tokio::test]
async fn passwords_of_a_creation_are_nowhere_in_the_store() {
    let world = World::start().await;
    let create = |users: Value| {
        json!({"instance": {"name": "m", "flavorRef": 1, "volume": {"size": 1},
            "datastore": {"type": "mariadb", "version": "10.11.19"}, "databases": [{"name": "stock"}], "users": users}})
    };
    let nowhere = json!([{"name": "eve", "password": "swordfish", "databases": [{"name": "other"}]}]);
    let refused = world.demo.post("/instances", &create(nowhere)).await;
    refused.assert_fault(400, "badRequest");
    assert!(refused.message().contains("is not included in the initial databases list."), "{}", refused.text);
    assert_eq!(world.demo.get("/instances").await.json(), json!({"instances": []}));

    world.hold(true);
    let users = json!([{"name": "eve", "password": "swordfish", "databases": [{"name": "stock"}]}]);
    let created = world.demo.post("/instances", &create(users)).await;
    assert_eq!(created.code, 200, "{}", created.text);
    assert!(!created.text.contains("swordfish"));
    let id = created.json()["instance"]["id"].as_str().unwrap_or_default().to_owned();
    let stored = || {
        let files = fs_err::read_dir(world.dir.path().join("data")).expect("the data directory");
        let stores = files.map(|file| file.expect("a file").path());
        let stores = stores.filter(|path| path.to_string_lossy().contains("coffer.db"));
        let texts = stores.map(|path| String::from_utf8_lossy(&fs_err::read(path).expect("the store")).into_owned());
        texts.collect::<String>()
    };
    assert!(stored().contains("\"sealed\"") && !stored().contains("swordfish"));
    world.hold(false);
    world.until(&id, "ACTIVE").await;
    let operations = world.demo.get(&format!("/instances/{id}/operations")).await.json();
    let names: Vec<_> = operations["operations"][0]["steps"].as_array().into_iter().flatten().collect();
    assert!(names.iter().any(|step| step["name"] == "accounts"), "{operations:#}");
    assert!(stored().contains("\"forgotten\"") && !stored().contains("swordfish"));
    world.stop().await;
}
