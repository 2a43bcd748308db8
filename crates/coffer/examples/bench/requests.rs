//! What one request costs the server, and how long its client waits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::http::Http;
use crate::process;
use crate::server::Server;

/// What one kind of request cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Processor time of the server, user and system, in milliseconds.
    pub cpu_ms: f64,
    /// How long half of the clients waited at most, in milliseconds.
    pub p50_ms: f64,
    /// How long all but one in a hundred waited at most, in milliseconds.
    pub p99_ms: f64,
    /// Requests answered in a second.
    pub per_second: f64,
}

/// Whether requests may be sent over and over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Repeat {
    /// Each once: it changes something.
    Once,
    /// Again and again, for so long.
    For(Duration),
}

/// Sends requests over so many connections at once, one after the other on each, and measures. Any other status than
/// the expected one is an error.
pub(crate) fn measure(
    server: &Server,
    requests: &[Vec<u8>],
    connections: usize,
    repeat: Repeat,
    expected: u16,
) -> Result<Cost> {
    let next = AtomicUsize::new(0);
    let until = match repeat {
        Repeat::Once => None,
        Repeat::For(span) => Some(span),
    };
    let client = |mut http: Http, began: Instant| -> Result<Vec<Duration>> {
        let mut waits = Vec::new();
        while until.is_none_or(|span| began.elapsed() < span) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let at = if until.is_some() { at % requests.len() } else { at };
            let Some(request) = requests.get(at) else { break };
            let sent = Instant::now();
            let status = http.send(request)?;
            waits.push(sent.elapsed());
            if status != expected {
                bail!("{status} instead of {expected}: {}", String::from_utf8_lossy(http.body()));
            }
        }
        Ok(waits)
    };
    let opened = (0..connections).map(|_| Http::open(server.address)).collect::<Result<Vec<_>, _>>()?;
    let (cpu_before, began) = (process::cpu_ms(server.pid())?, Instant::now());
    let mut waits = thread::scope(|scope| -> Result<Vec<Duration>> {
        let clients: Vec<_> = opened.into_iter().map(|http| scope.spawn(move || client(http, began))).collect();
        let mut waits = Vec::new();
        for client in clients {
            let Ok(waited) = client.join() else { bail!("a client broke off") };
            waits.extend(waited?);
        }
        Ok(waits)
    })?;
    let (took, cpu) = (began.elapsed(), process::cpu_ms(server.pid())? - cpu_before);
    waits.sort_unstable();
    let millis = |hundredths: usize| {
        let at = (waits.len() * hundredths / 100).min(waits.len().saturating_sub(1));
        waits.get(at).map_or(0.0, |wait| wait.as_secs_f64() * 1000.0)
    };
    let count = f64::from(u32::try_from(waits.len().max(1))?);
    Ok(Cost { cpu_ms: cpu / count, p50_ms: millis(50), p99_ms: millis(99), per_second: count / took.as_secs_f64() })
}
