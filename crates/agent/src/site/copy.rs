//! One file and its copy in a pre-image.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, OFlags, StatxFlags, Uid};

use super::differences::{all_threads, mend};
use super::{ensure_absent, open};

/// How old a change must be for the next one to have another time.
const SETTLED_SECONDS: i64 = 2;

/// How a copy is made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// While clients are served: by one thread, and it goes to the disk with all others.
    Ahead,
    /// While nobody is: as fast as it can be, and to the disk at once.
    Each,
    /// The same, but to the disk with all others: thousands of small files are waited for once.
    Together,
}

/// A file, its copy, and what is known of that: which file it is one `of` ([`identity`]); and how that one was `seen` before the copy
/// began, where that can be trusted.
pub(super) struct Copy {
    pub(super) from: PathBuf,
    pub(super) to: PathBuf,
    pub(super) of: PathBuf,
    pub(super) seen: PathBuf,
}

impl Copy {
    /// Another name for the file; a copy where the file system gives none.
    pub(super) fn ensure_link(&self, inode: u64, pace: Pace) -> io::Result<()> {
        if fs_err::symlink_metadata(&self.to).is_ok_and(|m| m.ino() == inode) {
            return Ok(());
        }
        ensure_absent(&self.to)?;
        match fs_err::hard_link(&self.from, &self.to) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => self.ensure_grown(pace),
            other => other,
        }
    }

    /// How the file looks, and whether the next change will be seen by that.
    fn look(&self) -> io::Result<(String, bool)> {
        let now = rustix::fs::statx(CWD, &self.from, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        let (changed, seen) = (now.stx_mtime, rustix::time::clock_gettime(rustix::time::ClockId::Realtime));
        let is = format!("{} {} {}.{:09}", now.stx_ino, now.stx_size, changed.tv_sec, changed.tv_nsec);
        // A file that was just written may be written again without another time: such a copy is not trusted later.
        Ok((is, seen.tv_sec - changed.tv_sec > SETTLED_SECONDS))
    }

    /// Whether the file is what it was before its copy began.
    pub(super) fn is_fresh(&self) -> io::Result<bool> {
        let (is, _) = self.look()?;
        Ok(fs_err::read_to_string(&self.seen).is_ok_and(|was| was == is) && self.to.exists())
    }

    /// A copy of a file that may change anywhere: unless it is fresh, it is made the same, or made. Gives how the file looked, if
    /// the copy can be trusted by that.
    pub(super) fn ensure_fresh(&self, pace: Pace) -> io::Result<Option<String>> {
        let (is, settled) = self.look()?;
        if self.is_fresh()? {
            return Ok(None);
        }
        ensure_absent(&self.seen)?;
        // One that has another name, too, is somebody's data by now.
        if fs_err::symlink_metadata(&self.to).is_ok_and(|old| old.nlink() > 1) {
            ensure_absent(&self.to)?;
        }
        let source = open(&self.from, OFlags::RDONLY)?;
        if self.to.exists() {
            let copy = open(&self.to, OFlags::RDWR)?;
            if !shares(&copy, &source)? {
                let threads = if pace == Pace::Ahead { NonZeroUsize::MIN } else { all_threads() };
                mend(&source, &copy, threads)?;
            }
        }
        self.copy_rest(&source, pace)?;
        Ok(settled.then_some(is))
    }

    /// A copy of a file that only grows: what lacks of it is added. Where the file was replaced since, it is begun anew.
    pub(super) fn ensure_grown(&self, pace: Pace) -> io::Result<()> {
        let source = open(&self.from, OFlags::RDONLY)?;
        let is = identity(&source)?;
        if fs_err::read_to_string(&self.of).is_ok_and(|of| of == is) {
            return self.copy_rest(&source, pace);
        }
        ensure_absent(&self.to)?;
        note(&self.of, &is)?;
        self.copy_rest(&source, pace)
    }

    /// Adds what the copy lacks at its end.
    fn copy_rest(&self, mut source: &std::fs::File, pace: Pace) -> io::Result<()> {
        let of = source.metadata()?;
        let mut copy = open(&self.to, OFlags::RDWR | OFlags::CREATE)?;
        let mut at = copy.metadata()?.len();
        if at > of.len() {
            copy.set_len(0)?;
            at = 0;
        }
        // The whole at once where the file system can share it; the rest of the way it is bytes.
        if at == 0 && of.len() > 0 && rustix::fs::ioctl_ficlone(&copy, source).is_ok() {
            at = copy.metadata()?.len();
        }
        source.seek(SeekFrom::Start(at))?;
        copy.seek(SeekFrom::Start(at))?;
        io::copy(&mut source.take(of.len().saturating_sub(at)), &mut copy)?;
        rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(of.mode() & 0o777))?;
        if copy.metadata()?.uid() != of.uid() {
            rustix::fs::fchown(&copy, Some(Uid::from_raw(of.uid())), Some(Gid::from_raw(of.gid())))?;
        }
        match pace {
            Pace::Each => copy.sync_data(),
            Pace::Ahead | Pace::Together => Ok(()),
        }
    }
}

/// Which file it is, also where another one has got its inode since; and since which start of the machine, because after a power cut
/// a copy that was not flushed may have its length without its contents.
fn identity(file: &std::fs::File) -> io::Result<String> {
    let is = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)?;
    let (born, boot) = (is.stx_btime, fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?);
    Ok(format!("{} {}.{:09} {}", is.stx_ino, born.tv_sec, born.tv_nsec, boot.trim_end()))
}

/// Makes the copy share all blocks of the file, where the file system can.
fn shares(copy: &std::fs::File, file: &std::fs::File) -> io::Result<bool> {
    let size = file.metadata()?.len();
    if size == 0 || rustix::fs::ioctl_ficlone(copy, file).is_err() {
        return Ok(false);
    }
    // What it had beyond that.
    copy.set_len(size)?;
    Ok(true)
}

/// Writes down what is known of a copy. Never among the copies: engines may call their files anything.
pub(super) fn note(path: &Path, text: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs_err::create_dir_all(dir)?;
    }
    fs_err::write(path, text)
}

#[cfg(test)]
mod tests {
    use super::{Copy, Pace};

    #[test]
    fn a_copy_of_before_the_last_start_of_the_machine_is_not_trusted() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let copy = Copy { from: path("file"), to: path("copy"), of: path("of"), seen: path("seen") };
        let read = || fs_err::read(&copy.to).expect("a copy");
        fs_err::write(&copy.from, "all of it").expect("a file");
        copy.ensure_grown(Pace::Each).expect("a copy");
        fs_err::write(&copy.from, "all of it, and more").expect("it grows");
        copy.ensure_grown(Pace::Each).expect("what lacks");
        assert_eq!(read(), b"all of it, and more");
        // What a power cut leaves of one that was not flushed, and what was noted then.
        fs_err::write(&copy.to, [0; 19]).expect("its length");
        let note = fs_err::read_to_string(&copy.of).expect("a note");
        let (file, _boot) = note.rsplit_once(' ').expect("with the start of the machine");
        fs_err::write(&copy.of, format!("{file} 00000000-0000-0000-0000-000000000000")).expect("a note");
        copy.ensure_grown(Pace::Each).expect("another copy");
        assert_eq!(read(), b"all of it, and more");
    }
}
