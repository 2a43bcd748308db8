//! The unmodified openstack client: the program that `COFFER_OPENSTACK` names, which `./test` installs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::world::{Output, World};

/// The client, as the tenant `demo` of a world.
pub(crate) struct Openstack<'a> {
    world: &'a World,
    program: PathBuf,
}

impl<'a> Openstack<'a> {
    /// `None`, and said so, where it is not installed.
    pub(crate) fn find(world: &'a World) -> Option<Self> {
        let program = std::env::var_os("COFFER_OPENSTACK").map(PathBuf::from).filter(|path| path.exists());
        if program.is_none() {
            println!("NOT RUN: what the openstack client does: COFFER_OPENSTACK names no program; ./test installs it");
        }
        Some(Self { world, program: program? })
    }

    /// One command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = Command::new(&self.program)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.world.data())
            .env("OS_CLIENT_CONFIG_FILE", self.world.data().join("clouds.yaml"))
            .env("OS_CLOUD", "demo")
            .stdin(Stdio::null())
            .output()
            .expect("the openstack client starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code().unwrap_or(128), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
