//! The control plane: HTTP in front, the application behind it, the runner that works off what the application decided,
//! and the endpoint that agents report to.

mod agents;
pub mod app;
pub mod caller;
mod catalogue;
pub mod clock;
pub mod config;
mod contact;
mod directory;
mod ending;
pub mod http;
pub mod identity;
pub mod key;
pub mod metrics;
mod places;
mod runner;
mod server;
mod silence;

pub use catalogue::{CatalogueSeed, datastore_id, version_id};
pub use directory::{BadServerName, Directory, Error as DirectoryError, ServerName, store_file, store_of};
pub use ending::{End, Ending, ending};
pub use server::{Error, Server, Setup};
