//! The pre-image: data and configuration as they were before the new version touched them.

use std::path::PathBuf;

use coffer_core::id::OperationId;

use super::{Error, Paths};

/// What taking a pre-image would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How, in a sentence.
    pub method: String,
    pub bytes: u64,
    pub millis: u64,
}

/// The pre-image of one operation, in `pre/<operation>/`.
#[derive(Clone, Debug)]
pub struct PreImage {
    dir: PathBuf,
    paths: Paths,
}

impl PreImage {
    /// The pre-image of this operation, whether it is there or not.
    pub fn of(paths: &Paths, operation: OperationId) -> Self {
        Self { dir: paths.pre.join(operation.to_string()), paths: paths.clone() }
    }

    /// What it would mean to take it now.
    pub fn estimate(paths: &Paths) -> Result<Estimate, Error> {
        let _ = paths;
        todo!()
    }

    /// Copies what is large while the engine serves. Can be called again. Blocks.
    pub fn copy_ahead(&self) -> Result<(), Error> {
        let _ = (&self.dir, &self.paths);
        todo!()
    }

    /// Completes it. The engine must have ended. Can be called again. Returns its size in bytes. Blocks.
    pub fn complete(&self) -> Result<u64, Error> {
        todo!()
    }

    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        todo!()
    }

    /// Puts data and configuration back as they were. No engine may run. Can be called again. Blocks.
    pub fn restore(&self) -> Result<(), Error> {
        todo!()
    }

    /// Removes it. Can be called again.
    pub fn discard(&self) -> Result<(), Error> {
        todo!()
    }
}
