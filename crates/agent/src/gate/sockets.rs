//! The sockets of a gate, made to be what its state says.
//!
//! Steered: all have the instance's address, so they are a group, and a program in the kernel says which of them gets a new
//! connection. What waits in a socket that stops listening moves to the one that is left, because `tcp_migrate_req` is on: so a
//! connection that waited in the line comes to the engine, and one that the old engine did not take comes to the line.
//! Shared: there is one socket, and engines are given it.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use coffer_core::gate::{Behind, Gate, Level};
use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, accept_with, bind, ipproto, listen, shutdown, socket_with,
    sockopt,
};
use serde::{Deserialize, Serialize};

use super::diag::is_listened_at;
use super::sys;

/// How many connections may wait in a socket. The kernel cuts it to net.core.somaxconn, 4096 unless somebody changed it. Engines
/// ask for less.
const BACKLOG: i32 = 65_535;

/// How long the handshake of a client may take that began before connections were steered elsewhere.
const ARRIVAL: Duration = Duration::from_millis(2);

/// How long the sockets of an engine that was killed with everything else may outlive its lock: its threads end one after the
/// other.
const DEPARTURE: Duration = Duration::from_secs(1);

/// Which socket it is: the number of its inode, the same for all who have it open.
pub(super) type Inode = u64;

/// What to know of the sockets to find them again in other processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) line: Option<Inode>,
    pub(super) engine: Option<Inode>,
    /// The group as the kernel has it: those that listen, in its order.
    group: Vec<Inode>,
}

/// The sockets.
#[derive(Debug)]
pub(super) struct Sockets {
    address: SocketAddr,
    level: Level,
    /// Where connections wait; at [`Level::Shared`] the only one.
    line: Option<OwnedFd>,
    /// The engine's own, at [`Level::Steered`].
    engine: Option<OwnedFd>,
    group: Vec<Inode>,
}

impl Sockets {
    /// Those that were found again; a new gate has none.
    pub(super) fn found(
        address: SocketAddr,
        level: Level,
        known: Known,
        line: Option<OwnedFd>,
        engine: Option<OwnedFd>,
    ) -> Self {
        let mut sockets = Self { address, level, line, engine, group: known.group };
        // Those that nobody has any more have left the group, each as the kernel takes it out.
        let left = sockets.known();
        while let Some(at) = sockets.group.iter().position(|member| ![left.line, left.engine].contains(&Some(*member)))
        {
            sockets.group.swap_remove(at);
        }
        sockets
    }

    /// What is to be written down of them.
    pub(super) fn known(&self) -> Known {
        let inode = |socket: &Option<OwnedFd>| socket.as_ref().and_then(|socket| inode(socket).ok());
        Known { line: inode(&self.line), engine: inode(&self.engine), group: self.group.clone() }
    }

    pub(super) fn line(&self) -> Option<BorrowedFd<'_>> {
        self.line.as_ref().map(AsFd::as_fd)
    }

    pub(super) fn engine(&self) -> Option<BorrowedFd<'_>> {
        self.engine.as_ref().map(AsFd::as_fd)
    }

    /// Whether the engine listens, so that clients can be let in.
    pub(super) fn engine_listens(&self) -> bool {
        match self.level {
            Level::Steered => self.known().engine.is_some_and(|engine| self.group.contains(&engine)),
            // It is given its port when it is let in.
            Level::Own | Level::Shared => true,
        }
    }

    /// Makes true what this state says. Can be called again, also after it failed in part.
    pub(super) fn settle(&mut self, gate: Gate) -> io::Result<()> {
        let wants_line = match (self.level, gate) {
            (Level::Own, _) | (_, Gate::Refusing { behind: Behind::Nobody }) => false,
            (Level::Steered, gate) => gate != Gate::Open,
            (Level::Shared, gate) => !matches!(gate, Gate::Refusing { .. }),
        };
        if wants_line && self.line.is_none() {
            self.line = Some(self.make(SocketFlags::NONBLOCK)?);
        }
        if wants_line {
            self.listen(Member::Line)?;
        }
        let to = if gate == Gate::Open { Member::Engine } else { Member::Line };
        self.steer(to)?;
        if gate.behind() == Behind::Nobody {
            self.stop(Member::Engine)?;
        }
        if !wants_line {
            self.stop(Member::Line)?;
        }
        // The kernel puts the last of the group in the place of one that leaves.
        self.steer(to)
    }

    /// The socket for an engine that binds. It is given to the engine, and listens when the engine does.
    pub(super) fn for_engine(&mut self, gate: Gate) -> io::Result<BorrowedFd<'_>> {
        if self.level == Level::Shared {
            if self.line.is_none() {
                self.line = Some(self.make(SocketFlags::empty())?);
            }
            return self.line().ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        // One that it had before, such as that of a port that it closed and opens again.
        self.stop(Member::Engine)?;
        self.settle(gate)?;
        self.engine = Some(self.make(SocketFlags::empty())?);
        self.engine().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Lets the engine's socket listen.
    pub(super) fn engine_listened(&mut self, gate: Gate) -> io::Result<()> {
        self.listen(if self.level == Level::Shared { Member::Line } else { Member::Engine })?;
        self.settle(gate)
    }

    /// Ends one connection that waits, so that its client learns that nobody comes. False when none waits.
    pub(super) fn turn_away(&self) -> io::Result<bool> {
        let Some(line) = self.line() else { return Ok(false) };
        match accept_with(line, SocketFlags::CLOEXEC) {
            Ok(client) => {
                // A reset instead of an orderly end, which would look like an answer.
                sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::CONNABORTED | Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn member(&self, which: Member) -> Option<BorrowedFd<'_>> {
        match which {
            Member::Line => self.line(),
            Member::Engine => self.engine(),
        }
    }

    fn make(&self, flags: SocketFlags) -> io::Result<OwnedFd> {
        let family = if self.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if self.level == Level::Steered {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        if self.address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        bind(&socket, &self.address)?;
        Ok(socket)
    }

    /// Once it listens it is in the group.
    fn listen(&mut self, which: Member) -> io::Result<()> {
        let Some(socket) = self.member(which) else { return Ok(()) };
        let inode = inode(socket)?;
        if self.group.is_empty() && !is_left(|| others_listen(self.address))? {
            // Of the same user they would let us into their group, and connections would go to them.
            return Err(Errno::ADDRINUSE.into());
        }
        // Again only sets the limit.
        listen(socket, BACKLOG)?;
        if !self.group.contains(&inode) {
            self.group.push(inode);
        }
        Ok(())
    }

    /// Sends new connections there, if it listens.
    fn steer(&self, which: Member) -> io::Result<()> {
        let Some(socket) = self.member(which).filter(|_| self.level == Level::Steered) else { return Ok(()) };
        let inode = inode(socket)?;
        match self.group.iter().position(|member| *member == inode) {
            Some(index) => sys::steer(socket, u32::try_from(index).unwrap_or(u32::MAX)),
            None => Ok(()),
        }
    }

    /// Stops listening, for all who have the socket: what waits moves to the one that is left, or is reset.
    fn stop(&mut self, which: Member) -> io::Result<()> {
        let Some(socket) = self.member(which) else { return Ok(()) };
        let inode = inode(socket)?;
        if self.group.len() > 1 && self.group.contains(&inode) {
            // Whoever was on the way to it arrives first. One who arrives in the very moment may be reset, as it seems.
            std::thread::sleep(ARRIVAL);
        }
        match shutdown(socket, Shutdown::Both) {
            // It did not listen.
            Ok(()) | Err(Errno::NOTCONN) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(at) = self.group.iter().position(|member| *member == inode) {
            self.group.swap_remove(at);
        }
        match which {
            Member::Line => self.line = None,
            Member::Engine => self.engine = None,
        }
        Ok(())
    }
}

/// Waits, for [`DEPARTURE`] at most, until nobody has it any more. False where somebody goes on having it.
fn is_left(mut others_have_it: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let deadline = Instant::now() + DEPARTURE;
    while others_have_it()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        std::thread::sleep(ARRIVAL);
    }
    Ok(true)
}

/// Whether somebody listens at this very address.
fn others_listen(address: SocketAddr) -> io::Result<bool> {
    is_listened_at(address).or_else(|_| table_has(address))
}

/// The same from a table that every kernel has, which lists all connections as well.
fn table_has(address: SocketAddr) -> io::Result<bool> {
    // As the kernel writes it: each word of the address as a number of this machine, and the port as a number.
    let words = |bytes: &[u8]| -> String {
        bytes.as_chunks::<4>().0.iter().fold(String::new(), |mut text, word| {
            let _ = write!(text, "{:08X}", u32::from_ne_bytes(*word));
            text
        })
    };
    let (table, ip) = match address.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", words(&ip.octets())),
        IpAddr::V6(ip) => ("/proc/net/tcp6", words(&ip.octets())),
    };
    let local = format!("{ip}:{:04X}", address.port());
    let table = fs_err::read_to_string(table)?;
    Ok(table
        .lines()
        .map(|line| line.split_ascii_whitespace().skip(1))
        .any(|mut words| words.next() == Some(&local) && words.nth(1) == Some(LISTEN)))
}

/// The state of a socket that listens, in the kernel's tables.
const LISTEN: &str = "0A";

#[derive(Clone, Copy, Debug)]
enum Member {
    Line,
    Engine,
}

/// Which socket it is.
pub(super) fn inode(socket: impl AsFd) -> io::Result<Inode> {
    Ok(fstat(socket)?.st_ino)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{is_left, is_listened_at, table_has};

    #[test]
    #[allow(clippy::print_stdout, reason = "what does not run says so")]
    fn both_tables_tell_who_listens_and_where() {
        for listen_at in ["127.0.9.13:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(listen_at) else {
                println!("NOT RUN: who listens at {listen_at}: there is no such address here");
                continue;
            };
            let at = listener.local_addr().expect("an address");
            let client = std::net::TcpStream::connect(at).expect("somebody listens");
            let clients_own = client.local_addr().expect("an address");
            assert!(is_listened_at(at).expect("the kernel tells") && table_has(at).expect("the kernel tells"));
            for nobody in [clients_own, std::net::SocketAddr::new(at.ip(), 1)] {
                assert!(!is_listened_at(nobody).expect("the kernel tells"));
                assert!(!table_has(nobody).expect("the kernel tells"));
            }
            let _accepted = listener.accept().expect("a client");
            drop(listener);
            assert!(!is_listened_at(at).expect("the kernel tells") && !table_has(at).expect("the kernel tells"));
        }
    }

    #[test]
    fn who_is_about_to_leave_is_waited_for_and_who_stays_is_not() {
        let mut looks = 0;
        let leaves_soon = is_left(|| {
            looks += 1;
            Ok(looks < 4)
        });
        assert!(leaves_soon.expect("no error"));
        assert_eq!(looks, 4);
        assert!(!is_left(|| Ok(true)).expect("no error"));
    }
}
