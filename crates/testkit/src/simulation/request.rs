//! What people ask for: any operation at any moment, of any server, and now and then two at once.

use coffer_core::finding::Finding;
use coffer_core::group::Group;
use coffer_core::id::{Epoch, GroupId, InstanceId, OperationId, VersionId};
use coffer_core::instance::{Instance, Kind, Observed, Operation};
use coffer_core::operation::{Phase, Plan};
use coffer_core::plan::{
    Planned, Refusal, Snapshot, Step, find_way_back, plan_configure, plan_create, plan_create_with, plan_delete,
    plan_finalize, plan_restart, plan_rollback, plan_upgrade,
};
use coffer_core::spec::Settings;
use coffer_core::stuck::Choice;
use jiff::Timestamp;
use uuid::Uuid;

use super::place::Promises;
use super::server::{Turn, Up};
use super::world::{Expected, World};
use crate::fixture::Fixture;

/// No history has more instances.
const INSTANCES: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    Create { accounts: bool },
    Upgrade,
    SameVersion,
    Restart,
    Configure(u8),
    Rollback { restore: bool },
    Finalize,
    Delete,
}

/// A request that has reached a server.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) want: Want,
    pub(super) ix: usize,
    /// What was done to the instance, as it was read before the transaction began.
    history: Option<Vec<Operation>>,
}

impl World {
    /// Somebody asks for something.
    pub(super) fn somebody_asks(&mut self) {
        let want = match self.rng.below(100) {
            0..8 => Want::Create { accounts: self.rng.chance(300) },
            8..40 => Want::Upgrade,
            40..45 => Want::SameVersion,
            45..58 => Want::Restart,
            58..70 => Want::Configure(u8::try_from(self.rng.below(4)).expect("less than 4")),
            70..88 => Want::Rollback { restore: self.rng.chance(300) },
            88..93 => Want::Finalize,
            _ => Want::Delete,
        };
        let ix = self.rng.index(self.store.rows.len());
        let want = if self.stubborn.provider && self.rng.chance(150) { Want::Delete } else { want };
        // What was just upgraded is often taken back.
        let last = self.store.rows[ix].operations.last();
        let is_new =
            last.is_some_and(|last| last.phase == Phase::Done && matches!(last.kind, Kind::Upgrade | Kind::Rollback));
        let want = if is_new && self.rng.chance(400) { Want::Rollback { restore: self.rng.chance(500) } } else { want };
        self.ask(want, ix);
        // Whoever sees something stuck decides soon; others want to decide about what is not.
        let waits = self.store.rows[ix].open().is_some_and(|open| self.needs_person(ix, &open.phase));
        if waits && self.rng.chance(200) {
            self.ask(Want::Delete, ix);
        }
        if self.rng.chance(if waits { 500 } else { 60 }) {
            let choice = self.rng.pick(&[Choice::Resume, Choice::Abandon]);
            self.somebody_decides(choice, ix);
        }
        if let Some(s) = (0..self.servers.len()).find(|s| self.servers[*s].up == Up::Runs) {
            self.watch_shown(s, ix);
        }
        if self.rng.chance(150) {
            let other = self.rng.pick(&[
                Want::Upgrade,
                Want::Restart,
                Want::Configure(1),
                Want::Delete,
                Want::Rollback { restore: false },
            ]);
            self.ask(other, ix);
        }
    }

    fn needs_person(&self, ix: usize, phase: &Phase) -> bool {
        let section = self.places[ix].as_ref().and_then(|place| place.agent.state.section.as_ref());
        matches!(phase, Phase::Stuck { .. }) || section.is_some_and(|journal| journal.stuck.is_some())
    }

    /// Asks a server that takes connections.
    pub(super) fn ask(&mut self, want: Want, ix: usize) {
        let up: Vec<_> = (0..self.servers.len()).filter(|s| self.servers[*s].up != Up::Dead).collect();
        if up.is_empty() {
            return;
        }
        let s = self.rng.pick(&up);
        self.server_does(s, 1, 10, Turn::Request(Request { want, ix, history: None }));
    }

    pub(super) fn take_request(&mut self, s: usize, mut request: Request) {
        let Request { want, ix, .. } = request;
        if matches!(want, Want::Rollback { .. } | Want::Finalize) && request.history.is_none() {
            if self.request_is_written(s).1 {
                let operations = self.store.rows[ix].operations.iter().rev().map(|o| Operation::clone(o)).collect();
                request.history = Some(operations);
                self.server_does(s, 1, 10, Turn::Request(request));
            }
            return;
        }
        let (written, heard) = self.request_is_written(s);
        if !written {
            return;
        }
        let asked = match want {
            Want::Create { accounts } => self.create(s, accounts),
            _ if self.store.rows[ix].deleted => return,
            _ => self.begin(s, &request),
        };
        match asked {
            Ok(ix) => {
                self.say(|| format!("server {s}: {want:?} of {ix} begins"));
                self.news(s, ix);
                if heard {
                    self.server_does(s, 1, 3, Turn::Look(ix));
                }
            }
            Err(refusal) => {
                self.coverage.busy += u64::from(refusal.is_busy());
                self.say(|| format!("server {s}: {want:?} of {ix} is refused: {refusal}"));
            }
        }
    }

    /// A new instance. Gives its place in the lists.
    pub(super) fn create(&mut self, s: usize, accounts: bool) -> Result<usize, Refusal> {
        let ix = self.store.rows.len();
        if ix >= INSTANCES {
            return Err(Refusal(Vec::new()));
        }
        let mut instance = Fixture::unbuilt().instance;
        instance.id = InstanceId(Uuid::from_u128(0x1a00 + ix as u128));
        instance.address = [127, 20, 0, 5 + u8::try_from(ix).expect("a few")].into();
        let version = self.rng.pick(&[0, 0, 2]);
        instance.version = self.catalogue[version].id;
        instance.own = instance.settings.clone();
        let id = self.new_id();
        let now = self.clock(s);
        let planned = {
            let snapshot = self.snapshot(&instance, id, None, None);
            if accounts {
                let nothing =
                    coffer_core::account::Request::Make { databases: Vec::new(), users: Vec::new(), again: true };
                plan_create_with(&snapshot, nothing)?
            } else {
                plan_create(&snapshot)?
            }
        };
        let operation = new_operation(id, &instance, Kind::Create, None, planned, now);
        self.expected.push(Expected { version: instance.version, built: false, deleted: false });
        self.places.push(None);
        self.promises.push(Promises::default());
        self.dropped_at.push(0);
        self.holders.push(None);
        self.store.insert(instance, operation);
        let at = self.now + 100;
        self.at(at, super::world::Event::Client(ix));
        Ok(ix)
    }

    fn begin(&mut self, s: usize, request: &Request) -> Result<usize, Refusal> {
        let Request { want, ix, history } = request;
        let ix = *ix;
        let history = history.as_deref().unwrap_or_default();
        let now = self.clock(s);
        let id = self.new_id();
        let mut open = self.store.rows[ix].open().map(|open| open.kind);
        let stuck = self.why_stuck(s, ix).filter(|_| *want == Want::Delete);
        if stuck.is_some() {
            open = None;
        }
        let row = &self.store.rows[ix];
        let instance = &row.instance;
        let observed = self.seen(s, ix);
        let snapshot = self.snapshot(instance, id, open, observed.as_deref());
        let (kind, target, planned) = match want {
            Want::Upgrade => {
                let to = self.next_version(instance.version);
                (Kind::Upgrade, Some(to.id), plan_upgrade(&snapshot, to)?)
            }
            Want::SameVersion => (Kind::Upgrade, Some(instance.version), plan_upgrade(&snapshot, snapshot.version)?),
            Want::Restart => (Kind::Restart, None, plan_restart(&snapshot)?),
            Want::Configure(which) => {
                let group = self.group(instance, *which);
                (Kind::Configure, None, plan_configure(&snapshot, group.as_ref())?)
            }
            Want::Rollback { restore } => {
                let back = find_way_back(&snapshot, history, *restore)?.agreed(&snapshot, true)?;
                (Kind::Rollback, Some(back.to.version), plan_rollback(&snapshot, &back))
            }
            Want::Finalize => (Kind::Finalize, None, plan_finalize(&snapshot, history)?),
            Want::Delete | Want::Create { .. } => (Kind::Delete, None, plan_delete(&snapshot)?),
        };
        let operation = new_operation(id, instance, kind, target, planned, now);
        if let Some(cause) = stuck {
            self.store.end_stuck(ix, &cause);
        }
        if self.store.open(ix, operation).is_err() {
            self.violated(format!("a second operation of {ix} was planned while another was open"));
        }
        Ok(ix)
    }

    fn snapshot<'a>(
        &'a self,
        instance: &'a Instance,
        operation: OperationId,
        open: Option<Kind>,
        observed: Option<&'a Observed>,
    ) -> Snapshot<'a> {
        let version = self.catalogue.iter().find(|version| version.id == instance.version).expect("a version");
        Snapshot {
            operation,
            instance,
            version,
            flavor: &self.flavor,
            open,
            observed,
            catalogue: &self.catalogue,
            policy: coffer_core::engine::Policy::default(),
            groups: &self.store.groups,
        }
    }

    fn next_version(&self, from: VersionId) -> &coffer_core::datastore::Version {
        let at = self.catalogue.iter().position(|version| version.id == from).expect("a version");
        // There and, refused, back again.
        &self.catalogue[at ^ 1]
    }

    /// One of the groups of the instance's version, or none.
    fn group(&self, instance: &Instance, which: u8) -> Option<Group> {
        let values: &[(&str, &str)] = match which {
            0 => return None,
            1 => &[("timeout", "60")],
            2 => &[("timeout", "30"), ("databases", "20")],
            _ => &[("databases", "24")],
        };
        let values: Settings = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let known = self.store.groups.iter().find(|group| group.version == instance.version && group.values == values);
        Some(known.cloned().unwrap_or_else(|| Group {
            id: GroupId(Uuid::from_u128(instance.version.0.as_u128() << 8 | u128::from(which))),
            project: instance.project.clone(),
            name: format!("group-{which}"),
            description: None,
            version: instance.version,
            values,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }))
    }

    fn new_id(&mut self) -> OperationId {
        OperationId(Uuid::from_u128(0x0b00_0000 + u128::from(self.next_number())))
    }

    /// The engine that an instance is to run, by its row.
    pub(super) fn recorded(&self, ix: usize) -> coffer_core::spec::EngineSpec {
        let row = &self.store.rows[ix];
        self.snapshot(&row.instance, OperationId(Uuid::nil()), None, None).spec()
    }
}

fn new_operation(
    id: OperationId,
    instance: &Instance,
    kind: Kind,
    target: Option<VersionId>,
    planned: Planned,
    now: Timestamp,
) -> Operation {
    let Planned { plan, findings, settings: _ } = planned;
    let (plan, findings): (Plan<Step>, Vec<Finding>) = (plan, findings);
    Operation {
        id,
        instance: instance.id,
        project: instance.project.clone(),
        kind,
        target,
        group: None,
        plan,
        phase: Phase::START,
        epoch: Epoch::default(),
        steps: Vec::new(),
        findings,
        gap_us: None,
        clients: None,
        created_at: now,
        updated_at: now,
    }
}
