//! What goes wrong: who is killed, stopped or cut off, what is slow and what fails, and for how long.

use super::agent::State;
use super::coverage::Victim;
use super::place::Place;
use super::server::{Server, Turn, Up};
use super::world::{Event, World};

/// One kind of bad luck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    ServerKilled,
    /// Stopped by a signal, often for longer than its lease.
    ServerPaused,
    ServerCutFromStore,
    ClockJumps,
    StoreDown,
    /// Transactions fail.
    StoreFails,
    /// Transactions are written, and who wrote them never hears of it.
    StoreUnheard,
    AgentKilled,
    AgentPaused,
    /// Servers and an agent do not hear each other.
    AgentCut,
    EngineKilled,
    /// Somebody tells an engine to end.
    EngineStopped,
    /// Everything on the machine ends, and what was not flushed may be gone.
    PowerCut,
    NetworkDrops,
    NetworkDoubles,
    NetworkIsSlow,
    StepsFail,
    TasksFail,
    ProviderFails,
    /// Engines do not start.
    StartsFail,
    /// Engines take long to start.
    StartsAreSlow,
    /// A new version reads less than there is.
    NewMisreads,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::ServerKilled,
        Self::ServerPaused,
        Self::ServerCutFromStore,
        Self::ClockJumps,
        Self::StoreDown,
        Self::StoreFails,
        Self::StoreUnheard,
        Self::AgentKilled,
        Self::AgentPaused,
        Self::AgentCut,
        Self::EngineKilled,
        Self::EngineStopped,
        Self::PowerCut,
        Self::NetworkDrops,
        Self::NetworkDoubles,
        Self::NetworkIsSlow,
        Self::StepsFail,
        Self::TasksFail,
        Self::ProviderFails,
        Self::StartsFail,
        Self::StartsAreSlow,
        Self::NewMisreads,
    ];
}

/// How often of a thousand times something goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Odds {
    pub(super) store_fails: u64,
    pub(super) unheard: u64,
    pub(super) drops: u64,
    pub(super) doubles: u64,
    pub(super) steps_fail: u64,
    pub(super) tasks_fail: u64,
    pub(super) provider_fails: u64,
    pub(super) start_fails: u64,
    pub(super) slow: u64,
    pub(super) misreads: u64,
    /// The longest that a message takes, in milliseconds.
    pub(super) network_millis: u64,
}

/// What fails nearly always in a history, for 100 s of each two minutes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stubborn {
    pub(super) steps: bool,
    pub(super) provider: bool,
}

/// The end of a fault that lasts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Heal {
    ServerStarts(usize),
    ServerResumes(usize),
    ServerReachesStore(usize),
    StoreIsUp,
    AgentResumes(usize),
    AgentIsReached(usize, usize),
    Odds(Fault),
}

impl World {
    /// Something goes wrong, and the next time is set at which something does.
    pub(super) fn strike(&mut self) {
        if self.is_calm {
            return;
        }
        let again = self.now + self.rng.between(200, self.rate);
        self.at(again, Event::Strike);
        let mut fault = self.rng.pick(&Fault::ALL);
        if fault == Fault::PowerCut && self.rng.chance(700) {
            fault = Fault::AgentKilled;
        }
        let s = self.rng.index(self.servers.len());
        let ix = self.rng.index(self.places.len());
        self.meet(fault, s, ix);
    }

    fn meet(&mut self, fault: Fault, s: usize, ix: usize) {
        let is_long = matches!(
            fault,
            Fault::ServerPaused
                | Fault::AgentPaused
                | Fault::AgentCut
                | Fault::ServerCutFromStore
                | Fault::StepsFail
                | Fault::ProviderFails
        );
        let longest = self.rng.pick(if is_long { &[3000, 25_000, 90_000] } else { &[2000, 5000, 20_000] });
        let lasts = self.rng.between(500, longest);
        self.meet_for(fault, s, ix, lasts);
    }

    fn meet_for(&mut self, fault: Fault, s: usize, ix: usize, lasts: u64) {
        self.say(|| format!("{fault:?} (server {s}, place {ix}, {lasts} ms)"));
        if self.befall(fault, s, ix, lasts) {
            *self.coverage.faults.entry(fault).or_default() += 1;
        }
    }

    /// Right before a server reads, acts or writes for an operation, something may befall it. True where it did.
    pub(super) fn server_is_struck(&mut self, s: usize) -> bool {
        // Where removals get stuck, somebody who was stopped right before one matters most.
        let hazard = if self.stubborn.provider { self.hazard.max(25) } else { self.hazard };
        if self.is_calm || !self.rng.chance(hazard) {
            return false;
        }
        if self.stubborn.provider && self.rng.chance(400) {
            let lasts = self.rng.between(30_000, 90_000);
            self.meet_for(Fault::ServerPaused, s, 0, lasts);
        } else {
            let fault = self.rng.pick(&[Fault::ServerKilled, Fault::ServerPaused, Fault::ServerPaused]);
            self.meet(fault, s, 0);
        }
        self.servers[s].up != Up::Runs
    }

    /// Right before an agent acts in a section, something may befall it, its engine, or all of the machine. True where the agent
    /// does not act then.
    pub(super) fn agent_is_struck(&mut self, ix: usize) -> bool {
        let hazard = self.hazard;
        if self.is_calm || self.section_at(ix).is_none() || !self.rng.chance(hazard) {
            return false;
        }
        let fault = self.rng.pick(&[Fault::AgentKilled, Fault::AgentPaused, Fault::EngineKilled, Fault::PowerCut]);
        self.meet(fault, 0, ix);
        !self.agent(ix).is_some_and(|agent| agent.lives && !agent.paused)
    }

    fn is_stubborn_now(&mut self) -> bool {
        !self.is_calm && self.now % 120_000 > 20_000 && self.rng.chance(960)
    }

    /// Whether the provider cannot do something.
    pub(super) fn provider_fails(&mut self) -> bool {
        self.stubborn.provider && self.is_stubborn_now() || self.odds_strike(|odds| odds.provider_fails)
    }

    /// Whether a step of a section fails by itself here.
    pub(super) fn step_fails(&mut self, ix: usize) -> bool {
        let hazard = if self.is_calm { 0 } else { self.hazard };
        let stubborn = self.stubborn.steps && self.is_stubborn_now();
        let fails = stubborn || self.odds_strike(|odds| odds.steps_fail) || self.rng.chance(hazard);
        if fails {
            self.struck(ix, Victim::Step);
        }
        fails
    }

    /// False where there is nobody whom it could befall.
    fn befall(&mut self, fault: Fault, s: usize, ix: usize, lasts: u64) -> bool {
        let up = self.servers[s].up;
        let agent_lives = self.places[ix].as_ref().is_some_and(|place| place.agent.lives);
        let engine_runs = self.places[ix].as_ref().is_some_and(|place| place.engine.is_some());
        let odds = self.rng.between(20, 300);
        let heal = match fault {
            Fault::ServerKilled if up != Up::Dead => {
                self.server_dies(s);
                Heal::ServerStarts(s)
            }
            Fault::ServerPaused if up == Up::Runs => {
                self.servers[s].up = Up::Paused;
                Heal::ServerResumes(s)
            }
            Fault::ServerCutFromStore => {
                self.servers[s].cut = true;
                Heal::ServerReachesStore(s)
            }
            Fault::ClockJumps => {
                self.servers[s].skew = self.rng.below(60_000).cast_signed() - 30_000;
                return true;
            }
            Fault::StoreDown => {
                self.store_down = true;
                Heal::StoreIsUp
            }
            Fault::AgentKilled if agent_lives => {
                self.struck(ix, Victim::Agent);
                self.agent_dies(ix);
                return true;
            }
            Fault::AgentPaused if agent_lives => {
                if let Some(agent) = self.agent(ix) {
                    agent.paused = true;
                }
                Heal::AgentResumes(ix)
            }
            Fault::AgentCut => {
                self.cuts.insert((s, ix));
                Heal::AgentIsReached(s, ix)
            }
            Fault::EngineKilled if engine_runs => {
                self.struck(ix, Victim::Engine);
                self.engine_dies(ix, "is killed");
                return true;
            }
            Fault::EngineStopped if engine_runs && self.section_at(ix).is_none() => {
                if let Some(place) = self.place(ix) {
                    place.exit_zero = true;
                }
                self.engine_dies(ix, "was told to end");
                return true;
            }
            Fault::PowerCut => {
                self.power_is_cut();
                return true;
            }
            Fault::StoreFails => self.odds_for(fault, |o| &mut o.store_fails, odds),
            Fault::StoreUnheard => self.odds_for(fault, |o| &mut o.unheard, odds),
            Fault::NetworkDrops => self.odds_for(fault, |o| &mut o.drops, odds),
            Fault::NetworkDoubles => self.odds_for(fault, |o| &mut o.doubles, odds),
            Fault::NetworkIsSlow => self.odds_for(fault, |o| &mut o.network_millis, odds * 100),
            Fault::StepsFail => self.odds_for(fault, |o| &mut o.steps_fail, odds * odds / 90),
            Fault::TasksFail => self.odds_for(fault, |o| &mut o.tasks_fail, odds),
            Fault::ProviderFails => self.odds_for(fault, |o| &mut o.provider_fails, odds * 4),
            Fault::StartsFail => self.odds_for(fault, |o| &mut o.start_fails, odds),
            Fault::StartsAreSlow => self.odds_for(fault, |o| &mut o.slow, odds),
            Fault::NewMisreads => self.odds_for(fault, |o| &mut o.misreads, odds),
            Fault::ServerKilled
            | Fault::ServerPaused
            | Fault::AgentKilled
            | Fault::AgentPaused
            | Fault::EngineKilled
            | Fault::EngineStopped => return false,
        };
        let at = self.now + lasts;
        self.at(at, Event::Heal(heal));
        true
    }

    fn odds_for(&mut self, fault: Fault, of: impl Fn(&mut Odds) -> &mut u64, odds: u64) -> Heal {
        *of(&mut self.odds) = odds;
        Heal::Odds(fault)
    }

    pub(super) fn heal(&mut self, heal: Heal) {
        match heal {
            Heal::ServerStarts(s) => {
                if self.servers[s].up == Up::Dead {
                    self.server_starts(s);
                }
            }
            Heal::ServerResumes(s) => {
                let server = &mut self.servers[s];
                if server.up == Up::Paused {
                    server.up = Up::Runs;
                    for turn in std::mem::take(&mut server.backlog) {
                        self.server_does(s, 0, 30, turn);
                    }
                }
            }
            Heal::ServerReachesStore(s) => self.servers[s].cut = false,
            Heal::StoreIsUp => self.store_down = false,
            Heal::AgentResumes(ix) => self.resume_agent(ix),
            Heal::AgentIsReached(s, ix) => drop(self.cuts.remove(&(s, ix))),
            Heal::Odds(fault) => {
                let odds = &mut self.odds;
                match fault {
                    Fault::StoreFails => odds.store_fails = 0,
                    Fault::StoreUnheard => odds.unheard = 0,
                    Fault::NetworkDrops => odds.drops = 0,
                    Fault::NetworkDoubles => odds.doubles = 0,
                    Fault::NetworkIsSlow => odds.network_millis = 0,
                    Fault::StepsFail => odds.steps_fail = 0,
                    Fault::TasksFail => odds.tasks_fail = 0,
                    Fault::ProviderFails => odds.provider_fails = 0,
                    Fault::StartsFail => odds.start_fails = 0,
                    Fault::StartsAreSlow => odds.slow = 0,
                    Fault::NewMisreads => odds.misreads = 0,
                    _ => {}
                }
            }
        }
    }

    /// From now on nothing goes wrong any more, and whoever is down comes up.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.say(|| "from here on nothing goes wrong any more".to_owned());
        self.odds = Odds::default();
        self.store_down = false;
        self.cuts.clear();
        for s in 0..self.servers.len() {
            self.servers[s].cut = false;
            self.heal(Heal::ServerResumes(s));
            self.heal(Heal::ServerStarts(s));
        }
        for ix in 0..self.places.len() {
            self.resume_agent(ix);
        }
    }

    fn server_dies(&mut self, s: usize) {
        let life = self.next_life();
        let Server { skew, cut, .. } = self.servers[s];
        self.servers[s] = Server::new(life);
        (self.servers[s].up, self.servers[s].skew, self.servers[s].cut) = (Up::Dead, skew, cut);
    }

    pub(super) fn server_starts(&mut self, s: usize) {
        self.servers[s].up = Up::Runs;
        self.server_does(s, 1, 1000, Turn::Poll);
    }

    /// All processes end, and of what agents had written and not flushed nobody knows whether it is there.
    fn power_is_cut(&mut self) {
        for s in 0..self.servers.len() {
            if self.servers[s].up != Up::Dead {
                self.server_dies(s);
                let at = self.now + self.rng.between(500, 5000);
                self.at(at, Event::Heal(Heal::ServerStarts(s)));
            }
        }
        for ix in 0..self.places.len() {
            if self.places[ix].is_none() {
                continue;
            }
            self.struck(ix, Victim::Machine);
            self.engine_dies(ix, "loses its power");
            let is_lost = self.rng.chance(600);
            let Some(Place { volume, agent, .. }) = self.place(ix) else { continue };
            (agent.lives, agent.paused) = (false, false);
            let left: &State = if is_lost { &volume.flushed } else { &volume.written };
            let left = left.clone();
            (volume.written, volume.flushed) = (left.clone(), left);
        }
    }
}
