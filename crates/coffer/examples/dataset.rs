//! Fills a Redis or Valkey with keys of all kinds, or tells what is in one. The quickstart proves with it that an
//! upgrade lost nothing.
//!
//! ```text
//! dataset load ADDRESS COUNT < password
//! dataset summary ADDRESS < password
//! ```
//!
//! The password comes by standard input, so that it stands in no list of processes.

#[allow(dead_code, reason = "it serves the tests as well")]
#[path = "../tests/support/dataset.rs"]
mod dataset;
#[allow(dead_code, reason = "it serves the tests as well")]
#[path = "../tests/support/resp.rs"]
mod resp;

use std::io::Write as _;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let mut password = String::new();
    std::io::stdin().read_line(&mut password).context("no password on standard input")?;
    let open = |address: &str| {
        let address = address.parse().with_context(|| format!("{address} is no ADDRESS:PORT"))?;
        resp::Connection::open(address, Some(password.trim_end())).with_context(|| format!("{address} does not answer"))
    };
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["load", address, count] => dataset::load(&mut open(address)?, count.parse()?)?,
        ["summary", address] => writeln!(std::io::stdout(), "{}", dataset::summarize(&mut open(address)?)?)?,
        _ => bail!("usage: dataset load ADDRESS:PORT COUNT | dataset summary ADDRESS:PORT"),
    }
    Ok(())
}
