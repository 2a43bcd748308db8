//! Clients that come one a millisecond, each with a connection of its own: log in, one command, and away. What they see is what
//! an instance's users see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;

use super::resp::Connection;

/// How often one comes.
const EVERY: Duration = Duration::from_millis(1);
/// No visit takes longer; it would be one that hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a visit takes that has to wait for nothing but a processor, at the most. On a machine at load 10 that was 0.4 s.
const WITH_ENGINE: Duration = Duration::from_secs(1);
/// What every second visitor reads.
const KEY: &str = "visited";
const VALUE: &str = "a value that is known";

/// How a visit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Served,
    Refused,
    /// Cut before the answer, and how far it had come.
    Reset(String),
    Loading,
    Wrong(String),
}

#[derive(Clone, Debug)]
struct Visit {
    began: Instant,
    took: Duration,
    end: End,
}

/// What visitors saw.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) visits: usize,
    pub(crate) refused: usize,
    pub(crate) reset: usize,
    /// Of those, who had come before the engine was killed, so that it may have been at them.
    pub(crate) cut: usize,
    /// How far those had come whom no killed engine took along.
    pub(crate) stray: Vec<String>,
    pub(crate) loading: usize,
    pub(crate) wrong: Vec<String>,
    /// Of those who were served.
    pub(crate) longest_wait: Duration,
    /// Of those who were not.
    pub(crate) longest_in_vain: Duration,
}

impl Tally {
    /// Nobody was turned away and nobody was answered wrongly; cut was only whom the engine took along.
    pub(crate) fn assert_all_served(&self, when: &str) {
        let turned_away = (self.refused, self.stray.len(), self.loading, self.wrong.len());
        assert_eq!(turned_away, (0, 0, 0, 0), "{when}: {self:?}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} visits, {} refused, {} reset ({} with the engine), {} loading, {} wrong, longest wait {:.1} ms",
            self.visits,
            self.refused,
            self.reset,
            self.cut,
            self.loading,
            self.wrong.len(),
            self.longest_wait.as_secs_f64() * 1000.0
        )
    }
}

/// They come until they are told to stop.
pub(crate) struct Visitors {
    began: Instant,
    told: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: JoinHandle<Vec<Visit>>,
}

impl Visitors {
    /// They begin to come.
    pub(crate) fn start(address: SocketAddr, password: &str) -> Self {
        let mut connection = Connection::open(address, Some(password)).expect("it serves");
        connection.ask(&["SET", KEY, VALUE]).expect("it takes writes");
        // Each that waits has a file open.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
            .expect("a limit may be raised to its maximum");
        let (told, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let password = password.to_owned();
        let thread = std::thread::spawn({
            let (told, served) = (Arc::clone(&told), Arc::clone(&served));
            move || come(address, &password, &told, &served)
        });
        Self { began: Instant::now(), told, served, thread }
    }

    /// Waits until so many more were served.
    pub(crate) fn wait_for_more(&self, visits: u64) {
        let enough = self.served.load(Ordering::Relaxed) + visits;
        let deadline = Instant::now() + PATIENCE;
        while self.served.load(Ordering::Relaxed) < enough {
            assert!(Instant::now() < deadline, "visitors are not served");
            std::thread::sleep(EVERY);
        }
    }

    /// No more come; those who are there are waited for. `killed`: from when to when an engine was.
    pub(crate) fn stop(self, killed: &[(Instant, Instant)]) -> Tally {
        let began = self.began;
        self.told.store(true, Ordering::Relaxed);
        let visits = self.thread.join().expect("visitors");
        let mut tally = Tally { visits: visits.len(), ..Tally::default() };
        for visit in visits {
            let longest = match visit.end {
                End::Served => &mut tally.longest_wait,
                _ => &mut tally.longest_in_vain,
            };
            *longest = visit.took.max(*longest);
            match visit.end {
                End::Served => {}
                End::Refused => tally.refused += 1,
                End::Reset(how) => {
                    tally.reset += 1;
                    // It was there when the engine was killed, and had not waited for it.
                    let with = |(from, to): &(Instant, Instant)| {
                        visit.began <= *to && visit.began + visit.took >= *from && *from < visit.began + WITH_ENGINE
                    };
                    if killed.iter().any(with) {
                        tally.cut += 1;
                    } else {
                        let came = visit.began - began;
                        tally.stray.push(format!("{how}, came after {came:?}, cut {:?} later", visit.took));
                    }
                }
                End::Loading => tally.loading += 1,
                End::Wrong(answer) => tally.wrong.push(answer),
            }
        }
        tally
    }
}

fn come(address: SocketAddr, password: &str, told: &AtomicBool, served: &Arc<AtomicU64>) -> Vec<Visit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut visits = tokio::task::JoinSet::new();
        let mut clock = tokio::time::interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number = 0_u64;
        while !told.load(Ordering::Relaxed) {
            clock.tick().await;
            number += 1;
            let (command, answer) = if number.is_multiple_of(2) {
                (format!("GET {KEY}\r\n"), format!("+OK\r\n${}\r\n{VALUE}\r\n", VALUE.len()))
            } else {
                (format!("SETEX visitor:{} 60 {number}\r\n", number % 100), "+OK\r\n+OK\r\n".to_owned())
            };
            let ask = format!("AUTH {password}\r\n{command}");
            let served = Arc::clone(served);
            visits.spawn(async move {
                let began = Instant::now();
                let end = tokio::time::timeout(PATIENCE, visit(address, &ask, &answer)).await;
                let end = end.unwrap_or_else(|_| End::Wrong("no answer at all".to_owned()));
                if end == End::Served {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Visit { began, took: began.elapsed(), end }
            });
        }
        visits.join_all().await
    })
}

async fn visit(address: SocketAddr, ask: &str, expected: &str) -> End {
    let failed = |doing: &str, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => End::Refused,
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => End::Reset(format!("{doing}: {error}")),
        _ => End::Wrong(error.to_string()),
    };
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return failed("connecting", error),
    };
    if let Err(error) = stream.write_all(ask.as_bytes()).await {
        return failed("asking", error);
    }
    let mut answer = Vec::new();
    let mut part = [0; 512];
    while answer.len() < expected.len() && !answer.starts_with(b"-") {
        match stream.read(&mut part).await {
            Ok(0) => return End::Reset(format!("closed after {} bytes", answer.len())),
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) => return failed(&format!("reading after {} bytes", answer.len()), error),
        }
    }
    match String::from_utf8_lossy(&answer).into_owned() {
        answer if answer == expected => End::Served,
        answer if answer.contains("-LOADING") => End::Loading,
        answer => End::Wrong(answer),
    }
}
