//! Upgrades of MariaDB: the gap that a writer sees, beside that of a stop and a start by hand, drained and as it comes.
//!
//! By hand `mariadb-upgrade` is not run, which Coffer does before it lets clients in: so that step is told by itself, and Coffer
//! may take as much longer.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::bare::Engine;
use crate::control::new_data;
use crate::report::{Aim, Bound, Compared, Figure, Row};
use crate::server::{Server, Session, free_address};
use crate::sql::Sql;
use crate::{Bench, fetch};

/// The steps whose gaps are measured, as the catalogue names them.
const STEPS: [(&str, &str); 2] = [("10.5.23", "10.11.19"), ("10.11.19", "11.8")];
/// How much longer than a drained stop and start by hand clients may have to wait, beside the engine's own step.
const ALLOWANCE_MS: f64 = 50.0;
/// How many rows are a megabyte of data and index.
const ROWS_PER_MEGABYTE: usize = 4_000;
/// How long there is load before an upgrade, and by how many.
const LOAD: Duration = Duration::from_secs(8);
const LOADERS: usize = 4;
/// How long an engine may take to start, to end or to come to rest.
const PATIENCE: Duration = Duration::from_secs(600);
/// How many writes have to succeed before and after what is measured.
const SETTLED: u64 = 50;
/// Pages that an engine under this one writer has dirty at any time.
const DRAINED: u64 = 200;
const USER: &str = "bench";
/// The scripts that make the system tables, as in the package.
const SCRIPTS: [&str; 4] =
    ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql", "fill_help_tables.sql"];

/// Measures all of it, with so many megabytes of data.
pub(crate) fn measure(bench: &Bench, megabytes: usize) -> Result<Vec<Row>> {
    let data = new_data(bench, "mariadb")?;
    let (server, _) = Server::start(&bench.program, &data)?;
    let session = server.login(&data)?;
    let mut rows = Vec::new();
    for (old, new) in STEPS {
        let engines = (fetch(&bench.store, "mariadb", old)?, fetch(&bench.store, "mariadb", new)?);
        bench.say(&format!("mariadb {old}: {megabytes} MB for the stop and start by hand"));
        let base = tempfile::tempdir_in(&bench.dir)?;
        initialise(&engines.0, base.path())?;
        let engine = Bare::start(&engines.0, base.path())?;
        fill(&mut engine.connect()?, megabytes)?;
        engine.stop()?;
        for loaded in [false, true] {
            let what = format!("mariadb {old} to {new}{}", if loaded { " after a write load" } else { "" });
            bench.say(&format!("stop and start by hand: {what}"));
            let plain = by_hand(bench, &engines, base.path(), loaded, false)?;
            bench.say(&format!("drained, stop and start by hand: {what}"));
            let drained = by_hand(bench, &engines, base.path(), loaded, true)?;
            bench.say(&format!("upgrade: {what}"));
            let coffer = by_coffer(&session, (old, new), megabytes, loaded)?;
            rows.push(row(&what, megabytes, plain, drained, &coffer));
        }
    }
    server.stop()?;
    Ok(rows)
}

/// One upgrade by Coffer.
struct Upgrade {
    gap: Duration,
    total: Duration,
    lost: u64,
    /// The operation, with its steps.
    operation: Value,
}

fn row(what: &str, megabytes: usize, plain: Duration, drained: Duration, coffer: &Upgrade) -> Row {
    let figure = |name, label, value| Figure { name, label, value, unit: " ms" };
    let step = |name: &str| {
        let steps = coffer.operation["steps"].as_array().into_iter().flatten();
        steps.filter(|step| step["name"] == name).filter_map(|step| step["ms"].as_f64()).sum::<f64>()
    };
    let own_step = own_step_ms(&coffer.operation);
    let bound = millis(drained) + own_step + ALLOWANCE_MS;
    Row {
        name: format!("gap.{}", what.replace(' ', "_")),
        label: format!("gap of an upgrade: {what}, {megabytes} MB"),
        figures: vec![
            figure("gap_ms", "", millis(coffer.gap)),
            figure("own_step_ms", "mariadb-upgrade", own_step),
            figure("plain_ms", "by hand, not drained", millis(plain)),
            figure("total_ms", "whole upgrade", millis(coffer.total)),
            figure("stop_ms", "stop", step("stop")),
            figure("keep_ms", "pre-image", step("keep")),
            figure("start_ms", "start and own step", step("start")),
            figure("prove_ms", "proof", step("prove")),
            Figure { name: "lost_writes", label: "lost writes", value: count(coffer.lost), unit: "" },
        ],
        compared: Some(Compared { with: "drained, by hand, without mariadb-upgrade", value: millis(drained) }),
        aim: Some(Aim { text: "50 ms above, and mariadb-upgrade".to_owned(), bound: Bound::AtMost(bound) }),
    }
}

/// How long `mariadb-upgrade` took, as the step says in which it ran.
fn own_step_ms(operation: &Value) -> f64 {
    let details = operation["steps"].as_array().into_iter().flatten().filter_map(|step| step["detail"].as_str());
    let told = details
        .filter_map(|detail| detail.split_once("its own step took ")?.1.split_once(" ms")?.0.parse::<f64>().ok());
    told.sum()
}

fn by_hand(bench: &Bench, engines: &(Engine, Engine), base: &Path, loaded: bool, drained: bool) -> Result<Duration> {
    let copy = tempfile::tempdir_in(&bench.dir)?;
    let data = copy.path().join("data");
    let copied = std::process::Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(&data).status()?;
    ensure!(copied.success(), "the data cannot be copied");
    let old = Bare::start(&engines.0, &data)?;
    let address = old.address;
    drop(old.connect()?);
    if loaded {
        load(address, USER, USER)?;
    }
    let probe = Writer::start(address, USER, USER)?;
    if drained {
        drain(&mut old.connect()?)?;
    }
    old.stop()?;
    let new = Bare::start_at(&engines.1, &data, address)?;
    let (gap, _) = probe.finish()?;
    new.stop()?;
    Ok(gap)
}

fn by_coffer(session: &Session, (old, new): (&str, &str), megabytes: usize, loaded: bool) -> Result<Upgrade> {
    let instance = session.create_of("mariadb", 3306, old, &[])?;
    let open = || Sql::open(instance.address, "admin", &instance.password);
    let mut sql = open()?;
    fill(&mut sql, megabytes)?;
    if loaded {
        load(instance.address, "admin", &instance.password)?;
    }
    let probe = Writer::start(instance.address, "admin", &instance.password)?;
    let began = Instant::now();
    session.upgrade(&instance, new)?;
    let operation = session.wait_until_over(&instance.id)?;
    let total = began.elapsed();
    let (gap, acknowledged) = probe.finish()?;
    let kept: u64 = open()?.ask("SELECT COUNT(*) FROM bench.probe")?.first().context("no answer")?.parse()?;
    session.delete(&instance)?;
    Ok(Upgrade { gap, total, lost: acknowledged.saturating_sub(kept), operation })
}

/// Makes so much data, and the table of the writer.
fn fill(sql: &mut Sql, megabytes: usize) -> Result<()> {
    sql.ask("CREATE DATABASE bench")?;
    sql.ask("CREATE TABLE bench.probe (n BIGINT PRIMARY KEY)")?;
    sql.ask("CREATE TABLE bench.rows (id INT PRIMARY KEY AUTO_INCREMENT, k INT, c CHAR(120), pad CHAR(60), KEY (k))")?;
    let mut left = megabytes * ROWS_PER_MEGABYTE;
    while left > 0 {
        let some = left.min(100_000);
        sql.ask(&format!(
            "INSERT INTO bench.rows (k, c, pad) SELECT seq * 7919 % 1000003, REPEAT(MD5(seq), 3), MD5(seq) FROM bench.seq_1_to_{some}"
        ))?;
        left -= some;
    }
    Ok(())
}

/// Writes all over the data for a while.
fn load(address: SocketAddr, user: &str, password: &str) -> Result<()> {
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
fn drain(sql: &mut Sql) -> Result<()> {
    for variable in ["innodb_max_dirty_pages_pct_lwm", "innodb_max_dirty_pages_pct"] {
        sql.ask(&format!("SET GLOBAL {variable} = 0"))?;
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
struct Writer {
    written: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Writer {
    /// Begins to write, and returns when writes succeed.
    fn start(address: SocketAddr, user: &str, password: &str) -> Result<Self> {
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
    fn finish(self) -> Result<(Duration, u64)> {
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

/// An engine started by hand, from its engine root, and nothing else. Dropped, it is killed.
struct Bare {
    child: Child,
    data: PathBuf,
    address: SocketAddr,
}

impl Bare {
    fn start(engine: &Engine, data: &Path) -> Result<Self> {
        Self::start_at(engine, data, free_address()?)
    }

    fn start_at(engine: &Engine, data: &Path, address: SocketAddr) -> Result<Self> {
        let log = fs_err::OpenOptions::new().create(true).append(true).open(data.with_extension("log"))?.into_file();
        let child = command(engine, data)?
            .arg(format!("--port={}", address.port()))
            .arg(format!("--bind-address={}", address.ip()))
            .arg("--skip-name-resolve")
            // What Coffer gives the same flavor.
            .arg("--innodb-buffer-pool-size=2G")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the engine does not start")?;
        Ok(Self { child, data: data.to_owned(), address })
    }

    /// Connects as soon as it answers.
    fn connect(&self) -> Result<Sql> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Sql::open(self.address, USER, USER) {
                Ok(sql) => return Ok(sql),
                Err(error) if Instant::now() > deadline => {
                    let log = fs_err::read_to_string(self.data.with_extension("log")).unwrap_or_default();
                    bail!("the engine does not answer ({error}):\n{log}");
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Ends it as it is set, and returns when it is gone.
    fn stop(mut self) -> Result<()> {
        let _ = self.connect()?.ask("SHUTDOWN");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the engine does not end");
            thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(engine: &Engine, data: &Path) -> Result<std::process::Command> {
    let mut command = engine.command()?;
    command
        .arg("--no-defaults")
        .arg("--user=root")
        .arg(format!("--basedir={}", engine.root.join("usr").display()))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", data.with_extension("sock").display()))
        .env_clear()
        .env("LC_ALL", "C");
    Ok(command)
}

/// Makes an empty data directory with a user who may do everything.
fn initialise(engine: &Engine, data: &Path) -> Result<()> {
    let share = ["usr/share/mysql", "usr/share/mariadb"].map(|dir| engine.root.join(dir));
    let share = share.iter().find(|dir| dir.join(SCRIPTS[0]).exists()).context("the engine root has no scripts")?;
    let mut script = "CREATE DATABASE mysql;\nUSE mysql;\n".to_owned();
    for name in SCRIPTS {
        writeln!(script, "{}", fs_err::read_to_string(share.join(name))?)?;
    }
    writeln!(script, "FLUSH PRIVILEGES;\nGRANT ALL ON *.* TO {USER}@'%' IDENTIFIED BY '{USER}';")?;
    let file = data.with_extension("sql");
    fs_err::write(&file, script)?;
    let output = command(engine, data)?
        .args(["--bootstrap", "--max-allowed-packet=8M"])
        .stdin(fs_err::File::open(&file)?.into_file())
        .output()?;
    ensure!(output.status.success(), "no data directory:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
