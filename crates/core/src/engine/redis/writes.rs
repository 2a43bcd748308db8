//! How much was written to Redis or Valkey, by the engine's own counts.

use std::collections::{BTreeMap, BTreeSet};

/// How many commands that may write an engine has done since it started, from its `INFO commandstats`. `writing` are the
/// names of such commands, as the engine itself tells them (`xgroup|create` is one of a subcommand).
pub fn count(stats: &BTreeMap<String, String>, writing: &BTreeSet<String>) -> u64 {
    let calls =
        |text: &str| -> Option<u64> { text.split(',').find_map(|pair| pair.strip_prefix("calls="))?.parse().ok() };
    let named = stats.iter().filter_map(|(name, text)| Some((name.strip_prefix("cmdstat_")?, text)));
    named.filter(|(name, _)| writing.contains(&name.to_lowercase())).filter_map(|(_, text)| calls(text)).sum()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn what_may_write_is_counted_and_nothing_else() {
        let stats = [
            ("cmdstat_set", "calls=12,usec=30,usec_per_call=2.5,rejected_calls=7,failed_calls=1"),
            ("cmdstat_get", "calls=500,usec=30,usec_per_call=2.5"),
            ("cmdstat_xgroup|create", "calls=2,usec=9"),
            ("cmdstat_lpush", "nonsense"),
            ("set", "calls=9"),
        ];
        let stats = stats.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let writing = ["set", "lpush", "xgroup|create"].map(str::to_owned).into();
        assert_eq!(count(&stats, &writing), 14);
    }
}
