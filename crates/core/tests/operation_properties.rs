//! The machine by itself: which events fit which phases, and what holds for random plans and random events.

use coffer_core::finding::Cause;
use coffer_core::operation::{ATTEMPTS, Event, Next, Phase, Plan, apply, next};
use proptest::prelude::*;

fn plan(steps: usize, point_of_no_return: usize) -> Plan<()> {
    Plan { steps: vec![(); steps], point_of_no_return, notes: Vec::new() }
}

fn cause() -> Cause {
    Cause::new("it broke", "mend it")
}

fn every_event() -> [Event; 8] {
    [
        Event::Begun,
        Event::Succeeded,
        Event::Failed(cause()),
        Event::UndoSucceeded,
        Event::UndoFailed(cause()),
        Event::Cancel(cause()),
        Event::Retry,
        Event::Abandon,
    ]
}

#[test]
fn an_event_that_does_not_fit_is_an_error_that_names_both() {
    use Event::{Abandon, Begun, Cancel, Failed, Retry, Succeeded, UndoFailed, UndoSucceeded};
    // Four steps, of which the last two are not undone.
    let plan = plan(4, 2);
    let forward = |at, begun| Phase::Forward { at, begun, attempt: 0 };
    let check = |phase: Phase, fits: &[Event]| {
        for event in every_event() {
            let after = apply(&plan, &phase, event.clone());
            assert_eq!(after.is_ok(), fits.contains(&event), "{event:?} in {phase:?}");
            if let Err(illegal) = after {
                assert_eq!(illegal.to_string(), format!("{event:?} does not fit a plan that is {phase:?}"));
            }
        }
    };
    check(forward(0, false), &[Begun, Cancel(cause())]);
    check(forward(1, false), &[Begun, Cancel(cause())]);
    check(forward(2, false), &[Begun]);
    check(forward(3, false), &[Begun]);
    for at in 0..4 {
        check(forward(at, true), &[Succeeded, Failed(cause())]);
    }
    for at in 0..2 {
        check(Phase::Backward { at, attempt: 0, cause: cause() }, &[UndoSucceeded, UndoFailed(cause())]);
    }
    check(Phase::Stuck { at: 2, cause: cause(), undoing: None }, &[Retry, Abandon]);
    check(Phase::Stuck { at: 1, cause: cause(), undoing: Some(cause()) }, &[Retry, Abandon]);
    check(Phase::Done, &[]);
    check(Phase::Undone { cause: cause() }, &[]);
}

#[test]
fn a_stuck_undo_names_both_causes_and_what_comes_after_it_only_the_first() {
    let plan = plan(1, 1);
    let why = |message: &str| Cause::new(message, format!("mend {message}"));
    let tell = |phase: &Phase, event| apply(&plan, phase, event).expect("legal");
    let mut phase = tell(&tell(&Phase::START, Event::Begun), Event::Failed(why("the image")));
    // Stuck time and again, it tells the same every time.
    for _ in 0..3 {
        for _ in 0..ATTEMPTS {
            assert!(matches!(phase, Phase::Backward { .. }), "{phase:?}");
            phase = tell(&phase, Event::UndoFailed(why("the disk")));
        }
        assert!(matches!(phase, Phase::Stuck { at: 0, undoing: Some(_), .. }), "{phase:?}");
        let told = phase.cause().map(ToString::to_string);
        assert_eq!(told.as_deref(), Some("the image; and the way back failed: the disk; hint: mend the disk"));
        phase = tell(&phase, Event::Retry);
    }
    assert_eq!(tell(&phase, Event::UndoSucceeded), Phase::Undone { cause: why("the image") });
}

fn any_plan() -> impl Strategy<Value = Plan<()>> {
    (1..8_usize).prop_flat_map(|steps| (Just(steps), 0..=steps)).prop_map(|(steps, point)| plan(steps, point))
}

fn any_event() -> impl Strategy<Value = Event> {
    prop::sample::select(every_event().to_vec())
}

/// Whether a plan can be in this phase at all.
fn can_be<S>(plan: &Plan<S>, phase: &Phase) -> bool {
    let point = plan.point_of_no_return;
    match phase {
        Phase::Forward { at, begun, attempt } => {
            *at < plan.steps.len() && *attempt < ATTEMPTS && (*attempt == 0 || (*begun && *at >= point))
        }
        Phase::Backward { at, attempt, .. } => *at < point && *attempt < ATTEMPTS,
        Phase::Stuck { at, undoing: None, .. } => (point..plan.steps.len()).contains(at),
        Phase::Stuck { at, undoing: Some(_), .. } => *at < point,
        Phase::Done | Phase::Undone { .. } => true,
        Phase::Abandoned { at, .. } => *at < plan.steps.len(),
    }
}

proptest! {
    #[test]
    fn random_events_never_panic_and_lead_only_where_a_plan_can_be(
        plan in any_plan(),
        events in prop::collection::vec(any_event(), 0..200),
    ) {
        let mut phase = Phase::START;
        let mut past_return = false;
        for event in events {
            if let Ok(after) = apply(&plan, &phase, event) {
                prop_assert!(!phase.is_final(), "{phase:?} was left");
                phase = after;
            }
            prop_assert!(can_be(&plan, &phase), "{phase:?}");
            past_return |= matches!(phase, Phase::Forward { at, begun: true, .. } if at >= plan.point_of_no_return);
            let back = matches!(
                phase,
                Phase::Backward { .. } | Phase::Undone { .. } | Phase::Stuck { undoing: Some(_), .. }
            );
            prop_assert!(!(past_return && back), "{phase:?} after the point of no return");
            // What has to happen now is always something that fits.
            let fits = match next(&plan, &phase) {
                Next::Begin(_) => Event::Begun,
                Next::Do(_) => Event::Succeeded,
                Next::Undo(_) => Event::UndoSucceeded,
                Next::Wait => Event::Retry,
                Next::Nothing => {
                    prop_assert!(phase.is_final(), "nothing to do in {phase:?}");
                    continue;
                }
            };
            prop_assert!(apply(&plan, &phase, fits).is_ok(), "{phase:?}");
        }
    }

    /// `luck` says of each try in turn whether it succeeds; when it runs out everything does.
    #[test]
    fn a_random_plan_ends_and_every_step_that_may_have_acted_is_done_or_undone(
        plan in any_plan(),
        luck in prop::collection::vec(any::<bool>(), 0..60),
    ) {
        let bound = 3 * plan.steps.len() + 3 * luck.len() + 2;
        let mut luck = luck.into_iter();
        let mut phase = Phase::START;
        // Whether each step has acted, wholly or in part, and was not undone since.
        let mut acted = vec![false; plan.steps.len()];
        let mut recorded = vec![false; plan.steps.len()];
        let mut turns = 0;
        while !phase.is_final() {
            turns += 1;
            prop_assert!(turns <= bound, "{turns} turns, {phase:?}");
            let event = match next(&plan, &phase) {
                Next::Begin(at) => {
                    recorded[at] = true;
                    Event::Begun
                }
                Next::Do(at) => {
                    prop_assert!(recorded[at], "step {at} acts, and that it begins was not recorded");
                    acted[at] = true;
                    if luck.next().unwrap_or(true) { Event::Succeeded } else { Event::Failed(cause()) }
                }
                Next::Undo(at) => {
                    if luck.next().unwrap_or(true) {
                        acted[at] = false;
                        Event::UndoSucceeded
                    } else {
                        Event::UndoFailed(cause())
                    }
                }
                Next::Wait => Event::Retry,
                Next::Nothing => unreachable!("nothing to do in {phase:?}"),
            };
            phase = apply(&plan, &phase, event).map_err(|e| TestCaseError::fail(e.to_string()))?;
        }
        prop_assert!(acted.iter().all(|&a| a == (phase == Phase::Done)), "{phase:?}: {acted:?}");
    }
}
