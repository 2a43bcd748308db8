//! Contact with agents, as far as it is held in memory: who is to be woken, how far a task has come, and questions
//! whose asker waits. All of it may be lost with the process: the truth is in the store and with the agents.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coffer_core::gate::{Level, Stance};
use coffer_core::id::{InstanceId, TaskId};
use coffer_core::instance::Observed;
use coffer_core::task::{Order, Task, TaskResult};
use coffer_wire::agent::Running;
use jiff::Timestamp;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

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
}

/// Contact with one agent.
#[derive(Debug, Default)]
struct Line {
    /// Rung when the agent is to be told something else.
    bell: Arc<Notify>,
    running: Option<Running>,
    seen: Option<Seen>,
    questions: Vec<Question>,
}

/// What an agent saw last, and when it was last written down.
#[derive(Debug)]
struct Seen {
    observed: Observed,
    saved_at: Timestamp,
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
    pub(crate) fn new(server: ServerName) -> Self {
        Self { server, lines: Mutex::default(), runner: Notify::new(), workable: Mutex::default() }
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
        self.line(instance, |line| line.running.clone())
    }

    /// Keeps how far the agent's task has come.
    pub(crate) fn set_running(&self, instance: InstanceId, running: Option<Running>) {
        self.line(instance, |line| line.running = running);
    }

    /// What the agent saw last, since this process began.
    pub(crate) fn seen(&self, instance: InstanceId) -> Option<Observed> {
        self.line(instance, |line| line.seen.as_ref().map(|seen| seen.observed.clone()))
    }

    /// Keeps what the agent saw. True when it is worth writing down: something changed, or nothing was written for
    /// `at_least_every` seconds.
    pub(crate) fn see(&self, instance: InstanceId, observed: &Observed, at_least_every: i64) -> bool {
        self.line(instance, |line| {
            let unchanged = line.seen.as_ref().filter(|seen| {
                let same_time = Observed { at: observed.at, ..seen.observed.clone() };
                same_time == *observed && observed.at.as_second() - seen.saved_at.as_second() < at_least_every
            });
            let saved_at = unchanged.map_or(observed.at, |seen| seen.saved_at);
            let worth = unchanged.is_none();
            line.seen = Some(Seen { observed: observed.clone(), saved_at });
            worth
        })
    }

    /// How many gates there are of each level and stance, as their agents saw them since this process began.
    pub(crate) fn gates(&self) -> BTreeMap<(Level, Option<Stance>), u64> {
        let mut counts = BTreeMap::new();
        for gate in self.lines().values().filter_map(|line| line.seen.as_ref()?.observed.gate.as_ref()) {
            *counts.entry((gate.level, gate.state)).or_default() += 1;
        }
        counts
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
