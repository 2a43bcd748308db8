//! Whatever is sent, nothing fails inside: never a 500, always a body in one of the shapes of a fault.

#![allow(clippy::panic, reason = "a test ends by panicking")]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use support::{Reply, World, send};

/// Keys that mean something somewhere, so that the body is not refused at its first key.
const KEYS: [&str; 28] = [
    "instance",
    "name",
    "flavorRef",
    "volume",
    "size",
    "datastore",
    "type",
    "version",
    "settings",
    "access",
    "is_public",
    "allowed_cidrs",
    "datastore_version",
    "restart",
    "resize",
    "reset_status",
    "upgrade",
    "active",
    "default",
    "auth",
    "identity",
    "methods",
    "password",
    "user",
    "token",
    "scope",
    "project",
    "domain",
];

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned), 1 => ".{0,12}"]
}

fn leaf() -> impl Strategy<Value = Value> {
    let known =
        ["redis", "7.0.15", "8.0.2", "valkey/8.1.1", "1", "w", "", "password", "00000000-0000-0000-0000-000000000000"];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0..5i64).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop::sample::select(known.to_vec()).prop_map(Value::from),
        "[a-z]{0,400}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// Half the bodies begin with the right key.
fn body() -> impl Strategy<Value = Value> {
    let wrapped = (prop::sample::select(vec!["instance", "upgrade", "restart", "auth"]), value());
    prop_oneof![value(), wrapped.prop_map(|(key, inside)| Value::Object(Map::from_iter([(key.to_owned(), inside)])))]
}

fn assert_sane(reply: &Reply, what: &dyn std::fmt::Debug) {
    assert!(reply.code < 500 || reply.code == 501, "{what:?}: {} {}", reply.code, reply.text);
    assert!(reply.header("x-openstack-request-id").starts_with("req-"));
    if reply.code >= 400 && !reply.text.is_empty() {
        let body = reply.json();
        let told = body["message"].is_string()
            || body.as_object().is_some_and(|o| o.values().any(|v| v["message"].is_string()));
        assert!(told, "{what:?}: {}", reply.text);
        assert!(reply.text.len() < 8000, "{what:?}: {}", reply.text);
    }
}

/// Tries `count` values of the strategy.
fn try_all<S: Strategy>(count: u32, strategy: &S, check: impl AsyncFn(&World, S::Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let world = runtime.block_on(World::start());
    let mut runner = TestRunner::new(Config { cases: count, failure_persistence: None, ..Config::default() });
    let result = runner.run(strategy, |value| {
        runtime.block_on(check(&world, value));
        Ok(())
    });
    runtime.block_on(world.stop());
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn no_body_makes_anything_fail_inside() {
    try_all(300, &body(), async |world, body| {
        let listed = world.demo.get("/instances?limit=1").await.json();
        let id = listed["instances"][0]["id"].as_str().unwrap_or("00000000-0000-0000-0000-000000000000").to_owned();
        let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "8.0.2");
        for (client, method, path) in [
            (&world.demo, "POST", "/instances".to_owned()),
            (&world.demo, "PUT", format!("/instances/{id}")),
            (&world.demo, "PATCH", format!("/instances/{id}")),
            (&world.demo, "POST", format!("/instances/{id}/action")),
            (&world.admin, "PATCH", format!("/mgmt/datastore-versions/{version}")),
        ] {
            assert_sane(&client.ask(method, &path, Some(&body)).await, &(method, &path, &body));
        }
        let headers = [("content-type", "application/json")];
        let login = send(world.demo.address, "POST", "/v3/auth/tokens", &headers, body.to_string().into_bytes()).await;
        // Too many at once is an answer too.
        assert!(login.code < 500 || login.code == 503, "{body}: {}", login.text);
    });
}

#[test]
fn no_bytes_make_anything_fail_inside() {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\":,0-9a-z ]{0,80}".prop_map(String::into_bytes)
    ];
    try_all(200, &bytes, async |world, bytes| {
        let headers = [("x-auth-token", world.demo.token.as_str()), ("content-type", "application/json")];
        for path in ["/instances", "/instances/x/action"] {
            let reply = send(world.demo.address, "POST", &world.demo.path(path), &headers, bytes.clone()).await;
            assert_sane(&reply, &bytes);
        }
    });
}

#[test]
fn no_path_and_no_query_make_anything_fail_inside() {
    let part = prop_oneof![
        prop::sample::select(vec![
            "instances",
            "detail",
            "datastores",
            "versions",
            "mgmt",
            "quotas",
            "redis",
            "flavors",
            "..",
            "%2e%2e",
            "%00",
            "%ff",
            ""
        ])
        .prop_map(str::to_owned),
        "[!-~&&[^?#\"<>\\\\^`{|}]]{0,20}",
    ];
    let query = "[!-~&&[^#\"<>\\\\^`{|}]]{0,40}";
    let path = (prop::collection::vec(part, 0..5), query);
    try_all(300, &path, async |world, (parts, query)| {
        let below = format!("/{}?{query}", parts.join("/"));
        for method in ["GET", "DELETE", "PUT"] {
            assert_sane(&world.demo.ask(method, &below, None).await, &below);
        }
        assert_sane(&world.demo.get(&format!("/instances?{query}")).await, &query);
        assert_sane(&send(world.demo.address, "GET", &below, &[], Vec::new()).await, &below);
    });
}

#[test]
fn names_and_settings_of_any_text_come_back_as_they_were_or_are_refused() {
    let world_texts = (".{1,300}", "[ -~]{0,40}", ".{0,40}");
    try_all(60, &world_texts, async |world, (name, key, setting)| {
        let body =
            json!({"instance": {"name": name, "flavorRef": 1, "volume": {"size": 1}, "settings": {key: setting}}});
        let reply = world.admin.post("/instances", &body).await;
        assert_sane(&reply, &body);
        if reply.code == 200 {
            assert_eq!(reply.json()["instance"]["name"], name);
        }
    });
}
