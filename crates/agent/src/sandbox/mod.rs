//! Starts an engine from a value that says everything, and finds it again after its agent died.
//!
//! What an engine gets, as root and as an ordinary user alike:
//! - its engine root as `/`, read-only, and nothing else of the host but the binds of its [`Launch`];
//! - its own mount, pid, ipc and uts namespaces (an ordinary user's engine also its own user namespace), a fresh `/proc`, a
//!   `/dev` of four devices and `shm`, an empty `/tmp`; the network stays the host's;
//! - an unprivileged user, no capability, no way to gain one (`no_new_privs`), no core dumps, exactly the environment of its
//!   [`Launch`], no open file but its log and its lock;
//! - the memory and CPU of its control group where one can be had; [`LimitsReport`] says where not, and why.
//!
//! How: [`start`] runs this very program again as `engine-init` ([`init_main`]), which is single-threaded and builds all of
//! this by itself, so nothing runs between a fork and an exec of the agent, which has threads. Of it no process remains: the
//! engine is the only one, pid 1 of its namespace, and when it ends everything that it started ends with it.
//!
//! The engine outlives its agent. It holds its lock file itself ([`Launch::lock`]), as an open file that only its end closes,
//! so a second engine on the same lock is impossible, whoever died when; the same file says which process it is ([`adopt`]).

pub mod cgroup;
mod init;
mod lock;
mod process;
mod root;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, waitpid};
use serde::{Deserialize, Serialize};

pub use cgroup::{CgroupLimits, Limit, LimitsReport};
pub(crate) use init::close_inherited_files;
pub use init::{INIT_COMMAND, init_main};
pub(crate) use lock::end;
pub use lock::{ProcessLock, VolumeLock, adopt};
pub use process::{Exit, Process};

use crate::gate;
use init::{Order, Report};

/// Everything that decides how an engine runs. Nothing else does: no environment, no directory, no setting of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Launch {
    /// The engine root on the host. The engine sees it as `/`, read-only.
    pub root: PathBuf,
    /// Program, as an absolute path inside the engine root, and its arguments. Visible to everybody on the host.
    pub argv: Vec<String>,
    /// The engine's whole environment. `LC_ALL` is `C` unless set here: Redis sorts and MariaDB speaks by it.
    pub env: BTreeMap<String, String>,
    /// What the engine sees beside its root.
    pub binds: Vec<Bind>,
    /// Whom the engine runs as.
    pub user: User,
    /// How many files the engine may open. What it got, if the host allows fewer, is in [`Started::open_files`].
    pub open_files: u64,
    /// The control group and its limits. `None` leaves the engine in its agent's.
    pub cgroup: Option<CgroupLimits>,
    /// File on the host to which the engine's standard output and error are appended; made with mode 0600. It must lie where
    /// the engine can't write.
    pub log: PathBuf,
    /// File on the host that the engine locks for its life; made with mode 0600. One engine per data directory is one lock file
    /// per data directory. It must lie where the engine can't write: in the volume's `agent/`, with a name that ends in `.lock`,
    /// so that the local provider finds and ends the engine when the instance is deleted.
    pub lock: PathBuf,
    /// The engine's working directory, inside.
    pub cwd: PathBuf,
    /// File on the host that is the engine's standard input. `None`: it is empty.
    #[serde(default)]
    pub stdin: Option<PathBuf>,
    /// Whether the engine's `bind` and `listen` are told, over [`Started::notify`], and wait for an answer.
    pub gated: bool,
}

/// A file or directory of the host that an engine sees. Set-user-id programs and devices in it have no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Path on the host.
    pub source: PathBuf,
    /// Absolute path inside. It need not exist in the engine root.
    pub target: PathBuf,
    /// Whether the engine can only read it, and everything mounted below it.
    pub read_only: bool,
}

/// Whom an engine runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum User {
    /// This user and group, without an account. An ordinary user can't become another: its engine then only sees itself
    /// as this one, and is its starter to the host.
    Fixed {
        /// User id, not 0.
        uid: u32,
        /// Group id, not 0. The engine is in no other group.
        gid: u32,
    },
    /// The starter itself. Refused for root: no engine runs as root.
    Own,
}

/// An engine that runs.
#[derive(Debug)]
pub struct Started {
    /// The engine itself, not a parent of it.
    pub process: Process,
    /// By which means it is kept apart.
    pub isolation: Isolation,
    /// What came of the limits of [`Launch::cgroup`].
    pub limits: Option<LimitsReport>,
    /// How many files the engine may open.
    pub open_files: u64,
    /// Over it the calls of a gated engine are told. Dropped by all who have it, they fail.
    pub notify: Option<OwnedFd>,
}

/// By which means an engine is kept apart from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Namespaces made by root, and a user id of its own.
    Namespaces,
    /// Namespaces inside a user namespace. To the host the engine is its starter's user.
    UserNamespace,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces, own user id",
            Self::UserNamespace => "namespaces inside a user namespace, the agent's user id",
        })
    }
}

/// What of a start failed. The order is the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Reading the order of the agent, or answering it.
    Order,
    /// Opening the log file, or what the engine reads.
    Log,
    /// Opening the lock file or writing to it.
    Lock,
    /// Joining the control group.
    Cgroup,
    /// Leaving the host's namespaces.
    Namespaces,
    /// Making the process that becomes the engine.
    Fork,
    /// Building the engine's view of the file system.
    Root,
    /// Showing a file or directory of the host.
    Bind,
    /// Setting resource limits.
    Limits,
    /// Giving up root's rights.
    Privileges,
    /// Entering the working directory.
    Cwd,
    /// Having the engine's calls told.
    Gate,
    /// Running the engine's program.
    Exec,
}

impl Step {
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Order => ("talk with the agent", "this is a fault of coffer, report it with the agent's log"),
            Self::Log => ("open the log file", "check the volume's agent directory"),
            Self::Lock => ("take the engine lock", "check the volume's agent directory"),
            Self::Cgroup => ("join the control group", "restart the instance; its control group may have been removed"),
            Self::Namespaces => (
                "leave the host's namespaces",
                "run coffer as root with CAP_SYS_ADMIN, or allow user namespaces (sysctl user.max_user_namespaces, and \
                 kernel.unprivileged_userns_clone or kernel.apparmor_restrict_unprivileged_userns where they exist)",
            ),
            Self::Fork => ("make the engine's process", "check the host's limits of processes and memory"),
            Self::Root => (
                "build the engine's root",
                "check that the engine root is there and that the kernel has overlayfs; fetch the engine again with `coffer engine fetch`",
            ),
            Self::Bind => ("show the engine", "check that the path exists on the host"),
            Self::Limits => ("set the resource limit", "raise the hard limit of the coffer service"),
            Self::Privileges => {
                ("give up privileges", "run coffer with CAP_SETUID, CAP_SETGID and CAP_SETPCAP, or as an ordinary user")
            }
            Self::Cwd => ("enter the working directory", "bind it, or name one that the engine root has"),
            Self::Gate => (
                "have the engine's calls told",
                "the container manager may have a seccomp notification of its own; set gate = \"own\" in the configuration",
            ),
            Self::Exec => (
                "run the engine's program",
                "the engine image lacks it or is for another processor; fetch it again with `coffer engine fetch`",
            ),
        }
    }
}

/// What could not be done, without on what.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it was not possible to {}", self.describe().0)
    }
}

/// Why an engine was not started. No process of it is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Refused: the launch would run the engine as root.
    #[error("engine {program} would run as root")]
    AsRoot {
        /// The engine's program.
        program: String,
    },
    /// Another engine has the lock, and goes on having it.
    #[error("an engine already runs with lock {}", lock.display())]
    AlreadyRuns {
        /// The lock file.
        lock: PathBuf,
    },
    /// A step failed, and which.
    #[error("could not {} {}", step.describe().0, object.display())]
    Step {
        /// What failed.
        step: Step,
        /// On what: a path, mostly.
        object: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The process died before it could say anything, by a signal or for want of memory.
    #[error("the start of engine {program} ended without a word ({status})")]
    Silent {
        /// The engine's program.
        program: String,
        /// How the first of its two processes ended.
        status: std::process::ExitStatus,
    },
    /// The agent itself could not do its part.
    #[error("could not {what}")]
    Agent {
        /// Its part.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// What to do about it; empty where nobody can say.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AsRoot { .. } => "give the instance a user id of its own",
            Self::AlreadyRuns { .. } => "stop it first",
            Self::Step { step, .. } => step.describe().1,
            Self::Silent { .. } => "look for an out-of-memory kill in the kernel's log",
            Self::Agent { .. } => "",
        }
    }

    fn agent(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Agent { what, source }
    }
}

/// Starts the engine and returns when its program runs, within milliseconds; whether it is ready to serve is another question.
///
/// Blocks meanwhile. Makes the calling process a child subreaper, so that the engine becomes its child: the caller learns the
/// engine's [`Exit`] and has to ask for it, or a zombie stays.
///
/// The program of the calling process must call [`init_main`] first thing when its first argument is [`INIT_COMMAND`].
pub fn start(launch: &Launch) -> Result<Started, Error> {
    let program = launch.argv.first().cloned().unwrap_or_default();
    let root_starts = rustix::process::geteuid().is_root();
    let as_root = match launch.user {
        User::Own => root_starts,
        User::Fixed { uid, gid } => uid == 0 || gid == 0,
    };
    if as_root {
        return Err(Error::AsRoot { program });
    }
    set_child_subreaper(Some(getpid())).map_err(|e| Error::agent("become the reaper of engines")(e.into()))?;
    let group = launch.cgroup.as_ref().map(cgroup::ensure);
    let order = Order {
        launch: launch.clone(),
        cgroups: group.as_ref().map(|g| g.directories.clone()).unwrap_or_default(),
        isolation: if root_starts { Isolation::Namespaces } else { Isolation::UserNamespace },
    };
    let (reports, status, link) = run_init(&order)?;
    let (mut forked, mut ready, mut failed) = (None, None, None);
    for report in reports {
        match report {
            Report::Forked { pid, start_ticks } => forked = Some((pid, start_ticks)),
            Report::Ready { open_files } => ready = Some(open_files),
            Report::Failed { step, object, errno } => failed = Some((step, object, errno)),
        }
    }
    match (forked, ready, failed) {
        (Some((pid, start_ticks)), Some(open_files), None) => {
            let process = Process::adopt(pid, start_ticks).map_err(Error::agent("watch the engine's process"))?;
            let process = process.ok_or(Error::Silent { program, status })?;
            let limits = group.map(|g| g.report);
            let notify = if launch.gated {
                gate::receive_notify(&link).map_err(Error::agent("receive the engine's calls"))?
            } else {
                None
            };
            Ok(Started { process, isolation: order.isolation, limits, open_files, notify })
        }
        (forked, _, failed) => {
            if let Some(pid) = forked.and_then(|(pid, _)| Pid::from_raw(pid)) {
                // It is ours, being orphaned, and on its way out. Without this it would stay as a zombie.
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
            Err(match failed {
                Some((Step::Lock, object, errno)) if errno == rustix::io::Errno::WOULDBLOCK.raw_os_error() => {
                    Error::AlreadyRuns { lock: object }
                }
                Some((step, object, errno)) => {
                    Error::Step { step, object, source: std::io::Error::from_raw_os_error(errno) }
                }
                None => Error::Silent { program, status },
            })
        }
    }
}

/// Runs the init and collects what it and its child, the later engine, say until the engine's program runs. What came with
/// files of theirs is still in the socket.
fn run_init(order: &Order) -> Result<(Vec<Report>, std::process::ExitStatus, UnixStream), Error> {
    let (mut link, theirs) = UnixStream::pair().map_err(Error::agent("make a socket for engine-init"))?;
    // The running program itself, also when its file was replaced meanwhile: both ends must speak the same language.
    let mut init = Command::new(Path::new("/proc/self/exe"))
        .arg0("coffer")
        .arg(INIT_COMMAND)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::agent("run engine-init"))?;
    let sent = serde_json::to_vec(order)
        .map_err(std::io::Error::from)
        .and_then(|order| link.write_all(&order))
        .and_then(|()| link.shutdown(std::net::Shutdown::Write));
    let mut said = Vec::new();
    // The end of the pipe is the engine's exec: it closes the last copy, as does every death before it.
    let heard = init.stdout.take().map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut said));
    let status = init.wait().map_err(Error::agent("wait for engine-init"))?;
    heard.map_err(Error::agent("listen to engine-init"))?;
    let reports: Vec<Report> =
        said.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    if reports.is_empty() {
        sent.map_err(Error::agent("send the launch order"))?;
    }
    Ok((reports, status, link))
}
