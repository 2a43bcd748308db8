//! Making an OCI image of a directory tree, so that the same tree always gives the same digest.
//!
//! One zstd layer: entries sorted by path, times and owners zero, modes 0755 and 0644, hard links kept. The configuration
//! has no date. What the same packages unpack to is therefore the same image on every machine.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::json;
use tar::{EntryType, Header};

use crate::digest::{Digest, Hashing};
use crate::error::{Error, Result};
use crate::layout::Layout;

/// The level of zstd: beyond it a layer of programs takes longer and gets hardly smaller.
const LEVEL: i32 = 6;

/// Writes `tree` as an image into `layout` and gives the digest of its manifest. `labels` say where it came from.
pub(crate) fn pack(layout: &Layout, tree: &Path, labels: &BTreeMap<String, String>) -> Result<Digest> {
    let blob = layout.new_blob()?;
    let encoder = zstd::stream::Encoder::new(blob, LEVEL)?;
    let mut tar = tar::Builder::new(Hashing::new(encoder));
    append_tree(&mut tar, tree)?;
    let (encoder, content, _) = tar.into_inner()?.finish();
    let (layer, layer_bytes) = encoder.finish()?.finish(None)?;

    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (config, config_bytes) = layout.put_document(&json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
        "config": { "Labels": labels },
        "rootfs": { "type": "layers", "diff_ids": [content.to_string()] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "coffer" }],
    }))?;
    let (manifest, _) = layout.put_document(&json!({
        "schemaVersion": 2,
        "mediaType": oci_client::manifest::OCI_IMAGE_MEDIA_TYPE,
        "config": {
            "mediaType": oci_client::manifest::IMAGE_CONFIG_MEDIA_TYPE,
            "digest": config.to_string(),
            "size": config_bytes,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
            "digest": layer.to_string(),
            "size": layer_bytes,
        }],
        "annotations": labels,
    }))?;
    Ok(manifest)
}

fn append_tree<W: std::io::Write>(tar: &mut tar::Builder<W>, tree: &Path) -> Result<()> {
    let mut paths = Vec::new();
    walk(tree, Path::new(""), &mut paths)?;
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let mut first_of = HashMap::new();
    for path in paths {
        let full = tree.join(&path);
        let found = fs::symlink_metadata(&full)?;
        let kind = found.file_type();
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(if kind.is_dir() || found.mode() & 0o111 != 0 { 0o755 } else { 0o644 });
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, &path, std::io::empty())?;
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, &path, fs::read_link(&full)?)?;
        } else if kind.is_file() {
            let inode = (found.dev(), found.ino());
            if let Some(first) = first_of.get(&inode) {
                header.set_entry_type(EntryType::Link);
                tar.append_link(&mut header, &path, first)?;
                continue;
            }
            header.set_entry_type(EntryType::Regular);
            header.set_size(found.len());
            tar.append_data(&mut header, &path, fs::File::open(&full)?)?;
            if found.nlink() > 1 {
                first_of.insert(inode, path);
            }
        }
    }
    Ok(())
}

/// All paths below `tree`, relative to it; links are not followed.
fn walk(tree: &Path, below: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(tree.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        let is_directory = entry.file_type()?.is_dir();
        paths.push(path.clone());
        if is_directory {
            walk(tree, &path, paths)?;
        }
    }
    Ok(())
}

/// Makes links with absolute targets relative, so that the tree works at any place and not only as a root directory:
/// the dynamic loader of Debian 11 is such a link.
pub(crate) fn relativise_links(tree: &Path) -> Result<()> {
    let mut paths = Vec::new();
    walk(tree, Path::new(""), &mut paths)?;
    for path in paths {
        let full = tree.join(&path);
        if !fs::symlink_metadata(&full)?.is_symlink() {
            continue;
        }
        let target = fs::read_link(&full)?;
        if let Ok(target) = target.strip_prefix("/") {
            let mut relative: PathBuf = path.iter().skip(1).map(|_| OsStr::new("..")).collect();
            relative.push(target);
            fs::remove_file(&full)?;
            fs::os::unix::fs::symlink(relative, &full)?;
        }
    }
    Ok(())
}

/// Refuses a tree that does not carry the program, before any work is put into an image of it.
pub(crate) fn ensure_program(tree: &Path, binary: &Path) -> Result<()> {
    use rustix::fs::{FileType, Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(rustix::fs::CWD, tree, flags, Mode::empty())?;
    let found = crate::unpack::open_inside(&root, binary, OFlags::PATH)
        .and_then(rustix::fs::fstat)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o111 != 0);
    if found {
        return Ok(());
    }
    Err(Error::BinaryMissing { binary: binary.to_owned() })
}
