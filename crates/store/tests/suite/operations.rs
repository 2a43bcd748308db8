//! Operations, as the runner works on them.

use coffer_core::finding::Cause;
use coffer_core::gap::{Circumstances, Gap, Host, Way};
use coffer_core::id::{Generation, TaskId};
use coffer_core::instance::Kind;
use coffer_core::operation::Phase;
use coffer_core::task::{ClientView, Learned, Outcome, TaskResult};
use coffer_store::{Change, Desire, Error, Scope, Store};
use coffer_testkit::fixture::Fixture;

use super::{at, insert, insert_another, open, operation};

pub(crate) async fn an_instance_has_one_open_operation_and_the_error_names_it(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    open(store, &instance, Kind::Upgrade).await;
    let mut write = store.write().await.expect("write");
    let refused = write.insert_operation(&operation(&instance, Kind::Restart)).await;
    let busy = matches!(refused, Err(Error::Busy { instance: of, kind: Kind::Upgrade }) if of == instance.id);
    assert!(busy, "{refused:?}");
}

pub(crate) async fn a_claimant_that_was_fenced_writes_nothing(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let id = open(store, &instance, Kind::Upgrade).await.id;
    let mut slow = store.claim(id, at(1), at(10)).await.expect("query").expect("first claim");
    let mut fast = store.claim(id, at(11), at(20)).await.expect("query").expect("the lease has ended");
    assert!(fast.epoch > slow.epoch);
    slow.phase = Phase::Done;
    let refused = store.save(&slow, &[Change::Deleted], at(20)).await;
    assert!(matches!(refused, Err(Error::Fenced(fenced)) if fenced == id), "{refused:?}");
    store.release(&slow).await.expect("nothing happens");
    assert!(store.claim(id, at(12), at(20)).await.expect("query").is_none(), "the lease of the other still holds");
    assert!(store.instance(Scope::Admin, instance.id).await.expect("query").is_some(), "not deleted");
    fast.phase = Phase::Forward { at: 0, begun: true, attempt: 0 };
    store.save(&fast, &[], at(20)).await.expect("the one with the newest epoch");
}

pub(crate) async fn a_lease_keeps_others_away_until_it_ends(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let id = open(store, &instance, Kind::Upgrade).await.id;
    let claimed = store.claim(id, at(1), at(10)).await.expect("query").expect("claim");
    assert!(store.claim(id, at(9), at(20)).await.expect("query").is_none());
    store.save(&claimed, &[], at(30)).await.expect("prolongs it");
    assert!(store.claim(id, at(29), at(40)).await.expect("query").is_none());
    store.release(&claimed).await.expect("release");
    assert!(store.claim(id, at(11), at(50)).await.expect("query").is_some());
    store.release_all().await.expect("release");
    assert!(store.claim(id, at(12), at(50)).await.expect("query").is_some());
}

pub(crate) async fn eight_claimants_make_one_claim(store: &Store) {
    let mut ids = Vec::new();
    for n in 1..=20 {
        let instance = insert_another(store, n, "ours").await;
        ids.push(open(store, &instance, Kind::Upgrade).await.id);
    }
    let mut claims = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, ids) = (store.clone(), ids.clone());
        claims.spawn(async move {
            let mut made = 0;
            for id in ids {
                made += usize::from(store.claim(id, at(1), at(100)).await.expect("query").is_some());
            }
            made
        });
    }
    assert_eq!(claims.join_all().await.into_iter().sum::<usize>(), 20);
}

pub(crate) async fn done_clears_the_fault_that_undone_has_set(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let cause = Cause::new("the disk is full", "make space");
    for (phase, fault) in [
        (Phase::Undone { cause: cause.clone() }, Some(&cause)),
        (Phase::Done, None),
        (Phase::Stuck { at: 0, cause: cause.clone(), undoing: None }, Some(&cause)),
    ] {
        let id = open(store, &instance, Kind::Restart).await.id;
        let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
        claimed.phase = phase;
        store.save(&claimed, &[], at(2)).await.expect("save");
        let row = store.instance(Scope::Admin, instance.id).await.expect("query").expect("the instance");
        assert_eq!(row.instance.fault.as_ref().map(|fault| &fault.cause), fault);
        assert_eq!(row.open.is_some(), claimed.is_open());
    }
}

pub(crate) async fn a_stuck_operation_makes_place_for_another(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let id = open(store, &instance, Kind::Restart).await.id;
    let claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    let mut write = store.write().await.expect("write");
    let given_up = Phase::Abandoned { at: 0, cause: Cause::new("stuck", "") };
    write.end_stuck(id, &given_up, at(3)).await.expect("end");
    let next = operation(&instance, Kind::Delete);
    write.insert_operation(&next).await.expect("its place is free");
    write.commit().await.expect("commit");
    assert!(matches!(store.save(&claimed, &[], at(4)).await, Err(Error::Fenced(_))));
    assert!(!store.holds(&claimed).await.expect("query"));
    let open = store.open_operations().await.expect("query");
    assert_eq!(open.iter().flatten().map(|work| work.operation.id).collect::<Vec<_>>(), [next.id]);
}

pub(crate) async fn the_record_of_a_step_is_one_with_its_change(store: &Store) {
    let fixture = Fixture::serving();
    insert(store, &fixture.instance).await;
    let id = open(store, &fixture.instance, Kind::Upgrade).await.id;
    let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    let mut engine = fixture.snapshot().spec();
    engine.version = fixture.target().id;
    engine.settings.clear();
    let desire = Desire { generation: Generation(5), engine };
    claimed.phase = Phase::Done;
    store.save(&claimed, &[Change::Runs(desire.clone(), None)], at(2)).await.expect("save");
    let row = store.instance(Scope::Admin, fixture.instance.id).await.expect("query").expect("the instance");
    assert_eq!(row.instance.version, fixture.target().id);
    assert_eq!(row.instance.generation, Generation(5));
    assert!(row.instance.settings.is_empty());
    assert!(row.open.is_none());
    let told = store.for_agent(fixture.instance.id).await.expect("query").expect("the instance");
    assert_eq!((told.desired, told.open), (Some(desire), None));
}

pub(crate) async fn what_clients_saw_is_kept_with_the_operation(store: &Store) {
    let instance = insert_another(store, 1, "ours").await;
    let id = open(store, &instance, Kind::Upgrade).await.id;
    let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    assert_eq!(claimed.clients, None);
    claimed.gap_us = Some(41_000);
    claimed.clients = Some(ClientView { attempts: 412, refused: 1, reset: 2, wrong: 3, longest_wait_us: 38_000 });
    store.save(&claimed, &[], at(3)).await.expect("save");
    let again = store.claim(id, at(4), at(5)).await.expect("query").expect("claim");
    assert_eq!((again.gap_us, again.clients), (claimed.gap_us, claimed.clients));
    let all = store.operations(Scope::Admin, instance.id).await.expect("query");
    assert_eq!(all, [again]);
}

pub(crate) async fn answers_are_kept_once_and_used_up_by_the_next_save(store: &Store) {
    let ours = insert_another(store, 1, "ours").await;
    let theirs = insert_another(store, 2, "theirs").await;
    let id = open(store, &ours, Kind::Upgrade).await.id;
    let task = TaskId(format!("{id}-0"));
    let answer = |gap| {
        let learned = Learned { gap_us: Some(gap), ..Learned::default() };
        TaskResult { id: task.clone(), outcome: Outcome::Done(Box::new(learned)) }
    };
    // Another instance's agent cannot answer for ours.
    store.save_report(theirs.id, None, &[(id, &answer(1))], &[]).await.expect("report");
    assert!(store.result(id, &task).await.expect("query").is_none());
    for gap in [2, 3] {
        store.save_report(ours.id, None, &[(id, &answer(gap))], &[]).await.expect("report");
    }
    assert_eq!(store.result(id, &task).await.expect("query"), Some(answer(2)));
    let open = store.open_operations().await.expect("query");
    assert_eq!(open.iter().flatten().map(|work| work.results.clone()).collect::<Vec<_>>(), [vec![answer(2)]]);
    let mut claimed = store.claim(id, at(1), at(2)).await.expect("query").expect("claim");
    claimed.phase = Phase::Done;
    store.save(&claimed, &[], at(2)).await.expect("save");
    assert!(store.result(id, &task).await.expect("query").is_none());
    store.save_report(ours.id, None, &[(id, &answer(4))], &[]).await.expect("report");
    assert!(store.result(id, &task).await.expect("query").is_none(), "nobody waits for it any more");
}

pub(crate) async fn gaps_are_kept_once_when_their_instance_is_gone_and_by_project(store: &Store) {
    let mut all = Vec::new();
    for (n, project, to) in [(1, "ours", "redis 8.0.2"), (2, "theirs", "redis 8.0.2"), (3, "ours", "valkey 8.1.1")] {
        let instance = insert_another(store, n, project).await;
        let id = open(store, &instance, Kind::Upgrade).await.id;
        let mut claimed = store.claim(id, at(1), at(10)).await.expect("query").expect("claim");
        let host = Host { arch: "x86_64".to_owned(), processors: 2, memory_gib: 24 };
        let gap = Gap {
            operation: id,
            instance: instance.id,
            project: instance.project.clone(),
            kind: Kind::Upgrade,
            way: Way { from: "redis 7.0.15".to_owned(), to: to.to_owned() },
            circumstances: Circumstances { host, data_bytes: u64::from(n) << 30, read_gap_us: (n == 1).then_some(7) },
            gap_us: 40_000,
            at: at(i64::from(n)),
        };
        let again = Gap { gap_us: 1, ..gap.clone() };
        store.save(&claimed, &[Change::Measured(gap.clone())], at(20)).await.expect("save");
        store.save(&claimed, &[Change::Measured(again)], at(20)).await.expect("a step that is done again");
        claimed.phase = Phase::Done;
        store.save(&claimed, &[Change::Deleted], at(20)).await.expect("save");
        all.insert(0, gap);
    }
    let ours = Scope::Project(&all[0].project);
    assert_eq!(store.gaps(Scope::Admin, 9).await.expect("query"), all, "the newest first");
    assert_eq!(store.gaps(Scope::Admin, 1).await.expect("query"), all[..1]);
    assert_eq!(store.gaps(ours, 9).await.expect("query"), [all[0].clone(), all[2].clone()]);
    assert_eq!(store.gaps_on(&all[1].way, 9).await.expect("query"), all[1..], "whoever's they are");
}
