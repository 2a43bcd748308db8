//! What is stuck, over the API: only who may decide about it can, and what is not stuck is left alone.

mod support;

use serde_json::json;
use support::World;

#[tokio::test]
async fn what_is_not_stuck_is_neither_resumed_nor_abandoned() {
    let world = World::start().await;
    let id = world.instance("w").await;
    for choice in ["resume", "abandon"] {
        for path in [format!("/instances/{id}/{choice}"), format!("/instances/{id}/{choice}-preview")] {
            let body = json!({ choice: {} });
            let refused = world.demo.post(&path, &body).await;
            refused.assert_fault(400, "badRequest");
            assert!(refused.message().contains("none is stuck"), "{}", refused.text);
            assert_eq!(refused.json()["badRequest"]["findings"][0]["id"], "operation.none", "{}", refused.text);
            assert_eq!(world.reader.post(&path, &body).await.code, 403);
            assert_eq!(world.other.post(&path, &body).await.code, 404);
            for bad in [json!({}), json!({ choice: [] }), json!({ choice: {"now": true} }), json!([])] {
                world.demo.post(&path, &bad).await.assert_fault(400, "badRequest");
            }
        }
    }
    world.hold(true);
    world.demo.post(&format!("/instances/{id}/action"), &json!({"restart": {}})).await;
    let moving = world.demo.post(&format!("/instances/{id}/abandon-preview"), &json!({"abandon": {}})).await;
    moving.assert_fault(400, "badRequest");
    assert!(moving.message().contains("it goes on by itself"), "{}", moving.text);
    world.stop().await;
}

#[tokio::test]
async fn three_versions_are_three_facts() {
    let world = World::start().await;
    let id = world.instance("w").await;
    world.hold(true);
    let path = format!("/instances/{id}");
    assert_eq!(world.demo.patch(&path, &json!({"instance": {"datastore_version": "8.0.2"}})).await.code, 202);
    let shown = world.demo.get(&path).await.json();
    let version = |key: &str| shown["instance"][key].clone();
    assert_eq!(
        ["requested_version", "recorded_version", "running_version", "on_disk_version"].map(version),
        ["8.0.2", "7.0.15", "7.0.15", "7.0.15"].map(|number| json!(number))
    );
    world.hold(false);
    world.until(&id, "ACTIVE").await;
    let all = |reply: &support::Reply| {
        ["requested_version", "recorded_version", "running_version"]
            .iter()
            .all(|key| reply.json()["instance"][key] == "8.0.2")
    };
    let over = world.demo.until(&path, all).await.json();
    assert_eq!((&over["instance"]["drift"], &over["instance"]["silent"]), (&json!(null), &json!(null)));
    world.stop().await;
}
