//! `coffer serve`: what the server is made of on this machine, and how its process begins and ends.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use coffer_core::datastore::Number;
use coffer_image::{Catalogue, Release, Store};
use coffer_provider::Local;
use coffer_server::clock::Clock;
use coffer_server::config::Config;
use coffer_server::{CatalogueSeed, Server, Setup, store_of};
use coffer_store::Location;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

use super::{engine, print};
use crate::cli::Serve;
use crate::failure::Failure;
use crate::table::Format;

/// Threads that work on requests. More would cost memory, and the store takes one write at a time.
const WORKERS: usize = 2;
/// Threads for file work, and how little stack is enough for them.
const BLOCKING: usize = 16;
const STACK: usize = 1 << 20;

/// Checking a password takes 19 MiB for a moment. Unless told otherwise, glibc keeps such blocks for ever, once per
/// thread, and a server that could do with 20 MB has 140. The threads share two heaps then; each keeps more small blocks
/// of its own than the usual seven of a size, so that they seldom wait for each other.
const MALLOC: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=1048576:glibc.malloc.arena_max=2:\
     glibc.malloc.tcache_count=100",
);

/// Serves until it is told to end by SIGTERM or SIGINT, or a newer server has opened its store. Engines and agents go on.
pub(crate) fn run(format: Format, serve: &Serve) -> Result<(), Failure> {
    if std::env::var_os(MALLOC.0).is_none() {
        // It is read once, when a program starts. The process stays the same.
        let error =
            Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(MALLOC.0, MALLOC.1).exec();
        return Err(error.into());
    }
    start_log();
    let mut config = match &serve.config {
        Some(path) => Config::load(path).map_err(Failure::other)?,
        None => Config::default(),
    };
    if let Some(listen) = serve.listen {
        config.listen = listen;
    }
    fs_err::create_dir_all(&serve.data)?;
    let data = fs_err::canonicalize(&serve.data)?;
    let catalogue = engine::catalogue(config.catalogue.as_deref())?;
    let setup = Setup {
        versions: seeds(&catalogue, &data)?,
        provider: Arc::new(Local::new(data.join("instances"), std::env::current_exe()?)),
        clock: Clock::system(),
        config,
        store: location(serve, &data)?,
        name: serve.name.clone(),
        data: data.clone(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_stack_size(STACK)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before anything is served: who ends it at once ends it properly.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let server = Server::start(setup).await.map_err(Failure::other)?;
        let (url, clouds) = (format!("http://{}", server.address()), data.join("clouds.yaml"));
        print(format, &json!({"url": url, "clouds": clouds}), || {
            format!("coffer serves at {url}; credentials are in {}\n", clouds.display())
        })?;
        let ended = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            outdated = server.outdated() => Err(Failure::other(outdated)),
        };
        server.stop().await;
        ended
    })
}

fn location(serve: &Serve, data: &Path) -> Result<Location, Failure> {
    match &serve.store {
        Some(url) => Ok(Location::Postgres(url.clone())),
        None => store_of(data).map_err(Failure::other),
    }
}

/// Says on standard error what `COFFER_LOG` asks for, such as `info,coffer_server=debug`; else everything from `info` on.
fn start_log() {
    // Not `EnvFilter`, which brings a whole engine for regular expressions.
    let asked = std::env::var("COFFER_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = asked.unwrap_or_else(|| Targets::new().with_default(Level::INFO));
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(log).with(filter).init();
}

/// The catalogue as the server keeps it. A release that is a series has the number of the image that is here, if one is.
fn seeds(catalogue: &Catalogue, data: &Path) -> Result<Vec<CatalogueSeed>, Failure> {
    let images = Store::open(&data.join("engines")).map_err(engine::failure)?;
    catalogue.releases.iter().map(|release| seed(release, &images)).collect()
}

fn seed(release: &Release, images: &Store) -> Result<CatalogueSeed, Failure> {
    let image = images.find(&release.datastore, &release.version).map_err(engine::failure)?;
    let number = image.map_or_else(|| release.version.clone(), |image| image.number);
    Ok(CatalogueSeed {
        datastore: release.datastore.parse().map_err(Failure::other)?,
        name: release.version.clone(),
        number: number.parse::<Number>().map_err(Failure::other)?,
        image: None,
        active: release.active,
        default: release.default,
        sources: serde_json::to_value(release).map_err(Failure::other)?,
    })
}
