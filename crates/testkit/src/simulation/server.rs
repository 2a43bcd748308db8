//! Servers: each looks at what is open, claims what is due and works on it, hears agents and tells them what is wanted, and takes
//! requests. Between any two of its reads and writes it may be stopped for long, cut off, or killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coffer_core::finding::Cause;
use coffer_core::id::{Generation, OperationId, TaskId};
use coffer_core::instance::{Instance, Kind, Observed, Operation};
use coffer_core::operation::{Event as Happened, Phase};
use coffer_core::plan::Step;
use coffer_core::runner::{self, Act, Change, Due, LEASE, due, order_of};
use coffer_core::spec::EngineSpec;
use coffer_core::stuck::{is_left, why};
use coffer_core::task::{Order, TaskResult};
use jiff::Timestamp;

use super::choice::{Decision, Hold};
use super::link::Letter;
use super::place::Place;
use super::request::Request;
use super::world::{Event, World};

/// How often the store and the places are looked at.
const POLL: u64 = 1000;
/// Every how many looks it is looked for places that nobody wants any more.
const SWEEP: u64 = 30;
/// What an agent saw is written down at least so often, in milliseconds.
const WRITE: u64 = 30_000;
/// What an agent saw longer ago says nothing.
const BELIEVED_SECONDS: i64 = 90;

/// What an agent tells.
pub(super) struct Report {
    pub(super) observed: Observed,
    /// The task that it does not get on with, and why.
    pub(super) stuck: Option<(TaskId, Cause)>,
    pub(super) results: Vec<TaskResult>,
}

/// What an agent is told.
pub(super) struct Desired {
    pub(super) revision: u64,
    pub(super) generation: Generation,
    pub(super) engine: Option<EngineSpec>,
    pub(super) tasks: Vec<Order>,
    pub(super) held: Option<OperationId>,
    /// Another number whenever a person wants a section to be tried at once.
    pub(super) resume: Option<u64>,
}

/// Something that a server does, or that reaches it.
#[derive(Clone)]
pub(super) enum Turn {
    /// It looks at everything.
    Poll,
    /// It looks at one instance, since something may have become due.
    Look(usize),
    /// It hears that another server has written something of an instance.
    News(usize),
    /// It goes on with the operation that it has claimed.
    Drive(usize),
    /// It has seen that these agents are dead, and asks whose are wanted.
    Dead(Vec<usize>),
    Revive(usize),
    /// It has seen these places, and asks which are wanted.
    Places(Vec<usize>),
    DropLeft(usize),
    Request(Request),
    Decide(Decision),
    Report {
        ix: usize,
        life: u32,
        report: Arc<Report>,
    },
    Ask {
        ix: usize,
        life: u32,
        known: u64,
    },
}

/// Whether a server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Up {
    Runs,
    /// Stopped by a signal. It knows nothing of it.
    Paused,
    Dead,
}

/// What a server knows of an agent.
#[derive(Default)]
struct Contact {
    seen: Option<Arc<Observed>>,
    saved_at: u64,
    stuck: Option<(TaskId, Cause)>,
    resume: Option<u64>,
}

pub(super) struct Server {
    pub(super) life: u32,
    pub(super) up: Up,
    /// Cut off from the store.
    pub(super) cut: bool,
    /// By how much its clock is wrong, in milliseconds.
    pub(super) skew: i64,
    polls: u64,
    drives: BTreeMap<usize, Drive>,
    /// Looked at in vain because something was being done.
    again: BTreeSet<usize>,
    contacts: BTreeMap<usize, Contact>,
    /// What it does when it goes on.
    pub(super) backlog: Vec<Turn>,
}

impl Server {
    pub(super) fn new(life: u32) -> Self {
        Self {
            life,
            up: Up::Runs,
            cut: false,
            skew: 0,
            polls: u64::from(life),
            drives: BTreeMap::new(),
            again: BTreeSet::new(),
            contacts: BTreeMap::new(),
            backlog: Vec::new(),
        }
    }
}

/// The work on an operation.
struct Drive {
    operation: OperationId,
    instance: Arc<Instance>,
    claimed: Option<Operation>,
    stage: Stage,
}

enum Stage {
    Claim,
    Look,
    Provide(Act),
    /// It has the place, and asks whether the operation still is its own.
    Ask(Hold),
    Remove(Hold),
    Save(Happened, Vec<Change>),
    Release,
}

/// What comes of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transaction {
    Fine,
    /// Nothing was written.
    Failed,
    /// It was written, and nobody hears of it.
    Unheard,
}

impl World {
    /// The time by the clock of a server.
    pub(super) fn clock(&self, s: usize) -> Timestamp {
        let millis = self.now.cast_signed() + self.servers[s].skew;
        Timestamp::from_millisecond(millis).expect("a time that there is")
    }

    pub(super) fn transaction(&mut self, s: usize) -> Transaction {
        if self.servers[s].cut || self.store_down || self.odds_strike(|odds| odds.store_fails) {
            return Transaction::Failed;
        }
        if self.odds_strike(|odds| odds.unheard) { Transaction::Unheard } else { Transaction::Fine }
    }

    fn can_read(&mut self, s: usize) -> bool {
        self.transaction(s) == Transaction::Fine
    }

    pub(super) fn server_turn(&mut self, s: usize, life: u32, turn: Turn) {
        let server = &mut self.servers[s];
        if server.life != life || server.up == Up::Dead {
            return;
        }
        if server.up == Up::Runs
            && matches!(turn, Turn::Drive(_) | Turn::Revive(_) | Turn::Request(_) | Turn::Decide(_))
            && self.server_is_struck(s)
        {
            return self.server_turn(s, life, turn);
        }
        let server = &mut self.servers[s];
        if server.up == Up::Paused {
            return server.backlog.push(turn);
        }
        match turn {
            Turn::Poll => self.poll(s),
            Turn::Look(ix) => self.look(s, ix),
            Turn::News(ix) => {
                self.look(s, ix);
                self.tell_agent(s, ix);
            }
            Turn::Drive(ix) => self.drive(s, ix),
            Turn::Dead(dead) => {
                if self.can_read(s) {
                    for ix in dead.into_iter().filter(|ix| self.wants_agent(*ix)).collect::<Vec<_>>() {
                        self.server_does(s, 1, 30, Turn::Revive(ix));
                    }
                }
            }
            Turn::Revive(ix) => self.revive(s, ix),
            Turn::Places(places) => {
                if self.can_read(s) {
                    for ix in places.into_iter().filter(|ix| self.is_left(*ix)).collect::<Vec<_>>() {
                        self.server_does(s, 1, 30, Turn::DropLeft(ix));
                    }
                }
            }
            Turn::DropLeft(ix) => {
                if !self.provider_fails()
                    && let Some(held) = self.take_place(s, ix)
                {
                    self.drop_place(ix);
                    self.leave_place(ix, held);
                }
            }
            Turn::Request(request) => self.take_request(s, request),
            Turn::Decide(decision) => self.decide(s, decision),
            Turn::Report { ix, life, report } => self.hear(s, ix, life, &report),
            Turn::Ask { ix, life, known } => self.answer(s, ix, life, known),
        }
    }

    /// Has a server do something within that time, if it lives so long.
    pub(super) fn server_does(&mut self, s: usize, from: u64, to: u64, turn: Turn) {
        let at = self.now + self.rng.between(from, to);
        self.at(at, Event::Server(s, self.servers[s].life, turn));
    }

    fn poll(&mut self, s: usize) {
        self.server_does(s, POLL, POLL + 20, Turn::Poll);
        let dead: Vec<_> = self
            .places
            .iter()
            .enumerate()
            .filter(|(_, p)| p.as_ref().is_some_and(|p| !p.agent.lives))
            .map(|(ix, _)| ix)
            .collect();
        if !dead.is_empty() {
            self.server_does(s, 1, 10, Turn::Dead(dead));
        }
        self.servers[s].polls += 1;
        if self.servers[s].polls.is_multiple_of(SWEEP) {
            let places = self.places.iter().enumerate().filter(|(_, p)| p.is_some()).map(|(ix, _)| ix).collect();
            self.server_does(s, 1, 10, Turn::Places(places));
        }
        if self.can_read(s) {
            for ix in 0..self.store.rows.len() {
                self.consider(s, ix);
            }
        }
    }

    fn look(&mut self, s: usize, ix: usize) {
        if self.can_read(s) {
            self.consider(s, ix);
        }
    }

    /// Begins to work on what is open of an instance, if that is due.
    fn consider(&mut self, s: usize, ix: usize) {
        let row = &self.store.rows[ix];
        let Some(open) = row.open() else { return };
        let seen = self.servers[s].contacts.get(&ix).and_then(|contact| contact.seen.as_deref());
        if due(open, &row.results, seen, self.clock(s)) != Due::Now {
            return;
        }
        let drive =
            Drive { operation: open.id, instance: Arc::clone(&row.instance), claimed: None, stage: Stage::Claim };
        let server = &mut self.servers[s];
        if server.drives.contains_key(&ix) {
            server.again.insert(ix);
            return;
        }
        server.drives.insert(ix, drive);
        self.server_does(s, 1, 5, Turn::Drive(ix));
    }

    fn drive(&mut self, s: usize, ix: usize) {
        let Some(mut drive) = self.servers[s].drives.remove(&ix) else { return };
        match self.go_on(s, ix, &mut drive) {
            Some(stage) => {
                drive.stage = stage;
                self.servers[s].drives.insert(ix, drive);
                self.server_does(s, 1, 8, Turn::Drive(ix));
            }
            None => {
                if self.servers[s].again.remove(&ix) {
                    self.server_does(s, 1, 5, Turn::Look(ix));
                }
            }
        }
    }

    /// Does one thing for an operation. Gives what is next, if anything is.
    fn go_on(&mut self, s: usize, ix: usize, drive: &mut Drive) -> Option<Stage> {
        let now = self.clock(s);
        let stage = std::mem::replace(&mut drive.stage, Stage::Release);
        if let Stage::Claim = stage {
            let heard = self.transaction(s);
            if heard == Transaction::Failed {
                return None;
            }
            drive.claimed = Some(self.store.claim(ix, drive.operation, now, now + LEASE)?);
            self.resumed.remove(&drive.operation);
            return (heard == Transaction::Fine).then_some(Stage::Look);
        }
        let operation = drive.claimed.as_mut()?;
        match stage {
            Stage::Claim => None,
            Stage::Look => {
                let answer = match runner::awaited(operation) {
                    None => None,
                    Some(_) if !self.can_read(s) => return Some(Stage::Release),
                    Some(task) => self.result(ix, operation.id, &task),
                };
                let seen = self.servers[s].contacts.get(&ix).and_then(|contact| contact.seen.clone());
                Some(match runner::next_act(operation, &drive.instance, seen.as_deref(), answer, now) {
                    Act::Wait => Stage::Release,
                    Act::Move(event, changes) => Stage::Save(event, changes),
                    act @ (Act::Ensure | Act::Drop) => Stage::Provide(act),
                })
            }
            Stage::Provide(Act::Drop) => Some(self.take_place(s, ix).map_or(Stage::Provide(Act::Drop), Stage::Ask)),
            Stage::Ask(held) => {
                let operation = operation.clone();
                let is_read = self.can_read(s);
                if is_read && self.store.holds(ix, &operation) {
                    return Some(Stage::Remove(held));
                }
                self.leave_place(ix, held);
                is_read.then_some(Stage::Release)
            }
            stage @ (Stage::Provide(_) | Stage::Remove(_)) => {
                let held = if let Stage::Remove(held) = stage { Some(held) } else { None };
                let is_removal = held.is_some();
                let fails = self.provider_fails();
                // It may fail before it did anything or after it did all.
                let acts = !fails || self.rng.chance(if is_removal { 100 } else { 500 });
                match (is_removal, acts) {
                    (false, true) => self.ensure_place(ix),
                    (true, true) => self.drop_place(ix),
                    (true, false) if self.rng.chance(500) => self.end_processes(ix),
                    (_, false) => {}
                }
                if let Some(held) = held {
                    self.leave_place(ix, held);
                }
                let outcome = if fails { Err(Cause::new("the provider could not do it", "")) } else { Ok(()) };
                match runner::placed(operation, outcome, now) {
                    Act::Move(event, changes) => Some(Stage::Save(event, changes)),
                    Act::Wait | Act::Ensure | Act::Drop => None,
                }
            }
            Stage::Save(event, changes) => {
                let goes_on = match runner::move_on(operation, event, now) {
                    Ok(goes_on) => goes_on,
                    Err(illegal) => {
                        self.violated(illegal.to_string());
                        return None;
                    }
                };
                let heard = self.transaction(s);
                if heard == Transaction::Failed {
                    return Some(Stage::Release);
                }
                let saved = self.save(ix, operation, &changes, now + LEASE);
                let (kind, phase) = (operation.kind.name(), operation.phase.clone());
                self.say(|| format!("server {s}: {kind} of {ix} is {phase:?}: {saved:?}"));
                if saved.is_ok() {
                    self.news(s, ix);
                }
                match (saved, heard) {
                    (_, Transaction::Unheard | Transaction::Failed) => Some(Stage::Release),
                    (Err(_), Transaction::Fine) => None,
                    (Ok(()), Transaction::Fine) => {
                        self.tell_agent(s, ix);
                        Some(if goes_on { Stage::Look } else { Stage::Release })
                    }
                }
            }
            Stage::Release => {
                if operation.is_open() && self.transaction(s) != Transaction::Failed {
                    let operation = operation.clone();
                    self.store.release(ix, &operation);
                }
                None
            }
        }
    }

    fn result(&self, ix: usize, operation: OperationId, task: &TaskId) -> Option<TaskResult> {
        let row = &self.store.rows[ix];
        let of = runner::operation_of(task) == Some(operation);
        row.results.iter().find(|result| of && result.id == *task).cloned()
    }

    fn ensure_place(&mut self, ix: usize) {
        self.say(|| format!("the place of {ix} is made"));
        let servers = self.servers.len();
        let life = self.next_life();
        if self.places[ix].is_none() {
            self.places[ix] = Some(Place::new(life, servers));
            self.wake_agent(ix, 5);
        } else {
            self.start_agent(ix);
        }
    }

    fn drop_place(&mut self, ix: usize) {
        self.say(|| format!("the place of {ix} is dropped"));
        self.places[ix] = None;
        self.dropped_at[ix] = self.now;
        self.promises[ix] = super::place::Promises::default();
        let row = &self.store.rows[ix];
        let wanted = row.instance.built && row.open().is_none_or(|open| open.kind != Kind::Delete);
        if (wanted || self.is_given_up(ix)) && !row.deleted {
            self.violated(format!("the place of {ix} was dropped, and nobody had asked for that"));
        }
    }

    /// As far as a removal has come that could not touch the volume.
    fn end_processes(&mut self, ix: usize) {
        self.agent_dies(ix);
        self.engine_dies(ix, "is ended, since its place is to be dropped");
    }

    fn revive(&mut self, s: usize, ix: usize) {
        if self.places[ix].as_ref().is_some_and(|place| !place.agent.lives) {
            self.say(|| format!("server {s} starts the agent of {ix} again"));
            self.start_agent(ix);
        }
    }

    /// Whether an instance is to have an agent, as the store is asked.
    fn wants_agent(&self, ix: usize) -> bool {
        let row = &self.store.rows[ix];
        let open = row.open();
        !row.deleted
            && match open.map(|open| (open.kind, &open.phase)) {
                None => row.instance.built,
                Some((Kind::Create, phase)) => row.instance.built || matches!(phase, Phase::Forward { at: 1.., .. }),
                Some((kind, _)) => row.instance.built && kind != Kind::Delete,
            }
    }

    /// Whether an instance is to have no place any more, as the store is asked.
    fn is_left(&self, ix: usize) -> bool {
        let row = &self.store.rows[ix];
        is_left(row.deleted, row.instance.built, row.open().is_some(), row.instance.fault.as_ref())
    }

    /// Other servers hear that something was written, most of the time.
    pub(super) fn news(&mut self, s: usize, ix: usize) {
        for other in 0..self.servers.len() {
            if other != s && self.servers[other].up != Up::Dead && !self.rng.chance(50) {
                self.server_does(other, 2, 40, Turn::News(ix));
            }
        }
    }

    /// Takes what an agent reports, and acknowledges what was written down of it.
    fn hear(&mut self, s: usize, ix: usize, life: u32, report: &Report) {
        let at = self.clock(s);
        let observed = Arc::new(Observed { at, ..report.observed.clone() });
        let contact = self.servers[s].contacts.entry(ix).or_default();
        let same = contact.seen.as_ref().is_some_and(|seen| Observed { at, ..(**seen).clone() } == *observed);
        let news = !same || self.now >= contact.saved_at + WRITE;
        if let Some((task, _)) = &report.stuck {
            self.coverage.stuck += 1;
            self.said_stuck.extend(runner::operation_of(task));
        }
        let stuck_news = report.stuck.is_some() && report.stuck != contact.stuck;
        contact.stuck.clone_from(&report.stuck);
        contact.seen = Some(Arc::clone(&observed));
        if news || stuck_news || !report.results.is_empty() {
            let heard = self.transaction(s);
            if heard != Transaction::Failed {
                if let Some((task, cause)) = report.stuck.as_ref().filter(|_| stuck_news)
                    && self.store.rows[ix].open().is_some_and(|open| runner::operation_of(task) == Some(open.id))
                {
                    self.store.set_fault(ix, Some(cause), false, at);
                }
                let known = self.store.save_report(ix, news.then_some(&observed), &report.results);
                if !known {
                    return;
                }
                if !report.results.is_empty() {
                    self.news(s, ix);
                }
            }
            if heard != Transaction::Fine {
                // Not written down as far as is known, so it is still news when it is told again.
                self.servers[s].contacts.remove(&ix);
                return;
            }
            if let Some(contact) = self.servers[s].contacts.get_mut(&ix) {
                contact.saved_at = self.now;
            }
            self.server_does(s, 1, 5, Turn::Look(ix));
        }
        let taken = report.results.iter().map(|result| result.id.clone()).collect();
        self.post_to_agent(s, ix, life, Letter::Ack(s, taken));
    }

    /// What an agent is to be told, from the store.
    fn answer(&mut self, s: usize, ix: usize, life: u32, known: u64) {
        if !self.can_read(s) {
            return;
        }
        let row = &self.store.rows[ix];
        if row.deleted {
            return;
        }
        let resume = self.servers[s].contacts.get(&ix).and_then(|contact| contact.resume);
        let revision = row.revision | resume.unwrap_or(0) << 32;
        if revision == known {
            return self.post_to_agent(s, ix, life, Letter::Same(s));
        }
        let open = row.open();
        let desired = Desired {
            revision,
            generation: row.desired.as_ref().map(|desire| desire.generation).unwrap_or_default(),
            engine: row.desired.as_ref().map(|desire| desire.engine.clone()),
            tasks: open.and_then(|open| order_of(open)).into_iter().collect(),
            held: open.and_then(|open| open.plan.steps.iter().find_map(Step::section)?.restores),
            resume,
        };
        self.post_to_agent(s, ix, life, Letter::Desired(s, Arc::new(desired)));
    }

    /// Has the agent try at once what it cannot get past.
    pub(super) fn resume_section(&mut self, s: usize, ix: usize) {
        let number = self.next_number();
        self.servers[s].contacts.entry(ix).or_default().resume = Some(number);
        self.tell_agent(s, ix);
    }

    /// What an agent saw last, as far as this server knows.
    pub(super) fn seen(&self, s: usize, ix: usize) -> Option<Arc<Observed>> {
        let heard = self.servers[s].contacts.get(&ix).and_then(|contact| contact.seen.as_ref());
        let written = self.store.rows[ix].observed.as_ref();
        let last = heard.into_iter().chain(written).max_by_key(|observed| observed.at)?;
        let is_recent = self.clock(s).as_second() - last.at.as_second() < BELIEVED_SECONDS;
        let counts = is_recent && self.store.rows[ix].instance.is_told_by(last);
        counts.then(|| Arc::clone(last))
    }

    /// Rings the bell of the agent's long poll.
    pub(super) fn tell_agent(&mut self, s: usize, ix: usize) {
        if let Some(life) = self.places[ix].as_ref().map(|place| place.agent.life) {
            self.answer(s, ix, life, 0);
        }
    }

    /// Why an open operation needs a person, as this server sees it.
    pub(super) fn why_stuck(&self, s: usize, ix: usize) -> Option<Cause> {
        let open = self.store.rows[ix].open()?;
        let said = self.servers[s].contacts.get(&ix).and_then(|contact| contact.stuck.as_ref());
        why(open.id, &open.phase, said.map(|(task, cause)| (task, cause))).cloned()
    }

    /// Whether a transaction of a request is written, and whether whoever asked hears of it.
    pub(super) fn request_is_written(&mut self, s: usize) -> (bool, bool) {
        let heard = self.transaction(s);
        (heard != Transaction::Failed, heard == Transaction::Fine)
    }
}
