//! What tests share: a world that exists only in memory, faults to strike it with, and the loop that works off plans.
//!
//! Nothing of that starts a process or opens a file, so a test can play tens of thousands of unlucky upgrades in
//! seconds. What is proven on this world is the order of things: the operation machine, the plans, and the list of
//! steps in a critical section. That the real steps do what they say is proven on real servers, elsewhere.
//!
//! - [`fixture`] has instances, versions and specs to plan with.
//! - [`fault`] says where, when and how something goes wrong, and lists everything that can.
//! - [`driver`] is the loop of every executor: record, act, record, and start over from the record after a crash.
//! - [`world`] is what the steps act on, with the promises it watches over; [`moves`] is what each step does to it.
//! - [`simulation`] is whole installations of several servers in virtual time, and random histories of what goes wrong.
//!
//! Apart from that, [`postgres`] is a real database for tests of the store.

// For tests only: what cannot be written or read here is a test that fails.
#![allow(clippy::missing_panics_doc)]

pub mod driver;
pub mod fault;
pub mod fixture;
pub mod moves;
mod place;
pub mod postgres;
pub mod simulation;
pub mod world;
