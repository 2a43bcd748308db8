//! What came of the cells: a line for each, a table of all, and `docs/faults.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use coffer_core::datastore::Datastore;
use jiff::Timestamp;

use super::cell::{self, Cell, Fault, Operation};
use super::run::Outcome;
use super::scene::{Scene, StoreKind};

/// What came of a run.
pub(crate) struct Report {
    seed: u64,
    store: StoreKind,
    /// How many cells there are to run.
    cells: usize,
    began: Instant,
    done: Vec<(Cell, Result<Outcome, String>)>,
    lacking: BTreeSet<Datastore>,
}

impl Report {
    pub(crate) fn new(seed: u64, store: StoreKind, cells: usize) -> Self {
        Self { seed, store, cells, began: Instant::now(), done: Vec::new(), lacking: BTreeSet::new() }
    }

    /// Says how a cell went, and keeps what everybody said in one that went wrong.
    pub(crate) fn add(&mut self, cell: Cell, ran: Result<Outcome, String>, scene: Option<&Scene>) {
        let progress = format!("{}/{}", self.done.len() + 1, self.cells);
        match &ran {
            Ok(Outcome { phase, recovered, acknowledged, cause }) => {
                let cause = if cause.is_empty() { String::new() } else { format!("  {}", short(cause)) };
                let seconds = recovered.as_secs_f64();
                println!("[{progress}] {cell}  {phase}, {seconds:.1} s, {acknowledged} writes, 0 lost{cause}");
            }
            Err(why) => {
                println!("[{progress}] {cell}  NOT AS PROMISED: {why}\n    again: {}", self.command(&cell));
                if let Some(scene) = scene {
                    keep_logs(&cell, scene);
                }
            }
        }
        self.done.push((cell, ran));
    }

    /// There is no image of it, or something else that it takes.
    pub(crate) fn lacks(&mut self, datastore: Datastore) {
        println!("NOT RUN: the cells of {datastore}");
        self.lacking.insert(datastore);
    }

    /// How many cells are not as promised.
    pub(crate) fn failures(&self) -> usize {
        self.done.iter().filter(|(_, ran)| ran.is_err()).count()
    }

    fn command(&self, cell: &Cell) -> String {
        format!("./chaos --store {} --seed {} --cell {cell}", self.store.name(), self.seed)
    }

    /// Puts this run's table in the place of the one before it with such a store.
    pub(crate) fn record(&self) {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
        let old = fs_err::read_to_string(&file).unwrap_or_default();
        let title = |store: StoreKind| match store {
            StoreKind::Sqlite => "## One server, SQLite",
            StoreKind::Postgres => "## Two servers, PostgreSQL",
        };
        let mut text = format!("{}\n", introduction());
        for store in [StoreKind::Sqlite, StoreKind::Postgres] {
            let title = title(store);
            if store == self.store {
                let _ = write!(text, "\n{title}\n\n{self}");
            } else if let Some((_, kept)) = old.split_once(title) {
                let end = kept.find("\n## ").map_or(kept.len(), |end| end + 1);
                let _ = write!(text, "\n{title}{}", &kept[..end]);
            }
        }
        fs_err::write(&file, text.trim_end().to_owned() + "\n").expect("docs/faults.md");
        println!("written: docs/faults.md");
    }
}

/// Keeps what everybody said in a cell that went wrong, and says where.
fn keep_logs(cell: &Cell, scene: &Scene) {
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(cell.to_string().replace('/', "-"));
    let _ = fs_err::create_dir_all(&at);
    let data = scene.world.data();
    let mut logs = vec![data.join("serve.log"), data.join("serve-b.log")];
    for entry in fs_err::read_dir(data.join("instances")).into_iter().flatten().flatten() {
        logs.extend(["agent.log", "engine.log", "state.json"].map(|name| entry.path().join("agent").join(name)));
    }
    for log in logs.into_iter().filter(|log| log.exists()) {
        let name = log.strip_prefix(data).unwrap_or(&log).display().to_string().replace('/', "-");
        let _ = fs_err::copy(&log, at.join(name));
    }
    println!("    logs: {}", at.display());
}

/// What the page says before the tables.
fn introduction() -> String {
    let mut left_out = BTreeMap::<&str, usize>::new();
    let mut all = 0;
    for cell in cell::every() {
        all += 1;
        if let Some(reason) = cell::why_not(&cell) {
            *left_out.entry(reason).or_default() += 1;
        }
    }
    let cells = all - left_out.values().sum::<usize>();
    let mut text = format!(
        "# What happens when something goes wrong\n\n\
         Written by `./chaos --record`. Each operation is done with a real engine under clients that write, and struck at each\n\
         step, before and after it. Afterwards it is ACTIVE in a version that was proven, no acknowledged write is lost, and there is\n\
         nothing on the machine that was not there before. A cell says how many such operations ended *done* and *undone*, and the\n\
         longest time until all was well again. One that is not as promised is named below its table.\n\n\
         Of {all} combinations {cells} make sense; the others are left out by these rules\n\
         ([`cell.rs`](../crates/coffer/tests/chaos/cell.rs); `./chaos --list` names each):\n\n"
    );
    for (reason, count) in left_out {
        let _ = writeln!(text, "- {reason}: {count}");
    }
    text += "\nA power cut is simulated: everything is killed, and the file system (ext4) of all that Coffer writes is shut down without\n\
             writing what was not flushed. A slow disk stands still for 150 ms again and again. The network is cut between agents and\n\
             servers, and with PostgreSQL between a server and the database. Clocks jump for servers alone: no kernel has a time of\n\
             day for some of its processes. MySQL goes from the program that there is to the same under the next number, without an\n\
             emulator; upgrades of 9.7.2 in the emulator are struck in `mysql_luck.rs`.";
    text
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let today = Timestamp::now().strftime("%Y-%m-%d");
        let minutes = self.began.elapsed().as_secs() / 60;
        writeln!(
            f,
            "{today}, seed {}, store {}: {} cells in {minutes} min, {} not as promised.",
            self.seed,
            self.store.name(),
            self.done.len(),
            self.failures()
        )?;
        for datastore in &self.lacking {
            writeln!(f, "NOT RUN: the cells of {datastore}")?;
        }
        let datastores: BTreeSet<_> = self.done.iter().map(|(cell, _)| cell.datastore).collect();
        for datastore in datastores {
            self.write_table(f, datastore)?;
        }
        let wrong: Vec<_> = self.done.iter().filter(|(_, ran)| ran.is_err()).collect();
        if !wrong.is_empty() {
            writeln!(f, "\nNot as promised:\n")?;
        }
        for (cell, ran) in wrong {
            let why = ran.as_ref().err().map_or("", String::as_str);
            writeln!(f, "- `{}`: {}", self.command(cell), short(why))?;
        }
        Ok(())
    }
}

impl Report {
    fn write_table(&self, f: &mut fmt::Formatter<'_>, datastore: Datastore) -> fmt::Result {
        let of = |operation: Operation, fault: Fault| {
            let fits =
                move |cell: &Cell| cell.datastore == datastore && cell.operation == operation && cell.fault == fault;
            self.done.iter().filter(move |(cell, _)| fits(cell)).map(|(_, ran)| ran)
        };
        let operations: Vec<_> = Operation::ALL
            .into_iter()
            .filter(|operation| Fault::ALL.into_iter().any(|fault| of(*operation, fault).next().is_some()))
            .collect();
        let names: Vec<_> = operations.iter().map(|operation| operation.name()).collect();
        writeln!(f, "\n| {datastore} | {} |\n|---|{}", names.join(" | "), "---|".repeat(names.len()))?;
        for fault in Fault::ALL {
            let texts: Vec<_> = operations.iter().map(|operation| told(of(*operation, fault))).collect();
            if texts.iter().any(|text| !text.is_empty()) {
                writeln!(f, "| {} | {} |", fault.name(), texts.join(" | "))?;
            }
        }
        Ok(())
    }
}

/// `5 done, 2 undone, 3.1 s`.
fn told<'a>(runs: impl Iterator<Item = &'a Result<Outcome, String>>) -> String {
    let (mut ends, mut longest) = (BTreeMap::<&str, usize>::new(), 0.0_f64);
    for ran in runs {
        match ran {
            Ok(outcome) => {
                *ends.entry(&outcome.phase).or_default() += 1;
                longest = longest.max(outcome.recovered.as_secs_f64());
            }
            Err(_) => *ends.entry("**not as promised**").or_default() += 1,
        }
    }
    if ends.is_empty() {
        return String::new();
    }
    let ends: Vec<_> = ends.into_iter().map(|(end, count)| format!("{count} {end}")).collect();
    format!("{}, {longest:.1} s", ends.join(", "))
}

/// The beginning of a sentence, in one line.
fn short(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((at, _)) => format!("{}...", &line[..at]),
        None => line,
    }
}
