//! What agent and keeper say to each other: a message is one packet, and files travel with it.
//!
//! Each request is answered by one [`Reply`], in order. Every reply carries all that the keeper has, so that whoever survives
//! the other can go on with it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use coffer_core::gate::{Gate, Level};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Changes when a message does. An agent that meets a keeper of another version ends it and starts its own.
pub(super) const VERSION: u32 = 1;
/// No message is longer.
const MESSAGE_LIMIT: usize = 16 << 10;
/// No message carries more files.
const FILES_LIMIT: usize = 4;
/// How long an answer is waited for. A keeper answers within a millisecond, or is not there.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// Over it the engine's calls are answered.
    Notify,
    /// The engine itself, as a pidfd.
    Process,
    /// The socket where connections wait, or the shared one.
    Line,
    /// The socket of the engine.
    Engine,
}

/// Files by what they are.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<(Kind, OwnedFd)>);

impl Files {
    pub(super) fn get(&self, kind: Kind) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, file)| file.as_fd())
    }

    pub(super) fn take(&mut self, kind: Kind) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(k, _)| *k == kind)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn lend(&self) -> Lent<'_> {
        self.0.iter().map(|(kind, file)| (*kind, file.as_fd())).collect()
    }
}

/// Files that travel with a message; the sender keeps its own.
pub(super) type Lent<'a> = Vec<(Kind, BorrowedFd<'a>)>;

/// What an agent asks of a keeper.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Request {
    /// The first of each connection. A keeper that has nothing yet takes what comes along: files that the agent has, and those
    /// that the engine has.
    Hello {
        version: u32,
        address: SocketAddr,
        level: Level,
        /// How long connections wait where nobody says otherwise.
        limit_ms: u64,
    },
    /// How things are.
    Status,
    /// New connections wait, so long at the most.
    Hold { limit_ms: u64 },
    /// An engine was started: [`Kind::Notify`] and [`Kind::Process`] come along.
    Started,
    /// Clients get in.
    Open,
    /// Nobody will come.
    Refuse,
    /// Close everything and end. For when the engine is to bind its port itself.
    Retire,
}

/// How things are, after what was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) version: u32,
    /// `None` of a keeper that has nothing.
    pub(super) now: Option<(Level, Gate)>,
    /// When [`Gate::deadline`] is, from now.
    pub(super) late_in_ms: Option<u64>,
    /// Whether the last engine could not be given its socket.
    pub(super) broken: bool,
    /// What happened by itself since the last reply, in sentences.
    pub(super) notices: Vec<String>,
    /// Why what was asked was not done.
    pub(super) error: Option<String>,
}

/// A message, and what its files are.
#[derive(Serialize, Deserialize)]
struct Packet<T> {
    files: Vec<Kind>,
    message: T,
}

/// Limits how long this side waits for the other.
pub(super) fn limit(link: impl AsFd) -> io::Result<()> {
    set_socket_timeout(&link, Timeout::Recv, Some(PATIENCE))?;
    Ok(set_socket_timeout(&link, Timeout::Send, Some(PATIENCE))?)
}

/// Sends a message with files.
pub(super) fn send<T: Serialize>(link: impl AsFd, message: &T, files: &[(Kind, BorrowedFd<'_>)]) -> io::Result<()> {
    let packet = Packet { files: files.iter().map(|(kind, _)| *kind).collect(), message };
    let text = serde_json::to_vec(&packet)?;
    let all: Vec<BorrowedFd<'_>> = files.iter().map(|(_, file)| *file).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_LIMIT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !all.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&all)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let link = link.as_fd();
    retry_on_intr(|| sendmsg(link, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives a message with its files. `None` when the other side has ended.
pub(super) fn receive<T: DeserializeOwned>(link: impl AsFd) -> io::Result<Option<(T, Files)>> {
    let mut text = vec![0; MESSAGE_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_LIMIT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let link = link.as_fd();
    // With a time limit it is interrupted also by a stop and a continuation.
    let got =
        retry_on_intr(|| recvmsg(link, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    if got.bytes == 0 {
        return Ok(None);
    }
    let packet: Packet<T> = serde_json::from_slice(&text[..got.bytes])?;
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || packet.files.len() != files.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some((packet.message, Files(packet.files.into_iter().zip(files).collect()))))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::{Kind, Request, receive, send};

    #[test]
    fn a_message_arrives_with_its_files_and_the_end_is_told() {
        let (here, there) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
        let (reader, writer) = std::io::pipe().expect("a pipe");
        send(&here, &Request::Hold { limit_ms: 7 }, &[(Kind::Notify, writer.as_fd())]).expect("sent");
        let (message, mut files) = receive::<Request>(&there).expect("received").expect("a message");
        assert!(matches!(message, Request::Hold { limit_ms: 7 }));
        assert!(files.get(Kind::Engine).is_none());
        drop(writer);
        std::fs::File::from(files.take(Kind::Notify).expect("the file")).write_all(b"over").expect("written");
        drop(files);
        let mut text = String::new();
        (&reader).read_to_string(&mut text).expect("read");
        assert_eq!(text, "over");
        drop(here);
        assert!(receive::<Request>(&there).expect("the end").is_none());
    }
}
