//! A provider whose places are entries in a map.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use coffer_core::id::InstanceId;
use coffer_provider::{Agent, Error, Held, Placed, Provider};
use coffer_wire::agent::Identity;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::agent::{Script, Volume, live};

/// Places that outlive servers, as real ones do.
pub(crate) struct Places {
    runtime: Handle,
    pub(crate) script: Arc<Mutex<Script>>,
    places: Mutex<HashMap<InstanceId, Place>>,
    gate: Mutex<Gate>,
    opened: Condvar,
}

struct Place {
    identity: Identity,
    volume: Arc<Mutex<Volume>>,
    agent: Option<AbortHandle>,
}

/// What the provider does when it is asked for anything but a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    #[default]
    Open,
    /// It takes until the gate is another.
    Hangs,
    Fails,
    /// Another server has every place.
    Taken,
}

impl Places {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            runtime: Handle::current(),
            script: Arc::default(),
            places: Mutex::default(),
            gate: Mutex::default(),
            opened: Condvar::new(),
        })
    }

    pub(crate) fn set_gate(&self, gate: Gate) {
        *self.gate.lock().unwrap() = gate;
        self.opened.notify_all();
    }

    /// Kills the agent; the volume stays.
    pub(crate) fn kill_agent(&self, instance: InstanceId) {
        if let Some(agent) = self.places.lock().unwrap().get_mut(&instance).and_then(|place| place.agent.take()) {
            agent.abort();
        }
    }

    pub(crate) fn identity(&self, instance: InstanceId) -> Option<Identity> {
        self.places.lock().unwrap().get(&instance).map(|place| place.identity.clone())
    }

    pub(crate) fn volume(&self, instance: InstanceId) -> Option<Arc<Mutex<Volume>>> {
        self.places.lock().unwrap().get(&instance).map(|place| Arc::clone(&place.volume))
    }

    pub(crate) fn has_agent(&self, instance: InstanceId) -> bool {
        self.places.lock().unwrap().get(&instance).is_some_and(|place| place.agent.is_some())
    }

    fn pass(&self, instance: InstanceId) -> Result<(), Error> {
        let gate = self.gate.lock().unwrap();
        let gate = self.opened.wait_while(gate, |gate| *gate == Gate::Hangs).unwrap();
        match *gate {
            Gate::Fails => Err(Error::Volume {
                what: "touch the volume",
                instance,
                source: std::io::Error::other("the disk has gone for a walk"),
            }),
            Gate::Taken => Err(Error::Taken { instance, seconds: 5 }),
            Gate::Open | Gate::Hangs => Ok(()),
        }
    }

    fn start(&self, place: &mut Place) -> Agent {
        if place.agent.is_some() {
            return Agent::Runs;
        }
        let agent = live(place.identity.clone(), Arc::clone(&self.script), Arc::clone(&place.volume));
        place.agent = Some(self.runtime.spawn(agent).abort_handle());
        Agent::Started
    }
}

impl Provider for Places {
    fn ensure(&self, identity: &Identity) -> Result<Placed, Error> {
        self.pass(identity.instance)?;
        let mut places = self.places.lock().unwrap();
        let place = places.entry(identity.instance).or_insert_with(|| Place {
            identity: identity.clone(),
            volume: Arc::default(),
            agent: None,
        });
        let agent = self.start(place);
        Ok(Placed { instance: identity.instance, volume: PathBuf::new(), agent })
    }

    fn ensure_agent(&self, instance: InstanceId) -> Result<Agent, Error> {
        self.pass(instance)?;
        let mut places = self.places.lock().unwrap();
        let place = places.get_mut(&instance).ok_or(Error::NoPlace { instance })?;
        Ok(self.start(place))
    }

    fn drop_place(&self, instance: InstanceId, still_wanted: &dyn Fn() -> bool) -> Result<(), Error> {
        self.pass(instance)?;
        if !still_wanted() {
            return Err(Error::Unwanted { instance });
        }
        self.kill_agent(instance);
        self.places.lock().unwrap().remove(&instance);
        Ok(())
    }

    fn hold(&self, instance: InstanceId) -> Result<Held, Error> {
        let is_placed = self.places.lock().unwrap().contains_key(&instance);
        Ok(Held { is_placed, guard: Box::new(()) })
    }

    fn list(&self) -> Result<Vec<Placed>, Error> {
        let places = self.places.lock().unwrap();
        let placed = |(instance, place): (&InstanceId, &Place)| Placed {
            instance: *instance,
            volume: PathBuf::new(),
            agent: if place.agent.is_some() { Agent::Runs } else { Agent::Dead },
        };
        Ok(places.iter().map(placed).collect())
    }
}
