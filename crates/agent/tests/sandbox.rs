//! The sandbox on real processes: every test as root and again as an ordinary user, who needs no account for it.
//!
//! Needs the Debian package busybox-static: a program without libraries, of which a test makes an engine root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use coffer_agent::sandbox::{
    self, Bind, CgroupLimits, Error, Exit, Isolation, Launch, Limit, Process, Started, Step, User, VolumeLock,
};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use support::{eventually, is_root};

/// The user that root gives to engines; it has no account.
const ENGINE: u32 = 700_007;
/// First argument of a process that only starts the engine that its second names, and lives on.
const STARTER: &str = "starter";
/// First argument of a process that takes the lock of the volume that its second names, and lives on.
const LOCKER: &str = "locker";

const TESTS: [support::Test; 14] = [
    ("engine_sees_its_root_and_its_binds_and_nothing_else_of_the_host", || sees_only_its_own(&World::new())),
    ("engine_writes_to_its_writable_binds_only", || writes_only_where_bound(&World::new())),
    ("engine_has_no_privilege_and_the_user_it_was_given", || has_no_privilege(&World::new())),
    ("engine_gets_exactly_its_environment_and_no_open_file_but_its_lock", || inherits_nothing(&World::new())),
    ("engine_appends_to_a_log_that_only_its_agent_reads", || appends_to_its_log(&World::new())),
    ("image_cannot_lead_a_bind_out_by_a_symbolic_link", || links_do_not_lead_out(&World::new())),
    ("engine_survives_its_starter_and_is_adopted_and_never_doubled", || survives_and_is_adopted(&World::new())),
    ("a_starter_killed_at_any_moment_leaves_one_engine_or_none", || killed_starter_leaves_one_or_none(&World::new())),
    ("a_reused_process_id_is_not_adopted", || reused_pid_is_refused(&World::new())),
    ("every_failure_names_its_step_and_object_and_leaves_no_process", || failures_are_named(&World::new())),
    ("an_exit_is_told_to_whoever_waits", || exits_are_told(&World::new())),
    ("memory_and_cpu_are_limited_or_it_is_said_why_not", || limits_hold_or_are_reported(&World::new())),
    ("a_volume_has_one_agent_also_when_the_lock_was_handed_over", || volume_lock_is_exclusive(&World::new())),
    ("start_cost", || start_cost(&World::new())),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some(sandbox::INIT_COMMAND), _) => return sandbox::init_main(),
        (Some(STARTER), Some(launch)) => return starter(Path::new(&launch)),
        (Some(LOCKER), Some(volume)) => return locker(Path::new(&volume)),
        _ => {}
    }
    support::run(&TESTS)
}

fn starter(launch: &Path) -> ExitCode {
    let launch: Launch = serde_json::from_slice(&fs_err::read(launch).unwrap()).unwrap();
    println!("{}", sandbox::start(&launch).unwrap().process.pid());
    loop {
        std::thread::park();
    }
}

fn locker(volume: &Path) -> ExitCode {
    let lock = VolumeLock::acquire(volume).unwrap();
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
    println!("{} {}", lock.is_some(), rest.len());
    loop {
        std::thread::park();
    }
}

/// A place with an engine root and directories for an engine, and what was started there.
struct World {
    place: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        let world = Self { place };
        // As in a volume: nobody but the agent gets through here, and engines see what is bound, not the way there.
        fs_err::set_permissions(world.place.path(), PermissionsExt::from_mode(0o700)).unwrap();
        for directory in ["root/etc", "data", "conf", "agent"] {
            fs_err::create_dir_all(world.path(directory)).unwrap();
        }
        let names = ["sh", "cat", "ls", "touch", "env", "mv", "sleep", "dd", "true", "echo"];
        support::install_busybox(&world.path("root/bin"), &names);
        fs_err::write(world.path("root/etc/release"), "an image\n").unwrap();
        fs_err::write(world.path("conf/engine.conf"), "setting\n").unwrap();
        if is_root() {
            std::os::unix::fs::chown(world.path("data"), Some(ENGINE), Some(ENGINE)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn launch(&self, argv: &[&str]) -> Launch {
        let bind = |name: &str, read_only| Bind {
            source: self.path(name),
            target: format!("/volume/{name}").into(),
            read_only,
        };
        Launch {
            root: self.path("root"),
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            env: BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]),
            binds: vec![bind("data", false), bind("conf", true)],
            user: if is_root() { User::Fixed { uid: ENGINE, gid: ENGINE } } else { User::Own },
            open_files: 512,
            cgroup: None,
            log: self.path("agent/engine.log"),
            lock: self.path("agent/engine.lock"),
            cwd: "/volume/data".into(),
            stdin: None,
            gated: false,
        }
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.path("agent/engine.log")).unwrap_or_default()
    }

    /// Runs a script to its end inside and returns what it printed.
    fn run(&self, script: &str) -> String {
        let engine = start(&self.launch(&["/bin/sh", "-c", script]));
        let exit = engine.0.process.wait_exit(Duration::from_secs(10)).unwrap();
        assert_eq!(exit, Some(Exit::Code(0)), "{}", self.log());
        self.log()
    }

    /// Starts what sleeps until it is killed.
    fn sleeper(&self) -> Engine {
        start(&self.launch(&["/bin/sleep", "1000"]))
    }
}

fn start(launch: &Launch) -> Engine {
    Engine(sandbox::start(launch).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error))))
}

/// Kills the engine at the end of its test, however that ends.
struct Engine(Started);

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.0.process.signal(Signal::KILL);
        let _ = self.0.process.wait_exit(Duration::from_secs(10));
    }
}

fn sees_only_its_own(world: &World) {
    let seen = world.run("ls /; echo --; ls /dev; echo --; cat /etc/release /volume/conf/engine.conf; echo --; echo /proc/[0-9]*; ls /tmp");
    let parts: Vec<_> = seen.split("--\n").collect();
    assert_eq!(parts[0].split_whitespace().collect::<Vec<_>>(), ["bin", "dev", "etc", "proc", "tmp", "volume"]);
    assert_eq!(parts[1].split_whitespace().collect::<Vec<_>>(), ["null", "random", "shm", "urandom", "zero"]);
    assert_eq!(parts[2], "an image\nsetting\n");
    assert_eq!(parts[3], "/proc/1\n", "the engine is the first and only process that it sees");

    // The host is not merely out of sight: it isn't there, not even where `..` leads when two roots lie on one another.
    fs_err::remove_file(world.path("agent/engine.log")).unwrap();
    let seen = world.run("ls /..; echo --; cat /proc/1/mountinfo");
    let (above, mounts) = seen.split_once("--\n").unwrap();
    assert_eq!(above.split_whitespace().collect::<Vec<_>>(), ["bin", "dev", "etc", "proc", "tmp", "volume"]);
    let mut points: Vec<_> = mounts.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
    points.sort_unstable();
    let devices = ["/dev", "/dev/null", "/dev/random", "/dev/shm", "/dev/urandom", "/dev/zero"];
    assert_eq!(points, [&["/"], &devices[..], &["/proc", "/tmp", "/volume/conf", "/volume/data"]].concat());
}

fn writes_only_where_bound(world: &World) {
    // So that only the mount can refuse it.
    fs_err::set_permissions(world.path("conf/engine.conf"), PermissionsExt::from_mode(0o666)).unwrap();
    let script = "for place in / /bin /etc /dev /proc /volume /volume/conf /volume/data /tmp /dev/shm; do
        touch $place/new 2>/dev/null && echo $place; done; echo > /dev/null; echo new >> /volume/conf/engine.conf; true";
    let seen = world.run(script);
    let written: Vec<_> = seen.lines().filter(|line| line.starts_with('/') && !line.contains(' ')).collect();
    assert_eq!(written, ["/volume/data", "/tmp", "/dev/shm"]);
    assert!(seen.contains("/volume/conf/engine.conf: Read-only file system"), "{seen}");
    assert!(world.path("data/new").exists());
    assert_eq!(fs_err::read_dir(world.path("root")).unwrap().count(), 2, "the engine root is as it was");
    assert_eq!(fs_err::metadata(world.path("data/new")).unwrap().permissions().mode() & 0o777, 0o600);
}

fn has_no_privilege(world: &World) {
    let seen = world.run("cat /proc/1/status; ulimit -c; ulimit -n");
    let field = |name: &str| {
        let line = seen
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("{name}: {seen}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), ["0000000000000000"], "{set}");
    }
    assert_eq!(field("NoNewPrivs"), ["1"]);
    assert_eq!(field("Pid"), ["1"]);
    let (uid, gid) = if is_root() {
        (ENGINE, ENGINE)
    } else {
        (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
    };
    let (uid, gid) = (uid.to_string(), gid.to_string());
    assert_eq!(field("Uid"), [uid.as_str(); 4]);
    assert_eq!(field("Gid"), [gid.as_str(); 4]);
    if is_root() {
        assert_eq!(field("Groups"), Vec::<String>::new());
    }
    assert!(seen.ends_with("0\n512\n"), "core size and open files: {seen}");

    let engine = world.sleeper();
    let expected = if is_root() { Isolation::Namespaces } else { Isolation::UserNamespace };
    assert_eq!((engine.0.isolation, engine.0.open_files), (expected, 512));
    let mut launch = world.launch(&["/bin/true"]);
    launch.lock = world.path("agent/other.lock");
    launch.user = User::Fixed { uid: 0, gid: 0 };
    assert!(matches!(sandbox::start(&launch), Err(Error::AsRoot { .. })));
    if is_root() {
        launch.user = User::Own;
        assert!(matches!(sandbox::start(&launch), Err(Error::AsRoot { .. })));
    } else {
        launch.user = User::Fixed { uid: 999, gid: 998 };
        launch.argv = vec!["/bin/sh".into(), "-c".into(), "echo I am $(busybox id -u):$(busybox id -g)".into()];
        let exit = start(&launch).0.process.wait_exit(Duration::from_secs(10)).unwrap();
        assert_eq!(exit, Some(Exit::Code(0)));
        assert!(world.log().contains("I am 999:998"), "{}", world.log());
    }
}

fn inherits_nothing(world: &World) {
    let mut launch = world.launch(&["/bin/env"]);
    launch.env.insert("ENGINE_HOME".to_owned(), "/volume/data".to_owned());
    start(&launch).0.process.wait_exit(Duration::from_secs(10)).unwrap();
    let mut seen: Vec<_> = world.log().lines().map(str::to_owned).collect();
    seen.sort();
    assert_eq!(seen, ["ENGINE_HOME=/volume/data", "LC_ALL=C", "PATH=/bin"]);

    // A file that is not closed on exec, as a careless caller may have left one.
    let careless = fs_err::File::open(world.path("conf/engine.conf")).unwrap();
    rustix::io::fcntl_setfd(&careless, rustix::io::FdFlags::empty()).unwrap();
    let engine = world.sleeper();
    let files = fs_err::read_dir(format!("/proc/{}/fd", engine.0.process.pid())).unwrap();
    let mut files: Vec<_> = files.map(|file| fs_err::read_link(file.unwrap().path()).unwrap()).collect();
    files.sort();
    let log = world.path("agent/engine.log");
    assert_eq!(files, [Path::new("/dev/null"), &world.path("agent/engine.lock"), &log, &log]);
}

fn appends_to_its_log(world: &World) {
    world.run("echo first");
    let seen = world.run("echo second >&2");
    assert_eq!(seen, "first\nsecond\n");
    for file in ["agent/engine.log", "agent/engine.lock"] {
        assert_eq!(fs_err::metadata(world.path(file)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

fn links_do_not_lead_out(world: &World) {
    let outside = world.path("outside");
    fs_err::create_dir(&outside).unwrap();
    fs_err::create_dir(outside.join("data")).unwrap();
    fs_err::write(outside.join("data/secret"), "of the host\n").unwrap();
    symlink(&outside, world.path("root/volume")).unwrap();
    symlink("/proc/1/root", world.path("root/escape")).unwrap();
    fs_err::write(world.path("data/mine"), "").unwrap();
    let seen = world.run("ls /volume/data; ls /escape/volume");
    assert_eq!(seen, "mine\nconf\ndata\n");
}

fn survives_and_is_adopted(world: &World) {
    let launch = world.launch(&["/bin/sleep", "1000"]);
    fs_err::write(world.path("agent/launch.json"), serde_json::to_vec(&launch).unwrap()).unwrap();
    let (mut starter, said) = child(STARTER, &world.path("agent/launch.json"), Stdio::null());
    let pid: i32 = said.trim().parse().unwrap();
    starter.kill().unwrap();
    starter.wait().unwrap();

    let engine = sandbox::adopt(&launch.lock).unwrap().expect("the engine outlives its starter");
    assert_eq!(engine.pid(), pid);
    assert!(engine.is_alive());
    let Err(Error::AlreadyRuns { lock }) = sandbox::start(&launch) else { panic!("a second engine on one lock") };
    assert_eq!(lock, launch.lock);
    assert!(sandbox::adopt(&launch.lock).unwrap().is_some(), "the refused start left the lock file as it was");

    engine.signal(Signal::KILL).unwrap();
    assert!(engine.wait_exit(Duration::from_secs(10)).unwrap().is_some());
    assert!(!engine.is_alive());
    assert!(sandbox::adopt(&launch.lock).unwrap().is_none());
    start(&launch);
}

fn killed_starter_leaves_one_or_none(world: &World) {
    let launch = world.launch(&["/bin/sleep", "1000"]);
    fs_err::write(world.path("agent/launch.json"), serde_json::to_vec(&launch).unwrap()).unwrap();
    let (mut found, mut none) = (0, 0);
    for round in 0..60 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(STARTER).arg(world.path("agent/launch.json")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut starter = command.spawn().unwrap();
        // Not a wait for anything: the moment of the kill is what is varied.
        std::thread::sleep(Duration::from_micros(round * 150));
        starter.kill().unwrap();
        starter.wait().unwrap();
        match sandbox::adopt(&launch.lock).unwrap() {
            Some(engine) => {
                engine.signal(Signal::KILL).unwrap();
                engine.wait_exit(Duration::from_secs(10)).unwrap().unwrap();
                found += 1;
            }
            None => none += 1,
        }
        // An init that lost its agent may have the lock for another instant, but never becomes an engine.
        eventually("the lock is free", || match sandbox::start(&launch) {
            Ok(started) => {
                drop(Engine(started));
                true
            }
            Err(Error::AlreadyRuns { .. }) => false,
            Err(error) => panic!("{error}"),
        });
    }
    println!("killed 60 starters: {found} left an engine, which was adopted, {none} left none");
}

/// Runs this program as something else and returns the first line that it says.
fn child(what: &str, argument: &Path, stdin: Stdio) -> (Child, String) {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program).arg(what).arg(argument).stdin(stdin).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    (child, said)
}

fn reused_pid_is_refused(world: &World) {
    let engine = world.sleeper();
    let (pid, started) = (engine.0.process.pid(), engine.0.process.start_ticks());
    assert!(Process::adopt(pid, started).unwrap().is_some());
    assert!(Process::adopt(pid, started - 1).unwrap().is_none(), "the number is right, the process is another");
    drop(engine);
    assert!(Process::adopt(pid, started).unwrap().is_none(), "it has ended");
}

fn failures_are_named(world: &World) {
    let children = || fs_err::read_to_string("/proc/thread-self/children").unwrap();
    let before = children();
    let check = |step: Step, object: &Path, change: &dyn Fn(&mut Launch)| {
        let mut launch = world.launch(&["/bin/true"]);
        change(&mut launch);
        let Err(error) = sandbox::start(&launch) else { panic!("{step:?} did not fail") };
        let Error::Step { step: found, object: on, source } = &error else { panic!("{error}") };
        assert_eq!((*found, on.as_path()), (step, object), "{error}: {source}");
        assert!(!error.hint().is_empty(), "{error}");
        assert!(sandbox::adopt(&launch.lock).unwrap().is_none(), "a failed start holds no lock");
    };
    let gone = world.path("gone");
    check(Step::Exec, Path::new("/bin/redis-server"), &|launch| launch.argv[0] = "/bin/redis-server".into());
    check(Step::Exec, Path::new("bin/true"), &|launch| launch.argv[0] = "bin/true".into());
    check(Step::Exec, Path::new("/etc/release"), &|launch| launch.argv[0] = "/etc/release".into());
    check(Step::Exec, Path::new(""), &|launch| launch.argv.clear());
    check(Step::Root, &gone, &|launch| launch.root.clone_from(&gone));
    check(Step::Bind, &gone, &|launch| launch.binds[0].source.clone_from(&gone));
    check(Step::Bind, Path::new("/a/../b"), &|launch| launch.binds[0].target = "/a/../b".into());
    check(Step::Bind, Path::new("relative"), &|launch| launch.binds[0].target = "relative".into());
    check(Step::Bind, Path::new("/"), &|launch| launch.binds[0].target = "/".into());
    check(Step::Log, &gone.join("log"), &|launch| launch.log = gone.join("log"));
    check(Step::Cwd, Path::new("/nowhere"), &|launch| launch.cwd = "/nowhere".into());
    let mut launch = world.launch(&["/bin/true"]);
    launch.lock = gone.join("lock");
    assert!(matches!(sandbox::start(&launch), Err(Error::Step { step: Step::Lock, .. })));
    eventually("no process is left", || children() == before);
}

fn exits_are_told(world: &World) {
    let engine = start(&world.launch(&["/bin/sh", "-c", "exit 7"]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(engine.0.process.exited()).unwrap(), Exit::Code(7));
    assert_eq!(
        engine.0.process.wait_exit(Duration::ZERO).unwrap(),
        Some(Exit::Code(7)),
        "asked again, the same answer"
    );
    engine.0.process.signal(Signal::KILL).unwrap();

    let engine = world.sleeper();
    assert_eq!(engine.0.process.wait_exit(Duration::from_millis(20)).unwrap(), None);
    assert!(engine.0.process.is_alive());
    engine.0.process.signal(Signal::KILL).unwrap();
    assert_eq!(runtime.block_on(engine.0.process.exited()).unwrap(), Exit::Signal(9));

    // All that an engine started ends with it.
    let script = "sleep 1000 & echo > /volume/data/ready; exec sleep 1000";
    let engine = start(&world.launch(&["/bin/sh", "-c", script]));
    eventually("the script ran", || world.path("data/ready").exists());
    let lock = world.path("agent/engine.lock");
    assert!(sandbox::adopt(&lock).unwrap().is_some());
    engine.0.process.signal(Signal::KILL).unwrap();
    engine.0.process.wait_exit(Duration::from_secs(10)).unwrap();
    assert!(sandbox::adopt(&lock).unwrap().is_none(), "the background process had the lock, too, and is gone");
}

fn limits_hold_or_are_reported(world: &World) {
    let name = format!("test-{}", std::process::id());
    let mut launch = world.launch(&["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=256M", "count=1"]);
    launch.cgroup = Some(CgroupLimits { name, memory_bytes: 64 << 20, cpu_millis: Some(500) });
    let engine = start(&launch);
    let report = engine.0.limits.clone().unwrap();
    println!("memory {}, cpu {}", report.memory, report.cpu);
    let exit = engine.0.process.wait_exit(Duration::from_secs(10)).unwrap();
    match report.memory {
        Limit::Enforced => assert_eq!(exit, Some(Exit::Signal(9))),
        Limit::NotEnforced { why } => {
            assert!(!why.is_empty());
            assert_eq!(exit, Some(Exit::Code(0)), "not limited, as said");
        }
    }
    let holder: serde_json::Value = serde_json::from_slice(&fs_err::read(&launch.lock).unwrap()).unwrap();
    let groups: Vec<PathBuf> = serde_json::from_value(holder["cgroups"].clone()).unwrap();
    let quota = groups.iter().find_map(|group| {
        let read = |file: &str| fs_err::read_to_string(group.join(file)).ok();
        read("cpu.max").or_else(|| read("cpu.cfs_quota_us"))
    });
    if report.cpu == Limit::Enforced {
        assert_eq!(quota.unwrap().split_whitespace().next(), Some("50000"));
    } else {
        assert_eq!(quota, None);
    }
    drop(engine);
    for group in groups {
        eventually("the group is empty and goes", || fs_err::remove_dir(&group).is_ok());
    }
}

fn volume_lock_is_exclusive(world: &World) {
    let volume = world.place.path();
    let lock = VolumeLock::acquire(volume).unwrap().expect("nobody has it");
    assert!(VolumeLock::acquire(volume).unwrap().is_none());
    drop(lock);

    // As the local provider does it: take the lock, hand it over as standard input, let go.
    let given = fs_err::File::open(world.path("agent/lock")).unwrap().into_parts().0;
    flock(&given, FlockOperation::NonBlockingLockExclusive).unwrap();
    let (mut agent, said) = child(LOCKER, volume, given.into());
    assert_eq!(said, "true 0\n", "took it over, and reads nothing from it");
    assert!(VolumeLock::acquire(volume).unwrap().is_none());
    let (mut second, said) = child(LOCKER, volume, Stdio::null());
    assert_eq!(said, "false 0\n");
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(VolumeLock::acquire(volume).unwrap().is_some(), "the lock ended with its holder");
    second.kill().unwrap();
    second.wait().unwrap();
}

/// Prints, does not judge: machines differ.
fn start_cost(world: &World) {
    let launch = world.launch(&["/bin/true"]);
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..40 {
        let begun = Instant::now();
        let started = sandbox::start(&launch).unwrap();
        times[0].push(begun.elapsed());
        started.process.wait_exit(Duration::from_secs(10)).unwrap();
        times[1].push(begun.elapsed());
        let begun = Instant::now();
        Command::new(world.path("root/bin/true")).status().unwrap();
        times[2].push(begun.elapsed());
    }
    let [runs, ended, bare] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!(
        "medians of 40: program runs after {runs:?}, has ended after {ended:?}, outside the sandbox after {bare:?}"
    );
}
