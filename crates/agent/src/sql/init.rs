//! A data directory that was never used, made without a shell: MariaDB reads its own scripts, MySQL has them within.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coffer_core::engine::sql::config::{CONFIG_FILE, bootstrap_begin, bootstrap_end};
use coffer_core::engine::sql::dialect::{Dialect, mysql_accounts};
use coffer_core::spec::EngineSpec;
use secrecy::ExposeSecret as _;

use super::launch::{self, finish};
use crate::sandbox::{self, User};
use crate::site::{Error, Secrets, Site, ensure_absent, ensure_dir, flush_all, inside, replace};

/// How long it may take: less than the control plane waits for it. Some seconds were measured on a busy machine.
const LIMIT: Duration = Duration::from_secs(110);
const LIMIT_MYSQL: Duration = Duration::from_secs(540);
/// The scripts of MariaDB's package, in the order in which they build upon each other.
const SCRIPTS: [&str; 5] = [
    "mysql_system_tables.sql",
    "mysql_performance_tables.sql",
    "mysql_system_tables_data.sql",
    "fill_help_tables.sql",
    "maria_add_gis_sp_bootstrap.sql",
];
/// The script of later versions for the database `sys`.
const SYS_SCRIPT: &str = "mysql_sys_schema.sql";
/// Where MySQL finds what it is to do once it has made its own tables.
const SCRIPT: &str = "/conf/init.sql";

/// Makes the data directory where there is none. One that has contents is never touched. Needs the files of
/// [`super::write_config`].
pub(crate) async fn ensure_data(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    match fs_err::read_dir(&site.paths.data)?.next() {
        Some(_) => Ok(()),
        None => make_data(spec, site, &[]).await,
    }
}

/// Makes the data, with more arguments for the engine. The directory gets its name when it is complete: half of one is begun
/// anew.
pub(super) async fn make_data(spec: &EngineSpec, site: Site<'_>, more: &[&str]) -> Result<(), Error> {
    let Site { root, paths, secrets, user } = site;
    let lock = paths.agent.join("init.lock");
    sandbox::end(&lock).await?;
    let new = paths.data.with_extension("new");
    ensure_absent(&new)?;
    ensure_dir(&new, user)?;
    let dialect = Dialect::of(spec);
    let (script, statements, reader) = match dialect {
        Dialect::MariaDb => (paths.agent.join("init.sql"), statements(root, secrets)?, User::Own),
        // It opens the file itself.
        Dialect::MySql => (inside(&paths.conf, SCRIPT), accounts(secrets), user),
    };
    replace(&script, &statements, reader)?;

    let mut launch = launch::base(site);
    for bind in launch.binds.iter_mut().filter(|bind| bind.source == paths.data) {
        bind.source.clone_from(&new);
    }
    let config = format!("--defaults-file={CONFIG_FILE}");
    let reads = format!("--init-file={SCRIPT}");
    let argv: &[&str] = match dialect {
        Dialect::MariaDb => &["--bootstrap", "--log-warnings=0", "--max-allowed-packet=8M"],
        Dialect::MySql => &["--initialize-insecure", &reads],
    };
    let argv = [dialect.program(), &config].into_iter().chain(argv.iter().copied());
    launch.argv = argv.chain(more.iter().copied()).map(str::to_owned).collect();
    launch.stdin = (dialect == Dialect::MariaDb).then(|| script.clone());
    launch.lock = lock;
    let limit = if dialect == Dialect::MySql { LIMIT_MYSQL } else { LIMIT };
    let made = finish(&launch, secrets, limit, &format!("the making of the data of {}", spec.label())).await;
    ensure_absent(&script)?;
    made?;
    // Engines flush what they promise to keep, and that is not all: of MariaDB's own tables some have no log.
    flush_all(&new).await?;
    fs_err::rename(&new, &paths.data)?;
    if let Some(volume) = paths.data.parent() {
        fs_err::File::open(volume)?.sync_all()?;
    }
    Ok(())
}

/// All that MySQL reads after its own. Holds passwords.
fn accounts(secrets: &Secrets) -> Vec<u8> {
    mysql_accounts(secrets.tenant.expose_secret(), secrets.agent.expose_secret()).into_bytes()
}

/// All that the bootstrap of MariaDB reads. Holds passwords.
fn statements(root: &Path, secrets: &Secrets) -> Result<Vec<u8>, Error> {
    let share = ["usr/share/mysql", "usr/share/mariadb"].map(|dir| root.join(dir));
    let find = |name: &str| -> PathBuf {
        // Since 11 they are called after MariaDB.
        let newer = name.replacen("mysql_", "mariadb_", 1);
        let mut all = share.iter().flat_map(|dir| [dir.join(name), dir.join(&newer)]);
        all.find(|path| path.exists()).unwrap_or_else(|| share[0].join(name))
    };
    let mut text = bootstrap_begin().into_bytes();
    for name in SCRIPTS {
        text.extend(fs_err::read(find(name))?);
        text.push(b'\n');
    }
    text.extend(bootstrap_end(secrets.tenant.expose_secret(), secrets.agent.expose_secret()).into_bytes());
    let sys = find(SYS_SCRIPT);
    if sys.exists() {
        text.extend(fs_err::read(sys)?);
        text.push(b'\n');
    }
    Ok(text)
}
