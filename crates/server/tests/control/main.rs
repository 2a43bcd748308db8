//! The control plane as a whole: a real server on a real store, with a provider and agents that only pretend, and that
//! speak the real protocol on the real socket.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod agent;
mod agents;
mod app;
mod groups;
mod lives;
mod outage;
mod place;
mod setting;
mod stuck;
mod truth;
