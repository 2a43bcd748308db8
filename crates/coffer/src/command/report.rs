//! `coffer report`: what was measured.

use coffer_wire::trove::operation::{GapLine, GapsBody, MeasuredGap};
use serde_json::json;

use super::Session;
use super::plan::bytes;
use crate::failure::Failure;
use crate::table::{self, Format, List};
use crate::watch::span;

/// `coffer report gaps`
pub(crate) async fn gaps(session: &Session) -> Result<(), Failure> {
    let body: GapsBody = session.trove.get("/gaps").await?;
    if session.format == Format::Json {
        return Ok(table::print(&table::json(&body.gaps))?);
    }
    let columns = &["Kind", "From", "To", "Data", "Host", "Times", "Write gap", "Read gap", "Newest"];
    let rows = body.gaps.iter().map(row).collect();
    Ok(table::print(&List { columns, rows }.render(Format::Table))?)
}

fn row(line: &GapLine) -> Vec<serde_json::Value> {
    let read = line.read.as_ref().map_or_else(|| "-".to_owned(), told);
    vec![
        json!(line.kind),
        json!(line.from),
        json!(line.to),
        json!(format!("up to {}", bytes(line.data_bytes))),
        json!(line.host),
        json!(line.write.count),
        json!(told(&line.write)),
        json!(read),
        json!(line.newest),
    ]
}

/// The one in the middle, with the shortest and the longest.
pub(super) fn told(gap: &MeasuredGap) -> String {
    let MeasuredGap { shortest_ms, median_ms, longest_ms, .. } = gap;
    match gap.count {
        1 => span(*median_ms),
        _ => format!("{} ({} to {})", span(*median_ms), span(*shortest_ms), span(*longest_ms)),
    }
}
