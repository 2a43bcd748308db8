//! Asking the target binary whether it would start.

use std::path::Path;
use std::time::Duration;

use coffer_core::engine::redis::config::ACL_FILE;
use coffer_core::spec::EngineSpec;

use super::{Client, launch, write_config};
use crate::sandbox::{self, User};
use crate::site::{Error, Exposure, Paths, Port, Site, end_trial, ensure_dir, inside, last_words, trial};

/// How long the target may take to answer. It has nothing to load.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Starts the target on its rendered configuration and the users in `conf`, those that there are now or those that it had when it
/// ran before, in a scratch directory, closed and without data, waits for its PONG, looks whether its configuration is in force,
/// and ends it. The error has the last lines of its log. Nothing is left behind, also not of an earlier trial that was interrupted.
pub async fn try_target(spec: &EngineSpec, site: Site<'_>, conf: &Path) -> Result<(), Error> {
    // An agent that died during a trial may have left the target running.
    end_trial(site.paths).await?;
    let result = run(spec, site, conf, &trial(site.paths)).await;
    end_trial(site.paths).await?;
    result
}

async fn run(spec: &EngineSpec, site: Site<'_>, conf: &Path, scratch: &Path) -> Result<(), Error> {
    let Site { secrets, user, .. } = site;
    let trial = Paths::of(scratch);
    let there = Site { paths: &trial, ..site };
    for dir in [scratch, &trial.agent] {
        ensure_dir(dir, User::Own)?;
    }
    ensure_dir(&trial.conf, user)?;
    let users = inside(conf, ACL_FILE);
    if users.exists() {
        fs_err::copy(&users, inside(&trial.conf, ACL_FILE))?;
    }
    write_config(spec, there)?;
    let launch = launch(spec, there, Exposure::Closed, Port::Later)?;
    let started = sandbox::start(&launch)?;
    let answer = tokio::select! {
        answer = Client::ready(spec, &trial, secrets, ANSWER_LIMIT) => match answer {
            Ok(client) => client.verify_closed(spec).await,
            Err(e) => Err(e),
        },
        exit = started.process.exited() => Err(Error::Ended {
            what: spec.label(),
            exit: exit?.to_string(),
            log: last_words(&launch.log, 0, secrets),
        }),
    };
    let findings = answer.map_err(|e| match e {
        Error::Late { what, within, .. } => {
            Error::Late { what, within, detail: format!("; its last words: {}", last_words(&launch.log, 0, secrets)) }
        }
        other => other,
    })?;
    if findings.is_empty() {
        return Ok(());
    }
    let found: Vec<_> = findings.iter().map(ToString::to_string).collect();
    Err(Error::Wrong { what: spec.label(), found: found.join("; ") })
}
