//! What a person can do about an operation that is stuck: have it tried again, or give it up. What each of them does and costs
//! is told beforehand, and is decided here.
//!
//! Neither removes anything: to resume does what was begun, and to abandon does nothing more. A section can be resumed but not
//! abandoned. Only its agent knows how far engine and data are, and as long as it tries there is a way on or back; given up half
//! way they would be neither, with nobody to bring them on.

use crate::finding::{Cause, Finding};
use crate::id::{InstanceId, OperationId, TaskId};
use crate::instance::{Fault, Kind, Operation};
use crate::operation::{ATTEMPTS, Event, Phase, Plan};
use crate::plan::{Refusal, Step};
use crate::runner::operation_of;

/// The two choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Choice {
    /// Try again now, and count the attempts anew.
    Resume,
    /// Do nothing more.
    Abandon,
}

impl Choice {
    /// The word on the wire and in commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Abandon => "abandon",
        }
    }

    /// What it comes down to for an operation that waits for a person.
    pub fn event(self) -> Event {
        match self {
            Self::Resume => Event::Retry,
            Self::Abandon => Event::Abandon,
        }
    }
}

/// Why an open operation needs a person, if it does: it waits for one, or its agent has tried again and again. `said` is the task
/// that an agent said last that it does not get on with. What a server heard last may be of an operation before this one, and says
/// nothing of it then.
pub fn why<'a>(open: OperationId, phase: &'a Phase, said: Option<(&TaskId, &'a Cause)>) -> Option<&'a Cause> {
    match phase {
        Phase::Stuck { cause, .. } => Some(cause),
        Phase::Forward { .. } | Phase::Backward { .. } => {
            said.filter(|(task, _)| operation_of(task) == Some(open)).map(|(_, cause)| cause)
        }
        Phase::Done | Phase::Undone { .. } | Phase::Abandoned { .. } => None,
    }
}

/// How an operation ends that is stuck when a removal takes its place: given up.
pub fn displaced(phase: &Phase, cause: Cause) -> Phase {
    let at = match phase {
        Phase::Forward { at, .. }
        | Phase::Backward { at, .. }
        | Phase::Stuck { at, .. }
        | Phase::Abandoned { at, .. } => *at,
        Phase::Done | Phase::Undone { .. } => 0,
    };
    Phase::Abandoned { at, cause }
}

/// Which operation was given up while its agent had a section of it, which it still has: a removal took its place. `ended` are the
/// operations before the open one, the newest first.
pub fn displaced_section<'a>(ended: impl IntoIterator<Item = &'a Operation>) -> Option<Kind> {
    let given_up = ended.into_iter().map_while(|operation| match operation.phase {
        Phase::Abandoned { at, .. } => Some((operation, at)),
        _ => None,
    });
    let mut sections =
        given_up.filter(|(operation, at)| operation.plan.steps.get(*at).is_some_and(|s| s.section().is_some()));
    sections.next().map(|(operation, _)| operation.kind)
}

/// Whether an instance is to have no place any more, and never again: it is gone, or it was never built and nobody builds it. What
/// was given up stays until somebody deletes it.
pub fn is_left(is_deleted: bool, is_built: bool, is_open: bool, fault: Option<&Fault>) -> bool {
    is_deleted || !is_built && !is_open && fault.is_none_or(|fault| !fault.abandoned)
}

/// The open operation of an instance.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a> {
    pub instance: InstanceId,
    pub kind: Kind,
    pub plan: &'a Plan<Step>,
    pub phase: &'a Phase,
    /// [`why`] it needs a person, if it does.
    pub why: Option<&'a Cause>,
    /// [`displaced_section`]
    pub displaced: Option<Kind>,
    /// Whether the instance still has its place.
    pub is_placed: bool,
}

/// What one of the choices would do and cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The step that is stuck.
    pub step: &'static str,
    /// Whether it was being undone.
    pub undoing: bool,
    pub cause: Cause,
    /// What happens, in sentences.
    pub does: Vec<String>,
    /// What it costs, in sentences.
    pub costs: Vec<String>,
}

/// What the choice would do, or why there is none.
pub fn offer(choice: Choice, instance: InstanceId, open: Option<Open<'_>>) -> Result<Offer, Refusal> {
    let refuse = |id: &str, message: String, remedy: String| {
        Err(Refusal(vec![Finding::error(id, format!("instance {instance}"), message, remedy)]))
    };
    let Some(open) = open else {
        let remedy = format!("what it is: coffer instance show {instance}");
        return refuse("operation.none", "no operation is open, so none is stuck".to_owned(), remedy);
    };
    let kind = open.kind.name();
    let name = |at: usize| open.plan.steps.get(at).map_or("", Step::name);
    match (open.phase, open.why) {
        (Phase::Stuck { .. }, _) if choice == Choice::Abandon && open.kind == Kind::Delete && !open.is_placed => {
            let remedy = format!("have that written down: coffer instance resume {instance}");
            refuse(
                "operation.gone",
                "its volume is gone already, so there is nothing left to give up".to_owned(),
                remedy,
            )
        }
        (Phase::Stuck { cause, .. }, _) if choice == Choice::Abandon && open.displaced.is_some() => {
            let section = open.displaced.map_or("", Kind::name);
            let message = format!(
                "this {kind} took the place of the {section}, which is in the hands of the agent still: {}; given up now, the \
                 database would be neither what it was nor gone",
                cause.message
            );
            refuse("operation.section", message, format!("mend that, then: coffer instance resume {instance}"))
        }
        (Phase::Stuck { at, cause, undoing }, _) => {
            let (step, undoing) = (name(*at), undoing.is_some());
            let (does, costs) = match choice {
                Choice::Resume => resumed(open.kind, step, undoing),
                Choice::Abandon => abandoned(open.kind, step),
            };
            Ok(Offer { step, undoing, cause: cause.clone(), does, costs })
        }
        (Phase::Forward { .. } | Phase::Backward { .. }, Some(cause)) if choice == Choice::Resume => {
            let does = vec![
                "its agent tries at once what it cannot get past, and again with pauses from 0.2 to 30 s".to_owned(),
                format!("the {kind} ends by itself when that has succeeded"),
            ];
            let costs = vec!["nothing: the agent would have tried by itself within 30 s".to_owned()];
            Ok(Offer { step: "section", undoing: false, cause: cause.clone(), does, costs })
        }
        (Phase::Forward { .. } | Phase::Backward { .. }, Some(cause)) => {
            let message = format!(
                "this {kind} is in the hands of its agent, which alone knows how far engine and data are and goes on trying: \
                 {}; given up now, the database would be neither old nor new",
                cause.message
            );
            let remedy = format!(
                "mend that, then: coffer instance resume {instance}; or give up what it holds: coffer instance delete {instance}"
            );
            refuse("operation.section", message, remedy)
        }
        _ => {
            let remedy = format!("wait for it: coffer instance operations {instance} --wait");
            refuse("operation.moving", format!("its {kind} is not stuck, it goes on by itself"), remedy)
        }
    }
}

fn resumed(kind: Kind, step: &str, undoing: bool) -> (Vec<String>, Vec<String>) {
    let kind = kind.name();
    let tried = match undoing {
        true => format!("step {step} of the {kind} is undone again at once, and up to {ATTEMPTS} times"),
        false => format!("step {step} of the {kind} is tried again at once, and up to {ATTEMPTS} times"),
    };
    let end = match undoing {
        true => format!("when that has succeeded the {kind} ends undone, as it was about to"),
        false => format!("when that has succeeded the {kind} goes on to its end, as it was asked for"),
    };
    let again = "if it fails again it is stuck as it is now".to_owned();
    (vec![tried, end, again], vec!["nothing that was not agreed to when it was asked for".to_owned()])
}

fn abandoned(kind: Kind, step: &str) -> (Vec<String>, Vec<String>) {
    let mut does = vec![format!("the {} ends here, half way: step {step} is tried no more", kind.name())];
    let mut costs = Vec::new();
    match kind {
        Kind::Create => {
            does.push("the instance was never built and stays ERROR until it is deleted".to_owned());
            costs.push("what there is of its place stays on the host, and its address and quota stay taken".to_owned());
        }
        Kind::Delete => {
            does.push(
                "its volume is still there: agent and engine are started again, and it serves as before".to_owned(),
            );
            costs.push(
                "what its engine had not written to its disk when the removal ended it is lost, which without an append-only file \
                 is all that Redis and Valkey took since they last saved"
                    .to_owned(),
            );
        }
        Kind::Upgrade | Kind::Restart | Kind::Configure | Kind::Rollback | Kind::Finalize => {
            does.push(
                "the record stays as it is; where something else runs, `instance show` says so as drift".to_owned(),
            );
            costs.push("the instance is neither what it was nor what was asked for until it is looked at".to_owned());
        }
    }
    does.push("nothing is removed: data and pre-images that there are stay".to_owned());
    (does, costs)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{Choice, Offer, Open, displaced, is_left, offer, why};
    use crate::finding::Cause;
    use crate::id::{InstanceId, OperationId};
    use crate::instance::{Fault, Kind};
    use crate::operation::{Phase, Plan};
    use crate::plan::{Record, Refusal, Step};
    use crate::runner::task_id;

    const ID: InstanceId = InstanceId(Uuid::nil());

    fn asked(choice: Choice, kind: Kind, phase: &Phase, why: Option<&Cause>) -> Result<Offer, Refusal> {
        let steps = vec![Step::DropPlace, Step::Record(Record::Deleted)];
        let plan = Plan { steps, point_of_no_return: 0, notes: Vec::new() };
        offer(choice, ID, Some(Open { instance: ID, kind, plan: &plan, phase, why, displaced: None, is_placed: true }))
    }

    fn stuck(undoing: bool) -> Phase {
        let undoing = undoing.then(|| Cause::new("the image", ""));
        Phase::Stuck { at: 0, cause: Cause::new("the disk", "mend it"), undoing }
    }

    #[test]
    fn what_is_stuck_can_be_resumed_and_abandoned_and_both_say_what_they_do_and_cost() {
        for choice in [Choice::Resume, Choice::Abandon] {
            for (kind, undoing) in [(Kind::Create, true), (Kind::Delete, false), (Kind::Finalize, false)] {
                let told = asked(choice, kind, &stuck(undoing), None).expect("an offer");
                assert_eq!((told.step, told.undoing, told.cause.message.as_str()), ("drop", undoing, "the disk"));
                assert!(told.does.len() >= 2 && !told.costs.is_empty(), "{told:?}");
                let nothing_goes = told.does.iter().any(|line| line.contains("nothing is removed"));
                assert_eq!(nothing_goes, choice == Choice::Abandon, "{told:?}");
            }
        }
    }

    #[test]
    fn a_section_can_be_resumed_but_is_its_agents_to_give_up() {
        let phase = Phase::Forward { at: 0, begun: true, attempt: 0 };
        let cause = Cause::new("the disk is full", "");
        assert!(asked(Choice::Resume, Kind::Upgrade, &phase, Some(&cause)).is_ok());
        let refused = asked(Choice::Abandon, Kind::Upgrade, &phase, Some(&cause)).expect_err("a refusal").to_string();
        for part in ["the disk is full", "coffer instance resume", "coffer instance delete"] {
            assert!(refused.contains(part), "{refused}");
        }
    }

    #[test]
    fn a_removal_is_given_up_only_while_there_is_something_that_can_serve_again() {
        let steps = vec![Step::DropPlace, Step::Record(Record::Deleted)];
        let (plan, phase) = (Plan { steps, point_of_no_return: 0, notes: Vec::new() }, stuck(false));
        let open = Open {
            instance: ID,
            kind: Kind::Delete,
            plan: &plan,
            phase: &phase,
            why: None,
            displaced: None,
            is_placed: true,
        };
        assert!(offer(Choice::Abandon, ID, Some(open)).is_ok());
        let gone = Open { is_placed: false, ..open };
        let refused = offer(Choice::Abandon, ID, Some(gone)).expect_err("a refusal").to_string();
        assert!(refused.contains("gone already") && refused.contains("coffer instance resume"), "{refused}");
        let displaced = Open { displaced: Some(Kind::Upgrade), ..open };
        let refused = offer(Choice::Abandon, ID, Some(displaced)).expect_err("a refusal").to_string();
        assert!(refused.contains("took the place of the upgrade") && refused.contains("the disk"), "{refused}");
        for other in [gone, displaced] {
            assert!(offer(Choice::Resume, ID, Some(other)).is_ok(), "there is a way on");
        }
    }

    #[test]
    fn what_a_removal_took_the_place_of_is_given_up_where_it_stood() {
        let cause = Cause::new("the disk", "");
        for phase in [
            Phase::Forward { at: 2, begun: true, attempt: 3 },
            Phase::Backward { at: 2, attempt: 0, cause: cause.clone() },
        ] {
            assert_eq!(displaced(&phase, cause.clone()), Phase::Abandoned { at: 2, cause: cause.clone() });
        }
    }

    #[test]
    fn what_was_given_up_is_not_left() {
        let fault = |abandoned| Fault { at: jiff::Timestamp::UNIX_EPOCH, cause: Cause::new("no", ""), abandoned };
        assert!(is_left(true, true, false, None) && is_left(false, false, false, Some(&fault(false))));
        assert!(!is_left(false, false, false, Some(&fault(true))), "it was said that nothing is removed");
        assert!(!is_left(false, false, true, None) && !is_left(false, true, false, None));
    }

    #[test]
    fn what_an_agent_does_not_get_on_with_counts_for_the_operation_that_it_was_said_of() {
        let [one, other] = [1, 2].map(|n| OperationId(Uuid::from_u128(n)));
        let (task, cause) = (task_id(one, 2), Cause::new("the disk", ""));
        let said = Some((&task, &cause));
        let moving = Phase::Forward { at: 2, begun: true, attempt: 0 };
        assert_eq!(why(one, &moving, said), Some(&cause));
        assert_eq!(why(other, &moving, said), None, "it was said of the operation before");
        assert_eq!(why(one, &moving, None), None);
        assert_eq!(why(one, &Phase::Done, said), None, "it is over");
        let waits = stuck(false);
        assert_eq!(why(other, &waits, None), waits.cause(), "it waits for a person, whatever agents say");
    }

    #[test]
    fn what_goes_on_by_itself_or_is_over_is_left_alone() {
        for choice in [Choice::Resume, Choice::Abandon] {
            let moving = asked(choice, Kind::Delete, &Phase::START, None).expect_err("a refusal").to_string();
            assert!(moving.contains("not stuck") && moving.contains("--wait"), "{moving}");
            let none = offer(choice, ID, None).expect_err("a refusal").to_string();
            assert!(none.contains("none is stuck") && none.contains("coffer instance show"), "{none}");
        }
    }
}
