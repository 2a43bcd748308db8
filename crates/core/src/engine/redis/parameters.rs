//! Which engine knows which setting, and its default.
