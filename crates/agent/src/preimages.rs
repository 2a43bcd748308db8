//! The pre-images that are kept after a success: which there are, and which have had their time.

use coffer_core::agent::Kept;
use coffer_core::instance::WayBack;
use jiff::Timestamp;

use crate::driver;
use crate::site::PreImage;
use crate::state::{Durability, KeptPreimage};
use crate::supervisor::Supervisor;

impl Supervisor {
    /// The pre-images that can be gone back to.
    pub(crate) fn ways_back(&self) -> Vec<WayBack> {
        let keep = jiff::SignedDuration::try_from(self.keep_preimages).unwrap_or(jiff::SignedDuration::MAX);
        let shown = self.state.preimages.iter().filter(|kept| !kept.finalized);
        let way_back = |kept: &KeptPreimage| WayBack {
            operation: kept.operation,
            version: kept.version,
            since: kept.since,
            until: kept.since.saturating_add(keep).unwrap_or(Timestamp::MAX),
            bytes: kept.bytes,
        };
        shown.map(way_back).collect()
    }

    /// Removes the pre-images whose time is over, but for one that somebody is about to go back to. Whatever fails here is tried
    /// again; it fails nothing else.
    pub(crate) fn collect_preimages(&mut self) -> Result<(), crate::Error> {
        let Some(kinds) = self.state.engine.as_ref().map(driver::kinds) else { return Ok(()) };
        let now = Timestamp::now();
        let goes = |kept: &&KeptPreimage| {
            let KeptPreimage { operation, since, finalized, .. } = **kept;
            Kept { operation, since, finalized }.goes(self.keep_preimages, self.held_preimage, now)
        };
        let mut gone = Vec::new();
        for kept in self.state.preimages.iter().filter(goes) {
            match PreImage::of(&self.host.paths, kept.operation, kinds).discard() {
                Ok(()) => gone.push(kept.operation),
                Err(error) => tracing::warn!(%error, operation = %kept.operation, "pre-image stays"),
            }
        }
        if gone.is_empty() {
            return Ok(());
        }
        self.state.preimages.retain(|kept| !gone.contains(&kept.operation));
        self.save(Durability::Written)
    }
}
