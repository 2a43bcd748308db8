//! Configuration groups over the API: their life, what is refused, and what instances make of them.

mod support;

use serde_json::{Value, json};
use support::World;
use support::shape::check;

const NOBODY: &str = "00000000-0000-0000-0000-000000000000";

fn instance(body: Value) -> Value {
    json!({"instance": body})
}

fn values(body: Value) -> Value {
    json!({"configuration": {"values": body}})
}

#[tokio::test]
async fn a_group_lives_as_in_trove() {
    let world = World::start().await;
    let body = json!({"configuration": {"name": "c1", "description": "d", "values": {"maxclients": 100, "appendonly": true},
        "datastore": {"type": "redis", "version": "7.0.15"}}});
    let created = world.demo.post("/configurations", &body).await;
    assert_eq!(created.code, 200, "{}", created.text);
    check("created", &created.json(), "configuration");
    let id = created.json()["configuration"]["id"].as_str().expect("an id").to_owned();
    let path = format!("/configurations/{id}");
    let shown = async || world.demo.get(&path).await.json()["configuration"].clone();
    let group = shown().await;
    check("shown", &json!({"configuration": group}), "configuration");
    assert_eq!(group["values"], json!({"maxclients": 100, "appendonly": true}));
    assert_eq!(
        (&group["name"], &group["description"], &group["instance_count"]),
        (&json!("c1"), &json!("d"), &json!(0))
    );
    assert_eq!((&group["datastore_name"], &group["datastore_version_name"]), (&json!("redis"), &json!("7.0.15")));
    check("listed", &world.demo.get("/configurations").await.json(), "configurations");

    let patched = world.demo.patch(&path, &values(json!({"maxclients": 101, "timeout": 5}))).await;
    assert_eq!((patched.code, patched.text.as_str()), (200, ""));
    assert_eq!(shown().await["values"], json!({"maxclients": 101, "appendonly": true, "timeout": 5}));
    assert_eq!(world.demo.patch(&path, &values(json!({"timeout": null}))).await.code, 200);
    let body = json!({"configuration": {"name": "c2", "description": "", "values": {"maxclients": 102}}});
    let put = world.demo.put(&path, &body).await;
    assert_eq!((put.code, put.text.as_str()), (202, ""));
    let group = shown().await;
    assert_eq!(
        (&group["name"], &group["description"], &group["values"]),
        (&json!("c2"), &json!(""), &json!({"maxclients": 102}))
    );

    assert_eq!(world.demo.ask("DELETE", &path, None).await.code, 202);
    let gone = world.demo.get(&path).await;
    gone.assert_fault(404, "itemNotFound");
    assert_eq!(gone.message(), format!("Configuration group with ID {id} could not be found."));
    world.stop().await;
}

#[tokio::test]
async fn bad_groups_are_refused_in_trove_s_words_all_at_once() {
    let world = World::start().await;
    for (given, code, fault, message) in [
        (json!({"name": "c"}), 400, "badRequest", "Validation error: configuration 'values' is a required property"),
        (
            json!({"name": "c", "values": {"bogus": 1}}),
            422,
            "unprocessableEntity",
            "The configuration parameter bogus is not supported for this datastore: redis 7.0.15. (leave it out)",
        ),
        (
            json!({"name": "c", "values": {"maxclients": "many", "dir": "/etc"}}),
            422,
            "unprocessableEntity",
            "The configuration parameter dir is not supported for this datastore: redis 7.0.15. (leave it out); \
             The value provided for the configuration parameter maxclients is not of type integer.",
        ),
        (
            json!({"name": "c", "values": {}, "datastore": {"type": "redis", "version": "9"}}),
            400,
            "badRequest",
            "Datastore version '9' cannot be found.",
        ),
    ] {
        let reply = world.demo.post("/configurations", &json!({"configuration": given})).await;
        reply.assert_fault(code, fault);
        assert_eq!(reply.message(), message);
    }
    // Versions that nothing can be created on any more have groups as before.
    let inactive =
        json!({"configuration": {"name": "c", "values": {}, "datastore": {"type": "redis", "version": "6.0.16"}}});
    assert_eq!(world.demo.post("/configurations", &inactive).await.code, 200);
    let id = world.group("g", &json!({"timeout": 5})).await;
    let path = format!("/configurations/{id}");
    world.demo.patch(&path, &values(json!({"timeout": "soon"}))).await.assert_fault(422, "unprocessableEntity");
    assert_eq!(world.demo.get(&path).await.json()["configuration"]["values"], json!({"timeout": 5}));
    for (method, body) in
        [("PATCH", Some(values(json!({})))), ("PUT", Some(values(json!({})))), ("DELETE", None), ("GET", None)]
    {
        let reply = world.demo.ask(method, &format!("/configurations/{NOBODY}"), body.as_ref()).await;
        reply.assert_fault(404, "itemNotFound");
        assert_eq!(reply.message(), format!("Configuration group with ID {NOBODY} could not be found."));
        world.other.ask(method, &path, body.as_ref()).await.assert_fault(404, "itemNotFound");
    }
    assert_eq!(world.other.get("/configurations").await.json(), json!({"configurations": []}));
    world.reader.patch(&path, &values(json!({}))).await.assert_fault(403, "forbidden");
    world.stop().await;
}

#[tokio::test]
async fn a_project_has_a_limited_number_of_groups() {
    let world = World::start().await;
    for n in 0..200 {
        world.group(&format!("g{n}"), &json!({})).await;
    }
    let body = json!({"configuration": {"name": "c", "values": {}}});
    world.demo.post("/configurations", &body).await.assert_fault(413, "overLimit");
    assert_eq!(world.other.post("/configurations", &body).await.code, 200);
    let page = world.demo.get("/configurations?limit=3").await.json();
    assert_eq!(page["configurations"].as_array().map(Vec::len), Some(3));
    assert_eq!(page["links"][0]["rel"], "next");
    world.stop().await;
}

#[tokio::test]
async fn an_instance_gets_a_group_and_gives_it_back() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let group = world.group("g", &json!({"timeout": 5, "databases": 20})).await;
    let path = format!("/instances/{id}");
    let attached = world.demo.put(&path, &instance(json!({"configuration": group}))).await;
    assert_eq!((attached.code, attached.text.as_str()), (202, ""));
    let shown = world.demo.get(&path).await.json();
    check("attached", &shown, "with configuration");
    assert_eq!(shown["instance"]["configuration"]["id"], group.as_str());
    assert_eq!(shown["instance"]["restart_required"], json!(["databases"]), "the other was taken live");
    let users = world.demo.get(&format!("/configurations/{group}/instances")).await.json();
    check("instances", &users, "configuration instances");
    assert_eq!(users, json!({"instances": [{"id": id, "name": "w"}]}));
    assert_eq!(world.demo.get(&format!("/configurations/{group}")).await.json()["configuration"]["instance_count"], 1);

    let again = world.demo.put(&path, &instance(json!({"configuration": group}))).await;
    again.assert_fault(400, "badRequest");
    assert_eq!(again.message(), format!("Instance {id} already has a Configuration Group attached: {group}."));
    let deleted = world.demo.ask("DELETE", &format!("/configurations/{group}"), None).await;
    deleted.assert_fault(400, "badRequest");
    assert!(deleted.message().starts_with("A configuration group cannot be deleted if it is associated with"));

    assert_eq!(world.demo.post(&format!("{path}/action"), &json!({"restart": {}})).await.code, 202);
    assert_eq!(world.until(&id, "ACTIVE").await["instance"].get("restart_required"), None);
    let patched = world.demo.patch(&format!("/configurations/{group}"), &values(json!({"timeout": 6}))).await;
    assert_eq!(patched.code, 200, "{}", patched.text);
    assert_eq!(world.until(&id, "ACTIVE").await["instance"].get("restart_required"), None, "taken live");
    let operations = world.demo.get(&format!("{path}/operations")).await.json();
    assert_eq!(
        (&operations["operations"][0]["kind"], &operations["operations"][0]["phase"]),
        (&json!("configure"), &json!("done"))
    );

    assert_eq!(world.demo.put(&path, &instance(json!({}))).await.code, 202);
    let shown = world.demo.get(&path).await.json();
    assert_eq!(
        (&shown["instance"]["status"], shown["instance"].get("configuration")),
        (&json!("RESTART_REQUIRED"), None)
    );
    assert_eq!(world.demo.put(&path, &instance(json!({"configuration": null}))).await.code, 202, "there is none");
    assert_eq!(world.demo.ask("DELETE", &format!("/configurations/{group}"), None).await.code, 202);
    world.stop().await;
}

#[tokio::test]
async fn groups_that_do_not_fit_are_not_attached() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let path = format!("/instances/{id}");
    let body =
        json!({"configuration": {"name": "c", "values": {}, "datastore": {"type": "redis", "version": "8.0.2"}}});
    let newer = world.demo.post("/configurations", &body).await.json()["configuration"].clone();
    let theirs = world.other.post("/configurations", &body).await.json()["configuration"]["id"].clone();
    let (seven, eight) = (
        coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "7.0.15"),
        newer["datastore_version_id"].as_str().expect("an id").to_owned(),
    );
    let mismatch = format!(
        "Datastore Version on Configuration {eight} does not match the Datastore Version on the instance {seven}."
    );
    let unknown = |id: &str| format!("Configuration group id: {id} could not be found.");
    for (group, code, fault, message) in [
        (json!(NOBODY), 404, "itemNotFound", unknown(NOBODY)),
        (theirs.clone(), 404, "itemNotFound", unknown(theirs.as_str().expect("an id"))),
        (newer["id"].clone(), 400, "badRequest", mismatch.clone()),
    ] {
        let reply = world.demo.put(&path, &instance(json!({"configuration": group}))).await;
        reply.assert_fault(code, fault);
        assert_eq!(reply.message(), message);
    }
    let body = json!({"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}, "configuration": newer["id"],
        "datastore": {"type": "redis", "version": "7.0.15"}}});
    let refused = world.demo.post("/instances", &body).await;
    refused.assert_fault(400, "badRequest");
    assert_eq!(refused.message(), mismatch);

    // While something is done to an instance, it gets no group, and its group stays as it is.
    let group = world.group("g", &json!({"timeout": 5})).await;
    world.hold(true);
    assert_eq!(world.demo.post(&format!("{path}/action"), &json!({"restart": {}})).await.code, 202);
    let busy = world.demo.put(&path, &instance(json!({"configuration": group}))).await;
    busy.assert_fault(400, "badRequest");
    let why = "The operation you have requested cannot be executed because the instance status is currently: REBOOT.";
    assert_eq!(busy.message(), why);
    world.hold(false);
    world.until(&id, "ACTIVE").await;
    assert_eq!(world.demo.put(&path, &instance(json!({"configuration": group}))).await.code, 202);
    world.hold(true);
    assert_eq!(world.demo.post(&format!("{path}/action"), &json!({"restart": {}})).await.code, 202);
    let patched = world.demo.patch(&format!("/configurations/{group}"), &values(json!({"timeout": 6}))).await;
    patched.assert_fault(422, "unprocessableEntity");
    assert_eq!(
        world.demo.get(&format!("/configurations/{group}")).await.json()["configuration"]["values"],
        json!({"timeout": 5})
    );
    world.stop().await;
}

#[tokio::test]
async fn an_instance_is_created_with_a_group_and_upgraded_with_it() {
    let world = World::start().await;
    let group = world.group("cache-7.0.15", &json!({"timeout": 5, "io-threads-do-reads": "yes"})).await;
    let new = |name: &str| {
        json!({"instance": {"name": name, "flavorRef": 1, "volume": {"size": 1}, "configuration": group,
            "settings": {"hz": 20, "timeout": 1}, "datastore": {"type": "redis", "version": "7.0.15"}}})
    };
    let mut groups = Vec::new();
    for name in ["a", "b"] {
        let created = world.demo.post("/instances", &new(name)).await;
        assert_eq!(created.code, 200, "{}", created.text);
        let id = created.json()["instance"]["id"].as_str().expect("an id").to_owned();
        assert_eq!(world.until(&id, "ACTIVE").await["instance"]["configuration"]["id"], group.as_str());
        let path = format!("/instances/{id}");
        let body = json!({"upgrade": {"datastore_version": "8.0.2", "defaults": "adopt"}});
        let preview = world.demo.post(&format!("{path}/upgrade-preview"), &body).await.json();
        check("preview", &preview, "preview");
        assert_eq!(preview["plan"]["configuration"]["name"], "cache-8.0.2");
        assert_eq!(preview["plan"]["policy"], "adopt");
        let body = json!({"datastore_version": "8.0.2", "defaults": "adopt"});
        assert_eq!(world.demo.patch(&path, &instance(body)).await.code, 202);
        let done = world.until(&id, "ACTIVE").await;
        assert_eq!(done["instance"]["configuration"]["name"], "cache-8.0.2");
        groups.push(done["instance"]["configuration"]["id"].as_str().expect("an id").to_owned());
        let newest = world.demo.get(&format!("{path}/operations")).await.json()["operations"][0].clone();
        let told = newest["findings"].as_array().expect("findings").iter().any(|f| f["id"] == "group.migrated");
        assert!(told, "{newest}");
        assert!(newest["notes"][0].as_str().is_some_and(|note| note.contains("adopted")), "{newest}");
    }
    assert_eq!(groups[0], groups[1], "what was migrated once is used again");
    let migrated = world.demo.get(&format!("/configurations/{}", groups[0])).await.json()["configuration"].clone();
    assert_eq!(migrated["values"], json!({"timeout": 5}));
    assert_eq!((&migrated["datastore_version_name"], &migrated["instance_count"]), (&json!("8.0.2"), &json!(2)));
    let old = world.demo.get(&format!("/configurations/{group}")).await.json()["configuration"].clone();
    assert_eq!((&old["name"], &old["instance_count"]), (&json!("cache-7.0.15"), &json!(0)), "it stays");
    world.stop().await;
}

#[tokio::test]
async fn operators_see_the_parameters_of_a_version_and_change_none() {
    let world = World::start().await;
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Mariadb, "10.11.19");
    let path = format!("/mgmt/datastores/versions/{version}/parameters");
    let (all, one) = (world.admin.get(&path).await, world.admin.get(&format!("{path}/max_connections")).await);
    assert_eq!((all.code, one.code), (200, 200), "{} {}", all.text, one.text);
    check("all", &all.json(), "mgmt parameters");
    check("one", &one.json(), "mgmt parameter");
    let (one, theirs) = (one.json(), format!("/datastores/versions/{version}/parameters"));
    let limits = world.demo.get(&format!("{theirs}/max_connections")).await.json();
    assert!(limits["min"].is_number() && limits["max"].is_number(), "{limits}");
    assert_eq!((&one["type"], &one["min_size"], &one["max_size"]), (&limits["type"], &limits["min"], &limits["max"]));
    let told = all.json()["configuration-parameters"].as_array().map(Vec::len);
    let users = world.demo.get(&theirs).await.json();
    assert_eq!(told, users["configuration-parameters"].as_array().map(Vec::len));
    world.admin.get(&format!("{path}/nope")).await.assert_fault(404, "itemNotFound");
    world.admin.get("/mgmt/datastores/versions/7.0.15/parameters").await.assert_fault(400, "badRequest");
    let body = json!({"configuration-parameter": {"name": "x", "restart_required": 1, "data_type": "string"}});
    for (method, below, body) in
        [("POST", "", Some(&body)), ("PUT", "/max_connections", Some(&body)), ("DELETE", "/max_connections", None)]
    {
        let refused = world.admin.ask(method, &format!("{path}{below}"), body).await;
        refused.assert_fault(501, "notImplemented");
        assert!(refused.message().contains("those of its engine"), "{}", refused.text);
        world.demo.ask(method, &format!("{path}{below}"), body).await.assert_fault(401, "unauthorized");
    }
    world.demo.get(&path).await.assert_fault(401, "unauthorized");
    world.stop().await;
}

#[tokio::test]
async fn the_parameters_of_a_version_are_told_in_four_ways() {
    let world = World::start().await;
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "7.0.15");
    for path in [
        format!("/datastores/redis/versions/{version}/parameters"),
        "/datastores/redis/versions/7.0.15/parameters".to_owned(),
        format!("/datastores/versions/{version}/parameters"),
        "/datastores/redis/versions/6.0.16/parameters".to_owned(),
    ] {
        let all = world.demo.get(&path).await;
        assert_eq!(all.code, 200, "{path}: {}", all.text);
        check(&path, &all.json(), "parameters");
        let one = world.demo.get(&format!("{path}/maxclients")).await.json();
        check(&path, &one, "parameter");
        assert_eq!((&one["type"], &one["restart_required"]), (&json!("integer"), &json!(false)));
        assert_eq!(world.demo.get(&format!("{path}/databases")).await.json()["restart_required"], true);
        for owned in ["dir", "nope"] {
            world.demo.get(&format!("{path}/{owned}")).await.assert_fault(404, "itemNotFound");
        }
    }
    world.demo.get(&format!("/datastores/versions/{NOBODY}/parameters")).await.assert_fault(400, "badRequest");
    world.demo.get("/datastores/oracle/versions/1/parameters").await.assert_fault(404, "itemNotFound");
    let id = world.instance("w").await;
    let defaults = world.demo.get(&format!("/instances/{id}/configuration")).await.json();
    assert_eq!(defaults["instance"]["configuration"]["maxmemory-policy"], "noeviction");
    world.stop().await;
}
