//! How an agent runs, asks and changes MariaDB and MySQL. The only place that speaks their protocol.
//!
//! ```text
//!   ensure_data                     a data directory that was never used, made by the engine's own scripts
//!   write_config, launch            files and a `sandbox::Launch`
//!   Client::ready                   the engine answers over its unix socket
//!   Client::look, verify, try_target   look, change nothing
//!   Client::plan_measures -> Temporary  (the caller writes it down)
//!   Client::prepare                 dirty pages are written while it serves, so that the stop is short
//!   Client::quiesce -> Holdings     nobody writes; what is there is read
//!   Client::stop                    the engine has ended cleanly
//!   Client::own_step                the new engine's own step, `mariadb-upgrade`, while it is closed
//!   Client::compare(&Holdings)      the new engine holds what was there
//!   Client::lift                    as clients may have it
//!   Client::settle                  the measures are over; also the undo of prepare
//!   Client::accounts(&Request)      databases and accounts of the tenant: looked at, or changed
//! ```
//!
//! The agent logs in by the user id at its end of the unix socket: there is no password that could leak.

mod accounts;
mod client;
mod init;
mod launch;
mod live;
mod read;
mod section;
mod survey;
mod tables;
mod trial;
mod visitor;
mod writes;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use coffer_core::datastore::{Datastore, Number};
pub(crate) use coffer_core::engine::sql::config::CONFIG_FILE;
use coffer_core::engine::sql::proof::Sampled;
use coffer_core::engine::written::{by_mark, marks};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

pub(crate) use client::Client;
pub(crate) use init::ensure_data;
pub(crate) use launch::{end_upgrade, launch, write_config};
pub(crate) use trial::try_target;
pub(crate) use visitor::{Reader, Visitor};

/// Measures that are in force only for a while. Written down by the caller before they are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Temporary {
    /// How it was before.
    pub before: Measures,
    /// The tables that are read for the proof.
    pub tables: Vec<Sampled>,
    /// What is no table and has columns, by its name: their types are the engine's own matter.
    #[serde(default)]
    pub others: BTreeSet<String>,
}

/// What measures change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measures {
    /// `innodb_max_dirty_pages_pct` and the same with `_lwm`.
    pub dirty_pages_pct: String,
    pub dirty_pages_pct_lwm: String,
    /// `innodb_io_capacity`; empty in what agents before this one wrote down, and left alone then.
    #[serde(default)]
    pub io_capacity: String,
    pub read_only: String,
    /// `event_scheduler`; empty in what agents before this one wrote down, and left alone then.
    #[serde(default)]
    pub events: String,
}

/// No mark of an engine is longer.
const MARK_LIMIT: u64 = 64 << 10;

/// Which engine's own step was the last on these data.
pub(crate) fn written_by(datastore: Datastore, data: &Path) -> Option<(Datastore, Number)> {
    marks(datastore).iter().find_map(|name| {
        let mut mark = String::new();
        let file = crate::site::open(&data.join(name), OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
        file.take(MARK_LIMIT).read_to_string(&mut mark).ok()?;
        by_mark(datastore, &mark)
    })
}
