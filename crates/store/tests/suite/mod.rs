//! What every kind of store has to do, as functions that take one. Each expects an empty store.

mod catalogue;
mod groups;
mod instances;
mod operations;
mod released;

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
pub(crate) use released::*;

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

/// Hands all names of the suite to a macro that makes tests of them.
macro_rules! each_of_the_suite {
    ($tests:ident) => {
        $tests!(
            a_claimant_that_was_fenced_writes_nothing,
            a_deleted_instance_is_gone_and_gives_back_what_it_had,
            a_deleted_instance_leaves_its_group,
            a_freed_address_is_given_again_as_late_as_possible,
            a_group_is_read_as_it_was_written_by_its_project_alone,
            a_lease_keeps_others_away_until_it_ends,
            a_migrated_group_is_made_once,
            a_new_catalogue_leaves_alone_what_the_operator_changed,
            a_page_ends_where_the_next_begins,
            a_page_has_what_each_of_its_instances_has,
            a_series_is_named_by_the_number_of_its_image,
            a_stuck_operation_makes_place_for_another,
            a_token_comes_with_its_owner_and_roles_until_it_is_deleted,
            addresses_of_ipv6_are_given_like_those_of_ipv4,
            an_event_may_say_anything,
            an_instance_has_one_open_operation_and_the_error_names_it,
            an_instance_has_the_group_that_the_end_of_an_operation_gave_it,
            another_projects_instance_does_not_exist,
            answers_are_kept_once_and_used_up_by_the_next_save,
            done_clears_the_fault_that_undone_has_set,
            eight_claimants_make_one_claim,
            gaps_are_kept_once_when_their_instance_is_gone_and_by_project,
            groups_come_in_pages_by_their_ids,
            one_version_is_the_default_and_names_are_unique,
            the_first_image_of_a_version_stays,
            the_record_of_a_step_is_one_with_its_change,
            two_instances_never_have_one_address,
            what_clients_saw_is_kept_with_the_operation,
            what_is_left_of_an_instance_is_known_for_certain,
            what_is_written_is_read_again_exactly,
            who_is_to_have_an_agent_follows_from_the_record,
            whoever_is_about_to_have_a_group_uses_it,
        );
    };
}
