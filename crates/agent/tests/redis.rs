//! Upgrades of real engines, driven as the agent drives them: nothing acknowledged is lost, whatever the persistence and
//! whoever is killed, and what is lost in spite of it is found.
//!
//! Needs an image store with engines, named by `COFFER_TEST_STORE`.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::too_many_lines, unreachable_pub)]
#![allow(clippy::cast_possible_truncation, clippy::unchecked_time_subtraction, clippy::range_plus_one)]

#[path = "redis/cases.rs"]
mod cases;
#[path = "redis/contents.rs"]
mod contents;
#[allow(dead_code, reason = "other tests use the rest")]
mod support;
#[path = "redis/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use coffer_agent::sandbox;
use coffer_agent::site::{Exposure, Seen};
use coffer_core::engine::redis::config::Persistence;
use libtest_mimic::{Arguments, Trial};
use world::{AOF, BOTH, NONE, RDB, World};

type Settings = &'static [(&'static str, &'static str)];
/// A name, the engines that it needs, and the test.
type Case = (&'static str, &'static [&'static str], fn(World));
type Engines = Arc<BTreeMap<String, PathBuf>>;

const MODES: [(&str, Settings); 4] = [("nothing", NONE), ("rdb", RDB), ("aof", AOF), ("both", BOTH)];

/// The steps whose every mode is tried, and those of which two are enough.
const STEPS: [(&str, &str); 2] = [("redis 7.0.15", "redis 8.0.2"), ("redis 6.0.16", "redis 7.0.15")];
const LADDER: [(&str, &str); 9] = [
    ("redis 3.2.6", "redis 5.0.6"),
    ("redis 5.0.6", "redis 6.0.16"),
    ("redis 6.0.16", "redis 6.2.14"),
    ("redis 6.2.14", "redis 7.0.15"),
    ("redis 8.0.2", "redis 8.2.3"),
    ("redis 6.0.16", "redis 8.0.2"),
    ("redis 7.0.15", "valkey 8.1.1"),
    ("valkey 8.0.1", "valkey 8.1.1"),
    ("valkey 8.1.1", "valkey 9.1.2"),
];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(sandbox::INIT_COMMAND) {
        return sandbox::init_main();
    }
    let engines: Engines = match world::engines() {
        Ok(engines) => Arc::new(engines),
        Err(why) => {
            return support::not_run(&format!("all tests of upgrades of Redis and Valkey: {why}"));
        }
    };
    let mut trials = Vec::new();
    for (from, to) in STEPS {
        for (mode, settings) in MODES {
            trials.push(test(&engines, &[from, to], &format!("{from} to {to} with {mode} loses nothing"), move |w| {
                run(upgrade(w, from, to, settings));
            }));
            trials.push(test(&engines, &[from, to], &format!("{from} to {to} with {mode} and back"), move |w| {
                run(there_and_back(w, from, to, settings));
            }));
        }
    }
    for (from, to) in LADDER {
        for (mode, settings) in &MODES[1..3] {
            trials.push(test(&engines, &[from, to], &format!("{from} to {to} with {mode} loses nothing"), move |w| {
                run(upgrade(w, from, to, settings));
            }));
        }
    }
    let more: [Case; 7] = [
        ("what_is_lost_is_found", &["redis 7.0.15", "redis 8.0.2"], |w| run(cases::losses_are_found(w))),
        ("without_measures_nothing_is_made_to_wait", &["redis 7.0.15"], |w| run(cases::unsafe_is_refused(w))),
        ("an_engine_killed_at_any_moment_has_what_it_acknowledged", &["redis 7.0.15"], |w| {
            run(cases::killed_loses_nothing(w));
        }),
        ("a_target_is_tried_beforehand", &["redis 7.0.15", "redis 8.0.2"], |w| run(cases::targets_are_tried(w))),
        ("users_of_6_0_may_publish_on_7_0", &["redis 6.0.16", "redis 7.0.15"], |w| run(cases::users_keep_channels(w))),
        ("a_healthy_engine_has_no_findings_and_drift_is_found", &["redis 7.0.15", "redis 8.0.2"], |w| {
            run(cases::drift_is_found(w));
        }),
        ("the_tenant_cannot_break_a_promise", &["redis 7.0.15"], |w| run(cases::tenant_is_bound(w))),
    ];
    for (name, needs, body) in more {
        trials.push(test(&engines, needs, name, body));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn test(engines: &Engines, needs: &[&str], name: &str, body: impl FnOnce(World) + Send + 'static) -> Trial {
    let lacking: Vec<&str> = needs.iter().filter(|e| !engines.contains_key(**e)).copied().collect();
    let name = name.replace(' ', "_");
    if !lacking.is_empty() {
        // Said when it is its turn: what is said before is taken for the name of a test.
        let what = format!("{name}: the image store lacks {}", lacking.join(", "));
        return Trial::test(name, move || {
            println!("NOT RUN: {what}");
            Ok(())
        });
    }
    let engines = Arc::clone(engines);
    Trial::test(name, move || {
        body(World::new(&engines));
        Ok(())
    })
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// A whole upgrade under a writer: all acknowledged writes are there afterwards, every other key is what it was, and the
/// engine keeps its data as it is configured to.
async fn upgrade(mut w: World, from: &str, to: &str, settings: Settings) {
    let (from, to) = (w.spec(from, settings), w.spec(to, settings));
    w.start(&from, Exposure::Open).await;
    contents::fill(&mut w.inside(&from), &from, 300);
    let before = contents::all(&mut w.inside(&from));
    let (probe, writer) = (w.probe(&from, &to), w.writer());
    let began = std::time::Instant::now();

    let (fingerprint, _) = w.down(&from).await;
    let client = w.up(&to, &fingerprint).await;
    let Seen { gap, clients } = probe.finish().await;
    client.settle(&Persistence::configured(&to), &w.paths).await.unwrap();
    let took = began.elapsed();
    let acknowledged = writer.finish();

    let mut c = w.inside(&to);
    println!(
        "{} to {}: gap {gap:?}, {clients:?}, of a writer {:?}, in all {took:?}, {} writes, sample {}",
        from.label(),
        to.label(),
        acknowledged.longest_gap,
        acknowledged.writes.len(),
        fingerprint.sample.len()
    );
    assert_eq!(contents::missing(&mut c, &acknowledged.writes), [0; 0]);
    contents::same(&before, &contents::all(&mut c));
    let findings = client.verify(&to).await.unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
    assert!(gap >= acknowledged.longest_gap / 2 && gap < Duration::from_secs(10), "{gap:?}");

    // Nothing temporary is left, and what is on disk is enough.
    if settings != NONE {
        if settings == RDB {
            redis::cmd("SAVE").query::<()>(&mut c).unwrap();
        }
        w.kill().await;
        w.start(&to, Exposure::Open).await;
        contents::same(&before, &contents::all(&mut w.inside(&to)));
    }
    assert_eq!(has_append_only(&w), settings == AOF || settings == BOTH);
}

/// An upgrade that is given up after the new engine has run and written: all is as it was.
async fn there_and_back(mut w: World, from: &str, to: &str, settings: Settings) {
    let (from, to) = (w.spec(from, settings), w.spec(to, settings));
    w.start(&from, Exposure::Open).await;
    contents::fill(&mut w.inside(&from), &from, 300);
    let before = contents::all(&mut w.inside(&from));
    let writer = w.writer();

    let (fingerprint, found) = w.down(&from).await;
    let client = w.start(&to, Exposure::Closed).await;
    assert_eq!(client.prove(&to, &fingerprint).await.unwrap(), []);
    // The new one writes everything anew in its own format.
    let mut c = w.inside(&to);
    redis::cmd("FLUSHALL").query::<()>(&mut c).unwrap();
    redis::cmd("SET").arg("new").arg("new").query::<()>(&mut c).unwrap();
    redis::cmd("SAVE").query::<()>(&mut c).unwrap();
    redis::cmd("BGREWRITEAOF").query::<()>(&mut c).unwrap();
    w.kill().await;

    // Twice, as after a crash in the middle.
    w.preimage().restore().unwrap();
    w.preimage().restore().unwrap();
    let client = w.up(&from, &fingerprint).await;
    client.settle(&found, &w.paths).await.unwrap();
    let acknowledged = writer.finish();
    let mut c = w.inside(&from);
    assert_eq!(contents::missing(&mut c, &acknowledged.writes), [0; 0]);
    contents::same(&before, &contents::all(&mut c));
    let findings = client.verify(&from).await.unwrap();
    assert!(findings.is_empty(), "{findings:#?}");
    assert_eq!(has_append_only(&w), settings == AOF || settings == BOTH);
    w.preimage().discard().unwrap();
    w.preimage().discard().unwrap();
}

fn has_append_only(w: &World) -> bool {
    w.paths.data.join("appendonlydir").exists() || w.paths.data.join("appendonly.aof").exists()
}
