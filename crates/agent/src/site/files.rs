//! The files of an engine: which there are, and how one is made, replaced and removed.

use std::collections::HashSet;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Error;
use crate::sandbox::User;

/// How an engine changes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Written elsewhere and renamed into place: whoever has another name for it keeps it as it was.
    Replaced,
    /// Only ever made longer, and as a whole replaced.
    Appended,
    /// Anything else.
    Other,
}

/// How an engine changes the file with this path below its directory; `None` for one that is no part of its data: it is just
/// being written and will be renamed, or holds nothing that lasts.
pub type Kinds = fn(&Path) -> Option<Kind>;

/// One file below a directory.
#[derive(Clone, Debug)]
pub struct File {
    /// From the directory on.
    pub path: PathBuf,
    pub size: u64,
    pub inode: u64,
    pub owner: u32,
    /// When it was written last, in seconds since 1970.
    pub changed: i64,
    pub kind: Kind,
}

/// All files below the directory that are part of an engine's data. Files may go away meanwhile.
pub(crate) fn list(dir: &Path, kinds: Kinds) -> io::Result<Vec<File>> {
    Ok(list_all(dir, kinds)?.0)
}

/// The same with the directories, from the directory on and each after the one that it is in: an empty one may be a database.
pub(crate) fn list_all(dir: &Path, kinds: Kinds) -> io::Result<(Vec<File>, Vec<PathBuf>)> {
    let mut found = (Vec::new(), Vec::new());
    collect(dir, Path::new(""), kinds, &mut found)?;
    found.0.sort_by(|a, b| a.path.cmp(&b.path));
    found.1.sort();
    Ok(found)
}

fn collect(dir: &Path, below: &Path, kinds: Kinds, found: &mut (Vec<File>, Vec<PathBuf>)) -> io::Result<()> {
    let entries = match fs_err::read_dir(dir.join(below)) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let Some(kind) = kinds(&path) else { continue };
        let metadata = match fs_err::symlink_metadata(entry.path()) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        if metadata.is_dir() {
            collect(dir, &path, kinds, found)?;
            found.1.push(path);
        } else if metadata.is_file() {
            let (size, inode, owner) = (metadata.len(), metadata.ino(), metadata.uid());
            found.0.push(File { path, size, inode, owner, changed: metadata.mtime(), kind });
        }
    }
    Ok(())
}

/// Never through a symbolic link: the directory is the engine's.
pub(crate) fn open(path: &Path, flags: OFlags) -> io::Result<std::fs::File> {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let file = rustix::fs::open(path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?;
    Ok(file.into())
}

/// Bytes on the disk of all files below the directory that were not `seen` yet, by their inodes. What cannot be read does not count:
/// files come and go while an engine works.
pub(crate) fn used_below(dir: &Path, seen: &mut HashSet<u64>) -> u64 {
    let Ok(entries) = fs_err::read_dir(dir) else { return 0 };
    let mut bytes = 0;
    for entry in entries.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            bytes += used_below(&entry.path(), seen);
        } else if seen.insert(metadata.ino()) {
            bytes += metadata.blocks() * 512;
        }
    }
    bytes
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

/// Where a file of the sandbox is on the host, given what its directory is there.
pub(crate) fn inside(dir: &Path, path: &str) -> PathBuf {
    dir.join(path.rsplit('/').next().unwrap_or(path))
}

/// A directory of mode 0700 that belongs to `user`.
pub(crate) fn ensure_dir(dir: &Path, user: User) -> Result<(), Error> {
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.into()),
        _ => {}
    }
    if let Some((uid, gid)) = owner(user) {
        rustix::fs::chown(dir, Some(uid), Some(gid)).map_err(io::Error::from)?;
    }
    Ok(())
}

/// Whose the engine's files are. Only root can give files away; an ordinary user's engine is that user.
pub(super) fn owner(user: User) -> Option<(rustix::fs::Uid, rustix::fs::Gid)> {
    match user {
        User::Fixed { uid, gid } if rustix::process::geteuid().is_root() => {
            Some((rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid)))
        }
        User::Fixed { .. } | User::Own => None,
    }
}

/// Replaces the file whole or not at all, mode 0600, owned by `user`.
pub(crate) fn replace(path: &Path, content: &[u8], user: User) -> Result<(), Error> {
    let new = path.with_extension("new");
    ensure_absent(&new)?;
    let mut file = fs_err::OpenOptions::new();
    file.write(true).create_new(true);
    file.options_mut().mode(0o600);
    let mut file = file.open(&new)?;
    file.write_all(content)?;
    file.sync_data()?;
    // Through the open file: its name lies in a directory of the engine's.
    if let Some((uid, gid)) = owner(user) {
        rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(io::Error::from)?;
    }
    fs_err::rename(&new, path)?;
    Ok(())
}

/// Has all that was written below this directory on the disk, whoever wrote it; with it all of its file system. Blocks.
pub(super) fn flush(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs_err::File::open(dir)?)?)
}

/// The same, for those who must not block.
pub(crate) async fn flush_all(dir: &Path) -> Result<(), Error> {
    let dir = dir.to_owned();
    Ok(tokio::task::spawn_blocking(move || flush(&dir)).await.map_err(io::Error::other)??)
}

/// Bytes as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
