//! The files of an engine, and which of them may be kept how.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use coffer_core::engine::redis::config::{AOF, AOF_DIR, RDB};

/// How an engine changes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Written elsewhere and renamed into place: whoever has another name for it keeps it as it was.
    Replaced,
    /// Only ever made longer, and as a whole replaced.
    Appended,
    /// Anything else; small.
    Other,
}

/// One file below a directory.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// From the directory on.
    pub(super) path: PathBuf,
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) owner: u32,
    pub(super) kind: Kind,
}

/// All files below the directory but those that an engine is just writing and will rename. Files may go away meanwhile.
pub(super) fn files(dir: &Path) -> io::Result<Vec<File>> {
    let mut found = Vec::new();
    collect(dir, Path::new(""), &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn collect(dir: &Path, below: &Path, found: &mut Vec<File>) -> io::Result<()> {
    let entries = match fs_err::read_dir(dir.join(below)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if is_unfinished(&path) {
            continue;
        }
        let metadata = match fs_err::symlink_metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if metadata.is_dir() {
            collect(dir, &path, found)?;
        } else if metadata.is_file() {
            let (size, inode, owner) = (metadata.len(), metadata.ino(), metadata.uid());
            found.push(File { kind: kind(&path), path, size, inode, owner });
        }
    }
    Ok(())
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

fn is_unfinished(path: &Path) -> bool {
    name(path).starts_with("temp-") || name(path).starts_with("users.acl.tmp")
}

fn kind(path: &Path) -> Kind {
    let name = name(path);
    let part = |ending: &str| path.starts_with(AOF_DIR) && name.starts_with(AOF) && name.ends_with(ending);
    match name {
        RDB => Kind::Replaced,
        AOF => Kind::Appended,
        _ if part(".base.rdb") || part(".base.aof") => Kind::Replaced,
        _ if part(".incr.aof") => Kind::Appended,
        _ => Kind::Other,
    }
}

/// Which of its files an engine would load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnDisk {
    Nothing,
    Snapshot,
    AppendOnly,
}

/// What there is to load for an engine that knows directories of append-only files (`multi_part`, since 7.0) or does not.
/// An empty file of the old kind is one whose first rewrite did not end.
pub(super) fn to_load(data: &Path, multi_part: bool) -> OnDisk {
    let size = |path: PathBuf| fs_err::metadata(path).map_or(0, |m| m.len());
    let manifest = data.join(AOF_DIR).join(format!("{AOF}.manifest"));
    if (multi_part && size(manifest) > 0) || size(data.join(AOF)) > 0 {
        OnDisk::AppendOnly
    } else if size(data.join(RDB)) > 0 {
        OnDisk::Snapshot
    } else {
        OnDisk::Nothing
    }
}

/// Removes what [`to_load`] calls append-only. From the first act on it is no longer there as a whole.
pub(super) fn forget_append_only(data: &Path) -> io::Result<()> {
    let gone = data.join("temp-forgotten-appendonlydir");
    ensure_absent(&gone)?;
    match fs_err::rename(data.join(AOF_DIR), &gone) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    ensure_absent(&data.join(AOF))?;
    ensure_absent(&gone)
}

/// Makes the file or directory not be there.
pub(crate) fn ensure_absent(path: &Path) -> io::Result<()> {
    let removed = match fs_err::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
