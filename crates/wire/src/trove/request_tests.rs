use serde_json::{Value, json};

use coffer_core::engine::Policy;

use super::{Action, Attachment, InstanceChange, NewInstance, Rollback, Unsupported, UpgradePreview, VersionChange};
use crate::trove::Fault;

fn told<T: std::fmt::Debug>(read: Result<T, Fault>) -> String {
    let fault = read.expect_err("a fault");
    assert_eq!(fault.code(), 400);
    fault.message().to_owned()
}

#[test]
fn what_the_client_sends_at_creation_is_read() {
    let body = json!({"instance": {
        "name": "redis_test", "flavorRef": 1, "volume": {"size": 1, "type": null},
        "datastore": {"type": "redis", "version": "7.0.15"}, "access": {"is_public": true},
        "settings": {"maxclients": 100, "save": "", "appendonly": true}, "something": "else",
    }, "more": 1});
    let new = NewInstance::read(&body).expect("an instance");
    assert_eq!((new.name.as_str(), new.flavor.as_deref()), ("redis_test", Some("1")));
    assert_eq!(new.volume.map(|v| v.size), Some(1));
    assert_eq!(new.datastore.version.as_deref(), Some("7.0.15"));
    assert_eq!(new.settings["maxclients"], "100");
    assert_eq!(new.settings["save"], "");
    assert_eq!(new.settings["appendonly"], "yes");
    assert_eq!(new.unsupported, []);
}

#[test]
fn a_flavor_may_be_an_address() {
    let body = json!({"instance": {"name": "x", "flavorRef": "https://h/v1.0/p/flavors/db.small"}});
    assert_eq!(NewInstance::read(&body).expect("an instance").flavor.as_deref(), Some("db.small"));
}

#[test]
fn what_cannot_be_had_is_never_ignored() {
    let check = |key: &str, value: Value, expected: Unsupported| {
        let body = json!({"instance": {"name": "x", key: value}});
        assert_eq!(NewInstance::read(&body).expect("an instance").unsupported, [expected]);
    };
    check("replica_of", json!("a"), Unsupported::ReplicaOf("a".to_owned()));
    check("restorePoint", json!({"backupRef": "b"}), Unsupported::RestorePoint("b".to_owned()));
    check("modules", json!([{"id": "m"}]), Unsupported::Modules);
    check("access", json!({"is_public": true, "allowed_cidrs": ["10.0.0.0/8"]}), Unsupported::Access);
}

#[test]
fn bad_creations_are_refused_in_the_words_of_the_schema() {
    let check = |body: Value, expected: &str| assert_eq!(told(NewInstance::read(&body)), expected, "{body}");
    let with = |key: &str, value: Value| json!({"instance": {"name": "w1", key: value}});
    check(json!({}), "Validation error: 'instance' is a required property");
    check(json!([]), "Validation error: [] is not of type 'object'");
    check(json!({"instance": null}), "Validation error: instance None is not of type 'object'");
    check(json!({"instance": {}}), "Validation error: instance 'name' is a required property");
    check(
        json!({"instance": {"name": ""}}),
        "Validation error: instance['name'] '' should be non-empty; instance['name'] '' does not match '^.*[0-9a-zA-Z]+.*$'",
    );
    check(
        json!({"instance": {"name": "   "}}),
        "Validation error: instance['name'] '   ' does not match '^.*[0-9a-zA-Z]+.*$'",
    );
    check(json!({"instance": {"name": 5}}), "Validation error: instance['name'] 5 is not of type 'string'");
    check(with("volume", json!({})), "Validation error: instance['volume'] 'size' is a required property");
    check(with("volume", json!(5)), "Validation error: instance['volume'] 5 is not of type 'object'");
    check(
        with("nics", json!([{"foo": 1}])),
        "Validation error: instance['nics'][0] Additional properties are not allowed ('foo' was unexpected)",
    );
    check(with("flavorRef", json!(-1)), "Validation error: instance['flavorRef'] -1 is not of type 'string'");
    check(
        with("settings", json!({"save": "a\nrequirepass x"})),
        "Validation error: instance['settings']['save'] 'a\\nrequirepass x' has control characters",
    );
    check(
        with("settings", json!({"a b": "1"})),
        "Validation error: instance['settings']['a b'] is not the name of a setting",
    );
}

#[test]
fn several_problems_are_told_at_once() {
    let body = json!({"instance": {"flavorRef": [], "volume": {"size": "x"}, "datastore": 1}});
    assert_eq!(told(NewInstance::read(&body)).matches("instance").count(), 4);
}

#[test]
fn changes_are_read_as_put_and_patch_have_them() {
    let body = json!({"instance": {"name": "b", "datastore_version": "valkey/8.1.1"}});
    let change = InstanceChange::read(&body).expect("a change");
    assert_eq!(change.name.as_deref(), Some("b"));
    assert_eq!(change.datastore_version.as_deref(), Some("valkey/8.1.1"));
    for nothing in [json!({"instance": {}}), json!({"instance": {"configuration": null}})] {
        let change = InstanceChange::read(&nothing).expect("nothing");
        assert_eq!(change.configuration, Some(Attachment::None), "{nothing}");
    }
    let body = json!({"instance": {"datastore_version": "8", "defaults": "adopt"}});
    assert_eq!(InstanceChange::read(&body).expect("a change").defaults, Some(Policy::Adopt));
}

#[test]
fn bad_changes_are_refused_in_the_words_of_the_schema() {
    let check = |inside: Value, expected: &str| {
        assert_eq!(told(InstanceChange::read(&json!({"instance": inside}))), expected);
    };
    check(json!({"datastore_version": 7}), "Validation error: instance['datastore_version'] 7 is not of type 'string'");
    check(
        json!({"datastore_version": null}),
        "Validation error: instance['datastore_version'] None is not of type 'string'",
    );
    check(
        json!({"datastore_version": ""}),
        "Validation error: instance['datastore_version'] '' should be non-empty; \
         instance['datastore_version'] '' does not match '^.*[0-9a-zA-Z]+.*$'",
    );
    check(
        json!({"bogus": 1}),
        "Validation error: instance Additional properties are not allowed ('bogus' was unexpected)",
    );
    check(
        json!({"name": "x", "defaults": "adopt"}),
        "Validation error: instance['defaults'] says something only beside 'datastore_version'",
    );
    check(
        json!({"datastore_version": "8", "defaults": "keep"}),
        "Validation error: instance['defaults'] 'keep' is not one of ['preserve', 'adopt']",
    );
    check(
        json!({"configuration": ""}),
        "Validation error: instance['configuration'] '' is not valid under any of the given schemas; '' should be \
         non-empty; '' does not match '^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-\
         ([0-9a-fA-F]){12}$'; '' is not of type 'null'",
    );
    check(
        json!({"datastore_version": "8", "configuration": null}),
        "Only one attribute (except 'name') is allowed to update.",
    );
}

#[test]
fn actions_are_one_key_with_an_object() {
    assert_eq!(Action::read(&json!({"restart": {}})).expect("an action"), Action::Restart);
    let reset = Action::read(&json!({"reset_status": {"force_delete": true}}));
    assert_eq!(reset.expect("an action"), Action::ResetStatus { force_delete: true });
    let check = |body: Value, expected: &str| assert_eq!(told(Action::read(&body)), expected);
    check(json!({"bogus": {}}), "Invalid instance action: bogus");
    check(json!({"restart": null}), "Validation error: restart None is not of type 'object'");
    for not_one in [json!({}), json!([]), json!({"restart": {}, "resize": {}})] {
        check(not_one, "Invalid instance action: exactly one is needed, such as {\"restart\": {}}");
    }
}

#[test]
fn previews_and_versions_refuse_what_they_do_not_know() {
    assert_eq!(
        told(UpgradePreview::read(&json!({"upgrade": {}}))),
        "Validation error: upgrade 'datastore_version' is a required property"
    );
    let agreed = Rollback::read(&json!({"rollback": {"accept_loss": true}})).expect("a rollback");
    assert!(agreed.accept_loss);
    assert_eq!(
        told(Rollback::read(&json!({"rollback": {"accept_loss": 1}}))),
        "Validation error: rollback['accept_loss'] 1 is not of type 'boolean'"
    );
    let change = VersionChange::read(&json!({"active": false, "name": "7.0"})).expect("a change");
    assert_eq!((change.active, change.name.as_deref()), (Some(false), Some("7.0")));
    assert_eq!(told(VersionChange::read(&json!({"active": 1}))), "Validation error: active 1 is not of type 'boolean'");
}
