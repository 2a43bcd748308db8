//! Upgrades of MariaDB and MySQL: the gap that a writer sees, beside that of a stop and a start by hand, drained and as it
//! comes; and what a pre-image costs on a file system that shares blocks.
//!
//! By hand `mariadb-upgrade` is not run, which Coffer does before it lets clients in: so that step is told by itself, and
//! Coffer may take as much longer. MySQL does its own step while it starts, by hand too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bare::Engine;
use crate::control::new_data;
use crate::report::{Aim, Bound, Compared, Figure, Row};
use crate::server::{FIRST_OF_POOL, Server, Session};
use crate::sql::Sql;
use crate::sql_bare::{Bare, Kind, USER};
use crate::sql_load::{Writer, drain, fill, load};
use crate::{Bench, fetch};

/// How much longer than a drained stop and start by hand clients may have to wait, beside the engine's own step.
const ALLOWANCE_MS: f64 = 50.0;
/// The only older version of MySQL that can be had as packages runs in an emulator, which takes its time to fill it.
const OLD_MYSQL: &str = "9.7.2";
const OF_THE_SIZE_IN_THE_EMULATOR: usize = 10;
/// It is not in the catalogue that is shipped, and from nowhere but the store. `./test` puts it there, where it has the archive.
const OLD_MYSQL_RELEASE: &str = "\n[[release]]\ndatastore = 'mysql'\nversion = '9.7.2'\nbinary = '/usr/sbin/mysqld'\n\
    [[release.source]]\nfrom = 'archive'\npath = 'mysql-9.7.2.tar.gz'\n";
/// Where it is mounted, below the directory of a run.
const XFS: &str = "on-xfs";
/// Room on the small file system for an instance of one megabyte, its pre-image and what is written meanwhile.
const XFS_TIMES: usize = 4;
const XFS_MORE: usize = 2000;

/// A step whose gap is measured: versions as the catalogue names them.
#[derive(Clone, Copy)]
struct Step {
    kind: Kind,
    old: &'static str,
    new: &'static str,
}

const MARIADB: [Step; 2] = [
    Step { kind: Kind::Mariadb, old: "10.5.23", new: "10.11.19" },
    Step { kind: Kind::Mariadb, old: "10.11.19", new: "11.8" },
];
const MYSQL: Step = Step { kind: Kind::Mysql, old: OLD_MYSQL, new: "9.7" };

/// MariaDB, with so many megabytes of data. What was measured is in `rows` also when the rest fails.
pub(crate) fn mariadb(bench: &Bench, megabytes: usize, rows: &mut Vec<Row>) -> Result<()> {
    let data = new_data(bench, "mariadb")?;
    let server = serve(bench, &data)?;
    let session = server.login(&data)?;
    for step in MARIADB {
        gaps(bench, &session, step, megabytes, rows)?;
    }
    server.stop()?;
    let copied = rows.iter().find(|row| row.name == gap_name(MARIADB[1], false)).and_then(|row| row.value("keep_ms"));
    rows.extend(on_xfs(bench, MARIADB[1], megabytes, copied.context("no pre-image was made by copying")?)?);
    Ok(())
}

/// The same of MySQL, with a tenth of it.
pub(crate) fn mysql(bench: &Bench, megabytes: usize, rows: &mut Vec<Row>) -> Result<()> {
    if coffer_image::Store::open(&bench.store)?.find(MYSQL.kind.name(), MYSQL.old)?.is_none() {
        bench.say("NOT MEASURED: MySQL, because mysql/9.7.2 is not in the store; hint: run ./test with COFFER_MYSQL_OLD_ARCHIVE");
        return Ok(());
    }
    let data = new_data(bench, "mysql")?;
    let server = serve(bench, &data)?;
    gaps(bench, &server.login(&data)?, MYSQL, megabytes / OF_THE_SIZE_IN_THE_EMULATOR, rows)?;
    server.stop()
}

fn serve(bench: &Bench, data: &Path) -> Result<Server> {
    let catalogue = bench.dir.join("catalogue.toml");
    fs_err::write(
        &catalogue,
        concat!(include_str!("../../../../engines/catalogue.toml"), "\n").to_owned() + OLD_MYSQL_RELEASE,
    )?;
    let lines =
        format!("address_pool = \"{FIRST_OF_POOL}/16\"\ncatalogue = '{}'\nhold_seconds = 600", catalogue.display());
    Ok(Server::start_with(&bench.program, data, &lines)?.0)
}

/// One step, idle and after a write load.
fn gaps(bench: &Bench, session: &Session, step: Step, megabytes: usize, rows: &mut Vec<Row>) -> Result<()> {
    let Step { kind, old, new } = step;
    let engine = |version| match version {
        OLD_MYSQL => crate::stored(&bench.store, kind.name(), version),
        _ => fetch(&bench.store, kind.name(), version),
    };
    let engines = (engine(old)?, engine(new)?);
    bench.say(&format!("{} {old}: {megabytes} MB for the stop and start by hand", kind.name()));
    let base = tempfile::tempdir_in(&bench.dir)?;
    let base = base.path().join("data");
    fs_err::create_dir(&base)?;
    let mut bare = Bare::initialise(kind, &engines.0, &base)?;
    fill(&mut bare.connect()?, megabytes)?;
    bare.stop()?;
    for loaded in [false, true] {
        let what = what(step, loaded);
        bench.say(&format!("stop and start by hand: {what}"));
        let plain = by_hand(bench, kind, &engines, &base, loaded, false)?;
        bench.say(&format!("drained, stop and start by hand: {what}"));
        let drained = by_hand(bench, kind, &engines, &base, loaded, true)?;
        bench.say(&format!("upgrade: {what}"));
        let coffer = by_coffer(session, step, megabytes, loaded)?;
        rows.push(gap_row(step, loaded, megabytes, plain, drained, &coffer));
    }
    Ok(())
}

fn what(step: Step, loaded: bool) -> String {
    format!("{} {} to {}{}", step.kind.name(), step.old, step.new, if loaded { " after a write load" } else { "" })
}

fn gap_name(step: Step, loaded: bool) -> String {
    format!("gap.{}", what(step, loaded).replace(' ', "_"))
}

/// One upgrade by Coffer.
struct Upgrade {
    gap: Duration,
    total: Duration,
    lost: u64,
    /// The operation, with its steps.
    operation: Value,
}

impl Upgrade {
    fn step_ms(&self, name: &str) -> f64 {
        let steps = self.operation["steps"].as_array().into_iter().flatten();
        steps.filter(|step| step["name"] == name).filter_map(|step| step["ms"].as_f64()).sum()
    }

    /// How long the engine's own step took, as the step says in which it ran.
    fn own_step_ms(&self) -> f64 {
        let details =
            self.operation["steps"].as_array().into_iter().flatten().filter_map(|step| step["detail"].as_str());
        let told = details
            .filter_map(|detail| detail.split_once("its own step took ")?.1.split_once(" ms")?.0.parse::<f64>().ok());
        told.sum()
    }
}

fn figure(name: &'static str, label: &'static str, value: f64) -> Figure {
    Figure { name, label, value, unit: " ms" }
}

fn gap_row(step: Step, loaded: bool, megabytes: usize, plain: Duration, drained: Duration, coffer: &Upgrade) -> Row {
    let own_step = coffer.own_step_ms();
    let (with, text, more) = match step.kind {
        Kind::Mariadb => ("drained, by hand, without mariadb-upgrade", "50 ms above, and mariadb-upgrade", own_step),
        Kind::Mysql => ("drained, by hand", "50 ms above", 0.0),
    };
    Row {
        name: gap_name(step, loaded),
        label: format!("gap of an upgrade: {}, {megabytes} MB", what(step, loaded)),
        figures: vec![
            figure("gap_ms", "", millis(coffer.gap)),
            figure("own_step_ms", "its own step", own_step),
            figure("plain_ms", "by hand, not drained", millis(plain)),
            figure("total_ms", "whole upgrade", millis(coffer.total)),
            figure("prepare_ms", "prepare", coffer.step_ms("prepare")),
            figure("quiesce_ms", "drain", coffer.step_ms("quiesce")),
            figure("stop_ms", "stop", coffer.step_ms("stop")),
            figure("keep_ms", "pre-image", coffer.step_ms("keep")),
            figure("swap_ms", "swap", coffer.step_ms("swap")),
            figure("start_ms", "start and own step", coffer.step_ms("start")),
            figure("prove_ms", "proof", coffer.step_ms("prove")),
            figure("open_ms", "open", coffer.step_ms("open")),
            Figure { name: "lost_writes", label: "lost writes", value: count(coffer.lost), unit: "" },
        ],
        compared: Some(Compared { with, value: millis(drained) }),
        aim: Some(Aim { text: text.to_owned(), bound: Bound::AtMost(millis(drained) + more + ALLOWANCE_MS) }),
    }
}

/// The pre-image of the same upgrade where files can share their blocks. Nothing, and said so, where none can be mounted.
fn on_xfs(bench: &Bench, step: Step, megabytes: usize, copied_ms: f64) -> Result<Option<Row>> {
    let Some(xfs) = Xfs::mount(bench, megabytes * XFS_TIMES + XFS_MORE)? else {
        bench.say("NOT MEASURED: a pre-image by reflink, because no XFS can be made and mounted; hint: as root, with the package xfsprogs");
        return Ok(None);
    };
    let data = xfs.at.join("data");
    fs_err::create_dir(&data)?;
    fs_err::os::unix::fs::symlink(&bench.store, data.join("engines"))?;
    let server = serve(bench, &data)?;
    bench.say(&format!("upgrade on XFS: {}", what(step, false)));
    let coffer = by_coffer(&server.login(&data)?, step, megabytes, false)?;
    server.stop()?;
    Ok(Some(Row {
        name: "preimage.reflink".to_owned(),
        label: format!("pre-image by reflink on XFS: {}, {megabytes} MB", what(step, false)),
        figures: vec![
            figure("keep_ms", "", coffer.step_ms("keep")),
            figure("gap_ms", "gap", millis(coffer.gap)),
            Figure { name: "lost_writes", label: "lost writes", value: count(coffer.lost), unit: "" },
        ],
        compared: Some(Compared { with: "by copy, on the file system of the bench", value: copied_ms }),
        aim: None,
    }))
}

/// A file system in a file. Dropped, it is unmounted.
struct Xfs {
    at: PathBuf,
}

impl Xfs {
    fn mount(bench: &Bench, megabytes: usize) -> Result<Option<Self>> {
        let (file, at) = (bench.dir.join("xfs"), bench.dir.join(XFS));
        fs_err::File::create(&file)?.set_len(u64::try_from(megabytes)? << 20)?;
        fs_err::create_dir(&at)?;
        let done = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = done(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&file));
        let mounted = made && done(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(&at));
        Ok(mounted.then_some(Self { at }))
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        crate::process::end_all_of(&self.at);
        self.at.parent().map(unmount);
    }
}

/// Unmounts what this part may have mounted in the directory of a run, also while something there is still ending.
pub(crate) fn unmount(dir: &Path) {
    let at = dir.join(XFS);
    if at.exists() {
        let _ = Command::new("umount").arg("--lazy").arg(at).output();
    }
}

fn by_hand(
    bench: &Bench,
    kind: Kind,
    engines: &(Engine, Engine),
    base: &Path,
    loaded: bool,
    drained: bool,
) -> Result<Duration> {
    let copy = tempfile::tempdir_in(&bench.dir)?;
    let data = copy.path().join("data");
    let copied = Command::new("cp").args(["-a", "--reflink=auto"]).arg(base).arg(&data).status()?;
    ensure!(copied.success(), "the data cannot be copied");
    let mut old = Bare::start(kind, &engines.0, &data)?;
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
    let new = Bare::start_at(kind, &engines.1, &data, address)?;
    let (gap, _) = probe.finish()?;
    new.stop()?;
    Ok(gap)
}

fn by_coffer(session: &Session, step: Step, megabytes: usize, loaded: bool) -> Result<Upgrade> {
    let instance = session.create_of(step.kind.name(), 3306, step.old, &[])?;
    let open = || Sql::open(instance.address, "admin", &instance.password);
    let mut sql = open()?;
    fill(&mut sql, megabytes)?;
    if loaded {
        load(instance.address, "admin", &instance.password)?;
    }
    let probe = Writer::start(instance.address, "admin", &instance.password)?;
    let began = Instant::now();
    session.upgrade(&instance, step.new)?;
    let operation = session.wait_until_over(&instance.id)?;
    let total = began.elapsed();
    let (gap, acknowledged) = probe.finish()?;
    let kept: u64 = open()?.ask("SELECT COUNT(*) FROM bench.probe")?.first().context("no answer")?.parse()?;
    session.delete(&instance)?;
    Ok(Upgrade { gap, total, lost: acknowledged.saturating_sub(kept), operation })
}

fn count(number: u64) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
