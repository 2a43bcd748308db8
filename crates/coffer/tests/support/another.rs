//! One more server on the data directory of a world, which shares its store.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::http::{self, Answer};
use super::world::{World, wait_for};

/// A server that is not the world's own. It ends with this.
pub(crate) struct Another {
    child: Child,
    listen: SocketAddr,
}

impl Another {
    /// Starts a server of this name and waits until it answers.
    pub(crate) fn start(world: &World, name: &str) -> Self {
        Self::start_with(world, name, &[])
    }

    /// The same with more in its environment.
    pub(crate) fn start_with(world: &World, name: &str, environment: &[(&str, String)]) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let data = world.data();
        let log = fs_err::File::create(data.join(format!("serve-{name}.log"))).expect("a log").into_parts().0;
        let child = Command::new(env!("CARGO_BIN_EXE_coffer"))
            .args(["serve", "--name", name, "--listen", &listen.to_string(), "--data"])
            .arg(data)
            .arg("--config")
            .arg(data.join("coffer.toml"))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("coffer serve starts");
        let another = Self { child, listen };
        wait_for("another server to answer", || {
            http::send(listen, "GET", "/", &[], b"").is_ok_and(|answer| answer.status == 200)
        });
        another
    }

    /// A request of `demo`, below its project, to this server. `null` is no body.
    pub(crate) fn ask(&self, world: &World, method: &str, path: &str, body: &Value) -> Answer {
        let login = world.login("demo");
        let path = format!("/v1.0/{}{path}", login.project);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("x-auth-token", login.token.as_str()), ("content-type", "application/json")];
        http::send(self.listen, method, &path, &headers, body.as_bytes()).expect("the server answers")
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.child.wait().expect("the server is gone");
        assert!(status.success(), "told to end, the server ended with {status}");
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait_for_end(mut self) -> ExitStatus {
        let mut ended = None;
        wait_for("another server to end", || {
            ended = self.child.try_wait().expect("a child");
            ended.is_some()
        });
        ended.expect("it has ended")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server can be told");
    }
}

impl Drop for Another {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
