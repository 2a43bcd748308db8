//! What the tests of this crate share: a small engine that can run in a root of its own, and images put together by hand.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use coffer_image::{Binary, Catalogue, Digest, Observer, Progress, Release};
use fs_err as fs;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The server program of the small engine.
pub const BINARY: &str = "/usr/bin/redis-server";

/// A directory for one test.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("coffer-image-").tempdir().unwrap()
}

/// A root directory with a "server" that says `number`: a script, and this machine's shell with its libraries.
pub fn write_engine(tree: &Path, number: &str) {
    let shell = fs::canonicalize("/bin/sh").unwrap();
    let libraries = Command::new("ldd").arg(&shell).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let libraries = libraries.split_whitespace().filter(|w| w.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([PathBuf::from("/bin/sh")]) {
        let to = tree.join(file.strip_prefix("/").unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    let server = tree.join(&BINARY[1..]);
    fs::create_dir_all(server.parent().unwrap()).unwrap();
    let script = format!("#!/bin/sh\necho 'Redis server v={number} sha=00000000:0 malloc=libc bits=64'\n");
    fs::write(&server, script).unwrap();
    fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
}

pub fn binary() -> Binary {
    PathBuf::from(BINARY).try_into().unwrap()
}

/// A release of one catalogue entry, with these `[[release.source]]` tables.
pub fn release(directory: &Path, version: &str, sources: &[String]) -> Release {
    let mut text = format!("[[release]]\ndatastore = \"redis\"\nversion = \"{version}\"\nbinary = \"{BINARY}\"\n");
    for source in sources {
        text.extend(["[[release.source]]\n", source, "\n"]);
    }
    let path = directory.join("catalogue.toml");
    fs::write(&path, text).unwrap();
    Catalogue::load(&path).unwrap().releases.remove(0)
}

/// An observer that keeps what it is told.
pub fn recorder() -> (Observer, Arc<Mutex<Vec<Progress>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    (Arc::new(move |progress| keep.lock().unwrap().push(progress)), told)
}

pub fn silent() -> Observer {
    Arc::new(|_| {})
}

/// One entry of a hand-made layer; paths are written as given, `..` and all.
pub enum Entry {
    File(&'static str, &'static str),
    Mode(&'static str, u32),
    Directory(&'static str),
    Symlink(&'static str, &'static str),
    HardLink(&'static str, &'static str),
    Device(&'static str),
    Sparse(&'static str),
}

/// A tar archive of `entries`, in their order.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let (path, kind, link, content) = match entry {
            Entry::File(path, content) => (path, tar::EntryType::Regular, "", *content),
            Entry::Mode(path, _) => (path, tar::EntryType::Regular, "", "x"),
            Entry::Directory(path) => (path, tar::EntryType::Directory, "", ""),
            Entry::Symlink(path, target) => (path, tar::EntryType::Symlink, *target, ""),
            Entry::HardLink(path, target) => (path, tar::EntryType::Link, *target, ""),
            Entry::Device(path) => (path, tar::EntryType::Block, "", ""),
            Entry::Sparse(path) => (path, tar::EntryType::GNUSparse, "", ""),
        };
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if let Entry::Mode(_, mode) = entry { *mode } else { 0o644 });
        header.set_size(content.len() as u64);
        if let Entry::Device(_) = entry {
            header.set_device_major(7).unwrap();
            header.set_device_minor(0).unwrap();
        }
        if let (Entry::Sparse(_), Some(gnu)) = (entry, header.as_gnu_mut()) {
            gnu.set_real_size(1 << 40);
        }
        // The library refuses to write hostile names, so they go into the header as bytes.
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A tar archive of a directory tree.
pub fn archive_of(tree: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", tree).unwrap();
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

/// An OCI layout put together by hand.
pub struct HandMade(pub PathBuf);

impl HandMade {
    pub fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(directory)
    }

    /// A layout with one image of these layers.
    pub fn of_layers(directory: PathBuf, layers: &[Vec<u8>]) -> Self {
        let layout = Self::new(directory);
        let manifest = layout.put_image(layers);
        layout.write_index(&[manifest]);
        layout
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.0.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    }

    pub fn put(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Digest::of(bytes).to_string();
        fs::File::create(self.blob(&digest)).unwrap().write_all(bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The descriptor of a new image.
    pub fn put_image(&self, layers: &[Vec<u8>]) -> Value {
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] }
        });
        let config = self.put(config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<_> = layers.iter().map(|l| self.put(l, "application/vnd.oci.image.layer.v1.tar")).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        self.put(manifest.to_string().as_bytes(), "application/vnd.oci.image.manifest.v1+json")
    }

    pub fn write_index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.0.join("index.json"), index.to_string()).unwrap();
    }
}

/// Every path below `tree` that is not part of the small engine, with what it is.
pub fn extra_files(tree: &Path) -> BTreeMap<String, String> {
    let engine = scratch();
    write_engine(engine.path(), "0.0.0");
    let mut found = listing(tree);
    let known = listing(engine.path());
    found.retain(|path, _| !known.contains_key(path));
    for name in ["conf", "data", "dev", "proc", "run", "tmp"] {
        found.remove(name);
    }
    found
}

fn listing(tree: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        for entry in fs::read_dir(tree.join(&below)).unwrap() {
            let entry = entry.unwrap();
            let path = below.join(entry.file_name());
            let what = entry.metadata().unwrap();
            let said = if what.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else if what.is_symlink() {
                format!("-> {}", fs::read_link(entry.path()).unwrap().display())
            } else if what.is_file() {
                let mode = what.permissions().mode() & 0o7777;
                format!("{mode:o} {}", String::from_utf8_lossy(&fs::read(entry.path()).unwrap()))
            } else {
                "special".to_owned()
            };
            found.insert(path.display().to_string(), said);
        }
    }
    found
}
