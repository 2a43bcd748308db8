//! A server in a directory of its own, with a clock that can be set, and what tests do with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use coffer_core::datastore::Datastore;
use coffer_core::finding::Cause;
use coffer_core::id::{FlavorId, InstanceId, ProjectId};
use coffer_core::instance::{Operation, Status};
use coffer_core::spec::Settings;
use coffer_server::app::{App, InstanceView, NewInstance};
use coffer_server::caller::{Caller, Role};
use coffer_server::clock::Clock;
use coffer_server::config::{AddressPool, Config};
use coffer_server::{CatalogueSeed, Server, ServerName, Setup, store_file};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::agent::Act;
use crate::place::Places;

/// How long anything may take that should happen by itself.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Setting {
    pub(crate) data: TempDir,
    pub(crate) places: Arc<Places>,
    server: Option<Server>,
    pool: AddressPool,
    /// How many seconds have passed beside those that really have.
    passed: Arc<AtomicI64>,
    /// By how many seconds the clock was set otherwise.
    set: Arc<AtomicI64>,
}

impl Setting {
    pub(crate) async fn new() -> Self {
        Self::with_addresses(Config::default().address_pool).await
    }

    /// Its instances get addresses of this network.
    pub(crate) async fn with_addresses(pool: AddressPool) -> Self {
        let data = tempfile::tempdir().expect("temporary directory");
        let mut setting =
            Self { data, places: Places::new(), server: None, pool, passed: Arc::default(), set: Arc::default() };
        setting.start().await;
        setting
    }

    pub(crate) fn setup(&self) -> Setup {
        let began = Timestamp::now();
        let passed = Arc::clone(&self.passed);
        let steady =
            move || Timestamp::now().duration_since(began) + SignedDuration::from_secs(passed.load(Ordering::Relaxed));
        let (since, set) = (steady.clone(), Arc::clone(&self.set));
        let now = move || began + since() + SignedDuration::from_secs(set.load(Ordering::Relaxed));
        let version = |number: &str| CatalogueSeed {
            datastore: Datastore::Redis,
            name: number.to_owned(),
            number: number.parse().expect("a number"),
            image: None,
            active: number != "6.2.14",
            default: number == "7.0.15",
            sources: serde_json::json!([]),
        };
        let mut config = Config { address_pool: self.pool, ..Config::default() };
        config.listen.set_port(0);
        Setup {
            data: self.data.path().to_owned(),
            store: store_file(self.data.path()),
            name: ServerName::default(),
            config,
            versions: ["6.2.14", "7.0.15", "8.0.2"].map(version).into(),
            provider: Arc::<Places>::clone(&self.places),
            clock: Clock::new(now, steady),
        }
    }

    pub(crate) async fn start(&mut self) {
        self.server = Some(Server::start(self.setup()).await.expect("a server"));
    }

    /// Ends the server as a kill does: nothing is finished, nothing is told.
    pub(crate) async fn kill(&mut self) {
        drop(self.server.take());
        // Aborted tasks end at the next turn of the runtime; the lock on the directory is free then.
        tokio::task::yield_now().await;
    }

    pub(crate) async fn stop(&mut self) {
        self.server.take().expect("a server").stop().await;
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        self.server.as_ref().expect("a server").app()
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, seconds: i64) {
        self.passed.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Sets the clock otherwise than it is, while no time passes.
    pub(crate) fn set_clock(&self, seconds: i64) {
        self.set.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) fn script(&self, name: &'static str, act: Act) {
        self.places.script.lock().unwrap().acts.insert(name, act);
    }

    /// A new instance, which is being built.
    pub(crate) async fn create(&self, name: &str) -> InstanceId {
        self.app().create(&member(), new(name)).await.expect("an instance").view.instance.id
    }

    /// A new instance that is active and has reported that it serves.
    pub(crate) async fn serving(&self, name: &str) -> InstanceId {
        let id = self.create(name).await;
        let view = self.until(id, |view| view.status != Status::Build).await;
        assert_eq!(view.status, Status::Active, "{:?}", view.instance.fault);
        id
    }

    /// The instance as soon as it is as wanted.
    pub(crate) async fn until(&self, id: InstanceId, wanted: impl Fn(&InstanceView) -> bool) -> InstanceView {
        eventually(async || {
            let view = self.app().instance(&member(), id).await.expect("the instance");
            if wanted(&view) { Ok(view) } else { Err(view) }
        })
        .await
    }

    /// The newest operation as soon as it is as wanted.
    pub(crate) async fn until_operation(&self, id: InstanceId, wanted: impl Fn(&Operation) -> bool) -> Operation {
        eventually(async || {
            let operation = self.operation(id).await;
            if wanted(&operation) { Ok(operation) } else { Err(operation) }
        })
        .await
    }

    /// The newest operation.
    pub(crate) async fn operation(&self, id: InstanceId) -> Operation {
        self.app().operations(&member(), id).await.expect("operations").remove(0)
    }

    /// Until there is nothing left of the instance.
    pub(crate) async fn until_gone(&self, id: InstanceId) {
        eventually(async || match self.app().instance(&member(), id).await {
            Err(coffer_server::app::Error::NotFound { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        assert!(self.places.identity(id).is_none(), "its place is still there");
    }
}

/// Asks until the answer is one, for at most so long.
pub(crate) async fn eventually<T, E: std::fmt::Debug>(mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(last) => assert!(tokio::time::Instant::now() < deadline, "still: {last:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn new(name: &str) -> NewInstance {
    NewInstance {
        name: name.to_owned(),
        flavor: FlavorId::from("1"),
        volume_gib: 1,
        datastore: Some("redis".to_owned()),
        version: None,
        settings: Settings::new(),
        databases: Vec::new(),
        users: Vec::new(),
        group: None,
    }
}

pub(crate) fn caller(project: &str, role: Role) -> Caller {
    Caller { project: ProjectId::from(project), user: "somebody".to_owned(), roles: vec![role] }
}

/// A member of the project that the tests' instances are in.
pub(crate) fn member() -> Caller {
    caller("ours", Role::Member)
}

pub(crate) fn cause() -> Cause {
    Cause::new("the dog ate it", "feed the dog")
}
