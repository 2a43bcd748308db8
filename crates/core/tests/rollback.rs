//! The way back after success, as it is planned: what is gone back to, what stays as it is, and everything that is in its way.

use coffer_core::crash::CrashLoop;
use coffer_core::datastore::Datastore;
use coffer_core::finding::Cause;
use coffer_core::group::Configured;
use coffer_core::id::{GroupId, OperationId};
use coffer_core::instance::{Engine, Kind, Operation, WayBack};
use coffer_core::plan::{self, Record, Refusal, Snapshot, Step};
use coffer_core::section::SectionStep;
use coffer_core::task::{Loss, Task, Writes};
use coffer_testkit::fixture::{EARLIER, Fixture};
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

/// A fixture after an upgrade, and that.
fn upgraded(fixture: Fixture) -> (Fixture, Operation) {
    let planned = plan::plan_upgrade(&fixture.snapshot(), fixture.target()).expect("an upgrade");
    fixture.after(Kind::Upgrade, planned)
}

fn refused(snapshot: &Snapshot<'_>, history: &[Operation]) -> Vec<String> {
    let Refusal(findings) = plan::find_way_back(snapshot, history, false).expect_err("a refusal");
    for finding in &findings {
        assert_ne!(finding.remedy, "", "nobody is told what to do: {finding:?}");
    }
    findings.into_iter().map(|finding| format!("{}: {}", finding.id, finding.message)).collect()
}

#[test]
fn data_are_restored_where_the_older_engine_does_not_read_them_and_stay_where_it_does() {
    for (fixture, restores) in [(Fixture::serving(), Some(EARLIER)), (Fixture::valkey(), None)] {
        let old = fixture.snapshot().spec();
        let (fixture, upgrade) = upgraded(fixture);
        let (snapshot, history) = (fixture.snapshot(), [upgrade]);
        let back = plan::find_way_back(&snapshot, &history, false).expect("a way back");
        assert_eq!((&back.to, back.restores), (&old, restores), "{}", old.label());
        let planned = plan::plan_rollback(&snapshot, &back);
        let section = planned.plan.steps.iter().find_map(Step::section).expect("a section");
        assert_eq!((&section.from, &section.to, section.restores), (&snapshot.spec(), &old, restores));
        assert_eq!(section.plan.steps.contains(&SectionStep::Restore), restores.is_some());
        assert!(section.plan.steps.contains(&SectionStep::Keep), "what there is now is kept in any case");
        assert_eq!(
            plan::find_way_back(&snapshot, &history, false).expect("one").agreed(&snapshot, false).is_ok(),
            restores.is_none()
        );
        assert!(back.agreed(&snapshot, true).is_ok());
        let wanted = plan::find_way_back(&snapshot, &history, true).expect("a way back");
        assert_eq!(wanted.restores, Some(EARLIER), "{}: who wants the data of then gets them", old.label());
    }
}

#[test]
fn who_has_restored_and_goes_back_gets_the_data_that_there_were() {
    let new = upgraded(Fixture::serving()).0.snapshot().spec();
    for restored in [false, true] {
        let (fixture, upgrade) = upgraded(if restored { Fixture::serving() } else { Fixture::valkey() });
        let back = plan::find_way_back(&fixture.snapshot(), &[upgrade], false).expect("a way back");
        let planned = plan::plan_rollback(&fixture.snapshot(), &back);
        let (fixture, rollback) = fixture.after(Kind::Rollback, planned);
        let again = plan::find_way_back(&fixture.snapshot(), &[rollback], false).expect("a way back from there");
        assert_eq!(again.restores.is_some(), restored);
        assert!(!restored || again.to == new);
    }
}

#[test]
fn of_several_pre_images_the_newest_is_gone_back_to_and_the_others_are_named() {
    let (mut fixture, upgrade) = upgraded(Fixture::serving());
    let newest = fixture.observed.ways_back[0].clone();
    let before = WayBack { operation: OperationId(Uuid::nil()), version: Some(fixture.target().id), ..newest.clone() };
    fixture.observed.ways_back.insert(0, before);
    let back = plan::find_way_back(&fixture.snapshot(), &[upgrade], false).expect("a way back");
    assert_eq!(back.kept, newest);
    let findings = plan::plan_rollback(&fixture.snapshot(), &back).findings;
    let told: Vec<_> = findings.iter().map(|finding| format!("{} {}", finding.id, finding.object)).collect();
    assert_eq!(told, ["rollback.older redis 8.0.2 until 1970-01-01 00:00:00 UTC"]);
}

#[test]
fn all_that_is_in_the_way_is_named() {
    let never = Fixture::serving();
    assert_eq!(
        refused(&never.snapshot(), &[]),
        ["rollback.nothing: it was never upgraded, so there is nothing to go back to"]
    );
    let (mut fixture, upgrade) = upgraded(Fixture::serving());
    let finalized = {
        let snapshot = fixture.snapshot();
        let plan = plan::plan_finalize(&snapshot, std::slice::from_ref(&upgrade)).expect("finalize").plan;
        let asks = matches!(&plan.steps[..], [Step::Ask { task, .. }] if **task == Task::Finalize { operations: vec![EARLIER] });
        assert!(asks && plan.point_of_no_return == 0, "{plan:?}");
        Operation { id: OperationId(Uuid::nil()), kind: Kind::Finalize, plan, ..upgrade.clone() }
    };
    let unknown = "rollback.unknown: its agent keeps the pre-image of operation 00000000-0000-0000-0000-00000000000a, of which \
                   nothing is recorded here";
    assert_eq!(refused(&fixture.snapshot(), &[]), [unknown]);
    let busy = Snapshot { open: Some(Kind::Restart), ..fixture.snapshot() };
    assert_eq!(
        refused(&busy, std::slice::from_ref(&upgrade)),
        ["instance.busy: another operation is running: restart"]
    );

    let silent = Snapshot { observed: None, ..fixture.snapshot() };
    assert_eq!(
        refused(&silent, std::slice::from_ref(&upgrade)),
        ["instance.unhealthy: its agent has not reported yet"]
    );

    fixture.observed.ways_back.clear();
    assert_eq!(
        refused(&fixture.snapshot(), std::slice::from_ref(&upgrade)),
        ["rollback.nothing: the time in which its upgrade of 1970-01-01 00:00:00 UTC could be taken back is over"]
    );
    let history = [finalized, upgrade];
    let ended = "rollback.nothing: its upgrade of 1970-01-01 00:00:00 UTC was finalized at 1970-01-01 00:00:00 UTC";
    assert_eq!(refused(&fixture.snapshot(), &history), [ended]);
    let twice = plan::plan_finalize(&fixture.snapshot(), &history).expect_err("there is nothing left to finalize");
    assert_eq!(twice.0.len(), 1);
}

#[test]
fn an_engine_that_is_down_is_gone_back_without() {
    let ended = || Engine::Failed { cause: Cause::new("it ended", ""), restarts: 1 };
    let crash_loop =
        CrashLoop { count: 5, since: Timestamp::UNIX_EPOCH, last: Timestamp::UNIX_EPOCH, how: String::new() };
    for (engine, in_loop, told) in [
        (Engine::Serving, false, None),
        (ended(), false, Some("its engine does not run: it ended; it is gone back without it")),
        (Engine::Absent, false, Some("its engine is not running")),
        (Engine::Starting, false, Some("its engine is still starting")),
        (ended(), true, Some("the engine does not stay up: 5 times")),
        (Engine::Serving, true, Some("the engine does not stay up: 5 times")),
    ] {
        for (fixture, restores) in [(Fixture::serving(), true), (Fixture::valkey(), false)] {
            let (mut fixture, upgrade) = upgraded(fixture);
            fixture.observed.engine = engine.clone();
            fixture.observed.crash_loop = in_loop.then(|| crash_loop.clone());
            let snapshot = fixture.snapshot();
            let back = plan::find_way_back(&snapshot, &[upgrade], false).expect("a way back");
            assert_eq!((back.down, back.restores.is_some()), (told.is_some(), restores), "{engine:?}");
            assert_eq!(back.clone().agreed(&snapshot, false).is_err(), restores, "a loss is to be agreed to");
            assert!(matches!(back.check_task(), Task::CheckBack { down, .. } if down == told.is_some()));
            let planned = plan::plan_rollback(&snapshot, &back);
            let section = planned.plan.steps.iter().find_map(Step::section).expect("a section");
            assert_eq!((section.down, section.gives_up_on_it()), (told.is_some(), told.is_some() && restores));
            let findings: Vec<_> = planned.findings.iter().map(ToString::to_string).collect();
            assert_eq!(findings.len(), usize::from(told.is_some()), "{findings:?}");
            for (finding, told) in findings.iter().zip(told) {
                assert!(finding.contains(told), "{finding}");
            }
            let more = planned.plan.notes[0].contains("nothing more is lost");
            assert_eq!(more, told.is_some() && !restores, "{:?}", planned.plan.notes);
        }
    }
}

#[test]
fn settings_and_group_are_those_from_before_and_what_is_gone_of_them_is_told() {
    let mut fixture = Fixture::serving();
    let group = fixture.group(&[("timeout", "60")]);
    fixture.instance.group = Some(group.clone());
    fixture.instance.settings = fixture.instance.wanted();
    let (own, settings) = (fixture.instance.own.clone(), fixture.instance.settings.clone());
    let (mut fixture, upgrade) = upgraded(fixture);
    fixture.instance.group = None;
    fixture.instance.own.insert("timeout".to_owned(), "5".to_owned());
    let mut without = upgrade.clone();
    for step in &mut without.plan.steps {
        if let Step::Record(Record::Runs { before, .. }) = step {
            *before = None;
        }
    }
    let alone = Configured { own: settings.clone(), group: None };
    let with = Configured { own, group: Some(group.clone()) };
    for (groups, undone, expected, told) in [
        (vec![group.clone()], &upgrade, with, vec!["timeout: what was set since"]),
        (vec![], &upgrade, alone.clone(), vec!["configuration group cache", "timeout: what was set since"]),
        (vec![group], &without, alone, vec!["was not written down then", "timeout: what was set since"]),
    ] {
        let snapshot = Snapshot { groups: &groups, ..fixture.snapshot() };
        let back = plan::find_way_back(&snapshot, std::slice::from_ref(undone), false).expect("a way back");
        assert_eq!((&back.configured, &back.to.settings), (&expected, &settings));
        let findings = plan::plan_rollback(&snapshot, &back).findings;
        assert_eq!(findings.len(), told.len(), "{findings:?}");
        for (finding, told) in findings.iter().zip(told) {
            assert!(finding.to_string().contains(told), "{finding}");
        }
    }
    // A group that is there under another id is another one.
    let other = fixture.group(&[("timeout", "60")]);
    let others = [coffer_core::group::Group { id: GroupId(Uuid::nil()), ..other }];
    let snapshot = Snapshot { groups: &others, ..fixture.snapshot() };
    let back = plan::find_way_back(&snapshot, &[upgrade], false).expect("a way back");
    assert_eq!(back.configured.group, None);
}

#[test]
fn what_is_lost_is_told_in_a_sentence() {
    let since = Timestamp::UNIX_EPOCH;
    let check = |hours: i64, datastore: Datastore, writes: Writes, expected: &str| {
        let loss = Loss { since, counted_at: since + SignedDuration::from_hours(hours), writes };
        assert_eq!(loss.sentence(datastore), format!("the data become those of 1970-01-01 00:00:00 UTC, {expected}"));
    };
    check(
        1,
        Datastore::Redis,
        Writes::All { count: 12 },
        "60 min ago: what 12 commands that write did since then is lost",
    );
    check(0, Datastore::Mysql, Writes::All { count: 0 }, "0 s ago: nothing was written since");
    check(
        25,
        Datastore::Mariadb,
        Writes::Since { count: 1, started_at: since + SignedDuration::from_hours(2) },
        "25 h 0 min ago: what 1 statement that changes data did since then is lost, at least: the engine was started anew at \
         1970-01-01 02:00:00 UTC and knows of none before",
    );
    check(
        3,
        Datastore::Valkey,
        Writes::Unknown { why: "it does not answer".to_owned() },
        "3 h 0 min ago: whatever was written since then is lost; how much that is cannot be told: it does not answer",
    );
}
