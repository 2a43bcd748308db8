//! What kind of host this is.

use coffer_core::gap::Host;

/// The class of this host: what the kernel shows, not what a control group leaves of it.
pub(crate) fn host() -> Host {
    let seen = rustix::system::sysinfo();
    let memory = u64::from(seen.totalram) * u64::from(seen.mem_unit);
    // The kernel keeps some for itself, and a host of 24 GiB is to be one.
    let memory_gib = u32::try_from(memory.div_ceil(1 << 30)).unwrap_or(u32::MAX);
    let processors = rustix::param::online_processors();
    Host { arch: std::env::consts::ARCH.to_owned(), processors, memory_gib }
}
