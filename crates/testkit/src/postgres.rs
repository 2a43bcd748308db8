//! A PostgreSQL of its own for a test, with the programs of Debian's package.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Where Debian puts what only runs servers, by version.
const PROGRAMS: &str = "/usr/lib/postgresql";
/// Whom it runs as where the test is root, which it refuses to be: nobody.
const NOBODY: u32 = 65534;

/// A PostgreSQL that ends with this. What cannot be done with it is a test that fails.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    /// The network namespace that it is in, and reached in by TCP.
    namespace: Option<String>,
    programs: PathBuf,
}

impl Cluster {
    /// Makes a cluster and starts it. It is reached by a unix socket alone, and flushes nothing to disk.
    pub fn start() -> Self {
        Self::make(None)
    }

    /// The same in a network namespace, reached by TCP there at every address that this has.
    pub fn start_in(namespace: &str) -> Self {
        Self::make(Some(namespace.to_owned()))
    }

    fn make(namespace: Option<String>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        if rustix::process::geteuid().is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
        }
        let cluster = Self { programs: programs(), dir, namespace };
        let data = cluster.data();
        let options = ["--auth=trust", "--username=coffer", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"];
        run(cluster.program("initdb").args(options).arg(&data));
        let anybody = "local all all trust\nhost all all all trust\n";
        std::fs::write(data.join("pg_hba.conf"), anybody).expect("who may log in");
        cluster.control(&["-w", "start"]);
        cluster
    }

    /// The URL of a new and empty database.
    pub fn database(&self, name: &str) -> String {
        run(self.client("createdb").arg(name));
        format!("postgres://coffer@localhost/{name}?host={}", self.dir.path().display())
    }

    /// Runs statements in a database, and gives what they print.
    pub fn run(&self, database: &str, sql: &str) -> String {
        run(self.client("psql").args(["-v", "ON_ERROR_STOP=1", "-At", "-c", sql, database]))
    }

    /// Kills it, all connections with it, and starts it again.
    pub fn restart(&self) {
        self.control(&["-w", "-m", "immediate", "restart"]);
    }

    fn control(&self, arguments: &[&str]) {
        let dir = self.dir.path().display();
        let addresses = if self.namespace.is_some() { "*" } else { "" };
        let server = format!("-c listen_addresses={addresses} -c unix_socket_directories={dir} -c fsync=off");
        let log = self.dir.path().join("log");
        // Its output is the server's, too: a pipe would stay open.
        let mut command = self.program("pg_ctl");
        if let Some(namespace) = &self.namespace {
            // Root enters it, and becomes somebody else there.
            command = Command::new("ip");
            command.args(["netns", "exec", namespace, "setpriv", "--clear-groups"]);
            command.arg(format!("--reuid={NOBODY}")).arg(format!("--regid={NOBODY}"));
            command.arg(self.programs.join("pg_ctl")).current_dir(self.dir.path());
        }
        command.arg("-D").arg(self.data()).arg("-l").arg(&log).args(["-o", &server, "-s"]).args(arguments);
        let ended = command.status().expect("pg_ctl");
        assert!(ended.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.program(program);
        command.args(["-U", "coffer", "-h"]).arg(self.dir.path());
        command
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.dir.path());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.control(&["-w", "-m", "immediate", "stop"]);
    }
}

/// Those of the newest version that is installed.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir(PROGRAMS).expect("PostgreSQL: install Debian's package postgresql");
    let newest = versions
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .expect("a version of PostgreSQL");
    Path::new(PROGRAMS).join(newest.to_string()).join("bin")
}

fn run(command: &mut Command) -> String {
    let ran = command.output().expect("a program of PostgreSQL");
    assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8_lossy(&ran.stdout).into_owned()
}
