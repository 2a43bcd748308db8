//! A place: the volume with what is on its disk, the gate at its port, the engine, and the agent beside it.
//!
//! An engine keeps what it acknowledged, over its own death too, where it is of the kind that does or where an agent's measures
//! make it. Else it keeps in memory what was written since it last wrote all of it down.

use std::collections::BTreeMap;
use std::sync::Arc;

use coffer_core::datastore::Number;
use coffer_core::engine::shares_data;
use coffer_core::finding::Cause;
use coffer_core::gate::{Behind, Event as At, Gate, Level};
use coffer_core::id::OperationId;
use coffer_core::spec::EngineSpec;

use super::agent::{Agent, State};
use super::world::{Event, World};

/// The writes of clients, by number, in the order in which they were made.
pub(super) type Writes = Vec<u32>;

/// What is on a disk as data.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Data {
    pub(super) writes: Writes,
    /// The version that last wrote them; `None` of a new volume.
    pub(super) written_by: Option<Number>,
    /// The version that was last proven to hold them.
    pub(super) proven_by: Option<Number>,
    /// Whether the engine that had them ended cleanly.
    pub(super) clean: bool,
    /// Whether they are such that whatever engine is started on them writes down what it acknowledges.
    pub(super) vehicle: bool,
}

/// A pre-image, or half of one.
#[derive(Clone, Debug, Default)]
pub(super) struct PreImage {
    pub(super) complete: bool,
    pub(super) data: Data,
    /// A copy of the pre-image that is gone back to.
    pub(super) ready: Option<Data>,
    /// What was counted before it was taken.
    pub(super) held: Option<Writes>,
}

/// What survives everybody.
#[derive(Clone, Debug, Default)]
pub(super) struct Volume {
    pub(super) data: Data,
    pub(super) pre: BTreeMap<OperationId, PreImage>,
    /// The agent's state as it was written last, and as it was flushed last.
    pub(super) written: State,
    pub(super) flushed: State,
}

/// An engine that runs.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    /// Which one it is.
    pub(super) birth: u64,
    pub(super) runs: Arc<EngineSpec>,
    pub(super) holds: Writes,
    /// It answers its agent.
    pub(super) answers: bool,
    /// Writes wait.
    pub(super) waits: bool,
    /// What it acknowledges is on the disk.
    pub(super) writes_down: bool,
    /// It was told to end.
    pub(super) ending: bool,
    /// It runs as it was proven, or on files on which its version was.
    pub(super) proven: bool,
}

pub(super) struct Place {
    pub(super) volume: Volume,
    pub(super) gate: Gate,
    pub(super) engine: Option<Engine>,
    /// The last engine was told to end, by somebody else than its agent.
    pub(super) exit_zero: bool,
    /// Clients were let in once.
    pub(super) served: bool,
    pub(super) agent: Agent,
}

impl Place {
    pub(super) fn new(life: u32, servers: usize) -> Self {
        Self {
            volume: Volume::default(),
            gate: Gate::Refusing { behind: Behind::Nobody },
            engine: None,
            exit_zero: false,
            served: false,
            agent: Agent::new(life, State::default(), servers),
        }
    }
}

/// How long connections wait, in milliseconds.
pub(super) const HOLD: u64 = 60_000;

impl World {
    pub(super) fn place(&mut self, ix: usize) -> Option<&mut Place> {
        self.places.get_mut(ix)?.as_mut()
    }

    pub(super) fn engine(&mut self, ix: usize) -> Option<&mut Engine> {
        self.place(ix)?.engine.as_mut()
    }

    /// The engine, if it can be asked something.
    pub(super) fn answering(&mut self, ix: usize) -> Result<&mut Engine, Cause> {
        let engine = self.engine(ix).filter(|engine| engine.answers && !engine.ending);
        engine.ok_or_else(|| Cause::new("the engine does not answer", ""))
    }

    /// Tells the gate. A keeper does so by itself, whoever lives.
    pub(super) fn gate(&mut self, ix: usize, event: At) {
        let Some(place) = self.place(ix) else { return };
        match place.gate.apply(event, Level::Steered) {
            Ok(gate) => {
                place.gate = gate;
                if let Some(until) = gate.deadline() {
                    self.at(until, Event::Late(ix, until));
                }
            }
            Err(unfit) => self.violated(format!("the gate of {ix} was told {event:?}: {unfit}")),
        }
    }

    /// It is so late.
    pub(super) fn gate_is_late(&mut self, ix: usize, until: u64) {
        if self.place(ix).is_some_and(|place| place.gate.deadline() == Some(until)) {
            let now = self.now;
            self.say(|| format!("place {ix}: who waits has waited for too long"));
            self.gate(ix, At::Late { now });
        }
    }

    /// Starts an engine, closed, unless one runs: the lock lets no second one in. Whether it answers is another matter.
    pub(super) fn launch(&mut self, ix: usize, spec: &Arc<EngineSpec>) -> Result<(), Cause> {
        if self.engine(ix).is_some() {
            return Ok(());
        }
        if !self.images.contains(&spec.version) {
            return Err(Cause::new(format!("the image of {} is not here", spec.label()), ""));
        }
        if self.odds_strike(|odds| odds.start_fails) {
            return Err(Cause::new(format!("{} does not start", spec.label()), ""));
        }
        let birth = self.next_number();
        let misreads = self.odds_strike(|odds| odds.misreads);
        let durable = self.durable;
        let Some(place) = self.places.get_mut(ix).and_then(Option::as_mut) else {
            return Err(Cause::new("there is no place", ""));
        };
        let data = &mut place.volume.data;
        let of = |number| (spec.datastore(), number);
        if data.written_by.is_some_and(|by| by > spec.number && !shares_data(of(by), of(spec.number))) {
            return Err(Cause::new(format!("{} cannot read what a newer engine wrote", spec.label()), ""));
        }
        let is_new = data.written_by.is_none();
        if is_new {
            data.proven_by = Some(spec.number);
        }
        if misreads && data.proven_by != Some(spec.number) {
            // It writes down what it made of them, too.
            data.writes.pop();
        }
        data.written_by = Some(spec.number);
        data.clean = false;
        let (holds, writes_down) = (data.writes.clone(), durable || data.vehicle);
        let proven = data.proven_by == Some(spec.number);
        place.exit_zero = false;
        place.engine = Some(Engine {
            birth,
            runs: Arc::clone(spec),
            holds,
            answers: false,
            waits: false,
            writes_down,
            ending: false,
            proven,
        });
        self.say(|| format!("place {ix}: {} is started, proven: {proven}", spec.label()));
        self.gate(ix, At::Started);
        Ok(())
    }

    /// The engine ends as it was told to.
    pub(super) fn engine_ends(&mut self, ix: usize, birth: u64) {
        let Some(engine) = self.engine(ix).filter(|engine| engine.birth == birth) else { return };
        let keeps = engine.writes_down;
        if let Some(place) = self.place(ix) {
            place.volume.data.clean = true;
        }
        self.engine_gone(ix, if keeps { "ended cleanly" } else { "ended cleanly, without what was in its memory" });
    }

    /// The engine is gone, however. What it had acknowledged and not written down is lost with it, as it is to whoever runs
    /// such an engine; while an agent has measures in force, nothing is.
    pub(super) fn engine_gone(&mut self, ix: usize, how: &str) {
        let Some(engine) = self.place(ix).and_then(|place| place.engine.take()) else { return };
        self.say(|| format!("place {ix}: {} {how}", engine.runs.label()));
        let until = self.now + HOLD;
        self.gate(ix, At::Ended { until });
        self.wake_agent(ix, 5);
    }

    /// The engine is killed by somebody else than its agent.
    pub(super) fn engine_dies(&mut self, ix: usize, how: &str) {
        let Some(place) = self.places.get_mut(ix).and_then(Option::as_mut) else { return };
        let Some(engine) = &place.engine else { return };
        if !engine.writes_down {
            let kept = &place.volume.data.writes;
            let lost: Vec<_> =
                engine.holds.iter().filter(|write| kept.binary_search(write).is_err()).copied().collect();
            self.promises[ix].give_up(&lost);
        }
        self.engine_gone(ix, how);
    }

    /// A client at the instance's own address writes, if it gets in.
    pub(super) fn client_writes(&mut self, ix: usize) {
        let write = u32::try_from(self.next_number()).expect("fewer than that");
        let heard = !self.rng.chance(10);
        let Some(place) = self.places.get_mut(ix).and_then(Option::as_mut) else { return };
        if place.gate != Gate::Open {
            return;
        }
        let Some(engine) = place.engine.as_mut().filter(|engine| engine.answers && !engine.ending) else { return };
        let label = engine.runs.label();
        let (proven, waits) = (engine.proven, engine.waits);
        let missing = self.promises[ix].missing(&engine.holds);
        if !waits {
            engine.holds.push(write);
            if engine.writes_down {
                place.volume.data.writes.push(write);
            }
            self.promises[ix].made(write, heard);
            self.coverage.writes += u64::from(heard);
        }
        if !proven {
            self.violated(format!("a client got to {label} of {ix}, which was not proven"));
        }
        if let Some(missing) = missing {
            self.violated(format!("a client finds that {label} of {ix} lost the acknowledged write {missing}"));
        }
    }

    /// What an engine holds is written down, and from now on so is each write, or no longer.
    pub(super) fn write_down(&mut self, ix: usize, from_now_on: bool) {
        let durable = self.durable;
        let Some(place) = self.place(ix) else { return };
        if let Some(engine) = &mut place.engine {
            place.volume.data.writes.clone_from(&engine.holds);
            engine.writes_down = from_now_on || durable;
            place.volume.data.vehicle = from_now_on;
        }
    }
}

/// What was acknowledged to the clients of an instance and is still promised.
#[derive(Clone, Debug, Default)]
pub(super) struct Promises {
    writes: Writes,
}

impl Promises {
    fn made(&mut self, write: u32, heard: bool) {
        if heard {
            self.writes.push(write);
        }
    }

    /// The first promised write that is not among these.
    pub(super) fn missing(&self, held: &[u32]) -> Option<u32> {
        let mut held = held.iter();
        self.writes.iter().find(|write| !held.any(|there| there == *write)).copied()
    }

    fn give_up(&mut self, lost: &[u32]) {
        self.writes.retain(|write| lost.binary_search(write).is_err());
    }

    /// Somebody went back, as was said beforehand, to what these are. Gives how many were given up.
    pub(super) fn go_back_to(&mut self, held: &[u32]) -> u64 {
        let before = self.writes.len();
        self.writes.retain(|write| held.binary_search(write).is_ok());
        (before - self.writes.len()) as u64
    }
}
