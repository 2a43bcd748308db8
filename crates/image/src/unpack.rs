//! Unpacking tar archives into a directory that they cannot leave.
//!
//! Archives are laid by strangers. Every path is looked up by the kernel with the directory as its root (`openat2` with
//! `RESOLVE_IN_ROOT`), so that a symbolic link, absolute or with `..`, ends inside however it was planted. Modes are
//! reduced to 0755 and 0644 (an engine root is read by unprivileged users and written by nobody), owners are dropped,
//! and device nodes, sockets and pipes are left out.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::error::{Error, Result};

/// The prefix by which a layer says that a lower layer's file is gone.
const WHITEOUT: &[u8] = b".wh.";
/// The file by which a layer says that nothing of a lower layer's directory is left.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Entries of one archive; the largest engine image known has a tenth of it.
const ENTRY_LIMIT: usize = 500_000;

/// How archives are laid over each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Layers of an OCI image: whiteouts remove, a directory replaces a link.
    Layers,
    /// Debian packages and plain roots: a directory keeps a link to a directory (`/lib` -> `usr/lib`) and goes through it.
    Packages,
}

/// Unpacks archives, one after the other, into one directory.
pub(crate) struct Unpacker {
    root: OwnedFd,
    rule: Rule,
    limit: u64,
    left: u64,
}

impl Unpacker {
    /// Archives will be unpacked into the existing directory `root`; together they may have `limit` bytes.
    pub(crate) fn new(root: &Path, rule: Rule, limit: u64) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { root: rustix::fs::openat(CWD, root, flags, Mode::empty())?, rule, limit, left: limit })
    }

    /// Unpacks one archive, plain or compressed with gzip or zstd, and reads it to its end.
    pub(crate) fn unpack(&mut self, archive: impl Read) -> Result<()> {
        let mut capped = Capped { inner: decoded(archive)?, left: self.left, exceeded: false };
        let outcome = self.unpack_entries(&mut capped);
        self.left = capped.left;
        if capped.exceeded {
            return Err(Error::TooLarge { what: "an unpacked image".to_owned(), limit: self.limit });
        }
        outcome
    }

    fn unpack_entries(&self, archive: &mut impl Read) -> Result<()> {
        let mut laid = HashSet::new();
        let mut tar = tar::Archive::new(&mut *archive);
        for entry in tar.entries()? {
            let mut entry = entry?;
            let path = plain_path(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            let Some(name) = path.file_name().map(OsStr::to_owned) else {
                continue;
            };
            let parent = self.ensure_directory(path.parent().unwrap_or(Path::new("")))?;
            if laid.len() == ENTRY_LIMIT {
                return Err(Error::TooLarge {
                    what: "the number of files in a layer".to_owned(),
                    limit: ENTRY_LIMIT as u64,
                });
            }
            if self.rule == Rule::Layers && name.as_bytes().starts_with(WHITEOUT) {
                white_out(&parent, &path, name.as_bytes(), &laid)?;
                continue;
            }
            match kind {
                EntryType::Directory => self.make_directory(&parent, &path, &name)?,
                EntryType::Regular | EntryType::Continuous => {
                    remove(&parent, &name)?;
                    let mode = file_mode(entry.header().mode()?);
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let file = rustix::fs::openat(&parent, &name, flags, mode)?;
                    // The process's umask must not decide who can read an engine root.
                    rustix::fs::fchmod(&file, mode)?;
                    io::copy(&mut entry, &mut std::fs::File::from(file))?;
                }
                EntryType::Symlink => {
                    let target = link_name(&entry, &path)?;
                    remove(&parent, &name)?;
                    rustix::fs::symlinkat(&target, &parent, &name)?;
                }
                EntryType::Link => {
                    let target = plain_path(link_name(&entry, &path)?.as_os_str().as_bytes())?;
                    self.hard_link(&target, &parent, &path, &name)?;
                }
                // A few bytes of archive could become any number of bytes on disk.
                EntryType::GNUSparse => return Err(refused(&path, "it is a sparse file")),
                // Devices, pipes, and headers that concern the whole archive: nothing that an engine root needs.
                _ => continue,
            }
            laid.insert(path);
        }
        // What follows the last entry still belongs to the archive and to its digest.
        io::copy(archive, &mut io::sink())?;
        Ok(())
    }

    fn make_directory(&self, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<()> {
        let mode = Mode::from_raw_mode(0o755);
        match file_type(parent, name)? {
            Some(FileType::Directory) => return Ok(()),
            Some(FileType::Symlink) if self.rule == Rule::Packages => {
                if self.open_directory(path).is_ok() {
                    return Ok(());
                }
                return Err(refused(path, "a directory would replace a link that leads nowhere"));
            }
            Some(_) => remove(parent, name)?,
            None => {}
        }
        rustix::fs::mkdirat(parent, name, mode)?;
        Ok(rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?)
    }

    fn hard_link(&self, target: &Path, parent: &OwnedFd, path: &Path, name: &OsStr) -> Result<()> {
        let Some(target_name) = target.file_name() else {
            return Err(refused(path, "a hard link to the root"));
        };
        let missing = |_| refused(path, "a hard link to a file that the archive does not have");
        let from = self.open_directory(target.parent().unwrap_or(Path::new(""))).map_err(missing)?;
        match file_type(&from, target_name)? {
            Some(FileType::RegularFile | FileType::Symlink) => {}
            _ => return Err(refused(path, "a hard link to something that is no file")),
        }
        if path != target {
            remove(parent, name)?;
            rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())?;
        }
        Ok(())
    }

    /// Opens `path`, making the directories that are missing, inside the root.
    fn ensure_directory(&self, path: &Path) -> Result<OwnedFd> {
        match self.open_directory(path) {
            Ok(directory) => return Ok(directory),
            Err(Errno::NOENT) => {}
            Err(_) => return Err(refused(path, "its path goes through something that is no directory")),
        }
        let mut reached = PathBuf::new();
        for name in path {
            let parent = self.open_directory(&reached)?;
            reached.push(name);
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.open_directory(path).map_err(|_| refused(path, "its path goes through a link that leads nowhere"))
    }

    fn open_directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        open_inside(&self.root, path, OFlags::PATH | OFlags::DIRECTORY)
    }
}

/// Opens `path` as a process whose root directory is `root` would, whatever links lie on the way.
pub(crate) fn open_inside(root: impl std::os::fd::AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let root: BorrowedFd<'_> = root.as_fd();
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut attempt = 0;
    loop {
        let outcome = rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        attempt += 1;
        // The kernel answers so when something else on the machine was renamed during a look-up with "..".
        if outcome.as_ref().err() != Some(&Errno::AGAIN) || attempt == 128 {
            return outcome;
        }
    }
}

/// The stream without its compression, told by its first bytes: media types are not always true.
fn decoded<'a>(archive: impl Read + 'a) -> Result<Box<dyn Read + 'a>> {
    let mut archive = BufReader::with_capacity(128 << 10, archive);
    let start = archive.fill_buf()?;
    Ok(if start.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(archive))
    } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::stream::Decoder::with_buffer(archive)?)
    } else {
        Box::new(archive)
    })
}

/// A reader that ends with an error when more than its share was read, so that no archive fills a disk.
struct Capped<R> {
    inner: R,
    left: u64,
    exceeded: bool,
}

impl<R: Read> Read for Capped<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if n as u64 > self.left {
            self.exceeded = true;
            return Err(io::Error::other("the limit is reached"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// The path of an entry as names below the root.
fn plain_path(bytes: &[u8]) -> Result<PathBuf> {
    let given = Path::new(OsStr::from_bytes(bytes));
    let mut path = PathBuf::new();
    for component in given.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(refused(given, "its path has `..` in it"));
            }
        }
    }
    Ok(path)
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> Result<PathBuf> {
    match entry.link_name_bytes() {
        Some(bytes) if !bytes.is_empty() => Ok(PathBuf::from(OsStr::from_bytes(&bytes))),
        _ => Err(refused(path, "a link without a target")),
    }
}

fn white_out(parent: &OwnedFd, path: &Path, name: &[u8], laid: &HashSet<PathBuf>) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new(""));
    if name != OPAQUE {
        let gone = OsStr::from_bytes(&name[WHITEOUT.len()..]);
        if gone.is_empty() || gone == "." || gone == ".." {
            return Err(refused(path, "a whiteout without a name"));
        }
        // A whiteout speaks of the layers below, not of its own.
        return if laid.contains(&directory.join(gone)) { Ok(()) } else { remove(parent, gone) };
    }
    let listing =
        rustix::fs::openat(parent, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let entries: Vec<_> = rustix::fs::Dir::new(listing)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let child = OsStr::from_bytes(entry.file_name().to_bytes());
        let kept = laid.iter().any(|p| p.starts_with(directory.join(child)));
        if child != "." && child != ".." && !kept {
            remove(parent, child)?;
        }
    }
    Ok(())
}

/// Removes whatever lies at `name`, without following it; nothing there is fine.
fn remove(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    match file_type(parent, name)? {
        None => Ok(()),
        Some(FileType::Directory) => {
            let here = PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
            Ok(fs_err::remove_dir_all(here.join(name))?)
        }
        Some(_) => Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?),
    }
}

fn file_type(parent: &OwnedFd, name: &OsStr) -> Result<Option<FileType>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// 0755 for programs, 0644 for everything else: no set-user-id, nothing that only its owner can read.
fn file_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(if mode & 0o111 == 0 { 0o644 } else { 0o755 })
}

fn refused(path: &Path, reason: &'static str) -> Error {
    Error::UnsafeEntry { path: path.to_owned(), reason }
}
