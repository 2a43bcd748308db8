//! A client that writes every millisecond, and notes for how long it could not.
//!
//! It counts up, and every answer has to be greater than the one before: a smaller one is a write that was acknowledged
//! and lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::resp::{Connection, Reply};

const KEY: &str = "bench:probe";
const EVERY: Duration = Duration::from_millis(1);
/// How many writes have to succeed before and after what is measured.
const SETTLED: u64 = 50;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// The client, at work.
pub(crate) struct Probe {
    successes: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What the client saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The longest time between two writes that succeeded.
    pub gap: Duration,
    /// How many acknowledged writes were gone later.
    pub lost: u64,
}

impl Probe {
    /// Begins to write, and returns when writes succeed.
    pub(crate) fn start(address: SocketAddr, password: Option<&str>) -> Result<Self> {
        let (successes, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let password = password.map(str::to_owned);
        let thread = thread::spawn({
            let (successes, end) = (Arc::clone(&successes), Arc::clone(&end));
            move || write(address, password.as_deref(), &successes, &end)
        });
        let probe = Self { successes, end, thread };
        probe.settle()?;
        Ok(probe)
    }

    /// Waits until writes succeed again, then ends.
    pub(crate) fn finish(self) -> Result<Seen> {
        let settled = self.settle();
        self.end.store(true, Ordering::Relaxed);
        let Ok(seen) = self.thread.join() else { bail!("the probe broke off") };
        settled.map(|()| seen)
    }

    fn settle(&self) -> Result<()> {
        let (enough, deadline) = (self.successes.load(Ordering::Relaxed) + SETTLED, Instant::now() + PATIENCE);
        while self.successes.load(Ordering::Relaxed) < enough {
            if Instant::now() > deadline || self.thread.is_finished() {
                bail!("no write succeeded for {} s", PATIENCE.as_secs());
            }
            thread::sleep(EVERY);
        }
        Ok(())
    }
}

fn write(address: SocketAddr, password: Option<&str>, successes: &AtomicU64, end: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    let (mut last_success, mut last_value) = (None, 0);
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        connection = connection.take().or_else(|| Connection::open(address, password).ok());
        match connection.as_mut().map(|connection| connection.ask(&["INCR", KEY])) {
            Some(Ok(Reply::Number(value))) => {
                let now = Instant::now();
                seen.gap = last_success.map_or(seen.gap, |last| seen.gap.max(now - last));
                seen.lost += u64::try_from(last_value + 1 - value).unwrap_or(0);
                (last_success, last_value) = (Some(now), value);
                successes.fetch_add(1, Ordering::Relaxed);
            }
            // It answers, if only that it loads: a new connection would be no better.
            Some(Err(error)) if error.kind() == std::io::ErrorKind::Other => {}
            _ => connection = None,
        }
        thread::sleep(EVERY.saturating_sub(began.elapsed()));
    }
    seen
}
