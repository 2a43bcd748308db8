//! The boundaries between the crates, as `docs/architecture.md` draws them, asserted over `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Which packages each package needs to be built, without those that only its tests need.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn load() -> Self {
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--offline", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("metadata");
        let each = |value: &Value| value.as_array().expect("an array").clone();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let names: BTreeMap<_, _> =
            each(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let needs = |node: &Value| {
            let deps = each(&node["deps"]);
            let normal = deps.iter().filter(|dep| each(&dep["dep_kinds"]).iter().any(|kind| kind["kind"] != "dev"));
            normal.map(|dep| names[&text(&dep["pkg"])].clone()).collect::<BTreeSet<_>>()
        };
        let mut graph = BTreeMap::<String, BTreeSet<String>>::new();
        for node in each(&metadata["resolve"]["nodes"]) {
            // Two versions of one package count as one: no boundary tells them apart.
            graph.entry(names[&text(&node["id"])].clone()).or_default().extend(needs(&node));
        }
        Self(graph)
    }

    fn direct(&self, package: &str) -> &BTreeSet<String> {
        self.0.get(package).expect(package)
    }

    fn whole_tree(&self, package: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut open = vec![package.to_owned()];
        while let Some(next) = open.pop() {
            for name in self.direct(&next) {
                if seen.insert(name.clone()) {
                    open.push(name.clone());
                }
            }
        }
        seen
    }

    fn ours(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str).filter(|name| *name == "coffer" || name.starts_with("coffer-"))
    }
}

#[test]
fn the_core_has_no_io_no_clock_and_no_randomness_in_its_tree() {
    // The graph of the workspace has the features of all crates together; this has those of the core alone.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "coffer-core", "--edges", "normal,build", "--prefix", "none"])
        .args(["--offline", "--locked", "--format", "{lib}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    let tree: BTreeSet<_> = tree.lines().map(str::trim).collect();
    assert!(tree.contains("serde"), "the tree was not read: {tree:?}");
    for impure in [
        "tokio",
        "sqlx",
        "rustix",
        "libc",
        "mio",
        "hyper",
        "reqwest",
        "redis",
        "rand",
        "getrandom",
        "tracing",
        "fs_err",
    ] {
        assert!(!tree.contains(impure), "coffer-core depends on {impure}");
    }
}

#[test]
fn every_crate_sees_only_those_that_the_architecture_lets_it_see() {
    let graph = Graph::load();
    let allowed: BTreeMap<&str, &[&str]> = [
        ("coffer-core", &[][..]),
        ("coffer-wire", &["core"]),
        ("coffer-image", &["core"]),
        ("coffer-store", &["core"]),
        ("coffer-provider", &["core", "wire"]),
        ("coffer-server", &["core", "wire", "store", "provider"]),
        ("coffer-agent", &["core", "wire", "image"]),
        ("coffer", &["core", "wire", "image", "store", "provider", "server", "agent"]),
        ("coffer-testkit", &["core"]),
    ]
    .into();
    assert_eq!(graph.ours().collect::<BTreeSet<_>>(), allowed.keys().copied().collect(), "a crate is new or gone");
    for (package, allowed) in allowed {
        for seen in graph.direct(package).iter().filter_map(|name| name.strip_prefix("coffer-")) {
            assert!(allowed.contains(&seen), "{package} sees coffer-{seen}");
        }
    }
}

#[test]
fn each_kind_of_outside_world_has_one_crate_that_talks_to_it() {
    let graph = Graph::load();
    let check = |library: &str, owners: &[&str]| {
        let users: Vec<_> = graph.ours().filter(|package| graph.direct(package).contains(library)).collect();
        assert_eq!(users, owners, "{library} is used by {users:?}");
    };
    // The store has its own tables by it, the agent the engines of SQL.
    check("sqlx", &["coffer-agent", "coffer-store"]);
    check("redis", &["coffer-agent"]);
    check("axum", &["coffer-server"]);
    check("clap", &["coffer"]);
}

#[test]
fn there_is_one_tls_library_and_one_cryptography_library() {
    let tree = Graph::load().whole_tree("coffer");
    for other in ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys"] {
        assert!(!tree.contains(other), "the binary depends on {other}");
    }
    assert!(tree.contains("rustls") && tree.contains("ring"));
}
