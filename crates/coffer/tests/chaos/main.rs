//! The fault matrix on real engines: every operation, at each step, before and after it, under clients that write, and under
//! everything that can go wrong. `./chaos` runs it whole; as a test it runs a sample, the same each time.
//!
//! [`cell`] says what cells there are and which make no sense; [`moment`] when a cell strikes, told by what is written down
//! while whoever writes it is held; [`fault`] what happens then; [`run`] what has to be true afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod cell;
mod chance;
mod fault;
mod moment;
mod remains;
mod report;
mod run;
mod scene;
mod subject;
#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../support/mod.rs"]
mod support;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;

use clap::Parser;
use coffer_core::datastore::Datastore;
use libtest_mimic::{Arguments, Failed, Trial};

use cell::Cell;
use chance::Chance;
use report::Report;
use scene::{Scene, StoreKind};

/// The seed of the samples that are tests.
const SEED: u64 = 5;

/// The fault matrix on real engines.
#[derive(Debug, Parser)]
#[command(name = "./chaos", bin_name = "./chaos")]
struct Matrix {
    /// Where order, lengths and choices come from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The store: sqlite (one server) or postgres (two servers)
    #[arg(long, default_value = "sqlite", value_parser = ["sqlite", "postgres"])]
    store: String,
    /// Only cells whose names begin so, or have such a part, such as redis/upgrade or kill-agent; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Only this cell
    #[arg(long)]
    cell: Option<Cell>,
    /// Only so many cells, of all faults alike
    #[arg(long)]
    sample: Option<usize>,
    /// So many cells at a time, each with servers and a disk of its own
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Write what came out into docs/faults.md
    #[arg(long)]
    record: bool,
    /// Print the cells, and those that are left out with the reason, and run none
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next();
    let mut rest = arguments.peekable();
    if rest.next_if(|first| first == "matrix").is_some() {
        return whole(&Matrix::parse_from(program.into_iter().chain(rest)));
    }
    let samples = [
        ("redis_under_faults", Datastore::Redis, StoreKind::Sqlite, 8),
        ("valkey_under_faults", Datastore::Valkey, StoreKind::Sqlite, 2),
        ("mariadb_under_faults", Datastore::Mariadb, StoreKind::Sqlite, 3),
        ("mysql_under_faults", Datastore::Mysql, StoreKind::Sqlite, 1),
        ("redis_under_faults_with_two_servers", Datastore::Redis, StoreKind::Postgres, 3),
    ];
    let trials = samples.map(|(name, datastore, store, count)| {
        Trial::test(name, move || {
            let cells = cells(SEED).into_iter().filter(|cell| cell.datastore == datastore).collect();
            let report = run_all(&sample(cells, count), SEED, store, 1);
            match report.failures() {
                0 => Ok(()),
                failures => Err(Failed::from(format!("{failures} cells are not as promised; look above"))),
            }
        })
    });
    // Each has the machine for itself, as far as this program goes.
    libtest_mimic::run(&Arguments { test_threads: Some(1), ..Arguments::from_args() }, trials.into()).exit_code()
}

fn whole(asked: &Matrix) -> ExitCode {
    let fits = |cell: &Cell| {
        let name = cell.to_string();
        let has = |only: &String| name.starts_with(only.as_str()) || name.split('/').any(|part| part == only);
        asked.cell.is_none_or(|only| only == *cell) && (asked.only.is_empty() || asked.only.iter().any(has))
    };
    if asked.list {
        for cell in cell::every().filter(fits) {
            match cell::why_not(&cell) {
                None => println!("{cell}"),
                Some(reason) => println!("{cell}  not: {reason}"),
            }
        }
        return ExitCode::SUCCESS;
    }
    let store = if asked.store == "postgres" { StoreKind::Postgres } else { StoreKind::Sqlite };
    let mut cells: Vec<_> = cells(asked.seed).into_iter().filter(fits).collect();
    if let Some(count) = asked.sample {
        cells = sample(cells, count);
    }
    let report = run_all(&cells, asked.seed, store, asked.jobs.clamp(1, cells.len().max(1)));
    println!("{report}");
    if asked.record {
        report.record();
    }
    if report.failures() == 0 && !cells.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All cells that make sense, in the order of this seed, one datastore after the other.
fn cells(seed: u64) -> Vec<Cell> {
    let mut cells: Vec<_> = cell::every().filter(|cell| cell::why_not(cell).is_none()).collect();
    Chance::of(seed, "order").shuffle(&mut cells);
    cells.sort_by_key(|cell| cell.datastore);
    cells
}

/// So many of them, of all faults alike.
fn sample(cells: Vec<Cell>, count: usize) -> Vec<Cell> {
    let mut so_far = BTreeMap::<_, usize>::new();
    let mut in_turns: Vec<_> = cells
        .into_iter()
        .map(|cell| {
            let turn = so_far.entry((cell.datastore, cell.fault)).or_default();
            *turn += 1;
            (*turn, cell)
        })
        .collect();
    in_turns.sort_by_key(|(turn, _)| *turn);
    let mut cells: Vec<_> = in_turns.into_iter().take(count).map(|(_, cell)| cell).collect();
    cells.sort_by_key(|cell| cell.datastore);
    cells
}

/// Runs these cells, so many at a time, and says of each how it went.
fn run_all(cells: &[Cell], seed: u64, store: StoreKind, jobs: usize) -> Report {
    // What it says is told with the cell.
    std::panic::set_hook(Box::new(|panic| println!("    at {}", panic.location().unwrap())));
    let work = Work {
        seed,
        store,
        left: Mutex::new(cells.iter().copied().collect()),
        report: Mutex::new(Report::new(seed, store, cells.len())),
    };
    std::thread::scope(|scope| {
        (0..jobs).for_each(|_| drop(scope.spawn(|| work.work_off())));
    });
    work.report.into_inner().unwrap()
}

/// The cells of a run, for all who work on it.
struct Work {
    seed: u64,
    store: StoreKind,
    left: Mutex<VecDeque<Cell>>,
    report: Mutex<Report>,
}

impl Work {
    /// Runs cells in a scene of its own until there are none left. A cell is the same alone and beside others: they share nothing
    /// but the machine.
    fn work_off(&self) {
        let mut scene: Option<Scene> = None;
        while let Some(cell) = self.next(scene.as_ref()) {
            if scene.as_ref().is_some_and(|scene| scene.versions.datastore != cell.datastore) {
                // One after the other: they would take each other's room.
                drop(scene.take());
            }
            let ran = catch_unwind(AssertUnwindSafe(|| {
                scene = scene.take().or_else(|| Scene::make(cell.datastore, self.store));
                scene.as_mut().map(|scene| run::run(scene, &cell, self.seed))
            }));
            let ran = match ran {
                Ok(Some(outcome)) => Ok(outcome),
                Ok(None) => {
                    self.left.lock().unwrap().retain(|other| other.datastore != cell.datastore);
                    self.report.lock().unwrap().lacks(cell.datastore);
                    continue;
                }
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    Err(text
                        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                        .unwrap_or_default())
                }
            };
            let is_spoilt = ran.is_err();
            self.report.lock().unwrap().add(cell, ran, scene.as_ref());
            if is_spoilt {
                // What it left is no place for another cell.
                drop(scene.take());
            }
        }
    }

    /// The first that begins with what the scene has, if there is one: to bring an instance to where another begins takes longer
    /// than the cell.
    fn next(&self, scene: Option<&Scene>) -> Option<Cell> {
        let mut left = self.left.lock().unwrap();
        let suits = |cell: &Cell| scene.is_some_and(|scene| scene.suits(cell, run::keeping_of(cell, self.seed)));
        let at = left.iter().position(suits).unwrap_or(0);
        left.remove(at)
    }
}
