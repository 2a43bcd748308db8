//! The pre-image: data and configuration as they were before the new version touched them.
//!
//! What is large is dealt with while the old engine serves, so that in the gap only what was written since is copied:
//!
//! | file | how | why that is safe |
//! |---|---|---|
//! | snapshot, base of an append-only file | another name for it (hard link) | engines only replace them |
//! | rest of an append-only file | copied ahead, by the file system where it can (reflink), then its tail | it only grows |
//! | anything else | copied ahead, and what changed since is written into the copy after the stop | inode, size and times tell which files; those are compared |
//!
//! The last act is a list of the files with their sizes; without it there is no pre-image.
//!
//! One that is gone back to after its upgrade had succeeded stays as it is: the engine gets a copy of it, made by the same rules
//! while the other one serves. Only what was made of data that clients have not been let in to is given away itself.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coffer_core::id::OperationId;
use rustix::fs::{CWD, Gid, RenameFlags, Uid, renameat_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::copy::{Copy, Pace, note};
use super::files::flush;
use super::{Error, File, Kind, Kinds, Paths, ensure_absent, list, list_all};

/// What a plain copy does a second, for estimates: what a slow disk does.
const BYTES_A_SECOND: u64 = 200_000_000;
/// For so long the disk is waited for after each copy, which leaves alone what others have to write. Whoever has thousands of
/// tables would wait thousands of times: from then on it is waited for once, at the end.
const ONE_BY_ONE: Duration = Duration::from_millis(200);
/// How many times what is large is copied ahead at the most. When a time was short there is no need for another.
const PASSES: u32 = 3;
const SHORT_PASS: Duration = Duration::from_secs(1);
const LIST: &str = "preimage.json";
/// What is known of its contents.
const HELD: &str = "held.json";
/// A copy of another one, to be used up.
const READY: &str = "ready";
/// What was written in so many seconds is thought to be written again before the engine has stopped.
const BUSY_SECONDS: i64 = 60;

/// What taking a pre-image would mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// How, in a sentence.
    pub method: String,
    /// Of all that is kept, whether it takes room or not, and in how many files.
    pub bytes: u64,
    pub files: u64,
    /// Most of it while the engine serves.
    pub millis: u64,
    /// Of what is copied while the engine serves, so much would be copied again after it has stopped.
    pub stale_bytes: u64,
    /// So much is copied at all.
    pub copied_bytes: u64,
}

/// The pre-image of one operation, in `pre/<operation>/`.
#[derive(Clone, Debug)]
pub struct PreImage {
    dir: PathBuf,
    paths: Paths,
    kinds: Kinds,
}

/// What is in a complete pre-image.
#[derive(Default, Serialize, Deserialize)]
struct List {
    files: Vec<Kept>,
    /// Those in which they are, and empty ones. Pre-images of earlier agents do not name them.
    #[serde(default)]
    directories: Vec<PathBuf>,
}

impl List {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    /// From the pre-image's directory on: `data/...` or `conf/...`.
    path: PathBuf,
    size: u64,
}

impl PreImage {
    /// The pre-image of this operation, whether it is there or not.
    pub fn of(paths: &Paths, operation: OperationId, kinds: Kinds) -> Self {
        Self { dir: paths.pre.join(operation.to_string()), paths: paths.clone(), kinds }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the configuration is that it holds.
    pub(crate) fn conf(&self) -> PathBuf {
        self.dir.join("conf")
    }

    /// What it would mean to take it now.
    pub fn estimate(paths: &Paths, kinds: Kinds) -> Result<Estimate, Error> {
        let files = list(&paths.data, kinds)?;
        let copied: u64 = files.iter().filter(|f| f.kind != Kind::Replaced).map(|f| f.size).sum();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        let is_busy = |file: &&File| file.kind == Kind::Other && now - file.changed < BUSY_SECONDS;
        let method = match files.iter().any(|f| f.kind != Kind::Other) {
            true => {
                "hard links for files that are only replaced; all others are copied while the engine serves, by the file \
                 system where it can, and what was written since after it has stopped"
            }
            false => {
                "files are copied while the engine serves, by the file system where it can; those that it writes to \
                 meanwhile are copied again after it has stopped"
            }
        };
        Ok(Estimate {
            method: method.to_owned(),
            bytes: files.iter().map(|f| f.size).sum(),
            files: files.len() as u64,
            millis: copy_millis(copied),
            stale_bytes: files.iter().filter(is_busy).map(|f| f.size).sum(),
            copied_bytes: copied,
        })
    }

    /// How much would have to be copied if the engine ended now.
    pub fn stale_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for file in list(&self.paths.data, self.kinds)? {
            let copy = self.copy_of(&self.paths.data, "data", &file);
            bytes += match file.kind {
                Kind::Replaced => 0,
                Kind::Appended => file.size.saturating_sub(fs_err::metadata(&copy.to).map_or(0, |m| m.len())),
                Kind::Other if copy.is_fresh().unwrap_or(false) => 0,
                Kind::Other => file.size,
            };
        }
        Ok(bytes)
    }

    /// Deals with what is large while the engine serves. Can be called again. Blocks.
    pub fn copy_ahead(&self) -> Result<(), Error> {
        if self.is_complete() {
            return Ok(());
        }
        // Each time there is less that was written meanwhile.
        for _ in 0..PASSES {
            let began = Instant::now();
            self.copy_once()?;
            if began.elapsed() < SHORT_PASS {
                break;
            }
        }
        Ok(())
    }

    fn copy_once(&self) -> Result<(), Error> {
        self.ensure_dirs()?;
        let mut seen = Vec::new();
        for file in &list(&self.paths.data, self.kinds)? {
            match self.keep(&self.paths.data, "data", file, Pace::Ahead) {
                // The engine has replaced it; the one that took its place is kept later.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => seen.extend(other?),
            }
        }
        // All at once, and only then are the copies to be trusted.
        flush(&self.dir)?;
        for (copy, is) in seen {
            note(&copy.seen, &is)?;
        }
        Ok(())
    }

    /// Completes it. The engine must have ended. Can be called again. Returns the size of all that is in it in bytes.
    /// Blocks.
    pub fn complete(&self) -> Result<u64, Error> {
        if let Some(list) = self.read_list()? {
            return Ok(list.bytes());
        }
        self.ensure_dirs()?;
        let (mut kept, mut seen) = (List::default(), Vec::new());
        let began = Instant::now();
        let is_long = || began.elapsed() > ONE_BY_ONE;
        for (part, dir) in self.parts() {
            let (files, directories) = list_all(dir, self.kinds)?;
            kept.directories.extend(directories.iter().map(|below| Path::new(part).join(below)));
            // What was kept ahead and has gone since.
            let paths: BTreeSet<_> = files.iter().map(|file| &file.path).collect();
            for old in list(&self.dir.join(part), self.kinds)? {
                if !paths.contains(&old.path) {
                    ensure_absent(&self.dir.join(part).join(&old.path))?;
                }
            }
            for file in &files {
                let pace = if is_long() { Pace::Together } else { Pace::Each };
                seen.extend(self.keep(dir, part, file, pace)?);
                kept.files.push(Kept { path: Path::new(part).join(&file.path), size: file.size });
            }
        }
        if is_long() {
            flush(&self.dir)?;
        }
        for (copy, is) in seen {
            note(&copy.seen, &is)?;
        }
        self.write_down(LIST, &kept)?;
        Ok(kept.bytes())
    }

    /// The place for a copy of another pre-image, which goes with this one.
    #[must_use]
    pub fn ready(&self) -> Self {
        Self { dir: self.dir.join(READY), ..self.clone() }
    }

    /// Makes this a complete copy of `other`, which stays as it is whatever becomes of the copy. Can be called again. Blocks.
    pub fn be_copy_of(&self, other: &Self) -> Result<(), Error> {
        if self.is_complete() {
            return Ok(());
        }
        let Some(kept) = other.read_list()? else {
            return Err(Error::PreImage { path: other.dir.clone(), problem: "is not there any more".to_owned() });
        };
        other.check(&kept)?;
        if let Some(above) = self.dir.parent() {
            ensure_private_dir(&self.paths.pre)?;
            ensure_private_dir(above)?;
        }
        self.ensure_dirs()?;
        for (part, _) in self.parts() {
            let dir = other.dir.join(part);
            for file in &list(&dir, self.kinds)? {
                self.keep(&dir, part, file, Pace::Ahead)?;
            }
        }
        flush(&self.dir)?;
        Ok(self.write_down(LIST, &kept)?)
    }

    /// How many bytes a copy of it takes at the most. 0 where it is not complete.
    pub fn copied_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for (part, _) in self.parts() {
            let files = list(&self.dir.join(part), self.kinds)?;
            bytes += files.iter().filter(|file| file.kind != Kind::Replaced).map(|file| file.size).sum::<u64>();
        }
        Ok(if self.is_complete() { bytes } else { 0 })
    }

    /// The size of all that is in it; 0 where it is not complete.
    pub fn bytes(&self) -> Result<u64, Error> {
        Ok(self.read_list()?.map_or(0, |list| list.bytes()))
    }

    /// Writes down beside it what is known of its contents.
    pub fn note_held(&self, held: &impl Serialize) -> Result<(), Error> {
        Ok(self.write_down(HELD, held)?)
    }

    /// What is known of its contents, where that was written down.
    pub fn held<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        Ok(self.read(HELD)?)
    }

    /// Whether it is complete.
    pub fn is_complete(&self) -> bool {
        self.dir.join(LIST).exists()
    }

    /// Puts data and configuration back as they were. No engine may run. Can be called again; without a complete
    /// pre-image it does nothing, since nothing was started on the data then. Takes no room and no time: the files get
    /// their old names back, and what the new engine made of them goes. Blocks.
    pub fn restore(&self) -> Result<(), Error> {
        let Some(list) = self.read_list()? else { return Ok(()) };
        self.check(&list)?;
        for (part, dir) in self.parts() {
            let back = self.dir.join(format!("{part}.back"));
            ensure_absent(&back)?;
            ensure_like(&back, dir)?;
            for below in list.directories.iter().filter_map(|path| path.strip_prefix(part).ok()) {
                ensure_like(&back.join(below), dir)?;
            }
            for kept in list.files.iter().filter(|f| f.path.starts_with(part)) {
                let path = kept.path.strip_prefix(part).unwrap_or(&kept.path);
                if let Some(below) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                    ensure_like(&back.join(below), dir)?;
                }
                fs_err::hard_link(self.dir.join(&kept.path), back.join(path))?;
            }
            // Both names change at once: there is no moment without data.
            renameat_with(CWD, &back, CWD, dir, RenameFlags::EXCHANGE).map_err(io::Error::from)?;
            ensure_absent(&back)?;
        }
        Ok(())
    }

    /// Removes it. Can be called again. Blocks.
    pub fn discard(&self) -> Result<(), Error> {
        // The list first: half a pre-image must not look like one.
        ensure_absent(&self.dir.join(LIST))?;
        Ok(ensure_absent(&self.dir)?)
    }

    fn parts(&self) -> [(&'static str, &PathBuf); 2] {
        [("data", &self.paths.data), ("conf", &self.paths.conf)]
    }

    /// Whether all files of the list are there, in the length that they had.
    fn check(&self, list: &List) -> Result<(), Error> {
        for kept in &list.files {
            let size = fs_err::metadata(self.dir.join(&kept.path))?.len();
            if size < kept.size {
                let problem = format!("has {size} bytes of {} instead of {}", kept.path.display(), kept.size);
                return Err(Error::PreImage { path: self.dir.clone(), problem });
            }
        }
        Ok(())
    }

    fn read_list(&self) -> Result<Option<List>, Error> {
        Ok(self.read(LIST)?)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs_err::read(self.dir.join(name)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whole or not at all, and on the disk.
    fn write_down(&self, name: &str, value: &impl Serialize) -> io::Result<()> {
        let new = self.dir.join("preimage.new");
        let file = fs_err::File::create(&new)?;
        serde_json::to_writer(&file, value)?;
        file.sync_data()?;
        fs_err::rename(&new, self.dir.join(name))?;
        fs_err::File::open(&self.dir)?.sync_all()
    }

    fn ensure_dirs(&self) -> io::Result<()> {
        for dir in [&self.paths.pre, &self.dir] {
            ensure_private_dir(dir)?;
        }
        for (part, dir) in self.parts() {
            ensure_like(&self.dir.join(part), dir)?;
        }
        Ok(())
    }

    /// Gives a copy that can be trusted once it is on the disk, and how its file looked.
    fn keep(&self, dir: &Path, part: &str, file: &File, pace: Pace) -> io::Result<Option<(Copy, String)>> {
        let copy = self.copy_of(dir, part, file);
        if let (Some(below), Some(like)) = (copy.to.parent(), copy.from.parent()) {
            ensure_like(below, like)?;
        }
        let seen = match file.kind {
            Kind::Replaced => copy.ensure_link(file.inode, pace).map(|()| None),
            Kind::Appended => copy.ensure_grown(pace).map(|()| None),
            Kind::Other => copy.ensure_fresh(pace),
        };
        Ok(seen?.map(|is| (copy, is)))
    }

    fn copy_of(&self, dir: &Path, part: &str, file: &File) -> Copy {
        let known = |what: &str| self.dir.join(what).join(part).join(&file.path);
        Copy {
            from: dir.join(&file.path),
            to: self.dir.join(part).join(&file.path),
            of: known("of"),
            seen: known("seen"),
        }
    }
}

/// How long that much takes to be copied.
pub(crate) fn copy_millis(bytes: u64) -> u64 {
    bytes * 1000 / BYTES_A_SECOND
}

fn ensure_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// A directory with the owner of another one.
fn ensure_like(dir: &Path, like: &Path) -> io::Result<()> {
    ensure_private_dir(dir)?;
    let like = fs_err::metadata(like)?;
    if fs_err::metadata(dir)?.uid() != like.uid() {
        rustix::fs::chown(dir, Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::site::Paths;

    /// The pre-image of a volume with these files, changed so many seconds ago.
    fn preimage(volume: &Path, files: &[(&str, &str, u64)]) -> PreImage {
        let paths = Paths::of(volume);
        for (name, content, age) in files {
            let path = paths.data.join(name);
            fs_err::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs_err::write(&path, content).expect("a file");
            let file = std::fs::File::options().write(true).open(&path).expect("the file");
            file.set_modified(SystemTime::now() - Duration::from_secs(*age)).expect("its time");
        }
        fs_err::create_dir_all(&paths.conf).expect("a directory");
        PreImage::of(&paths, OperationId(uuid::Uuid::from_u128(1)), |_| Some(Kind::Other))
    }

    #[test]
    fn files_of_any_name_are_kept_and_put_back() {
        let volume = tempfile::tempdir().expect("a directory");
        let image =
            preimage(volume.path(), &[("temp-seen-x", "a", 9), ("db/temp-of-t.ibd", "b", 9), ("db/t.ibd", "c", 9)]);
        image.copy_ahead().expect("copies");
        assert_eq!(image.complete().expect("a pre-image"), 3);
        let data = volume.path().join("data");
        fs_err::remove_dir_all(data.join("db")).expect("they go");
        fs_err::write(data.join("temp-seen-x"), "other").expect("it changes");
        image.restore().expect("all of it back");
        for (name, content) in [("temp-seen-x", "a"), ("db/temp-of-t.ibd", "b"), ("db/t.ibd", "c")] {
            assert_eq!(fs_err::read_to_string(data.join(name)).expect("a file"), content, "{name}");
        }
    }

    #[test]
    fn directories_without_files_are_kept_and_put_back() {
        let volume = tempfile::tempdir().expect("a directory");
        let image = preimage(volume.path(), &[("t.ibd", "a", 9)]);
        let empty = volume.path().join("data/shop/inner");
        fs_err::create_dir_all(&empty).expect("a database without tables");
        image.complete().expect("a pre-image");
        fs_err::remove_dir_all(volume.path().join("data/shop")).expect("it goes");
        image.restore().expect("all of it back");
        assert!(empty.is_dir());
    }

    #[test]
    fn half_a_pre_image_is_never_put_back() {
        let volume = tempfile::tempdir().expect("a directory");
        let image = preimage(volume.path(), &[("t.ibd", "before", 9)]);
        let data = volume.path().join("data/t.ibd");
        let found = || fs_err::read_to_string(&data).expect("the data are there");
        image.copy_ahead().expect("copies");
        fs_err::write(&data, "after").expect("it changes");
        image.restore().expect("nothing happens");
        assert_eq!(found(), "after", "it was not complete");
        image.complete().expect("a pre-image");
        fs_err::write(image.dir.join("data/t.ibd"), "aft").expect("it is damaged");
        fs_err::write(&data, "later").expect("it changes");
        let refused = image.restore().expect_err("something of it is missing").to_string();
        assert!(refused.contains("3 bytes of data/t.ibd instead of 5"), "{refused}");
        assert_eq!(found(), "later", "nothing of it was touched");
    }

    #[test]
    fn a_pre_image_survives_what_is_done_to_its_copy() {
        let volume = tempfile::tempdir().expect("a directory");
        let image = preimage(volume.path(), &[("db/t.ibd", "then", 9)]);
        image.complete().expect("a pre-image");
        let data = volume.path().join("data/db/t.ibd");
        let later = PreImage::of(&image.paths, OperationId(uuid::Uuid::from_u128(2)), image.kinds);
        for what in ["once", "twice"] {
            fs_err::write(&data, "since").expect("it changes");
            let ready = later.ready();
            ready.be_copy_of(&image).expect("a copy");
            ready.be_copy_of(&image).expect("it is there");
            later.complete().expect("what there is now");
            ready.restore().expect("what there was");
            assert_eq!(fs_err::read_to_string(&data).expect("a file"), "then", "{what}");
            // In place, as engines of SQL write.
            fs_err::write(&data, "spoiled").expect("it changes");
            later.restore().expect("what there was before that");
            assert_eq!(fs_err::read_to_string(&data).expect("a file"), "since", "{what}");
            later.discard().expect("all of it goes");
        }
        assert_eq!(image.bytes().expect("a size"), 4);
        let gone = PreImage::of(&image.paths, OperationId(uuid::Uuid::from_u128(3)), image.kinds);
        assert!(later.ready().be_copy_of(&gone).is_err(), "there is nothing to copy");
    }

    #[test]
    fn what_is_written_after_it_was_copied_is_stale_and_so_is_what_was_written_just_before() {
        let volume = tempfile::tempdir().expect("a directory");
        let files = [("old", "12345", 60), ("settled", "123", 4), ("new", "1234567", 0)];
        let image = preimage(volume.path(), &files);
        assert_eq!(image.stale_bytes().expect("all of it"), 15, "nothing was copied yet");
        image.copy_ahead().expect("copies");
        assert_eq!(image.stale_bytes().expect("the newest"), 7);
        fs_err::write(volume.path().join("data/old"), "54321").expect("it changes");
        assert_eq!(image.stale_bytes().expect("both"), 12);
        let estimate = PreImage::estimate(&image.paths, image.kinds).expect("an estimate");
        assert_eq!((estimate.bytes, estimate.stale_bytes), (15, 15), "all but what nobody wrote to for a minute");
    }

    #[test]
    fn what_nobody_wrote_to_for_a_minute_is_not_thought_to_be_copied_again() {
        let volume = tempfile::tempdir().expect("a directory");
        let image = preimage(volume.path(), &[("quiet", "123", 61), ("busy", "12345", 30)]);
        let estimate = PreImage::estimate(&image.paths, image.kinds).expect("an estimate");
        assert_eq!((estimate.bytes, estimate.stale_bytes), (8, 5));
    }
}
