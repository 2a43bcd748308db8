//! The seam between the agent and the engines: what a section asks of whatever runs, passed on to the driver of its family.
//!
//! [`redis`] speaks with Redis and Valkey, [`sql`] with MariaDB and MySQL. What one of them has no need of does nothing here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coffer_core::account;
use coffer_core::datastore::{Datastore, Number};
use coffer_core::engine::redis::checks;
use coffer_core::engine::redis::config::Persistence;
use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::engine::sql::proof::Holdings;
use coffer_core::finding::Finding;
use coffer_core::gap::Circumstances;
use coffer_core::spec::EngineSpec;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant};

use crate::sandbox::{CgroupLimits, Launch, Process};
use crate::site::{self, Error, Exposure, Kind, Kinds, Paths, Port, Probe, Secrets, Site, inside};
use crate::{redis, sql};

/// A connection to the engine, as the agent's own user.
#[derive(Clone)]
pub(crate) enum Client {
    Redis(redis::Client),
    Sql(sql::Client),
}

/// What the engine held when writes were made to wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "serde_json::Value")]
pub enum Fingerprint {
    Redis(redis::Fingerprint),
    Sql(Holdings),
}

/// By hand, since numbers as keys of a map are lost on the way through an untagged enum.
impl TryFrom<serde_json::Value> for Fingerprint {
    type Error = serde_json::Error;

    fn try_from(value: serde_json::Value) -> Result<Self, Self::Error> {
        match value.get("objects") {
            Some(_) => serde_json::from_value(value).map(Self::Sql),
            None => serde_json::from_value(value).map(Self::Redis),
        }
    }
}

/// Measures that are in force only for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Temporary {
    Redis(redis::Temporary),
    Sql(sql::Temporary),
}

/// How the engine is to be once the measures are over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Settled {
    Redis(Persistence),
    Sql(sql::Measures),
}

/// Writes wait.
pub(crate) struct Quiesced {
    pub(crate) fingerprint: Fingerprint,
    /// When the engine lets writes go on by itself.
    pub(crate) until: Instant,
}

/// What was seen of an engine before an upgrade. Of one that was not asked: nothing.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) findings: Vec<Finding>,
    /// How much there is to be loaded, as far as the engine tells.
    pub(crate) data_bytes: u64,
    /// What is done while the engine serves.
    pub(crate) while_serving: Option<String>,
}

/// A wait without an end: the lock of an engine of SQL is held until its connection goes.
const FOR_EVER: Duration = Duration::from_secs(24 * 3600);

impl Default for Temporary {
    fn default() -> Self {
        Self::Redis(redis::Temporary::default())
    }
}

impl Temporary {
    /// Whether it was found out yet what is to be changed.
    pub(crate) fn are_planned(&self) -> bool {
        match self {
            Self::Redis(measures) => measures.found.is_some(),
            Self::Sql(_) => true,
        }
    }

    /// The same where this is how the engine was before.
    pub(crate) fn with_before(self, found: &Settled) -> Self {
        match (self, found) {
            (Self::Redis(measures), Settled::Redis(found)) => {
                Self::Redis(redis::Temporary { found: Some(found.clone()), ..measures })
            }
            (Self::Sql(measures), Settled::Sql(found)) => {
                Self::Sql(sql::Temporary { before: found.clone(), ..measures })
            }
            (measures, _) => measures,
        }
    }

    /// How it was before; `None`: no measure is in force.
    pub(crate) fn before(self) -> Option<Settled> {
        match self {
            Self::Redis(measures) => measures.found.map(Settled::Redis),
            Self::Sql(measures) => Some(Settled::Sql(measures.before)),
        }
    }
}

impl Settled {
    /// As the configuration says. `None` where an engine that was started is that already.
    pub(crate) fn configured(spec: &EngineSpec) -> Option<Self> {
        (!is_sql(spec)).then(|| Self::Redis(Persistence::configured(spec)))
    }
}

impl Fingerprint {
    /// In a sentence, for the record of a step.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Redis(held) => {
                let keys: u64 = held.databases.values().map(|count| count.keys).sum();
                format!("{keys} keys in {} databases, {} compared in whole", held.databases.len(), held.sample.len())
            }
            Self::Sql(held) => held.summary(),
        }
    }
}

fn is_sql(spec: &EngineSpec) -> bool {
    matches!(spec.datastore(), Datastore::Mysql | Datastore::Mariadb)
}

/// Whether an engine can open its port while it runs, by [`Client::listen`].
pub(crate) fn opens_in_place(spec: &EngineSpec) -> bool {
    !is_sql(spec) && redis::opens_in_place(spec.number)
}

/// Whether the engine answers a new connection while writes wait. Redis before 6.2 answers nobody then.
pub(crate) fn greets(spec: &EngineSpec) -> bool {
    is_sql(spec) || redis::pauses_writes(spec)
}

/// Writes the configuration, and makes the data where there is none.
pub(crate) async fn prepare_files(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    if is_sql(spec) {
        sql::write_config(spec, site)?;
        sql::ensure_data(spec, site).await
    } else {
        redis::write_config(spec, site)
    }
}

/// What starts this engine on what is on disk.
pub(crate) fn launch(spec: &EngineSpec, site: Site<'_>, exposure: Exposure, port: Port) -> Result<Launch, Error> {
    if is_sql(spec) { Ok(sql::launch(spec, site, port)) } else { redis::launch(spec, site, exposure, port) }
}

/// Where the configuration file is that an engine is started with.
pub(crate) fn config_file(spec: &EngineSpec, paths: &Paths) -> PathBuf {
    inside(&paths.conf, if is_sql(spec) { sql::CONFIG_FILE } else { redis::CONFIG_FILE })
}

/// The engine's program, as a path inside its root.
pub(crate) fn program(spec: &EngineSpec, root: &Path) -> String {
    if is_sql(spec) { Dialect::of(spec).program().to_owned() } else { redis::program(spec.datastore(), root) }
}

/// Which engine wrote the data last, as they say themselves; `None` where they say nothing.
pub(crate) fn written_by(spec: &EngineSpec, paths: &Paths) -> Option<(Datastore, Number)> {
    if is_sql(spec) { sql::written_by(spec.datastore(), &paths.data) } else { redis::written_by(&paths.data) }
}

/// How the engine changes its files, and which of them are its data.
pub(crate) fn kinds(spec: &EngineSpec) -> Kinds {
    // Of an engine of SQL any file may change anywhere, whatever its name.
    if is_sql(spec) { |_| Some(Kind::Other) } else { redis::kind }
}

/// Asks the target binary whether it would start, with what engines have left in this directory of configuration.
pub(crate) async fn try_target(spec: &EngineSpec, site: Site<'_>, conf: &Path) -> Result<(), Error> {
    if is_sql(spec) { sql::try_target(spec, site).await } else { redis::try_target(spec, site, conf).await }
}

/// Whether an engine that takes over from `from` has a step of its own to do before anybody may see it. One that is older has none:
/// what newer ones have added stays.
pub(crate) fn has_own_step(from: &EngineSpec, to: &EngineSpec) -> bool {
    is_sql(to) && from.number < to.number
}

/// Whether an engine whose log ends with this line has ended as it should. Of one for which nothing depends on that: yes.
pub(crate) fn is_farewell(spec: &EngineSpec, last_line: &str) -> bool {
    !is_sql(spec) || Dialect::of(spec).is_farewell(last_line)
}

/// Mends what an engine that ended while it started could not load, if it says that of what can be mended without a loss. Gives
/// what was done.
pub(crate) async fn mend(spec: &EngineSpec, paths: &Paths, words: &str) -> Result<Option<String>, Error> {
    if is_sql(spec) { Ok(None) } else { redis::mend(spec, paths, words).await }
}

/// Whether the log of an engine that loads its files ends with its farewell, before which it has flushed what it acknowledged.
/// The files of others are compared with what they are themselves.
pub(crate) fn said_farewell(spec: &EngineSpec, last_line: &str) -> bool {
    works_in_place(spec) || last_line.contains("is now ready to exit")
}

/// Whether an engine works on its files where they are. Then the same engine holds the same with the same files, as far as it
/// can be told at all; one that loads its files may load less than they hold.
pub(crate) fn works_in_place(spec: &EngineSpec) -> bool {
    is_sql(spec)
}

/// Begins to look as clients do that come anew each time and write.
pub(crate) fn probe(from: &EngineSpec, to: &EngineSpec, secrets: &Secrets) -> Probe {
    if is_sql(from) {
        Probe::start(from, sql::Visitor { password: secrets.agent.clone() })
    } else {
        redis::probe(from, to, secrets)
    }
}

/// What a gap depends on, as it is now.
pub(crate) async fn circumstances(client: &Client, paths: &Paths) -> Result<Circumstances, Error> {
    Ok(Circumstances { host: site::host(), data_bytes: client.data_bytes(paths).await?, read_gap_us: None })
}

/// Begins to look as a client does that stays and reads.
pub(crate) fn reader(from: &EngineSpec, to: &EngineSpec, secrets: &Secrets) -> Probe {
    if is_sql(from) {
        Probe::start(from, sql::Reader::new(secrets.agent.clone()))
    } else {
        redis::reader(from, to, secrets)
    }
}

/// Whether an engine counts as writes what it does before any client has reached it. What one of Redis loads it does not count.
pub(crate) fn counts_own_writes(spec: &EngineSpec) -> bool {
    is_sql(spec)
}

/// How many of so many short-lived clients of the probe this engine counts as writes. Those of SQL are asked for nothing that
/// would be one.
pub(crate) fn writes_of_probe(spec: &EngineSpec, clients: u64) -> u64 {
    if is_sql(spec) { 0 } else { clients }
}

/// How long an engine with so many files needs from the stop to the proof beside what its data costs, in milliseconds on a small
/// machine. An own step looks at each table.
pub(crate) fn stop_and_start_millis(from: &EngineSpec, to: &EngineSpec, files: u64) -> u64 {
    // Of MySQL, which needs three seconds to end whatever it has to do; MariaDB needs half of it.
    const SQL: u64 = 5_000;
    const SQL_OWN_STEP: u64 = 12_000;
    const REDIS: u64 = 150;
    match (is_sql(to), has_own_step(from, to)) {
        (true, true) => SQL + SQL_OWN_STEP + files,
        (true, false) => SQL,
        (false, _) => REDIS * if opens_in_place(to) { 1 } else { 2 },
    }
}

/// How much data an engine reads in a second before it serves; `None` where it serves without having read it.
pub(crate) fn load_bytes_a_second(spec: &EngineSpec) -> Option<u64> {
    (!is_sql(spec)).then_some(200 << 20)
}

impl Client {
    pub(crate) async fn connect(spec: &EngineSpec, paths: &Paths, secrets: &Secrets) -> Result<Self, Error> {
        if is_sql(spec) {
            sql::Client::connect(Dialect::of(spec), paths).await.map(Self::Sql)
        } else {
            redis::Client::connect(spec, paths, secrets).await.map(Self::Redis)
        }
    }

    /// Connects as soon as the engine has its data. Race it against the end of the process.
    pub(crate) async fn ready(
        spec: &EngineSpec,
        paths: &Paths,
        secrets: &Secrets,
        silence: Duration,
    ) -> Result<Self, Error> {
        if is_sql(spec) {
            sql::Client::ready(Dialect::of(spec), paths).await.map(Self::Sql)
        } else {
            redis::Client::ready(spec, paths, secrets, silence).await.map(Self::Redis)
        }
    }

    /// Everything that stands in the way of an upgrade, and what it would mean.
    /// `root` is the target's engine root, where its image is here.
    pub(crate) async fn look(
        &self,
        from: &EngineSpec,
        to: &EngineSpec,
        paths: &Paths,
        root: Option<&Path>,
    ) -> Result<Seen, Error> {
        match self {
            Self::Redis(client) => {
                let facts = client.facts(from, paths).await?;
                let number = |name: &str| facts.info.get(name).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
                let vehicle = match number("aof_enabled") {
                    0 => {
                        "the append-only file is turned on for the time of the upgrade, so that the stop needs no snapshot"
                    }
                    _ => "the append-only file is rewritten, so that little is left to be read",
                };
                Ok(Seen {
                    data_bytes: number("used_memory_dataset"),
                    while_serving: Some(vehicle.to_owned()),
                    findings: checks::check(&facts, from, to),
                })
            }
            Self::Sql(client) => Ok(Seen {
                findings: client.look(from, to, paths, root).await?,
                data_bytes: 0,
                while_serving: Some("dirty pages are written, so that the stop is short".to_owned()),
            }),
        }
    }

    /// How much data there is, as far as a gap depends on it: in memory where it has to be loaded, else in files. In bytes.
    pub(crate) async fn data_bytes(&self, paths: &Paths) -> Result<u64, Error> {
        match self {
            Self::Redis(client) => client.data_bytes().await,
            Self::Sql(_) => Ok(site::list(&paths.data, |_| Some(Kind::Other))?.iter().map(|file| file.size).sum()),
        }
    }

    /// Whether the engine is what `expect` says: version, role, configuration in force.
    pub(crate) async fn verify(&self, expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        match self {
            Self::Redis(client) => client.verify(expect).await,
            Self::Sql(client) => client.verify(expect).await,
        }
    }

    /// The same of an engine that was started closed.
    pub(crate) async fn verify_closed(&self, expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        match self {
            Self::Redis(client) => client.verify_closed(expect).await,
            Self::Sql(client) => client.verify(expect).await,
        }
    }

    /// What [`Client::prepare`] will change, and what is compared. Changes nothing.
    pub(crate) async fn plan_measures(&self) -> Result<Temporary, Error> {
        match self {
            Self::Redis(client) => client.plan_measures().await.map(Temporary::Redis),
            Self::Sql(client) => client.plan_measures().await.map(Temporary::Sql),
        }
    }

    /// Takes measures so that the stop is short and loses nothing.
    pub(crate) async fn prepare(&self, spec: &EngineSpec, measures: &Temporary) -> Result<(), Error> {
        match (self, measures) {
            (Self::Redis(client), Temporary::Redis(measures)) => client.prepare(spec, measures).await,
            (Self::Sql(client), Temporary::Sql(_)) => client.prepare().await,
            _ => Err(mixed()),
        }
    }

    /// Looks at what [`Client::quiesce`] would else have to look at while clients wait.
    pub(crate) async fn look_ahead(&self) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.look_ahead().await,
            Self::Sql(_) => Ok(()),
        }
    }

    /// Makes writes wait and tells what there is.
    pub(crate) async fn quiesce(&self, spec: &EngineSpec, measures: &Temporary) -> Result<Quiesced, Error> {
        match (self, measures) {
            (Self::Redis(client), Temporary::Redis(measures)) => {
                let quiesced = client.quiesce(spec, measures).await?;
                Ok(Quiesced { fingerprint: Fingerprint::Redis(quiesced.fingerprint), until: quiesced.until })
            }
            (Self::Sql(client), Temporary::Sql(measures)) => {
                let until = Instant::now() + FOR_EVER;
                Ok(Quiesced { fingerprint: Fingerprint::Sql(client.quiesce(measures).await?), until })
            }
            _ => Err(mixed()),
        }
    }

    /// Why no other version could take over what is there now that writes wait, if it could not.
    pub(crate) async fn hindrance(&self) -> Result<Option<String>, Error> {
        match self {
            Self::Redis(_) => Ok(None),
            Self::Sql(client) => client.undecided().await,
        }
    }

    /// Writes go on. Can be called again, and when they never waited.
    pub(crate) async fn unquiesce(&self, spec: &EngineSpec, measures: &Temporary) -> Result<(), Error> {
        match (self, measures) {
            (Self::Redis(client), _) => client.unquiesce(spec).await,
            (Self::Sql(client), Temporary::Sql(measures)) => client.unquiesce(&measures.before).await,
            // Nothing was planned, so nothing was done.
            (Self::Sql(_), Temporary::Redis(_)) => Ok(()),
        }
    }

    /// Ends the engine with all that it acknowledged on disk.
    pub(crate) async fn stop(self, spec: &EngineSpec, process: &Process, within: Duration) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.stop(spec, process, within).await,
            Self::Sql(client) => client.stop(spec, process).await,
        }
    }

    /// What the engine holds otherwise than `before` says, and how much was compared, in a sentence. For an engine that was
    /// started closed.
    pub(crate) async fn compare(
        &self,
        measures: &Temporary,
        before: &Fingerprint,
    ) -> Result<(Vec<Finding>, String), Error> {
        match (self, before) {
            (Self::Redis(client), Fingerprint::Redis(held)) => Ok((client.compare(held).await?, before.summary())),
            (Self::Sql(client), Fingerprint::Sql(before)) => {
                let measures = match measures {
                    Temporary::Sql(measures) => Some(measures),
                    Temporary::Redis(_) => None,
                };
                client.compare(measures, before).await
            }
            _ => Err(mixed()),
        }
    }

    /// The new engine's own step, with what it said.
    pub(crate) async fn own_step(&self, site: Site<'_>, cgroup: Option<CgroupLimits>) -> Result<String, Error> {
        match self {
            Self::Redis(_) => Ok(String::new()),
            Self::Sql(client) => client.own_step(site, cgroup).await,
        }
    }

    /// Ends the measures.
    pub(crate) async fn settle(&self, want: &Settled, paths: &Paths) -> Result<(), Error> {
        match (self, want) {
            (Self::Redis(client), Settled::Redis(want)) => client.settle(want, paths).await,
            (Self::Sql(client), Settled::Sql(want)) => client.settle(want).await,
            _ => Err(mixed()),
        }
    }

    /// Answers a request about databases and accounts. Only engines of SQL have any.
    pub(crate) async fn accounts(&self, request: &account::Request) -> Result<account::Answer, Error> {
        match self {
            Self::Redis(_) => Err(Error::Misunderstood { command: "a request about databases and accounts" }),
            Self::Sql(client) => client.accounts(request).await,
        }
    }

    /// What the engine has counted as writes since it started, and how long ago that is.
    pub(crate) async fn writes(&self) -> Result<(u64, Duration), Error> {
        match self {
            Self::Redis(client) => client.writes().await,
            Self::Sql(client) => client.writes().await,
        }
    }

    /// What it says it is.
    pub(crate) async fn version(&self) -> Result<Number, Error> {
        match self {
            Self::Redis(client) => client.version().await,
            Self::Sql(client) => client.version().await,
        }
    }

    /// The settings that it has now, by name.
    pub(crate) async fn settings(&self, spec: &EngineSpec) -> Result<BTreeMap<String, String>, Error> {
        match self {
            Self::Redis(client) => client.settings().await,
            Self::Sql(client) => client.settings(spec).await,
        }
    }

    /// Whether it has its port.
    pub(crate) async fn listens(&self) -> Result<bool, Error> {
        match self {
            Self::Redis(client) => client.listens().await,
            Self::Sql(client) => client.listens().await,
        }
    }

    /// Opens its port, or closes it. Only where [`opens_in_place`].
    pub(crate) async fn listen(&self, spec: &EngineSpec, wanted: bool) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.listen(spec, wanted).await,
            Self::Sql(_) => Ok(()),
        }
    }

    /// Ends what makes an engine that was started closed other than clients may have it.
    pub(crate) async fn lift(&self, spec: &EngineSpec) -> Result<(), Error> {
        match self {
            Self::Redis(client) => client.lift(spec).await,
            Self::Sql(client) => client.lift(spec).await,
        }
    }
}

/// No plan leads from one family to the other, so the journal is not of this engine.
fn mixed() -> Error {
    Error::Misunderstood { command: "the agent's journal" }
}
