//! Looking at a way back: what is in its way, and what it would lose.

use coffer_core::finding::{Cause, Finding};
use coffer_core::id::OperationId;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Learned, Loss, Writes};
use jiff::{SignedDuration, Timestamp};

use super::{Sight, judged};
use crate::cause::cause;
use crate::driver::{self, Client};
use crate::site::PreImage;
use crate::state::KeptPreimage;

/// Kept free on the volume beside what is counted: room for what is written meanwhile.
const DISK_RESERVE: u64 = 64 << 20;

impl Sight {
    /// Everything that could go wrong on the way back to `to`, and what would be lost by it.
    pub(super) async fn check_back(
        &self,
        to: &EngineSpec,
        restores: Option<OperationId>,
        learned: &mut Learned,
    ) -> Result<(), Cause> {
        let Some(from) = &self.engine else {
            return Err(Cause::new("the instance does not run an engine yet", ""));
        };
        let client = Client::connect(from, &self.paths, &self.secrets).await.map_err(cause)?;
        // Data that are put aside are in nobody's way: then it is looked at as before a restart.
        let reader = restores.map_or(to, |_| from);
        let readers_root = self.root(reader).await.ok();
        let seen = client.look(from, reader, &self.paths, readers_root.as_deref()).await.map_err(cause)?;
        let mut preview = self.preview(&client, from, to, &seen).await?;
        learned.findings = seen.findings;
        if let Some(operation) = restores {
            let Some(kept) = self.preimages.iter().find(|kept| kept.operation == operation && !kept.finalized) else {
                let message = "there is nothing to go back to any more: its pre-image was removed";
                return Err(Cause::new(message, "none: the instance stays as it is"));
            };
            preview.stops =
                format!("{} is stopped and {} started on a copy of the pre-image", from.label(), to.label());
            preview.while_serving.push("the pre-image is copied".to_owned());
            learned.findings.extend(self.room(from, operation)?);
            learned.findings.extend(self.unproven(from, operation)?);
            // Another connection: that one is set up for looking.
            let client = Client::connect(from, &self.paths, &self.secrets).await.map_err(cause)?;
            let loss =
                Loss { since: kept.since, counted_at: Timestamp::now(), writes: self.writes(&client, kept).await };
            learned.findings.push(Finding::warning("rollback.loss", "data", loss.sentence(to.datastore()), ""));
            learned.loss = Some(loss);
        }
        learned.preview = Some(preview);
        // What the newer one wrote there the older one need not understand, and it gets what it had.
        let kept = restores.map(|operation| PreImage::of(&self.paths, operation, driver::kinds(from)).conf());
        let conf = kept.as_deref().unwrap_or(&self.paths.conf);
        learned.findings.extend(self.tried(to, self.root(to).await, conf).await);
        judged(to, &learned.findings)
    }

    /// Whether there is room for a copy of the pre-image beside one of what there is now.
    fn room(&self, from: &EngineSpec, restores: OperationId) -> Result<Option<Finding>, Cause> {
        let kinds = driver::kinds(from);
        let copied = PreImage::of(&self.paths, restores, kinds).copied_bytes().map_err(cause)?;
        let needed = copied + PreImage::estimate(&self.paths, kinds).map_err(cause)?.copied_bytes + DISK_RESERVE;
        let room = rustix::fs::statvfs(&self.paths.data).map_err(|e| cause(std::io::Error::from(e).into()))?;
        let free = room.f_bavail * room.f_frsize;
        Ok((free < needed).then(|| {
            let message = format!(
                "{} MiB are free and up to {} MiB are needed for a copy of the pre-image and for one of what there is now",
                free >> 20,
                needed >> 20
            );
            Finding::error("rollback.disk", "volume", message, "make room on it")
        }))
    }

    /// That nobody knows what the pre-image holds, where the agent that took it did not write it down.
    fn unproven(&self, from: &EngineSpec, restores: OperationId) -> Result<Option<Finding>, Cause> {
        let image = PreImage::of(&self.paths, restores, driver::kinds(from));
        let held = image.held::<serde::de::IgnoredAny>().map_err(cause)?;
        Ok(held.is_none().then(|| {
            let message =
                "what it holds was not written down when it was taken, so that it cannot be compared afterwards";
            Finding::notice("rollback.unproven", "pre-image", message, "")
        }))
    }

    /// How much was written since the pre-image was taken, as far as the engine can tell.
    async fn writes(&self, client: &Client, kept: &KeptPreimage) -> Writes {
        let (count, up) = match client.writes().await {
            Ok(counted) => counted,
            Err(error) => return Writes::Unknown { why: cause(error).message },
        };
        match kept.own_writes {
            Some(own) if kept.engine.is_some() && kept.engine == self.birth => {
                Writes::All { count: count.saturating_sub(own) }
            }
            None if kept.engine.is_some() && kept.engine == self.birth => {
                Writes::Unknown { why: "what the engine did by itself at its start was not counted".to_owned() }
            }
            _ => {
                let up = SignedDuration::try_from(up).unwrap_or_default();
                Writes::Since { count, started_at: Timestamp::now().saturating_sub(up).unwrap_or(kept.since) }
            }
        }
    }
}
