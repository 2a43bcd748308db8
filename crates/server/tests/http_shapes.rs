//! Answers have the shapes of the real Trove's: the same keys with the same types, and none missing.

mod support;

use serde_json::json;
use support::shape::check;
use support::{World, send};

#[tokio::test]
async fn every_answer_has_the_shape_of_the_real_one() {
    let world = World::start().await;
    let id = world.instance("redis_test").await;
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "7.0.15");
    let datastore = coffer_server::datastore_id(coffer_core::datastore::Datastore::Redis);
    for (who, path, fixture) in [
        (&world.demo, "/instances".to_owned(), "instances"),
        (&world.demo, "/instances/detail".to_owned(), "instances detail"),
        (&world.demo, format!("/instances/{id}"), "instance"),
        (&world.admin, format!("/instances/{id}"), "instance for admin"),
        (&world.admin, "/mgmt/instances".to_owned(), "mgmt instances"),
        (&world.admin, format!("/mgmt/instances/{id}"), "mgmt instance"),
        (&world.demo, "/datastores".to_owned(), "datastores"),
        (&world.demo, "/datastores/redis".to_owned(), "datastore"),
        (&world.demo, format!("/datastores/{datastore}"), "datastore"),
        (&world.demo, "/datastores/redis/versions".to_owned(), "versions"),
        (&world.admin, "/datastores/redis/versions".to_owned(), "versions for admin"),
        (&world.demo, "/datastores/redis/versions/8.0.2".to_owned(), "version"),
        (&world.demo, format!("/datastores/{datastore}/versions/{version}"), "version"),
        (&world.demo, format!("/datastores/versions/{version}"), "version"),
        (&world.demo, format!("/datastores/redis/versions/{version}/flavors"), "flavors"),
        (&world.demo, "/flavors".to_owned(), "flavors"),
        (&world.demo, "/flavors/2".to_owned(), "flavor"),
        (&world.demo, "/limits".to_owned(), "limits"),
        (&world.admin, format!("/mgmt/quotas/{}", world.demo.project), "quotas"),
        (&world.demo, format!("/mgmt/quotas/{}", world.demo.project), "quotas"),
        (&world.admin, "/mgmt/datastore-versions".to_owned(), "mgmt versions"),
        (&world.admin, format!("/mgmt/datastore-versions/{version}"), "mgmt version"),
        (&world.demo, format!("/instances/{id}/operations"), "operations"),
        (&world.demo, format!("/instances/{id}/events"), "events"),
    ] {
        let reply = who.get(&path).await;
        assert_eq!(reply.code, 200, "{path}: {}", reply.text);
        assert_eq!(reply.header("content-type"), "application/json");
        assert!(reply.header("x-openstack-request-id").starts_with("req-"), "{path}");
        check(&path, &reply.json(), fixture);
    }
    world.stop().await;
}

#[tokio::test]
async fn what_needs_no_token_has_the_shape_of_the_real_one() {
    let world = World::start().await;
    for (path, code, fixture) in [
        ("/", 200, "roots"),
        ("/healthcheck", 200, "healthcheck"),
        ("/v3", 200, "keystone version"),
        ("/v3/", 200, "keystone version"),
        ("/identity", 300, "keystone versions"),
        ("/identity/v3", 200, "keystone version"),
    ] {
        let reply = send(world.demo.address, "GET", path, &[], Vec::new()).await;
        assert_eq!(reply.code, code, "{path}: {}", reply.text);
        check(path, &reply.json(), fixture);
    }
    let figures = send(world.demo.address, "GET", "/metrics", &[], Vec::new()).await;
    assert!(figures.text.contains("coffer_http_request_duration_seconds_bucket"), "{}", figures.text);
    world.stop().await;
}

#[tokio::test]
async fn a_creation_shows_its_password_once() {
    let world = World::start().await;
    world.hold(true);
    let body = json!({"instance": {"name": "w", "flavorRef": "2", "volume": {"size": 2, "type": null},
        "access": {"is_public": false}}});
    let reply = world.demo.post("/instances", &body).await;
    assert_eq!(reply.code, 200, "{}", reply.text);
    let created = reply.json();
    check("created", &created, "created");
    let id = created["instance"]["id"].as_str().expect("an id");
    let password = created["instance"]["password"].as_str().expect("a password");
    let building = world.demo.get(&format!("/instances/{id}")).await;
    check("building", &building.json(), "building");
    assert!(!building.text.contains(password));
    // The defaults of the configuration and of the catalogue were taken.
    assert_eq!(created["instance"]["datastore"]["version"], "7.0.15");
    world.stop().await;
}

#[tokio::test]
async fn an_upgrade_shows_the_requested_version_and_beside_it_the_running_one() {
    let world = World::start().await;
    let id = world.instance("redis_test").await;
    world.hold(true);
    let path = format!("/instances/{id}");
    let reply = world.demo.patch(&path, &json!({"instance": {"datastore_version": "8.0.2"}})).await;
    assert_eq!((reply.code, reply.text.as_str(), reply.header("content-length")), (202, "", "0"));
    let shown = world.demo.get(&path).await.json();
    check("upgrading", &shown, "upgrading");
    let listed = world.demo.get("/instances").await.json();
    assert_eq!(listed["instances"][0]["datastore"]["version"], "8.0.2");
    world
        .demo
        .patch(&path, &json!({"instance": {"datastore_version": "8.0.2"}}))
        .await
        .assert_fault(422, "unprocessableEntity");
    world.hold(false);
    let done = world.until(&id, "ACTIVE").await;
    assert_eq!(done["instance"]["datastore"]["version"], "8.0.2");
    let operations = world.demo.get(&format!("{path}/operations")).await.json();
    check("operations", &operations, "operations");
    let newest = &operations["operations"][0];
    assert_eq!((&newest["kind"], &newest["phase"]), (&json!("upgrade"), &json!("done")));
    assert_eq!((&newest["from"], &newest["to"]), (&json!("redis 7.0.15"), &json!("redis 8.0.2")));
    assert_eq!(newest["gap_ms"], 42.0);
    let clients = json!({"attempts": 412, "refused": 1, "reset": 2, "wrong": 3, "longest_wait_ms": 38.25});
    assert_eq!(newest["clients"], clients);
    assert_eq!(operations["operations"][1].get("clients"), None, "nobody counts at a creation");
    let figures = send(world.demo.address, "GET", "/metrics", &[], Vec::new()).await.text;
    assert!(figures.contains(r#"coffer_probe_connections_total{kind="upgrade",end="reset"} 2"#), "{figures}");
    world.stop().await;
}

#[tokio::test]
async fn a_preview_tells_the_whole_plan_and_touches_nothing() {
    let world = World::start().await;
    let id = world.instance("redis_test").await;
    let path = format!("/instances/{id}/upgrade-preview");
    for (wanted, datastore) in [("8.0.2", "redis"), ("valkey/8.1.1", "valkey")] {
        let reply = world.demo.post(&path, &json!({"upgrade": {"datastore_version": wanted}})).await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        check("preview", &reply.json(), "preview");
        assert_eq!(reply.json()["plan"]["to"]["datastore"], datastore);
    }
    let operations = world.demo.get(&format!("/instances/{id}/operations")).await.json();
    assert_eq!(operations["operations"].as_array().map(Vec::len), Some(1), "{operations}");
    world.stop().await;
}

#[tokio::test]
async fn pages_are_cut_by_id_and_link_to_the_next() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        ids.push(world.begin_instance(name).await);
    }
    ids.sort();
    let (mut path, mut seen, mut sizes) =
        ("/instances?limit=2&include_clustered=False".to_owned(), Vec::new(), Vec::new());
    loop {
        let page = world.demo.get(&path).await.json();
        let list = page["instances"].as_array().expect("a list").clone();
        sizes.push(list.len());
        let mut page_ids: Vec<_> = list.iter().map(|i| i["id"].as_str().expect("an id").to_owned()).collect();
        page_ids.sort();
        seen.extend(page_ids);
        let Some(links) = page.get("links") else { break };
        let (href, last) = (links[0]["href"].as_str().expect("an address"), seen.last().expect("an id"));
        let below = format!("/instances?limit=2&include_clustered=False&marker={last}");
        assert_eq!(href, format!("https://{}{}", world.demo.address, world.demo.path(&below)));
        assert_eq!(links[0]["rel"], "next");
        path = below;
    }
    assert_eq!((seen, sizes), (ids, vec![2, 2, 1]));
    world.stop().await;
}

#[tokio::test]
async fn instances_are_renamed_restarted_and_deleted() {
    let world = World::start().await;
    let id = world.instance("before").await;
    let path = format!("/instances/{id}");
    for method in ["PUT", "PATCH"] {
        let body = json!({"instance": {"name": format!("after {method}")}});
        assert_eq!(world.demo.ask(method, &path, Some(&body)).await.code, 202);
        assert_eq!(world.demo.get(&path).await.json()["instance"]["name"], format!("after {method}"));
    }
    world.hold(true);
    assert_eq!(world.demo.post(&format!("{path}/action"), &json!({"restart": {}})).await.code, 202);
    assert_eq!(world.demo.get(&path).await.json()["instance"]["status"], "REBOOT");
    world.hold(false);
    world.until(&id, "ACTIVE").await;
    assert_eq!(world.demo.ask("DELETE", &path, None).await.code, 202);
    world.demo.until(&path, |reply| reply.code == 404).await;
    world.stop().await;
}

#[tokio::test]
async fn an_operator_switches_versions_off_and_on() {
    let world = World::start().await;
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "8.0.2");
    let path = format!("/mgmt/datastore-versions/{version}");
    let names = async || {
        let versions = world.demo.get("/datastores/redis/versions").await.json();
        let list = versions["versions"].as_array().expect("a list").clone();
        list.iter().map(|v| v["name"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["7.0.15", "8.0.2"]);
    assert_eq!(world.admin.patch(&path, &json!({"active": false})).await.code, 202);
    assert_eq!(names().await, ["7.0.15"]);
    assert_eq!(world.admin.patch(&path, &json!({"active": true, "default": true})).await.code, 202);
    assert_eq!(world.demo.get("/datastores/redis").await.json()["datastore"]["default_version"], version.to_string());
    world.admin.patch(&path, &json!({"image": "x"})).await.assert_fault(501, "notImplemented");
    world.stop().await;
}
