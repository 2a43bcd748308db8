//! What every kind of store has to do, as functions that take one. Each expects an empty store.

mod catalogue;
mod groups;
mod instances;
mod operations;

use coffer_core::id::{InstanceId, OperationId};
use coffer_core::instance::{Instance, Kind, Operation};
use coffer_core::plan::{Planned, plan_create, plan_upgrade};
use coffer_store::Store;
use coffer_testkit::fixture::Fixture;
use jiff::Timestamp;
use uuid::Uuid;

pub(crate) use catalogue::*;
pub(crate) use groups::*;
pub(crate) use instances::*;
pub(crate) use operations::*;

/// A time so many seconds after the beginning of it.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Writes down the instance, and the versions of the fixture.
pub(crate) async fn insert(store: &Store, instance: &Instance) {
    let mut write = store.write().await.expect("write");
    for version in &Fixture::serving().catalogue {
        write.seed_version(version).await.expect("version");
    }
    write.insert_instance(instance).await.expect("instance");
    write.commit().await.expect("commit");
}

/// Writes down the fixture's instance with other ids.
pub(crate) async fn insert_another(store: &Store, n: u8, project: &str) -> Instance {
    let mut instance = Fixture::serving().instance;
    instance.id = InstanceId(Uuid::from_u128(u128::from(n)));
    instance.project = project.into();
    instance.address = [127, 20, 1, n].into();
    instance.created_at = at(i64::from(n));
    insert(store, &instance).await;
    instance
}

/// Writes down an operation of that instance, planned for the fixture's.
pub(crate) async fn open(store: &Store, instance: &Instance, kind: Kind) -> Operation {
    let operation = operation(instance, kind);
    let mut write = store.write().await.expect("write");
    write.insert_operation(&operation).await.expect("operation");
    write.commit().await.expect("commit");
    operation
}

pub(crate) fn operation(instance: &Instance, kind: Kind) -> Operation {
    let fixture = if kind == Kind::Create { Fixture::unbuilt() } else { Fixture::serving() };
    let planned = match kind {
        Kind::Create => plan_create(&fixture.snapshot()),
        _ => plan_upgrade(&fixture.snapshot(), fixture.target()),
    };
    let Planned { plan, findings, .. } = planned.expect("a plan");
    Operation {
        id: OperationId(Uuid::new_v4()),
        instance: instance.id,
        project: instance.project.clone(),
        kind,
        target: (kind == Kind::Upgrade).then(|| fixture.target().id),
        group: None,
        plan,
        phase: coffer_core::operation::Phase::START,
        epoch: coffer_core::id::Epoch::default(),
        steps: Vec::new(),
        findings,
        gap_us: None,
        clients: None,
        created_at: at(100),
        updated_at: at(100),
    }
}
