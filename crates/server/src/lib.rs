//! The control plane: HTTP in front, the application behind it, the runner that works off what the application decided,
//! and the endpoint that agents report to.

mod agents;
pub mod app;
pub mod caller;
mod catalogue;
pub mod clock;
pub mod config;
mod contact;
pub mod http;
pub mod identity;
mod key;
pub mod metrics;
mod runner;

pub use catalogue::{CatalogueSeed, datastore_id, version_id};
