//! Staying until an operation is over, and showing each of its steps.
//!
//! Progress goes to standard error: a moving line for a terminal, one line per step for everything else. The server may
//! be restarted meanwhile; an operation does not depend on it being there, and neither does this.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use coffer_core::task::StepEnd;
use coffer_wire::trove::operation::{Clients, Operation, OperationStep};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::SignedDuration;

use crate::clouds::Cloud;
use crate::failure::{Failure, Kind};
use crate::find;
use crate::trove::Trove;

/// How often the server is asked.
const PERIOD: Duration = Duration::from_millis(150);
/// How long the server may be away before it is given up.
const AWAY: Duration = Duration::from_secs(60);

/// What is waited for.
pub(crate) struct Watch<'a> {
    pub cloud: &'a Cloud,
    pub instance: &'a str,
    /// The name that people know the instance by.
    pub name: &'a str,
    pub timeout: Option<SignedDuration>,
}

/// How an operation ended.
pub(crate) enum End {
    Done(Box<Operation>),
    /// The instance is gone, and its operations with it.
    Gone,
}

impl Watch<'_> {
    /// Stays until the newest operation of the instance is over. An error if it did not succeed.
    ///
    /// Gives back a client that works, because the server may have been another one meanwhile.
    pub(crate) async fn newest(&self, mut trove: Trove) -> (Trove, Result<End, Failure>) {
        let end = self.stay(&mut trove).await;
        (trove, end)
    }

    async fn stay(&self, trove: &mut Trove) -> Result<End, Failure> {
        let began = Instant::now();
        let mut display = Display::new(self.name);
        let mut away_since = None;
        let mut id = None;
        loop {
            match find::operations(trove, self.instance).await {
                Ok(operations) => {
                    away_since = None;
                    let mut operations = operations.into_iter();
                    let found = match &id {
                        None => operations.next(),
                        Some(id) => operations.find(|operation| operation.id == *id),
                    };
                    let Some(operation) = found else { return Ok(End::Gone) };
                    display.show(&operation);
                    if let Some(end) = over(&operation) {
                        display.finish();
                        return end.map(|()| End::Done(Box::new(operation)));
                    }
                    id = Some(operation.id);
                }
                // Only what has been there can be gone.
                Err(failure) if failure.kind == Kind::NotFound && id.is_some() => {
                    display.finish();
                    return Ok(End::Gone);
                }
                Err(failure) if matches!(failure.kind, Kind::Unreachable | Kind::Auth) => {
                    if away_since.get_or_insert_with(Instant::now).elapsed() > AWAY {
                        return Err(failure);
                    }
                    display.away();
                    if let Ok(again) = Trove::connect(self.cloud).await {
                        *trove = again;
                    }
                }
                Err(failure) => return Err(failure),
            }
            if self.timeout.is_some_and(|timeout| began.elapsed() > timeout.unsigned_abs()) {
                return Err(Failure::new(
                    Kind::Failed,
                    format!("instance {} is not ready within the time given; what was begun goes on", self.name),
                    format!("coffer instance operations {} --wait", self.name),
                ));
            }
            tokio::time::sleep(PERIOD).await;
        }
    }
}

/// Whether the operation is over, and whether it did what it was for.
fn over(operation: &Operation) -> Option<Result<(), Failure>> {
    let cause = operation.cause.clone();
    let failure = |kind, what: &str| {
        let (message, hint) = cause.map_or((String::new(), String::new()), |cause| (cause.message, cause.hint));
        Failure::new(kind, format!("{} failed{what}: {message}", operation.kind), hint)
    };
    match operation.phase.as_str() {
        "done" => Some(Ok(())),
        "undone" => Some(Err(failure(Kind::Undone, ", and everything was put back"))),
        "stuck" => Some(Err(failure(Kind::Failed, " half way, and a person has to choose: resume or abandon"))),
        "abandoned" => Some(Err(failure(Kind::Failed, ", and was given up half way"))),
        _ => None,
    }
}

/// Which versions an operation is about, as the end of a title.
pub(crate) fn versions(operation: &Operation) -> String {
    match (&operation.from, &operation.to) {
        (Some(from), Some(to)) if from != to => format!(" from {from} to {to}"),
        (_, Some(version)) | (Some(version), None) => format!(" on {version}"),
        (None, None) => String::new(),
    }
}

/// Milliseconds as people read them.
pub(crate) fn span(ms: f64) -> String {
    if ms < 10_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}

/// What clients saw, on a line.
pub(crate) fn clients(seen: &Clients) -> String {
    let Clients { attempts, refused, reset, wrong, longest_wait_ms } = seen;
    format!(
        "clients at its address: {attempts} connections, {refused} refused, {reset} reset, {wrong} wrong answers, \
         longest wait {}",
        span(*longest_wait_ms)
    )
}

/// One step that is over, on a line.
pub(crate) fn line(step: &OperationStep) -> String {
    let end = match step.outcome {
        Some(StepEnd::Done) => "done",
        Some(StepEnd::Failed) => "failed",
        Some(StepEnd::Undone) => "undone",
        Some(StepEnd::UndoFailed) => "undo failed",
        None => "running",
    };
    let took = step.ms.map(span).unwrap_or_default();
    format!("  {:<10} {end:<7} {took:>9}  {}", step.name, step.detail).trim_end().to_owned()
}

/// What is shown while waiting.
struct Display<'a> {
    name: &'a str,
    /// `None` where nobody would see it move.
    bar: Option<ProgressBar>,
    /// How each step ended, as far as it has been told. A step may be told twice: that it is done, and that it is undone.
    told: Vec<Option<StepEnd>>,
    titled: bool,
}

impl<'a> Display<'a> {
    fn new(name: &'a str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant that was tried.
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}  {elapsed}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { name, bar, told: Vec::new(), titled: false }
    }

    fn show(&mut self, operation: &Operation) {
        if !self.titled {
            self.titled = true;
            self.say(&format!("{} {}{}", operation.kind, self.name, versions(operation)));
        }
        self.told.resize(self.told.len().max(operation.steps.len()), None);
        for (at, step) in operation.steps.iter().enumerate() {
            if step.outcome.is_some() && step.outcome != self.told[at] {
                self.told[at] = step.outcome;
                self.say(&line(step));
            }
        }
        if let Some(bar) = &self.bar {
            // The last of them: a step that the agent works off is within another that waits for it.
            let running = operation.steps.iter().rfind(|step| step.outcome.is_none());
            bar.set_message(running.map_or_else(String::new, |step| step.name.clone()));
        }
    }

    fn away(&self) {
        if let Some(bar) = &self.bar {
            bar.set_message("the server does not answer; waiting for it");
        }
    }

    #[expect(clippy::print_stderr, reason = "progress is for the person at the terminal")]
    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Kind, line, over};

    #[test]
    fn how_an_operation_ended_decides_the_exit_code() {
        let check = |phase: &str, expected: Option<Result<(), Kind>>| {
            let operation = json!({"id": "o", "kind": "upgrade", "phase": phase, "from": null, "to": null,
                "created": "2026-11-22T10:39:36", "updated": "2026-11-22T10:39:36", "gap_ms": null, "steps": [],
                "findings": [], "cause": {"message": "it did not start", "hint": "look"}});
            let operation = serde_json::from_value(operation).expect("an operation");
            let end = over(&operation).map(|end| end.map_err(|failure| failure.kind));
            assert_eq!(end, expected, "{phase}");
        };
        check("forward", None);
        check("backward", None);
        check("done", Some(Ok(())));
        check("undone", Some(Err(Kind::Undone)));
        check("stuck", Some(Err(Kind::Failed)));
    }

    #[test]
    fn a_step_is_one_line() {
        let step = |outcome: &str, ms: f64| {
            let step = json!({"name": "quiesce", "begun": "2026-11-22T10:39:36", "ended": "2026-11-22T10:39:36",
                "outcome": outcome, "ms": ms, "detail": "100000 keys"});
            line(&serde_json::from_value(step).expect("a step"))
        };
        assert_eq!(step("done", 12.4), "  quiesce    done        12 ms  100000 keys");
        assert_eq!(step("undo_failed", 61_234.0), "  quiesce    undo failed    61.2 s  100000 keys");
    }
}
