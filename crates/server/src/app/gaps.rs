//! What was measured of how long clients could not write.

use coffer_core::gap::{Line, Spread, Way, expected, report};
use coffer_core::operation::Plan;
use coffer_core::plan::Step;
use coffer_core::task::Preview;

use super::{App, Error, scope_of};
use crate::caller::Caller;

/// So many of the newest gaps are in a report.
const REPORTED: u32 = 10_000;
/// So many of the newest on one way are looked through for some that are alike.
const LOOKED_AT: u32 = 500;

impl App {
    /// What was measured in the caller's project, by what is alike; of administrators, in all of them.
    pub async fn gaps(&self, caller: &Caller) -> Result<Vec<Line>, Error> {
        Ok(report(&self.store.gaps(scope_of(caller), REPORTED).await?))
    }

    /// What to expect of such a plan on that host, by what was measured of others.
    pub(super) async fn expected_gap(
        &self,
        plan: &Plan<Step>,
        preview: Option<&Preview>,
    ) -> Result<Option<Spread>, Error> {
        let section = plan.steps.iter().find_map(Step::section);
        let circumstances = preview.and_then(|preview| preview.circumstances.as_ref());
        let (Some(section), Some(circumstances)) = (section, circumstances) else { return Ok(None) };
        let measured = self.store.gaps_on(&Way::of(section), LOOKED_AT).await?;
        Ok(expected(&measured, circumstances))
    }
}
