use jiff::Timestamp;
use uuid::Uuid;

use super::{Deviation, FileSeen, SETTINGS_TOLD, Sight, find, is_foreign, news};
use crate::datastore::{Datastore, Number};
use crate::id::{InstanceId, VersionId};
use crate::spec::{EngineSpec, ImageWanted, Settings};

const ID: InstanceId = InstanceId(Uuid::nil());

fn spec(datastore: Datastore, number: &str) -> EngineSpec {
    EngineSpec {
        version: VersionId(Uuid::nil()),
        number: number.parse().expect(number),
        image: ImageWanted { datastore, version: number.into(), digest: None, sources: serde_json::Value::Null },
        settings: Settings::new(),
        memory_bytes: 1 << 30,
        cpu_millis: 1000,
        volume_bytes: 1 << 30,
        address: [127, 20, 0, 5].into(),
    }
}

fn number(text: &str) -> Number {
    text.parse().expect(text)
}

/// What is found of a Redis 7.0.15, by id and object.
fn found(sight: &Sight) -> Vec<String> {
    let all = find(ID, &spec(Datastore::Redis, "7.0.15"), sight);
    all.iter().map(|drift| format!("{} {}", drift.id, drift.object)).collect()
}

fn deviation(name: &str, is: &str) -> Deviation {
    Deviation { name: name.to_owned(), wanted: "0".to_owned(), is: is.to_owned() }
}

#[test]
fn an_engine_that_is_what_it_should_be_has_no_drift() {
    let sight = Sight { says: Some(number("7.0.15")), ..Sight::default() };
    assert_eq!(found(&sight), [""; 0]);
    let written_by = Some((Datastore::Redis, number("6.0.16")));
    assert_eq!(found(&Sight { written_by, ..sight }), [""; 0], "data may be older than what reads them");
}

#[test]
fn each_drift_is_found_and_ends_in_something_to_do() {
    for (sight, expected) in [
        (Sight { stopped: true, ..Sight::default() }, "engine.stopped engine"),
        (Sight { says: Some(number("7.0.16")), ..Sight::default() }, "engine.version engine"),
        (Sight { program: FileSeen::Other, ..Sight::default() }, "engine.program program of the engine"),
        (Sight { program: FileSeen::Gone, ..Sight::default() }, "engine.program program of the engine"),
        (Sight { config: FileSeen::Other, ..Sight::default() }, "config.file configuration file"),
        (Sight { config: FileSeen::Gone, ..Sight::default() }, "config.file configuration file"),
        (Sight { deviations: vec![deviation("timeout", "9")], ..Sight::default() }, "setting.differs setting timeout"),
        (Sight { written_by: Some((Datastore::Redis, number("8.0.2"))), ..Sight::default() }, "data.version data"),
        (Sight { written_by: Some((Datastore::Valkey, number("8.1.1"))), ..Sight::default() }, "data.version data"),
    ] {
        assert_eq!(found(&sight), [expected]);
        for drift in find(ID, &spec(Datastore::Redis, "7.0.15"), &sight) {
            assert!(
                drift.remedy.contains("coffer ") || drift.remedy.contains("put the file of the image back"),
                "{drift}"
            );
        }
    }
}

#[test]
fn of_settings_only_so_many_are_told_and_values_are_cut() {
    let long = "x".repeat(1000);
    let deviations: Vec<_> = (0..SETTINGS_TOLD + 3).map(|n| deviation(&format!("s{n}"), &long)).collect();
    let all = find(ID, &spec(Datastore::Redis, "7.0.15"), &Sight { deviations, ..Sight::default() });
    assert_eq!(all.len(), SETTINGS_TOLD + 1);
    assert_eq!(all.last().map(|drift| drift.found.as_str()), Some("3 more differ"));
    assert!(all.iter().all(|drift| drift.found.len() < 250));
}

#[test]
fn data_are_foreign_where_a_later_engine_wrote_them_that_does_not_share_them() {
    use Datastore::{Mariadb, Redis, Valkey};
    for (by, by_number, of, of_number, foreign) in [
        (Redis, "8.0.3", Redis, "8.0.2", false),
        (Redis, "8.2.0", Redis, "8.0.2", true),
        (Valkey, "8.1.1", Valkey, "8.0.1", false),
        (Redis, "7.0.15", Valkey, "8.1.1", false),
        (Mariadb, "11.8.2", Mariadb, "10.11.19", true),
        (Mariadb, "10.11.20", Mariadb, "10.11.19", false),
        (Mariadb, "10.5.1", Mariadb, "10.11.19", false),
    ] {
        let is = is_foreign((by, number(by_number)), &spec(of, of_number));
        assert_eq!(is, foreign, "{by} {by_number} under {of} {of_number}");
    }
}

#[test]
fn what_is_new_and_what_is_gone_is_told_once() {
    let of = |sight: &Sight| find(ID, &spec(Datastore::Redis, "7.0.15"), sight);
    let before = of(&Sight { config: FileSeen::Other, deviations: vec![deviation("hz", "5")], ..Sight::default() });
    let now = of(&Sight { deviations: vec![deviation("hz", "5"), deviation("timeout", "9")], ..Sight::default() });
    let (new, gone) = news(&before, &now);
    assert_eq!(new.iter().map(|d| d.object.as_str()).collect::<Vec<_>>(), ["setting timeout"]);
    assert_eq!(gone.iter().map(|d| d.object.as_str()).collect::<Vec<_>>(), ["configuration file"]);
    assert_eq!(news(&now, &now), (Vec::new(), Vec::new()));
}

#[test]
fn a_record_that_an_agent_does_not_share_is_found() {
    use super::find_in_record;
    use crate::id::{FlavorId, Generation, ProjectId};
    use crate::instance::{Engine, Instance, Observed};
    let instance = Instance {
        id: ID,
        project: ProjectId::from("p"),
        name: "a".to_owned(),
        version: VersionId(Uuid::nil()),
        flavor: FlavorId::from("1"),
        volume_gib: 1,
        address: [127, 20, 0, 5].into(),
        generation: Generation(4),
        settings: Settings::new(),
        own: Settings::new(),
        group: None,
        built: true,
        fault: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
    };
    let observed = |generation, running: &str| Observed {
        generation: Generation(generation),
        engine: Engine::Serving,
        running: Some(number(running)),
        ..Observed::nothing(Timestamp::UNIX_EPOCH)
    };
    let ids = |observed: &Observed| {
        find_in_record(&instance, number("8.0.2"), observed).into_iter().map(|drift| drift.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(&observed(4, "8.0.2")), [""; 0]);
    assert_eq!(ids(&observed(3, "7.0.15")), ["record.generation", "record.version"]);
    assert_eq!(ids(&observed(5, "8.0.2")), [""; 0], "the section is done, its record is not");
    assert_eq!(ids(&Observed { engine: Engine::Starting, ..observed(4, "7.0.15") }), [""; 0]);
}
