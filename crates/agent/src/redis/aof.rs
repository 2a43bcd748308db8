//! Whether an append-only file in parts is what its engine takes it for.
//!
//! Where the disk is full, an engine writes a part of a command, cuts that off, and writes on from where it had been, since it
//! opens increments without `O_APPEND` (Redis 7.0 to 8, Valkey): what was cut off comes back as zeros, and no engine loads the
//! file any more. The engine says meanwhile that its last write went well. Seen with Redis 7.0.15. What it says the file's size to be
//! does not tell: after it was turned off and on again that is another number anyway.
//!
//! A power cut leaves zeros at the end of a file whose size was written and whose data were not (ext4). Engines cut off a command
//! that is not whole, but not zeros. Such zeros are nothing that an engine could load, and [`mend`] takes them away. What was cut
//! off at the first hole of a file was written again behind it; a second one takes the place of commands, since the engine's own
//! count is too small from the first on.

use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use coffer_core::engine::redis::config::{AOF, AOF_DIR};
use rustix::fs::OFlags;

use crate::site::open;

/// No line before or between the words of a command is longer.
const LINE: u64 = 64;

/// No manifest is longer.
const MANIFEST: u64 = 1 << 20;

/// No disk that was full for a while leaves a longer hole: an engine writes no more than this at a time.
const HOLE: u64 = 1 << 30;

/// The files that an engine would load after the base, in its order.
fn increments(data: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = data.join(AOF_DIR);
    let mut manifest = String::new();
    match open(&dir.join(format!("{AOF}.manifest")), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(file) => file.take(MANIFEST).read_to_string(&mut manifest)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    // `file NAME seq N type i`, and more words since Redis 8; others are the base, and what is of no use any more.
    let name = |line: &str| {
        let (name, rest) = line.strip_prefix("file ")?.split_once(" seq ")?;
        let kind = rest.split_once(" type ")?.1.split(' ').next();
        (kind == Some("i") && !name.contains('/')).then(|| dir.join(name))
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
                Read::Broken(_) => return Ok(Some(sound.at)),
            }
        }
    }
    Ok(None)
}

/// What engines say, before they end, of an append-only file that they do not take.
pub(crate) const REFUSED: &str = "reading the append only file";

/// Takes zeros away where commands should be, and gives how many those were: at the end by making the file shorter, between
/// commands, where those behind are needed, by a remark of their length, which engines skip. Nothing is touched where something
/// else is wrong too, or nothing is. For files that no engine has open. Blocks.
pub(crate) fn mend(data: &Path) -> io::Result<Option<u64>> {
    // Whoever ran here may have put anything in its place.
    if !fs_err::symlink_metadata(data.join(AOF_DIR)).is_ok_and(|dir| dir.is_dir()) {
        return Ok(None);
    }
    let paths = increments(data)?;
    let mut wrong = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        let mut file = open(path, OFlags::RDWR | OFlags::NONBLOCK)?;
        let is_file = file.metadata()?.is_file();
        let is_last = at + 1 == paths.len();
        let Some(zeros) = is_file.then(|| zeros(&mut file, is_last)).transpose()?.flatten() else { return Ok(None) };
        wrong.push((file, zeros));
    }
    let mut taken = 0;
    for (file, zeros) in wrong.into_iter().filter(|(_, zeros)| !zeros.is_empty()) {
        let size = file.metadata()?.len();
        for zeros in zeros {
            taken += zeros.end - zeros.start;
            if zeros.end == size { file.set_len(zeros.start)? } else { fill(&file, zeros)? }
        }
        file.sync_all()?;
    }
    Ok((taken > 0).then_some(taken))
}

/// Where there are zeros in place of commands: in one hole at the most, and at the end. Nothing if something is wrong that they are
/// not the reason of.
fn zeros(file: &mut std::fs::File, is_last: bool) -> io::Result<Option<Vec<Range<u64>>>> {
    let size = file.metadata()?.len();
    let (mut found, mut at) = (Vec::new(), 0);
    let mut file = BufReader::new(file);
    while at < size {
        match command(&mut file)? {
            Read::Whole(bytes) => at += bytes,
            // Of what comes last the engine itself cuts off what is not whole.
            Read::End => return Ok(is_last.then_some(found)),
            Read::Broken(from) => {
                let end = end_of_zeros(&mut file, at)?;
                if end == at {
                    // In the middle of a command: there may be nothing but zeros from there on.
                    let tail = tail_of_zeros(&mut file, at)?;
                    found.push(tail..size);
                    return Ok((is_last && tail < size && at + from >= tail).then_some(found));
                }
                // There is no remark of one byte.
                let is_harmless =
                    if end < size { found.is_empty() && (2..=HOLE).contains(&(end - at)) } else { is_last };
                if !is_harmless {
                    return Ok(None);
                }
                found.push(at..end);
                at = end;
                file.seek(SeekFrom::Start(at))?;
            }
        }
    }
    Ok(Some(found))
}

/// Where the zeros end that begin here.
fn end_of_zeros(file: &mut (impl io::BufRead + io::Seek), mut at: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(at))?;
    loop {
        let bytes = file.fill_buf()?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        let goes_on = zeros > 0 && zeros == bytes.len();
        file.consume(zeros);
        at += zeros as u64;
        if !goes_on {
            return Ok(at);
        }
    }
}

/// From where on, not before `at`, there is nothing but zeros to the end.
fn tail_of_zeros(file: &mut (impl io::BufRead + io::Seek), mut at: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(at))?;
    let mut tail = at;
    loop {
        let bytes = file.fill_buf()?;
        if bytes.is_empty() {
            return Ok(tail);
        }
        if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
            tail = at + last as u64 + 1;
        }
        let length = bytes.len();
        file.consume(length);
        at += length as u64;
    }
}

/// Puts a remark in the place of these bytes, two at least: lines that begin with `#`, which engines skip since 7.0. One begins with
/// each block of the disk, so that what only came there in part is mended again.
fn fill(file: &std::fs::File, zeros: Range<u64>) -> io::Result<()> {
    const LINES: u64 = 32;
    let Range { start: mut at, end } = zeros;
    let (mut lines, mut from) = (Vec::new(), at);
    while at < end {
        let aligned = (at + 2).next_multiple_of(LINES);
        // Never one byte is left over.
        let next = if aligned + 1 >= end { end } else { aligned };
        lines.push(b'#');
        lines.extend((at + 2..next).map(|_| b' '));
        lines.push(b'\n');
        at = next;
        if lines.len() > 1 << 16 || at == end {
            file.write_all_at(&lines, from)?;
            lines.clear();
            from = at;
        }
    }
    Ok(())
}

/// What was read of a command.
enum Read {
    /// All of it, so many bytes.
    Whole(u64),
    /// Nothing, or its beginning.
    End,
    /// It is none, from this byte of it on.
    Broken(u64),
}

fn command(file: &mut (impl io::BufRead + io::Seek)) -> io::Result<Read> {
    let mut line = Vec::new();
    let mut bytes = 0;
    // How many are still to come; none before the first line.
    let mut words = 0;
    loop {
        line.clear();
        file.by_ref().take(LINE).read_until(b'\n', &mut line)?;
        // Zeros in it are what is wrong with it, if it begins as it should.
        let from = bytes;
        let broken = from + line.iter().position(|byte| *byte == 0).unwrap_or(0) as u64;
        bytes += line.len() as u64;
        let number = |sign| {
            let text = line.strip_prefix(&[sign])?.strip_suffix(b"\r\n")?;
            std::str::from_utf8(text).ok()?.parse::<u32>().ok()
        };
        match line.first() {
            _ if (line.len() as u64) < LINE && !line.ends_with(b"\n") && !line.contains(&0) => {
                return Ok(Read::End);
            }
            Some(b'#') if words == 0 => return Ok(Read::Whole(bytes)),
            Some(b'*') if words == 0 => match number(b'*') {
                Some(0) | None => return Ok(Read::Broken(broken)),
                Some(count) => words = count,
            },
            Some(b'$') if words > 0 => {
                let Some(length) = number(b'$') else { return Ok(Read::Broken(broken)) };
                file.seek_relative(i64::from(length))?;
                bytes += u64::from(length);
                // Of a value that is lost in part and came back as zeros engines do not look at the end.
                let (mut end, mut there) = ([0; 2], 0);
                while there < end.len() {
                    match file.read(&mut end[there..])? {
                        0 => break,
                        read => there += read,
                    }
                }
                match end[..there] {
                    [b'\r', b'\n'] => bytes += 2,
                    [] | [b'\r'] => return Ok(Read::End),
                    [b'\r', _] => return Ok(Read::Broken(bytes + 1)),
                    _ => return Ok(Read::Broken(bytes)),
                }
                words -= 1;
                if words == 0 {
                    return Ok(Read::Whole(bytes));
                }
            }
            _ => return Ok(Read::Broken(from)),
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
            "file {AOF}.2.base.rdb seq 2 type b\nfile {AOF}.1.incr.aof seq 1 type h\nfile {AOF}.2.incr.aof seq 2 type i startoffset 0\n"
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

    /// What is left of an increment after it was mended; nothing if that was not done.
    fn mended(increment: &[u8]) -> Option<Vec<u8>> {
        let data = file(increment);
        let path = data.path().join(AOF_DIR).join(format!("{AOF}.2.incr.aof"));
        let taken = mend(data.path()).expect("mended");
        let now = fs_err::read(path).expect("a file");
        if taken.is_none() {
            assert_eq!(now, increment, "it was touched");
        }
        taken.map(|_| now)
    }

    #[test]
    fn zeros_at_the_end_are_cut_off_also_in_the_middle_of_a_command() {
        for cut in [WRITE, &WRITE[..9], &WRITE[..21], &WRITE[..26]] {
            for zeros in [1, 2, 63, 64, 65, 200_000] {
                let whole = format!("{WRITE}{cut}").into_bytes();
                let increment = [&whole[..], &vec![0; zeros]].concat();
                // Those of a value that is shorter with them than it should be are cut off with it by the engine.
                let expected = broken(&file(&increment)).map(|_| whole);
                assert_eq!(mended(&increment), expected, "{cut:?} {zeros}");
                assert!(expected.is_some() || zeros < 5, "{cut:?} {zeros}");
            }
        }
    }

    #[test]
    fn zeros_between_commands_become_a_remark_of_their_length() {
        for zeros in (2..8).chain(30..36).chain(62..68).chain([4096, 100_000]) {
            let increment = [WRITE.as_bytes(), &vec![0; zeros], WRITE.as_bytes(), &WRITE.as_bytes()[..5]].concat();
            let now = mended(&increment).expect("mended");
            assert_eq!(now.len(), increment.len());
            let (before, rest) = now.split_at(WRITE.len());
            let (remark, behind) = rest.split_at(zeros);
            assert_eq!([before, behind].concat(), [WRITE, WRITE, &WRITE[..5]].concat().as_bytes());
            for line in std::str::from_utf8(remark).expect("a text").split_inclusive('\n') {
                assert!(line.starts_with('#') && line.ends_with('\n') && line.len() < 127, "{zeros}: {line:?}");
            }
            let aligned = (WRITE.len() + 2..WRITE.len() + zeros - 2).filter(|at| at % 32 == 0);
            assert!(aligned.map(|at| now[at]).all(|byte| byte == b'#'), "{zeros}");
            assert_eq!(broken(&file(&now)), None, "{zeros}");
        }
    }

    #[test]
    fn what_is_sound_or_wrong_in_another_way_is_not_touched() {
        let cut = &WRITE.as_bytes()[..9];
        for increment in [
            &[WRITE.as_bytes()][..],
            &[WRITE.as_bytes(), cut],
            &[WRITE.as_bytes(), b"nonsense"],
            // One byte is too little room for a remark.
            &[WRITE.as_bytes(), b"\0", WRITE.as_bytes()],
            // A command is lost in part, and what follows with it.
            &[cut, &[0; 64], WRITE.as_bytes()],
            &[&WRITE.as_bytes()[..26], &[0; 64], WRITE.as_bytes()],
            // In the place of the second there were commands.
            &[WRITE.as_bytes(), &[0; 64], WRITE.as_bytes(), &[0; 64], WRITE.as_bytes()],
            &[WRITE.as_bytes(), b"nonsense", &[0; 64]],
            &[WRITE.as_bytes(), &[0; 64], WRITE.as_bytes(), b"nonsense", WRITE.as_bytes()],
        ] {
            assert_eq!(mended(&increment.concat()), None, "{increment:?}");
        }
        assert_eq!(mend(tempfile::tempdir().expect("a directory").path()).expect("nothing"), None);
    }
}
