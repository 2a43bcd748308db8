//! How long clients could not write.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coffer_core::engine::redis::acl;
use coffer_core::spec::EngineSpec;
use redis::{ConnectionAddr, ConnectionLike as _, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};
use secrecy::{ExposeSecret as _, SecretString};

use super::Secrets;

/// How often it writes.
const EVERY: Duration = Duration::from_millis(2);
/// How long one answer is waited for before the next connection is tried.
const PATIENCE: Duration = Duration::from_millis(250);
/// How long it goes on after it was told to end without a success since.
const LAST_CHANCE: Duration = Duration::from_secs(5);
/// A key that nobody has. Deleting it is a write to the engine, and changes nothing.
const NOBODYS_KEY: &str = "\0coffer probe\0";

/// Writes to the instance's own address every two milliseconds, as a client would, something that changes nothing. On a
/// thread of its own, so that nothing the agent does is measured as a gap.
#[derive(Debug)]
pub struct Probe {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Probe {
    /// Begins. The engine should be open.
    pub fn start(spec: &EngineSpec, address: IpAddr, secrets: &Secrets) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let (user, password) = match acl::has_users(spec.datastore(), spec.number) {
            true => (Some(acl::AGENT), secrets.agent.clone()),
            false => (None, secrets.tenant.clone()),
        };
        let mut logins = vec![(user, password)];
        // The engine that comes may have users where the one that goes has none.
        if user.is_none() {
            logins.push((Some(acl::AGENT), secrets.agent.clone()));
        }
        let address = SocketAddr::new(address, spec.datastore().port());
        let told = Arc::clone(&ended);
        Self { ended, thread: std::thread::spawn(move || longest_gap(address, &logins, &told)) }
    }

    /// Ends, and tells the longest time without a success, up to the first success after this call.
    pub async fn finish(self) -> Duration {
        self.ended.store(true, Ordering::Release);
        tokio::task::spawn_blocking(move || self.thread.join().unwrap_or_default()).await.unwrap_or_default()
    }
}

fn longest_gap(address: SocketAddr, logins: &[(Option<&'static str>, SecretString)], told: &AtomicBool) -> Duration {
    let mut last_success = Instant::now();
    let mut longest = Duration::ZERO;
    let mut connection = None;
    let mut told_at = None;
    let mut attempt = 0;
    loop {
        if connection.is_none() {
            connection = connect(address, &logins[attempt % logins.len()]).ok();
            attempt += 1;
        }
        let done = match connection.as_mut() {
            Some(open) => redis::cmd("DEL").arg(NOBODYS_KEY).query::<i64>(open).is_ok(),
            None => false,
        };
        if told_at.is_none() && told.load(Ordering::Acquire) {
            told_at = Some(Instant::now());
        }
        if done {
            longest = longest.max(last_success.elapsed());
            last_success = Instant::now();
        } else {
            connection = None;
        }
        match told_at {
            Some(at) if done || at.elapsed() > LAST_CHANCE => return longest.max(last_success.elapsed()),
            _ => std::thread::sleep(EVERY),
        }
    }
}

fn connect(
    address: SocketAddr,
    (user, password): &(Option<&'static str>, SecretString),
) -> redis::RedisResult<redis::Connection> {
    // Refused is told at once; the library would take its time with names.
    drop(TcpStream::connect_timeout(&address, PATIENCE)?);
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP2)
        .set_skip_set_lib_name()
        .set_password(password.expose_secret());
    if let Some(user) = user {
        login = login.set_username(user);
    }
    let info = ConnectionAddr::Tcp(address.ip().to_string(), address.port()).into_connection_info()?;
    let connection = redis::Client::open(info.set_redis_settings(login))?.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.is_open().then_some(connection).ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected).into())
}
