//! Asking the target binary whether it would start.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use coffer_core::spec::EngineSpec;
use rustix::process::Signal;

use super::{Client, Error, Exposure, Paths, Secrets, launch, write_config};
use crate::sandbox::{self, Process, User};

/// How long an engine without data may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How many of the last lines of its log are told.
const LAST_LINES: usize = 4;

/// Starts the target on its rendered configuration and the users of the running engine, in a scratch directory, closed
/// and without data, waits for its PONG, and ends it. The error has the last lines of its log.
pub async fn try_target(
    spec: &EngineSpec,
    root: &Path,
    paths: &Paths,
    secrets: &Secrets,
    user: User,
) -> Result<(), Error> {
    let dir = paths.pre.join("trial");
    remove(&dir)?;
    let scratch = lay_out(&dir, user)?;
    let users = paths.conf.join("users.acl");
    if users.exists() {
        fs_err::copy(&users, scratch.conf.join("users.acl"))?;
    }
    write_config(spec, &scratch, secrets, user)?;
    let mut launch = launch(spec, root, &scratch, user, Exposure::Closed)?;
    launch.log = scratch.agent.join("engine.log");
    launch.lock = scratch.agent.join("engine.lock");
    let process = sandbox::start(&launch)?.process;
    let answer = tokio::select! {
        ready = Client::ready(spec, &scratch, secrets, ANSWER_LIMIT) => ready.map(drop),
        exit = process.exited() => Err(Error::Ended {
            what: spec.label(),
            exit: exit.map_or_else(|e| e.to_string(), |e| e.to_string()),
            log: last_lines(&launch.log),
        }),
    };
    end(&process).await?;
    remove(&dir)?;
    answer
}

/// A volume in small.
fn lay_out(dir: &Path, user: User) -> Result<Paths, Error> {
    let scratch = Paths::of(dir);
    for part in [&scratch.data, &scratch.conf, &scratch.run, &scratch.pre, &scratch.agent] {
        fs_err::create_dir_all(part)?;
        fs_err::set_permissions(part, std::fs::Permissions::from_mode(0o700))?;
    }
    if let User::Fixed { uid, gid } = user
        && rustix::process::geteuid().is_root()
    {
        for part in [&scratch.data, &scratch.conf, &scratch.run] {
            std::os::unix::fs::chown(part, Some(uid), Some(gid))?;
        }
    }
    Ok(scratch)
}

async fn end(process: &Process) -> Result<(), Error> {
    if process.is_alive() {
        process.signal(Signal::KILL)?;
    }
    process.exited().await?;
    Ok(())
}

fn last_lines(log: &Path) -> String {
    let text = fs_err::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ")
}

fn remove(dir: &Path) -> Result<(), Error> {
    match fs_err::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}
