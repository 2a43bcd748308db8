//! Everything that Coffer has on the machine for a world: processes, mounts, control groups, ports, files, rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::support::ledger::Ledger;
use super::support::unharmed::state;
use super::support::world::World;

/// How long what is on its way to its end may take for it.
const ENDING: Duration = Duration::from_secs(30);

/// What there is, by its name without what is another one each time, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remains(BTreeMap<String, usize>);

impl Remains {
    /// What there is now of a world that has had these instances.
    pub(crate) fn of(world: &World, instances: &BTreeSet<String>) -> Self {
        let mut remains = Self::default();
        remains.add_processes(world, instances);
        let data = world.data().display().to_string();
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mounts.lines().filter(|line| line.contains(&data)) {
            remains.add(format!("mount {}", line.split(' ').nth(4).unwrap_or_default()));
        }
        let hierarchies = fs_err::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for top in hierarchies.chain([Path::new("/sys/fs/cgroup").to_owned()]) {
            for id in instances.iter().filter(|id| top.join("coffer").join(id).exists()) {
                remains.add(format!("control group {}/coffer/{id}", top.display()));
            }
        }
        remains.add_ports(world, instances);
        let instances = world.data().join("instances");
        remains.add_files(&instances, &instances);
        for part in ["run", "engines/tmp"] {
            remains.add_files(&world.data().join(part), world.data());
        }
        remains
    }

    /// What is not of this instance.
    pub(crate) fn without(&self, instance: Option<&str>) -> Self {
        let Some(instance) = instance else { return self.clone() };
        Self(self.0.iter().filter(|(name, _)| !name.contains(instance)).map(|(k, v)| (k.clone(), *v)).collect())
    }

    fn add(&mut self, name: String) {
        *self.0.entry(name).or_default() += 1;
    }

    fn add_processes(&mut self, world: &World, instances: &BTreeSet<String>) {
        let data = world.data().to_path_buf();
        let us = std::process::id();
        // Those that have mounts of their own: the others have ours, and there is much to read.
        let our_mounts = fs_err::read_link("/proc/self/ns/mnt").unwrap_or_default();
        for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let read = |name: &str| fs_err::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).into_owned();
            if line.is_empty() {
                // The kernel's own, or one that has ended.
                continue;
            }
            let has_ours = fs_err::read_link(entry.path().join("ns/mnt")).is_ok_and(|theirs| theirs == our_mounts);
            let mounts = if has_ours { Vec::new() } else { read("mountinfo") };
            let mounts = String::from_utf8_lossy(&mounts);
            let cwd = fs_err::read_link(entry.path().join("cwd")).unwrap_or_default();
            let is_ours = line.contains(data.to_str().unwrap_or_default()) || cwd.starts_with(&data);
            let of = instances.iter().find(|id| {
                line.contains(id.as_str())
                    || cwd.to_string_lossy().contains(id.as_str())
                    || mounts.contains(&format!("/{id}/"))
            });
            if pid != us && (is_ours || of.is_some()) {
                let comm = String::from_utf8_lossy(&read("comm")).into_owned();
                // A program that was made to fail has the real one beside it.
                let name = comm.trim().trim_end_matches(".real");
                self.add(format!("process {name} of {}", of.map_or("the server", String::as_str)));
            }
        }
    }

    fn add_ports(&mut self, world: &World, instances: &BTreeSet<String>) {
        let has = |id: &&String, address: &str| state(world, id)["engine"]["address"] == address;
        // Not from /proc/net/tcp: it lists all connections, of which others have left thousands.
        let listed = Command::new("ss").args(["--tcp", "--listening", "--numeric", "--no-header"]).output();
        let listed = listed.expect("iproute2 is installed");
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        for line in String::from_utf8_lossy(&listed.stdout).lines() {
            let local = line.split_ascii_whitespace().nth(3).unwrap_or_default();
            let Ok(local) = local.parse::<SocketAddrV4>() else { continue };
            // Of several sockets of one port, connections are shared out; how many there are is the engine's affair.
            if local.ip().octets()[..3] == [127, 20, world.slice()] {
                let address = local.ip().to_string();
                let of = instances.iter().find(|id| has(id, &address)).map_or("nobody", String::as_str);
                self.0.insert(format!("port {local} of {of}"), 1);
            }
        }
    }

    /// Files by their paths below `top`. What engines write into their data is theirs, and pre-images are compared with what
    /// their agent knows.
    fn add_files(&mut self, directory: &Path, top: &Path) {
        for entry in fs_err::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
            let parts: Vec<_> = name.split('/').collect();
            // Room that is held back while there is some.
            let passing = matches!(parts.get(1..), Some(["agent", "reserve"] | ["run", "mood"]))
                // Made when they are needed first, as others are from the beginning.
                || matches!(parts.get(1..), Some(["agent", "upgrade.log" | "upgrade.lock" | "settings.json" | "settings.new"]));
            if path.is_dir() && !matches!(parts.get(1), Some(&("data" | "pre"))) {
                self.add_files(&path, top);
            }
            if !passing && !matches!((parts.get(1), parts.len()), (Some(&("data" | "pre")), 3..)) {
                self.add(format!("file {name}"));
            }
        }
    }
}

/// Asserts that what there is, is what there was before; what is on its way to its end is waited for.
#[track_caller]
pub(crate) fn assert_same(before: &Remains, now: impl Fn() -> Remains) {
    let deadline = Instant::now() + ENDING;
    loop {
        let now = now();
        if now == *before {
            return;
        }
        if Instant::now() > deadline {
            let mut told = String::new();
            for (name, count) in before.0.iter().filter(|(name, count)| now.0.get(*name) != Some(count)) {
                let _ = write!(told, "\n  {name}: {count} before, {} now", now.0.get(name).unwrap_or(&0));
            }
            for (name, count) in now.0.iter().filter(|(name, _)| !before.0.contains_key(*name)) {
                let _ = write!(told, "\n  {name}: 0 before, {count} now");
            }
            panic!("what there is, is not what there was:{told}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asserts that the pre-images of an instance are those that its agent knows.
#[track_caller]
pub(crate) fn assert_preimages_known(world: &World, id: &str) {
    super::support::world::wait_for("the pre-images that are there to be those that the agent knows", || {
        let state = state(world, id);
        let known = state["preimages"].as_array().map(Vec::as_slice).unwrap_or_default();
        let known: BTreeSet<_> =
            known.iter().filter_map(|kept| kept["operation"].as_str()).map(str::to_owned).collect();
        let entries = fs_err::read_dir(world.volume(id).join("pre")).into_iter().flatten().flatten();
        let there: BTreeSet<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        state["section"].is_null() && known == there
    });
}

/// Asserts that no row says that something goes on, or speaks of an instance that is gone.
#[track_caller]
pub(crate) fn assert_rows_settled(ledger: &mut Ledger) {
    for (what, sql) in [
        ("open operations", "SELECT COUNT(*) FROM operations WHERE is_open"),
        ("answers that nobody used", "SELECT COUNT(*) FROM task_results"),
        (
            "observations of instances that are gone",
            "SELECT COUNT(*) FROM observed o JOIN instances i ON i.id = o.instance_id WHERE i.deleted_at IS NOT NULL",
        ),
    ] {
        let deadline = Instant::now() + ENDING;
        let mut count = ledger.count(sql);
        while count != 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            count = ledger.count(sql);
        }
        assert_eq!(count, 0, "{what}");
    }
}
