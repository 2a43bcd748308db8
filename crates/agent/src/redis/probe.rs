//! How long clients could not write.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coffer_core::spec::EngineSpec;
use secrecy::{ExposeSecret as _, SecretString};

use super::Secrets;

/// The pause between two writes.
const PACE: Duration = Duration::from_millis(2);
/// How long one answer is waited for. Longer silence is part of the gap either way; this is how soon it is tried anew.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the end of the gap is waited for after the opening.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Writes to the instance's own address every two milliseconds, as a client would, something that changes nothing: it
/// deletes a key that does not exist, which engines count as a write and keep nowhere.
///
/// In a thread of its own, so that it sees what a client sees whatever the agent is busy with.
#[derive(Debug)]
pub struct Probe {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    last_success: Instant,
    longest: Duration,
    stop: bool,
}

impl Probe {
    /// Begins. The engine should be open.
    pub fn start(spec: &EngineSpec, address: Ipv4Addr, secrets: &Secrets) -> Self {
        let now = Instant::now();
        let seen = Arc::new(Mutex::new(Seen { last_success: now, longest: Duration::ZERO, stop: false }));
        let login = Login {
            address: SocketAddr::from((address, spec.datastore().port())),
            named: spec.number.at_least(6, 0),
            password: if spec.number.at_least(6, 0) { secrets.agent.clone() } else { secrets.tenant.clone() },
            // After an upgrade from before 6.0 the agent has a name and a password of its own.
            other: secrets.agent.clone(),
        };
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || write_until_stopped(&login, &shared));
        Self { seen }
    }

    /// Ends, and tells the longest time without a success.
    pub async fn finish(self) -> Duration {
        let opened = Instant::now();
        loop {
            {
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.last_success > opened {
                    return seen.longest;
                }
                if opened.elapsed() > LAST_WAIT {
                    return seen.longest.max(seen.last_success.elapsed());
                }
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).stop = true;
    }
}

struct Login {
    address: SocketAddr,
    named: bool,
    password: SecretString,
    other: SecretString,
}

fn write_until_stopped(login: &Login, seen: &Mutex<Seen>) {
    let mut connection = None;
    loop {
        let written = write_once(login, &mut connection);
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.stop {
                return;
            }
            if written.is_some() {
                let now = Instant::now();
                seen.longest = seen.longest.max(now - seen.last_success);
                seen.last_success = now;
            }
        }
        if written.is_none() {
            connection = None;
        }
        std::thread::sleep(PACE);
    }
}

type Connection = BufReader<TcpStream>;

/// One write that was acknowledged, or nothing.
fn write_once(login: &Login, connection: &mut Option<Connection>) -> Option<()> {
    if connection.is_none() {
        *connection = connect(login);
    }
    let answer = exchange(connection.as_mut()?, &["DEL", "coffer:probe"])?;
    answer.starts_with(':').then_some(())
}

fn connect(login: &Login) -> Option<Connection> {
    let stream = TcpStream::connect_timeout(&login.address, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let mut connection = BufReader::new(stream);
    let password = login.password.expose_secret();
    let mut accepted = if login.named {
        exchange(&mut connection, &["AUTH", "coffer", password])?.starts_with('+')
    } else {
        exchange(&mut connection, &["AUTH", password])?.starts_with('+')
    };
    if !login.named {
        // Refused by an engine before 6.0, which knows no names; harmless there.
        accepted |= exchange(&mut connection, &["AUTH", "coffer", login.other.expose_secret()])?.starts_with('+');
    }
    accepted.then_some(connection)
}

fn exchange(connection: &mut Connection, words: &[&str]) -> Option<String> {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    connection.get_mut().write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    let read = connection.read_line(&mut answer).ok()?;
    (read > 0).then_some(answer)
}
