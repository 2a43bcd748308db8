//! What each step does to the world: a list of moves there and a list of moves back.
//!
//! A move is the smallest thing that happens as a whole. Every move makes something true and may be made again, so a
//! step may be cut off between any two of its moves and taken again.

use coffer_core::id::{Generation, OperationId};
use coffer_core::plan::{Record, Step};
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::{EngineSpec, ImageWanted};
use coffer_core::task::Task;

/// The smallest thing that happens as a whole.
#[derive(Clone, Copy, Debug)]
pub enum Move<'a> {
    /// There is a place with an empty volume.
    MakePlace,
    /// There is none, and nothing of it.
    DropPlace,
    /// The image is here.
    Fetch(&'a ImageWanted),
    /// The target would start: its image is here, and nothing else is touched.
    TryTarget(&'a EngineSpec),
    /// It serves, as expected.
    ExpectServing(&'a EngineSpec),
    /// The agent's record and the configuration say this engine.
    Configure(&'a EngineSpec),
    /// The engine goes on with what this says, as the agent's record and the configuration do, under this generation.
    Retune(&'a EngineSpec, Generation),
    /// The agent's record says this generation.
    Adopt(Generation),
    /// The engine of the configuration runs, reachable for the agent alone.
    Start,
    /// The engine that runs is this one and holds what was counted.
    Prove(&'a EngineSpec),
    /// Clients get in.
    Open,
    /// What the engine holds in memory will be on disk when it stops.
    TakeMeasures,
    LiftMeasures,
    /// Writes wait.
    HoldWrites,
    ReleaseWrites,
    /// What the engine holds is counted.
    Count,
    ForgetCount,
    /// The engine has ended cleanly.
    Stop,
    /// The engine is gone, and with it what it holds in memory.
    Kill,
    /// The data are being copied; the copy is not to be used yet.
    Copy,
    /// The copy is complete.
    Seal,
    DropPreImage,
    /// The data are those of the pre-image, where there is a complete one.
    Restore,
    /// There is a copy of the pre-image of this operation, to be used up.
    CopyKept(OperationId),
    /// The data are that copy.
    RestoreKept,
    /// The engine that runs is this one and holds what was counted when that pre-image was taken.
    ProveKept(&'a EngineSpec),
    ForgetCopy,
    /// Pre-images of these operations are kept no longer.
    ForgetKept(&'a [OperationId]),
    /// The control plane has written this down.
    Write(&'a Record),
    /// What the control plane wrote down is as it was. No step may need this.
    Unwrite,
}

/// The critical section that a step hands over, if that is what it does.
pub fn section_of(step: &Step) -> Option<&Section> {
    step.section()
}

/// The moves of a step of the control plane. Empty for a section, which the agent works off by itself.
pub fn of_step(step: &Step) -> Vec<Move<'_>> {
    match step {
        Step::EnsurePlace => vec![Move::MakePlace],
        Step::DropPlace => vec![Move::DropPlace],
        Step::Run { spec, generation, .. } => {
            vec![Move::Configure(spec), Move::Start, Move::Prove(spec), Move::Open, Move::Adopt(*generation)]
        }
        Step::Ask { task, .. } => match &**task {
            Task::Fetch { image } => vec![Move::Fetch(image)],
            Task::Check { to, .. } | Task::CheckBack { to, .. } => vec![Move::TryTarget(to)],
            Task::Finalize { operations } => vec![Move::ForgetKept(operations)],
            Task::Verify { expect } => vec![Move::ExpectServing(expect)],
            // Databases and accounts are no part of the world that is faked.
            Task::Section(_) | Task::Accounts { .. } => vec![],
            Task::Configure { to, generation } => vec![Move::Retune(to, *generation)],
        },
        Step::Record(record) => vec![Move::Write(record)],
    }
}

/// The moves of its undo.
pub fn of_step_undo(step: &Step) -> Vec<Move<'static>> {
    match step {
        Step::EnsurePlace => vec![Move::DropPlace],
        Step::DropPlace | Step::Run { .. } | Step::Ask { .. } => vec![],
        Step::Record(_) => vec![Move::Unwrite],
    }
}

/// The moves of a step of a critical section.
pub fn of_section(section: &Section, step: SectionStep) -> Vec<Move<'_>> {
    match step {
        SectionStep::Prepare => {
            let kept = section.restores.map(Move::CopyKept);
            [Move::TakeMeasures].into_iter().chain(kept).collect()
        }
        SectionStep::Quiesce => vec![Move::HoldWrites, Move::Count],
        SectionStep::Stop => vec![Move::Stop],
        SectionStep::Keep => vec![Move::Copy, Move::Seal],
        SectionStep::Swap => vec![Move::Configure(&section.to)],
        SectionStep::Restore => vec![Move::RestoreKept],
        SectionStep::Start => vec![Move::Start],
        SectionStep::Prove if section.restores.is_some() => vec![Move::ProveKept(&section.to)],
        SectionStep::Prove => vec![Move::Prove(&section.to)],
        SectionStep::Open => {
            vec![Move::Open, Move::Adopt(section.generation), Move::ForgetCount, Move::ForgetCopy]
        }
    }
}

/// The moves of its undo.
pub fn of_section_undo(section: &Section, step: SectionStep) -> Vec<Move<'_>> {
    match step {
        SectionStep::Prepare => vec![Move::LiftMeasures, Move::ForgetCopy, Move::DropPreImage],
        SectionStep::Quiesce => vec![Move::ForgetCount, Move::ReleaseWrites],
        SectionStep::Stop => vec![Move::Start, Move::Prove(&section.from), Move::Open],
        SectionStep::Keep => vec![Move::Restore],
        SectionStep::Swap => vec![Move::Configure(&section.from)],
        SectionStep::Start => vec![Move::Kill],
        SectionStep::Restore | SectionStep::Prove | SectionStep::Open => vec![],
    }
}
