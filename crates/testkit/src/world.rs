//! A control plane's record, one place with its agent and engine, and clients that write whenever they can.
//!
//! The world performs plans as the control plane and critical sections as the agent, strikes both with the faults of its
//! schedule, and watches over what must never happen, at whatever moment. What it saw is in [`FakeWorld::violations`]:
//! - an engine is open to clients that was not proven;
//! - an engine is started beside another one;
//! - a section is undone from outside while its agent works it off, or after it has succeeded;
//! - something that was written down as true is taken back.
//!
//! Clients write once after every move while an engine is open and writes do not wait, and count what was acknowledged.

use std::collections::BTreeSet;

use coffer_core::datastore::Number;
use coffer_core::finding::Cause;
use coffer_core::id::{Generation, OperationId, VersionId};
use coffer_core::instance::Instance;
use coffer_core::operation::{Event, Phase};
use coffer_core::plan::{Record, Step};
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::EngineSpec;

use crate::driver::{self, Ended, Halt, Journal, Performer};
use crate::fault::{Fault, Kind, Layer, Moment, Schedule, Site, Way};
use crate::moves::{self, Move};
use crate::place::{Data, Engine, Place};

/// More transitions than any section takes, whatever strikes it.
const SECTION_TURNS: usize = 500;
/// How far the agent comes in a section before a control plane crashes that dies midway.
const MIDWAY_TURNS: usize = 5;

/// Everything there is.
#[derive(Clone, Debug)]
pub struct FakeWorld {
    row: Option<Row>,
    place: Option<Place>,
    /// How many writes clients were told are safe.
    pub acknowledged: u64,
    pub schedule: Schedule,
    /// What happened that must never happen.
    pub violations: Vec<String>,
    /// The faults that did strike, in order.
    pub struck: Vec<Fault>,
    /// Whether the cancel was accepted, once it has arrived.
    pub cancel_accepted: Option<bool>,
}

/// What the control plane has written down of the instance.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    built: bool,
    version: VersionId,
    generation: Generation,
}

/// All of a world that must be wholly old or wholly new: everything but the number of writes, images and journals.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    row: Option<Row>,
    place: Option<PlacePicture>,
}

#[derive(Clone, Debug, PartialEq)]
struct PlacePicture {
    configuration: Option<EngineSpec>,
    generation: Generation,
    written_by: Option<Number>,
    preimage: bool,
    kept: Option<(OperationId, Data)>,
    copy: Option<Data>,
    engine: Option<Engine>,
    measures: bool,
    counted: bool,
}

impl FakeWorld {
    /// An instance as a fixture has it: a row; and, if it was built, a place with the engine `spec` that serves.
    pub fn of(instance: &Instance, spec: &EngineSpec) -> Self {
        let row = Row { built: instance.built, version: instance.version, generation: instance.generation };
        let place = instance.built.then(|| Place {
            images: BTreeSet::from([spec.image.digest.clone()]),
            configuration: Some(spec.clone()),
            generation: instance.generation,
            data: Data { written_by: Some(spec.number), ..Data::default() },
            engine: Some(Engine { runs: spec.clone(), proven: true, open: true, holding: false, writes: 0 }),
            ..Place::default()
        });
        Self {
            row: Some(row),
            place,
            acknowledged: 0,
            schedule: Schedule::default(),
            violations: Vec::new(),
            struck: Vec::new(),
            cancel_accepted: None,
        }
    }

    /// The same, with the pre-image of that operation, which `of` wrote. Clients have written since.
    #[must_use]
    pub fn with_kept(mut self, operation: OperationId, of: &EngineSpec) -> Self {
        const BEFORE: u64 = 3;
        const SINCE: u64 = 4;
        if let Some(place) = &mut self.place {
            place.images.insert(of.image.digest.clone());
            place.kept = Some((operation, Data { written_by: Some(of.number), writes: BEFORE, forfeited: 0 }));
            if let Some(engine) = &mut place.engine {
                engine.writes = BEFORE + SINCE;
            }
            self.acknowledged = BEFORE + SINCE;
        }
        self
    }

    /// How many acknowledged writes there are not any more because somebody went back to before them.
    pub fn forfeited(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| place.data.forfeited)
    }

    /// What there is, for comparing.
    pub fn picture(&self) -> Picture {
        let place = self.place.as_ref().map(|p| PlacePicture {
            configuration: p.configuration.clone(),
            generation: p.generation,
            written_by: p.data.written_by,
            preimage: p.preimage.is_some(),
            kept: p.kept.clone(),
            copy: p.copy.clone(),
            engine: p.engine.clone().map(|e| Engine { writes: 0, ..e }),
            measures: p.measures,
            counted: p.counted.is_some(),
        });
        Picture { row: self.row.clone(), place }
    }

    /// How many acknowledged writes the place does not have, but for those that somebody gave up. None are lost where there is no place, because nothing
    /// else than a delete or the undo of a create drops it.
    pub fn lost(&self) -> u64 {
        let Some(place) = &self.place else { return 0 };
        let has = place.engine.as_ref().map_or(place.data.writes, |e| e.writes);
        self.acknowledged.saturating_sub(has + place.data.forfeited)
    }

    /// The version that the record says was proven last, of an instance that has served.
    pub fn recorded(&self) -> Option<VersionId> {
        self.row.as_ref().filter(|row| row.built).map(|row| row.version)
    }

    /// The version that clients can write to right now.
    pub fn serving(&self) -> Option<VersionId> {
        let engine = self.place.as_ref()?.engine.as_ref()?;
        (engine.open && !engine.holding).then_some(engine.runs.version)
    }

    /// What the collector and the agent clear away some time after a success.
    pub fn collect(&mut self) {
        if let Some(place) = &mut self.place {
            place.preimage = None;
            place.measures = false;
        }
    }

    /// Where the agent stands with the section that it was handed.
    pub fn section_phase(&self) -> Option<Phase> {
        self.place.as_ref()?.section.as_ref().map(Journal::phase)
    }

    /// A person asks the agent to try its stuck section again.
    pub fn retry_section(&mut self) {
        let journal = self.place.as_mut().and_then(|p| p.section.as_mut());
        if let Some(Err(illegal)) = journal.map(|j| j.tell(Event::Retry)) {
            self.violations.push(illegal.to_string());
        }
    }

    /// How often a step failed by its fault.
    pub fn failures(&self, site: Site) -> usize {
        self.struck.iter().filter(|f| f.site == site && f.kind != Kind::Crash).count()
    }

    fn strike(&mut self, site: Site) -> Option<Fault> {
        let fault = self.schedule.strike(site)?;
        self.struck.push(fault);
        Some(fault)
    }

    /// Makes as many of the moves as the schedule allows.
    fn make_all(&mut self, site: Site, all: &[Move<'_>]) -> Ended {
        let fault = self.strike(site);
        let upto = match fault.map(|f| f.moment) {
            Some(Moment::Before) => 0,
            Some(Moment::Midway) => all.len() / 2,
            Some(Moment::After) | None => all.len(),
        };
        for &one in &all[..upto] {
            if let Err(why) = self.make(one) {
                return Ended::Failed(Cause::new(why, ""));
            }
            self.clients_write();
        }
        match fault {
            None => Ended::Done,
            Some(Fault { kind: Kind::Crash, .. }) => Ended::Crashed,
            Some(_) => Ended::Failed(injected(site)),
        }
    }

    fn clients_write(&mut self) {
        let Some(engine) = self.place.as_mut().and_then(|p| p.engine.as_mut()) else { return };
        if engine.open && !engine.proven {
            self.violations.push(format!("{} is open and was not proven", engine.runs.label()));
        }
        if engine.open && !engine.holding {
            engine.writes += 1;
            self.acknowledged += 1;
        }
    }

    fn make(&mut self, one: Move<'_>) -> Result<(), String> {
        match one {
            Move::MakePlace => _ = self.place.get_or_insert_default(),
            Move::DropPlace => self.place = None,
            Move::Write(record) => self.write(record),
            Move::Unwrite => self.violations.push("what was written down as true was taken back".to_owned()),
            one => self.place.as_mut().ok_or("there is no place")?.make(one, &mut self.violations)?,
        }
        Ok(())
    }

    fn write(&mut self, record: &Record) {
        match record {
            Record::Deleted => self.row = None,
            Record::Built { generation } => {
                if let Some(row) = &mut self.row {
                    row.built = true;
                    row.generation = *generation;
                }
            }
            Record::Runs { spec, generation, .. } => {
                if let Some(row) = &mut self.row {
                    row.version = spec.version;
                    row.generation = *generation;
                }
            }
        }
    }

    /// Hands the section to the agent, or asks again how it is, and lets the agent work for so many turns.
    fn work_off(&mut self, section: &Section, turns: usize) -> Ended {
        let Some(place) = &mut self.place else { return Ended::Failed(Cause::new("there is no place", "")) };
        let mut journal = place.section.take().unwrap_or_else(|| Journal::new(&section.plan));
        let halt = loop {
            match driver::run(&mut journal, &mut Agent { world: self, section }, turns) {
                Ok(Halt::Crashed) => {}
                Ok(halt) => break halt,
                Err(illegal) => {
                    self.violations.push(illegal.to_string());
                    break Halt::Exhausted;
                }
            }
        };
        let phase = journal.phase();
        if let Some(place) = &mut self.place {
            place.section = Some(journal);
        }
        match (halt, phase) {
            (Halt::Over, Phase::Done) => Ended::Done,
            (Halt::Over, Phase::Undone { cause }) => Ended::Failed(cause),
            (Halt::Waiting, _) => Ended::Waiting,
            (_, phase) => {
                if turns == SECTION_TURNS {
                    self.violations.push(format!("the section does not end: it is {phase:?}"));
                }
                Ended::Crashed
            }
        }
    }

    /// The control plane's part of a section: to hand it over, and to wait.
    fn ask_section(&mut self, site: Site, section: &Section) -> Ended {
        if self.section_phase().is_some() {
            // Once the agent has it, only the agent says how it ends.
            self.schedule.faults.retain(|f| f.site != site || f.kind == Kind::Crash);
        }
        match self.strike(site) {
            None => self.work_off(section, SECTION_TURNS),
            Some(Fault { kind: Kind::Fail | Kind::FailForGood, .. }) => Ended::Failed(injected(site)),
            Some(Fault { kind: Kind::Crash, moment, .. }) => {
                match moment {
                    Moment::Before => {}
                    Moment::Midway => drop(self.work_off(section, MIDWAY_TURNS)),
                    Moment::After => drop(self.work_off(section, SECTION_TURNS)),
                }
                Ended::Crashed
            }
        }
    }

    /// The control plane's part of other settings for an engine that goes on. The agent has it take all of them or none.
    fn ask_configure(&mut self, site: Site, to: &EngineSpec, generation: Generation) -> Ended {
        if self.place.as_ref().is_some_and(|place| place.generation == generation) {
            // It is done, and the agent keeps that it is.
            self.schedule.faults.retain(|f| f.site != site || f.kind == Kind::Crash);
        }
        let fault = self.strike(site);
        match fault {
            Some(Fault { kind: Kind::Fail | Kind::FailForGood, .. }) => return Ended::Failed(injected(site)),
            Some(Fault { kind: Kind::Crash, moment: Moment::Before, .. }) => return Ended::Crashed,
            Some(Fault { kind: Kind::Crash, moment: Moment::Midway | Moment::After, .. }) | None => {}
        }
        if let Err(why) = self.make(Move::Retune(to, generation)) {
            return Ended::Failed(Cause::new(why, ""));
        }
        self.clients_write();
        if fault.is_some() { Ended::Crashed } else { Ended::Done }
    }

    fn cancelled(&mut self, layer: Layer) -> Option<Cause> {
        self.schedule.cancels(layer).then(|| Cause::new("cancelled", ""))
    }
}

impl Performer<Step> for FakeWorld {
    fn perform(&mut self, at: usize, step: &Step) -> Ended {
        let site = Site { layer: Layer::Plan, at, way: Way::Forward };
        match (moves::section_of(step), moves::of_step(step).as_slice()) {
            (Some(section), _) => self.ask_section(site, section),
            (None, [Move::Retune(to, generation)]) => self.ask_configure(site, to, *generation),
            (None, all) => self.make_all(site, all),
        }
    }

    fn undo(&mut self, at: usize, step: &Step) -> Ended {
        if moves::section_of(step).is_some()
            && let Some(phase) = self.section_phase()
            && !matches!(phase, Phase::Undone { .. })
        {
            self.violations.push(format!("a section was undone from outside while it was {phase:?}"));
        }
        self.make_all(Site { layer: Layer::Plan, at, way: Way::Undo }, &moves::of_step_undo(step))
    }

    fn cancelled(&mut self) -> Option<Cause> {
        self.cancelled(Layer::Plan)
    }

    fn answer_cancel(&mut self, accepted: bool) {
        self.cancel_accepted = Some(accepted);
    }
}

/// The agent, which works off a section by itself.
struct Agent<'a> {
    world: &'a mut FakeWorld,
    section: &'a Section,
}

impl Performer<SectionStep> for Agent<'_> {
    fn perform(&mut self, at: usize, step: &SectionStep) -> Ended {
        let site = Site { layer: Layer::Section, at, way: Way::Forward };
        self.world.make_all(site, &moves::of_section(self.section, *step))
    }

    fn undo(&mut self, at: usize, step: &SectionStep) -> Ended {
        let site = Site { layer: Layer::Section, at, way: Way::Undo };
        self.world.make_all(site, &moves::of_section_undo(self.section, *step))
    }

    fn cancelled(&mut self) -> Option<Cause> {
        self.world.cancelled(Layer::Section)
    }

    fn answer_cancel(&mut self, accepted: bool) {
        self.world.cancel_accepted = Some(accepted);
    }
}

fn injected(site: Site) -> Cause {
    Cause::new(format!("fault at {site:?}"), "mend it")
}
