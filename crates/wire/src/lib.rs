//! The two contracts that Coffer speaks: Trove's REST API v1.0 with its clients, and the agent protocol between control
//! plane and agents. Bodies and names only; no sockets.

pub mod agent;
pub mod trove;
