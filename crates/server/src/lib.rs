//! The control plane: HTTP in front, the application behind it, the runner that works off what the application decided,
//! and the endpoint that agents report to.

pub mod app;
pub mod caller;
pub mod config;
pub mod http;
pub mod identity;
pub mod metrics;
