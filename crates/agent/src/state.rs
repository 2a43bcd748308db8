//! What an agent must not forget: which engine it runs, how far a critical section is, which tasks are done.
//!
//! One file, `agent/state.json`, replaced as a whole: a reader sees the state before or after a change, never between.
//! A write survives the death of the agent always, and a power cut where [`Durability::Flushed`] is asked for. Before
//! anything that could not be taken back by what the file says so far, it is flushed. After a power cut a name may be that of a
//! file whose content never reached the disk, so the state that was flushed last has a name of its own, too:
//! `agent/state.kept`.
//!
//! A full disk does not keep an agent from finishing what it began: some room is held back for that.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use coffer_core::agent::DONE_REMEMBERED;
use coffer_core::crash::Crashes;
use coffer_core::datastore::Number;
use coffer_core::drift::Drift;
use coffer_core::finding::Cause;
use coffer_core::gap::Circumstances;
use coffer_core::id::{Generation, OperationId, TaskId, VersionId};
use coffer_core::operation::Phase;
use coffer_core::section::Section;
use coffer_core::spec::EngineSpec;
use coffer_core::task::{ClientView, StepRecord, TaskResult};
use coffer_wire::agent::AgentEvent;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::drift::Origin;
use crate::driver::{Fingerprint, Settled, Temporary};
use crate::site::ensure_absent;

/// What survives the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    /// The generation that is in force here; nothing older is taken.
    pub generation: Generation,
    /// What is run. `None` until the first time.
    pub engine: Option<EngineSpec>,
    /// The version that last wrote the data files.
    pub on_disk: Option<Number>,
    /// Whether the engine should be running. Off only while a section has it stopped, or when a person stopped it.
    pub wanted: bool,
    /// How the engine is isolated and what of its flavor is enforced, in sentences. The first agents did not keep it.
    #[serde(default)]
    pub isolation: Vec<String>,
    /// How the engine should keep its data, where measures that are in force only for a while are still to be ended.
    pub settle: Option<Settled>,
    /// The section that is being worked off.
    pub section: Option<Journal>,
    /// Results that the control plane has not taken yet.
    pub results: Vec<TaskResult>,
    /// The last tasks that were done, so that one delivered again is not done again.
    pub done: Vec<TaskId>,
    /// What happened and was not told yet.
    pub events: Vec<AgentEvent>,
    /// Pre-images that stay for a while, the oldest first.
    pub preimages: Vec<KeptPreimage>,
    /// How often the engine has ended by itself since it last ran steadily.
    #[serde(default)]
    pub crashes: Crashes,
    /// What the engine was started from.
    #[serde(default)]
    pub origin: Origin,
    /// What is otherwise than recorded, as far as it was told.
    #[serde(default)]
    pub drift: Vec<Drift>,
}

/// A section, and how far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact by itself, as agents that run have written it")]
pub struct Journal {
    pub task: TaskId,
    pub section: Section,
    pub phase: Phase,
    pub steps: Vec<StepRecord>,
    /// Whether an engine ran when the section began. If none did, the way back ends without one.
    pub was_running: bool,
    /// Whether one should have been running then: somebody may have told it to end.
    #[serde(default)]
    pub was_wanted: bool,
    /// Whether the way back has started the old engine anew. Written before it is started: an engine that runs is then
    /// not taken for the one that never was stopped.
    pub old_started: bool,
    /// Whether the way back has proven the old engine. From then on clients may have written.
    #[serde(default)]
    pub old_proven: bool,
    /// The measures that are in force for the time of the section.
    pub measures: Temporary,
    /// What the database held when writes were made to wait.
    pub fingerprint: Option<Fingerprint>,
    /// When writes were made to wait.
    pub quiesced_at: Option<Timestamp>,
    /// Set while what is tried has failed so often that a person should look.
    pub stuck: Option<Cause>,
    pub gap_us: Option<u64>,
    pub clients: Option<ClientView>,
    /// What the gap is measured of.
    #[serde(default)]
    pub circumstances: Option<Circumstances>,
    /// What the new engine counted as writes before clients got in, and those of the probe after that.
    #[serde(default)]
    pub own_writes: Option<u64>,
}

/// A pre-image whose operation succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptPreimage {
    pub operation: OperationId,
    pub since: Timestamp,
    /// The version that it is of. Not known of those that agents before this one took, as all that follows.
    #[serde(default)]
    pub version: Option<VersionId>,
    #[serde(default)]
    pub bytes: u64,
    /// The engine that clients were let in to then.
    #[serde(default)]
    pub engine: Option<Birth>,
    /// Of what that engine counts as writes, so many were Coffer's own.
    #[serde(default)]
    pub own_writes: Option<u64>,
    /// Whether its time was ended. It goes with the next look.
    #[serde(default)]
    pub finalized: bool,
}

/// Which process something is, for as long as the machine runs: its number and when it started, in ticks since the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    pub pid: i32,
    pub start_ticks: u64,
}

/// What a pre-image holds, beside it: what is compared when somebody goes back to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    pub measures: Temporary,
    pub fingerprint: Fingerprint,
}

/// What a written state survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The death of the agent.
    Written,
    /// A power cut too.
    Flushed,
}

impl State {
    /// Remembers the end of a task.
    pub fn finish(&mut self, result: TaskResult) {
        self.done.push(result.id.clone());
        let excess = self.done.len().saturating_sub(DONE_REMEMBERED);
        self.done.drain(..excess);
        self.results.push(result);
    }

    /// Whether the task was done, or is being worked on.
    pub fn knows(&self, id: &TaskId) -> bool {
        self.done.contains(id) || self.section.as_ref().is_some_and(|j| j.task == *id)
    }
}

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the agent's state in {path} cannot be read: {source}; hint: restore {path} or delete the instance")]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// How much room is held back: a state with its fingerprint, several times.
const RESERVE_BYTES: usize = 1 << 20;

/// The file that holds a [`State`].
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    /// Another name of the file that was flushed last.
    kept: PathBuf,
    reserve: PathBuf,
}

impl StateFile {
    /// The state file in the agent's directory of a volume.
    pub fn new(agent_dir: &Path) -> Self {
        let [path, kept, reserve] = ["state.json", "state.kept", "reserve"].map(|name| agent_dir.join(name));
        Self { path, kept, reserve }
    }

    /// The state as it was written last; after a power cut, as it was flushed last; the empty state where there was none.
    pub fn load(&self) -> Result<State, Error> {
        match read(&self.path) {
            // What is written is never empty, and no part of it is zeros.
            Err(damaged @ Error::Damaged { .. }) => match read(&self.kept)? {
                Some(kept) => {
                    tracing::warn!(%damaged, "after a power cut: the state is the one that was flushed last");
                    Ok(kept)
                }
                None => Err(damaged),
            },
            read => Ok(read?.unwrap_or_default()),
        }
    }

    /// Holds room back for the time when there is none. Where there is none already, nothing is held back.
    pub fn ensure_reserve(&self) {
        let held = fs_err::metadata(&self.reserve).is_ok_and(|m| m.len() >= RESERVE_BYTES as u64);
        // Not zeros: a file system that compresses would hold nothing back.
        if !held && fs_err::write(&self.reserve, vec![0xc0; RESERVE_BYTES]).is_err() {
            let _ = fs_err::remove_file(&self.reserve);
        }
    }

    /// Replaces the state. On a full disk in the room that was held back.
    pub fn save(&self, state: &State, durability: Durability) -> Result<(), Error> {
        match self.replace(state, durability) {
            Err(Error::Io(e)) if is_full(&e) && self.reserve.exists() => {
                fs_err::remove_file(&self.reserve)?;
                self.replace(state, durability)
            }
            done => done,
        }
    }

    fn replace(&self, state: &State, durability: Durability) -> Result<(), Error> {
        let temporary = self.path.with_extension("new");
        // What an agent that was killed has left there may be what has the name of what was flushed last.
        ensure_absent(&temporary)?;
        let mut file = fs_err::OpenOptions::new();
        file.write(true).create_new(true);
        file.options_mut().mode(0o600);
        let mut file = file.open(&temporary)?;
        let text = serde_json::to_vec(state).map_err(std::io::Error::other)?;
        file.write_all(&text)?;
        if durability == Durability::Flushed {
            file.sync_data()?;
            let kept = self.kept.with_extension("new-kept");
            ensure_absent(&kept)?;
            fs_err::hard_link(&temporary, &kept)?;
            fs_err::rename(&kept, &self.kept)?;
        }
        fs_err::rename(&temporary, &self.path)?;
        if durability == Durability::Flushed
            && let Some(dir) = self.path.parent()
        {
            fs_err::File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// `None` where there is none.
fn read(path: &Path) -> Result<Option<State>, Error> {
    match fs_err::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| Error::Damaged { path: path.to_owned(), source })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether it is for want of room.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    // fs-err wraps the error but keeps its kind.
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use coffer_core::id::Generation;
    use coffer_core::operation::Phase;
    use serde_json::Value;

    use super::{Durability, Error, Fingerprint, Settled, State, StateFile, Temporary};

    /// What agents of the releases left, by the schema of the store in their time: in the middle of a section, after writes were
    /// made to wait, and at rest after an upgrade. Real ones wrote it, with longer sources of images; it is never changed.
    const RELEASED: [[&str; 2]; 6] = [
        [include_str!("../tests/released/section-1.json"), include_str!("../tests/released/rest-1.json")],
        [include_str!("../tests/released/section-2.json"), include_str!("../tests/released/rest-2.json")],
        [include_str!("../tests/released/section-3.json"), include_str!("../tests/released/rest-3.json")],
        [include_str!("../tests/released/section-4.json"), include_str!("../tests/released/rest-4.json")],
        [include_str!("../tests/released/section-5.json"), include_str!("../tests/released/rest-5.json")],
        [include_str!("../tests/released/section-6.json"), include_str!("../tests/released/rest-6.json")],
    ];

    #[test]
    fn what_agents_of_every_release_left_is_read() {
        let read = |text: &str| -> (State, Value, Value) {
            let state: State = serde_json::from_str(text).expect("what an agent of today can read");
            let now = serde_json::to_value(&state).expect("JSON");
            (state, now, serde_json::from_str(text).expect("JSON"))
        };
        for [section, rest] in RELEASED {
            let (state, now, then) = read(section);
            let journal = state.section.expect("a section");
            assert!(matches!(journal.phase, Phase::Forward { at: 2.., .. }), "{:?}", journal.phase);
            assert!(journal.fingerprint.is_some() && journal.quiesced_at.is_some(), "{section}");
            assert_holds(&now, &then);
            let (state, now, then) = read(rest);
            assert_eq!((state.section.is_none(), state.preimages.len()), (true, 1), "{rest}");
            assert_holds(&now, &then);
        }
    }

    /// Everything of what was is in what is. What was null may be absent.
    fn assert_holds(is: &Value, was: &Value) {
        match (is, was) {
            (_, Value::Null) => {}
            (Value::Object(is), Value::Object(was)) => {
                for (name, was) in was {
                    assert_holds(is.get(name).unwrap_or(&Value::Null), was);
                }
            }
            (Value::Array(is), Value::Array(was)) if is.len() == was.len() => {
                is.iter().zip(was).for_each(|(is, was)| assert_holds(is, was));
            }
            (is, was) => assert_eq!(is, was),
        }
    }

    #[test]
    fn after_a_power_cut_the_state_is_the_one_that_was_flushed_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = StateFile::new(dir.path());
        let save = |generation, durability| {
            let state = State { generation: Generation(generation), ..State::default() };
            file.save(&state, durability).expect("saved");
        };
        let loaded = || file.load().map(|state| state.generation.0);
        assert_eq!(loaded().expect("a state"), 0, "there was none");
        save(1, Durability::Flushed);
        save(2, Durability::Written);
        assert_eq!(loaded().expect("a state"), 2, "it survives the death of the agent");
        // The name reached the disk and what it names did not.
        let path = dir.path().join("state.json");
        for never_written in [vec![0; 4096], Vec::new()] {
            fs_err::write(&path, never_written).expect("a file");
            assert_eq!(loaded().expect("a state"), 1);
        }
        save(3, Durability::Flushed);
        save(4, Durability::Written);
        save(5, Durability::Written);
        fs_err::write(&path, [0; 10]).expect("a file");
        assert_eq!(loaded().expect("a state"), 3);
        // An agent was killed after it had given the second name, and before the first.
        let kept = dir.path().join("state.kept");
        fs_err::hard_link(&kept, dir.path().join("state.new")).expect("another name");
        save(6, Durability::Written);
        fs_err::write(&path, [0; 10]).expect("a file");
        assert_eq!(loaded().expect("a state"), 3, "what is written anew is another file");
        fs_err::remove_file(kept).expect("a file");
        assert!(matches!(file.load(), Err(Error::Damaged { .. })), "nothing is made up");
    }

    #[test]
    fn what_agents_wrote_before_there_was_another_engine_is_read_as_it_was() {
        let settle = r#"{"appendonly":true,"save":"60 1","auto_aof_rewrite_percentage":"100","hz":"10"}"#;
        assert!(matches!(serde_json::from_str(settle), Ok(Settled::Redis(_))));
        for measures in [r#"{"found":null,"sample":[]}"#.to_owned(), format!(r#"{{"found":{settle},"sample":[]}}"#)] {
            assert!(matches!(serde_json::from_str(&measures), Ok(Temporary::Redis(_))), "{measures}");
        }
        let held = r#"{"number":"7.0.15","role":"master","databases":{"0":{"keys":1,"volatile":0}},"types":null,
                       "sample":[],"functions":null,"users":null,"taken_at_ms":1}"#;
        assert!(matches!(serde_json::from_str(held), Ok(Fingerprint::Redis(_))));
    }
}
