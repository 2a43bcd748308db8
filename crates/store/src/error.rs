//! Why the store did not do what it was asked.

use coffer_core::id::{InstanceId, OperationId};
use coffer_core::instance::Kind;

/// Why the store did not do what it was asked, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The instance has an open operation already; nothing was written.
    #[error("instance {instance} has an open operation: {}", kind.name())]
    Busy { instance: InstanceId, kind: Kind },
    /// Somebody else claimed the operation since; nothing was written. Stop working on it.
    #[error("operation {0} was claimed by somebody else")]
    Fenced(OperationId),
    /// What is written down cannot be understood: it is damaged, or by a newer Coffer.
    #[error("{table} {id} cannot be read: {why}; hint: was it written by a newer coffer?")]
    Unreadable { table: &'static str, id: String, why: String },
    /// What is to be copied would be mixed with what is there.
    #[error("the store {0} is not empty; hint: name an empty database, or a directory without coffer.db")]
    NotEmpty(String),
    /// A newer Coffer has brought it further. What that has written would be taken for something else, or left out.
    #[error(
        "the store {store} has schema {has}, of a newer coffer, and this one knows none after {knows}; hint: start a \
         coffer that is as new, or put back a copy of the store from before that"
    )]
    Newer { store: String, has: i64, knows: i64 },
    /// Its file cannot be opened.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// The schema could not be brought to what this binary knows.
    #[error("the store cannot be migrated: {0}; hint: was it written by a newer coffer?")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The database did not do it.
    #[error("the store failed: {0}")]
    Database(#[from] sqlx::Error),
}
