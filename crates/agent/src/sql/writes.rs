//! How much was written since the engine started.

use std::time::Duration;

use coffer_core::engine::sql::writes::{COUNTERS, count};

use super::Client;
use crate::site::Error;

impl Client {
    /// How many statements that change data it has done since it started, and how long ago that is.
    pub(crate) async fn writes(&self) -> Result<(u64, Duration), Error> {
        let count = count(&self.status(&format!("{COUNTERS}%")).await?);
        let up = self.status("Uptime").await?.remove("Uptime").and_then(|seconds| seconds.parse().ok());
        Ok((count, Duration::from_secs(up.ok_or(Error::Misunderstood { command: "SHOW STATUS" })?)))
    }
}
