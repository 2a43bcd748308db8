//! What the kernel says of a process.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// How many milliseconds one tick of `/proc/PID/stat` is: `USER_HZ` is 100 on every Linux that Rust runs on.
const TICK_MS: f64 = 10.0;

/// The processor time that a process has taken, all its threads together, in milliseconds. To 10 ms.
pub(crate) fn cpu_ms(pid: u32) -> Result<f64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    // Counted after the program's name, which may hold anything.
    let fields: Vec<_> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace().collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|ticks: &&str| ticks.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("no times in {stat:?}"))?;
    Ok((user + system) * TICK_MS)
}

/// How much memory a process has, in millions of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What is resident, shared pages and all.
    pub rss: f64,
    /// As `rss`, but of what is shared with other processes only its part. Where the kernel tells it.
    pub pss: Option<f64>,
}

/// How much memory a process has now.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = megabytes(&status, "VmRSS:").with_context(|| format!("process {pid} has no VmRSS"))?;
    let rollup = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    Ok(Memory { rss, pss: megabytes(&rollup, "Pss:") })
}

fn megabytes(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: f64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

/// The process with this argument, such as the agent of a volume.
pub(crate) fn with_argument(argument: &Path) -> Option<u32> {
    let wanted = argument.as_os_str().as_encoded_bytes();
    all().find(|pid| {
        let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == wanted)
    })
}

/// The process before which the directory that ends like this is mounted, such as the engine of a volume.
pub(crate) fn with_mount(directory: &str) -> Option<u32> {
    all().find(|pid| {
        let mounts = fs_err::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        mounts.split_ascii_whitespace().any(|word| word.ends_with(directory))
    })
}

/// Keeps all threads of a process on one processor.
pub(crate) fn pin(pid: u32, processor: &str) -> Result<()> {
    let status = Command::new("taskset").args(["-acp", processor, &pid.to_string()]).stdout(Stdio::null()).status();
    if !status.context("taskset is not there; hint: apt-get install util-linux")?.success() {
        bail!("process {pid} cannot be kept on processor {processor}");
    }
    Ok(())
}

/// Ends every process that has a file below this directory open or was told of it: those that a broken off run would
/// leave behind. There are none after one that went well.
pub(crate) fn end_all_of(directory: &Path) {
    let is_ours = |pid: &u32| {
        let open = fs_err::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let told = || {
            let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|word| PathBuf::from(String::from_utf8_lossy(word).as_ref()).starts_with(directory))
        };
        *pid != std::process::id()
            && (open.filter_map(|fd| fs_err::read_link(fd.path()).ok()).any(|file| file.starts_with(directory))
                || told())
    };
    for pid in all().filter(is_ours) {
        signal(pid, "KILL");
    }
}

/// Sends a signal. A process that is gone needs none.
pub(crate) fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).stderr(Stdio::null()).status();
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs_err::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
}
