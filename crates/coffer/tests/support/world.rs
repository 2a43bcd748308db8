//! A world of its own for a test: a real `coffer serve` with its own data directory, port and addresses, and real engines.
//!
//! Worlds never meet, in one test program or in several at once: each holds a slice of 127.20.0.0/16 for its life, and the
//! kernel knows who holds which. When a world ends, by whatever way, its server, agents and engines end with it.
//!
//! The engines come from the image store that `COFFER_TEST_STORE` names. Without one [`World::start`] says loudly that the
//! test did not run.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::disk::Disk;
use super::http::{self, Answer};
use super::leftovers::{end_all_of, holder, processes, remove, sees};
use super::resp::Connection;

/// How long anything may take before a test fails. Machines that test are slow and busy: it is no measure of anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What a command of `coffer` said.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output, which must be JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }

    /// The same, if the command went well. If not, the test fails.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

/// An instance that serves.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub id: String,
    pub address: SocketAddr,
    pub password: String,
}

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub token: String,
    /// The id of the project.
    pub project: String,
}

/// A server with everything that is its own.
pub(crate) struct World {
    data: PathBuf,
    listen: SocketAddr,
    server: Option<Child>,
    logins: RefCell<BTreeMap<String, Login>>,
    /// What the data directory is on, where that is a disk of its own.
    disk: Option<Disk>,
    /// Held for life: nobody else has these addresses.
    slice: Slice,
}

/// 254 addresses that nobody else uses.
struct Slice {
    number: u8,
    _held: UdpSocket,
}

impl Slice {
    fn claim() -> Self {
        // The first are left to servers that people start.
        (16..=255)
            .find_map(|number| {
                // No instance is given the first address of a pool, and a socket ends with its process.
                let held = UdpSocket::bind((Ipv4Addr::new(127, 20, number, 0), 8779)).ok()?;
                let slice = Self { number, _held: held };
                // Engines of a test that was killed may still be there. Those of another target directory are not ours to end.
                end_all_of(&slice.data());
                let unused = |last| {
                    [6379, 3306]
                        .into_iter()
                        .all(|port| TcpListener::bind((Ipv4Addr::new(127, 20, number, last), port)).is_ok())
                };
                (1..=4).all(unused).then_some(slice)
            })
            .expect("a slice of 127.20.0.0/16 is free")
    }

    /// Where the world that has the slice keeps its data.
    fn data(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("world-{}", self.number))
    }
}

impl World {
    /// A world with all versions of both catalogues whose images are there. `None`, and said so, without an image store.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with("", "")
    }

    /// The same, with more entries for the catalogue and more lines for the configuration file, which may say where the
    /// addresses are from.
    pub(crate) fn start_with(catalogue: &str, config: &str) -> Option<Self> {
        let mut world = Self::prepare(catalogue, config)?;
        world.start_server();
        Some(world)
    }

    /// A world whose server does not run yet.
    pub(crate) fn prepare(catalogue: &str, config: &str) -> Option<Self> {
        Self::prepare_on(None, catalogue, config)
    }

    /// The same with all that it writes on a disk of its own of so many MiB. `None`, and said so, where none may be mounted.
    pub(crate) fn prepare_on_disk(mib: u32, catalogue: &str, config: &str) -> Option<Self> {
        Self::prepare_on(Some(mib), catalogue, config)
    }

    fn prepare_on(mib: Option<u32>, catalogue: &str, config: &str) -> Option<Self> {
        let Some(store) = std::env::var_os("COFFER_TEST_STORE").map(PathBuf::from).filter(|store| store.is_dir())
        else {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            println!("NOT RUN: {test}: COFFER_TEST_STORE names no image store; engines/fetch-test-engines makes one");
            return None;
        };
        let slice = Slice::claim();
        let data = slice.data();
        remove(&data);
        fs_err::create_dir_all(&data).expect("a data directory");
        // As the server makes it: engines run as users of their own and have to get through.
        let passable = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs_err::set_permissions(&data, passable).expect("the mode of the data directory");
        let engines = if mib.is_some() { data.with_extension("engines") } else { data.join("engines") };
        for part in ["images", "roots"] {
            link_all(&store.join(part), &engines.join(part));
        }
        let disk = match mib.map(|mib| Disk::make(&data, mib, &engines)) {
            Some(None) => {
                println!(
                    "NOT RUN: on a disk of its own: only root may mount one, and only where there are loop devices"
                );
                remove(&data);
                return None;
            }
            disk => disk.flatten(),
        };
        fs_err::write(data.join("catalogue.toml"), merged_catalogue(catalogue)).expect("the catalogue");
        let number = slice.number;
        let uid = 710_000 + 256 * u32::from(number);
        let pool = match config.contains("address_pool") {
            true => String::new(),
            false => format!("address_pool = \"127.20.{number}.0/24\""),
        };
        let config = format!(
            "{pool}\nengine_uid_base = {uid}\ncatalogue = '{}'\n{config}\n\
             [quota]\ninstances = -1\nvolumes = -1\n",
            data.join("catalogue.toml").display()
        );
        fs_err::write(data.join("coffer.toml"), config).expect("the configuration");
        let listen = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        Some(Self { data, listen, server: None, logins: RefCell::default(), disk, slice })
    }

    /// Gives the instances a file system of their own with so many MiB. Before the server is started. Needs root: tells
    /// whether it worked.
    pub(crate) fn ensure_disk(&self, mib: u32) -> bool {
        let at = self.data.join("instances");
        fs_err::create_dir_all(&at).expect("a directory");
        let mut mount = Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(at);
        mount.output().is_ok_and(|output| output.status.success())
    }

    /// Starts the server if it does not run, and waits until it answers.
    pub(crate) fn start_server(&mut self) {
        self.start_server_with(&[]);
    }

    /// The same with more in its environment.
    pub(crate) fn start_server_with(&mut self, environment: &[(&str, String)]) {
        if self.server.is_some() {
            return;
        }
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.data.join("serve.log"));
        let log = log.expect("the server's log").into_parts().0;
        let child = Command::new(env!("CARGO_BIN_EXE_coffer"))
            .args(["serve", "--listen", &self.listen.to_string(), "--data"])
            .arg(&self.data)
            .arg("--config")
            .arg(self.data.join("coffer.toml"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the server's log"))
            .stderr(log)
            .spawn()
            .expect("coffer serve starts");
        let server = self.server.insert(child);
        wait_for("coffer serve to answer", || {
            if let Some(status) = server.try_wait().expect("a child") {
                let log = fs_err::read_to_string(self.data.join("serve.log")).unwrap_or_default();
                panic!("coffer serve ended ({status}):\n{log}");
            }
            http::send(self.listen, "GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Kills the server, as a power cut would. Agents and engines go on.
    pub(crate) fn kill_server(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("the server can be killed");
            server.wait().expect("the server is gone");
        }
    }

    /// Ends everything that was started here, the server too, and waits until all of it is gone.
    pub(crate) fn kill_everything(&mut self) {
        self.kill_server();
        end_all_of(&self.data);
    }

    /// The server, if it runs.
    pub(crate) fn server_pid(&self) -> Option<u32> {
        self.server.as_ref().map(Child::id)
    }

    /// Gives the disk of its own power again. Nothing of this world runs.
    pub(crate) fn power_on(&mut self) {
        self.disk.as_mut().expect("a disk of its own").again();
    }

    /// The disk of its own, if it has one.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Tells the server to end, and waits until it has.
    pub(crate) fn stop_server(&mut self) {
        self.signal_server(Signal::TERM);
        if let Some(mut server) = self.server.take() {
            let status = server.wait().expect("the server is gone");
            assert!(status.success(), "told to end, the server ended with {status}");
        }
    }

    /// Waits until the server has ended by itself.
    pub(crate) fn wait_for_end_of_server(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        wait_for("the server to end", || server.try_wait().expect("a child").is_some());
    }

    /// Sends the server a signal.
    pub(crate) fn signal_server(&self, signal: Signal) {
        let server = self.server.as_ref().expect("the server runs");
        kill_process(Pid::from_child(server), signal).expect("the server can be told");
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The third byte of its addresses, unless the configuration says where they are from.
    pub(crate) fn slice(&self) -> u8 {
        self.slice.number
    }

    /// Where the API is.
    pub(crate) fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The directory of an instance.
    pub(crate) fn volume(&self, id: &str) -> PathBuf {
        self.data.join("instances").join(id)
    }

    /// A command of the tenant `demo`.
    pub(crate) fn coffer<A: AsRef<str>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.coffer_as("demo", arguments)
    }

    /// A command of `demo` or `admin`. For those that need no server `--data` and the catalogue are in the environment.
    pub(crate) fn coffer_as<A: AsRef<str>>(&self, cloud: &str, arguments: impl IntoIterator<Item = A>) -> Output {
        let output = Command::new(env!("CARGO_BIN_EXE_coffer"))
            .args(arguments.into_iter().map(|argument| argument.as_ref().to_owned()))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("OS_CLIENT_CONFIG_FILE", self.data.join("clouds.yaml"))
            .env("OS_CLOUD", cloud)
            .env("COFFER_DATA", &self.data)
            .env("COFFER_CATALOGUE", self.data.join("catalogue.toml"))
            .stdin(Stdio::null())
            .output()
            .expect("coffer starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // 128 and more, as shells say it, where a signal ended it.
        let code = output.status.code().unwrap_or(128);
        Output { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// Logs in as `demo` or `admin`, once.
    pub(crate) fn login(&self, cloud: &str) -> Login {
        self.logins.borrow_mut().entry(cloud.to_owned()).or_insert_with(|| self.log_in(cloud)).clone()
    }

    fn log_in(&self, cloud: &str) -> Login {
        let clouds = fs_err::read_to_string(self.data.join("clouds.yaml")).expect("clouds.yaml");
        let clouds: Value = serde_norway::from_str(&clouds).expect("clouds.yaml is YAML");
        let auth = &clouds["clouds"][cloud]["auth"];
        let domain = json!({"name": "Default"});
        let user = json!({"name": auth["username"], "password": auth["password"], "domain": domain});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": auth["project_name"], "domain": domain}},
        }});
        let json = [("content-type", "application/json")];
        let answer = http::send(self.listen, "POST", "/v3/auth/tokens", &json, body.to_string().as_bytes());
        let answer = answer.expect("the server answers");
        let token = answer.header("x-subject-token").unwrap_or_else(|| panic!("no token in {answer:?}")).to_owned();
        Login { token, project: text(&answer.json()["token"]["project"]["id"]) }
    }

    /// A request of `demo` or `admin`, below their project, with these bytes as a body of this type.
    pub(crate) fn send(&self, cloud: &str, method: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
        let login = self.login(cloud);
        let path = format!("/v1.0/{}{path}", login.project);
        let headers = [("x-auth-token", login.token.as_str()), ("content-type", content_type)];
        http::send(self.listen, method, &path, &headers, body).expect("the server answers")
    }

    /// A request of `demo` or `admin`, below their project. `null` is no body.
    pub(crate) fn ask(&self, cloud: &str, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(cloud, method, path, "application/json", body.as_bytes())
    }

    /// Creates a small instance of `demo` and waits until it serves. `version` may be `valkey/8.1.1`.
    #[track_caller]
    pub(crate) fn create(&self, name: &str, version: &str, settings: &[(&str, &str)]) -> Instance {
        self.create_of(["1", "1"], name, version, settings)
    }

    /// The same of this flavor and size in GiB.
    #[track_caller]
    pub(crate) fn create_of(
        &self,
        [flavor, size]: [&str; 2],
        name: &str,
        version: &str,
        settings: &[(&str, &str)],
    ) -> Instance {
        let (datastore, version) = version.split_once('/').unwrap_or(("redis", version));
        let mut line = vec!["instance", "create", name, "--flavor", flavor, "--size", size, "--wait", "-o", "json"];
        line.extend(["--datastore", datastore, "--datastore-version", version]);
        let settings: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        line.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
        let created = self.coffer(line).ok().json();
        let address: IpAddr = text(&created["ip"][0]).parse().expect("an address");
        let password = text(&created["password"]);
        Instance { id: text(&created["id"]), address: SocketAddr::from((address, 6379)), password }
    }

    /// The number of what the catalogue has under this name: `mysql/9.7`.
    pub(crate) fn number(&self, version: &str) -> String {
        let (datastore, name) = version.split_once('/').expect("a datastore and a version");
        let list = self.coffer(["engine", "list", "-o", "json"]).ok().json();
        let releases = list.as_array().expect("a list");
        let release = releases.iter().find(|r| r["Datastore"] == datastore && r["Version"] == name);
        text(&release.unwrap_or_else(|| panic!("no {version} in the catalogue"))["Number"])
    }

    /// Whether there is an image of this version, which may be `valkey/8.1.1`. Says so loudly where there is none.
    pub(crate) fn has_image(&self, version: &str) -> bool {
        let (datastore, name) = version.split_once('/').unwrap_or(("redis", version));
        let list = self.coffer(["engine", "list", "-o", "json"]).ok().json();
        let releases = list.as_array().expect("a list");
        let found =
            releases.iter().any(|r| r["Datastore"] == datastore && r["Version"] == name && !r["Digest"].is_null());
        if !found {
            println!(
                "NOT RUN: nothing of {datastore} {name}: its image is not in the store (engines/fetch-test-engines)"
            );
        }
        found
    }

    /// The instance as `demo` is shown it.
    #[track_caller]
    pub(crate) fn show(&self, id: &str) -> Value {
        let answer = self.ask("demo", "GET", &format!("/instances/{id}"), &Value::Null);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["instance"].take()
    }

    /// The ids of what happened to the instance by itself.
    #[track_caller]
    pub(crate) fn events(&self, id: &str) -> Vec<String> {
        let answer = self.ask("demo", "GET", &format!("/instances/{id}/events"), &Value::Null);
        let events = answer.json();
        events["events"].as_array().expect("events").iter().map(|event| text(&event["id"])).collect()
    }

    /// The operations of the instance, the newest first.
    #[track_caller]
    pub(crate) fn operations(&self, id: &str) -> Vec<Value> {
        let answer = self.ask("demo", "GET", &format!("/instances/{id}/operations"), &Value::Null);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["operations"].as_array().expect("operations").clone()
    }

    /// Waits until no operation of the instance is open, and gives the newest.
    #[track_caller]
    pub(crate) fn wait_until_over(&self, id: &str) -> Value {
        let mut newest = Value::Null;
        wait_for("the operation to end", || {
            newest = self.operations(id).into_iter().next().expect("an operation");
            ["done", "undone", "stuck"].iter().any(|end| newest["phase"] == *end)
        });
        newest
    }

    /// A connection to the engine, as the tenant.
    #[track_caller]
    #[expect(clippy::unused_self, reason = "it is asked of a world")]
    pub(crate) fn redis(&self, instance: &Instance) -> Connection {
        Connection::open(instance.address, Some(&instance.password)).expect("the engine answers at its address")
    }

    /// The agent, if it lives.
    pub(crate) fn agent_pid(&self, id: &str) -> Option<u32> {
        holder(&self.volume(id).join("agent/lock"))
    }

    /// The engine, if it lives.
    pub(crate) fn engine_pid(&self, id: &str) -> Option<u32> {
        holder(&self.volume(id).join("agent/engine.lock"))
    }

    /// The keeper of the gate, if it lives.
    pub(crate) fn keeper_pid(&self, id: &str) -> Option<u32> {
        holder(&self.volume(id).join("agent/gate.lock"))
    }

    /// The engine processes that have the volume of the instance before them, whoever started them.
    #[expect(clippy::unused_self, reason = "it is asked of a world")]
    pub(crate) fn engines_on(&self, id: &str) -> BTreeSet<u32> {
        processes().filter(|pid| sees(*pid, &format!("/{id}/data"))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs_err::read_to_string(self.data.join("serve.log")).unwrap_or_default();
            println!("--- coffer serve said:\n{log}");
            for entry in fs_err::read_dir(self.data.join("instances")).into_iter().flatten().flatten() {
                let log = fs_err::read_to_string(entry.path().join("agent/agent.log")).unwrap_or_default();
                println!("--- the agent of {} said:\n{log}", entry.file_name().display());
            }
        }
        self.kill_everything();
        if std::env::var_os("COFFER_TEST_KEEP").is_none() {
            remove(&self.data);
        }
    }
}

/// Waits until the condition is true. The test fails when it never is.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        // What takes longer is looked at less often: whoever is asked computes meanwhile.
        std::thread::sleep((began.elapsed() / 16).clamp(Duration::from_millis(5), Duration::from_millis(25)));
    }
}

/// Kills a process. One that is gone is gone.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

/// Sends a process a signal. One that is gone is gone.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let _ = kill_process(pid, signal);
}

/// The text of a JSON value.
#[track_caller]
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Another name for every file: an image store costs a test no room. Where the file system is another one, a copy.
pub(crate) fn link_all(from: &Path, to: &Path) {
    fs_err::create_dir_all(to).expect("a directory");
    let mode = fs_err::metadata(from).expect("a directory").permissions();
    for entry in fs_err::read_dir(from).expect("the image store can be read") {
        let entry = entry.expect("an entry");
        let (kind, target) = (entry.file_type().expect("a kind"), to.join(entry.file_name()));
        if kind.is_dir() {
            link_all(&entry.path(), &target);
        } else if kind.is_symlink() {
            let points_to = fs_err::read_link(entry.path()).expect("a link");
            fs_err::os::unix::fs::symlink(points_to, target).expect("a link");
        } else if entry.path().ends_with("index.json") || fs_err::hard_link(entry.path(), &target).is_err() {
            // The index is written to: it must not be the same file.
            fs_err::copy(entry.path(), target).expect("a copy");
        }
    }
    fs_err::set_permissions(to, mode).expect("a mode");
    let same_device =
        |a: &Path, b: &Path| fs_err::metadata(a).map(|m| m.dev()).ok() == fs_err::metadata(b).map(|m| m.dev()).ok();
    if !same_device(from, to) {
        println!("{} is on another file system than {}: it was copied", from.display(), to.display());
    }
}

/// All entries of both catalogues, and those of this test. What is not in the image store can be had nowhere: no test
/// shall need a network.
fn merged_catalogue(more: &str) -> String {
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engines");
    let mut releases = Vec::new();
    for file in ["catalogue.toml", "test-catalogue.toml"] {
        let text = fs_err::read_to_string(engines.join(file)).expect("a catalogue");
        let document: toml::Table = toml::from_str(&text).expect("a catalogue is TOML");
        for release in document["release"].as_array().expect("releases") {
            let mut release = release.as_table().expect("a table").clone();
            let nowhere =
                toml::Table::from_iter([("from", "root"), ("path", "nowhere")].map(|(k, v)| (k.to_owned(), v.into())));
            release.insert("source".to_owned(), vec![nowhere].into());
            releases.push(toml::Value::Table(release));
        }
    }
    let mut document = toml::Table::new();
    document.insert("release".to_owned(), toml::Value::Array(releases));
    format!("{document}\n{more}\n")
}
