//! `coffer serve`, as its users meet it: a process that is started, asked over HTTP, and told to end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::http::{Http, request};
use crate::process;

/// How long the server may take to answer or to end, and an operation to be over.
const PATIENCE: Duration = Duration::from_secs(600);

/// The addresses of the instances begin here.
pub(crate) const FIRST_OF_POOL: Ipv4Addr = Ipv4Addr::new(127, 97, 0, 0);

/// A server that runs. Dropped, it is killed; its instances are not.
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Somebody who is logged in. Each request has a connection of its own: minutes are between some of them.
pub(crate) struct Session {
    address: SocketAddr,
    token: String,
    project: String,
}

/// An instance that serves.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub id: String,
    pub address: SocketAddr,
    pub password: String,
}

/// A free port of this machine.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Server {
    /// Starts `program` on `data`; gives the time until the first 200 as well. Quotas are out of the way, and so are the
    /// addresses of a Coffer that is in use.
    pub(crate) fn start(program: &Path, data: &Path) -> Result<(Self, Duration)> {
        Self::start_with(program, data, &format!("address_pool = \"{FIRST_OF_POOL}/16\""))
    }

    /// The same with other lines of configuration, among them a pool of addresses.
    pub(crate) fn start_with(program: &Path, data: &Path, lines: &str) -> Result<(Self, Duration)> {
        let config = data.with_extension("toml");
        let quota = "[quota]\ninstances = -1\nvolumes = -1\n";
        fs_err::write(&config, format!("{lines}\nmax_volume_gib = 100\n{quota}"))?;
        let log = fs_err::File::create(data.with_extension("log"))?.into_file();
        let address = free_address()?;
        let began = Instant::now();
        let child = Command::new(program)
            .args(["serve", "--listen", &address.to_string(), "--data"])
            .arg(data)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{} does not start", program.display()))?;
        let mut server = Self { child, address };
        let root = request("GET", "/", None, "");
        loop {
            if Http::open(address).and_then(|mut http| http.send(&root)).is_ok_and(|status| status == 200) {
                return Ok((server, began.elapsed()));
            }
            if let Some(status) = server.child.try_wait()? {
                let said = fs_err::read_to_string(data.with_extension("log")).unwrap_or_default();
                bail!("coffer serve ended ({status}):\n{said}");
            }
            if began.elapsed() > PATIENCE {
                bail!("coffer serve does not answer");
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn stop(mut self) -> Result<()> {
        process::signal(self.child.id(), "TERM");
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("coffer serve does not end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Logs in as the user `demo` whom the first start made in `data`.
    pub(crate) fn login(&self, data: &Path) -> Result<Session> {
        let clouds: Value = serde_norway::from_str(&fs_err::read_to_string(data.join("clouds.yaml"))?)?;
        let auth = &clouds["clouds"]["demo"]["auth"];
        let domain = json!({"name": "Default"});
        let user = json!({"name": auth["username"], "password": auth["password"], "domain": domain});
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": auth["project_name"], "domain": domain}},
        }});
        let mut http = Http::open(self.address)?;
        let status = http.send(&request("POST", "/v3/auth/tokens", None, &body.to_string()))?;
        let token = http.header("x-subject-token").map(str::to_owned);
        let token = token.with_context(|| format!("no token, but {status}"))?;
        let answer: Value = serde_json::from_slice(http.body())?;
        let project = text(&answer["token"]["project"]["id"])?;
        Ok(Session { address: self.address, token, project })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Session {
    /// The id of the project.
    pub(crate) fn project(&self) -> &str {
        &self.project
    }

    /// A request for something of the project's, as it goes over the wire.
    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        request(method, &format!("/v1.0/{}{path}", self.project), Some(&self.token), body)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let (status, answer) = self.try_ask(method, path, body)?;
        if !(200..300).contains(&status) {
            bail!("{method} {path}: {status} {answer}");
        }
        Ok(answer)
    }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let request = self.request(method, path, body);
        let mut http = Http::open(self.address)?;
        let status = http.send(&request)?;
        Ok((status, serde_json::from_slice(http.body()).unwrap_or_default()))
    }

    /// Creates a Redis and waits until it serves.
    pub(crate) fn create(&self, version: &str, settings: &[(&str, &str)]) -> Result<Instance> {
        self.create_of("redis", 6379, version, settings)
    }

    /// Creates an instance of a datastore, which serves on this port, and waits until it does.
    pub(crate) fn create_of(
        &self,
        datastore: &str,
        port: u16,
        version: &str,
        settings: &[(&str, &str)],
    ) -> Result<Instance> {
        let settings: serde_json::Map<_, _> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        // Four GiB of memory and two processors hold the largest of what is measured.
        let body = json!({"instance": {
            "name": "bench", "flavorRef": "4", "volume": {"size": 20},
            "datastore": {"type": datastore, "version": version}, "settings": settings,
        }});
        let created = self.ask("POST", "/instances", &body.to_string())?;
        let id = text(&created["instance"]["id"])?;
        let password = text(&created["instance"]["password"])?;
        self.wait_until_over(&id)?;
        let shown = self.ask("GET", &format!("/instances/{id}"), "")?;
        let address = text(&shown["instance"]["ip"][0])?;
        Ok(Instance { id, address: SocketAddr::new(address.parse()?, port), password })
    }

    /// How far the gate of an instance goes.
    pub(crate) fn gate_level(&self, instance: &Instance) -> Result<String> {
        let shown = self.ask("GET", &format!("/instances/{}", instance.id), "")?;
        text(&shown["instance"]["gate"]["level"])
    }

    /// Begins an upgrade.
    pub(crate) fn upgrade(&self, instance: &Instance, version: &str) -> Result<()> {
        let body = json!({"instance": {"datastore_version": version}});
        self.ask("PATCH", &format!("/instances/{}", instance.id), &body.to_string()).map(drop)
    }

    /// Deletes an instance and waits until it is gone.
    pub(crate) fn delete(&self, instance: &Instance) -> Result<()> {
        self.ask("DELETE", &format!("/instances/{}", instance.id), "")?;
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask("GET", &format!("/instances/{}", instance.id), "")?.0 != 404 {
            if Instant::now() > deadline {
                bail!("instance {} is not deleted", instance.id);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the newest operation of an instance is over, and gives it. One that failed is an error.
    pub(crate) fn wait_until_over(&self, id: &str) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask("GET", &format!("/instances/{id}/operations"), "")?;
            let newest = &answer["operations"][0];
            match newest["phase"].as_str() {
                Some("done") => return Ok(newest.clone()),
                Some("undone" | "stuck") => bail!("the operation failed: {newest:#}"),
                _ if Instant::now() > deadline => bail!("the operation does not end: {newest:#}"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// The agent of an instance.
pub(crate) fn agent_of(data: &Path, instance: &Instance) -> Result<u32> {
    let volume: PathBuf = fs_err::canonicalize(data.join("instances").join(&instance.id))?;
    process::with_argument(&volume).with_context(|| format!("no agent has the volume {}", volume.display()))
}

/// The engine of an instance.
pub(crate) fn engine_of(instance: &Instance) -> Result<u32> {
    process::with_mount(&format!("/{}/data", instance.id)).with_context(|| format!("{} has no engine", instance.id))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}
