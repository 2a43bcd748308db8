//! Looking at a way back: what is in its way, and what it would lose.

use std::time::Duration;

use coffer_core::finding::{Cause, Finding};
use coffer_core::id::OperationId;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Learned, Loss, Preview, Writes};
use jiff::{SignedDuration, Timestamp};

use super::{Sight, judged};
use crate::cause::cause;
use crate::driver::{self, Client, Seen};
use crate::engine::{SOON, ended_cleanly};
use crate::site::{PreImage, list};
use crate::state::KeptPreimage;

/// Kept free on the volume beside what is counted: room for what is written meanwhile.
const DISK_RESERVE: u64 = 64 << 20;

impl Sight {
    /// Everything that could go wrong on the way back to `to`, and what would be lost by it. An engine that is `down` is looked at
    /// from outside.
    pub(super) async fn check_back(
        &self,
        to: &EngineSpec,
        restores: Option<OperationId>,
        down: bool,
        learned: &mut Learned,
    ) -> Result<(), Cause> {
        let Some(from) = &self.engine else {
            return Err(Cause::new("the instance does not run an engine yet", ""));
        };
        let mut preview = match down {
            true => self.look_from_outside(from, to, restores, learned).await?,
            false => self.look_back(from, to, restores, learned).await?,
        };
        if let Some(operation) = restores {
            let Some(kept) = self.preimages.iter().find(|kept| kept.operation == operation && !kept.finalized) else {
                let message = "there is nothing to go back to any more: its pre-image was removed";
                return Err(Cause::new(message, "none: the instance stays as it is"));
            };
            let ends = if down { "is not waited for" } else { "is stopped" };
            preview.stops = format!("{} {ends} and {} started on a copy of the pre-image", from.label(), to.label());
            preview.while_serving.push("the pre-image is copied".to_owned());
            learned.findings.extend(self.room(from, operation)?);
            learned.findings.extend(self.unproven(from, operation)?);
            let writes = match self.count(from, down).await {
                Ok(counted) => self.writes(counted, kept),
                Err(why) if down => Writes::Unknown { why: self.written_last(from, &why)? },
                Err(why) => Writes::Unknown { why },
            };
            let loss = Loss { since: kept.since, counted_at: Timestamp::now(), writes };
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

    /// What the engine itself says to it.
    async fn look_back(
        &self,
        from: &EngineSpec,
        to: &EngineSpec,
        restores: Option<OperationId>,
        learned: &mut Learned,
    ) -> Result<Preview, Cause> {
        let client = Client::connect(from, &self.paths, &self.secrets).await.map_err(cause)?;
        // Data that are put aside are in nobody's way: then it is looked at as before a restart.
        let reader = restores.map_or(to, |_| from);
        let readers_root = self.root(reader).await.ok();
        let seen = client.look(from, reader, &self.paths, readers_root.as_deref()).await.map_err(cause)?;
        let circumstances = driver::circumstances(&client, &self.paths).await.map_err(cause)?;
        let preview = self.preview(from, to, &seen, Some(circumstances))?;
        learned.findings = seen.findings;
        Ok(preview)
    }

    /// What can be told without it. It may be running, and answer or not.
    async fn look_from_outside(
        &self,
        from: &EngineSpec,
        to: &EngineSpec,
        restores: Option<OperationId>,
        learned: &mut Learned,
    ) -> Result<Preview, Cause> {
        let mut preview = self.preview(from, to, &Seen::default(), None)?;
        let (new, old) = (from.label(), to.label());
        preview.stops = format!("{new} is not waited for and {old} started on the same data");
        if restores.is_none() {
            learned.findings.extend(self.unreadable(from, to).await);
        }
        Ok(preview)
    }

    /// Why an older engine must not take over what this one left, if it must not.
    async fn unreadable(&self, from: &EngineSpec, to: &EngineSpec) -> Option<Finding> {
        let (new, old) = (from.label(), to.label());
        if self.birth.is_none() {
            let message =
                format!("{new} ended without a clean stop, and only {new} may recover what it left, not {old}");
            let remedy = "have it serve again, or go back to the data from before with --restore";
            let unclean = || Finding::error("rollback.unclean", "data", message, remedy);
            return (!ended_cleanly(&self.paths, from)).then(unclean);
        }
        // One that answers is told to end, and it is seen then how it did.
        let why = self.count(from, true).await.err()?;
        let message = format!("{new} runs, but {why}: what it holds in memory alone would be lost with it");
        let remedy = "end it with coffer instance restart, or go back to the data from before with --restore";
        Some(Finding::error("rollback.silent", "engine", message, remedy))
    }

    /// Why nobody counts, and what the files tell instead.
    fn written_last(&self, from: &EngineSpec, why: &str) -> Result<String, Cause> {
        let files = list(&self.paths.data, driver::kinds(from)).map_err(|error| cause(error.into()))?;
        let last = files.iter().map(|file| file.changed).max().and_then(|at| Timestamp::from_second(at).ok());
        let last = last.map_or_else(|| "never".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        Ok(format!("{why}; its files were written to last at {last}"))
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

    /// What the engine has counted as writes, and for how long it has run. One that is said to be `down` may say so, too, but soon.
    async fn count(&self, from: &EngineSpec, down: bool) -> Result<(u64, Duration), String> {
        if down && self.birth.is_none() {
            return Err("it does not run".to_owned());
        }
        // A connection of its own: one that has looked is set up for that.
        let counted = async { Client::connect(from, &self.paths, &self.secrets).await?.writes().await };
        let counted = async { counted.await.map_err(|error| cause(error).message) };
        if !down {
            return counted.await;
        }
        let late = || Err(format!("it does not answer within {} s", SOON.as_secs()));
        tokio::time::timeout(SOON, counted).await.unwrap_or_else(|_| late())
    }

    /// How much was written since the pre-image was taken, as far as that tells.
    fn writes(&self, (count, up): (u64, Duration), kept: &KeptPreimage) -> Writes {
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
