//! coffer-testkit
