//! The server as a whole: what is opened, in which order, and how it ends.
//!
//! One server per data directory: it holds a lock on it for life. Ending, by request or by force, touches no instance.

use std::fs::TryLockError;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coffer_provider::Provider;
use coffer_store::Store;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::agents;
use crate::app::App;
use crate::catalogue::{Catalogue, CatalogueSeed};
use crate::clock::Clock;
use crate::config::Config;
use crate::contact::Contact;
use crate::ending::{End, Ending, ending};
use crate::http::Shared;
use crate::identity::{self, Identity};
use crate::key::{self, Key};
use crate::metrics::Metrics;
use crate::runner::{Host, Runner};

/// How long requests and steps that have begun may take when the server is to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a server is made of.
pub struct Setup {
    /// Where everything is kept. Made if it is not there.
    pub data: PathBuf,
    pub config: Config,
    /// The catalogue of datastore versions.
    pub versions: Vec<CatalogueSeed>,
    pub provider: Arc<dyn Provider>,
    pub clock: Clock,
}

/// A server that runs. Dropped, it breaks off; nothing is lost by that.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    end: End,
    tasks: JoinSet<()>,
    /// Held for life.
    _lock: fs_err::File,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("another server runs on {}; hint: stop it, or choose another directory with --data", .0.display())]
    AlreadyRuns(PathBuf),
    #[error("cannot listen on {address}: {source}; hint: choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Files(#[from] std::io::Error),
    #[error(transparent)]
    Key(#[from] key::Error),
    #[error(transparent)]
    Store(#[from] coffer_store::Error),
    #[error(transparent)]
    Identity(#[from] identity::Error),
}

impl Server {
    /// Opens everything and begins to serve. What operations were doing when the last server ended goes on.
    pub async fn start(setup: Setup) -> Result<Self, Error> {
        let Setup { data, mut config, versions, provider, clock } = setup;
        if !data.exists() {
            fs_err::create_dir_all(&data)?;
            // Engines run as users of their own and have to get to their roots and volumes through it.
            fs_err::set_permissions(&data, std::fs::Permissions::from_mode(0o711))?;
        }
        let lock = lock(&data)?;
        let listen = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        config.listen = listener.local_addr()?;
        let address = config.listen;

        let key = Key::ensure(&data.join("key"))?;
        let store = Store::open(&data.join("coffer.db")).await?;
        // The lock says that whoever claimed them is gone.
        store.release_all().await?;
        let catalogue = Catalogue::seed(&store, versions).await?;
        identity::ensure_first_users(&store, &data, &config.public_url(), &config.region).await?;
        let identity = Arc::new(Identity::new(store.clone(), clock.clone(), config.token_hours));
        let metrics = Arc::new(Metrics::default());
        let app = Arc::new(App {
            config: Arc::new(config),
            store,
            catalogue: Arc::new(catalogue),
            contact: Arc::new(Contact::default()),
            key: Arc::new(key),
            clock,
            metrics: Arc::clone(&metrics),
        });

        let socket = agents::socket_path(&data);
        let agent_listener = agents::listen(&socket)?;
        let host = Host {
            server_socket: fs_err::canonicalize(&socket)?.display().to_string(),
            image_store: data_path(&data, "engines")?,
            // Only root may run engines as users of its choice.
            engine_uid_base: rustix::process::geteuid().is_root().then_some(app.config.engine_uid_base),
        };
        let (end, ending) = ending();
        let mut tasks = JoinSet::new();
        let agents = agents::router(Arc::clone(&app), ending.clone());
        tasks.spawn(serve_agents(agent_listener, agents, ending.clone()));
        tasks.spawn(Arc::new(Runner::new(Arc::clone(&app), provider, host)).run(ending.clone()));
        let shared = Shared { app: Arc::clone(&app), identity, metrics };
        tasks.spawn(crate::http::serve(listener, crate::http::router(shared), ending));
        info!(%address, data = %data.display(), "coffer serves");
        Ok(Self { app, address, end, tasks, _lock: lock })
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The application behind the API.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Takes no more requests, finishes what has begun, and closes the store. Instances are not touched.
    pub async fn stop(mut self) {
        self.end.begin();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            warn!("something did not end in time and is broken off; it goes on with the next start");
            self.tasks.shutdown().await;
        }
        self.app.store.close().await;
    }
}

async fn serve_agents(listener: tokio::net::UnixListener, router: axum::Router, mut ending: Ending) {
    let ended = async move { ending.begun().await };
    // It never returns an error: it goes on after those of single connections.
    let _ = axum::serve(listener, router).with_graceful_shutdown(ended).await;
}

fn lock(data: &Path) -> Result<fs_err::File, Error> {
    let file = fs_err::OpenOptions::new().write(true).create(true).truncate(false).open(data.join("lock"))?;
    match file.file().try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::AlreadyRuns(data.to_owned())),
        Err(TryLockError::Error(e)) => Err(e.into()),
    }
}

/// The absolute path of a directory in the data directory, which is made if it is not there.
fn data_path(data: &Path, name: &str) -> Result<String, Error> {
    let path = data.join(name);
    fs_err::create_dir_all(&path)?;
    Ok(fs_err::canonicalize(path)?.display().to_string())
}
