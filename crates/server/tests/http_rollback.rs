//! The way back over the API: shown while there is one, told beforehand, confirmed, gone, and ended before its time.

mod support;

use serde_json::{Value, json};
use support::World;

const NOTHING: Value = Value::Null;

async fn upgraded(world: &World) -> String {
    let id = world.instance("w").await;
    let upgrade = json!({"instance": {"datastore_version": "8.0.2"}});
    assert_eq!(world.demo.patch(&format!("/instances/{id}"), &upgrade).await.code, 202);
    world.until(&id, "ACTIVE").await;
    id
}

#[tokio::test]
async fn a_rollback_is_previewed_confirmed_and_done() {
    let world = World::start().await;
    let id = upgraded(&world).await;
    let path = format!("/instances/{id}");
    let shown = world.demo.until(&path, |reply| reply.json()["instance"]["rollback"] != NOTHING).await.json();
    let back = &shown["instance"]["rollback"];
    assert_eq!((&back["version"], &back["bytes"]), (&json!("redis 7.0.15"), &json!(4096)), "{back}");

    let preview = world.demo.post(&format!("{path}/rollback-preview"), &json!({"rollback": {}})).await;
    assert_eq!(preview.code, 200, "{}", preview.text);
    let plan = &preview.json()["plan"];
    assert_eq!((&plan["from"]["name"], &plan["to"]["name"]), (&json!("8.0.2"), &json!("7.0.15")));
    assert_eq!((&plan["in_place"], &plan["loss"]["writes"]), (&json!(false), &json!(12)), "{plan}");
    assert_eq!((&plan["since"], &plan["until"]), (&back["since"], &back["until"]));
    assert!(plan["steps"].as_array().expect("steps").iter().any(|step| step["name"] == "restore"), "{plan}");

    for body in [json!({"rollback": {}}), json!({"rollback": {"accept_loss": false}})] {
        let refused = world.demo.post(&format!("{path}/rollback"), &body).await;
        assert_eq!(refused.code / 100, 4, "{}", refused.text);
        assert!(
            refused.text.contains("rollback.unconfirmed") && refused.text.contains("--dry-run"),
            "{}",
            refused.text
        );
    }
    for (below, body) in [
        ("rollback", json!({"rollback": {"accept_loss": "yes"}})),
        ("rollback", json!({"rollback": {"to": "7.0.15"}})),
        ("rollback-preview", json!({"rollback": []})),
        ("finalize", json!({"finalize": {"now": true}})),
    ] {
        world.demo.post(&format!("{path}/{below}"), &body).await.assert_fault(400, "badRequest");
    }
    assert_eq!(world.reader.post(&format!("{path}/finalize"), &json!({"finalize": {}})).await.code, 403);

    world.hold(true);
    let agreed = json!({"rollback": {"accept_loss": true}});
    assert_eq!(world.demo.post(&format!("{path}/rollback"), &agreed).await.code, 202);
    let busy = world.demo.get(&path).await.json();
    let (status, version) = (&busy["instance"]["status"], &busy["instance"]["datastore"]["version"]);
    assert_eq!((status, version), (&json!("UPGRADE"), &json!("7.0.15")), "what was asked for is shown meanwhile");
    world
        .demo
        .post(&format!("{path}/finalize"), &json!({"finalize": {}}))
        .await
        .assert_fault(422, "unprocessableEntity");
    world.hold(false);
    let over = world.until(&id, "ACTIVE").await;
    assert_eq!(over["instance"]["datastore"]["version"], "7.0.15");
    let operations = world.demo.get(&format!("{path}/operations")).await.json();
    let newest = &operations["operations"][0];
    assert_eq!(
        (&newest["kind"], &newest["from"], &newest["to"]),
        (&json!("rollback"), &json!("redis 8.0.2"), &json!("redis 7.0.15"))
    );
    world.stop().await;
}

#[tokio::test]
async fn after_a_finalize_there_is_no_way_back_and_everybody_is_told_why() {
    let world = World::start().await;
    let id = upgraded(&world).await;
    let path = format!("/instances/{id}");
    let finalize = json!({"finalize": {}});
    assert_eq!(world.demo.post(&format!("{path}/finalize"), &finalize).await.code, 202);
    let operations = format!("{path}/operations");
    world.demo.until(&operations, |reply| reply.json()["operations"][0]["phase"] == "done").await;
    let gone = world.demo.until(&path, |reply| reply.json()["instance"]["rollback"] == NOTHING).await.json();
    assert_eq!(gone["instance"]["status"], "ACTIVE");
    for (below, body) in [
        ("rollback", json!({"rollback": {"accept_loss": true}})),
        ("rollback-preview", json!({"rollback": {}})),
        ("finalize", finalize),
    ] {
        let refused = world.demo.post(&format!("{path}/{below}"), &body).await;
        assert_eq!(refused.code / 100, 4, "{below}: {}", refused.text);
        assert!(refused.text.contains("was finalized at"), "{below}: {}", refused.text);
    }
    world.stop().await;
}

#[tokio::test]
async fn the_configuration_group_from_before_is_attached_again() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let path = format!("/instances/{id}");
    let group = world.group("cache", &json!({"timeout": 5})).await;
    let attach = json!({"instance": {"configuration": group}});
    assert_eq!(world.demo.put(&path, &attach).await.code, 202);
    let attached = |id: &str| {
        let id = json!(id);
        move |reply: &support::Reply| reply.json()["instance"]["configuration"]["id"] == id
    };
    world.demo.until(&path, attached(&group)).await;
    assert_eq!(world.demo.patch(&path, &json!({"instance": {"datastore_version": "8.0.2"}})).await.code, 202);
    let upgraded = world.until(&id, "ACTIVE").await;
    assert_eq!(upgraded["instance"]["configuration"]["name"], "cache-8.0.2");
    assert_eq!(
        world.demo.post(&format!("{path}/rollback"), &json!({"rollback": {"accept_loss": true}})).await.code,
        202
    );
    let back = world.until(&id, "ACTIVE").await;
    assert_eq!(
        (&back["instance"]["configuration"]["id"], &back["instance"]["datastore"]["version"]),
        (&json!(group), &json!("7.0.15"))
    );
    world.stop().await;
}
