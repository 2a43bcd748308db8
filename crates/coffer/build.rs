//! How the program is linked.

use std::process::Command;

/// The first version of glibc that reads relative relocations where they are packed.
const READS_PACKED: (u32, u32) = (2, 36);

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Unpacked they are 0.7 MB, which every process reads at its start and keeps. A program with packed ones does not start
    // on an older glibc, so this asks the one of this machine, and leaves programs for another alone.
    if std::env::var("HOST") == std::env::var("TARGET") && glibc().is_some_and(|version| version >= READS_PACKED) {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's glibc, if it has one.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(said.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
