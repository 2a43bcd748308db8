//! An OCI image layout in a directory: blobs by digest, and the index that lists the images.
//!
//! A blob becomes visible under its digest only when all of it was written and its digest was checked. The index is
//! replaced by one rename. Scratch files lie in a directory of the same file system, where the store clears them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use oci_client::client::current_platform_resolver;
use oci_client::manifest::{ImageIndexEntry, OciImageIndex, OciImageManifest, OciManifest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::NamedTempFile;

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};

/// Documents (manifests, configurations, indexes) are read into memory; the OCI specification asks for 4 MiB.
const DOCUMENT_LIMIT: u64 = 4 << 20;

/// A layout that this process may write to.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    directory: PathBuf,
    scratch: PathBuf,
}

impl Layout {
    /// Makes an empty layout in `directory` if there is none.
    pub(crate) fn ensure(directory: PathBuf, scratch: PathBuf) -> Result<Self> {
        fs::create_dir_all(directory.join("blobs/sha256"))?;
        fs::create_dir_all(&scratch)?;
        let layout = Self { directory, scratch };
        let marker = layout.directory.join("oci-layout");
        if !marker.exists() {
            layout.replace(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(layout)
    }

    /// A layout made by somebody else, to read from; checked to be one.
    pub(crate) fn existing(directory: &Path) -> Result<Self> {
        if !directory.join("oci-layout").is_file() {
            return Err(Error::BadLayout { path: directory.to_owned(), what: "it has no file oci-layout".to_owned() });
        }
        Ok(Self { directory: directory.to_owned(), scratch: PathBuf::new() })
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Begins a blob; nothing is visible until [`BlobWriter::finish`].
    pub(crate) fn new_blob(&self) -> Result<BlobWriter> {
        let file = NamedTempFile::new_in(&self.scratch)?;
        Ok(BlobWriter { layout: self.clone(), out: Hashing::new(BufWriter::with_capacity(128 << 10, file)) })
    }

    /// Writes a whole blob that is in memory.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut blob = self.new_blob()?;
        blob.write_all(bytes)?;
        Ok(blob.finish(None)?.0)
    }

    /// Writes a document as a blob; gives its digest and size. The same document always gives the same bytes.
    pub(crate) fn put_document(&self, document: &impl Serialize) -> Result<(Digest, u64)> {
        let bytes = serde_json::to_vec(document)
            .map_err(|source| Error::BadDocument { path: self.directory.clone(), source })?;
        Ok((self.put(&bytes)?, bytes.len() as u64))
    }

    /// Reads a small blob and checks it against its digest.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = fs::File::open(&path)?;
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > DOCUMENT_LIMIT {
            return Err(Error::TooLarge { what: format!("document {digest}"), limit: DOCUMENT_LIMIT });
        }
        ensure_digest(&format!("blob {}", path.display()), digest, Digest::of(&bytes))?;
        Ok(bytes)
    }

    /// The manifest of one image, for this machine: of an index, the entry of its platform.
    pub(crate) fn manifest(&self, digest: &Digest) -> Result<(Digest, OciImageManifest)> {
        match parse::<OciManifest>(&self.blob_path(digest), &self.document(digest)?)? {
            OciManifest::Image(manifest) => Ok((digest.clone(), manifest)),
            OciManifest::ImageIndex(index) => {
                let chosen = choose_platform(&index.manifests, &digest.to_string())?;
                match parse::<OciManifest>(&self.blob_path(&chosen), &self.document(&chosen)?)? {
                    OciManifest::Image(manifest) => Ok((chosen, manifest)),
                    OciManifest::ImageIndex(_) => Err(self.broken("an index lists an index")),
                }
            }
        }
    }

    /// The images that the index lists; none if there is no index yet.
    pub(crate) fn entries(&self) -> Result<Vec<ImageIndexEntry>> {
        let path = self.directory.join("index.json");
        if !path.exists() {
            return Ok(Vec::new());
        }
        Ok(parse::<OciImageIndex>(&path, &fs::read(&path)?)?.manifests)
    }

    /// Replaces the index. The caller holds the lock of the index.
    pub(crate) fn save_entries(&self, entries: &[ImageIndexEntry]) -> Result<()> {
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": oci_client::manifest::OCI_IMAGE_INDEX_MEDIA_TYPE,
            "manifests": entries,
        });
        self.replace(&self.directory.join("index.json"), index.to_string().as_bytes())
    }

    /// The image of a foreign layout: the one with this digest, or the only one there is.
    pub(crate) fn only_image(&self, wanted: Option<&Digest>) -> Result<Digest> {
        let entries = self.entries()?;
        match (wanted, entries.as_slice()) {
            (None, [one]) => one.digest.parse(),
            (None, []) => Err(self.broken("its index lists no image")),
            (None, _) => Err(self.broken("its index lists several images; hint: say which by its digest")),
            (Some(digest), entries) => {
                let digests: Vec<Digest> = entries.iter().map(|e| e.digest.parse()).collect::<Result<_>>()?;
                match digests.as_slice() {
                    _ if digests.contains(digest) => Ok(digest.clone()),
                    [one] => Err(Error::DigestMismatch {
                        what: format!("the image in {}", self.directory.display()),
                        expected: digest.clone(),
                        found: one.clone(),
                    }),
                    _ => Err(self.broken(&format!("its index does not list {digest}"))),
                }
            }
        }
    }

    /// Copies one image with all its blobs from `from`, checking each; gives the digest of the platform's manifest.
    pub(crate) fn copy_image(&self, from: &Layout, digest: &Digest) -> Result<Digest> {
        let (digest, manifest) = from.manifest(digest)?;
        for wanted in blobs_of(&digest, &manifest)? {
            if self.has(&wanted) {
                continue;
            }
            let mut blob = self.new_blob()?;
            let path = from.blob_path(&wanted);
            if !path.is_file() {
                return Err(from.broken(&format!("blob {wanted} is missing")));
            }
            io::copy(&mut fs::File::open(path)?, &mut blob)?;
            blob.finish(Some(&wanted))?;
        }
        Ok(digest)
    }

    /// Removes every blob that no listed image needs. The caller holds the store's locks.
    pub(crate) fn collect(&self) -> Result<()> {
        let mut needed = BTreeSet::new();
        for entry in self.entries()? {
            let (digest, manifest) = self.manifest(&entry.digest.parse()?)?;
            needed.extend(blobs_of(&digest, &manifest)?.into_iter().map(|d| d.hex().to_owned()));
        }
        for blob in fs::read_dir(self.directory.join("blobs/sha256"))? {
            let blob = blob?;
            if !needed.contains(&*blob.file_name().to_string_lossy()) {
                fs::remove_file(blob.path())?;
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut file = NamedTempFile::new_in(&self.scratch)?;
        file.write_all(bytes)?;
        persist(file, path)
    }

    fn broken(&self, what: &str) -> Error {
        Error::BadLayout { path: self.directory.clone(), what: what.to_owned() }
    }
}

/// A blob that is being written.
pub(crate) struct BlobWriter {
    layout: Layout,
    out: Hashing<BufWriter<NamedTempFile>>,
}

impl BlobWriter {
    /// Makes the blob visible under its digest, which must be `expected` if that is known; gives its digest and size.
    pub(crate) fn finish(self, expected: Option<&Digest>) -> Result<(Digest, u64)> {
        let (out, digest, bytes) = self.out.finish();
        if let Some(expected) = expected {
            ensure_digest("a downloaded blob", expected, digest.clone())?;
        }
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        persist(file, &self.layout.blob_path(&digest))?;
        Ok((digest, bytes))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.out.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Renames a written file into place, so that it is whole even after a power cut. Content by digest is no secret and is
/// read by agents of other users, so it gets an ordinary file's mode.
fn persist(file: NamedTempFile, path: &Path) -> Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|e| e.error)?;
    if let Some(parent) = path.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// The blobs of an image: manifest, configuration, layers.
pub(crate) fn blobs_of(digest: &Digest, manifest: &OciImageManifest) -> Result<Vec<Digest>> {
    let mut blobs = vec![digest.clone(), manifest.config.digest.parse()?];
    for layer in &manifest.layers {
        blobs.push(layer.digest.parse()?);
    }
    Ok(blobs)
}

/// The entry of an index for this machine.
pub(crate) fn choose_platform(entries: &[ImageIndexEntry], what: &str) -> Result<Digest> {
    match current_platform_resolver(entries) {
        Some(digest) => digest.parse(),
        None => Err(Error::WrongPlatform { what: what.to_owned() }),
    }
}

/// Refuses content that is not what its digest says.
pub(crate) fn ensure_digest(what: &str, expected: &Digest, found: Digest) -> Result<()> {
    if *expected == found {
        return Ok(());
    }
    Err(Error::DigestMismatch { what: what.to_owned(), expected: expected.clone(), found })
}

/// An entry of an index, with what the store records about the image.
pub(crate) fn new_entry(digest: &Digest, size: u64, annotations: BTreeMap<String, String>) -> ImageIndexEntry {
    ImageIndexEntry {
        media_type: oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.to_owned(),
        digest: digest.to_string(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        platform: None,
        annotations: Some(annotations),
        artifact_type: None,
    }
}

pub(crate) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::BadDocument { path: path.to_owned(), source })
}
