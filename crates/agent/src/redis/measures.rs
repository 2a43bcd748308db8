//! Measures that make a stop short and lossless, and their end.
//!
//! The vehicle is an append-only file: it has everything the moment it is acknowledged, its end is written in no time, and
//! it is loaded faster than anything when it was written anew just before. An engine that has one anyway is asked to write
//! it anew; any other is told at run time to have one for a while, which changes nothing for its clients.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use coffer_core::engine::redis::config::Persistence;
use coffer_core::spec::EngineSpec;
use tokio::time::{Instant, sleep};

use super::{Client, Temporary, aof, disk, survey};
use crate::site::{Error, Paths};

/// How long the engine may write its data anew. Disks that write 30 MB/s do 100 GB in that time.
const WRITER_LIMIT: Duration = Duration::from_secs(3600);
/// How the engine says whether its last rewrite of the append-only file went well.
const REWRITTEN: &str = "aof_last_bgrewrite_status";
const PAUSE: Duration = Duration::from_millis(10);
const LONG_PAUSE: Duration = Duration::from_millis(100);

impl Client {
    /// What [`Client::prepare`] will change, and which keys are compared. Changes nothing. Takes a while: it looks at
    /// up to a million keys, some at a time.
    pub async fn plan_measures(&self) -> Result<Temporary, Error> {
        Ok(Temporary { found: Some(self.persistence().await?), sample: survey::choose_sample(self).await? })
    }

    /// How the engine keeps its data now.
    pub async fn persistence(&self) -> Result<Persistence, Error> {
        let config = self.config("*").await?;
        let value = |name: &str| config.get(name).cloned().unwrap_or_default();
        Ok(Persistence {
            appendonly: value("appendonly") == "yes",
            save: value("save"),
            auto_aof_rewrite_percentage: value("auto-aof-rewrite-percentage"),
            hz: value("hz"),
        })
    }

    /// Everything acknowledged is in an append-only file from now on, which is as short as it can be; nothing else is
    /// written by itself; and it is in memory for the next engine. Can be called again.
    pub async fn prepare(&self, _spec: &EngineSpec, _temporary: &Temporary) -> Result<(), Error> {
        self.set("save", "").await?;
        self.set("auto-aof-rewrite-percentage", "0").await?;
        self.until_written().await?;
        if self.persistence().await?.appendonly {
            self.ask::<String>("BGREWRITEAOF", &redis::cmd("BGREWRITEAOF")).await?;
        } else {
            self.set("appendonly", "yes").await?;
        }
        self.until_written().await?;
        if let Some(reason) = unsafe_to_stop(&self.info("persistence").await?) {
            return Err(Error::Unsafe { reason });
        }
        self.look_ahead().await?;
        self.save_users().await?;
        warm(&self.paths).await;
        Ok(())
    }

    /// Looks at what was written so far, so that there is little left to be looked at when writes wait.
    pub(crate) async fn look_ahead(&self) -> Result<(), Error> {
        match self.broken().await? {
            Some(reason) => Err(Error::Unsafe { reason }),
            None => Ok(()),
        }
    }

    /// Why no engine would load its append-only file, as far as it is written; see [`aof`].
    pub(super) async fn broken(&self) -> Result<Option<String>, Error> {
        let (data, sound) = (self.paths.data.clone(), Arc::clone(&self.sound));
        let look = move || aof::broken_at(&data, &mut sound.lock().unwrap_or_else(PoisonError::into_inner));
        let at = tokio::task::spawn_blocking(look).await.map_err(std::io::Error::other)??;
        Ok(at
            .map(|at| format!("its append-only file has a hole at {at}, as it has when the disk was full for a while")))
    }

    /// Ends the measures: the engine keeps its data as `want` says ([`Persistence::configured`] after an upgrade, what
    /// was found after an undo). A snapshot is taken first where the append-only file was only a vehicle. Can be called
    /// again, and after the death of agent or engine.
    pub async fn settle(&self, want: &Persistence, paths: &Paths) -> Result<(), Error> {
        // No snapshot but ours until the append-only file is gone: as long as it is there it is what is loaded.
        self.set("save", "").await?;
        let info = self.until_written().await?;
        let now = self.persistence().await?;
        // As after a disk that was full: no later upgrade is to be refused for it.
        let has_failed = info.get("aof_last_bgrewrite_status").is_some_and(|status| status != "ok");
        if want.appendonly && (!now.appendonly || has_failed || self.broken().await?.is_some()) {
            // Written anew, by what is in memory.
            if now.appendonly {
                self.ask::<String>("BGREWRITEAOF", &redis::cmd("BGREWRITEAOF")).await?;
            } else {
                self.set("appendonly", "yes").await?;
            }
            self.until_written().await?;
            if let Some(reason) = unsafe_to_stop(&self.info("persistence").await?) {
                return Err(Error::Unsafe { reason });
            }
        }
        if !want.appendonly {
            if now.appendonly && !want.save.is_empty() {
                self.snapshot().await?;
            }
            self.set("appendonly", "no").await?;
            disk::forget_append_only(&paths.data)?;
        }
        if !want.hz.is_empty() {
            self.set("hz", &want.hz).await?;
        }
        self.set("auto-aof-rewrite-percentage", &want.auto_aof_rewrite_percentage).await?;
        self.set("save", &want.save).await
    }

    async fn snapshot(&self) -> Result<(), Error> {
        self.ask::<String>("BGSAVE", &redis::cmd("BGSAVE")).await?;
        let info = self.until_written().await?;
        match info.get("rdb_last_bgsave_status").map(String::as_str) {
            Some("ok") => Ok(()),
            _ => Err(Error::Refused { command: "BGSAVE", reason: "it failed; see the engine's log".to_owned() }),
        }
    }

    /// Waits until no writer of the engine's runs. A rewrite that failed is planned again by the engine, with pauses that soon
    /// are hours: that is not waited for.
    async fn until_written(&self) -> Result<BTreeMap<String, String>, Error> {
        let began = Instant::now();
        loop {
            let info = self.info("persistence").await?;
            let is_set = |name: &str| info.get(name).is_some_and(|v| v != "0");
            let failed = info.get(REWRITTEN).is_some_and(|status| status != "ok");
            let planned = is_set("aof_rewrite_scheduled") && !failed;
            if !planned && !["rdb_bgsave_in_progress", "aof_rewrite_in_progress"].into_iter().any(is_set) {
                return Ok(info);
            }
            if began.elapsed() > WRITER_LIMIT {
                return Err(Error::Late { what: "write its data", within: WRITER_LIMIT, detail: String::new() });
            }
            sleep(if began.elapsed() < Duration::from_secs(1) { PAUSE } else { LONG_PAUSE }).await;
        }
    }

    /// Users made at run time are in the ACL file. Written only where they are not, because it costs a flush.
    pub(super) async fn save_users(&self) -> Result<(), Error> {
        if !self.has_users {
            return Ok(());
        }
        let users: Vec<String> = self.ask("ACL LIST", redis::cmd("ACL").arg("LIST")).await?;
        let file = fs_err::read_to_string(self.paths.conf.join("users.acl"))?;
        if file.lines().ne(users.iter().map(String::as_str)) {
            self.ask::<String>("ACL SAVE", redis::cmd("ACL").arg("SAVE")).await?;
        }
        Ok(())
    }
}

/// Has what the next engine loads in memory, as far as there is memory; see [`disk::warm`].
async fn warm(paths: &Paths) {
    let data = paths.data.clone();
    match tokio::task::spawn_blocking(move || disk::warm(&data)).await {
        Ok(Ok(bytes)) => tracing::info!(bytes, "read ahead"),
        // It only takes longer then.
        Ok(Err(error)) => tracing::warn!(%error, "read ahead"),
        Err(error) => tracing::warn!(%error, "read ahead"),
    }
}

/// Why what was acknowledged would not all be on disk after a stop, from `INFO persistence`.
pub(super) fn unsafe_to_stop(info: &BTreeMap<String, String>) -> Option<String> {
    let value = |name: &str| info.get(name).map_or("", String::as_str);
    if value("aof_enabled") != "1" {
        return Some("it has no append-only file".to_owned());
    }
    for (name, what) in [("aof_last_write_status", "last write to"), (REWRITTEN, "last rewrite of")] {
        if value(name) != "ok" {
            return Some(format!("the {what} its append-only file failed, as it does without room on the disk"));
        }
    }
    if value("aof_rewrite_in_progress") != "0" || value("aof_rewrite_scheduled") != "0" {
        return Some("it is writing its append-only file anew".to_owned());
    }
    None
}
