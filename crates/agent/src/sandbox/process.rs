//! One process, which is that one and no other for as long as the value lives, whoever started it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A running or ended process. Its number may be used again after its end; this value never means the later one.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    start_ticks: u64,
    file: OwnedFd,
    exit: OnceLock<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this.
    Code(i32),
    /// This signal ended it. 9 without anybody sending it is the memory limit.
    Signal(i32),
    /// It was not our child, so nobody told us.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown how, it was started by an earlier agent"),
        }
    }
}

impl Process {
    /// Finds the process with this number that started at this time (field 22 of `/proc/PID/stat`, clock ticks since boot).
    /// `None` if it has ended, also when another has its number by now.
    pub fn adopt(pid: i32, start_ticks: u64) -> io::Result<Option<Self>> {
        let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
        // First hold the process, then look who it is: what is read afterwards can't be of a later one and match.
        let file = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(file) => file,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match self::start_ticks(pid) {
            Ok(found) if found == start_ticks => Ok(Some(Self { pid, start_ticks, file, exit: OnceLock::new() })),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The process id, as the host counts.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_pid()
    }

    /// When it started, in clock ticks since boot.
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Sends a signal; does nothing to a process that has ended. An engine is the first process of its namespace: it gets a
    /// signal only if it asked for it, SIGKILL and SIGSTOP always.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.file, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&self) -> bool {
        // An answer that can't be had counts as alive: to take a living engine for a dead one is the worse mistake.
        !self.has_ended(Some(Duration::ZERO)).unwrap_or(false)
    }

    /// Waits for the end, `timeout` at most. `None` if it goes on. Blocks.
    pub fn wait_exit(&self, timeout: Duration) -> io::Result<Option<Exit>> {
        if self.has_ended(Some(timeout))? { self.exit_status().map(Some) } else { Ok(None) }
    }

    /// Waits for the end. Needs a tokio runtime with IO; may be dropped and called again.
    #[allow(unsafe_code, reason = "tokio asks for a promise about the file that an OwnedFd keeps by itself")]
    pub async fn exited(&self) -> io::Result<Exit> {
        // SAFETY: the file is owned by the value that is handed over, which always names the same one.
        let file = unsafe { AsyncFd::register_with_interest(self.file.try_clone()?, Interest::READABLE) }?;
        let _ = file.readable().await?;
        self.exit_status()
    }

    fn has_ended(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.map(Timespec::try_from).transpose().map_err(|_| Errno::INVAL)?;
        let mut files = [PollFd::new(&self.file, PollFlags::IN)];
        loop {
            match poll(&mut files, timeout.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Of a process that has ended. Reaps it if it is our child.
    fn exit_status(&self) -> io::Result<Exit> {
        if let Some(known) = self.exit.get() {
            return Ok(*known);
        }
        let exit = match waitid(WaitId::PidFd(self.file.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            },
            Ok(None) | Err(Errno::CHILD) => Exit::Unknown,
            Err(error) => return Err(error.into()),
        };
        Ok(*self.exit.get_or_init(|| exit))
    }
}

/// Its pidfd.
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// When a process started. Field 22 of its `stat`; counted after the last `)`, since field 2, the program's name, may hold anything.
pub(super) fn start_ticks(pid: Pid) -> io::Result<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).map_err(|error| {
        // Read while the process went away.
        if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) { io::ErrorKind::NotFound.into() } else { error }
    })?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name
        .split_ascii_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
