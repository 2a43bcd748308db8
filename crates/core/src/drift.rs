//! Drift: what is otherwise than it is recorded, though nobody has asked Coffer for it. It is found and said, and never mended by
//! a restart that nobody asked for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::datastore::{Datastore, Number};
use crate::engine::shares_data;
use crate::id::{Generation, InstanceId};
use crate::instance::{Engine, Instance, Observed};
use crate::spec::EngineSpec;

/// The id of a program that is another.
pub const PROGRAM: &str = "engine.program";
/// So many settings that drifted are told; more are counted.
const SETTINGS_TOLD: usize = 20;
/// So much of a value is told.
const VALUE_TOLD: usize = 200;

/// One thing that is otherwise than it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// A stable name for machines, such as `config.file`.
    pub id: String,
    /// What it is about: a file, a setting, the engine.
    pub object: String,
    /// What the record says.
    pub expected: String,
    /// What is.
    pub found: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id: _, object, expected, found, remedy } = self;
        write!(f, "{object}: {found}, instead of {expected} ({remedy})")
    }
}

/// A file, held against what it was when the engine was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileSeen {
    /// It is as it was, or nobody can tell.
    #[default]
    Same,
    Other,
    Gone,
}

/// A setting that the engine has otherwise than it was told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Deviation {
    pub name: String,
    pub wanted: String,
    pub is: String,
}

/// What an agent saw of its engine and of its files. What it could not look at is left as nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// It was told to end, by somebody else than Coffer.
    pub stopped: bool,
    /// What the running engine says it is.
    pub says: Option<Number>,
    pub deviations: Vec<Deviation>,
    /// The file that it was started with.
    pub config: FileSeen,
    /// Its program.
    pub program: FileSeen,
    /// Which engine wrote the data, as those themselves say.
    pub written_by: Option<(Datastore, Number)>,
}

/// Whether data that this engine wrote are not those that an engine of `spec` would have left: it cannot be expected to read them.
pub fn is_foreign(written_by: (Datastore, Number), spec: &EngineSpec) -> bool {
    let is_later = match (written_by.0, spec.datastore()) {
        (a, b) if a == b => written_by.1 > spec.number,
        // Valkey reads what Redis wrote, and is crossed to.
        (Datastore::Redis, Datastore::Valkey) => false,
        _ => true,
    };
    is_later && !shares_data(written_by, (spec.datastore(), spec.number))
}

/// Everything that is otherwise than an agent's record says.
pub fn find(instance: InstanceId, spec: &EngineSpec, sight: &Sight) -> Vec<Drift> {
    let restart = format!("coffer instance restart {instance}");
    let drift = |id: &str, object: String, expected: String, found: String, remedy: String| Drift {
        id: id.to_owned(),
        object,
        expected,
        found,
        remedy,
    };
    let engine = || "engine".to_owned();
    let mut all = Vec::new();
    if sight.stopped {
        let found = "it was told to end, by somebody else than coffer, and stays down";
        all.push(drift("engine.stopped", engine(), "one that runs".to_owned(), found.to_owned(), restart.clone()));
    }
    if let Some(says) = sight.says.filter(|says| *says != spec.number) {
        let remedy = format!(
            "have its program replaced by that of its image, then {restart}; or, to stay there: coffer instance upgrade {instance} VERSION"
        );
        all.push(drift(
            "engine.version",
            engine(),
            spec.number.to_string(),
            format!("it says that it is {says}"),
            remedy,
        ));
    }
    if sight.program != FileSeen::Same {
        let found = match sight.program {
            FileSeen::Gone => "it is gone; the next start unpacks its image again",
            FileSeen::Same | FileSeen::Other => "it is another file; the next start takes that one",
        };
        let remedy = "put the file of the image back on the host; a root in which no engine runs may be removed, and is unpacked anew at \
                      the next start";
        let expected = format!("that of the image of {}", spec.label());
        all.push(drift(PROGRAM, "program of the engine".to_owned(), expected, found.to_owned(), remedy.to_owned()));
    }
    if sight.config != FileSeen::Same {
        let found = match sight.config {
            FileSeen::Gone => "it is gone",
            FileSeen::Same | FileSeen::Other => "somebody has edited it",
        };
        let remedy = format!(
            "nothing reads it until the next start, which writes it anew; what is to stay: coffer configuration set; then {restart}"
        );
        let expected = "the one that coffer wrote".to_owned();
        all.push(drift("config.file", "configuration file".to_owned(), expected, found.to_owned(), remedy));
    }
    if let Some((datastore, number)) = sight.written_by.filter(|by| is_foreign(*by, spec)) {
        let remedy = format!(
            "take no further step before a copy of them is safe; then: coffer instance check {instance} VERSION"
        );
        let found = format!("they were written by {datastore} {number}");
        all.push(drift("data.version", "data".to_owned(), format!("those of {}", spec.label()), found, remedy));
    }
    for Deviation { name, wanted, is } in sight.deviations.iter().take(SETTINGS_TOLD) {
        let remedy = format!("to keep it: coffer configuration set; to have the old value back: {restart}");
        let (expected, found) = (format!("'{}'", clip(wanted)), format!("it is '{}'", clip(is)));
        all.push(drift("setting.differs", format!("setting {name}"), expected, found, remedy));
    }
    if let Some(more @ 1..) = sight.deviations.len().checked_sub(SETTINGS_TOLD) {
        let (expected, found) = ("what they were told".to_owned(), format!("{more} more differ"));
        all.push(drift("setting.differs", "settings".to_owned(), expected, found, restart.clone()));
    }
    all
}

/// What an agent saw that is otherwise than the control plane's record says. Only while nothing is done to the instance: then
/// the two are apart for a while.
pub fn find_in_record(instance: &Instance, number: Number, observed: &Observed) -> Vec<Drift> {
    let (id, Generation(recorded)) = (instance.id, instance.generation);
    let mut all = Vec::new();
    if observed.generation.0 < recorded {
        all.push(Drift {
            id: "record.generation".to_owned(),
            object: "volume".to_owned(),
            expected: format!("generation {recorded}"),
            found: format!("it is of generation {}, as if an old copy of it had been put back", observed.generation.0),
            remedy: format!("put the newer volume back, or delete the instance: coffer instance delete {id}"),
        });
    }
    let running = observed.running.filter(|_| observed.engine == Engine::Serving);
    let is_told = observed.drift.iter().any(|drift| drift.id == "engine.version");
    if let Some(running) = running.filter(|running| *running != number && !is_told) {
        all.push(Drift {
            id: "record.version".to_owned(),
            object: "engine".to_owned(),
            expected: number.to_string(),
            found: format!("{running} runs, and its agent takes that for right"),
            remedy: format!("coffer instance operations {id} says what was done last"),
        });
    }
    all
}

/// The settings that an engine has otherwise than `before`.
pub fn changed(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<Deviation> {
    let differing = before.iter().filter_map(|(name, wanted)| Some((name, wanted, now.get(name)?)));
    let deviation = |(name, wanted, is): (&String, &String, &String)| Deviation {
        name: name.clone(),
        wanted: wanted.clone(),
        is: is.clone(),
    };
    differing.filter(|(_, wanted, is)| wanted != is).map(deviation).collect()
}

/// What `now` has that `before` had not, and the other way round.
pub fn news<'a>(before: &'a [Drift], now: &'a [Drift]) -> (Vec<&'a Drift>, Vec<&'a Drift>) {
    let lacks = |of: &[Drift], one: &&Drift| !of.contains(one);
    (now.iter().filter(|d| lacks(before, d)).collect(), before.iter().filter(|d| lacks(now, d)).collect())
}

fn clip(value: &str) -> String {
    match value.char_indices().nth(VALUE_TOLD) {
        Some((at, _)) => format!("{}...", &value[..at]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests;
