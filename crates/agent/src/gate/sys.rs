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
        flags: if instead_of.is_some() { libc::SECCOMP_ADDFD_FLAG_SETFD as u32 } else { 0 },
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
