//! The gate of an instance: its port, which never closes, and who gets the connections.
//!
//! ```text
//!  clients ---> instance's address:port      a group of sockets (SO_REUSEPORT); a program in the kernel steers to one of them
//!                  |                 |
//!                line             engine's socket <------------+
//!         connections wait        given to the engine          |
//!                  ^                 ^                          |  bind, listen: told by seccomp, answered with a socket
//!                  |                 |                          |
//!                  +--- keeper (gate-keeper) <---- notify ---- engine
//!                          ^   has the sockets, answers calls, knows the deadline
//!                          |   gate.sock: hold, started, open, refuse        one packet each way, files with it
//!                        agent     has copies of all that the keeper has
//! ```
//!
//! How an engine starts: `engine-init` installs a filter as its last act before it becomes the engine ([`sys::install`]) and
//! sends the descriptor over which calls are told to the agent, with its order's socket. The agent hands it to the keeper
//! (*started*). When the engine binds the instance's address, the keeper gives it a socket of the group in place of its own,
//! to which nobody is steered yet: it believes that it has the port, and no client reaches it. When the agent has proven it, the
//! keeper steers to it and stops the line (*open*), and the kernel moves what waited there to the engine.
//!
//! How it stops: the keeper makes a line and steers to it (*hold*); the engine answers what it has ([`drain()`]) and ends.
//!
//! Who may die: the **agent**: the keeper has everything and goes on, deadline included. The **keeper**: the agent starts
//! another and gives it its copies. **Both**: sockets live in the engine, which was given the line too, and `gate.json` says which
//! they are; what is lost is that a later `bind` of this very engine is answered, and no engine binds twice. The **engine**: its
//! socket is in the keeper, what waits moves to a line, and the next engine gets a socket of its own. **All**: the port is
//! closed, and made anew.
//!
//! Below that are two more levels ([`Level`]), for hosts that allow less; [`find`] finds out which works.

mod diag;
mod drain;
mod engine;
mod filter;
mod keeper;
mod level;
mod message;
mod sockets;
mod sys;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coffer_core::gate::Gate as State;
use coffer_core::gate::Level;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, socketpair};
use rustix::process::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use drain::{QUIET, drain};
pub use keeper::{KEEPER_COMMAND, keeper_main};
pub use level::{Found, TRIAL_COMMAND, find, foresee, trial_main};

use crate::sandbox::{self, Process};
use message::{Files, Kind, Lent, Reply, Request, VERSION};

/// For a process that is about to become an engine: its calls are told from now on, over this descriptor.
pub(crate) fn tell_calls() -> io::Result<OwnedFd> {
    sys::install(filter::Machine::own().ok_or(io::ErrorKind::Unsupported)?)
}

/// Sends the descriptor of [`tell_calls`] to whoever gave the order.
pub(crate) fn send_notify(link: impl AsFd, notify: &OwnedFd) -> io::Result<()> {
    message::send(link, &(), &[(Kind::Notify, notify.as_fd())])
}

/// Receives it. `None` if it was not sent.
pub(crate) fn receive_notify(link: impl AsFd) -> io::Result<Option<OwnedFd>> {
    Ok(message::receive::<()>(link)?.and_then(|((), mut files)| files.take(Kind::Notify)))
}

/// Why the gate did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The keeper cannot be started or does not answer.
    #[error("the keeper of the gate cannot be reached: {0}")]
    Keeper(#[from] io::Error),
    /// What was asked does not fit, or a socket cannot be had.
    #[error("the gate of {address} cannot be changed: {reason}")]
    Refused { address: SocketAddr, reason: String },
}

/// The gate of an instance, as its agent has it. Calls block, for less than a millisecond where a keeper is there.
#[derive(Debug)]
pub struct Gate {
    /// The agent's directory of the volume.
    dir: PathBuf,
    address: SocketAddr,
    found: Found,
    limit: Duration,
    state: State,
    late_at: Option<Instant>,
    broken: bool,
    notices: Vec<String>,
    link: Option<OwnedFd>,
    /// The keeper, if this agent started it: to be reaped.
    child: Option<Child>,
    /// Copies of all that the keeper has.
    spare: Files,
}

impl Gate {
    /// Meets the keeper of this gate, or starts one, which takes over what `engine` has. A new gate holds, for `limit`.
    ///
    /// At [`Level::Own`] there is no keeper, and every call does nothing. An engine that runs and was started without a gate
    /// makes it so, too.
    pub fn meet(
        dir: &Path,
        address: SocketAddr,
        found: Found,
        limit: Duration,
        engine: Option<&Process>,
    ) -> Result<Self, Error> {
        let state = State::Holding { until: 0, behind: coffer_core::gate::Behind::Nobody };
        let mut gate = Self {
            dir: dir.to_owned(),
            address,
            found,
            limit,
            state,
            late_at: None,
            broken: false,
            notices: Vec::new(),
            link: None,
            child: None,
            spare: Files::default(),
        };
        if gate.level() != Level::Own {
            gate.revive(engine)?;
        }
        Ok(gate)
    }

    /// How far it goes.
    pub fn level(&self) -> Level {
        self.found.level
    }

    /// Why it does not go further; empty at the highest level.
    pub fn why(&self) -> &str {
        &self.found.why
    }

    /// How it was after the last call. `None` where nobody keeps it.
    pub fn state(&self) -> Option<State> {
        (self.level() != Level::Own).then_some(self.state)
    }

    /// How long connections go on waiting at the most; `None` if none waits.
    pub fn time_left(&self) -> Option<Duration> {
        self.late_at.map(|at| at.saturating_duration_since(Instant::now()))
    }

    /// The socket of the engine, to see what waits in it.
    pub fn engine_socket(&self) -> Option<BorrowedFd<'_>> {
        self.spare.get(Kind::Engine)
    }

    /// New connections wait from now on, `limit` at the most. What waits already waits until then, too.
    pub fn hold(&mut self, limit: Duration) -> Result<(), Error> {
        let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX / 4);
        self.ask(&Request::Hold { limit_ms }, &[])
    }

    /// An engine was started and is kept behind the gate: what it binds is told over `notify`.
    pub fn started(&mut self, engine: &Process, notify: &OwnedFd) -> Result<(), Error> {
        self.ask(&Request::Started, &[(Kind::Notify, notify.as_fd()), (Kind::Process, engine.as_fd())])
    }

    /// Lets clients in, those first who wait. Done already, it does nothing.
    pub fn open(&mut self) -> Result<(), Error> {
        self.ask(&Request::Open, &[])
    }

    /// Nobody will come: connections are refused from now on.
    pub fn refuse(&mut self) -> Result<(), Error> {
        self.ask(&Request::Refuse, &[])
    }

    /// Looks how things are. If the keeper is gone there is another afterwards.
    pub fn look(&mut self) -> Result<(), Error> {
        self.ask(&Request::Status, &[])
    }

    /// What happened by itself, in sentences, and was not taken yet.
    pub fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    /// Whether the engine that was started last could not be given its socket.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Returns when the keeper has ended; never where there is none. Needs a tokio runtime with IO; may be dropped and called
    /// again.
    #[allow(unsafe_code, reason = "tokio asks for a promise about the file that an OwnedFd keeps by itself")]
    pub async fn unkept(&self) {
        let Some(link) = &self.link else { return std::future::pending().await };
        let Ok(link) = link.try_clone() else { return std::future::pending().await };
        // A keeper says nothing unasked, so what can be read is its end.
        // SAFETY: the file is owned by the value that is handed over, which always names the same one.
        if let Ok(link) = unsafe { AsyncFd::register_with_interest(link, Interest::READABLE) } {
            let _ = link.readable().await;
        }
    }

    /// Gives up the gate, for this reason: the next engine binds its port itself. No engine may be running.
    pub fn retire(&mut self, why: String) -> Result<(), Error> {
        let asked = self.ask(&Request::Retire, &[]);
        self.found = Found { level: Level::Own, why };
        self.link = None;
        self.spare = Files::default();
        self.reap();
        asked
    }

    fn ask(&mut self, request: &Request, files: &[(Kind, BorrowedFd<'_>)]) -> Result<(), Error> {
        if self.level() == Level::Own {
            return Ok(());
        }
        if let Some(link) = &self.link
            && let Ok(answer) = exchange(link, request, files)
        {
            return self.take(answer);
        }
        self.revive(None)?;
        let Some(link) = &self.link else { return Ok(()) };
        let answer = exchange(link, request, files)?;
        self.take(answer)
    }

    fn take(&mut self, (reply, files): (Reply, Files)) -> Result<(), Error> {
        self.spare = files;
        self.notices.extend(reply.notices);
        self.broken = reply.broken;
        if let Some((level, state)) = reply.now {
            self.found.level = level;
            self.state = state;
        }
        self.late_at = reply.late_in_ms.map(|left| Instant::now() + Duration::from_millis(left));
        match reply.error {
            Some(reason) => Err(Error::Refused { address: self.address, reason }),
            None => Ok(()),
        }
    }

    /// Meets the keeper that is there, or starts one and gives it what this agent has, and what the engine has.
    fn revive(&mut self, engine: Option<&Process>) -> Result<(), Error> {
        self.link = None;
        self.reap();
        let limit_ms = u64::try_from(self.limit.as_millis()).unwrap_or(u64::MAX / 4);
        let hello = Request::Hello { version: VERSION, address: self.address, level: self.level(), limit_ms };
        if let Ok(link) = self.reach() {
            match exchange(&link, &hello, &[]) {
                Ok((reply, files)) if reply.version == VERSION && reply.now.is_some() => {
                    self.link = Some(link);
                    return self.take((reply, files));
                }
                _ => self.end_keeper()?,
            }
        }
        let link = self.start_keeper()?;
        let mut lent: Lent<'_> = self.spare.lend();
        if let Some(engine) = engine
            && self.spare.get(Kind::Process).is_none()
        {
            lent.push((Kind::Process, engine.as_fd()));
        }
        let (reply, files) = exchange(&link, &hello, &lent)?;
        if reply.now.is_none() && engine.is_some() {
            // It has its port itself, and keeps it until it ends.
            let reason = reply.error.unwrap_or_default();
            tracing::warn!(reason, "the engine runs without a gate");
            self.found = Found { level: Level::Own, why: format!("{reason}; hint: the next restart gives it a gate") };
            drop(link);
            self.reap();
            return Ok(());
        }
        // One that cannot take what this agent has will not be able to later: it is let go of, and the port made anew.
        self.link = reply.now.is_some().then_some(link);
        self.take((reply, files))
    }

    /// A connection to the keeper that is there.
    fn reach(&self) -> io::Result<OwnedFd> {
        // Through an open directory, because a path may be longer than an address can be.
        let dir = fs_err::File::open(&self.dir)?;
        let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), keeper::SOCKET);
        let link = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&link, &SocketAddrUnix::new(path)?)?;
        message::limit(&link)?;
        Ok(link)
    }

    fn start_keeper(&mut self) -> io::Result<OwnedFd> {
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        message::limit(&here)?;
        let child = Command::new(Path::new("/proc/self/exe"))
            .arg0("coffer")
            .arg(KEEPER_COMMAND)
            .current_dir(&self.dir)
            .env_clear()
            .stdin(there)
            .stdout(Stdio::null())
            .spawn()?;
        self.child = Some(child);
        Ok(here)
    }

    /// Ends a keeper that cannot be talked to.
    fn end_keeper(&mut self) -> io::Result<()> {
        if let Some(keeper) = sandbox::adopt(&self.dir.join(keeper::LOCK))? {
            keeper.signal(Signal::KILL)?;
            let _ = keeper.wait_exit(Duration::from_secs(5))?;
        }
        self.reap();
        Ok(())
    }

    /// A keeper that this agent started and that has ended is not left as a zombie.
    fn reap(&mut self) {
        if let Some(child) = &mut self.child
            && !matches!(child.try_wait(), Ok(None))
        {
            self.child = None;
        }
    }
}

fn exchange(link: &OwnedFd, request: &Request, files: &[(Kind, BorrowedFd<'_>)]) -> io::Result<(Reply, Files)> {
    message::send(link, request, files)?;
    message::receive(link)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
