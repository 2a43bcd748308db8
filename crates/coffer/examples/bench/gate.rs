//! The gate against none: throughput at rest, and what clients see who come one a millisecond while their instance is upgraded.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::Bench;
use crate::control::new_data;
use crate::gap::{Persistence, by_hand};
use crate::load;
use crate::process;
use crate::report::{Aim, Bound, Compared, Figure, Row};
use crate::resp::Connection;
use crate::server::{Instance, Server, Session, engine_of};
use crate::visitors::{Tally, Visitors};

/// How much of the throughput without a gate there has to be with it.
const KEPT: f64 = 0.98;
/// Clients and commands under way of each, and how many commands: for a tenth of a second, since what else the machine does
/// makes the same engine faster and slower by a tenth from one second to the next.
const LOADS: [(u32, u32, u32); 4] = [(1, 1, 4_000), (1, 16, 50_000), (20, 1, 12_000), (20, 16, 130_000)];
/// How many pairs of instances are compared, and how often: the ratio of a pair then varies by 0.02 at the most, the mean's by 0.006.
const PAIRS: u32 = 12;
const ROUNDS: u32 = 10;
/// Visitors who are served before and after an upgrade.
const SOME: u64 = 100;

/// A server whose gates go so far.
struct Site {
    server: Server,
    session: Session,
}

impl Site {
    fn start(bench: &Bench, level: &str, pool: &str) -> Result<Self> {
        let data = new_data(bench, level)?;
        let lines = format!("address_pool = \"{pool}\"\ngate = \"{level}\"");
        let (server, _) = Server::start_with(&bench.program, &data, &lines)?;
        let session = server.login(&data)?;
        Ok(Self { server, session })
    }
}

/// Measures all of it; upgrades with so many megabytes of data each.
pub(crate) fn measure(bench: &Bench, sizes: &[usize]) -> Result<Vec<Row>> {
    let with = Site::start(bench, "steered", "127.97.0.0/16")?;
    let without = Site::start(bench, "own", "127.98.0.0/16")?;
    let mut rows = at_rest(bench, &with.session, &without.session)?;
    for megabytes in sizes {
        rows.push(upgraded(bench, &with.session, &without.session, *megabytes)?);
    }
    with.server.stop()?;
    without.server.stop()?;
    Ok(rows)
}

/// Two engines of the same kind differ by some percent from start to start, whatever they have: so it is pairs of them that are
/// compared, and the means. Each engine has one processor, and who asks it the other.
fn at_rest(bench: &Bench, with: &Session, without: &Session) -> Result<Vec<Row>> {
    let mut rates = vec![(Vec::new(), Vec::new()); LOADS.len()];
    let pairs = if bench.quick { 4 } else { PAIRS };
    for pair in 1..=pairs {
        bench.say(&format!("throughput at rest: {pair} of {pairs}"));
        // In turn, so that neither is always first.
        let gated_first = pair % 2 == 0;
        let (gated, bare) = if gated_first {
            (at_level(bench, with, "steered")?, at_level(bench, without, "own")?)
        } else {
            let bare = at_level(bench, without, "own")?;
            (at_level(bench, with, "steered")?, bare)
        };
        // Not what their creation still has to do.
        for instance in [&gated, &bare] {
            rate(instance, 1, 1, LOADS[0].2)?;
        }
        for ((clients, depth, commands), (gated_rates, bare_rates)) in LOADS.iter().zip(&mut rates) {
            for _ in 0..ROUNDS {
                for gate in [gated_first, !gated_first, !gated_first, gated_first] {
                    let (instance, rates) = if gate { (&gated, &mut *gated_rates) } else { (&bare, &mut *bare_rates) };
                    rates.push(rate(instance, *clients, *depth, *commands)?);
                }
            }
        }
        with.delete(&gated)?;
        without.delete(&bare)?;
    }
    let row = |(clients, depth, _): &(u32, u32, u32), gated: &[f64], bare: &[f64]| Row {
        name: format!("gate.rest.c{clients}.p{depth}"),
        label: format!("GET at rest, {clients} clients, pipeline {depth}"),
        figures: vec![Figure { name: "per_second", label: "", value: mean(gated), unit: "/s" }],
        compared: Some(Compared { with: "without the gate", value: mean(bare) }),
        aim: Some(Aim { text: format!("at least {KEPT} of it"), bound: Bound::AtLeast(mean(bare) * KEPT) }),
    };
    Ok(LOADS.iter().zip(&rates).map(|(load, (gated, bare))| row(load, gated, bare)).collect())
}

/// An instance whose gate goes so far.
fn at_level(bench: &Bench, session: &Session, wanted: &str) -> Result<Instance> {
    let instance = session.create(bench.engines.new_version, &[])?;
    let level = session.gate_level(&instance)?;
    if level != wanted {
        bail!("this host's gates are '{level}' instead of '{wanted}'; hint: coffer doctor");
    }
    process::pin(engine_of(&instance)?, "0")?;
    // What redis-benchmark asks for.
    Connection::open(instance.address, Some(&instance.password))?.ask(&["SET", "key:__rand_int__", "abc"])?;
    Ok(instance)
}

/// Commands a second, as redis-benchmark says.
fn rate(instance: &Instance, clients: u32, depth: u32, count: u32) -> Result<f64> {
    let output = Command::new("taskset")
        .args(["-c", "1", "redis-benchmark"])
        .args(["-h", &instance.address.ip().to_string(), "-p", &instance.address.port().to_string()])
        .args(["-c", &clients.to_string(), "-P", &depth.to_string(), "-n", &count.to_string()])
        // The instance is gone in a minute, and its password with it.
        .args(["-a", &instance.password, "-t", "get", "--csv"])
        .output()
        .context("redis-benchmark is not there; hint: apt-get install redis-tools")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said.lines().find(|line| line.starts_with("\"GET\""));
    let rate = line.and_then(|line| line.split(',').nth(1)?.trim_matches('"').parse().ok());
    let Some(rate) = rate else { bail!("redis-benchmark says nothing of GET:\n{said}") };
    Ok(rate)
}

fn upgraded(bench: &Bench, with: &Session, without: &Session, megabytes: usize) -> Result<Row> {
    let size = if megabytes == 0 { "empty".to_owned() } else { format!("{megabytes} MB") };
    bench.say(&format!("clients of an upgrade: {size}"));
    let gated = visited(bench, with, megabytes)?;
    let bare = visited(bench, without, megabytes)?;
    let by_hand = by_hand(&bench.dir, &bench.engines, megabytes, Persistence::Aof)?;
    let figure = |name, label, value, unit| Figure { name, label, value, unit };
    Ok(Row {
        name: format!("gate.upgrade.{}", size.replace(' ', "").to_lowercase()),
        label: format!("clients turned away by an upgrade, one a ms: {size}"),
        figures: vec![
            figure("turned_away", "", turned_away(&gated), ""),
            figure("visits", "of", count(gated.visits), ""),
            figure("longest_wait_ms", "longest wait", millis(gated.longest_wait), " ms"),
            figure("by_hand_ms", "engines' own stop and start", millis(by_hand), " ms"),
        ],
        compared: Some(Compared { with: "without the gate", value: turned_away(&bare) }),
        aim: Some(Aim { text: "nobody".to_owned(), bound: Bound::AtMost(0.0) }),
    })
}

fn visited(bench: &Bench, session: &Session, megabytes: usize) -> Result<Tally> {
    let instance = session.create(bench.engines.old_version, &[("appendonly", "yes"), ("save", "")])?;
    let mut connection = Connection::open(instance.address, Some(&instance.password))?;
    load::fill(&mut connection, megabytes)?;
    load::wait_for_rest(&mut connection)?;
    drop(connection);
    let visitors = Visitors::start(instance.address, &instance.password);
    visitors.wait_for_more(SOME);
    session.upgrade(&instance, bench.engines.new_version)?;
    session.wait_until_over(&instance.id)?;
    visitors.wait_for_more(SOME);
    let tally = visitors.stop(&[]);
    session.delete(&instance)?;
    Ok(tally)
}

/// Refused, reset, or answered with anything but the answer.
fn turned_away(tally: &Tally) -> f64 {
    count(tally.refused + tally.reset + tally.loading + tally.wrong.len())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn mean(rates: &[f64]) -> f64 {
    rates.iter().sum::<f64>() / count(rates.len())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
