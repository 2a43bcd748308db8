//! The store: what is in it was proven, is whole, and is the same for everybody who asks.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "these are tests")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use coffer_image::{Catalogue, Digest, Error, Image, Progress, Result, Store, in_full};
use fs_err as fs;
use support::{BINARY, HandMade, archive_of, binary, gzip, recorder, release, scratch, silent, write_engine};

fn engine(directory: &Path, number: &str) -> std::path::PathBuf {
    let tree = directory.join(format!("engine-{number}"));
    write_engine(&tree, number);
    tree
}

async fn import(store: &Store, path: &Path, digest: Option<Digest>) -> Result<Image> {
    store.import("redis", "7.0.15", binary(), path.to_owned(), digest, &silent()).await
}

/// What lies in a directory of the store.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn an_imported_root_is_recorded_with_what_was_proven() {
    let scratch = scratch();
    let store = Store::open(&scratch.path().join("store")).unwrap();
    let tree = engine(scratch.path(), "7.0.15");
    let image = store.import("redis", "7.0", binary(), tree, None, &silent()).await.unwrap();

    assert_eq!((image.number.as_str(), image.version.as_str()), ("7.0.15", "7.0"));
    assert_eq!(image.binary, Path::new(BINARY));
    let other = Store::open(&scratch.path().join("store")).unwrap();
    assert_eq!(other.list().unwrap(), std::slice::from_ref(&image));
    assert_eq!(other.find("redis", "7.0").unwrap().as_ref(), Some(&image));
    assert_eq!(other.find("redis", "7.0.15").unwrap().as_ref(), Some(&image));
    assert_eq!(other.find("valkey", "7.0").unwrap(), None);

    let root = other.ensure_root(&image.digest).await.unwrap();
    assert_eq!(other.ensure_root(&image.digest).await.unwrap(), root);
    for mount_point in ["conf", "data", "dev", "proc", "run", "tmp"] {
        assert_eq!(names(&root.join(mount_point)), [""; 0], "{mount_point}");
    }
}

#[tokio::test]
async fn the_same_tree_is_the_same_image_whenever_and_by_whomever_it_is_packed() {
    let scratch = scratch();
    let mut digests = Vec::new();
    for (name, mode) in [("one", 0o755), ("two", 0o700)] {
        let tree = scratch.path().join(name);
        fs::create_dir(&tree).unwrap();
        let mut files = ["a", "b", "c"];
        if name == "two" {
            files.reverse();
        }
        for file in files {
            fs::write(tree.join(file), file).unwrap();
        }
        fs::hard_link(tree.join("a"), tree.join("z")).unwrap();
        write_engine(&tree, "7.0.15");
        let server = tree.join(&BINARY[1..]);
        fs::set_permissions(&server, std::fs::Permissions::from_mode(mode)).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(mode));
        fs::File::open(&server).unwrap().file().set_modified(old).unwrap();
        let store = Store::open(&scratch.path().join("store").join(name)).unwrap();
        digests.push(import(&store, &tree, None).await.unwrap().digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn an_image_goes_round_from_store_to_layout_to_archive_to_store() {
    let scratch = scratch();
    let first = Store::open(&scratch.path().join("first")).unwrap();
    let image = import(&first, &engine(scratch.path(), "7.0.15"), None).await.unwrap();
    let layout = scratch.path().join("first/images");
    let tar = archive_of(&layout);
    let zst = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let archives = [("tar", tar.clone()), ("tar.gz", gzip(&tar)), ("tar.zst", zst)];
    let mut paths = vec![layout];
    for (extension, bytes) in archives {
        let path = scratch.path().join(format!("image.{extension}"));
        fs::write(&path, bytes).unwrap();
        paths.push(path);
    }
    for (at, path) in paths.iter().enumerate() {
        let store = Store::open(&scratch.path().join(format!("store{at}"))).unwrap();
        let same = import(&store, path, Some(image.digest.clone())).await.unwrap();
        assert_eq!((&same.digest, &same.number), (&image.digest, &image.number), "{}", path.display());
    }
    let plain = scratch.path().join("root.tar.gz");
    fs::write(&plain, gzip(&archive_of(&engine(scratch.path(), "7.0.15")))).unwrap();
    let store = Store::open(&scratch.path().join("plain")).unwrap();
    assert_eq!(import(&store, &plain, None).await.unwrap().number, "7.0.15");
}

#[tokio::test]
async fn what_is_not_as_promised_is_refused_and_leaves_nothing() {
    let scratch = scratch();
    let tree = engine(scratch.path(), "7.0.15");
    let archive = archive_of(&tree);
    let layout = |name: &str| HandMade::of_layers(scratch.path().join(name), std::slice::from_ref(&archive));
    let check = async |what: &str, path: &Path, digest: Option<&str>, expected: &str| {
        let place = scratch.path().join(format!("store {what}"));
        let store = Store::open(&place).unwrap();
        let digest = digest.map(|d| d.parse().unwrap());
        let said = in_full(&import(&store, path, digest).await.unwrap_err());
        assert!(said.contains(expected), "{what}: {said} lacks {expected:?}");
        assert_eq!(store.list().unwrap(), [], "{what}");
        for left in ["roots", "tmp"] {
            assert_eq!(names(&place.join(left)), [""; 0], "{what}: {left}");
        }
    };

    check("another version", &engine(scratch.path(), "7.0.14"), None, "carries version 7.0.14").await;

    let older = archive_of(&engine(scratch.path(), "7.0.14"));
    let older = HandMade::of_layers(scratch.path().join("older"), &[older]);
    check("another version in a layout", &older.0, None, "carries version 7.0.14").await;
    let bare = scratch.path().join("bare");
    fs::create_dir(&bare).unwrap();
    check("no program", &bare, None, "has no program at /usr/bin/redis-server").await;
    let bare_layout = HandMade::of_layers(scratch.path().join("bare layout"), &[archive_of(&bare)]);
    check("no program in a layout", &bare_layout.0, None, "has no program").await;
    let mute = engine(scratch.path(), "none");
    check("a program without a number", &mute, None, "could not be run to ask").await;

    let wrong = format!("sha256:{}", "0".repeat(64));
    let good = layout("good");
    check("another digest", &good.0, Some(&wrong), "expected sha256:0000").await;
    let swapped = layout("swapped");
    let layer = Digest::of(&archive).to_string();
    fs::write(swapped.blob(&layer), archive_of(&bare)).unwrap();
    check("a swapped layer", &swapped.0, None, &format!("expected {layer}")).await;
    let short = layout("short");
    fs::remove_file(short.blob(&layer)).unwrap();
    check("a missing layer", &short.0, None, "is missing").await;
    let cut = scratch.path().join("cut.tar");
    fs::write(&cut, &archive[..archive.len() / 2]).unwrap();
    check("a cut archive", &cut, None, "unexpected EOF").await;
    check("nothing there", Path::new("/nonexistent"), None, "/nonexistent").await;

    let foreign = layout("foreign");
    let mut manifest = foreign.put_image(&[]);
    manifest["platform"] = serde_json::json!({ "architecture": "s390x", "os": "linux" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [manifest] });
    let index = foreign.put(index.to_string().as_bytes(), "application/vnd.oci.image.index.v1+json");
    foreign.write_index(&[index]);
    check("another platform", &foreign.0, None, "no image for this machine").await;
}

#[tokio::test]
async fn a_layer_that_rotted_in_the_store_is_found_when_it_is_unpacked() {
    let scratch = scratch();
    let place = scratch.path().join("store");
    let layer = archive_of(&engine(scratch.path(), "7.0.15"));
    let layout = HandMade::of_layers(scratch.path().join("layout"), std::slice::from_ref(&layer));
    let store = Store::open(&place).unwrap();
    let image = import(&store, &layout.0, None).await.unwrap();
    fs::remove_dir_all(store.ensure_root(&image.digest).await.unwrap()).unwrap();
    let blob = place.join("images/blobs/sha256").join(Digest::of(&layer).hex());
    let mut rotten = layer;
    *rotten.last_mut().unwrap() ^= 1;
    fs::write(blob, rotten).unwrap();
    let refused = store.ensure_root(&image.digest).await.unwrap_err();
    assert!(matches!(refused, Error::DigestMismatch { .. }), "{refused}");
    assert_eq!(names(&place.join("roots")), [""; 0]);
}

#[tokio::test]
async fn the_first_source_that_answers_is_used_and_the_others_are_remembered() {
    let scratch = scratch();
    let tree = engine(scratch.path(), "7.0.15");
    engine(scratch.path(), "7.0.14");
    let nowhere = "from = \"oci-layout\"\npath = \"nowhere\"".to_owned();
    let older = "from = \"root\"\npath = \"engine-7.0.14\"".to_owned();
    let right = "from = \"root\"\npath = \"engine-7.0.15\"".to_owned();
    let store = Store::open(&scratch.path().join("store")).unwrap();

    let hopeless = release(scratch.path(), "7.0.15", &[nowhere.clone(), older.clone()]);
    let said = store.fetch(&hopeless, &silent()).await.unwrap_err().to_string();
    let parts =
        ["redis 7.0.15 could not be fetched", "nowhere: ", "engine-7.0.14: the image carries version 7.0.14", "hint: "];
    let places: Vec<_> = parts.iter().map(|part| said.find(part)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{said}");
    assert_eq!(store.list().unwrap(), []);

    let (observer, told) = recorder();
    let wanted = release(scratch.path(), "7.0.15", &[nowhere, older, right.clone(), right]);
    let image = store.fetch(&wanted, &observer).await.unwrap();
    assert_eq!(image.source, format!("root {}", tree.display()));
    let order: Vec<_> = told
        .lock()
        .unwrap()
        .iter()
        .filter_map(|progress| match progress {
            Progress::Trying { source } => Some(format!("try {}", source.rsplit('/').next().unwrap())),
            Progress::Refused { source, .. } => Some(format!("no {}", source.rsplit('/').next().unwrap())),
            Progress::Ready { number, .. } => Some(format!("ready {number}")),
            _ => None,
        })
        .collect();
    let expected =
        ["try nowhere", "no nowhere", "try engine-7.0.14", "no engine-7.0.14", "try engine-7.0.15", "ready 7.0.15"];
    assert_eq!(order, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_version_that_many_want_at_once_is_fetched_once() {
    let scratch = scratch();
    engine(scratch.path(), "7.0.15");
    let wanted = release(scratch.path(), "7.0.15", &["from = \"root\"\npath = \"engine-7.0.15\"".to_owned()]);
    let (observer, told) = recorder();
    let fetches: Vec<_> = (0..6)
        .map(|_| {
            // A store of its own for each, as each would have in a process of its own.
            let store = Store::open(&scratch.path().join("store")).unwrap();
            let (wanted, observer) = (wanted.clone(), observer.clone());
            tokio::spawn(async move { store.fetch(&wanted, &observer).await.unwrap() })
        })
        .collect();
    let mut images = Vec::new();
    for fetch in fetches {
        images.push(fetch.await.unwrap());
    }
    assert!(images.iter().all(|image| *image == images[0]));
    let tried = told.lock().unwrap().iter().filter(|p| matches!(p, Progress::Trying { .. })).count();
    assert_eq!(tried, 1);
}

#[tokio::test]
async fn what_killed_processes_left_is_cleared_but_not_what_is_recorded() {
    let scratch = scratch();
    let place = scratch.path().join("store");
    let store = Store::open(&place).unwrap();
    let image = import(&store, &engine(scratch.path(), "7.0.15"), None).await.unwrap();
    let blobs = place.join("images/blobs/sha256");
    let needed = names(&blobs).len();
    fs::create_dir_all(place.join("tmp/half/tree")).unwrap();
    fs::write(place.join("tmp/part"), "x").unwrap();
    fs::write(blobs.join("f".repeat(64)), "a blob of a pull that was interrupted").unwrap();

    let store = Store::open(&place).unwrap();
    assert_eq!(names(&place.join("tmp")), [""; 0]);
    assert_eq!(names(&blobs).len(), needed + 1, "an interrupted pull goes on from what it has");
    import(&store, &engine(scratch.path(), "7.0.15"), None).await.unwrap();
    assert_eq!(names(&blobs).len(), needed, "a finished one needs it no more");
    assert_eq!(store.list().unwrap(), [image]);
}

#[tokio::test]
async fn a_new_image_of_a_version_leaves_the_old_one_until_it_is_removed() {
    let scratch = scratch();
    let place = scratch.path().join("store");
    let store = Store::open(&place).unwrap();
    let tree = engine(scratch.path(), "7.0.15");
    let old = import(&store, &tree, None).await.unwrap();
    fs::write(tree.join("patched"), "x").unwrap();
    let new = import(&store, &tree, None).await.unwrap();
    assert_ne!(old.digest, new.digest);
    assert_eq!(store.find("redis", "7.0.15").unwrap(), Some(new.clone()));
    let old_root = store.ensure_root(&old.digest).await.unwrap();

    store.remove(&old.digest).unwrap();
    assert!(!old_root.exists());
    assert_eq!(store.list().unwrap(), std::slice::from_ref(&new));
    assert!(store.ensure_root(&new.digest).await.unwrap().join("patched").exists());
    let gone = store.remove(&old.digest).unwrap_err().to_string();
    assert!(gone.contains("is not in the image store"), "{gone}");
    let gone = store.ensure_root(&old.digest).await.unwrap_err();
    assert!(matches!(gone, Error::UnknownImage { .. }), "{gone}");
}

#[test]
fn the_shipped_catalogues_are_valid() {
    let engines = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../engines");
    let shipped = Catalogue::load(&engines.join("catalogue.toml")).unwrap();
    let tests = Catalogue::load(&engines.join("test-catalogue.toml")).unwrap();
    for (catalogue, names) in [
        (
            &shipped,
            [
                "redis/6.0.16",
                "redis/7.0.15",
                "redis/8.0.2",
                "valkey/8.0.1",
                "valkey/8.1.1",
                "valkey/9.1.2",
                "mariadb/10.5.23",
                "mariadb/10.11.18",
                "mariadb/10.11.19",
                "mariadb/11.8.9",
                "mysql/8.4.9",
                "mysql/9.7.4",
            ]
            .as_slice(),
        ),
        (&tests, ["redis/3.2.6", "redis/5.0.6", "redis/6.2.14", "redis/8.2.3", "mysql/9.7.2"].as_slice()),
    ] {
        for name in names {
            let (datastore, version) = name.split_once('/').unwrap();
            assert!(catalogue.find(datastore, version).is_some(), "{name}");
        }
        assert_eq!(catalogue.releases.len(), names.len());
    }
}
