//! One cell: an operation under clients that write, struck at a moment, and all that has to be true afterwards.

use std::time::{Duration, Instant};

use coffer_core::operation::Phase;
use serde_json::Value;

use super::cell::{Cell, Fault, Operation, Place, Side, rolls_back_in_place};
use super::chance::Chance;
use super::fault::{self, Mend, Target};
use super::moment::{Seen, last_done};
use super::remains::{assert_preimages_known, assert_rows_settled, assert_same};
use super::scene::Scene;
use super::subject::{Ask, Subject};
use super::support::held::Held;
use super::support::http::Answer;
use super::support::unharmed::{state, wait_until_settled};
use super::support::world::{Instance, PATIENCE, wait_for};

/// After how many cells a disk gives back room that is free.
const TRIM: usize = 20;

/// How a cell ended.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// The operation's phase.
    pub phase: String,
    /// From the strike until all was as it should be.
    pub recovered: Duration,
    pub acknowledged: u64,
    /// Why it was undone, if it was.
    pub cause: String,
}

/// What was struck.
struct Struck {
    id: String,
    at: Instant,
    mend: Mend,
    answer: std::thread::JoinHandle<Option<Answer>>,
}

/// Runs a cell. What is not as promised is a panic.
pub(crate) fn run(scene: &mut Scene, cell: &Cell, seed: u64) -> Outcome {
    let mut chance = Chance::of(seed, &cell.to_string());
    let keeping = keeping(cell, &mut chance);
    if cell.fault == Fault::PowerCut {
        // Others lose by it what they have not promised to keep.
        scene.keep_only_those_that_keep();
    }
    let mut subject = scene.subject(cell, keeping);
    if cell.step.place == Place::WayBack {
        let id = subject.as_ref().map_or("", |subject| &subject.instance.id);
        scene.versions.fail(&scene.world, id, true);
    }
    let ask = scene.ask(cell, subject.as_ref(), keeping);
    let before = scene.remains();
    let run = scene.runs;
    let writers = subject.as_ref().filter(|_| cell.operation != Operation::Delete).map(|subject| subject.write(run));

    let Struck { id, at, mend, answer } = strike(scene, cell, subject.as_ref(), ask.clone(), &mut chance);
    scene.ids.insert(id.clone());
    fault::mend(scene, mend);
    let answer = answer.join().expect("who asks");
    let over = wait_until_over(scene, cell, &id, ask, answer);
    if let Some(writers) = &writers {
        writers.wait_for_more();
    }
    let recovered = at.elapsed();
    scene.clock.set(0);

    let is_done = over["phase"] == "done";
    let in_place = rolls_back_in_place(cell.datastore);
    let loses = cell.operation == Operation::Rollback && !in_place && is_done;
    let balance = writers.map(|writers| writers.stop(loses)).unwrap_or_default();
    let lost = &balance.lost;
    assert!(lost.is_empty(), "of {} acknowledged writes {} are lost: {lost:#?}", balance.acknowledged, lost.len());
    check_end(scene, cell, &over, &id);
    if cell.step.place == Place::WayBack {
        scene.versions.fail(&scene.world, &id, false);
    }
    let gone = matches!(cell.operation, Operation::Create | Operation::Delete).then_some(id.as_str());
    match cell.operation {
        Operation::Create if is_done => subject = Some(take_over(scene, &id, keeping)),
        Operation::Create => {
            assert_eq!(scene.world.show(&id)["status"], "ERROR", "a creation that was undone");
            assert!(!scene.world.volume(&id).exists(), "a volume of a creation that was undone is left");
            scene.world.coffer(["instance", "delete", &id, "--wait"]).ok();
        }
        Operation::Delete => subject = None,
        Operation::Upgrade
        | Operation::Restart
        | Operation::Configure
        | Operation::Accounts
        | Operation::Rollback
        | Operation::Finalize => {}
    }
    if let Some(subject) = &mut subject {
        subject.check(&scene.world);
        check_effect(scene, cell, subject, is_done);
        if cell.fault == Fault::BadPreimage && cell.operation == Operation::Upgrade && is_done {
            // Whether what was damaged is read at all is chance; what is there is never the worse for it.
            let back = scene.world.coffer(["instance", "rollback", &subject.name, "--yes", "--wait"]);
            assert!([0, 6].contains(&back.code), "{back:?}");
            subject.check(&scene.world);
        }
        assert_preimages_known(&scene.world, &id);
    }
    assert_rows_settled(&mut scene.ledger());
    if let Some(subject) = &subject {
        wait_until_back(scene, &subject.instance.id);
    }
    assert_same(&before.without(gone), || scene.remains().without(gone.filter(|_| subject.is_some())));
    scene.ensure_roots();
    if run.is_multiple_of(TRIM) {
        scene.world.disk().expect("a disk of its own").trim();
    }
    match subject {
        // There is no way back that anybody could rely on.
        Some(subject) if cell.fault == Fault::BadPreimage => scene.delete(subject),
        Some(subject) => scene.keep(subject),
        None => {}
    }
    let cause = over["cause"]["message"].as_str().unwrap_or_default().to_owned();
    let phase = over["phase"].as_str().unwrap_or_default().to_owned();
    Outcome { phase, recovered, acknowledged: balance.acknowledged, cause }
}

/// How a Redis keeps its data in this cell.
pub(crate) fn keeping_of(cell: &Cell, seed: u64) -> usize {
    keeping(cell, &mut Chance::of(seed, &cell.to_string()))
}

fn keeping(cell: &Cell, chance: &mut Chance) -> usize {
    // Nobody but its promise brings back what an engine acknowledged, until there is a file of all writes for the section, and
    // when that is gone again.
    let seen_to = cell.operation == Operation::Upgrade
        && match (cell.step.place, cell.step.name, cell.side) {
            (Place::Section, "prepare", _)
            | (Place::Section, "quiesce", Side::Before)
            | (Place::Server | Place::Agent, ..) => false,
            (Place::Section, "open", side) => side == Side::Before,
            (Place::Section, ..) => true,
            (Place::WayBack, name, _) => !matches!(name, "prepare" | "quiesce"),
        };
    match cell.fault {
        _ if super::cell::has_accounts(cell.datastore) => 0,
        // A Redis that flushes each second writes later than it answers where its disk is busy.
        Fault::PowerCut => 0,
        Fault::KillEngine | Fault::KillAll if !seen_to => 0,
        _ => chance.pick(&[0, 1, 2, 3]),
    }
}

/// Asks for it, waits for the moment and strikes, while whoever is at work is held.
fn strike(scene: &Scene, cell: &Cell, subject: Option<&Subject>, ask: Ask, chance: &mut Chance) -> Struck {
    let mut ledger = scene.ledger();
    let newest_before = ledger.newest().expect("nobody is held").map(|entry| entry.id);
    let mut id = subject.map(|subject| subject.instance.id.clone());
    let mut journal = id.as_ref().map_or(Value::Null, |id| state(&scene.world, id));
    let done_before = last_done(&journal);
    let by_servers = cell.step.place == Place::Server;
    // Before anybody is held: it may have to log in first.
    let request = scene.request(ask);
    let mut held = match &id {
        Some(id) if !by_servers => Held::main_thread(scene.world.agent_pid(id).expect("an agent")),
        _ => Held::processes(scene.servers()),
    };
    let mut holds_servers = by_servers || id.is_none();
    let answer = std::thread::spawn(request);
    let deadline = Instant::now() + PATIENCE;
    let (mut inode, mut has_begun, mut at_work, mut steps) = (None, false, None, 0);
    loop {
        let file = id.as_ref().map(|id| scene.world.volume(id).join("agent/state.json"));
        // What is written takes the place of what was there, so it is another file.
        let now = file.and_then(|file| fs_err::metadata(file).ok()).map(|m| std::os::unix::fs::MetadataExt::ino(&m));
        if now != inode {
            inode = now;
            journal = id.as_ref().map_or(Value::Null, |id| state(&scene.world, id));
            has_begun |= journal["section"].is_object();
        }
        let needs_the_store = cell.needs_the_store() || id.is_none();
        let entry = if needs_the_store { ledger.newest() } else { Ok(None) };
        // Where the store is locked, there is nothing new to be seen in it.
        let entry = entry.unwrap_or_default().filter(|entry| Some(&entry.id) != newest_before.as_ref());
        if let Some(entry) = &entry {
            id.get_or_insert_with(|| entry.instance.clone());
        }
        let world = &scene.world;
        let (id_now, entry_now) = (id.as_deref(), entry.as_ref());
        let seen = Seen {
            world,
            id: id_now,
            journal: &journal,
            has_begun,
            done_before: &done_before,
            entry: entry_now,
            steps,
        };
        if cell.is_now(&seen) {
            break;
        }
        if let Some(agent) = id.as_ref().and_then(|id| world.agent_pid(id))
            && holds_servers
            && !by_servers
        {
            // There is an agent now: from here on it is that which is held.
            held = Held::main_thread(agent);
            holds_servers = false;
        }
        if let Some(entry) = entry.filter(|entry| entry.phase.is_final()) {
            assert!(entry.phase == Phase::Done || !by_servers, "it was over, and the moment never came: {entry:?}");
        }
        let in_section = matches!(cell.step.place, Place::Section | Place::WayBack);
        let is_over = in_section && has_begun && journal["section"].is_null();
        assert!(!is_over, "the section was over, and the moment never came");
        assert!(Instant::now() < deadline, "the moment never comes");
        let stepped = held.step();
        steps += 1;
        at_work = stepped.filter(|_| holds_servers);
        assert!(stepped.is_some(), "those who were held have ended before the moment came");
    }
    let id = id.expect("an instance");
    drop(ledger);
    let versions = &scene.versions;
    let version = match (cell.operation, cell.step.place) {
        (Operation::Upgrade, Place::WayBack) | (Operation::Create | Operation::Rollback, _) => &versions.old,
        (Operation::Upgrade, _) => &versions.new,
        _ => subject.map_or(&versions.old, |subject| &subject.version),
    };
    let mend = fault::strike(scene, cell, &Target { id: &id, version, at_work }, chance);
    let at = Instant::now();
    drop(held);
    Struck { id, at, mend, answer }
}

/// Waits until the operation is over, and gives it. One that the server had not written down when it was struck is not; what was
/// asked for is then asked again, as a client would.
fn wait_until_over(scene: &Scene, cell: &Cell, id: &str, ask: Ask, answer: Option<Answer>) -> Value {
    let done = serde_json::json!({"phase": "done"});
    match cell.operation {
        Operation::Delete => {
            let mut left = Value::Null;
            wait_for("the instance to be gone", || {
                let answer = scene.world.ask("demo", "GET", &format!("/instances/{id}"), &Value::Null);
                left = answer.json();
                answer.status == 404
            });
            done
        }
        Operation::Accounts => {
            let answered = |answer: &Answer| answer.status == 202;
            if !answer.as_ref().is_some_and(answered) {
                // It may have been made nevertheless; what is there already is said to be. Until the engine is back, clients are
                // told that the instance is not ready.
                let mut again = scene.request(ask.clone())().expect("an answer");
                wait_for("the instance to be ready", || {
                    if again.status == 422 {
                        again = scene.request(ask.clone())().expect("an answer");
                    }
                    again.status != 422
                });
                assert!([202, 400, 409].contains(&again.status), "{again:?}");
            }
            done
        }
        Operation::Create
        | Operation::Upgrade
        | Operation::Restart
        | Operation::Configure
        | Operation::Rollback
        | Operation::Finalize => scene.world.wait_until_over(id),
    }
}

/// It ended as it may, and says why where it did not go on.
fn check_end(scene: &Scene, cell: &Cell, over: &Value, id: &str) {
    assert_ne!(over["phase"], "stuck", "{over:#}");
    let is_done = over["phase"] == "done";
    let may_be_undone = cell.step.place == Place::WayBack
        || match cell.fault {
            Fault::KillServer | Fault::KillAgent | Fault::KillKeeper | Fault::NetworkCut => false,
            Fault::KillEngine
            | Fault::KillAll
            | Fault::PowerCut
            | Fault::DiskFull
            | Fault::DiskSlow
            | Fault::ClockJump
            | Fault::BadPreimage
            | Fault::RootGone
            | Fault::RegistryHangs => true,
        };
    assert!(is_done || may_be_undone, "whoever can go on goes on: {over:#}");
    assert!(!is_done || cell.step.place != Place::WayBack, "it succeeded with a target that fails: {over:#}");
    if is_done {
        return;
    }
    let message = over["cause"]["message"].as_str().unwrap_or_default();
    assert_ne!(message, "", "nobody is told why: {over:#}");
    // It may be in the sentence.
    let hint = over["cause"]["hint"].as_str().unwrap_or_default();
    assert!(!hint.is_empty() || message.contains("hint:"), "nobody is told what to do: {over:#}");
    assert!(
        !message.contains(scene.world.data().to_str().unwrap_or_default()),
        "told what is inside the host: {message}"
    );
    let shown = scene.world.show(id);
    assert!(shown["fault"]["message"].as_str().is_some_and(|fault| fault.contains(message)), "{shown}");
}

/// An instance that a cell has created, for the cells that follow.
fn take_over(scene: &Scene, id: &str, keeping: usize) -> Subject {
    let shown = scene.world.show(id);
    let address: std::net::IpAddr = shown["ip"][0].as_str().and_then(|ip| ip.parse().ok()).expect("an address");
    let name = super::support::world::text(&shown["name"]);
    // Whoever asked may have been answered by nobody.
    let identity = fs_err::read(scene.world.volume(id).join("agent/identity.json")).expect("the agent's identity");
    let identity: Value = serde_json::from_slice(&identity).expect("the agent's identity");
    let password = super::support::world::text(&identity["tenant_password"]);
    let instance = Instance { id: id.to_owned(), address: (address, 6379).into(), password };
    wait_until_back(scene, id);
    // After the end of everything nobody listens, until its agent has started the engine again.
    let port = scene.versions.datastore.port();
    wait_for("clients to get in", || std::net::TcpStream::connect((address, port)).is_ok());
    Subject::fill(&scene.world, &scene.versions, instance, &name, keeping)
}

/// Waits until an instance has all who look after it. A process that was started is one of them when it has its lock.
fn wait_until_back(scene: &Scene, id: &str) {
    let world = &scene.world;
    wait_for("whoever was killed to be back", || world.agent_pid(id).is_some() && world.keeper_pid(id).is_some());
}

/// What the operation is for is there, if it was done, and else is not.
fn check_effect(scene: &Scene, cell: &Cell, subject: &Subject, is_done: bool) {
    let shown = scene.world.show(&subject.instance.id);
    let versions = &scene.versions;
    let version = match cell.operation {
        Operation::Upgrade if is_done => Some(&versions.new),
        Operation::Upgrade | Operation::Create => Some(&versions.old),
        Operation::Rollback if is_done => Some(&versions.old),
        Operation::Rollback => Some(&versions.new),
        Operation::Restart | Operation::Configure | Operation::Accounts | Operation::Finalize | Operation::Delete => {
            None
        }
    };
    assert!(version.is_none_or(|version| shown["datastore"]["version"] == **version), "{version:?}: {shown}");
    match cell.operation {
        Operation::Configure => {
            let (setting, other) = versions.live_setting();
            wait_until_settled(&scene.world, &subject.instance.id);
            assert_eq!(subject.setting(&scene.world, setting) == other, is_done, "{setting}");
            if is_done {
                scene.world.coffer(["configuration", "detach", &subject.name]).ok();
                wait_for("the default to hold", || subject.setting(&scene.world, setting) != other);
                scene.world.wait_until_over(&subject.instance.id);
            }
        }
        Operation::Finalize => assert!(shown["rollback"].is_null(), "{shown}"),
        Operation::Accounts => {
            let path = format!("/instances/{}/databases", subject.instance.id);
            let listed = scene.world.ask("demo", "GET", &path, &Value::Null);
            let name = format!("d{}", scene.runs);
            let databases = listed.json();
            let is_there = databases["databases"].as_array().is_some_and(|all| all.iter().any(|d| d["name"] == name));
            assert!(is_there, "{name} is not among {databases}");
            let deleted = scene.world.ask("demo", "DELETE", &format!("{path}/{name}"), &Value::Null);
            assert_eq!(deleted.status, 202, "{deleted:?}");
        }
        Operation::Create | Operation::Upgrade | Operation::Restart | Operation::Rollback | Operation::Delete => {}
    }
}
