//! A clock of a world's own, for its servers: the machine's, and as much more or less as a test says.
//!
//! A library between the server and the C library tells the time; it reads the difference anew each time that it is asked.
//! Agents get nothing of their server's environment, so theirs is the machine's, as that of engines: no kernel has a time of
//! day for some of its processes.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static volatile long long *more;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("COFFER_TEST_CLOCK"), O_RDONLY | O_CLOEXEC);
    void *at = mmap(0, 4096, PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) more = at;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, which, now);
    if (done == 0 && which == CLOCK_REALTIME && more) now->tv_sec += *more;
    return done;
}
"#;

/// A difference to the machine's clock, in a file that others read.
#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    difference: PathBuf,
}

impl Clock {
    /// Makes one beside a world's data.
    pub(crate) fn make(data: &Path) -> Self {
        let clock = Self { library: data.with_extension("so"), difference: data.with_extension("clock") };
        let source = data.with_extension("c");
        fs_err::write(&source, LIBRARY).expect("the source");
        let built = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).args([&clock.library, &source]).output();
        let built = built.expect("a C compiler, which Rust needs as well");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let _ = fs_err::remove_file(source);
        fs_err::write(&clock.difference, [0; 4096]).expect("the difference");
        clock
    }

    /// What a server has to have in its environment.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        let path = |path: &Path| path.to_str().expect("a path in UTF-8").to_owned();
        [("LD_PRELOAD", path(&self.library)), ("COFFER_TEST_CLOCK", path(&self.difference))]
    }

    /// Makes it say so many seconds more than the machine's.
    pub(crate) fn set(&self, seconds: i64) {
        let file = fs_err::OpenOptions::new().write(true).open(&self.difference).expect("the difference");
        file.file().write_all_at(&seconds.to_ne_bytes(), 0).expect("the difference");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        for file in [&self.library, &self.difference] {
            let _ = fs_err::remove_file(file);
        }
    }
}
