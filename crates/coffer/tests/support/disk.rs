//! A disk of a world's own: an ext4 in a file, that can be filled, slowed down, and cut off from its power. For root.

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The file system is gone at once, and what it had not written with it.
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d;
const WITHOUT_FLUSHING_THE_JOURNAL: u32 = 2;
/// Whoever writes waits, until it thaws.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;
const FITHAW: libc::Ioctl = 0xc004_5878_u32 as libc::Ioctl;

/// How long a slow disk stands still, and moves, in turns.
const STANDS: Duration = Duration::from_millis(150);
const MOVES: Duration = Duration::from_millis(10);

/// A file system with a directory of another one in it.
#[derive(Debug)]
pub(crate) struct Disk {
    image: PathBuf,
    at: PathBuf,
    /// Seen below `at` under its own name, and never lost.
    kept: PathBuf,
    /// Which of its two names the image has.
    turn: bool,
}

impl Disk {
    /// Makes one of so many MiB, which it takes only as they are used, and mounts it. `kept` is to be seen in it. `None` where
    /// that may not be done. The file is in the directory `COFFER_TEST_DISKS`, else beside `at`: in memory a flush is quick, and
    /// what was not flushed is lost all the same.
    pub(crate) fn make(at: &Path, mib: u32, kept: &Path) -> Option<Self> {
        let image = match (std::env::var_os("COFFER_TEST_DISKS"), at.file_name()) {
            (Some(disks), Some(name)) => Path::new(&disks).join(name).with_extension("img"),
            _ => at.with_extension("img"),
        };
        let disk = Self { image, at: at.to_owned(), kept: kept.to_owned(), turn: false };
        let image = fs_err::File::create(&disk.image).ok()?;
        image.set_len(u64::from(mib) << 20).ok()?;
        let options = ["-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"];
        let made = Command::new("mkfs.ext4").args(options).arg(&disk.image).output();
        (made.is_ok_and(|output| output.status.success()) && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        let mounted = mount(&["-o", "loop,noatime"], &self.image, &self.at);
        let inside = self.inside();
        mounted
            && fs_err::set_permissions(&self.at, std::fs::Permissions::from_mode(0o711)).is_ok()
            && fs_err::create_dir_all(&inside).is_ok()
            && mount(&["--bind"], &self.kept, &inside)
    }

    fn inside(&self) -> PathBuf {
        self.at.join("engines")
    }

    /// Takes all the room there is, until this is dropped.
    pub(crate) fn fill(&self) -> Ballast {
        let path = self.at.join("ballast");
        let mut file = fs_err::File::create(&path).expect("a file");
        let mut end = 0;
        loop {
            let state = statvfs(&self.at).expect("a file system");
            let left = state.f_bavail * state.f_frsize;
            // Less than is said to be there may be had: it needs blocks of its own.
            let mut take = left.max(state.f_frsize);
            while take >= state.f_frsize && fallocate(&file, FallocateFlags::empty(), end, take).is_err() {
                take = take / 2 / state.f_frsize * state.f_frsize;
            }
            if take < state.f_frsize {
                break;
            }
            end += take;
        }
        let _ = std::io::Write::flush(&mut file);
        Ballast(path)
    }

    /// Gives back the room that nothing on it takes any more. Not as it becomes free: what a power cut brings back would be gone.
    pub(crate) fn trim(&self) {
        let _ = Command::new("fstrim").arg(&self.at).output();
    }

    /// Slows it down for so long.
    pub(crate) fn slow(&self, time: Duration) -> std::thread::JoinHandle<()> {
        let at = self.at.clone();
        std::thread::spawn(move || {
            let root = fs_err::File::open(at).expect("a file system");
            let until = Instant::now() + time;
            while Instant::now() < until {
                for (request, pause) in [(FIFREEZE, STANDS), (FITHAW, MOVES)] {
                    let mut nothing = 0_u32;
                    order(&root, request, &mut nothing).expect("a file system that can be frozen");
                    std::thread::sleep(pause);
                }
            }
        })
    }

    /// Cuts its power off. Whoever uses it gets errors from now on.
    pub(crate) fn cut(&self) {
        let root = fs_err::File::open(&self.at).expect("a file system");
        let mut how = WITHOUT_FLUSHING_THE_JOURNAL;
        order(&root, EXT4_IOC_SHUTDOWN, &mut how).expect("a file system that can be shut down");
    }

    /// Gives it power again: what is on it is on another one from now on. Nobody uses it.
    pub(crate) fn again(&mut self) {
        self.unmount();
        // Whoever has made a namespace meanwhile keeps the old one, which writes nothing any more.
        let new = self.image.with_extension(if self.turn { "img" } else { "disk" });
        let old = std::mem::replace(&mut self.image, new);
        self.turn = !self.turn;
        let copied = Command::new("cp").arg("--sparse=always").args([&old, &self.image]).output();
        assert!(copied.is_ok_and(|output| output.status.success()), "the disk cannot be copied");
        let _ = fs_err::remove_file(old);
        assert!(self.mount(), "the disk cannot be mounted again");
    }

    fn unmount(&self) {
        for at in [self.inside(), self.at.clone()] {
            let _ = Command::new("umount").arg("--lazy").arg(at).output();
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
        let _ = fs_err::remove_file(&self.image);
    }
}

/// What takes the room on a disk.
#[derive(Debug)]
pub(crate) struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs_err::remove_file(&self.0);
    }
}

fn mount(options: &[&str], what: &Path, at: &Path) -> bool {
    Command::new("mount").args(options).arg(what).arg(at).output().is_ok_and(|output| output.status.success())
}

#[allow(unsafe_code, reason = "no library here offers these")]
fn order(file: &fs_err::File, request: libc::Ioctl, argument: &mut u32) -> std::io::Result<()> {
    // SAFETY: each of the requests reads one 32 bit number at most, from a variable that outlives the call.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if done == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
