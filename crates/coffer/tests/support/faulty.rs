//! An engine image that is what it says it is, answers, passes every trial, and fails when it gets to see data.
//!
//! It is an image of a real engine whose program has been replaced by one that begins the real program, and before that
//! does what the file `mood` in the instance's `run` directory says, or one that has its version in its name. Without such a file
//! it is the real program, so it passes as one wherever it is only tried.

use std::process::Command;

use super::world::{Instance, World};

/// What the engine does when it is started on data.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mood {
    /// It ends.
    Ends,
    /// It starts with nothing.
    Forgets,
    /// It starts without what was written last.
    Tears,
}

impl Mood {
    pub(crate) const ALL: [Self; 3] = [Self::Ends, Self::Forgets, Self::Tears];
}

/// The program, which has to run in a root that has no libraries of ours: it is linked statically.
const PROGRAM: &str = r#"
use std::os::unix::process::CommandExt as _;
fn main() {
    let read = |name: &str| std::fs::read_to_string(name).ok();
    let mood = read("/run/mood-VERSION").or_else(|| read("/run/mood")).unwrap_or_default();
    match mood.as_str() {
        "" => {}
        "Ends" => std::process::exit(3),
        "Forgets" => std::fs::read_dir("/data").unwrap().flatten().for_each(|entry| {
            let _ = std::fs::remove_dir_all(entry.path());
            let _ = std::fs::remove_file(entry.path());
        }),
        "Tears" => {
            let appended: Vec<_> = ["/data", "/data/appendonlydir"].iter().filter_map(|dir| std::fs::read_dir(dir).ok())
                .flatten().flatten().map(|entry| entry.path())
                .filter(|path| path.to_string_lossy().ends_with(".incr.aof") || path.ends_with("appendonly.aof")).collect();
            for path in appended {
                let size = std::fs::metadata(&path).unwrap().len();
                let left = if path.ends_with("appendonly.aof") { size * 9 / 10 } else { 0 };
                std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(left).unwrap();
            }
        }
        other => panic!("{other:?} is no mood"),
    }
    let mut arguments = std::env::args_os();
    let real = format!("{}.real", arguments.next().unwrap().to_string_lossy());
    panic!("{}", std::process::Command::new(real).args(arguments).exec());
}
"#;

/// Makes the image from that of `redis real` and imports it as `redis version`, which has to be in the catalogue, and is
/// as long. Before the server is started.
pub(crate) fn import(world: &World, real: &str, version: &str) {
    assert_eq!(real.len(), version.len());
    let list = world.coffer(["engine", "list", "-o", "json"]).ok().json();
    let image = list.as_array().expect("a list").iter().find(|r| r["Datastore"] == "redis" && r["Version"] == real);
    let digest = image.and_then(|image| image["Digest"].as_str()).unwrap_or_else(|| panic!("no image of {real}"));
    let root = world.data().join("engines/roots").join(digest.replace(':', "-"));
    let copy = world.data().join(format!("faulty-{version}"));
    run(Command::new("cp").arg("-a").arg(&root).arg(&copy));
    run(Command::new("chmod").arg("-R").arg("u+w").arg(&copy));
    let program = copy.join("usr/bin/redis-server");
    let mut bytes = fs_err::read(&program).expect("the real program");
    // It says that it is the other version wherever it says that it is itself.
    for at in 0..=bytes.len() - real.len() {
        if bytes[at..].starts_with(real.as_bytes()) {
            bytes[at..at + real.len()].copy_from_slice(version.as_bytes());
        }
    }
    let renamed = program.with_extension("real");
    fs_err::rename(&program, &renamed).expect("a rename");
    fs_err::write(&renamed, bytes).expect("the real program");
    let source = world.data().join("faulty.rs");
    fs_err::write(&source, PROGRAM.replace("VERSION", version)).expect("the source");
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    run(compiler.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]).arg(&program).arg(&source));
    let copy = copy.to_str().expect("a path in UTF-8");
    world.coffer(["engine", "import", "redis", version, copy]).ok();
}

/// Says what the engine does from the next start on.
pub(crate) fn set_mood(world: &World, instance: &Instance, mood: Mood) {
    write_mood(world, instance, "mood", mood);
}

/// The same of the engine of one version alone; `None`: it does as the real one.
pub(crate) fn set_mood_of(world: &World, instance: &Instance, version: &str, mood: Option<Mood>) {
    let name = format!("mood-{version}");
    match mood {
        Some(mood) => write_mood(world, instance, &name, mood),
        None => fs_err::remove_file(world.volume(&instance.id).join("run").join(name)).expect("a mood"),
    }
}

fn write_mood(world: &World, instance: &Instance, name: &str, mood: Mood) {
    let file = world.volume(&instance.id).join("run").join(name);
    fs_err::write(&file, format!("{mood:?}")).expect("the mood");
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs_err::set_permissions(file, readable).expect("the mood's mode");
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is there");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The entry of the catalogue for such an image.
pub(crate) fn entry(version: &str) -> String {
    format!(
        "[[release]]\ndatastore = \"redis\"\nversion = {version:?}\nbinary = \"/usr/bin/redis-server\"\n\
         [[release.source]]\nfrom = \"root\"\npath = \"nowhere\"\n"
    )
}
