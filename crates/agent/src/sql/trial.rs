//! Asking the target binary whether it would start: it is started, on data of its own.

use std::time::Duration;

use coffer_core::engine::sql::dialect::Dialect;
use coffer_core::finding::{Finding, Severity};
use coffer_core::spec::EngineSpec;

use super::launch::finish;
use super::{Client, init, launch, write_config};
use crate::sandbox::{self, User};
use crate::site::{Error, Paths, Port, Site, end_trial, ensure_dir, last_words, trial};

/// How long the target may take to read its configuration.
const READ_LIMIT: Duration = Duration::from_secs(60);
/// How long it may take to answer. It has nothing to recover.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Whether the target takes the rendered configuration, in a scratch directory. It reads all of it when it is asked for its
/// help or to validate it, and fails on a name that it does not know; then data are made, and it is started on them, closed, since what is
/// wrong with plugins, directories and modes it only finds then. Nothing is left behind, also not of an earlier trial that
/// was interrupted.
pub(crate) async fn try_target(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    end_trial(site.paths).await?;
    let scratch = trial(site.paths);
    let paths = Paths::of(&scratch);
    for dir in [&scratch, &paths.agent] {
        ensure_dir(dir, User::Own)?;
    }
    let tried = run(spec, Site { paths: &paths, ..site }).await;
    end_trial(site.paths).await?;
    tried
}

async fn run(spec: &EngineSpec, site: Site<'_>) -> Result<(), Error> {
    let dialect = Dialect::of(spec);
    let owned = |arguments: &[&str]| arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>();
    write_config(spec, site)?;
    let mut reads = launch(spec, site, Port::Later);
    reads.argv.extend(owned(dialect.validation()));
    finish(&reads, site.secrets, READ_LIMIT, &spec.label()).await?;
    init::make_data(spec, site, dialect.small()).await?;

    let mut launch = launch(spec, site, Port::Later);
    launch.argv.extend(owned(dialect.small()));
    let from = fs_err::metadata(&launch.log).map_or(0, |log| log.len());
    let started = sandbox::start(&launch)?;
    let words = || last_words(&launch.log, from, site.secrets);
    let answer = tokio::select! {
        answer = tokio::time::timeout(ANSWER_LIMIT, ask(spec, site.paths)) => match answer {
            Ok(answer) => answer,
            Err(_) => Err(Error::Late { what: "answer", within: ANSWER_LIMIT, detail: format!("; its last words: {}", words()) }),
        },
        exit = started.process.exited() => {
            Err(Error::Ended { what: spec.label(), exit: exit?.to_string(), log: words() })
        }
    };
    let findings = answer?;
    // Warnings are told after the start that counts: what was made small is another value here.
    let found: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Error).map(ToString::to_string).collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::Wrong { what: spec.label(), found: found.join("; ") })
}

async fn ask(spec: &EngineSpec, paths: &Paths) -> Result<Vec<Finding>, Error> {
    Client::ready(Dialect::of(spec), paths).await?.verify(spec).await
}
