//! Upgrades of real instances: the gap beside that of a stop and a start by hand, the whole time, and the agent's memory.

use std::time::Duration;

use anyhow::Result;

use crate::Bench;
use crate::control::{memory_row, new_data};
use crate::gap::{Persistence, Upgrade, by_coffer, by_hand};
use crate::process::memory;
use crate::report::{Aim, Bound, Compared, Figure, Row};
use crate::server::{Server, Session, agent_of};

/// How much longer than by hand clients may have to wait.
const ALLOWANCE_MS: f64 = 50.0;

/// Measures all of it, with so many megabytes of data each.
pub(crate) fn measure(bench: &Bench, sizes: &[usize]) -> Result<Vec<Row>> {
    let data = new_data(bench, "upgrades")?;
    let (server, _) = Server::start(&bench.program, &data)?;
    let session = server.login(&data)?;
    bench.say("memory of an agent");
    let instance = session.create(bench.engines.old_version, &[])?;
    let agent = agent_of(&data, &instance)?;
    let mut rows = vec![memory_row("agent", "agent of a new instance", memory(agent)?, None, 8.0)];
    session.upgrade(&instance, bench.engines.new_version)?;
    session.wait_until_over(&instance.id)?;
    rows.push(memory_row("agent_after_upgrade", "agent after an upgrade", memory(agent)?, None, 8.0));
    session.delete(&instance)?;
    for persistence in Persistence::ALL {
        for megabytes in sizes {
            rows.push(gap(bench, &session, *megabytes, persistence)?);
        }
    }
    server.stop()?;
    Ok(rows)
}

fn gap(bench: &Bench, session: &Session, megabytes: usize, persistence: Persistence) -> Result<Row> {
    let times = match (megabytes, bench.quick) {
        (0..300, false) => 7,
        (0, true) | (_, false) => 3,
        _ => 1,
    };
    let (mut bare, mut coffer) = (Vec::new(), Vec::new());
    // In turn, so that what else the machine does touches both alike.
    for time in 1..=times {
        let what = format!("{}, {megabytes} MB, {time} of {times}", persistence.name());
        bench.say(&format!("stop and start by hand: {what}"));
        bare.push(by_hand(&bench.dir, &bench.engines, megabytes, persistence)?);
        bench.say(&format!("upgrade: {what}"));
        coffer.push(by_coffer(session, &bench.engines, megabytes, persistence)?);
    }
    let bare = millis(median(bare));
    let of = |field: fn(&Upgrade) -> Duration| millis(median(coffer.iter().map(field).collect()));
    let figure = |name, label, value, unit| Figure { name, label, value, unit };
    let size = if megabytes == 0 { "empty".to_owned() } else { format!("{megabytes} MB") };
    Ok(Row {
        name: format!("gap.{}.{}", persistence.name(), size.replace(' ', "").to_lowercase()),
        label: format!("gap of an upgrade: {}, {size}", persistence.name().to_uppercase()),
        figures: vec![
            figure("gap_ms", "", of(|u| u.gap), " ms"),
            figure("told_gap_ms", "told", of(|u| u.told), " ms"),
            figure("total_ms", "whole upgrade", of(|u| u.total), " ms"),
            figure("lost_writes", "lost writes", lost(&coffer), ""),
        ],
        compared: Some(Compared { with: "by hand", value: bare }),
        aim: Some(Aim { text: "50 ms above by hand".to_owned(), bound: Bound::AtMost(bare + ALLOWANCE_MS) }),
    })
}

fn lost(upgrades: &[Upgrade]) -> f64 {
    upgrades.iter().map(|upgrade| f64::from(u32::try_from(upgrade.lost).unwrap_or(u32::MAX))).sum()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
