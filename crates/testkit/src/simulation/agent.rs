//! An agent: keeps its engine running, takes what is wanted, and tells what it sees. One act at a time, so that it can die
//! between any two of them; the next one has what was written down.

use std::collections::BTreeSet;
use std::sync::Arc;

use coffer_core::agent::{DONE_REMEMBERED, Kept, choose, takes_over};
use coffer_core::datastore::Number;
use coffer_core::finding::Cause;
use coffer_core::gate::{Event as At, Gate};
use coffer_core::id::{Generation, OperationId, TaskId};
use coffer_core::instance::Engine as Seen;
use coffer_core::operation::Phase;
use coffer_core::section::Section;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Learned, Order, Outcome, Task, TaskResult};

use super::link::{Letter, Link};
use super::place::Writes;
use super::world::{Event, World};

/// How often things are looked after when nothing happens, and everything is told again.
const LOOK: u64 = 10_000;
/// The pauses between attempts to start an engine. The last one repeats.
const AGAIN: [u64; 5] = [0, 1000, 2000, 5000, 15_000];

/// What survives the agent.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) generation: Generation,
    pub(super) engine: Option<Arc<EngineSpec>>,
    pub(super) on_disk: Option<Number>,
    pub(super) wanted: bool,
    /// Whether measures are in force that are to be ended.
    pub(super) settle: bool,
    pub(super) section: Option<Journal>,
    pub(super) results: Vec<TaskResult>,
    pub(super) done: Vec<TaskId>,
    pub(super) kept: Vec<Kept>,
}

/// A section, and how far it is.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    pub(super) task: TaskId,
    pub(super) section: Arc<Section>,
    pub(super) phase: Phase,
    pub(super) was_running: bool,
    pub(super) was_wanted: bool,
    pub(super) old_started: bool,
    pub(super) old_proven: bool,
    /// Whether it was noted how the engine kept its data before measures were taken.
    pub(super) measures: bool,
    pub(super) fingerprint: Option<Writes>,
    pub(super) stuck: Option<Cause>,
}

/// What a written state survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    Written,
    Flushed,
}

struct Retune {
    task: TaskId,
    to: Arc<EngineSpec>,
    generation: Generation,
    taken: bool,
}

pub(super) struct Agent {
    pub(super) life: u32,
    pub(super) lives: bool,
    pub(super) paused: bool,
    pub(super) state: State,
    /// How far it is in a step of a section.
    pub(super) pc: u32,
    /// Until when writes wait by this agent's word.
    pub(super) waiting_until: Option<u64>,
    pub(super) failures: usize,
    /// What people had asked to be tried at once when the last try began.
    pub(super) asked: BTreeSet<u64>,
    /// It waits before it tries again.
    pub(super) pauses: bool,
    /// A person has asked for a try, which is to begin by then.
    pub(super) tries_by: Option<u64>,
    /// It does something that takes until then.
    pub(super) busy_until: u64,
    turn: u64,
    adopted: bool,
    pub(super) links: Vec<Link>,
    /// What is wanted may have changed.
    pub(super) fresh: bool,
    pub(super) acks: Vec<TaskId>,
    beside: Option<(Order, u64)>,
    retune: Option<Retune>,
    pub(super) seen: Seen,
    restarts: u32,
    retry_at: u64,
    /// The engine that it watches.
    watched: Option<u64>,
    look_at: u64,
    held: Option<OperationId>,
    pub(super) backlog: Vec<Letter>,
}

impl Agent {
    pub(super) fn new(life: u32, state: State, servers: usize) -> Self {
        Self {
            life,
            lives: true,
            paused: false,
            state,
            pc: 0,
            waiting_until: None,
            failures: 0,
            asked: BTreeSet::new(),
            pauses: false,
            tries_by: None,
            busy_until: 0,
            turn: 0,
            adopted: false,
            links: vec![Link::default(); servers],
            fresh: false,
            acks: Vec::new(),
            beside: None,
            retune: None,
            seen: Seen::Absent,
            restarts: 0,
            retry_at: 0,
            watched: None,
            look_at: 0,
            held: None,
            backlog: Vec::new(),
        }
    }

    /// Whether it has nothing to do and nothing to tell.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = self.state.section.is_none() && self.state.results.is_empty() && !self.state.settle;
        self.lives
            && self.adopted
            && quiet
            && self.beside.is_none()
            && self.retune.is_none()
            && self.seen == Seen::Serving
    }

    fn knows(&self, id: &TaskId) -> bool {
        self.state.done.contains(id) || self.state.section.as_ref().is_some_and(|journal| journal.task == *id)
    }

    pub(super) fn has_news(&mut self) {
        self.links.iter_mut().for_each(|link| link.news = true);
    }
}

impl World {
    pub(super) fn agent(&mut self, ix: usize) -> Option<&mut Agent> {
        self.place(ix).map(|place| &mut place.agent)
    }

    /// Starts an agent that died, with what is on the disk.
    pub(super) fn start_agent(&mut self, ix: usize) {
        let (life, servers) = (self.next_life(), self.servers.len());
        let Some(place) = self.place(ix).filter(|place| !place.agent.lives) else { return };
        place.agent = Agent::new(life, place.volume.written.clone(), servers);
        self.wake_agent(ix, 5);
    }

    pub(super) fn agent_dies(&mut self, ix: usize) {
        self.say(|| format!("the agent of {ix} is killed"));
        if let Some(agent) = self.agent(ix) {
            agent.lives = false;
            agent.paused = false;
        }
    }

    /// Has the agent do what there is to do, after so long.
    pub(super) fn wake_agent(&mut self, ix: usize, after: u64) {
        let now = self.now;
        let Some(agent) = self.agent(ix).filter(|agent| agent.lives) else { return };
        agent.turn += 1;
        let (at, life, turn) = ((now + after).max(agent.busy_until), agent.life, agent.turn);
        self.at(at, Event::Agent(ix, life, turn));
    }

    pub(super) fn resume_agent(&mut self, ix: usize) {
        let Some(agent) = self.agent(ix).filter(|agent| agent.paused) else { return };
        agent.paused = false;
        agent.tries_by = None;
        let (life, letters) = (agent.life, std::mem::take(&mut agent.backlog));
        for letter in letters {
            self.letter_arrives(ix, life, letter);
        }
        self.wake_agent(ix, 1);
    }

    /// Writes the state down.
    pub(super) fn save_state(&mut self, ix: usize, durability: Durability) {
        let Some(place) = self.place(ix) else { return };
        place.volume.written.clone_from(&place.agent.state);
        if durability == Durability::Flushed {
            place.volume.flushed.clone_from(&place.agent.state);
        }
        place.agent.has_news();
    }

    pub(super) fn agent_turn(&mut self, ix: usize, life: u32, turn: u64) {
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return };
        if !agent.lives || agent.paused || agent.life != life || agent.turn != turn {
            return;
        }
        if now < agent.busy_until {
            return self.wake_agent(ix, 0);
        }
        if self.agent_is_struck(ix) {
            return;
        }
        let pause = self.agent_acts(ix);
        self.tell_servers(ix);
        if let Some(agent) = self.agent(ix) {
            agent.busy_until = now + pause.busy;
            self.wake_agent(ix, pause.idle);
        }
    }

    /// Does one thing.
    fn agent_acts(&mut self, ix: usize) -> Pause {
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return Pause::idle(0) };
        if !agent.adopted {
            return self.adopt(ix);
        }
        if agent.state.section.is_some() {
            return Pause::busy(self.work_off(ix));
        }
        if agent.retune.is_some() {
            return self.retune(ix);
        }
        if let Some(pause) = self.ensure_engine(ix) {
            return pause;
        }
        let Some(agent) = self.agent(ix) else { return Pause::idle(0) };
        if !agent.acks.is_empty() {
            let acks = std::mem::take(&mut agent.acks);
            agent.state.results.retain(|result| !acks.contains(&result.id));
            self.save_state(ix, Durability::Written);
            return Pause::busy(1);
        }
        if agent.beside.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.end_task(ix);
            return Pause::busy(1);
        }
        if agent.fresh {
            agent.fresh = false;
            self.take_desired(ix);
            return Pause::busy(1);
        }
        if agent.look_at <= now {
            agent.look_at = now + LOOK;
            self.look_after(ix);
            return Pause::busy(1);
        }
        let waits = [
            Some(agent.look_at),
            agent.beside.as_ref().map(|(_, until)| *until),
            (agent.retry_at > now).then_some(agent.retry_at),
        ];
        Pause::idle(waits.into_iter().flatten().min().unwrap_or(now + LOOK) - now)
    }

    /// Takes over what a dead agent left.
    fn adopt(&mut self, ix: usize) -> Pause {
        let Some(place) = self.place(ix) else { return Pause::idle(0) };
        let open = place.agent.state.section.is_some();
        place.agent.watched = place.engine.as_ref().filter(|_| !open).map(|engine| engine.birth);
        match &mut place.engine {
            Some(engine) if !open && place.agent.state.engine.is_some() => {
                if !engine.answers {
                    engine.answers = true;
                    return Pause::busy(self.rng.between(20, 2000));
                }
                // Clients get in, also where an agent died before it had let them in.
                place.agent.seen = Seen::Serving;
                self.let_in(ix);
            }
            _ => {}
        }
        if let Some(agent) = self.agent(ix) {
            agent.adopted = true;
        }
        self.ask_servers(ix);
        Pause::busy(1)
    }

    /// Opens the gate to the engine that runs.
    pub(super) fn let_in(&mut self, ix: usize) {
        self.gate(ix, At::Open);
        let Some(place) = self.place(ix) else { return };
        place.served = true;
        if let Some(engine) = &mut place.engine {
            engine.waits = false;
        }
    }

    /// Starts the engine when it should run and does not. `None`: nothing to do.
    fn ensure_engine(&mut self, ix: usize) -> Option<Pause> {
        let now = self.now;
        let place = self.place(ix)?;
        let spec = place.agent.state.engine.clone()?;
        match &mut place.engine {
            None if place.agent.watched.is_some() => {
                self.engine_ended(ix);
                Some(Pause::busy(1))
            }
            None if !place.agent.state.wanted || now < place.agent.retry_at => None,
            None => {
                place.agent.seen = Seen::Starting;
                place.agent.has_news();
                place.agent.state.on_disk = Some(spec.number);
                match self.launch(ix, &spec) {
                    Ok(()) => Some(Pause::busy(self.start_millis())),
                    Err(cause) => {
                        self.failed(ix, cause);
                        Some(Pause::busy(1))
                    }
                }
            }
            Some(engine) if place.agent.watched != Some(engine.birth) => {
                engine.answers = true;
                place.agent.watched = Some(engine.birth);
                place.agent.seen = Seen::Serving;
                place.agent.state.settle = true;
                self.let_in(ix);
                self.save_state(ix, Durability::Flushed);
                Some(Pause::busy(1))
            }
            Some(_) => None,
        }
    }

    fn engine_ended(&mut self, ix: usize) {
        let Some(place) = self.place(ix) else { return };
        place.agent.watched = None;
        if std::mem::take(&mut place.exit_zero) {
            // Somebody told it to: that is reported, not healed.
            place.agent.state.wanted = false;
            place.agent.seen =
                Seen::Failed { cause: Cause::new("the engine was told to end", "restart it"), restarts: 0 };
            self.gate(ix, At::Refuse);
        } else {
            self.failed(ix, Cause::new("the engine ended by itself", ""));
        }
        self.save_state(ix, Durability::Flushed);
    }

    fn failed(&mut self, ix: usize, cause: Cause) {
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return };
        let pause = AGAIN[usize::try_from(agent.restarts).unwrap_or(AGAIN.len()).min(AGAIN.len() - 1)];
        agent.retry_at = now + pause;
        agent.restarts += 1;
        agent.seen = Seen::Failed { cause, restarts: agent.restarts };
        agent.has_news();
    }

    /// After a section: what runs now is what is watched from now on.
    pub(super) fn note_start(&mut self, ix: usize) {
        let Some(place) = self.place(ix) else { return };
        place.agent.watched = place.engine.as_ref().map(|engine| engine.birth);
        if place.engine.is_some() {
            place.agent.seen = Seen::Serving;
            place.agent.restarts = 0;
        }
        place.agent.fresh = true;
    }

    fn take_desired(&mut self, ix: usize) {
        let Some(place) = self.places.get_mut(ix).and_then(Option::as_mut) else { return };
        let agent = &mut place.agent;
        let wanted: Vec<_> = agent.links.iter().filter_map(|link| link.wanted.clone()).collect();
        let Some(desired) = wanted.iter().max_by_key(|desired| desired.generation) else { return };
        agent.held = wanted.iter().find_map(|desired| desired.held);
        if takes_over(desired.generation, agent.state.generation, agent.state.engine.is_some())
            && let Some(engine) = &desired.engine
        {
            agent.state.generation = desired.generation;
            agent.state.engine = Some(Arc::new(engine.clone()));
            agent.state.wanted = true;
            self.save_state(ix, Durability::Flushed);
        }
        let Some(place) = self.places.get_mut(ix).and_then(Option::as_mut) else { return };
        let agent = &mut place.agent;
        if agent.beside.is_some() {
            return;
        }
        let orders = wanted.iter().flat_map(|desired| &desired.tasks);
        let Some((order, late)) = choose(orders, |id| agent.knows(id), agent.state.generation) else { return };
        let order = order.clone();
        // There may be another one after it.
        agent.fresh = true;
        if let Some(cause) = late {
            return self.finish_task(ix, order.id, Err(cause), Learned::default());
        }
        match order.task {
            Task::Section(section) => {
                agent.pc = 0;
                agent.failures = 0;
                agent.waiting_until = None;
                let was_running = place.engine.is_some() && !section.gives_up_on_it();
                agent.state.section = Some(Journal {
                    task: order.id,
                    section: Arc::from(section),
                    phase: Phase::START,
                    was_running,
                    was_wanted: agent.state.wanted,
                    old_started: false,
                    old_proven: false,
                    measures: false,
                    fingerprint: None,
                    stuck: None,
                });
                self.say(|| format!("the agent of {ix} begins a section"));
                self.save_state(ix, Durability::Flushed);
            }
            Task::Configure { to, generation } => {
                agent.retune = Some(Retune { task: order.id, to: Arc::new(to), generation, taken: false });
            }
            Task::Finalize { operations } => {
                for kept in &mut agent.state.kept {
                    kept.finalized |= operations.contains(&kept.operation);
                }
                self.finish_task(ix, order.id, Ok(()), Learned::default());
                self.collect(ix);
            }
            _ => {
                let takes = self.rng.between(10, 3000);
                let until = self.now + takes;
                if let Some(agent) = self.agent(ix) {
                    agent.beside = Some((order, until));
                }
            }
        }
    }

    /// A task that looks, fetches or makes accounts has had its time.
    fn end_task(&mut self, ix: usize) {
        let Some((order, _)) = self.agent(ix).and_then(|agent| agent.beside.take()) else { return };
        let mut learned = Learned::default();
        let end = if self.odds_strike(|odds| odds.tasks_fail) {
            Err(Cause::new("what was asked for failed", ""))
        } else {
            self.do_task(ix, &order.task, &mut learned)
        };
        self.finish_task(ix, order.id, end, learned);
        if let Some(agent) = self.agent(ix) {
            agent.fresh = true;
        }
    }

    /// Remembers the end of a task.
    pub(super) fn finish_task(&mut self, ix: usize, id: TaskId, end: Result<(), Cause>, learned: Learned) {
        let Some(agent) = self.agent(ix) else { return };
        let learned = Box::new(learned);
        let outcome = match end {
            Ok(()) => Outcome::Done(learned),
            Err(cause) => Outcome::Failed { cause, learned },
        };
        agent.state.done.push(id.clone());
        let excess = agent.state.done.len().saturating_sub(DONE_REMEMBERED);
        agent.state.done.drain(..excess);
        agent.state.results.push(TaskResult { id, outcome });
        self.save_state(ix, Durability::Flushed);
    }

    /// Has the running engine take other settings: all of them or, where it fails, none.
    fn retune(&mut self, ix: usize) -> Pause {
        let fails = self.odds_strike(|odds| odds.tasks_fail);
        let Some(agent) = self.agent(ix) else { return Pause::idle(0) };
        let Some(mut retune) = agent.retune.take() else { return Pause::idle(0) };
        if retune.taken {
            agent.state.engine = Some(retune.to);
            agent.state.generation = retune.generation;
            self.finish_task(ix, retune.task, Ok(()), Learned::default());
            return Pause::busy(1);
        }
        self.settle(ix);
        let taken = match self.answering(ix) {
            Ok(_) if fails => Err(Cause::new("the engine refuses a value", "")),
            Ok(engine) => {
                engine.runs = Arc::clone(&retune.to);
                Ok(())
            }
            Err(cause) => Err(cause),
        };
        if let Err(cause) = taken {
            self.finish_task(ix, retune.task, Err(cause), Learned::default());
        } else if let Some(agent) = self.agent(ix) {
            retune.taken = true;
            agent.retune = Some(retune);
        }
        Pause::busy(10)
    }

    fn look_after(&mut self, ix: usize) {
        self.settle(ix);
        self.collect(ix);
        self.forget_late_wishes(ix);
        self.ask_servers(ix);
    }

    /// Ends the measures of a section while the engine serves.
    fn settle(&mut self, ix: usize) {
        let due = self.agent(ix).is_some_and(|agent| agent.state.settle);
        if due && self.answering(ix).is_ok() && !self.odds_strike(|odds| odds.steps_fail) {
            self.write_down(ix, false);
            if let Some(agent) = self.agent(ix) {
                agent.state.settle = false;
            }
            self.save_state(ix, Durability::Flushed);
        }
    }

    /// Removes the pre-images whose time is over.
    fn collect(&mut self, ix: usize) {
        let (now, keep) = (self.timestamp(), self.keep);
        let Some(place) = self.place(ix) else { return };
        let held = place.agent.held;
        let gone: Vec<_> = place
            .agent
            .state
            .kept
            .iter()
            .filter(|kept| kept.goes(keep, held, now))
            .map(|kept| kept.operation)
            .collect();
        if gone.is_empty() {
            return;
        }
        for operation in &gone {
            place.volume.pre.remove(operation);
        }
        place.agent.state.kept.retain(|kept| !gone.contains(&kept.operation));
        self.save_state(ix, Durability::Written);
    }

    /// How long an engine takes to start.
    pub(super) fn start_millis(&mut self) -> u64 {
        if self.odds_strike(|odds| odds.slow) { self.rng.between(20_000, 90_000) } else { self.rng.between(20, 2500) }
    }

    /// Whether the gate of a place is open.
    pub(super) fn is_open(&self, ix: usize) -> bool {
        self.places[ix].as_ref().is_some_and(|place| place.gate == Gate::Open)
    }
}

/// What follows an act: a time in which nothing else can be done, or one in which anything may come.
struct Pause {
    busy: u64,
    idle: u64,
}

impl Pause {
    fn busy(millis: u64) -> Self {
        Self { busy: millis, idle: 0 }
    }

    fn idle(millis: u64) -> Self {
        Self { busy: 0, idle: millis }
    }
}
