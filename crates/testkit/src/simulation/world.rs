//! The clock, the queue of what is to happen, the network, and what must hold.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use coffer_core::datastore::{Datastore, Version};
use coffer_core::flavor::Flavor;
use coffer_core::id::{OperationId, VersionId};
use coffer_core::plan::Step;
use jiff::Timestamp;

use super::choice::Hold;
use super::coverage::Coverage;
use super::fault::{Heal, Odds, Stubborn};
use super::link::Letter;
use super::place::{Place, Promises};
use super::request::Want;
use super::rng::Rng;
use super::server::{Server, Turn, Up};
use super::store::Store;
use crate::fixture::{Fixture, version};

/// How many of the last things that happened are told of a history that went wrong.
const TOLD: usize = 400;
/// How long after the last fault everything has to be well, in milliseconds.
const PATIENCE: u64 = 900_000;
/// How often it is looked whether it is.
const LOOK: u64 = 5000;
/// How often a client writes.
const WRITE: u64 = 400;

/// Something that happens at its time.
pub(super) enum Event {
    Server(usize, u32, Turn),
    Agent(usize, u32, u64),
    Letter(usize, u32, Letter),
    Late(usize, u64),
    EngineEnds(usize, u64),
    Client(usize),
    Person,
    Strike,
    /// It is looked whether what was resumed was tried.
    Resumed(usize, OperationId),
    Heal(Heal),
    Calm,
    /// It is looked whether all is well.
    Look,
}

struct Queued {
    at: u64,
    number: u64,
    event: Event,
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Queued {}

/// What an instance is, by the operations that said they were done.
pub(super) struct Expected {
    pub(super) version: VersionId,
    pub(super) built: bool,
    pub(super) deleted: bool,
}

/// Everything there is.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) store: Store,
    pub(super) servers: Vec<Server>,
    pub(super) places: Vec<Option<Place>>,
    pub(super) promises: Vec<Promises>,
    /// When places were dropped last.
    pub(super) dropped_at: Vec<u64>,
    /// Who has the right to change a place: which life of which server, and for what.
    pub(super) holders: Vec<Option<Hold>>,
    pub(super) expected: Vec<Expected>,
    pub(super) catalogue: Vec<Version>,
    pub(super) flavor: Flavor,
    /// The images on the host.
    pub(super) images: BTreeSet<VersionId>,
    /// Whether engines keep what they acknowledged over their death, without any measures.
    pub(super) durable: bool,
    /// How long pre-images are kept.
    pub(super) keep: Duration,
    pub(super) odds: Odds,
    pub(super) store_down: bool,
    pub(super) cuts: BTreeSet<(usize, usize)>,
    /// The longest time between two faults.
    pub(super) rate: u64,
    /// How many acts of a thousand are struck by a fault of their own, of servers and of agents in sections.
    pub(super) hazard: u64,
    /// What fails again and again, so that it gets stuck.
    pub(super) stubborn: Stubborn,
    pub(super) is_calm: bool,
    /// What was resumed, and was not tried since.
    pub(super) resumed: BTreeSet<OperationId>,
    /// The operations of which agents have said that they do not get on.
    pub(super) said_stuck: BTreeSet<OperationId>,
    pub(super) coverage: Coverage,
    pub(super) violations: Vec<String>,
    pub(super) trace: Option<VecDeque<String>>,
    queue: BinaryHeap<Reverse<Queued>>,
    numbers: u64,
    lives: u32,
    ends_at: u64,
    asked_again_at: u64,
}

impl World {
    pub(super) fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let servers = rng.between(1, 4);
        let calm_at = rng.between(60_000, 240_000);
        let (durable, keep) = (rng.chance(500), Duration::from_secs(rng.pick(&[40, 120, 86_400, 86_400])));
        let rate = rng.pick(&[2500, 8000, 30_000, 100_000]);
        let hazard = rng.pick(&[0, 15, 40, 100]);
        let stubborn = rng.below(100);
        let stubborn = Stubborn { steps: stubborn < 20, provider: (12..32).contains(&stubborn) };
        let mut world = Self {
            now: 1,
            rng,
            store: Store::default(),
            servers: (1..=servers).map(|life| Server::new(u32::try_from(life).expect("a few"))).collect(),
            places: Vec::new(),
            promises: Vec::new(),
            dropped_at: Vec::new(),
            holders: Vec::new(),
            expected: Vec::new(),
            catalogue: [
                (Datastore::Redis, "7.0.15"),
                (Datastore::Redis, "8.0.2"),
                (Datastore::Valkey, "8.0.1"),
                (Datastore::Valkey, "8.1.1"),
            ]
            .into_iter()
            .zip(1..)
            .map(|((datastore, number), n)| version(n, datastore, number))
            .collect(),
            flavor: Fixture::serving().flavor,
            images: BTreeSet::new(),
            durable,
            keep,
            odds: Odds::default(),
            store_down: false,
            cuts: BTreeSet::new(),
            rate,
            hazard,
            stubborn,
            is_calm: false,
            resumed: BTreeSet::new(),
            said_stuck: BTreeSet::new(),
            coverage: Coverage { histories: 1, ..Coverage::default() },
            violations: Vec::new(),
            trace: traced.then(VecDeque::new),
            queue: BinaryHeap::new(),
            numbers: 0,
            lives: 100,
            ends_at: calm_at + PATIENCE,
            asked_again_at: calm_at,
        };
        for s in 0..world.servers.len() {
            world.server_starts(s);
        }
        world.create(0, false).expect("a first instance");
        world.at(6000, Event::Person);
        let first = world.rng.between(10, rate);
        world.at(first, Event::Strike);
        world.at(calm_at, Event::Calm);
        world
    }

    /// Plays to the end. What went wrong is in `violations`.
    pub(super) fn play(&mut self) {
        while self.violations.is_empty() {
            let Some(Reverse(Queued { at, event, .. })) = self.queue.pop() else {
                return self.violated("nothing happens any more".to_owned());
            };
            self.now = at;
            self.coverage.events += 1;
            match event {
                Event::Server(s, life, turn) => self.server_turn(s, life, turn),
                Event::Agent(ix, life, turn) => self.agent_turn(ix, life, turn),
                Event::Letter(ix, life, letter) => self.letter_arrives(ix, life, letter),
                Event::Late(ix, until) => self.gate_is_late(ix, until),
                Event::EngineEnds(ix, birth) => self.engine_ends(ix, birth),
                Event::Client(ix) => {
                    self.client_writes(ix);
                    if !self.store.rows[ix].deleted {
                        self.after(WRITE, Event::Client(ix));
                    }
                }
                Event::Person => {
                    if !self.is_calm {
                        self.somebody_asks();
                        let pause = self.rng.between(500, 10_000);
                        self.after(pause, Event::Person);
                    }
                }
                Event::Strike => self.strike(),
                Event::Resumed(ix, id) => self.was_resumed(ix, id),
                Event::Heal(heal) => self.heal(heal),
                Event::Calm => {
                    self.calm();
                    self.after(LOOK, Event::Look);
                }
                Event::Look => {
                    let unwell: Vec<_> = (0..self.store.rows.len()).filter_map(|ix| self.why_unwell(ix)).collect();
                    if unwell.is_empty() {
                        break;
                    }
                    if self.now >= self.ends_at {
                        return self.violated(format!("does not end: {}", unwell.join("; ")));
                    }
                    self.mend();
                    self.after(LOOK, Event::Look);
                }
            }
        }
        self.coverage.seconds = self.now / 1000;
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.queue.push(Reverse(Queued { at: at.max(self.now), number: self.numbers, event }));
    }

    fn after(&mut self, millis: u64, event: Event) {
        self.at(self.now + millis, event);
    }

    /// A number that nothing else has.
    pub(super) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn next_life(&mut self) -> u32 {
        self.lives += 1;
        self.lives
    }

    /// The time by a clock that is right.
    pub(super) fn timestamp(&self) -> Timestamp {
        Timestamp::from_millisecond(self.now.cast_signed()).expect("a time that there is")
    }

    pub(super) fn odds_strike(&mut self, of: impl Fn(&Odds) -> u64) -> bool {
        let odds = of(&self.odds);
        self.rng.chance(odds)
    }

    pub(super) fn violated(&mut self, what: String) {
        self.say(|| format!("VIOLATED: {what}"));
        self.violations.push(what);
    }

    /// Remembers what happens, where it is to be told.
    pub(super) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TOLD {
                trace.pop_front();
            }
            trace.push_back(format!("{:>9.3} s  {}", Duration::from_millis(self.now).as_secs_f64(), what()));
        }
    }

    /// When a message arrives, which may be never, or twice.
    fn arrivals(&mut self, s: usize, ix: usize) -> [Option<u64>; 2] {
        if self.cuts.contains(&(s, ix)) || self.odds_strike(|odds| odds.drops) {
            return [None, None];
        }
        let slowest = self.odds.network_millis.max(4);
        let now = self.now;
        let first = now + self.rng.between(1, slowest);
        let twice = self.odds_strike(|odds| odds.doubles);
        let second = twice.then(|| now + self.rng.between(1, 3 * slowest));
        [Some(first), second]
    }

    pub(super) fn post_to_server(&mut self, s: usize, ix: usize, turn: &Turn) {
        if self.servers[s].up == Up::Dead {
            return;
        }
        let life = self.servers[s].life;
        for at in self.arrivals(s, ix).into_iter().flatten() {
            self.at(at, Event::Server(s, life, turn.clone()));
        }
    }

    pub(super) fn post_to_agent(&mut self, s: usize, ix: usize, life: u32, letter: Letter) {
        for at in self.arrivals(s, ix).into_iter().flatten() {
            self.at(at, Event::Letter(ix, life, letter.clone()));
        }
    }

    /// After the faults: what waits for a person gets one.
    fn mend(&mut self) {
        if self.now < self.asked_again_at + 20_000 {
            return;
        }
        self.asked_again_at = self.now;
        for ix in 0..self.store.rows.len() {
            if self.tidy_up(ix) {
                continue;
            }
            let row = &self.store.rows[ix];
            let stopped = self.places[ix].as_ref().is_some_and(|place| {
                row.instance.built
                    && row.open().is_none()
                    && place.agent.lives
                    && !place.agent.state.wanted
                    && place.engine.is_none()
            });
            if stopped {
                self.ask(Want::Restart, ix);
            }
        }
    }

    /// What is not as it has to be when nothing goes wrong any more, if anything is.
    fn why_unwell(&self, ix: usize) -> Option<String> {
        let why = self.unwell(ix)?;
        Some(format!("instance {ix}: {why}"))
    }

    fn unwell(&self, ix: usize) -> Option<String> {
        let row = &self.store.rows[ix];
        let expected = &self.expected[ix];
        if let Some(open) = row.open() {
            return Some(format!("its {} is {:?}", open.kind.name(), open.phase));
        }
        if self.is_given_up(ix) && !row.deleted {
            return Some("it was given up, and nothing was done since".to_owned());
        }
        if !row.results.is_empty() {
            return Some("answers lie in the store that nobody waits for".to_owned());
        }
        if (row.deleted, row.instance.built) != (expected.deleted, expected.built) {
            return Some("its row does not say what its operations did".to_owned());
        }
        if row.deleted || !row.instance.built {
            return self.places[ix].as_ref().map(|_| "it is gone, and has a place".to_owned());
        }
        if row.instance.version != expected.version {
            return Some("another version is recorded than its operations made".to_owned());
        }
        let Some(place) = &self.places[ix] else { return Some("it has no place".to_owned()) };
        let recorded = self.recorded(ix);
        let (agent, volume) = (&place.agent, &place.volume);
        let Some(engine) = &place.engine else { return Some("its engine does not run".to_owned()) };
        let kept: Vec<_> = agent.state.kept.iter().map(|kept| kept.operation).collect();
        // Of an engine that was down nobody counts what it held.
        let was_down = |id: &coffer_core::id::OperationId| {
            let took = row.operations.iter().find(|operation| operation.id == *id);
            took.is_some_and(|took| took.plan.steps.iter().filter_map(Step::section).any(|section| section.down))
        };
        let is_kept = |(id, image): (&coffer_core::id::OperationId, &super::place::PreImage)| {
            let known = image.held.is_some() || was_down(id);
            kept.contains(id) && image.complete && image.ready.is_none() && known
        };
        let checks = [
            (agent.is_idle(), "its agent is busy"),
            (agent.state.engine.as_deref() == Some(&recorded), "its agent runs something else than is recorded"),
            (*engine.runs == recorded, "its engine is something else than is recorded"),
            (agent.state.generation == row.instance.generation, "its agent has another generation than is recorded"),
            (
                row.desired.as_ref().is_some_and(|desire| desire.engine == recorded),
                "something else is desired than is recorded",
            ),
            (agent.state.wanted, "its agent does not want it to run"),
            (self.is_open(ix) && engine.answers && !engine.waits, "clients do not get in"),
            (self.durable || !engine.writes_down, "measures are in force"),
            (volume.pre.iter().all(is_kept) && volume.pre.len() == kept.len(), "pre-images are left, or half of one"),
            (volume.written.section.is_none() && volume.flushed.section.is_none(), "a section is left on the disk"),
            (self.promises[ix].missing(&engine.holds).is_none(), "acknowledged writes are lost"),
            (volume.data.proven_by == Some(recorded.number), "it was not proven"),
            (
                row.instance.fault.as_ref().map(|fault| &fault.cause)
                    == row.operations.last().and_then(|last| last.phase.cause()),
                "its fault is not that of its last operation",
            ),
        ];
        checks.into_iter().find(|(holds, _)| !holds).map(|(_, why)| why.to_owned())
    }
}
