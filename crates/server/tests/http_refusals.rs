//! Bad input: each is refused with the code, the fault and the words of Trove where it has them, and nothing is done.

mod support;

use serde_json::{Value, json};
use support::{Reply, World, send};

const NAME: &str = "instance['name'] '' should be non-empty; instance['name'] '' does not match '^.*[0-9a-zA-Z]+.*$'";

#[tokio::test]
async fn bad_creations_are_refused_and_create_nothing() {
    let world = World::start().await;
    let with = |changes: Value| {
        let mut body = json!({"instance": {"name": "w1", "flavorRef": "2", "volume": {"size": 1},
            "datastore": {"type": "redis", "version": "7.0.15"}}});
        for (key, value) in changes.as_object().expect("changes") {
            body["instance"][key] = value.clone();
        }
        body
    };
    let without = |key: &str| {
        let mut body = with(json!({}));
        body["instance"].as_object_mut().expect("an object").remove(key);
        body
    };
    let nobody = "00000000-0000-0000-0000-000000000000";
    for (body, code, fault, message) in [
        (json!({}), 400, "badRequest", "Validation error: 'instance' is a required property"),
        (json!([]), 400, "badRequest", "Validation error: [] is not of type 'object'"),
        (json!("x"), 400, "badRequest", "Validation error: 'x' is not of type 'object'"),
        (json!({"instance": null}), 400, "badRequest", "Validation error: instance None is not of type 'object'"),
        (without("name"), 400, "badRequest", "Validation error: instance 'name' is a required property"),
        (without("flavorRef"), 400, "badRequest", "Resource None cannot be found."),
        (without("volume"), 400, "badRequest", "Volume size was not specified."),
        (with(json!({"name": ""})), 400, "badRequest", &format!("Validation error: {NAME}")),
        (with(json!({"flavorRef": "99"})), 400, "badRequest", "Resource 99 cannot be found."),
        (
            with(json!({"volume": {"size": 5000}})),
            413,
            "overLimit",
            "Volume 'size' cannot exceed maximum of 10 GB, 5000 cannot be accepted.",
        ),
        (with(json!({"datastore": {"type": "nosuch"}})), 404, "itemNotFound", "Datastore 'nosuch' cannot be found."),
        (with(json!({"datastore": {"type": "mysql"}})), 400, "badRequest", ""),
        (
            with(json!({"datastore": {"type": "redis", "version": "9.9"}})),
            400,
            "badRequest",
            "Datastore version '9.9' cannot be found.",
        ),
        (with(json!({"datastore": {"type": "redis", "version": "6.0.16"}})), 400, "badRequest", ""),
        (with(json!({"replica_of": nobody})), 404, "itemNotFound", &format!("Resource {nobody} cannot be found.")),
        (
            with(json!({"restorePoint": {"backupRef": nobody}})),
            404,
            "itemNotFound",
            &format!("Resource {nobody} cannot be found."),
        ),
        (
            with(json!({"configuration": nobody})),
            404,
            "itemNotFound",
            &format!("Configuration group with ID {nobody} could not be found."),
        ),
        (
            with(json!({"users": [{"name": "u", "password": "p"}]})),
            422,
            "unprocessableEntity",
            "Operation not supported for datastore redis.",
        ),
        (
            with(json!({"users": [{"name": "a b/"}]})),
            400,
            "badRequest",
            "Validation error: instance['users'][0] 'password' is a required property",
        ),
        (with(json!({"modules": [{"id": nobody}]})), 501, "notImplemented", ""),
        (with(json!({"access": {"allowed_cidrs": ["10.0.0.0/8"]}})), 501, "notImplemented", ""),
        (
            with(json!({"settings": {"maxclients": [1]}})),
            400,
            "badRequest",
            "Validation error: instance['settings']['maxclients'] [1] is not of type 'string'",
        ),
    ] {
        let reply = world.demo.post("/instances", &body).await;
        reply.assert_fault(code, fault);
        assert!(message.is_empty() || reply.message() == message, "{body}: {}", reply.message());
    }
    assert_eq!(world.demo.get("/instances").await.json(), json!({"instances": []}));
    world.stop().await;
}

#[tokio::test]
async fn more_than_the_quota_is_refused() {
    let world = World::start().await;
    world.hold(true);
    let body = json!({"instance": {"name": "w", "flavorRef": 1, "volume": {"size": 10}}});
    for _ in 0..10 {
        assert_eq!(world.demo.post("/instances", &body).await.code, 200);
    }
    let reply = world.demo.post("/instances", &body).await;
    reply.assert_fault(413, "overLimit");
    assert_eq!(reply.message(), "Quota exceeded for resources: ['volumes'].");
    assert_eq!(world.other.post("/instances", &body).await.code, 200, "another project's quota is another");
    world.stop().await;
}

#[tokio::test]
async fn bad_changes_are_refused_and_change_nothing() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let path = format!("/instances/{id}");
    let (nobody, mysql) = ("00000000-0000-0000-0000-000000000000", "mysql/8.0");
    let replica = format!("Instance {id} is not a replica.");
    for (inside, code, fault, message) in [
        (json!({"datastore_version": "9.9"}), 400, "badRequest", "Datastore version '9.9' cannot be found."),
        (json!({"datastore_version": "8.1.1"}), 400, "badRequest", "Datastore version '8.1.1' cannot be found."),
        (json!({"datastore_version": mysql}), 400, "badRequest", "Datastore version 'mysql/8.0' cannot be found."),
        (json!({"datastore_version": nobody}), 404, "itemNotFound", "DBDatastoreVersion Not Found"),
        (
            json!({"datastore_version": 7}),
            400,
            "badRequest",
            "Validation error: instance['datastore_version'] 7 is not of type 'string'",
        ),
        (
            json!({"datastore_version": null}),
            400,
            "badRequest",
            "Validation error: instance['datastore_version'] None is not of type 'string'",
        ),
        (
            json!({"bogus": 1}),
            400,
            "badRequest",
            "Validation error: instance Additional properties are not allowed ('bogus' was unexpected)",
        ),
        (
            json!({"datastore_version": "8.0.2", "configuration": null}),
            400,
            "badRequest",
            "Only one attribute (except 'name') is allowed to update.",
        ),
        (json!({"name": ""}), 400, "badRequest", &format!("Validation error: {NAME}")),
        (json!({"replica_of": ""}), 400, "badRequest", &replica),
        (json!({"slave_of": ""}), 400, "badRequest", &replica),
        (
            json!({"configuration": nobody}),
            404,
            "itemNotFound",
            &format!("Configuration group id: {nobody} could not be found."),
        ),
        (json!({"access": {"allowed_cidrs": ["10.0.0.0/8"]}}), 501, "notImplemented", ""),
    ] {
        for method in ["PUT", "PATCH"] {
            let reply = world.demo.ask(method, &path, Some(&json!({"instance": inside}))).await;
            reply.assert_fault(code, fault);
            assert!(message.is_empty() || reply.message() == message, "{inside}: {}", reply.message());
        }
    }
    let public = |public| json!({"access": {"is_public": public}});
    for nothing in [json!({}), json!({"configuration": null}), public(false), public(true)] {
        assert_eq!(world.demo.patch(&path, &json!({"instance": nothing})).await.code, 202);
    }
    let after = world.demo.get(&path).await.json();
    assert_eq!((&after["instance"]["name"], &after["instance"]["status"]), (&json!("w"), &json!("ACTIVE")));
    world.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_cannot_work_is_refused_with_everything_that_stands_against_it() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let path = format!("/instances/{id}");
    let reply = world.demo.patch(&path, &json!({"instance": {"datastore_version": "6.0.16"}})).await;
    reply.assert_fault(400, "badRequest");
    let findings = reply.json()["badRequest"]["findings"].as_array().expect("findings").clone();
    // It is older, and it is switched off: both are told at once.
    let errors = findings.iter().filter(|finding| finding["severity"] == "error");
    assert!(errors.clone().count() >= 2, "{findings:#?}");
    for finding in errors {
        for key in ["id", "object", "message", "remedy"] {
            assert!(finding[key].is_string(), "{finding}");
        }
        let message = finding["message"].as_str().expect("a message");
        assert!(reply.message().contains(message), "{}", reply.message());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_busy_instance_is_left_to_what_is_done_to_it() {
    let world = World::start().await;
    world.hold(true);
    let id = world.begin_instance("w").await;
    let path = format!("/instances/{id}");
    let busy = |reply: Reply| {
        reply.assert_fault(422, "unprocessableEntity");
        let begin = format!("Instance {id} is not currently available for an action to be performed");
        assert!(reply.message().starts_with(&begin), "{}", reply.message());
    };
    busy(world.demo.patch(&path, &json!({"instance": {"datastore_version": "8.0.2"}})).await);
    busy(world.demo.post(&format!("{path}/action"), &json!({"restart": {}})).await);
    busy(world.demo.ask("DELETE", &path, None).await);
    assert_eq!(world.demo.get(&path).await.json()["instance"]["status"], "BUILD");
    world.stop().await;
}

#[tokio::test]
async fn bad_actions_are_refused() {
    let world = World::start().await;
    let id = world.instance("w").await;
    let path = format!("/instances/{id}/action");
    for (body, code, fault, message) in [
        (json!({"bogus": {}}), 400, "badRequest", "Invalid instance action: bogus"),
        (json!({}), 400, "badRequest", ""),
        (json!({"restart": {}, "resize": {}}), 400, "badRequest", ""),
        (json!({"restart": null}), 400, "badRequest", "Validation error: restart None is not of type 'object'"),
        (json!({"resize": {"volume": {"size": 2}}}), 501, "notImplemented", ""),
        (json!({"promote_to_replica_source": {}}), 400, "badRequest", &format!("Instance {id} is not a replica.")),
        (json!({"eject_replica_source": {}}), 400, "badRequest", &format!("Instance {id} is not a replica source.")),
        (json!({"reset_status": {}}), 403, "forbidden", "Policy doesn't allow instance:reset_status to be performed."),
    ] {
        let reply = world.demo.post(&path, &body).await;
        reply.assert_fault(code, fault);
        assert!(message.is_empty() || reply.message() == message, "{body}: {}", reply.message());
    }
    let force_delete = json!({"reset_status": {"force_delete": true}});
    assert_eq!(world.demo.post(&path, &force_delete).await.code, 202, "the client's force delete begins with it");
    assert_eq!(world.admin.post(&path, &json!({"reset_status": {}})).await.code, 202, "it is what it is");
    world.stop().await;
}

#[tokio::test]
async fn what_there_is_not_is_not_found() {
    let world = World::start().await;
    let nobody = "00000000-0000-0000-0000-000000000000";
    for (method, below, message) in [
        ("GET", format!("/instances/{nobody}"), format!("Resource {nobody} cannot be found.")),
        ("GET", "/instances/not-a-uuid".to_owned(), "Resource not-a-uuid cannot be found.".to_owned()),
        ("DELETE", "/instances/nope".to_owned(), "Resource nope cannot be found.".to_owned()),
        ("GET", "/flavors/99".to_owned(), "Resource 99 cannot be found.".to_owned()),
        ("GET", "/datastores/nosuch".to_owned(), "Datastore 'nosuch' cannot be found.".to_owned()),
        ("GET", "/datastores/nosuch/versions".to_owned(), "Datastore 'nosuch' cannot be found.".to_owned()),
        ("GET", "/nosuch".to_owned(), "The resource could not be found.".to_owned()),
        ("GET", "/instances/".to_owned(), "The resource could not be found.".to_owned()),
        ("GET", "/instances/%ff".to_owned(), "The resource could not be found.".to_owned()),
        ("DELETE", "/instances".to_owned(), "The resource could not be found.".to_owned()),
        ("PUT", "/flavors".to_owned(), "The resource could not be found.".to_owned()),
        ("BREW", "/flavors".to_owned(), "The resource could not be found.".to_owned()),
    ] {
        let reply = world.demo.ask(method, &below, None).await;
        reply.assert_fault(404, "itemNotFound");
        assert_eq!(reply.message(), message, "{method} {below}");
    }
    for below in ["/datastores/redis/versions/nosuch", "/datastores/versions/nosuch"] {
        let reply = world.demo.get(below).await;
        reply.assert_fault(400, "badRequest");
        assert_eq!(reply.message(), "Datastore version 'nosuch' cannot be found.");
    }
    let unknown = send(world.demo.address, "GET", "/v2.0/", &[], Vec::new()).await;
    unknown.assert_fault(404, "itemNotFound");
    let options = world.demo.ask("OPTIONS", "/instances", None).await;
    assert_eq!((options.code, options.text.as_str()), (200, ""));
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_json_is_refused_before_it_is_looked_at() {
    let world = World::start().await;
    let path = world.demo.path("/instances");
    let ask = async |kind: Option<&str>, body: Vec<u8>| {
        let mut headers = vec![("x-auth-token", world.demo.token.as_str())];
        headers.extend(kind.map(|kind| ("content-type", kind)));
        send(world.demo.address, "POST", &path, &headers, body).await
    };
    let malformed = json!({"message": "Malformed request body<br /><br />\n\n\n", "code": "400 Bad Request",
        "title": "Bad Request"});
    for body in [&b"{\"instance\": "[..], b"", b"\xff\xfe", b"{'a': 1}", &b"[".repeat(100_000)] {
        let reply = ask(Some("application/json"), body.to_vec()).await;
        assert_eq!((reply.code, reply.json()), (400, malformed.clone()));
    }
    for (kind, named) in
        [(Some("text/plain"), "text/plain"), (None, "text/plain"), (Some("application/xml"), "application/xml")]
    {
        let reply = ask(kind, b"{}".to_vec()).await;
        let message = format!("The request media type {named} is not supported by this server.\n<br /><br />\n");
        let expected =
            json!({"message": message, "code": "415 Unsupported Media Type", "title": "Unsupported Media Type"});
        assert_eq!((reply.code, reply.json()), (415, expected));
    }
    let charset = ask(Some("application/json; charset=UTF-8"), b"{}".to_vec()).await;
    charset.assert_fault(400, "badRequest");
    let large = format!("{{\"instance\": {{\"name\": \"{}\"}}}}", "x".repeat(300_000));
    ask(Some("application/json"), large.into_bytes()).await.assert_fault(413, "overLimit");
    let long = format!("{{\"instance\": {{\"name\": \"{}\"}}}}", "x".repeat(200_000));
    let reply = ask(Some("application/json"), long.into_bytes()).await;
    reply.assert_fault(400, "badRequest");
    assert!(reply.text.len() < 500, "an answer is never as long as the question: {}", reply.text.len());
    world.stop().await;
}

#[tokio::test]
async fn bad_pages_are_refused() {
    let world = World::start().await;
    for query in ["limit=0", "limit=abc", "limit=-1", "limit=", "limit=1.5", "marker=%00"] {
        for path in ["/instances", "/instances/detail"] {
            world.demo.get(&format!("{path}?{query}")).await.assert_fault(400, "badRequest");
        }
    }
    for query in ["limit=99999999999999999999", "marker=zzz", "bogus=1", "include_clustered=False", "%=%", "&&&=="] {
        assert_eq!(world.demo.get(&format!("/instances?{query}")).await.code, 200, "{query}");
    }
    world.stop().await;
}
