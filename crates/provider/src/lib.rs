//! coffer-provider
