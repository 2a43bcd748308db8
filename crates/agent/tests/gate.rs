//! The gate on real sockets and processes: as root and as an ordinary user, over IPv4 and IPv6. The engine is a web server that
//! says its name.
//!
//! Needs the Debian package busybox-static.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use coffer_agent::gate::{self, Found, Gate};
use coffer_agent::sandbox::{self, Bind, Launch, Process, User};
use coffer_core::gate::{Behind, Gate as State, Level, Stance};
use rustix::process::Signal;
use support::{eventually, install_busybox, is_root};

const ENGINE: u32 = 700_008;
/// Longer than any test.
const LONG: Duration = Duration::from_secs(60);
/// As short as a deadline can be that something is done before.
const SHORT: Duration = Duration::from_millis(300);

const TESTS: [support::Test; 10] = [
    ("a_gate_does_not_join_those_who_have_its_address", || {
        for world in [World::v4(), World::v6()] {
            let _other = world.gate(LONG, None);
            fs_err::rename(world.path("agent"), world.path("elsewhere")).unwrap();
            fs_err::create_dir(world.path("agent")).unwrap();
            let found = gate::find(Level::Steered);
            let second = Gate::meet(&world.path("agent"), world.address, found, LONG, None).unwrap_err();
            assert!(second.to_string().contains("in use"), "{second}");
            fs_err::remove_dir_all(world.path("agent")).unwrap();
            fs_err::rename(world.path("elsewhere"), world.path("agent")).unwrap();
        }
    }),
    ("who_waits_comes_to_the_engine_that_is_let_in", || waits(World::v4())),
    ("the_same_over_ipv6", || waits(World::v6())),
    ("the_shared_socket_keeps_who_waits_and_is_given_to_the_next_engine", shared),
    ("who_waits_is_kept_when_the_keeper_is_killed_and_when_the_agent_is_gone", keeper_or_agent),
    ("nobody_reaches_an_engine_that_was_not_let_in_though_agent_and_keeper_are_dead", both),
    ("the_end_of_an_engine_is_seen_and_who_comes_then_waits_for_the_next", engine_ends),
    ("late_the_engine_from_before_is_let_back_in", late_back),
    ("late_connections_are_refused_and_the_next_engine_opens_the_port_again", late_refused),
    ("a_keeper_that_nobody_needs_ends_and_leaves_nothing", unneeded),
];

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(sandbox::INIT_COMMAND) => sandbox::init_main(),
        Some(gate::KEEPER_COMMAND) => gate::keeper_main(),
        Some(gate::TRIAL_COMMAND) => gate::trial_main(),
        _ => {
            // As root this turns on what it takes, also for the ordinary user.
            let found = gate::find(Level::Steered);
            if found.level == Level::Steered {
                return support::run(&TESTS);
            }
            support::not_run(&format!("all tests of the gate: {}", found.why))
        }
    }
}

/// A volume, and an address.
struct World {
    place: tempfile::TempDir,
    address: SocketAddr,
    level: Level,
}

impl World {
    fn v4() -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    fn v6() -> Self {
        Self::at(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))
    }

    fn at(any: SocketAddr) -> Self {
        let place = tempfile::tempdir().unwrap();
        fs_err::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let world =
            Self { place, address: TcpListener::bind(any).unwrap().local_addr().unwrap(), level: Level::Steered };
        install_busybox(&world.path("root/bin"), &["httpd"]);
        for directory in ["data", "agent"] {
            fs_err::create_dir_all(world.path(directory)).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Meets the gate as an agent does that has just been started.
    fn gate(&self, limit: Duration, engine: Option<&Process>) -> Gate {
        let found = gate::find(self.level);
        assert_eq!(found.level, self.level, "{}", found.why);
        Gate::meet(&self.path("agent"), self.address, found, limit, engine).unwrap()
    }

    /// Starts an engine with this name behind the gate, and waits until it listens.
    fn engine(&self, gate: &mut Gate, name: &str) -> Engine {
        let file = self.path("data/name");
        fs_err::write(&file, name).unwrap();
        fs_err::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        let address = self.address.to_string();
        let launch = Launch {
            root: self.path("root"),
            argv: ["/bin/httpd", "-f", "-p", &address, "-h", "/data"].map(str::to_owned).to_vec(),
            env: BTreeMap::new(),
            binds: vec![Bind { source: self.path("data"), target: "/data".into(), read_only: false }],
            user: if is_root() { User::Fixed { uid: ENGINE, gid: ENGINE } } else { User::Own },
            open_files: 512,
            cgroup: None,
            log: self.path("agent/engine.log"),
            lock: self.path("agent/engine.lock"),
            cwd: "/data".into(),
            stdin: None,
            gated: true,
        };
        let started = sandbox::start(&launch).unwrap();
        let engine = Engine(started.process);
        gate.started(&engine.0, started.notify.as_ref().unwrap()).unwrap();
        let inode = |gate: &Gate| gate.engine_socket().map(|socket| rustix::fs::fstat(socket).unwrap().st_ino);
        eventually("the engine to listen", || {
            gate.look().unwrap();
            assert!(!gate.is_broken(), "{:?}", gate.take_notices());
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs_err::read_to_string(table).unwrap());
            // State 0A is LISTEN; the inode is the tenth word.
            let listens = |inode: u64| {
                tables
                    .iter()
                    .flat_map(|table| table.lines())
                    .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
                    .any(|words| words.get(3) == Some(&"0A") && words.get(9) == Some(&inode.to_string().as_str()))
            };
            self.level == Level::Shared || inode(gate).is_some_and(listens)
        });
        engine
    }

    /// A client that asks for the name. It is connected when this returns.
    fn client(&self) -> Client {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let (told, answer) = channel();
        std::thread::spawn(move || {
            let mut ask = || -> io::Result<String> {
                stream.set_read_timeout(Some(LONG))?;
                stream.write_all(b"GET /name HTTP/1.0\r\n\r\n")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                Ok(text.rsplit("\r\n").next().unwrap_or_default().to_owned())
            };
            let _ = told.send(ask().map_err(|error| error.kind()));
        });
        Client(answer)
    }

    fn keeper(&self) -> Process {
        sandbox::adopt(&self.path("agent/gate.lock")).unwrap().expect("a keeper")
    }

    fn kill_keeper(&self) {
        let keeper = self.keeper();
        keeper.signal(Signal::KILL).unwrap();
        keeper.wait_exit(LONG).unwrap().expect("it ends");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Ok(Some(keeper)) = sandbox::adopt(&self.path("agent/gate.lock")) {
            let _ = keeper.signal(Signal::KILL);
            let _ = keeper.wait_exit(LONG);
        }
    }
}

struct Engine(Process);

impl Engine {
    fn kill(&self) {
        self.0.signal(Signal::KILL).unwrap();
        self.0.wait_exit(LONG).unwrap().expect("it ends");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
    }
}

struct Client(Receiver<Result<String, io::ErrorKind>>);

impl Client {
    fn assert_waits(&self) {
        assert_eq!(self.0.try_recv(), Err(TryRecvError::Empty));
    }

    fn answer(self) -> Result<String, io::ErrorKind> {
        self.0.recv_timeout(LONG).expect("an answer")
    }
}

/// A keeper is asked after it was given something to do, so that what it does by itself is done.
fn stance(gate: &mut Gate) -> Stance {
    gate.look().unwrap();
    gate.state().unwrap().stance()
}

fn waits(world: World) {
    let mut gate = world.gate(LONG, None);
    let first = world.client();
    let one = world.engine(&mut gate, "one");
    let second = world.client();
    first.assert_waits();
    gate.open().unwrap();
    assert_eq!((first.answer(), second.answer()), (Ok("one".to_owned()), Ok("one".to_owned())));
    assert_eq!(world.client().answer(), Ok("one".to_owned()));

    gate.hold(LONG).unwrap();
    let third = world.client();
    one.kill();
    let fourth = world.client();
    let _two = world.engine(&mut gate, "two");
    third.assert_waits();
    gate.open().unwrap();
    gate.open().unwrap();
    assert_eq!((third.answer(), fourth.answer()), (Ok("two".to_owned()), Ok("two".to_owned())));
}

fn shared() {
    let mut world = World::v4();
    world.level = Level::Shared;
    // It is given to the first that binds, so there is nothing to keep from an engine here.
    let mut gate = world.gate(LONG, None);
    let first = world.client();
    let one = world.engine(&mut gate, "one");
    gate.open().unwrap();
    assert_eq!(first.answer(), Ok("one".to_owned()));
    gate.hold(LONG).unwrap();
    one.kill();
    let second = world.client();
    second.assert_waits();
    let _two = world.engine(&mut gate, "two");
    gate.open().unwrap();
    assert_eq!(second.answer(), Ok("two".to_owned()));
}

fn keeper_or_agent() {
    let world = World::v4();
    let mut gate = world.gate(LONG, None);
    let first = world.client();
    world.kill_keeper();
    let second = world.client();
    gate.look().unwrap();
    let one = world.engine(&mut gate, "one");
    world.kill_keeper();
    first.assert_waits();
    gate.open().unwrap();
    assert_eq!((first.answer(), second.answer()), (Ok("one".to_owned()), Ok("one".to_owned())));

    gate.hold(LONG).unwrap();
    let third = world.client();
    drop(gate);
    one.kill();
    let mut gate = world.gate(LONG, None);
    let _two = world.engine(&mut gate, "two");
    third.assert_waits();
    drop(gate);
    let mut gate = world.gate(LONG, None);
    assert_eq!(gate.state().unwrap().behind(), Behind::Unproven);
    gate.open().unwrap();
    assert_eq!(third.answer(), Ok("two".to_owned()));
}

fn both() {
    let world = World::v4();
    let mut gate = world.gate(LONG, None);
    let one = world.engine(&mut gate, "one");
    let first = world.client();
    // The agent's copies are gone with it.
    drop(gate);
    world.kill_keeper();
    let second = world.client();
    let mut gate = world.gate(LONG, Some(&one.0));
    assert!(matches!(gate.state(), Some(State::Holding { behind: Behind::Unproven, .. })), "{:?}", gate.state());
    first.assert_waits();
    second.assert_waits();
    gate.open().unwrap();
    assert_eq!((first.answer(), second.answer()), (Ok("one".to_owned()), Ok("one".to_owned())));

    // And of one that was let in.
    drop(gate);
    world.kill_keeper();
    assert_eq!(world.client().answer(), Ok("one".to_owned()));
    let mut gate = world.gate(LONG, Some(&one.0));
    assert_eq!(stance(&mut gate), Stance::Open);
    gate.hold(LONG).unwrap();
    world.client().assert_waits();
}

fn engine_ends() {
    let world = World::v4();
    let mut gate = world.gate(LONG, None);
    let one = world.engine(&mut gate, "one");
    gate.open().unwrap();
    assert_eq!(world.client().answer(), Ok("one".to_owned()));
    one.kill();
    let first = world.client();
    eventually("its end to be seen", || stance(&mut gate) == Stance::Holding);
    let second = world.client();
    let _two = world.engine(&mut gate, "two");
    gate.open().unwrap();
    assert_eq!((first.answer(), second.answer()), (Ok("two".to_owned()), Ok("two".to_owned())));
}

fn late_back() {
    let world = World::v4();
    let mut gate = world.gate(LONG, None);
    let _one = world.engine(&mut gate, "one");
    gate.open().unwrap();
    gate.hold(SHORT).unwrap();
    // Nobody does anything more: the keeper has the deadline, also where there is no agent.
    drop(gate);
    assert_eq!(world.client().answer(), Ok("one".to_owned()));
    let mut gate = world.gate(LONG, None);
    assert_eq!(stance(&mut gate), Stance::Open);
    assert!(gate.take_notices().iter().any(|notice| notice.contains("let back in")));
}

fn late_refused() {
    let world = World::v4();
    let mut gate = world.gate(SHORT, None);
    let first = world.client();
    assert_eq!(first.answer(), Err(io::ErrorKind::ConnectionReset));
    assert_eq!(stance(&mut gate), Stance::Refusing);
    assert!(gate.take_notices().iter().any(|notice| notice.contains("refused")));
    assert_eq!(TcpStream::connect(world.address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

    // An engine that comes now is not seen before it is let in, either.
    let _one = world.engine(&mut gate, "one");
    assert_eq!(world.client().answer(), Err(io::ErrorKind::ConnectionReset));
    gate.open().unwrap();
    assert_eq!(world.client().answer(), Ok("one".to_owned()));
}

fn unneeded() {
    let world = World::v4();
    let gate = world.gate(SHORT, None);
    let keeper = world.keeper();
    drop(gate);
    assert!(keeper.wait_exit(LONG).unwrap().is_some(), "it ends when it is late and nobody is there");
    TcpListener::bind(world.address).expect("the address is free");
    let found = Found { level: Level::Own, why: "a test".to_owned() };
    let mut none = Gate::meet(&world.path("agent"), world.address, found, LONG, None).unwrap();
    none.hold(LONG).unwrap();
    none.open().unwrap();
    assert_eq!(none.state(), None);
}
