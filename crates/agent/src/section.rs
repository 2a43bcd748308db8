//! Works off a critical section, from the journal in the state file: forward to the end, or back to the beginning.
//!
//! The order and the rules are those of [`coffer_core::section`] and [`coffer_core::operation`]; here is what each step
//! and each undo does. Nothing in here waits for the control plane. What is recorded before an act that could not be taken
//! back otherwise is flushed to disk.

mod back;
mod proof;
mod record;
mod time;

use std::collections::BTreeSet;
use std::time::Duration;

use coffer_core::finding::Cause;
use coffer_core::operation::{self, Event, Next, Phase};
use coffer_core::section::{Section, SectionStep};
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Learned, Order, Outcome, StepEnd, TaskResult};
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use self::proof::prove;
use self::record::{note_begin, note_end};
use self::time::{hold_limit, in_time, time_left};
use crate::cause::cause;
use crate::driver::{self, Client, Settled, Temporary};
use crate::engine::ended_cleanly;
use crate::gate;
use crate::site::{Error, Exposure, PreImage, Probe, STAYING, Seen};
use crate::state::{Durability, Journal};
use crate::supervisor::Supervisor;

/// How much of the time that writes wait has to be left when the old engine is told to end.
const MARGIN: Duration = Duration::from_secs(5);
/// The reader asks when it begins, and again after [`STAYING`]. In between it has been silent for so long that it is not waited for
/// when new connections begin to wait.
const READER_SILENT: Duration = gate::QUIET.saturating_add(Duration::from_millis(10));
const _: () = assert!(READER_SILENT.as_millis() < STAYING.as_millis());
/// The pauses before a step that must not fail is tried again. The last one repeats.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Opens the journal of a section that was ordered.
pub(crate) fn begin(sup: &mut Supervisor, order: &Order, section: &Section) {
    sup.state.section = Some(Journal {
        task: order.id.clone(),
        section: section.clone(),
        phase: Phase::START,
        steps: Vec::new(),
        // One that does not stay up is nothing that a way back could end with.
        was_running: sup.host.process().is_some() && !section.gives_up_on_it(),
        was_wanted: sup.state.wanted,
        old_started: false,
        old_proven: false,
        measures: Temporary::default(),
        fingerprint: None,
        quiesced_at: None,
        stuck: None,
        gap_us: None,
        clients: None,
        circumstances: None,
        own_writes: None,
    });
}

/// What is known of the open section only as long as this agent lives.
#[derive(Default)]
struct Live {
    probe: Option<Probe>,
    /// Who stays connected meanwhile, and reads.
    reader: Option<Probe>,
    /// Whether the probe began before writes were made to wait, and not only after an agent before this one had died.
    probes_whole: bool,
    /// The connection over which writes were made to wait, and when the engine lets them go on by itself. Before 6.2 such
    /// an engine answers no other connection.
    waiting: Option<(Client, Instant)>,
}

/// Works off the open section until it is over.
pub(crate) async fn work_off(sup: &mut Supervisor) -> Result<(), crate::Error> {
    let mut live = Live::default();
    let mut failures = 0;
    while let Some(journal) = &sup.state.section {
        let plan = journal.section.plan.clone();
        let asked = sup.asked();
        match operation::next(&plan, &journal.phase) {
            Next::Begin(at) => advance(sup, Event::Begun, durability(plan.steps[at]))?,
            Next::Do(at) => {
                let step = plan.steps[at];
                note_begin(sup, step.name().to_owned());
                match perform(sup, step, &mut live).await {
                    Ok(detail) => {
                        note_end(sup, StepEnd::Done, detail);
                        failures = 0;
                        advance(sup, Event::Succeeded, Durability::Written)?;
                    }
                    Err(cause) => {
                        tracing::warn!(step = step.name(), %cause, "step failed");
                        note_end(sup, StepEnd::Failed, cause.message.clone());
                        advance(sup, Event::Failed(cause), Durability::Written)?;
                        if at >= plan.point_of_no_return {
                            failures = try_again(sup, failures, &asked).await?;
                        }
                    }
                }
            }
            Next::Undo(at) => {
                let step = plan.steps[at];
                note_begin(sup, format!("undo {}", step.name()));
                match undo(sup, step).await {
                    Ok(()) => {
                        note_end(sup, StepEnd::Undone, String::new());
                        failures = 0;
                        advance(sup, Event::UndoSucceeded, Durability::Written)?;
                    }
                    Err(cause) => {
                        tracing::error!(step = step.name(), %cause, "undo failed");
                        note_end(sup, StepEnd::UndoFailed, cause.message.clone());
                        advance(sup, Event::UndoFailed(cause), Durability::Written)?;
                        failures = try_again(sup, failures, &asked).await?;
                    }
                }
            }
            Next::Wait => keep_trying(sup)?,
            Next::Nothing => {
                // On the way back clients were not let in by a step that could have told it.
                note_clients(sup, probed(live.probe.take()).await, &live);
                finish(sup)?;
            }
        }
    }
    Ok(())
}

/// A step that must not fail has failed: it is tried again after a pause. If that was its last attempt, everybody can see that it is
/// stuck before the pause, and an agent that is killed in it has counted the failure.
async fn try_again(sup: &mut Supervisor, failures: usize, asked: &BTreeSet<Uuid>) -> Result<usize, crate::Error> {
    keep_trying(sup)?;
    Ok(pause(sup, failures, asked).await)
}

/// The agent does not give up a database. It goes on trying, and says so in every report.
fn keep_trying(sup: &mut Supervisor) -> Result<(), crate::Error> {
    let Some(journal) = sup.state.section.as_mut() else { return Ok(()) };
    let Phase::Stuck { cause, .. } = &journal.phase else { return Ok(()) };
    journal.stuck = Some(cause.clone());
    advance(sup, Event::Retry, Durability::Written)
}

/// The time that a step which must not fail is given to mend itself. Seen by whoever looks: the step's failure is told first.
/// Ends at once when a person asks for that, or has asked while it failed, `asked` being what was asked before; then it is as if
/// nothing had failed yet.
async fn pause(sup: &mut Supervisor, failures: usize, asked: &BTreeSet<Uuid>) -> usize {
    tokio::select! {
        () = tokio::time::sleep(AGAIN[failures.min(AGAIN.len() - 1)]) => return failures + 1,
        () = sup.resumed(asked) => {}
    }
    if let Some(journal) = sup.state.section.as_mut() {
        journal.stuck = None;
    }
    sup.publish();
    0
}

fn durability(step: SectionStep) -> Durability {
    if step.is_decisive() { Durability::Flushed } else { Durability::Written }
}

fn advance(sup: &mut Supervisor, event: Event, durability: Durability) -> Result<(), crate::Error> {
    if let Some(journal) = sup.state.section.as_mut() {
        match operation::apply(&journal.section.plan, &journal.phase, event) {
            Ok(phase) => journal.phase = phase,
            // Cannot happen: the events come from `next` of the same phase.
            Err(illegal) => tracing::error!(%illegal, "section"),
        }
    }
    sup.save(durability)?;
    sup.publish();
    Ok(())
}

fn finish(sup: &mut Supervisor) -> Result<(), crate::Error> {
    let Some(mut journal) = sup.state.section.take() else { return Ok(()) };
    let mut learned = Learned {
        steps: std::mem::take(&mut journal.steps),
        gap_us: journal.gap_us,
        circumstances: journal.circumstances.take(),
        clients: journal.clients,
        ..Learned::default()
    };
    let outcome = match journal.phase {
        // An agent abandons nothing.
        Phase::Undone { mut cause } | Phase::Abandoned { mut cause, .. } => {
            learned.findings = std::mem::take(&mut cause.findings);
            Outcome::Failed { cause, learned: Box::new(learned) }
        }
        Phase::Done | Phase::Forward { .. } | Phase::Backward { .. } | Phase::Stuck { .. } => {
            if journal.section.plan.steps.contains(&SectionStep::Keep) {
                back::keep(sup, &journal);
            }
            Outcome::Done(Box::new(learned))
        }
    };
    sup.state.finish(TaskResult { id: journal.task, outcome });
    sup.save(Durability::Flushed)?;
    sup.publish();
    Ok(())
}

/// Does one step. Idempotent: after a crash it is done again. Where the engine that does not do what it is asked may be gone without,
/// it is killed, and the step is done without it.
async fn perform(sup: &mut Supervisor, step: SectionStep, live: &mut Live) -> Result<String, Cause> {
    let Some(journal) = &sup.state.section else { return Ok(String::new()) };
    let section = journal.section.clone();
    let is_asked = matches!(step, SectionStep::Prepare | SectionStep::Quiesce | SectionStep::Stop);
    let may_fail = section.down && is_asked && sup.host.process().is_some();
    match perform_as(sup, &section, step, live).await {
        // What one that still runs may hold in memory alone is given up only where that was agreed to.
        Err(cause) if may_fail && (section.gives_up_on_it() || sup.host.process().is_none()) => {
            *live = Live::default();
            back::go_without(sup).await?;
            let detail = perform_as(sup, &section, step, live).await?;
            Ok(format!("the engine was killed, since it did not do as it was asked: {}; {detail}", cause.message))
        }
        done => done,
    }
}

async fn perform_as(
    sup: &mut Supervisor,
    section: &Section,
    step: SectionStep,
    live: &mut Live,
) -> Result<String, Cause> {
    match step {
        SectionStep::Prepare => prepare(sup, section, live).await,
        SectionStep::Quiesce => quiesce(sup, section, live).await,
        SectionStep::Stop => {
            sup.state.wanted = false;
            let was_running = sup.host.process().is_some();
            let detail = match stop(sup, section, live).await {
                // An agent before this one, killed since, had told it to end already.
                Err(cause) if was_running && sup.host.is_ending(&section.from).await => {
                    format!("it was ending already: {}", cause.message)
                }
                stopped => stopped.map(|()| String::new())?,
            };
            // What is kept has their owners.
            sup.host.give_files()?;
            Ok(detail)
        }
        SectionStep::Keep => {
            let bytes = blocking(sup, section, PreImage::complete).await?;
            Ok(format!("{bytes} bytes"))
        }
        SectionStep::Swap => {
            sup.state.engine = Some(section.to.clone());
            Ok(section.to.label())
        }
        SectionStep::Restore => {
            blocking(sup, section, back::restore).await?;
            sup.state.on_disk = Some(section.to.number);
            Ok(String::new())
        }
        SectionStep::Start => {
            // One that an agent started before it was killed may be half open, or another version: it is begun anew.
            sup.host.kill().await?;
            sup.state.on_disk = Some(section.to.number);
            let left = time_left(sup, section)?;
            in_time(left, &section.to, start_new(sup, section)).await
        }
        SectionStep::Prove => {
            let left = time_left(sup, section)?;
            let proven = in_time(left, &section.to, prove(sup, &section.to)).await?;
            // Not later: once it has begun to be opened, an agent that comes next cannot tell whose writes are counted.
            let own = match section.plan.steps.contains(&SectionStep::Keep) {
                true => back::writes_at_start(sup, section).await,
                false => None,
            };
            if let Some(journal) = sup.state.section.as_mut() {
                journal.own_writes = own;
            }
            Ok(proven)
        }
        SectionStep::Open => {
            let before = live.probe.as_ref().map_or(0, Probe::answered);
            open(sup, &section.to).await?;
            let opened = Timestamp::now();
            let (seen, read) = tokio::join!(probed(live.probe.take()), probed(live.reader.take()));
            sup.state.wanted = true;
            sup.state.generation = section.generation;
            sup.state.settle = Settled::configured(&section.to);
            if let Some(journal) = sup.state.section.as_mut() {
                // Where the agent itself was killed meanwhile, the probe saw only the end of it.
                let whole = journal.quiesced_at.and_then(|at| Duration::try_from(opened.duration_since(at)).ok());
                // Of a probe that died with its agent some may be missing: what is lost is then told as a little more than it is.
                let since = seen.map_or(0, |seen| seen.clients.answered() - before);
                journal.own_writes = journal.own_writes.map(|own| own + driver::writes_of_probe(&section.to, since));
                journal.gap_us =
                    seen.map(|seen| seen.gap).max(whole).and_then(|gap| u64::try_from(gap.as_micros()).ok());
                if let (Some(circumstances), Some(read), true) =
                    (journal.circumstances.as_mut(), read, live.probes_whole)
                {
                    circumstances.read_gap_us = u64::try_from(read.gap.as_micros()).ok();
                }
            }
            note_clients(sup, seen, live);
            Ok(String::new())
        }
    }
}

/// The new engine, closed, with its own step done.
async fn start_new(sup: &mut Supervisor, section: &Section) -> Result<String, Cause> {
    let client = sup.host.start(&section.to, Exposure::Closed).await?;
    // What is restored is of this very version.
    if section.restores.is_none() && driver::has_own_step(&section.from, &section.to) {
        let began = Instant::now();
        let said = sup.host.own_step(&section.to, &client).await?;
        return Ok(format!("its own step took {} ms; its last words: {said}", began.elapsed().as_millis()));
    }
    Ok(String::new())
}

async fn probed(probe: Option<Probe>) -> Option<Seen> {
    match probe {
        Some(probe) => Some(probe.finish().await),
        None => None,
    }
}

/// Counts of a part would say less than happened, so they are not told.
fn note_clients(sup: &mut Supervisor, seen: Option<Seen>, live: &Live) {
    if let (Some(journal), Some(seen), true) = (sup.state.section.as_mut(), seen, live.probes_whole) {
        journal.clients = Some(seen.clients);
    }
}

/// Looks as clients do that come anew each time, from now on if it was not looked yet.
fn probe<'a>(sup: &Supervisor, section: &Section, live: &'a mut Live) -> &'a Probe {
    if live.probe.is_none() {
        live.probes_whole = sup.state.section.as_ref().is_some_and(|j| j.quiesced_at.is_none());
    }
    live.probe.get_or_insert_with(|| driver::probe(&section.from, &section.to, &sup.host.secrets))
}

async fn prepare(sup: &mut Supervisor, section: &Section, live: &mut Live) -> Result<String, Cause> {
    // An upgrade was checked before; a restart with other settings is a matter of this section alone.
    if section.from.number == section.to.number && section.from.settings != section.to.settings {
        sup.host.try_target(&section.to).await?;
    }
    if sup.host.process().is_none() {
        if section.plan.steps.contains(&SectionStep::Keep) && !section.down {
            // It ended since the checks. What it holds has to be known before another version touches it.
            let hint = "wait until it serves again, then ask again";
            return Err(Cause::new(format!("{} does not run any more", section.from.label()), hint));
        }
        let mut detail = "the engine does not run, so its files are as it left them".to_owned();
        if let Some(operation) = section.restores {
            detail = format!("{detail}; {}", back::make_ready(sup, section, operation).await?);
        }
        return Ok(detail);
    }
    // One that may not read who the agent is does not let it in.
    sup.host.give_files()?;
    let client = match section.down {
        true => sup.host.client_soon(&section.from).await?,
        false => sup.host.client(&section.from).await?,
    };
    probe(sup, section, live);
    let known = sup.state.section.as_ref().is_some_and(|j| j.measures.are_planned());
    if !known {
        let mut measures = client.plan_measures().await.map_err(cause)?;
        if let Some(want) = &sup.state.settle {
            // What is found are the measures of an operation before this one, which are still in force.
            measures = measures.with_before(want);
        }
        let circumstances = driver::circumstances(&client, &sup.host.paths).await.map_err(cause)?;
        if let Some(journal) = sup.state.section.as_mut() {
            journal.measures = measures;
            journal.circumstances = Some(circumstances);
        }
        // What was found has to survive before it is changed.
        sup.save(Durability::Flushed).map_err(unsaved)?;
    }
    let measures = measures(sup);
    client.prepare(&section.from, &measures).await.map_err(cause)?;
    if section.plan.steps.contains(&SectionStep::Keep) {
        blocking(sup, section, PreImage::copy_ahead).await?;
    }
    match section.restores {
        Some(operation) => back::make_ready(sup, section, operation).await,
        None => Ok(String::new()),
    }
}

async fn quiesce(sup: &mut Supervisor, section: &Section, live: &mut Live) -> Result<String, Cause> {
    if sup.host.process().is_none() {
        return Ok("the engine does not run, so nobody can write".to_owned());
    }
    probe(sup, section, live).look_closely();
    if live.reader.is_none() {
        live.reader = Some(driver::reader(&section.from, &section.to, &sup.host.secrets));
        tokio::time::sleep(READER_SILENT).await;
    }
    // The last moment at which nobody waits: an engine that may not read its files tells less of them, and may not end cleanly.
    sup.host.give_files()?;
    let client = sup.host.client(&section.from).await?;
    client.look_ahead().await.map_err(cause)?;
    let drained = sup.host.hold(&section.from, &client, hold_limit(sup, section)?).await?;
    let began = Timestamp::now();
    let asked = async {
        let quiesced = client.quiesce(&section.from, &measures(sup)).await.map_err(cause)?;
        match client.hindrance().await.map_err(cause)? {
            Some(reason) if section.plan.steps.contains(&SectionStep::Keep) => Err(cause(Error::Unsafe { reason })),
            _ => Ok(quiesced),
        }
    };
    let quiesced = in_time(sup.host.holds_for(), &section.from, asked).await?;
    live.waiting = Some((client, quiesced.until));
    let mut detail = quiesced.fingerprint.summary();
    if !drained.is_empty() {
        detail = format!("{drained}; {detail}");
    }
    if let Some(journal) = sup.state.section.as_mut() {
        journal.quiesced_at.get_or_insert(began);
        journal.fingerprint = Some(quiesced.fingerprint);
    }
    Ok(detail)
}

/// Ends the old engine, unless it has ended.
async fn stop(sup: &mut Supervisor, section: &Section, live: &mut Live) -> Result<(), Cause> {
    if sup.host.process().is_none() {
        // What was acknowledged last may be gone with the power, and what was counted be more than there is.
        if section.down || !sup.host.said_farewell(&section.from) {
            back::forget_held(sup);
        }
        // Another version reads what this one left: if that is half, this one has to recover first.
        let is_read = section.plan.steps.contains(&SectionStep::Keep) && !section.gives_up_on_it();
        if is_read && !ended_cleanly(&sup.host.paths, &section.from) {
            let message = format!("{} ended without a clean stop", section.from.label());
            let hint = match section.down {
                true => "have it serve again, or go back to the data from before: coffer instance rollback --restore",
                false => "it recovers by itself; ask again when it serves",
            };
            return Err(Cause::new(message, hint));
        }
        return Ok(());
    }
    // Writes that go on by themselves would be acknowledged, and counted by nobody.
    if live.waiting.as_ref().is_none_or(|(_, until)| Instant::now() + MARGIN > *until) {
        quiesce(sup, section, live).await?;
    }
    match live.waiting.take() {
        Some((client, _)) => sup.host.stop(&section.from, client).await,
        None => Ok(()),
    }
}

/// Puts back what a step may have touched. Idempotent, and true also of a step that acted in part or not at all.
async fn undo(sup: &mut Supervisor, step: SectionStep) -> Result<(), Cause> {
    let Some(journal) = &sup.state.section else { return Ok(()) };
    let section = journal.section.clone();
    let (was_running, was_wanted) = (journal.was_running, journal.was_wanted);
    match step {
        SectionStep::Prepare => {
            // One that said nothing at all may not do so now either, and nothing of it was changed.
            if was_running && (!section.down || measures(sup).are_planned()) {
                serving(sup, &section).await?;
            }
            // Not now: a snapshot takes its time, and the instance serves. The supervisor does it next.
            sup.state.settle = measures(sup).before().or(sup.state.settle.take());
            blocking(sup, &section, PreImage::discard).await
        }
        SectionStep::Quiesce if was_running => {
            let client = serving(sup, &section).await?;
            client.unquiesce(&section.from, &measures(sup)).await.map_err(cause)
        }
        SectionStep::Stop if was_running => {
            if let Phase::Backward { attempt: 0, .. } = journal.phase {
                let limit = hold_limit(sup, &section)?;
                sup.host.hold_on(&section.from, limit)?;
            }
            start_old(sup, &section).await?;
            sup.state.wanted = true;
            Ok(())
        }
        // Nobody has taken note of its end yet, where it was made to wait and then could not be killed.
        SectionStep::Quiesce if section.gives_up_on_it() => sup.host.kill().await,
        SectionStep::Stop => {
            // It did not run before. The supervisor goes on trying to start it, but where somebody had stopped it.
            sup.state.wanted = was_wanted || !section.down;
            if !sup.state.wanted {
                sup.host.refuse();
            }
            Ok(())
        }
        SectionStep::Keep => {
            // Data that are put back are the pre-image's own files. After a power cut no start may be what is known last.
            sup.save(Durability::Flushed).map_err(unsaved)?;
            blocking(sup, &section, |image| match image.is_complete() {
                true => image.restore(),
                // Without a complete pre-image nothing was started on the data. The old engine may need the room.
                false => image.discard(),
            })
            .await?;
            sup.state.on_disk = Some(section.from.number);
            Ok(())
        }
        SectionStep::Swap => {
            sup.state.engine = Some(section.from.clone());
            Ok(())
        }
        // No client has reached it, so nothing is lost with it.
        SectionStep::Start => sup.host.kill().await,
        // What was there before Restore is put back by the undo of Keep.
        SectionStep::Restore | SectionStep::Quiesce | SectionStep::Prove | SectionStep::Open => Ok(()),
    }
}

/// The old engine again, proven and open, unless it never was stopped.
async fn start_old(sup: &mut Supervisor, section: &Section) -> Result<(), Cause> {
    if sup.host.process().is_some() && !sup.state.section.as_ref().is_some_and(|j| j.old_started) {
        return Ok(());
    }
    if let Some(journal) = sup.state.section.as_mut() {
        journal.old_started = true;
    }
    sup.save(Durability::Flushed).map_err(unsaved)?;
    let client = sup.host.start(&section.from, Exposure::Closed).await?;
    // Once it is open clients write, and it no longer is what was counted.
    if sup.host.is_open(&section.from, &client).await? {
        return Ok(());
    }
    if !sup.state.section.as_ref().is_some_and(|j| j.old_proven) {
        prove(sup, &section.from).await?;
        if let Some(journal) = sup.state.section.as_mut() {
            journal.old_proven = true;
        }
        sup.save(Durability::Flushed).map_err(unsaved)?;
    }
    open(sup, &section.from).await
}

/// The old engine, running and open: where a way back ends.
async fn serving(sup: &mut Supervisor, section: &Section) -> Result<Client, Cause> {
    sup.host.give_files()?;
    sup.host.start(&section.from, Exposure::Open).await
}

/// Lets clients in. Where there is no gate, engines that cannot open a port while they run are started a second time. So is one
/// that died since it was proven: clients may have got to it already, and what it holds is more than what was counted.
async fn open(sup: &mut Supervisor, spec: &EngineSpec) -> Result<(), Cause> {
    let client = sup.host.start(spec, Exposure::Open).await?;
    if !sup.host.is_open(spec, &client).await? {
        sup.host.stop(spec, client).await?;
        sup.host.start(spec, Exposure::Open).await?;
    }
    Ok(())
}

fn measures(sup: &Supervisor) -> Temporary {
    sup.state.section.as_ref().map(|j| j.measures.clone()).unwrap_or_default()
}

/// File work of a pre-image, off the thread that watches the engine.
async fn blocking<T: Send + 'static>(
    sup: &Supervisor,
    section: &Section,
    work: impl FnOnce(&PreImage) -> Result<T, Error> + Send + 'static,
) -> Result<T, Cause> {
    let image = PreImage::of(&sup.host.paths, section.operation, driver::kinds(&section.from));
    match tokio::task::spawn_blocking(move || work(&image)).await {
        Ok(done) => done.map_err(cause),
        Err(e) => Err(Cause::new(format!("the pre-image's work ended early: {e}"), "")),
    }
}

fn unsaved(error: crate::Error) -> Cause {
    tracing::error!(%error, "journal");
    Cause::new("the agent's journal cannot be written", "make room on the disk of the volume, then ask again")
}
