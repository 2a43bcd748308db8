//! The pre-image: data and configuration as they were before the new version touched them.
//!
//! What is large is dealt with while the old engine serves, so that in the gap only what was written since is copied:
//!
//! | file | how | why that is safe |
//! |---|---|---|
//! | snapshot, base of an append-only file | another name for it (hard link) | engines only replace them |
//! | rest of an append-only file | copied ahead, by the file system where it can (reflink), then its tail | it only grows |
//! | anything else | copied ahead, and again after the stop where it changed since | inode, size and times say so |
//!
//! The last act is a list of the files with their sizes; without it there is no pre-image.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use coffer_core::id::OperationId;
use rustix::fs::{AtFlags, CWD, Gid, OFlags, RenameFlags, StatxFlags, Uid, renameat_with};
use serde::{Deserialize, Serialize};

use super::{Error, File, Kind, Kinds, Paths, ensure_absent, list, open};

/// What a plain copy does a second, for estimates: what a slow disk does.
const BYTES_A_SECOND: u64 = 200_000_000;
const LIST: &str = "preimage.json";
/// How old a change must be for the next one to have another time.
const SETTLED_SECONDS: i64 = 2;

/// What taking a pre-image would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How, in a sentence.
    pub method: String,
    /// Of all that is kept, whether it takes room or not.
    pub bytes: u64,
    /// Most of it while the engine serves.
    pub millis: u64,
}

/// The pre-image of one operation, in `pre/<operation>/`.
#[derive(Clone, Debug)]
pub struct PreImage {
    dir: PathBuf,
    paths: Paths,
    kinds: Kinds,
}

/// What is in a complete pre-image.
#[derive(Serialize, Deserialize)]
struct List {
    files: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// From the pre-image's directory on: `data/...` or `conf/...`.
    path: PathBuf,
    size: u64,
}

impl PreImage {
    /// The pre-image of this operation, whether it is there or not.
    pub fn of(paths: &Paths, operation: OperationId, kinds: Kinds) -> Self {
        Self { dir: paths.pre.join(operation.to_string()), paths: paths.clone(), kinds }
    }

    /// What it would mean to take it now.
    pub fn estimate(paths: &Paths, kinds: Kinds) -> Result<Estimate, Error> {
        let files = list(&paths.data, kinds)?;
        let copied: u64 = files.iter().filter(|f| f.kind != Kind::Replaced).map(|f| f.size).sum();
        Ok(Estimate {
            method:
                "hard links for files that are only replaced; all others are copied while the engine serves, by the file \
                     system where it can, and what was written since after it has stopped"
                    .to_owned(),
            bytes: files.iter().map(|f| f.size).sum(),
            millis: copied * 1000 / BYTES_A_SECOND,
        })
    }

    /// Deals with what is large while the engine serves. Can be called again. Blocks.
    pub fn copy_ahead(&self) -> Result<(), Error> {
        if self.is_complete() {
            return Ok(());
        }
        self.ensure_dirs()?;
        for file in &list(&self.paths.data, self.kinds)? {
            match self.keep(&self.paths.data, "data", file) {
                // The engine has replaced it; the one that took its place is kept later.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Completes it. The engine must have ended. Can be called again. Returns the size of all that is in it in bytes.
    /// Blocks.
    pub fn complete(&self) -> Result<u64, Error> {
        if let Some(list) = self.read_list()? {
            return Ok(list.files.iter().map(|f| f.size).sum());
        }
        self.ensure_dirs()?;
        let mut kept = List { files: Vec::new() };
        for (part, dir) in self.parts() {
            let files = list(dir, self.kinds)?;
            // What was kept ahead and has gone since.
            for old in list(&self.dir.join(part), self.kinds)? {
                if !files.iter().any(|f| f.path == old.path) {
                    ensure_absent(&self.dir.join(part).join(&old.path))?;
                }
            }
            for file in &files {
                self.keep(dir, part, file)?;
                kept.files.push(Kept { path: Path::new(part).join(&file.path), size: file.size });
            }
        }
        let bytes = kept.files.iter().map(|f| f.size).sum();
        let new = self.dir.join("preimage.new");
        let file = fs_err::File::create(&new)?;
        serde_json::to_writer(&file, &kept).map_err(io::Error::from)?;
        file.sync_data()?;
        fs_err::rename(&new, self.dir.join(LIST))?;
        fs_err::File::open(&self.dir)?.sync_all()?;
        Ok(bytes)
    }

    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        self.dir.join(LIST).exists()
    }

    /// Puts data and configuration back as they were. No engine may run. Can be called again; without a complete
    /// pre-image it does nothing, since nothing was started on the data then. Takes no room and no time: the files get
    /// their old names back, and what the new engine made of them goes. Blocks.
    pub fn restore(&self) -> Result<(), Error> {
        let Some(list) = self.read_list()? else { return Ok(()) };
        for kept in &list.files {
            let path = self.dir.join(&kept.path);
            let size = fs_err::metadata(&path)?.len();
            if size < kept.size {
                let problem = format!("has {size} bytes of {} instead of {}", kept.path.display(), kept.size);
                return Err(Error::PreImage { path: self.dir.clone(), problem });
            }
        }
        for (part, dir) in self.parts() {
            let back = self.dir.join(format!("{part}.back"));
            ensure_absent(&back)?;
            ensure_like(&back, dir)?;
            for kept in list.files.iter().filter(|f| f.path.starts_with(part)) {
                let path = kept.path.strip_prefix(part).unwrap_or(&kept.path);
                if let Some(below) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    ensure_like(&back.join(below), dir)?;
                }
                fs_err::hard_link(self.dir.join(&kept.path), back.join(path))?;
            }
            // Both names change at once: there is no moment without data.
            renameat_with(CWD, &back, CWD, dir, RenameFlags::EXCHANGE).map_err(io::Error::from)?;
            ensure_absent(&back)?;
        }
        Ok(())
    }

    /// Removes it. Can be called again. Blocks.
    pub fn discard(&self) -> Result<(), Error> {
        // The list first: half a pre-image must not look like one.
        ensure_absent(&self.dir.join(LIST))?;
        Ok(ensure_absent(&self.dir)?)
    }

    fn parts(&self) -> [(&'static str, &PathBuf); 2] {
        [("data", &self.paths.data), ("conf", &self.paths.conf)]
    }

    fn read_list(&self) -> Result<Option<List>, Error> {
        match fs_err::read(self.dir.join(LIST)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(io::Error::from)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn ensure_dirs(&self) -> io::Result<()> {
        for dir in [&self.paths.pre, &self.dir] {
            ensure_private_dir(dir)?;
        }
        for (part, dir) in self.parts() {
            ensure_like(&self.dir.join(part), dir)?;
        }
        Ok(())
    }

    fn keep(&self, dir: &Path, part: &str, file: &File) -> io::Result<()> {
        let (from, to) = (dir.join(&file.path), self.dir.join(part).join(&file.path));
        if let (Some(below), Some(like)) = (to.parent(), from.parent()) {
            ensure_like(below, like)?;
        }
        match file.kind {
            Kind::Replaced => ensure_link(&from, &to, file.inode),
            Kind::Appended => ensure_copy(&from, &to),
            Kind::Other => ensure_fresh_copy(&from, &to),
        }
    }
}

fn ensure_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// A directory with the owner of another one.
fn ensure_like(dir: &Path, like: &Path) -> io::Result<()> {
    ensure_private_dir(dir)?;
    let like = fs_err::metadata(like)?;
    if fs_err::metadata(dir)?.uid() != like.uid() {
        rustix::fs::chown(dir, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())))?;
    }
    Ok(())
}

/// Another name for the file; a copy where the file system gives none.
fn ensure_link(from: &Path, to: &Path, inode: u64) -> io::Result<()> {
    if fs_err::symlink_metadata(to).is_ok_and(|m| m.ino() == inode) {
        return Ok(());
    }
    ensure_absent(to)?;
    match fs_err::hard_link(from, to) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => ensure_copy(from, to),
        other => other,
    }
}

/// A copy of a file that may change anywhere: it is made anew unless the file is what it was before its copy began.
fn ensure_fresh_copy(from: &Path, to: &Path) -> io::Result<()> {
    let now = rustix::fs::statx(CWD, from, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
    let (changed, seen) = (now.stx_mtime, rustix::time::clock_gettime(rustix::time::ClockId::Realtime));
    let is = format!("{} {} {}.{:09}", now.stx_ino, now.stx_size, changed.tv_sec, changed.tv_nsec);
    // A file that was just written may be written again without another time: such a copy is not trusted later.
    let settled = seen.tv_sec - changed.tv_sec > SETTLED_SECONDS;
    let marker = beside(to, "seen");
    if fs_err::read_to_string(&marker).is_ok_and(|was| was == is) && to.exists() {
        return Ok(());
    }
    ensure_absent(&marker)?;
    ensure_absent(&beside(to, "of"))?;
    ensure_absent(to)?;
    ensure_copy(from, to)?;
    if settled { fs_err::write(&marker, is) } else { Ok(()) }
}

/// A copy of a file that only grows: what lacks of it is added. Where the file was replaced since, it is begun anew.
fn ensure_copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = open(from, OFlags::RDONLY)?;
    let of = source.metadata()?;
    let marker = beside(to, "of");
    let is_of = fs_err::read_to_string(&marker).is_ok_and(|inode| inode == of.ino().to_string());
    if !is_of {
        ensure_absent(to)?;
        fs_err::write(&marker, of.ino().to_string())?;
    }
    let mut copy = open(to, OFlags::RDWR | OFlags::CREATE)?;
    let mut at = copy.metadata()?.len();
    if at > of.len() {
        copy.set_len(0)?;
        at = 0;
    }
    // The whole at once where the file system can share it; the rest of the way it is bytes.
    if at == 0 && of.len() > 0 && rustix::fs::ioctl_ficlone(&copy, &source).is_ok() {
        at = copy.metadata()?.len();
    }
    source.seek(SeekFrom::Start(at))?;
    copy.seek(SeekFrom::Start(at))?;
    io::copy(&mut source.take(of.len().saturating_sub(at)), &mut copy)?;
    rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(of.mode() & 0o777))?;
    if copy.metadata()?.uid() != of.uid() {
        rustix::fs::fchown(&copy, Some(Uid::from_raw(of.uid())), Some(Gid::from_raw(of.gid())))?;
    }
    copy.sync_data()
}

/// What is known of a copy, beside it and under a name that is never kept: `of` which file it is one, by inode; and how that one
/// was `seen` before the copy began, where that can be trusted.
fn beside(copy: &Path, what: &str) -> PathBuf {
    let name = copy.file_name().unwrap_or_default().to_string_lossy();
    copy.with_file_name(format!("temp-{what}-{name}"))
}
