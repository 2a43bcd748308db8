//! Trove's REST API v1.0: bodies out as types, bodies in as types that read themselves from JSON, and faults.
//!
//! Guarantees:
//! - keys, their order, their types and their absence are those of the real server, so that its clients work unchanged;
//! - what Coffer adds are keys of its own beside Trove's, never another meaning of one of Trove's;
//! - reading a body either gives a value that says everything, or one fault that names everything that is wrong in it,
//!   in the words that Trove's users know.
//!
//! Read in this order: [`fault`] (how errors look), [`check`] (how bodies are read), then the resources.

pub mod account;
pub mod check;
pub mod configuration;
pub mod datastore;
pub mod date;
pub mod fault;
pub mod flavor;
pub mod identity;
pub mod instance;
pub mod link;
pub mod operation;
pub mod quota;
pub mod request;

pub use date::Date;
pub use fault::{Fault, Kind};
pub use link::{Link, Links};
