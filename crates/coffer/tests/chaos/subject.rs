//! What is struck: an instance of one datastore with something in it, and clients that write.

use std::time::Duration;

use coffer_core::datastore::Datastore;
use serde_json::{Value, json};

use super::cell::{has_accounts, rolls_back_in_place};
use super::support::mariadb::{self, Contents};
use super::support::mysql;
use super::support::unharmed::{Known, wait_until_settled};
use super::support::world::{Instance, World, wait_for};
use super::support::writers::{self, Balance, forget_written};

/// A Redis that forgets what it is given when it is started on data, so that upgrades to it go back.
pub(crate) const FAULTY: &str = "8.2.9";
/// The program of MariaDB's own step of an upgrade.
const OWN_STEP: &str = "usr/bin/mariadb-upgrade";
/// How many keys are in an instance of Redis.
const KEYS: usize = 500;
/// How many writes are acknowledged before and after what happens, at least.
const WRITES: u64 = 50;
/// What a client does between two writes: some hundred of them in a second are enough, and other cells want to run beside this.
const THINKS: Duration = Duration::from_millis(5);

/// The versions of a matrix.
#[derive(Clone, Debug)]
pub(crate) struct Versions {
    pub datastore: Datastore,
    pub old: String,
    pub new: String,
    /// The one whose registry hangs.
    pub hanging: &'static str,
}

impl Versions {
    /// Those of a datastore. MySQL's are the program that there is under two numbers, which the world tells.
    pub(crate) fn of(datastore: Datastore) -> Self {
        let (old, new, hanging) = match datastore {
            Datastore::Redis => ("7.0.15", "8.0.2", "8.0.77"),
            Datastore::Valkey => ("8.0.1", "8.1.1", "8.1.77"),
            Datastore::Mariadb => ("10.5.23", "10.11.19", "10.11.77"),
            Datastore::Mysql => ("", "", "9.7.77"),
        };
        Self { datastore, old: old.to_owned(), new: new.to_owned(), hanging }
    }

    /// The one that upgrades go back from.
    pub(crate) fn failing(&self) -> &str {
        if self.datastore == Datastore::Redis { FAULTY } else { &self.new }
    }

    /// Has upgrades fail when they have started the target, or not any more.
    pub(crate) fn fail(&self, world: &World, id: &str, fails: bool) {
        match self.datastore {
            Datastore::Redis => fs_err::write(world.volume(id).join("run/mood"), "Forgets").expect("the mood"),
            Datastore::Valkey => {}
            Datastore::Mariadb => {
                let real = "/usr/bin/mariadb-upgrade.real \"$@\"";
                let script = if fails { format!("{real} && exit 3") } else { format!("exec {real}") };
                mariadb::replace(world, &self.new, OWN_STEP, &script);
            }
            Datastore::Mysql => {
                let real = "exec $real \"$@\"";
                mysql::replace_program(world, if fails { "exit 3" } else { real });
            }
        }
    }

    /// A setting that engines take while they run, and a value that is not its default.
    pub(crate) fn live_setting(&self) -> (&'static str, &'static str) {
        if has_accounts(self.datastore) { ("max_connections", "33") } else { ("timeout", "60") }
    }

    /// Of which flavor and size instances are.
    pub(crate) fn size(&self) -> [&'static str; 2] {
        if self.datastore == Datastore::Mysql { ["3", "1"] } else { ["1", "1"] }
    }
}

/// How a Redis keeps its data. An engine alone keeps of what it acknowledged what it promised, and not Coffer, so that a setting
/// that promises less is for faults that end no engine before Coffer has seen to it.
pub(crate) const KEEPINGS: [&[(&str, &str)]; 4] =
    [&[("appendonly", "yes"), ("appendfsync", "always")], &[("appendonly", "yes")], &[], &[("save", "")]];

/// An instance that is used again and again.
pub(crate) struct Subject {
    pub instance: Instance,
    pub name: String,
    /// Which of [`KEEPINGS`] it has.
    pub keeping: usize,
    /// The version that it has.
    pub version: String,
    /// Whether it can go back to the one before.
    pub has_way_back: bool,
    holds: Holds,
}

enum Holds {
    Keys(Known),
    Tables(Contents),
}

/// Clients that write.
pub(crate) enum Writers {
    Redis(writers::Writers),
    Sql(mariadb::Writers, Instance),
}

impl Subject {
    /// Fills an instance.
    pub(crate) fn fill(world: &World, versions: &Versions, instance: Instance, name: &str, keeping: usize) -> Self {
        let read = |fill: fn(&Instance), read: fn(&Instance) -> Contents| {
            fill(&instance);
            mariadb::connect(&instance).run("CREATE TABLE shop.log (n BIGINT PRIMARY KEY)");
            // What engines do not promise to hold over a power cut is there before: tables without transactions.
            mariadb::agent(world, &instance).run("FLUSH TABLES");
            rustix::fs::sync();
            Holds::Tables(read(&instance))
        };
        let holds = match versions.datastore {
            Datastore::Redis | Datastore::Valkey => Holds::Keys(Known::fill(world, &instance, KEYS)),
            Datastore::Mariadb => read(|i| mariadb::fill(&mut mariadb::connect(i)), mariadb::read),
            Datastore::Mysql => read(mysql::fill, mysql::read),
        };
        let version = super::support::world::text(&world.show(&instance.id)["datastore"]["version"]);
        Self { name: name.to_owned(), keeping, version, has_way_back: false, holds, instance }
    }

    /// Clients begin to write, with other numbers than those of earlier runs.
    pub(crate) fn write(&self, run: usize) -> Writers {
        let writers = match self.holds {
            Holds::Keys(_) => Writers::Redis(writers::Writers::start_from(&self.instance, 10 * run, THINKS)),
            Holds::Tables(_) => {
                let first = 10 * run as u64;
                Writers::Sql(mariadb::Writers::start_from(&self.instance, first, THINKS), self.instance.clone())
            }
        };
        writers.wait_for_more();
        writers
    }

    /// All is as it was, in the version that is shown now; what clients wrote is removed.
    #[track_caller]
    pub(crate) fn check(&mut self, world: &World) {
        let id = &self.instance.id;
        let shown = world.show(id);
        self.version = super::support::world::text(&shown["datastore"]["version"]);
        self.has_way_back = !shown["rollback"].is_null();
        match &self.holds {
            Holds::Keys(known) => {
                forget_written(&mut world.redis(&self.instance));
                known.check_upgraded(world, &self.version);
            }
            Holds::Tables(contents) => {
                let shown = world.show(id);
                assert_eq!(shown["status"], "ACTIVE", "{shown}");
                wait_for("the running version to be told", || {
                    let shown = world.show(id);
                    shown["running_version"] == *self.version && shown["on_disk_version"] == *self.version
                });
                wait_until_settled(world, id);
                mariadb::connect(&self.instance).run("DELETE FROM shop.log");
                let is = if self.is_mysql() { mysql::read(&self.instance) } else { mariadb::read(&self.instance) };
                mariadb::assert_same(contents, &is, "what it holds");
                mariadb::assert_own_tables_sound(world, &self.instance);
                assert_eq!(world.engines_on(id).len(), 1, "engines that have the volume");
            }
        }
    }

    fn is_mysql(&self) -> bool {
        matches!(&self.holds, Holds::Tables(contents) if contents.iter().any(|(asked, _)| asked.contains("shop.arrows")))
    }

    /// What the running engine says that a setting is.
    pub(crate) fn setting(&self, world: &World, name: &str) -> String {
        match self.holds {
            Holds::Keys(_) => {
                let found = world.redis(&self.instance).ask(&["CONFIG", "GET", name]).expect("an answer").items();
                String::from_utf8_lossy(found[1].text().unwrap_or_default()).into_owned()
            }
            Holds::Tables(_) => {
                let mut sql = mariadb::connect(&self.instance);
                sql.ask(&format!("SELECT @@GLOBAL.{name}")).expect("an answer").remove(0)
            }
        }
    }
}

impl Writers {
    /// Waits until more was acknowledged.
    #[track_caller]
    pub(crate) fn wait_for_more(&self) {
        match self {
            Self::Redis(writers) => writers.wait_for_more(WRITES),
            Self::Sql(writers, _) => writers.wait_for_more(),
        }
    }

    /// Ends them and counts. After a loss, what they wrote up to some moment is lost as it should be, and nothing after that.
    pub(crate) fn stop(self, after_a_loss: bool) -> Balance {
        match self {
            Self::Redis(writers) if after_a_loss => writers.stop_after_a_loss(),
            Self::Redis(writers) => writers.stop(),
            Self::Sql(writers, instance) => writers.stop_and_count(&instance, after_a_loss),
        }
    }
}

/// What is asked of the API: method, path below the project, body.
pub(crate) type Ask = (&'static str, String, Value);

/// A new instance.
pub(crate) fn ask_create(versions: &Versions, name: &str, version: &str, keeping: usize) -> Ask {
    let [flavor, size] = versions.size();
    let mut body = json!({
        "name": name, "flavorRef": flavor, "volume": {"size": size.parse::<u32>().unwrap_or(1)},
        "datastore": {"type": versions.datastore.name(), "version": version},
    });
    if has_accounts(versions.datastore) {
        body["databases"] = json!([{"name": "first"}]);
        body["users"] = json!([{"name": "ann", "password": "secret of ann", "databases": [{"name": "first"}]}]);
    } else {
        body["settings"] = KEEPINGS[keeping].iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    }
    ("POST", "/instances".to_owned(), json!({"instance": body}))
}

/// Back to what there was before an upgrade.
pub(crate) fn ask_rollback(versions: &Versions, id: &str) -> Ask {
    let accept_loss = !rolls_back_in_place(versions.datastore);
    ("POST", format!("/instances/{id}/rollback"), json!({"rollback": {"accept_loss": accept_loss}}))
}
