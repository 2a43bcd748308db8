//! What can go wrong with engine images, said so that a person can act.

use std::fmt;
use std::io;
use std::path::PathBuf;

use oci_client::errors::OciDistributionError;

use crate::digest::Digest;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a catalogue, an image or a root could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The catalogue's text is not what its format asks for.
    #[error("catalogue {path} is not valid")]
    CatalogueSyntax { path: PathBuf, source: Box<toml::de::Error> },
    /// The catalogue is well-formed but contradicts itself.
    #[error("catalogue {path}: {what}")]
    CatalogueRule { path: PathBuf, what: String },
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("digest {0:?} is not usable; hint: write it as sha256:<64 lower-case hexadecimal digits>")]
    BadDigest(String),
    /// Not a name of an image in a registry.
    #[error("image reference {0:?} is not valid; hint: write it as host/name:tag or host/name@sha256:...")]
    BadReference(String),
    /// Every source of the version was tried and none gave it.
    #[error("{datastore} {version} could not be fetched from any of its sources:{}hint: make one of these sources answer, or bring the image with `coffer engine import`", list(.failures))]
    NoSource { datastore: String, version: String, failures: Vec<Failure> },
    /// No image of this digest or name is in the store.
    #[error(
        "image {name} is not in the image store; hint: fetch it with `coffer engine fetch`, or bring it with `coffer engine import`"
    )]
    UnknownImage { name: String },
    /// The content is not what its digest promises.
    #[error(
        "{what} has digest {found}, expected {expected}; hint: do not use it; ask its publisher, or correct the expected digest"
    )]
    DigestMismatch { what: String, expected: Digest, found: Digest },
    /// The image carries no such program.
    #[error("the image has no program at {binary}; hint: correct `binary` of this source in the catalogue")]
    BinaryMissing { binary: PathBuf },
    /// The program is there but would not say its version.
    #[error("{binary} of the image could not be run to ask for its version: {}", .attempts.join("; "))]
    BinaryUnusable { binary: PathBuf, attempts: Vec<String> },
    /// The program is of another version than the catalogue says.
    #[error(
        "the image carries version {found}, the catalogue says {expected}; hint: correct the version or the source in the catalogue"
    )]
    WrongVersion { expected: String, found: String },
    /// An image for other machines only.
    #[error("{what} has no image for this machine ({}/{})", std::env::consts::OS, std::env::consts::ARCH)]
    WrongPlatform { what: String },
    /// A layer tried to write outside its root, or is otherwise not to be trusted.
    #[error("entry {path:?} of a layer is refused: {reason}")]
    UnsafeEntry { path: PathBuf, reason: &'static str },
    /// More bytes than the store allows.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    /// A directory or archive is not an OCI layout, or a broken one.
    #[error("{path} is not a usable OCI layout: {what}")]
    BadLayout { path: PathBuf, what: String },
    /// The registry answered with an error, or could not be reached.
    #[error("the registry did not give image {image}")]
    Registry { image: String, source: Box<OciDistributionError> },
    /// The registry did not go on answering.
    #[error("registry {registry} sent nothing for {seconds} s; hint: ask again later, what has arrived is kept")]
    Silent { registry: String, seconds: u64 },
    /// The connection ended before the blob did.
    #[error("{what} ended after {found} of {expected} bytes; hint: ask again, what has arrived whole is kept")]
    Truncated { what: String, found: u64, expected: u64 },
    /// This machine's apt configuration names no Debian mirror for the suite.
    #[error(
        "no apt source of this machine serves Debian suite {suite}; hint: add a deb line for {needed} to /etc/apt/sources.list.d"
    )]
    NoMirror { suite: String, needed: String },
    /// A program that the source needs is not installed.
    #[error("program {program} is not installed; hint: apt-get install {package}")]
    ProgramMissing { program: String, package: &'static str },
    /// A program that the source needs failed.
    #[error("{program} failed ({status}): {output}")]
    ProgramFailed { program: String, status: String, output: String },
    /// A program that the source needs did not end in time.
    #[error("{program} did not end within {seconds} s")]
    ProgramSlow { program: String, seconds: u64 },
    /// Reading or writing a file failed; the text names the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A stored document is not what this crate writes there.
    #[error("{path} is not a valid document")]
    BadDocument { path: PathBuf, source: serde_json::Error },
}

/// One source that did not give the version, and why.
#[derive(Debug)]
pub struct Failure {
    /// The source, as [`crate::Source`] displays itself.
    pub source: String,
    /// Why it did not answer.
    pub cause: Error,
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// An error with all its causes in one line, for people: no `Display` here repeats its source.
pub fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = text + ": " + &error.to_string();
        cause = error.source();
    }
    text
}

fn list(failures: &[Failure]) -> impl fmt::Display {
    use fmt::Write as _;
    let mut text = String::from("\n");
    for failure in failures {
        let _ = writeln!(text, "  {}: {}", failure.source, in_full(&failure.cause));
    }
    text
}
