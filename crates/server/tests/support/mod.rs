//! A whole server in a directory of its own, with agents that have no engine, and a client that shows everything.

#![allow(dead_code, unreachable_pub, reason = "each test uses the part of it that it needs")]
#![allow(clippy::panic, clippy::format_collect, reason = "a test ends by panicking, and is read more often than run")]

pub mod agent;
pub mod shape;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use coffer_core::datastore::Datastore;
use coffer_core::id::ProjectId;
use coffer_server::clock::Clock;
use coffer_server::config::Config;
use coffer_server::{CatalogueSeed, Server, ServerName, Setup, store_file};
use coffer_store::{Location, Project, Store, Token, User};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub dir: TempDir,
    pub server: Server,
    pub held: Arc<AtomicBool>,
    pub demo: Client,
    pub admin: Client,
    pub other: Client,
    pub reader: Client,
}

/// Somebody with a token, and the project it is for.
#[derive(Clone, Debug)]
pub struct Client {
    pub address: SocketAddr,
    pub project: String,
    pub token: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(Config { page_size: 100, ..Config::default() }).await
    }

    pub async fn start_with(mut config: Config) -> Self {
        let dir = TempDir::new().expect("a directory");
        config.listen = "127.0.0.1:0".parse().expect("an address");
        config.quota.instances = 50;
        config.quota.volumes = 100;
        let places = agent::Places::default();
        let held = Arc::clone(&places.held);
        let setup = Setup {
            data: dir.path().join("data"),
            store: store_file(&dir.path().join("data")),
            name: ServerName::default(),
            config,
            versions: versions(),
            provider: Arc::new(places),
            clock: Clock::system(),
        };
        let server = Server::start(setup).await.expect("a server");
        let store = Store::open(&Location::File(dir.path().join("data/coffer.db"))).await.expect("the store");
        let address = server.address();
        let somebody = async |name: &str, project: &str, role: &str| {
            let (user, project) = (format!("{name:0>32}"), format!("{project:0>32}"));
            let token = format!("token-of-{name}");
            add(&store, &user, &project, role, &token).await;
            Client { address, project, token }
        };
        Self {
            demo: somebody("d1", "d", "member").await,
            admin: somebody("a1", "a", "admin").await,
            other: somebody("e1", "e", "member").await,
            reader: somebody("d2", "d", "reader").await,
            dir,
            server,
            held,
        }
    }

    /// From now on agents do nothing, or do again what they are asked.
    pub fn hold(&self, hold: bool) {
        self.held.store(hold, Ordering::Relaxed);
    }

    /// A new instance of demo's that is active.
    pub async fn instance(&self, name: &str) -> String {
        let id = self.begin_instance(name).await;
        self.until(&id, "ACTIVE").await;
        id
    }

    /// A new MariaDB of demo's that is active.
    pub async fn mariadb(&self, name: &str) -> String {
        let id = self.begin(name, "mariadb", "10.11.19").await;
        self.until(&id, "ACTIVE").await;
        id
    }

    /// A new Redis of demo's.
    pub async fn begin_instance(&self, name: &str) -> String {
        self.begin(name, "redis", "7.0.15").await
    }

    async fn begin(&self, name: &str, datastore: &str, version: &str) -> String {
        let body = json!({"instance": {"name": name, "flavorRef": 1, "volume": {"size": 1},
            "datastore": {"type": datastore, "version": version}}});
        let reply = self.demo.post("/instances", &body).await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        reply.json()["instance"]["id"].as_str().expect("an id").to_owned()
    }

    /// A new configuration group of demo's, of the version that instances have.
    pub async fn group(&self, name: &str, values: &Value) -> String {
        let body = json!({"configuration": {"name": name, "values": values,
            "datastore": {"type": "redis", "version": "7.0.15"}}});
        let reply = self.demo.post("/configurations", &body).await;
        assert_eq!(reply.code, 200, "{}", reply.text);
        reply.json()["configuration"]["id"].as_str().expect("an id").to_owned()
    }

    /// The instance once it has that status and nothing is done to it.
    pub async fn until(&self, id: &str, status: &str) -> Value {
        let path = format!("/instances/{id}");
        self.demo.until(&path, |reply| reply.code == 200 && reply.json()["instance"]["status"] == status).await.json()
    }

    pub async fn stop(self) {
        self.hold(false);
        self.server.stop().await;
    }
}

fn versions() -> Vec<CatalogueSeed> {
    let seed = |datastore, name: &str, active, default| CatalogueSeed {
        datastore,
        name: name.to_owned(),
        number: name.parse().expect("a number"),
        image: None,
        active,
        default,
        sources: json!({}),
    };
    vec![
        seed(Datastore::Redis, "6.0.16", false, false),
        seed(Datastore::Redis, "7.0.15", true, true),
        seed(Datastore::Redis, "8.0.2", true, false),
        seed(Datastore::Valkey, "8.1.1", true, true),
        seed(Datastore::Mariadb, "10.11.19", true, true),
    ]
}

async fn add(store: &Store, user: &str, project: &str, role: &str, token: &str) {
    let project = Project { id: ProjectId(project.to_owned()), name: project.to_owned() };
    let user = User { id: user.to_owned(), name: user.to_owned(), password_hash: String::new() };
    let mut write = store.write().await.expect("a transaction");
    write.ensure_project(&project).await.expect("a project");
    write.ensure_user(&user).await.expect("a user");
    write.ensure_role(&user.id, &project.id, role).await.expect("a role");
    write.commit().await.expect("written");
    let now = Timestamp::now();
    let hash = Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let expires_at = now + SignedDuration::from_hours(1);
    let token = Token { hash, user: user.id, project: Some(project.id), issued_at: now, expires_at };
    store.insert_token(&token).await.expect("a token");
}

impl Client {
    /// A path below the client's own project.
    pub fn path(&self, below: &str) -> String {
        format!("/v1.0/{}{below}", self.project)
    }

    pub async fn get(&self, below: &str) -> Reply {
        self.ask("GET", below, None).await
    }

    pub async fn post(&self, below: &str, body: &Value) -> Reply {
        self.ask("POST", below, Some(body)).await
    }

    pub async fn patch(&self, below: &str, body: &Value) -> Reply {
        self.ask("PATCH", below, Some(body)).await
    }

    pub async fn put(&self, below: &str, body: &Value) -> Reply {
        self.ask("PUT", below, Some(body)).await
    }

    pub async fn ask(&self, method: &str, below: &str, body: Option<&Value>) -> Reply {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut headers = vec![("x-auth-token", self.token.as_str())];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        send(self.address, method, &self.path(below), &headers, text.into_bytes()).await
    }

    /// The answer once it is as wanted.
    pub async fn until(&self, below: &str, wanted: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.get(below).await;
            if wanted(&reply) {
                return reply;
            }
            assert!(Instant::now() < deadline, "{below} is still {}", reply.text);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The message of a fault, whichever shape it has.
    pub fn message(&self) -> String {
        let body = self.json();
        let inside = body.as_object().and_then(|object| object.values().find(|value| value.is_object()));
        inside.unwrap_or(&body)["message"].as_str().unwrap_or_default().to_owned()
    }

    /// That this is one of Trove's own faults.
    pub fn assert_fault(&self, code: u16, name: &str) {
        assert_eq!(self.code, code, "{}", self.text);
        assert_eq!(self.json()[name]["code"], code, "{}", self.text);
    }
}

/// One request on a connection of its own.
pub async fn send(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Reply {
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let mut request = http::Request::builder().method(method).uri(path).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap_or_else(|error| panic!("{error}: {path}"));
    let response = sender.send_request(request).await.expect("an answer");
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    connection.abort();
    Reply { code: parts.status.as_u16(), headers: parts.headers, text: String::from_utf8(body.into()).expect("text") }
}
