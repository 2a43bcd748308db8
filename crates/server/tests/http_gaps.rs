//! What was measured of gaps, over the API: reported to whom it concerns, and told beforehand in plans.

mod support;

use serde_json::{Value, json};
use support::World;

const SMALLEST: u64 = 16 << 20;

async fn upgraded(world: &World, name: &str) {
    let id = world.instance(name).await;
    let upgrade = json!({"instance": {"datastore_version": "8.0.2"}});
    assert_eq!(world.demo.patch(&format!("/instances/{id}"), &upgrade).await.code, 202);
    world.until(&id, "ACTIVE").await;
}

async fn expected(world: &World, id: &str) -> Value {
    let body = json!({"upgrade": {"datastore_version": "8.0.2"}});
    let preview = world.demo.post(&format!("/instances/{id}/upgrade-preview"), &body).await;
    assert_eq!(preview.code, 200, "{}", preview.text);
    preview.json()["plan"]["gap"].clone()
}

#[tokio::test]
async fn what_was_measured_is_reported_and_told_beforehand() {
    let world = World::start().await;
    let next = world.instance("next").await;
    assert_eq!(world.demo.get("/gaps").await.json(), json!({"gaps": []}));
    assert_eq!(expected(&world, &next).await, Value::Null);

    for name in ["a", "b", "c"] {
        upgraded(&world, name).await;
    }
    let measured = |ms| json!({"count": 3, "shortest_ms": ms, "median_ms": ms, "longest_ms": ms});
    assert_eq!(expected(&world, &next).await, measured(42.0), "three like it are enough");

    let mut gaps = world.demo.get("/gaps").await.json();
    assert!(gaps["gaps"][0]["newest"].take().is_string(), "{gaps}");
    let line = json!({"kind": "upgrade", "from": "redis 7.0.15", "to": "redis 8.0.2",
        "host": "x86_64, 2 processors, 24 GiB", "data_bytes": SMALLEST,
        "write": measured(42.0), "read": measured(21.0), "newest": null});
    assert_eq!(gaps, json!({"gaps": [line]}));
    assert_eq!(world.admin.get("/gaps").await.json()["gaps"].as_array().map(Vec::len), Some(1), "of all projects");
    assert_eq!(world.other.get("/gaps").await.json(), json!({"gaps": []}), "another project's");
    world.stop().await;
}
