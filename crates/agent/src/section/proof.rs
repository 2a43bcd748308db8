//! The proof of an engine within a section.

use coffer_core::finding::{Cause, Finding, Severity};
use coffer_core::spec::EngineSpec;

use super::back;
use crate::cause::cause;
use crate::driver;
use crate::state::Held;
use crate::supervisor::Supervisor;

/// How many findings of a proof that failed are told in a sentence.
const FINDINGS_TOLD: usize = 3;

/// Proves that the engine is what `spec` says and holds what was counted when writes were made to wait: now, or before the
/// pre-image was taken that it runs on.
pub(super) async fn prove(sup: &mut Supervisor, spec: &EngineSpec) -> Result<String, Cause> {
    let client = sup.host.ready(spec).await?;
    let found = client.verify_closed(spec).await.map_err(cause)?;
    let (mut findings, told): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| f.severity == Severity::Error);
    if !told.is_empty() {
        sup.event("config.differs", &few(&told));
    }
    let mut compared = String::new();
    // Where the old engine had died before anything was counted, there is nothing to compare with.
    if let Some(journal) = &sup.state.section
        && let Some(Held { measures, fingerprint }) = back::held(sup, journal, spec)?
    {
        let same_engine = journal.section.from.number == spec.number;
        let seen = client.compare(&measures, &fingerprint).await;
        if same_engine && driver::works_in_place(spec) {
            // The files are those that it left: another look at them gives no other data, and keeping clients out none either.
            let differs = match seen {
                Ok((differs, how_much)) => {
                    compared = how_much;
                    few(&differs)
                }
                Err(error) => cause(error).message,
            };
            if !differs.is_empty() {
                let message = format!("{} holds something else than before it was stopped: {differs}", spec.label());
                sup.event("proof.differs", &message);
            }
        } else {
            let (differs, how_much) = seen.map_err(cause)?;
            compared = how_much;
            findings.extend(differs);
        }
    }
    if findings.is_empty() {
        return Ok(compared);
    }
    let mut cause = Cause::new(
        format!("{} answers, but it is not what it should be: {}", spec.label(), few(&findings)),
        "the data is as it was; report this with the operation's steps",
    );
    cause.findings = findings;
    Err(cause)
}

/// The first of them in a sentence. Thousands of keys may be missing, and somebody is to read it.
fn few(findings: &[Finding]) -> String {
    let mut told: Vec<_> = findings.iter().take(FINDINGS_TOLD).map(ToString::to_string).collect();
    if findings.len() > FINDINGS_TOLD {
        told.push(format!("and {} more", findings.len() - FINDINGS_TOLD));
    }
    told.join("; ")
}
