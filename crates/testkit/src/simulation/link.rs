//! The links of an agent to each server: what arrives there, what is told, and for how long a wish counts.

use std::sync::Arc;
use std::time::Duration;

use coffer_core::agent::{Kept, WISH_LASTS};
use coffer_core::id::TaskId;
use coffer_core::instance::{Engine as Seen, Observed, WayBack};
use jiff::Timestamp;

use super::agent::Agent;
use super::server::{Desired, Report, Turn, Up};
use super::world::World;

/// How often everything is told again.
const TELL: u64 = 10_000;
/// How long a report waits for its acknowledgement.
const PATIENCE: u64 = 10_000;

/// What reaches an agent.
#[derive(Clone)]
pub(super) enum Letter {
    Desired(usize, Arc<Desired>),
    /// What is wanted is what it knows.
    Same(usize),
    Ack(usize, Vec<TaskId>),
}

/// The link to one server.
#[derive(Clone, Default)]
pub(super) struct Link {
    pub(super) wanted: Option<Arc<Desired>>,
    heard_at: u64,
    /// A report waits for its acknowledgement until then.
    waits_until: u64,
    tell_at: u64,
    pub(super) news: bool,
}

impl World {
    pub(super) fn letter_arrives(&mut self, ix: usize, life: u32, letter: Letter) {
        let now = self.now;
        let Some(agent) = self.agent(ix).filter(|agent| agent.lives && agent.life == life) else { return };
        if agent.paused {
            return agent.backlog.push(letter);
        }
        match letter {
            Letter::Desired(s, desired) => {
                agent.links[s].wanted = Some(desired);
                agent.links[s].heard_at = now;
                agent.fresh = true;
                self.hear_resume(ix);
            }
            Letter::Same(s) => agent.links[s].heard_at = now,
            Letter::Ack(s, taken) => {
                agent.links[s].waits_until = 0;
                agent.acks.extend(taken);
            }
        }
        self.wake_agent(ix, 1);
    }

    /// The wishes of servers that say nothing do not count any longer.
    pub(super) fn forget_late_wishes(&mut self, ix: usize) {
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return };
        for link in &mut agent.links {
            let is_late = u128::from(now - link.heard_at) > WISH_LASTS.as_millis();
            agent.fresh |= is_late && link.wanted.take().is_some();
        }
    }

    fn observed(agent: &Agent, keep: Duration) -> Observed {
        let keep = jiff::SignedDuration::try_from(keep).unwrap_or(jiff::SignedDuration::MAX);
        let serves = agent.seen == Seen::Serving;
        let way_back = |kept: &Kept| WayBack {
            operation: kept.operation,
            version: None,
            since: kept.since,
            until: kept.since.saturating_add(keep).unwrap_or(Timestamp::MAX),
            bytes: 0,
        };
        Observed {
            at: Timestamp::UNIX_EPOCH,
            generation: agent.state.generation,
            engine: agent.seen.clone(),
            running: agent.state.engine.as_ref().filter(|_| serves).map(|engine| engine.number),
            on_disk: agent.state.on_disk,
            volume_used_bytes: 0,
            isolation: Vec::new(),
            settling: agent.state.settle,
            gate: None,
            drift: Vec::new(),
            crash_loop: None,
            ways_back: agent.state.kept.iter().filter(|kept| !kept.finalized).map(way_back).collect(),
        }
    }

    /// Tells every server what is news to it, one report at a time.
    pub(super) fn tell_servers(&mut self, ix: usize) {
        let (now, keep) = (self.now, self.keep);
        let mut report = None;
        for s in 0..self.servers.len() {
            let up = self.servers[s].up;
            let Some(agent) = self.agent(ix) else { return };
            let link = &mut agent.links[s];
            if now < link.waits_until || !(link.news || now >= link.tell_at) {
                continue;
            }
            (link.news, link.tell_at) = (false, now + TELL);
            if up == Up::Dead {
                // Nobody is there, and nobody can take back what it wanted.
                if link.wanted.take().is_some() {
                    agent.fresh = true;
                }
                continue;
            }
            link.waits_until = now + PATIENCE;
            let life = agent.life;
            let report = Arc::clone(report.get_or_insert_with(|| {
                let section = agent.state.section.as_ref();
                let stuck = section.and_then(|journal| Some((journal.task.clone(), journal.stuck.clone()?)));
                Arc::new(Report { observed: Self::observed(agent, keep), stuck, results: agent.state.results.clone() })
            }));
            self.post_to_server(s, ix, &Turn::Report { ix, life, report });
        }
    }

    /// Asks every server what is wanted.
    pub(super) fn ask_servers(&mut self, ix: usize) {
        for s in 0..self.servers.len() {
            let Some(agent) = self.agent(ix) else { return };
            let (life, known) = (agent.life, agent.links[s].wanted.as_ref().map_or(0, |wanted| wanted.revision));
            self.post_to_server(s, ix, &Turn::Ask { ix, life, known });
        }
    }
}
