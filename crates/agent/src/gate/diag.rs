//! What the kernel tells of connections: its table of TCP sockets (`sock_diag`), and the queue of a listener. Needs no privileges,
//! and sees the network namespace that it runs in.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with};

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
    /// Whether the engine has ever sent data.
    pub(crate) was_answered: bool,
    /// Since the client last sent data; if it never has, since it connected.
    pub(crate) since_received: Duration,
    /// Since the engine last sent data; if it never has, since the client connected.
    pub(crate) since_sent: Duration,
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
    look(at, ESTABLISHED_AND_CLOSE_WAIT)
}

/// Whether somebody listens at this very address. Only those that listen are gone through, however many connections there are:
/// `/proc/net/tcp` took 59 ms of 20,000.
pub(super) fn is_listened_at(at: SocketAddr) -> Result<bool, Error> {
    Ok(!look(at, LISTENING)?.is_empty())
}

fn look(at: SocketAddr, states: u32) -> Result<Vec<Connection>, Error> {
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
        retry_on_intr(|| send(&socket, &request(*family, at.port(), states), SendFlags::empty()))?;
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
const LISTENING: u32 = 1 << 10;

#[derive(Clone, Copy)]
enum Family {
    V4 = 2,
    V6 = 10,
}

/// A `struct nlmsghdr` and a `struct inet_diag_req_v2`.
fn request(family: Family, port: u16, states: u32) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST.into());
    request.extend(u32::from(REQUEST).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend([0; 8]);
    request.extend([family as u8, PROTOCOL_TCP, 1 << (INET_DIAG_INFO - 1), 0]);
    request.extend(states.to_ne_bytes());
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
    let (mut since_received, mut since_sent, mut received_bytes, mut sent_segments) = (0, 0, None, None);
    while let Some((kind, value, rest)) = split_attribute(attributes) {
        if kind == INET_DIAG_INFO {
            since_sent = u32_at(value, 44).unwrap_or_default();
            since_received = u32_at(value, 52).unwrap_or_default();
            // tcpi_bytes_received, since Linux 4.1
            received_bytes = value.get(128..136);
            // tcpi_data_segs_out, since Linux 4.6
            sent_segments = u32_at(value, 156);
        }
        attributes = rest;
    }
    let connection = Connection {
        // The file's number, which it has from accept on.
        accepted: u32_at(message, 68)? != 0,
        unread: u32_at(message, 56)?,
        unsent: u32_at(message, 60)?,
        has_spoken: received_bytes.is_none_or(|bytes| bytes.iter().any(|byte| *byte != 0)),
        was_answered: sent_segments.is_none_or(|segments| segments != 0),
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
    use super::*;

    fn message(kind: u16, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + content.len()).expect("a length");
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], content].concat()
    }

    #[test]
    fn a_damaged_answer_is_an_error() {
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
        assert!(found[0].since_received.is_zero());

        content.extend(60_u16.to_ne_bytes());
        content.extend(INET_DIAG_INFO.to_ne_bytes());
        content.extend([1; 56]);
        let answer = message(SOCK_DIAG_BY_FAMILY, &content);
        let mut found = Vec::new();
        assert!(!read_answer(&answer, at, &mut found).expect("a connection"));
        assert!(!found[0].since_received.is_zero());
        for length in 1..answer.len() {
            let mut found = Vec::new();
            assert!(matches!(read_answer(&answer[..length], at, &mut found), Err(Error::Damaged)), "{length} bytes");
            // The same with a header that believes it.
            let Some(content) = answer[..length].get(HEADER..) else { continue };
            let result = read_answer(&message(SOCK_DIAG_BY_FAMILY, content), at, &mut found);
            let never_old = found.iter().all(|seen: &Connection| seen.since_received.is_zero());
            assert!(result.is_err() || never_old, "{length} bytes");
        }
        for broken in [&[0; 16][..], &[15, 0, 0, 0, 20, 0, 0, 0], &[255; 64]] {
            assert!(matches!(read_answer(broken, at, &mut Vec::new()), Err(Error::Damaged)));
        }
    }

    #[test]
    fn it_tells_a_kernel_that_cannot_from_one_that_failed() {
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
