//! The other side of [`start`](super::start): the hidden subcommand `engine-init`, which becomes the engine.
//!
//! ```text
//! agent --spawn--> init: log, lock, control group, namespaces --fork--> child: root, limits, privileges, exec --> engine
//!                    |  writes pid and start time to the lock file, then lets the child go on          |
//!                    +--reports the pid, exits                                                          +--reports only a failure
//! ```
//!
//! Guarantees: the engine's program never runs before its identity stands in its lock file; whatever fails is reported with
//! its step and object; the report pipe ends when, and only when, the program runs or all is over.

use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit, setsid, umask};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::lock::Holder;
use super::{Isolation, Launch, Step, User, root};
use crate::gate;

/// The hidden subcommand under which [`start`](super::start) runs this program again.
pub const INIT_COMMAND: &str = "engine-init";

/// What an init is told on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) launch: Launch,
    /// Control group directories to join, made and limited by the agent.
    pub(super) cgroups: Vec<PathBuf>,
    pub(super) isolation: Isolation,
}

/// What an init says on its standard output, a line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The process that becomes the engine.
    Forked { pid: i32, start_ticks: u64 },
    /// The program is about to run.
    Ready { open_files: u64 },
    /// A step failed; no engine.
    Failed { step: Step, object: PathBuf, errno: i32 },
}

/// A step that failed.
pub(super) struct Failure {
    step: Step,
    object: PathBuf,
    errno: Errno,
}

impl Failure {
    /// For `map_err`: which step failed on what.
    pub(super) fn at<E: IntoErrno>(step: Step, object: impl AsRef<Path>) -> impl FnOnce(E) -> Self {
        move |e| Self { step, object: object.as_ref().to_owned(), errno: e.into_errno() }
    }
}

/// Errors that carry an error number.
pub(super) trait IntoErrno {
    fn into_errno(self) -> Errno;
}

impl IntoErrno for Errno {
    fn into_errno(self) -> Errno {
        self
    }
}

impl IntoErrno for std::io::Error {
    fn into_errno(self) -> Errno {
        Errno::from_io_error(&self).unwrap_or(Errno::IO)
    }
}

/// Becomes an engine, as told on standard input. Returns only if that failed, after reporting it.
///
/// Must be called first thing in `main`, before any thread exists, when the first argument is [`INIT_COMMAND`].
pub fn init_main() -> ExitCode {
    close_inherited_files();
    let Ok(mut report) = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).map(std::fs::File::from) else {
        return ExitCode::FAILURE;
    };
    let Err(failure) = become_engine(&mut report) else { return ExitCode::SUCCESS };
    // If nobody listens there is nobody to tell.
    let _ = say(
        &mut report,
        &Report::Failed { step: failure.step, object: failure.object, errno: failure.errno.raw_os_error() },
    );
    ExitCode::FAILURE
}

/// One write per line: the pipe keeps it whole, though two processes write.
fn say(report: &mut std::fs::File, what: &Report) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    report.write_all(&line)
}

fn become_engine(report: &mut std::fs::File) -> Result<(), Failure> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).map_err(Failure::at(Step::Order, ""))?;
    let order: Order = serde_json::from_slice(&text).map_err(|_| Failure::at(Step::Order, "")(Errno::INVAL))?;
    let link = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).map_err(Failure::at(Step::Order, ""))?;
    let launch = &order.launch;
    umask(Mode::empty());

    let log_flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let log = open(&launch.log, log_flags, Mode::RUSR | Mode::WUSR).map_err(Failure::at(Step::Log, &launch.log))?;
    let stdin = match &launch.stdin {
        Some(path) => Some(
            open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(Failure::at(Step::Log, path))?,
        ),
        None => None,
    };
    let (lock, record) = take_lock(&launch.lock).map_err(Failure::at(Step::Lock, &launch.lock))?;
    for group in &order.cgroups {
        // "0" is the writer itself, and what it forks.
        fs_err::write(group.join("cgroup.procs"), "0").map_err(Failure::at(Step::Cgroup, group))?;
    }
    leave_namespaces(&order)?;

    let (go_read, go_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Failure::at(Step::Fork, ""))?;
    let Some(child) = fork().map_err(Failure::at(Step::Fork, ""))? else {
        drop(go_write);
        let mut go = [0];
        // Nothing to read means that the parent failed, and has said why.
        if !matches!(rustix::io::read(&go_read, &mut go), Ok(1)) {
            return Ok(());
        }
        drop(go_read);
        let files = Files { stdin, log, lock };
        return run_program(&order, &files, &link, report);
    };
    let holder = Holder::of(child, order.cgroups.clone()).map_err(Failure::at(Step::Fork, ""))?;
    holder.write_to(record).map_err(Failure::at(Step::Lock, &launch.lock))?;
    // If nobody listens the agent is dead, and nobody may follow who looks for engines: the volume may be about to go.
    say(report, &Report::Forked { pid: holder.pid, start_ticks: holder.start_ticks })
        .map_err(Failure::at(Step::Order, ""))?;
    rustix::io::write(&go_write, b"g").map_err(Failure::at(Step::Fork, ""))?;
    Ok(())
}

/// The lock, as a file that can only be read, since the engine inherits it, and the same file to write to.
fn take_lock(path: &Path) -> Result<(OwnedFd, std::fs::File), Errno> {
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let record = open(path, flags | OFlags::WRONLY, Mode::RUSR | Mode::WUSR)?;
    let lock = open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok((lock, std::fs::File::from(record)))
}

/// Leaves all namespaces of the host but the network's. The pid namespace takes effect with the next fork.
fn leave_namespaces(order: &Order) -> Result<(), Failure> {
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let outside = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if order.isolation == Isolation::UserNamespace {
        flags |= UnshareFlags::NEWUSER;
    }
    unshare(flags).map_err(Failure::at(Step::Namespaces, ""))?;
    if order.isolation == Isolation::UserNamespace {
        let inside = match order.launch.user {
            User::Own => outside,
            User::Fixed { uid, gid } => (uid, gid),
        };
        // An ordinary user may map itself alone, and its groups only after giving up setgroups.
        for (file, line) in [
            ("/proc/self/setgroups", "deny".to_owned()),
            ("/proc/self/uid_map", format!("{} {} 1", inside.0, outside.0)),
            ("/proc/self/gid_map", format!("{} {} 1", inside.1, outside.1)),
        ] {
            fs_err::write(file, line).map_err(Failure::at(Step::Namespaces, file))?;
        }
    }
    Ok(())
}

/// The files that the engine inherits.
struct Files {
    stdin: Option<OwnedFd>,
    log: OwnedFd,
    lock: OwnedFd,
}

/// The rest, in the process that becomes the engine. Returns only if a step failed.
fn run_program(order: &Order, files: &Files, link: &OwnedFd, report: &mut std::fs::File) -> Result<(), Failure> {
    let launch = &order.launch;
    setsid().map_err(Failure::at(Step::Fork, ""))?;
    root::enter(launch)?;
    let open_files = set_limits(launch)?;
    give_up_privileges(order).map_err(Failure::at(Step::Privileges, ""))?;
    rustix::process::chdir(&launch.cwd).map_err(Failure::at(Step::Cwd, &launch.cwd))?;

    let [program, arguments @ ..] = launch.argv.as_slice() else {
        return Err(Failure::at(Step::Exec, "")(Errno::INVAL));
    };
    let attach = || -> Result<(), Errno> {
        match &files.stdin {
            Some(file) => rustix::stdio::dup2_stdin(file)?,
            None => {
                rustix::stdio::dup2_stdin(open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
            }
        }
        rustix::stdio::dup2_stdout(&files.log)?;
        rustix::stdio::dup2_stderr(&files.log)?;
        // The one file that the engine inherits: while it is open, no second engine starts.
        rustix::io::fcntl_setfd(files.lock.as_fd(), FdFlags::empty())
    };
    attach().map_err(Failure::at(Step::Exec, program))?;
    umask(Mode::RWXG | Mode::RWXO);
    if launch.gated {
        // Last of all: what follows is the engine's own.
        gate::tell_calls().and_then(|notify| gate::send_notify(link, &notify)).map_err(Failure::at(Step::Gate, ""))?;
    }
    say(report, &Report::Ready { open_files }).map_err(Failure::at(Step::Order, ""))?;
    if !Path::new(program).is_absolute() {
        return Err(Failure::at(Step::Exec, program)(Errno::INVAL));
    }
    // Also puts signals back to their defaults, of which Rust's start-up ignores SIGPIPE.
    let error = Command::new(program).args(arguments).env_clear().env("LC_ALL", "C").envs(&launch.env).exec();
    Err(Failure::at(Step::Exec, program)(error))
}

/// No core dumps, which would hold tenants' data, and as many open files as asked for or as the host allows.
fn set_limits(launch: &Launch) -> Result<u64, Failure> {
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, limit(0)).map_err(Failure::at(Step::Limits, "core"))?;
    let granted = match setrlimit(Resource::Nofile, limit(launch.open_files)) {
        Err(Errno::PERM) => {
            let granted = getrlimit(Resource::Nofile).maximum.unwrap_or(launch.open_files).min(launch.open_files);
            setrlimit(Resource::Nofile, limit(granted)).map(|()| granted)
        }
        other => other.map(|()| launch.open_files),
    };
    granted.map_err(Failure::at(Step::Limits, "open files"))
}

/// After this the process has no capability and can never get one, whatever it executes.
fn give_up_privileges(order: &Order) -> Result<(), Errno> {
    rustix::thread::clear_ambient_capability_set()?;
    for capability in 0..u64::BITS {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << capability)) {
            Ok(()) => {}
            // The first number that this kernel has no capability for.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    if let (Isolation::Namespaces, User::Fixed { uid, gid }) = (order.isolation, order.launch.user) {
        let (uid, gid) = (rustix::thread::Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    rustix::thread::set_no_new_privs(true)
}

/// Forks. `None` in the child.
#[allow(unsafe_code, reason = "no library offers a safe fork")]
fn fork() -> Result<Option<Pid>, std::io::Error> {
    // SAFETY: the init has one thread, so the child finds no lock held by a thread that it doesn't have.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

#[allow(unsafe_code, reason = "rustix calls unshare unsafe for the sake of UnshareFlags::FILES")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the flags are those of `leave_namespaces`, never FILES, and the init has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// Closes what the agent, or whoever started it, left open: everything but the three standard files.
#[allow(unsafe_code, reason = "closing files by number can't be known to be safe")]
pub(crate) fn close_inherited_files() {
    // SAFETY: called first thing, when no value of this program owns a file but the standard ones.
    unsafe { libc::syscall(libc::SYS_close_range, std::io::stderr().as_raw_fd() + 1, libc::c_uint::MAX, 0) };
}
