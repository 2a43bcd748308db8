//! Whose an engine's files are. Somebody who copies or repairs them as root gives them away without noticing, and an engine cannot
//! open what is not its own: so they are given back before each start.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchown, fstat, openat, statat};
use rustix::io::Errno;

use super::Paths;
use super::files::{File, Kinds, list, owner};
use crate::sandbox::User;

/// Files that were somebody else's.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    /// How many, directories among them.
    pub files: u64,
    /// Whose they were, by user id.
    pub from: BTreeSet<u32>,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from: Vec<_> = self.from.iter().map(u32::to_string).collect();
        let (what, user) = (plural(self.files, "file"), plural(self.from.len() as u64, "user"));
        write!(
            f,
            "{} {what} belonged to the {user} {} and the engine could not use them: ",
            self.files,
            from.join(", ")
        )?;
        f.write_str("they were given back to it")
    }
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// Gives all files and directories of data, configuration and socket that are somebody else's to the engine's user. One look at
/// each, and nothing more where all are its own. An ordinary user's engine is that user, who can give nothing.
pub(crate) fn give_back(paths: &Paths, user: User) -> io::Result<Given> {
    let mut given = Given::default();
    let Some(to) = owner(user) else { return Ok(given) };
    for dir in [&paths.data, &paths.conf, &paths.run] {
        let Some((dir, seen)) = open_dir(CWD, dir)? else { continue };
        let mut walk = Walk { to, device: seen.st_dev, given: &mut given };
        walk.take_dir(&dir, &seen)?;
    }
    Ok(given)
}

/// A walk through a directory in which an engine may do as it likes meanwhile. So each step is from an open directory, never
/// through a symbolic link, and never to another file system.
struct Walk<'a> {
    to: (Uid, Gid),
    device: u64,
    given: &'a mut Given,
}

impl Walk<'_> {
    fn take_dir(&mut self, dir: &OwnedFd, seen: &Stat) -> io::Result<()> {
        if self.is_foreign(seen) {
            fchown(dir, Some(self.to.0), Some(self.to.1))?;
        }
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if [c".", c".."].contains(&name) {
                continue;
            }
            let seen = match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                seen => seen?,
            };
            match FileType::from_raw_mode(seen.st_mode) {
                FileType::Directory => {
                    if let Some((below, seen)) = open_dir(dir, name)?.filter(|(_, seen)| seen.st_dev == self.device) {
                        self.take_dir(&below, &seen)?;
                    }
                }
                FileType::RegularFile if self.is_foreign(&seen) => {
                    match chownat(dir, name, Some(self.to.0), Some(self.to.1), AtFlags::SYMLINK_NOFOLLOW) {
                        Err(Errno::NOENT) => {}
                        done => done?,
                    }
                }
                // What it has no use for is left alone.
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether it is somebody else's, who is noted then.
    fn is_foreign(&mut self, seen: &Stat) -> bool {
        let is_foreign = seen.st_uid != self.to.0.as_raw();
        if is_foreign {
            self.given.files += 1;
            self.given.from.insert(seen.st_uid);
        }
        is_foreign
    }
}

/// A directory, and what it is; `None` where there is none of this name.
fn open_dir(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<Option<(OwnedFd, Stat)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(at, name, flags, Mode::empty()) {
        Ok(dir) => {
            let seen = fstat(dir.as_fd())?;
            Ok(Some((dir, seen)))
        }
        // It has gone, or something else has its name.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Files of data and configuration, and the data directory, of which the owner is not the engine: `data/x`. Who that is, is told by
/// the directory of its socket, which is made its own at each start.
pub(crate) fn foreign_files(paths: &Paths, kinds: Kinds) -> io::Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = fs_err::metadata(&paths.run)?.uid();
    let mut foreign = Vec::new();
    if fs_err::metadata(&paths.data)?.uid() != owner {
        foreign.push("data".to_owned());
    }
    for (name, dir) in [("data", &paths.data), ("conf", &paths.conf)] {
        let is_foreign = |file: &File| file.owner != owner;
        let named = |file: File| Path::new(name).join(&file.path).display().to_string();
        foreign.extend(list(dir, kinds)?.into_iter().filter(is_foreign).map(named));
    }
    Ok(foreign)
}

#[cfg(test)]
#[allow(clippy::print_stdout, reason = "what did not run is said")]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, lchown, symlink};

    use super::*;

    #[test]
    fn what_is_somebody_elses_is_given_to_the_engine_and_nothing_beyond_the_volume() {
        if !rustix::process::geteuid().is_root() {
            println!("NOT RUN: what_is_somebody_elses_is_given_to_the_engine: only root may give files away");
            return;
        }
        let (ours, theirs, root) = (54_321, 54_322, 0);
        let host = tempfile::tempdir().expect("a directory");
        let paths = Paths::of(&host.path().join("volume"));
        let outside = host.path().join("outside");
        fs_err::create_dir_all(outside.join("dir")).expect("a directory");
        fs_err::write(outside.join("file"), "").expect("a file");
        for dir in [paths.data.join("shop"), paths.conf.clone()] {
            fs_err::create_dir_all(dir).expect("a directory");
        }
        let files =
            ["data/ibdata1", "data/shop/t.ibd", "conf/my.cnf"].map(|name| host.path().join("volume").join(name));
        for file in &files {
            fs_err::write(file, "").expect("a file");
        }
        symlink(outside.join("file"), paths.data.join("file")).expect("a link");
        symlink(&outside, paths.data.join("dir")).expect("a link");
        lchown(&files[0], Some(theirs), Some(theirs)).expect("it is given away");
        lchown(&files[2], Some(ours), Some(ours)).expect("it is given away");

        let user = User::Fixed { uid: ours, gid: ours };
        let given = give_back(&paths, user).expect("all are given");
        // data, data/shop, both files below, and conf.
        assert_eq!(given, Given { files: 5, from: [root, theirs].into() });
        let is_of = |path: &Path| fs_err::symlink_metadata(path).map(|m| (m.uid(), m.gid())).expect("it is there");
        for path in files.iter().chain([&paths.data, &paths.data.join("shop"), &paths.conf]) {
            assert_eq!(is_of(path), (ours, ours), "{}", path.display());
        }
        for path in [outside.clone(), outside.join("file"), outside.join("dir")] {
            assert_eq!(is_of(&path), (root, root), "{}", path.display());
        }
        assert_eq!(give_back(&paths, user).expect("a second time"), Given::default());
        assert_eq!(give_back(&paths, User::Own).expect("nobody to give to"), Given::default());
    }

    #[test]
    fn how_many_and_whose_is_told() {
        let told = Given { files: 2, from: [0, 7].into() }.to_string();
        assert!(told.starts_with("2 files belonged to the users 0, 7 and"), "{told}");
        assert!(Given { files: 1, from: [0].into() }.to_string().starts_with("1 file belonged to the user 0 and"));
    }
}
