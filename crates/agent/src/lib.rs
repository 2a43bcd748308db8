//! coffer-agent
