//! Whether an append-only file in parts is what its engine takes it for.
//!
//! Where the disk is full, an engine writes a part of a command, cuts that off, and writes on from where it had been, since it
//! opens increments without `O_APPEND` (Redis 7.0 to 8, Valkey): what was cut off comes back as zeros, and no engine loads the
//! file any more. The engine says meanwhile that its last write went well. Seen with Redis 7.0.15. What it says the file's size to be
//! does not tell: after it was turned off and on again that is another number anyway.

use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use coffer_core::engine::redis::config::{AOF, AOF_DIR};
use rustix::fs::OFlags;

use crate::site::open;

/// No line before or between the words of a command is longer.
const LINE: u64 = 64;

/// The files that an engine would load after the base, in its order.
fn increments(data: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = data.join(AOF_DIR);
    let mut manifest = String::new();
    match open(&dir.join(format!("{AOF}.manifest")), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(mut file) => file.read_to_string(&mut manifest)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    // `file NAME seq N type i`; others are the base, and what is of no use any more.
    let name = |line: &str| {
        let (name, _) = line.strip_prefix("file ")?.strip_suffix(" type i")?.rsplit_once(" seq ")?;
        (!name.contains('/')).then(|| dir.join(name))
    };
    Ok(manifest.lines().filter_map(name).collect())
}

/// How far increments were looked at: which file it was, and where its next command begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sound {
    inode: u64,
    at: u64,
}

/// Where what was written since the last rewrite stops to be commands. A command that is just being written is none. What was found
/// to be sound is not looked at again. Blocks.
pub(super) fn broken_at(data: &Path, sound: &mut Sound) -> io::Result<Option<u64>> {
    for path in increments(data)? {
        let file = open(&path, OFlags::RDONLY | OFlags::NONBLOCK)?;
        let inode = file.metadata()?.ino();
        if sound.inode != inode {
            *sound = Sound { inode, at: 0 };
        }
        let mut file = BufReader::new(file);
        file.seek(SeekFrom::Start(sound.at))?;
        loop {
            match command(&mut file)? {
                Read::Whole(bytes) => sound.at += bytes,
                Read::End => break,
                Read::Broken => return Ok(Some(sound.at)),
            }
        }
    }
    Ok(None)
}

/// What was read of a command.
enum Read {
    /// All of it, so many bytes.
    Whole(u64),
    /// Nothing, or its beginning.
    End,
    /// It is none.
    Broken,
}

fn command(file: &mut BufReader<std::fs::File>) -> io::Result<Read> {
    let mut line = Vec::new();
    let mut bytes = 0;
    // How many are still to come; none before the first line.
    let mut words = 0;
    loop {
        line.clear();
        file.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        bytes += line.len() as u64;
        let number = |sign| {
            let text = line.strip_prefix(&[sign])?.strip_suffix(b"\r\n")?;
            std::str::from_utf8(text).ok()?.parse::<u32>().ok()
        };
        match line.first() {
            _ if (line.len() as u64) < LINE && !line.ends_with(b"\n") && !line.starts_with(b"\0") => {
                return Ok(Read::End);
            }
            Some(b'#') if words == 0 => return Ok(Read::Whole(bytes)),
            Some(b'*') if words == 0 => match number(b'*') {
                Some(0) | None => return Ok(Read::Broken),
                Some(count) => words = count,
            },
            Some(b'$') if words > 0 => {
                let Some(length) = number(b'$') else { return Ok(Read::Broken) };
                let length = i64::from(length) + 2;
                // Beyond the end the next line is empty.
                file.seek_relative(length)?;
                bytes += length.unsigned_abs();
                words -= 1;
                if words == 0 {
                    return Ok(Read::Whole(bytes));
                }
            }
            _ => return Ok(Read::Broken),
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const WRITE: &str = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\n\0\r\n*7\r\n";

    fn file(increment: &[u8]) -> TempDir {
        let data = tempfile::tempdir().expect("a directory");
        let dir = data.path().join(AOF_DIR);
        fs_err::create_dir(&dir).expect("a directory");
        let manifest = format!(
            "file {AOF}.2.base.rdb seq 2 type b\nfile {AOF}.1.incr.aof seq 1 type h\nfile {AOF}.2.incr.aof seq 2 type i\n"
        );
        for (name, bytes) in [
            ("manifest", manifest.as_bytes()),
            ("2.base.rdb", b"REDIS0011"),
            ("1.incr.aof", b"of no use any more"),
            ("2.incr.aof", increment),
        ] {
            fs_err::write(dir.join(format!("{AOF}.{name}")), bytes).expect("a file");
        }
        data
    }

    fn broken(data: &TempDir) -> Option<u64> {
        broken_at(data.path(), &mut Sound::default()).expect("read")
    }

    #[test]
    fn where_no_such_file_is_nothing_is_broken() {
        assert_eq!(broken(&tempfile::tempdir().expect("a directory")), None);
    }

    #[test]
    fn what_was_sound_is_not_looked_at_again_and_another_file_is() {
        let data = file(format!("{WRITE}*3").as_bytes());
        let mut sound = Sound::default();
        assert_eq!(broken_at(data.path(), &mut sound).expect("read"), None);
        assert_eq!(sound.at, WRITE.len() as u64);
        let path = data.path().join(AOF_DIR).join(format!("{AOF}.2.incr.aof"));
        let mut bytes = vec![0; WRITE.len()];
        bytes.extend(WRITE.as_bytes());
        // The same file, of which the beginning is of no concern any more.
        fs_err::write(&path, &bytes).expect("a file");
        assert_eq!(broken_at(data.path(), &mut sound).expect("read"), None);
        assert_eq!(sound.at, 2 * WRITE.len() as u64);
        fs_err::write(path.with_extension("other"), &bytes).expect("a file");
        fs_err::rename(path.with_extension("other"), &path).expect("another file");
        assert_eq!(broken_at(data.path(), &mut sound).expect("read"), Some(0));
    }

    #[test]
    fn commands_are_sound_up_to_one_that_is_being_written() {
        let whole = format!("#TS:1764288000\r\n{WRITE}{WRITE}");
        for end in (WRITE.len() + 16..=whole.len()).chain([0, 3]) {
            let data = file(&whole.as_bytes()[..end]);
            assert_eq!(broken(&data), None, "up to {end}");
        }
    }

    #[test]
    fn a_hole_between_commands_is_found() {
        for zeros in [1, 24, 5000] {
            let mut bytes = WRITE.as_bytes().to_vec();
            bytes.extend(vec![0; zeros]);
            for after in ["", WRITE] {
                bytes.extend(after.as_bytes());
                assert_eq!(broken(&file(&bytes)), Some(WRITE.len() as u64), "{zeros}");
            }
        }
        assert_eq!(broken(&file(b"*3\r\n$3\r\nSET\r\n+no\r\n")), Some(0));
    }
}
