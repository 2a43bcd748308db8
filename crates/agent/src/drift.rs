//! Looks for drift: what the engine and its files are, held against what they were when it was started. What is found is said
//! and never mended: that is for whoever did it.
//!
//! Files are looked at by their stamps, and read only where those are others. The engine is asked for its version and its settings
//! each [`EVERY`], and not while a section has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use coffer_core::datastore::{Datastore, Number};
use coffer_core::drift::{self, Deviation, Drift, FileSeen, Sight};
use coffer_core::engine::{is_measured, is_secret};
use coffer_core::id::Digest;
use coffer_core::spec::EngineSpec;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::driver::{self, Client};
use crate::sandbox::User;
use crate::site::{Error, hex, open, replace};
use crate::state::{Birth, Durability};
use crate::supervisor::Supervisor;

/// How often the engine is asked.
const EVERY: Duration = Duration::from_secs(30);
/// How long it may take to answer. What it does not tell in time is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// So long after a start the processor is left to the engine and its clients: reading a program costs a tenth of a second.
const PROGRAM_AFTER: Duration = Duration::from_secs(20);
/// What is longer is no configuration file of ours.
const CONFIG_LIMIT: u64 = 1 << 20;
/// The settings that an engine had when it was started, in the agent's directory.
const SETTINGS: &str = "settings.json";

/// What tells cheaply whether a file may be another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    inode: u64,
    size: u64,
    changed_s: i64,
    changed_ns: i64,
}

/// What a file held, as far as it was read, and its stamp then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Print {
    stamp: Stamp,
    sha256: Option<String>,
}

/// The files that an engine was started from, as they were then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub config: Option<Print>,
    /// Of which image it is, too.
    pub program: Option<(Digest, Print)>,
}

/// The settings that an engine had when it was started, and which engine that is.
#[derive(Debug, Serialize, Deserialize)]
struct Baseline {
    birth: Birth,
    values: BTreeMap<String, String>,
}

/// What is known of drift as long as this agent lives.
pub(crate) struct Watch {
    /// When the engine is asked next.
    due: Instant,
    /// What the running engine says it is.
    pub(crate) says: Option<Number>,
    baseline: Option<Baseline>,
    deviations: Vec<Deviation>,
    program: FileSeen,
    /// The stamps of files that are others, so that they are not read again and again.
    other_config: Option<Stamp>,
    other_program: Option<Stamp>,
    written_by: Option<(Datastore, Number)>,
}

impl Watch {
    /// `known` is what was told already: a program is looked at only after a while.
    pub(crate) fn new(known: &[Drift]) -> Self {
        let other = known.iter().any(|drift| drift.id == drift::PROGRAM);
        Self {
            due: Instant::now(),
            says: None,
            baseline: None,
            deviations: Vec::new(),
            program: if other { FileSeen::Other } else { FileSeen::Same },
            other_config: None,
            other_program: None,
            written_by: None,
        }
    }

    /// Another engine runs, and says that it is this: it is looked at at once.
    pub(crate) fn started(&mut self, says: Option<Number>) {
        (self.due, self.says) = (Instant::now(), says);
    }

    /// No engine runs.
    pub(crate) fn ended(&mut self) {
        self.says = None;
        self.deviations.clear();
    }

    /// These settings are others from now on, because Coffer was asked for that.
    pub(crate) fn retuned(&mut self, names: impl Iterator<Item = String>) {
        if let Some(baseline) = &mut self.baseline {
            names.for_each(|name| drop(baseline.values.remove(&name)));
        }
        self.due = Instant::now();
    }

    /// How long until there is something to look at.
    pub(crate) fn wait(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// The version that wrote the data, where it is none that this engine would read.
    pub(crate) fn foreign_data(&self, spec: &EngineSpec) -> Option<Number> {
        self.written_by.filter(|by| drift::is_foreign(*by, spec)).map(|(_, number)| number)
    }

    /// What the engine says it is and which of its settings it has otherwise than at its start. What it does not tell stays as
    /// it was told last.
    async fn ask(&mut self, client: &Client, spec: &EngineSpec, birth: Birth, file: &Path, settling: bool) {
        let asked = async { Ok::<_, Error>((client.version().await?, client.settings(spec).await?)) };
        let (says, mut now) = match tokio::time::timeout(ANSWER_LIMIT, asked).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => return tracing::warn!(%error, "the engine is not asked for drift"),
            Err(_) => return tracing::warn!("the engine takes too long to tell its settings"),
        };
        self.says = Some(says);
        let datastore = spec.datastore();
        now.retain(|name, _| !(is_secret(datastore, name) || settling && is_measured(datastore, name)));
        if self.baseline.as_ref().is_none_or(|baseline| baseline.birth != birth) {
            self.baseline = load(file).filter(|baseline| baseline.birth == birth);
        }
        let baseline = self.baseline.get_or_insert_with(|| Baseline { birth, values: BTreeMap::new() });
        let known = baseline.values.len();
        for (name, value) in &now {
            baseline.values.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if baseline.values.len() > known
            && let Err(error) = serde_json::to_vec(baseline).map_err(|e| Error::Io(e.into())).and_then(|text| {
                // The agent's alone.
                replace(file, &text, User::Own)
            })
        {
            tracing::warn!(%error, "what the engine was started with is not kept");
        }
        self.deviations = drift::changed(&baseline.values, &now);
    }
}

fn load(file: &Path) -> Option<Baseline> {
    serde_json::from_slice(&fs_err::read(file).ok()?).ok()
}

impl Supervisor {
    /// Looks, and tells what is new. `client` is a connection to the engine, where it answers.
    pub(crate) async fn look_for_drift(&mut self, client: Option<&Client>) -> Result<(), crate::Error> {
        let Some(spec) = self.state.engine.clone() else { return Ok(()) };
        if self.watch.wait().is_zero() {
            self.watch.due = Instant::now() + EVERY;
            if let (Some(client), Some(birth)) = (client, self.host.birth()) {
                let file = self.host.paths.agent.join(SETTINGS);
                self.watch.ask(client, &spec, birth, &file, self.state.settle.is_some()).await;
            }
            self.watch.written_by = driver::written_by(&spec, &self.host.paths);
            if self.runs_for() > PROGRAM_AFTER {
                self.watch.program = self.look_at_program(&spec).await;
            }
        }
        let runs = self.host.process().is_some();
        let sight = Sight {
            stopped: self.is_stopped(),
            says: self.watch.says.filter(|_| runs),
            deviations: self.watch.deviations.clone(),
            config: self.look_at_config(&spec),
            program: self.watch.program,
            written_by: self.watch.written_by,
        };
        let now = drift::find(self.host.instance, &spec, &sight);
        if now == self.state.drift {
            return Ok(());
        }
        let (new, gone) = drift::news(&self.state.drift, &now);
        let list =
            |all: &[&Drift], text: fn(&Drift) -> String| all.iter().map(|d| text(d)).collect::<Vec<_>>().join("; ");
        let found = (!new.is_empty()).then(|| list(&new, Drift::to_string));
        let over: Vec<_> = gone.into_iter().filter(|old| !now.iter().any(|d| d.object == old.object)).collect();
        let over = (!over.is_empty()).then(|| list(&over, |d| format!("{} is as recorded again", d.object)));
        self.state.drift = now;
        for (id, message) in [("drift.found", found), ("drift.gone", over)] {
            if let Some(message) = message {
                self.event(id, &message);
            }
        }
        self.save(Durability::Written)
    }

    /// The file that the running engine was started with.
    fn look_at_config(&mut self, spec: &EngineSpec) -> FileSeen {
        let path = driver::config_file(spec, &self.host.paths);
        look_at(open_config(&path), CONFIG_LIMIT, &mut self.state.origin.config, &mut self.watch.other_config)
    }

    /// The program below the engine root.
    async fn look_at_program(&mut self, spec: &EngineSpec) -> FileSeen {
        let Some(image) = spec.image.digest.clone() else { return FileSeen::Same };
        let Some(root) = self.host.root_of(&image) else { return FileSeen::Same };
        let known = self.state.origin.program.take().filter(|(of, _)| *of == image).map(|(_, print)| print);
        let (path, other) = (driver::program(spec, &root), self.watch.other_program);
        // Some twenty megabytes may have to be read.
        let looked = tokio::task::spawn_blocking(move || {
            let (mut known, mut other) = (known, other);
            (look_at(open_program(&root, &path), u64::MAX, &mut known, &mut other), known, other)
        });
        let Ok((found, known, other)) = looked.await else { return FileSeen::Same };
        self.watch.other_program = other;
        self.state.origin.program = known.map(|print| (image, print));
        found
    }
}

/// What the configuration file holds that was just written.
pub(crate) fn print_of_config(path: &Path) -> Option<Print> {
    let mut print = None;
    look_at(open_config(path), CONFIG_LIMIT, &mut print, &mut None);
    print
}

/// The program that is just being started, which is read later: here everybody waits.
pub(crate) fn print_of_program(root: &Path, path: &str) -> Option<Print> {
    let stamp = stamp_of(&open_program(root, path).ok()?).ok()?;
    Some(Print { stamp, sha256: None })
}

/// The directory is the engine's, who may have put anything there.
fn open_config(path: &Path) -> io::Result<File> {
    open(path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Never out of the root, wherever its links lead.
fn open_program(root: &Path, path: &str) -> io::Result<File> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?.into())
}

/// A file, held against what it was. It is read only where nobody knows what it held with the stamp that it has. What it was is
/// taken from it where nobody knows that.
fn look_at(file: io::Result<File>, limit: u64, known: &mut Option<Print>, other: &mut Option<Stamp>) -> FileSeen {
    let file = match file {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return FileSeen::Gone,
        // A link where none was.
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => return FileSeen::Other,
        Err(_) => return FileSeen::Same,
    };
    let Ok(stamp) = stamp_of(&file) else { return FileSeen::Same };
    if let Some(print) = known.as_mut().filter(|print| print.stamp == stamp) {
        *other = None;
        if print.sha256.is_none() {
            print.sha256 = digest(&file, limit).ok().flatten();
        }
        return FileSeen::Same;
    }
    if *other == Some(stamp) {
        return FileSeen::Other;
    }
    let is_same = |sha256: &String| known.as_ref().is_none_or(|print| print.sha256.as_ref() == Some(sha256));
    match digest(&file, limit) {
        Ok(Some(sha256)) if is_same(&sha256) => {
            *known = Some(Print { stamp, sha256: Some(sha256) });
            *other = None;
            FileSeen::Same
        }
        Ok(_) => {
            *other = Some(stamp);
            FileSeen::Other
        }
        Err(_) => FileSeen::Same,
    }
}

fn stamp_of(file: &File) -> io::Result<Stamp> {
    let metadata = file.metadata()?;
    let (changed_s, changed_ns) = (metadata.mtime(), metadata.mtime_nsec());
    Ok(Stamp { inode: metadata.ino(), size: metadata.len(), changed_s, changed_ns })
}

/// Of what a file holds. `None` where it is none, or longer than that.
fn digest(file: &File, limit: u64) -> io::Result<Option<String>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > limit {
        return Ok(None);
    }
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    let mut rest = file.take(metadata.len());
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(Some(hex(&hash.finalize()))),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use coffer_core::drift::FileSeen;
    use tempfile::tempdir;

    use super::{CONFIG_LIMIT, look_at, open_config, open_program};

    #[test]
    fn a_file_is_another_when_it_holds_something_else_and_not_when_it_was_only_touched() {
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("redis.conf");
        let (mut known, mut other) = (None, None);
        let mut look = || look_at(open_config(&path), CONFIG_LIMIT, &mut known, &mut other);
        fs_err::write(&path, "port 0\n").expect("a file");
        assert_eq!((look(), look()), (FileSeen::Same, FileSeen::Same), "as it was found");
        fs_err::remove_file(&path).expect("removed");
        assert_eq!(look(), FileSeen::Gone);
        fs_err::write(&path, "port 0\n").expect("the same again");
        assert_eq!(look(), FileSeen::Same);
        fs_err::write(&path, "port 1\n").expect("an edit");
        assert_eq!((look(), look()), (FileSeen::Other, FileSeen::Other));
        fs_err::write(&path, "port 0\n").expect("taken back");
        assert_eq!(look(), FileSeen::Same);
        fs_err::remove_file(&path).expect("removed");
        fs_err::os::unix::fs::symlink("/etc/hostname", &path).expect("a link");
        assert_eq!(look(), FileSeen::Other, "a link is followed nowhere");
        fs_err::remove_file(&path).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a pipe");
        assert_eq!(look(), FileSeen::Other, "a pipe is not waited for");
    }

    #[test]
    fn a_program_is_found_through_links_and_never_outside_of_its_root() {
        let root = tempdir().expect("a root");
        fs_err::create_dir_all(root.path().join("usr/bin")).expect("directories");
        fs_err::write(root.path().join("usr/bin/real"), "program").expect("a program");
        let link = |to: &str, name: &str| {
            fs_err::os::unix::fs::symlink(to, root.path().join("usr/bin").join(name)).expect("a link");
        };
        link("real", "redis-server");
        link("/usr/bin/real", "absolute");
        link("../../../../../../../../etc/hostname", "outside");
        assert!(open_program(root.path(), "/usr/bin/redis-server").is_ok());
        assert!(open_program(root.path(), "/usr/bin/absolute").is_ok());
        assert!(open_program(root.path(), "/usr/bin/outside").is_err());
    }
}
