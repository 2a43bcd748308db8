//! Trove v1.0 bodies and faults.
