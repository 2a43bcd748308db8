//! From a spec to files and a launch.

use std::collections::BTreeMap;
use std::path::Path;

use coffer_core::datastore::{Datastore, Number};
use coffer_core::engine::redis::acl::{self, User as AclUser};
use coffer_core::engine::redis::config::{ACL_FILE, CONFIG_FILE, Config};
use coffer_core::spec::EngineSpec;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::client::pauses_writes;
use super::disk::{self, OnDisk};
use crate::sandbox::{Bind, Launch};
use crate::site::{Error, Exposure, Port, Site, ensure_dir, hex, inside, replace};

/// Files that an engine opens beside one per client.
const FILES_BESIDE_CLIENTS: u64 = 256;
/// The number of clients where nobody says anything.
const CLIENTS: u64 = 10_000;

/// Whether an engine can open its port while it runs, by [`super::Client::listen`]. If not, it has to be stopped by
/// [`super::Client::stop`] and started again.
pub fn opens_in_place(number: Number) -> bool {
    number.at_least(7, 0)
}

/// Writes `redis.conf`, and the ACL file from 6.0 on, whole or not at all, mode 0600, owned by the engine's user. Users that are
/// there already stay as they are; what the version needs of them is added. The directories are made where they lack.
pub fn write_config(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    let Site { paths, secrets, user, .. } = site;
    for dir in [&paths.data, &paths.conf, &paths.run] {
        ensure_dir(dir, user)?;
    }
    let has_users = acl::has_users(spec.datastore(), spec.number);
    let password = (!has_users).then(|| secrets.tenant.expose_secret());
    let text = Config::of(spec, password).render();
    replace(&inside(&paths.conf, CONFIG_FILE), text.as_bytes(), user)?;
    if has_users {
        let file = inside(&paths.conf, ACL_FILE);
        let users = match fs_err::read_to_string(&file) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(e.into()),
        };
        let (tenant, agent) = (hash(&secrets.tenant), hash(&secrets.agent));
        let users = acl::ensure(users.as_deref(), spec.datastore(), spec.number, &tenant, &agent);
        let text: String = users.iter().map(AclUser::render).map(|line| line + "\n").collect();
        replace(&file, text.as_bytes(), user)?;
    }
    Ok(())
}

/// What starts this engine on what is on disk. Needs the files of [`write_config`]. Log and lock are in `paths.agent`; control
/// group and gate are left to the caller.
pub fn launch(spec: &EngineSpec, site: Site<'_>, exposure: Exposure, port: Port) -> Result<Launch, Error> {
    let Site { root, paths, user, .. } = site;
    let mut argv = vec![program(spec.datastore(), root), CONFIG_FILE.to_owned()];
    let mut with = |name: &str, value: &str| argv.extend([format!("--{name}"), value.to_owned()]);
    match disk::to_load(&paths.data, opens_in_place(spec.number)) {
        OnDisk::AppendOnly => with("appendonly", "yes"),
        OnDisk::Snapshot => with("appendonly", "no"),
        // An engine that holds nothing is stopped as safely as any other.
        OnDisk::Nothing if exposure == Exposure::Closed => with("appendonly", "yes"),
        OnDisk::Nothing => {}
    }
    if port == Port::Later {
        with("port", "0");
    }
    if exposure == Exposure::Closed {
        for (name, value) in [("save", ""), ("auto-aof-rewrite-percentage", "0"), ("maxmemory", "0")] {
            with(name, value);
        }
        if !pauses_writes(spec) {
            with("hz", QUICK_HZ);
        }
    }
    let clients = spec.settings.get("maxclients").and_then(|v| v.parse().ok()).unwrap_or(CLIENTS);
    let bind =
        |source: &Path, target: &str| Bind { source: source.to_owned(), target: target.into(), read_only: false };
    Ok(Launch {
        root: root.to_owned(),
        argv,
        env: BTreeMap::new(),
        binds: vec![bind(&paths.data, "/data"), bind(&paths.conf, "/conf"), bind(&paths.run, "/run")],
        user,
        open_files: clients + FILES_BESIDE_CLIENTS,
        cgroup: None,
        log: paths.agent.join("engine.log"),
        lock: paths.agent.join("engine.lock"),
        cwd: "/data".into(),
        stdin: None,
        gated: false,
    })
}

/// The most often that an engine looks whether it was told to end: it then ends within two milliseconds instead of a
/// hundred. For engines that have to be told by a signal.
pub(super) const QUICK_HZ: &str = "500";

/// Images carry the server in one of these places.
pub(crate) fn program(datastore: Datastore, root: &Path) -> String {
    let name = format!("{datastore}-server");
    let places = ["/usr/bin", "/usr/local/bin", "/bin"].map(|dir| format!("{dir}/{name}"));
    let found = places.iter().find(|path| root.join(path.trim_start_matches('/')).exists());
    found.unwrap_or(&places[0]).clone()
}

fn hash(password: &SecretString) -> String {
    hex(&Sha256::digest(password.expose_secret()))
}
