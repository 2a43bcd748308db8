//! Faults: where, when and how something goes wrong, and the list of everything that can.

use coffer_core::operation::Plan;
use coffer_core::plan::Step;

use crate::moves;

/// Whose plan a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// The control plane's.
    Plan,
    /// The agent's critical section.
    Section,
}

/// In which direction a step is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Forward,
    Undo,
}

/// One step in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub layer: Layer,
    pub at: usize,
    pub way: Way,
}

/// How much of the step happens before it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of it.
    Before,
    /// The first half of its moves. Only where it has more than one.
    Midway,
    /// All of it, but nobody hears so.
    After,
}

/// How it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It reports that it failed, once.
    Fail,
    /// It reports that it failed, every time, until somebody mends it.
    FailForGood,
    /// Whoever takes the step is killed; nothing is recorded.
    Crash,
}

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub site: Site,
    pub moment: Moment,
    pub kind: Kind,
}

/// The faults that are still to strike, and the moment at which a person cancels, if one does.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    pub faults: Vec<Fault>,
    /// Before which turn of whose loop the cancel arrives. A turn that a crash ended is a turn too.
    pub cancel: Option<(Layer, usize)>,
}

impl Schedule {
    /// The fault that strikes at this visit of the site. All but those for good strike once.
    pub fn strike(&mut self, site: Site) -> Option<Fault> {
        let i = self.faults.iter().position(|f| f.site == site)?;
        if self.faults[i].kind == Kind::FailForGood { Some(self.faults[i]) } else { Some(self.faults.remove(i)) }
    }

    /// Whether the cancel arrives before this turn. Asked once per turn.
    pub fn cancels(&mut self, layer: Layer) -> bool {
        let Some((_, turns)) = self.cancel.as_mut().filter(|(of, _)| *of == layer) else { return false };
        *turns -= 1;
        if *turns > 0 {
            return false;
        }
        self.cancel = None;
        true
    }

    /// A person has mended whatever kept failing.
    pub fn mend(&mut self) {
        self.faults.clear();
    }
}

/// Every fault that can strike a plan and the critical section in it.
pub fn all(plan: &Plan<Step>) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (at, step) in plan.steps.iter().enumerate() {
        let undoable = at < plan.point_of_no_return;
        let Some(section) = moves::section_of(step) else {
            let (there, back) = (moves::of_step(step).len(), moves::of_step_undo(step).len());
            at_step(&mut faults, Layer::Plan, at, undoable, there, back);
            continue;
        };
        // A section that was handed over fails by its agent's word alone. The control plane itself can only fail to
        // hand it over, or crash while it waits.
        let site = |way| Site { layer: Layer::Plan, at, way };
        faults.push(Fault { site: site(Way::Forward), moment: Moment::Before, kind: Kind::Fail });
        for moment in [Moment::Before, Moment::Midway, Moment::After] {
            faults.push(Fault { site: site(Way::Forward), moment, kind: Kind::Crash });
        }
        at_way(&mut faults, site(Way::Undo), &[Kind::Fail, Kind::FailForGood, Kind::Crash], 0);
        let inner = &section.plan;
        for (at, &step) in inner.steps.iter().enumerate() {
            let undoable = at < inner.point_of_no_return;
            let (there, back) = (moves::of_section(section, step).len(), moves::of_section_undo(section, step).len());
            at_step(&mut faults, Layer::Section, at, undoable, there, back);
        }
    }
    faults
}

fn at_step(faults: &mut Vec<Fault>, layer: Layer, at: usize, undoable: bool, there: usize, back: usize) {
    // What can be undone is never tried twice, so failing for good is no different there from failing once.
    let forward: &[Kind] =
        if undoable { &[Kind::Fail, Kind::Crash] } else { &[Kind::Fail, Kind::FailForGood, Kind::Crash] };
    at_way(faults, Site { layer, at, way: Way::Forward }, forward, there);
    if undoable {
        let kinds = [Kind::Fail, Kind::FailForGood, Kind::Crash];
        at_way(faults, Site { layer, at, way: Way::Undo }, &kinds, back);
    }
}

fn at_way(faults: &mut Vec<Fault>, site: Site, kinds: &[Kind], moves: usize) {
    for &kind in kinds {
        for moment in [Moment::Before, Moment::Midway, Moment::After] {
            if moment != Moment::Midway || moves > 1 {
                faults.push(Fault { site, moment, kind });
            }
        }
    }
}
