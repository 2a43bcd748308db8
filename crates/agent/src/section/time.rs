//! How long the steps of a section may take while somebody waits.

use std::time::Duration;

use coffer_core::finding::Cause;
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::EngineSpec;

use crate::cause::cause;
use crate::driver;
use crate::site::PreImage;
use crate::supervisor::Supervisor;
use crate::tasks;

/// How many times the expected gap connections may wait.
const HOLD_FACTOR: u32 = 3;

/// How much time there is for a step. Where connections cannot be made to wait, as much as if they could; none is set where the
/// engine did not run before: who waits then waits for that one, and is refused when it does not come.
pub(super) fn time_left(sup: &Supervisor, section: &Section) -> Result<Option<Duration>, Cause> {
    let was_running = sup.state.section.as_ref().is_some_and(|j| j.was_running);
    match sup.host.holds_for() {
        _ if section.down && !was_running => Ok(None),
        None if was_running => hold_limit(sup, section).map(Some),
        left => Ok(left),
    }
}

/// Does something while connections wait, and fails a little before they have waited for too long: the old engine is to be let
/// back in then.
pub(super) async fn in_time<T>(
    left: Option<Duration>,
    spec: &EngineSpec,
    work: impl Future<Output = Result<T, Cause>>,
) -> Result<T, Cause> {
    let Some(left) = left else { return work.await };
    let late = || {
        Cause::new(
            format!("{} was not ready in the time that connections may wait", spec.label()),
            "ask again when the host is less busy, or let the operator raise hold_seconds",
        )
    };
    tokio::time::timeout(left * 9 / 10, work).await.unwrap_or_else(|_| Err(late()))
}

/// How long connections may wait: as configured, or longer where so much data has to be copied or loaded that it would not do.
pub(super) fn hold_limit(sup: &Supervisor, section: &Section) -> Result<Duration, Cause> {
    let image = PreImage::of(&sup.host.paths, section.operation, driver::kinds(&section.from));
    let copied = match section.plan.steps.contains(&SectionStep::Keep) && !image.is_complete() {
        true => image.stale_bytes().map_err(cause)?,
        false => 0,
    };
    let data = sup.host.volume(&section.from)?;
    let expected = Duration::from_millis(tasks::expected_gap_millis(&section.from, &section.to, copied, data));
    Ok(sup.host.hold_limit().max(expected * HOLD_FACTOR))
}
