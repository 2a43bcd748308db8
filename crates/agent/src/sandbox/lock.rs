//! Who is alive, told by the kernel: locks that end with their holder and never outlive it.
//!
//! - `agent/lock` in a volume is held by its agent ([`VolumeLock`]): one agent per volume.
//! - the lock file of a [`Launch`](super::Launch) is held by its engine: one engine per lock, and whoever finds it locked
//!   reads in it which process that is ([`adopt`]).
//! - so is that of a gate's keeper ([`ProcessLock`]), which ends in `.lock` as well and is ended with the instance.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::process::{self, Process};

/// What stands in the lock file of an engine or agent. The local provider reads it too, when an instance is deleted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    /// As the host counts.
    pub(super) pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub(super) start_ticks: u64,
    /// The engine's control group directories.
    pub(super) cgroups: Vec<PathBuf>,
}

impl Holder {
    pub(super) fn of(pid: Pid, cgroups: Vec<PathBuf>) -> io::Result<Self> {
        Ok(Self { pid: pid.as_raw_pid(), start_ticks: process::start_ticks(pid)?, cgroups })
    }

    /// The caller holds the lock, so nobody else writes.
    pub(super) fn write_to(&self, mut record: std::fs::File) -> io::Result<()> {
        record.set_len(0)?;
        record.write_all(&serde_json::to_vec(self)?)
    }
}

/// Finds the engine that holds this lock file, whichever agent started it. `None` if none does.
///
/// Waits while an engine is just being started by an agent that died over it; an error after a second of that.
pub fn adopt(lock: &Path) -> io::Result<Option<Process>> {
    let deadline = Instant::now() + Duration::from_secs(1);
    let file = match open(lock, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    loop {
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(None),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
        // What it says is true only once the holder wrote it: until then it is empty or tells of an earlier engine.
        if let Ok(holder) = serde_json::from_slice::<Holder>(&fs_err::read(lock)?)
            && let Some(process) = Process::adopt(holder.pid, holder.start_ticks)?
        {
            return Ok(Some(process));
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// How long a killed program may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(30);

/// Kills the program that holds this lock file, if one does: of an agent that died, or that has given up on it.
pub(crate) async fn end(lock: &Path) -> io::Result<()> {
    if let Some(process) = adopt(lock).ok().flatten() {
        process.signal(Signal::KILL)?;
        let _ = tokio::time::timeout(KILL_LIMIT, process.exited()).await;
    }
    Ok(())
}

/// The right to be the agent of a volume. Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct VolumeLock {
    _lock: OwnedFd,
}

impl VolumeLock {
    /// Takes the lock of the volume, `agent/lock` in it. `None` if another agent has it.
    ///
    /// The local provider starts an agent with the lock already taken, as the agent's standard input: so there is no moment in
    /// which a second agent could come first, and none in which a started agent looks dead. Such a lock is taken over, and
    /// standard input becomes empty. Call it before starting any child, which would inherit the lock.
    pub fn acquire(volume: &Path) -> io::Result<Option<Self>> {
        let path = volume.join("agent").join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let record = open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        let (own, given) = (fstat(&record)?, fstat(io::stdin())?);
        let lock = if (own.st_dev, own.st_ino) == (given.st_dev, given.st_ino) {
            let given = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
            rustix::stdio::dup2_stdin(open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
            given
        } else {
            record.try_clone()?
        };
        if !take(&lock)? {
            return Ok(None);
        }
        Holder::of(rustix::process::getpid(), Vec::new())?.write_to(record.into())?;
        Ok(Some(Self { _lock: lock }))
    }
}

/// A lock file held by this process, in which it stands who that is. Held until dropped, or until the process ends.
#[derive(Debug)]
pub struct ProcessLock {
    _lock: OwnedFd,
}

impl ProcessLock {
    /// Takes the lock. `None` if another process has it.
    pub fn acquire(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = open(path, flags, Mode::RUSR | Mode::WUSR)?;
        if !take(&lock)? {
            return Ok(None);
        }
        Holder::of(rustix::process::getpid(), Vec::new())?.write_to(lock.try_clone()?.into())?;
        Ok(Some(Self { _lock: lock }))
    }
}

/// False if somebody has it. Whoever only looks whether its holder lives has it for microseconds, and is waited for.
fn take(lock: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + Duration::from_millis(200);
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
