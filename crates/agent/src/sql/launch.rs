//! From a spec to files and launches: the engine, and the programs of its package.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use coffer_core::engine::sql::config::{self, AGENT, CERTIFICATE_FILE, CONFIG_FILE, PASSWD_FILE, SOCKET};
use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::spec::EngineSpec;

use crate::sandbox::{self, Bind, CgroupLimits, Exit, Launch, User};
use crate::site::{Error, Paths, Port, Secrets, Site, ensure_absent, ensure_dir, inside, last_words, replace};

/// What the engine says, in the agent's directory.
pub(super) const LOG: &str = "engine.log";
const UPGRADE: &str = "/usr/bin/mariadb-upgrade";
/// What holds the lock of the engine's own step, and where its output goes.
const UPGRADE_LOCK: &str = "upgrade.lock";
const UPGRADE_LOG: &str = "upgrade.log";
/// Files that an engine opens beside one per client: its tables, of which it keeps many open.
const FILES_BESIDE_CLIENTS: u64 = 16_384;
/// How long the engine's own step may take where nobody waits for it. Those who wait are cut off earlier by their own limit.
const UPGRADE_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Writes `my.cnf` and the file of names, whole or not at all, mode 0600, owned by the engine's user: an engine ignores a file that
/// others may write. The directories are made where they lack.
pub(crate) fn write_config(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    let Site { paths, user, .. } = site;
    let tmp = inside(&paths.run, config::TMP);
    for dir in [&paths.data, &paths.conf, &paths.run, &tmp] {
        ensure_dir(dir, user)?;
    }
    replace(&inside(&paths.conf, CONFIG_FILE), config::render(spec).as_bytes(), user)?;
    let agent = rustix::process::geteuid().as_raw();
    let engine = match user {
        User::Fixed { uid, .. } => uid,
        User::Own => agent,
    };
    // In a user namespace the agent has the engine's id. The engine's own step has it in any case.
    replace(&inside(&paths.conf, PASSWD_FILE), config::passwd(&[agent, engine]).as_bytes(), user)?;
    let certificate = inside(&paths.conf, CERTIFICATE_FILE);
    if config::lacks_certificate(spec) && !certificate.exists() {
        replace(&certificate, self_signed()?.as_bytes(), user)?;
    }
    Ok(())
}

/// A certificate as the engine would make one, with its key. Clients know it by the password that both have, so nobody else has to
/// have signed it.
fn self_signed() -> Result<String, Error> {
    let made = || {
        let key = rcgen::KeyPair::generate()?;
        let mut certificate = rcgen::CertificateParams::default();
        certificate.distinguished_name.push(rcgen::DnType::CommonName, "MariaDB Server");
        Ok(certificate.self_signed(&key)?.pem() + &key.serialize_pem())
    };
    made().map_err(|error: rcgen::Error| Error::Io(std::io::Error::other(error)))
}

/// What starts this engine. Needs the files of [`write_config`] and a data directory. Control group and gate are left to
/// the caller.
pub(crate) fn launch(spec: &EngineSpec, site: Site<'_>, port: Port) -> Launch {
    let mut launch = base(site);
    launch.argv = vec![Dialect::of(spec).program().to_owned(), format!("--defaults-file={CONFIG_FILE}")];
    if port == Port::Later {
        launch.argv.push("--skip-networking".to_owned());
    }
    launch.open_files = config::max_connections(spec) + FILES_BESIDE_CLIENTS;
    launch
}

/// A launch without a program.
pub(super) fn base(site: Site<'_>) -> Launch {
    let Site { root, paths, user, .. } = site;
    let bind =
        |source: &Path, target: &str, read_only| Bind { source: source.to_owned(), target: target.into(), read_only };
    Launch {
        root: root.to_owned(),
        argv: Vec::new(),
        env: BTreeMap::new(),
        binds: vec![
            bind(&paths.data, "/data", false),
            bind(&paths.conf, "/conf", true),
            bind(&paths.run, "/run", false),
            bind(&inside(&paths.conf, PASSWD_FILE), "/etc/passwd", true),
        ],
        user,
        open_files: FILES_BESIDE_CLIENTS,
        cgroup: None,
        log: paths.agent.join(LOG),
        lock: paths.agent.join("engine.lock"),
        cwd: "/data".into(),
        stdin: None,
        gated: false,
    }
}

/// The engine's own step after a change of its version, by `mariadb-upgrade`, on the engine that runs. Can be called again.
/// Gives the last lines of what it said. What it said as a whole is in `agent/upgrade.log`.
pub(super) async fn upgrade(site: Site<'_>, cgroup: Option<CgroupLimits>) -> Result<String, Error> {
    let Site { paths, secrets, .. } = site;
    end_upgrade(paths).await?;
    let mut launch = base(site);
    launch.argv =
        [UPGRADE, "--no-defaults", &format!("--socket={SOCKET}"), &format!("--user={AGENT}")].map(str::to_owned).into();
    launch.env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("HOME".to_owned(), "/tmp".to_owned())].into();
    launch.cgroup = cgroup;
    launch.log = paths.agent.join(UPGRADE_LOG);
    launch.lock = paths.agent.join(UPGRADE_LOCK);
    ensure_absent(&launch.log)?;
    finish(&launch, secrets, UPGRADE_LIMIT, "mariadb-upgrade").await
}

/// Ends the engine's own step where it is still under way: whoever asked for it has given up, or died.
pub(crate) async fn end_upgrade(paths: &Paths) -> Result<(), Error> {
    Ok(sandbox::end(&paths.agent.join(UPGRADE_LOCK)).await?)
}

/// Runs a program to its end. An error unless it ends with status 0 in time; it does not go on then.
pub(super) async fn finish(launch: &Launch, secrets: &Secrets, limit: Duration, what: &str) -> Result<String, Error> {
    let from = fs_err::metadata(&launch.log).map_or(0, |log| log.len());
    let started = sandbox::start(launch)?;
    let exit = match tokio::time::timeout(limit, started.process.exited()).await {
        Ok(exit) => exit?,
        Err(_) => {
            sandbox::end(&launch.lock).await?;
            return Err(Error::Late { what: "finish", within: limit, detail: format!(": {what}") });
        }
    };
    let said = last_words(&launch.log, from, secrets);
    match exit {
        Exit::Code(0) => Ok(said),
        exit => Err(Error::Ended { what: what.to_owned(), exit: exit.to_string(), log: said }),
    }
}
