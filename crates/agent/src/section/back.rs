//! What a section does for the way back after success: keeps a pre-image with what it holds, and goes back to one.
//!
//! A pre-image that is gone back to is not touched. While the old engine serves a copy of it is made, which lies in the pre-image
//! of the rollback itself and goes with that; only the copy is given to an engine, which changes it.

use coffer_core::finding::Cause;
use coffer_core::id::OperationId;
use coffer_core::section::Section;
use coffer_core::spec::EngineSpec;
use jiff::Timestamp;

use super::blocking;
use crate::cause::cause;
use crate::driver;
use crate::site::{Error, PreImage};
use crate::state::{Held, Journal, KeptPreimage};
use crate::supervisor::Supervisor;

/// Makes the copy that is given away.
pub(super) async fn make_ready(sup: &Supervisor, section: &Section, restores: OperationId) -> Result<String, Cause> {
    let other = PreImage::of(&sup.host.paths, restores, driver::kinds(&section.to));
    let bytes = blocking(sup, section, move |image| {
        image.ready().be_copy_of(&other)?;
        other.bytes()
    });
    Ok(format!("{} bytes to go back to", bytes.await?))
}

/// The engine that is down is not asked for anything any more. What it may have told before that is nothing to go by.
pub(super) async fn go_without(sup: &mut Supervisor) -> Result<(), Cause> {
    sup.host.kill().await?;
    forget_held(sup);
    // Nor is how long it was away: it was down before.
    if let Some(journal) = sup.state.section.as_mut() {
        journal.circumstances = None;
        journal.quiesced_at = None;
    }
    Ok(())
}

/// An engine that ended otherwise than it was told to may have left something else than it held.
pub(super) fn forget_held(sup: &mut Supervisor) {
    if let Some(journal) = sup.state.section.as_mut() {
        journal.fingerprint = None;
    }
}

/// Gives the copy away: the data are those that it holds.
pub(super) fn restore(image: &PreImage) -> Result<(), Error> {
    let ready = image.ready();
    if !ready.is_complete() {
        return Err(Error::PreImage { path: ready.dir().to_owned(), problem: "is not complete".to_owned() });
    }
    ready.restore()
}

/// What an engine that runs as `spec` has to hold: what there was before its data were kept, where they were restored.
pub(super) fn held(sup: &Supervisor, journal: &Journal, spec: &EngineSpec) -> Result<Option<Held>, Cause> {
    match journal.section.restores {
        Some(operation) if *spec == journal.section.to => {
            PreImage::of(&sup.host.paths, operation, driver::kinds(spec)).held().map_err(cause)
        }
        _ => Ok(held_now(journal)),
    }
}

fn held_now(journal: &Journal) -> Option<Held> {
    let fingerprint = journal.fingerprint.clone()?;
    Some(Held { measures: journal.measures.clone(), fingerprint })
}

/// What the new engine counts as writes before any client got in. `None`: it does not say.
pub(super) async fn writes_at_start(sup: &Supervisor, section: &Section) -> Option<u64> {
    if !driver::counts_own_writes(&section.to) {
        return Some(0);
    }
    let asked = async { Ok::<_, Cause>(sup.host.client(&section.to).await?.writes().await.map_err(cause)?.0) };
    asked.await.inspect_err(|cause| tracing::warn!(%cause, "writes are not counted")).ok()
}

/// Keeps the pre-image of a section that is done, for as long as there is a way back. What fails here fails no upgrade.
pub(super) fn keep(sup: &mut Supervisor, journal: &Journal) {
    let section = &journal.section;
    let image = PreImage::of(&sup.host.paths, section.operation, driver::kinds(&section.from));
    let noted = held_now(journal).map_or(Ok(()), |held| image.note_held(&held)).and_then(|()| image.ready().discard());
    if let Err(error) = noted {
        tracing::warn!(%error, "pre-image");
    }
    sup.state.preimages.push(KeptPreimage {
        operation: section.operation,
        since: Timestamp::now(),
        version: Some(section.from.version),
        bytes: image.bytes().unwrap_or_default(),
        engine: sup.host.birth(),
        own_writes: journal.own_writes,
        finalized: false,
    });
}
