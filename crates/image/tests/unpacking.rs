//! Layers are made by strangers: none of them writes, links or removes anything outside the engine root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

mod support;

use coffer_image::{Limits, Store};
use fs_err as fs;
use support::Entry::{Device, Directory, File, HardLink, Mode, Sparse, Symlink};
use support::{Entry, HandMade, archive, archive_of, binary, extra_files, gzip, scratch, silent, write_engine};

/// Imports an image of the small engine and `layers` on top. `expected` is either part of the error, or the files that
/// the root has beyond the engine's.
async fn check(what: &str, layers: &[&[Entry]], expected: Result<&[(&str, &str)], &str>) {
    let scratch = scratch();
    let outside = scratch.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let engine = scratch.path().join("engine");
    write_engine(&engine, "7.0.15");

    let mut archives = vec![archive_of(&engine)];
    archives.extend(layers.iter().enumerate().map(|(at, entries)| match at % 3 {
        0 => archive(entries),
        1 => gzip(&archive(entries)),
        _ => zstd::encode_all(archive(entries).as_slice(), 1).unwrap(),
    }));
    let layout = HandMade::of_layers(scratch.path().join("layout"), &archives);
    let store = Store::open(&scratch.path().join("store")).unwrap();
    let imported = store.import("redis", "7.0.15", binary(), layout.0, None, &silent()).await;

    match (imported, expected) {
        (Ok(image), Ok(files)) => {
            let root = store.ensure_root(&image.digest).await.unwrap();
            let files: Vec<_> = files.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
            assert_eq!(extra_files(&root).into_iter().collect::<Vec<_>>(), files, "{what}");
        }
        (Err(error), Err(part)) => {
            assert!(error.to_string().contains(part), "{what}: {error} lacks {part:?}");
            assert_eq!(store.list().unwrap(), [], "{what}: a refused image was recorded");
            let roots = fs::read_dir(scratch.path().join("store/roots")).unwrap().count();
            assert_eq!(roots, 0, "{what}: a refused image left a root");
        }
        (Ok(_), Err(part)) => panic!("{what}: was not refused with {part:?}"),
        (Err(error), Ok(_)) => panic!("{what}: {error}"),
    }
    let left: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["victim"], "{what}: something outside the root changed");
    assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "untouched", "{what}");
}

#[tokio::test]
async fn no_path_leaves_the_root() {
    let dots = Err("its path has `..`");
    check("dots", &[&[File("../outside/new", "x")]], dots).await;
    check("dots inside", &[&[File("a/../../outside/new", "x")]], dots).await;
    check("a link to dots", &[&[HardLink("x", "../outside/victim")]], dots).await;
    check("an absolute path", &[&[File("/srv/new", "x")]], Ok(&[("srv", "directory"), ("srv/new", "644 x")])).await;
    check(
        "through a link out",
        &[&[Symlink("srv", "../../../outside"), File("srv/new", "x")]],
        Err("through a link that leads nowhere"),
    )
    .await;
    check(
        "through a link to the root",
        &[&[Symlink("up", "../../../../.."), File("up/new", "x")]],
        Ok(&[("new", "644 x"), ("up", "-> ../../../../..")]),
    )
    .await;
    check(
        "through a link of another layer, which is absolute",
        &[&[Directory("srv"), Symlink("var", "/srv")], &[File("var/new", "x")]],
        Ok(&[("srv", "directory"), ("srv/new", "644 x"), ("var", "-> /srv")]),
    )
    .await;
    check("over a link out", &[&[Symlink("f", "../../outside/victim")], &[File("f", "x")]], Ok(&[("f", "644 x")]))
        .await;
    check(
        "a directory over a link out",
        &[&[Symlink("d", "../../outside")], &[Directory("d"), File("d/new", "x")]],
        Ok(&[("d", "directory"), ("d/new", "644 x")]),
    )
    .await;
    check("below a file", &[&[File("f", "x"), File("f/new", "x")]], Err("no directory")).await;
}

#[tokio::test]
async fn hard_links_reach_files_of_the_image_only() {
    check("a file", &[&[File("f", "x"), HardLink("g", "f")]], Ok(&[("f", "644 x"), ("g", "644 x")])).await;
    check("a file of the host", &[&[HardLink("g", "/etc/hostname")]], Err("hard link")).await;
    check("a directory", &[&[Directory("d"), HardLink("g", "d")]], Err("no file")).await;
    check("through a link out", &[&[Symlink("d", "../../../outside"), HardLink("g", "d/victim")]], Err("hard link"))
        .await;
}

#[tokio::test]
async fn whiteouts_remove_files_of_lower_layers_only() {
    let lower: &[Entry] = &[Directory("d"), File("d/a", "1"), File("d/b", "2")];
    check("one file", &[lower, &[File("d/.wh.a", "")]], Ok(&[("d", "directory"), ("d/b", "644 2")])).await;
    check("a directory", &[lower, &[File(".wh.d", "")]], Ok(&[])).await;
    check(
        "all but what the layer itself brings",
        &[lower, &[File("d/new", "3"), File("d/.wh..wh..opq", "")]],
        Ok(&[("d", "directory"), ("d/new", "644 3")]),
    )
    .await;
    check("what is not there", &[&[File(".wh.none", "")]], Ok(&[])).await;
    check("the parent", &[&[File("d/.wh...", "")]], Err("whiteout without a name")).await;
    check(
        "through a link out",
        &[&[Symlink("out", "../../../outside")], &[File("out/.wh.victim", "")]],
        Err("through a link that leads nowhere"),
    )
    .await;
}

#[tokio::test]
async fn special_files_and_special_rights_are_left_out() {
    check("a device", &[&[Device("srv")]], Ok(&[])).await;
    check("a sparse file", &[&[Sparse("srv")]], Err("sparse")).await;
    check("set-user-id", &[&[Mode("su", 0o4755)]], Ok(&[("su", "755 x")])).await;
    check("a private file", &[&[Mode("key", 0o600)]], Ok(&[("key", "644 x")])).await;
    check("a file for all to write", &[&[Mode("f", 0o666)]], Ok(&[("f", "644 x")])).await;
}

#[tokio::test]
async fn an_image_that_unpacks_to_more_than_the_limit_is_refused() {
    let scratch = scratch();
    let engine = scratch.path().join("engine");
    write_engine(&engine, "7.0.15");
    fs::write(engine.join("zeros"), vec![0; 20 << 20]).unwrap();
    let layer = zstd::encode_all(archive_of(&engine).as_slice(), 3).unwrap();
    let limits = Limits { image_bytes: 10 << 20, ..Limits::default() };
    assert!((layer.len() as u64) < limits.image_bytes, "the layer itself is within the limit");
    let layout = HandMade::of_layers(scratch.path().join("layout"), &[layer]);
    let store = Store::open_with(&scratch.path().join("store"), limits).unwrap();
    let refused = store.import("redis", "7.0.15", binary(), layout.0, None, &silent()).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("larger than the limit of 10485760 bytes"), "{said}");
}
