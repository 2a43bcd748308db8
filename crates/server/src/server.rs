//! The server as a whole: what is opened, in which order, and how it ends.
//!
//! Servers that share a store work side by side and know nothing of each other but by what is written there: each works
//! off whatever nobody has claimed. Ending, by request or by force, touches no instance.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coffer_provider::Provider;
use coffer_store::{Listener, Location, News, Store};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::agents;
use crate::app::App;
use crate::catalogue::{Catalogue, CatalogueSeed};
use crate::clock::Clock;
use crate::config::Config;
use crate::contact::Contact;
use crate::directory::{self, Directory, ServerName};
use crate::ending::{End, Ending, ending};
use crate::http::Shared;
use crate::identity::{self, Identity};
use crate::key::{self, Key};
use crate::metrics::Metrics;
use crate::places::Places;
use crate::runner::{Host, Runner};
use crate::silence;

/// How long requests and steps that have begun may take when the server is to end.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often it is looked whether a newer server has opened the store.
const LOOK: Duration = Duration::from_secs(1);
/// The pause before it is tried again to hear what other servers write.
const DEAF: Duration = Duration::from_secs(1);
/// After how long without news it is taken for possible that they do not come through.
const QUIET: Duration = Duration::from_secs(60);

/// What a server is made of.
pub struct Setup {
    /// Where everything is kept. Made if it is not there.
    pub data: PathBuf,
    pub store: Location,
    /// What it is called among those that share a store.
    pub name: ServerName,
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
    _directory: Arc<Directory>,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Directory(#[from] directory::Error),
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
        let Setup { data, store: location, name, mut config, versions, provider, clock } = setup;
        let directory = Arc::new(Directory::take(&data, &location, &name)?);
        let listen = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
        config.listen = listener.local_addr()?;
        let address = config.listen;

        let key = Key::ensure(&data.join("key"))?;
        let store = Store::open(&location).await?;
        if !location.is_shared() {
            // The lock on the directory says that whoever claimed them is gone.
            store.release_all().await?;
        }
        let catalogue = Catalogue::seed(&store, versions).await?;
        identity::ensure_first_users(&store, &data, &config.public_url(), &config.region).await?;
        let identity = Arc::new(Identity::new(store.clone(), clock.clone(), config.token_hours));
        let metrics = Arc::new(Metrics::default());
        let app = Arc::new(App {
            config: Arc::new(config),
            store,
            catalogue: Arc::new(catalogue),
            contact: Arc::new(Contact::new(name.clone(), clock.clone())),
            key: Arc::new(key),
            clock,
            metrics: Arc::clone(&metrics),
            places: Places::new(provider),
        });

        let socket = directory.agents_socket();
        let agent_listener = agents::listen(&socket)?;
        let host = Host {
            server_socket: data_path(&data, "run")? + "/" + directory::AGENTS_SOCKET,
            image_store: data_path(&data, "engines")?,
            // Only root may run engines as users of its choice.
            engine_uid_base: rustix::process::geteuid().is_root().then_some(app.config.engine_uid_base),
        };
        let (end, ending) = ending();
        let mut tasks = JoinSet::new();
        if location.is_shared() {
            tasks.spawn(follow_news(Arc::clone(&app), Arc::clone(&identity), location, ending.clone()));
        }
        let agents = agents::router(Arc::clone(&app), &directory, ending.clone());
        tasks.spawn(serve_agents(agent_listener, agents, ending.clone()));
        tasks.spawn(Arc::new(Runner::new(Arc::clone(&app), host)).run(ending.clone()));
        tasks.spawn(silence::watch(Arc::clone(&app), ending.clone()));
        let shared = Shared { app: Arc::clone(&app), identity, metrics };
        tasks.spawn(crate::http::serve(listener, crate::http::router(shared), ending));
        info!(%address, data = %data.display(), %name, "coffer serves");
        Ok(Self { app, address, end, tasks, _directory: directory })
    }

    /// Where the API is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The application behind the API.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Until a newer server has brought the store to a schema that this one does not know. Then it has to stop: what it does not
    /// know it would leave out of what it writes and tells agents.
    pub async fn outdated(&self) -> coffer_store::Error {
        loop {
            tokio::time::sleep(LOOK).await;
            // A database that does not answer is told of by whoever needs it.
            if let Err(error @ coffer_store::Error::Newer { .. }) = self.app.store.check_schema().await {
                return error;
            }
        }
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

/// Passes on what other servers write, to whom it may concern here. For as long as nothing can be heard, everybody finds
/// out by looking, a second or a long poll later.
async fn follow_news(app: Arc<App>, identity: Arc<Identity>, location: Location, mut ending: Ending) {
    let hear = async {
        loop {
            match Listener::open(&location).await {
                Ok(Some(mut listener)) => {
                    // What was missed before.
                    pass_on(&app, &identity, News::Anything).await;
                    // One that is silent for so long may be deaf, and is not told so: another one is opened.
                    while let Ok(next) = tokio::time::timeout(QUIET, listener.next()).await
                        && let Some(news) = heard(next)
                    {
                        pass_on(&app, &identity, news).await;
                    }
                    continue;
                }
                Ok(None) => return,
                Err(error) => warn!(%error, "nothing is heard of what other servers write"),
            }
            tokio::time::sleep(DEAF).await;
        }
    };
    tokio::select! {
        () = ending.begun() => {}
        () = hear => {}
    }
}

fn heard(news: Result<News, coffer_store::Error>) -> Option<News> {
    news.inspect_err(|error| warn!(%error, "nothing is heard of what other servers write")).ok()
}

async fn pass_on(app: &App, identity: &Identity, news: News) {
    if let News::Instance(instance) = news {
        app.contact.wake_runner(instance);
        app.contact.wake_agent(instance);
    }
    if matches!(news, News::Revoked | News::Anything) {
        identity.forget_sessions();
    }
    if matches!(news, News::Catalogue | News::Anything)
        && let Err(error) = app.catalogue.reload(&app.store).await
    {
        error!(%error, "the catalogue cannot be read");
    }
    if news == News::Anything {
        app.contact.wake_all_agents();
    }
}

/// The absolute path of a directory in the data directory, which is made if it is not there.
fn data_path(data: &Path, name: &str) -> Result<String, Error> {
    let path = data.join(name);
    fs_err::create_dir_all(&path)?;
    Ok(fs_err::canonicalize(path)?.display().to_string())
}
