//! Where cells run: a world of one datastore on a disk of its own, with one server or two, and instances that are used again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::PathBuf;

use coffer_core::datastore::Datastore;
use coffer_testkit::postgres::Cluster;
use serde_json::{Value, json};

use super::cell::{Cell, Fault, Operation};
use super::remains::Remains;
use super::subject::{KEEPINGS, Subject, Versions, ask_create};
use super::support::another::Another;
use super::support::clock::Clock;
use super::support::faulty;
use super::support::http;
use super::support::ledger::Ledger;
use super::support::leftovers::has_ended;
use super::support::mysql;
use super::support::namespace::Namespace;
use super::support::world::{Instance, World, link_all, text};

/// Enough for some instances with their pre-images and the trial of a target.
const DISK_MIB: u32 = 6000;

/// Which database the store is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// One server.
    Sqlite,
    /// Two servers.
    Postgres,
}

impl StoreKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A PostgreSQL that is reached over two cables, one for each server.
struct Shared {
    other: Option<Another>,
    _cluster: Cluster,
    namespace: Namespace,
}

/// A world, and what is in it.
pub(crate) struct Scene {
    /// Before the world: a server that lives would start again what is ended there.
    shared: Option<Shared>,
    pub world: World,
    pub clock: Clock,
    pub versions: Versions,
    /// Accepts and says nothing.
    _registry: TcpListener,
    subjects: BTreeMap<usize, Subject>,
    /// The instances that there ever were.
    pub ids: BTreeSet<String>,
    /// The engine root of each version.
    roots: BTreeMap<String, PathBuf>,
    /// A configuration group for each version.
    groups: BTreeMap<String, String>,
    /// How many cells there were, and names of instances.
    pub runs: usize,
}

impl Scene {
    /// Makes one. `None`, and said so, where something is missing that it takes.
    pub(crate) fn make(datastore: Datastore, store: StoreKind) -> Option<Self> {
        let registry = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut versions = Versions::of(datastore);
        let at = registry.local_addr().expect("a port");
        let binary = "/usr/sbin/nothing";
        let mut catalogue = format!(
            "[[release]]\ndatastore = '{datastore}'\nversion = '{}'\nbinary = '{binary}'\n\
             [[release.source]]\nfrom = 'registry'\nreference = '{at}/{datastore}:1'\n",
            versions.hanging
        );
        match datastore {
            Datastore::Redis => catalogue += &faulty::entry(super::subject::FAULTY),
            Datastore::Mysql => catalogue += mysql::RELEASE,
            Datastore::Mariadb | Datastore::Valkey => {}
        }
        let namespace = match store {
            StoreKind::Sqlite => None,
            StoreKind::Postgres => Some(Namespace::make()?),
        };
        let world = World::prepare_on_disk(DISK_MIB, &catalogue, "")?;
        match datastore {
            Datastore::Redis => faulty::import(&world, "8.2.3", super::subject::FAULTY),
            Datastore::Mysql => (versions.old, versions.new) = mysql::add_older(&world)?,
            Datastore::Mariadb | Datastore::Valkey => {}
        }
        let has = |version: &str| world.has_image(&format!("{datastore}/{version}"));
        // As the catalogue names them.
        let needed = match datastore {
            Datastore::Redis => vec![versions.old.as_str(), "8.0"],
            Datastore::Valkey | Datastore::Mariadb => vec![versions.old.as_str(), versions.new.as_str()],
            Datastore::Mysql => Vec::new(),
        };
        if !needed.into_iter().all(has) {
            return None;
        }
        let shared = namespace.map(|namespace| {
            let cluster = Cluster::start_in(namespace.name());
            cluster.database("coffer");
            fs_err::write(world.data().join("store"), "postgres:///coffer?user=coffer").expect("where the store is");
            Shared { other: None, _cluster: cluster, namespace }
        });
        let roots = [&versions.old, &versions.new].map(|version| (version.clone(), root(&world, datastore, version)));
        let clock = Clock::make(world.data());
        let (subjects, groups) = (BTreeMap::new(), BTreeMap::new());
        let ids = BTreeSet::new();
        // What the test itself has written there is not to be lost.
        rustix::fs::sync();
        let mut scene = Self {
            world,
            clock,
            versions,
            shared,
            _registry: registry,
            subjects,
            ids,
            roots: roots.into(),
            groups,
            runs: 0,
        };
        scene.start_servers();
        Some(scene)
    }

    /// The servers that live.
    pub(crate) fn servers(&self) -> Vec<u32> {
        let other = self.shared.as_ref().and_then(|shared| shared.other.as_ref()).map(Another::pid);
        self.world.server_pid().into_iter().chain(other).collect()
    }

    /// Starts the servers that do not live.
    pub(crate) fn start_servers(&mut self) {
        let host = |n: usize| {
            let shared = self.shared.as_ref()?;
            Some(("PGHOST", shared.namespace.cables()[n].inside.to_string()))
        };
        let [first, second] = [0, 1].map(|n| self.clock.environment().into_iter().chain(host(n)).collect::<Vec<_>>());
        if self.world.server_pid().is_some_and(has_ended) {
            self.world.kill_server();
        }
        self.world.start_server_with(&first);
        if let Some(shared) = &mut self.shared
            && shared.other.as_ref().is_none_or(|other| has_ended(other.pid()))
        {
            shared.other = None;
            shared.other = Some(Another::start_with(&self.world, "b", &second));
        }
    }

    /// Ends everything that Coffer has started.
    pub(crate) fn kill_everything(&mut self) {
        if let Some(shared) = &mut self.shared {
            shared.other = None;
        }
        self.world.kill_everything();
    }

    /// The store, beside its servers.
    pub(crate) fn ledger(&self) -> Ledger {
        match &self.shared {
            None => Ledger::open(&format!("sqlite://{}", self.world.data().join("coffer.db").display())),
            Some(shared) => Ledger::open(&format!("postgres://coffer@{}/coffer", shared.namespace.cables()[0].inside)),
        }
    }

    /// Cuts agents off from their server, or, of two servers, the one that is not asked off from the database. Gives what was moved.
    pub(crate) fn cut_network(&self) -> Vec<PathBuf> {
        if let Some(shared) = &self.shared {
            shared.namespace.cables()[1].cut();
            return Vec::new();
        }
        let socket = self.world.data().join("run/agents.sock");
        let away = socket.with_extension("away");
        fs_err::rename(&socket, &away).expect("a socket");
        vec![away]
    }

    /// Mends that.
    pub(crate) fn mend_network(&self, moved: Vec<PathBuf>) {
        for away in moved {
            fs_err::rename(&away, away.with_extension("sock")).expect("a socket");
        }
        if let Some(shared) = &self.shared {
            shared.namespace.cables()[1].mend();
        }
    }

    /// Removes the engine root of a version. Coffer makes it again from the image; where there is none, as of MySQL's older
    /// version, an operator has to bring it back: it gives what that does.
    pub(crate) fn remove_root(&self, version: &str) -> Option<impl FnOnce() + use<>> {
        let root = &self.roots[version];
        let aside = root.ends_with(mysql::BEFORE_ROOT).then(|| root.with_extension("aside"));
        if let Some(aside) = &aside {
            link_all(root, aside);
        }
        let mut chmod = std::process::Command::new("chmod");
        let _ = chmod.args(["-R", "u+w"]).arg(root).output();
        fs_err::remove_dir_all(root).expect("an engine root");
        let root = root.clone();
        aside.map(|aside| move || fs_err::rename(aside, root).expect("an engine root"))
    }

    /// Puts back the engine roots that are gone, for the cells that follow. Whether Coffer does so is up to it: it has the images.
    pub(crate) fn ensure_roots(&self) {
        let Some(store) = std::env::var_os("COFFER_TEST_STORE") else { return };
        for root in self.roots.values() {
            let from = PathBuf::from(&store).join("roots").join(root.file_name().unwrap_or_default());
            if !root.exists() && from.exists() {
                link_all(&from, root);
            }
        }
    }

    /// What there is now.
    pub(crate) fn remains(&self) -> Remains {
        Remains::of(&self.world, &self.ids)
    }

    /// A request of the tenant's that may be sent from another thread: what the server answered, if it did.
    pub(crate) fn request(
        &self,
        (method, path, body): (&'static str, String, Value),
    ) -> impl FnOnce() -> Option<http::Answer> + Send + 'static {
        let (login, listen) = (self.world.login("demo"), self.world.listen());
        move || {
            let path = format!("/v1.0/{}{path}", login.project);
            let headers = [("x-auth-token", login.token.as_str()), ("content-type", "application/json")];
            let body = if body.is_null() { String::new() } else { body.to_string() };
            http::send(listen, method, &path, &headers, body.as_bytes()).ok()
        }
    }

    /// The version with which an instance begins, where that matters; of the newer one it is to go back, too.
    fn wanted(&self, cell: &Cell) -> Option<&String> {
        match cell.operation {
            Operation::Upgrade => Some(&self.versions.old),
            Operation::Rollback | Operation::Finalize => Some(&self.versions.new),
            Operation::Create | Operation::Restart | Operation::Configure | Operation::Accounts | Operation::Delete => {
                None
            }
        }
    }

    fn is_as_wanted(&self, subject: &Subject, wanted: &str) -> bool {
        subject.version == wanted && (subject.has_way_back || wanted == self.versions.old)
    }

    /// Whether a cell can begin with what there is.
    pub(crate) fn suits(&self, cell: &Cell, keeping: usize) -> bool {
        if cell.datastore != self.versions.datastore {
            return false;
        }
        if cell.fault == Fault::PowerCut && self.subjects.keys().any(|keeping| *keeping != 0) {
            return false;
        }
        let subject = self.subjects.get(&keeping);
        match self.wanted(cell) {
            Some(wanted) => subject.is_some_and(|subject| self.is_as_wanted(subject, wanted)),
            None => cell.operation == Operation::Create || subject.is_some(),
        }
    }

    /// The instance with which a cell begins, brought to where it has to be; `None` for a creation.
    pub(crate) fn subject(&mut self, cell: &Cell, keeping: usize) -> Option<Subject> {
        if cell.operation == Operation::Create {
            return None;
        }
        let mut subject = match self.subjects.remove(&keeping) {
            Some(subject) => subject,
            None => self.create(keeping),
        };
        let Some(wanted) = self.wanted(cell).cloned() else { return Some(subject) };
        if self.is_as_wanted(&subject, &wanted) {
            return Some(subject);
        }
        if subject.version == self.versions.new && !subject.has_way_back {
            self.delete(subject);
            subject = self.create(keeping);
        } else if subject.version == self.versions.new {
            self.world.coffer(["instance", "rollback", &subject.name, "--yes", "--wait"]).ok();
            subject.check(&self.world);
        }
        if wanted == self.versions.new {
            self.world.coffer(["instance", "upgrade", &subject.name, &self.versions.new, "--wait"]).ok();
            subject.check(&self.world);
        }
        Some(subject)
    }

    fn create(&mut self, keeping: usize) -> Subject {
        self.runs += 1;
        let name = format!("s{}", self.runs);
        let settings: &[_] = if super::cell::has_accounts(self.versions.datastore) { &[] } else { KEEPINGS[keeping] };
        let version = format!("{}/{}", self.versions.datastore, self.versions.old);
        let instance = self.world.create_of(self.versions.size(), &name, &version, settings);
        self.ids.insert(instance.id.clone());
        Subject::fill(&self.world, &self.versions, instance, &name, keeping)
    }

    /// Keeps an instance for a cell that follows.
    pub(crate) fn keep(&mut self, subject: Subject) {
        if let Some(before) = self.subjects.insert(subject.keeping, subject) {
            self.delete(before);
        }
    }

    /// Deletes the instances that would lose something by a power cut as they keep their data.
    pub(crate) fn keep_only_those_that_keep(&mut self) {
        for keeping in 1..KEEPINGS.len() {
            if let Some(subject) = self.subjects.remove(&keeping) {
                self.delete(subject);
            }
        }
    }

    /// Deletes an instance that is not used again.
    pub(crate) fn delete(&mut self, subject: Subject) {
        self.world.coffer(["instance", "delete", &subject.name, "--wait"]).ok();
    }

    /// A configuration group with the live setting, for this version.
    pub(crate) fn group(&mut self, version: &str) -> String {
        if let Some(group) = self.groups.get(version) {
            return group.clone();
        }
        let (name, value) = self.versions.live_setting();
        let body = json!({"configuration": {"name": format!("g{version}"), "values": {name: value.parse::<u32>().unwrap_or(0)},
            "datastore": {"type": self.versions.datastore.name(), "version": version}}});
        let answer = self.world.ask("demo", "POST", "/configurations", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let id = text(&answer.json()["configuration"]["id"]);
        self.groups.insert(version.to_owned(), id.clone());
        id
    }

    /// What is asked for in a cell.
    pub(crate) fn ask(&mut self, cell: &Cell, subject: Option<&Subject>, keeping: usize) -> super::subject::Ask {
        self.runs += 1;
        let run = self.runs;
        let hangs = cell.fault == Fault::RegistryHangs;
        let Some(Subject { instance: Instance { id, .. }, version, .. }) = subject else {
            let version = if hangs { self.versions.hanging.to_owned() } else { self.versions.old.clone() };
            return ask_create(&self.versions, &format!("s{run}"), &version, keeping);
        };
        let one = format!("/instances/{id}");
        match cell.operation {
            Operation::Create => panic!("a creation has no instance before"),
            Operation::Upgrade => {
                let fails = cell.step.place == super::cell::Place::WayBack;
                let to = if fails { self.versions.failing() } else { &self.versions.new };
                let to = if hangs { self.versions.hanging } else { to };
                ("PATCH", one, json!({"instance": {"datastore_version": to}}))
            }
            Operation::Restart => ("POST", format!("{one}/action"), json!({"restart": {}})),
            Operation::Configure => {
                let group = self.group(version);
                ("PUT", one, json!({"instance": {"configuration": group}}))
            }
            Operation::Accounts => {
                ("POST", format!("{one}/databases"), json!({"databases": [{"name": format!("d{run}")}]}))
            }
            Operation::Rollback => super::subject::ask_rollback(&self.versions, id),
            Operation::Finalize => ("POST", format!("{one}/finalize"), json!({"finalize": {}})),
            Operation::Delete => ("DELETE", one, Value::Null),
        }
    }
}

/// The engine root of a version.
fn root(world: &World, datastore: Datastore, version: &str) -> PathBuf {
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let is_it = |r: &&Value| r["Datastore"] == datastore.name() && (r["Version"] == version || r["Number"] == version);
    let found = list.as_array().and_then(|list| list.iter().find(is_it)).unwrap_or_else(|| panic!("no {version}"));
    world.data().join("engines/roots").join(text(&found["Digest"]).replace(':', "-"))
}
