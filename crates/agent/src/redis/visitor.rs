//! Clients as probes send them: short-lived ones that write, one after the other, and one that stays and reads.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use coffer_core::engine::redis::acl;
use coffer_core::spec::EngineSpec;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::site::{Caller, End, Probe, STAYING, Secrets};

/// A key that nobody has. Deleting it is a write to the engine, and changes nothing.
const NOBODYS_KEY: &str = "\0coffer probe\0";
/// Longer than any line that an engine answers here with.
const LINE: u64 = 4096;

/// A user, where the engine has users, and the password.
type Login = (Option<&'static str>, SecretString);

/// Who logs in, writes something that changes nothing, and leaves.
struct Visitor {
    door: Door,
}

/// Who logs in and stays, and reads as long as it may.
struct Reader {
    door: Door,
    connection: Option<BufReader<TcpStream>>,
}

/// Begins to look as clients of Redis and Valkey do that come anew each time and write, while `from` gives way to `to`. The engine
/// should be open.
pub fn probe(from: &EngineSpec, to: &EngineSpec, secrets: &Secrets) -> Probe {
    Probe::start(from, Visitor { door: Door::of(from, to, secrets) })
}

/// The same of one that stays and reads.
pub fn reader(from: &EngineSpec, to: &EngineSpec, secrets: &Secrets) -> Probe {
    Probe::start(from, Reader { door: Door::of(from, to, secrets), connection: None })
}

impl Caller for Visitor {
    async fn attempt(&mut self, address: SocketAddr) -> End {
        match self.door.enter(address, &["DEL", NOBODYS_KEY]).await {
            Ok((_, answer)) if answer.starts_with(b":") => End::Done,
            Ok(_) => End::Wrong,
            Err(end) => end,
        }
    }
}

impl Caller for Reader {
    fn every(&self) -> Duration {
        STAYING
    }

    async fn attempt(&mut self, address: SocketAddr) -> End {
        let command = &["GET", NOBODYS_KEY];
        let (connection, answer) = match self.connection.take() {
            None => match self.door.enter(address, command).await {
                Ok(entered) => entered,
                Err(end) => return end,
            },
            Some(mut connection) => match ask(&mut connection, &request(command)).await {
                Ok(answer) => (connection, answer),
                Err(_) => return End::Reset,
            },
        };
        if !answer.starts_with(b"$-1") {
            return End::Wrong;
        }
        self.connection = Some(connection);
        End::Done
    }
}

/// The way in: the logins that there may be.
struct Door {
    logins: Vec<Login>,
    /// The login that was taken last, with which the next one begins, as a client knows its own.
    login: usize,
}

impl Door {
    /// With what the engine that goes takes, and then the one that comes.
    fn of(from: &EngineSpec, to: &EngineSpec, secrets: &Secrets) -> Self {
        let login = |spec: &EngineSpec| match acl::has_users(spec.datastore(), spec.number) {
            true => (Some(acl::AGENT), secrets.agent.clone()),
            false => (None, secrets.tenant.clone()),
        };
        let mut logins = vec![login(from), login(to)];
        logins.dedup_by_key(|(user, _)| *user);
        Self { logins, login: 0 }
    }

    /// Connects, logs in and asks for this, both at once as pipelining clients do. The connection with the answer.
    async fn enter(&mut self, address: SocketAddr, command: &[&str]) -> Result<(BufReader<TcpStream>, Vec<u8>), End> {
        let mut connection = match TcpStream::connect(address).await {
            Ok(connection) => BufReader::new(connection),
            Err(e) => {
                return Err(match e.kind() {
                    io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::TimedOut => {
                        End::Reset
                    }
                    _ => End::Refused,
                });
            }
        };
        let mut refused = false;
        for _ in &self.logins {
            match log_in(&mut connection, &self.logins[self.login], command).await {
                Ok(Some(answer)) => return Ok((connection, answer)),
                Ok(None) => {
                    refused = true;
                    self.login = (self.login + 1) % self.logins.len();
                }
                // One that says why and then closes, such as for too many clients, has answered.
                Err(_) if refused => return Err(End::Wrong),
                Err(_) => return Err(End::Reset),
            }
        }
        Err(End::Wrong)
    }
}

/// The answer to the command. `None` where the login was refused.
async fn log_in(
    connection: &mut BufReader<TcpStream>,
    (user, password): &Login,
    command: &[&str],
) -> io::Result<Option<Vec<u8>>> {
    let auth: Vec<_> = ["AUTH"].into_iter().chain(*user).chain([password.expose_secret()]).collect();
    let welcome = ask(connection, &[request(&auth), request(command)].concat()).await?;
    if !welcome.starts_with(b"+OK") {
        // What it says to the command is in the way of the next login. If it closed instead, the next one will see it.
        let _ = line(connection).await;
        return Ok(None);
    }
    line(connection).await.map(Some)
}

async fn ask(connection: &mut BufReader<TcpStream>, request: &[u8]) -> io::Result<Vec<u8>> {
    connection.write_all(request).await?;
    line(connection).await
}

fn request(words: &[&str]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    request
}

/// One line of an answer; an error where the connection ended before its end.
async fn line(connection: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    connection.take(LINE).read_until(b'\n', &mut line).await?;
    match line.ends_with(b"\n") || line.len() as u64 == LINE {
        true => Ok(line),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use coffer_core::task::ClientView;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::{Door, Login, NOBODYS_KEY, Reader, Visitor};
    use crate::site::{Probe, Seen};

    const LIMIT: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(100);

    /// What the server does with one connection.
    enum Act {
        /// As an engine with users.
        Serve,
        /// As an engine without users.
        ServeWithoutUsers,
        /// Closes at once.
        Slam,
        /// Reads what is asked and closes.
        Hang,
        /// Answers with this, and closes.
        Say(&'static str),
    }

    fn at(address: std::net::SocketAddr, logins: Vec<Login>, last_chance: Duration) -> Probe {
        Probe::of(address, Visitor { door: Door { logins, login: 0 } }, last_chance)
    }

    fn tenant() -> Login {
        (None, "tenant".into())
    }

    fn agent() -> Login {
        (Some("coffer"), "agent".into())
    }

    async fn listen() -> (TcpListener, std::net::SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    /// Both requests, up to the end of the second.
    async fn asked(stream: &mut TcpStream) -> String {
        let (mut text, end) = (Vec::new(), format!("{NOBODYS_KEY}\r\n"));
        while !text.ends_with(end.as_bytes()) {
            assert_ne!(stream.read_buf(&mut text).await.expect("a request"), 0, "{text:?}");
        }
        String::from_utf8(text).expect("text")
    }

    async fn serve(stream: &mut TcpStream, right: &str, refusal: &str) {
        let wanted = format!("{right}*2\r\n$3\r\nDEL\r\n${}\r\n{NOBODYS_KEY}\r\n", NOBODYS_KEY.len());
        while asked(stream).await != wanted {
            let refused = format!("{refusal}\r\n-NOAUTH Authentication required.\r\n");
            stream.write_all(refused.as_bytes()).await.expect("an answer");
        }
        stream.write_all(b"+OK\r\n:0\r\n").await.expect("an answer");
        assert_eq!(stream.read(&mut [0]).await.expect("an end"), 0, "one write on each connection");
    }

    async fn act(stream: &mut TcpStream, act: Act) {
        let with_users = "*3\r\n$4\r\nAUTH\r\n$6\r\ncoffer\r\n$5\r\nagent\r\n";
        let wrong_pass = "-WRONGPASS invalid username-password pair or user is disabled.";
        match act {
            Act::Serve => serve(stream, with_users, wrong_pass).await,
            Act::ServeWithoutUsers => {
                let right = "*2\r\n$4\r\nAUTH\r\n$6\r\ntenant\r\n";
                serve(stream, right, "-ERR wrong number of arguments for 'auth' command").await;
            }
            Act::Slam => {}
            Act::Hang => drop(asked(stream).await),
            Act::Say(text) => {
                asked(stream).await;
                stream.write_all(text.as_bytes()).await.expect("an answer");
            }
        }
    }

    /// A probe of a server that does these things, one with each connection, and what the probe saw of them.
    async fn seen(logins: Vec<Login>, acts: Vec<Act>) -> Seen {
        let (listener, address) = listen().await;
        let probe = at(address, logins, LIMIT);
        for done in acts {
            let (mut stream, _) = timeout(LIMIT, listener.accept()).await.expect("a client").expect("a client");
            timeout(LIMIT, act(&mut stream, done)).await.expect("a client that does its part");
        }
        tokio::select! {
            seen = probe.finish() => seen,
            () = async {
                loop {
                    let (mut stream, _) = listener.accept().await.expect("a client");
                    act(&mut stream, Act::Serve).await;
                }
            } => unreachable!("it serves for ever"),
        }
    }

    #[tokio::test]
    async fn each_attempt_is_a_connection_of_its_own() {
        let seen = seen(vec![agent()], (0..50).map(|_| Act::Serve).collect()).await;
        let clients = seen.clients;
        assert!((50..60).contains(&clients.attempts), "{clients:?}");
        assert_eq!((clients.refused, clients.reset, clients.wrong), (0, 0, 0));
        assert!(clients.longest_wait_us > 0 && Duration::from_micros(clients.longest_wait_us) <= seen.gap, "{seen:?}");
    }

    #[tokio::test]
    async fn a_connection_that_ends_before_its_answer_is_one_reset() {
        let acts =
            vec![Act::Serve, Act::Slam, Act::Hang, Act::Say("+OK\r\n"), Act::Say("+OK\r\n:0"), Act::Say("-LOAD")];
        let clients = seen(vec![agent()], acts).await.clients;
        assert_eq!((clients.refused, clients.reset, clients.wrong), (0, 5, 0), "{clients:?}");
    }

    #[tokio::test]
    async fn an_answer_that_is_not_the_expected_one_is_wrong() {
        let acts = [
            "+OK\r\n-LOADING Redis is loading the dataset in memory\r\n",
            "+OK\r\n-MISCONF Redis is configured to save RDB snapshots\r\n",
            "-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n",
            "-ERR max number of clients reached\r\n",
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            "+OK\r\n$-1\r\n",
        ];
        let clients = seen(vec![agent()], acts.into_iter().map(Act::Say).collect()).await.clients;
        assert_eq!((clients.refused, clients.reset, clients.wrong), (0, 0, 6), "{clients:?}");
        let logins = vec![tenant(), (Some("other"), "other".into())];
        let (listener, address) = listen().await;
        let probe = at(address, logins, SHORT);
        let (mut stream, _) = listener.accept().await.expect("a client");
        for _ in 0..2 {
            asked(&mut stream).await;
            stream.write_all(b"-WRONGPASS no\r\n-NOAUTH no\r\n").await.expect("an answer");
        }
        // The next one waits, so there is one that ended.
        let _next = listener.accept().await.expect("a client");
        let clients = probe.finish().await.clients;
        assert_eq!(clients, ClientView { attempts: 1, wrong: 1, ..ClientView::default() }, "all logins were refused");
    }

    #[tokio::test]
    async fn a_login_that_the_next_engine_does_not_know_is_no_wrong_answer() {
        let acts = vec![Act::ServeWithoutUsers, Act::ServeWithoutUsers, Act::Serve, Act::ServeWithoutUsers, Act::Serve];
        let clients = seen(vec![tenant(), agent()], acts).await.clients;
        assert!(clients.attempts >= 5, "{clients:?}");
        assert_eq!((clients.refused, clients.reset, clients.wrong), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_connection_that_is_left_waiting_is_waited_for_and_is_no_failure() {
        let (listener, address) = listen().await;
        let probe = at(address, vec![agent()], LIMIT);
        let (mut stream, _) = listener.accept().await.expect("a client");
        let held = Instant::now();
        let finish = tokio::spawn(probe.finish());
        let impatient = timeout(SHORT * 5, listener.accept()).await;
        assert!(impatient.is_err(), "one that waits does not come a second time");
        let held = held.elapsed();
        act(&mut stream, Act::Serve).await;
        let seen = finish.await.expect("no panic");
        let answered =
            ClientView { attempts: 1, longest_wait_us: seen.clients.longest_wait_us, ..ClientView::default() };
        assert_eq!(seen.clients, answered);
        let wait = Duration::from_micros(seen.clients.longest_wait_us);
        assert!(wait >= held && wait <= seen.gap, "held for {held:?}: {seen:?}");
    }

    #[tokio::test]
    async fn where_nobody_listens_every_connection_is_refused_and_all_of_it_is_gap() {
        let (listener, address) = listen().await;
        drop(listener);
        let began = Instant::now();
        let seen = at(address, vec![agent()], SHORT).finish().await;
        assert!(seen.clients.attempts > 0, "{seen:?}");
        let refused = ClientView { refused: seen.clients.attempts, ..seen.clients };
        assert_eq!((seen.clients, seen.clients.reset, seen.clients.wrong), (refused, 0, 0));
        assert!(seen.gap >= SHORT && seen.gap <= began.elapsed(), "{seen:?}");
    }

    #[tokio::test]
    async fn finish_ends_a_connection_that_nobody_answers_and_does_not_count_it() {
        let (listener, address) = listen().await;
        let probe = at(address, vec![agent()], SHORT);
        let (_held, _) = listener.accept().await.expect("a client");
        let seen = timeout(LIMIT, probe.finish()).await.expect("it ends");
        assert_eq!(seen.clients, ClientView::default());
        assert!(seen.gap >= SHORT, "{seen:?}");
    }

    #[tokio::test]
    async fn who_reads_stays_until_it_is_cut_and_comes_again() {
        let (listener, address) = listen().await;
        let reader = Reader { door: Door { logins: vec![agent()], login: 0 }, connection: None };
        let probe = Probe::of(address, reader, LIMIT);
        let question = format!("*2\r\n$3\r\nGET\r\n${}\r\n{NOBODYS_KEY}\r\n", NOBODYS_KEY.len());
        let mut seen = None;
        for cut in [true, false] {
            let (mut stream, _) = timeout(LIMIT, listener.accept()).await.expect("it comes").expect("a client");
            assert!(asked(&mut stream).await.ends_with(&question), "it logs in and asks");
            stream.write_all(b"+OK\r\n$-1\r\n").await.expect("an answer");
            for _ in 0..20 {
                assert_eq!(asked(&mut stream).await, question, "it stays");
                stream.write_all(b"$-1\r\n").await.expect("an answer");
            }
            if !cut {
                let answers = async {
                    let mut request = [0; 256];
                    while stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                        stream.write_all(b"$-1\r\n").await.expect("an answer");
                    }
                };
                seen = Some(tokio::join!(probe.finish(), answers).0);
                break;
            }
        }
        let clients = seen.expect("it was told to end").clients;
        assert_eq!((clients.refused, clients.reset, clients.wrong), (0, 1, 0), "{clients:?}");
    }
}
