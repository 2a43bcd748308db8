//! Who is alive, told by the kernel: locks that end with their holder and never outlive it.
//!
//! - `agent/lock` in a volume is held by its agent ([`VolumeLock`]): one agent per volume.
//! - the lock file of a [`Launch`](super::Launch) is held by its engine: one engine per lock, and whoever finds it locked
//!   reads in it which process that is ([`adopt`]).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// What stands in an engine's lock file. The local provider reads it too, when an instance is deleted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    /// As the host counts.
    pub(super) pid: i32,
    /// Field 22 of `/proc/PID/stat`.
    pub(super) start_ticks: u64,
    /// The engine's control group directories.
    pub(super) cgroups: Vec<PathBuf>,
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

/// The right to be the agent of a volume. Held until dropped, or until the process ends however it ends.
#[derive(Debug)]
pub struct VolumeLock {
    _file: OwnedFd,
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
        let file = open(&path, flags, Mode::RUSR | Mode::WUSR)?;
        let (own, given) = (fstat(&file)?, fstat(io::stdin())?);
        let file = if (own.st_dev, own.st_ino) == (given.st_dev, given.st_ino) {
            let given = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3)?;
            rustix::stdio::dup2_stdin(open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
            given
        } else {
            file
        };
        // Whoever only looks whether an agent lives holds the lock for microseconds.
        let deadline = Instant::now() + Duration::from_millis(200);
        loop {
            match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
