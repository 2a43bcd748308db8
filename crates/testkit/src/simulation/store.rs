//! The store: rows, transactions one after another, and the rules that its SQL has. That the SQL has them is shown by the
//! store's own tests, on real databases.

use std::sync::Arc;

use coffer_core::finding::Cause;
use coffer_core::group::Group;
use coffer_core::id::OperationId;
use coffer_core::instance::{Fault, Instance, Kind, Observed, Operation};
use coffer_core::operation::Phase;
use coffer_core::plan::Step;
use coffer_core::runner::{Change, Desire, operation_of};
use coffer_core::stuck::displaced;
use coffer_core::task::TaskResult;
use jiff::Timestamp;

use super::coverage::End;
use super::world::World;

/// An instance's row with all that belongs to it.
pub(super) struct Row {
    pub(super) instance: Arc<Instance>,
    pub(super) desired: Option<Arc<Desire>>,
    pub(super) observed: Option<Arc<Observed>>,
    pub(super) deleted: bool,
    /// All operations, the oldest first.
    pub(super) operations: Vec<Arc<Operation>>,
    pub(super) results: Vec<TaskResult>,
    lease_until: Timestamp,
    /// Another number after every write.
    pub(super) revision: u64,
}

impl Row {
    pub(super) fn open(&self) -> Option<&Arc<Operation>> {
        self.operations.last().filter(|operation| operation.is_open())
    }
}

/// Everything that is written down.
#[derive(Default)]
pub(super) struct Store {
    pub(super) rows: Vec<Row>,
    pub(super) groups: Vec<Group>,
}

/// Why nothing was written, as far as who wanted it can tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Somebody else has claimed the operation since.
    Fenced,
    /// The instance has an open operation already.
    Busy,
}

impl Store {
    pub(super) fn insert(&mut self, instance: Instance, operation: Operation) {
        self.rows.push(Row {
            instance: Arc::new(instance),
            desired: None,
            observed: None,
            deleted: false,
            operations: vec![Arc::new(operation)],
            results: Vec::new(),
            lease_until: Timestamp::MIN,
            revision: 1,
        });
    }

    /// Claims an open operation that nobody has a lease of.
    pub(super) fn claim(&mut self, ix: usize, id: OperationId, now: Timestamp, until: Timestamp) -> Option<Operation> {
        let row = &mut self.rows[ix];
        let operation = row.operations.last_mut().filter(|operation| operation.id == id && operation.is_open())?;
        if row.lease_until > now {
            return None;
        }
        row.lease_until = until;
        let claimed = Arc::make_mut(operation);
        claimed.epoch.0 += 1;
        Some(claimed.clone())
    }

    /// Whether nobody has claimed the operation since, nor ended it.
    pub(super) fn holds(&self, ix: usize, operation: &Operation) -> bool {
        self.rows[ix].open().is_some_and(|now| now.id == operation.id && now.epoch == operation.epoch)
    }

    /// Gives a claim back.
    pub(super) fn release(&mut self, ix: usize, operation: &Operation) {
        let row = &mut self.rows[ix];
        if row.operations.last().is_some_and(|now| now.id == operation.id && now.epoch == operation.epoch) {
            row.lease_until = Timestamp::MIN;
        }
    }

    /// Opens an operation, unless the instance has one already.
    pub(super) fn open(&mut self, ix: usize, operation: Operation) -> Result<(), Refused> {
        let row = &mut self.rows[ix];
        if row.open().is_some() {
            return Err(Refused::Busy);
        }
        row.operations.push(Arc::new(operation));
        row.lease_until = Timestamp::MIN;
        row.revision += 1;
        Ok(())
    }

    /// Ends an operation that is stuck. Whoever still works on it is fenced.
    pub(super) fn end_stuck(&mut self, ix: usize, cause: &Cause) {
        let row = &mut self.rows[ix];
        if let Some(open) = row.operations.last_mut().filter(|operation| operation.is_open()) {
            let open = Arc::make_mut(open);
            open.epoch.0 += 1;
            open.phase = displaced(&open.phase, cause.clone());
            row.revision += 1;
        }
    }

    /// What an agent reports.
    pub(super) fn save_report(&mut self, ix: usize, observed: Option<&Arc<Observed>>, results: &[TaskResult]) -> bool {
        let row = &mut self.rows[ix];
        if row.deleted {
            return false;
        }
        row.observed = observed.cloned().or(row.observed.take());
        let open = row.open().map(|operation| operation.id);
        for result in results {
            let known = row.results.iter().any(|kept| kept.id == result.id);
            if open.is_some() && operation_of(&result.id) == open && !known {
                row.results.push(result.clone());
            }
        }
        true
    }

    pub(super) fn set_fault(&mut self, ix: usize, cause: Option<&Cause>, abandoned: bool, at: Timestamp) {
        let instance = Arc::make_mut(&mut self.rows[ix].instance);
        instance.fault = cause.map(|cause| Fault { at, cause: cause.clone(), abandoned });
    }

    fn apply(&mut self, ix: usize, change: &Change) {
        let row = &mut self.rows[ix];
        row.revision += 1;
        match change {
            Change::Desire(desire) => row.desired = Some(Arc::new(desire.clone())),
            // Versions of fixtures have their images.
            Change::Image { .. } | Change::Measured(_) => {}
            Change::Built { generation } => {
                let instance = Arc::make_mut(&mut row.instance);
                (instance.built, instance.generation) = (true, *generation);
            }
            Change::Runs(desire, configured) => {
                let instance = Arc::make_mut(&mut row.instance);
                if let Some(configured) = configured {
                    if let Some(group) = &configured.group
                        && !self.groups.iter().any(|known| known.id == group.id)
                    {
                        self.groups.push(group.clone());
                    }
                    instance.own.clone_from(&configured.own);
                    instance.group.clone_from(&configured.group);
                } else if instance.group.is_none() {
                    instance.own.clone_from(&desire.engine.settings);
                }
                instance.version = desire.engine.version;
                instance.settings.clone_from(&desire.engine.settings);
                instance.generation = desire.generation;
                row.desired = Some(Arc::new(desire.clone()));
            }
            Change::Deleted => {
                row.deleted = true;
                row.desired = None;
            }
        }
    }
}

impl World {
    /// Writes where an operation stands now, and what becomes true with it: all of it, or, fenced, nothing.
    pub(super) fn save(
        &mut self,
        ix: usize,
        operation: &Operation,
        changes: &[Change],
        lease_until: Timestamp,
    ) -> Result<(), Refused> {
        let row = &mut self.store.rows[ix];
        let now = row.operations.last_mut().filter(|now| now.id == operation.id && now.is_open());
        let Some(now) = now.filter(|now| now.epoch == operation.epoch) else {
            self.coverage.fenced += 1;
            return Err(Refused::Fenced);
        };
        *now = Arc::new(operation.clone());
        row.lease_until = lease_until;
        row.revision += 1;
        row.results.clear();
        for change in changes {
            self.watch_record(ix, operation, change);
            self.store.apply(ix, change);
        }
        let at = operation.updated_at;
        let end = match &operation.phase {
            Phase::Done => {
                self.store.set_fault(ix, None, false, at);
                Some(End::Done)
            }
            Phase::Undone { cause } => {
                self.store.set_fault(ix, Some(cause), false, at);
                Some(End::Undone)
            }
            Phase::Stuck { cause, .. } => {
                self.store.set_fault(ix, Some(cause), false, at);
                Some(End::Stuck)
            }
            Phase::Abandoned { cause, .. } => {
                self.store.set_fault(ix, Some(cause), true, at);
                Some(End::Abandoned)
            }
            Phase::Forward { .. } | Phase::Backward { .. } => None,
        };
        if let Some(end) = end {
            *self.coverage.ends.entry((operation.kind, end)).or_default() += 1;
            self.watch_end(ix, operation, end);
        }
        Ok(())
    }

    /// What is recorded is true, and was proven.
    fn watch_record(&mut self, ix: usize, operation: &Operation, change: &Change) {
        let wrong = match (change, &self.places[ix]) {
            // A place that a stopped server makes late is dropped later: that it is, is seen at the end.
            (Change::Deleted | Change::Desire(_) | Change::Image { .. } | Change::Measured(_), _) => None,
            (Change::Built { .. } | Change::Runs(..), None) => {
                Some("it is recorded as running, without a place".to_owned())
            }
            (Change::Built { .. }, Some(place)) => {
                (!place.served).then(|| "it is recorded as built, and never served".to_owned())
            }
            (Change::Runs(desire, _), Some(place)) => {
                let data = &place.volume.data;
                let on_disk = place.volume.written.engine.as_deref();
                if on_disk != Some(&desire.engine) {
                    Some(format!(
                        "{} is recorded, and its agent has {:?}",
                        desire.engine.label(),
                        on_disk.map(coffer_core::spec::EngineSpec::label)
                    ))
                } else if data.proven_by != Some(desire.engine.number) {
                    Some(format!("{} is recorded, and {:?} was proven", desire.engine.label(), data.proven_by))
                } else {
                    None
                }
            }
        };
        if let Some(wrong) = wrong {
            self.violated(format!("instance {ix}, {}: {wrong}", operation.kind.name()));
        }
    }

    /// What the instance is from now on, by what operations said that they did.
    fn watch_end(&mut self, ix: usize, operation: &Operation, end: End) {
        if end != End::Done {
            return;
        }
        let expected = &mut self.expected[ix];
        match operation.kind {
            Kind::Create => expected.built = true,
            Kind::Delete => expected.deleted = true,
            Kind::Upgrade | Kind::Rollback => {
                if let Some(section) = operation.plan.steps.iter().find_map(Step::section) {
                    expected.version = section.to.version;
                }
            }
            Kind::Restart | Kind::Configure | Kind::Finalize => {}
        }
    }
}
