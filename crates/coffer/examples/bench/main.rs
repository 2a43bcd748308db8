//! Measures Coffer on this machine, in one run: what clients feel of an upgrade, what requests cost, how fast it starts and
//! how much memory it takes, beside what there is to compare with. `./bench` builds and runs it.
//!
//! Everything is measured from outside, of the release binary, as users have it: processes, HTTP, Redis connections and
//! `/proc`. Only the ten thousand instances of the lists are written straight into the store, because they are rows
//! and nothing else.
//!
//! One thing after another, so that no measurement disturbs another. The clients run on the same processors as what they
//! measure.

mod bare;
mod control;
mod estate;
mod gap;
mod gate;
mod http;
#[path = "../../tests/support/load.rs"]
mod load;
mod probe;
mod process;
mod report;
mod requests;
#[allow(dead_code, reason = "it serves the tests as well")]
#[path = "../../tests/support/resp.rs"]
mod resp;
mod server;
#[allow(dead_code, clippy::panic, reason = "it serves the tests as well")]
#[path = "../../tests/support/sql.rs"]
mod sql;
mod sql_bare;
mod sql_load;
mod sql_upgrades;
mod upgrades;
#[allow(dead_code, reason = "it serves the tests as well")]
#[path = "../../tests/support/visitors.rs"]
mod visitors;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use coffer_image::{Catalogue, Progress};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bare::Engine;
use crate::gap::Engines;

/// Measure Coffer on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    /// Print a table for people or JSON for programs.
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
    /// Fewer repetitions, and no data set of a gigabyte: some minutes instead of ten.
    #[arg(long)]
    quick: bool,
    /// How much data the upgraded instances hold, in megabytes [default: 0,100,1000; with --quick 0,100].
    #[arg(long, value_delimiter = ',', value_name = "MB,MB...")]
    sizes: Option<Vec<usize>>,
    /// How many instances there are where a list is one of many.
    #[arg(long, default_value_t = 10_000, value_name = "COUNT")]
    instances: u32,
    /// Measure this part only. May be given more than once.
    #[arg(long, value_enum, value_name = "PART")]
    only: Vec<Part>,
    /// The store of engine images; what is missing is fetched into it.
    #[arg(long, env = "COFFER_TEST_STORE", default_value = ".cache/engines", value_name = "DIR")]
    store: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The start of the server, its requests and its memory.
    Control,
    /// Upgrades, and the agent's memory.
    Upgrades,
    /// What the gate costs at rest, and what clients see of an upgrade with it and without.
    Gate,
    /// Upgrades of MariaDB, 2 GB each, or 200 MB with --quick; and a pre-image on XFS.
    Mariadb,
    /// Upgrades of MySQL, a tenth of that, as its older version runs in an emulator.
    Mysql,
}

/// Where and with what everything is measured.
struct Bench {
    /// The release binary.
    program: PathBuf,
    /// The store of engine images.
    store: PathBuf,
    engines: Engines,
    /// For everything that is written; removed at the end.
    dir: PathBuf,
    quick: bool,
    instances: u32,
    began: Instant,
}

impl Bench {
    /// Says what is measured next.
    fn say(&self, what: &str) {
        let _ = writeln!(io::stderr(), "[{:>5.1} s] {what}", self.began.elapsed().as_secs_f64());
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let load_before = load_average();
    let dir = scratch_directory()?;
    end_on_signals(dir.path().to_owned())?;
    let mut rows = Vec::new();
    let outcome = run(&arguments, dir.path(), &mut rows);
    // After a run that went well this finds nothing.
    process::end_all_of(dir.path());
    dir.close()?;
    let mut machine = match &outcome {
        Ok(machine) => machine.clone(),
        Err(_) => json!({"measured": "not all of it; the error is below"}),
    };
    machine["load_average_before"] = json!(load_before);
    machine["load_average_after"] = json!(load_average());
    match arguments.output {
        Format::Table => report::print_table(&machine, &rows, &mut io::stdout())?,
        Format::Json => report::print_json(&machine, &rows, &mut io::stdout())?,
    }
    outcome.map(drop)
}

/// Measures what is wanted, and describes the machine. What was measured is told also when the rest fails.
fn run(arguments: &Arguments, dir: &Path, rows: &mut Vec<report::Row>) -> Result<Value> {
    let began = Instant::now();
    fs_err::create_dir_all(&arguments.store)?;
    let store = fs_err::canonicalize(&arguments.store)?;
    let engines = fetch_engines(&store)?;
    let bench = Bench {
        program: program()?,
        store,
        engines,
        dir: dir.to_owned(),
        quick: arguments.quick,
        instances: arguments.instances,
        began,
    };
    let usual = if arguments.quick { vec![0, 100] } else { vec![0, 100, 1000] };
    let sizes = arguments.sizes.clone().unwrap_or(usual);
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    if wanted(Part::Control) {
        rows.extend(control::measure(&bench)?);
    }
    if wanted(Part::Upgrades) {
        rows.extend(upgrades::measure(&bench, &sizes)?);
    }
    if wanted(Part::Gate) {
        rows.extend(gate::measure(&bench, &sizes)?);
    }
    let megabytes = if arguments.quick { 200 } else { 2000 };
    if wanted(Part::Mariadb) {
        sql_upgrades::mariadb(&bench, megabytes, rows)?;
    }
    if wanted(Part::Mysql) {
        sql_upgrades::mysql(&bench, megabytes, rows)?;
    }
    Ok(json!({
        "processors": std::thread::available_parallelism()?.get(),
        "kernel": fs_err::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "engines": format!("redis {} to {}", bench.engines.old.number, bench.engines.new.number),
        "seconds": began.elapsed().as_secs(),
    }))
}

/// The binary that was built together with this program.
fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("this program lies in no target directory")?;
    let program = target.join("coffer");
    anyhow::ensure!(program.exists(), "{} is not built; hint: run ./bench", program.display());
    Ok(program)
}

/// On a disk, because engines write to it what they are asked to keep; with a short name, because sockets lie in it.
fn scratch_directory() -> Result<TempDir> {
    let parent = std::env::var_os("TMPDIR").map_or(PathBuf::from("/var/tmp"), PathBuf::from);
    // Engines run as users of their own and have to get through.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    let dir = tempfile::Builder::new().prefix("coffer-bench-").permissions(mode).tempdir_in(parent)?;
    Ok(dir)
}

/// Leaves nothing running when somebody breaks the benchmark off.
fn end_on_signals(dir: PathBuf) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            process::end_all_of(&dir);
            sql_upgrades::unmount(&dir);
            let _ = fs_err::remove_dir_all(&dir);
            std::process::exit(130);
        });
    });
    Ok(())
}

fn fetch_engines(store: &Path) -> Result<Engines> {
    let (old_version, new_version) = ("7.0.15", "8.0");
    let (old, new) = (fetch(store, "redis", old_version)?, fetch(store, "redis", new_version)?);
    Ok(Engines { old, old_version, new, new_version })
}

/// An engine of the catalogue, from the store, into which it is fetched where it is not there.
fn fetch(store: &Path, datastore: &str, version: &str) -> Result<Engine> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (catalogue, store) = (Catalogue::built_in()?, coffer_image::Store::open(store)?);
        let release = catalogue.find(datastore, version).with_context(|| format!("no {datastore} {version}"))?;
        let name = datastore.to_owned();
        let tell = move |progress: Progress| {
            if let Progress::Trying { source } = progress {
                let _ = writeln!(io::stderr(), "fetching {name} from {source}");
            }
        };
        let image = store.fetch(release, &(Arc::new(tell) as coffer_image::Observer)).await?;
        engine(&store, image).await
    })
}

/// An engine that is in the store, and can be had nowhere else.
fn stored(store: &Path, datastore: &str, version: &str) -> Result<Engine> {
    let store = coffer_image::Store::open(store)?;
    let image = store.find(datastore, version)?.with_context(|| format!("no {datastore} {version} in the store"))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(engine(&store, image))
}

async fn engine(store: &coffer_image::Store, image: coffer_image::Image) -> Result<Engine> {
    let root = store.ensure_root(&image.digest).await?;
    Ok(Engine { root, binary: image.binary, number: image.number })
}

fn load_average() -> String {
    let text = fs_err::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
