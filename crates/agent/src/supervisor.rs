//! The heart of an agent: keeps its engine running, works off what it is asked, and finishes what it began.
//!
//! ```text
//!                 +--> a section is open: work it off, forward or back, whatever else happens
//!   loop ---------+
//!                 +--> else wait for: another desired state, the end of the engine, an acknowledgement,
//!                      the end of a task, or the time to look after things
//! ```
//!
//! Guarantees:
//! - One thing at a time touches the engine. Tasks that only look or fetch run beside it.
//! - An engine that dies is started again, at once the first time and then with pauses that grow; one that dies again and
//!   again is one event and a state, not many events. An engine that ended with status 0 was told to, and is reported.
//! - What is otherwise than it was left is said ([`crate::drift`]), and mended by nothing that nobody asked for.
//! - What is told to the control plane is kept until it was acknowledged.
//! - The agent may be killed at any moment: the next one finds the engine by its lock and goes on from the state file.

use std::collections::BTreeSet;
use std::time::Duration;

use coffer_core::agent;
use coffer_core::crash::{Noted, STEADY};
use coffer_core::datastore::Number;
use coffer_core::engine::live::changes;
use coffer_core::finding::Cause;
use coffer_core::id::{Generation, OperationId, TaskId};
use coffer_core::instance::{Engine, Observed};
use coffer_core::spec::EngineSpec;
use coffer_core::task::{Learned, Order, Outcome, Task, TaskResult};
use coffer_wire::agent::{Ack, AgentEvent, Report, Running};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::drift::Watch;
use crate::driver::{Client, Settled};
use crate::engine::EngineHost;
use crate::link::Wanted;
use crate::sandbox::Exit;
use crate::site::{self, Exposure};
use crate::state::{Birth, Durability, State, StateFile};
use crate::tasks;
use crate::{live, section};

/// The pause before it is tried again to end temporary measures.
const SETTLE_PAUSE: Duration = Duration::from_secs(30);
/// How often the volume is measured, the engine asked whether it answers, and old pre-images looked at.
const LOOK_AFTER: Duration = Duration::from_secs(10);

/// Why a loop of crashes is over; see [`STEADY`].
const STEADILY: &str = "the engine has run for 300 s";

/// Other settings for an engine that goes on, as the control plane ordered them.
struct Retune {
    task: TaskId,
    to: EngineSpec,
    generation: Generation,
}

/// What one instance's agent knows and does.
pub(crate) struct Supervisor {
    pub(crate) host: EngineHost,
    pub(crate) state: State,
    file: StateFile,
    report: watch::Sender<Report>,
    desired: watch::Receiver<Wanted>,
    acks: mpsc::UnboundedReceiver<Ack>,
    done: (mpsc::UnboundedSender<TaskResult>, mpsc::UnboundedReceiver<TaskResult>),
    /// The task that runs beside the engine.
    beside: Option<Order>,
    /// Other settings that the engine is to take as it runs.
    retune: Option<Retune>,
    engine: Engine,
    pub(crate) watch: Watch,
    started_at: Option<Instant>,
    retry_at: Instant,
    volume_used_bytes: u64,
    pub(crate) keep_preimages: Duration,
    /// The pre-image that an open operation goes back to.
    pub(crate) held_preimage: Option<OperationId>,
    /// When it is next tried to end temporary measures.
    settle_at: Instant,
}

impl Supervisor {
    /// Takes over: what the state file says, and the engine if one runs.
    pub(crate) fn new(
        host: EngineHost,
        state: State,
        file: StateFile,
        report: watch::Sender<Report>,
        desired: watch::Receiver<Wanted>,
        acks: mpsc::UnboundedReceiver<Ack>,
    ) -> Self {
        Self {
            watch: Watch::new(&state.drift),
            host,
            state,
            file,
            report,
            desired,
            acks,
            done: mpsc::unbounded_channel(),
            beside: None,
            retune: None,
            engine: Engine::Absent,
            started_at: None,
            retry_at: Instant::now(),
            volume_used_bytes: 0,
            keep_preimages: Duration::from_secs(24 * 3600),
            held_preimage: None,
            settle_at: Instant::now(),
        }
    }

    /// Runs until the process is ended.
    pub(crate) async fn run(&mut self) -> Result<(), crate::Error> {
        self.adopt().await?;
        loop {
            if self.state.section.is_some() {
                let before = self.host.birth();
                section::work_off(self).await?;
                self.note_section(before);
            }
            if let Some(retune) = self.retune.take() {
                self.retune(retune).await?;
            }
            if self.host.has_ended() {
                // While something else was done. It is told before another takes its place.
                let exit = self.host.ended().await;
                self.engine_ended(exit)?;
            }
            self.ensure_engine().await?;
            self.publish();
            let look_after = tokio::time::sleep(self.next_look());
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.take_desired()?;
                }
                exit = self.host.ended() => self.engine_ended(exit)?,
                () = self.host.gate_unkept() => self.tend_gate(),
                Some(ack) = self.acks.recv() => self.forget(&ack)?,
                Some(result) = self.done.1.recv() => {
                    self.beside = None;
                    self.state.finish(result);
                    self.save(Durability::Flushed)?;
                    self.take_desired()?;
                }
                () = look_after => self.look_after().await?,
            }
        }
    }

    /// Replaces the state file.
    pub(crate) fn save(&mut self, durability: Durability) -> Result<(), crate::Error> {
        if let Some(isolation) = self.host.isolation() {
            self.state.isolation = isolation;
        }
        if let Some(config) = self.host.take_config() {
            self.state.origin.config = Some(config);
        }
        if let Some((image, program)) = self.host.take_program()
            && self.state.origin.program.as_ref().is_none_or(|(of, _)| *of != image)
        {
            self.state.origin.program = Some((image, program));
        }
        self.note_mended();
        Ok(self.file.save(&self.state, durability)?)
    }

    /// Tells what is seen now. Never waits.
    pub(crate) fn publish(&self) {
        let section = self.state.section.as_ref();
        let running = section.map(|journal| Running {
            id: journal.task.clone(),
            steps: journal.steps.clone(),
            stuck: journal.stuck.clone(),
        });
        let beside = self.beside.as_ref().map(|order| Running { id: order.id.clone(), steps: Vec::new(), stuck: None });
        let serving = self.engine == Engine::Serving;
        self.report.send_replace(Report {
            observed: Observed {
                at: Timestamp::now(),
                generation: self.state.generation,
                engine: self.engine.clone(),
                running: self.watch.says.filter(|_| serving),
                on_disk: self.on_disk(),
                volume_used_bytes: self.volume_used_bytes,
                isolation: self.state.isolation.clone(),
                settling: self.state.settle.is_some(),
                gate: self.host.gate_seen(),
                ways_back: self.ways_back(),
                drift: self.state.drift.clone(),
                crash_loop: self.state.crashes.in_loop().cloned(),
            },
            running: running.or(beside),
            results: self.state.results.clone(),
            events: self.state.events.clone(),
        });
    }

    /// The version that wrote the data last: by the record, unless the data themselves say that it was one that came later.
    fn on_disk(&self) -> Option<Number> {
        let foreign = self.state.engine.as_ref().and_then(|spec| self.watch.foreign_data(spec));
        foreign.or(self.state.on_disk)
    }

    /// For how long the engine has run, as far as this agent knows.
    pub(crate) fn runs_for(&self) -> Duration {
        self.started_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Finds out what a dead agent left: an engine that runs, or one that has to be started.
    async fn adopt(&mut self) -> Result<(), crate::Error> {
        self.file.ensure_reserve();
        site::end_trial(&self.host.paths).await.unwrap_or_else(|error| tracing::warn!(%error, "trial"));
        if self.state.section.is_none()
            && let Some(spec) = self.state.engine.clone()
            && self.host.process().is_some()
        {
            self.host.give_files().unwrap_or_else(|cause| tracing::error!(%cause, "files"));
            // Clients get in, also where an agent died before it had let them in.
            match self.host.start(&spec, Exposure::Open).await {
                Ok(client) => self.note_start(&client).await,
                Err(cause) => self.engine = Engine::Failed { cause, restarts: self.state.crashes.count() },
            }
        }
        if self.is_stopped() {
            self.engine = Engine::Failed { cause: told_to_end(), restarts: self.state.crashes.count() };
        }
        self.volume_used_bytes = self.host.used_bytes();
        Ok(())
    }

    /// Starts the engine when it should run and does not, and the pause after its last end is over.
    async fn ensure_engine(&mut self) -> Result<(), crate::Error> {
        let Some(spec) = self.state.engine.clone() else { return Ok(()) };
        if !self.state.wanted || self.host.process().is_some() || Instant::now() < self.retry_at {
            return Ok(());
        }
        self.engine = Engine::Starting;
        self.publish();
        self.state.on_disk = Some(spec.number);
        match self.host.start(&spec, Exposure::Open).await {
            Ok(client) => {
                // Whatever the files were, from now on data is kept as the configuration says.
                self.state.settle = self.state.settle.take().or_else(|| Settled::configured(&spec));
                self.note_start(&client).await;
                self.save(Durability::Flushed)?;
            }
            Err(cause) => {
                self.host.kill().await.unwrap_or_else(|cause| tracing::error!(%cause, "engine"));
                tracing::warn!(%cause, "engine does not start");
                self.note_mended();
                let how = cause.message.clone();
                if self.failed(cause, &how, false) == Noted::LoopBegins {
                    self.tell_loop();
                }
                self.save(Durability::Written)?;
            }
        }
        Ok(())
    }

    /// After a start: what runs now is what is watched from now on.
    async fn note_start(&mut self, client: &Client) {
        let says = client.version().await.inspect_err(|error| tracing::warn!(%error, "version")).ok();
        self.watched(says);
    }

    /// After a section, which has proven what runs, or has not touched it.
    fn note_section(&mut self, before: Option<Birth>) {
        if self.host.process().is_some() {
            if self.host.birth() != before {
                // Somebody has asked for this one.
                self.end_loop("the engine was started anew by an operation");
            }
            self.watched(self.state.engine.as_ref().map(|spec| spec.number));
        } else {
            self.watch.ended();
            self.measured();
        }
    }

    fn watched(&mut self, says: Option<Number>) {
        self.engine = Engine::Serving;
        self.started_at = Some(Instant::now());
        self.watch.started(says);
        self.measured();
    }

    /// Tells how things are, with how much the volume holds now.
    fn measured(&mut self) {
        self.volume_used_bytes = self.host.used_bytes();
        self.publish();
    }

    /// Notes that the engine ended by itself or did not come up, and when it is tried again.
    fn failed(&mut self, cause: Cause, how: &str, came_up: bool) -> Noted {
        if self.started_at.take().is_some_and(|at| at.elapsed() > STEADY) {
            self.end_loop(STEADILY);
        }
        self.watch.ended();
        let noted = self.state.crashes.note(Timestamp::now(), how);
        self.retry_at = Instant::now() + self.state.crashes.pause(came_up);
        self.engine = Engine::Failed { cause, restarts: self.state.crashes.count() };
        noted
    }

    fn tell_loop(&mut self) {
        let has_way_back = !self.ways_back().is_empty();
        if let Some(cause) = self.state.crashes.in_loop().map(|found| found.cause(self.host.instance, has_way_back)) {
            self.event("engine.crashing", &cause.to_string());
        }
    }

    /// What ends from now on is the first again.
    fn end_loop(&mut self, why: &str) {
        if self.state.crashes.forget() {
            self.event("engine.steady", &format!("{why}; it does not end again and again any more"));
        }
    }

    /// Whether somebody else than Coffer told the engine to end. It stays down then until it is asked for.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.engine.is_some()
            && !self.state.wanted
            && self.state.section.is_none()
            && self.host.process().is_none()
    }

    fn engine_ended(&mut self, exit: Option<Exit>) -> Result<(), crate::Error> {
        self.host.forget();
        let how = exit.map_or_else(|| "nobody saw how".to_owned(), |e| e.to_string());
        let words = self.host.last_words();
        if exit == Some(Exit::Code(0)) {
            // Somebody told it to: that is reported, not healed, and nobody needs to wait for it.
            self.state.wanted = false;
            self.host.refuse();
            self.watch.ended();
            let cause = told_to_end();
            self.event("engine.stopped", &cause.message);
            self.engine = Engine::Failed { cause, restarts: self.state.crashes.count() };
        } else {
            let cause = Cause::new(format!("the engine ended by itself ({how}): {words}"), "it is started again");
            match self.failed(cause, &format!("({how}) {words}"), true) {
                Noted::Single => self.event(
                    "engine.died",
                    &format!("the engine ended by itself ({how}) and is started again; last words: {words}"),
                ),
                Noted::LoopBegins => self.tell_loop(),
                Noted::LoopGoesOn => tracing::warn!(how, words, "the engine has ended by itself again"),
            }
        }
        self.save(Durability::Flushed)
    }

    /// Something that happened by itself and that people should know of.
    pub(crate) fn event(&mut self, id: &str, message: &str) {
        tracing::warn!(id, message, "event");
        self.state.events.push(AgentEvent { at: Timestamp::now(), id: id.to_owned(), message: message.to_owned() });
    }

    /// What people want to be tried at once, as far as servers have passed it on.
    pub(crate) fn asked(&self) -> BTreeSet<Uuid> {
        asked(&self.desired.borrow())
    }

    /// Returns when a person wants what is stuck to be tried now, who had not asked for that `before`.
    pub(crate) async fn resumed(&self, before: &BTreeSet<Uuid>) {
        // A receiver of its own, so that nothing else is overlooked that changes meanwhile.
        let mut desired = self.desired.clone();
        while !agent::is_asked_anew(before, &asked(&desired.borrow_and_update())) {
            if desired.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Takes what is desired: what to run, if it is newer, and the first task that is not known yet.
    fn take_desired(&mut self) -> Result<(), crate::Error> {
        let wanted: Vec<_> = self.desired.borrow_and_update().values().cloned().collect();
        // Of servers that do not agree, one is late: it knows of an earlier generation.
        let Some(desired) = wanted.iter().max_by_key(|desired| desired.generation) else { return Ok(()) };
        self.keep_preimages = Duration::from_secs(desired.keep_preimage_seconds);
        // Whichever of them knows of it.
        self.held_preimage = wanted.iter().find_map(|desired| desired.held_preimage);
        if agent::takes_over(desired.generation, self.state.generation, self.state.engine.is_some())
            && let Some(engine) = desired.engine.clone()
        {
            self.state.generation = desired.generation;
            self.state.engine = Some(engine);
            self.state.wanted = true;
            self.save(Durability::Flushed)?;
        }
        if self.beside.is_some() {
            return Ok(());
        }
        let orders = wanted.iter().flat_map(|desired| &desired.tasks);
        let Some((order, late)) = agent::choose(orders, |id| self.state.knows(id), self.state.generation) else {
            return Ok(());
        };
        if let Some(cause) = late {
            return self.finish(order.id.clone(), Err(cause));
        }
        match &order.task {
            Task::Section(section) => {
                section::begin(self, order, section);
                return self.save(Durability::Flushed);
            }
            Task::Configure { to, generation } => {
                self.retune = Some(Retune { task: order.id.clone(), to: to.clone(), generation: *generation });
                return Ok(());
            }
            Task::Finalize { operations } => {
                // It is over when that is written down: what is to be removed is removed, now or later.
                for preimage in &mut self.state.preimages {
                    preimage.finalized |= operations.contains(&preimage.operation);
                }
                self.finish(order.id.clone(), Ok(()))?;
                self.collect_preimages()?;
                self.publish();
                return Ok(());
            }
            Task::Fetch { .. }
            | Task::Check { .. }
            | Task::CheckBack { .. }
            | Task::Verify { .. }
            | Task::Accounts { .. } => {}
        }
        let work = tasks::work(order.clone(), &self.host, &self.state);
        self.beside = Some(order.clone());
        let done = self.done.0.clone();
        tokio::task::spawn_local(async move {
            // The supervisor lives as long as the process.
            let _ = done.send(work.await);
        });
        Ok(())
    }

    /// Has the running engine take other settings. It is what is run from then on, so that the next start has them too.
    async fn retune(&mut self, retune: Retune) -> Result<(), crate::Error> {
        let Retune { task, to, generation } = retune;
        let taken = match self.state.engine.clone() {
            Some(from) => self.take_settings(&from, &to).await?,
            None => Err(Cause::new("the instance does not run an engine yet", "")),
        };
        if taken.is_ok() {
            let from = self.state.engine.replace(to.clone());
            self.state.generation = generation;
            let changes = from.map(|from| changes(&from, &to)).unwrap_or_default();
            self.watch.retuned(changes.into_iter().map(|change| change.name));
        }
        self.finish(task, taken)
    }

    async fn take_settings(&mut self, from: &EngineSpec, to: &EngineSpec) -> Result<Result<(), Cause>, crate::Error> {
        let client = match self.host.client(from).await {
            Ok(client) => client,
            Err(cause) => return Ok(Err(cause)),
        };
        // What measures are over puts back what was found, which must not be what is changed here.
        if self.state.settle.is_some() {
            self.settle(&client).await?;
        }
        if self.state.settle.is_some() {
            let message = "temporary measures of the last operation are still in force";
            return Ok(Err(Cause::new(message, "ask again in a minute")));
        }
        let taken = live::retune(&client, from, to).await;
        if taken.is_ok() && changes(from, to).iter().any(live::ends_append_only) {
            self.state.settle = Settled::configured(to);
            self.settle(&client).await?;
        }
        Ok(taken)
    }

    /// Remembers how a task ended that the supervisor did itself.
    fn finish(&mut self, id: TaskId, end: Result<(), Cause>) -> Result<(), crate::Error> {
        let learned = Box::new(Learned::default());
        let outcome = match end {
            Ok(()) => Outcome::Done(learned),
            Err(cause) => Outcome::Failed { cause, learned },
        };
        self.state.finish(TaskResult { id, outcome });
        self.save(Durability::Flushed)
    }

    fn forget(&mut self, ack: &Ack) -> Result<(), crate::Error> {
        self.state.results.retain(|result| !ack.results.contains(&result.id));
        if let Some(until) = ack.events_until {
            self.state.events.retain(|event| event.at > until);
        }
        self.save(Durability::Written)
    }

    fn next_look(&self) -> Duration {
        let waits_for_retry = self.state.wanted && self.host.process().is_none();
        let settles = self.state.settle.is_some() && self.engine == Engine::Serving;
        match (waits_for_retry, settles) {
            (true, _) => self.retry_at.saturating_duration_since(Instant::now()),
            (false, true) => self.settle_at.saturating_duration_since(Instant::now()),
            (false, false) if self.state.engine.is_some() => LOOK_AFTER.min(self.watch.wait()),
            (false, false) => LOOK_AFTER,
        }
    }

    /// What is looked after while nothing happens: that the engine answers, temporary measures, old pre-images, space.
    async fn look_after(&mut self) -> Result<(), crate::Error> {
        let mut answers = None;
        if let Some(spec) = self.state.engine.clone()
            && self.host.process().is_some()
        {
            match self.host.client(&spec).await {
                Ok(client) => {
                    self.engine = Engine::Serving;
                    if Instant::now() >= self.settle_at {
                        self.settle(&client).await?;
                    }
                    answers = Some(client);
                }
                Err(cause) => {
                    // It may be that it cannot read who is to be let in.
                    self.host.give_files().unwrap_or_else(|cause| tracing::error!(%cause, "files"));
                    self.note_mended();
                    self.engine = Engine::Failed { cause, restarts: self.state.crashes.count() };
                }
            }
        }
        if self.runs_for() > STEADY && !self.state.crashes.is_empty() {
            self.end_loop(STEADILY);
            self.save(Durability::Written)?;
        }
        self.look_for_drift(answers.as_ref()).await?;
        self.tend_gate();
        self.collect_preimages()?;
        self.file.ensure_reserve();
        self.volume_used_bytes = self.host.used_bytes();
        Ok(())
    }

    fn note_mended(&mut self) {
        for (id, message) in self.host.take_mended() {
            self.event(id, &message);
        }
    }

    fn tend_gate(&mut self) {
        for notice in self.host.tend_gate() {
            self.event("gate.changed", &notice);
        }
    }

    /// Ends the measures of a section while the engine serves. Where that fails it is tried again; it fails nothing else.
    async fn settle(&mut self, client: &Client) -> Result<(), crate::Error> {
        let Some(want) = self.state.settle.clone() else { return Ok(()) };
        match client.settle(&want, &self.host.paths).await {
            Ok(()) => self.state.settle = None,
            Err(error) => {
                self.settle_at = Instant::now() + SETTLE_PAUSE;
                let why = crate::cause::cause(error).message;
                self.event(
                    "engine.unsettled",
                    &format!("temporary measures of an operation stay in force for now: {why}"),
                );
            }
        }
        self.save(Durability::Flushed)
    }
}

fn told_to_end() -> Cause {
    Cause::new("the engine was told to end, by somebody else than coffer", "coffer instance restart")
}

fn asked(wanted: &Wanted) -> BTreeSet<Uuid> {
    wanted.values().filter_map(|desired| desired.resume).collect()
}
