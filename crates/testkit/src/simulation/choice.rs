//! People who decide about what is stuck, or what they take for that: of any server, at any moment, and now and then two at once.
//! What they are shown and told has to be true.

use std::collections::BTreeSet;

use coffer_core::agent::is_asked_anew;
use coffer_core::id::OperationId;
use coffer_core::instance::{Operation, Status};
use coffer_core::operation::Phase;
use coffer_core::runner::{LEASE, move_on};
use coffer_core::stuck::{Choice, Open, displaced_section, offer};

use super::server::{Transaction, Turn, Up};
use super::world::{Event, World};

/// How soon what was resumed is tried again while nothing goes wrong, in milliseconds: at the next look of whoever resumed it, where
/// somebody else held it for a moment to decide the same, whose clock may be late.
const AT_ONCE: u64 = 1500;

/// A choice that has reached a server.
#[derive(Clone)]
pub(super) struct Decision {
    pub(super) choice: Choice,
    pub(super) ix: usize,
    stage: Stage,
    held: Option<Hold>,
}

/// The right to change a place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hold {
    server: usize,
    life: u32,
    number: u64,
}

#[derive(Clone)]
enum Stage {
    /// To give something up takes the right to change its place: whoever removes it has that, or asks first.
    Hold,
    Look,
    Claim(OperationId),
    Move(Box<Operation>),
    Release(Box<Operation>),
}

impl World {
    /// Somebody decides, and now and then somebody else decides the same or the other at the same time.
    pub(super) fn somebody_decides(&mut self, choice: Choice, ix: usize) {
        let up: Vec<_> = (0..self.servers.len()).filter(|s| self.servers[*s].up != Up::Dead).collect();
        if up.is_empty() {
            return;
        }
        let mut choices = vec![choice];
        if self.rng.chance(400) {
            choices.push(self.rng.pick(&[Choice::Resume, Choice::Abandon]));
        }
        for choice in choices {
            let s = self.rng.pick(&up);
            let stage = if choice == Choice::Abandon { Stage::Hold } else { Stage::Look };
            self.server_does(s, 1, 20, Turn::Decide(Decision { choice, ix, stage, held: None }));
        }
    }

    pub(super) fn decide(&mut self, s: usize, decision: Decision) {
        let Decision { choice, ix, stage, mut held } = decision;
        let next = match stage {
            Stage::Hold => {
                held = self.take_place(s, ix);
                self.coverage.held += u64::from(held.is_none());
                held.is_some().then_some(Stage::Look)
            }
            Stage::Look => self.look_at_choice(s, choice, ix),
            Stage::Claim(operation) => self.claim_for_choice(s, ix, operation),
            Stage::Move(operation) => self.make_choice(s, choice, ix, *operation),
            Stage::Release(operation) => {
                if self.transaction(s) != Transaction::Failed {
                    self.store.release(ix, &operation);
                    self.watch_resumed(ix, &operation);
                }
                self.server_does(s, 1, 3, Turn::Look(ix));
                None
            }
        };
        match next {
            Some(stage) => self.server_does(s, 1, 8, Turn::Decide(Decision { choice, ix, stage, held })),
            None => held.into_iter().for_each(|held| self.leave_place(ix, held)),
        }
    }

    /// The right to change a place, where nobody else has it who lives, stopped or not.
    pub(super) fn take_place(&mut self, s: usize, ix: usize) -> Option<Hold> {
        if self.holders[ix].is_some_and(|held| self.servers[held.server].life == held.life) {
            return None;
        }
        let held = Hold { server: s, life: self.servers[s].life, number: self.next_number() };
        self.holders[ix] = Some(held);
        Some(held)
    }

    pub(super) fn leave_place(&mut self, ix: usize, held: Hold) {
        if self.holders[ix] == Some(held) {
            self.holders[ix] = None;
        }
    }

    fn look_at_choice(&mut self, s: usize, choice: Choice, ix: usize) -> Option<Stage> {
        let is_read = self.transaction(s) == Transaction::Fine;
        if !is_read || self.store.rows[ix].deleted {
            return None;
        }
        self.watch_shown(s, ix);
        let row = &self.store.rows[ix];
        let why = self.why_stuck(s, ix);
        let open = row.open().map(|open| Open {
            instance: open.instance,
            kind: open.kind,
            plan: &open.plan,
            phase: &open.phase,
            why: why.as_ref(),
            displaced: displaced_section(row.operations.iter().rev().skip(1).map(|operation| &**operation)),
            is_placed: self.places[ix].is_some(),
        });
        let offered = offer(choice, row.instance.id, open);
        let open = row.open().map(|open| (open.id, matches!(open.phase, Phase::Stuck { .. })));
        match (offered, open) {
            (Err(refusal), _) => {
                self.coverage.not_stuck += 1;
                self.say(|| format!("server {s}: to {} {ix} is refused: {refusal}", choice.name()));
                None
            }
            (Ok(_), Some((operation, true))) => Some(Stage::Claim(operation)),
            (Ok(_), Some((operation, false))) => {
                self.say(|| format!("server {s}: the section of {ix} is to be tried at once"));
                if !self.said_stuck.contains(&operation) {
                    self.violated(format!(
                        "a section of {ix} was offered to be tried, of which no agent said that it is stuck"
                    ));
                }
                *self.coverage.choices.entry((choice, true)).or_default() += 1;
                self.resume_section(s, ix);
                None
            }
            (Ok(_), None) => {
                self.violated(format!("a choice was offered about {ix}, of which nothing is open"));
                None
            }
        }
    }

    fn claim_for_choice(&mut self, s: usize, ix: usize, operation: OperationId) -> Option<Stage> {
        let heard = self.transaction(s);
        if heard == Transaction::Failed {
            return None;
        }
        let now = self.clock(s);
        let Some(claimed) = self.store.claim(ix, operation, now, now + LEASE) else {
            self.coverage.busy += 1;
            return None;
        };
        (heard == Transaction::Fine).then(|| Stage::Move(Box::new(claimed)))
    }

    fn make_choice(&mut self, s: usize, choice: Choice, ix: usize, mut operation: Operation) -> Option<Stage> {
        let now = self.clock(s);
        if move_on(&mut operation, choice.event(), now).is_err() {
            // Somebody else has decided since it was looked at, and is not to wait for this claim to end.
            self.coverage.busy += 1;
            return Some(Stage::Release(Box::new(operation)));
        }
        let heard = self.transaction(s);
        if heard == Transaction::Failed {
            return None;
        }
        let saved = self.save(ix, &operation, &[], now);
        self.say(|| format!("server {s}: to {} {ix} was chosen: {saved:?}", choice.name()));
        saved.ok()?;
        *self.coverage.choices.entry((choice, false)).or_default() += 1;
        self.news(s, ix);
        if heard != Transaction::Fine {
            return None;
        }
        self.tell_agent(s, ix);
        operation.is_open().then(|| Stage::Release(Box::new(operation)))
    }

    /// What a person is shown of an instance is so.
    pub(super) fn watch_shown(&mut self, s: usize, ix: usize) {
        let row = &self.store.rows[ix];
        if row.deleted {
            return;
        }
        let why = self.why_stuck(s, ix);
        let open = row.open();
        let mut status = Status::of(row.instance.built, open.map(|open| (open.kind, &open.phase)));
        if why.is_some() {
            status = Status::Error;
        }
        let seen = self.seen(s, ix);
        if open.is_none() {
            status = status.seen(&row.instance, seen.as_deref());
        }
        let waits = open.is_some_and(|open| matches!(open.phase, Phase::Stuck { .. }));
        let clocks_agree = self.servers.iter().all(|server| server.skew == 0);
        // What was seen before says nothing: the place may be gone since, or its engine was ended by what was given up.
        let given_up =
            row.operations.last().filter(|_| self.is_given_up(ix)).map(|last| last.updated_at.as_millisecond());
        let dropped = self.places[ix].is_none().then(|| self.dropped_at[ix].cast_signed());
        let unknown_since = given_up.max(dropped).filter(|_| open.is_none() && clocks_agree);
        let is_unknown = unknown_since.is_some_and(|since| seen.is_none_or(|seen| seen.at.as_millisecond() < since));
        let wrong = if waits && (status != Status::Error || row.instance.fault.is_none()) {
            Some("waits for a person, and does not look like it")
        } else if why.is_some() && !waits && open.is_none_or(|open| !self.said_stuck.contains(&open.id)) {
            Some("looks stuck, and no agent has said so")
        } else if is_unknown && status != Status::Error {
            Some("was given up, or has no place, and looks well though nobody has seen that since")
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.violated(format!("instance {ix}: it {wrong}"));
        }
    }

    /// What was resumed is tried again at once, where nothing goes wrong.
    fn watch_resumed(&mut self, ix: usize, operation: &Operation) {
        // Whoever has claimed it since has tried it, or is about to.
        if self.is_calm
            && self.store.holds(ix, operation)
            && matches!(operation.phase, Phase::Forward { .. } | Phase::Backward { .. })
        {
            self.resumed.insert(operation.id);
            self.at(self.now + AT_ONCE, Event::Resumed(ix, operation.id));
        }
    }

    pub(super) fn was_resumed(&mut self, ix: usize, id: OperationId) {
        let is_open = self.store.rows[ix].open().is_some_and(|open| open.id == id);
        if is_open && self.resumed.contains(&id) {
            self.violated(format!("what was resumed of {ix} was not tried within {AT_ONCE} ms"));
        }
    }

    /// What people want to be tried at once, as far as servers have told the agent.
    fn asked(&mut self, ix: usize) -> BTreeSet<u64> {
        let links = self.agent(ix).map(|agent| agent.links.iter());
        links.into_iter().flatten().filter_map(|link| link.wanted.as_ref()?.resume).collect()
    }

    pub(super) fn is_asked_anew(&mut self, ix: usize) -> bool {
        let now = self.asked(ix);
        self.agent(ix).is_some_and(|agent| is_asked_anew(&agent.asked, &now))
    }

    /// The agent acts in a section. Where it begins a try, it is with all that people have asked for until now.
    pub(super) fn tries(&mut self, ix: usize) {
        let (now, asked) = (self.now, self.asked(ix));
        let Some(agent) = self.agent(ix) else { return };
        agent.pauses = false;
        if agent.pc == 0 {
            agent.asked = asked;
        }
        if agent.tries_by.take().is_some_and(|by| now > by) {
            self.violated(format!("the agent of {ix} was asked to try at once, and took its time"));
        }
    }

    /// It is as if nothing had failed yet. Gives how long that takes.
    pub(super) fn tries_at_once(&mut self, ix: usize) -> u64 {
        let now = self.now;
        let Some(agent) = self.agent(ix) else { return 0 };
        (agent.failures, agent.pauses, agent.busy_until) = (0, false, now);
        agent.tries_by = Some(now + 5);
        if let Some(journal) = &mut agent.state.section {
            journal.stuck = None;
        }
        agent.has_news();
        1
    }

    /// The agent hears that a person wants something, while it waits before it tries again.
    pub(super) fn hear_resume(&mut self, ix: usize) {
        if self.agent(ix).is_some_and(|agent| agent.pauses) && self.is_asked_anew(ix) {
            self.say(|| format!("the agent of {ix} tries at once"));
            self.tries_at_once(ix);
        }
    }

    /// Whether the last operation was given up, and nothing has succeeded since.
    pub(super) fn is_given_up(&self, ix: usize) -> bool {
        self.store.rows[ix].operations.last().is_some_and(|last| matches!(last.phase, Phase::Abandoned { .. }))
    }

    /// Somebody looks after what is stuck, or was given up, when nothing goes wrong any more.
    pub(super) fn tidy_up(&mut self, ix: usize) -> bool {
        use super::request::Want;
        let row = &self.store.rows[ix];
        if row.open().is_some_and(|open| matches!(open.phase, Phase::Stuck { .. })) {
            match self.rng.below(3) {
                0 => self.ask(Want::Delete, ix),
                1 => self.somebody_decides(Choice::Resume, ix),
                _ => self.somebody_decides(Choice::Abandon, ix),
            }
            return true;
        }
        if self.is_given_up(ix) && !row.deleted {
            let can_serve = row.instance.built && self.places[ix].is_some();
            self.ask(if can_serve { Want::Restart } else { Want::Delete }, ix);
            return true;
        }
        false
    }
}
