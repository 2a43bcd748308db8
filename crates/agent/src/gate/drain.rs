//! Waiting until an engine has answered what its clients sent, as the kernel sees it: the engine is not asked.
//!
//! Nothing tells the kernel where a request ends. What it knows of a connection: bytes the engine has not read, bytes the
//! client has not acknowledged, and how long ago the client sent something. With nothing of the former and [`QUIET`] since
//! the latter, a connection is taken for answered.
//!
//! Guarantees: never waits longer than the limit for those who were answered before, nor than [`NEW`] for those who never were,
//! but for the last look; takes what it can't see for a reason to wait, not for quiet; needs no privileges.
//!
//! Does not see: a request that is read and takes longer than [`QUIET`] to answer, which looks like one that needs no
//! answer (`BLPOP`, a subscriber). Sees only the network namespace it runs in.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::diag::{Connection, Error, connections, queued};

/// How long a client may take between two steps, such as `AUTH` and its command. As exact as the kernel's tick (1 to 10 ms).
pub(crate) const QUIET: Duration = Duration::from_millis(20);

/// How long new clients may take to say something at all and to get their first answer, where the limit is shorter: their machine
/// or ours is busy, or they are far away. Nobody waits for them beyond that, since some connect for later.
const NEW: Duration = Duration::from_millis(500);

/// Between two looks.
const POLL: Duration = Duration::from_millis(2);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drained {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything that was sent is answered.
    Quiet,
    /// The limit has passed, and so many connections were not quiet, or not accepted.
    Busy { connections: usize },
    /// The kernel does not tell: [`QUIET`] was waited (or the limit, if shorter), and nobody knows.
    Unseen,
}

/// For the record of a step.
impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.took.as_millis();
        match self.outcome {
            Outcome::Quiet => write!(f, "all that was sent was answered within {millis} ms"),
            Outcome::Busy { connections } => write!(f, "{connections} connections were still busy after {millis} ms"),
            Outcome::Unseen => write!(f, "whether all that was sent was answered cannot be seen; waited {millis} ms"),
        }
    }
}

/// Whether none of these connections is owed an answer, as far as the kernel can tell.
pub(crate) fn quiet(connections: &[Connection]) -> bool {
    connections.iter().all(Connection::is_quiet)
}

impl Connection {
    fn is_quiet(&self) -> bool {
        let enough = if self.has_spoken { QUIET } else { NEW };
        self.unread == 0 && self.unsent == 0 && self.since_received >= enough
    }

    /// One who is busy all the time was answered at some time. MySQL speaks first.
    fn is_new(&self) -> bool {
        !self.has_spoken || !self.was_answered
    }
}

/// Waits until all connections to this address are quiet: `limit` at most, or [`NEW`] if that is longer and some are new.
///
/// With the engine's listener given, connections that are not accepted are judged by its queue alone: it must be empty,
/// and those in the queue of another listener at the same address are none of the engine's. Without it they count like any
/// other. Accepted ones count whichever process has them.
pub(crate) async fn drain(at: SocketAddr, listener: Option<BorrowedFd<'_>>, limit: Duration) -> Drained {
    drain_by(|| Look::at(at, listener), limit).await
}

async fn drain_by(look: impl Fn() -> Look, limit: Duration) -> Drained {
    let started = Instant::now();
    let mut quiet_looks = 0;
    loop {
        let look = look();
        let took = started.elapsed();
        let outcome = look.outcome();
        let limit = if look.waits_for_new() { limit.max(NEW) } else { limit };
        let done = match outcome {
            // Twice, since a connection is for a moment neither in the queue nor accepted.
            Outcome::Quiet => {
                quiet_looks += 1;
                quiet_looks == 2
            }
            Outcome::Unseen => took >= QUIET,
            Outcome::Busy { .. } => {
                quiet_looks = 0;
                false
            }
        };
        if done || took >= limit {
            look.log(outcome);
            return Drained { outcome, took };
        }
        tokio::time::sleep(POLL.min(limit.saturating_sub(took))).await;
    }
}

/// What there is to see at one moment.
#[derive(Debug, Default)]
struct Look {
    /// In the queue of the engine's listener.
    queued: usize,
    /// Those that are judged one by one.
    connections: Vec<Connection>,
    /// Why this may not be all.
    error: Option<Error>,
}

impl Look {
    fn at(at: SocketAddr, listener: Option<BorrowedFd<'_>>) -> Self {
        let mut look = Self::default();
        // The queue first: what has left it by then is among the connections.
        match listener.map_or(Ok(0), queued) {
            Ok(queued) => look.queued = queued,
            Err(error) => look.error = Some(error.into()),
        }
        match connections(at) {
            Ok(connections) => look.connections = connections,
            Err(error) => look.error = Some(error),
        }
        look.connections.retain(|connection| connection.accepted || listener.is_none());
        look
    }

    fn outcome(&self) -> Outcome {
        if self.queued > 0 || !quiet(&self.connections) {
            let busy = self.connections.iter().filter(|connection| !connection.is_quiet()).count();
            return Outcome::Busy { connections: self.queued + busy };
        }
        if self.error.is_some() { Outcome::Unseen } else { Outcome::Quiet }
    }

    /// Whether somebody waits who never got an answer.
    fn waits_for_new(&self) -> bool {
        self.queued > 0 || self.connections.iter().any(|connection| connection.is_new() && !connection.is_quiet())
    }

    /// Once, of the last look.
    fn log(&self, outcome: Outcome) {
        if let Some(error) = &self.error {
            tracing::warn!(%error, "cannot see whether clients wait for an answer");
        }
        if let Outcome::Busy { .. } = outcome {
            tracing::debug!(queued = self.queued, "connections wait to be accepted");
            for connection in self.connections.iter().filter(|connection| !connection.is_quiet()) {
                tracing::debug!(?connection, "connection is still busy");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use rustix::net::sockopt::set_socket_reuseport;
    use rustix::net::{AddressFamily, SocketType};
    use rustix::process::geteuid;
    use rustix::thread::{Uid, set_thread_res_uid};

    use super::*;

    const QUIET_CONNECTION: Connection = Connection {
        accepted: true,
        unread: 0,
        unsent: 0,
        has_spoken: true,
        was_answered: true,
        since_received: QUIET,
        since_sent: Duration::ZERO,
    };

    fn listen(at: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(at).expect("a listener");
        let at = listener.local_addr().expect("its address");
        (listener, at)
    }

    /// The client's end and the server's.
    fn connected(listener: &TcpListener, at: SocketAddr) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(at).expect("a connection");
        (client, listener.accept().expect("the other end").0)
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "not within 10 s: {what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn seen(at: SocketAddr) -> Vec<Connection> {
        connections(at).expect("the kernel tells")
    }

    fn is_quiet(at: SocketAddr) -> bool {
        quiet(&seen(at))
    }

    fn drained(at: SocketAddr, listener: Option<&TcpListener>, limit: Duration) -> Drained {
        block_on(drain(at, listener.map(|listener| listener.as_fd()), limit))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn a_set_is_quiet_when_nothing_is_unread_unsent_or_just_received() {
        assert!(quiet(&[]));
        assert!(quiet(&[QUIET_CONNECTION]));
        for busy in [
            Connection { unread: 1, ..QUIET_CONNECTION },
            Connection { unsent: 1, ..QUIET_CONNECTION },
            Connection { since_received: Duration::from_millis(19), ..QUIET_CONNECTION },
            Connection { has_spoken: false, since_received: Duration::from_millis(499), ..QUIET_CONNECTION },
        ] {
            assert!(!quiet(&[QUIET_CONNECTION, busy]), "{busy:?}");
        }
    }

    #[test]
    fn drain_waits_for_a_request_that_is_not_read_and_not_for_one_that_was_answered() {
        for address in ["127.0.9.1:0", "[::1]:0"] {
            let (listener, at) = listen(address);
            let (mut client, mut server) = connected(&listener, at);
            client.write_all(b"PING\r\n").expect("a request");
            eventually("the request is there and old", || {
                seen(at)[..].iter().any(|seen| seen.unread == 6 && seen.since_received > QUIET)
            });
            assert!(!is_quiet(at), "{address}");

            let mut request = [0; 6];
            server.read_exact(&mut request).expect("the request");
            server.write_all(b"+PONG\r\n").expect("an answer");
            let answered = Instant::now();
            eventually("the answer is acknowledged and old", || is_quiet(at));
            assert_eq!(seen(at).len(), 1, "{address} after {:?}", answered.elapsed());
        }
    }

    #[test]
    fn drain_gives_a_client_that_said_nothing_yet_the_time_to() {
        let (listener, at) = listen("127.0.9.2:0");
        let (_ends, connected_at) = {
            // A machine under load may not let us look in time; then it is tried with another client.
            let deadline = Instant::now() + Duration::from_secs(10);
            loop {
                assert!(Instant::now() < deadline, "no look in time within 10 s");
                let connected_at = Instant::now();
                let ends = connected(&listener, at);
                let quiet = is_quiet(at);
                // Half of it, since the kernel's tick may be as long as the other half.
                if connected_at.elapsed() < QUIET / 2 {
                    assert!(!quiet);
                    break (ends, connected_at);
                }
            }
        };
        let drained = drained(at, Some(&listener), Duration::from_secs(10));
        assert_eq!(drained.outcome, Outcome::Quiet);
        assert!(connected_at.elapsed() >= QUIET / 2, "{:?}", connected_at.elapsed());
    }

    #[test]
    fn drain_does_not_count_connections_at_another_address_or_port() {
        let (listener, at) = listen("127.0.9.3:0");
        let (other_address, other_at) = listen(&format!("127.0.9.4:{}", at.port()));
        let (other_port, other_port_at) = listen("127.0.9.3:0");
        let _quiet = connected(&listener, at);
        let mut busy = [connected(&other_address, other_at), connected(&other_port, other_port_at)];
        for (client, _) in &mut busy {
            client.write_all(b"PING\r\n").expect("a request");
        }
        eventually("the others are busy", || [other_at, other_port_at].iter().all(|at| seen(*at)[0].unread == 6));
        assert_eq!(seen(at).len(), 1);
        assert_eq!(drained(at, Some(&listener), Duration::from_secs(10)).outcome, Outcome::Quiet);
        // All addresses of the port, but not the other port.
        assert_eq!(seen(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), at.port())).len(), 2);
    }

    #[test]
    fn drain_knows_an_ipv4_address_of_a_socket_for_both() {
        let (listener, at) = listen("[::]:0");
        let mapped: SocketAddr = format!("[::ffff:127.0.9.5]:{}", at.port()).parse().expect("an address");
        let plain: SocketAddr = format!("127.0.9.5:{}", at.port()).parse().expect("an address");
        let _ends = connected(&listener, plain);
        assert_eq!(seen(plain).len(), 1);
        assert_eq!(seen(mapped).len(), 1);
        assert_eq!(seen(at).len(), 1);
        assert_eq!(seen(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port())), []);
    }

    #[test]
    fn drain_waits_for_an_answer_that_the_client_does_not_take_and_for_one_that_only_listens_on() {
        let (listener, at) = listen("127.0.9.6:0");
        let (client, mut server) = connected(&listener, at);
        client.shutdown(Shutdown::Write).expect("nothing more to say");
        eventually("its end is there", || seen(at).iter().any(|seen| seen.unread == 1));
        assert_eq!(server.read(&mut [0]).expect("the end"), 0);
        assert_eq!(seen(at)[0].unread, 0);
        server.set_nonblocking(true).expect("not to wait");
        eventually("no more fits", || (&server).write(&vec![0; 65536]).is_err());
        eventually("it was sent a while ago", || seen(at)[0].since_received > QUIET);
        assert!(seen(at)[0].unsent > 0);
        assert!(!is_quiet(at));
    }

    #[test]
    fn drain_waits_for_a_connection_that_is_not_accepted_yet() {
        let (listener, at) = listen("127.0.9.7:0");
        let client = TcpStream::connect(at).expect("a connection");
        eventually("it is in the queue and old", || {
            queued(listener.as_fd()).expect("a queue") == 1 && seen(at)[0].since_received > QUIET
        });
        assert!(!seen(at)[0].accepted);
        let busy = drained(at, Some(&listener), Duration::from_millis(50));
        assert_eq!(busy.outcome, Outcome::Busy { connections: 1 });

        let server = listener.accept().expect("the other end").0;
        assert!(seen(at)[0].accepted);
        assert_eq!(drained(at, Some(&listener), Duration::from_secs(10)).outcome, Outcome::Quiet);
        // A connection has no queue, whatever is on its way.
        assert_eq!(queued(server.as_fd()).expect("no queue"), 0);
        drop(client);
    }

    #[test]
    fn drain_leaves_out_what_waits_for_another_listener_at_the_same_address() {
        // The standard library can't set the option before it binds.
        let bound = |at: SocketAddr| {
            let family = AddressFamily::INET;
            let socket = rustix::net::socket(family, SocketType::STREAM, None).expect("a socket");
            set_socket_reuseport(&socket, true).expect("to share the address");
            rustix::net::bind(&socket, &at).expect("the address");
            rustix::net::listen(&socket, 128).expect("a listener");
            TcpListener::from(socket)
        };
        let old = bound("127.0.9.8:0".parse().expect("an address"));
        let at = old.local_addr().expect("its address");
        let new = bound(at);
        // The kernel chooses by the client's port which of the two gets a connection.
        let mut ends = Vec::new();
        while queued(new.as_fd()).expect("a queue") == 0 {
            assert!(ends.len() < 1000, "all went to the old listener");
            let mut client = TcpStream::connect(at).expect("a connection");
            let waits_at = |listener: &TcpListener| queued(listener.as_fd()).expect("a queue") == 1;
            eventually("one of them has it", || waits_at(&old) || waits_at(&new));
            if waits_at(&old) {
                ends.push(old.accept().expect("the other end").0);
            } else {
                client.write_all(b"PING\r\n").expect("a request");
            }
            ends.push(client);
        }
        eventually("the request is there", || !is_quiet(at) && seen(at).iter().any(|seen| seen.unread == 6));
        assert_eq!(drained(at, Some(&old), Duration::from_secs(10)).outcome, Outcome::Quiet);
        assert_eq!(drained(at, None, Duration::from_millis(50)).outcome, Outcome::Busy { connections: 1 });
    }

    #[test]
    fn drain_keeps_the_limit_and_counts_the_busy() {
        let limit = Duration::from_millis(60);
        let (listener, at) = listen("127.0.9.9:0");
        let mut ends: Vec<_> = (0..3).map(|_| connected(&listener, at)).collect();
        let _waiting = TcpStream::connect(at).expect("a connection");
        for (client, _) in &mut ends[..2] {
            client.write_all(b"PING\r\n").expect("a request");
        }
        let old = |seen: &Connection| seen.since_received > NEW;
        eventually("all are there and old", || seen(at).len() == 4 && seen(at).iter().all(old));
        let new = drained(at, Some(&listener), limit);
        assert_eq!(new.outcome, Outcome::Busy { connections: 3 });
        assert!(new.took >= NEW && new.took < NEW + Duration::from_secs(2), "{new:?}");
        // Those who were answered before are given less time.
        let busy = || Look { connections: vec![Connection { unread: 6, ..QUIET_CONNECTION }], ..Look::default() };
        let busy = block_on(drain_by(busy, limit));
        assert_eq!(busy.outcome, Outcome::Busy { connections: 1 });
        assert!(busy.took >= limit && busy.took < NEW, "{busy:?}");
    }

    #[test]
    fn drain_knows_who_was_answered() {
        let (listener, at) = listen("127.0.9.13:0");
        let (mut client, mut server) = connected(&listener, at);
        assert!(seen(at)[0].is_new());
        client.write_all(b"PING\r\n").expect("a request");
        eventually("the request is there", || seen(at)[0].unread == 6);
        assert!(seen(at)[0].is_new());
        server.write_all(b"+PONG\r\n").expect("an answer");
        eventually("it was answered", || !seen(at)[0].is_new());
    }

    #[test]
    fn drain_ends_as_soon_as_the_engine_has_answered() {
        let (listener, at) = listen("127.0.9.10:0");
        let (mut client, mut server) = connected(&listener, at);
        client.write_all(b"PING\r\n").expect("a request");
        eventually("the request is there", || seen(at).iter().any(|seen| seen.unread == 6));
        block_on(async {
            let mut drain = std::pin::pin!(drain(at, Some(listener.as_fd()), Duration::from_secs(60)));
            tokio::select! {
                biased;
                drained = &mut drain => panic!("{drained:?}"),
                () = tokio::task::yield_now() => {}
            }
            server.read_exact(&mut [0; 6]).expect("the request");
            server.write_all(b"+PONG\r\n").expect("an answer");
            let drained = drain.await;
            assert_eq!(drained.outcome, Outcome::Quiet);
            assert!(drained.took < Duration::from_secs(30), "{drained:?}");
        });
    }

    #[test]
    fn drain_works_as_an_ordinary_user_on_the_sockets_of_another() {
        let (listener, at) = listen("127.0.9.11:0");
        let (mut client, _server) = connected(&listener, at);
        client.write_all(b"PING\r\n").expect("a request");
        eventually("the request is there", || seen(at).iter().any(|seen| seen.unread == 6));
        let looker = std::thread::spawn(move || {
            // Only this thread. Who is not root is an ordinary user already.
            let nobody = Uid::from_raw(65534);
            if geteuid().is_root() {
                set_thread_res_uid(nobody, nobody, nobody).expect("to be nobody");
            }
            assert!(!geteuid().is_root());
            let capabilities = rustix::thread::capabilities(None).expect("its capabilities");
            assert!(capabilities.effective.is_empty());
            seen(at)
        });
        let seen = looker.join().expect("what it saw");
        assert_eq!(seen.len(), 1);
        assert!(seen[0].accepted && seen[0].unread == 6, "{seen:?}");
    }

    #[test]
    fn drain_waits_a_while_where_the_kernel_does_not_tell() {
        let blind = |queued| move || Look { queued, connections: Vec::new(), error: Some(Error::NoSockDiag) };
        let drained = block_on(drain_by(blind(0), Duration::from_secs(10)));
        assert_eq!(drained.outcome, Outcome::Unseen);
        assert!(drained.took >= QUIET && drained.took < Duration::from_secs(2), "{drained:?}");
        // The limit is kept all the same, and what waits in the queue is known.
        let short = block_on(drain_by(blind(0), Duration::from_millis(5)));
        assert!(short.outcome == Outcome::Unseen && short.took < QUIET + Duration::from_secs(2), "{short:?}");
        let waiting = block_on(drain_by(blind(2), Duration::from_millis(30)));
        assert_eq!(waiting.outcome, Outcome::Busy { connections: 2 });
    }
}
