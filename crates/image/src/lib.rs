//! coffer-image
