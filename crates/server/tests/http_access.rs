//! Who may do what: nobody without a token, nothing in another project, no change by a reader. Asked of every route that
//! the description names, so that none can be forgotten.

mod support;

use serde_json::{Value, json};
use support::{Client, Reply, World, send};

/// Every method and path below `/v1.0`, with the parts in braces.
async fn routes(client: &Client) -> Vec<(String, String)> {
    let description = send(client.address, "GET", "/openapi.json", &[], Vec::new()).await.json();
    let paths = description["paths"].as_object().expect("paths").clone();
    let mut routes = Vec::new();
    for (path, item) in paths {
        if let Some(below) = path.strip_prefix("/v1.0/{project}") {
            for method in item.as_object().expect("methods").keys().filter(|key| key.len() <= 6) {
                routes.push((method.to_uppercase(), below.to_owned()));
            }
        }
    }
    assert!(routes.len() > 20, "{routes:?}");
    routes
}

/// The path with these in the place of its parts.
fn fill(path: &str, id: &str, project: &str) -> String {
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "7.0.15").to_string();
    let parts = [
        ("{id}", id),
        ("{tenant}", project),
        ("{datastore}", "redis"),
        ("{version}", &version),
        ("{flavor}", "1"),
        ("{user}", "ann"),
        ("{database}", "shop"),
        ("{group}", id),
        ("{parameter}", "timeout"),
    ];
    parts.iter().fold(path.to_owned(), |path, (part, value)| path.replace(part, value))
}

/// A body that the route would take.
fn body(method: &str, path: &str) -> Option<Value> {
    match (method, path.rsplit('/').next().unwrap_or_default()) {
        ("GET" | "DELETE", _) => None,
        (_, "instances") => Some(json!({"instance": {"name": "w", "flavorRef": 1, "volume": {"size": 1}}})),
        (_, "configurations") => Some(json!({"configuration": {"name": "c", "values": {}}})),
        (_, "{group}") => Some(json!({"configuration": {"name": "stolen"}})),
        (_, "action") => Some(json!({"restart": {}})),
        (_, "upgrade-preview") => Some(json!({"upgrade": {"datastore_version": "8.0.2"}})),
        (_, "{version}") => Some(json!({"active": true})),
        _ => Some(json!({"instance": {"name": "stolen"}})),
    }
}

async fn state(world: &World, id: &str) -> Value {
    world.demo.get(&format!("/instances/{id}")).await.json()["instance"]["name"].clone()
}

#[tokio::test]
async fn another_projects_instance_is_not_there_whatever_is_asked_of_it() {
    let world = World::start().await;
    let id = world.instance("mine").await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    let mut asked = 0;
    for (method, path) in routes(&world.demo).await {
        if !path.contains("{id}") {
            continue;
        }
        asked += 1;
        let ask = async |id: &str| {
            let body = body(&method, &path);
            world.other.ask(&method, &fill(&path, id, &world.other.project), body.as_ref()).await
        };
        let (theirs, none) = (ask(&id).await, ask(nobody).await);
        if path.starts_with("/mgmt") {
            theirs.assert_fault(401, "unauthorized");
        } else {
            theirs.assert_fault(404, "itemNotFound");
        }
        // Not even the words tell whether it is there.
        assert_eq!((theirs.code, theirs.text.replace(&id, nobody)), (none.code, none.text), "{method} {path}");
    }
    assert!(asked >= 8, "{asked}");
    assert_eq!(state(&world, &id).await, "mine");
    assert_eq!(world.other.get("/instances").await.json(), json!({"instances": []}));
    let marker = format!("/instances?marker={}", "0".repeat(8));
    assert_eq!(world.other.get(&marker).await.json(), json!({"instances": []}));
    world.stop().await;
}

#[tokio::test]
async fn no_route_is_reached_without_a_token_or_in_another_project() {
    let world = World::start().await;
    let id = world.instance("mine").await;
    for (method, path) in routes(&world.demo).await {
        let below = fill(&path, &id, &world.demo.project);
        let body = body(&method, &path);
        for token in ["", "wrong", "token-of-d1x"] {
            let client = Client { token: token.to_owned(), ..world.demo.clone() };
            let reply = client.ask(&method, &below, body.as_ref()).await;
            assert_unauthenticated(&reply, &format!("{method} {below}"));
        }
        // An administrator too uses the path of their own project.
        for (client, own) in [(&world.other, &world.other.project), (&world.admin, &world.admin.project)] {
            let client = Client { project: world.demo.project.clone(), ..client.clone() };
            let reply = client.ask(&method, &below, body.as_ref()).await;
            let message = format!(
                "Access was denied to this resource.<br /><br />\nUser with tenant id {own} cannot access this resource.\n\n"
            );
            let expected = json!({"message": message, "code": "403 Forbidden", "title": "Forbidden"});
            assert_eq!((reply.code, reply.json()), (403, expected), "{method} {below}");
        }
    }
    for path in ["/v1.0", "/v1.0/", &world.demo.path(""), "/v1.0/extensions", "/v1.0//instances"] {
        let ask = async |headers: &[(&str, &str)]| send(world.demo.address, "GET", path, headers, Vec::new()).await;
        assert_unauthenticated(&ask(&[]).await, path);
        assert_eq!(ask(&[("x-auth-token", &world.demo.token)]).await.code, 403, "{path}");
    }
    assert_eq!(state(&world, &id).await, "mine");
    world.stop().await;
}

fn assert_unauthenticated(reply: &Reply, what: &str) {
    let message = "The request you have made requires authentication.";
    let expected = json!({"error": {"code": 401, "title": "Unauthorized", "message": message}});
    assert_eq!((reply.code, reply.json()), (401, expected), "{what}");
    let challenge = reply.header("www-authenticate");
    assert!(
        challenge.starts_with("Keystone uri=\"http://127.0.0.1:") && challenge.ends_with("/identity\""),
        "{challenge}"
    );
}

#[tokio::test]
async fn a_reader_looks_and_changes_nothing() {
    let world = World::start().await;
    let (redis, mariadb) = (world.instance("mine").await, world.mariadb("m").await);
    let group = world.group("mine", &json!({})).await;
    for (method, path) in routes(&world.demo).await {
        let has_accounts = ["/databases", "/users", "/root"].iter().any(|part| path.contains(part));
        let id = if has_accounts { &mariadb } else { &redis };
        let filled = fill(&path.replace("{group}", &group), id, &world.demo.project);
        let reply = world.reader.ask(&method, &filled, body(&method, &path).as_ref()).await;
        let what = format!("{method} {path}: {}", reply.text);
        match (path.starts_with("/mgmt/quotas"), path.starts_with("/mgmt"), method.as_str()) {
            (true, _, _) | (_, false, "GET") => assert_eq!(reply.code, 200, "{what}"),
            (_, true, _) => reply.assert_fault(401, "unauthorized"),
            _ => {
                reply.assert_fault(403, "forbidden");
                assert!(reply.message().starts_with("Policy doesn't allow "), "{what}");
            }
        }
    }
    assert_eq!(state(&world, &redis).await, "mine");
    world.stop().await;
}

#[tokio::test]
async fn an_administrator_reaches_every_projects_instances_by_id_and_sees_whose_they_are() {
    let world = World::start().await;
    let id = world.instance("mine").await;
    let shown = world.admin.get(&format!("/instances/{id}")).await.json();
    assert_eq!(shown["instance"]["tenant_id"], world.demo.project);
    assert_eq!(world.admin.get("/instances").await.json(), json!({"instances": []}), "a list is of one's own project");
    let all = |reply: Reply| reply.json()["instances"].as_array().map(Vec::len);
    assert_eq!(all(world.admin.get("/mgmt/instances?include_clustered=False&deleted=False").await), Some(1));
    assert_eq!(all(world.admin.get(&format!("/mgmt/instances?project_id={}", world.demo.project)).await), Some(1));
    assert_eq!(all(world.admin.get(&format!("/mgmt/instances?project_id={}", world.other.project)).await), Some(0));
    assert_eq!(all(world.admin.get("/mgmt/instances?deleted=true").await), Some(0));
    let foreign = world.demo.get(&format!("/mgmt/quotas/{}", world.other.project)).await;
    foreign.assert_fault(403, "forbidden");
    assert_eq!(foreign.message(), format!("Operation not allowed for tenant {}.", world.demo.project));
    world.stop().await;
}
