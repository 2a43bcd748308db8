//! An engine started by hand: the same program from the same engine root, and nothing else.
//!
//! It is run by the dynamic loader of its own engine root: no namespace, no control group, no other user, nobody who
//! watches it. So it is the least that a stop and start can cost, and needs no privileges.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::resp::Connection;

/// How long an engine may take to end: it may write everything before.
const STOP_LIMIT: Duration = Duration::from_secs(300);

/// An engine image on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    /// The engine root.
    pub root: PathBuf,
    /// The server program, absolute inside the root.
    pub binary: PathBuf,
    /// What the program says it is.
    pub number: String,
}

impl Engine {
    /// The command that runs the program with the libraries of its own root.
    pub(crate) fn command(&self) -> Result<Command> {
        let below = |path: &str| self.root.join(path);
        let program = self.root.join(self.binary.strip_prefix("/")?);
        // What engines/pack-mysql-9.7.2 made of a root of another machine's.
        let foreign = program.with_extension("riscv64");
        if foreign.exists() {
            let mut command = Command::new(below("usr/bin/qemu-riscv64-static"));
            command.arg("-L").arg(&self.root).arg(foreign);
            return Ok(command);
        }
        let mut libraries = vec![below("lib"), below("lib64"), below("usr/lib"), below("usr/lib64")];
        for parent in ["lib", "usr/lib"] {
            let entries = fs_err::read_dir(below(parent)).into_iter().flatten().flatten();
            libraries.extend(entries.map(|entry| entry.path()).filter(|path| is_multiarch(path)));
        }
        let is_loader = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ld-linux") || name.starts_with("ld-musl")
        };
        let files = libraries.iter().flat_map(|dir| fs_err::read_dir(dir).into_iter().flatten().flatten());
        // A link may be absolute, and would then lead to the host's.
        let loader = files.map(|file| file.path()).find(|path| is_loader(path) && !leads_out(path));
        let loader = loader.with_context(|| format!("{} has no dynamic loader", self.root.display()))?;
        let mut command = Command::new(loader);
        command.arg("--library-path").arg(std::env::join_paths(libraries)?).arg(program);
        Ok(command)
    }
}

fn is_multiarch(path: &Path) -> bool {
    path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu")
}

fn leads_out(path: &Path) -> bool {
    fs_err::read_link(path).is_ok_and(|target| target.is_absolute())
}

/// A running engine. Dropped, it is killed.
pub(crate) struct Bare {
    child: Child,
    data: PathBuf,
    address: SocketAddr,
}

impl Bare {
    /// Starts an engine on the data in `data`; does not wait for it.
    pub(crate) fn start(engine: &Engine, data: &Path, address: SocketAddr, settings: &[(&str, &str)]) -> Result<Self> {
        let mut conf = format!("bind {}\nport {}\ndir {}\n", address.ip(), address.port(), data.display());
        for (name, value) in settings {
            let value = if value.is_empty() { "\"\"" } else { value };
            writeln!(conf, "{name} {value}")?;
        }
        let file = data.join("engine.conf");
        fs_err::write(&file, conf)?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(data.join("engine.log"))?.into_file();
        let child = engine
            .command()?
            .arg(file)
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the engine does not start")?;
        Ok(Self { child, data: data.to_owned(), address })
    }

    /// Connects as soon as it answers.
    pub(crate) fn connect(&mut self) -> Result<Connection> {
        let deadline = Instant::now() + STOP_LIMIT;
        loop {
            if let Ok(mut connection) = Connection::open(self.address, None)
                && connection.ask(&["PING"]).is_ok()
            {
                return Ok(connection);
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs_err::read_to_string(self.data.join("engine.log")).unwrap_or_default();
                bail!("the engine does not answer ({ended:?}):\n{log}");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it as its configuration says, and returns when it is gone.
    pub(crate) fn stop(mut self, mut connection: Connection) -> Result<()> {
        // It answers by closing the connection.
        let _ = connection.ask(&["SHUTDOWN"]);
        let deadline = Instant::now() + STOP_LIMIT;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the engine does not end");
            }
            std::thread::sleep(Duration::from_micros(200));
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
