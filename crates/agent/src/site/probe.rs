//! What clients saw while one engine took the place of another.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use coffer_core::spec::EngineSpec;
use coffer_core::task::ClientView;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// The pause between two connections while nothing is to happen that clients feel.
const CALM: Duration = Duration::from_millis(50);
/// The pause between two connections around the switch.
const EVERY: Duration = Duration::from_millis(2);
/// The same of one who stays. Longer than a connection has to be silent to be taken for answered: else the probe itself would be
/// waited for when new connections begin to wait.
pub(crate) const STAYING: Duration = Duration::from_millis(50);
/// How long one connection is left waiting. Longer than any engine is away that is still to come back.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long it goes on after it was told to end without a success since.
const LAST_CHANCE: Duration = Duration::from_secs(5);
/// A short-lived client of one kind of engine.
pub(crate) trait Caller: Send + 'static {
    /// What one of them does from connecting to leaving.
    fn attempt(&mut self, address: SocketAddr) -> impl Future<Output = End>;

    /// The pause before the next.
    fn every(&self) -> Duration {
        EVERY
    }
}

/// What clients saw from the start of a probe to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The longest time between the ends of two connections that did what they were for.
    pub gap: Duration,
    pub clients: ClientView,
}

/// How closely it is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Now and then. The time between two looks is no gap: nobody looked.
    Calm,
    /// As often as clients of this kind do. The time between two successes is a gap.
    Close,
    /// Until the next success.
    Ending,
}

/// Does at the instance's own address what a short-lived client does, one after the other: connects, logs in, writes
/// something that changes nothing, reads the answer, closes; every 50 ms, and when it is told to look closely, 2 ms after the
/// last. On a thread of its own, so that nothing the agent does is measured as a gap. Dropped, it ends without a word.
#[derive(Debug)]
pub struct Probe {
    told: watch::Sender<Pace>,
    /// How many did what they were for, up to now.
    answered: Arc<AtomicU64>,
    thread: JoinHandle<Seen>,
}

impl Probe {
    /// Begins with clients of this kind. The engine should be open.
    pub(crate) fn start(spec: &EngineSpec, caller: impl Caller) -> Self {
        Self::of(SocketAddr::from((spec.address, spec.datastore().port())), caller, LAST_CHANCE)
    }

    /// Begins at this address; when told to end, it waits for so long at the most for a success.
    pub(crate) fn of(address: SocketAddr, mut caller: impl Caller, last_chance: Duration) -> Self {
        let (told, hears) = watch::channel(Pace::Calm);
        let answered = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&answered);
        let thread = std::thread::spawn(move || {
            // So that a connection that waits in the kernel, wherever it does, can be given up.
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(look(address, &mut caller, hears, &counted, last_chance)),
                Err(error) => {
                    tracing::warn!(%error, "nobody measures what clients see");
                    Seen::default()
                }
            }
        });
        Self { told, answered, thread }
    }

    /// How many did what they were for, up to now.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Looks closely from now on.
    pub fn look_closely(&self) {
        self.told.send_replace(Pace::Close);
    }

    /// Ends, and tells what was seen up to the first success after this call.
    pub async fn finish(self) -> Seen {
        self.told.send_replace(Pace::Ending);
        tokio::task::spawn_blocking(move || self.thread.join().unwrap_or_default()).await.unwrap_or_default()
    }
}

async fn look(
    address: SocketAddr,
    caller: &mut impl Caller,
    mut told: watch::Receiver<Pace>,
    answered: &AtomicU64,
    last_chance: Duration,
) -> Seen {
    let mut seen = Seen::default();
    let mut last_success = Instant::now();
    let mut ending = told.clone();
    let over = async move {
        let finished = ending.wait_for(|pace| *pace == Pace::Ending).await.is_ok();
        // Nobody waits for the answer of one that was dropped.
        if finished {
            sleep(last_chance).await;
        }
    };
    tokio::select! {
        () = attempts(address, caller, &mut told, answered, (&mut seen, &mut last_success)) => {}
        // A connection that is given up here did not fail.
        () = over => {}
    }
    seen.gap = seen.gap.max(last_success.elapsed());
    seen
}

/// One attempt after the other, up to the first success after it was told to end.
async fn attempts(
    address: SocketAddr,
    caller: &mut impl Caller,
    told: &mut watch::Receiver<Pace>,
    answered: &AtomicU64,
    (seen, last_success): (&mut Seen, &mut Instant),
) {
    loop {
        let began = Instant::now();
        let end = timeout(PATIENCE, caller.attempt(address)).await.unwrap_or(End::Reset);
        let clients = &mut seen.clients;
        clients.attempts += 1;
        match end {
            End::Done => {
                answered.fetch_add(1, Ordering::Relaxed);
                let wait = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                clients.longest_wait_us = clients.longest_wait_us.max(wait);
                seen.gap = seen.gap.max(last_success.elapsed());
                *last_success = Instant::now();
                if *told.borrow() == Pace::Ending {
                    return;
                }
            }
            End::Refused => clients.refused += 1,
            End::Reset => clients.reset += 1,
            End::Wrong => clients.wrong += 1,
        }
        let pace = *told.borrow_and_update();
        let pause = if pace == Pace::Calm { CALM } else { caller.every() };
        tokio::select! {
            () = sleep(pause) => {}
            _ = told.changed() => {}
        }
        if pace == Pace::Calm && matches!(end, End::Done) {
            *last_success = Instant::now();
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Done,
    Refused,
    Reset,
    Wrong,
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::watch;
    use tokio::time::{sleep, timeout};

    use super::{Caller, End, Pace, Probe, Seen, look};

    const LIMIT: Duration = Duration::from_secs(20);

    /// A client that waits until it is hung up on.
    struct Patient;

    impl Caller for Patient {
        async fn attempt(&mut self, address: SocketAddr) -> End {
            let Ok(connection) = TcpStream::connect(address).await else { return End::Refused };
            let _ = connection.readable().await;
            End::Reset
        }
    }

    /// A client whose attempts take so many milliseconds, and then one each.
    struct Slow(VecDeque<u64>);

    impl Caller for Slow {
        async fn attempt(&mut self, _: SocketAddr) -> End {
            sleep(Duration::from_millis(self.0.pop_front().unwrap_or(1))).await;
            End::Done
        }
    }

    /// What is seen by a client whose attempts take so long, at these paces, each for 100 ms.
    async fn seen(attempts: &[u64], paces: &[Pace]) -> Seen {
        let (told, hears) = watch::channel(paces[0]);
        let lead = async {
            for pace in &paces[1..] {
                sleep(Duration::from_millis(100)).await;
                told.send_replace(*pace);
            }
            std::future::pending::<()>().await;
        };
        let mut slow = Slow(attempts.iter().copied().collect());
        let answered = AtomicU64::new(0);
        tokio::select! {
            seen = look(([127, 0, 0, 1], 0).into(), &mut slow, hears, &answered, LIMIT) => seen,
            () = lead => unreachable!("it waits for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_calm_looks_is_no_gap_and_a_slow_answer_is_one() {
        let quick = seen(&[], &[Pace::Calm, Pace::Ending]).await;
        assert!(quick.gap < Duration::from_millis(5), "{quick:?}");
        assert_eq!(quick.clients.attempts, 3, "at 0 and 51 ms, and when it was told to end");
        let slow = seen(&[1, 30], &[Pace::Calm, Pace::Ending]).await;
        assert!((30..35).contains(&slow.gap.as_millis()), "{slow:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn between_two_close_looks_is_a_gap() {
        let seen = seen(&[], &[Pace::Calm, Pace::Close, Pace::Ending]).await;
        // An attempt, and the pause before it.
        assert!((3..8).contains(&seen.gap.as_millis()), "{seen:?}");
        assert!((20..40).contains(&seen.clients.attempts), "{seen:?}");
    }

    #[tokio::test]
    async fn a_probe_that_is_dropped_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let Probe { told, thread, .. } = Probe::of(address, Patient, LIMIT);
        let (_held, _) = listener.accept().await.expect("a client");
        drop(told);
        let ended = tokio::task::spawn_blocking(move || thread.join());
        timeout(LIMIT / 2, ended).await.expect("it ends").expect("a thread").expect("no panic");
    }
}
