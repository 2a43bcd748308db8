//! What kind of host this is.

use coffer_core::gap::Host;

/// The class of this host: what the kernel shows, not what a control group leaves of it.
pub(crate) fn host() -> Host {
    let seen = rustix::system::sysinfo();
    let memory = seen.totalram * u64::from(seen.mem_unit);
    // The kernel keeps some for itself, and a host of 24 GiB is to be one.
    let memory_gib = u32::try_from(memory.div_ceil(1 << 30)).unwrap_or(u32::MAX);
    let processors = std::thread::available_parallelism().map_or(1, |all| u32::try_from(all.get()).unwrap_or(u32::MAX));
    Host { arch: std::env::consts::ARCH.to_owned(), processors, memory_gib }
}
