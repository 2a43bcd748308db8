//! Where images come from. Every source leaves an image in the layout and gives the digest of its manifest; whether it
//! is the right one is proven afterwards, the same way for all of them.

mod debian;
mod local;
mod mirror;
mod pypi;
mod registry;

use std::collections::BTreeMap;
use std::path::Path;

use crate::catalogue::{Release, Source};
use crate::command::blocking;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::pack;
use crate::probe;
use crate::progress::{Observer, Progress};
use crate::store::Limits;

/// What a source needs to put an image into the layout.
pub(crate) struct Fetch<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) limits: Limits,
    pub(crate) observer: &'a Observer,
    pub(crate) release: &'a Release,
    pub(crate) source: &'a Source,
    /// An empty directory of the layout's file system that is removed afterwards.
    pub(crate) stage: &'a Path,
}

impl Fetch<'_> {
    /// Puts the image into the layout; nothing is recorded yet.
    pub(crate) async fn run(&self) -> Result<Digest> {
        match self.source {
            Source::Registry { reference, .. } => registry::pull(self, reference).await,
            Source::Debian { suites, packages, ended, .. } => {
                let tree = debian::unpack(self, suites, packages, *ended).await?;
                self.pack(&tree.path, tree.packages).await
            }
            Source::Pypi { wheel, python, abi, platform, program, suites, packages, .. } => {
                let tree = debian::unpack(self, suites, packages, false).await?;
                let wheel = pypi::Wheel { requirement: wheel, python, abi, platform, program };
                pypi::overlay(self, &wheel, &tree.path).await?;
                self.pack(&tree.path, tree.packages).await
            }
            Source::OciLayout { path, digest, .. } => local::copy(self, path, digest.as_ref()).await,
            Source::Archive { path, digest, .. } => local::unpack(self, path, digest.as_ref()).await,
            Source::Root { path, .. } => self.pack(path, Vec::new()).await,
        }
    }

    /// Makes an image of a directory tree, after its program was found and said its number.
    async fn pack(&self, tree: &Path, packages: Vec<String>) -> Result<Digest> {
        let binary = self.release.binary_from(self.source).path();
        pack::ensure_program(tree, binary)?;
        self.step("ask the program for its version");
        let number = probe::version_number(tree, binary).await?;
        ensure_version(self.release, &number)?;
        let mut labels = BTreeMap::from([
            ("coffer.datastore".to_owned(), self.release.datastore.clone()),
            ("coffer.source".to_owned(), self.origin()),
            ("org.opencontainers.image.version".to_owned(), number),
        ]);
        if !packages.is_empty() {
            labels.insert("coffer.packages".to_owned(), packages.join(" "));
        }
        self.step("pack the image");
        let (layout, tree) = (self.layout.clone(), tree.to_owned());
        blocking(move || pack::pack(&layout, &tree, &labels)).await
    }

    /// The source as an image may name it: the same on every machine, so without this machine's paths.
    fn origin(&self) -> String {
        match self.source {
            Source::Registry { .. } | Source::Debian { .. } | Source::Pypi { .. } => self.source.to_string(),
            Source::OciLayout { .. } | Source::Archive { .. } | Source::Root { .. } => self.source.kind().to_owned(),
        }
    }

    pub(crate) fn step(&self, what: &'static str) {
        (self.observer)(Progress::Step(what));
    }
}

/// Refuses a binary of another version than the release.
pub(crate) fn ensure_version(release: &Release, number: &str) -> Result<()> {
    if release.admits(number) {
        return Ok(());
    }
    Err(Error::WrongVersion { expected: release.version.clone(), found: number.to_owned() })
}
