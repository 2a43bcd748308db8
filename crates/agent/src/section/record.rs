//! The record of the steps that a section has taken.

use coffer_core::task::{StepEnd, StepRecord};
use jiff::Timestamp;

use crate::supervisor::Supervisor;

/// A step that is done again after a crash goes on in the record that it has. One that is tried again gets another, in the
/// place of its last but the first: why it failed first is what matters, and it may be tried for days.
pub(super) fn note_begin(sup: &mut Supervisor, name: String) {
    let Some(journal) = sup.state.section.as_mut() else { return };
    let steps = &mut journal.steps;
    if steps.last().is_some_and(|s| s.name == name && s.end.is_none()) {
        return;
    }
    if let [.., first, last] = steps.as_slice()
        && first.name == name
        && last.name == name
    {
        steps.pop();
    }
    steps.push(StepRecord { name, began_at: Timestamp::now(), ended_at: None, end: None, detail: String::new() });
}

pub(super) fn note_end(sup: &mut Supervisor, end: StepEnd, detail: String) {
    if let Some(record) = sup.state.section.as_mut().and_then(|j| j.steps.last_mut()) {
        record.ended_at = Some(Timestamp::now());
        record.end = Some(end);
        record.detail = detail;
    }
    if matches!(end, StepEnd::Done | StepEnd::Undone)
        && let Some(journal) = sup.state.section.as_mut()
    {
        journal.stuck = None;
    }
}
