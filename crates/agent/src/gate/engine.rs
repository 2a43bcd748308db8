//! What the keeper has to know of an engine's process, read from /proc.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::sockets::Inode;

/// No address of a socket is longer that we look for.
const ADDRESS_LIMIT: usize = 28;

/// The TCP address that a `bind` names; `None` for addresses of other kinds.
pub(super) fn address(thread: u32, pointer: u64, length: u64) -> io::Result<Option<SocketAddr>> {
    let mut bytes = [0; ADDRESS_LIMIT];
    let length = usize::try_from(length).unwrap_or(0).min(ADDRESS_LIMIT);
    let read =
        fs_err::File::open(format!("/proc/{thread}/mem"))?.into_parts().0.read_at(&mut bytes[..length], pointer)?;
    Ok(parse(&bytes[..read]))
}

/// Reads a `sockaddr_in` or `sockaddr_in6`.
fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address = match family {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?),
        _ => return None,
    };
    Some(SocketAddr::from((address, port)))
}

/// How a process has a file open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) nonblocking: bool,
    pub(super) closes_on_exec: bool,
}

/// How this thread has this file open.
pub(super) fn flags(thread: u32, file: u64) -> io::Result<Flags> {
    let text = fs_err::read_to_string(format!("/proc/{thread}/fdinfo/{file}"))?;
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|octal| i32::from_str_radix(octal.trim(), 8).ok());
    let flags = flags.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Flags { nonblocking: flags & libc::O_NONBLOCK != 0, closes_on_exec: flags & libc::O_CLOEXEC != 0 })
}

/// Which socket this thread has under this number; `None` if it is none.
pub(super) fn socket(thread: u32, file: u64) -> io::Result<Option<Inode>> {
    Ok(inode_of(&fs_err::read_link(format!("/proc/{thread}/fd/{file}"))?))
}

fn inode_of(link: &std::path::Path) -> Option<Inode> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Copies of the sockets that the process has of those that are wanted.
pub(super) fn copy_sockets(process: impl AsFd, wanted: &[Inode]) -> io::Result<Vec<(Inode, OwnedFd)>> {
    let info = fs_err::read_to_string(format!("/proc/self/fdinfo/{}", process.as_fd().as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")).and_then(|pid| pid.trim().parse::<i32>().ok());
    let Some(pid) = pid.filter(|pid| *pid > 0) else { return Ok(Vec::new()) };
    let mut copies = Vec::new();
    for entry in fs_err::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
        let inode = fs_err::read_link(entry.path()).ok().as_deref().and_then(inode_of);
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(inode), Some(number)) = (inode, number)
            && wanted.contains(&inode)
        {
            copies.push((inode, pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?));
        }
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd as _;

    use super::{Flags, address, flags, parse, socket};

    #[test]
    fn addresses_of_both_families_are_read_and_no_others() {
        let family = |family: i32| u16::try_from(family).expect("small").to_ne_bytes();
        let v4 = [&family(libc::AF_INET)[..], &6379u16.to_be_bytes(), &[127, 20, 0, 7], &[0; 8]].concat();
        assert_eq!(parse(&v4), Some("127.20.0.7:6379".parse().expect("an address")));
        let v6 = [&family(libc::AF_INET6)[..], &6379u16.to_be_bytes(), &[0; 4], &[0; 15], &[1], &[0; 4]].concat();
        assert_eq!(parse(&v6), Some("[::1]:6379".parse().expect("an address")));
        assert_eq!(parse(&family(libc::AF_UNIX)), None);
        assert_eq!(parse(&v4[..7]), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn what_a_thread_has_is_read() {
        let thread = std::process::id();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let number = u64::try_from(listener.as_raw_fd()).expect("a number");
        assert_eq!(flags(thread, number).expect("flags"), Flags { nonblocking: false, closes_on_exec: true });
        assert_eq!(
            socket(thread, number).expect("read"),
            Some(super::super::sockets::inode(&listener).expect("an inode"))
        );
        assert_eq!(socket(thread, 0).ok().flatten(), None);
        let v4 = [&u16::try_from(libc::AF_INET).expect("small").to_ne_bytes()[..], &80u16.to_be_bytes(), &[1, 2, 3, 4]]
            .concat();
        let found = address(thread, v4.as_ptr() as u64, 8).expect("own memory");
        assert_eq!(found, Some("1.2.3.4:80".parse().expect("an address")));
    }
}
