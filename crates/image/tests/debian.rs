//! Engine roots out of Debian packages, from this machine's mirror.
//!
//! Engines are fetched into a store that the tests of all crates share: `COFFER_TEST_CACHE`, or `engine-cache` in the
//! target directory.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use coffer_image::{Catalogue, Image, Release, Store};
use fs_err as fs;
use support::{scratch, silent};

fn cache() -> PathBuf {
    std::env::var_os("COFFER_TEST_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("engine-cache"), PathBuf::from)
}

/// A release of the shipped catalogue, from Debian only.
fn shipped(datastore: &str, version: &str) -> Release {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engines/catalogue.toml");
    let mut release = Catalogue::load(&path).unwrap().find(datastore, version).unwrap().clone();
    release.sources.retain(|source| source.kind() == "debian");
    release
}

/// A program of few packages that says a number, in the suite of this machine.
fn small(directory: &Path, suites: &str, package: &str) -> Release {
    let text = format!(
        "[[release]]\ndatastore = \"bash\"\nversion = \"5\"\nbinary = \"/usr/bin/bash\"\n\
         [[release.source]]\nfrom = \"debian\"\nsuites = [{suites}]\npackages = [\"{package}\"]\n"
    );
    let path = directory.join("catalogue.toml");
    fs::write(&path, text).unwrap();
    Catalogue::load(&path).unwrap().releases.remove(0)
}

async fn fetch(store: &Path, release: &Release) -> coffer_image::Result<Image> {
    Store::open(store)?.fetch(release, &silent()).await
}

#[tokio::test]
async fn an_engine_root_of_debian_has_the_server_and_nothing_to_break_out_with() {
    let image = fetch(&cache(), &shipped("redis", "7.0.15")).await.unwrap();
    assert_eq!(image.number, "7.0.15");
    let root = Store::open(&cache()).unwrap().ensure_root(&image.digest).await.unwrap();
    for absent in ["usr/bin/sh", "usr/bin/dash", "usr/bin/perl", "usr/sbin/adduser", "usr/share/man"] {
        assert!(!root.join(absent).exists(), "{absent}");
    }
    assert!(fs::read_to_string(root.join("etc/passwd")).unwrap().contains("nobody"));
    assert!(root.join("usr/share/doc/redis-server/copyright").exists());
    let mut left = vec![root];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let (path, what) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
            assert_eq!(what.permissions().mode() & 0o6000, 0, "{}", path.display());
            if what.is_symlink() {
                assert!(fs::read_link(&path).unwrap().is_relative(), "{}", path.display());
            } else if what.is_dir() {
                left.push(path);
            } else {
                assert!(what.is_file(), "{}", path.display());
            }
        }
    }
}

/// The test runs itself as `nobody`: these name the place for it and mark the inner run.
const PLACE: &str = "COFFER_IMAGE_TEST_PLACE";

#[tokio::test]
async fn an_ordinary_user_gets_the_same_image_as_root() {
    if let Some(place) = std::env::var_os(PLACE) {
        let place = PathBuf::from(place);
        let image = fetch(&place.join("store"), &small(&place, "\"bookworm\"", "bash")).await.unwrap();
        fs::write(place.join("digest"), image.digest.to_string()).unwrap();
        return;
    }
    let scratch = scratch();
    let own = small(scratch.path(), "\"bookworm\"", "bash");
    let image = fetch(&scratch.path().join("store"), &own).await.unwrap();
    if !rustix::process::geteuid().is_root() {
        println!("NOT RUN: the half as root; this user's image is {}", image.digest);
        return;
    }
    let place = scratch.path().join("nobody");
    fs::create_dir(&place).unwrap();
    for directory in [scratch.path(), &place] {
        fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::os::unix::fs::chown(&place, Some(65534), Some(65534)).unwrap();
    // The directory of the test program may be closed to others.
    let program = place.join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["--exact", "an_ordinary_user_gets_the_same_image_as_root", "--nocapture"])
        .env(PLACE, &place)
        .env("HOME", &place)
        .env("TMPDIR", &place)
        .current_dir(&place)
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(fs::read_to_string(place.join("digest")).unwrap(), image.digest.to_string());
}

#[tokio::test]
async fn what_debian_does_not_have_is_said() {
    let scratch = scratch();
    let check = async |suites: &str, package: &str, expected: &str| {
        let release = small(scratch.path(), suites, package);
        let refused = fetch(&scratch.path().join("store"), &release).await.unwrap_err();
        let said = refused.to_string();
        assert!(said.contains(expected), "{said} lacks {expected:?}");
    };
    check("\"bookworm\"", "no-such-engine", "Unable to locate package no-such-engine").await;
    check("\"no-such-suite\"", "bash", "does not have a Release file").await;
    check("\"bookworm\"", "coreutils", "has no program at /usr/bin/bash").await;
}
