//! Places on this machine: a directory, and a detached process in it.
//!
//! ```text
//! <instances>/<id>/            the volume, 0700
//!     data/ conf/ run/         what the engine sees; its own, where it has a user of its own
//!     pre/ agent/              the agent's alone
//!     agent/identity.json      who the agent is, 0600
//!     agent/lock               held by the agent for its life
//!     agent/*.lock             each held by an engine for its life
//!     agent/agent.log          what the agent says
//! <instances>/<id>.lock        held while a control plane changes the place
//! ```
//!
//! Whether an agent lives is asked of the kernel, by its lock: so a restarted or second control plane knows as much as the one
//! that started the agent. An agent is born with its lock, as its standard input: there is no moment in which it runs and is
//! not seen, and none in which a second one could be started.

mod holder;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use coffer_core::id::InstanceId;
use coffer_wire::agent::Identity;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::{Agent, Error, Held, Placed, Provider};

/// How long a killed process may take to be gone. The kernel has its memory to free, and writes to finish.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// How long a place is waited for that another server has, and how often it is looked whether it still has it. Removing one takes
/// as long as its files: that is not waited for here, but tried again.
const PLACE_LIMIT: Duration = Duration::from_secs(5);
const PLACE_PAUSE: Duration = Duration::from_millis(10);
/// How long an emptied control group may take to let itself be removed.
const CGROUP_LIMIT: Duration = Duration::from_secs(5);

/// Where an agent finds the programs that fetch and unpack engine images, whoever started the control plane.
const PROGRAMS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What else of the control plane's environment an agent gets: how images are reached from here, and how much it logs.
const PASSED_ON: [&str; 9] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "COFFER_LOG",
];

/// The lock of a place, given back when dropped. Closing it is not enough: a child that another thread has forked has all
/// descriptors until it executes.
struct PlaceLock(OwnedFd);

impl Drop for PlaceLock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Places on this machine.
#[derive(Debug)]
pub struct Local {
    instances: PathBuf,
    program: PathBuf,
    /// The agents that this process started, to be reaped when they end.
    children: Mutex<Vec<Child>>,
}

impl Local {
    /// Keeps volumes below `instances`, which is made with mode 0700 when the first place is, and runs agents as
    /// `<program> agent --volume DIR --server SOCKET` with an empty environment. Both paths must be absolute.
    pub fn new(instances: PathBuf, program: PathBuf) -> Self {
        Self { instances, program, children: Mutex::default() }
    }

    fn volume(&self, instance: InstanceId) -> PathBuf {
        self.instances.join(instance.to_string())
    }

    /// The right to change this place, waited for and held until dropped. Whoever has it needs it for moments, unless it was stopped,
    /// or removes the place.
    fn lock_place(&self, instance: InstanceId, limit: Duration) -> Result<(PathBuf, PlaceLock), Error> {
        let failed = |source| Error::Volume { what: "lock the place", instance, source };
        let taken = Error::Taken { instance, seconds: limit.as_secs() };
        self.try_lock_place(instance, limit).map_err(failed)?.ok_or(taken)
    }

    fn try_lock_place(&self, instance: InstanceId, limit: Duration) -> io::Result<Option<(PathBuf, PlaceLock)>> {
        ensure_directory(&self.instances, None)?;
        let path = self.instances.join(format!("{instance}.lock"));
        let deadline = Instant::now() + limit;
        loop {
            let lock = open_private(&path, OFlags::RDWR | OFlags::CREATE)?;
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(PLACE_PAUSE);
                    continue;
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Whoever had it before may have removed the place, and the file with it.
            match fs_err::metadata(&path) {
                Ok(now) if now.ino() == rustix::fs::fstat(&lock)?.st_ino => return Ok(Some((path, PlaceLock(lock)))),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Starts the agent if none lives. The caller holds the place's lock.
    fn start_agent(&self, instance: InstanceId, volume: &Path) -> Result<Agent, Error> {
        self.reap();
        let in_volume = |what| move |source| Error::Volume { what, instance, source };
        let agent = volume.join("agent");
        let Some(lock) = take_agent_lock(&agent.join("lock")).map_err(in_volume("lock the agent directory"))? else {
            return Ok(Agent::Runs);
        };
        let identity = fs_err::read(agent.join("identity.json")).map_err(in_volume("read the identity"))?;
        let identity: Identity =
            serde_json::from_slice(&identity).map_err(|e| in_volume("read the identity")(e.into()))?;
        let given_back = lock.try_clone().map_err(in_volume("lock the agent directory"))?;
        let log = open_private(&agent.join("agent.log"), OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(in_volume("open the agent's log"))?;
        let mut command = Command::new(&self.program);
        command
            .args(["agent", "--volume"])
            .arg(volume)
            .args(["--server", &identity.server_socket])
            .env_clear()
            .env("PATH", PROGRAMS)
            .envs(PASSED_ON.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(lock)
            .stdout(log.0)
            .stderr(log.1);
        detach(&mut command);
        let child = command.spawn().map_err(|source| {
            // As with the place's lock, closing it is not enough.
            let _ = flock(&given_back, FlockOperation::Unlock);
            Error::Agent { instance, program: self.program.clone(), source }
        })?;
        self.children.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        Ok(Agent::Started)
    }

    /// Takes note of ended agents, so that none stays as a zombie.
    fn reap(&self) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }
}

impl Provider for Local {
    fn ensure(&self, identity: &Identity) -> Result<Placed, Error> {
        let instance = identity.instance;
        let volume = self.volume(instance);
        let _lock = self.lock_place(instance, PLACE_LIMIT)?;
        let make = || -> io::Result<()> {
            ensure_directory(&volume, None)?;
            for name in ["data", "conf", "run"] {
                ensure_directory(&volume.join(name), identity.engine_uid)?;
            }
            for name in ["pre", "agent"] {
                ensure_directory(&volume.join(name), None)?;
            }
            ensure_file(&volume.join("agent/identity.json"), &serde_json::to_vec(identity)?)
        };
        make().map_err(|source| Error::Volume { what: "make the volume", instance, source })?;
        let agent = self.start_agent(instance, &volume)?;
        Ok(Placed { instance, volume, agent })
    }

    fn ensure_agent(&self, instance: InstanceId) -> Result<Agent, Error> {
        let volume = self.volume(instance);
        let identity = volume.join("agent/identity.json");
        // Asked every second of every instance, so that the usual answer must not need the lock.
        if !identity.exists() {
            return Err(Error::NoPlace { instance });
        }
        if has_holder(&volume.join("agent/lock")).unwrap_or(false) {
            return Ok(Agent::Runs);
        }
        let (lock_path, _lock) = self.lock_place(instance, Duration::ZERO)?;
        if !identity.exists() {
            // Dropped meanwhile, and its lock file with it: this is a new one.
            let _ = fs_err::remove_file(lock_path);
            return Err(Error::NoPlace { instance });
        }
        self.start_agent(instance, &volume)
    }

    fn drop_place(&self, instance: InstanceId, still_wanted: &dyn Fn() -> bool) -> Result<(), Error> {
        let failed = |what| move |source| Error::Volume { what, instance, source };
        let (lock_path, _lock) = self.lock_place(instance, PLACE_LIMIT)?;
        if !still_wanted() {
            return Err(Error::Unwanted { instance });
        }
        let volume = self.volume(instance);
        let mut cgroups = holder::cgroups_named(&instance.to_string());
        if volume.exists() {
            // The agent first: it would start again what ends.
            let mut locks = vec![volume.join("agent/lock")];
            locks.extend(engine_locks(&volume).map_err(failed("find the engines"))?);
            for lock in locks {
                let ended = holder::end(&lock, Instant::now() + KILL_LIMIT).map_err(failed("end the processes"))?;
                let seconds = KILL_LIMIT.as_secs();
                let ended = ended.ok_or(Error::Stubborn { instance, lock, seconds })?;
                cgroups.extend(ended.cgroups);
            }
        }
        self.reap();
        for cgroup in &cgroups {
            holder::remove_cgroup(cgroup, Instant::now() + CGROUP_LIMIT).map_err(failed("remove the control group"))?;
        }
        // Renamed at once and deleted at leisure: a half-deleted volume is never taken for one.
        let doomed = self.instances.join(format!(".dropped-{instance}"));
        let remove = || -> io::Result<()> {
            ignore_missing(fs_err::remove_dir_all(&doomed))?;
            ignore_missing(fs_err::rename(&volume, &doomed))?;
            ignore_missing(fs_err::remove_dir_all(&doomed))?;
            ignore_missing(fs_err::remove_file(&lock_path))
        };
        remove().map_err(failed("delete the volume"))
    }

    fn hold(&self, instance: InstanceId) -> Result<Held, Error> {
        let (lock_path, lock) = self.lock_place(instance, PLACE_LIMIT)?;
        let is_placed = self.volume(instance).join("agent/identity.json").exists();
        if !is_placed {
            // Its lock file is gone with it, and this is a new one.
            let _ = fs_err::remove_file(lock_path);
        }
        Ok(Held { is_placed, guard: Box::new(lock) })
    }

    fn list(&self) -> Result<Vec<Placed>, Error> {
        self.reap();
        let places = || -> io::Result<Vec<Placed>> {
            let mut placed = Vec::new();
            if !self.instances.exists() {
                return Ok(placed);
            }
            for entry in fs_err::read_dir(&self.instances)? {
                let entry = entry?;
                if let Some(instance) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    let volume = entry.path();
                    let lives = has_holder(&volume.join("agent/lock"))?;
                    placed.push(Placed { instance, volume, agent: if lives { Agent::Runs } else { Agent::Dead } });
                }
            }
            placed.sort_by_key(|place| place.instance);
            Ok(placed)
        };
        places().map_err(|source| Error::Places { source })
    }
}

/// Makes a directory, mode 0700, or makes an existing one so. `owner` is user and group, and only root can give it away:
/// an ordinary user's engine runs as that user.
fn ensure_directory(path: &Path, owner: Option<u32>) -> io::Result<()> {
    fs_err::create_dir_all(path)?;
    if let Some(owner) = owner.filter(|_| rustix::process::geteuid().is_root()) {
        fs_err::os::unix::fs::chown(path, Some(owner), Some(owner))?;
    }
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o700))
}

/// Ensures a file with this content, mode 0600, wholly or not at all.
fn ensure_file(path: &Path, content: &[u8]) -> io::Result<()> {
    if fs_err::read(path).is_ok_and(|now| now == content) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let mut file = File::from(open_private(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?);
    file.write_all(content)?;
    file.sync_all()?;
    fs_err::rename(&new, path)?;
    path.parent().map_or(Ok(()), |parent| fs_err::File::open(parent)?.sync_all())
}

fn open_private(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", path.display())))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Whether somebody holds this lock for good. Looking takes a shared lock for an instant, which is no hindrance to others who
/// look, and which those who want the lock wait for.
fn has_holder(lock: &Path) -> io::Result<bool> {
    match rustix::fs::open(lock, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Takes the agent's lock, to be handed over. `None` if an agent has it.
fn take_agent_lock(path: &Path) -> io::Result<Option<OwnedFd>> {
    let lock = open_private(path, OFlags::RDWR | OFlags::CREATE)?;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(lock)),
            Err(Errno::WOULDBLOCK) if has_holder(path)? => return Ok(None),
            // Somebody only looked.
            Err(Errno::WOULDBLOCK) => std::thread::yield_now(),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The locks of engines, also of one that is only tried.
fn engine_locks(volume: &Path) -> io::Result<Vec<PathBuf>> {
    let mut locks = Vec::new();
    let tried = fs_err::read_dir(volume.join("agent/trial/agent")).into_iter().flatten();
    for entry in fs_err::read_dir(volume.join("agent"))?.chain(tried) {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "lock") {
            locks.push(path);
        }
    }
    Ok(locks)
}

/// Gives the child a session of its own: what happens to the control plane's terminal or process group is not its concern.
#[allow(unsafe_code, reason = "std has no setsid for children")]
fn detach(command: &mut Command) {
    // SAFETY: the closure makes one system call, takes no lock and no memory.
    unsafe { command.pre_exec(|| Ok(rustix::process::setsid().map(|_| ())?)) };
}
