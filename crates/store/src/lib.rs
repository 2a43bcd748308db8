//! What is written down: the only crate with SQL.

mod error;
mod row;

pub use error::Error;
pub use row::{Event, InstanceRow, OpenOperation};
