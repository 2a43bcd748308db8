//! The connection to an engine, and what can be asked of it without changing anything.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coffer_core::datastore::{Datastore, Number};
use coffer_core::engine::redis::acl;
use coffer_core::engine::redis::checks::{self, Facts};
use coffer_core::engine::redis::config::SOCKET;
use coffer_core::finding::Finding;
use coffer_core::spec::EngineSpec;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisResult, ServerErrorKind,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use super::aof::Sound;
use super::facts;
use crate::site::{Error, Paths, Secrets};

/// How long an engine may take to answer. Starting a writer of gigabytes takes it a second.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long one attempt to reach a starting engine may take.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// The pauses between attempts: short at first, because an empty engine is there within milliseconds.
const PAUSE: Duration = Duration::from_millis(1);
const LONG_PAUSE: Duration = Duration::from_millis(20);

/// A connection to a running engine over its unix socket, as the agent's user. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<OnceCell<MultiplexedConnection>>,
    login: Arc<Login>,
    pub(super) paths: Paths,
    /// Number and family by the spec, which decide what the engine understands.
    pub(super) number: Number,
    pub(super) is_valkey: bool,
    pub(super) has_users: bool,
    pub(super) pauses_writes: bool,
    /// How far its append-only file was looked at.
    pub(super) sound: Arc<Mutex<Sound>>,
}

#[derive(Debug)]
struct Login {
    run: PathBuf,
    user: Option<&'static str>,
    password: SecretString,
}

impl Client {
    /// Connects. Fails when nothing listens. Before 6.2 the greeting is left to the first question, because an engine
    /// whose clients wait would not return it.
    pub async fn connect(spec: &EngineSpec, paths: &Paths, secrets: &Secrets) -> Result<Self, Error> {
        let client = Self::new(spec, paths, secrets);
        if client.pauses_writes {
            client.connection().await?;
        }
        Ok(client)
    }

    fn new(spec: &EngineSpec, paths: &Paths, secrets: &Secrets) -> Self {
        let has_users = acl::has_users(spec.datastore(), spec.number);
        let (user, password) = if has_users { (Some(acl::AGENT), &secrets.agent) } else { (None, &secrets.tenant) };
        Self {
            connection: Arc::default(),
            login: Arc::new(Login { run: paths.run.clone(), user, password: password.clone() }),
            paths: paths.clone(),
            number: spec.number,
            is_valkey: spec.datastore() == Datastore::Valkey,
            has_users,
            pauses_writes: pauses_writes(spec),
            sound: Arc::default(),
        }
    }

    /// Connects as soon as the engine tells how many keys it has, which it does when it has loaded all its data. An engine that
    /// says that it is loading is waited for without a limit; one that says nothing, `silence` long. Race it against the
    /// end of the process, of which it knows nothing.
    pub async fn ready(spec: &EngineSpec, paths: &Paths, secrets: &Secrets, silence: Duration) -> Result<Self, Error> {
        let began = Instant::now();
        let mut heard = began;
        loop {
            let client = Self::new(spec, paths, secrets);
            // Not PING, which an engine refuses that has no room to write: that one answers everything else.
            let question = redis::cmd("DBSIZE");
            let attempt = client.ask::<u64>("DBSIZE", &question);
            let why = match tokio::time::timeout(ATTEMPT_LIMIT, attempt).await {
                Ok(Ok(_)) => return Ok(client),
                Ok(Err(Error::Loading)) => {
                    heard = Instant::now();
                    String::new()
                }
                Ok(Err(why)) => why.to_string(),
                Err(_) => String::new(),
            };
            if heard.elapsed() > silence {
                let detail = if why.is_empty() { why } else { format!(": {why}") };
                return Err(Error::Late { what: "answer", within: silence, detail });
            }
            let pause = if began.elapsed() < Duration::from_secs(1) { PAUSE } else { LONG_PAUSE };
            sleep(pause).await;
        }
    }

    /// What the engine says it is.
    pub async fn version(&self) -> Result<Number, Error> {
        let info = self.info("server").await?;
        // Valkey also says which Redis it is like.
        let said = info.get("valkey_version").or_else(|| info.get("redis_version"));
        said.and_then(|v| v.parse().ok()).ok_or(Error::Misunderstood { command: "INFO" })
    }

    /// Its settings now. Of two names for one the newer.
    pub(crate) async fn settings(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut all = self.config("*").await?;
        let newer = |name: &str| name.replace("slave", "replica").replace("ziplist", "listpack");
        let twins: Vec<_> =
            all.keys().filter(|name| newer(name) != **name && all.contains_key(&newer(name))).cloned().collect();
        for name in twins {
            all.remove(&name);
        }
        Ok(all)
    }

    /// Everything that the checks look at. `spec` is what runs.
    pub async fn facts(&self, spec: &EngineSpec, paths: &Paths) -> Result<Facts, Error> {
        facts::gather(self, spec, paths).await
    }

    /// Whether the engine is what `expect` says: version, role, configuration in force.
    pub async fn verify(&self, expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        self.verify_held(expect, false).await
    }

    /// The same of an engine that was started closed.
    pub async fn verify_closed(&self, expect: &EngineSpec) -> Result<Vec<Finding>, Error> {
        self.verify_held(expect, true).await
    }

    async fn verify_held(&self, expect: &EngineSpec, held: bool) -> Result<Vec<Finding>, Error> {
        let mut findings = checks::in_force(&self.config("*").await?, expect, held);
        let found = self.version().await?;
        if found != expect.number {
            let message = format!("it says that it is {found} instead of {}", expect.number);
            findings.push(Finding::error("proof.version", "engine", message, "check what the engine image carries"));
        }
        let role = self.info("replication").await?.remove("role").unwrap_or_default();
        if role != "master" {
            let message = format!("it is '{role}' instead of master");
            findings.push(Finding::error("proof.role", "role", message, "REPLICAOF NO ONE"));
        }
        Ok(findings)
    }

    /// One section of `INFO`, or `all`.
    pub(super) async fn info(&self, section: &str) -> Result<BTreeMap<String, String>, Error> {
        let text: String = self.ask("INFO", redis::cmd("INFO").arg(section)).await?;
        Ok(parse_info(&text))
    }

    /// How much of its memory is data, in bytes. Before 4.0 it tells only how much memory it has.
    pub(crate) async fn data_bytes(&self) -> Result<u64, Error> {
        let memory = self.info("memory").await?;
        let bytes = ["used_memory_dataset", "used_memory"].iter().find_map(|name| memory.get(*name)?.parse().ok());
        bytes.ok_or(Error::Misunderstood { command: "INFO memory" })
    }

    /// Settings at run time.
    pub(super) async fn config(&self, pattern: &str) -> Result<BTreeMap<String, String>, Error> {
        self.ask("CONFIG GET", redis::cmd("CONFIG").arg("GET").arg(pattern)).await
    }

    /// Changes one setting at run time.
    pub(crate) async fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        self.ask("CONFIG SET", redis::cmd("CONFIG").arg("SET").arg(name).arg(value)).await
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &'static str, cmd: &Cmd) -> Result<T, Error> {
        let mut connection = self.connection().await?;
        cmd.query_async(&mut connection).await.map_err(|e| self.error(command, &e))
    }

    /// Many questions at once, whose answers may be errors. No questions have no answers.
    pub(super) async fn ask_all<T: FromRedisValue>(
        &self,
        command: &'static str,
        questions: &mut Pipeline,
    ) -> Result<Vec<RedisResult<T>>, Error> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = self.connection().await?;
        questions.ignore_errors();
        questions.query_async(&mut connection).await.map_err(|e| self.error(command, &e))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Error> {
        self.connection.get_or_try_init(|| self.greet()).await.cloned()
    }

    async fn greet(&self) -> Result<MultiplexedConnection, Error> {
        // A path in a deep volume is longer than the 108 bytes that an address takes; one through an open directory is not.
        let run = fs_err::File::open(&self.login.run)?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}/{}", run.as_raw_fd(), file_name(SOCKET)));
        let mut login = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_skip_set_lib_name()
            .set_password(self.login.password.expose_secret());
        if let Some(user) = self.login.user {
            login = login.set_username(user);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT));
        let connected = async {
            let address = ConnectionAddr::Unix(socket).into_connection_info()?.set_redis_settings(login);
            redis::Client::open(address)?.get_multiplexed_async_connection_with_config(&config).await
        };
        connected.await.map_err(|e| self.error("AUTH", &e))
    }

    pub(super) fn error(&self, command: &'static str, error: &RedisError) -> Error {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::BusyLoading) => Error::Loading,
            ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::AuthenticationFailed => {
                Error::Refused { command, reason: error.detail().map_or_else(|| error.to_string(), str::to_owned) }
            }
            ErrorKind::UnexpectedReturnType | ErrorKind::Parse => Error::Misunderstood { command },
            _ => Error::Unreachable {
                socket: self.login.run.join(file_name(SOCKET)),
                reason: format!("{command}: {error}"),
            },
        }
    }
}

/// Whether the engine can make writes wait and answer everything else: since 6.2. Before, it makes all clients wait.
pub(crate) fn pauses_writes(spec: &EngineSpec) -> bool {
    acl::has_channels(spec.datastore(), spec.number)
}

pub(super) fn parse_info(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn file_name(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}
