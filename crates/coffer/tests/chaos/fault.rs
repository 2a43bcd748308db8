//! What happens to a world at the moment of a cell, and how it is mended where that does not happen by itself.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use super::cell::{Cell, Fault, Operation, Place};
use super::chance::Chance;
use super::scene::Scene;
use super::support::disk::Ballast;
use super::support::leftovers::has_ended;
use super::support::unharmed::state;
use super::support::world::{kill, signal, wait_for};

/// How long something is in the way that goes by itself.
const LASTS: std::ops::Range<u64> = 500..3000;
/// How far clocks jump, in seconds. Not over the life of a login, which is 12 hours.
const JUMPS: [i64; 4] = [-6 * 3600, -40, 40, 6 * 3600];

/// What has to be done so that it goes on.
pub(crate) enum Mend {
    Nothing,
    /// These were killed. Servers are started again; others are by those who look after them.
    Killed(Vec<u32>),
    /// Everything was, and the disk has to be mounted again.
    Power(Vec<u32>),
    /// The disk is full for so long.
    Room(Ballast, Duration),
    Slow(JoinHandle<()>),
    /// Sockets are not where they are looked for.
    Network(Vec<PathBuf>, Duration),
    Clock,
    /// An engine root is not there for so long, and nobody but an operator can bring it back.
    Root(Box<dyn FnOnce()>, Duration),
}

/// What is struck.
pub(crate) struct Target<'a> {
    /// The instance.
    pub id: &'a str,
    /// The version whose engine is to be started.
    pub version: &'a str,
    /// The server that was seen doing it, if one was.
    pub at_work: Option<u32>,
}

/// Strikes. Nobody is asked anything who may be held.
pub(crate) fn strike(scene: &Scene, cell: &Cell, target: &Target<'_>, chance: &mut Chance) -> Mend {
    let Target { id, version, at_work } = *target;
    let lasts = Duration::from_millis(chance.within(LASTS));
    let world = &scene.world;
    let must = |what: &str, pid: Option<u32>| {
        let victim = pid.unwrap_or_else(|| panic!("there is no {what} to be killed"));
        kill(victim);
        Mend::Killed(vec![victim])
    };
    // Not later: without a disk nobody can be looked up.
    let all = [world.agent_pid(id), world.engine_pid(id), world.keeper_pid(id)];
    let all: Vec<_> = all.into_iter().flatten().chain(scene.servers()).collect();
    match cell.fault {
        Fault::KillServer => must("server", Some(at_work.unwrap_or_else(|| chance.pick(&scene.servers())))),
        Fault::KillAgent => must("agent", world.agent_pid(id)),
        // On the way back the one that failed may have ended by itself, and then it is as if it had been killed.
        Fault::KillEngine if cell.step.place == Place::WayBack => {
            let victims: Vec<_> = world.engine_pid(id).into_iter().collect();
            victims.iter().copied().for_each(kill);
            Mend::Killed(victims)
        }
        Fault::KillEngine => must("engine", world.engine_pid(id)),
        Fault::KillKeeper => must("keeper", world.keeper_pid(id)),
        Fault::KillAll => {
            all.iter().copied().for_each(kill);
            Mend::Killed(all)
        }
        Fault::PowerCut => {
            // Nobody says any more that something is on the disk: a flush that the end of the file system meets may seem to be done.
            for pid in &all {
                signal(*pid, Signal::STOP);
            }
            world.disk().expect("a disk of its own").cut();
            all.iter().copied().for_each(kill);
            Mend::Power(all)
        }
        Fault::DiskFull => Mend::Room(world.disk().expect("a disk of its own").fill(), lasts),
        Fault::DiskSlow => Mend::Slow(world.disk().expect("a disk of its own").slow(lasts)),
        Fault::NetworkCut => Mend::Network(scene.cut_network(), lasts),
        Fault::ClockJump => {
            scene.clock.set(chance.pick(&JUMPS));
            Mend::Clock
        }
        Fault::BadPreimage => {
            damage_preimage(scene, cell.operation, id);
            Mend::Nothing
        }
        Fault::RootGone => {
            let bring_back = scene.remove_root(version);
            bring_back.map_or(Mend::Nothing, |bring_back| Mend::Root(Box::new(bring_back), lasts))
        }
        Fault::RegistryHangs => Mend::Nothing,
    }
}

/// Does what operators do, and no more.
pub(crate) fn mend(scene: &mut Scene, mend: Mend) {
    match mend {
        // The clock is put right when all is over.
        Mend::Nothing | Mend::Clock => {}
        Mend::Killed(killed) => {
            wait_until_gone(&killed);
            scene.start_servers();
        }
        Mend::Power(killed) => {
            scene.kill_everything();
            wait_until_gone(&killed);
            scene.world.power_on();
            scene.start_servers();
        }
        Mend::Room(ballast, lasts) => {
            std::thread::sleep(lasts);
            drop(ballast);
        }
        Mend::Root(bring_back, lasts) => {
            std::thread::sleep(lasts);
            bring_back();
        }
        Mend::Slow(slow) => slow.join().expect("a disk that was slow"),
        Mend::Network(moved, lasts) => {
            std::thread::sleep(lasts);
            scene.mend_network(moved);
        }
    }
}

/// Makes the newest pre-image of an instance another one than was taken, and leaves the data alone that share files with it.
fn damage_preimage(scene: &Scene, operation: Operation, id: &str) {
    let pre = scene.world.volume(id).join("pre");
    let journal = state(&scene.world, id);
    // A rollback takes one, too; it is the one that is gone back to that counts.
    let wanted = match operation {
        Operation::Upgrade => journal["section"]["section"]["operation"].as_str().map(str::to_owned),
        _ => None,
    };
    let known = journal["preimages"].as_array().and_then(|kept| kept.last()?["operation"].as_str().map(str::to_owned));
    let one = pre.join(wanted.or(known).expect("a pre-image"));
    let mut files = Vec::new();
    let mut open = vec![one];
    while let Some(directory) = open.pop() {
        for entry in fs_err::read_dir(directory).expect("a pre-image").flatten() {
            let path = entry.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    let largest = files.iter().filter(|path| !path.ends_with("held.json"));
    let largest = largest.max_by_key(|path| fs_err::metadata(path).map_or(0, |m| m.len())).expect("a file in it");
    let mut bytes = fs_err::read(largest).expect("a file");
    let middle = bytes.len() / 2;
    for byte in bytes.iter_mut().skip(middle.saturating_sub(64)).take(128) {
        *byte ^= 0x5a;
    }
    let new = largest.with_extension("damaged");
    let meta = fs_err::metadata(largest).expect("a file");
    fs_err::write(&new, bytes).expect("a file");
    fs_err::set_permissions(&new, meta.permissions()).expect("its mode");
    let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&meta), std::os::unix::fs::MetadataExt::gid(&meta));
    fs_err::os::unix::fs::chown(&new, Some(uid), Some(gid)).expect("its owner");
    fs_err::rename(&new, largest).expect("another file in its place");
}

fn wait_until_gone(killed: &[u32]) {
    wait_for("whoever was killed to be gone", || killed.iter().all(|pid| has_ended(*pid)));
}
