//! Connections: taken, served, and ended.
//!
//! A client that sends its headers or its body too slowly is hung up on, and there are never more than
//! [`CONNECTIONS`] at a time, so that nobody can take all file descriptors.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::ending::Ending;

/// How many connections there may be at a time.
const CONNECTIONS: usize = 1024;
/// How long a client may take to send the headers of its next request, which is also how long a connection may be idle:
/// long enough that a client that thinks between two requests finds it open.
const HEADERS: Duration = Duration::from_secs(75);
/// The longest headers, in bytes. Keystone's longest tokens fit in it.
const HEADER_BYTES: usize = 64 << 10;
/// How long requests that are being answered may take to end once the server is to stop.
const GRACE: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, such as for want of file descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until the server is to end, then lets requests that are being answered end.
pub async fn serve(listener: TcpListener, router: Router, mut ending: Ending) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(HEADER_BYTES);
    loop {
        let stream = tokio::select! {
            () = ending.begun() => break,
            // Ended connections are forgotten as they end, not at the end.
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            taken = take(&listener, &free) => taken,
        };
        let (stream, place) = match stream {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "no connection can be taken");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests did not end in time and are cut off");
    }
}

/// The next connection, once there is a place for it.
async fn take(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are written at once and whole: waiting for more to send would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, place))
}
