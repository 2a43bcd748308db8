//! The catalogue: which datastore versions there are, and where each can be had.
//!
//! It is a TOML file of `[[release]]` tables, each with `[[release.source]]` tables in order of preference. Unknown keys
//! are errors, so that a typing mistake is found when the file is read and not when an image is needed.

use std::fmt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};

/// A catalogue that was read and is free of contradictions.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    /// In the order of the file.
    pub releases: Vec<Release>,
}

/// One datastore version of the catalogue. Serialized, it reads back as the same.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The family as the API names it: `redis`, `valkey`, `mariadb`, `mysql`.
    pub datastore: String,
    /// A version number, or the beginning of one: `7.0.15` is that version only, `8.0` is whichever 8.0.x the source has.
    /// The number that is recorded and shown is always the one that the fetched binary says.
    pub version: String,
    /// Whether tenants may choose it.
    #[serde(default = "yes")]
    pub active: bool,
    /// Whether it is taken when a tenant names none; at most one per datastore.
    #[serde(default)]
    pub default: bool,
    /// Where the server program lies in the image, unless a source says otherwise.
    pub binary: Binary,
    /// Where the image can be had; the first that answers is used.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// The absolute path of a program inside an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct Binary(PathBuf);

impl Binary {
    /// The path, absolute, as seen from inside the engine root.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl From<Binary> for PathBuf {
    fn from(binary: Binary) -> Self {
        binary.0
    }
}

impl TryFrom<PathBuf> for Binary {
    type Error = String;

    fn try_from(path: PathBuf) -> Result<Self, String> {
        if path.is_absolute() && path.file_name().is_some() {
            Ok(Self(path))
        } else {
            Err(format!("{} is not an absolute path", path.display()))
        }
    }
}

/// A place where the image of a version can be had.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// An image in an OCI registry. With `@sha256:...` in the reference, anything else is refused.
    Registry { reference: String, binary: Option<Binary> },
    /// Debian packages, from the mirror that this machine's own apt uses. The last suite is preferred.
    Debian {
        suites: Vec<String>,
        packages: Vec<String>,
        /// The suite gets no updates any more, so its signed date may have passed; its signature is checked all the same.
        #[serde(default)]
        ended: bool,
        binary: Option<Binary>,
    },
    /// A program out of a Python wheel, on top of the Debian packages whose libraries it needs.
    Pypi {
        /// `name==version`.
        wheel: String,
        /// Interpreter version, ABI and platform that select the wheel, as pip names them.
        python: String,
        abi: String,
        platform: String,
        /// The program in the installed wheel; it becomes `binary` in the image.
        program: PathBuf,
        suites: Vec<String>,
        packages: Vec<String>,
        binary: Option<Binary>,
    },
    /// An OCI layout directory.
    OciLayout { path: PathBuf, digest: Option<Digest>, binary: Option<Binary> },
    /// A tar archive (plain, gzip or zstd) of an OCI layout or of a root directory.
    Archive {
        path: PathBuf,
        /// Of the image; only an archive of an OCI layout has one.
        digest: Option<Digest>,
        binary: Option<Binary>,
    },
    /// A root directory.
    Root { path: PathBuf, binary: Option<Binary> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "release")]
    releases: Vec<Release>,
}

impl Catalogue {
    /// Reads `path`. Relative paths of sources are taken from the directory of the file.
    pub fn load(path: &Path) -> Result<Self> {
        let directory = path.parent().unwrap_or(Path::new("."));
        Self::parse(&fs::read_to_string(path)?, path, directory)
    }

    /// The catalogue that Coffer comes with, so that a binary alone knows every version it was made for.
    pub fn built_in() -> Result<Self> {
        let (text, path) = (include_str!("../../../engines/catalogue.toml"), Path::new("engines/catalogue.toml"));
        Self::parse(text, path, Path::new("."))
    }

    fn parse(text: &str, path: &Path, directory: &Path) -> Result<Self> {
        let document: Document = toml::from_str(text)
            .map_err(|source| Error::CatalogueSyntax { path: path.to_owned(), source: Box::new(source) })?;
        let mut catalogue = Self { releases: document.releases };
        for release in &mut catalogue.releases {
            for source in &mut release.sources {
                source.resolve(directory);
            }
        }
        match catalogue.contradiction() {
            Some(what) => Err(Error::CatalogueRule { path: path.to_owned(), what }),
            None => Ok(catalogue),
        }
    }

    /// The release that `version` names: exactly, or as a full number of a series (`8.0.2` finds `8.0`).
    pub fn find(&self, datastore: &str, version: &str) -> Option<&Release> {
        let of_datastore = || self.releases.iter().filter(|r| r.datastore == datastore);
        of_datastore().find(|r| r.version == version).or_else(|| of_datastore().find(|r| r.admits(version)))
    }

    fn contradiction(&self) -> Option<String> {
        for (at, release) in self.releases.iter().enumerate() {
            let Release { datastore, version, .. } = release;
            let before = &self.releases[..at];
            if !plain(datastore) || !plain(version) {
                return Some(format!("{datastore:?} {version:?} is not a usable name; hint: use a-z, 0-9, '.', '-'"));
            }
            if release.sources.is_empty() {
                return Some(format!("{datastore} {version} has no source; hint: add a [[release.source]]"));
            }
            if before.iter().any(|r| r.datastore == *datastore && r.version == *version) {
                return Some(format!("{datastore} {version} is listed twice"));
            }
            if release.default && before.iter().any(|r| r.default && r.datastore == *datastore) {
                return Some(format!("{datastore} has two default versions"));
            }
        }
        None
    }
}

impl Release {
    /// Whether a binary of this number is the release: the same number, or one of its series.
    pub fn admits(&self, number: &str) -> bool {
        number.strip_prefix(&self.version).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// The path of the server program in an image that came from `source`.
    pub fn binary_from<'a>(&'a self, source: &'a Source) -> &'a Binary {
        source.binary().unwrap_or(&self.binary)
    }
}

impl Source {
    fn binary(&self) -> Option<&Binary> {
        match self {
            Self::Registry { binary, .. }
            | Self::Debian { binary, .. }
            | Self::Pypi { binary, .. }
            | Self::OciLayout { binary, .. }
            | Self::Archive { binary, .. }
            | Self::Root { binary, .. } => binary.as_ref(),
        }
    }

    fn resolve(&mut self, directory: &Path) {
        match self {
            Self::OciLayout { path, .. } | Self::Archive { path, .. } | Self::Root { path, .. } => {
                *path = directory.join(&*path);
            }
            Self::Registry { .. } | Self::Debian { .. } | Self::Pypi { .. } => {}
        }
    }

    /// The word by which the catalogue names this kind of source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry { .. } => "registry",
            Self::Debian { .. } => "debian",
            Self::Pypi { .. } => "pypi",
            Self::OciLayout { .. } => "oci-layout",
            Self::Archive { .. } => "archive",
            Self::Root { .. } => "root",
        }
    }

    /// The kind of local source that `path` is: an OCI layout, a root directory, or an archive of either.
    pub fn of_path(path: PathBuf, digest: Option<Digest>) -> Self {
        let binary = None;
        if path.join("oci-layout").exists() {
            Self::OciLayout { path, digest, binary }
        } else if path.is_dir() {
            Self::Root { path, binary }
        } else {
            Self::Archive { path, digest, binary }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind())?;
        match self {
            Self::Registry { reference, .. } => f.write_str(reference),
            Self::Debian { suites, packages, .. } => {
                write!(f, "{} ({})", suites.join("+"), packages.join(" "))
            }
            Self::Pypi { wheel, .. } => f.write_str(wheel),
            Self::OciLayout { path, .. } | Self::Archive { path, .. } | Self::Root { path, .. } => {
                write!(f, "{}", path.display())
            }
        }
    }
}

fn yes() -> bool {
    true
}

/// Names become file names and parts of addresses, so they stay plain.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[release]]
        datastore = "redis"
        version = "8.0"
        binary = "/usr/bin/redis-server"
        default = true
        [[release.source]]
        from = "root"
        path = "roots/redis"
    "#;

    fn check(text: &str, expected: &str) {
        let outcome = Catalogue::parse(text, Path::new("c.toml"), Path::new("/cat"));
        let said = outcome.map_or_else(|e| crate::error::in_full(&e), |_| "accepted".to_owned());
        assert!(said.contains(expected), "{said:?} lacks {expected:?}");
    }

    #[test]
    fn a_catalogue_is_refused_with_the_reason() {
        check(ENTRY, "accepted");
        check(&ENTRY.replace("default = true", "defualt = true"), "defualt");
        check(&ENTRY.replace("path =", "paht ="), "paht");
        check(&ENTRY.replace("/usr/bin", "usr/bin"), "not an absolute path");
        check(&ENTRY.replace("\"8.0\"", "\"../8\""), "not a usable name");
        check(&format!("{ENTRY}{ENTRY}"), "listed twice");
        check(&format!("{ENTRY}{}", ENTRY.replace("8.0", "7.0.15")), "two default versions");
    }

    #[test]
    fn a_series_admits_its_own_numbers_only() {
        let catalogue = Catalogue::parse(ENTRY, Path::new("c.toml"), Path::new("/cat"));
        let catalogue = catalogue.expect("the entry is valid");
        let release = catalogue.find("redis", "8.0.2").expect("8.0.2 is an 8.0");
        assert!(release.admits("8.0") && !release.admits("8.01.1") && !release.admits("8.1.0"));
        assert!(catalogue.find("redis", "8.1").is_none());
        assert!(catalogue.find("valkey", "8.0").is_none());
        let Source::Root { path, .. } = &release.sources[0] else {
            unreachable!("the source is a root");
        };
        assert_eq!(path, Path::new("/cat/roots/redis"));
    }
}
