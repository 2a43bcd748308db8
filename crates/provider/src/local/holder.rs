//! Ending whoever holds a lock file, and what was theirs. Agents and engines write into the lock that they hold who they are.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::Deserialize;

const CGROUPS: &str = "/sys/fs/cgroup";

/// What stands in a lock file: written by the agent's sandbox module.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Holder {
    pid: i32,
    /// Field 22 of `/proc/PID/stat`. With it, a process is never mistaken for a later one with its number.
    start_ticks: u64,
    /// Control group directories of the process.
    pub(super) cgroups: Vec<PathBuf>,
}

/// Kills the holder of this lock and waits for its end. Returns what the file says of the last holder; `None` if the lock is
/// still held at the deadline.
pub(super) fn end(lock: &Path, deadline: Instant) -> io::Result<Option<Holder>> {
    let file = match open(lock, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(Some(Holder::default())),
        Err(error) => return Err(error.into()),
    };
    loop {
        let held = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(Errno::WOULDBLOCK) => true,
            Err(error) => return Err(error.into()),
        };
        // An empty file: the holder has not got to writing it. It will, or end.
        let holder = serde_json::from_slice(&fs_err::read(lock)?).unwrap_or_default();
        if !held {
            return Ok(Some(holder));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        if !kill(&holder, left)? {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Kills this very process and waits for its end. False if it is not there any more.
fn kill(holder: &Holder, limit: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(holder.pid) else { return Ok(false) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if start_ticks(holder.pid) != Some(holder.start_ticks) {
        return Ok(false);
    }
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) {
        Ok(_) | Err(Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Counted after the program's name, which may hold anything.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The groups of this name where root's are, in every hierarchy: also those that no process ever got to join.
pub(super) fn cgroups_named(name: &str) -> BTreeSet<PathBuf> {
    let top = Path::new(CGROUPS);
    let hierarchies = fs_err::read_dir(top).into_iter().flatten().flatten().map(|entry| entry.path());
    std::iter::once(top.to_owned())
        .chain(hierarchies)
        .map(|hierarchy| hierarchy.join("coffer").join(name))
        .filter(|group| group.is_dir())
        .collect()
}

/// Removes an empty control group; one that empties just now is waited for. Touches nothing else.
pub(super) fn remove_cgroup(group: &Path, deadline: Instant) -> io::Result<()> {
    if !group.starts_with(CGROUPS) {
        return Ok(());
    }
    loop {
        match fs_err::remove_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}
