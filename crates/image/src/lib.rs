//! Engine images: where database servers come from, and how they lie on a host.
//!
//! A datastore version is an OCI image by digest. This crate reads the [`Catalogue`] that says which versions there
//! are and where each can be had, keeps the images of a host in a [`Store`], and unpacks them into engine roots.
//!
//! What it guarantees:
//! - A version is recorded only after its binary was found in the unpacked root and *said its own number*; the number
//!   of the catalogue is a claim, the number of an [`Image`] is a proof.
//! - Every blob is checked against its digest when it is written and again when it is unpacked.
//! - Everything becomes visible by one rename: a half-written blob, index or root is never seen, whoever is killed.
//! - Two processes that want the same version at once fetch it once; the second waits and uses the first's.
//! - Unpacking never leaves the root directory, makes no device node, and stops at a limit of bytes.
//! - Nothing here needs privileges: root and an ordinary user run the same code.

mod catalogue;
mod command;
mod digest;
mod error;
mod layout;
mod pack;
mod probe;
mod progress;
mod source;
mod store;
mod unpack;

pub use catalogue::{Binary, Catalogue, Release, Source};
pub use digest::Digest;
pub use error::{Error, Failure, Result, in_full};
pub use progress::{Observer, Progress};
pub use store::{Image, Limits, Store};
