//! The pure heart of Coffer: what there is, what may be done to it, and in which order.
//!
//! Nothing here reads a clock, draws a random number, or touches a file, a socket or a process. Times, ids and
//! observations come in as values; plans and decisions go out as values. A test in the binary's crate asserts that
//! this crate depends on nothing that could do otherwise.
//!
//! Read in this order: [`instance`] (what we keep), [`spec`] (what an agent runs), [`operation`] (how a change moves),
//! [`plan`] (which changes there are), [`runner`] (what a server does with one), [`agent`] (what an agent takes), [`section`]
//! (the part that clients feel), [`engine`] (what we know of each datastore).

pub mod account;
pub mod agent;
pub mod crash;
pub mod datastore;
pub mod drift;
pub mod engine;
pub mod finding;
pub mod flavor;
pub mod gap;
pub mod gate;
pub mod group;
pub mod id;
pub mod instance;
pub mod operation;
pub mod plan;
pub mod runner;
pub mod section;
pub mod spec;
pub mod stuck;
pub mod task;
