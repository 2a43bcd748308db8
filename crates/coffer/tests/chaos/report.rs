//! What came of the cells: a line for each, a table of all, and `docs/faults.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
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

    /// Puts the table of each datastore of which every cell was run in the place of the one before it with such a store, and leaves
    /// the lines of runs with other seeds.
    pub(crate) fn record(&self) {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/faults.md");
        let old = fs_err::read_to_string(&file).unwrap_or_default();
        let mut text = introduction();
        for store in [StoreKind::Sqlite, StoreKind::Postgres] {
            let title = match store {
                StoreKind::Sqlite => "## One server, SQLite",
                StoreKind::Postgres => "## Two servers, PostgreSQL",
            };
            let olds = part(&old, title, "\n## ").unwrap_or_default();
            let mut parts = String::new();
            for datastore in cell::DATASTORES {
                let heading = format!("### {datastore}\n");
                let old = part(olds, &heading, "\n### ");
                let new = (store == self.store && self.is_whole(datastore)).then(|| self.section(datastore, old));
                if let Some(section) = new.as_deref().or(old) {
                    let _ = write!(parts, "\n\n{heading}\n{}", section.trim());
                }
            }
            if !parts.is_empty() {
                let _ = write!(text, "\n\n{title}{parts}");
            }
        }
        fs_err::write(&file, text + "\n").expect("docs/faults.md");
        for datastore in cell::DATASTORES {
            match self.of(datastore).count() {
                0 => {}
                _ if self.is_whole(datastore) => println!("recorded in docs/faults.md: {datastore}"),
                ran => {
                    let all = cells_of(datastore);
                    println!("not recorded, since only {ran} of {all} cells were run: {datastore}");
                }
            }
        }
    }

    fn of(&self, datastore: Datastore) -> impl Iterator<Item = &(Cell, Result<Outcome, String>)> {
        self.done.iter().filter(move |(cell, _)| cell.datastore == datastore)
    }

    fn is_whole(&self, datastore: Datastore) -> bool {
        self.of(datastore).count() == cells_of(datastore)
    }

    /// A line for each seed, this run's among them, and its table.
    fn section(&self, datastore: Datastore, old: Option<&str>) -> String {
        let seed_of = |line: &str| line.strip_prefix("- seed ")?.split_once(',')?.0.parse::<u64>().ok();
        let mut lines: BTreeMap<u64, String> =
            old.into_iter().flat_map(str::lines).filter_map(|line| Some((seed_of(line)?, line.to_owned()))).collect();
        let wrong: Vec<_> = self.of(datastore).filter(|(_, ran)| ran.is_err()).collect();
        let today = Timestamp::now().strftime("%Y-%m-%d");
        let (all, failed) = (cells_of(datastore), wrong.len());
        let (seed, commit) = (self.seed, commit());
        lines.insert(seed, format!("- seed {seed}, {today}, {commit}: {all} cells, {failed} not as promised"));
        let mut text = lines.into_values().collect::<Vec<_>>().join("\n");
        let _ = writeln!(text, "\n\nWith seed {}:", self.seed);
        text += &self.table(datastore);
        if failed > 0 {
            text += "\nNot as promised:\n\n";
        }
        for (cell, ran) in wrong {
            let why = ran.as_ref().err().map_or("", String::as_str);
            let _ = writeln!(text, "- `{}`: {}", self.command(cell), short(why));
        }
        text
    }
}

/// What stands between a heading and the next one of its kind.
fn part<'a>(text: &'a str, heading: &str, next: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(heading)?;
    Some(rest.split_once(next).map_or(rest, |(part, _)| part))
}

/// Of what the run was: `commit 1234abc`.
fn commit() -> String {
    let asked = Command::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "rev-parse", "--short", "HEAD"]).output();
    match asked {
        Ok(told) if told.status.success() => format!("commit {}", String::from_utf8_lossy(&told.stdout).trim()),
        _ => "no commit".to_owned(),
    }
}

/// How many cells of a datastore make sense.
fn cells_of(datastore: Datastore) -> usize {
    cell::every().filter(|cell| cell.datastore == datastore && cell::why_not(cell).is_none()).count()
}

/// Keeps what everybody said in a cell that went wrong, and says where.
fn keep_logs(cell: &Cell, scene: &Scene) {
    let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(cell.to_string().replace('/', "-"));
    let _ = fs_err::create_dir_all(&at);
    let data = scene.world.data();
    let mut logs = vec![data.join("serve.log"), data.join("serve-b.log")];
    for entry in fs_err::read_dir(data.join("instances")).into_iter().flatten().flatten() {
        logs.extend(["agent.log", "engine.log", "state.json"].map(|name| entry.path().join("agent").join(name)));
        // What Redis and Valkey could not load.
        let appended = fs_err::read_dir(entry.path().join("data/appendonlydir")).into_iter().flatten().flatten();
        logs.extend(appended.map(|entry| entry.path()));
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
         Written by `./chaos --record`, a datastore whenever all of its cells were run. Each operation is done with a real engine\n\
         under clients that write, and struck at each step, before and after it. Afterwards it is ACTIVE in a version that was\n\
         proven, no acknowledged write is lost, and there is nothing on the machine that was not there before. A cell says how\n\
         many such operations ended *done* and *undone*, and the longest time until all was well again. One that is not as\n\
         promised is named below its table.\n\n\
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
             emulator; upgrades of 9.7.2 in the emulator are struck in `mysql_luck.rs`. Of the older of both there is no image, so\n\
             that an operator has to bring its root back; all others Coffer makes again by itself.";
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
        for datastore in cell::DATASTORES {
            if self.of(datastore).next().is_some() {
                f.write_str(&self.table(datastore))?;
            }
        }
        for (cell, ran) in &self.done {
            if let Err(why) = ran {
                writeln!(f, "\nnot as promised: {}\n    {}", self.command(cell), short(why))?;
            }
        }
        Ok(())
    }
}

impl Report {
    fn table(&self, datastore: Datastore) -> String {
        let of = |operation: Operation, fault: Fault| {
            let fits = move |cell: &Cell| cell.operation == operation && cell.fault == fault;
            self.of(datastore).filter(move |(cell, _)| fits(cell)).map(|(_, ran)| ran)
        };
        let operations: Vec<_> = Operation::ALL
            .into_iter()
            .filter(|operation| Fault::ALL.into_iter().any(|fault| of(*operation, fault).next().is_some()))
            .collect();
        let names: Vec<_> = operations.iter().map(|operation| operation.name()).collect();
        let mut text = format!("\n| {datastore} | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for fault in Fault::ALL {
            let texts: Vec<_> = operations.iter().map(|operation| told(of(*operation, fault))).collect();
            if texts.iter().any(|text| !text.is_empty()) {
                let _ = writeln!(text, "| {} | {} |", fault.name(), texts.join(" | "));
            }
        }
        text
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
