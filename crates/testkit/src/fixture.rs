//! Instances, versions and specs to plan with. The same values every time, so that they can stand in golden files.

use std::net::IpAddr;

use coffer_core::datastore::{Datastore, Number, Version};
use coffer_core::engine::Policy;
use coffer_core::flavor::Flavor;
use coffer_core::group::Group;
use coffer_core::id::{Digest, Epoch, FlavorId, Generation, GroupId, InstanceId, OperationId, ProjectId, VersionId};
use coffer_core::instance::{Engine, Instance, Kind, Observed, Operation, WayBack};
use coffer_core::operation::Phase;
use coffer_core::plan::{Planned, Snapshot};
use coffer_core::spec::Settings;
use jiff::Timestamp;
use uuid::Uuid;

/// The operation that every fixture's snapshot plans for.
pub const OPERATION: OperationId = OperationId(Uuid::from_u128(0x0b));
/// The operation that [`Fixture::after`] says was done before that.
pub const EARLIER: OperationId = OperationId(Uuid::from_u128(0x0a));

/// An instance with all that a planner wants to know of it.
#[derive(Clone, Debug)]
pub struct Fixture {
    pub instance: Instance,
    pub flavor: Flavor,
    pub observed: Observed,
    /// Redis 7.0.15, which the instance runs at first, and Redis 8.0.2.
    pub catalogue: [Version; 2],
}

impl Fixture {
    /// A Redis 7.0.15 that serves, with one setting of its tenant.
    pub fn serving() -> Self {
        let catalogue = [version(1, Datastore::Redis, "7.0.15"), version(2, Datastore::Redis, "8.0.2")];
        let number = catalogue[0].number;
        let settings = Settings::from([("maxmemory-policy".to_owned(), "allkeys-lru".to_owned())]);
        let instance = Instance {
            id: InstanceId(Uuid::from_u128(0x1a)),
            project: ProjectId::from("0123456789abcdef0123456789abcdef"),
            name: "redis_test".to_owned(),
            version: catalogue[0].id,
            flavor: FlavorId::from("1"),
            volume_gib: 2,
            address: IpAddr::from([127, 20, 0, 5]),
            generation: Generation(4),
            settings: settings.clone(),
            own: settings,
            group: None,
            built: true,
            fault: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        let observed = Observed {
            generation: instance.generation,
            engine: Engine::Serving,
            running: Some(number),
            on_disk: Some(number),
            ..Observed::nothing(Timestamp::UNIX_EPOCH)
        };
        let flavor = Flavor { id: FlavorId::from("1"), name: "small".to_owned(), ram_mib: 512, vcpus: 1 };
        Self { instance, flavor, observed, catalogue }
    }

    /// An instance of Valkey 8.0.1, whose data 8.1.1 works on and the other way round.
    pub fn valkey() -> Self {
        let mut fixture = Self::serving();
        fixture.catalogue = [version(3, Datastore::Valkey, "8.0.1"), version(4, Datastore::Valkey, "8.1.1")];
        fixture.runs(0);
        fixture
    }

    /// The instance after this was done to it as operation [`EARLIER`]: it runs the other version, and its pre-image is kept.
    /// Gives the operation, too.
    pub fn after(mut self, kind: Kind, planned: Planned) -> (Self, Operation) {
        let before = usize::from(self.instance.version != self.catalogue[0].id);
        let kept = WayBack {
            operation: EARLIER,
            version: Some(self.instance.version),
            since: Timestamp::UNIX_EPOCH,
            until: Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(24),
            bytes: 4096,
        };
        self.observed.ways_back.push(kept);
        self.runs(1 - before);
        let operation = Operation {
            id: EARLIER,
            instance: self.instance.id,
            project: self.instance.project.clone(),
            kind,
            target: Some(self.instance.version),
            group: None,
            plan: planned.plan,
            phase: Phase::Done,
            epoch: Epoch::default(),
            steps: Vec::new(),
            findings: planned.findings,
            gap_us: None,
            clients: None,
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        };
        (self, operation)
    }

    /// It runs the version at this place of the catalogue.
    fn runs(&mut self, at: usize) {
        let version = &self.catalogue[at];
        self.instance.version = version.id;
        (self.observed.running, self.observed.on_disk) = (Some(version.number), Some(version.number));
    }

    /// The same instance before it was ever built.
    pub fn unbuilt() -> Self {
        let mut fixture = Self::serving();
        fixture.instance.built = false;
        fixture.instance.generation = Generation::default();
        fixture
    }

    /// What the planners decide from.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            operation: OPERATION,
            instance: &self.instance,
            version: self.version(),
            flavor: &self.flavor,
            open: None,
            observed: self.instance.built.then_some(&self.observed),
            catalogue: &self.catalogue,
            policy: Policy::default(),
            groups: &[],
        }
    }

    /// A configuration group of that instance's version, with these values.
    pub fn group(&self, values: &[(&str, &str)]) -> Group {
        Group {
            id: GroupId(Uuid::from_u128(0x0c)),
            project: self.instance.project.clone(),
            name: "cache".to_owned(),
            description: None,
            version: self.instance.version,
            values: values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// The version that it runs.
    pub fn version(&self) -> &Version {
        &self.catalogue[usize::from(self.instance.version != self.catalogue[0].id)]
    }

    /// The version to upgrade to.
    pub fn target(&self) -> &Version {
        &self.catalogue[1]
    }
}

/// An active version whose id and digest are made of `n`.
pub fn version(n: u8, datastore: Datastore, number: &str) -> Version {
    Version {
        id: VersionId(Uuid::from_u128(u128::from(n))),
        datastore,
        name: number.to_owned(),
        number: number.parse::<Number>().expect("a fixture's version number"),
        image: Some(Digest(format!("sha256:{n:064x}"))),
        active: true,
        default: false,
        sources: serde_json::json!([{ "directory": format!("engines/{datastore}-{number}") }]),
    }
}
