//! Tests on real processes, each as root and again as an ordinary user, who needs no account for it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

/// An ordinary user without an account.
const ORDINARY: u32 = 61_234;

/// A test: a name, and what is done.
pub(crate) type Test = (&'static str, fn());

/// Runs all of them both ways.
pub(crate) fn run(tests: &'static [Test]) -> ExitCode {
    let trials = tests.iter().flat_map(|(name, test)| {
        let as_root = move || -> Result<(), Failed> {
            if is_root() {
                test();
            } else {
                println!("NOT RUN as root: {name}: this is an ordinary user; run the tests as root, too");
            }
            Ok(())
        };
        let as_ordinary = move || -> Result<(), Failed> {
            if is_root() {
                return again_as_ordinary_user(name);
            }
            test();
            Ok(())
        };
        [
            Trial::test(format!("as_root::{name}"), as_root),
            Trial::test(format!("as_ordinary_user::{name}"), as_ordinary),
        ]
    });
    // They look at this process's children and open files, so without nextest, which gives each its own, one by one.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// Runs nothing, and says so in the name of a test: a runner lists them before.
pub(crate) fn not_run(what: &str) -> ExitCode {
    let what = what.to_owned();
    let say = move || -> Result<(), Failed> {
        println!("NOT RUN: {what}");
        Ok(())
    };
    libtest_mimic::run(&Arguments::from_args(), vec![Trial::test("not_run", say)]).exit_code()
}

/// Runs one test in a process of an ordinary user, with a copy of this program, which may lie where that user can't read.
fn again_as_ordinary_user(name: &str) -> Result<(), Failed> {
    let place = tempfile::tempdir()?;
    fs_err::set_permissions(place.path(), PermissionsExt::from_mode(0o755))?;
    let program = place.path().join("tests");
    fs_err::copy(std::env::current_exe()?, &program)?;
    let output = Command::new(program)
        .args(["--exact", &format!("as_ordinary_user::{name}"), "--nocapture"])
        .uid(ORDINARY)
        .gid(ORDINARY)
        .current_dir("/")
        .output()?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned().into()) }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Puts a program without libraries there, under its own name and these.
pub(crate) fn install_busybox(bin: &Path, names: &[&str]) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("busybox: install the Debian package busybox-static");
    fs_err::create_dir_all(bin).expect("a directory");
    fs_err::copy(busybox, bin.join("busybox")).expect("a copy of busybox");
    for name in names {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("a link to busybox");
    }
}
