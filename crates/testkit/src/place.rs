//! One place: the volume with what is on it, the agent's configuration and journal, and the engine.

use std::collections::BTreeSet;

use coffer_core::datastore::Number;
use coffer_core::engine::shares_data;
use coffer_core::id::{Digest, Generation, OperationId};
use coffer_core::section::SectionStep;
use coffer_core::spec::EngineSpec;

use crate::driver::Journal;
use crate::moves::Move;

/// The volume with all that is on it, the agent, and the engine.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) images: BTreeSet<Option<Digest>>,
    pub(crate) configuration: Option<EngineSpec>,
    pub(crate) generation: Generation,
    pub(crate) data: Data,
    pub(crate) preimage: Option<PreImage>,
    /// The pre-image of an operation that succeeded before.
    pub(crate) kept: Option<(OperationId, Data)>,
    /// A copy of it. What runs on that changes it.
    pub(crate) copy: Option<Data>,
    pub(crate) engine: Option<Engine>,
    pub(crate) measures: bool,
    pub(crate) counted: Option<u64>,
    /// The agent's journal of the section it was handed, also after its end.
    pub(crate) section: Option<Journal<SectionStep>>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Data {
    pub(crate) written_by: Option<Number>,
    pub(crate) writes: u64,
    /// The writes that they lack because somebody went back to before them, and was told so.
    pub(crate) forfeited: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PreImage {
    pub(crate) complete: bool,
    pub(crate) data: Data,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Engine {
    pub(crate) runs: EngineSpec,
    pub(crate) proven: bool,
    pub(crate) open: bool,
    pub(crate) holding: bool,
    /// The writes that it has, in memory and on disk together.
    pub(crate) writes: u64,
}

impl Place {
    fn start(&mut self, violations: &mut Vec<String>) -> Result<(), String> {
        let runs = self.configuration.as_ref().ok_or("there is no configuration")?.clone();
        match &self.engine {
            Some(engine) if engine.runs == runs => return Ok(()),
            Some(engine) => violations.push(format!("{} was started beside {}", runs.label(), engine.runs.label())),
            None => {}
        }
        self.need_image(&runs)?;
        let of = |number| (runs.datastore(), number);
        if self.data.written_by.is_some_and(|n| n > runs.number && !shares_data(of(n), of(runs.number))) {
            return Err(format!("{} cannot read what a newer engine wrote", runs.label()));
        }
        self.data.written_by = Some(runs.number);
        self.engine = Some(Engine { runs, proven: false, open: false, holding: false, writes: self.data.writes });
        Ok(())
    }

    /// Makes a move that is the agent's. What must never happen is told to `violations`.
    pub(crate) fn make(&mut self, one: Move<'_>, violations: &mut Vec<String>) -> Result<(), String> {
        match one {
            Move::Start => self.start(violations)?,
            Move::Fetch(image) => {
                self.images.insert(image.digest.clone());
            }
            Move::TryTarget(spec) => self.need_image(spec)?,
            Move::ExpectServing(spec) => {
                let engine = self.running()?;
                if engine.runs != *spec || !engine.open {
                    return Err(format!("{} does not serve", spec.label()));
                }
            }
            Move::Configure(spec) => self.configuration = Some(spec.clone()),
            Move::Retune(spec, generation) => {
                self.running()?.runs = spec.clone();
                self.configuration = Some(spec.clone());
                self.generation = generation;
            }
            Move::Adopt(generation) => self.generation = generation,
            Move::Prove(spec) => {
                let counted = self.counted.unwrap_or(0);
                let engine = self.running()?;
                if engine.runs != *spec || engine.writes < counted {
                    return Err(format!("{} runs with {} of {counted} writes", engine.runs.label(), engine.writes));
                }
                engine.proven = true;
            }
            Move::Open => self.running()?.open = true,
            Move::TakeMeasures => self.measures = true,
            Move::LiftMeasures => self.measures = false,
            Move::HoldWrites => self.running()?.holding = true,
            Move::ReleaseWrites => self.running()?.holding = false,
            Move::Count => self.counted = Some(self.running()?.writes),
            Move::ForgetCount => self.counted = None,
            Move::Stop => {
                if let Some(engine) = self.engine.take()
                    && self.measures
                {
                    self.data.writes = engine.writes;
                }
            }
            Move::Kill => self.engine = None,
            Move::Copy => self.preimage = Some(PreImage { complete: false, data: self.data.clone() }),
            Move::Seal => self.preimage.as_mut().ok_or("there is no pre-image")?.complete = true,
            Move::DropPreImage => self.preimage = None,
            Move::CopyKept(operation) => {
                let kept = self.kept.as_ref().filter(|(of, _)| *of == operation);
                self.copy = Some(kept.ok_or("the pre-image is not there")?.1.clone());
            }
            Move::RestoreKept => {
                let now = self.preimage.as_ref().filter(|p| p.complete).ok_or("what there is was not kept")?;
                let copy = self.copy.as_ref().ok_or("there is no copy of the pre-image")?;
                self.data = Data { forfeited: now.data.writes - copy.writes, ..copy.clone() };
            }
            Move::ProveKept(spec) => {
                let wanted = self.kept.as_ref().map(|(_, data)| data.writes);
                let engine = self.running()?;
                if engine.runs != *spec || Some(engine.writes) != wanted {
                    return Err(format!("{} runs with {} of {wanted:?} writes", engine.runs.label(), engine.writes));
                }
                engine.proven = true;
            }
            Move::ForgetCopy => self.copy = None,
            Move::ForgetKept(operations) => {
                self.kept = self.kept.take().filter(|(operation, _)| !operations.contains(operation));
            }
            Move::Restore => {
                if let Some(kept) = self.preimage.as_ref().filter(|p| p.complete) {
                    self.data = kept.data.clone();
                }
            }
            Move::MakePlace | Move::DropPlace | Move::Write(_) | Move::Unwrite => {
                return Err(format!("{one:?} is the control plane's"));
            }
        }
        Ok(())
    }

    fn need_image(&self, spec: &EngineSpec) -> Result<(), String> {
        if self.images.contains(&spec.image.digest) {
            return Ok(());
        }
        Err(format!("the image of {} is not here", spec.label()))
    }

    fn running(&mut self) -> Result<&mut Engine, String> {
        self.engine.as_mut().ok_or_else(|| "no engine runs".to_owned())
    }
}
