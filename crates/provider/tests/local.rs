//! The local provider on real processes, with a shell script for an agent: as whoever runs the tests, and as root again as
//! an ordinary user.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]
#![allow(unsafe_code, reason = "a child that takes its time before it executes")]

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coffer_core::id::InstanceId;
use coffer_provider::{Agent, Error, Local, Placed, Provider as _};
use coffer_wire::agent::Identity;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

const ENGINE: u32 = 700_003;
const ORDINARY: u32 = 61_234;

/// Does what the real one does with its lock: keeps its standard input, and writes into it who it is. Then waits.
const AGENT: &str = r#"#!/bin/sh
PATH=/usr/bin:/bin
read -r stat < /proc/$$/stat
set -- "$@" "$(echo "$stat" | cut -d ' ' -f 22)" "$(echo "$stat" | cut -d ' ' -f 6)"
printf '{"pid":%d,"start_ticks":%d,"cgroups":[]}' $$ "$6" > "$3/agent/lock"
echo "$$ session $7 server $5" >> "$3/agent/started"
tr '\0' '\n' < /proc/$$/environ > "$3/agent/environment"
echo started
exec sleep 1000
"#;

struct World {
    place: tempfile::TempDir,
    identity: Identity,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let identity = Identity {
            instance: InstanceId(Uuid::new_v4()),
            server_socket: "/run/coffer/agents.sock".to_owned(),
            image_store: "/var/lib/coffer/images".to_owned(),
            token: "a token".to_owned(),
            tenant_password: "a password".to_owned(),
            engine_uid: Some(ENGINE),
            gate: coffer_core::gate::Level::Steered,
            hold_seconds: 60,
        };
        let world = Self { place, identity };
        fs_err::write(world.program(), AGENT).unwrap();
        fs_err::set_permissions(world.program(), PermissionsExt::from_mode(0o755)).unwrap();
        world
    }

    fn program(&self) -> PathBuf {
        self.place.path().join("agent.sh")
    }

    /// A control plane; several may be there at once.
    fn provider(&self) -> Local {
        Local::new(self.place.path().join("instances"), self.program())
    }

    fn instance(&self) -> InstanceId {
        self.identity.instance
    }

    fn volume(&self) -> PathBuf {
        self.place.path().join("instances").join(self.instance().to_string())
    }

    fn read(&self, name: &str) -> String {
        fs_err::read_to_string(self.volume().join(name)).unwrap_or_default()
    }

    /// The agents that were ever started, once `count` of them have said so.
    fn agents(&self, count: usize) -> Vec<String> {
        eventually("the agents have started", || self.read("agent/started").lines().count() >= count);
        self.read("agent/started").lines().map(str::to_owned).collect()
    }

    fn agent_pid(&self) -> i32 {
        let started = self.read("agent/started");
        started.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap()
    }

    fn kill_agent(&self) {
        let pid = rustix::process::Pid::from_raw(self.agent_pid()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        eventually("the agent is dead", || self.provider().list().unwrap()[0].agent == Agent::Dead);
    }

    fn placed(&self, agent: Agent) -> Placed {
        Placed { instance: self.instance(), volume: self.volume(), agent }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.provider().drop_place(self.instance(), &|| true).unwrap();
    }
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a place below this is held by one and wanted by another: both have its lock file open.
fn waits_for(instances: &std::path::Path) -> bool {
    let open = fs_err::read_dir("/proc/self/fd").unwrap().flatten().filter_map(|fd| fs_err::read_link(fd.path()).ok());
    open.filter(|file| file.starts_with(instances) && file.extension().is_some_and(|e| e == "lock")).count() == 2
}

/// A zombie is gone: it only waits for its parent.
fn is_gone(pid: i32) -> bool {
    fs_err::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        || !Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_place_has_a_volume_that_only_its_owners_enter_and_an_agent() {
    let world = World::new();
    assert_eq!(world.provider().ensure(&world.identity).unwrap(), world.placed(Agent::Started));
    let is_root = rustix::process::geteuid().is_root();
    let own = rustix::process::geteuid().as_raw();
    for (name, is_engines) in
        [("", false), ("data", true), ("conf", true), ("run", true), ("pre", false), ("agent", false)]
    {
        let metadata = fs_err::metadata(world.volume().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o700, "{name}");
        let owner = if is_engines && is_root { ENGINE } else { own };
        assert_eq!((metadata.uid(), metadata.gid() == owner || !is_root), (owner, true), "{name}");
    }
    for name in ["identity.json", "lock", "agent.log"] {
        let metadata = fs_err::metadata(world.volume().join("agent").join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{name}");
    }
    let identity: Identity = serde_json::from_str(&world.read("agent/identity.json")).unwrap();
    assert_eq!((identity.token, identity.engine_uid), (world.identity.token.clone(), Some(ENGINE)));

    let started = world.agents(1);
    let pid = world.agent_pid();
    assert_eq!(started, [format!("{pid} session {pid} server /run/coffer/agents.sock")], "a session of its own");
    eventually("the agent has spoken", || world.read("agent/agent.log") == "started\n");
    assert!(!world.read("agent/environment").contains("CARGO"), "{}", world.read("agent/environment"));
    // Or it would not find what fetches and unpacks engine images.
    assert!(world.read("agent/environment").contains("PATH=/usr/local/sbin:"), "{}", world.read("agent/environment"));
}

#[test]
fn ensuring_again_changes_nothing_whoever_asks() {
    let world = World::new();
    world.provider().ensure(&world.identity).unwrap();
    assert_eq!(world.provider().ensure(&world.identity).unwrap(), world.placed(Agent::Runs));
    assert_eq!(world.provider().ensure_agent(world.instance()).unwrap(), Agent::Runs);
    assert_eq!(world.provider().list().unwrap(), [world.placed(Agent::Runs)]);
    assert_eq!(world.agents(1).len(), 1);
}

#[test]
fn many_control_planes_at_once_start_one_agent() {
    let world = World::new();
    for round in 1..=5 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| world.provider().ensure(&world.identity).unwrap());
                scope.spawn(|| {
                    for _ in 0..20 {
                        world.provider().list().unwrap();
                    }
                });
                scope.spawn(|| match world.provider().ensure_agent(world.instance()) {
                    // Of those at it one starts the agent, which is counted below.
                    Ok(_) | Err(Error::NoPlace { .. } | Error::Taken { .. }) => {}
                    Err(error) => panic!("{error}"),
                });
            }
        });
        assert_eq!(world.agents(round).len(), round);
        world.kill_agent();
    }
}

#[test]
fn a_dead_agent_is_seen_and_started_again() {
    let world = World::new();
    let provider = world.provider();
    provider.ensure(&world.identity).unwrap();
    world.agents(1);
    world.kill_agent();
    assert_eq!(provider.list().unwrap(), [world.placed(Agent::Dead)]);
    assert_eq!(provider.ensure_agent(world.instance()).unwrap(), Agent::Started);
    assert_eq!(world.agents(2).len(), 2);
    assert_eq!(provider.list().unwrap(), [world.placed(Agent::Runs)]);
}

#[test]
fn a_place_that_a_stopped_server_has_is_not_waited_for_for_ever() {
    let world = World::new();
    world.provider().ensure(&world.identity).unwrap();
    // As a server has it that was stopped while it made the place.
    let lock = world.volume().parent().unwrap().join(format!("{}.lock", world.instance()));
    let lock = fs_err::File::open(lock).unwrap();
    flock(lock.file(), FlockOperation::LockExclusive).unwrap();
    let began = Instant::now();
    for refused in [
        world.provider().ensure(&world.identity).unwrap_err(),
        world.provider().drop_place(world.instance(), &|| true).unwrap_err(),
        world.provider().hold(world.instance()).err().unwrap(),
    ] {
        assert!(refused.to_string().contains("another server has had the place"), "{refused}");
        assert!(matches!(refused, Error::Taken { seconds: 5, .. }), "{refused}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // An agent is looked after every second, and all of them wait for each.
    world.kill_agent();
    let refused = world.provider().ensure_agent(world.instance()).unwrap_err();
    assert!(matches!(refused, Error::Taken { seconds: 0, .. }), "{refused}");
    drop(lock);
    assert_eq!(world.provider().ensure_agent(world.instance()).unwrap(), Agent::Started);
    assert_eq!(world.provider().ensure(&world.identity).unwrap().agent, Agent::Runs);
}

#[test]
fn an_agent_that_cannot_start_is_an_error_and_holds_no_lock() {
    let world = World::new();
    fs_err::remove_file(world.program()).unwrap();
    let Err(Error::Agent { program, source, .. }) = world.provider().ensure(&world.identity) else { panic!() };
    assert_eq!((program, source.kind()), (world.program(), std::io::ErrorKind::NotFound));
    assert_eq!(world.provider().list().unwrap(), [world.placed(Agent::Dead)]);
    fs_err::write(world.program(), AGENT).unwrap();
    fs_err::set_permissions(world.program(), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(world.provider().ensure_agent(world.instance()).unwrap(), Agent::Started);
    world.agents(1);
}

/// A child has copies of all descriptors from its fork until it executes, of a lock that its neighbour is just taking too.
#[test]
fn a_lock_is_given_back_though_another_child_is_being_started() {
    let world = World::new();
    fs_err::remove_file(world.program()).unwrap();
    let provider = world.provider();
    assert!(matches!(provider.ensure(&world.identity), Err(Error::Agent { .. })));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut slow = Command::new("true");
                // SAFETY: the closure makes system calls only, and takes no lock and no memory.
                unsafe {
                    slow.pre_exec(|| {
                        (0..2_000).for_each(|_| std::thread::yield_now());
                        Ok(())
                    })
                };
                assert!(slow.status().unwrap().success());
            }
        });
        // Nothing panics before the neighbour was told to end.
        let seen: BTreeSet<_> = (0..200)
            .map(|_| {
                let is_refused = matches!(provider.ensure_agent(world.instance()), Err(Error::Agent { .. }));
                is_refused && provider.list().is_ok_and(|places| places == [world.placed(Agent::Dead)])
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert_eq!(seen, BTreeSet::from([true]));
    });
}

/// Stands for an engine: holds a lock file and has written into it who it is.
fn engine(lock: &Path, cgroups: &[PathBuf]) -> Child {
    let file = fs_err::File::create(lock).unwrap().into_parts().0;
    flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).unwrap();
    let child = Command::new("sleep").arg("1000").stdin(Stdio::from(file)).spawn().unwrap();
    for cgroup in cgroups {
        fs_err::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
    }
    fs_err::write(lock, holder(child.id(), 0, cgroups)).unwrap();
    child
}

fn holder(pid: u32, ticks_off: u64, cgroups: &[PathBuf]) -> String {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    serde_json::json!({"pid": pid, "start_ticks": ticks + ticks_off, "cgroups": cgroups}).to_string()
}

#[test]
fn dropping_a_place_ends_agent_and_engines_and_leaves_nothing() {
    let world = World::new();
    let provider = world.provider();
    provider.ensure(&world.identity).unwrap();
    world.agents(1);
    let agent = world.agent_pid();
    let cgroups: Vec<PathBuf> = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"]
        .into_iter()
        .filter(|top| Path::new(top).join("cgroup.procs").exists())
        .map(|top| Path::new(top).join("coffer").join(world.instance().to_string()))
        .filter(|group| fs_err::create_dir_all(group).is_ok())
        .collect();
    if cgroups.is_empty() {
        println!("NOT RUN: removal of control groups: this user can make none");
    }
    // The second is known by its name alone: no engine ever wrote it down.
    let mut engine = engine(&world.volume().join("agent/engine.lock"), cgroups.get(..1).unwrap_or_default());
    // A lock file of an engine that ended, whose number another process has by now.
    let mut innocent = Command::new("sleep").arg("1000").spawn().unwrap();
    fs_err::write(world.volume().join("agent/trial.lock"), holder(innocent.id(), 1, &[])).unwrap();
    fs_err::write(world.volume().join("data/dump.rdb"), "keys").unwrap();

    provider.drop_place(world.instance(), &|| true).unwrap();
    assert!(is_gone(agent));
    assert!(engine.try_wait().unwrap().is_some());
    assert!(innocent.try_wait().unwrap().is_none(), "a process that only has the number is left alone");
    assert_eq!(fs_err::read_dir(world.place.path().join("instances")).unwrap().count(), 0);
    assert_eq!(cgroups.iter().filter(|group| group.exists()).count(), 0);
    assert_eq!(provider.list().unwrap(), []);
    assert!(matches!(provider.ensure_agent(world.instance()), Err(Error::NoPlace { .. })));
    provider.drop_place(world.instance(), &|| true).unwrap();
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn what_nobody_wants_dropped_any_more_is_not_touched_and_that_is_asked_when_nobody_else_has_the_place() {
    let world = World::new();
    world.provider().ensure(&world.identity).unwrap();
    world.agents(1);
    let (agent, provider) = (world.agent_pid(), world.provider());
    let held = provider.hold(world.instance()).unwrap();
    assert!(held.is_placed);
    let given_up = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let drop = scope.spawn(|| {
            let still_wanted = || !given_up.load(std::sync::atomic::Ordering::SeqCst);
            world.provider().drop_place(world.instance(), &still_wanted)
        });
        eventually("the place is waited for", || waits_for(&world.place.path().join("instances")));
        given_up.store(true, std::sync::atomic::Ordering::SeqCst);
        std::mem::drop(held);
        assert!(matches!(drop.join().unwrap(), Err(Error::Unwanted { .. })));
    });
    assert_eq!(provider.list().unwrap(), [world.placed(Agent::Runs)]);
    assert!(!is_gone(agent));
    provider.drop_place(world.instance(), &|| true).unwrap();
    assert!(!provider.hold(world.instance()).unwrap().is_placed);
    assert_eq!(fs_err::read_dir(world.place.path().join("instances")).unwrap().count(), 0, "looking leaves nothing");
}

#[test]
fn a_drop_that_was_interrupted_is_finished_by_the_next() {
    let world = World::new();
    let left = world.place.path().join("instances").join(format!(".dropped-{}", world.instance()));
    fs_err::create_dir_all(left.join("data")).unwrap();
    assert_eq!(world.provider().list().unwrap(), [], "what is being deleted is no place");
    world.provider().drop_place(world.instance(), &|| true).unwrap();
    assert!(!left.exists());
}

#[test]
fn dropping_against_reviving_ends_with_neither_place_nor_agent() {
    let world = World::new();
    for _ in 0..10 {
        world.provider().ensure(&world.identity).unwrap();
        world.agents(1);
        let agent = world.agent_pid();
        std::thread::scope(|scope| {
            scope.spawn(|| world.provider().drop_place(world.instance(), &|| true).unwrap());
            scope.spawn(|| {
                while !matches!(world.provider().ensure_agent(world.instance()), Err(Error::NoPlace { .. })) {}
            });
        });
        assert!(is_gone(agent));
        assert_eq!(fs_err::read_dir(world.place.path().join("instances")).unwrap().count(), 0);
    }
}

#[test]
fn all_of_this_again_as_an_ordinary_user() {
    if !rustix::process::geteuid().is_root() {
        return println!("NOT RUN: this is an ordinary user already");
    }
    let place = tempfile::tempdir().unwrap();
    fs_err::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // A copy: where the tests are built another user may not read.
    let program = place.path().join("local");
    fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new(program)
        // One after the other: what a neighbour's new child still has open for writing cannot be executed.
        .args(["--skip", "all_of_this_again", "--test-threads", "1"])
        .uid(ORDINARY)
        .gid(ORDINARY)
        .current_dir("/")
        .status()
        .unwrap();
    assert!(status.success());
}
