//! Makes a copy the same as its file by writing only what differs.
//!
//! Engines write here and there into large files. While nobody is served, reading both from memory and comparing them takes a
//! fraction of the time that writing all of it again does.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::thread;

/// What is written where anything in it differs: a page of most engines.
const PIECE: usize = 16 << 10;
/// What is read at once. Twice that fits into the cache of a processor.
const READ: usize = 256 << 10;
/// Less than that is not worth a thread.
const SHARE: u64 = 16 << 20;

/// How many threads may work at once while nobody is served. More than that wait for memory.
pub(super) fn all_threads() -> NonZeroUsize {
    let four = const { NonZeroUsize::new(4).unwrap() };
    thread::available_parallelism().map_or(NonZeroUsize::MIN, |all| all.min(four))
}

/// Makes the copy the same as the file, as far as the copy goes; what it has beyond the end of the file goes. Gives how many bytes
/// were written. A file that is written to meanwhile may be copied in part as it was before.
pub(super) fn mend(file: &File, copy: &File, threads: NonZeroUsize) -> io::Result<u64> {
    let both = file.metadata()?.len().min(copy.metadata()?.len());
    copy.set_len(both)?;
    let share = both.div_ceil(threads.get() as u64).max(SHARE).next_multiple_of(READ as u64);
    thread::scope(|scope| {
        let ranges = (0..both.div_ceil(share)).map(|n| n * share..both.min((n + 1) * share));
        let workers: Vec<_> = ranges.map(|range| scope.spawn(|| mend_range(file, copy, range))).collect();
        workers.into_iter().map(|worker| worker.join().map_err(|_| io::Error::other("a copy broke off"))?).sum()
    })
}

fn mend_range(file: &File, copy: &File, range: Range<u64>) -> io::Result<u64> {
    let (mut is, mut was) = (vec![0; READ], vec![0; READ]);
    let (mut at, mut written) = (range.start, 0);
    while at < range.end {
        let wanted = usize::try_from(range.end - at).map_or(READ, |left| left.min(READ));
        let got = read(file, &mut is[..wanted], at)?.min(read(copy, &mut was[..wanted], at)?);
        // It became shorter meanwhile, and its copy is none any more.
        if got == 0 {
            break;
        }
        let mut piece_at = at;
        for (is, was) in is[..got].chunks(PIECE).zip(was[..got].chunks(PIECE)) {
            if is != was {
                copy.write_all_at(is, piece_at)?;
                written += is.len() as u64;
            }
            piece_at += is.len() as u64;
        }
        at += got as u64;
    }
    Ok(written)
}

/// As much as there is.
fn read(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < into.len() {
        match file.read_at(&mut into[got..], at + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with this content, and its content after it was mended to be like another.
    fn mended(from: &[u8], to: &[u8]) -> (Vec<u8>, u64) {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, copy) = (dir.path().join("file"), dir.path().join("copy"));
        fs_err::write(&file, to).expect("a file");
        fs_err::write(&copy, from).expect("a copy");
        let open = |path| File::options().read(true).write(true).open(path).expect("open");
        let written = mend(&open(&file), &open(&copy), all_threads()).expect("mended");
        (fs_err::read(copy).expect("the copy"), written)
    }

    #[test]
    fn only_what_differs_is_written() {
        let size = usize::try_from(3 * SHARE).expect("small") + 100;
        let old: Vec<u8> = (0..=250).cycle().take(size).collect();
        let mut new = old.clone();
        let shares = usize::try_from(SHARE).expect("small");
        for at in [0, PIECE * 7 + 3, shares - 1, shares, 2 * shares + 5, size - 1] {
            new[at] ^= 1;
        }
        let (is, written) = mended(&old, &new);
        assert!(is == new, "all of it is the same");
        assert_eq!(written, 5 * PIECE as u64 + 100);
        assert_eq!(mended(&new, &new).1, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_copy_becomes_what_the_file_is_as_far_as_it_goes(
            (old, new) in (0..3 * READ, 0..3 * READ),
            changes in prop::collection::vec((0..3 * READ, any::<u8>()), 0..20),
        ) {
            let old: Vec<u8> = vec![7; old];
            let mut new: Vec<u8> = vec![7; new];
            for (at, value) in changes {
                if let Some(byte) = new.get_mut(at) {
                    *byte = value;
                }
            }
            let (is, _) = mended(&old, &new);
            prop_assert!(is == new[..old.len().min(new.len())]);
        }
    }
}
