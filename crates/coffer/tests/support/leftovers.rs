//! The processes of a world, and what is left of it at its end.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use super::world::{PATIENCE, kill};

/// Who holds the lock file: what stands in it, if that is still the same process.
pub(super) fn holder(lock: &Path) -> Option<u32> {
    let holder: Value = serde_json::from_slice(&fs_err::read(lock).ok()?).ok()?;
    let pid = u32::try_from(holder["pid"].as_u64()?).ok()?;
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let same = fields.get(19)?.parse::<u64>().ok()? == holder["start_ticks"].as_u64()?;
    (same && !has_ended(pid)).then_some(pid)
}

/// Whether all of a process has ended. Its first thread may be a zombie while others still have its sockets and its locks.
pub(crate) fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&now)).is_ok_and(|ended| ended > 0)
}

/// All that there are.
pub(super) fn processes() -> impl Iterator<Item = u32> {
    let entries = fs_err::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether something of this path is mounted before the process: engines see nothing else of their volume.
pub(super) fn sees(pid: u32, path: &str) -> bool {
    let mounts = fs_err::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    mounts.split_ascii_whitespace().any(|word| word.ends_with(path))
}

/// Ends every agent and engine of the instances in this data directory, and removes their control groups.
pub(super) fn end_all_of(data: &Path) {
    let ids: Vec<_> = fs_err::read_dir(data.join("instances"))
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    for id in ids {
        let volume = data.join("instances").join(&id);
        let is_agent = |pid: u32| {
            let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == volume.as_os_str().as_encoded_bytes())
        };
        let part = format!("/{id}/");
        let has_part = |pid: u32| {
            fs_err::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| mounts.contains(&part))
        };
        let is_keeper =
            |pid: u32| fs_err::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&volume));
        // The agents first: they would start again what ends.
        let left: [&dyn Fn(u32) -> bool; 3] = [&is_agent, &has_part, &is_keeper];
        for of in left {
            let deadline = Instant::now() + PATIENCE;
            loop {
                let living: Vec<_> = processes().filter(|pid| of(*pid)).collect();
                if living.is_empty() || Instant::now() > deadline {
                    break;
                }
                living.into_iter().for_each(kill);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let hierarchies = fs_err::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies {
            let _ = fs_err::remove_dir(hierarchy.path().join("coffer").join(&id));
        }
        let _ = fs_err::remove_dir(Path::new("/sys/fs/cgroup/coffer").join(&id));
    }
}

/// Removes the directory of a world, with what is mounted there.
pub(super) fn remove(directory: &Path) {
    // File systems that `ensure_disk` and `Disk` made.
    for disk in [directory.join("instances"), directory.join("engines"), directory.to_owned()] {
        let mounts = fs_err::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.split_ascii_whitespace().any(|word| Path::new(word) == disk) {
            let _ = Command::new("umount").arg("--lazy").arg(disk).status();
        }
    }
    for image in ["img", "disk"] {
        let _ = fs_err::remove_file(directory.with_extension(image));
    }
    for directory in [directory.to_owned(), directory.with_extension("engines")] {
        match fs_err::remove_dir_all(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => println!("{error}"),
            _ => {}
        }
    }
}
