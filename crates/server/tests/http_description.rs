//! The description of the API is true: every route it names is there, and answers have the schema it gives them.

#![allow(clippy::panic, reason = "a test ends by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Client, World, send};

/// How `value` differs from `schema`, as far as this server's schemas go.
fn differs(place: &str, value: &Value, schema: &Value, all: &Value) -> Vec<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let path = name.trim_start_matches('#');
        let schema = all.pointer(path).unwrap_or_else(|| panic!("{name} is not described"));
        return differs(place, value, schema, all);
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(either) = schema[key].as_array() {
            let each = either.iter().map(|schema| differs(place, value, schema, all));
            return each.min_by_key(Vec::len).unwrap_or_default();
        }
    }
    if let Some(every) = schema["allOf"].as_array() {
        return every.iter().flat_map(|schema| differs(place, value, schema, all)).collect();
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Vec::new(),
    };
    let fits = |kind: &&str| match *kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if !kinds.iter().any(fits) {
        return vec![format!("{place} is {value} and not {kinds:?}")];
    }
    let mut found = Vec::new();
    for (i, member) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(differs(&format!("{place}[{i}]"), member, &schema["items"], all));
    }
    if let Some(object) = value.as_object() {
        for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(key) {
                found.push(format!("{place}.{key} is missing"));
            }
        }
        let named = schema["properties"].as_object();
        let more = object.keys().filter(|key| named.is_none_or(|named| !named.contains_key(*key)));
        for key in more.filter(|_| schema["additionalProperties"].is_object()) {
            found.extend(differs(&format!("{place}.{key}"), &object[key], &schema["additionalProperties"], all));
        }
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(value) = object.get(key) {
                found.extend(differs(&format!("{place}.{key}"), value, schema, all));
            }
        }
    }
    found
}

#[tokio::test]
async fn every_described_route_is_there_and_answers_as_described() {
    let world = World::start().await;
    let (id, mariadb) = (world.instance("w").await, world.mariadb("m").await);
    let version = coffer_server::version_id(coffer_core::datastore::Datastore::Redis, "8.0.2").to_string();
    let group = world.group("g", &json!({"timeout": 5})).await;
    let description = send(world.demo.address, "GET", "/openapi.json", &[], Vec::new()).await.json();
    let mut checked = 0;
    for (path, item) in description["paths"].as_object().expect("paths") {
        let filled = [
            ("{project}", world.admin.project.as_str()),
            ("{tenant}", &world.demo.project),
            ("{datastore}", "redis"),
            ("{version}", &version),
            ("{flavor}", "1"),
            ("{user}", "ann"),
            ("{database}", "shop"),
            ("{group}", &group),
            ("{parameter}", "timeout"),
        ];
        let filled = filled.iter().fold(path.clone(), |path, (part, value)| path.replace(part, value));
        let below_v3 = filled.starts_with("/v3");
        let has_accounts = ["/databases", "/users", "/root"].iter().any(|part| path.contains(part));
        let of_instance = if has_accounts { &mariadb } else { &id };
        let filled = filled.replace("{id}", if below_v3 { &world.admin.project } else { of_instance });
        assert!(!filled.contains('{'), "{filled}");
        for (method, operation) in item.as_object().expect("methods") {
            let named = operation["parameters"].as_array().cloned().unwrap_or_default();
            for part in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                assert_eq!(named.iter().filter(|p| p["name"] == part && p["in"] == "path").count(), 1, "{path} {part}");
            }
            let headers = [
                ("x-auth-token", world.admin.token.as_str()),
                ("x-subject-token", world.admin.token.as_str()),
                ("content-type", "application/json"),
            ];
            if method == "delete" {
                continue;
            }
            let reply = send(world.demo.address, &method.to_uppercase(), &filled, &headers, b"[]".to_vec()).await;
            if method != "get" {
                assert_eq!(reply.code, 400, "{method} {filled}: {}", reply.text);
                continue;
            }
            assert_eq!(reply.code, 200, "{filled}: {}", reply.text);
            let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
            if path != "/openapi.json" && path != "/metrics" {
                assert!(!schema.is_null(), "{path} has no schema");
                let found = differs("", &reply.json(), schema, &description);
                assert!(found.is_empty(), "{filled}: {found:#?}\n{}", reply.text);
                checked += 1;
            }
        }
    }
    assert!(checked >= 20, "{checked}");
    let schema = &description["paths"]["/v1.0/{project}/instances"]["get"]["responses"]["default"]["content"]["application/json"]
        ["schema"];
    let foreign = Client { project: world.other.project.clone(), ..world.demo.clone() };
    for fault in [world.demo.get("/instances?limit=x").await, foreign.get("/instances").await] {
        let found = differs("", &fault.json(), schema, &description);
        assert!(found.is_empty(), "{found:#?}\n{}", fault.text);
    }
    world.stop().await;
}
