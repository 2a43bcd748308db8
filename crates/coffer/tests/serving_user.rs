//! Everything an instance needs works for an ordinary user too, and what does not is said.
//!
//! Run as root, the test has a user of its own: nobody. Otherwise it is the user who runs it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::contents;
use support::http;
use support::world::{kill, link_all, wait_for};

const NOBODY: u32 = 65_534;

/// A server of an ordinary user, with a directory that is that user's.
struct Ordinary {
    dir: tempfile::TempDir,
    program: PathBuf,
    as_nobody: bool,
    server: Option<Child>,
}

impl Ordinary {
    fn start() -> Option<Self> {
        let Some(store) = std::env::var_os("COFFER_TEST_STORE").map(PathBuf::from).filter(|store| store.is_dir())
        else {
            println!("NOT RUN: COFFER_TEST_STORE names no image store; engines/fetch-test-engines makes one");
            return None;
        };
        // Where a build directory is, others often may not look.
        let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
        let program = dir.path().join("coffer");
        fs_err::copy(env!("CARGO_BIN_EXE_coffer"), &program).unwrap();
        let data = dir.path().join("data");
        link_all(&store.join("images"), &data.join("engines/images"));
        let as_nobody = rustix::process::geteuid().is_root();
        if as_nobody {
            give_away(&data);
        }
        let listen = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
        // Beside the addresses of all other tests. Which one does not matter as long as no two tests have the same.
        let part = listen.port().to_be_bytes();
        let config = format!("address_pool = \"127.21.{}.0/24\"\n", part[1]);
        fs_err::write(dir.path().join("coffer.toml"), config).unwrap();
        let mut ordinary = Self { dir, program, as_nobody, server: None };
        let mut serve = ordinary.command(&["serve", "--listen", &listen.to_string(), "--config"]);
        serve.arg(ordinary.dir.path().join("coffer.toml")).arg("--data").arg(data);
        let log = fs_err::File::create(ordinary.dir.path().join("serve.log")).unwrap().into_parts().0;
        let child = serve.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = ordinary.server.insert(child);
        wait_for("coffer serve to answer", || {
            assert!(server.try_wait().unwrap().is_none(), "coffer serve ended");
            http::send(listen, "GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        Some(ordinary)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = if self.as_nobody {
            let id = NOBODY.to_string();
            let mut command = Command::new("setpriv");
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(arguments).stdin(Stdio::null()).env_clear().current_dir(self.dir.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("OS_CLIENT_CONFIG_FILE", self.dir.path().join("data/clouds.yaml")).env("OS_CLOUD", "demo");
        command
    }

    #[track_caller]
    fn coffer(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[arguments, &["-o", "json"]].concat()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", fs_err::read_to_string(self.dir.path().join("serve.log")).unwrap_or_default());
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        // Agents have the directory in their command line, engines have it mounted.
        let dir = self.dir.path().to_str().unwrap().to_owned();
        for file in ["cmdline", "mountinfo"] {
            let processes = fs_err::read_dir("/proc").unwrap().flatten();
            for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
                let of = fs_err::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                let own = pid == std::process::id();
                if !own && of.windows(dir.len()).any(|part| part == dir.as_bytes()) {
                    kill(pid);
                }
            }
        }
    }
}

/// Makes the user the owner of every directory and of what is written to. The rest may be another name of a file of the
/// image store that others use.
fn give_away(dir: &Path) {
    chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    for entry in fs_err::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            give_away(&path);
        } else if path.ends_with("index.json") {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
}

#[test]
fn an_ordinary_user_creates_and_upgrades_and_is_told_what_is_not_enforced() {
    let Some(coffer) = Ordinary::start() else { return };
    let create =
        ["instance", "create", "mine", "--flavor", "1", "--size", "1", "--datastore-version", "7.0.15", "--wait"];
    let created = coffer.coffer(&create);
    let address: IpAddr = created["ip"][0].as_str().unwrap().parse().unwrap();
    let (address, password) = (SocketAddr::from((address, 6379)), created["password"].as_str().unwrap().to_owned());
    contents::fill(&mut support::resp::Connection::open(address, Some(&password)).unwrap(), "mine");
    let before = contents::read(address, &password);

    coffer.coffer(&["instance", "upgrade", "mine", "8.0", "--wait"]);
    before.assert_same(&contents::read(address, &password), "after the upgrade");
    coffer.coffer(&["instance", "restart", "mine", "--wait"]);
    before.assert_same(&contents::read(address, &password), "after the restart");

    let listed = coffer.coffer(&["instance", "list"]);
    assert_eq!((&listed[0]["Name"], &listed[0]["Status"]), (&"mine".into(), &"ACTIVE".into()), "{listed}");
    assert_eq!(listed[0]["Datastore Version"], "8.0.2", "{listed}");
    let shown = coffer.coffer(&["instance", "show", "mine"]);
    let isolation = shown["isolation"].to_string();
    assert!(isolation.contains("inside a user namespace"), "{shown}");
    for limit in ["memory limit: not enforced", "cpu limit: not enforced"] {
        assert!(isolation.contains(limit), "{shown}");
    }
    println!("{isolation}");
    coffer.coffer(&["instance", "delete", "mine", "--wait"]);
}
