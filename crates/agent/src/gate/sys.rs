//! The system calls of the gate that no library offers safely. Nothing else in here, and no decision.
//!
//! - [`install`]: from now on this thread's `bind` and `listen` wait for an answer over the descriptor that it gives
//! - [`receive`], [`answer`], [`give`]: the other side
//! - [`steer`]: which socket of a group gets new connections
//!
//! seccomp_unotify(2), seccomp(2), socket(7).

#![allow(unsafe_code, reason = "system calls without a safe interface; each says why it is sound")]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use super::filter::{self, Call, Instruction, Machine};

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Names it in the answer.
    pub(super) id: u64,
    /// The thread that made it, as the host counts.
    pub(super) thread: u32,
    pub(super) call: Call,
    pub(super) arguments: [u64; 6],
}

/// What a call is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    /// It succeeded.
    Done,
    /// The kernel is to do it, as if nobody had asked.
    Continue,
}

/// From now on the `bind` and `listen` of this thread and its children wait for an answer over the descriptor. There is no way
/// back. Needs `no_new_privs`.
pub(super) fn install(machine: Machine) -> io::Result<OwnedFd> {
    let mut program = machine.program();
    let base = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // Signals, of which engines get many, wait until a call that was received is answered; since Linux 5.19.
    install_with(&mut program, base | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).or_else(|error| {
        if error.raw_os_error() == Some(libc::EINVAL) { install_with(&mut program, base) } else { Err(error) }
    })
}

fn install_with(program: &mut [Instruction], flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog { len: length(program), filter: program.as_mut_ptr() };
    // SAFETY: the program lives through the call, has the length that is said, and is only read.
    let file = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    let file = libc::c_int::try_from(file).unwrap_or(-1);
    if file < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

fn length(program: &[Instruction]) -> libc::c_ushort {
    // Programs here have a handful of instructions.
    libc::c_ushort::try_from(program.len()).unwrap_or(0)
}

/// As large as the kernel's own may become: it writes what it has.
#[repr(C)]
union Notification {
    known: libc::seccomp_notif,
    room: [u64; 64],
}

/// The call that waits. `None` if it does not any more, such as that of a process that was killed. Blocks while there is none:
/// poll the descriptor first.
pub(super) fn receive(notify: impl AsFd, machine: Machine) -> io::Result<Option<Told>> {
    let mut notification = Notification { room: [0; 64] };
    // SAFETY: the kernel writes its own structure, which fits into the room and has to be zeros before.
    let got = unsafe { libc::ioctl(notify.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) { Ok(None) } else { Err(error) };
    }
    // SAFETY: the structure is plain numbers, and the room was initialised.
    let known = unsafe { notification.known };
    let call = machine.call(known.data.nr.cast_unsigned());
    // The filter tells no others.
    let call = call.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Some(Told { id: known.id, thread: known.pid, call, arguments: known.data.args }))
}

/// Answers a call. No error if whoever made it is gone.
pub(super) fn answer(notify: impl AsFd, id: u64, answer: Answer) -> io::Result<()> {
    let flags = match answer {
        Answer::Done => 0,
        // Its arguments may change after they were read here: this filter is no border, the sandbox is.
        Answer::Continue => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE,
    };
    let flags = u32::try_from(flags).unwrap_or(0);
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the structure lives through the call.
    let sent = unsafe { libc::ioctl(notify.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    match sent {
        0.. => Ok(()),
        _ => match io::Error::last_os_error() {
            gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        },
    }
}

/// Gives the process whose call waits another file: in the place of the one that it has under a number, or as one more.
pub(super) fn give(
    notify: impl AsFd,
    id: u64,
    file: impl AsFd,
    instead_of: Option<u32>,
    closes_on_exec: bool,
) -> io::Result<()> {
    let mut order = libc::seccomp_notif_addfd {
        id,
        flags: instead_of.map_or(0, |_| u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or(0)),
        srcfd: file.as_fd().as_raw_fd().cast_unsigned(),
        newfd: instead_of.unwrap_or(0),
        newfd_flags: if closes_on_exec { libc::O_CLOEXEC.cast_unsigned() } else { 0 },
    };
    // SAFETY: the structure lives through the call, and the file is open meanwhile.
    let given = unsafe { libc::ioctl(notify.as_fd().as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut order) };
    if given < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends every new connection of the group that this socket belongs to, to its socket with this index.
pub(super) fn steer(member: impl AsFd, index: u32) -> io::Result<()> {
    let mut program = filter::steering(index);
    let program = libc::sock_fprog { len: length(&program), filter: program.as_mut_ptr() };
    // SAFETY: the program lives through the call, has the length that is said, and is only read; so is the option.
    let done = unsafe {
        libc::setsockopt(
            member.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0),
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::channel;
    use std::thread;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::{AddressFamily, SocketType, getsockname, sockopt};

    use super::{Answer, Call, Machine, answer, give, install, receive, steer};
    use crate::gate::engine;

    /// What a thread binds, and what it then finds its socket bound to.
    fn bound(ask: SocketAddr, act: impl FnOnce(&OwnedFd, super::Told)) -> std::io::Result<SocketAddr> {
        let machine = Machine::own().expect("a machine that a filter was written for");
        let (told, notify) = channel();
        // A filter is its thread's, and ends with it.
        let thread = thread::spawn(move || -> std::io::Result<SocketAddr> {
            rustix::thread::set_no_new_privs(true)?;
            told.send(install(machine)?).expect("somebody waits");
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            rustix::net::bind(&socket, &ask)?;
            Ok(SocketAddr::try_from(getsockname(&socket)?)?)
        });
        let notify = notify.recv().expect("the descriptor");
        poll(&mut [PollFd::new(&notify, PollFlags::IN)], None).expect("a call");
        act(&notify, receive(&notify, machine).expect("received").expect("it waits"));
        thread.join().expect("the thread ends")
    }

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_socket_is_given_in_the_place_of_one_that_is_bound() {
        let held = TcpListener::bind(local(0)).expect("a listener");
        let found = bound(local(1), |notify, told| {
            assert_eq!(told.call, Call::Bind);
            let [file, pointer, length, ..] = told.arguments;
            assert_eq!(engine::address(told.thread, pointer, length).expect("read"), Some(local(1)));
            let number = u32::try_from(file).expect("a number");
            give(notify, told.id, &held, Some(number), true).expect("given");
            give(notify, told.id, &held, None, true).expect("given once more");
            answer(notify, told.id, Answer::Done).expect("answered");
        });
        assert_eq!(found.expect("bound"), held.local_addr().expect("an address"));
    }

    #[test]
    fn the_kernel_does_what_it_is_told_to_go_on_with() {
        let found = bound(local(0), |notify, told| answer(notify, told.id, Answer::Continue).expect("answered"));
        assert_ne!(found.expect("bound").port(), 0);
    }

    #[test]
    fn a_call_that_nobody_answers_fails_when_its_descriptor_is_gone() {
        let machine = Machine::own().expect("a machine that a filter was written for");
        let thread = thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).expect("allowed");
            drop(install(machine).expect("installed"));
            TcpListener::bind(local(0)).map(drop)
        });
        let error = thread.join().expect("the thread ends").expect_err("nobody answers");
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
    }

    #[test]
    fn an_answer_to_somebody_who_is_gone_is_no_error_and_a_gift_is() {
        let gone = bound(local(0), |notify, told| {
            // No call has this number any more, or yet.
            answer(notify, told.id + 1, Answer::Done).expect("no error");
            give(notify, told.id + 1, notify, None, true).expect_err("nobody is there");
            answer(notify, told.id, Answer::Continue).expect("answered");
        });
        gone.expect("bound");
    }

    #[test]
    fn only_sockets_of_a_group_are_steered() {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        sockopt::set_socket_reuseport(&socket, true).expect("set");
        rustix::net::bind(&socket, &local(0)).expect("bound");
        steer(&socket, 0).expect("steered");
        steer(std::io::pipe().expect("a pipe").0, 0).expect_err("it is no socket");
    }
}
