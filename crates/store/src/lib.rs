//! coffer-store
