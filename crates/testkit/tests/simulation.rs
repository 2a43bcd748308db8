//! Random histories of several servers, agents, engines and clients. `COFFER_HISTORIES` says how many, `COFFER_SEED_BASE` from which
//! seed on, and `COFFER_SEED` plays that one alone.

// What was seen is told, and the macros that would do without `panic` cannot say what a history was.
#![allow(clippy::panic, clippy::print_stdout)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use coffer_core::instance::Kind;
use coffer_testkit::simulation::{Coverage, End, Failure, Fault, play};

/// What takes some seconds without optimization.
const HISTORIES: u64 = 300;
/// How many have to be played for everything to have happened.
const EVERYTHING: u64 = 50_000;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Plays that many histories, on all processors, until one goes wrong.
fn play_all(base: u64, histories: u64) -> Result<Coverage, Failure> {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let work = || {
            let mut coverage = Coverage::default();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= histories {
                    return Ok(coverage);
                }
                match play(base.wrapping_add(n)) {
                    Ok(played) => coverage.add(&played),
                    Err(failure) => {
                        next.store(histories, Ordering::Relaxed);
                        return Err(failure);
                    }
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut all = Coverage::default();
        for worker in workers {
            all.add(&worker.join().expect("a history that does not panic")?);
        }
        Ok(all)
    })
}

#[test]
fn whatever_goes_wrong_every_history_ends_well() {
    let began = Instant::now();
    let seed = number("COFFER_SEED");
    let histories = seed.map_or_else(|| number("COFFER_HISTORIES").unwrap_or(HISTORIES), |_| 1);
    let base = seed.or_else(|| number("COFFER_SEED_BASE")).unwrap_or(1);
    let seen = play_all(base, histories).unwrap_or_else(|failure| panic!("{failure}"));
    println!(
        "{} histories from seed {base} in {:.1} s: {} events in {} virtual hours; {} writes acknowledged, {} of them given up as \
         rollbacks had announced; {} writes of servers fenced, {} reports of agents that did not get on, {} requests refused as busy; \
         {} decisions refused, since nothing was stuck",
        seen.histories,
        began.elapsed().as_secs_f64(),
        seen.events,
        seen.seconds / 3600,
        seen.writes,
        seen.forfeited,
        seen.fenced,
        seen.stuck,
        seen.busy,
        seen.not_stuck
    );
    for ((choice, is_section), count) in &seen.choices {
        println!("  {:>9} {:<9} {count}", choice.name(), if *is_section { "section" } else { "operation" });
    }
    for ((kind, end), count) in &seen.ends {
        println!("  {:>9} {:<7} {count}", kind.name(), format!("{end:?}"));
    }
    for (fault, count) in &seen.faults {
        println!("  {:<20} {count}", format!("{fault:?}"));
    }
    if seed.is_none() {
        assert_eq!(seen.faults.len(), Fault::ALL.len(), "not every kind of fault struck");
        for kind in Kind::ALL {
            assert!(seen.ends.contains_key(&(kind, End::Done)), "no {} was ever done", kind.name());
        }
    }
    if histories >= EVERYTHING {
        assert_eq!(seen.gaps(), Vec::<String>::new(), "not everything happened in {histories} histories");
    }
}

#[test]
fn a_seed_is_a_history() {
    for seed in 0..5 {
        let both = [play(seed), play(seed)].map(|played| played.unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(both[0], both[1], "seed {seed}");
    }
}
