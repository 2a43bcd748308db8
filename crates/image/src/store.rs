//! The images of a host: an OCI layout in `images/`, and the engine roots unpacked from it in `roots/sha256-<hex>/`.
//!
//! All instances of a host share one store, and several processes may use it at once. The index of the layout is the
//! only record; an image stands in it with what was proven about it. Roots are never removed but by
//! [`Store::remove`]: an engine may be running in one.
//!
//! Locks, always taken in this order: `<datastore>-<version>` (one process fetches it), `activity` (shared by whoever
//! writes, exclusive for clearing what a killed process left), `root-<hex>`, `index`.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use oci_client::manifest::ImageIndexEntry;
use tempfile::TempDir;

use crate::catalogue::{Binary, Release, Source};
use crate::command::blocking;
use crate::digest::{Digest, Hashing};
use crate::error::{Error, Failure, Result, in_full};
use crate::layout::{Layout, ensure_digest, new_entry};
use crate::pack::ensure_program;
use crate::probe;
use crate::progress::{Observer, Progress};
use crate::source::{Fetch, ensure_version};
use crate::unpack::{Rule, Unpacker};

/// Where a sandbox mounts things; there in every root, whatever its image has.
const MOUNT_POINTS: [&str; 6] = ["conf", "data", "dev", "proc", "run", "tmp"];

/// The image store of a host.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    layout: Layout,
    limits: Limits,
}

/// What a store puts up with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one image, compressed and unpacked alike.
    pub image_bytes: u64,
    /// How long a registry may send nothing.
    pub silence: Duration,
}

impl Default for Limits {
    /// 8 GiB, ten times the largest engine known; 30 s.
    fn default() -> Self {
        Self { image_bytes: 8 << 30, silence: Duration::from_secs(30) }
    }
}

/// An engine image of the store, with what was proven when it was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The family, as in the catalogue.
    pub datastore: String,
    /// The version as the catalogue names it; may be a series.
    pub version: String,
    /// The version number that the binary said.
    pub number: String,
    /// Of the image's manifest for this machine's platform.
    pub digest: Digest,
    /// The server program, absolute inside the root.
    pub binary: PathBuf,
    /// Compressed size of all layers.
    pub size_bytes: u64,
    /// The source that it came from, for people.
    pub source: String,
}

/// A lock of the store, held until it is dropped or the process ends.
struct Lock(#[allow(dead_code, reason = "it is held, not used")] fs::File);

impl Store {
    /// Opens the store in `directory`, making an empty one if there is none, and clears what killed processes left.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::open_with(directory, Limits::default())
    }

    /// As [`Store::open`], with other limits.
    pub fn open_with(directory: &Path, limits: Limits) -> Result<Self> {
        for name in ["images", "locks", "roots", "tmp"] {
            fs::create_dir_all(directory.join(name))?;
        }
        let directory = fs::canonicalize(directory)?;
        let layout = Layout::ensure(directory.join("images"), directory.join("tmp"))?;
        let store = Self { directory, layout, limits };
        store.clear_scratch()?;
        Ok(store)
    }

    /// The images in the order in which they were fetched.
    pub fn list(&self) -> Result<Vec<Image>> {
        let entries = self.layout.entries()?;
        Ok(entries.iter().filter_map(image_of).collect())
    }

    /// The image of a version, by its name in the catalogue or its number; the latest, if there are several.
    pub fn find(&self, datastore: &str, version: &str) -> Result<Option<Image>> {
        let named =
            |image: &Image| image.datastore == datastore && (image.version == version || image.number == version);
        Ok(self.list()?.into_iter().rfind(named))
    }

    /// Makes sure that the version is in the store, unpacked and proven, and gives its image.
    ///
    /// Asks the sources of the release in their order; the first that gives an image whose program says the right number
    /// is used. An image that is there already is not asked for again.
    pub async fn fetch(&self, release: &Release, observer: &Observer) -> Result<Image> {
        let name = format!("{}-{}", release.datastore, release.version);
        let _fetching = self.wait_for(name, observer).await?;
        if let Some(image) = self.find(&release.datastore, &release.version)? {
            self.ensure_root(&image.digest).await?;
            return Ok(image);
        }
        let mut failures = Vec::new();
        for source in &release.sources {
            observer(Progress::Trying { source: source.to_string() });
            match self.fetch_from(release, source, observer).await {
                Ok(image) => {
                    observer(Progress::Ready { number: image.number.clone(), digest: image.digest.to_string() });
                    return Ok(image);
                }
                Err(cause) => {
                    let source = source.to_string();
                    tracing::warn!(%source, cause = in_full(&cause), "a source gave no image");
                    observer(Progress::Refused { source: source.clone(), cause: in_full(&cause) });
                    failures.push(Failure { source, cause });
                }
            }
        }
        Err(Error::NoSource { datastore: release.datastore.clone(), version: release.version.clone(), failures })
    }

    /// Brings an image from a local layout, archive or root directory. `digest` is what it must have, if that is known.
    /// It becomes the latest of its version; an older one stays until it is removed.
    pub async fn import(
        &self,
        datastore: &str,
        version: &str,
        binary: Binary,
        path: PathBuf,
        digest: Option<Digest>,
        observer: &Observer,
    ) -> Result<Image> {
        let release = Release {
            datastore: datastore.to_owned(),
            version: version.to_owned(),
            active: true,
            default: false,
            binary,
            sources: Vec::new(),
        };
        let _fetching = self.wait_for(format!("{datastore}-{version}"), observer).await?;
        self.fetch_from(&release, &Source::of_path(path, digest), observer).await
    }

    /// The engine root of an image, unpacked now if it is not there. The same path every time, on this host.
    pub async fn ensure_root(&self, digest: &Digest) -> Result<PathBuf> {
        let root = self.root_path(digest);
        if root.is_dir() {
            return Ok(root);
        }
        let (store, digest) = (self.clone(), digest.clone());
        blocking(move || {
            let _active = store.lock_shared("activity")?;
            let _unpacking = store.lock(&format!("root-{}", digest.hex()))?;
            if !root.is_dir() {
                store.unpack_root(&digest, &root)?;
            }
            Ok(root)
        })
        .await
    }

    /// Removes an image and its root. The caller knows that no engine runs in it.
    pub fn remove(&self, digest: &Digest) -> Result<()> {
        let active = self.lock_shared("activity")?;
        {
            let _index = self.lock("index")?;
            let mut entries = self.layout.entries()?;
            let before = entries.len();
            entries.retain(|entry| entry.digest != digest.to_string());
            if entries.len() == before {
                return Err(Error::UnknownImage { name: digest.to_string() });
            }
            self.layout.save_entries(&entries)?;
        }
        let root = self.root_path(digest);
        if root.exists() {
            // Out of sight first: a root is never seen half removed.
            let aside = self.stage()?;
            fs::rename(&root, aside.path().join("root"))?;
        }
        drop(active);
        self.collect_blobs()
    }

    async fn fetch_from(&self, release: &Release, source: &Source, observer: &Observer) -> Result<Image> {
        let active = self.lock_shared("activity")?;
        let stage = self.stage()?;
        let digest =
            Fetch { layout: &self.layout, limits: self.limits, observer, release, source, stage: stage.path() }
                .run()
                .await?;
        let binary = release.binary_from(source).path().to_owned();
        let proven = self.prove(release, &digest, &binary, observer).await;
        let recorded = match proven {
            Ok(number) => self.record(release, source, &digest, &binary, number),
            Err(cause) => Err(cause),
        };
        if recorded.is_err() && !self.is_recorded(&digest)? {
            let root = self.root_path(&digest);
            if root.exists() {
                fs::rename(&root, stage.path().join("refused"))?;
            }
        }
        drop(active);
        blocking(move || Ok(stage.close()?)).await?;
        if recorded.is_ok() {
            self.collect_blobs()?;
        }
        recorded
    }

    /// Unpacks the image and asks its program; gives the number it said.
    async fn prove(&self, release: &Release, digest: &Digest, binary: &Path, observer: &Observer) -> Result<String> {
        observer(Progress::Step("unpack the image"));
        let root = self.ensure_root(digest).await?;
        ensure_program(&root, binary)?;
        observer(Progress::Step("prove the program"));
        let number = probe::version_number(&root, binary).await?;
        ensure_version(release, &number)?;
        Ok(number)
    }

    fn record(
        &self,
        release: &Release,
        source: &Source,
        digest: &Digest,
        binary: &Path,
        number: String,
    ) -> Result<Image> {
        let (_, manifest) = self.layout.manifest(digest)?;
        let layers = manifest.layers.iter().map(|l| u64::try_from(l.size).unwrap_or(0));
        let image = Image {
            datastore: release.datastore.clone(),
            version: release.version.clone(),
            number,
            digest: digest.clone(),
            binary: binary.to_owned(),
            size_bytes: layers.sum(),
            source: source.to_string(),
        };
        let manifest_bytes = self.layout.document(digest)?.len() as u64;
        let _index = self.lock("index")?;
        let mut entries = self.layout.entries()?;
        entries.retain(|entry| {
            image_of(entry).is_none_or(|other| {
                (&other.datastore, &other.version, &other.digest) != (&image.datastore, &image.version, &image.digest)
            })
        });
        entries.push(new_entry(digest, manifest_bytes, annotations(&image)));
        self.layout.save_entries(&entries)?;
        Ok(image)
    }

    fn unpack_root(&self, digest: &Digest, root: &Path) -> Result<()> {
        if !self.layout.has(digest) {
            return Err(Error::UnknownImage { name: digest.to_string() });
        }
        let (_, manifest) = self.layout.manifest(digest)?;
        let stage = self.stage()?;
        let tree = stage.path().join("root");
        fs::create_dir(&tree)?;
        let mut unpacker = Unpacker::new(&tree, Rule::Layers, self.limits.image_bytes)?;
        for layer in &manifest.layers {
            let layer: Digest = layer.digest.parse()?;
            let mut blob = Hashing::new(fs::File::open(self.layout.blob_path(&layer))?);
            unpacker.unpack(&mut blob)?;
            std::io::copy(&mut blob, &mut std::io::sink())?;
            let (_, found, _) = blob.finish();
            ensure_digest("a layer of the image", &layer, found)?;
        }
        for name in MOUNT_POINTS {
            let path = tree.join(name);
            if !fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                let _ = fs::remove_file(&path);
                fs::create_dir(&path)?;
            }
        }
        // The rename must not reach the disk before the files do, or a power cut leaves a root with empty files.
        rustix::fs::syncfs(fs::File::open(&tree)?.as_fd())?;
        Ok(fs::rename(&tree, root)?)
    }

    /// Where the engine root of an image is, whether or not it is there.
    pub fn root_path(&self, digest: &Digest) -> PathBuf {
        self.directory.join("roots").join(format!("sha256-{}", digest.hex()))
    }

    fn is_recorded(&self, digest: &Digest) -> Result<bool> {
        Ok(self.list()?.iter().any(|image| image.digest == *digest))
    }

    /// A directory for work, removed when it is dropped; readable by the program that is probed in it.
    fn stage(&self) -> Result<TempDir> {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        Ok(tempfile::Builder::new().permissions(mode).tempdir_in(self.directory.join("tmp"))?)
    }

    /// Removes what killed processes left half done, unless somebody is at work in the store.
    fn clear_scratch(&self) -> Result<()> {
        let Some(_alone) = self.lock_alone()? else {
            return Ok(());
        };
        for entry in fs::read_dir(self.directory.join("tmp"))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes blobs that no image needs, unless somebody is at work in the store. Never after a failure: what an
    /// interrupted download has got is what the next attempt need not get again.
    fn collect_blobs(&self) -> Result<()> {
        match self.lock_alone()? {
            Some(_alone) => self.layout.collect(),
            None => Ok(()),
        }
    }

    fn lock_alone(&self) -> Result<Option<Lock>> {
        let file = self.lock_file("activity")?;
        let alone = file.try_lock().is_ok();
        Ok(alone.then_some(Lock(file)))
    }

    async fn wait_for(&self, name: String, observer: &Observer) -> Result<Lock> {
        let file = self.lock_file(&name)?;
        if file.try_lock().is_ok() {
            return Ok(Lock(file));
        }
        observer(Progress::Waiting);
        blocking(move || {
            file.lock()?;
            Ok(Lock(file))
        })
        .await
    }

    fn lock(&self, name: &str) -> Result<Lock> {
        let file = self.lock_file(name)?;
        file.lock()?;
        Ok(Lock(file))
    }

    fn lock_shared(&self, name: &str) -> Result<Lock> {
        let file = self.lock_file(name)?;
        file.lock_shared()?;
        Ok(Lock(file))
    }

    fn lock_file(&self, name: &str) -> Result<fs::File> {
        let path = self.directory.join("locks").join(name);
        let mut options = fs::OpenOptions::new();
        Ok(options.create(true).truncate(false).write(true).open(path)?)
    }
}

fn annotations(image: &Image) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("coffer.datastore".to_owned(), image.datastore.clone()),
        ("coffer.version".to_owned(), image.version.clone()),
        ("coffer.number".to_owned(), image.number.clone()),
        ("coffer.binary".to_owned(), image.binary.display().to_string()),
        ("coffer.size".to_owned(), image.size_bytes.to_string()),
        ("coffer.source".to_owned(), image.source.clone()),
        ("org.opencontainers.image.ref.name".to_owned(), format!("{}-{}", image.datastore, image.number)),
    ])
}

/// The image of an entry; none if somebody else put the entry there.
fn image_of(entry: &ImageIndexEntry) -> Option<Image> {
    let annotation = |name: &str| entry.annotations.as_ref()?.get(name).cloned();
    Some(Image {
        datastore: annotation("coffer.datastore")?,
        version: annotation("coffer.version")?,
        number: annotation("coffer.number")?,
        digest: entry.digest.parse().ok()?,
        binary: PathBuf::from(annotation("coffer.binary")?),
        size_bytes: annotation("coffer.size")?.parse().ok()?,
        source: annotation("coffer.source")?,
    })
}
