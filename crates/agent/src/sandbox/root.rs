//! The engine's view of the file system.
//!
//! ```text
//! /           overlay of two read-only layers: a skeleton that has just the mount points, and the engine root
//! /proc       of the engine's own pid namespace
//! /dev        null, zero, random, urandom; shm
//! /tmp        empty, in memory
//! <target>    the binds
//! ```
//!
//! Why an overlay: a bind needs a directory to be mounted on, engine roots are shared and never written to, and images don't
//! know our paths. Every directory on the way to a mount point is a real one of the skeleton, so that no symbolic link of an
//! image can lead a mount out to the host.

use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, mount_remount,
    move_mount, open_tree, unmount,
};
use rustix::process::{chdir, pivot_root};

use super::init::Failure;
use super::{Launch, Step};

const DEVICES: [&str; 4] = ["null", "zero", "random", "urandom"];
const SKELETON: &str = "skeleton";
const VIEW: &str = "view";

/// A mount that hangs nowhere yet, and where it belongs, relative to the engine's root.
struct Detached {
    tree: OwnedFd,
    target: PathBuf,
    is_directory: bool,
}

/// Makes the engine's view the root of this process and lets go of the host's. The mount namespace must be the caller's own,
/// and the caller the first of its pid namespace.
pub(super) fn enter(launch: &Launch) -> Result<(), Failure> {
    let at_root = |e: Errno| Failure::at(Step::Root, &launch.root)(e);
    // Nothing that is mounted from here on may reach the host.
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).map_err(at_root)?;
    // Both are taken before the stage below hides the directory.
    let lower =
        open(&launch.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(at_root)?;
    let binds = detach_all(launch)?;

    // The stage for the new root has to be mounted somewhere; the engine root is a directory that surely exists.
    mount("coffer", &launch.root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755,size=1m")
        .map_err(at_root)?;
    chdir(&launch.root).map_err(at_root)?;
    build_skeleton(&binds).map_err(Failure::at(Step::Root, &launch.root))?;
    mount_view(&lower).map_err(at_root)?;
    for bind in &binds {
        move_mount(&bind.tree, "", CWD, &bind.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(Failure::at(Step::Bind, Path::new("/").join(&bind.target)))?;
    }
    seal().map_err(at_root)
}

/// Takes everything of the host that the engine gets, before the host is out of sight.
fn detach_all(launch: &Launch) -> Result<Vec<Detached>, Failure> {
    let mut all = Vec::new();
    for bind in &launch.binds {
        let target = below_root(&bind.target).map_err(Failure::at(Step::Bind, &bind.target))?;
        let take = || -> Result<Detached, Errno> {
            let taken = detach(&bind.source, target)?;
            let read_only = if bind.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
            restrict(&taken.tree, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only)?;
            Ok(taken)
        };
        all.push(take().map_err(Failure::at(Step::Bind, &bind.source))?);
    }
    for device in DEVICES {
        let source = Path::new("/dev").join(device);
        let target = PathBuf::from("dev").join(device);
        all.push(detach(&source, target).map_err(Failure::at(Step::Bind, &source))?);
    }
    Ok(all)
}

fn detach(source: &Path, target: PathBuf) -> Result<Detached, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    // An ordinary user may not take a directory without what is mounted below it: that could uncover what was hidden.
    let tree = open_tree(CWD, source, flags | OpenTreeFlags::AT_RECURSIVE)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
    Ok(Detached { tree, target, is_directory: kind.is_dir() })
}

/// An absolute path without detours, relative to the root.
fn below_root(path: &Path) -> Result<PathBuf, Errno> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(Errno::INVAL);
    }
    let rest = components.as_path();
    let plain = rest.components().all(|part| matches!(part, Component::Normal(_)));
    if plain && rest.components().next().is_some() { Ok(rest.to_owned()) } else { Err(Errno::INVAL) }
}

/// Makes every mount point that is not on one of our own file systems.
fn build_skeleton(binds: &[Detached]) -> std::io::Result<()> {
    let mut directories = std::fs::DirBuilder::new();
    directories.recursive(true).mode(0o755);
    let skeleton = Path::new(SKELETON);
    directories.create(VIEW)?;
    for own in ["proc", "dev", "tmp"] {
        directories.create(skeleton.join(own))?;
    }
    for bind in binds.iter().filter(|bind| !bind.target.starts_with("dev")) {
        let point = skeleton.join(&bind.target);
        if bind.is_directory {
            directories.create(&point)?;
        } else {
            if let Some(parent) = point.parent() {
                directories.create(parent)?;
            }
            fs_err::File::create(&point)?;
        }
    }
    Ok(())
}

/// Mounts the view and everything on it that is not of the host, and goes there.
fn mount_view(lower: &OwnedFd) -> Result<(), Errno> {
    let private = MountFlags::NOSUID | MountFlags::NODEV;
    // By number: a path could hold the colons and commas of this very option.
    let mut layers = String::new();
    let _ = write!(layers, "lowerdir={SKELETON}:/proc/self/fd/{}", lower.as_fd().as_raw_fd());
    let layers = std::ffi::CString::new(layers).map_err(|_| Errno::INVAL)?;
    mount("coffer", VIEW, "overlay", private | MountFlags::RDONLY, layers.as_c_str())?;
    chdir(VIEW)?;
    mount("proc", "proc", "proc", private | MountFlags::NOEXEC, None)?;
    mount("tmpfs", "tmp", "tmpfs", private, c"mode=1777,size=64m")?;
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", "dev", "tmpfs", devices, c"mode=0755,size=64k")?;
    for device in DEVICES {
        open(
            Path::new("dev").join(device),
            OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o444),
        )?;
    }
    rustix::fs::mkdir("dev/shm", Mode::from_raw_mode(0o1777))?;
    mount("tmpfs", "dev/shm", "tmpfs", private | MountFlags::NOEXEC, c"mode=1777,size=64m")?;
    mount_remount("dev", devices | MountFlags::BIND | MountFlags::RDONLY, "")
}

/// Makes the current directory the root, and the host's unreachable.
fn seal() -> Result<(), Errno> {
    // The old root comes to lie on the new one, at the same place, and goes from there.
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")
}

/// Restricts a mount and all below it. Other restrictions that it has stay.
#[allow(unsafe_code, reason = "rustix has no mount_setattr")]
fn restrict(tree: &OwnedFd, attributes: u64) -> Result<(), Errno> {
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a literal and the struct lives and has its own size; both are only read.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}
