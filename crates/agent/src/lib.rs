//! The agent: one process beside each instance. It owns the instance's volume, runs its engine, and carries out what the
//! control plane asks, alone where clients would feel it.

// engine.rs, link.rs, section.rs, state.rs and supervisor.rs are joined in by the lead as soon as `redis` is here:
// they show which functions of `redis` they call.
pub mod sandbox;
