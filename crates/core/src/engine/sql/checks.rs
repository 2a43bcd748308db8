//! What could go wrong at an upgrade of MariaDB or MySQL, judged from what the agent saw while the engine serves. Everything at once.
//!
//! A finding's id is the datastore and one of the words below, such as `mariadb.xa`; it never changes its meaning.
//!
//! | id | what it is about |
//! |---|---|
//! | `recovery`, `xa`, `busy`, `ddl`, `backup`, `read_only`, `replica`, `replicas` | the state of the server |
//! | `disk`, `volume`, `files`, `mmap`, `orphan` | room, and files |
//! | `plugin`, `auth`, `engine` | what the target lacks |
//! | `rebuild`, `compressed` | tables that are built anew, or no longer written or read |
//! | `word`, `function`, `mode`, `collation`, `temporal` | what the target reads otherwise |
//! | `definer`, `view` | what is broken already |
//! | `unchecked` | what nobody looked at |

use std::collections::BTreeSet;

use super::config;
use super::facts::{Facts, Work};
use super::features::Changes;
use super::words;
use crate::datastore::Datastore;
use crate::finding::Finding;
use crate::spec::EngineSpec;

/// A statement or transaction of this age keeps writes from being made to wait.
pub const BUSY_SECONDS: u64 = 5;
/// One of this age will hardly end by itself while the upgrade is prepared.
const STUCK_SECONDS: u64 = 60;
/// A replica that is so far behind has trouble already.
const LAG_SECONDS: u64 = 60;
/// Kept free on the volume beside what is counted: room for what is written meanwhile.
const DISK_RESERVE: u64 = 64 << 20;
/// What is built anew in a second, on a small machine.
const REBUILT_A_SECOND: u64 = 20 << 20;
/// Tables that take longer than this to be built anew are worth a warning.
const LONG_REBUILD_SECONDS: u64 = 10;
/// Since this series of MariaDB the end of time is another one, and rows of versioned tables are current by it.
const NEW_END_OF_TIME: (u32, u32) = (11, 5);

/// Programs of which the engine keeps what it made of them, not what was written.
const REWRITTEN: [&str; 3] = ["view ", "check ", "index "];

/// Since this series MariaDB compresses pages by zlib alone, and by anything else only with a plugin.
const ZLIB_ALONE: (u32, u32) = (10, 7);

/// Everything that speaks against going from `from` to `to`, and everything worth knowing.
pub fn check(facts: &Facts, from: &EngineSpec, to: &EngineSpec) -> Vec<Finding> {
    let changes = Changes::between(from.datastore(), from.number, to.number);
    Checks { facts, changes: &changes, from, to }.all()
}

/// Whether versioned tables that `from` made are built anew for `to`.
pub fn rebuilds_versioned(from: &EngineSpec, to: &EngineSpec) -> bool {
    to.datastore() == Datastore::Mariadb
        && from.number.series() < NEW_END_OF_TIME
        && to.number.series() >= NEW_END_OF_TIME
}

/// Whether `to` was told not to write to compressed tables.
pub fn spares_compressed(to: &EngineSpec) -> bool {
    config::is_on(to.settings.get("innodb_read_only_compressed").map_or("", String::as_str))
}

/// Whether `from` can compress pages by what `to` has no longer built in.
pub fn loses_compression(from: &EngineSpec, to: &EngineSpec) -> bool {
    to.datastore() == Datastore::Mariadb && from.number.series() < ZLIB_ALONE && to.number.series() >= ZLIB_ALONE
}

struct Checks<'a> {
    facts: &'a Facts,
    changes: &'a Changes,
    from: &'a EngineSpec,
    to: &'a EngineSpec,
}

impl Checks<'_> {
    fn all(&self) -> Vec<Finding> {
        [
            self.serves(),
            self.busy(),
            self.replicates(),
            self.room(),
            self.files(),
            self.plugins(),
            self.tables(),
            self.columns(),
            self.programs(),
            self.broken(),
            self.unchecked(),
        ]
        .concat()
    }

    fn id(&self, word: &str) -> String {
        format!("{}.{word}", self.from.datastore().name())
    }

    fn error(&self, word: &str, object: impl Into<String>, message: impl Into<String>, remedy: &str) -> Finding {
        Finding::error(&self.id(word), object, message, remedy)
    }

    fn warning(&self, word: &str, object: impl Into<String>, message: impl Into<String>, remedy: &str) -> Finding {
        Finding::warning(&self.id(word), object, message, remedy)
    }

    fn notice(&self, word: &str, object: impl Into<String>, message: impl Into<String>, remedy: &str) -> Finding {
        Finding::notice(&self.id(word), object, message, remedy)
    }

    fn target(&self) -> String {
        self.to.label()
    }

    /// Whether it can be stopped so that another version takes its files.
    fn serves(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let value = |name: &str| self.facts.variables.get(name).map_or("", String::as_str);
        for name in ["innodb_force_recovery", "innodb_read_only"] {
            if !["", "0", "OFF"].contains(&value(name)) {
                let message = format!("it is {}: the engine would not stop cleanly", value(name));
                found.push(self.error(
                    "recovery",
                    name,
                    message,
                    "mend the data, then restart the instance without it",
                ));
            }
        }
        if !["", "0", "OFF"].contains(&value("myisam_use_mmap")) {
            // Turned off alone it would leave tables as they are that are open already.
            let message =
                "it is on: what is written through memory may keep its time, and be missing in a copy made before";
            found.push(self.error("mmap", "myisam_use_mmap", message, "restart the instance, which turns it off"));
        }
        if self.facts.prepared > 0 {
            let message = format!("transactions that are prepared and not decided: {}", self.facts.prepared);
            found.push(self.error("xa", "engine", message, "XA RECOVER, then XA COMMIT or XA ROLLBACK each"));
        }
        if !["", "0", "OFF"].contains(&value("read_only")) {
            found.push(self.notice("read_only", "engine", "it takes no writes, and will take none afterwards", ""));
        }
        found
    }

    fn busy(&self) -> Vec<Finding> {
        let one = |busy: &super::facts::Busy| {
            let object = format!("connection {}", busy.connection);
            let (word, what) = match busy.what {
                Work::Transaction => ("busy", "a transaction open"),
                Work::Statement => ("busy", "a statement that has run"),
                Work::Definition => ("ddl", "a table being altered"),
                Work::Backup => ("backup", "a backup running"),
            };
            let message = format!("user '{}' has {what} for {} s", busy.user, busy.seconds);
            if word == "busy" && busy.seconds < STUCK_SECONDS {
                self.warning(word, object, message, "the upgrade gives up where it is still there at the stop")
            } else {
                self.error(word, object, message, "wait until it has ended, or end it")
            }
        };
        self.facts.busy.iter().map(one).collect()
    }

    fn replicates(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for source in &self.facts.sources {
            let object = match &source.name[..] {
                "" => "replication".to_owned(),
                name => format!("replication {name}"),
            };
            match source.lag_seconds {
                None => found.push(self.notice("replica", object, "it is set up and does not run", "")),
                Some(lag) if lag > LAG_SECONDS => {
                    let message = format!("it is {lag} s behind, and does not begin again by itself after the upgrade");
                    found.push(self.error("replica", object, message, "wait until it has caught up"));
                }
                Some(_) => {
                    let message = "it does not begin again by itself after the upgrade";
                    found.push(self.warning("replica", object, message, "START REPLICA afterwards"));
                }
            }
        }
        if self.facts.replicas > 0 {
            let message = format!(
                "{} replicas follow it; one that is older than {} may not understand what it writes",
                self.facts.replicas,
                self.target()
            );
            found.push(self.warning("replicas", "engine", message, "upgrade the replicas first"));
        }
        found
    }

    /// Disk for the pre-image and for tables that are built anew.
    fn room(&self) -> Vec<Finding> {
        let Facts { data_bytes, free_bytes, .. } = *self.facts;
        // A table that is built anew is there twice for a while.
        let rebuilt = self.facts.versioned.values().max().copied().unwrap_or(0);
        let needed = data_bytes + rebuilt + DISK_RESERVE;
        let mut found = Vec::new();
        if free_bytes < needed {
            let message = format!(
                "{} MiB are free and up to {} MiB are needed for the pre-image and for tables built anew",
                free_bytes >> 20,
                needed >> 20
            );
            let remedy = "make room, or resize the volume";
            found.push(if self.facts.shares_blocks && free_bytes >= rebuilt + DISK_RESERVE {
                self.warning("disk", "volume", format!("{message}, unless copies share blocks here"), remedy)
            } else {
                self.error("disk", "volume", message, remedy)
            });
        }
        let volume = self.from.volume_bytes;
        if !self.facts.shares_blocks && data_bytes + needed > volume {
            let message = format!(
                "for a while it would hold up to {} MiB, and it is made for {} MiB",
                (data_bytes + needed) >> 20,
                volume >> 20
            );
            found.push(self.warning("volume", "volume", message, "resize the volume to be on the safe side"));
        }
        found
    }

    fn files(&self) -> Vec<Finding> {
        let foreign = self.facts.foreign_files.iter().map(|file| {
            let message = "the engine does not own it and could not replace it";
            let remedy = "restart the instance, which gives it back, or chown it to the owner of the directory `run` \
                          beside `data`";
            self.error("files", file.clone(), message, remedy)
        });
        let orphans = self.facts.orphans.iter().map(|file| {
            let message =
                "it is left of a table that the engine no longer knows, or of one that was being altered when it died";
            self.warning("orphan", file.clone(), message, "see what it is, and remove it")
        });
        foreign.chain(orphans).collect()
    }

    /// Whether the target has this plugin, which is loaded now.
    fn is_there(&self, plugin: &str, library: Option<&String>) -> bool {
        match (library, &self.facts.target_libraries) {
            (None, _) => !self.changes.gone_plugins.contains(plugin),
            (Some(library), Some(libraries)) => libraries.contains(library),
            // Said once, under `unchecked`.
            (Some(_), None) => true,
        }
    }

    fn plugins(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for (plugin, library) in self.facts.plugins.iter().filter_map(|(p, l)| Some((p, l.as_ref()?))) {
            if !self.is_there(plugin, Some(library)) {
                let message = format!("it is loaded from {library}, which {} does not have", self.target());
                let message = match self.facts.engines.get(plugin) {
                    Some(table) => format!("{message}; it holds {table}"),
                    None => message,
                };
                let remedy = "give its tables and users another one, then UNINSTALL PLUGIN";
                found.push(self.error("plugin", format!("plugin {plugin}"), message, remedy));
            }
        }
        for component in &self.facts.components {
            // Those that are elsewhere than among the plugins are nothing that is known here.
            let Some(name) = component.strip_prefix("file://") else { continue };
            if !self.is_there(name, Some(&format!("{name}.so"))) {
                let message = format!("it is loaded at each start, and {} does not have it", self.target());
                found.push(self.error("plugin", format!("component {name}"), message, "UNINSTALL COMPONENT"));
            }
        }
        for (engine, table) in &self.facts.engines {
            if engine.is_empty() {
                let remedy = "repair or drop it: nobody can say whether the target reads it";
                found.push(self.warning("engine", format!("table {table}"), "it cannot be opened", remedy));
            } else if self.facts.plugins.get(engine).is_some_and(Option::is_none) && !self.is_there(engine, None) {
                let message = format!("it is of the engine {engine}, which {} does not have", self.target());
                found.push(self.error("engine", format!("table {table}"), message, "ALTER TABLE ... ENGINE=InnoDB"));
            }
        }
        for account in &self.facts.accounts {
            for plugin in &account.plugins {
                let object = format!("user {}", account.name);
                match self.facts.plugins.get(plugin) {
                    None => {
                        let message = format!("it logs in by {plugin}, which is not loaded: it cannot log in");
                        found.push(self.warning("auth", object, message, "give it another plugin, or load this one"));
                    }
                    Some(library) if !self.is_there(plugin, library.as_ref()) => {
                        let message = format!("it logs in by {plugin}, which {} does not have", self.target());
                        found.push(self.error("auth", object, message, "give it another plugin"));
                    }
                    Some(_) => {}
                }
            }
        }
        found
    }

    fn tables(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if rebuilds_versioned(self.from, self.to) {
            let all: u64 = self.facts.versioned.values().sum();
            for (table, bytes) in &self.facts.versioned {
                let seconds = bytes.div_ceil(REBUILT_A_SECOND);
                let message = format!(
                    "it is system-versioned and is built anew while clients wait: {} MiB, about {seconds} s",
                    bytes.div_ceil(1 << 20)
                );
                let object = format!("table {table}");
                found.push(if all.div_ceil(REBUILT_A_SECOND) > LONG_REBUILD_SECONDS {
                    self.warning("rebuild", object, message, "DELETE HISTORY that nobody needs makes it shorter")
                } else {
                    self.notice("rebuild", object, message, "")
                });
            }
        }
        if spares_compressed(self.to) {
            for table in &self.facts.compressed {
                let message =
                    "its rows are compressed, and innodb_read_only_compressed is ON: nobody could write to it";
                let remedy = "turn the setting off, or ALTER TABLE ... ROW_FORMAT=DYNAMIC";
                found.push(self.error("compressed", format!("table {table}"), message, remedy));
            }
        }
        for (table, algorithm) in &self.facts.page_compressed {
            let remedy = "set innodb_compression_algorithm to zlib, then ALTER TABLE ... FORCE";
            let object = format!("table {table}");
            found.push(match &algorithm[..] {
                "" => {
                    let message = format!("its pages are compressed, and {} reads only those by zlib", self.target());
                    self.warning("compressed", object, message, remedy)
                }
                algorithm => {
                    let message =
                        format!("its pages are compressed by {algorithm}, which {} does not have", self.target());
                    self.error("compressed", object, message, remedy)
                }
            });
        }
        for (object, name) in &self.facts.names {
            found.extend(self.word(object, name));
            if object.starts_with("function ") && contains(&self.changes.functions, name) {
                let message = format!(
                    "{} has a function of this name built in, which is called where the database is not named",
                    self.target()
                );
                found.push(self.warning(
                    "function",
                    object.clone(),
                    message,
                    "call it with its database, or rename it",
                ));
            }
        }
        found
    }

    /// Where a name is a word that has to be quoted from now on.
    fn word(&self, object: &str, name: &str) -> Option<Finding> {
        let message =
            || format!("{} is a reserved word in {}: unquoted it is refused", name.to_uppercase(), self.target());
        contains(&self.changes.words, name)
            .then(|| self.warning("word", object, message(), "quote it in statements, or rename it"))
    }

    fn columns(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for column in &self.facts.columns {
            let object = format!("column {}.{}", column.table, column.name);
            found.extend(self.word(&object, &column.name));
            if contains(&self.changes.gone_collations, &column.collation) {
                let message = format!("{} does not have the collation {}", self.target(), column.collation);
                found.push(self.error("collation", object.clone(), message, "ALTER TABLE ... CONVERT TO another one"));
            }
            if column.kind.contains("mariadb-5.3") {
                let message = "it keeps its times in the format of before MariaDB 10.1";
                found.push(self.warning("temporal", object.clone(), message, "ALTER TABLE ... FORCE"));
            }
            for function in self.changes.gone_functions.iter().filter(|f| words::calls(&column.expression, f)) {
                let message = format!("its values come from {function}(), which {} does not have", self.target());
                found.push(self.error("function", object.clone(), message, "have them come from something else"));
            }
        }
        found
    }

    /// Texts that the target reads otherwise, or not at all.
    fn programs(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for program in &self.facts.programs {
            let object = program.object.clone();
            let is_view = object.starts_with("view ");
            // Engines write what is not kept as it came with all names quoted.
            let is_rewritten = REWRITTEN.iter().any(|kind| object.starts_with(kind));
            for word in self.changes.words.iter().filter(|w| !is_rewritten && words::names(&program.text, w)) {
                let message = format!("it names something {word}, which is a reserved word in {}", self.target());
                found.push(self.error("word", object.clone(), message, "make it anew with the name quoted"));
            }
            for function in self.changes.gone_functions.iter().filter(|f| words::calls(&program.text, f)) {
                let message = format!("it calls {function}(), which {} does not have", self.target());
                found.push(self.error("function", object.clone(), message, "make it anew without"));
            }
            let modes: BTreeSet<_> = program.modes.split(',').collect();
            for mode in self.changes.gone_modes.iter().filter(|mode| modes.contains(**mode)) {
                let message = format!("it was made with the SQL mode {mode}, which {} does not have", self.target());
                found.push(self.error("mode", object.clone(), message, "make it anew under another mode"));
            }
            for table in self.changes.gone_plugins.iter().filter(|_| is_view) {
                if program.text.to_uppercase().contains(&format!("`{table}`")) {
                    let message = format!("it reads information_schema.{table}, which {} does not have", self.target());
                    found.push(self.warning("view", object.clone(), message, "drop it, or make it anew"));
                }
            }
        }
        found
    }

    /// What does not work now and will not afterwards.
    fn broken(&self) -> Vec<Finding> {
        let definers = self.facts.definers.iter().map(|(object, definer)| {
            let message = format!("it runs as {definer}, who does not exist");
            self.warning("definer", object.clone(), message, "make the user, or make it anew with another definer")
        });
        let views = self.facts.broken_views.iter().map(|view| {
            let message = "it refers to what is not there, or what its definer may not see";
            self.warning("view", format!("view {view}"), message, "drop it, or make what it refers to")
        });
        definers.chain(views).collect()
    }

    fn unchecked(&self) -> Vec<Finding> {
        let mut unchecked = self.facts.unchecked.clone();
        if self.facts.target_libraries.is_none() {
            unchecked.push(("plugins".to_owned(), "the target's image is not on this host".to_owned()));
        }
        let one = |(what, why): &(String, String)| {
            self.warning("unchecked", what.clone(), format!("not checked: {why}"), "look at it by hand, or check again")
        };
        unchecked.iter().map(one).collect()
    }
}

/// Whether it is among the names, in any case.
fn contains(names: &BTreeSet<&'static str>, name: &str) -> bool {
    names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
