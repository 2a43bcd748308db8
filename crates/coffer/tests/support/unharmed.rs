//! What an instance is and holds, taken before something goes wrong with it and compared afterwards.

use std::collections::BTreeMap;

use serde_json::Value;

use super::dataset::{self, Summary};
use super::resp::Connection;
use super::world::{Instance, World, text, wait_for};

/// How an engine keeps its data, as `CONFIG GET` tells it.
const PERSISTENCE: [&str; 4] = ["appendonly", "save", "auto-aof-rewrite-percentage", "hz"];

/// An instance with what was in it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub instance: Instance,
    contents: Summary,
    persistence: BTreeMap<String, String>,
    version: String,
}

impl Known {
    /// Fills a new instance with `keys` keys of all kinds and remembers everything.
    #[track_caller]
    pub(crate) fn fill(world: &World, instance: &Instance, keys: usize) -> Self {
        let mut connection = world.redis(instance);
        dataset::load(&mut connection, keys).expect("the engine takes data");
        // What a start sets right afterwards is no measure of an upgrade's.
        wait_until_settled(world, &instance.id);
        Self {
            contents: dataset::summarize(&mut connection).expect("the engine tells its data"),
            persistence: persistence(&mut connection),
            version: text(&world.show(&instance.id)["datastore"]["version"]),
            instance: instance.clone(),
        }
    }

    /// Everything is as it was: data, configuration in force, version, and nothing is left of what was tried.
    #[track_caller]
    pub(crate) fn check_unharmed(&self, world: &World) {
        self.check(world, &self.version, &self.persistence);
        let left = below(world, &self.instance.id, "pre");
        assert!(left.is_empty(), "a pre-image of an upgrade that failed is left: {left:?}");
    }

    /// Everything is as it was, but in this version.
    #[track_caller]
    pub(crate) fn check_upgraded(&self, world: &World, version: &str) {
        self.check(world, version, &self.persistence);
    }

    /// Upgrades for real, after all that went wrong. All data moves along.
    #[track_caller]
    pub(crate) fn check_upgrades(&self, world: &World, version: &str) {
        world.coffer(["instance", "upgrade", &self.instance.id, version, "--wait"]).ok();
        self.check_upgraded(world, version);
        let shown = world.show(&self.instance.id);
        assert!(shown.get("fault").is_none_or(Value::is_null), "a fault is shown after an upgrade went well: {shown}");
    }

    #[track_caller]
    fn check(&self, world: &World, version: &str, persistence_before: &BTreeMap<String, String>) {
        let id = &self.instance.id;
        let mut shown = world.show(id);
        assert_eq!(shown["status"], "ACTIVE", "{shown}");
        assert_eq!(shown["datastore"]["version"], version, "{shown}");
        // What the agent saw reaches the control plane a moment later.
        wait_for("the running version to be told", || {
            shown = world.show(id);
            shown["running_version"] == version && shown["on_disk_version"] == version
        });
        let mut connection = world.redis(&self.instance);
        assert_eq!(dataset::summarize(&mut connection).expect("the engine tells its data"), self.contents);
        connection.ask(&["SET", "written afterwards", "1"]).expect("the engine takes writes");
        connection.ask(&["DEL", "written afterwards"]).expect("the engine takes writes");
        wait_until_settled(world, id);
        assert_eq!(&persistence(&mut connection), persistence_before, "a temporary measure is left");
        if persistence_before["appendonly"] == "no" {
            let data = below(world, id, "data");
            assert!(!data.iter().any(|name| name.starts_with("appendonly")), "an append-only file is left: {data:?}");
        }
        let agent = below(world, id, "agent");
        assert!(!agent.iter().any(|name| name == "trial"), "something is left of a trial: {agent:?}");
        check_cpu(id, &shown);
        let engines = world.engines_on(id);
        assert_eq!(engines.len(), 1, "engines that have the volume: {engines:?}");
    }
}

/// The engine has the processors of its flavor, and not those that it may have while it starts. Where nobody limits it, it has all.
#[track_caller]
pub(crate) fn check_cpu(id: &str, shown: &Value) {
    let files = ["coffer/{}/cpu.max", "cpu/coffer/{}/cpu.cfs_quota_us"];
    let quota = files.iter().find_map(|file| {
        let text = fs_err::read_to_string(format!("/sys/fs/cgroup/{}", file.replace("{}", id))).ok()?;
        text.split_whitespace().next().map(str::to_owned)
    });
    let enforced = shown["isolation"].to_string().contains("cpu limit: enforced");
    assert_eq!(quota.is_some(), enforced, "{}", shown["isolation"]);
    assert!(quota.is_none_or(|quota| quota.parse::<u64>().is_ok()), "there is no limit");
}

/// Asserts that the newest operation failed and was undone, and that everybody who asks is told why: all of `words` are in
/// the operation's cause and in the instance's fault.
#[track_caller]
pub(crate) fn check_fault(world: &World, id: &str, words: &[&str]) {
    let newest = world.operations(id).remove(0);
    assert_eq!(newest["phase"], "undone", "{newest:#}");
    let cause = newest["cause"].to_string();
    let shown = world.show(id);
    let fault = shown["fault"].to_string();
    for word in words {
        assert!(cause.contains(word), "the cause does not say {word:?}: {cause}");
        assert!(fault.contains(word), "the fault does not say {word:?}: {fault}");
    }
}

/// Waits until nothing temporary is in force.
#[track_caller]
pub(crate) fn wait_until_settled(world: &World, id: &str) {
    wait_for("temporary measures to end", || {
        let state = state(world, id);
        state["settle"].is_null() && state["section"].is_null()
    });
}

/// What the agent of the instance has written down. `null` when it is just replaced.
pub(crate) fn state(world: &World, id: &str) -> Value {
    let text = fs_err::read(world.volume(id).join("agent/state.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn persistence(connection: &mut Connection) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for name in PERSISTENCE {
        let reply = connection.ask(&["CONFIG", "GET", name]).expect("the tenant may see settings");
        let value = reply.items().pop().and_then(|value| value.text().map(<[u8]>::to_vec)).unwrap_or_default();
        found.insert(name.to_owned(), String::from_utf8_lossy(&value).into_owned());
    }
    found
}

/// The names in a directory of the instance.
fn below(world: &World, id: &str, part: &str) -> Vec<String> {
    let entries = fs_err::read_dir(world.volume(id).join(part)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
