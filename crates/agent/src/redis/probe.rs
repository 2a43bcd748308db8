//! How long clients could not write.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::Secrets;
use coffer_core::spec::EngineSpec;

/// Writes to the instance's own address every two milliseconds, as a client would, something that changes nothing.
#[derive(Debug)]
pub struct Probe {}

impl Probe {
    /// Begins. The engine should be open.
    pub fn start(_spec: &EngineSpec, _address: Ipv4Addr, _secrets: &Secrets) -> Self {
        todo!()
    }

    /// Ends, and tells the longest time without a success.
    pub async fn finish(self) -> Duration {
        todo!()
    }
}
