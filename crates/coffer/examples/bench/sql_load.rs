//! Data in MariaDB or MySQL, load on it, and who notes how long he could not write.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::sql::Sql;

/// How many rows are a megabyte of data and index.
const ROWS_PER_MEGABYTE: usize = 4_000;
/// Rows that others are made of.
const NUMBERS: usize = 1000;
/// How long there is load before an upgrade, and by how many.
const LOAD: Duration = Duration::from_secs(8);
const LOADERS: usize = 4;
/// How long an engine may take to come to rest, or to serve again.
const PATIENCE: Duration = Duration::from_secs(600);
/// How many writes have to succeed before and after what is measured.
const SETTLED: u64 = 50;
/// Pages that an engine under this one writer has dirty at any time.
const DRAINED: u64 = 200;

/// Makes so much data, and the table of the writer. In words that both kinds know; MySQL 9.7 has no MD5.
pub(crate) fn fill(sql: &mut Sql, megabytes: usize) -> Result<()> {
    sql.ask("CREATE DATABASE bench")?;
    sql.ask("CREATE TABLE bench.probe (n BIGINT PRIMARY KEY)")?;
    sql.ask("CREATE TABLE bench.rows (id INT PRIMARY KEY AUTO_INCREMENT, k INT, c CHAR(120), pad CHAR(60), KEY (k))")?;
    sql.ask("CREATE TABLE bench.numbers (n INT PRIMARY KEY)")?;
    let numbers: Vec<_> = (0..NUMBERS).map(|n| format!("({n})")).collect();
    sql.ask(&format!("INSERT INTO bench.numbers VALUES {}", numbers.join(",")))?;
    let mut left = megabytes * ROWS_PER_MEGABYTE / NUMBERS;
    while left > 0 {
        let some = left.min(100);
        sql.ask(&format!(
            "INSERT INTO bench.rows (k, c, pad) SELECT (a.n * {NUMBERS} + b.n) * 7919 % 1000003, LEFT(SHA2(b.n, 512), 96), LEFT(SHA2(b.n, 256), 32)
             FROM bench.numbers a, bench.numbers b WHERE a.n < {some}"
        ))?;
        left -= some;
    }
    Ok(())
}

/// Writes all over the data for a while.
pub(crate) fn load(address: SocketAddr, user: &str, password: &str) -> Result<()> {
    let threads: Vec<JoinHandle<Result<()>>> = (0..LOADERS)
        .map(|at| {
            let (user, password) = (user.to_owned(), password.to_owned());
            thread::spawn(move || {
                let (mut sql, until) = (Sql::open(address, &user, &password)?, Instant::now() + LOAD);
                let rows: usize = sql.ask("SELECT COUNT(*) FROM bench.rows")?.first().context("no answer")?.parse()?;
                let mut n = at;
                while Instant::now() < until {
                    n = (n * 7_368_787 + 104_729) % rows.max(1);
                    sql.ask(&format!("UPDATE bench.rows SET k = k + 1, c = REVERSE(c) WHERE id = {n}"))?;
                }
                Ok(())
            })
        })
        .collect();
    threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a loader broke off")))
}

/// Has the engine write what it has in memory only, as somebody who cares does before he stops it.
pub(crate) fn drain(sql: &mut Sql) -> Result<()> {
    for (variable, value) in [
        ("innodb_max_dirty_pages_pct_lwm", "0"),
        ("innodb_max_dirty_pages_pct", "0"),
        ("innodb_io_capacity", "@@GLOBAL.innodb_io_capacity_max"),
    ] {
        sql.ask(&format!("SET GLOBAL {variable} = {value}"))?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rows = sql.ask("SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'")?;
        let dirty: u64 = rows.first().and_then(|row| row.split_once('|')?.1.parse().ok()).context("no such figure")?;
        if dirty <= DRAINED {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the engine does not come to rest");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Somebody who writes a row a millisecond, and notes for how long he could not.
pub(crate) struct Writer {
    written: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Writer {
    /// Begins to write, and returns when writes succeed.
    pub(crate) fn start(address: SocketAddr, user: &str, password: &str) -> Result<Self> {
        let (written, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (user, password) = (user.to_owned(), password.to_owned());
        let thread = thread::spawn({
            let (written, end) = (Arc::clone(&written), Arc::clone(&end));
            move || write(address, &user, &password, &written, &end)
        });
        let writer = Self { written, end, thread };
        writer.settle()?;
        Ok(writer)
    }

    /// Waits until writes succeed again, then ends: the longest time between two that did, and how many did.
    pub(crate) fn finish(self) -> Result<(Duration, u64)> {
        let settled = self.settle();
        self.end.store(true, Ordering::Relaxed);
        let Ok(gap) = self.thread.join() else { bail!("the writer broke off") };
        settled.map(|()| (gap, self.written.load(Ordering::Relaxed)))
    }

    fn settle(&self) -> Result<()> {
        let (enough, deadline) = (self.written.load(Ordering::Relaxed) + SETTLED, Instant::now() + PATIENCE);
        while self.written.load(Ordering::Relaxed) < enough {
            ensure!(Instant::now() < deadline, "no write succeeded for {} s", PATIENCE.as_secs());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

fn write(address: SocketAddr, user: &str, password: &str, written: &AtomicU64, end: &AtomicBool) -> Duration {
    let (mut gap, mut last, mut sql) = (Duration::ZERO, None, None);
    let mut tried = 0;
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        sql = sql.take().or_else(|| Sql::open(address, user, password).ok());
        tried += 1;
        let done =
            sql.as_mut().is_some_and(|sql| sql.ask(&format!("INSERT INTO bench.probe VALUES ({tried})")).is_ok());
        if done {
            let now = Instant::now();
            gap = last.map_or(gap, |last| gap.max(now - last));
            last = Some(now);
            written.fetch_add(1, Ordering::Relaxed);
        } else {
            sql = None;
        }
        thread::sleep(Duration::from_millis(1).saturating_sub(began.elapsed()));
    }
    gap
}
