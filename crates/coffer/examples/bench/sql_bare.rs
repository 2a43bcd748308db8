//! MariaDB and MySQL started by hand, from their engine roots, and nothing else.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::bare::Engine;
use crate::server::free_address;
use crate::sql::Sql;

/// Who does everything here.
pub(crate) const USER: &str = "bench";
/// How long an engine may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(600);
/// The scripts that make the system tables of MariaDB, as in the package.
const SCRIPTS: [&str; 4] =
    ["mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql", "fill_help_tables.sql"];

/// What differs by hand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Mariadb,
    Mysql,
}

impl Kind {
    /// As the catalogue has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mariadb => "mariadb",
            Self::Mysql => "mysql",
        }
    }

    /// What Coffer gives an instance and the engine would do otherwise.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Mariadb => &["--skip-name-resolve", "--innodb-buffer-pool-size=2G"],
            Self::Mysql => &[
                "--skip-name-resolve",
                "--innodb-buffer-pool-size=2G",
                "--skip-log-bin",
                "--mysqlx=OFF",
                "--secure-file-priv=NULL",
            ],
        }
    }
}

/// An engine started by hand. Dropped, it is killed.
pub(crate) struct Bare {
    child: Child,
    data: PathBuf,
    pub(crate) address: SocketAddr,
}

impl Bare {
    /// Makes a data directory of what is an empty one, with a user who may do everything, and starts an engine on it.
    pub(crate) fn initialise(kind: Kind, engine: &Engine, data: &Path) -> Result<Self> {
        let (file, mut command) = (data.with_extension("sql"), command(engine, data)?);
        let user = format!("CREATE USER {USER}@'%' IDENTIFIED BY '{USER}';\nGRANT ALL ON *.* TO {USER}@'%';\n");
        match kind {
            Kind::Mariadb => {
                fs_err::write(&file, format!("{}FLUSH PRIVILEGES;\n{user}", system_tables(&engine.root)?))?;
                command.args(["--bootstrap", "--max-allowed-packet=8M"]).stdin(fs_err::File::open(&file)?.into_file());
            }
            Kind::Mysql => {
                fs_err::write(&file, user)?;
                command.arg("--initialize-insecure").arg(format!("--init-file={}", file.display()));
            }
        }
        let output = command.output()?;
        ensure!(output.status.success(), "no data directory:\n{}", String::from_utf8_lossy(&output.stderr));
        Self::start(kind, engine, data)
    }

    /// Starts it at a free port; does not wait for it.
    pub(crate) fn start(kind: Kind, engine: &Engine, data: &Path) -> Result<Self> {
        Self::start_at(kind, engine, data, free_address()?)
    }

    pub(crate) fn start_at(kind: Kind, engine: &Engine, data: &Path, address: SocketAddr) -> Result<Self> {
        let log = fs_err::OpenOptions::new().create(true).append(true).open(data.with_extension("log"))?.into_file();
        let child = command(engine, data)?
            .arg(format!("--port={}", address.port()))
            .arg(format!("--bind-address={}", address.ip()))
            .args(kind.arguments())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the engine does not start")?;
        Ok(Self { child, data: data.to_owned(), address })
    }

    /// Connects as soon as it answers. An error with its log when it ends before that.
    pub(crate) fn connect(&mut self) -> Result<Sql> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Sql::open(self.address, USER, USER) {
                Ok(sql) => return Ok(sql),
                Err(error) if Instant::now() > deadline || self.child.try_wait()?.is_some() => {
                    let log = fs_err::read_to_string(self.data.with_extension("log")).unwrap_or_default();
                    bail!("the engine does not answer ({error}):\n{log}");
                }
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Ends it as it is set, and returns when it is gone.
    pub(crate) fn stop(mut self) -> Result<()> {
        let _ = self.connect()?.ask("SHUTDOWN");
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the engine does not end");
            thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(engine: &Engine, data: &Path) -> Result<Command> {
    let mut command = engine.command()?;
    command
        .arg("--no-defaults")
        .arg("--user=root")
        .arg(format!("--basedir={}", engine.root.join("usr").display()))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", data.with_extension("sock").display()))
        .env_clear()
        .env("LC_ALL", "C");
    Ok(command)
}

/// What makes the system tables of MariaDB.
fn system_tables(root: &Path) -> Result<String> {
    let share = ["usr/share/mysql", "usr/share/mariadb"].map(|dir| root.join(dir));
    let share = share.iter().find(|dir| dir.join(SCRIPTS[0]).exists()).context("the engine root has no scripts")?;
    let mut script = "CREATE DATABASE mysql;\nUSE mysql;\n".to_owned();
    for name in SCRIPTS {
        writeln!(script, "{}", fs_err::read_to_string(share.join(name))?)?;
    }
    Ok(script)
}
