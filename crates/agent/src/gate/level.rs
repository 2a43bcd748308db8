//! How far a gate can go on this host: found out by trying, in a process that ends with the answer.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use coffer_core::gate::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};

use super::filter::{Call, Machine};
use super::message::{self, Kind};
use super::{engine, sys};

/// The hidden subcommand under which this program tries it.
pub const TRIAL_COMMAND: &str = "gate-trial";
/// A setting of the kernel, of the network namespace: whether what waits in a socket that stops listening moves to another of
/// its group. Nobody is concerned who does not use `SO_REUSEPORT`.
const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
/// How long the trial may take. It makes two system calls.
const LIMIT: Duration = Duration::from_secs(5);

/// The level that can be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub level: Level,
    /// Why it is not a higher one, and what to do about it; empty if there is none.
    pub why: String,
}

/// Finds the highest level that works here, `highest` at the most. As root turns on what the kernel has for it.
pub fn find(highest: Level) -> Found {
    find_with(highest, ensure_migration)
}

/// What [`find`] would find. Changes nothing.
pub fn foresee(highest: Level) -> Found {
    find_with(highest, || if rustix::process::geteuid().is_root() { Ok(()) } else { check_migration() })
}

fn find_with(highest: Level, migration: impl Fn() -> Result<(), String>) -> Found {
    let found = |level, why: String| Found { level, why };
    if highest == Level::Own {
        return found(Level::Own, "the configuration says gate = \"own\"".to_owned());
    }
    if let Err(error) = try_handing_over() {
        let why = format!(
            "sockets cannot be handed to engines here ({error}); hint: a kernel of 5.14 or later, and no seccomp notification \
             by the container manager"
        );
        return found(Level::Own, why);
    }
    if highest == Level::Shared {
        return found(Level::Shared, "the configuration says gate = \"shared\"".to_owned());
    }
    if let Err(error) = try_steering() {
        return found(
            Level::Shared,
            format!("this kernel does not steer connections ({error}); hint: Linux 4.6 or later"),
        );
    }
    if let Err(why) = migration() {
        return found(Level::Shared, why);
    }
    found(Level::Steered, String::new())
}

fn try_steering() -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    sys::steer(&socket, 0)
}

/// Whether what waits can move.
fn check_migration() -> Result<(), String> {
    if fs_err::read_to_string(MIGRATE).is_ok_and(|value| value.trim() != "0") {
        return Ok(());
    }
    Err("net.ipv4.tcp_migrate_req is off; hint: sysctl -w net.ipv4.tcp_migrate_req=1, and a file in /etc/sysctl.d so that it \
         stays"
        .to_owned())
}

/// What waits can move, turned on if that is allowed.
fn ensure_migration() -> Result<(), String> {
    check_migration().or_else(|why| {
        fs_err::write(MIGRATE, "1").map_err(|_| why)?;
        tracing::info!("turned on net.ipv4.tcp_migrate_req, so that connections that wait can move between sockets");
        check_migration()
    })
}

/// Has a process bind a socket and hands it another one, as is done with engines.
fn try_handing_over() -> io::Result<()> {
    let machine = Machine::own().ok_or(io::ErrorKind::Unsupported)?;
    let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut trial = Trial(
        Command::new(Path::new("/proc/self/exe"))
            .arg0("coffer")
            .arg(TRIAL_COMMAND)
            .env_clear()
            .stdin(there)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?,
    );
    message::limit(&here)?;
    let Some(((), mut files)) = message::receive::<()>(&here)? else {
        // It ended without a filter, with the error as its code.
        let code = trial.0.wait()?.code().unwrap_or(libc::EIO);
        return Err(io::Error::from_raw_os_error(code));
    };
    let notify = files.take(Kind::Notify).ok_or(io::ErrorKind::InvalidData)?;
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    wait_for(&notify)?;
    let told = sys::receive(&notify, machine)?.ok_or(io::ErrorKind::NotConnected)?;
    let [file, pointer, length, ..] = told.arguments;
    let asked = engine::address(told.thread, pointer, length)?;
    engine::flags(told.thread, file)?;
    engine::socket(told.thread, file)?;
    if told.call != Call::Bind || asked != Some(asked_for()) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    sys::give(&notify, told.id, &held, u32::try_from(file).ok(), true)?;
    sys::answer(&notify, told.id, sys::Answer::Done)?;
    let port = held.local_addr()?.port();
    // It tells which port its socket has: that of the other one.
    match message::receive::<u16>(&here)? {
        Some((found, _)) if found == port => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn wait_for(file: &OwnedFd) -> io::Result<()> {
    let limit = Timespec::try_from(LIMIT).map_err(|_| rustix::io::Errno::INVAL)?;
    match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// What the trial binds: it is never really bound.
fn asked_for() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

/// Ended with the value: no process stays.
struct Trial(Child);

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other side: what engine-init and an engine do. To be called first thing in `main`, when the first argument is
/// [`TRIAL_COMMAND`].
pub fn trial_main() -> ExitCode {
    let run = || -> io::Result<()> {
        let machine = Machine::own().ok_or(io::ErrorKind::Unsupported)?;
        rustix::thread::set_no_new_privs(true)?;
        let notify = sys::install(machine)?;
        message::send(io::stdin(), &(), &[(Kind::Notify, notify.as_fd())])?;
        drop(notify);
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        rustix::net::bind(&socket, &asked_for())?;
        let port = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?.port();
        message::send(io::stdin(), &port, &[])
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(error.raw_os_error().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
    }
}
