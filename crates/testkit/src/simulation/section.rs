//! The agent's work on a critical section: the order and the rules are those of `coffer_core`, the acts of each step those of the
//! agent, each by itself, so that anything may happen between two of them.

use std::sync::Arc;

use coffer_core::agent::Kept;
use coffer_core::finding::Cause;
use coffer_core::gate::{Event as At, Gate};
use coffer_core::operation::{self, Event as Happened, Next, Phase};
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::EngineSpec;
use coffer_core::task::Learned;

use super::agent::{Durability, Journal};
use super::coverage::{Victim, Way};
use super::place::{HOLD, PreImage, Writes};
use super::world::{Event, World};

/// The pauses before a step that must not fail is tried again. The last one repeats.
const AGAIN: [u64; 4] = [200, 1000, 5000, 30_000];

/// What an act of a step has come to.
enum Acted {
    /// The next act comes after so many milliseconds.
    More(u64),
    Done,
}

use Acted::{Done, More};

impl World {
    fn journal(&mut self, ix: usize) -> Option<&mut Journal> {
        self.agent(ix)?.state.section.as_mut()
    }

    /// Where a section stands, for whoever strikes there.
    pub(super) fn section_at(&self, ix: usize) -> Option<(SectionStep, Way)> {
        let journal = self.places[ix].as_ref()?.agent.state.section.as_ref()?;
        let steps = &journal.section.plan.steps;
        match operation::next(&journal.section.plan, &journal.phase) {
            Next::Begin(at) | Next::Do(at) => Some((steps[at], Way::There)),
            Next::Undo(at) => Some((steps[at], Way::Back)),
            Next::Wait | Next::Nothing => None,
        }
    }

    pub(super) fn struck(&mut self, ix: usize, victim: Victim) {
        if let Some((step, way)) = self.section_at(ix) {
            *self.coverage.struck.entry((step, way, victim)).or_default() += 1;
        }
    }

    /// Does one act of the open section. Gives how long it takes, in milliseconds.
    pub(super) fn work_off(&mut self, ix: usize) -> u64 {
        self.tries(ix);
        let Some(agent) = self.agent(ix) else { return 0 };
        let (pc, failures) = (agent.pc, agent.failures);
        let Some(journal) = &agent.state.section else { return 0 };
        let section = Arc::clone(&journal.section);
        match operation::next(&section.plan, &journal.phase) {
            Next::Begin(at) => {
                let durability =
                    if section.plan.steps[at].is_decisive() { Durability::Flushed } else { Durability::Written };
                self.advance(ix, Happened::Begun, durability);
                1
            }
            Next::Do(at) => {
                let step = section.plan.steps[at];
                let ran = self.runs(ix);
                let acted = if self.step_fails(ix) {
                    Err(Cause::new(format!("{} failed", step.name()), ""))
                } else {
                    self.perform(ix, &section, step, pc)
                };
                match acted {
                    Ok(More(millis)) => self.more(ix, millis),
                    Err(_) if ran && self.goes_without(ix, &section, step) => 1,
                    Ok(Done) => {
                        self.say(|| format!("agent of {ix}: {} done", step.name()));
                        self.again(ix, 0);
                        self.advance(ix, Happened::Succeeded, Durability::Written);
                        1
                    }
                    Err(cause) => {
                        self.say(|| format!("agent of {ix}: {} failed: {cause}", step.name()));
                        self.advance(ix, Happened::Failed(cause), Durability::Written);
                        if at < section.plan.point_of_no_return { 1 } else { self.again(ix, failures + 1) }
                    }
                }
            }
            Next::Undo(at) => {
                let step = section.plan.steps[at];
                let acted = if self.step_fails(ix) {
                    Err(Cause::new(format!("the undo of {} failed", step.name()), ""))
                } else {
                    self.undo(ix, &section, step, pc)
                };
                match acted {
                    Ok(More(millis)) => self.more(ix, millis),
                    Ok(Done) => {
                        self.say(|| format!("agent of {ix}: {} undone", step.name()));
                        self.again(ix, 0);
                        self.advance(ix, Happened::UndoSucceeded, Durability::Written);
                        1
                    }
                    Err(cause) => {
                        self.say(|| format!("agent of {ix}: undo of {} failed: {cause}", step.name()));
                        self.advance(ix, Happened::UndoFailed(cause), Durability::Written);
                        self.again(ix, failures + 1)
                    }
                }
            }
            Next::Wait => {
                self.keep_trying(ix);
                1
            }
            Next::Nothing => {
                self.finish(ix);
                1
            }
        }
    }

    /// Whether the step that failed is done again without the engine.
    fn goes_without(&mut self, ix: usize, section: &Section, step: SectionStep) -> bool {
        let is_asked = matches!(step, SectionStep::Prepare | SectionStep::Quiesce | SectionStep::Stop);
        if !section.down || !is_asked || (self.runs(ix) && !section.gives_up_on_it()) {
            return false;
        }
        self.say(|| format!("agent of {ix}: {} is done without the engine", step.name()));
        self.engine_dies(ix, "is killed, since it is gone back without it");
        if let Some(agent) = self.agent(ix) {
            agent.pc = 0;
        }
        if let Some(journal) = self.journal(ix) {
            journal.fingerprint = None;
        }
        true
    }

    fn more(&mut self, ix: usize, millis: u64) -> u64 {
        if let Some(agent) = self.agent(ix) {
            agent.pc += 1;
        }
        millis
    }

    /// So many failures in a row: the pause after them.
    fn again(&mut self, ix: usize, failures: usize) -> u64 {
        if let Some(agent) = self.agent(ix) {
            agent.failures = failures;
        }
        if failures == 0 {
            if let Some(journal) = self.journal(ix) {
                journal.stuck = None;
            }
            return 0;
        }
        self.keep_trying(ix);
        if self.is_asked_anew(ix) {
            return self.tries_at_once(ix);
        }
        if let Some(agent) = self.agent(ix) {
            agent.pauses = true;
        }
        AGAIN[(failures - 1).min(AGAIN.len() - 1)]
    }

    /// The agent does not give up a database, and says that it is stuck.
    fn keep_trying(&mut self, ix: usize) {
        let Some(journal) = self.journal(ix) else { return };
        if let Phase::Stuck { cause, .. } = &journal.phase {
            journal.stuck = Some(cause.clone());
            self.advance(ix, Happened::Retry, Durability::Written);
        }
    }

    fn advance(&mut self, ix: usize, event: Happened, durability: Durability) {
        let Some(agent) = self.agent(ix) else { return };
        agent.pc = 0;
        let Some(journal) = &mut agent.state.section else { return };
        match operation::apply(&journal.section.plan, &journal.phase, event) {
            Ok(phase) => journal.phase = phase,
            Err(illegal) => self.violated(illegal.to_string()),
        }
        self.save_state(ix, durability);
    }

    fn finish(&mut self, ix: usize) {
        let now = self.timestamp();
        let Some(place) = self.place(ix) else { return };
        let Some(journal) = place.agent.state.section.take() else { return };
        let operation = journal.section.operation;
        let end = match journal.phase {
            Phase::Undone { cause } => Err(cause),
            _ => {
                if journal.section.plan.steps.contains(&SectionStep::Keep) {
                    if let Some(image) = place.volume.pre.get_mut(&operation) {
                        image.held = journal.fingerprint;
                        image.ready = None;
                    }
                    place.agent.state.kept.push(Kept { operation, since: now, finalized: false });
                }
                Ok(())
            }
        };
        self.say(|| format!("agent of {ix}: the section is over: {end:?}"));
        self.finish_task(ix, journal.task, end, Learned::default());
        self.note_start(ix);
    }

    fn runs(&mut self, ix: usize) -> bool {
        self.engine(ix).is_some()
    }

    fn image(&mut self, ix: usize, section: &Section) -> Option<&mut PreImage> {
        self.place(ix)?.volume.pre.get_mut(&section.operation)
    }

    /// One act of a step. After a crash it begins at its first again.
    fn perform(&mut self, ix: usize, section: &Section, step: SectionStep, pc: u32) -> Result<Acted, Cause> {
        match step {
            SectionStep::Prepare => self.prepare(ix, section, pc),
            SectionStep::Quiesce => self.quiesce(ix, pc),
            SectionStep::Stop => self.stop(ix, section, pc),
            SectionStep::Keep => {
                self.untouched(ix, "a pre-image is taken");
                let Some(place) = self.place(ix) else { return Ok(Done) };
                let data = place.volume.data.clone();
                let image = place.volume.pre.entry(section.operation).or_default();
                if image.complete {
                    return Ok(Done);
                }
                if pc == 0 {
                    return Ok(More(self.rng.between(5, 400)));
                }
                (image.data, image.complete) = (data, true);
                Ok(Done)
            }
            SectionStep::Swap => {
                if let Some(agent) = self.agent(ix) {
                    agent.state.engine = Some(Arc::new(section.to.clone()));
                }
                Ok(Done)
            }
            SectionStep::Restore => {
                self.untouched(ix, "data are restored");
                let ready = self.image(ix, section).and_then(|image| image.ready.clone());
                let ready = ready.ok_or_else(|| Cause::new("the copy of the pre-image is not complete", ""))?;
                if let Some(place) = self.place(ix) {
                    place.volume.data = ready;
                    place.agent.state.on_disk = Some(section.to.number);
                }
                Ok(Done)
            }
            SectionStep::Start => self.start(ix, section, pc),
            SectionStep::Prove => {
                let held = match section.restores {
                    Some(operation) => self.place(ix).and_then(|place| place.volume.pre.get(&operation)?.held.clone()),
                    None => self.journal(ix).and_then(|journal| journal.fingerprint.clone()),
                };
                if pc == 0 {
                    self.answering(ix)?;
                    return Ok(More(self.rng.between(5, 300)));
                }
                self.prove(ix, &section.to, held.as_ref(), section.from.number == section.to.number)?;
                Ok(Done)
            }
            SectionStep::Open => self.open(ix, section, pc),
        }
    }

    fn prepare(&mut self, ix: usize, section: &Section, pc: u32) -> Result<Acted, Cause> {
        let keeps = section.plan.steps.contains(&SectionStep::Keep);
        if !self.runs(ix) {
            return match keeps {
                true if section.down => self.make_ready(ix, section),
                true => Err(Cause::new("it does not run any more", "")),
                false => Ok(Done),
            };
        }
        self.answering(ix)?;
        match pc {
            0 => {
                if let Some(journal) = self.journal(ix) {
                    journal.measures = true;
                }
                // What was found has to survive before it is changed.
                self.save_state(ix, Durability::Flushed);
                Ok(More(5))
            }
            1 => Ok(More(self.rng.between(20, 1500))),
            2 => {
                self.write_down(ix, true);
                if !keeps {
                    return Ok(Done);
                }
                if let Some(place) = self.place(ix) {
                    place.volume.pre.entry(section.operation).or_default().complete = false;
                }
                Ok(More(self.rng.between(5, 300)))
            }
            _ => self.make_ready(ix, section),
        }
    }

    /// The copy of the pre-image that is gone back to.
    fn make_ready(&mut self, ix: usize, section: &Section) -> Result<Acted, Cause> {
        let Some(operation) = section.restores else { return Ok(Done) };
        let other = self.place(ix).and_then(|place| place.volume.pre.get(&operation)).filter(|other| other.complete);
        let data = other.map(|other| other.data.clone()).ok_or_else(|| Cause::new("the pre-image is not there", ""))?;
        if let Some(place) = self.place(ix) {
            place.volume.pre.entry(section.operation).or_default().ready = Some(data);
        }
        Ok(Done)
    }

    fn quiesce(&mut self, ix: usize, pc: u32) -> Result<Acted, Cause> {
        if !self.runs(ix) {
            return Ok(Done);
        }
        self.answering(ix)?;
        let until = self.now + HOLD;
        if pc == 0 {
            self.gate(ix, At::Hold { until });
            return Ok(More(self.rng.between(20, 200)));
        }
        self.make_wait(ix, until)?;
        Ok(Done)
    }

    /// From now on writes wait, and what is held is counted.
    fn make_wait(&mut self, ix: usize, until: u64) -> Result<(), Cause> {
        let engine = self.answering(ix)?;
        engine.waits = true;
        let holds = engine.holds.clone();
        if let Some(agent) = self.agent(ix) {
            agent.waiting_until = Some(until);
        }
        if let Some(journal) = self.journal(ix) {
            journal.fingerprint = Some(holds);
        }
        Ok(())
    }

    fn stop(&mut self, ix: usize, section: &Section, pc: u32) -> Result<Acted, Cause> {
        let is_read = section.plan.steps.contains(&SectionStep::Keep) && !section.gives_up_on_it();
        let now = self.now;
        if let Some(agent) = self.agent(ix) {
            agent.state.wanted = false;
        }
        let Some(engine) = self.engine(ix) else {
            if let Some(journal) = self.journal(ix).filter(|_| section.down) {
                journal.fingerprint = None;
            }
            let clean = self.place(ix).is_some_and(|place| place.volume.data.clean);
            return if is_read && !clean { Err(Cause::new("it ended without a clean stop", "")) } else { Ok(Done) };
        };
        let birth = engine.birth;
        // An agent before this one, killed since, had told it to end already.
        if engine.ending {
            return Ok(More(20));
        }
        if pc == 0 {
            let waits = self.agent(ix).and_then(|agent| agent.waiting_until).is_some_and(|until| now + 5000 < until);
            if !waits {
                self.gate(ix, At::Hold { until: now + HOLD });
                self.make_wait(ix, now + HOLD)?;
            }
            return Ok(More(2));
        }
        self.answering(ix)?.ending = true;
        let at = self.now + self.rng.between(5, 800);
        self.at(at, Event::EngineEnds(ix, birth));
        Ok(More(20))
    }

    fn start(&mut self, ix: usize, section: &Section, pc: u32) -> Result<Acted, Cause> {
        match pc {
            0 => {
                // One that an agent started before it was killed may be half open, or another version: it is begun anew.
                self.kill(ix);
                if let Some(agent) = self.agent(ix) {
                    agent.state.on_disk = Some(section.to.number);
                }
                Ok(More(1))
            }
            1 => {
                self.launch(ix, &Arc::new(section.to.clone()))?;
                Ok(More(self.start_millis()))
            }
            _ => {
                let now = self.now;
                let nobody_waits = section.down && !self.journal(ix).is_some_and(|journal| journal.was_running);
                let late =
                    self.place(ix).and_then(|place| place.gate.deadline()).is_some_and(|until| now + 1000 > until);
                let Some(engine) = self.engine(ix) else { return Err(Cause::new("it ended as it started", "")) };
                if late && !nobody_waits {
                    return Err(Cause::new("it was not ready in the time that connections may wait", ""));
                }
                engine.answers = true;
                Ok(Done)
            }
        }
    }

    /// Proves that the engine is what `spec` says and holds what was counted.
    fn prove(&mut self, ix: usize, spec: &EngineSpec, held: Option<&Writes>, same: bool) -> Result<(), Cause> {
        let engine = self.answering(ix)?;
        if *engine.runs != *spec {
            return Err(Cause::new(format!("{} runs instead of {}", engine.runs.label(), spec.label()), ""));
        }
        if held.is_some_and(|held| *held != engine.holds) && !same {
            return Err(Cause::new(format!("{} does not hold what was counted", spec.label()), ""));
        }
        engine.proven = true;
        if let Some(place) = self.place(ix) {
            place.volume.data.proven_by = Some(spec.number);
        }
        Ok(())
    }

    fn open(&mut self, ix: usize, section: &Section, pc: u32) -> Result<Acted, Cause> {
        match pc {
            0 if !self.runs(ix) => {
                self.launch(ix, &Arc::new(section.to.clone()))?;
                Ok(More(self.start_millis()))
            }
            0 => Ok(More(1)),
            1 => {
                let Some(engine) = self.engine(ix) else { return Err(Cause::new("it ended", "")) };
                engine.answers = true;
                let holds = engine.holds.clone();
                if section.restores.is_some() && !self.is_open(ix) {
                    let given_up = self.promises[ix].go_back_to(&holds);
                    self.coverage.forfeited += given_up;
                }
                self.let_in(ix);
                Ok(More(self.rng.between(1, 800)))
            }
            _ => {
                self.answering(ix)?;
                if let Some(agent) = self.agent(ix) {
                    agent.state.wanted = true;
                    agent.state.generation = section.generation;
                    agent.state.settle = true;
                }
                Ok(Done)
            }
        }
    }

    /// One act of the undo of a step. True also of a step that acted in part or not at all.
    fn undo(&mut self, ix: usize, section: &Section, step: SectionStep, pc: u32) -> Result<Acted, Cause> {
        let Some(journal) = self.journal(ix) else { return Ok(Done) };
        let (was_running, was_wanted) = (journal.was_running, journal.was_wanted);
        match step {
            SectionStep::Prepare => {
                if was_running && !self.serving(ix, section, pc)? {
                    return Ok(More(self.start_millis()));
                }
                let Some(place) = self.place(ix) else { return Ok(Done) };
                place.agent.state.settle |= place.agent.state.section.as_ref().is_some_and(|journal| journal.measures);
                place.volume.pre.remove(&section.operation);
                Ok(Done)
            }
            SectionStep::Quiesce if was_running => {
                if !self.serving(ix, section, pc)? {
                    return Ok(More(self.start_millis()));
                }
                Ok(Done)
            }
            SectionStep::Stop if was_running => self.start_old(ix, section, pc),
            SectionStep::Quiesce if section.gives_up_on_it() => {
                self.kill(ix);
                Ok(Done)
            }
            SectionStep::Stop => {
                let wanted = was_wanted || !section.down;
                if let Some(agent) = self.agent(ix) {
                    agent.state.wanted = wanted;
                }
                if !wanted {
                    self.gate(ix, At::Refuse);
                }
                Ok(Done)
            }
            SectionStep::Keep => {
                self.untouched(ix, "the pre-image is put back");
                let Some(place) = self.place(ix) else { return Ok(Done) };
                match place.volume.pre.get(&section.operation) {
                    Some(image) if image.complete => place.volume.data = image.data.clone(),
                    // Without a complete pre-image nothing was started on the data.
                    _ => drop(place.volume.pre.remove(&section.operation)),
                }
                place.agent.state.on_disk = Some(section.from.number);
                Ok(Done)
            }
            SectionStep::Swap => {
                if let Some(agent) = self.agent(ix) {
                    agent.state.engine = Some(Arc::new(section.from.clone()));
                }
                Ok(Done)
            }
            SectionStep::Start => {
                self.kill(ix);
                Ok(Done)
            }
            SectionStep::Restore | SectionStep::Quiesce | SectionStep::Prove | SectionStep::Open => Ok(Done),
        }
    }

    /// The old engine again, proven and open, unless it never was stopped.
    fn start_old(&mut self, ix: usize, section: &Section, pc: u32) -> Result<Acted, Cause> {
        let now = self.now;
        let runs = self.runs(ix);
        match pc {
            0 => {
                if let Some(place) = self.place(ix)
                    && matches!(place.gate, Gate::Holding { .. })
                {
                    self.gate(ix, At::Hold { until: now + HOLD });
                }
                let Some(journal) = self.journal(ix) else { return Ok(Done) };
                if runs && !journal.old_started {
                    return Ok(self.is_wanted(ix));
                }
                journal.old_started = true;
                self.save_state(ix, Durability::Flushed);
                Ok(More(2))
            }
            1 => {
                self.launch(ix, &Arc::new(section.from.clone()))?;
                Ok(More(self.start_millis()))
            }
            2 => {
                let Some(engine) = self.engine(ix) else { return Err(Cause::new("it ended as it started", "")) };
                engine.answers = true;
                // Once it is open clients write, and it no longer is what was counted.
                if self.is_open(ix) {
                    return Ok(self.is_wanted(ix));
                }
                let Some(journal) = self.journal(ix) else { return Ok(Done) };
                if !journal.old_proven {
                    let held = journal.fingerprint.clone();
                    self.prove(ix, &section.from, held.as_ref(), true)?;
                    if let Some(journal) = self.journal(ix) {
                        journal.old_proven = true;
                    }
                    self.save_state(ix, Durability::Flushed);
                }
                Ok(More(2))
            }
            _ => {
                self.answering(ix)?;
                self.let_in(ix);
                Ok(self.is_wanted(ix))
            }
        }
    }

    fn is_wanted(&mut self, ix: usize) -> Acted {
        if let Some(agent) = self.agent(ix) {
            agent.state.wanted = true;
        }
        Done
    }

    /// The old engine, running and open: where a way back ends. False where it was started and is to be waited for.
    fn serving(&mut self, ix: usize, section: &Section, pc: u32) -> Result<bool, Cause> {
        if pc == 0 && !self.engine(ix).is_some_and(|engine| engine.answers && !engine.ending) {
            self.launch(ix, &Arc::new(section.from.clone()))?;
            return Ok(false);
        }
        let Some(engine) = self.engine(ix).filter(|engine| !engine.ending) else {
            return Err(Cause::new("it ended", ""));
        };
        engine.answers = true;
        self.let_in(ix);
        Ok(true)
    }

    /// The agent kills its engine.
    fn kill(&mut self, ix: usize) {
        let Some(engine) = self.engine(ix) else { return };
        let (open, holds) = (engine.writes_down, engine.holds.clone());
        if !open && self.promises[ix].missing(&holds).is_none() && self.is_open(ix) {
            self.violated(format!("the agent of {ix} killed an engine with what only that had"));
        }
        self.engine_gone(ix, "is killed by its agent");
    }

    /// Nothing may be done to data while an engine runs on them.
    fn untouched(&mut self, ix: usize, what: &str) {
        if let Some(engine) = self.engine(ix) {
            let label = engine.runs.label();
            self.violated(format!("{what} of {ix} while {label} runs on the data"));
        }
    }
}
