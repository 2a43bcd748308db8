//! The pre-image: data and configuration as they were before the new version touched them.
//!
//! How a file is kept depends on how engines treat it:
//! - one that is only ever replaced as a whole (a snapshot, the base of a multi-part append-only file) gets a second
//!   name: a hard link costs nothing, and no engine writes into it;
//! - one that grows (an append-only file) is cloned where the file system can share blocks, else copied ahead while the
//!   old engine serves, so that only what was appended since is copied after the stop;
//! - the rest is small and copied after the stop.
//!
//! A pre-image is restored only when it is complete, which its manifest says, written last.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use coffer_core::id::OperationId;
use serde::{Deserialize, Serialize};

use super::{Error, Paths};

/// What taking a pre-image would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How, in a sentence.
    pub method: String,
    pub bytes: u64,
    /// How long it takes while no client can write.
    pub millis: u64,
}

/// The pre-image of one operation, in `pre/<operation>/`.
#[derive(Clone, Debug)]
pub struct PreImage {
    dir: PathBuf,
    paths: Paths,
}

/// How a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// A second name.
    Link,
    /// A clone, or a copy taken ahead with its tail added.
    Ahead,
    /// A copy.
    Copy,
}

/// One file, by its path below the volume, such as `data/dump.rdb`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    len: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What a complete pre-image holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    files: BTreeMap<PathBuf, Kept>,
}

/// Which file a copy that was taken ahead is of. Another inode is another file under the same name.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Ahead {
    inodes: BTreeMap<PathBuf, u64>,
}

const MANIFEST: &str = "manifest.json";
const AHEAD: &str = "ahead.json";

impl PreImage {
    /// The pre-image of this operation, whether it is there or not.
    pub fn of(paths: &Paths, operation: OperationId) -> Self {
        Self { dir: paths.pre.join(operation.to_string()), paths: paths.clone() }
    }

    /// What it would mean to take it now.
    pub fn estimate(paths: &Paths) -> Result<Estimate, Error> {
        let files = sources(paths)?;
        let bytes = files.values().map(|(_, m)| m.len()).sum();
        // Links and the last appended bytes: one file takes about as long as another.
        let millis = 2 + files.len() as u64;
        let method = "hard links of files that are only ever replaced (snapshot, base of the append-only file); files that \
                      grow are copied ahead while the engine serves, with only the tail left for after the stop"
            .to_owned();
        Ok(Estimate { method, bytes, millis })
    }

    /// Copies what is large while the engine serves. Can be called again. Blocks.
    pub fn copy_ahead(&self) -> Result<(), Error> {
        let mut ahead = Ahead::default();
        for (name, (method, metadata)) in sources(&self.paths)? {
            if method != Method::Ahead {
                continue;
            }
            let source = self.source(&name);
            let target = self.target(&name)?;
            match fs_err::remove_file(&target) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
            clone_or_append(&source, &target, metadata.len())?;
            ahead.inodes.insert(name, metadata.ino());
        }
        write(&self.dir.join(AHEAD), &ahead)
    }

    /// Completes it. The engine must have ended. Can be called again. Returns its size in bytes. Blocks.
    pub fn complete(&self) -> Result<u64, Error> {
        if let Some(manifest) = self.manifest()? {
            return Ok(manifest.files.values().map(|kept| kept.len).sum());
        }
        let ahead: Ahead = read(&self.dir.join(AHEAD))?.unwrap_or_default();
        let mut manifest = Manifest::default();
        for (name, (method, metadata)) in sources(&self.paths)? {
            let source = self.source(&name);
            let target = self.target(&name)?;
            let same = ahead.inodes.get(&name) == Some(&metadata.ino())
                && fs_err::metadata(&target).is_ok_and(|copy| copy.len() <= metadata.len());
            if !(method == Method::Ahead && same) {
                match fs_err::remove_file(&target) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
                    _ => {}
                }
            }
            match method {
                Method::Link => fs_err::hard_link(&source, &target)?,
                Method::Ahead | Method::Copy => clone_or_append(&source, &target, metadata.len())?,
            }
            let len = fs_err::metadata(&target)?.len();
            if len != metadata.len() {
                let problem = format!("has {len} of {} bytes of {}", metadata.len(), name.display());
                return Err(Error::PreImage { path: self.dir.clone(), problem });
            }
            let (mode, uid, gid) = (metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
            manifest.files.insert(name, Kept { len, mode, uid, gid });
        }
        write(&self.dir.join(MANIFEST), &manifest)?;
        Ok(manifest.files.values().map(|kept| kept.len).sum())
    }

    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        self.dir.join(MANIFEST).exists()
    }

    /// Puts data and configuration back as they were. No engine may run. Can be called again. Blocks.
    pub fn restore(&self) -> Result<(), Error> {
        let Some(manifest) = self.manifest()? else {
            return Err(Error::PreImage { path: self.dir.clone(), problem: "is not complete".to_owned() });
        };
        // Looked at as a whole before the first file of the data is replaced.
        for (name, kept) in &manifest.files {
            let len = fs_err::metadata(self.dir.join(name))?.len();
            if len < kept.len {
                let problem = format!("has {len} of {} bytes of {}", kept.len, name.display());
                return Err(Error::PreImage { path: self.dir.clone(), problem });
            }
        }
        for (name, kept) in &manifest.files {
            self.put_back(name, kept)?;
        }
        for name in sources(&self.paths)?.into_keys().filter(|name| !manifest.files.contains_key(name)) {
            fs_err::remove_file(self.source(&name))?;
        }
        Ok(())
    }

    /// Removes it. Can be called again.
    pub fn discard(&self) -> Result<(), Error> {
        match fs_err::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn put_back(&self, name: &Path, kept: &Kept) -> Result<(), Error> {
        let (image, place) = (self.dir.join(name), self.source(name));
        if let Some(parent) = place.parent()
            && !parent.is_dir()
        {
            // Made by the engine, so it belongs to the engine.
            fs_err::create_dir_all(parent)?;
            fs_err::set_permissions(parent, std::fs::Permissions::from_mode(0o700))?;
            own(parent, kept)?;
        }
        let new = place.with_file_name(format!(".{}.restored", file_name(name)));
        match fs_err::remove_file(&new) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        match method(name) {
            Method::Link => fs_err::hard_link(&image, &new)?,
            Method::Ahead | Method::Copy => {
                clone_or_append(&image, &new, kept.len)?;
                fs_err::set_permissions(&new, std::fs::Permissions::from_mode(kept.mode))?;
                own(&new, kept)?;
            }
        }
        fs_err::rename(&new, &place)?;
        Ok(())
    }

    fn manifest(&self) -> Result<Option<Manifest>, Error> {
        read(&self.dir.join(MANIFEST))
    }

    /// Where a file of the volume is.
    fn source(&self, name: &Path) -> PathBuf {
        match name.strip_prefix("conf") {
            Ok(rest) => self.paths.conf.join(rest),
            Err(_) => self.paths.data.join(name.strip_prefix("data").unwrap_or(name)),
        }
    }

    /// Where it is kept, with the directories above it.
    fn target(&self, name: &Path) -> Result<PathBuf, Error> {
        let target = self.dir.join(name);
        if let Some(parent) = target.parent() {
            fs_err::create_dir_all(parent)?;
        }
        Ok(target)
    }
}

/// How a file of this name is treated by engines.
fn method(name: &Path) -> Method {
    let file = file_name(name);
    if file.ends_with(".rdb") || file.ends_with(".base.aof") {
        Method::Link
    } else if file.ends_with(".aof") {
        Method::Ahead
    } else {
        Method::Copy
    }
}

fn file_name(name: &Path) -> &str {
    name.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

/// All files that count, by their path below the volume. What a dead child of an engine left half written does not.
fn sources(paths: &Paths) -> Result<BTreeMap<PathBuf, (Method, std::fs::Metadata)>, Error> {
    let mut files = BTreeMap::new();
    for (dir, prefix) in [(&paths.data, "data"), (&paths.conf, "conf")] {
        collect(dir, Path::new(prefix), &mut files)?;
    }
    Ok(files)
}

fn collect(
    dir: &Path,
    prefix: &Path,
    files: &mut BTreeMap<PathBuf, (Method, std::fs::Metadata)>,
) -> Result<(), Error> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let name = prefix.join(entry.file_name());
        // A serving engine renames and removes files at any time.
        let metadata = match entry.metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        let file = file_name(&name);
        let half_written = file.starts_with("temp-") || file.ends_with(".restored");
        if metadata.is_dir() {
            collect(&entry.path(), &name, files)?;
        } else if metadata.is_file() && !half_written {
            files.insert(name.clone(), (method(&name), metadata));
        }
    }
    Ok(())
}

/// Makes `target` the first `len` bytes of `source`: by a clone where that is possible, else by adding what it lacks.
fn clone_or_append(source: &Path, target: &Path, len: u64) -> Result<(), Error> {
    let mut from = fs_err::File::open(source)?;
    let mut to = fs_err::OpenOptions::new().create(true).read(true).append(true).open(target)?;
    let have = to.metadata()?.len();
    if have == 0 && len > 0 && rustix::fs::ioctl_ficlone(to.file(), from.file()).is_ok() {
        to.file().set_len(len)?;
    } else {
        from.seek(SeekFrom::Start(have))?;
        std::io::copy(&mut from.take(len.saturating_sub(have)), &mut to)?;
    }
    to.sync_data()?;
    Ok(())
}

fn own(path: &Path, kept: &Kept) -> Result<(), Error> {
    let metadata = fs_err::metadata(path)?;
    if (metadata.uid(), metadata.gid()) != (kept.uid, kept.gid) {
        std::os::unix::fs::chown(path, Some(kept.uid), Some(kept.gid))?;
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs_err::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(std::io::Error::other)?)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whole or not at all, and there after a power cut.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)?;
    }
    let new = path.with_extension("new");
    fs_err::write(&new, serde_json::to_vec(value).map_err(std::io::Error::other)?)?;
    fs_err::File::open(&new)?.sync_data()?;
    fs_err::rename(&new, path)?;
    Ok(())
}
