//! The embedded Keystone as clients meet it: with the credentials of the first start, from discovery to a request.

mod support;

use serde_json::{Value, json};
use support::shape::check;
use support::{Client, Reply, World, send};

/// What clouds.yaml says of a user.
fn credentials(world: &World, user: &str) -> (String, String) {
    let text = fs_err::read_to_string(world.dir.path().join("data/clouds.yaml")).expect("clouds.yaml");
    let entry = text.split(&format!("  {user}:\n")).nth(1).expect("an entry").to_owned();
    let value = |key: &str| {
        let line = entry.lines().find_map(|line| line.trim().strip_prefix(&format!("{key}: "))).expect("a line");
        line.trim_matches('\'').to_owned()
    };
    (value("auth_url"), value("password"))
}

async fn ask(world: &World, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
    let mut headers = headers.to_vec();
    headers.extend(body.map(|_| ("content-type", "application/json")));
    let text = body.map(Value::to_string).unwrap_or_default();
    send(world.demo.address, method, path, &headers, text.into_bytes()).await
}

async fn log_in(world: &World, user: &str) -> Reply {
    let (auth_url, password) = credentials(world, user);
    let path = auth_url.strip_prefix(&format!("http://{}", world.demo.address)).expect("this server").to_owned();
    let domain = json!({"name": "Default"});
    let body = json!({"auth": {
        "identity": {"methods": ["password"],
            "password": {"user": {"name": user, "domain": domain, "password": password}}},
        "scope": {"project": {"name": user, "domain": domain}}}});
    ask(world, "POST", &format!("{path}/auth/tokens"), &[], Some(&body)).await
}

#[tokio::test]
async fn the_first_credentials_lead_to_a_token_a_catalogue_and_an_answer() {
    let world = World::start().await;
    let reply = log_in(&world, "demo").await;
    assert_eq!(reply.code, 201, "{}", reply.text);
    let token = reply.header("x-subject-token").to_owned();
    check("the token", &reply.json(), "token");
    let body = reply.json()["token"].clone();
    let project = body["project"]["id"].as_str().expect("a project");
    assert_eq!(project.len(), 32);
    assert_eq!(body["roles"], json!([{"id": "member", "name": "member"}]));
    assert!(body["expires_at"].as_str().expect("a date").ends_with('Z'));
    assert!(!reply.text.contains(&token));
    let catalog = body["catalog"].as_array().expect("a catalogue");
    let url = |kind: &str| {
        let service = catalog.iter().find(|service| service["type"] == kind).expect("a service");
        let endpoints = service["endpoints"].as_array().expect("endpoints");
        let interfaces: Vec<_> = endpoints.iter().map(|e| e["interface"].as_str().expect("an interface")).collect();
        assert_eq!(interfaces, ["public", "internal", "admin"]);
        assert!(endpoints.iter().all(|e| e["region"] == "RegionOne"));
        endpoints[0]["url"].as_str().expect("an address").to_owned()
    };
    let base = format!("http://{}", world.demo.address);
    assert_eq!(url("database"), format!("{base}/v1.0/{project}"));
    assert_eq!(url("identity"), format!("{base}/identity"));
    let demo = Client { token, project: project.to_owned(), ..world.demo.clone() };
    assert_eq!(demo.get("/instances").await.json(), json!({"instances": []}));
    world.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_and_revoked_by_its_owner_or_an_administrator_only() {
    let world = World::start().await;
    let token = log_in(&world, "demo").await.header("x-subject-token").to_owned();
    let admin = log_in(&world, "admin").await.header("x-subject-token").to_owned();
    let path = "/identity/v3/auth/tokens";
    for (asker, code) in [(token.as_str(), 200), (&admin, 200), (&world.other.token, 404), ("wrong", 401)] {
        for method in ["GET", "HEAD"] {
            let headers = [("x-auth-token", asker), ("x-subject-token", token.as_str())];
            assert_eq!(ask(&world, method, path, &headers, None).await.code, code, "{method} {asker}");
        }
    }
    let delete = async |asker: &str| {
        ask(&world, "DELETE", path, &[("x-auth-token", asker), ("x-subject-token", &token)], None).await.code
    };
    assert_eq!(delete(&world.other.token).await, 404);
    assert_eq!(delete(&token).await, 204);
    assert_eq!(delete(&token).await, 401);
    assert_eq!(delete(&admin).await, 404);
    world.stop().await;
}

#[tokio::test]
async fn projects_are_found_by_id_and_by_name() {
    let world = World::start().await;
    let admin = log_in(&world, "admin").await.header("x-subject-token").to_owned();
    let get = async |path: &str, token: &str| ask(&world, "GET", path, &[("x-auth-token", token)], None).await;
    let by_name = get("/identity/v3/projects/demo", &admin).await.json();
    check("the project", &by_name, "project");
    let id = by_name["project"]["id"].as_str().expect("an id").to_owned();
    assert_eq!(get(&format!("/v3/projects/{id}"), &admin).await.json(), by_name);
    let found = get("/v3/projects?name=demo", &admin).await.json();
    assert_eq!(found["projects"][0]["id"], id);
    let own = get("/v3/projects", &admin).await.json();
    check("the projects", &own, "projects");
    assert_eq!(own["projects"].as_array().map(Vec::len), Some(1));
    let other = get(&format!("/v3/projects/{id}"), &world.other.token).await;
    assert_eq!(other.json()["error"]["code"], 404);
    assert_eq!(get("/v3/projects", "wrong").await.code, 401);
    world.stop().await;
}

#[tokio::test]
async fn bad_logins_are_refused_in_keystones_shape() {
    let world = World::start().await;
    let user = |user: Value| json!({"auth": {"identity": {"methods": ["password"], "password": {"user": user}}}});
    for (body, code) in [
        (json!({}), 400),
        (json!([]), 400),
        (json!({"auth": {}}), 400),
        (json!({"auth": {"identity": {"methods": "password"}}}), 400),
        (user(json!({"name": "demo"})), 400),
        (user(json!({"name": "demo", "password": 5})), 400),
        (user(json!({"name": "demo", "password": "wrong"})), 401),
        (user(json!({"name": "nobody", "password": "wrong"})), 401),
        (json!({"auth": {"identity": {"methods": ["token"], "token": {"id": "wrong"}}}}), 401),
    ] {
        let reply = ask(&world, "POST", "/v3/auth/tokens", &[], Some(&body)).await;
        assert_eq!((reply.code, &reply.json()["error"]["code"]), (code, &json!(code)), "{body}");
    }
    for (kind, code) in [("application/json", 400), ("text/plain", 415)] {
        let reply = send(world.demo.address, "POST", "/v3/auth/tokens", &[("content-type", kind)], b"{".to_vec()).await;
        assert_eq!((reply.code, &reply.json()["error"]["code"]), (code, &json!(code)), "{kind}");
    }
    world.stop().await;
}
