//! The files of an engine, and which of them may be kept how.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use coffer_core::datastore::{Datastore, Number};
use coffer_core::engine::redis::config::{AOF, AOF_DIR, RDB};
use coffer_core::engine::written::{SNAPSHOT_HEAD, by_snapshot};
use rustix::fs::OFlags;

use crate::site::{self, File, Kind, ensure_absent, open};

/// All files below the directory but those that an engine is just writing and will rename.
pub(super) fn files(dir: &Path) -> io::Result<Vec<File>> {
    site::list(dir, kind)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|n| n.to_str()).unwrap_or_default()
}

/// How Redis and Valkey change this file; `None` for one that is just being written and will be renamed.
pub fn kind(path: &Path) -> Option<Kind> {
    let name = name(path);
    let part = |ending: &str| path.starts_with(AOF_DIR) && name.starts_with(AOF) && name.ends_with(ending);
    if name.starts_with("temp-") || name.starts_with("users.acl.tmp") {
        return None;
    }
    Some(match name {
        RDB => Kind::Replaced,
        AOF => Kind::Appended,
        _ if part(".base.rdb") || part(".base.aof") => Kind::Replaced,
        _ if part(".incr.aof") => Kind::Appended,
        _ => Kind::Other,
    })
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

/// Which engine wrote the latest of its snapshots, those at the beginning of an append-only file among them.
pub(crate) fn written_by(data: &Path) -> Option<(Datastore, Number)> {
    let parts = fs_err::read_dir(data.join(AOF_DIR)).into_iter().flatten().flatten().map(|entry| entry.path());
    let bases = parts.filter(|path| name(path).ends_with(".base.rdb"));
    let latest =
        bases.chain([data.join(RDB)]).max_by_key(|path| fs_err::symlink_metadata(path).ok()?.modified().ok())?;
    let mut head = Vec::new();
    let file = open(&latest, OFlags::RDONLY | OFlags::NONBLOCK).ok()?;
    file.take(SNAPSHOT_HEAD as u64).read_to_end(&mut head).ok()?;
    by_snapshot(&head)
}

/// Reads the append-only file into memory, while the old engine serves, so that the next one need not wait for the disk: engines
/// since 7.2 put what they write anew out of the kernel's cache. Not where there is no memory for all of it. Gives the bytes that
/// were read. Blocks.
pub(super) fn warm(data: &Path) -> io::Result<u64> {
    let is_loaded = |file: &File| file.path.starts_with(AOF_DIR) || name(&file.path) == AOF;
    let files: Vec<_> = files(data)?.into_iter().filter(is_loaded).collect();
    if files.iter().map(|file| file.size).sum::<u64>() > free_memory() {
        return Ok(0);
    }
    let mut read = 0;
    for file in files {
        match open(&data.join(&file.path), OFlags::RDONLY) {
            Ok(mut file) => read += io::copy(&mut file, &mut io::sink())?,
            // The engine has replaced it since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(read)
}

/// Bytes that can be used without swapping, as the kernel estimates (`MemAvailable`).
fn free_memory() -> u64 {
    let table = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::fs::{Advice, fadvise};
    use rustix::io::ReadWriteFlags;

    use super::*;

    /// How much of the file is in memory, from its beginning on.
    fn resident(file: &std::fs::File, size: usize) -> usize {
        let mut buffer = vec![0; size];
        let into = &mut [io::IoSliceMut::new(&mut buffer)];
        rustix::io::preadv2(file.as_fd(), into, 0, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    #[test]
    fn what_the_next_engine_loads_is_in_memory_beforehand() {
        const SIZE: usize = 1 << 20;
        // On a disk: what is in memory anyway can't be put out of it.
        let data = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let dir = data.path().join(AOF_DIR);
        fs_err::create_dir(&dir).expect("a directory");
        let base = dir.join(format!("{AOF}.1.base.rdb"));
        fs_err::write(&base, vec![1; SIZE]).expect("a file");
        fs_err::write(data.path().join(RDB), vec![1; SIZE]).expect("a file");
        let file = open(&base, OFlags::RDONLY).expect("the file");
        file.sync_all().expect("on the disk");
        fadvise(&file, 0, None, Advice::DontNeed).expect("out of memory");
        assert_eq!(resident(&file, SIZE), 0, "this disk is memory: the test shows nothing");
        assert_eq!(warm(data.path()).expect("read"), SIZE as u64);
        assert_eq!(resident(&file, SIZE), SIZE);
    }
}
