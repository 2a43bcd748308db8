//! Waiting until an engine has answered what its clients sent, as the kernel sees it: the engine is not asked.
//!
//! Nothing tells the kernel where a request ends. What it knows of a connection: bytes the engine has not read, bytes the
//! client has not acknowledged, and how long ago the client sent something. With nothing of the former and [`QUIET`] since
//! the latter, a connection is taken for answered.
//!
//! Guarantees: never waits longer than the limit, but for the last look; takes what it can't see for a reason to wait, not
//! for quiet; needs no privileges.
//!
//! Does not see: a request that is read and takes longer than [`QUIET`] to answer, which looks like one that needs no
//! answer (`BLPOP`, a subscriber). Sees only the network namespace it runs in.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};

/// How long a client may take between two steps, such as `AUTH` and its command. As exact as the kernel's tick (1 to 10 ms).
pub(crate) const QUIET: Duration = Duration::from_millis(20);

/// How long a new client may take to say something at all: its machine is busier than ours, or far away. Nobody waits for
/// it beyond that, since some connect for later.
const SILENT: Duration = Duration::from_millis(100);

/// Between two looks.
const POLL: Duration = Duration::from_millis(2);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything that was sent is answered.
    Quiet,
    /// The limit has passed, and so many connections were not quiet, or not accepted.
    Busy { connections: usize },
    /// The kernel does not tell: [`QUIET`] was waited (or the limit, if shorter), and nobody knows.
    Unseen,
}

/// For the record of a step.
impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.took.as_millis();
        match self.outcome {
            Outcome::Quiet => write!(f, "all that was sent was answered within {millis} ms"),
            Outcome::Busy { connections } => write!(f, "{connections} connections were still busy after {millis} ms"),
            Outcome::Unseen => write!(f, "whether all that was sent was answered cannot be seen; waited {millis} ms"),
        }
    }
}

/// Why the connections are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the kernel has no sock_diag for TCP; hint: modprobe tcp_diag")]
    NoSockDiag,
    #[error("the kernel's list of connections is damaged; hint: none, it is asked again")]
    Damaged,
    #[error("the kernel's list of connections cannot be had: {0}; hint: none, it is asked again")]
    Io(#[from] io::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            // Without the module of TCP, and without the whole.
            Errno::NOENT | Errno::PROTONOSUPPORT => Self::NoSockDiag,
            _ => Self::Io(errno.into()),
        }
    }
}

/// What the kernel knows of the server's end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Whether a process has it: otherwise it waits in the queue of a listener.
    pub(crate) accepted: bool,
    /// Bytes that the client has sent and the engine has not read. The end of what the client sends counts as one.
    pub(crate) unread: u32,
    /// Bytes that the engine has sent and the client's side has not acknowledged.
    pub(crate) unsent: u32,
    /// Whether the client has ever sent data.
    pub(crate) has_spoken: bool,
    /// Since the client last sent data; if it never has, since it connected.
    pub(crate) since_received: Duration,
    /// Since the engine last sent data; if it never has, since the client connected.
    pub(crate) since_sent: Duration,
}

/// Whether none of these connections is owed an answer, as far as the kernel can tell.
pub(crate) fn quiet(connections: &[Connection]) -> bool {
    connections.iter().all(Connection::is_quiet)
}

impl Connection {
    fn is_quiet(&self) -> bool {
        let enough = if self.has_spoken { QUIET } else { SILENT };
        self.unread == 0 && self.unsent == 0 && self.since_received >= enough
    }
}

/// Waits until all connections to this address are quiet, `limit` at most.
///
/// With the engine's listener given, connections that are not accepted are judged by its queue alone: it must be empty,
/// and those in the queue of another listener at the same address are none of the engine's. Without it they count like any
/// other. Accepted ones count whichever process has them.
pub(crate) async fn drain(at: SocketAddr, listener: Option<BorrowedFd<'_>>, limit: Duration) -> Drained {
    drain_by(|| Look::at(at, listener), limit).await
}

async fn drain_by(look: impl Fn() -> Look, limit: Duration) -> Drained {
    let started = Instant::now();
    let mut quiet_looks = 0;
    loop {
        let look = look();
        let took = started.elapsed();
        let outcome = look.outcome();
        let done = match outcome {
            // Twice, since a connection is for a moment neither in the queue nor accepted.
            Outcome::Quiet => {
                quiet_looks += 1;
                quiet_looks == 2
            }
            Outcome::Unseen => took >= QUIET,
            Outcome::Busy { .. } => {
                quiet_looks = 0;
                false
            }
        };
        if done || took >= limit {
            look.log(outcome);
            return Drained { outcome, took };
        }
        tokio::time::sleep(POLL.min(limit.saturating_sub(took))).await;
    }
}

/// What there is to see at one moment.
#[derive(Debug, Default)]
struct Look {
    /// In the queue of the engine's listener.
    queued: usize,
    /// Those that are judged one by one.
    connections: Vec<Connection>,
    /// Why this may not be all.
    error: Option<Error>,
}

impl Look {
    fn at(at: SocketAddr, listener: Option<BorrowedFd<'_>>) -> Self {
        let mut look = Self::default();
        // The queue first: what has left it by then is among the connections.
        match listener.map_or(Ok(0), queued) {
            Ok(queued) => look.queued = queued,
            Err(error) => look.error = Some(error.into()),
        }
        match connections(at) {
            Ok(connections) => look.connections = connections,
            Err(error) => look.error = Some(error),
        }
        look.connections.retain(|connection| connection.accepted || listener.is_none());
        look
    }

    fn outcome(&self) -> Outcome {
        if self.queued > 0 || !quiet(&self.connections) {
            let busy = self.connections.iter().filter(|connection| !connection.is_quiet()).count();
            return Outcome::Busy { connections: self.queued + busy };
        }
        if self.error.is_some() { Outcome::Unseen } else { Outcome::Quiet }
    }

    /// Once, of the last look.
    fn log(&self, outcome: Outcome) {
        if let Some(error) = &self.error {
            tracing::warn!(%error, "cannot see whether clients wait for an answer");
        }
        if let Outcome::Busy { .. } = outcome {
            tracing::debug!(queued = self.queued, "connections wait to be accepted");
            for connection in self.connections.iter().filter(|connection| !connection.is_quiet()) {
                tracing::debug!(?connection, "connection is still busy");
            }
        }
    }
}

/// How many connections wait in the queue of this listening socket; zero if it does not listen.
#[allow(unsafe_code, reason = "rustix has no TCP_INFO")]
pub(crate) fn queued(listener: BorrowedFd<'_>) -> io::Result<usize> {
    const LISTEN: u8 = 10;
    // The beginning of a `struct tcp_info`, up to and with tcpi_unacked: that of a listener is its queue.
    const LENGTH: u8 = 28;
    let mut info = [0_u8; LENGTH as usize];
    let mut length = libc::socklen_t::from(LENGTH);
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes `length` bytes at most, which
    // `info` has.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let queued = if info[0] == LISTEN { u32_at(&info, 24).unwrap_or_default() } else { 0 };
    usize::try_from(queued).map_err(io::Error::other)
}

/// All connections whose local end is this address, accepted or not; with `0.0.0.0` or `::`, all to its port. An IPv4
/// address is the same whether the socket is of IPv4 or of both.
pub(crate) fn connections(at: SocketAddr) -> Result<Vec<Connection>, Error> {
    let at = SocketAddr::new(at.ip().to_canonical(), at.port());
    // One socket per look: the rest of an answer that went wrong is never taken for part of the next.
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::SOCK_DIAG),
    )?;
    // To the kernel: from now on nobody else can send us anything.
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    let mut found = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    // A socket of IPv6 may have an IPv4 address, never the other way round.
    let families = if at.is_ipv4() { &[Family::V4, Family::V6][..] } else { &[Family::V6] };
    for family in families {
        retry_on_intr(|| send(&socket, &request(*family, at.port()), SendFlags::empty()))?;
        // The kernel writes the next part of its answer while we take the one before. So it never blocks, and if there is
        // nothing to take before the end came, that is an error.
        loop {
            let (taken, length) = retry_on_intr(|| recv(&socket, &mut buffer[..], RecvFlags::TRUNC))?;
            if length > taken || length == 0 {
                return Err(Error::Damaged);
            }
            if read_answer(&buffer[..length], at, &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

// linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const HEADER: usize = 16;
const REQUEST: u8 = 72;
const INET_DIAG_MSG: usize = 72;
const INET_DIAG_INFO: u16 = 2;
const PROTOCOL_TCP: u8 = 6;
/// A client that has shut down its sending side (`CLOSE_WAIT`) may still wait for its answer.
const ESTABLISHED_AND_CLOSE_WAIT: u32 = 1 << 1 | 1 << 8;

#[derive(Clone, Copy)]
enum Family {
    V4 = 2,
    V6 = 10,
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(family: Family, port: u16) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST.into());
    request.extend(u32::from(REQUEST).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family as u8, PROTOCOL_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    request.extend(ESTABLISHED_AND_CLOSE_WAIT.to_ne_bytes());
    request.extend(port.to_be_bytes());
    // The kernel does not look at the rest of the socket's identity.
    request.resize(REQUEST.into(), 0);
    request
}

/// Reads one datagram of an answer. Whether it was the last.
fn read_answer(mut datagram: &[u8], at: SocketAddr, found: &mut Vec<Connection>) -> Result<bool, Error> {
    while !datagram.is_empty() {
        let (kind, message, rest) = split_message(datagram).ok_or(Error::Damaged)?;
        match kind {
            // Both carry an error number, negative; zero is none.
            NLMSG_ERROR | NLMSG_DONE => {
                let code = u32_at(message, 0).ok_or(Error::Damaged)?.cast_signed();
                return if code < 0 { Err(Errno::from_raw_os_error(code.saturating_neg()).into()) } else { Ok(true) };
            }
            SOCK_DIAG_BY_FAMILY => {
                let (local, connection) = read_connection(message).ok_or(Error::Damaged)?;
                if local.port() == at.port() && (local.ip() == at.ip() || at.ip().is_unspecified()) {
                    found.push(connection);
                }
            }
            _ => {}
        }
        datagram = rest;
    }
    Ok(false)
}

/// The type and content of the first `struct nlmsghdr`, and what follows it.
fn split_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32_at(datagram, 0)?).ok()?;
    let message = datagram.get(HEADER..length)?;
    Some((u16_at(datagram, 4)?, message, after(datagram, length)))
}

/// A `struct inet_diag_msg` and its attributes: the local end, and the connection.
fn read_connection(message: &[u8]) -> Option<(SocketAddr, Connection)> {
    let port = u16::from_be(u16_at(message, 4)?);
    let ip = if *message.first()? == Family::V4 as u8 {
        IpAddr::V4(Ipv4Addr::from(*message.get(8..)?.first_chunk::<4>()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(*message.get(8..)?.first_chunk::<16>()?)).to_canonical()
    };
    let mut attributes = message.get(INET_DIAG_MSG..)?;
    // Without a `struct tcp_info` it is taken for one that has just sent something.
    let (mut since_received, mut since_sent, mut received_bytes) = (0, 0, None);
    while let Some((kind, value, rest)) = split_attribute(attributes) {
        if kind == INET_DIAG_INFO {
            since_sent = u32_at(value, 44).unwrap_or_default();
            since_received = u32_at(value, 52).unwrap_or_default();
            // tcpi_bytes_received, since Linux 4.1
            received_bytes = value.get(128..136);
        }
        attributes = rest;
    }
    let connection = Connection {
        // The file's number, which it has from accept on.
        accepted: u32_at(message, 68)? != 0,
        unread: u32_at(message, 56)?,
        unsent: u32_at(message, 60)?,
        has_spoken: received_bytes.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0)),
        since_received: Duration::from_millis(since_received.into()),
        since_sent: Duration::from_millis(since_sent.into()),
    };
    Some((SocketAddr::new(ip, port), connection))
}

/// The type and value of the first `struct rtattr`, and what follows it.
fn split_attribute(attributes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16_at(attributes, 0)?);
    let value = attributes.get(4..length)?;
    Some((u16_at(attributes, 2)?, value, after(attributes, length)))
}

/// What follows a part of this length, which is padded to a multiple of four.
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(4)..).unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use rustix::net::sockopt::set_socket_reuseport;
    use rustix::process::geteuid;
    use rustix::thread::{Uid, set_thread_res_uid};

    use super::*;

    const QUIET_CONNECTION: Connection = Connection {
        accepted: true,
        unread: 0,
        unsent: 0,
        has_spoken: true,
        since_received: QUIET,
        since_sent: Duration::ZERO,
    };

    fn listen(at: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(at).expect("a listener");
        let at = listener.local_addr().expect("its address");
        (listener, at)
    }

    /// The client's end and the server's.
    fn connected(listener: &TcpListener, at: SocketAddr) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(at).expect("a connection");
        (client, listener.accept().expect("the other end").0)
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not within 10 s: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn seen(at: SocketAddr) -> Vec<Connection> {
        connections(at).expect("the kernel tells")
    }

    fn is_quiet(at: SocketAddr) -> bool {
        quiet(&seen(at))
    }

    fn drained(at: SocketAddr, listener: Option<&TcpListener>, limit: Duration) -> Drained {
        block_on(drain(at, listener.map(|listener| listener.as_fd()), limit))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_set_is_quiet_when_nothing_is_unread_unsent_or_just_received() {
        assert!(quiet(&[]));
        assert!(quiet(&[QUIET_CONNECTION]));
        for busy in [
            Connection { unread: 1, ..QUIET_CONNECTION },
            Connection { unsent: 1, ..QUIET_CONNECTION },
            Connection { since_received: Duration::from_millis(19), ..QUIET_CONNECTION },
            Connection { has_spoken: false, since_received: Duration::from_millis(99), ..QUIET_CONNECTION },
        ] {
            assert!(!quiet(&[QUIET_CONNECTION, busy]), "{busy:?}");
        }
    }

    #[test]
    fn drain_waits_for_a_request_that_is_not_read_and_not_for_one_that_was_answered() {
        for address in ["127.0.9.1:0", "[::1]:0"] {
            let (listener, at) = listen(address);
            let (mut client, mut server) = connected(&listener, at);
            client.write_all(b"PING\r\n").expect("a request");
            eventually("the request is there and old", || {
                seen(at)[..].iter().any(|seen| seen.unread == 6 && seen.since_received > QUIET)
            });
            assert!(!is_quiet(at), "{address}");

            let mut request = [0; 6];
            server.read_exact(&mut request).expect("the request");
            server.write_all(b"+PONG\r\n").expect("an answer");
            let answered = Instant::now();
            eventually("the answer is acknowledged and old", || is_quiet(at));
            assert_eq!(seen(at).len(), 1, "{address} after {:?}", answered.elapsed());
        }
    }

    #[test]
    fn drain_gives_a_client_that_said_nothing_yet_the_time_to() {
        let (listener, at) = listen("127.0.9.2:0");
        let (_ends, connected_at) = {
            // A machine under load may not let us look in time; then it is tried with another client.
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                assert!(Instant::now() < deadline, "no look in time within 10 s");
                let connected_at = Instant::now();
                let ends = connected(&listener, at);
                let quiet = is_quiet(at);
                // Half of it, since the kernel's tick may be as long as the other half.
                if connected_at.elapsed() < QUIET / 2 {
                    assert!(!quiet);
                    break (ends, connected_at);
                }
            }
        };
        let drained = drained(at, Some(&listener), Duration::from_secs(10));
        assert_eq!(drained.outcome, Outcome::Quiet);
        assert!(connected_at.elapsed() >= QUIET / 2, "{:?}", connected_at.elapsed());
    }

    #[test]
    fn drain_does_not_count_connections_at_another_address_or_port() {
        let (listener, at) = listen("127.0.9.3:0");
        let (other_address, other_at) = listen(&format!("127.0.9.4:{}", at.port()));
        let (other_port, other_port_at) = listen("127.0.9.3:0");
        let _quiet = connected(&listener, at);
        let mut busy = [connected(&other_address, other_at), connected(&other_port, other_port_at)];
        for (client, _) in &mut busy {
            client.write_all(b"PING\r\n").expect("a request");
        }
        eventually("the others are busy", || [other_at, other_port_at].iter().all(|at| seen(*at)[0].unread == 6));
        assert_eq!(seen(at).len(), 1);
        assert_eq!(drained(at, Some(&listener), Duration::from_secs(10)).outcome, Outcome::Quiet);
        // All addresses of the port, but not the other port.
        assert_eq!(seen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port())).len(), 2);
    }

    #[test]
    fn drain_knows_an_ipv4_address_of_a_socket_for_both() {
        let (listener, at) = listen("[::]:0");
        let mapped: SocketAddr = format!("[::ffff:127.0.9.5]:{}", at.port()).parse().expect("an address");
        let plain: SocketAddr = format!("127.0.9.5:{}", at.port()).parse().expect("an address");
        let _ends = connected(&listener, plain);
        assert_eq!(seen(plain).len(), 1);
        assert_eq!(seen(mapped).len(), 1);
        assert_eq!(seen(at).len(), 1);
        assert_eq!(seen(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port())), []);
    }

    #[test]
    fn drain_waits_for_an_answer_that_the_client_does_not_take_and_for_one_that_only_listens_on() {
        let (listener, at) = listen("127.0.9.6:0");
        let (client, mut server) = connected(&listener, at);
        client.shutdown(Shutdown::Write).expect("nothing more to say");
        eventually("its end is there", || seen(at).iter().any(|seen| seen.unread == 1));
        assert_eq!(server.read(&mut [0]).expect("the end"), 0);
        assert_eq!(seen(at)[0].unread, 0);
        server.set_nonblocking(true).expect("not to wait");
        eventually("no more fits", || (&server).write(&vec![0; 65536]).is_err());
        eventually("it was sent a while ago", || seen(at)[0].since_received > QUIET);
        assert!(seen(at)[0].unsent > 0);
        assert!(!is_quiet(at));
    }

    #[test]
    fn drain_waits_for_a_connection_that_is_not_accepted_yet() {
        let (listener, at) = listen("127.0.9.7:0");
        let client = TcpStream::connect(at).expect("a connection");
        eventually("it is in the queue and old", || {
            queued(listener.as_fd()).expect("a queue") == 1 && seen(at)[0].since_received > QUIET
        });
        assert!(!seen(at)[0].accepted);
        let busy = drained(at, Some(&listener), Duration::from_millis(50));
        assert_eq!(busy.outcome, Outcome::Busy { connections: 1 });

        let server = listener.accept().expect("the other end").0;
        assert!(seen(at)[0].accepted);
        assert_eq!(drained(at, Some(&listener), Duration::from_secs(10)).outcome, Outcome::Quiet);
        // A connection has no queue, whatever is on its way.
        assert_eq!(queued(server.as_fd()).expect("no queue"), 0);
        drop(client);
    }

    #[test]
    fn drain_leaves_out_what_waits_for_another_listener_at_the_same_address() {
        // The standard library can't set the option before it binds.
        let bound = |at: SocketAddr| {
            let family = AddressFamily::INET;
            let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
            set_socket_reuseport(&socket, true).expect("to share the address");
            rustix::net::bind(&socket, &at).expect("the address");
            rustix::net::listen(&socket, 128).expect("a listener");
            TcpListener::from(socket)
        };
        let old = bound("127.0.9.8:0".parse().expect("an address"));
        let at = old.local_addr().expect("its address");
        let new = bound(at);
        // The kernel chooses by the client's port which of the two gets a connection.
        let mut ends = Vec::new();
        while queued(new.as_fd()).expect("a queue") == 0 {
            assert!(ends.len() < 1000, "all went to the old listener");
            let mut client = TcpStream::connect(at).expect("a connection");
            let waits_at = |listener: &TcpListener| queued(listener.as_fd()).expect("a queue") == 1;
            eventually("one of them has it", || waits_at(&old) || waits_at(&new));
            if waits_at(&old) {
                ends.push(old.accept().expect("the other end").0);
            } else {
                client.write_all(b"PING\r\n").expect("a request");
            }
            ends.push(client);
        }
        eventually("the request is there", || !is_quiet(at) && seen(at).iter().any(|seen| seen.unread == 6));
        assert_eq!(drained(at, Some(&old), Duration::from_secs(10)).outcome, Outcome::Quiet);
        assert_eq!(drained(at, None, Duration::from_millis(50)).outcome, Outcome::Busy { connections: 1 });
    }

    #[test]
    fn drain_keeps_the_limit_and_counts_the_busy() {
        let limit = Duration::from_millis(60);
        let (listener, at) = listen("127.0.9.9:0");
        let mut ends: Vec<_> = (0..3).map(|_| connected(&listener, at)).collect();
        let _waiting = TcpStream::connect(at).expect("a connection");
        for (client, _) in &mut ends[..2] {
            client.write_all(b"PING\r\n").expect("a request");
        }
        let old = |seen: &Connection| seen.since_received > SILENT;
        eventually("all are there and old", || seen(at).len() == 4 && seen(at).iter().all(old));
        let drained = drained(at, Some(&listener), limit);
        assert_eq!(drained.outcome, Outcome::Busy { connections: 3 });
        assert!(drained.took >= limit && drained.took < limit + Duration::from_secs(2), "{drained:?}");
    }

    #[test]
    fn drain_ends_as_soon_as_the_engine_has_answered() {
        let (listener, at) = listen("127.0.9.10:0");
        let (mut client, mut server) = connected(&listener, at);
        client.write_all(b"PING\r\n").expect("a request");
        eventually("the request is there", || seen(at).iter().any(|seen| seen.unread == 6));
        block_on(async {
            let mut drain = std::pin::pin!(drain(at, Some(listener.as_fd()), Duration::from_secs(60)));
            tokio::select! {
                biased;
                drained = &mut drain => panic!("{drained:?}"),
                () = tokio::task::yield_now() => {}
            }
            server.read_exact(&mut [0; 6]).expect("the request");
            server.write_all(b"+PONG\r\n").expect("an answer");
            let drained = drain.await;
            assert_eq!(drained.outcome, Outcome::Quiet);
            assert!(drained.took < Duration::from_secs(30), "{drained:?}");
        });
    }

    #[test]
    fn drain_works_as_an_ordinary_user_on_the_sockets_of_another() {
        let (listener, at) = listen("127.0.9.11:0");
        let (mut client, _server) = connected(&listener, at);
        client.write_all(b"PING\r\n").expect("a request");
        eventually("the request is there", || seen(at).iter().any(|seen| seen.unread == 6));
        let looker = std::thread::spawn(move || {
            // Only this thread. Who is not root is an ordinary user already.
            let nobody = Uid::from_raw(65534);
            if geteuid().is_root() {
                set_thread_res_uid(nobody, nobody, nobody).expect("to be nobody");
            }
            assert!(!geteuid().is_root());
            let capabilities = rustix::thread::capabilities(None).expect("its capabilities");
            assert!(capabilities.effective.is_empty());
            seen(at)
        });
        let seen = looker.join().expect("what it saw");
        assert_eq!(seen.len(), 1);
        assert!(seen[0].accepted && seen[0].unread == 6, "{seen:?}");
    }

    #[test]
    fn drain_waits_a_while_where_the_kernel_does_not_tell() {
        let blind = |queued| move || Look { queued, connections: Vec::new(), error: Some(Error::NoSockDiag) };
        let drained = block_on(drain_by(blind(0), Duration::from_secs(10)));
        assert_eq!(drained.outcome, Outcome::Unseen);
        assert!(drained.took >= QUIET && drained.took < Duration::from_secs(2), "{drained:?}");
        // The limit is kept all the same, and what waits in the queue is known.
        let short = block_on(drain_by(blind(0), Duration::from_millis(5)));
        assert!(short.outcome == Outcome::Unseen && short.took < QUIET + Duration::from_secs(2), "{short:?}");
        let waiting = block_on(drain_by(blind(2), Duration::from_millis(30)));
        assert_eq!(waiting.outcome, Outcome::Busy { connections: 2 });
    }

    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + content.len()).expect("a length");
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat()
    }

    #[test]
    fn drain_takes_no_damaged_answer_for_quiet() {
        let at: SocketAddr = "127.0.9.12:6379".parse().expect("an address");
        let mut content = vec![0; INET_DIAG_MSG];
        content[0] = Family::V4 as u8;
        content[4..6].copy_from_slice(&at.port().to_be_bytes());
        content[8..12].copy_from_slice(&[127, 0, 9, 12]);
        content[68] = 1;
        let mut found = Vec::new();
        assert!(!read_answer(&message(SOCK_DIAG_BY_FAMILY, &content), at, &mut found).expect("a connection"));
        // No tcp_info: it may just have sent something.
        assert_eq!(found.len(), 1);
        assert!(!quiet(&found));

        content.extend(60_u16.to_ne_bytes());
        content.extend(INET_DIAG_INFO.to_ne_bytes());
        content.extend([1; 56]);
        let answer = message(SOCK_DIAG_BY_FAMILY, &content);
        let mut found = Vec::new();
        assert!(!read_answer(&answer, at, &mut found).expect("a connection"));
        assert!(quiet(&found));
        for length in 1..answer.len() {
            let mut found = Vec::new();
            assert!(matches!(read_answer(&answer[..length], at, &mut found), Err(Error::Damaged)), "{length} bytes");
            // The same with a header that believes it.
            let Some(content) = answer[..length].get(HEADER..) else { continue };
            let result = read_answer(&message(SOCK_DIAG_BY_FAMILY, content), at, &mut found);
            assert!(result.is_err() || !quiet(&found), "{length} bytes");
        }
        for broken in [&[0; 16][..], &[15, 0, 0, 0, 20, 0, 0, 0], &[255; 64]] {
            assert!(matches!(read_answer(broken, at, &mut Vec::new()), Err(Error::Damaged)));
        }
    }

    #[test]
    fn drain_tells_a_kernel_that_cannot_from_one_that_failed() {
        let at: SocketAddr = "127.0.9.12:6379".parse().expect("an address");
        let answer = |kind, errno: i32| read_answer(&message(kind, &(-errno).to_ne_bytes()), at, &mut Vec::new());
        assert!(answer(NLMSG_DONE, 0).expect("the end"));
        for kind in [NLMSG_DONE, NLMSG_ERROR] {
            assert!(matches!(answer(kind, libc::ENOENT), Err(Error::NoSockDiag)));
            assert!(matches!(answer(kind, libc::ENOMEM), Err(Error::Io(_))));
        }
        assert!(matches!(Error::from(Errno::PROTONOSUPPORT), Error::NoSockDiag));
    }
}
