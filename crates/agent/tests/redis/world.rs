//! One instance on one volume, driven as the agent drives it, and clients of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coffer_agent::redis::{self as driver, Client, Fingerprint, launch, opens_in_place, write_config};
use coffer_agent::sandbox::{self, Process, User};
use coffer_agent::site::{Exposure, Paths, Port, PreImage, Probe, Secrets, Site};
use coffer_core::datastore::Datastore;
use coffer_core::engine::redis::config::Persistence;
use coffer_core::id::{OperationId, VersionId};
use coffer_core::spec::{EngineSpec, ImageWanted};
use coffer_image::Store;
use redis::{ConnectionAddr, IntoConnectionInfo as _, ProtocolVersion, RedisConnectionInfo};
use rustix::process::Signal;

const TENANT: &str = "tenant password \"with\" quotes";
const AGENT: &str = "agent password";
/// The user that engines get from root.
const ENGINE: u32 = 700_011;
pub const LIMIT: Duration = Duration::from_secs(60);

/// How an instance keeps its data.
pub const NONE: &[(&str, &str)] = &[("save", "")];
pub const RDB: &[(&str, &str)] = &[];
pub const AOF: &[(&str, &str)] = &[("save", ""), ("appendonly", "yes")];
pub const BOTH: &[(&str, &str)] = &[("appendonly", "yes")];

/// Engines by `datastore number`, from the image store that `COFFER_TEST_STORE` names.
pub fn engines() -> Result<BTreeMap<String, PathBuf>, String> {
    let dir = std::env::var_os("COFFER_TEST_STORE").ok_or("COFFER_TEST_STORE names no image store")?;
    let store = Store::open(dir.as_ref()).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let images = store.list().map_err(|e| e.to_string())?;
    let root = |digest| runtime.block_on(store.ensure_root(digest)).unwrap();
    Ok(images.iter().map(|i| (format!("{} {}", i.datastore, i.number), root(&i.digest))).collect())
}

pub struct World {
    engines: Arc<BTreeMap<String, PathBuf>>,
    pub paths: Paths,
    pub secrets: Secrets,
    pub user: User,
    address: IpAddr,
    process: Option<Process>,
    _volume: tempfile::TempDir,
}

impl World {
    pub fn new(engines: &Arc<BTreeMap<String, PathBuf>>) -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(1);
        // Every test process and every world in it has its own address.
        let pid = std::process::id();
        let address =
            IpAddr::from([127, 21 + (pid >> 8) as u8 % 100, pid as u8, NEXT.fetch_add(1, Ordering::Relaxed) as u8]);
        let volume = tempfile::tempdir().unwrap();
        // Longer than the address of a unix socket may be.
        let deep = volume.path().join("a-directory-with-a-long-name".repeat(5));
        fs_err::create_dir_all(&deep).unwrap();
        let paths = Paths::of(&deep);
        fs_err::create_dir(&paths.agent).unwrap();
        let root = rustix::process::geteuid().is_root();
        Self {
            engines: Arc::clone(engines),
            paths,
            secrets: Secrets { tenant: TENANT.into(), agent: AGENT.into() },
            user: if root { User::Fixed { uid: ENGINE, gid: ENGINE } } else { User::Own },
            address,
            process: None,
            _volume: volume,
        }
    }

    pub fn spec(&self, engine: &str, settings: &[(&str, &str)]) -> EngineSpec {
        let (datastore, number) = engine.split_once(' ').unwrap();
        let image = ImageWanted {
            datastore: datastore.parse::<Datastore>().unwrap(),
            version: number.to_owned(),
            digest: None,
            sources: serde_json::Value::Null,
        };
        EngineSpec {
            version: VersionId(uuid(engine)),
            number: number.parse().unwrap(),
            image,
            settings: settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            memory_bytes: 512 << 20,
            cpu_millis: 1000,
            volume_bytes: 1 << 30,
            address: self.address,
        }
    }

    pub fn root(&self, spec: &EngineSpec) -> &PathBuf {
        &self.engines[&spec.label()]
    }

    pub fn site(&self, spec: &EngineSpec) -> Site<'_> {
        Site { root: self.root(spec), paths: &self.paths, secrets: &self.secrets, user: self.user }
    }

    pub async fn start(&mut self, spec: &EngineSpec, exposure: Exposure) -> Client {
        write_config(spec, self.site(spec)).unwrap();
        let port = if exposure == Exposure::Open { Port::AtStart } else { Port::Later };
        let launch = launch(spec, self.site(spec), exposure, port).unwrap();
        let process = sandbox::start(&launch).unwrap().process;
        let client = tokio::select! {
            client = Client::ready(spec, &self.paths, &self.secrets, LIMIT) => client.unwrap(),
            exit = process.exited() => panic!("{} ended: {:?}: {}", spec.label(), exit, self.log()),
        };
        self.process = Some(process);
        client
    }

    pub async fn client(&self, spec: &EngineSpec) -> Client {
        Client::connect(spec, &self.paths, &self.secrets).await.unwrap()
    }

    pub async fn stop(&mut self, spec: &EngineSpec, client: Client) {
        client
            .stop(spec, self.process.as_ref().unwrap(), LIMIT)
            .await
            .unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        self.process = None;
    }

    pub async fn kill(&mut self) {
        let process = self.process.take().unwrap();
        process.signal(Signal::KILL).unwrap();
        process.exited().await.unwrap();
    }

    pub fn log(&self) -> String {
        let log = fs_err::read_to_string(self.paths.agent.join("engine.log")).unwrap_or_default();
        log.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    pub fn preimage(&self) -> PreImage {
        PreImage::of(&self.paths, OperationId(uuid("an operation")), driver::kind)
    }

    /// The section up to the complete pre-image: the old engine is gone.
    pub async fn down(&mut self, from: &EngineSpec) -> (Fingerprint, Persistence) {
        let client = self.client(from).await;
        let temporary = client.plan_measures().await.unwrap();
        client.prepare(from, &temporary).await.unwrap();
        self.preimage().copy_ahead().unwrap();
        let began = Instant::now();
        let quiesced = client.quiesce(from, &temporary).await.unwrap();
        let waits = began.elapsed();
        self.stop(from, client).await;
        let stopped = began.elapsed();
        self.preimage().complete().unwrap();
        println!("  quiesce {waits:?}, stop {:?}, keep {:?}", stopped - waits, began.elapsed() - stopped);
        (quiesced.fingerprint, temporary.found.unwrap())
    }

    /// The section from the start of an engine on: started closed, proven, opened.
    pub async fn up(&mut self, to: &EngineSpec, before: &Fingerprint) -> Client {
        let began = Instant::now();
        let client = self.start(to, Exposure::Closed).await;
        let started = began.elapsed();
        let findings = client.prove(to, before).await.unwrap();
        println!("  start {started:?}, prove {:?}", began.elapsed() - started);
        assert!(findings.is_empty(), "{findings:#?}");
        if opens_in_place(to.number) {
            client.lift(to).await.unwrap();
            client.listen(to, true).await.unwrap();
            return client;
        }
        self.stop(to, client).await;
        self.start(to, Exposure::Open).await
    }

    pub fn probe(&self, from: &EngineSpec, to: &EngineSpec) -> Probe {
        driver::probe(from, to, &self.secrets)
    }

    /// A client as the tenant has it.
    pub fn tenant(&self) -> redis::RedisResult<redis::Connection> {
        let addr = ConnectionAddr::Tcp(self.address.to_string(), 6379);
        connect(addr, RedisConnectionInfo::default().set_password(TENANT))
    }

    /// A client over the unix socket as the agent has it.
    pub fn inside(&self, spec: &EngineSpec) -> redis::Connection {
        let run = fs_err::File::open(&self.paths.run).unwrap();
        let addr = ConnectionAddr::Unix(format!("/proc/self/fd/{}/redis.sock", run.as_raw_fd()).into());
        let login = match spec.datastore() == Datastore::Redis && !spec.number.at_least(6, 0) {
            true => RedisConnectionInfo::default().set_password(TENANT),
            false => RedisConnectionInfo::default().set_username("coffer").set_password(AGENT),
        };
        connect(addr, login).unwrap()
    }

    pub fn writer(&self) -> Writer {
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let address = self.address;
        Writer { ended, thread: std::thread::spawn(move || write(address, &told)) }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            let _ = process.signal(Signal::KILL);
            let _ = process.wait_exit(LIMIT);
        }
    }
}

fn connect(addr: ConnectionAddr, login: RedisConnectionInfo) -> redis::RedisResult<redis::Connection> {
    let login = login.set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    redis::Client::open(addr.into_connection_info()?.set_redis_settings(login))?.get_connection_with_timeout(LIMIT)
}

fn uuid(text: &str) -> uuid::Uuid {
    uuid::Uuid::from_u128(text.bytes().fold(0, |id, byte| id.wrapping_mul(257) + u128::from(byte)))
}

/// A tenant who writes without a pause and notes what was acknowledged.
pub struct Writer {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Acknowledged>,
}

pub struct Acknowledged {
    pub writes: Vec<u64>,
    pub longest_gap: Duration,
}

impl Writer {
    pub fn finish(self) -> Acknowledged {
        self.ended.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

fn write(address: IpAddr, told: &AtomicBool) -> Acknowledged {
    let (mut writes, mut longest_gap, mut last) = (Vec::new(), Duration::ZERO, Instant::now());
    let mut at = 0;
    let mut connection = None;
    while !told.load(Ordering::Acquire) {
        let addr = ConnectionAddr::Tcp(address.to_string(), 6379);
        let login = RedisConnectionInfo::default().set_password(TENANT);
        connection = connection.or_else(|| connect(addr, login).ok());
        at += 1;
        let set = |c: &mut redis::Connection| redis::cmd("SET").arg(format!("w:{at}")).arg(at).query::<String>(c);
        match connection.as_mut().map(set) {
            Some(Ok(_)) => {
                writes.push(at);
                longest_gap = longest_gap.max(last.elapsed());
                last = Instant::now();
            }
            _ => {
                connection = None;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Acknowledged { writes, longest_gap }
}
