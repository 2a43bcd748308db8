//! Contact with agents, as far as it is held in memory: who is to be woken, who was heard when, how far a task has come, and
//! questions whose asker waits. All of it may be lost with the process: the truth is in the store and with the agents.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_core::gate::{Level, Stance};
use coffer_core::id::{InstanceId, TaskId};
use coffer_core::instance::Observed;
use coffer_core::task::{Order, Task, TaskResult};
use coffer_wire::agent::Running;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use crate::clock::Clock;
use crate::directory::ServerName;

/// What the ids of questions begin with; the name of the server that asks is next.
const QUESTION: &str = "question";

/// Contact with all agents.
#[derive(Debug)]
pub(crate) struct Contact {
    server: ServerName,
    lines: Mutex<HashMap<InstanceId, Line>>,
    /// Rung when an operation of one of the instances in `workable` may have become workable.
    runner: Notify,
    workable: Mutex<HashSet<InstanceId>>,
    clock: Clock,
    /// Since when this server listens: nobody is silent for longer than that. Steady.
    listens_since: Mutex<SignedDuration>,
}

/// Contact with one agent.
#[derive(Debug, Default)]
struct Line {
    /// Rung when the agent is to be told something else.
    bell: Arc<Notify>,
    running: Option<Running>,
    seen: Option<Seen>,
    questions: Vec<Question>,
    /// The last time that a person wanted what is stuck to be tried at once.
    resume: Option<Uuid>,
    /// That it is silent was told.
    told_silent: bool,
}

/// What an agent saw last, and what of that was last written down.
#[derive(Debug)]
struct Seen {
    /// Its time is that of the last report, whether or not that said anything new.
    now: Observed,
    saved: Observed,
    /// When that was, steady: somebody may set the clock.
    at: SignedDuration,
}

/// What a report is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worth {
    /// It says something new, and is written down.
    pub(crate) is_news: bool,
    /// It is the first since this server listens, or since it was told that the agent is silent.
    pub(crate) is_back: bool,
    /// How often the engine has ended by itself since the report before, in a loop.
    pub(crate) crashes: u32,
}

/// What is not as it should be, over all agents that this server hears.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    pub(crate) silent: u64,
    pub(crate) crashing: u64,
    pub(crate) drift: BTreeMap<String, u64>,
    /// Those whose status is another because of what their agents say.
    pub(crate) instances: Vec<InstanceId>,
}

#[derive(Debug)]
struct Question {
    order: Order,
    answer: oneshot::Sender<TaskResult>,
}

/// A question to an agent. Dropped, it is withdrawn.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    contact: &'a Contact,
    instance: InstanceId,
    id: TaskId,
    answer: oneshot::Receiver<TaskResult>,
}

impl Contact {
    /// Of the server of that name.
    pub(crate) fn new(server: ServerName, clock: Clock) -> Self {
        let (lines, runner, workable) = (Mutex::default(), Notify::new(), Mutex::default());
        let listens_since = Mutex::new(clock.steady());
        Self { server, lines, runner, workable, clock, listens_since }
    }

    fn line<T>(&self, instance: InstanceId, f: impl FnOnce(&mut Line) -> T) -> T {
        f(self.lines().entry(instance).or_default())
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<InstanceId, Line>> {
        // Every change is complete before anything can panic, so a poisoned lock guards sound values.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the runner look at the operation of an instance.
    pub(crate) fn wake_runner(&self, instance: InstanceId) {
        self.workable.lock().unwrap_or_else(PoisonError::into_inner).insert(instance);
        self.runner.notify_one();
    }

    /// Until the runner is woken: the instances that it is to look at. What happens while nobody waits is kept.
    pub(crate) async fn runner_woken(&self) -> HashSet<InstanceId> {
        self.runner.notified().await;
        std::mem::take(&mut self.workable.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes the agent's long poll.
    pub(crate) fn wake_agent(&self, instance: InstanceId) {
        self.line(instance, |line| line.bell.notify_waiters());
    }

    /// Wakes the long polls of all agents.
    pub(crate) fn wake_all_agents(&self) {
        self.lines().values().for_each(|line| line.bell.notify_waiters());
    }

    /// What is rung to wake the agent's long poll.
    pub(crate) fn bell(&self, instance: InstanceId) -> Arc<Notify> {
        self.line(instance, |line| Arc::clone(&line.bell))
    }

    /// How far the agent's task has come.
    pub(crate) fn running(&self, instance: InstanceId) -> Option<Running> {
        self.lines().get(&instance)?.running.clone()
    }

    /// Keeps how far the agent's task has come.
    pub(crate) fn set_running(&self, instance: InstanceId, running: Option<Running>) {
        self.line(instance, |line| line.running = running);
    }

    /// What the agent saw last, since this process began.
    pub(crate) fn seen(&self, instance: InstanceId) -> Option<Observed> {
        Some(self.lines().get(&instance)?.seen.as_ref()?.now.clone())
    }

    /// Keeps what the agent saw, and tells what it is worth.
    pub(crate) fn see(&self, instance: InstanceId, observed: &Observed) -> Worth {
        let count = |seen: &Observed| seen.crash_loop.as_ref().map(|found| found.count);
        let at = self.clock.steady();
        self.line(instance, |line| {
            let was_told = std::mem::take(&mut line.told_silent);
            let Some(seen) = &mut line.seen else {
                line.seen = Some(Seen { now: observed.clone(), saved: observed.clone(), at });
                return Worth { is_news: true, is_back: true, crashes: 0 };
            };
            let crashes = count(observed).zip(count(&seen.now)).map_or(0, |(now, then)| now.saturating_sub(then));
            let is_news = observed.is_news_after(&seen.saved);
            (seen.now, seen.at) = (observed.clone(), at);
            if is_news {
                seen.saved = observed.clone();
            }
            Worth { is_news, is_back: was_told, crashes }
        })
    }

    /// Since when an agent is silent, where that is for `limit` and longer: since it was heard last, by this server or, as is written
    /// down, by any; at the earliest since this server listens.
    pub(crate) fn silent_since(
        &self,
        instance: InstanceId,
        written: Option<Timestamp>,
        limit: SignedDuration,
    ) -> Option<Timestamp> {
        let now = self.clock.now();
        // What is written down in the future was written before somebody set the clock.
        let written = written.filter(|at| *at <= now);
        let silence = self.silence(self.lines().get(&instance));
        let is_silent = silence >= limit && written.is_none_or(|at| now.duration_since(at) >= limit);
        is_silent.then(|| written.unwrap_or(Timestamp::MIN).max(before(now, silence)))
    }

    /// For how long this server has not heard an agent, though it listened.
    fn silence(&self, line: Option<&Line>) -> SignedDuration {
        let heard = line.and_then(|line| line.seen.as_ref()).map_or(SignedDuration::MIN, |seen| seen.at);
        self.clock.steady().saturating_sub(heard.max(self.listens_since()))
    }

    /// This server has not listened for a while, since it was stopped itself: whoever is silent is so from now on.
    pub(crate) fn listen_anew(&self) {
        *self.listens_since.lock().unwrap_or_else(PoisonError::into_inner) = self.clock.steady();
    }

    fn listens_since(&self) -> SignedDuration {
        *self.listens_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long this server has listened.
    pub(crate) fn listens_for(&self) -> SignedDuration {
        self.clock.steady().saturating_sub(self.listens_since())
    }

    /// The agents that have been silent for so long, since when, of whom that was not told yet. Of each once.
    pub(crate) fn newly_silent(&self, limit: SignedDuration) -> Vec<(InstanceId, Timestamp)> {
        let now = self.clock.now();
        let mut found = Vec::new();
        for (instance, line) in self.lines().iter_mut().filter(|(_, line)| !line.told_silent && line.seen.is_some()) {
            let silence = self.silence(Some(&*line));
            if silence >= limit {
                line.told_silent = true;
                found.push((*instance, before(now, silence)));
            }
        }
        found
    }

    /// Whether this server has ever heard the agent.
    pub(crate) fn has_heard(&self, instance: InstanceId) -> bool {
        self.lines().get(&instance).is_some_and(|line| line.seen.is_some())
    }

    /// Has the agent try at once what it cannot get past.
    pub(crate) fn resume(&self, instance: InstanceId) {
        self.line(instance, |line| {
            line.resume = Some(Uuid::new_v4());
            line.bell.notify_waiters();
        });
    }

    /// The last time that somebody wanted that.
    pub(crate) fn resumed(&self, instance: InstanceId) -> Option<Uuid> {
        self.lines().get(&instance)?.resume
    }

    /// What agents say that is not as it should be, by what it is, and the instances whose status is another for it.
    pub(crate) fn troubles(&self, limit: SignedDuration) -> Troubles {
        let mut found = Troubles::default();
        for (instance, line) in self.lines().iter() {
            let Some(seen) = &line.seen else {
                found.silent += u64::from(line.told_silent);
                continue;
            };
            if self.silence(Some(line)) >= limit {
                found.silent += 1;
                continue;
            }
            for drift in &seen.now.drift {
                *found.drift.entry(drift.id.clone()).or_default() += 1;
            }
            found.crashing += u64::from(seen.now.crash_loop.is_some());
            if seen.now.crash_loop.is_some() || line.running.as_ref().is_some_and(|running| running.stuck.is_some()) {
                found.instances.push(*instance);
            }
        }
        found
    }

    /// How many gates there are of each level and stance, as their agents saw them since this process began.
    pub(crate) fn gates(&self) -> BTreeMap<(Level, Option<Stance>), u64> {
        let mut counts = BTreeMap::new();
        for gate in self.lines().values().filter_map(|line| line.seen.as_ref()?.now.gate.as_ref()) {
            *counts.entry((gate.level, gate.state)).or_default() += 1;
        }
        counts
    }

    /// What was said to be news was not written down after all: it is still news when it is told again.
    pub(crate) fn unsaved(&self, instance: InstanceId) {
        if let Some(seen) = self.lines().get_mut(&instance).and_then(|line| line.seen.as_mut()) {
            seen.saved = Observed::nothing(Timestamp::MIN);
        }
    }

    /// Notes that it was told that an agent is silent.
    pub(crate) fn told_silent(&self, instance: InstanceId) {
        self.line(instance, |line| line.told_silent = true);
    }

    /// Forgets an instance that is gone.
    pub(crate) fn forget(&self, instance: InstanceId) {
        if let Some(line) = self.lines().remove(&instance) {
            line.bell.notify_waiters();
        }
    }

    /// Asks an agent for something that belongs to no operation.
    pub(crate) fn ask(&self, instance: InstanceId, task: Task) -> Asked<'_> {
        let (sender, answer) = oneshot::channel();
        let id = TaskId(format!("{QUESTION}/{}/{}", self.server, Uuid::new_v4()));
        let order = Order { id: id.clone(), task };
        self.line(instance, |line| {
            line.questions.push(Question { order, answer: sender });
            line.bell.notify_waiters();
        });
        Asked { contact: self, instance, id, answer }
    }

    /// What the agent is asked outside of operations.
    pub(crate) fn questions(&self, instance: InstanceId) -> Vec<Order> {
        self.line(instance, |line| line.questions.iter().map(|q| q.order.clone()).collect())
    }

    /// Which server has asked this; `None` where it was no question.
    pub(crate) fn asker(task: &TaskId) -> Option<ServerName> {
        task.0.strip_prefix(QUESTION)?.strip_prefix('/')?.split_once('/')?.0.parse().ok()
    }

    /// Gives an answer to whoever asked. False when nobody did.
    pub(crate) fn answer(&self, instance: InstanceId, result: &TaskResult) -> bool {
        self.line(instance, |line| {
            let asked = line.questions.iter().position(|q| q.order.id == result.id);
            let Some(question) = asked.map(|at| line.questions.remove(at)) else { return false };
            // The asker may have given up at this moment; then nobody needs the answer.
            question.answer.send(result.clone()).ok();
            true
        })
    }
}

/// So long before that.
fn before(now: Timestamp, time: SignedDuration) -> Timestamp {
    now.checked_sub(time).unwrap_or(Timestamp::MIN)
}

impl Asked<'_> {
    /// Until the agent answers.
    pub(crate) async fn answer(mut self) -> Option<TaskResult> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.contact.line(self.instance, |line| line.questions.retain(|q| q.order.id != self.id));
        self.contact.wake_agent(self.instance);
    }
}
